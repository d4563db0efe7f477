"""One sample as the model gets it: a row of numbers per feature, a column per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .marks import HOVER_ENDS
from .style import SIGNED, floats, look, quoted, short, titled

SHOWN = 3.0  # standard deviations at which a colour ends


def sample_strips(
    features: Mapping[str, Any],
    words: Mapping[str, Sequence[str]] | None = None,
    *,
    title: str = "One sample",
    note: str = "",
) -> go.Figure:
    """Draw the features of one sample as a strip per modality, one under another in relative time, words on top.

    Parameters
    ----------
    features : mapping of modality to array (T_m, D_m)
        Best standardised; colours end at ±3.
    words : mapping of modality to T_m strings
        The text's are written over the strips; all are in the hover text.
    title, note : str
        Say "synthetic" in the note for synthetic data.

    Examples
    --------
    >>> figure = sample_strips({"text": [[0.0, 1.0], [1.0, 0.0]], "audio": [[0.5], [0.1], [0.2]]})
    >>> [strip.z.shape for strip in figure.data]
    [(2, 2), (1, 3)]
    """
    words = words or {}
    figure = make_subplots(rows=len(features), cols=1, shared_xaxes=True, vertical_spacing=0.04)
    sizes = []
    for row, (m, values) in enumerate(features.items(), start=1):
        values = floats(values)
        count, width = values.shape
        sizes.append(f"{count} tokens of {m}")
        figure.add_trace(_strip(values, m, words.get(m, ())).update(showscale=row == 1), row, 1)
        heading = f"<b>{m}</b><br>{count} tokens<br>{width} features"
        figure.update_yaxes(title={"text": heading, "font": {"color": look(m).colour, "size": 13}}, row=row, col=1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[0, 1])
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False)
    spoken = [short(word, 18) for word in words.get("text", ())]
    if spoken:
        step = max(1, len(spoken) // 16)
        at = [(i + 0.5) / len(spoken) for i in range(0, len(spoken), step)]
        above = {"side": "top", "showticklabels": True, "tickangle": -30}
        figure.update_xaxes(**above, tickvals=at, ticktext=spoken[::step], row=1, col=1)
    figure.update_xaxes(title="relative time →", row=len(features), col=1)
    longest = max(map(len, spoken), default=0)
    layout = {"height": 210 + 120 * len(features) + 4 * longest, "margin": {"l": 130, "t": 100 + 5 * longest, "b": 50}}
    return titled(figure, title, note, words=f"A strip for each of: {', '.join(sizes)}.", **layout)


def _strip(values: np.ndarray, modality: str, words: Sequence[str]) -> go.Heatmap:
    """Return the tokens (T, D) of a modality as a heat map, in relative time from 0 to 1."""
    count, width = values.shape
    words = list(words)[:count] or [""] * count
    names = [f"{modality} {i + 1}" + quoted(word, "<br>") for i, word in enumerate(words)]
    return go.Heatmap(
        z=values.T,
        x=(np.arange(count) + 0.5) / max(count, 1),
        zmid=0,
        zmin=-SHOWN,
        zmax=SHOWN,
        colorscale=SIGNED,
        xgap=2,
        colorbar={"title": {"text": "sd", "side": "top"}, "tickvals": [-3, 0, 3], "len": 1, "y": 0.5},
        text=[names] * width,
        hovertemplate="%{text}<br>feature %{y}: %{z:.2f} sd" + HOVER_ENDS,
    )
