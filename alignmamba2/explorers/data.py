"""Panel of a data set, sample by sample: what a model gets, the label among the others, and the share of padding."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.contents import SHOWN
from ..figures.style import INK, LIGHT, SHADE, SIGNED, array, class_names, short, titled, token_names
from .panel import Explorer, PanelOptions, add_trace, choice, one_of, steps, which_sample

FEATURES = 48  # rows drawn of each token: more would be thinner than a pixel
SEEN = 200  # samples that mean and standard deviation are taken from
BATCHES = (1, 4, 16, 64)
ORDERS = ("as they come", "by length")


class DataExplorer(Explorer):
    """One sample as it lies in a batch, and its label among those of its split.

    One strip per modality: a column is a token, a row a feature, standardised (red is above its mean, blue below). The
    grey behind is padding, up to the longest sample of the batch. A batch is made of neighbours, in the order of the
    file or by number of tokens. `padding` is, by modality, the share of the batch's tokens that are padding.

    `splits` are data sets by name; `split`, `sample` and `batch`, one of `BATCHES`, are what is drawn first.
    """

    def __init__(
        self,
        splits: Mapping[str, Any],
        *,
        split: str = "",
        sample: int = 0,
        batch: int = 1,
        **options: Unpack[PanelOptions],
    ):
        self._splits = dict(splits)
        first = one_of("split", split or next(iter(self._splits)), self._splits)
        self._modalities = [m for m, width in self._splits[first].modalities.items() if width]
        if not self._modalities:
            raise ValueError("data: found token ids and pictures alone; expected features. See SampleExplorer")
        # Facts about a whole split, computed when it is first drawn.
        self._lengths, self._scale, self._counts = map(cache, (self._lengths_of, self._scale_of, self._counts_of))
        self.padding: dict[str, float] = {}
        size = one_of("batch", batch, BATCHES)
        controls = {
            "split": choice("split", list(self._splits), first, width="170px"),
            "sample": which_sample(self._splits[first], sample),
            "batch": steps("in a batch of", BATCHES, size, "270px", lambda n: "alone" if n == 1 else str(n)),
            "order": choice("batches", ORDERS, width="230px"),
        }
        super().__init__(controls, **options)

    def _changed(self, name: str) -> None:
        if name == "split":
            self._controls["sample"].max = len(self._splits[self._controls["split"].value]) - 1

    def _figure(self) -> go.Figure:
        rows = len(self._modalities)
        specs = [[{}, {"rowspan": rows} if row == 0 else None] for row in range(rows)]
        sizes = {"column_widths": [0.68, 0.32], "vertical_spacing": 0.42 / rows, "horizontal_spacing": 0.1}
        figure = make_subplots(rows, 2, specs=specs, subplot_titles=[" "] * (rows + 1), **sizes)
        grey = {"colorscale": [[0, SHADE], [1, SHADE]], "showscale": False, "zmin": 0, "zmax": 1}
        signed = {"colorscale": SIGNED, "showscale": False, "zmid": 0, "zmin": -SHOWN, "zmax": SHOWN}
        for row, m in enumerate(self._modalities, start=1):
            add_trace(figure, "heatmap", f"padding {m}", place=(row, 1), **grey)
            add_trace(figure, "heatmap", m, "%{text}<br>feature %{y}: %{z:.2f} sd", place=(row, 1), **signed)
            name = {"text": f"<b>{m}</b>", "font": {"color": look(m).colour}}
            figure.update_yaxes(title=name, showticklabels=False, ticks="", showgrid=False, row=row, col=1)
        figure.update_xaxes(showgrid=False, tickformat="d", nticks=8)
        figure.update_xaxes(title="token", row=rows, col=1)
        text = {"texttemplate": "%{y:.0%}", "textposition": "outside", "textfont_size": 13, "textangle": 0}
        hover = "%{customdata[0]}: %{customdata[1]} labels, %{y:.1%}"
        add_trace(figure, "bar", "labels", hover, place=(1, 2), cliponaxis=False, **text)
        figure.update_xaxes(title="label", ticks="", row=1, col=2)
        figure.update_yaxes(visible=False, rangemode="tozero", row=1, col=2)
        figure.update_annotations(font_size=15)
        return titled(figure, "One sample in its batch", height=215 + 130 * rows)

    def _lengths_of(self, split: str) -> dict[str, np.ndarray]:
        samples = self._splits[split].samples
        stored = getattr(samples, "lengths", None)
        if stored is not None:
            return {m: array(stored(m)) for m in self._modalities}
        return {m: np.array([len(s.features[m]) for s in samples]) for m in self._modalities}

    def _scale_of(self, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        dataset = self._splits[split]
        samples = [dataset[i] for i in range(min(SEEN, len(dataset)))]
        tokens = {m: np.concatenate([array(s.features[m])[:, :FEATURES] for s in samples]) for m in self._modalities}
        return {m: (x.mean(0), np.maximum(x.std(0), 1e-8)) for m, x in tokens.items()}

    def _counts_of(self, split: str) -> Counter[str]:
        dataset = self._splits[split]
        return Counter(name for label in dataset.labels for name in _label_names(dataset, label))

    def _batch(self, split: str, sample: int, size: int, order: str) -> np.ndarray:
        places = np.arange(len(self._splits[split]))
        if order == ORDERS[1]:
            places = np.argsort(sum(self._lengths(split).values()), kind="stable")
        start = int(np.flatnonzero(places == sample)[0]) // size * size
        return places[start : start + size]

    def _paint(self, split: str, sample: int, batch: int, order: str) -> str:
        dataset, lengths = self._splits[split], self._lengths(split)
        record, members, counts = dataset[sample], self._batch(split, sample, batch, order), []
        for row, m in enumerate(self._modalities):
            count, longest = len(record.features[m]), int(lengths[m][members].max())
            self.padding[m] = 1 - float(lengths[m][members].sum()) / max(1, longest * len(members))
            self._paint_strip(m, record, self._scale(split)[m], count, longest)
            counts.append(f"{count} of {m}, padded to {longest}" if longest > count else f"{count} of {m}")
            # the headings are in the order of the rows, the right panel's behind that of the first
            width = f"{dataset.modalities[m]} features" + (f", {FEATURES} drawn" * (dataset.modalities[m] > FEATURES))
            heading = f"{count} tokens, {width}; {self.padding[m]:.0%} of the batch is padding"
            self.fig.layout.annotations[row + (row > 0)].text = heading
        words = f"{split}, sample {record.id}: {', '.join(counts)}. {self._paint_labels(split, record)}"
        if len(members) == 1:
            return words
        padded = ", ".join(f"{share:.0%} of {m}" for m, share in self.padding.items())
        return f"{words} Padding in this batch of {len(members)}: {padded}."

    def _paint_strip(self, m: str, record: Any, scale: tuple, count: int, longest: int) -> None:
        values = (array(record.features[m])[:, :FEATURES] - scale[0]) / scale[1]
        names, features = token_names(m, record.words.get(m, ()), count), values.shape[1]
        self._set(m, z=values.T, x=np.arange(1, count + 1), text=[names] * features)
        padding = np.arange(count + 1, longest + 1)
        self._set(f"padding {m}", z=np.zeros((features, len(padding))), x=padding)

    def _paint_labels(self, split: str, record: Any) -> str:
        """Draw the labels of a split, those of a sample in another grey; return the sample's in words."""
        dataset, counts = self._splits[split], self._counts(split)
        regression = dataset.task == "regression"
        names = sorted(counts, key=(lambda n: float(n.replace("−", "-"))) if regression else str)
        total = sum(counts.values())
        labels = Counter(_label_names(dataset, record.label))
        places = list(range(len(names)))
        self._set(
            "labels",
            x=places,
            y=[counts[n] / total for n in names],
            customdata=[[n, counts[n]] for n in names],
            marker_color=[self._neutral(INK if n in labels else LIGHT) for n in names],
        )
        # Places with names: a live figure would take "+1" for a number, and drop "−1".
        self._axes("labels")[0].update(tickvals=places, ticktext=[short(n, 12) for n in names])
        grey = "bright" if self._theme == "dark" else "dark"
        self.fig.layout.annotations[1].text = f"labels; {grey}: this sample's"
        if not labels:
            return "It has no label."
        if sum(labels.values()) > 1:
            return f"Its labels: {', '.join(f'{n} of {name}' for name, n in sorted(labels.items()))}."
        (name,) = labels
        value = f"{float(record.label):.2f}, which rounds to {name}," if regression else f"{name},"
        return f"Its label is {value} as are {counts[name] / total:.0%} of the split's {total}."


def _label_names(dataset: Any, label: Any) -> list[str]:
    """Return the names of the bars of a label, or of the labels of all steps, as far as they are known.

    That is the name of a class, of each label that is 1, or a number rounded half to even, as Acc-7 does.
    """
    values = np.atleast_1d(array(label)) if label is not None else np.empty(0)
    if "float" in values.dtype.name:
        return [f"{v:+.0f}".replace("-", "−") if v else "0" for v in np.rint(values[~np.isnan(values)])]
    names = class_names(dataset.classes, dataset.n_classes)
    return [names[v] for v in (np.flatnonzero(values == 1) if dataset.task == "multilabel" else values[values >= 0])]
