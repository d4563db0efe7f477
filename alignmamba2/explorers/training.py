"""Panel of a training as it runs: losses and the validation metric, epoch by epoch."""

from collections.abc import Mapping
from typing import Any, Unpack

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures.results import PARTS, recorded
from ..figures.style import INK, QUIET, titled, whole_steps
from .panel import Explorer, PanelOptions, add_trace, choice

LOSSES = {f"train/{part}": heading for part, heading in PARTS.items()}


class TrainingMonitor(Explorer):
    """Losses by part, and a validation metric, drawn while a model trains.

    Show it in one cell, and give it to `fit` in the next: ``fit(recipe, callbacks=[monitor])``. Another trainer calls
    `on_epoch` with one row of numbers per epoch; `history` has them. To end a training early, interrupt the kernel.

    The validation `metric` is shown first, on an axis of as many `epochs`.

    >>> monitor = TrainingMonitor(interactive=False)
    >>> monitor.on_epoch({"epoch": 0, "train/task": 0.7, "valid/accuracy": 0.5})
    >>> monitor.words
    'Epoch 0: task loss 0.7; validation accuracy 0.5, the best so far in epoch 0.'
    """

    def __init__(self, metric: str = "accuracy", *, epochs: int = 10, **options: Unpack[PanelOptions]):
        self.history: list[dict[str, float]] = []
        self._epochs = epochs
        super().__init__({"metric": choice("validation metric", [metric], width="300px")}, **options)

    def _figure(self) -> go.Figure:
        heads = (*LOSSES.values(), "validation")
        figure = make_subplots(rows=2, cols=2, subplot_titles=heads, horizontal_spacing=0.12, vertical_spacing=0.2)
        hover = "epoch %{x}: %{y:.4f}"
        for i, name in enumerate((*LOSSES, "metric")):
            colour, dash, symbol = (QUIET, "dot", "circle-open") if name == "metric" else (INK, "solid", "circle")
            line, marker = {"color": colour, "dash": dash, "width": 2.5}, {"symbol": symbol, "size": 7}
            place = (i // 2 + 1, i % 2 + 1)
            add_trace(figure, "lines+markers", name, hover, place=place, line=line, marker=marker)
        star = {"symbol": "star", "size": 16, "color": "#D55E00"}
        add_trace(figure, "markers", "best", "best: epoch %{x}, %{y:.4f}", place=(2, 2), marker=star)
        figure.update_xaxes(title="epoch", row=2)
        figure.update_yaxes(nticks=5)
        return titled(figure, "The training, live", height=490)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Add one epoch: "epoch" (from 0), "train/…" losses and "valid/…" metrics."""
        self.history.append(dict(row))
        options = [name.removeprefix("valid/") for name in row if name.startswith("valid/")]
        control = self._controls["metric"]
        if options and tuple(options) != tuple(control.options):
            with self._answering():
                wanted = control.value if control.value in options else options[0]
                control.options, control.value = options, wanted
        self.update()

    def on_start(self, model: Any, epochs: int) -> None:
        """Begin anew, with an axis as long as the training may take."""
        self.history.clear()
        self._epochs = epochs

    def _paint(self, metric: str) -> str:
        if self.history and self.history[-1]["epoch"] >= self._epochs:
            self._epochs *= 2
        self.fig.update_xaxes(range=[-0.5, self._epochs - 0.5], tick0=0, dtick=whole_steps(self._epochs, 8))
        if not self.history:
            return "No epoch yet."
        last = self.history[-1]
        for name in LOSSES:
            self._set(name, **self._curve(name))
        facts = [f"{words} {last[name]:.3g}" for name, words in LOSSES.items() if last.get(name) is not None]
        curve = self._curve(f"valid/{metric}")
        epochs, values = curve["x"], curve["y"]
        self._set("metric", **curve)
        if values:
            best = values.index((min if metric.startswith(("loss", "mae", "ot", "mmd")) else max)(values))
            self._set("best", x=[epochs[best]], y=[values[best]])
            facts.append(f"validation {metric} {values[-1]:.3g}, the best so far in epoch {epochs[best]}")
        self.fig.layout.annotations[3].text = f"validation {metric}"
        return f"Epoch {last['epoch']}: {'; '.join(facts)}."

    def _curve(self, name: str) -> dict[str, list[float]]:
        return dict(zip("xy", recorded(self.history, name), strict=True))
