"""The experts: what each adds along the sentence, how far their weights differ, where a gate sends tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Trace
from .style import (
    INK,
    LIGHT,
    PLAN_SCALE,
    QUIET,
    SHADE,
    array,
    look,
    see_through,
    short,
    ticks,
    titled,
    whole_steps,
    wrapped,
)

HEIGHT, ABOVE, BELOW, PAD = 480, 96, 30, 26  # pixels of the flow: in all, over it, under it, between experts


def expert_contributions(trace: Trace, sample: int, *, layer: int = -1, note: str = "") -> go.Figure:
    """What the specific and the shared experts add to each token of one sample, along the sentence.

    A panel a modality: the specific expert's contribution upwards, the shared ones' downwards; lengths, so both count.

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
    >>> expert_contributions(model.trace(batch), 0)  # doctest: +SKIP
    """
    here = [m for m in trace.modalities if bool(trace.masks[m][sample].any())]
    said = {m: list(trace.words[sample].get(m, ())) for m in here}
    in_step = len({tuple(words) for words in said.values()}) == 1  # then the words stand once, below all
    labels_take = 24 if in_step or not any(said.values()) else 110  # pixels between the panels
    plot = 130 * len(here) + labels_take * (len(here) - 1)
    figure = make_subplots(rows=len(here), cols=1, vertical_spacing=labels_take / plot)
    is_own = np.array([not name.startswith("shared") for name in trace.expert_names])
    most, told = 0.0, []
    for row, m in enumerate(here, start=1):
        norms = array(trace.contributions[layer][m][sample])[array(trace.masks[m][sample])]
        own, shared = norms[:, is_own].sum(1), norms[:, ~is_own].sum(1)
        most = max(most, float(np.max([own, shared])))
        told.append(f"{m}: {own.sum() / max(norms.sum(), 1e-12):.0%} from its own expert")
        words = said[m][: len(norms)]
        numbers = [str(i + 1) for i in range(len(norms))]
        for name, values, sign in (("specific", own, 1), ("shared", shared, -1)):
            figure.add_bar(
                x=np.arange(len(norms)),
                y=sign * values,
                name="shared experts (grey, hatched)" if sign < 0 else "specific expert (the modality's colour)",
                legendgroup=name,
                showlegend=row == 1,
                marker={
                    "color": look(m).colour if sign > 0 else SHADE,
                    "pattern": {"shape": "" if sign > 0 else "/", "bgcolor": SHADE, "fgcolor": LIGHT, "solidity": 0.15},
                    "line": {"color": LIGHT, "width": 0 if sign > 0 else 1},
                },
                customdata=values,
                text=[
                    f"{m} {i + 1}" + (f" “{wrapped(words[i])}”" if i < len(words) else "") for i in range(len(norms))
                ],
                textposition="none",
                hovertemplate=f"%{{text}}<br>the {name} adds %{{customdata:.3f}}<extra></extra>",
                row=row,
                col=1,
            )
        labels = ticks([short(w, 13) for w in words] if words else numbers, 24)
        figure.update_xaxes(
            **labels, tickangle=-40 if words else 0, showgrid=False, range=[-0.6, len(norms) - 0.4], row=row, col=1
        )
        if in_step and row < len(here):
            figure.update_xaxes(showticklabels=False, row=row, col=1)
        figure.update_yaxes(title={"text": f"<b>{m}</b>", "font": {"color": INK}}, row=row, col=1)
        figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=row, col=1)
    step = 10.0 ** np.floor(np.log10(max(most, 1e-9)))
    marks = np.arange(0, most + step, step if most / step < 4 else 2 * step)[:5]
    figure.update_yaxes(
        range=[-1.1 * most, 1.1 * most],
        tickvals=[*(-marks[:0:-1]), *marks],
        ticktext=[f"{v:g}" for v in [*marks[:0:-1], *marks]],
    )
    figure.update_layout(barmode="relative", bargap=0.25)
    number = layer % len(trace.contributions) + 1
    title = f"What the experts add, token by token: {short(trace.ids[sample])}, layer {number}"
    below = 150 if any(said.values()) else 90
    figure = titled(figure, title, note, height=96 + plot + below, words="; ".join(told) + ".")
    return figure.update_layout(margin_b=below)


def expert_distances(weights: Mapping[str, Any], *, note: str = "") -> go.Figure:
    """How far the experts' weights differ: ‖A − B‖ over √(‖A‖² + ‖B‖²), 0 for equals, 1 for strangers.

    Two independent random matrices are at about 1, a matrix and its negative at √2.

    Parameters
    ----------
    weights : mapping of an expert's name to its matrix
        All of one shape, such as ``model.layers[0].expert_weights()["in_proj"]``.
    note : str

    Examples
    --------
    >>> figure = expert_distances({"shared": [[1.0, 0.0]], "text": [[0.0, 1.0]], "audio": [[1.0, 0.0]]})
    >>> figure.data[0].z.round(2).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    names = list(weights)
    flat = np.stack([array(w).astype(float).ravel() for w in weights.values()])
    squares = (flat**2).sum(1)
    apart = np.array([((flat - row) ** 2).sum(1) for row in flat])
    distance = np.sqrt(apart / np.maximum(squares[:, None] + squares, 1e-24))
    figure = go.Figure(
        go.Heatmap(
            z=distance,
            x=names,
            y=names,
            zmin=0,
            zmax=max(1.0, float(distance.max())),
            colorscale=PLAN_SCALE,
            xgap=3,
            ygap=3,
            texttemplate="%{z:.2f}",
            textfont={"size": 18},
            hovertemplate="%{y} and %{x}: %{z:.3f} apart<extra></extra>",
            colorbar={"title": {"text": "apart", "side": "top"}},
        )
    )
    figure.update_xaxes(showgrid=False, ticks="", constrain="domain")
    figure.update_yaxes(showgrid=False, ticks="", autorange="reversed", scaleanchor="x", constrain="domain")
    off = distance + 9 * np.eye(len(names))
    i, j = np.unravel_index(off.argmin(), off.shape)
    words = f"The closest two are {names[i]} and {names[j]}, {distance[i, j]:.2f} apart." if len(names) > 1 else ""
    height = 220 + 76 * len(names)
    return titled(figure, "How far the experts' weights differ", note, height=height, words=words).update_layout(
        margin_b=50
    )


