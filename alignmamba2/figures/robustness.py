"""How a metric falls when the data get worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .style import COLOURS, DASHES, QUIET, SYMBOLS, array, see_through, titled


def under_corruption(
    severity: Any,
    results: Mapping[str, Any],
    *,
    metric: str = "accuracy",
    kind: str = "severity",
    level: float | None = None,
    note: str = "",
) -> go.Figure:
    """A metric against the severity of a corruption: a line a model through the means, a band from worst to best run.

    Parameters
    ----------
    severity : array (S,), rising
    results : mapping of a model's name to array (R, S)
        R runs, such as seeds of training or of the corruption.
    metric, kind : what the axes show
    level : what a model reaches that looks at nothing; optional
    note : str

    Examples
    --------
    >>> figure = under_corruption([0, 1], {"plain": [[0.9, 0.5], [0.8, 0.4]]}, level=0.5)
    >>> [round(float(y), 2) for y in figure.data[1].y]
    [0.85, 0.45]
    """
    severity, figure, told = array(severity).astype(float), go.Figure(), []
    for k, (name, runs) in enumerate(results.items()):
        runs = array(runs).astype(float)
        if runs.ndim != 2 or runs.shape[1] != len(severity):
            raise ValueError(f"results[{name!r}]: found {runs.shape}; expected (runs, {len(severity)})")
        low, high, mean = runs.min(0), runs.max(0), runs.mean(0)
        figure.add_scatter(
            x=np.concatenate([severity, severity[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor=see_through(COLOURS[k % 6], 0.18),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
        )
        figure.add_scatter(
            x=severity,
            y=mean,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line={"color": COLOURS[k % 6], "dash": DASHES[k % 6], "width": 3},
            marker={"symbol": SYMBOLS[k % 6], "size": 10},
            customdata=np.column_stack([low, high]),
            hovertemplate=f"{name}, {kind} %{{x:g}}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}})"
            "<extra></extra>",
        )
        told.append(f"{name}: {mean[0]:.3g} to {mean[-1]:.3g}")
    if level is not None:
        # No model's colour; and written where the data are still good, so that the lines are far above.
        figure.add_hline(y=level, line={"dash": "dot", "width": 1.5, "color": QUIET})
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=level, yanchor="top", text="who looks at nothing", showarrow=False
        )
    figure.update_xaxes(title=kind)
    figure.update_yaxes(title=metric)
    note = " · ".join(filter(None, (note, "bands from the worst to the best run")))
    figure = titled(figure, f"{metric[0].upper()}{metric[1:]} as data get worse", note, words="; ".join(told) + ".")
    return figure.update_layout(margin_t=100)
