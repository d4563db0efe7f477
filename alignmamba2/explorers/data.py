"""A data set, sample by sample: what a model is given, what the label is among the others, and how much is padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.sample import SHOWN
from ..figures.style import INK, LIGHT, SHADE, array, class_names, short, titled, wrapped
from .panel import Explorer, Shown, choice, steps, whole

FEATURES = 48  # of a token, as many are drawn; more would be thinner than a pixel
SEEN = 200  # samples that mean and standard deviation are taken from
BATCHES = (1, 4, 16, 64)
ORDERS = ("as they come", "by length")


class DataExplorer(Explorer):
    """One sample as it lies in a batch, and its label among those of its split.

    A strip a modality: a column is a token, a row a feature, standardised (red is above its mean, blue below); the grey
    behind is padding, up to the longest sample of the batch. A batch are samples that stand beside each other, in the
    order of the file or by their number of tokens.

    Parameters
    ----------
    splits : mapping of split name to Dataset
    split, sample : which is shown first
    batch : int
        Samples in a batch, at first.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    padding : mapping of modality to float
        Share of the batch's tokens that are padding.

    Examples
    --------
    >>> DataExplorer(load_dataset("mini-mosi"), note="mini-mosi, synthetic")  # doctest: +SKIP
    """

    def __init__(
        self,
        splits: Mapping[str, Any],
        *,
        split: str = "",
        sample: int = 0,
        batch: int = 1,
        **shown: Unpack[Shown],
    ):
        self._splits = dict(splits)
        first = split or next(iter(self._splits))
        if first not in self._splits:
            raise ValueError(f"split: found {split!r}; expected one of {list(self._splits)}")
        if batch not in BATCHES:
            raise ValueError(f"batch: found {batch!r}; expected one of {BATCHES}")
        self._modalities = list(self._splits[first].modalities)
        self._kept: dict[tuple[str, str], Any] = {}
        self.padding: dict[str, float] = {}
        named = [("alone" if n == 1 else f"{n}", n) for n in BATCHES]
        controls = {
            "split": choice("split", list(self._splits), first, width="170px"),
            "sample": whole("sample", 0, len(self._splits[first]) - 1, sample),
            "batch": steps("in a batch of", named, batch, width="270px"),
            "order": choice("batches", ORDERS, width="230px"),
        }
        super().__init__(self._laid_out(), controls, **shown)

    def _changed(self, name: str) -> None:
        if name == "split":
            self._controls["sample"].max = len(self._splits[self._controls["split"].value]) - 1

    def _laid_out(self) -> go.Figure:
        rows = len(self._modalities)
        figure = make_subplots(
            rows=rows,
            cols=2,
            specs=[[{}, {"rowspan": rows} if row == 0 else None] for row in range(rows)],
            column_widths=[0.68, 0.32],
            vertical_spacing=0.42 / rows,
            horizontal_spacing=0.1,
            subplot_titles=(*([" "] * (rows + 1)),),
        )
        for row, m in enumerate(self._modalities, start=1):
            grey = {"colorscale": [[0, SHADE], [1, SHADE]], "showscale": False, "hoverinfo": "skip"}
            figure.add_heatmap(meta=f"padding {m}", zmin=0, zmax=1, **grey, row=row, col=1)
            figure.add_heatmap(
                meta=m,
                zmid=0,
                zmin=-SHOWN,
                zmax=SHOWN,
                colorscale="RdBu_r",
                showscale=False,
                hovertemplate="%{text}<br>feature %{y}: %{z:.2f} sd<extra></extra>",
                row=row,
                col=1,
            )
            name = {"text": f"<b>{m}</b>", "font": {"color": look(m).colour}}
            figure.update_yaxes(title=name, showticklabels=False, ticks="", showgrid=False, row=row, col=1)
        figure.update_xaxes(showgrid=False, tickformat="d", nticks=8)
        figure.update_xaxes(title="token", row=rows, col=1)
        figure.add_bar(
            meta="labels",
            showlegend=False,
            texttemplate="%{y:.0%}",
            textposition="outside",
            textfont_size=13,
            textangle=0,
            cliponaxis=False,
            hovertemplate="%{customdata[0]}: %{customdata[1]} labels, %{y:.1%}<extra></extra>",
            row=1,
            col=2,
        )
        figure.update_xaxes(title="label", ticks="", row=1, col=2)
        figure.update_yaxes(visible=False, rangemode="tozero", row=1, col=2)
        self._labels = next(figure.select_xaxes(row=1, col=2)).plotly_name
        figure.update_annotations(font_size=15)
        return titled(figure, "One sample in its batch", height=215 + 130 * rows)

    def _of_split(self, what: str, split: str) -> Any:
        """Something about a whole split, found when it is first asked for."""
        if (what, split) not in self._kept:
            self._kept[what, split] = getattr(self, f"_find_{what}")(self._splits[split])
        return self._kept[what, split]

    def _find_lengths(self, dataset: Any) -> dict[str, np.ndarray]:
        kept = getattr(dataset.samples, "lengths", None)
        if kept is not None:
            return {m: array(kept(m)) for m in self._modalities}
        rows = [[len(s.features[m]) for m in self._modalities] for s in dataset.samples]
        return dict(zip(self._modalities, np.array(rows).T, strict=True))

    def _find_scale(self, dataset: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        some = [dataset[i] for i in range(min(SEEN, len(dataset)))]
        tokens = {m: np.concatenate([array(s.features[m])[:, :FEATURES] for s in some]) for m in self._modalities}
        return {m: (x.mean(0), np.maximum(x.std(0), 1e-8)) for m, x in tokens.items()}

    def _find_labels(self, dataset: Any) -> Counter[str]:
        return Counter(name for label in dataset.labels for name in self._named(dataset, label))

    @staticmethod
    def _named(dataset: Any, label: Any) -> list[str]:
        """A label, or one a step, as the bars are called: a class, or a number rounded half to even, as Acc-7 does."""
        values = np.atleast_1d(array(label))
        if dataset.task == "regression":
            return [f"{v:+.0f}".replace("-", "−") if v else "0" for v in np.rint(values)]
        names = class_names(dataset.classes, dataset.n_classes)
        return [names[v] for v in values.tolist()]

    def _batch(self, split: str, sample: int) -> np.ndarray:
        """The samples of the batch that this one is in."""
        lengths, size = self._of_split("lengths", split), self._controls["batch"].value
        order = np.arange(len(self._splits[split]))
        if self._controls["order"].value == ORDERS[1]:
            order = np.argsort(sum(lengths.values()), kind="stable")
        start = int(np.flatnonzero(order == sample)[0]) // size * size
        return order[start : start + size]

    def _paint(self) -> str:
        split, sample = self._controls["split"].value, self._controls["sample"].value
        dataset, lengths = self._splits[split], self._of_split("lengths", split)
        one, batch, scale = dataset[sample], self._batch(split, sample), self._of_split("scale", split)
        said = []
        for row, m in enumerate(self._modalities):
            count, longest = len(one.features[m]), int(lengths[m][batch].max())
            self.padding[m] = 1 - float(lengths[m][batch].sum()) / max(1, longest * len(batch))
            self._strip(m, one, scale[m], count, longest)
            said.append(f"{count} of {m}, padded to {longest}" if longest > count else f"{count} of {m}")
            # the headings are in the order of the rows, the right panel's behind that of the first
            shown = f"{dataset.modalities[m]} features" + (f", {FEATURES} drawn" * (dataset.modalities[m] > FEATURES))
            heading = f"{count} tokens, {shown}; {self.padding[m]:.0%} of the batch is padding"
            self.fig.layout.annotations[row + (row > 0)].text = heading
        own = self._bars(dataset, split, one)
        padded = ", ".join(f"{share:.0%} of {m}" for m, share in self.padding.items())
        told = f"{split}, sample {one.id}: {', '.join(said)}. {own}"
        return told if len(batch) == 1 else f"{told} Padding in this batch of {len(batch)}: {padded}."

    def _strip(self, m: str, one: Any, scale: tuple, count: int, longest: int) -> None:
        values = (array(one.features[m])[:, :FEATURES] - scale[0]) / scale[1]
        words = list(one.words.get(m, ()))[:count] or [""] * count
        names = [f"{m} {i + 1}" + (f"<br>“{wrapped(w)}”" if w else "") for i, w in enumerate(words)]
        rows = values.shape[1]
        self._traces[m].update(z=values.T, x=np.arange(1, count + 1), text=[names] * rows)
        behind = np.arange(count + 1, longest + 1)
        self._traces[f"padding {m}"].update(z=np.zeros((rows, len(behind))), x=behind)

    def _bars(self, dataset: Any, split: str, one: Any) -> str:
        counts = self._of_split("labels", split)
        in_order = (lambda n: float(n.replace("−", "-"))) if dataset.task == "regression" else str
        names = sorted(counts, key=in_order)
        total, own = sum(counts.values()), Counter() if one.label is None else Counter(self._named(dataset, one.label))
        self._traces["labels"].update(
            x=list(range(len(names))),
            y=[counts[n] / total for n in names],
            customdata=[[n, counts[n]] for n in names],
            marker_color=[self._neutral(INK if n in own else LIGHT) for n in names],
        )
        # Places with names: a live figure would take "+1" for a number, and drop "−1".
        self.fig.layout[self._labels].update(tickvals=list(range(len(names))), ticktext=[short(n, 12) for n in names])
        self.fig.layout.annotations[
            1
        ].text = f"labels of {split}; {'bright' if self._theme == 'dark' else 'dark'}: this sample's"
        if not own:
            return "It has no label."
        if sum(own.values()) > 1:
            return f"Its labels: {', '.join(f'{n} of {name}' for name, n in sorted(own.items()))}."
        (name,) = own
        value = f"{float(one.label):.2f}, which rounds to {name}," if dataset.task == "regression" else f"{name},"
        return f"Its label is {value} as are {counts[name] / total:.0%} of the split's {total}."
