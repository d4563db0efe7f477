"""How far apart the modalities' tokens lie: the MMD, the kernel under it, and the function that tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import INK, PAPER, PLAN_SCALE, QUIET, array, look, see_through, titled, whole_steps, wrapped

History = Sequence[Mapping[str, float]]


Band = tuple[Any, Any]


def mmd_over_epochs(history: History, *, bands: Mapping[str, Band] | None = None, note: str = "") -> go.Figure:
    """The MMD of each pair over the epochs of a training, in the colour of the modality that is aligned.

    Parameters
    ----------
    history : list of mappings, one an epoch
        With "epoch" and "train/mmd/<modality>-<anchor>", and the same of "valid" where it was measured.
    bands : mapping of "<modality>-<anchor>" to (low, high), optional
        Numbers, or one an epoch: between which values the MMD lies when the tokens of both modalities are thrown
        together and relabelled (`permutation_test`); what chance would give.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = mmd_over_epochs([{"epoch": 0, "train/mmd/audio-text": 0.9}, {"epoch": 1, "train/mmd/audio-text": 0.4}])
    >>> list(figure.data[0].y)
    [0.9, 0.4]
    """
    names = sorted(
        {name for epoch in history for name in epoch if name.split("/")[1:2] == ["mmd"] and name.count("/") == 2}
    )
    if not names:
        raise ValueError("history: no entry such as 'train/mmd/audio-text'; expected a model with at least one pair")
    figure = go.Figure()
    every = [epoch["epoch"] for epoch in history]
    for pair, (low, high) in (bands or {}).items():
        low, high = (np.broadcast_to(array(side).astype(float), len(every)) for side in (low, high))
        words = f"{pair.replace('-', ' ↔ ')}, chance"
        figure.add_scatter(
            x=[*every, *every[::-1]],
            y=[*high, *low[::-1]],
            mode="lines",
            fill="toself",
            name=words,
            line={"width": 1, "color": look(pair.split("-")[0]).colour, "dash": "dot"},
            fillcolor=see_through(look(pair.split("-")[0]).colour, 0.18),
            hoveron="fills",
            text=f"{words}: where relabelled tokens lie",
            hoverinfo="text",
        )
    ends = []
    for name in names:
        split, _, pair = name.split("/")
        shown = look(pair.split("-")[0])
        epochs = [epoch for epoch in history if epoch.get(name) is not None]
        held_out = split != "train"
        words = f"{pair.replace('-', ' ↔ ')}, {'validation' if held_out else 'training'}"
        if epochs:
            ends.append(f"{words}: from {epochs[0][name]:.3f} to {epochs[-1][name]:.3f}")
        figure.add_scatter(
            x=[epoch["epoch"] for epoch in epochs],
            y=[epoch[name] for epoch in epochs],
            mode="lines+markers",
            name=words,
            line={"color": shown.colour, "dash": "dot" if held_out else "solid", "width": 2 if held_out else 3},
            marker={"symbol": shown.symbol + ("-open" if held_out else ""), "size": 9},
            hovertemplate=f"{words}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 10))
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    told = "; ".join(ends) + "."
    return titled(figure, "MMD between the modalities, during training", note, words=told)


def mmd_by_bandwidth(
    bandwidths: Any,
    values: Mapping[str, Any],
    *,
    bands: Mapping[str, Band] | None = None,
    chosen: float | None = None,
    note: str = "",
) -> go.Figure:
    """The MMD of each pair against the kernel's bandwidth: too narrow or too wide, and it sees nothing.

    Parameters
    ----------
    bandwidths : array (S,)
        σ > 0, rising.
    values : mapping of "<modality>-<anchor>" to array (S,)
        MMD², from `mmd(..., bandwidth=σ)`.
    bands : mapping of the same names to (low, high), arrays (S,), optional
        Where the MMD of relabelled tokens lies: what chance would give.
    chosen : float, optional
        The bandwidth in use, such as the median distance; a line marks it.
    note : str

    Examples
    --------
    >>> figure = mmd_by_bandwidth([0.1, 1, 10], {"audio-text": [0.1, 0.4, 0.05]}, chosen=1.5)
    >>> figure.layout.meta['words']
    'Audio ↔ text is largest, 0.400, at bandwidth 1.'
    """
    bandwidths = array(bandwidths).astype(float)
    figure, told = go.Figure(), []
    for pair, (low, high) in (bands or {}).items():
        figure.add_scatter(
            x=[*bandwidths, *bandwidths[::-1]],
            y=[*array(high), *array(low)[::-1]],
            mode="lines",
            fill="toself",
            line={"width": 1, "color": look(pair.split("-")[0]).colour, "dash": "dot"},
            fillcolor=see_through(look(pair.split("-")[0]).colour, 0.18),
            name=f"{pair.replace('-', ' ↔ ')}, chance",
            hoveron="fills",
            text="where relabelled tokens lie",
            hoverinfo="text",
        )
    for pair, row in values.items():
        shown, words, row = look(pair.split("-")[0]), pair.replace("-", " ↔ "), array(row).astype(float)
        figure.add_scatter(
            x=bandwidths,
            y=row,
            mode="lines+markers",
            name=words,
            line={"color": shown.colour, "dash": shown.dash, "width": 3},
            marker={"symbol": shown.symbol, "size": 9},
            hovertemplate=f"{words}<br>bandwidth %{{x:.3g}}: MMD² %{{y:.4f}}<extra></extra>",
        )
        told.append(f"{words} is largest, {row.max():.3f}, at bandwidth {bandwidths[row.argmax()]:.3g}")
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": INK, "width": 2, "dash": "dash"})
        figure.add_annotation(
            x=np.log10(chosen),
            y=1,
            yref="paper",
            text=f"in use: {chosen:.3g}",
            showarrow=False,
            xanchor="left",
            xshift=6,
        )
    figure.update_xaxes(
        type="log",
        title="bandwidth σ of the Gaussian kernel",
        tickvals=[d * 10.0**e for e in range(-6, 7) for d in (1, 2, 5)],
        tickformat="~g",
    )
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    words = "; ".join(told)
    return _low(titled(figure, "MMD against bandwidth", note, words=words[:1].upper() + words[1:] + "."))


def kernel_matrix(kernel: Any, modality: Sequence[str], hover: Sequence[str] = (), *, note: str = "") -> go.Figure:
    """How alike all tokens of two modalities are, each against each, and the MMD as the sum of the blocks' means.

    Parameters
    ----------
    kernel : array (N, N)
        k(u, v) between 0 and 1.
    modality : N strings
        Two different ones, each in one run.
    hover : N strings, or empty
        What a token stands for.
    note : str

    Examples
    --------
    >>> figure = kernel_matrix([[1, 0.2], [0.2, 1]], ["text", "audio"])
    >>> figure.layout.title.subtitle.text
    'MMD² = 1.000 + 1.000 − 2 · 0.200 = 1.600'
    """
    kernel = array(kernel).astype(float)
    names = list(dict.fromkeys(modality))
    count = sum(m == names[0] for m in modality)
    if kernel.shape != (len(modality),) * 2 or len(names) != 2 or any(m != names[0] for m in modality[:count]):
        raise ValueError(
            f"kernel_matrix: found {kernel.shape} and modalities {names}; expected ({len(modality)}, {len(modality)}) "
            "and two modalities, one after the other"
        )
    blocks = {
        (names[0], names[0]): kernel[:count, :count].mean(),
        (names[1], names[1]): kernel[count:, count:].mean(),
        (names[0], names[1]): kernel[:count, count:].mean(),
    }
    xx, yy, xy = blocks.values()
    label = [f"{m} {i + 1}" for m in names for i in range(sum(x == m for x in modality))]
    said = [f"{a}<br>“{wrapped(h)}”" for a, h in zip(label, hover, strict=True)] if len(hover) else label
    shown = [[f"{a}<br>and {b}<br>alike: {kernel[i, j]:.2f}" for j, b in enumerate(said)] for i, a in enumerate(said)]
    heat = go.Heatmap(
        z=kernel,
        zmin=0,
        zmax=1,
        colorscale=PLAN_SCALE,
        text=shown,
        hovertemplate="%{text}<extra></extra>",
        colorbar={"title": {"text": "k(u, v)", "side": "top"}, "tickvals": [0, 0.5, 1]},
    )
    figure = go.Figure(heat)
    edge = {"color": "white", "width": 4}
    figure.add_shape(type="line", x0=count - 0.5, x1=count - 0.5, y0=-0.5, y1=len(modality) - 0.5, line=edge)
    figure.add_shape(type="line", y0=count - 0.5, y1=count - 0.5, x0=-0.5, x1=len(modality) - 0.5, line=edge)
    middle = {names[0]: (count - 1) / 2, names[1]: (count + len(modality) - 1) / 2}
    for (a, b), mean in (*blocks.items(), ((names[1], names[0]), xy)):
        figure.add_annotation(
            x=middle[b],
            y=middle[a],
            text=f"<b>mean {mean:.3f}</b>",
            showarrow=False,
            font={"color": "black", "size": 16},
            bgcolor="rgba(255,255,255,0.85)",
            borderpad=4,
        )
    ticked = {"tickvals": list(middle.values()), "ticktext": [f"<b>{m}</b>" for m in middle], "ticks": ""}
    figure.update_xaxes(**ticked, showgrid=False, constrain="domain", range=[-0.5, len(modality) - 0.5])
    figure.update_yaxes(
        **ticked, showgrid=False, range=[len(modality) - 0.5, -0.5], scaleanchor="x", constrain="domain", tickangle=-90
    )
    sum_of = f"MMD² = {xx:.3f} + {yy:.3f} − 2 · {xy:.3f} = {xx + yy - 2 * xy:.3f}"
    words = f"Tokens of {names[0]} are alike {xx:.2f} on average, of {names[1]} {yy:.2f}, and across {xy:.2f}."
    note = f"{note} · {sum_of}" if note else sum_of
    figure = titled(figure, f"How alike: {names[0]} and {names[1]}", note, height=620, words=words)
    return figure.update_layout(margin={"t": 96, "b": 50})


def line_between(x: Any, y: Any, points: int = 121) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The line through the means of two clouds, and both clouds seen along it.

    Parameters
    ----------
    x, y : arrays (N, d) and (M, d)
    points : int

    Returns
    -------
    along_x (N,), along_y (M,) : where each token lies along the line, 0 half-way between the means, x's side positive
    at (points,) : places on the line, from the outermost token to the outermost
    in_space (points, d) : the same places as points in the space of the tokens, to give to `witness`

    Examples
    --------
    >>> along_x, along_y, at, in_space = line_between([[2.0, 0.0]], [[0.0, 0.0]], points=3)
    >>> along_x, along_y, at.tolist()
    (array([1.]), array([-1.]), [-1.0, 0.0, 1.0])
    """
    x, y = array(x).astype(float), array(y).astype(float)
    centre, step = (x.mean(0) + y.mean(0)) / 2, x.mean(0) - y.mean(0)
    step = step / max(np.linalg.norm(step), 1e-12)
    along_x, along_y = (x - centre) @ step, (y - centre) @ step
    ends = np.concatenate([along_x, along_y])
    at = np.linspace(ends.min(), ends.max(), points)
    return along_x, along_y, at, centre + at[:, None] * step


