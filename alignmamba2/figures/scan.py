"""Inside the layers: the scan's steps and reach, what experts add, and what a prediction is made of, token by token."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..effects import routing_statistics
from ..trace import Attribution, Scan, Trace
from .marks import HOVER_ENDS, band, bars, dots, heat, panels
from .style import INK, LIGHT, PAPER, QUIET, SHADE, array, class_names, look, quoted, short, ticks, titled

MANY = 80  # tokens from which on a matrix has numbers as hover texts: so many words are slow to draw
LETTERS = 13  # of a token's label


def scan_steps(scan: Scan, *, start: int = 0, note: str = "") -> go.Figure:
    """Draw Δ, the state's decay and the gate along one sequence: the median of the channels, and 80 % of them.

    The panel of decay follows what the state holds after the token `start`.
    """
    length = len(scan.u)
    left = array(scan.remains(start)).reshape(length, -1)
    unread = np.arange(length) > start if scan.reverse else np.arange(length) < start
    left = np.where(unread[:, None], np.nan, left)
    rows = (
        ("Δ, the size of the step", array(scan.delta), "a large Δ writes this token and forgets the past"),
        (f"left of what the state held at token {start + 1}", left, "share that is left"),
        ("gate SiLU(z): what is let through", array(scan.gate()), "what is let through"),
    )
    heads = [f"<b>{heading}</b>" for heading, *_ in rows]
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=heads)
    for row, (_, values, meaning) in enumerate(rows, start=1):
        _quantiles(figure, row, scan, values, meaning)
    figure.update_yaxes(type="log", row=1, dtick=1)
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", row=2)
    name_tokens(figure, scan, row=3, col=1)
    figure.update_xaxes(range=[-0.6, length - 0.4])
    delta = np.median(array(scan.delta), axis=1)
    means = {m: delta[places].mean() for m, places in places_of(scan).items()}
    words = "Median step by modality: " + ", ".join(f"{m} {value:.3g}" for m, value in means.items()) + "."
    layout = {"height": 720, "words": words, "margin_b": _below(scan.words)}
    return titled(figure, "Inside the scan, token by token", note, **layout)


def scan_influence(scan: Scan, *, note: str = "") -> go.Figure:
    """Draw how much each earlier token adds to the scan's output at each later one: exact, with its own Δ, B and C."""
    full = array(scan.influence())
    share = full / np.maximum(full.sum(1, keepdims=True), 1e-30)
    names = token_names(scan)
    text, hover = None, "from token %{x} to token %{y}: %{z:.1%} of what arrives"
    if len(names) <= MANY:
        hover = "%{text}"
        text = [
            [f"from {b}<br>to {a}<br>{part:.1%} of what arrives" for b, part in zip(names, row, strict=True)]
            for a, row in zip(names, share, strict=True)
        ]
    unread = np.triu(np.ones_like(share), 1) if not scan.reverse else np.tril(np.ones_like(share), -1)
    others = share[(unread == 0) & ~np.eye(len(share), dtype=bool)]
    most = max(float(np.quantile(others, 0.99)), 0.01) if len(others) else 1.0  # its own share outshines all others
    bar = {"title": {"text": "share of<br>what arrives", "side": "top"}, "tickvals": [0, most / 2, most]}
    bar["ticktext"] = ["0", f"{most / 2:.1%}", f"≥ {most:.1%}"]
    cells = np.where(unread > 0, np.nan, share)
    figure = go.Figure(heat(cells, most, hover, bar=bar, text=text, hoverongaps=False))
    name_tokens(figure, scan)
    figure.update_xaxes(title="from this token", range=[-0.6, len(names) - 0.4])
    figure.update_yaxes(**ticks(token_labels(scan), 26), autorange="reversed", showgrid=False, title="to this token")
    mean, itself = share.mean(0), float(np.diag(share).mean())
    by = {m: float(mean[places].sum()) for m, places in places_of(scan).items()}
    words = f"On average {itself:.0%} of what arrives at a token is its own. By modality it comes {amounts(by)}."
    layout = {"height": 680, "words": words, "margin_b": _below(scan.words)}
    return titled(figure, "Which token reaches which, through the scan", note, **layout)


