"""How a metric falls when the data get worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .marks import band, curve
from .style import QUIET, floats, joined, numbered_look, titled


def under_corruption(
    severity: Any,
    results: Mapping[str, Any],
    *,
    metric: str = "accuracy",
    kind: str = "severity",
    level: float | None = None,
    note: str = "",
) -> go.Figure:
    """Draw a metric against the severity of a corruption: per model a line of means, and a band from worst to best run.

    Parameters
    ----------
    severity : array (S,), rising
    results : mapping of a model's name to array (R, S)
        R runs, such as seeds of training or of the corruption.
    metric, kind : str
        The titles of the axes.
    level : float, optional
        The metric of a model that ignores its input.
    note : str

    Raises
    ------
    ValueError
        If the results of a model are not (R, S).

    Examples
    --------
    >>> figure = under_corruption([0, 1], {"plain": [[0.9, 0.5], [0.8, 0.4]]}, level=0.5)
    >>> [round(float(y), 2) for y in figure.data[1].y]
    [0.85, 0.45]
    """
    severity, figure, changes = floats(severity), go.Figure(), []
    for k, (name, runs) in enumerate(results.items()):
        runs, style = floats(runs), numbered_look(k)
        if runs.ndim != 2 or runs.shape[1] != len(severity):
            raise ValueError(f"results[{name!r}]: found {runs.shape}; expected (runs, {len(severity)})")
        low, high, mean = runs.min(0), runs.max(0), runs.mean(0)
        figure.add_trace(band(severity, low, high, style.colour, line={"width": 0}, legendgroup=name, showlegend=False))
        hover = f"{name}, {kind} %{{x:g}}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}})"
        ends = {"customdata": np.column_stack([low, high])}
        figure.add_trace(curve(style, severity, mean, name, hover, size=10, legendgroup=name, **ends))
        changes.append(f"{name}: {mean[0]:.3g} to {mean[-1]:.3g}")
    if level is not None:
        # No model's colour; and written where the data are still good, so that the lines are far above.
        figure.add_hline(y=level, line={"dash": "dot", "width": 1.5, "color": QUIET})
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": level, "yanchor": "top"}
        figure.add_annotation(text="who looks at nothing", showarrow=False, **place)
    figure.update_xaxes(title=kind)
    figure.update_yaxes(title=metric)
    note = joined(note, "bands from the worst to the best run")
    title = f"{metric[0].upper()}{metric[1:]} as data get worse"
    return titled(figure, title, note, words="; ".join(changes) + ".", margin_t=100)
