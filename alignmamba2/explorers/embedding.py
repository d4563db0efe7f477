"""All tokens on one plane before and after fusion: turn UMAP's parameters, colour, and select."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from typing import Any, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.pictures import data_uri, of_sample
from ..figures.style import INK, PAPER, array, class_names, short, titled
from ..model.trace import Trace
from .panel import WIDTH, Explorer, Shown, button, choice, steps, whole
from .planes import Cancelled, umap_plane

NEIGHBOURS = (5, 10, 15, 30, 60, 120)
DISTANCES = (0.0, 0.1, 0.25, 0.5, 0.99)
LISTED = 5  # samples named below
COLOURS = ("modality", "label", "prediction", "error")
RIGHT_WRONG = ("right", "wrong")


class EmbeddingExplorer(Explorer):
    """Tokens on a plane before and after fusion (UMAP); the same token is the same point in both.

    A new plane takes a second or more: it is made beside, with a bar that shows how far it is and a button that stops
    it, and kept. Colours and highlights answer at once. Points selected with the mouse (box or lasso) stay bright in
    both panels, a sample chosen with the slider is ringed; below stand the samples that they belong to, their words
    and, where the data set has them, their pictures.

    Parameters
    ----------
    trace : Trace
        Of many samples.
    dataset : optional
        The samples of the trace, in its order; their pictures and the classes' names are shown where it has them.
    most : int
        So many tokens, drawn evenly over modalities.
    random_state : int
    wait : bool
        Compute planes before answering, as a page or a test needs it.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    planes : (before (N, 2), after (N, 2))
        What is drawn.

    Examples
    --------
    >>> EmbeddingExplorer(model.trace(data["test"].batch()))  # doctest: +SKIP
    """

    def __init__(
        self,
        trace: Trace,
        dataset: Any = None,
        *,
        most: int = 600,
        random_state: int = 0,
        wait: bool = False,
        **shown: Unpack[Shown],
    ):
        self._tokens = _drawn(trace, most, random_state)
        self._trace, self._random_state, self._dataset = trace, random_state, dataset
        self._classes = _classes(trace, dataset)
        interactive = shown.get("interactive", True)
        self._wait = wait or not interactive
        self._kept: dict[tuple[int, float], tuple[np.ndarray, np.ndarray]] = {}
        self._worker: threading.Thread | None = None
        self._wanted: tuple[int, float] | None = None
        self._working, self._drawing = threading.Lock(), threading.RLock()
        self._stopped = False
        self.planes: tuple[np.ndarray, np.ndarray] | None = None
        self._selected = np.array([], int)
        colours = [c for c in COLOURS if c == "modality" or c in _values(trace)]
        controls = {
            "neighbours": steps("neighbours", [(str(n), n) for n in NEIGHBOURS], 15, width="300px"),
            "distance": steps("least distance", [(f"{d:g}", d) for d in DISTANCES], 0.1, width="300px"),
            "colour": choice("colour by", colours, width="220px"),
            "sample": whole("highlight sample", 0, len(trace.ids), 0, width="330px"),
        }
        if interactive:
            controls["cancel"] = button("stop", "stop")
            controls["cancel"].disabled = True
            self._bar = widgets.FloatProgress(0, min=0, max=1, layout=widgets.Layout(width="160px"))
        with self._drawing:  # the worker waits until the panel stands
            super().__init__(self._laid_out(), controls, **shown)
        if interactive:
            self._view.children[0].children = (*self._view.children[0].children, self._bar)
            self._samples = widgets.HTML()
            self._view.children += (self._samples,)
            self.fig.selected = self._select

    def _laid_out(self) -> go.Figure:
        self._order = list(dict.fromkeys(self._tokens["modality"].tolist()))
        figure = make_subplots(
            rows=1, cols=2, subplot_titles=("before fusion", "after fusion"), horizontal_spacing=0.04
        )
        for column, side in enumerate(("before", "after"), start=1):
            for m in self._order:
                shown = look(m)
                figure.add_scatter(
                    meta=f"{side} {m}",
                    mode="markers",
                    name=m,
                    legendgroup=m,
                    showlegend=column == 1,
                    marker={
                        "symbol": shown.symbol,
                        "color": shown.colour,
                        "size": 7,
                        "colorscale": "Cividis",
                        "coloraxis": "coloraxis",
                        "line": {"color": PAPER, "width": 0.5},
                    },
                    text=self._tokens["hover"][self._tokens["modality"] == m],
                    hovertemplate="%{text}<extra></extra>",
                    row=1,
                    col=column,
                )
            figure.add_scatter(
                meta=f"{side} ring",
                mode="markers",
                name="highlighted",
                showlegend=column == 1,
                hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 15, "color": INK, "line": {"width": 2.5}},
                row=1,
                col=column,
            )
        frame = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": True, "mirror": True}
        figure.update_xaxes(**frame)
        figure.update_yaxes(**frame)
        titled(figure, "Every token on one plane (UMAP)", height=516)
        return figure.update_layout(
            legend_itemsizing="constant",
            margin={"l": 30, "r": 90, "b": 56},
            dragmode="lasso",
            coloraxis={"colorscale": "Cividis", "showscale": False, "colorbar": {"thickness": 12, "len": 0.8}},
        )

    def _paint(self) -> str:
        key = self._controls["neighbours"].value, self._controls["distance"].value
        if key not in self._kept and self._wait:
            self._kept[key] = self._compute(key, lambda share: None)
        if key in self._kept:
            self._place(self._kept[key])
        elif self._stopped:
            return "Stopped. Move a slider to compute a plane."
        else:
            self._start(key)
            self._colour()
            return "A new plane is being computed; what is drawn is the old one."
        self._colour()
        return self._said(key)

    def _compute(self, key: tuple[int, float], progress: Callable[[float], None]) -> tuple[np.ndarray, np.ndarray]:
        sides = []
        for i, side in enumerate(("before", "after")):
            tell = lambda share, i=i: progress((i + share) / 2)  # noqa: E731
            sides.append(umap_plane(self._tokens[side], *key, self._random_state, tell))
        return sides[0], sides[1]

    def _start(self, key: tuple[int, float]) -> None:
        """Begin a plane beside; what ran before is not wanted any more."""
        if self._wanted == key:
            return
        self._wanted = key
        self._controls["cancel"].disabled = False
        thread = threading.Thread(target=self._work, args=(key,), daemon=True)
        self._worker = thread
        thread.start()

    def _work(self, key: tuple[int, float]) -> None:
        def progress(share: float) -> None:
            if self._wanted != key:
                raise Cancelled
            self._bar.value = share

        try:
            with self._working:  # one at a time
                progress(0)
                planes = self._compute(key, progress)
                progress(1)
        except Cancelled:
            return
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", wrong=True)
            raise
        self._kept[key] = planes
        self._wanted = None
        self._rest()
        self.update()

    def _rest(self) -> None:
        self._controls["cancel"].disabled = True
        self._bar.value = 0

    def _changed(self, name: str) -> None:
        self._stopped = name == "cancel"
        if self._stopped:
            self._wanted = None
            self._rest()
            drawn = next((key for key, planes in self._kept.items() if planes is self.planes), None)
            if drawn:  # the controls say what is drawn
                self._controls["neighbours"].value, self._controls["distance"].value = drawn
        if name == "sample" and len(self._selected):
            self._selected = np.array([], int)
            self._brighten()

    def update(self) -> None:
        """Draw what the controls say, or begin to compute it."""
        with self._drawing:  # the worker draws too
            super().update()

    def _place(self, planes: tuple[np.ndarray, np.ndarray]) -> None:
        self.planes = planes
        for side, plane in zip(("before", "after"), planes, strict=True):
            for m in self._order:
                mine = self._tokens["modality"] == m
                self._traces[f"{side} {m}"].update(x=plane[mine, 0], y=plane[mine, 1])
            ringed = self._of_sample()
            self._traces[f"{side} ring"].update(x=plane[ringed, 0], y=plane[ringed, 1], selectedpoints=None)

    def _of_sample(self) -> np.ndarray:
        """The tokens of the sample that the slider chose."""
        return np.flatnonzero(self._tokens["sample"] == self._controls["sample"].value - 1)

    def _highlighted(self) -> np.ndarray:
        return self._selected if len(self._selected) else self._of_sample()

    def _colour(self) -> None:
        by = self._controls["colour"].value
        values = _values(self._trace).get(by)
        axis = self.fig.layout.coloraxis
        if values is not None:
            axis.update(showscale=True, cmin=float(values.min()), cmax=float(values.max()), colorbar_title_text=by)
            names = RIGHT_WRONG if by == "error" else self._classes
            if self._classes:  # an empty list would leave no tick at all to numbers
                axis.update(cmin=0, cmax=len(names) - 1, colorbar_tickvals=list(range(len(names))))
                axis.colorbar.ticktext = [short(name, 12) for name in names]
        else:
            axis.showscale = False
        for side in ("before", "after"):
            for m in self._order:
                marker = self._traces[f"{side} {m}"].marker
                mine = self._tokens["modality"] == m
                rows, places = self._tokens["sample"][mine], self._tokens["place"][mine]
                if values is None:
                    marker.color = look(m).colour
                elif values.ndim == 1:
                    marker.color = values[rows]
                else:
                    marker.color = values[rows, np.minimum(places, values.shape[1] - 1)]

    def _select(self, chosen: list[list[int]]) -> None:
        """What the mouse selected in one panel, or nothing any more: the same tokens stay bright in both."""
        by = dict(zip((trace.meta for trace in self.fig.data), chosen, strict=True))
        picked = [self._tokens_of(m)[by[f"{side} {m}"]] for m in self._order for side in ("before", "after")]
        self._selected = np.unique(np.concatenate(picked)).astype(int)
        with self._answering(), self.fig.batch_update():
            if len(self._selected):
                self._controls["sample"].value = 0
            self._brighten()
            self.update()

    def _tokens_of(self, modality: str) -> np.ndarray:
        return np.flatnonzero(self._tokens["modality"] == modality)

    def _brighten(self) -> None:
        """Selected tokens bright and the others pale, in both panels; all alike where nothing is selected."""
        with self.fig.batch_update():
            for m in self._order:
                mine = self._tokens_of(m)
                among = np.flatnonzero(np.isin(mine, self._selected)).tolist()
                for side in ("before", "after"):
                    self._traces[f"{side} {m}"].selectedpoints = among if len(self._selected) else None

    def _said(self, key: tuple[int, float]) -> str:
        chosen = self._highlighted()
        said = f"{len(self._tokens['modality'])} tokens of {len(self._trace.ids)} samples, {key[0]} neighbours. "
        if self.controls and hasattr(self, "_samples"):
            self._samples.value = self._listed(chosen)
        if not len(chosen):
            return said + "Select points with the mouse, or a sample with the slider, to see what they are."
        samples = dict.fromkeys(self._tokens["sample"][chosen].tolist())
        whose = _count(len(samples), "sample") if len(samples) > 1 else self._trace.ids[next(iter(samples))]
        return f"{said}Highlighted: {_count(len(chosen), 'token')} of {whose}."

    def _listed(self, chosen: np.ndarray) -> str:
        """The samples of these tokens, the ones with most first: name, prediction, label, picture, and the tokens."""
        numbers, counts = np.unique(self._tokens["sample"][chosen], return_counts=True)
        most = numbers[np.argsort(-counts, kind="stable")]
        rows = []
        for b in most[:LISTED]:
            tokens = [i for i in chosen if self._tokens["sample"][i] == b]
            told = [html.escape(short(self._tokens["said"][i], 70)) for i in tokens[:4]]
            more = f" and {len(tokens) - 4} more" if len(tokens) > 4 else ""
            name = f"<b>{html.escape(self._trace.ids[b])}</b>{html.escape(self._facts(b))}"
            rows.append(
                f'<div style="display: flex; gap: 12px; align-items: center; padding: 3px 0">{self._pictures(int(b))}'
                f"<div>{name}<br>{'; '.join(told)}{more}</div></div>"
            )
        if len(most) > LISTED:
            rows.append(f"<div>… and {_count(len(most) - LISTED, 'sample')} more</div>")
        style = f"max-width: {WIDTH - 20}px; line-height: 1.45; font-size: 14px; padding: 0 10px 10px 20px"
        return f'<div class="alignmamba2-samples" style="{style}">{"".join(rows)}</div>'

    def _facts(self, sample: int) -> str:
        """Prediction and label of a sample in words, where there is one a sample."""
        values = {name: v[sample] for name, v in _values(self._trace).items() if v.ndim == 1}
        if not values:
            return ""
        if self._classes:
            facts = {name: self._classes[int(v)] for name, v in values.items() if name != "error"}
            verdict = f": {RIGHT_WRONG[int(values['error'])]}" if "error" in values else ""
        else:
            facts, verdict = {name: f"{v:.3g}" for name, v in values.items()}, ""
        return " · " + ", ".join(f"{name} {fact}" for name, fact in facts.items()) + verdict

    def _pictures(self, sample: int) -> str:
        if self._dataset is None:
            return ""
        from PIL import Image

        name = html.escape(self._trace.ids[sample], quote=True)
        return "".join(
            f'<img alt="{m} of {name}" width="56" height="56" src="{data_uri(Image.fromarray(p).resize((56, 56)))}">'
            for m, p in of_sample(self._dataset, self._dataset[sample]).items()
        )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _drawn(trace: Trace, most: int, random_state: int) -> dict[str, np.ndarray]:
    """At most `most` real tokens, evenly over modalities: their vectors, modality, sample, place and words."""
    rng = np.random.default_rng(random_state)
    rows: dict[str, list] = {name: [] for name in ("before", "after", "modality", "sample", "place", "hover", "said")}
    for m in trace.modalities:
        places = np.argwhere(array(trace.masks[m]))
        keep = np.sort(rng.choice(len(places), min(len(places), most // len(trace.modalities)), replace=False))
        for b, t in places[keep]:
            said = trace.words[b].get(m) or trace.words[b].get("text") or ()
            word = f" “{short(said[t], 50)}”" if t < len(said) else ""
            rows["before"].append(array(trace.projected[m][b, t]))
            rows["after"].append(array(trace.fused[m][b, t]))
            rows["modality"].append(m)
            rows["sample"].append(b)
            rows["place"].append(t)
            rows["hover"].append(f"{m} {t + 1} of {trace.ids[b]}{word}")
            rows["said"].append(f"{m} {t + 1}{word}")
    return {
        name: np.array(values, dtype=object if name in ("hover", "said") else None) for name, values in rows.items()
    }


def _classes(trace: Trace, dataset: Any = None) -> list[str]:
    """Names of the classes; none where numbers are predicted."""
    return [] if trace.logits is None else class_names(getattr(dataset, "classes", ()), trace.logits.shape[-1])


def _values(trace: Trace) -> dict[str, np.ndarray]:
    """A number a sample (B,), or a step (B, T), to colour by."""
    guess = array(trace.prediction).astype(float)
    values = {"prediction": guess}
    if trace.labels is not None:
        values["label"] = array(trace.labels).astype(float)
        values["error"] = np.abs(guess - values["label"])
        if trace.logits is not None:  # of classes: right or wrong
            values["error"] = (values["error"] > 0).astype(float)
    return values
