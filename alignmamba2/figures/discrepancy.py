"""How far apart the modalities' tokens lie: the MMD, the kernel under it, and the witness function."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .marks import HOVER_ENDS, SQUARE, band, bars, curve, heat
from .results import recorded
from .style import INK, PAPER, QUIET, Look, floats, joined, look, titled, whole_steps

BELOW = 104  # pixels under the axes


def mmd_over_epochs(history: Sequence[Mapping[str, float]], *, note: str = "") -> go.Figure:
    """Draw the MMD of each pair over the epochs of a training, in the colour of the modality that is aligned.

    The history has a mapping per epoch, with "epoch" and "train/mmd/<modality>-<anchor>", and the same of "valid" if it
    was measured. A `ValueError` says that it has no MMD of a pair.

    >>> figure = mmd_over_epochs([{"epoch": 0, "train/mmd/audio-text": 0.9}, {"epoch": 1, "train/mmd/audio-text": 0.4}])
    >>> list(figure.data[0].y)
    [0.9, 0.4]
    """
    names = sorted({name for epoch in history for name in epoch if name.split("/")[1:2] == ["mmd"]})
    names = [name for name in names if name.count("/") == 2]
    if not names:
        raise ValueError("history: no entry such as 'train/mmd/audio-text'; expected a model with at least one pair")
    figure, ends = go.Figure(), []
    for name in names:
        split, _, pair = name.split("/")
        held_out = split != "train"
        style, words = _of_pair(pair)
        style = Look(style.colour, style.symbol + "-open" * held_out, "dot" if held_out else "solid")
        words += ", validation" if held_out else ", training"
        epochs, values = recorded(history, name)
        if values:
            ends.append(f"{words}: from {values[0]:.3f} to {values[-1]:.3f}")
        hover = f"{words}<br>epoch %{{x}}: %{{y:.4f}}"
        figure.add_trace(curve(style, epochs, values, words, hover, width=3 - held_out))
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 10))
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    return titled(figure, "MMD between the modalities, during training", note, words="; ".join(ends) + ".")


def mmd_by_bandwidth(
    bandwidths: Any, values: Mapping[str, Any], *, bands: Mapping[str, tuple[Any, Any]] | None = None, note: str = ""
) -> go.Figure:
    """Draw the MMD of each pair against the bandwidth of the kernel, which sees nothing if too narrow or too wide.

    To rising bandwidths (S,), `values` are by "<modality>-<anchor>" the MMD² (S,), from `mmd(..., bandwidth=σ)`, and
    `bands` by the same names (low, high), the range of the MMD when the tokens of both modalities are mixed and
    relabelled (`permutation_test`), which is what chance would give.

    >>> figure = mmd_by_bandwidth([0.1, 1, 10], {"audio-text": [0.1, 0.4, 0.05]})
    >>> figure.layout.meta['words']
    'Audio ↔ text is largest, 0.400, at bandwidth 1.'
    """
    bandwidths = floats(bandwidths)
    figure, peaks = go.Figure(), []
    for pair, (low, high) in (bands or {}).items():
        style, words = _of_pair(pair)
        edge = {"name": f"{words}, chance", "line": {"width": 1, "color": style.colour, "dash": "dot"}}
        hover = {"hoveron": "fills", "hoverinfo": "text", "text": "where relabelled tokens lie"}
        figure.add_trace(band(bandwidths, floats(low), floats(high), style.colour, **edge, **hover))
    for pair, row in values.items():
        (style, words), row = _of_pair(pair), floats(row)
        hover = f"{words}<br>bandwidth %{{x:.3g}}: MMD² %{{y:.4f}}"
        figure.add_trace(curve(style, bandwidths, row, words, hover))
        peaks.append(f"{words} is largest, {row.max():.3f}, at bandwidth {bandwidths[row.argmax()]:.3g}")
    marks = [d * 10.0**e for e in range(-6, 7) for d in (1, 2, 5)]
    figure.update_xaxes(type="log", title="bandwidth σ of the Gaussian kernel", tickvals=marks, tickformat="~g")
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    words = "; ".join(peaks)
    words = words[:1].upper() + words[1:] + "."
    return titled(figure, "MMD against bandwidth", note, words=words, margin_b=BELOW)


def kernel_matrix(kernel: Any, modality: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw how alike all tokens of two modalities are, each against each, and the MMD as the sum of the blocks' means.

    The kernel (N, N) is k(u, v) between 0 and 1; `modality` are N strings, of two different ones, each in one run. A
    `ValueError` says what does not fit.

    >>> figure = kernel_matrix([[1, 0.2], [0.2, 1]], ["text", "audio"])
    >>> figure.layout.title.subtitle.text
    'MMD² = 1.000 + 1.000 − 2 · 0.200 = 1.600'
    """
    kernel = floats(kernel)
    names, size = list(dict.fromkeys(modality)), len(modality)
    count = sum(m == names[0] for m in modality)
    if kernel.shape != (size, size) or len(names) != 2 or any(m != names[0] for m in modality[:count]):
        raise ValueError(
            f"kernel_matrix: found {kernel.shape} and modalities {names}; expected ({size}, {size}) "
            "and two modalities, one after the other"
        )
    (first, second), x, y = names, slice(None, count), slice(count, None)
    xx, yy, xy = (kernel[rows, columns].mean() for rows, columns in ((x, x), (y, y), (x, y)))
    labels = [f"{m} {i + 1}" for m, run in zip(names, (count, size - count), strict=True) for i in range(run)]
    texts = [
        [f"{a}<br>and {b}<br>alike: {kernel[i, j]:.2f}" for j, b in enumerate(labels)] for i, a in enumerate(labels)
    ]
    bar = {"title": {"text": "k(u, v)", "side": "top"}, "tickvals": [0, 0.5, 1]}
    figure = go.Figure(heat(kernel, 1, bar=bar, text=texts))
    edge, ends = {"color": "white", "width": 4}, (-0.5, size - 0.5)
    figure.add_vline(x=count - 0.5, line=edge)
    figure.add_hline(y=count - 0.5, line=edge)
    middle = {first: (count - 1) / 2, second: (count + size - 1) / 2}
    box = {"font": {"color": "black", "size": 16}, "bgcolor": "rgba(255,255,255,0.85)", "borderpad": 4}
    for a, b, mean in ((first, first, xx), (second, second, yy), (first, second, xy), (second, first, xy)):
        figure.add_annotation(x=middle[b], y=middle[a], text=f"<b>mean {mean:.3f}</b>", showarrow=False, **box)
    axis = {"tickvals": list(middle.values()), "ticktext": [f"<b>{m}</b>" for m in middle], **SQUARE}
    figure.update_xaxes(**axis, range=ends)
    figure.update_yaxes(**axis, range=ends[::-1], scaleanchor="x", tickangle=-90)
    sum_of = f"MMD² = {xx:.3f} + {yy:.3f} − 2 · {xy:.3f} = {xx + yy - 2 * xy:.3f}"
    words = f"Tokens of {first} are alike {xx:.2f} on average, of {second} {yy:.2f}, and across {xy:.2f}."
    title, margin = f"How alike: {first} and {second}", {"t": 96, "b": 50}
    return titled(figure, title, joined(note, sum_of), height=620, words=words, margin=margin)


