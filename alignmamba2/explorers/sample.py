"""Panel of one sample through the whole model: input, prediction, and what each token added to it."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.pictures import of_sample
from ..figures.scan import direction_of
from ..figures.style import INK, LIGHT, QUIET, array, class_names, quoted, short, titled, token_names
from ..model.config import STEPS
from ..trace import Attribution, Trace
from .panel import Explorer, PanelOptions, add_trace, which_sample, whole

RIGHT = (0.7, 1.0)  # of the figure's width: the prediction, and pictures under it


class SampleExplorer(Explorer):
    """Words, loudness, prediction and what each token added to it; switch a modality off and see it move.

    One row per modality: bars are what each token adds to the prediction (exact for the last layer, see
    `Trace.attribution`). The band behind is how strong its features are, for sound the envelope. `trace` is the one
    that is drawn, with the modalities that are switched on.

    `dataset.show["audio"]` gives the envelope; left out, it is the length of the standardised features. `picture`, a
    function of a Sample, returns an array (H, W, 3) of uint8, shown under the prediction; left out, the pictures of
    `dataset.show` are, colour and depth, if it has them.
    """

    def __init__(
        self,
        model: Any,
        dataset: Any,
        *,
        sample: int = 0,
        picture: Callable[[Any], Any] | None = None,
        **options: Unpack[PanelOptions],
    ):
        self._model, self._dataset, show = model, dataset, getattr(dataset, "show", {})
        self._envelope = show.get("audio")
        self._pictures = partial(of_sample, dataset) if picture is None else lambda record: {"image": picture(record)}
        self._pictured = picture is not None or any(m != "audio" for m in show)
        self._modalities = list(model.config.modalities)
        self._regression = model.config.task == "regression"
        self._classes = class_names(getattr(dataset, "classes", ()), 0 if self._regression else model.config.n_classes)
        self._trace = lru_cache(64)(self._trace_of)
        self._drawn: int | None = None
        controls: dict[str, widgets.Widget] = {"sample": which_sample(dataset, sample)}
        self._per_step = model.config.readout in STEPS
        if self._per_step:
            controls["step"] = whole("step", 1, max(self._steps(sample), 1), 1)
        for m in self._modalities:
            controls[m] = widgets.Checkbox(True, description=m, indent=False, layout=widgets.Layout(width="90px"))
        super().__init__(controls, **options)

    def _steps(self, sample: int) -> int:
        record = self._dataset[sample]
        if record.label is not None and record.label.ndim:
            return len(record.label)
        return max(len(x) for x in record.features.values())

    def _changed(self, name: str) -> None:
        if name == "sample" and self._per_step:
            self._controls["step"].max = self._steps(self._controls["sample"].value)
        # A model needs at least one modality: the last one cannot be switched off.
        if name in self._modalities and not any(self._controls[m].value for m in self._modalities):
            self._controls[name].value = True

    def _figure(self) -> go.Figure:
        rows = len(self._modalities)
        specs = [[{"secondary_y": True}, {"rowspan": rows, "type": "xy"} if i == 0 else None] for i in range(rows)]
        sizes = {"column_widths": [0.66, 0.34], "vertical_spacing": 0.05, "horizontal_spacing": 0.13}
        heads = ("what each token adds (grey: how strong it is)", "prediction")
        figure = make_subplots(rows, 2, specs=specs, subplot_titles=heads, shared_xaxes="columns", **sizes)
        band = {"fill": "tozeroy", "line": {"width": 0, "color": LIGHT}, "opacity": 0.5}
        for row, m in enumerate(self._modalities, start=1):
            colour, hover = look(m).colour, "%{text}<br>adds %{y:+.4f}"
            add_trace(figure, "lines", f"strength {m}", place=(row, 1, False), **band)
            # The secondary axis is on top: bars stand before the band.
            style = {"marker_color": colour, "textposition": "none"}
            add_trace(figure, "bar", m, hover, place=(row, 1, True), **style)
            name = {"text": f"<b>{m}</b>", "font": {"color": colour}}
            figure.update_yaxes(title=name, nticks=4, tickmode="auto", side="left", row=row, col=1, secondary_y=True)
            figure.update_yaxes(visible=False, rangemode="tozero", row=row, col=1, secondary_y=False)
        figure.update_xaxes(showgrid=False, tickangle=-40, showticklabels=False, range=[0, 1])
        figure.update_xaxes(showticklabels=True, ticks="", row=rows, col=1)
        style = {"marker": {"color": [INK, QUIET, LIGHT], "pattern": {"shape": ["", "", "/"]}}, "cliponaxis": False}
        text = {"texttemplate": "%{y:.2f}", "textposition": "outside"}
        add_trace(figure, "bar", "prediction", "%{x}: %{y:.3f}", place=(1, 2), **text, **style)
        plain = {"showticklabels": True, "range": None, "tickangle": 0, "ticks": "", "autorange": True}
        figure.update_xaxes(**plain, row=1, col=2)
        if self._pictured:  # they stand under the prediction
            figure.update_yaxes(domain=[0.5, 1], row=1, col=2)
        figure.update_yaxes(nticks=6, zeroline=True, zerolinecolor=QUIET, row=1, col=2)
        titled(figure, "One sample through the model", height=210 + 105 * rows + (120 if self._pictured else 0))
        return figure.update_layout(bargap=0.25, margin={"b": 110})

    def _trace_of(self, sample: int, modalities: tuple[str, ...]) -> Trace:
        batch = self._dataset.batch([sample])
        return self._model.trace(batch if len(modalities) == len(batch.features) else batch.only(*modalities))

    def _paint(self, sample: int, step: int | None = None, **switches: bool) -> str:
        record, step = self._dataset[sample], None if step is None else step - 1
        present = tuple(m for m in self._modalities if m in record.features and len(record.features[m]))
        on = tuple(m for m in present if switches[m]) or present
        self.trace, full = self._trace(sample, on), self._trace(sample, present)
        parts, logits = self.trace.attribution(0, step), full.attribution(0, step).logits
        direction, what = direction_of(logits, self._classes)
        added = array(parts.scan + parts.direct) @ direction
        value, whole_value, bias = (float(array(x) @ direction) for x in (parts.logits, logits, parts.bias))
        if self._drawn != sample:
            self._paint_input(record, self._features(sample))
            self._drawn = sample
        self._paint_added(parts, added)
        self._axes("prediction")[1].title.text = what
        bars = {"now": value, "all on": whole_value}
        label = record.label if record.label is None or step is None else record.label[step]
        if self._regression and label is not None:
            bars["label"] = float(label)
        self._set("prediction", x=list(bars), y=list(bars.values()))

        unit = "" if self._regression else f" ({what})"
        words = f"Sample {record.id}{'' if step is None else f', step {step + 1}'}: the prediction is {value:.2f}{unit}"
        off = " and ".join(m for m in present if m not in on)
        if off:
            words += f"; without {off} it moved by {value - whole_value:+.2f} from {whole_value:.2f}"
        if label is not None:
            words += f"; the label is {self._classes[int(label)] if self._classes else f'{float(label):.2f}'}"
        return f"{words}. It is {bias:+.2f} before any token, {_sums(parts, added)}"

    @torch.no_grad()
    def _features(self, sample: int) -> dict[str, Any]:
        """A sample's features as they are projected: of token ids and pictures, what their encoder makes of them."""
        batch = self._dataset.batch([sample]).to(next(self._model.parameters()).device)
        batch = self._model.eval().encode.read(batch)
        return {m: x[0, batch.masks[m][0]] for m, x in batch.features.items()}

    def _paint_input(self, record: Any, features: dict[str, Any]) -> None:
        for m in self._modalities:
            count = len(features.get(m, ()))
            self._set(m, text=token_names(m, record.words.get(m, ()), count))
            self._set(
                f"strength {m}", x=(np.arange(count) + 0.5) / max(count, 1), y=self._strength(record, features, m)
            )
        words = list(record.words.get("text", ()))
        places = range(0, len(words), max(1, -(-len(words) // 14)))
        self._axes(self._modalities[-1])[0].update(
            tickvals=[(i + 0.5) / len(words) for i in places], ticktext=[short(words[i], 14) for i in places]
        )
        if self._pictured:
            self.fig.layout.images = _side_by_side(list(self._pictures(record).values()))

    def _paint_added(self, parts: Attribution, added: np.ndarray) -> None:
        modality, place = np.array(parts.modality), np.array(parts.place)
        low, high = min(float(added.min()), 0), max(float(added.max()), 0)
        margin = 0.06 * (high - low)
        for m in self._modalities:
            mine = modality == m
            count = max(int(mine.sum()), 1)
            self._set(m, x=(place[mine] + 0.5) / count, y=added[mine], width=0.7 / count)
            self._axes(m)[1].range = [low - margin, high + margin]  # one scale, so that modalities can be compared

    def _strength(self, record: Any, features: dict[str, Any], m: str) -> np.ndarray:
        if m == "audio" and self._envelope is not None:
            return array(self._envelope(record))
        if m not in features:
            return np.zeros(0)
        project = self._model.project[m]
        return array(((features[m] - project.mean) * project.scale).norm(dim=1))


def _sums(parts: Attribution, added: np.ndarray) -> str:
    modality, best = np.array(parts.modality), int(np.abs(added).argmax())
    sums = ", ".join(f"{m} {added[modality == m].sum():+.2f}" for m in dict.fromkeys(parts.modality))
    token = f"{parts.modality[best]} {parts.place[best] + 1}{quoted(short(parts.words[best], 40))}"
    return f"and {sums}. {token} added most, {added[best]:+.3f}."


def _side_by_side(pictures: Sequence[Any]) -> list[dict[str, Any]]:
    from PIL import Image

    width = (RIGHT[1] - RIGHT[0]) / max(len(pictures), 1)
    place = {"xref": "paper", "yref": "paper", "yanchor": "top", "xanchor": "center", "y": 0.42, "sizey": 0.42}
    return [
        {"source": Image.fromarray(array(p)), "x": RIGHT[0] + (i + 0.5) * width, "sizex": 0.96 * width, **place}
        for i, p in enumerate(pictures)
    ]
