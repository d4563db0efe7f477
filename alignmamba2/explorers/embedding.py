"""Panel of all tokens on one plane before and after fusion: turn UMAP's parameters, colour, and select."""

import html
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from ..figures import look, tokens_of, umap_2d
from ..figures.marks import FRAME, panels
from ..figures.pictures import data_uri, of_sample
from ..figures.style import INK, PAPER, array, class_names, quoted, short, titled
from ..trace import Trace
from .panel import WIDTH, Explorer, PanelOptions, add_trace, button, choice, steps, whole

NEIGHBOURS = (5, 10, 15, 30, 60, 120)
DISTANCES = (0.0, 0.1, 0.25, 0.5, 0.99)
LISTED = 5  # samples named below
COLOURS = ("modality", "label", "prediction", "error")
RIGHT_WRONG = ("right", "wrong")
SIDES = ("before", "after")
NONE = np.array([], int)

Planes = tuple[np.ndarray, np.ndarray]


class EmbeddingExplorer(Explorer):
    """Tokens on a plane before and after fusion (UMAP); the same token is the same point in both.

    A new plane takes a second or more. It is computed in a thread, with a bar that shows the progress and a button that
    stops it, and kept. Colours and highlights answer at once. Points selected with the mouse (box or lasso) stay bright
    in both panels, a sample chosen with the slider is ringed. Below stand the samples that they belong to, their words
    and, if the data set has them, their pictures. `planes` are those drawn, (before (N, 2), after (N, 2)).

    `dataset` has the samples of the trace, in its order, for their pictures and the names of the classes; at `most` so
    many tokens are drawn, evenly over modalities; with `wait`, planes are computed before answering, for a page.
    """

    def __init__(
        self,
        trace: Trace,
        dataset: Any = None,
        *,
        most: int = 600,
        random_state: int = 0,
        wait: bool = False,
        **options: Unpack[PanelOptions],
    ):
        self._trace, self._random_state, self._dataset = trace, random_state, dataset
        self._tokens, self._values = tokens_of(trace, most, random_state), _values(trace)
        self._modalities = list(dict.fromkeys(self._tokens.modality.tolist()))
        self._members = {m: np.flatnonzero(self._tokens.modality == m) for m in self._modalities}
        count = 0 if trace.logits is None else trace.logits.shape[-1]  # for numbers there are no classes
        self._classes = class_names(getattr(dataset, "classes", ()), count)
        interactive = options.get("interactive", True)
        self._wait = wait or not interactive
        self._computed: dict[tuple[int, float], Planes] = {}
        self._worker: threading.Thread | None = None
        self._wanted: tuple[int, float] | None = None
        self._working, self._drawing = threading.Lock(), threading.RLock()
        self._stopped = False
        self.planes: Planes | None = None
        self._selected = NONE
        controls = {
            "neighbours": steps("neighbours", NEIGHBOURS, 15, "300px"),
            "distance": steps("least distance", DISTANCES, 0.1, "300px"),
            "colour": choice("colour by", [c for c in COLOURS if c in ("modality", *self._values)], width="220px"),
            "sample": whole("highlight sample", 0, len(trace.ids), 0, width="330px"),
            "cancel": button("stop", "stop"),
        }
        controls["cancel"].disabled = True
        self._progress = widgets.FloatProgress(0, min=0, max=1, layout=widgets.Layout(width="160px"))
        self._samples = widgets.HTML()
        with self._drawing:  # the worker waits until the panel stands
            super().__init__(controls, **options)
        if interactive:
            self._view.children[0].children += (self._progress,)
            self._view.children += (self._samples,)
            self.fig.selected = self._select

    def _figure(self) -> go.Figure:
        figure = panels(("before fusion", "after fusion"), 0.04)
        scale = {"colorscale": "Cividis", "coloraxis": "coloraxis", "line": {"color": PAPER, "width": 0.5}}
        ring = {"symbol": "circle-open", "size": 15, "color": INK, "line": {"width": 2.5}}
        for column, side in enumerate(SIDES, start=1):
            where = {"place": (1, column), "showlegend": column == 1}
            for m, members in self._members.items():
                marker = {"symbol": look(m).symbol, "color": look(m).colour, "size": 7, **scale}
                text = {"text": [self._tokens.hover[i] for i in members], "legendgroup": m}
                add_trace(figure, "markers", f"{side} {m}", "%{text}", legend=m, marker=marker, **text, **where)
            add_trace(figure, "markers", f"{side} ring", legend="highlighted", marker=ring, **where)
        figure.update_xaxes(**FRAME).update_yaxes(**FRAME)
        titled(figure, "Every token on one plane (UMAP)", height=516)
        return figure.update_layout(
            legend_itemsizing="constant",
            margin={"l": 30, "r": 90, "b": 56},
            dragmode="lasso",
            coloraxis={"colorscale": "Cividis", "showscale": False, "colorbar": {"thickness": 12, "len": 0.8}},
        )

    def _paint(self, neighbours: int, distance: float, colour: str, sample: int) -> str:
        key = neighbours, distance
        if key not in self._computed and self._wait:
            self._computed[key] = self._compute(key, lambda share: None)
        if key in self._computed:
            self._place(self._computed[key])
        elif self._stopped:
            return "Stopped. Move a slider to compute a plane."
        else:
            self._start(key)
        self._paint_colours(colour)
        if key not in self._computed:
            return "A new plane is being computed; what is drawn is the old one."
        return self._describe(neighbours)

    def update(self) -> None:
        """Draw what the controls say, or begin to compute it."""
        with self._drawing:  # the worker draws too
            super().update()

    def _compute(self, key: tuple[int, float], progress: Callable[[float], None]) -> Planes:
        before, after = (
            umap_2d(
                points,
                random_state=self._random_state,
                neighbours=key[0],
                distance=key[1],
                progress=lambda share, i=i: progress((i + share) / 2),
            )
            for i, points in enumerate((self._tokens.before, self._tokens.after))
        )
        return before, after

    def _start(self, key: tuple[int, float]) -> None:
        """Begin to compute planes in a thread; planes that were wanted before are not wanted any more."""
        if self._wanted == key:
            return
        self._wanted = key
        self._controls["cancel"].disabled = False
        import pandas  # noqa: F401 (here, not by UMAP in the thread: Plotly looks into what is half imported)

        self._worker = threading.Thread(target=self._work, args=(key,), daemon=True)
        self._worker.start()

    def _work(self, key: tuple[int, float]) -> None:
        def progress(share: float) -> None:
            if self._wanted != key:
                raise CancelledError
            self._progress.value = share

        with self._reporting():
            try:
                with self._working:  # one at a time
                    progress(0)
                    planes = self._compute(key, progress)
                    progress(1)
            except CancelledError:  # not wanted any more
                return
            self._computed[key] = planes
            self._end()
            self.update()

    def _end(self) -> None:
        self._wanted = None
        self._controls["cancel"].disabled = True
        self._progress.value = 0

    def _changed(self, name: str) -> None:
        self._stopped = name == "cancel"
        if self._stopped:
            self._end()
            drawn = next((key for key, planes in self._computed.items() if planes is self.planes), None)
            if drawn:  # the controls say what is drawn
                self._controls["neighbours"].value, self._controls["distance"].value = drawn
        if name == "sample" and len(self._selected):
            self._selected = NONE
            self._brighten()

    def _place(self, planes: Planes) -> None:
        self.planes = planes
        for side, plane in zip(SIDES, planes, strict=True):
            for m, members in self._members.items():
                self._set(f"{side} {m}", x=plane[members, 0], y=plane[members, 1])
            ringed = self._of_sample()
            self._set(f"{side} ring", x=plane[ringed, 0], y=plane[ringed, 1], selectedpoints=None)

    def _of_sample(self) -> np.ndarray:
        return np.flatnonzero(self._tokens.sample == self._controls["sample"].value - 1)

    def _paint_colours(self, by: str) -> None:
        values = self._values.get(by)
        axis = self.fig.layout.coloraxis
        axis.showscale = values is not None
        if values is not None:
            axis.update(cmin=float(values.min()), cmax=float(values.max()), colorbar_title_text=by)
            if self._classes:  # an empty list would leave no tick at all to numbers
                names = RIGHT_WRONG if by == "error" else self._classes
                axis.update(cmin=0, cmax=len(names) - 1, colorbar_tickvals=list(range(len(names))))
                axis.colorbar.ticktext = [short(name, 12) for name in names]
        for m, members in self._members.items():
            rows, places = self._tokens.sample[members], self._tokens.place[members]
            colours: Any = look(m).colour
            if values is not None:
                by_step = values.ndim > 1
                colours = values[rows, np.minimum(places, values.shape[1] - 1)] if by_step else values[rows]
            for side in SIDES:
                self._set(f"{side} {m}", marker_color=colours)

    def _select(self, points: list[list[int]]) -> None:
        """Keep bright in both panels what the mouse selected in one of them; all tokens if it selected nothing."""
        by_trace = dict(zip((trace.meta for trace in self.fig.data), points, strict=True))
        picked = [members[by_trace[f"{side} {m}"]] for m, members in self._members.items() for side in SIDES]
        self._selected = np.unique(np.concatenate(picked)).astype(int)
        with self._answering(), self.fig.batch_update():
            if len(self._selected):
                self._controls["sample"].value = 0
            self._brighten()
            self.update()

    def _brighten(self) -> None:
        with self.fig.batch_update():
            for m, members in self._members.items():
                bright = np.flatnonzero(np.isin(members, self._selected)).tolist()
                for side in SIDES:
                    self._set(f"{side} {m}", selectedpoints=bright if len(self._selected) else None)

    def _describe(self, neighbours: int) -> str:
        chosen = self._selected if len(self._selected) else self._of_sample()
        self._samples.value = self._listed(chosen) if len(chosen) else ""
        drawn = f"{len(self._tokens.modality)} tokens of {len(self._trace.ids)} samples, {neighbours} neighbours."
        if not len(chosen):
            return f"{drawn} Select points with the mouse, or a sample with the slider, to see what they are."
        samples = np.unique(self._tokens.sample[chosen])
        owner = _count(len(samples), "sample") if len(samples) > 1 else self._trace.ids[samples[0]]
        return f"{drawn} Highlighted: {_count(len(chosen), 'token')} of {owner}."

    def _listed(self, chosen: np.ndarray) -> str:
        numbers, counts = np.unique(self._tokens.sample[chosen], return_counts=True)
        samples = numbers[np.argsort(-counts, kind="stable")]
        rows = []
        for b in samples[:LISTED]:
            tokens = chosen[self._tokens.sample[chosen] == b]
            names = [html.escape(short(self._name(i), 70)) for i in tokens[:4]]
            more = f" and {len(tokens) - 4} more" if len(tokens) > 4 else ""
            title = f"<b>{html.escape(self._trace.ids[b])}</b>{html.escape(self._facts(b))}"
            rows.append(
                f'<div style="display: flex; gap: 12px; align-items: center; padding: 3px 0">{self._pictures(int(b))}'
                f"<div>{title}<br>{'; '.join(names)}{more}</div></div>"
            )
        if len(samples) > LISTED:
            rows.append(f"<div>… and {_count(len(samples) - LISTED, 'sample')} more</div>")
        style = f"max-width: {WIDTH - 20}px; line-height: 1.45; font-size: 14px; padding: 0 10px 10px 20px"
        return f'<div class="alignmamba2-samples" style="{style}">{"".join(rows)}</div>'

    def _name(self, i: int) -> str:
        tokens = self._tokens
        return f"{tokens.modality[i]} {tokens.place[i] + 1}{quoted(short(tokens.words[i], 50))}"

    def _facts(self, sample: int) -> str:
        values = {name: v[sample] for name, v in self._values.items() if v.ndim == 1}
        if not values:
            return ""
        verdict = ""
        if self._classes:
            verdict = f": {RIGHT_WRONG[int(values.pop('error'))]}" if "error" in values else ""
            facts = [f"{name} {self._classes[int(v)]}" for name, v in values.items()]
        else:
            facts = [f"{name} {v:.3g}" for name, v in values.items()]
        return f" · {', '.join(facts)}{verdict}"

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


def _values(trace: Trace) -> dict[str, np.ndarray]:
    """Return numbers to colour by, one per sample (B,) or per step (B, T)."""
    prediction = array(trace.prediction).astype(float)
    values = {"prediction": prediction}
    if trace.labels is not None:
        values["label"] = array(trace.labels).astype(float)
        error = np.abs(prediction - values["label"])
        values["error"] = error if trace.logits is None else (error > 0).astype(float)  # of classes: right or wrong
    return values
