"""The marks that figures share: lines with symbols, dots, bands, heat maps and rows of panels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import PLAN_SCALE, Look, see_through

HOVER_ENDS = "<extra></extra>"  # without the box beside the hover text in which Plotly repeats the trace's name
FRAME = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": True, "mirror": True}  # of points
SQUARE = {"showgrid": False, "ticks": "", "constrain": "domain"}  # an axis of a matrix whose cells are square


def panels(heads: Sequence[str], gap: float = 0.08, **settings: Any) -> go.Figure:
    """Return an empty figure of panels in one row, each under its heading, `gap` of the width between two."""
    return make_subplots(rows=1, cols=len(heads), subplot_titles=list(heads), horizontal_spacing=gap, **settings)


def curve(
    look: Look, x: Any, y: Any, name: str, hover: str, *, width: float = 3, size: float = 9, **settings: Any
) -> go.Scatter:
    """Return a line through the points x, y (N,), `width` pixels wide, with a symbol of `size` pixels at each.

    The name stands in the legend; `hover` is Plotly's template of the text at a point, with %{x} and %{y}.
    """
    style = {"line": look.line(width), "marker": {"symbol": look.symbol, "size": size}}
    return go.Scatter(x=x, y=y, mode="lines+markers", name=name, hovertemplate=hover + HOVER_ENDS, **style, **settings)


def dots(x: Any, y: Any, marker: dict[str, Any], text: Sequence[str] | None = None, **settings: Any) -> go.Scatter:
    """Return symbols at the points x, y (N,), with Plotly's settings of a symbol and a hover text each, or none."""
    hover = {"hoverinfo": "skip"} if text is None else {"text": text, "hovertemplate": "%{text}" + HOVER_ENDS}
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, **hover | settings)


def bars(x: Any, y: Any, marker: Any, hover: str, name: str = "", **settings: Any) -> go.Bar:
    """Return bars, with Plotly's settings of their look and its template of the text at a bar, such as "%{y:.1%}".

    Without a name they have no place in the legend.
    """
    settings = {"textposition": "none", "showlegend": bool(name)} | settings
    return go.Bar(x=x, y=y, marker=marker, hovertemplate=hover + HOVER_ENDS, name=name, **settings)


def band(x: Any, low: Any, high: Any, colour: str, opacity: float = 0.18, **settings: Any) -> go.Scatter:
    """Return the area between two curves over x (N,), without hover text unless `settings` give it."""
    settings = {"mode": "lines", "hoverinfo": "skip"} | settings
    ends = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
    return go.Scatter(x=ends[0], y=ends[1], fill="toself", fillcolor=see_through(colour, opacity), **settings)


def heat(
    cells: np.ndarray, most: float, hover: str = "%{text}", *, gap: int = 0, bar: dict[str, Any] | str = "", **more: Any
) -> go.Heatmap:
    """Return a heat map of cells (rows, columns), in which `most` gets the brightest colour and 0 the darkest.

    `hover` is Plotly's template of the text at a cell, and `gap` the pixels between cells. `bar` is the heading of the
    colour bar, or Plotly's settings of it; without either there is no bar.
    """
    bar = {"title": {"text": bar, "side": "top"}} if isinstance(bar, str) and bar else bar
    more |= {"xgap": gap, "ygap": gap} if gap else {}
    more |= {"colorbar": bar} if bar else {"showscale": False}
    return go.Heatmap(z=cells, zmin=0, zmax=most, colorscale=PLAN_SCALE, hovertemplate=hover + HOVER_ENDS, **more)


def add_trace(
    figure: go.Figure, kind: str, name: str, hover: str = "", *, place: tuple = (), legend: str = "", **style: Any
) -> None:
    """Add a trace without numbers, which `named` finds by its name.

    `kind` is "bar", "heatmap", or the mode of a scatter, such as "lines+markers"; `hover` the template of the box at
    the pointer, `legend` the entry in the legend, neither if empty; `place` is (row, column) or (row, column, secondary
    y).
    """
    form = {"type": kind} if kind in ("bar", "heatmap") else {"type": "scatter", "mode": kind}
    box = {"hovertemplate": hover + HOVER_ENDS} if hover else {"hoverinfo": "skip"}
    entry = {"name": legend} if legend else {"showlegend": False}
    figure.add_trace({**form, "meta": name, **box, **entry, **style}, *place)


def named(figure: go.Figure) -> dict[str, Any]:
    """Return the traces that `add_trace` added, by name."""
    return {trace.meta: trace for trace in figure.data if trace.meta}


def axes_of(figure: go.Figure, trace: Any) -> tuple[go.layout.XAxis, go.layout.YAxis]:
    """Return the axes that a trace of the figure lies on."""
    return tuple(figure.layout[(trace[f"{k}axis"] or k).replace(k, f"{k}axis", 1)] for k in ("x", "y"))
