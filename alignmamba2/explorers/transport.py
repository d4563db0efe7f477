"""Panel of a transport plan: turn ε, or take another method or cost, and watch which token goes to which."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from ..alignment import TransportResult, transport
from ..figures import agreement, transport_sweep
from ..figures.style import array, short, titled
from ..figures.transport import Ends, laid_out, put_mass, put_tokens, with_agreement
from .panel import Explorer, PanelOptions, PointDragging, button, choice, number, steps, which_sample, whole

EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
METHODS = (
    ("entropic (Sinkhorn)", "sinkhorn"),
    ("exact (no ε)", "exact"),
    ("relaxed: each to its nearest", "relaxed"),
    ("unbalanced: mass may be left", "unbalanced"),
)
WITHOUT_EPSILON = ("exact", "relaxed")
COSTS = (("1 − cosine", "cosine"), ("squared distance", "sqeuclidean"))
# A small ε takes more steps than training allows itself, and bars that do not end level would puzzle.
PRECISE = {"tolerance": 1e-5, "max_iterations": 20_000}
EDGE = 0.03  # points stay this far inside the square


def clouds(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield two clouds (count, 2) after the other, one to the left of the other; the same ones for the same seed."""
    for draw in itertools.count():
        rng = np.random.default_rng([seed, draw])
        x, y = (rng.normal((middle, 0.5), (0.13, 0.2), (count, 2)) for middle in (0.3, 0.7))
        yield x.clip(EDGE, 1 - EDGE), y.clip(EDGE, 1 - EDGE)


@dataclass(frozen=True)
class Problem:
    """Two rows of tokens, one to carry to the other, what is known of them, and the sample that they belong to."""

    x: Tensor
    y: Tensor
    ends: Ends
    sample: str = ""


