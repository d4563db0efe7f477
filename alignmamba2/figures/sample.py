"""One sample as the model gets it: a row of numbers a feature, a column a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import SIGNED, array, look, short, titled, wrapped

SHOWN = 3.0  # standard deviations at which a colour ends


def sample_strips(
    features: Mapping[str, Any],
    words: Mapping[str, Sequence[str]] | None = None,
    *,
    title: str = "One sample",
    note: str = "",
) -> go.Figure:
    """The features of one sample as a strip a modality, side by side in relative time, with its words on top.

    Parameters
    ----------
    features : mapping of modality to array (T_m, D_m)
        Best standardised; colours end at ±3.
    words : mapping of modality to T_m strings
        The text's are written over the strips; all are in the hover text.
    title, note : str
        Say "synthetic" in the note where the data are.

    Examples
    --------
    >>> figure = sample_strips({"text": [[0.0, 1.0], [1.0, 0.0]], "audio": [[0.5], [0.1], [0.2]]})
    >>> [strip.z.shape for strip in figure.data]
    [(2, 2), (1, 3)]
    """
    words = words or {}
    figure = make_subplots(rows=len(features), cols=1, shared_xaxes=True, vertical_spacing=0.04)
    for row, (m, values) in enumerate(features.items(), start=1):
        values = array(values).astype(float)
        count, width = values.shape
        said = list(words.get(m, ()))[:count] or [""] * count
        name = [f"{m} {i + 1}" + (f"<br>“{wrapped(word)}”" if word else "") for i, word in enumerate(said)]
        strip = go.Heatmap(
            z=values.T,
            x=(np.arange(count) + 0.5) / max(count, 1),
            zmid=0,
            zmin=-SHOWN,
            zmax=SHOWN,
            colorscale=SIGNED,
            xgap=2,
            showscale=row == 1,
            colorbar={"title": {"text": "sd", "side": "top"}, "tickvals": [-3, 0, 3], "len": 1, "y": 0.5},
            text=[name] * width,
            hovertemplate="%{text}<br>feature %{y}: %{z:.2f} sd<extra></extra>",
        )
        figure.add_trace(strip, row, 1)
        axis = f"<b>{m}</b><br>{count} tokens<br>{width} features"
        figure.update_yaxes(title={"text": axis, "font": {"color": look(m).colour, "size": 13}}, row=row, col=1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[0, 1])
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False)
    spoken = list(words.get("text", ()))
    if spoken:
        every = max(1, len(spoken) // 16)
        figure.update_xaxes(
            side="top",
            showticklabels=True,
            tickangle=-30,
            tickvals=[(i + 0.5) / len(spoken) for i in range(0, len(spoken), every)],
            ticktext=[short(word, 18) for word in spoken[::every]],
            row=1,
            col=1,
        )
    figure.update_xaxes(title="relative time →", row=len(features), col=1)
    told = ", ".join(f"{len(array(x))} tokens of {m}" for m, x in features.items())
    figure = titled(figure, title, note, height=210 + 120 * len(features), words=f"A strip for each of: {told}.")
    longest = max((len(short(word, 18)) for word in spoken), default=0)
    return figure.update_layout(
        margin={"l": 130, "t": 100 + 5 * longest, "b": 50}, height=figure.layout.height + 4 * longest
    )
