"""Inside the selective scan: step sizes, what is kept and let through, and which token adds what to the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Attribution, Scan
from .style import (
    INK,
    LIGHT,
    PAPER,
    PLAN_SCALE,
    QUIET,
    array,
    class_names,
    look,
    see_through,
    short,
    ticks,
    titled,
    wrapped,
)

MANY = 80  # tokens, from which on a matrix has hover texts of numbers: so many words are slow to draw


def scan_steps(scan: Scan, *, start: int = 0, note: str = "") -> go.Figure:
    """Δ, the gate and the state's decay along one sequence: the median over the channels and where 80 % of them lie.

    Parameters
    ----------
    scan : Scan
        From `Trace.scan`, or made of numbers of your own.
    start : int
        The panel of decay follows what the state holds after this token.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> scan_steps(model.trace(batch).scan(0))  # doctest: +SKIP
    """
    length = len(scan.u)
    left = array(scan.remains(start)).reshape(length, -1)
    unread = np.arange(length) > start if scan.reverse else np.arange(length) < start
    left = np.where(unread[:, None], np.nan, left)
    panels = (
        ("Δ, the size of the step", array(scan.delta), "a large Δ writes this token and forgets the past"),
        (f"left of what the state held at token {start + 1}", left, "share that is left"),
        ("gate SiLU(z): what is let through", array(scan.gate()), "what is let through"),
    )
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=[f"<b>{p[0]}</b>" for p in panels]
    )
    x = np.arange(length)
    hover = _hover(scan)
    for row, (_, values, means) in enumerate(panels, start=1):
        known = ~np.isnan(values[:, 0])
        low, middle, high = np.quantile(values[known], (0.1, 0.5, 0.9), axis=1)
        figure.add_scatter(
            x=[*x[known], *x[known][::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            mode="none",
            fillcolor=see_through("#808080", 0.28),
            name="80 % of the channels",
            showlegend=row == 1,
            hoverinfo="skip",
            row=row,
            col=1,
        )
        figure.add_scatter(
            x=x[known],
            y=middle,
            mode="lines",
            line={"color": QUIET, "width": 2},
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=1,
        )
        for m in dict.fromkeys(scan.modality):
            mine = np.array([name == m for name in scan.modality])
            figure.add_scatter(
                x=x[known & mine],
                y=middle[mine[known]],
                mode="markers",
                name=m,
                legendgroup=m,
                showlegend=row == 1,
                marker={
                    "symbol": look(m).symbol,
                    "color": look(m).colour,
                    "size": 10 if length <= 60 else 7,
                    "line": {"color": PAPER, "width": 1},
                },
                text=[hover[i] for i in np.flatnonzero(known & mine)],
                customdata=np.column_stack([low, high])[mine[known]],
                hovertemplate="%{text}<br>"
                + means
                + ": median %{y:.3g}<br>80 % of channels: %{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_yaxes(type="log", row=1, dtick=1)
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", row=2)
    _along(figure, scan, row=3)
    delta = np.median(array(scan.delta), axis=1)
    means = {m: delta[np.array([n == m for n in scan.modality])].mean() for m in dict.fromkeys(scan.modality)}
    words = "Median step by modality: " + ", ".join(f"{m} {value:.3g}" for m, value in means.items()) + "."
    figure = titled(figure, "Inside the scan, token by token", note, height=720, words=words)
    return figure.update_layout(margin_b=_below(scan))


def scan_influence(scan: Scan, *, note: str = "") -> go.Figure:
    """How much each earlier token adds to the scan's output at each later one; exact, with Δ, B and C as they are.

    Parameters
    ----------
    scan : Scan
    note : str

    Examples
    --------
    >>> scan_influence(model.trace(batch).scan(0))  # doctest: +SKIP
    """
    full = array(scan.influence())
    share = full / np.maximum(full.sum(1, keepdims=True), 1e-30)
    hover = _hover(scan)
    in_words = len(hover) <= MANY
    text = [
        [f"from {b}<br>to {a}<br>{share[i, j]:.1%} of what arrives" for j, b in enumerate(hover) if in_words]
        for i, a in enumerate(hover)
    ]
    unread = np.triu(np.ones_like(share), 1) if not scan.reverse else np.tril(np.ones_like(share), -1)
    others = share[(unread == 0) & ~np.eye(len(share), dtype=bool)]
    most = max(float(np.quantile(others, 0.99)), 0.01) if len(others) else 1.0  # its own share outshines all others
    figure = go.Figure(
        go.Heatmap(
            z=np.where(unread > 0, np.nan, share),
            zmin=0,
            zmax=most,
            colorscale=PLAN_SCALE,
            text=text if in_words else None,
            hovertemplate="%{text}<extra></extra>"
            if in_words
            else "from token %{x} to token %{y}: %{z:.1%} of what arrives<extra></extra>",
            hoverongaps=False,
            colorbar={
                "title": {"text": "share of<br>what arrives", "side": "top"},
                "tickvals": [0, most / 2, most],
                "ticktext": ["0", f"{most / 2:.1%}", f"≥ {most:.1%}"],
            },
        )
    )
    _along(figure, scan)
    labels = [
        short(w, 13) if w else f"{m} {p + 1}" for m, p, w in zip(scan.modality, scan.place, scan.words, strict=True)
    ]
    figure.update_yaxes(**ticks(labels, 26), autorange="reversed", showgrid=False, title="to this token")
    figure.update_xaxes(title="from this token", showgrid=False)
    own = float(np.diag(share).mean())
    by = _by_modality(scan, share.mean(0))
    words = f"On average {own:.0%} of what arrives at a token is its own. By modality it comes " + _told(by) + "."
    figure = titled(figure, "Which token reaches which, through the scan", note, height=680, words=words)
    return figure.update_layout(margin_b=_below(scan))


def attribution_bars(
    found: Attribution, *, toward: int | None = None, classes: Sequence[str] = (), note: str = ""
) -> go.Figure:
    """What each token adds to a prediction, along the sequence, and what each modality adds in all; exact, it sums up.

    Parameters
    ----------
    found : Attribution
        From `Trace.attribution`.
    toward : int, optional
        Which logit; left out, of two classes the second less the first, of more the largest, or the predicted number.
    classes : names of the classes, optional
    note : str

    Examples
    --------
    >>> attribution_bars(model.trace(batch).attribution(0))  # doctest: +SKIP
    """
    pick, what = _direction(found, toward, classes)
    scan, direct, bias = (array(part) @ pick for part in (found.scan, found.direct, found.bias))
    total, goal = scan + direct, float(array(found.logits) @ pick)
    modalities = list(dict.fromkeys(found.modality))
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.7, 0.3],
        horizontal_spacing=0.12,
        subplot_titles=["<b>token by token</b>", "<b>in all</b>"],
    )
    x, hover = np.arange(len(total)), _hover(found)
    for m in modalities:
        mine = np.flatnonzero([name == m for name in found.modality])
        figure.add_bar(
            x=x[mine],
            y=total[mine],
            name=m,
            width=0.8,
            marker={"color": look(m).colour, "line": {"width": 0}},
            text=[
                f"{hover[i]}<br>{total[i]:+.4f} in all<br>{scan[i]:+.4f} through the scan, {direct[i]:+.4f} past it"
                for i in mine
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            row=1,
            col=1,
        )
        figure.add_scatter(  # the second cue beside the colour
            x=x[mine],
            y=total[mine],
            mode="markers",
            marker={"symbol": look(m).symbol, "color": look(m).colour, "size": 8, "line": {"color": PAPER, "width": 1}},
            showlegend=False,
            hoverinfo="skip",
            row=1,
            col=1,
        )
    sums = {m: float(total[[name == m for name in found.modality]].sum()) for m in modalities}
    steps = [*sums.items(), ("bias", float(bias)), ("sum", goal)]
    reached = 0.0
    for name, value in steps:
        base = 0.0 if name == "sum" else reached
        figure.add_bar(
            x=[value],
            y=[name],
            base=[base],
            orientation="h",
            marker={"color": look(name).colour if name in sums else (INK if name == "sum" else LIGHT)},
            showlegend=False,
            hovertemplate=f"{name}: {value:+.4f}<extra></extra>",
            row=1,
            col=2,
        )
        ends = (base, base + value)
        figure.add_annotation(
            x=max(ends), y=name, text=f"{value:+.2f}", showarrow=False, xanchor="left", xshift=8, row=1, col=2
        )
        reached = base + value
    edges = np.cumsum([0, *sums.values(), float(bias)])
    low, high = min(0.0, *edges, goal), max(0.0, *edges, goal)
    room = max(high - low, 1e-9)
    figure.update_xaxes(
        range=[low - 0.06 * room, high + 0.42 * room],
        title=what,
        nticks=4,
        zeroline=True,
        zerolinecolor=QUIET,
        row=1,
        col=2,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", row=1, col=2)
    figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=1, col=1)
    figure.update_yaxes(title=f"adds to {what}", row=1, col=1)
    labels = [
        short(w, 13) if w else f"{m} {p + 1}" for m, p, w in zip(found.modality, found.place, found.words, strict=True)
    ]
    figure.update_xaxes(**ticks(labels, 16), tickangle=-45, showgrid=False, row=1, col=1)
    figure.update_layout(barmode="overlay", bargap=0.3)
    order = np.argsort(-np.abs(total))[:3]
    words = (
        f"By modality {_told(sums)}, and with the bias {float(bias):+.2f} the sum is {goal:+.2f}. Most is added by "
        + ("; ".join(f"{hover[i].replace('<br>', ' ')} ({total[i]:+.2f})" for i in order) + ".")
    )
    figure = titled(figure, "What the prediction is made of", note, height=540, words=words)
    longest = max(len(labels[i]) for i in range(len(labels)))
    return figure.update_layout(margin_b=90 + 6 * min(longest, 14))


def _direction(found: Attribution, toward: int | None, classes: Sequence[str]) -> tuple[np.ndarray, str]:
    """Which combination of the logits is shown, and its name."""
    count = len(found.logits)
    names = class_names(classes, count)
    pick = np.zeros(count)
    if count == 1:
        return np.ones(1), "the predicted value"
    if toward is None and count == 2:
        return np.array([-1.0, 1.0]), f"{names[1]} against {names[0]}"
    chosen = int(array(found.logits).argmax()) if toward is None else toward
    pick[chosen] = 1
    return pick, f"the logit of {names[chosen]}"


def _hover(rows: Scan | Attribution) -> list[str]:
    return [
        f"<b>{m} {p + 1}</b>" + (f" “{wrapped(w)}”" if w else "")
        for m, p, w in zip(rows.modality, rows.place, rows.words, strict=True)
    ]


def _along(figure: go.Figure, scan: Scan, row: int | None = None) -> None:
    labels = [
        short(w, 13) if w else f"{m} {p + 1}" for m, p, w in zip(scan.modality, scan.place, scan.words, strict=True)
    ]
    place = {} if row is None else {"row": row, "col": 1}
    figure.update_xaxes(**ticks(labels, 30), tickangle=-45, showgrid=False, **place)
    figure.update_xaxes(range=[-0.6, len(scan.u) - 0.4])


def _below(scan: Scan) -> int:
    return 96 + 6 * min(max((len(w) for w in scan.words), default=8), 14)


def _by_modality(scan: Scan, values: np.ndarray) -> dict[str, float]:
    return {m: float(values[[n == m for n in scan.modality]].sum()) for m in dict.fromkeys(scan.modality)}


def _told(values: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} from {m}" for m, value in values.items())