class TransportExplorer(Explorer):
    """The plan between the tokens of two modalities: turn ε, choose the method and the cost.

    Drawn are the plan with the sums of its rows and columns, rings on true partners if they are known, the strongest
    links, and how much of the mass lies on true partners. On a page without Python, or with `interactive=False`, plans
    of several ε stand behind Plotly's own slider. `result` is the TransportResult of the one sample that is drawn.

    Tokens x (T_m, d) and y (T_anchor, d) are without padding; words, names and partners are those of
    `figures.transport_plan`. The slider starts at the nearest of `EPSILONS`.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        row_words: Sequence[str] = (),
        column_words: Sequence[str] = (),
        *,
        epsilon: float = 0.05,
        names: tuple[str, str] = ("tokens", "anchor"),
        partners: Any = None,
        **options: Unpack[PanelOptions],
    ):
        problem = Problem(x, y, Ends(names, row_words, column_words, partners))
        self._build(lambda: problem, {}, epsilon, **options)

    @classmethod
    def of_model(cls, model: Any, dataset: Any, *, sample: int = 0, **options: Unpack[PanelOptions]) -> Self:
        """Return the panel of any sample of a data set and any pair that a model aligns, from the model's ε on."""
        self = cls.__new__(cls)
        pairs = list(model.config.pairs)
        if not pairs:
            raise ValueError("model: it has one modality; expected at least two, so that there is a pair to align")
        controls = {
            "sample": which_sample(dataset, sample),
            "pair": choice("pair", [(f"{m} → {anchor}", (m, anchor)) for m, anchor in pairs]),
        }
        traced = lru_cache(1)(lambda i: (dataset[i], model.trace(dataset.batch([i]), scans=False)))

        def problem() -> Problem:
            pair = controls["pair"].value
            record, trace = traced(controls["sample"].value)
            x, y = (trace.projected[m][0][trace.masks[m][0]] for m in pair)
            rows, columns = (list(record.words.get(m, ()))[: len(t)] for m, t in zip(pair, (x, y), strict=True))
            same = rows == columns and len(rows) > 0
            partners = record.partners.get(pair, torch.arange(len(x)) if same else None)
            return Problem(x, y, Ends(pair, [] if same else rows, columns, partners), record.id)

        self._build(problem, controls, model.config.epsilon, **options)
        return self

    @classmethod
    def of_points(
        cls, points: int = 12, *, epsilon: float = 0.05, seed: int = 0, **options: Unpack[PanelOptions]
    ) -> Self:
        """Return the panel of two clouds of points in the unit square.

        Draw new points, drag any of them with the mouse, or choose a blue one and move it with the sliders.
        """
        self = cls.__new__(cls)
        self._draws = clouds(points, seed)
        self._points = next(self._draws)
        x, y = self._points[0][0]
        controls = {
            "point": whole("move blue point", 1, points, 1, width="280px"),
            "right": number("to the right", 0, 1, round(float(x), 2), 0.01, width="260px"),
            "up": number("upwards", 0, 1, round(float(y), 2), 0.01, width="240px"),
            "draw": button("draw new points", "refresh"),
        }

        def problem() -> Problem:
            x, y = (cloud.copy() for cloud in self._points)
            return Problem(torch.tensor(x), torch.tensor(y), Ends(("blue", "orange"), places=(x, y)))

        self._build(problem, controls, epsilon, **{"note": "points drawn at random", **options})
        if self.controls:
            axes = [axis.plotly_name for axis in self._axes("from")]
            self._view.children += (PointDragging(("from", "to"), axes, self._drag),)
        return self

    BUTTONS = False
    _points: tuple[np.ndarray, np.ndarray]
    _drawn: Problem | None = None

    def _build(
        self,
        make_problem: Callable[[], Problem],
        controls: Mapping[str, widgets.Widget],
        epsilon: float,
        **options: Unpack[PanelOptions],
    ) -> None:
        self._make_problem = make_problem
        self.problem: Problem = make_problem()
        first = min(EPSILONS, key=lambda e: abs(e - epsilon))
        plan = {"epsilon": steps("ε", EPSILONS, first), "method": choice("method", METHODS, "sinkhorn", width="290px")}
        if self.problem.ends.places is None:  # an angle between points of a plane says little
            plan["cost"] = choice("cost", COSTS, "cosine", width="210px")
        super().__init__(plan | dict(controls), **options)
        if not self.controls:
            self.fig = self.still

    def _changed(self, name: str) -> None:
        if name in ("point", "right", "up", "draw"):
            self._move(name)
        if name not in ("epsilon", "method", "cost"):
            self.problem = self._make_problem()
        self._controls["epsilon"].disabled = self._controls["method"].value in WITHOUT_EPSILON

    def _move(self, name: str) -> None:
        """Move points as a control of theirs says; afterwards the sliders stand at the chosen point."""
        point, right, up = (self._controls[key] for key in ("point", "right", "up"))
        if name == "draw":
            self._points = next(self._draws)
        if name in ("right", "up"):
            self._points[0][point.value - 1] = right.value, up.value
        else:
            right.value, up.value = (round(float(v), 2) for v in self._points[0][point.value - 1])

    def _drag(self, side: str, index: int, x: float, y: float) -> None:
        self._points[side != "from"][index] = x, y
        with self._answering():
            if side == "from":
                self._controls["point"].value = index + 1
                self._move("point")
            self.problem = self._make_problem()
            self.update()

    def _paint(
        self, epsilon: float, method: str, cost: str = "sqeuclidean", sample: int = 0, pair: Any = None, **point: Any
    ) -> str:
        self.epsilon = epsilon
        with torch.no_grad():
            self.result: TransportResult = transport(
                self.problem.x[None], self.problem.y[None], epsilon=epsilon, method=method, cost=cost, **PRECISE
            )
        mass = array(self.result.plan[0]).astype(np.float64)
        ends = self.problem.ends
        if self.problem is not self._drawn:
            self._row_names, self._column_names = put_tokens(self.fig, ends, *mass.shape)
            self._drawn = self.problem
        put_mass(self.fig, ends, mass)
        title, note = f"Transport plan: {' → '.join(ends.names)}", with_agreement(self._note, mass, ends.partners)
        self.fig.layout.title.text = self._headed(title, note)
        head = f"Sample {self.problem.sample}. " if self.problem.sample else ""
        if point:
            head = f"Blue point {point['point']} is at ({point['right']:.2f}, {point['up']:.2f}). "
        return head + self._describe(mass, method)

    def _figure(self) -> go.Figure:
        legend = {"x": 0.6, "xanchor": "left", "y": 1.0, "yanchor": "top", "yref": "container"}
        margin = {"l": 60, "r": 20, "t": 84, "b": 60}
        return titled(laid_out(0.12), "Transport plan", height=490, margin=margin, legend=legend)

    def _describe(self, mass: np.ndarray, method: str) -> str:
        ends, result = self.problem.ends, self.result
        strength, entropy = f" at ε = {self.epsilon:g}", f", {float(result.distance):.3f} with the entropy"
        if method in WITHOUT_EPSILON:
            strength = entropy = ""
        label = next(text for text, value in METHODS if value == method)
        i, j = np.unravel_index(mass.argmax(), mass.shape)
        words = (
            f"{label.split(' (')[0].split(':')[0].capitalize()} transport{strength}: moving the mass costs "
            f"{float(result.transport_cost):.3f}{entropy}. "
            f"The strongest link is {_plain(self._row_names[i])} → {_plain(self._column_names[j])}."
        )
        empty = int((mass.sum(0) < 0.1 * mass.sum() / mass.shape[1]).sum())
        if empty:
            words += f" {empty} of {mass.shape[1]} {ends.names[1]} tokens get almost nothing."
        if ends.partners is not None:
            share, chance = agreement(mass, ends.partners)
            words += f" {share:.0%} of the mass lies on true partners; chance would put {chance:.0%} there."
        if not bool(result.converged.all()):
            words += " The iterations ended before the sums were right."
        return words

    @property
    def still(self) -> go.Figure:
        """Plans of all ε of the problem that is drawn, behind a slider that needs no running Python."""
        problem = self.problem
        cost = self._controls["cost"].value if "cost" in self._controls else "sqeuclidean"
        x, y = problem.x[None], problem.y[None]
        plans = [transport(x, y, epsilon=e, cost=cost, **PRECISE).plan[0] for e in EPSILONS]
        start = EPSILONS.index(self._controls["epsilon"].value)
        ends = problem.ends
        labels = {"names": ends.names, "partners": ends.partners, "note": self._note}
        return transport_sweep(plans, EPSILONS, ends.row_words, ends.column_words, start=start, **labels)


def _plain(text: str) -> str:
    return short(text.replace("<br>", " "), 60)
