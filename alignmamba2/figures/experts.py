"""The experts: what each adds to the tokens, and where a gate sends them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..effects import routing_statistics
from ..trace import Trace
from .marks import HOVER_ENDS, heat, panels
from .style import INK, LIGHT, PAPER, SHADE, array, look, titled


def expert_shares(shares: Sequence[Mapping[str, Any]], experts: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw each expert's share of what is added to the tokens, by layer and modality; every bar sums to 1.

    Parameters
    ----------
    shares : one mapping per layer, of modality to array (K,) that sums to 1: `Trace.expert_shares()`
    experts : K names, "specific" (drawn in the modality's colour) and "shared" (grey, hatched)

    Examples
    --------
    >>> figure = expert_shares([{"text": [0.6, 0.4], "audio": [0.3, 0.7]}], ["specific", "shared"])
    >>> [bar.x for bar in figure.data]
    [(0.6, 0.3), (0.4, 0.7)]
    """
    layers = [{m: array(values) for m, values in layer.items()} for layer in shares]
    figure = panels([f"layer {i + 1}" for i in range(len(layers))] or [""], 0.07, shared_yaxes=True)
    for i, layer in enumerate(layers):
        for k, expert in enumerate(experts):
            values = {m: float(shares[k]) for m, shares in layer.items()}
            bar = _share_bar(values, expert, f"layer {i + 1}")
            figure.add_trace(bar.update(showlegend=i == 0), 1, i + 1)
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], ticktext=["0", "50%", "100%"], title="share")
    figure.update_yaxes(autorange="reversed", ticks="")
    most = max((len(layer) for layer in layers), default=1)
    words = "; ".join(
        f"layer {i + 1}, {m}: " + ", ".join(f"{v:.0%} {e}" for v, e in zip(values, experts, strict=True))
        for i, layer in enumerate(layers)
        for m, values in layer.items()
    )
    title, layout = "What each expert adds to the tokens", {"barmode": "stack", "bargap": 0.35}
    return titled(figure, title, note, height=270 + 55 * most, words=words + ".", **layout)


def gate_flow(trace: Trace, *, layer: int = -1, note: str = "") -> go.Figure:
    """Draw how much of each modality's tokens a gate gives to which expert; every row sums to 1.

    An expert FFN's gate comes first, with its `routing_statistics`; `layer` −1 is the last. A `ValueError` says that
    the trace is of a model without gates.
    """
    layers = trace.ffn_gates or trace.gates
    if not layers:
        raise ValueError("gate_flow: this trace has no gates; expected routing='gated' or ffn_routing='gated'")
    layer %= len(layers)
    means = {m: array(g)[array(trace.masks[m])].mean(0) for m, g in layers[layer].items() if trace.masks[m].any()}
    cells = np.stack([mean / mean.sum() for mean in means.values()])
    title = f"Where the gate sends the tokens: layer {layer + 1}"
    caption = gate_words(trace, layer) if trace.ffn_gates else ""
    names = [f"expert {e + 1}" for e in range(cells.shape[1])] if caption else list(trace.expert_names)
    ways = [[f"of the {m} tokens to {name}" for name in names] for m in means]
    hover = [[f"{v:.1%} {way}" for v, way in zip(*rows, strict=True)] for rows in zip(cells, ways, strict=True)]
    text = {"texttemplate": "%{z:.0%}", "textfont": {"size": 18}, "text": hover}
    figure = go.Figure(heat(cells, max(0.5, cells.max()), gap=3, x=names, y=list(means), **text))
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    figure.update_xaxes(ticks="", showgrid=False, title=caption)
    words = "; ".join([*(cell for row in hover for cell in row), *filter(None, [caption])]) + "."
    return titled(figure, title, note, height=210 + 70 * len(means), words=words, margin_b=90 if caption else 60)


def gate_words(trace: Trace, layer: int) -> str:
    """Return the statistics of the gate of a layer's FFN in words."""
    numbers = routing_statistics(trace)[layer]
    loads = ", ".join(f"{load:.0%}" for load in numbers["load"])
    entropy, agreement = (f"{numbers[name]:.2f}" for name in ("entropy", "agreement"))
    return f"loads {loads}; entropy {entropy} of 1, agreement with the modality {agreement}"


def _share_bar(values: Mapping[str, float], expert: str, layer: str) -> go.Bar:
    """Return one expert's part of the bars of a layer, a bar per modality."""
    specific = not expert.startswith("shared")
    colours = [look(m).colour for m in values]
    return go.Bar(
        x=list(values.values()),
        y=list(values),
        orientation="h",
        name=f"{expert} expert" + " (the modality's colour)" * specific,
        legendgroup=expert,
        marker={
            "color": colours if specific else SHADE,
            "pattern": {"shape": "" if specific else "/", "bgcolor": SHADE, "fgcolor": LIGHT, "solidity": 0.1},
            "line": {"color": PAPER, "width": 1},
        },
        text=[f"{v:.0%}" for v in values.values()],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"size": 15, "color": [_readable(colour) for colour in colours] if specific else INK},
        hovertemplate=f"{layer}, %{{y}}: %{{x:.1%}} from the {expert} expert" + HOVER_ENDS,
    )


def _readable(colour: str) -> str:
    """Return white or black, whichever stands out on the colour."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * r + 0.587 * g + 0.114 * b < 130 else "black"
