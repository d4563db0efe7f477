"""Turn ε, or take another method or cost, and watch which token goes to which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..alignment import TransportResult, transport
from ..figures import agreement, look, transport_sweep
from ..figures.style import INK, LIGHT, PLAN_SCALE, array, short, ticks, titled, wrapped
from .panel import Explorer, button, choice, headed, number, steps, whole

EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
METHODS = (
    ("entropic (Sinkhorn)", "sinkhorn"),
    ("exact (no ε)", "exact"),
    ("relaxed: each to its nearest", "relaxed"),
    ("unbalanced: mass may be left", "unbalanced"),
)
COSTS = (("1 − cosine", "cosine"), ("squared distance", "sqeuclidean"))
WIDTHS = (1.0, 2.5, 5.0)  # of links: few steps, so that a slider redraws six traces and not a hundred
CLEAR = 1.5


@dataclass(frozen=True)
class Case:
    """Two rows of tokens to carry from one to the other; `place` is set for points of a plane."""

    x: Tensor
    y: Tensor
    row_words: Sequence[str] = ()
    column_words: Sequence[str] = ()
    names: tuple[str, str] = ("tokens", "anchor")
    partners: Any = None
    id: str = ""
    place: bool = False


class TransportExplorer(Explorer):
    """The plan between the tokens of two modalities: turn ε, choose the method and the cost.

    Shown are the plan with the sums of its rows and columns, rings on true partners where they are known, the
    strongest links, and how much of the mass lies on true partners. Where no Python runs (a page), or with
    `interactive=False`, plans of several ε stand behind Plotly's own slider.

    Parameters
    ----------
    x, y : Tensor (T_m, d) and (T_anchor, d)
        Tokens, without padding.
    row_words, column_words, names, partners, note
        As for `figures.transport_plan`.
    epsilon : float
        Where the slider begins: the nearest of `epsilons`.
    epsilons : numbers
    interactive : bool
    theme : "light" or "dark"

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
        note: str = "",
        interactive: bool = True,
        theme: str = "light",
    ):
        only = Case(x, y, row_words, column_words, names, partners)
        self._build(lambda: only, {}, epsilon, epsilons, note, interactive, theme)

    @classmethod
    def of_model(
        cls,
        model: Any,
        dataset: Any,
        *,
        sample: int = 0,
        epsilon: float | None = None,
        epsilons: Sequence[float] = EPSILONS,
        note: str = "",
        interactive: bool = True,
        theme: str = "light",
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
                kept[i] = dataset[i], model.trace(dataset.batch([i]))
            one, trace = kept[i]
            x, y = (trace.projected[m][0][trace.masks[m][0]] for m in pair)
            rows, columns = (list(one.words.get(m, ()))[: len(t)] for m, t in zip(pair, (x, y), strict=True))
            same = rows == columns and len(rows) > 0
            partners = one.partners.get(pair, torch.arange(len(x)) if same else None)
            return Case(x, y, [] if same else rows, columns, pair, partners, one.id)

        self._build(case, controls, epsilon or model.config.epsilon, epsilons, note, interactive, theme)
        return self

    @classmethod
    def of_points(
        cls,
        points: int = 12,
        *,
        epsilon: float = 0.05,
        epsilons: Sequence[float] = EPSILONS,
        seed: int = 0,
        note: str = "points drawn at random",
        interactive: bool = True,
        theme: str = "light",
    ) -> TransportExplorer:
        """The same for two clouds of points in the unit square: draw new ones, or take one and move it."""
        self = cls.__new__(cls)
        cloud: dict[str, np.ndarray] = {}

        def draw(number: int) -> None:
            rng = np.random.default_rng([seed, number])
            first = np.clip(rng.normal((0.3, 0.5), (0.13, 0.2), (points, 2)), 0.03, 0.97)
            second = np.clip(rng.normal((0.7, 0.5), (0.13, 0.2), (points, 2)), 0.03, 0.97)
            cloud["x"], cloud["y"] = first, second

        draw(0)
        at = cloud["x"][0]
        controls = {
            "point": whole("move point", 1, points, 1, width="250px"),
            "right": number("to the right", 0, 1, round(float(at[0]), 2), 0.01, width="270px"),
            "up": number("upwards", 0, 1, round(float(at[1]), 2), 0.01, width="250px"),
            "draw": button("draw new points", "refresh"),
        }
        count = [0]

        def changed(name: str) -> None:
            if name == "draw":
                count[0] += 1
                draw(count[0])
            place = cloud["x"][controls["point"].value - 1]
            if name in ("right", "up"):
                place[:] = controls["right"].value, controls["up"].value
            else:
                controls["right"].value, controls["up"].value = (round(float(v), 2) for v in place)

        def case() -> Case:
            x, y = (torch.from_numpy(cloud[k].copy()) for k in "xy")
            return Case(x, y, names=("blue", "orange"), place=True)

        self._points_changed = changed
        self._build(case, controls, epsilon, epsilons, note, interactive, theme)
        return self

    _points_changed: Callable[[str], None] | None = None

    def _build(self, case, controls, epsilon, epsilons, note, interactive, theme) -> None:
        self._case_of, self._note = case, note
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
        self._drawn: Case | None = None
        super().__init__(self._laid_out(), own | controls, interactive=interactive, theme=theme)
        if not interactive:
            self.fig = self.still

    def _changed(self, name: str) -> None:
        if self._points_changed and name in ("point", "right", "up", "draw"):
            self._points_changed(name)
        if name not in ("epsilon", "method", "cost"):
            self.case = self._case_of()
        self._controls["epsilon"].disabled = self._controls["method"].value in ("exact", "relaxed")

    def _laid_out(self) -> go.Figure:
        figure = make_subplots(
            rows=2,
            cols=3,
            column_widths=[0.52, 0.07, 0.41],
            row_heights=[0.12, 0.88],
            horizontal_spacing=0.02,
            vertical_spacing=0.03,
        )
        heat = go.Heatmap(
            meta="heat",
            zmin=0,
            colorscale=PLAN_SCALE,
            hovertemplate="%{text}<br>%{z:.2%} of all mass, %{customdata:.0%} of this token's<extra></extra>",
            colorbar={
                "orientation": "h",
                "x": 1,
                "xanchor": "right",
                "y": 1.0,
                "yanchor": "top",
                "len": 0.36,
                "thickness": 10,
                "ypad": 0,
                "xpad": 0,
                "tickformat": ".1%",
                "nticks": 3,
                "title": {"text": "share of all mass", "side": "top", "font": {"size": 13}},
            },
        )
        figure.add_trace(heat, 2, 1)
        ring = {"symbol": "circle", "size": 8, "color": "white", "line": {"color": "black", "width": 2}}
        figure.add_scatter(
            meta="rings", mode="markers", marker=ring, name="true partner", hoverinfo="skip", row=2, col=1
        )
        bar = {"showlegend": False, "hovertemplate": "%{hovertext}<extra></extra>"}
        figure.add_bar(meta="rows", marker_color=look(self.case.names[0]).colour, **bar, row=1, col=1)
        figure.add_bar(
            meta="columns", marker_color=look(self.case.names[1]).colour, orientation="h", **bar, row=2, col=2
        )
        for kind, colour in (("other link", LIGHT), ("true link", INK)):
            for k, width in enumerate(WIDTHS):
                figure.add_scatter(
                    meta=f"{kind} {k}",
                    mode="lines",
                    line={"width": width, "color": colour},
                    name=kind,
                    legendgroup=kind,
                    showlegend=False,
                    hoverinfo="skip",
                    row=2,
                    col=3,
                )
        for side in ("to", "from"):
            figure.add_scatter(
                meta=side,
                mode="markers",
                marker={"size": 11, "line": {"width": 1, "color": "white"}},
                hovertemplate="%{text}<extra></extra>",
                showlegend=False,
                row=2,
                col=3,
            )
        figure.update_xaxes(showgrid=False)
        figure.update_yaxes(showgrid=False)
        for axis in ("xaxis", "yaxis", "xaxis5", "yaxis5", "xaxis6", "yaxis6"):
            figure.layout[axis].update(showticklabels=False, ticks="", showline=False)
        for axis in ("xaxis2", "yaxis2", "xaxis3", "yaxis3"):
            figure.layout[axis].visible = False
        figure.layout.xaxis6.showticklabels = True
        titled(figure, "Transport plan", self._note, height=560)
        return figure.update_layout(
            bargap=0.25,
            margin={"l": 60, "r": 20, "t": 84, "b": 60},
            legend={"x": 0.6, "xanchor": "left", "y": 1.0, "yanchor": "top", "yref": "container"},
        )

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
        if case is not self._drawn:
            self._set_scene(case, mass)
            self._drawn = case
        heat, rows, columns = (self._traces[name] for name in ("heat", "rows", "columns"))
        own = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
        heat.update(z=mass.T, customdata=own.T, zmax=float(max(mass.max(), 3 / mass.size)))
        rows.update(x=np.arange(len(mass)), y=mass.sum(1))
        columns.update(x=mass.sum(0), y=np.arange(mass.shape[1]))
        rows.hovertext = [f"{t}<br>{s:.1%} of all mass" for t, s in zip(self._row_names, mass.sum(1), strict=True)]
        columns.hovertext = [
            f"{t}<br>{s:.1%} of all mass" for t, s in zip(self._column_names, mass.sum(0), strict=True)
        ]
        self._link(mass)
        facts, note = self._facts(mass), self._note
        if case.partners is not None:
            share, chance = agreement(mass, case.partners)
            found = f"{share:.0%} of the mass on true partners (chance: {chance:.0%})"
            note = " · ".join(part for part in (self._note, found) if part)
        self.fig.layout.title.text = headed(f"Transport plan: {case.names[0]} → {case.names[1]}", note)
        return facts

    def _facts(self, mass: np.ndarray) -> str:
        case, result, now = self.case, self.result, self._controls
        i, j = np.unravel_index(mass.argmax(), mass.shape)
        method = {value: text for text, value in METHODS}[now["method"].value]
        head = f"Sample {case.id}. " if case.id else ""
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

    def _set_scene(self, case: Case, mass: np.ndarray) -> None:
        """What stays while ε moves: names, ticks, rings, places."""
        m, anchor = case.names
        n, k = mass.shape
        rows, columns = _labels(case.row_words, n), _labels(case.column_words, k)
        self._row_names = [_named(w, i, m) for i, w in enumerate(rows)]
        self._column_names = [_named(w, i, anchor) for i, w in enumerate(columns)]
        self._traces["heat"].text = [[f"{a}<br>→ {b}" for a in self._row_names] for b in self._column_names]
        partners = None if case.partners is None else array(case.partners)
        known = np.flatnonzero(partners >= 0) if partners is not None else np.array([], int)
        self._traces["rings"].update(
            x=known, y=known if partners is None else partners[known], showlegend=bool(len(known))
        )
        for kind in ("other link", "true link"):
            self._traces[f"{kind} 1"].showlegend = bool(len(known))
        spread = np.linspace(0.5 / n, 1 - 0.5 / n, n), np.linspace(0.5 / k, 1 - 0.5 / k, k)
        if case.place:
            self._from, self._to = array(case.x), array(case.y)
        else:
            self._from = np.stack([np.ones(n), spread[0]], 1)
            self._to = np.stack([np.zeros(k), spread[1]], 1)
        for side, at, names, name in (
            ("from", self._from, self._row_names, m),
            ("to", self._to, self._column_names, anchor),
        ):
            shown = look({"blue": "text", "orange": "audio"}.get(name, name))
            trace = self._traces[side]
            trace.update(x=at[:, 0], y=at[:, 1], text=names)
            trace.marker.update(symbol=shown.symbol, color=shown.colour, size=11 if max(n, k) <= 32 else 7)
            self._traces["rows" if side == "from" else "columns"].marker.color = shown.colour
        layout = self.fig.layout
        numbered = not len(case.row_words)
        layout.xaxis.range, layout.xaxis4.range = [-0.5, n - 0.5], [-0.5, n - 0.5]
        layout.yaxis4.range, layout.yaxis5.range = [k - 0.5, -0.5], [k - 0.5, -0.5]
        layout.xaxis4.update(
            **ticks(rows if numbered else [short(r, 14) for r in rows], 18),
            tickangle=0 if numbered else -45,
            title={"text": f"{m}, in order"},
        )
        layout.yaxis4.update(**ticks([short(c, 22) for c in columns], 24), ticks="")
        if case.place:
            layout.yaxis4.title = {"text": f"{anchor}, in order"}
            layout.xaxis6.update(
                range=[0, 1], showticklabels=False, title={"text": "the points and the strongest links"}
            )
            layout.yaxis6.range = [0, 1]
        else:
            layout.xaxis6.update(
                range=[-0.1, 1.1], tickvals=[0, 1], ticktext=[anchor, m], title={"text": "strongest links"}
            )
            layout.yaxis6.range = [1, 0]

    def _link(self, mass: np.ndarray) -> None:
        """At most max(T_m, T_anchor) links, and none that carries less than CLEAR times what an even spread would."""
        partners = None if self.case.partners is None else array(self.case.partners)
        even = np.outer(mass.sum(1), mass.sum(0))
        clear = np.where(mass > CLEAR * even, mass, 0)
        count = min(2 * max(mass.shape), int((clear > 0).sum()))
        strongest = np.dstack(np.unravel_index(np.argsort(clear, axis=None)[::-1][:count], mass.shape))[0]
        most = max(min(mass.sum(1).max(), mass.sum(0).max()), 1e-12)  # a link cannot carry more
        lines: dict[str, tuple[list, list]] = {
            f"{k} {i}": ([], []) for k in ("other link", "true link") for i in (0, 1, 2)
        }
        for i, j in strongest:
            kind = "true link" if partners is None or partners[i] == j else "other link"
            x, y = lines[f"{kind} {min(int(mass[i, j] / most * len(WIDTHS)), len(WIDTHS) - 1)}"]
            x += [self._to[j, 0], self._from[i, 0], None]
            y += [self._to[j, 1], self._from[i, 1], None]
        for name, (x, y) in lines.items():
            self._traces[name].update(x=x or [None], y=y or [None])  # an empty trace would leave the legend

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


def _labels(words: Sequence[str], count: int) -> list[str]:
    if len(words) not in (0, count):
        raise ValueError(f"labels: found {len(words)}; expected {count}, one a token of the plan, or none")
    return [str(w) for w in words] or [str(i + 1) for i in range(count)]


def _named(label: str, i: int, modality: str) -> str:
    """A token in words: its place, and what was said if that is more than its place."""
    place = f"{modality} {i + 1}"
    return place if label == str(i + 1) else f"{place} “{wrapped(label)}”"


def _plain(text: str) -> str:
    return short(text.replace("<br>", " "), 60)
