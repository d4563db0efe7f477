"""What the modality-specific and the shared experts add to the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Trace
from .style import INK, LIGHT, PAPER, QUIET, SHADE, array, look, short, titled, wrapped


def expert_shares(shares: Sequence[Mapping[str, Any]], experts: Sequence[str], *, note: str = "") -> go.Figure:
    """Each expert's share of what is added to the tokens, by layer and modality; every bar sums to 1.

    Parameters
    ----------
    shares : one mapping a layer, of modality to array (K,)
        Summing to 1; `Trace.expert_shares()`.
    experts : K strings
        Their names, "specific" (drawn in the modality's colour) and "shared" (grey, hatched).
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = expert_shares([{"text": [0.6, 0.4], "audio": [0.3, 0.7]}], ["specific", "shared"])
    >>> [bar.x for bar in figure.data]
    [(0.6, 0.3), (0.4, 0.7)]
    """
    layers = [{m: array(values) for m, values in layer.items()} for layer in shares]
    figure = make_subplots(
        rows=1,
        cols=max(len(layers), 1),
        shared_yaxes=True,
        horizontal_spacing=0.07,
        subplot_titles=[f"layer {i + 1}" for i in range(len(layers))],
    )
    for i, layer in enumerate(layers):
        modalities = list(layer)
        for k, expert in enumerate(experts):
            values = [float(layer[m][k]) for m in modalities]
            own = not expert.startswith("shared")
            figure.add_bar(
                x=values,
                y=modalities,
                orientation="h",
                name=f"{expert} expert" + (" (the modality's colour)" if own else ""),
                legendgroup=expert,
                showlegend=i == 0,
                marker={
                    "color": [look(m).colour for m in modalities] if own else SHADE,
                    "pattern": {"shape": "" if own else "/", "bgcolor": SHADE, "fgcolor": LIGHT, "solidity": 0.1},
                    "line": {"color": PAPER, "width": 1},
                },
                text=[f"{v:.0%}" for v in values],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"size": 15, "color": INK if not own else [_readable(m) for m in modalities]},
                hovertemplate=f"layer {i + 1}, %{{y}}: %{{x:.1%}} from the {expert} expert<extra></extra>",
                row=1,
                col=i + 1,
            )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], ticktext=["0", "50%", "100%"], title="share")
    figure.update_yaxes(autorange="reversed", ticks="")
    figure.update_layout(barmode="stack", bargap=0.35)
    most = max((len(layer) for layer in layers), default=1)
    words = "; ".join(
        f"layer {i + 1}, {m}: " + ", ".join(f"{v:.0%} {e}" for v, e in zip(values, experts, strict=True))
        for i, layer in enumerate(layers)
        for m, values in layer.items()
    )
    return titled(figure, "What each expert adds to the tokens", note, height=270 + 55 * most, words=words + ".")


def token_shares(trace: Trace, sample: int, *, layer: int = -1, note: str = "") -> go.Figure:
    """The specific experts' share of each token of one sample, along the sequence.

    Parameters
    ----------
    trace : Trace
    sample : int
        Place in the batch that was traced.
    layer : int
        −1 is the last.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> token_shares(model.trace(batch), 0)  # doctest: +SKIP
    """
    figure, told = go.Figure(), []
    own = [k for k, name in enumerate(trace.expert_names) if not name.startswith("shared")]
    for m in trace.modalities:
        real = array(trace.masks[m][sample])
        norms = array(trace.contributions[layer][m][sample])[real]
        if not len(norms):
            continue
        share = norms[:, own].sum(1) / np.maximum(norms.sum(1), 1e-12)
        words = list(trace.words[sample].get(m, ())) or [f"{m} {i + 1}" for i in range(len(share))]
        shown = look(m)
        told.append(f"{m}: {share.mean():.0%} on average, from {share.min():.0%} to {share.max():.0%}")
        figure.add_scatter(
            x=(np.arange(len(share)) + 0.5) / len(share),
            y=share,
            mode="lines+markers",
            name=m,
            line={"color": shown.colour, "dash": shown.dash, "width": 2},
            marker={"symbol": shown.symbol, "size": 10},
            text=[wrapped(w) for w in words[: len(share)]],
            hovertemplate=f"{m} “%{{text}}”<br>%{{y:.1%}} from its own expert<extra></extra>",
        )
    figure.add_hline(y=0.5, line={"color": QUIET, "width": 1, "dash": "dash"})
    figure.update_xaxes(range=[0, 1], title="relative time (0 = first token, 1 = last)", tickformat=".1f")
    figure.update_yaxes(range=[0, 1], tickformat=".0%", title="specific expert's share")
    number = layer % len(trace.contributions) + 1
    return titled(
        figure,
        f"Own expert, token by token: {short(trace.ids[sample])}, layer {number}",
        note,
        words="; ".join(told) + ".",
    )


def _readable(modality: str) -> str:
    """White or black, whichever stands out on the modality's colour."""
    r, g, b = (int(look(modality).colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * r + 0.587 * g + 0.114 * b < 130 else "black"
