"""One sample through the whole model: what goes in, what comes out, and what drove it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.pictures import of_sample
from ..figures.style import INK, LIGHT, QUIET, array, class_names, short, titled
from ..model.trace import Trace
from .panel import Explorer, Shown, whole

RIGHT = (0.7, 1.0)  # of the figure's width: the prediction, and pictures under it


class SampleExplorer(Explorer):
    """Words, loudness, prediction and what each token added to it; switch a modality off and see it move.

    A row a modality: bars are what each token adds to the prediction (exact for the last layer, see
    `Trace.attribution`); the band behind is how strong its features are, for sound the envelope.

    Parameters
    ----------
    model : AlignMamba2
    dataset : Dataset
    picture : callable (Sample) -> array (H, W, 3) of uint8, optional
        Shown under the prediction; left out, the pictures of `dataset.show`, colour and depth, where it has them.
    envelope : callable (Sample) -> array (T_audio,), optional
        Loudness of each sound; left out, `dataset.show["audio"]`, or else the length of its standardised features.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    trace : Trace
        What is drawn, with the modalities that are switched on.

    Examples
    --------
    >>> SampleExplorer(model, data["test"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        dataset: Any,
        *,
        sample: int = 0,
        picture: Callable[[Any], Any] | None = None,
        envelope: Callable[[Any], Any] | None = None,
        **shown: Unpack[Shown],
    ):
        self._model, self._dataset, show = model, dataset, getattr(dataset, "show", {})
        self._envelope = envelope or show.get("audio")
        if picture is not None:
            self._pictures = lambda one: {"image": picture(one)}
        else:
            self._pictures = partial(of_sample, dataset)
        self._pictured = picture is not None or any(m != "audio" for m in show)
        self._modalities = list(model.config.modalities)
        count = 0 if model.config.task == "regression" else model.config.n_classes
        self._classes = class_names(getattr(dataset, "classes", ()), count)
        self._kept: dict[tuple[int, tuple[str, ...]], Trace] = {}
        self._scene: tuple = ()
        controls: dict[str, widgets.Widget] = {"sample": whole("sample", 0, len(dataset) - 1, sample)}
        self._per_step = model.config.readout == "per_step"
        if self._per_step:
            controls["step"] = whole("step", 1, max(self._steps(sample), 1), 1)
        for m in self._modalities:
            controls[m] = widgets.Checkbox(True, description=m, indent=False, layout=widgets.Layout(width="90px"))
        super().__init__(self._laid_out(), controls, **shown)

    def _steps(self, sample: int) -> int:
        label = self._dataset[sample].label
        return (
            len(label)
            if label is not None and label.ndim
            else max(len(x) for x in self._dataset[sample].features.values())
        )

    def _changed(self, name: str) -> None:
        if name == "sample" and self._per_step:
            self._controls["step"].max = self._steps(self._controls["sample"].value)
        on = [m for m in self._modalities if self._controls[m].value]
        if not on and name in self._modalities:  # a model needs at least one: the last cannot be switched off
            self._controls[name].value = True

    def _laid_out(self) -> go.Figure:
        rows, wide = len(self._modalities), self._pictured
        specs = [[{"secondary_y": True}, {"rowspan": rows, "type": "xy"} if i == 0 else None] for i in range(rows)]
        figure = make_subplots(
            rows=rows,
            cols=2,
            specs=specs,
            column_widths=[0.66, 0.34],
            shared_xaxes="columns",
            vertical_spacing=0.05,
            horizontal_spacing=0.13,
            subplot_titles=("what each token adds (grey: how strong it is)", "prediction"),
        )
        self._added = []  # axes
        for row, m in enumerate(self._modalities, start=1):
            shown = look(m)
            band = {"meta": f"strength {m}", "showlegend": False, "hoverinfo": "skip"}
            figure.add_scatter(
                **band,
                mode="lines",
                fill="tozeroy",
                line={"width": 0, "color": LIGHT},
                row=row,
                col=1,
                secondary_y=False,
            )
            figure.data[-1].opacity = 0.5
            figure.add_bar(
                meta=m,
                name=m,
                marker_color=shown.colour,
                showlegend=False,
                textposition="none",
                hovertemplate="%{text}<br>adds %{y:+.4f}<extra></extra>",
                row=row,
                col=1,
                secondary_y=True,  # the axis on top: bars stand before the band
            )
            name = {"text": f"<b>{m}</b>", "font": {"color": shown.colour}}
            figure.update_yaxes(title=name, nticks=4, tickmode="auto", side="left", row=row, col=1, secondary_y=True)
            self._added.append(next(figure.select_yaxes(row=row, col=1, secondary_y=True)).plotly_name)
            figure.update_yaxes(visible=False, rangemode="tozero", row=row, col=1, secondary_y=False)
        figure.update_xaxes(showgrid=False, tickangle=-40)
        figure.update_xaxes(showticklabels=False, range=[0, 1])
        figure.update_xaxes(showticklabels=True, row=rows, col=1, ticks="")
        figure.add_bar(
            meta="prediction",
            marker={"color": [INK, QUIET, LIGHT], "pattern": {"shape": ["", "", "/"]}},
            showlegend=False,
            texttemplate="%{y:.2f}",
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            row=1,
            col=2,
        )
        self._lowest = next(figure.select_xaxes(row=rows, col=1)).plotly_name
        pick = next(figure.select_xaxes(row=1, col=2))
        pick.update(showticklabels=True, range=None, tickangle=0, ticks="", autorange=True)
        if wide:  # the picture stands under the prediction
            figure.update_yaxes(domain=[0.5, 1], row=1, col=2)
        self._value = next(figure.select_yaxes(row=1, col=2)).plotly_name
        figure.update_yaxes(nticks=6, zeroline=True, zerolinecolor=QUIET, row=1, col=2)
        titled(figure, "One sample through the model", height=210 + 105 * rows + (120 if wide else 0))
        return figure.update_layout(bargap=0.25, margin={"b": 110})

    def _scale(self, towards: int) -> str:
        if self._model.config.task == "regression":
            return "value"
        kind = "log-odds" if len(self._classes) == 2 else "logit"
        return f"{kind} of {self._classes[towards]}"

    def _traced(self, sample: int, on: tuple[str, ...]) -> Trace:
        key = sample, on
        if key not in self._kept:
            if len(self._kept) > 64:
                self._kept.clear()
            batch = self._dataset.batch([sample])
            self._kept[key] = self._model.trace(batch if len(on) == len(batch.features) else batch.only(*on))
        return self._kept[key]

    def _paint(self) -> str:
        sample = self._controls["sample"].value
        one = self._dataset[sample]
        has = tuple(m for m in self._modalities if m in one.features and len(one.features[m]))
        on = tuple(m for m in has if self._controls[m].value) or has
        self.trace, full = self._traced(sample, on), self._traced(sample, has)
        step = self._controls["step"].value - 1 if self._per_step else None
        towards = self._class(full, step)
        parts = self.trace.attribution(0, step)
        added = array(self._score(parts.scan + parts.direct, towards))
        value, whole_value = (float(self._score(t.attribution(0, step).logits, towards)) for t in (self.trace, full))
        if self._scene != (sample,):
            self._set_scene(one)
            self._scene = (sample,)
        modality, place = np.array(parts.modality), np.array(parts.place)
        for m in self._modalities:
            mine = modality == m
            count = max(int(mine.sum()), 1)
            trace = self._traces[m]
            trace.update(x=(place[mine] + 0.5) / count, y=added[mine], width=0.7 / count)
        low, high = min(float(added.min()), 0), max(float(added.max()), 0)
        for axis in self._added:  # one scale, so that modalities can be compared
            self.fig.layout[axis].range = [low - 0.06 * (high - low), high + 0.06 * (high - low)]
        self.fig.layout[self._value].title.text = self._scale(towards)
        label = self._label(one, step, towards)
        bars = {"now": value, "all on": whole_value} | ({} if label is None else {"label": label})
        self._traces["prediction"].update(x=list(bars), y=list(bars.values()))
        off = [m for m in has if m not in on]
        return self._said(one, step, parts, added, value, whole_value, off, towards)

    def _class(self, full: Trace, step: int | None) -> int:
        """The class that is looked at: 1 of two, else the predicted one of the whole sample."""
        if full.logits is None or full.logits.shape[-1] == 2:
            return 1
        return int(full.prediction[0] if step is None else full.prediction[0, step])

    @staticmethod
    def _score(logits: torch.Tensor, towards: int) -> torch.Tensor:
        if logits.shape[-1] == 1:
            return logits[..., 0]
        if logits.shape[-1] == 2:
            return logits[..., 1] - logits[..., 0]
        return logits[..., towards]

    def _label(self, one: Any, step: int | None, towards: int) -> float | None:
        if self._model.config.task != "regression" or one.label is None:
            return None
        return float(one.label if step is None else one.label[step])

    def _set_scene(self, one: Any) -> None:
        for m in self._modalities:
            x = one.features.get(m, torch.zeros(0, 1))
            said, count = list(one.words.get(m, ())), len(x)
            names = [f"{m} {i + 1}" + (f" “{short(said[i], 60)}”" if i < len(said) else "") for i in range(count)]
            self._traces[m].text = names
            at = (np.arange(count) + 0.5) / max(count, 1)
            self._traces[f"strength {m}"].update(x=at, y=self._strength(one, m))
        words = list(one.words.get("text", ()))
        every = max(1, -(-len(words) // 14))
        chosen = range(0, len(words), every)
        self.fig.layout[self._lowest].update(
            tickvals=[(i + 0.5) / len(words) for i in chosen], ticktext=[short(words[i], 14) for i in chosen]
        )
        if self._pictured:
            self.fig.layout.images = _side_by_side(list(self._pictures(one).values()))

    def _strength(self, one: Any, m: str) -> np.ndarray:
        if m == "audio" and self._envelope is not None:
            return array(self._envelope(one))
        if m not in one.features:
            return np.zeros(0)
        project = self._model.project[m]
        return array(((one.features[m] - project.mean) * project.scale).norm(dim=1))

    def _said(self, one, step, parts, added, value, whole_value, off, towards) -> str:
        best = int(np.abs(added).argmax())
        word = f" “{short(parts.words[best], 40)}”" if parts.words[best] else ""
        what = f"Sample {one.id}" + ("" if step is None else f", step {step + 1}")
        unit = "" if self._model.config.task == "regression" else f" ({self._scale(towards)})"
        said = f"{what}: the prediction is {value:.2f}{unit}"
        if off:
            said += f"; without {' and '.join(off)} it moved by {value - whole_value:+.2f} from {whole_value:.2f}"
        if one.label is not None:
            label = one.label if step is None else one.label[step]
            said += f"; the label is {self._classes[int(label)] if self._classes else f'{float(label):.2f}'}"
        by = {m: added[np.array(parts.modality) == m].sum() for m in dict.fromkeys(parts.modality)}
        sums = ", ".join(f"{m} {v:+.2f}" for m, v in by.items())
        bias = float(self._score(parts.bias, towards))
        return (
            f"{said}. It is {bias:+.2f} before any token, and {sums}. "
            f"{parts.modality[best]} {parts.place[best] + 1}{word} added most, {added[best]:+.3f}."
        )


def _side_by_side(pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """Pictures in the room under the prediction, as Plotly places them."""
    from PIL import Image

    width = RIGHT[1] - RIGHT[0]
    places = {"xref": "paper", "yref": "paper", "yanchor": "top", "xanchor": "center", "y": 0.42, "sizey": 0.42}
    return [
        {
            "source": Image.fromarray(array(pixels)),
            "x": RIGHT[0] + (i + 0.5) * width / len(pictures),
            "sizex": 0.96 * width / len(pictures),
            **places,
        }
        for i, pixels in enumerate(pictures)
    ]
