"""Turn ε, or take another method or cost, and watch which token goes to which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from ..alignment import TransportResult, transport
from ..figures import agreement, transport_sweep
from ..figures.style import array, short
from .panel import Shown, button, choice, number, steps, whole
from .plan import SQUARE, Case, PlanPanel
from .points import Drag, Points

EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
METHODS = (
    ("entropic (Sinkhorn)", "sinkhorn"),
    ("exact (no ε)", "exact"),
    ("relaxed: each to its nearest", "relaxed"),
    ("unbalanced: mass may be left", "unbalanced"),
)
COSTS = (("1 − cosine", "cosine"), ("squared distance", "sqeuclidean"))
POINT_CONTROLS = ("point", "right", "up", "draw")


class TransportExplorer(PlanPanel):
    """The plan between the tokens of two modalities: turn ε, choose the method and the cost.

    Shown are the plan with the sums of its rows and columns, rings on true partners where they are known, the
    strongest links, and how much of the mass lies on true partners. Where no Python runs (a page), or with
    `interactive=False`, plans of several ε stand behind Plotly's own slider.

    Parameters
    ----------
    x, y : Tensor (T_m, d) and (T_anchor, d)
        Tokens, without padding.
    row_words, column_words, names, partners
        As for `figures.transport_plan`.
    epsilon : float
        Where the slider begins: the nearest of `epsilons`.
    epsilons : numbers
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    result : TransportResult of one sample
        What is drawn.

    Examples
    --------
    >>> TransportExplorer(torch.randn(5, 8), torch.randn(4, 8), epsilon=0.1)  # doctest: +SKIP
    >>> TransportExplorer.of_model(model, data["test"])  # doctest: +SKIP
    >>> TransportExplorer.of_points(12)  # doctest: +SKIP
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        row_words: Sequence[str] = (),
        column_words: Sequence[str] = (),
        *,
        epsilon: float = 0.05,
        epsilons: Sequence[float] = EPSILONS,
        names: tuple[str, str] = ("tokens", "anchor"),
        partners: Any = None,
        **shown: Unpack[Shown],
    ):
        only = Case(x, y, row_words, column_words, names, partners)
        self._build(lambda: only, {}, epsilon, epsilons, shown)

    @classmethod
    def of_model(
        cls,
        model: Any,
        dataset: Any,
        *,
        sample: int = 0,
        epsilon: float | None = None,
        epsilons: Sequence[float] = EPSILONS,
        **shown: Unpack[Shown],
    ) -> TransportExplorer:
        """The same for any sample of a data set and any pair that a model aligns."""
        self = cls.__new__(cls)
        pairs = list(model.config.pairs)
        if not pairs:
            raise ValueError("model: it has one modality; expected at least two, so that there is a pair to align")
        controls = {
            "sample": whole("sample", 0, len(dataset) - 1, sample),
            "pair": choice("pair", [(f"{m} → {anchor}", (m, anchor)) for m, anchor in pairs]),
        }
        kept: dict[int, tuple[Any, Any]] = {}

        def case() -> Case:
            i, pair = controls["sample"].value, controls["pair"].value
            if i not in kept:
                kept.clear()
                kept[i] = dataset[i], model.trace(dataset.batch([i]), scans=False)
            one, trace = kept[i]
            x, y = (trace.projected[m][0][trace.masks[m][0]] for m in pair)
            rows, columns = (list(one.words.get(m, ()))[: len(t)] for m, t in zip(pair, (x, y), strict=True))
            same = rows == columns and len(rows) > 0
            partners = one.partners.get(pair, torch.arange(len(x)) if same else None)
            return Case(x, y, [] if same else rows, columns, pair, partners, one.id)

        self._build(case, controls, epsilon or model.config.epsilon, epsilons, shown)
        return self

    @classmethod
    def of_points(
        cls,
        points: int = 12,
        *,
        epsilon: float = 0.05,
        epsilons: Sequence[float] = EPSILONS,
        seed: int = 0,
        **shown: Unpack[Shown],
    ) -> TransportExplorer:
        """The same for two clouds of points in the unit square.

        Draw new points, drag any of them with the mouse, or choose a blue one and move it with the sliders.
        """
        self = cls.__new__(cls)
        self._points = cloud = Points(points, seed)
        x, y = cloud.x[0]
        controls = {
            "point": whole("move blue point", 1, points, 1, width="280px"),
            "right": number("to the right", 0, 1, round(float(x), 2), 0.01, width="260px"),
            "up": number("upwards", 0, 1, round(float(y), 2), 0.01, width="240px"),
            "draw": button("draw new points", "refresh"),
        }

        def case() -> Case:
            return Case(*map(torch.tensor, (cloud.x, cloud.y)), names=("blue", "orange"), place=True)

        self._build(case, controls, epsilon, epsilons, {"note": "points drawn at random", **shown})
        if self.controls:
            self._view.children += (Drag(("from", "to"), SQUARE, self._drag),)
        return self

    _points: Points | None = None

    def _build(
        self,
        case: Callable[[], Case],
        controls: Mapping[str, widgets.Widget],
        epsilon: float,
        epsilons: Sequence[float],
        shown: Shown,
    ) -> None:
        self._case_of = case
        self.case: Case = case()
        self.epsilons = tuple(epsilons)
        start = min(range(len(self.epsilons)), key=lambda i: abs(self.epsilons[i] - epsilon))
        self._cost = "sqeuclidean" if self.case.place else "cosine"
        own = {
            "epsilon": steps("ε", [(f"{e:g}", i) for i, e in enumerate(self.epsilons)], start),
            "method": choice("method", METHODS, "sinkhorn", width="290px"),
            "cost": choice("cost", COSTS, self._cost, width="210px"),
        }
        if self.case.place:  # an angle between points of a plane says little
            del own["cost"]
        super().__init__(self._laid_out(), own | dict(controls), **shown)
        if not self.controls:
            self.fig = self.still

    def _changed(self, name: str) -> None:
        if name in POINT_CONTROLS:
            self._move(name)
        if name not in ("epsilon", "method", "cost"):
            self.case = self._case_of()
        self._controls["epsilon"].disabled = self._controls["method"].value in ("exact", "relaxed")

    def _move(self, name: str) -> None:
        """What a control of points asks for; afterwards the sliders stand where the chosen point lies."""
        point, right, up = (self._controls[key] for key in ("point", "right", "up"))
        if name == "draw":
            self._points.draw()
        if name in ("right", "up"):
            self._points.x[point.value - 1] = right.value, up.value
        else:
            right.value, up.value = (round(float(v), 2) for v in self._points.x[point.value - 1])

    def _drag(self, side: str, index: int, x: float, y: float) -> None:
        """A point under the mouse is at (x, y)."""
        (self._points.x if side == "from" else self._points.y)[index] = x, y
        with self._answering():
            if side == "from":
                self._controls["point"].value = index + 1
                self._move("point")
            self.case = self._case_of()
            self.update()

    def _paint(self) -> str:
        case, now = self.case, {name: control.value for name, control in self._controls.items() if name != "draw"}
        self.epsilon = self.epsilons[now["epsilon"]]
        options = {"method": now["method"], "cost": now.get("cost", self._cost), "epsilon": self.epsilon}
        # A small ε takes more steps than training allows itself, and bars that do not end level would puzzle.
        with torch.no_grad():
            self.result: TransportResult = transport(
                case.x[None], case.y[None], **options, tolerance=1e-5, max_iterations=20_000
            )
        mass = array(self.result.plan[0]).astype(np.float64)
        self._draw(mass)
        return self._facts(mass)

    def _facts(self, mass: np.ndarray) -> str:
        case, result, now = self.case, self.result, self._controls
        i, j = np.unravel_index(mass.argmax(), mass.shape)
        method = {value: text for text, value in METHODS}[now["method"].value]
        head = f"Sample {case.id}. " if case.id else ""
        if self._points:
            point, right, up = (now[key].value for key in ("point", "right", "up"))
            head = f"Blue point {point} is at ({right:.2f}, {up:.2f}). "
        strength = f" at ε = {self.epsilon:g}" if not now["epsilon"].disabled else ""
        said = (
            f"{head}{method.split(' (')[0].split(':')[0].capitalize()} transport{strength}: moving the mass costs "
            f"{float(result.transport_cost):.3f}"
        )
        said += f", {float(result.distance):.3f} with the entropy. " if strength else ". "
        said += f"The strongest link is {_plain(self._row_names[i])} → {_plain(self._column_names[j])}."
        empty = int((mass.sum(0) < 0.1 * mass.sum() / mass.shape[1]).sum())
        if empty:
            said += f" {empty} of {mass.shape[1]} {case.names[1]} tokens get almost nothing."
        if case.partners is not None:
            share, chance = agreement(mass, case.partners)
            said += f" {share:.0%} of the mass lies on true partners; chance would put {chance:.0%} there."
        if not bool(result.converged.all()):
            said += " The iterations ended before the sums were right."
        return said

    @property
    def still(self) -> go.Figure:
        """Plans of all ε of the case that is shown, behind a slider that needs no running Python."""
        case = self.case
        options = {"cost": self._controls["cost"].value if "cost" in self._controls else self._cost}
        plans = [
            transport(case.x[None], case.y[None], epsilon=e, tolerance=1e-5, max_iterations=20_000, **options).plan[0]
            for e in self.epsilons
        ]
        labels = {"names": case.names, "partners": case.partners, "note": self._note}
        return transport_sweep(
            plans, self.epsilons, case.row_words, case.column_words, start=self._controls["epsilon"].value, **labels
        )


def _plain(text: str) -> str:
    return short(text.replace("<br>", " "), 60)