def gate_flow(trace: Trace, *, layer: int = -1, note: str = "") -> go.Figure:
    """Gated routing as a flow: how much of each modality's tokens goes to which expert.

    Parameters
    ----------
    trace : Trace
        Of a model with routing="gated".
    layer : int
    note : str

    Examples
    --------
    >>> gate_flow(model.trace(batch))  # doctest: +SKIP
    """
    if not trace.gates:
        raise ValueError("gate_flow: this trace has no gates; expected a model with routing='gated'")
    gates = {m: array(g)[array(trace.masks[m])] for m, g in trace.gates[layer].items()}
    here = [m for m in trace.modalities if len(gates.get(m, ()))]
    shared = [name for name in trace.expert_names if name.startswith("shared")]
    names = [*here, *(f"{m}'s own expert" for m in here), *(s.replace("shared", "shared expert") for s in shared)]
    source, target, value, colour, hover = [], [], [], [], []
    for i, m in enumerate(here):
        mean = gates[m].mean(0)
        for k, expert in enumerate(trace.expert_names):
            to = len(here) + i if not expert.startswith("shared") else 2 * len(here) + shared.index(expert)
            source.append(i)
            target.append(to)
            value.append(float(mean[k]) / len(here))
            colour.append(see_through(look(m).colour, 0.5))
            hover.append(f"{mean[k]:.1%} of the {m} tokens' weight goes to {names[to]}")
    # Own experts across from their modality, the shared ones below all, as high as what flows into them: Plotly would
    # push nodes that are in each other's way out of the picture.
    flows = [sum(v for t, v in zip(target, value, strict=True) if t == to) for to in range(len(here), len(names))]
    between = PAD / (HEIGHT - ABOVE - BELOW)
    high = np.array(flows) * (1 - between * (len(flows) - 1))
    expert_y = np.cumsum(high) - high / 2 + between * np.arange(len(flows))
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": names,
                "color": [*(look(m).colour for m in here), *(look(m).colour for m in here), *(LIGHT for _ in shared)],
                "x": [0.02] * len(here) + [0.98] * (len(here) + len(shared)),
                "y": [*((i + 0.5) / len(here) for i in range(len(here))), *expert_y],
                "pad": PAD,
                "thickness": 26,
                "line": {"width": 0},
                "hovertemplate": "%{label}<extra></extra>",
            },
            link={
                "source": source,
                "target": target,
                "value": value,
                "color": colour,
                "customdata": hover,
                "hovertemplate": "%{customdata}<extra></extra>",
            },
            textfont={"size": 17, "shadow": "none"},
        )
    )
    number = layer % len(trace.gates) + 1
    title = f"Where the gate sends the tokens: layer {number}"
    figure = titled(figure, title, note, height=HEIGHT, words="; ".join(hover) + ".")
    return figure.update_layout(margin={"l": 20, "r": 20, "t": ABOVE, "b": BELOW})


