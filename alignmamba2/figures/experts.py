"""The experts: what each adds to the tokens, how far their weights differ, where a gate sends tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..model.trace import Trace
from .marks import HOVER_ENDS, SQUARE, heat, panels
from .style import INK, LIGHT, PAPER, SHADE, array, floats, look, titled

HEIGHT, ABOVE, BELOW, PAD = 480, 96, 30, 26  # pixels of the flow: in all, over it, under it, between experts


def expert_shares(shares: Sequence[Mapping[str, Any]], experts: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw each expert's share of what is added to the tokens, by layer and modality; every bar sums to 1.

    Parameters
    ----------
    shares : one mapping per layer, of modality to array (K,)
        Summing to 1; `Trace.expert_shares()`.
    experts : K strings
        Their names, "specific" (drawn in the modality's colour) and "shared" (grey, hatched).

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


def expert_distances(weights: Mapping[str, Any], *, note: str = "") -> go.Figure:
    """Draw how far the experts' weights differ: ‖A − B‖ / √(‖A‖² + ‖B‖²), 0 for equal matrices.

    Two independent random matrices are at about 1, a matrix and its negative at √2.

    Parameters
    ----------
    weights : mapping of an expert's name to its matrix
        All of one shape, such as ``model.layers[0].expert_weights()["in_proj"]``.

    Examples
    --------
    >>> figure = expert_distances({"shared": [[1.0, 0.0]], "text": [[0.0, 1.0]], "audio": [[1.0, 0.0]]})
    >>> figure.data[0].z.round(2).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    names = list(weights)
    flat = np.stack([floats(w).ravel() for w in weights.values()])
    squares = (flat**2).sum(1)
    apart = np.array([((flat - row) ** 2).sum(1) for row in flat])
    distance = np.sqrt(apart / np.maximum(squares[:, None] + squares, 1e-24))
    cells = {"x": names, "y": names, "texttemplate": "%{z:.2f}", "textfont": {"size": 18}}
    most = max(1.0, float(distance.max()))
    figure = go.Figure(heat(distance, most, "%{y} and %{x}: %{z:.3f} apart", gap=3, bar="apart", **cells))
    figure.update_xaxes(**SQUARE)
    figure.update_yaxes(**SQUARE, autorange="reversed", scaleanchor="x")
    off = distance + 9 * np.eye(len(names))
    i, j = np.unravel_index(off.argmin(), off.shape)
    words = f"The closest two are {names[i]} and {names[j]}, {distance[i, j]:.2f} apart." if len(names) > 1 else ""
    height = 220 + 76 * len(names)
    return titled(figure, "How far the experts' weights differ", note, height=height, words=words, margin_b=50)


def gate_flow(trace: Trace, *, layer: int = -1, note: str = "") -> go.Figure:
    """Draw gated routing as a flow: how much of each modality's tokens goes to which expert.

    Parameters
    ----------
    trace : Trace
        Of a model with routing="gated".
    layer : int
        −1 is the last.

    Raises
    ------
    ValueError
        If the model has no gates.
    """
    if not trace.gates:
        raise ValueError("gate_flow: this trace has no gates; expected a model with routing='gated'")
    gates = {m: array(g)[array(trace.masks[m])] for m, g in trace.gates[layer].items()}
    modalities = [m for m in trace.modalities if len(gates.get(m, ()))]
    count = len(modalities)
    shared = [name for name in trace.expert_names if name.startswith("shared")]
    specific = [f"{m}'s own expert" for m in modalities]
    names = [*modalities, *specific, *(name.replace("shared", "shared expert") for name in shared)]
    flows = []  # from which node, to which, how much, in which colour, in words
    for i, m in enumerate(modalities):
        for expert, weight in zip(trace.expert_names, gates[m].mean(0), strict=True):
            to = 2 * count + shared.index(expert) if expert in shared else count + i
            words = f"{weight:.1%} of the {m} tokens' weight goes to {names[to]}"
            flows.append((i, to, float(weight) / count, look(m).fill(0.5), words))
    source, target, value, colour, hover = map(list, zip(*flows, strict=True))
    # Own experts across from their modality, the shared ones below all, as high as what flows into them: Plotly would
    # push nodes that are in each other's way out of the picture.
    arriving = np.bincount(target, value)[count:]
    between = PAD / (HEIGHT - ABOVE - BELOW)
    high = arriving * (1 - between * (len(arriving) - 1))
    middles = np.cumsum(high) - high / 2 + between * np.arange(len(high))
    colours = [look(m).colour for m in modalities]
    node = {
        "label": names,
        "color": [*colours, *colours, *(LIGHT for _ in shared)],
        "x": [0.02] * count + [0.98] * len(middles),
        "y": [*((i + 0.5) / count for i in range(count)), *middles],
        "pad": PAD,
        "thickness": 26,
        "line": {"width": 0},
        "hovertemplate": "%{label}" + HOVER_ENDS,
    }
    link = {"source": source, "target": target, "value": value, "color": colour, "customdata": hover}
    link["hovertemplate"] = "%{customdata}" + HOVER_ENDS
    figure = go.Figure(go.Sankey(arrangement="snap", node=node, link=link, textfont={"size": 17, "shadow": "none"}))
    title = f"Where the gate sends the tokens: layer {layer % len(trace.gates) + 1}"
    margin = {"l": 20, "r": 20, "t": ABOVE, "b": BELOW}
    return titled(figure, title, note, height=HEIGHT, words="; ".join(hover) + ".", margin=margin)


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