def witness_curve(at: Any, witness: Any, along: Mapping[str, Any], *, note: str = "") -> go.Figure:
    """Draw the witness function along a line, over the tokens of both modalities as they lie along it.

    Above 0 the function votes for the first modality, below for the second. The MMD is the difference of the mean
    votes, taken at the tokens themselves and not on the line.

    `at` and `witness` are arrays (P,) of places on a line, such as the one through the means of both modalities, and of
    `alignmamba2.alignment.witness` there; `along` are by modality the places (N,) of its tokens on that line.

    >>> figure = witness_curve([-1, 0, 1], [-0.3, 0, 0.3], {"audio": [0.9, 1.0], "text": [-1.0, -0.8]})
    >>> figure.layout.meta['words']
    'It is largest at 1.00, for audio, and smallest at -1.00, for text.'
    """
    at, witness = floats(at), floats(witness)
    first, second = along
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    _votes(figure, at, witness, first, second)
    edges = np.linspace(at.min(), at.max(), 31)
    for name, places in along.items():
        counts, _ = np.histogram(floats(places), edges)
        colour = look(name).fill(0.7)
        stripes = {"shape": "" if name == first else "/", "bgcolor": colour, "fgcolor": PAPER, "solidity": 0.25}
        marker = {"color": colour, "line": {"color": look(name).colour, "width": 1}, "pattern": stripes}
        hover, middles = f"%{{y:.1%}} of the {name} tokens lie around %{{x:.2f}}", (edges[1:] + edges[:-1]) / 2
        shares, width = counts / max(len(places), 1), edges[1] - edges[0]
        figure.add_trace(bars(middles, shares, marker, hover, f"{name} tokens", width=width), 2, 1)
    figure.update_yaxes(title="share", tickformat=".0%", row=2, col=1)
    figure.update_xaxes(title="place on the line", row=2, col=1)
    high, low = at[witness.argmax()], at[witness.argmin()]
    words = f"It is largest at {high:.2f}, for {first}, and smallest at {low:.2f}, for {second}."
    layout = {"barmode": "overlay", "bargap": 0, "margin_b": BELOW}
    return titled(figure, f"Witness function: {first} against {second}", note, height=540, words=words, **layout)


def _votes(figure: go.Figure, at: np.ndarray, witness: np.ndarray, first: str, second: str) -> None:
    """Draw the witness function in the upper panel, its area in the colour of the modality that it votes for."""
    quiet = {"hoverinfo": "skip", "showlegend": False}
    for name, part in ((first, np.maximum(witness, 0)), (second, np.minimum(witness, 0))):
        area = go.Scatter(x=at, y=part, mode="none", fill="tozeroy", fillcolor=look(name).fill(0.35), **quiet)
        figure.add_trace(area, 1, 1)
    line, hover = {"color": INK, "width": 3}, "at %{x:.2f}: %{y:.3f}" + HOVER_ENDS
    line = go.Scatter(x=at, y=witness, mode="lines", line=line, name="witness", showlegend=False, hovertemplate=hover)
    figure.add_trace(line, 1, 1)
    figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=1, col=1)
    font = {"color": INK, "size": 16}
    for name, x, y, side in ((first, 0.01, 0.96, "left"), (second, 0.99, 0.04, "right")):
        place = {"x": x, "y": y, "xanchor": side, "xref": "x domain", "yref": "y domain"}
        figure.add_annotation(text=f"votes for <b>{name}</b>", showarrow=False, font=font, **place)
    span = max(float(np.abs(witness).max()), 1e-6)
    figure.update_yaxes(title="witness", range=[-1.25 * span, 1.25 * span], row=1, col=1)


def _of_pair(pair: str) -> tuple[Look, str]:
    return look(pair.split("-")[0]), pair.replace("-", " ↔ ")