def gate_entropy(epochs: Sequence[float], entropy: Mapping[str, Any], experts: int, *, note: str = "") -> go.Figure:
    """How undecided the gate is over the training, by modality: the mean entropy of its weights.

    0 where every token goes to one expert, log₂ K where the gate is even (its start).

    Parameters
    ----------
    epochs : array (E,)
    entropy : mapping of modality to array (E,)
        In bits; `entropy_of` a trace after each epoch.
    experts : int
        K, from which a token may choose.
    note : str

    Examples
    --------
    >>> figure = gate_entropy([0, 1], {"text": [1.58, 1.2]}, experts=3)
    >>> round(figure.layout.shapes[0].y0, 3)
    1.585
    """
    figure, told = go.Figure(), []
    for m, values in entropy.items():
        values = array(values).astype(float)
        figure.add_scatter(
            x=array(epochs),
            y=values,
            mode="lines+markers",
            name=m,
            line={"color": look(m).colour, "dash": look(m).dash, "width": 3},
            marker={"symbol": look(m).symbol, "size": 9},
            hovertemplate=f"{m}, epoch %{{x}}: %{{y:.3f}} bits<extra></extra>",
        )
        told.append(f"{m}: from {values[0]:.2f} to {values[-1]:.2f} bits")
    even = float(np.log2(experts))
    figure.add_hline(y=even, line={"color": QUIET, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=1,
        xref="paper",
        xanchor="right",
        y=even,
        yanchor="bottom",
        showarrow=False,
        text=f"even over {experts} experts",
    )
    figure.update_xaxes(title="epoch", dtick=whole_steps(len(epochs), 12))
    figure.update_yaxes(title="entropy of the gate, bits", range=[0, even * 1.15])
    return titled(figure, "How undecided the gate is", note, words="; ".join(told) + ".")


def entropy_of(trace: Trace, layer: int = -1) -> dict[str, float]:
    """The mean entropy, in bits, of the gate's weights over the real tokens of each modality.

    Examples
    --------
    >>> entropy_of(model.trace(batch))  # doctest: +SKIP
    {'text': 1.41, 'audio': 1.53}
    """
    found = {}
    for m, gate in trace.gates[layer].items():
        gate = array(gate)[array(trace.masks[m])].astype(float)
        if len(gate):
            found[m] = float(-(gate * np.log2(np.maximum(gate, 1e-30))).sum(1).mean())
    return found
