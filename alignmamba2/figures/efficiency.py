"""Time and memory against the length of the sequence, with the slopes that say how they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import COLOURS, DASHES, SYMBOLS, array, titled


def growth(lengths: Any, values: Any) -> float:
    """The slope of log(value) over log(length), by least squares: 1 grows like the length, 2 like its square.

    Examples
    --------
    >>> round(growth([10, 100, 1000], [1, 100, 10000]), 6)
    2.0
    """
    known = np.isfinite(array(values).astype(float))
    return float(np.polyfit(np.log(array(lengths)[known]), np.log(array(values)[known].astype(float)), 1)[0])


def against_length(
    lengths: Any,
    measures: Mapping[str, Mapping[str, Any]],
    *,
    units: Mapping[str, str] | None = None,
    title: str = "What a longer sequence costs",
    note: str = "",
) -> go.Figure:
    """Measured time, memory, … of several methods against length, both axes logarithmic, the slopes printed.

    Parameters
    ----------
    lengths : array (S,)
    measures : mapping of what was measured to (method to array (S,))
        Such as {"time": {"ours": [...], "theirs": [...]}, "memory": {...}}; NaN where a method could not run.
    units : mapping of what was measured to its unit
    title, note : str

    Examples
    --------
    >>> time = {"scan": [1.0, 10.0], "attention": [1.0, 100.0]}
    >>> figure = against_length([100, 1000], {"time": time}, units={"time": "s"})
    >>> [line.name for line in figure.data]
    ['scan', 'attention']
    >>> figure.layout.annotations[-1].text
    '<b>L<sup>2.00</sup></b>'
    """
    lengths, units = array(lengths).astype(float), units or {}
    methods = list(dict.fromkeys(method for rows in measures.values() for method in rows))
    figure = make_subplots(
        rows=1, cols=len(measures), subplot_titles=[f"<b>{what}</b>" for what in measures], horizontal_spacing=0.12
    )
    told = []
    for column, (what, rows) in enumerate(measures.items(), start=1):
        ends = []
        for method, values in rows.items():
            k = methods.index(method)
            values = array(values).astype(float)
            known = np.flatnonzero(np.isfinite(values))
            if not len(known):
                continue
            figure.add_scatter(
                x=lengths[known],
                y=values[known],
                mode="lines+markers",
                name=method,
                legendgroup=method,
                showlegend=column == 1,
                line={"color": COLOURS[k % 6], "dash": DASHES[k % 6], "width": 3},
                marker={"symbol": SYMBOLS[k % 6], "size": 10},
                hovertemplate=f"{method}, length %{{x}}: %{{y:.3g}} {units.get(what, '')}<extra></extra>",
                row=1,
                col=column,
            )
            if len(known) > 1:
                slope = growth(lengths[known], values[known])
                ends.append((values[known[-1]], lengths[known[-1]], slope, COLOURS[k % 6]))
                told.append(f"{what} of {method} grows like length to the {slope:.2f}")
        for y, x, slope, colour in _spread(ends, rows.values()):
            figure.add_annotation(
                x=np.log10(x),
                y=np.log10(y),
                text=f"<b>L<sup>{slope:.2f}</sup></b>",
                showarrow=False,
                xanchor="left",
                xshift=10,
                font={"color": colour, "size": 17},
                row=1,
                col=column,
            )
        unit = f", {units[what]}" if what in units else ""
        figure.update_yaxes(type="log", title=what + unit, tickformat="~g", dtick=1, row=1, col=column)
    span = np.log10(lengths.max() / lengths.min())
    figure.update_xaxes(
        type="log",
        title="tokens in the sequence",
        range=[np.log10(lengths.min()) - 0.06 * span, np.log10(lengths.max()) + 0.24 * span],
        tickvals=lengths[:: max(1, len(lengths) // 4)],
        ticktext=[f"{v:,.0f}" for v in lengths[:: max(1, len(lengths) // 4)]],
    )
    return titled(figure, title, note, height=500, words="; ".join(told) + ".")


def _spread(ends: list[tuple[float, float, float, str]], rows: Any) -> list[tuple[float, float, float, str]]:
    """The labels at the ends of lines, moved apart where two would lie on each other."""
    if len(ends) < 2:
        return ends
    every = np.concatenate([array(r).astype(float).ravel() for r in rows])
    every = np.log10(every[np.isfinite(every)])
    gap = 0.075 * max(float(every.max() - every.min()), 0.5)
    placed, last = [], -np.inf
    for y, x, slope, colour in sorted(ends):
        last = max(np.log10(y), last + gap)
        placed.append((10**last, x, slope, colour))
    return placed
