"""The picture of a transport plan in a panel: laid out once; then only its numbers change."""

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
from .panel import Explorer

WIDTHS = (1.0, 2.5, 5.0)  # of links: few steps, so that a slider redraws six traces and not a hundred
MOST_LINKS = 60
SQUARE = ("xaxis6", "yaxis6")  # where links are drawn, and points lie


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


class PlanPanel(Explorer):
    """A plan with the sums of its rows and columns, rings on true partners, and its strongest links."""

    BUTTONS = False
    case: Case
    _drawn: Case | None = None

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
                marker={"size": 11, "line": {"width": 1, "color": PAPER}},
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
        titled(figure, "Transport plan", height=490)
        return figure.update_layout(
            bargap=0.25,
            margin={"l": 60, "r": 20, "t": 84, "b": 60},
            legend={"x": 0.6, "xanchor": "left", "y": 1.0, "yanchor": "top", "yref": "container"},
        )

    def _draw(self, mass: np.ndarray) -> None:
        """Put a plan (T_m, T_anchor) into the traces, and its agreement with the truth into the title."""
        case = self.case
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
        note = with_agreement(self._note, mass, case.partners)
        self.fig.layout.title.text = self._headed(f"Transport plan: {case.names[0]} → {case.names[1]}", note)

    def _set_scene(self, case: Case, mass: np.ndarray) -> None:
        """What stays while ε moves: names, ticks, rings, places."""
        m, anchor = case.names
        n, k = mass.shape
        rows, columns = labels_of(case.row_words, n), labels_of(case.column_words, k)
        self._row_names = [named(w, i, m) for i, w in enumerate(rows)]
        self._column_names = [named(w, i, anchor) for i, w in enumerate(columns)]
        self._traces["heat"].text = [[f"{a}<br>→ {b}" for a in self._row_names] for b in self._column_names]
        partners = None if case.partners is None else array(case.partners)
        known = np.flatnonzero(partners >= 0) if partners is not None else np.array([], int)
        self._traces["rings"].update(
            x=known,
            y=known if partners is None else partners[known],
            showlegend=bool(len(known)),
            marker_size=float(np.clip(240 / max(n, 1), 3, 8)),
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
                range=[0, 1], showticklabels=False, title={"text": "drag points; lines: strongest links"}
            )
            layout.yaxis6.range = [0, 1]
        else:
            layout.xaxis6.update(
                range=[-0.1, 1.1], tickvals=[0, 1], ticktext=[anchor, m], title={"text": "strongest links"}
            )
            layout.yaxis6.range = [1, 0]

    def _link(self, mass: np.ndarray) -> None:
        """The strongest links, at most as many as two for each token of the longer side, and never a thicket."""
        partners = None if self.case.partners is None else array(self.case.partners)
        most = max(min(mass.sum(1).max(), mass.sum(0).max()), 1e-12)  # a link cannot carry more
        lines: dict[str, tuple[list, list]] = {
            f"{k} {i}": ([], []) for k in ("other link", "true link") for i in (0, 1, 2)
        }
        for i, j in strongest(mass, min(2 * max(mass.shape), MOST_LINKS)):
            kind = "true link" if partners is None or partners[i] == j else "other link"
            x, y = lines[f"{kind} {min(int(mass[i, j] / most * len(WIDTHS)), len(WIDTHS) - 1)}"]
            x += [self._to[j, 0], self._from[i, 0], None]
            y += [self._to[j, 1], self._from[i, 1], None]
        for name, (x, y) in lines.items():
            self._traces[name].update(x=x or [None], y=y or [None])  # an empty trace would leave the legend
