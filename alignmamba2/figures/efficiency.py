"""Time and memory against the length of the sequence, with the slopes that say how they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .marks import curve, panels
from .style import Look, floats, numbered_look, titled


def growth(lengths: Any, values: Any) -> float:
    """Return the slope of log(value) over log(length), by least squares: 1 grows like the length, 2 like its square.

    Examples
    --------
    >>> round(growth([10, 100, 1000], [1, 100, 10000]), 6)
    2.0
    """
    lengths, values = floats(lengths), floats(values)
    known = np.isfinite(values)
    return float(np.polyfit(np.log(lengths[known]), np.log(values[known]), 1)[0])


def against_length(
    lengths: Any,
    measures: Mapping[str, Mapping[str, Any]],
    *,
    units: Mapping[str, str] | None = None,
    title: str = "What a longer sequence costs",
    note: str = "",
) -> go.Figure:
    """Draw time, memory, … of several methods against length, both axes logarithmic, the slopes printed.

    Parameters
    ----------
    lengths : array (S,)
    measures : mapping of a measure's name to a mapping of method to array (S,)
        Such as {"time": {"ours": [...], "theirs": [...]}, "memory": {...}}, with NaN for a length that a method
        could not run.
    units : mapping of a measure's name to its unit
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
    lengths, units = floats(lengths), units or {}
    methods = list(dict.fromkeys(method for rows in measures.values() for method in rows))
    looks = {method: numbered_look(k) for k, method in enumerate(methods)}
    figure, slopes = panels([f"<b>{what}</b>" for what in measures], 0.12), []
    for column, (what, rows) in enumerate(measures.items(), start=1):
        unit, ends = units.get(what, ""), []
        for method, values in rows.items():
            values = floats(values)
            known = np.flatnonzero(np.isfinite(values))
            if not len(known):
                continue
            group = {"legendgroup": method, "showlegend": column == 1}
            hover = f"{method}, length %{{x}}: %{{y:.3g}} {unit}"
            line = curve(looks[method], lengths[known], values[known], method, hover, size=10, **group)
            figure.add_trace(line, 1, column)
            if len(known) > 1:
                slope = growth(lengths[known], values[known])
                ends.append((values[known[-1]], lengths[known[-1]], slope, looks[method]))
                slopes.append(f"{what} of {method} grows like length to the {slope:.2f}")
        _print_slopes(figure, column, ends, rows)
        heading = f"{what}, {unit}" if what in units else what
        figure.update_yaxes(type="log", title=heading, tickformat="~g", dtick=1, row=1, col=column)
    first, last = np.log10([lengths.min(), lengths.max()])
    room, marks = last - first, lengths[:: max(1, len(lengths) // 4)]
    figure.update_xaxes(
        type="log",
        title="tokens in the sequence",
        range=[first - 0.06 * room, last + 0.24 * room],
        tickvals=marks,
        ticktext=[f"{v:,.0f}" for v in marks],
    )
    return titled(figure, title, note, height=500, words="; ".join(slopes) + ".")


def _print_slopes(
    figure: go.Figure, column: int, ends: Sequence[tuple[float, float, float, Look]], rows: Mapping[str, Any]
) -> None:
    """Write each slope at the last point (value, length) of its line, moved up if it would lie on another."""
    gap = 0.0
    if len(ends) > 1:
        values = np.concatenate([floats(row).ravel() for row in rows.values()])
        gap = 0.075 * max(float(np.ptp(np.log10(values[np.isfinite(values)]))), 0.5)
    last = -np.inf
    for value, length, slope, style in sorted(ends, key=lambda end: end[:3]):
        last = max(np.log10(value), last + gap)
        place = {"x": np.log10(length), "y": last, "xanchor": "left", "xshift": 10, "row": 1, "col": column}
        font = {"color": style.colour, "size": 17}
        figure.add_annotation(text=f"<b>L<sup>{slope:.2f}</sup></b>", showarrow=False, font=font, **place)