def witness_curve(
    at: Any,
    witness: Any,
    along: Mapping[str, Any],
    *,
    note: str = "",
) -> go.Figure:
    """The witness function along a line, over the tokens of both modalities as they lie along it.

    Above 0 the function votes for the first modality, below for the second. The MMD is the difference of the mean
    votes, taken at the tokens themselves and not on the line.

    Parameters
    ----------
    at, witness : arrays (P,)
        Places on the line (`line_between`), and `alignmamba2.alignment.witness` there.
    along : mapping of two modalities to arrays (N,), (M,)
        Where their tokens lie along the line.
    note : str

    Examples
    --------
    >>> figure = witness_curve([-1, 0, 1], [-0.3, 0, 0.3], {"audio": [0.9, 1.0], "text": [-1.0, -0.8]})
    >>> figure.layout.meta['words']
    'It is largest at 1.00, for audio, and smallest at -1.00, for text.'
    """
    at, witness = array(at).astype(float), array(witness).astype(float)
    first, second = along
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    for name, part in ((first, np.maximum(witness, 0)), (second, np.minimum(witness, 0))):
        figure.add_scatter(
            x=at,
            y=part,
            mode="none",
            fill="tozeroy",
            fillcolor=see_through(look(name).colour, 0.35),
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=at,
        y=witness,
        mode="lines",
        line={"color": INK, "width": 3},
        name="witness",
        showlegend=False,
        hovertemplate="at %{x:.2f}: %{y:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    edges = np.linspace(at.min(), at.max(), 31)
    for name, places in along.items():
        places = array(places).astype(float)
        share, _ = np.histogram(places, edges)
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=share / max(len(places), 1),
            width=edges[1] - edges[0],
            name=f"{name} tokens",
            marker={
                "color": see_through(look(name).colour, 0.7),
                "line": {"color": look(name).colour, "width": 1},
                "pattern": {
                    "shape": "" if name == first else "/",
                    "bgcolor": see_through(look(name).colour, 0.7),
                    "fgcolor": PAPER,
                    "solidity": 0.25,
                },
            },
            hovertemplate=f"%{{y:.1%}} of the {name} tokens lie around %{{x:.2f}}<extra></extra>",
            row=2,
            col=1,
        )
    span = max(float(np.abs(witness).max()), 1e-6)
    figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=1, col=1)
    for name, x, y, side in ((first, 0.01, 0.96, "left"), (second, 0.99, 0.04, "right")):
        figure.add_annotation(
            text=f"votes for <b>{name}</b>",
            x=x,
            y=y,
            xanchor=side,
            xref="x domain",
            yref="y domain",
            showarrow=False,
            font={"color": INK, "size": 16},
        )
    figure.update_yaxes(title="witness", range=[-1.25 * span, 1.25 * span], row=1, col=1)
    figure.update_yaxes(title="share", tickformat=".0%", row=2, col=1)
    figure.update_xaxes(title=f"along the line from the mean of {second} to the mean of {first}", row=2, col=1)
    figure.update_layout(barmode="overlay", bargap=0)
    high, low = at[witness.argmax()], at[witness.argmin()]
    words = f"It is largest at {high:.2f}, for {first}, and smallest at {low:.2f}, for {second}."
    return _low(titled(figure, f"Witness function: {first} against {second}", note, height=540, words=words))


def _low(figure: go.Figure) -> go.Figure:
    return figure.update_layout(margin_b=104)