def expert_shares(shares: Sequence[Mapping[str, Any]], experts: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw each expert's share of what is added to the tokens, by layer and modality; every bar sums to 1.

    `shares` are, per layer and modality, an array (K,) that sums to 1, as of `Trace.expert_shares()`; `experts` are K
    names, "specific" (drawn in the modality's colour) and "shared" (grey, hatched).

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


def attribution_bars(attribution: Attribution, *, classes: Sequence[str] = (), note: str = "") -> go.Figure:
    """Draw what each token adds to a prediction, along the sequence, and each modality in all; exact, it sums up.

    The prediction is the second of two classes against the first, of more classes the largest logit, or the number.
    """
    direction, what = direction_of(attribution.logits, classes)
    scan, direct, bias = (array(part) @ direction for part in (attribution.scan, attribution.direct, attribution.bias))
    total, goal = scan + direct, float(array(attribution.logits) @ direction)
    figure = panels(["<b>token by token</b>", "<b>in all</b>"], 0.12, column_widths=[0.7, 0.3])
    names, sums = token_names(attribution), {}
    for m, places in places_of(attribution).items():
        sums[m] = float(total[places].sum())
        text = [
            f"{names[i]}<br>{total[i]:+.4f} in all<br>{scan[i]:+.4f} through the scan, {direct[i]:+.4f} past it"
            for i in places
        ]
        marker = {"color": look(m).colour, "line": {"width": 0}}
        figure.add_trace(bars(places, total[places], marker, "%{text}", m, text=text, width=0.8), 1, 1)
        marker = look(m).marker(8, line={"color": PAPER, "width": 1})  # a second cue beside the colour
        figure.add_trace(dots(places, total[places], marker, showlegend=False), 1, 1)
    figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=1, col=1)
    figure.update_yaxes(title=f"adds to {what}", row=1, col=1)
    name_tokens(figure, attribution, 16, row=1, col=1)
    _sums(figure, {**sums, "bias": float(bias)}, goal, what)
    order = np.argsort(-np.abs(total))[:3]
    largest = "; ".join(f"{names[i].replace('<br>', ' ')} ({total[i]:+.2f})" for i in order)
    words = f"By modality {amounts(sums)}, and with the bias {float(bias):+.2f} the sum is {goal:+.2f}. "
    words += f"Most is added by {largest}."
    longest = max(map(len, token_labels(attribution)))
    layout = {"barmode": "overlay", "bargap": 0.3, "margin_b": 90 + 6 * min(longest, 14)}
    return titled(figure, "What the prediction is made of", note, height=540, words=words, **layout)


def _sums(figure: go.Figure, parts: Mapping[str, float], goal: float, what: str) -> None:
    reached, ends = 0.0, [0.0, goal]
    for name, value in (*parts.items(), ("sum", goal)):
        base = 0.0 if name == "sum" else reached
        marker = {"color": {"bias": LIGHT, "sum": INK}.get(name) or look(name).colour}
        figure.add_trace(bars([value], [name], marker, f"{name}: {value:+.4f}", base=[base], orientation="h"), 1, 2)
        reached = base + value
        ends.append(reached)
        place = {"x": max(base, reached), "y": name, "xanchor": "left", "xshift": 8, "row": 1, "col": 2}
        figure.add_annotation(text=f"{value:+.2f}", showarrow=False, **place)
    low, high = min(ends), max(ends)
    room = max(high - low, 1e-9)
    zero = {"nticks": 4, "zeroline": True, "zerolinecolor": QUIET, "row": 1, "col": 2}
    figure.update_xaxes(range=[low - 0.06 * room, high + 0.42 * room], title=what, **zero)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", row=1, col=2)


def direction_of(logits: Any, classes: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return the combination of logits (n,) that is told: the one number, log-odds of two classes, or the largest."""
    count = len(logits)
    names = class_names(classes, count)
    if count == 1:
        return np.ones(1), "the value"
    if count == 2:
        return np.array([-1.0, 1.0]), f"the log-odds of {names[1]}"
    chosen = int(array(logits).argmax())
    return np.eye(count)[chosen], f"the logit of {names[chosen]}"


def token_names(tokens: Scan | Attribution) -> list[str]:
    """Return the modality, place and words of each token, for hover texts."""
    rows = zip(tokens.modality, tokens.place, tokens.words, strict=True)
    return [f"<b>{m} {place + 1}</b>" + quoted(words) for m, place, words in rows]


def token_labels(tokens: Scan | Attribution) -> list[str]:
    """Return the first words of each token, or its modality and place, for an axis."""
    rows = zip(tokens.modality, tokens.place, tokens.words, strict=True)
    return [short(words, LETTERS) if words else f"{m} {place + 1}" for m, place, words in rows]


def places_of(tokens: Scan | Attribution) -> dict[str, np.ndarray]:
    """Return the places in the sequence of each modality's tokens."""
    names = np.array(tokens.modality)
    return {m: np.flatnonzero(names == m) for m in dict.fromkeys(tokens.modality)}


def name_tokens(figure: go.Figure, tokens: Scan | Attribution, most: int = 30, **place: int) -> None:
    """Write the tokens' words, or their places, along the x axis of the panel at row=…, col=…."""
    figure.update_xaxes(**ticks(token_labels(tokens), most), tickangle=-45, showgrid=False, **place)


def amounts(values: Mapping[str, float]) -> str:
    """Return in words how much comes from which modality."""
    return ", ".join(f"{value:.2f} from {m}" for m, value in values.items())


def _quantiles(figure: go.Figure, row: int, scan: Scan, values: np.ndarray, meaning: str) -> None:
    """Draw the median of values (T, channels), and between which numbers 80 % of them lie; NaN is left out."""
    known = np.flatnonzero(~np.isnan(values[:, 0]))
    low, middle, high = np.full((3, len(values)), np.nan)
    low[known], middle[known], high[known] = np.quantile(values[known], (0.1, 0.5, 0.9), axis=1)
    around = {"mode": "none", "name": "80 % of the channels", "showlegend": row == 1}
    figure.add_trace(band(known, low[known], high[known], "#808080", 0.28, **around), row, 1)
    quiet = {"mode": "lines", "line": {"color": QUIET, "width": 2}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=known, y=middle[known], row=row, col=1, **quiet)
    names, size = token_names(scan), 10 if len(values) <= 60 else 7
    hover = f"%{{text}}<br>{meaning}: median %{{y:.3g}}<br>80 % of channels: "
    hover += "%{customdata[0]:.3g} to %{customdata[1]:.3g}" + HOVER_ENDS
    for m, places in places_of(scan).items():
        places = np.intersect1d(places, known)
        more = {"name": m, "legendgroup": m, "showlegend": row == 1, "hovertemplate": hover}
        more["customdata"] = np.column_stack([low, high])[places]
        marker = look(m).marker(size, line={"color": PAPER, "width": 1})
        figure.add_trace(dots(places, middle[places], marker, [names[i] for i in places], **more), row, 1)


def _below(words: Sequence[str]) -> int:
    return 96 + 6 * min(max((len(w) for w in words), default=8), 14)
