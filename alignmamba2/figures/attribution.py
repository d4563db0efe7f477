"""What a prediction is made of: which token and which modality adds what."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..trace import Attribution
from .marks import bars, dots, panels
from .scan import amounts, name_tokens, places_of, token_labels, token_names
from .style import INK, LIGHT, PAPER, QUIET, array, class_names, look, titled


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
    """Draw the parts in the right panel, each from the end of the one before, and under them their sum, `goal`."""
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
