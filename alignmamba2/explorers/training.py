"""A training, live: losses and the validation metric, epoch by epoch, while `fit` runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import plotly.graph_objects as go
from lightning.pytorch.callbacks import Callback
from plotly.subplots import make_subplots

from ..figures.style import INK, QUIET, titled, whole_steps
from .panel import Explorer, Shown, choice

PARTS = {"train/task": "task loss", "train/ot": "transport loss", "train/mmd": "MMD loss"}


class TrainingMonitor(Explorer, Callback):
    """Losses by part, and a validation metric, drawn while a model trains.

    Show it in one cell, and give it to `fit` in the next: ``fit(recipe, callbacks=[monitor])``. It is a Lightning
    callback; without Lightning, call `on_epoch` with one row of numbers an epoch. To end a training early, interrupt
    the kernel.

    Parameters
    ----------
    metric : str
        The validation metric that is shown first; another one can be chosen.
    epochs : int
        Length of the axis at first.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    history : list of mappings, one an epoch
        Such as `FitResult.history`.

    Examples
    --------
    >>> monitor = TrainingMonitor(interactive=False)
    >>> monitor.on_epoch({"epoch": 0, "train/task": 0.7, "valid/accuracy": 0.5})
    >>> monitor.words
    'Epoch 1: task loss 0.7; validation accuracy 0.5, the best so far in epoch 1.'
    """

    def __init__(
        self,
        metric: str = "accuracy",
        *,
        epochs: int = 10,
        **shown: Unpack[Shown],
    ):
        self.history: list[dict[str, float]] = []
        self._metric, self._epochs = metric, epochs
        controls = {"metric": choice("validation metric", [metric], width="300px")}
        super().__init__(self._laid_out(), controls, **shown)

    def _laid_out(self) -> go.Figure:
        heads = (*PARTS.values(), "validation")
        figure = make_subplots(rows=2, cols=2, subplot_titles=heads, horizontal_spacing=0.12, vertical_spacing=0.2)
        for i, name in enumerate((*PARTS, "metric")):
            held_out = name == "metric"
            figure.add_scatter(
                meta=name,
                mode="lines+markers",
                showlegend=False,
                line={"color": QUIET if held_out else INK, "dash": "dot" if held_out else "solid", "width": 2.5},
                marker={"symbol": "circle-open" if held_out else "circle", "size": 7},
                hovertemplate="epoch %{x}: %{y:.4f}<extra></extra>",
                row=i // 2 + 1,
                col=i % 2 + 1,
            )
        figure.add_scatter(
            meta="best",
            mode="markers",
            showlegend=False,
            marker={"symbol": "star", "size": 16, "color": "#D55E00"},
            hovertemplate="best: epoch %{x}, %{y:.4f}<extra></extra>",
            row=2,
            col=2,
        )
        figure.update_xaxes(range=[0.5, self._epochs + 0.5], tick0=0, dtick=whole_steps(self._epochs, 8))
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

    # Called by Lightning, with the epoch's row added to the task's history.
    def on_fit_start(self, trainer: Any, task: Any) -> None:
        self.history.clear()
        self._epochs = trainer.max_epochs or self._epochs

    def on_validation_end(self, trainer: Any, task: Any) -> None:
        if task.history:
            self.on_epoch(task.history[-1])

    def _paint(self) -> str:
        if not self.history:
            return "No epoch yet."
        metric = self._controls["metric"].value
        for name in PARTS:
            rows = [row for row in self.history if row.get(name) is not None]
            self._traces[name].update(x=[row["epoch"] + 1 for row in rows], y=[row[name] for row in rows])
        rows = [row for row in self.history if row.get(f"valid/{metric}") is not None]
        last, said = self.history[-1], []
        said = [f"{words} {last[name]:.3g}" for name, words in PARTS.items() if last.get(name) is not None]
        epochs, values = [row["epoch"] + 1 for row in rows], [row[f"valid/{metric}"] for row in rows]
        self._traces["metric"].update(x=epochs, y=values)
        if rows:
            pick = min if metric in ("loss", "mae") else max
            best = values.index(pick(values))
            self._traces["best"].update(x=[epochs[best]], y=[values[best]])
            said.append(f"validation {metric} {values[-1]:.3g}, the best so far in epoch {epochs[best]}")
        self.fig.layout.annotations[3].text = f"validation {metric}"
        if self.history[-1]["epoch"] + 1 > self._epochs:
            self._epochs = 2 * self._epochs
        for axis in ("xaxis", "xaxis2", "xaxis3", "xaxis4"):
            if tuple(self.fig.layout[axis].range) != (0.5, self._epochs + 0.5):
                self.fig.layout[axis].update(range=[0.5, self._epochs + 0.5], dtick=whole_steps(self._epochs, 8))
        return f"Epoch {last['epoch'] + 1}: {'; '.join(said)}."
