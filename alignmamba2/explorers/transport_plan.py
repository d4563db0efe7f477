"""The figure of a transport plan in a panel: laid out once, then only its numbers change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..figures import look
from ..figures.style import INK, LIGHT, PAPER, PLAN_SCALE, array, short, ticks, titled
from ..figures.transport import labels_of, named, strongest, with_agreement
from .panel import Explorer, add_trace

WIDTHS = (1.0, 2.5, 5.0)  # of links: few steps, so that a slider redraws six traces and not a hundred
MOST_LINKS = 60
KINDS = {"other link": LIGHT, "true link": INK}


@dataclass(frozen=True)
class Problem:
    """Two rows of tokens, one to carry to the other; points of a plane if `on_plane`, `partners` as in figures."""

    x: Tensor
    y: Tensor
    row_words: Sequence[str] = ()
    column_words: Sequence[str] = ()
    names: tuple[str, str] = ("tokens", "anchor")
    partners: Any = None
    sample: str = ""
    on_plane: bool = False


class TransportPlanPanel(Explorer):
    """A plan with the sums of its rows and columns, rings on true partners, and its strongest links."""

    BUTTONS = False
    problem: Problem
    _drawn: Problem | None = None

    def _figure(self) -> go.Figure:
        sizes = {"column_widths": [0.52, 0.07, 0.41], "row_heights": [0.12, 0.88]}
        gaps = {"horizontal_spacing": 0.02, "vertical_spacing": 0.03}
        figure = make_subplots(2, 3, specs=[[{}, None, None], [{}, {}, {}]], **sizes, **gaps)
        corner = {"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "top", "xpad": 0, "ypad": 0}
        title = {"text": "share of all mass", "side": "top", "font": {"size": 13}}
        bar = {"orientation": "h", "len": 0.36, "thickness": 10, "tickformat": ".1%", "nticks": 3, "title": title}
        hover = "%{text}<br>%{z:.2%} of all mass, %{customdata:.0%} of this token's"
        style = {"zmin": 0, "colorscale": PLAN_SCALE, "colorbar": {**corner, **bar}}
        add_trace(figure, "heatmap", "heat", hover, place=(2, 1), **style)
        ring = {"symbol": "circle", "size": 8, "color": "white", "line": {"color": "black", "width": 2}}
        add_trace(figure, "markers", "rings", place=(2, 1), legend="true partner", marker=ring)
        add_trace(figure, "bar", "rows", "%{hovertext}", place=(1, 1))
        add_trace(figure, "bar", "columns", "%{hovertext}", place=(2, 2), orientation="h")
        for kind, colour in KINDS.items():
            for k, width in enumerate(WIDTHS):
                style = {"line": {"width": width, "color": colour}, "legendgroup": kind, "showlegend": False}
                add_trace(figure, "lines", f"{kind} {k}", place=(2, 3), legend=kind, **style)
        for side in ("to", "from"):
            marker = {"size": 11, "line": {"width": 1, "color": PAPER}}
            add_trace(figure, "markers", side, "%{text}", place=(2, 3), marker=marker)
        figure.update_xaxes(showgrid=False)
        figure.update_yaxes(showgrid=False)
        for row, column in ((1, 1), (2, 2), (2, 3)):
            figure.update_xaxes(showticklabels=False, ticks="", showline=False, row=row, col=column)
            figure.update_yaxes(showticklabels=False, ticks="", showline=False, row=row, col=column)
        figure.update_xaxes(showticklabels=True, row=2, col=3)
        titled(figure, "Transport plan", height=490)
        return figure.update_layout(
            bargap=0.25,
            margin={"l": 60, "r": 20, "t": 84, "b": 60},
            legend={"x": 0.6, "xanchor": "left", "y": 1.0, "yanchor": "top", "yref": "container"},
        )

    def _paint_plan(self, mass: np.ndarray) -> None:
        """Put a plan (T_m, T_anchor) into the traces, and its agreement with the truth into the title."""
        problem = self.problem
        if problem is not self._drawn:
            self._name_tokens(problem, *mass.shape)
            self._place_tokens(problem, *mass.shape)
            self._drawn = problem
        rows, columns = mass.sum(1), mass.sum(0)
        share = mass / np.maximum(rows[:, None], 1e-12)
        self._set("heat", z=mass.T, customdata=share.T, zmax=float(max(mass.max(), 3 / mass.size)))
        self._set("rows", x=np.arange(len(rows)), y=rows, hovertext=_shares(self._row_names, rows))
        self._set("columns", x=columns, y=np.arange(len(columns)), hovertext=_shares(self._column_names, columns))
        self._paint_links(mass)
        note = with_agreement(self._note, mass, problem.partners)
        self.fig.layout.title.text = self._headed(f"Transport plan: {' → '.join(problem.names)}", note)

    def _name_tokens(self, problem: Problem, n: int, k: int) -> None:
        """Put into the plan what stays while ε moves: names, ticks, rings."""
        m, anchor = problem.names
        rows, columns = labels_of(problem.row_words, n), labels_of(problem.column_words, k)
        self._row_names = [named(label, i, m) for i, label in enumerate(rows)]
        self._column_names = [named(label, i, anchor) for i, label in enumerate(columns)]
        self._set("heat", text=[[f"{a}<br>→ {b}" for a in self._row_names] for b in self._column_names])
        partners = np.array([], int) if problem.partners is None else array(problem.partners)
        known = np.flatnonzero(partners >= 0)
        size = float(np.clip(240 / max(n, 1), 3, 8))
        self._set("rings", x=known, y=partners[known], showlegend=bool(len(known)), marker_size=size)
        for kind in KINDS:
            self._set(f"{kind} 1", showlegend=bool(len(known)))
        across, down, numbered = [-0.5, n - 0.5], [k - 0.5, -0.5], not len(problem.row_words)
        self._axes("rows")[0].range, self._axes("columns")[1].range = across, down
        x, y = self._axes("heat")
        labels = rows if numbered else [short(r, 14) for r in rows]
        x.update(range=across, **ticks(labels, 18), tickangle=0 if numbered else -45, title_text=f"{m}, in order")
        y.update(range=down, **ticks([short(c, 22) for c in columns], 24), ticks="")

    def _place_tokens(self, problem: Problem, n: int, k: int) -> None:
        """Place the ends of the links: on two sides, or where the points of a plane lie."""
        m, anchor = problem.names
        x, y = self._axes("from")
        if problem.on_plane:
            self._from, self._to = array(problem.x), array(problem.y)
            self._axes("heat")[1].title.text = f"{anchor}, in order"
            x.update(range=[0, 1], showticklabels=False, title_text="drag points; lines: strongest links")
            y.range = [0, 1]
        else:
            self._from = np.stack([np.ones(n), (np.arange(n) + 0.5) / n], 1)
            self._to = np.stack([np.zeros(k), (np.arange(k) + 0.5) / k], 1)
            x.update(range=[-0.1, 1.1], tickvals=[0, 1], ticktext=[anchor, m], title_text="strongest links")
            y.range = [1, 0]
        for side, bars, places, texts, name in (
            ("from", "rows", self._from, self._row_names, m),
            ("to", "columns", self._to, self._column_names, anchor),
        ):
            style = look({"blue": "text", "orange": "audio"}.get(name, name))
            marker = {"symbol": style.symbol, "color": style.colour, "size": 11 if max(n, k) <= 32 else 7}
            self._set(side, x=places[:, 0], y=places[:, 1], text=texts, marker=marker)
            self._set(bars, marker_color=style.colour)

    def _paint_links(self, mass: np.ndarray) -> None:
        """Draw the strongest links, at most twice as many as the longer side has tokens, and never a thicket."""
        partners = None if self.problem.partners is None else array(self.problem.partners)
        most = max(min(mass.sum(1).max(), mass.sum(0).max()), 1e-12)  # a link cannot carry more
        lines: dict[str, tuple[list, list]] = {f"{kind} {k}": ([], []) for kind in KINDS for k in range(len(WIDTHS))}
        for i, j in strongest(mass, min(2 * max(mass.shape), MOST_LINKS)):
            kind = "true link" if partners is None or partners[i] == j else "other link"
            x, y = lines[f"{kind} {min(int(mass[i, j] / most * len(WIDTHS)), len(WIDTHS) - 1)}"]
            x += [self._to[j, 0], self._from[i, 0], None]
            y += [self._to[j, 1], self._from[i, 1], None]
        for name, (x, y) in lines.items():
            self._set(name, x=x or [None], y=y or [None])  # an empty trace would leave the legend


def _shares(names: Sequence[str], sums: np.ndarray) -> list[str]:
    return [f"{name}<br>{share:.1%} of all mass" for name, share in zip(names, sums, strict=True)]
