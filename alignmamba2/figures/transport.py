"""The transport plan of one sample and one pair: where the mass goes, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Pair, Trace
from .style import INK, LIGHT, PLAN_SCALE, array, look, short, ticks, titled, wrapped

WIDTHS = (1.5, 3.0, 5.0, 8.0)  # of links: few steps, so that a slider redraws ten traces and not a hundred
CLEAR = 1.5
ALONG = 14  # letters of a label under the plan


def plan_of(trace: Trace, sample: int, pair: Pair) -> dict[str, Any]:
    """What `transport_plan` needs to draw one sample's plan: mass, labels and names, without padding.

    Parameters
    ----------
    trace : Trace
    sample : int
        Place in the batch that was traced.
    pair : (modality, anchor)
        One of `trace.pairs`.

    Examples
    --------
    >>> transport_plan(**plan_of(trace, 0, ("audio", "text")))  # doctest: +SKIP
    """
    if pair not in trace.plans:
        raise KeyError(f"pair {pair!r}: not in this trace; it has {list(trace.plans)}")
    m, anchor = pair
    rows, columns = array(trace.masks[m][sample]), array(trace.masks[anchor][sample])
    words = trace.words[sample]
    row_words, column_words = (list(words.get(name, ()))[: array(trace.masks[name][sample]).sum()] for name in pair)
    return {
        "mass": array(trace.plans[pair][sample])[np.ix_(rows, columns)],
        "row_words": [] if row_words == column_words else row_words,  # in step with the words: numbers say it
        "column_words": column_words,
        "names": pair,
    }


def agreement(mass: Any, partners: Any) -> tuple[float, float]:
    """The share of mass on the true partners, and the share that a plan without any preference puts there.

    Parameters
    ----------
    mass : array (T_m, T_anchor)
    partners : integer array (T_m,)
        True anchor token of each token; −1 where there is none. Tokens without a partner do not count.

    Examples
    --------
    >>> agreement([[0.5, 0.0], [0.25, 0.25]], [0, 1])
    (0.75, 0.5)
    """
    mass, partners = array(mass), array(partners)
    known = np.flatnonzero(partners >= 0)
    if len(known) == 0 or mass.size == 0:
        return float("nan"), float("nan")
    found = mass[known, partners[known]].sum() / mass[known].sum()
    return float(found), 1 / mass.shape[1]


def with_agreement(note: str, mass: Any, partners: Any) -> str:
    """A note, and how much of the mass lies on true partners where they are known.

    Examples
    --------
    >>> with_agreement("two sentences", [[0.5, 0.0], [0.25, 0.25]], [0, 1])
    'two sentences · 75% of the mass on true partners (chance: 50%)'
    """
    share, chance = (float("nan"),) * 2 if partners is None else agreement(mass, partners)
    found = f"{share:.0%} of the mass on true partners (chance: {chance:.0%})" if share == share else ""
    return " · ".join(filter(None, (note, found)))


def transport_plan(
    mass: Any,
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    names: Pair = ("tokens", "anchor"),
    partners: Any = None,
    most: float | None = None,
    note: str = "",
) -> go.Figure:
    """A transport plan as a heat map with its marginals, and beside it the strongest links.

    Anchor tokens (words, mostly) run down the side, the other modality runs along the bottom in its order.

    Parameters
    ----------
    mass : array (T_m, T_anchor)
        Sums to 1.
    row_words, column_words : T_m and T_anchor strings, or empty
        Left empty, tokens are numbered from 1.
    names : (modality, anchor)
    partners : integer array (T_m,), optional
        The true anchor token of each token, −1 where there is none: drawn as rings, and the share of mass that
        agrees is computed into the subtitle.
    most : float, optional
        The mass that gets the brightest colour. Left out: the largest of this plan, but never less than three times
        what an even spread puts in a cell, so that a plan without structure looks like one.
    note : str
        Begins the subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = transport_plan([[0.5, 0.0], [0.1, 0.4]], ["step 1", "step 2"], ["good", "film"])
    >>> figure.data[0].z.sum().round(6)
    np.float64(1.0)
    """
    mass = array(mass).astype(float)
    rows = labels_of(row_words, mass.shape[0])
    columns = labels_of(column_words, mass.shape[1])
    partners = None if partners is None else array(partners)
    note = with_agreement(note, mass, partners)
    if most is None:
        most = float(max(mass.max(), 3 / mass.size)) if mass.size else 1.0
    below = 64 if not len(row_words) else 64 + 6 * max(len(short(word, ALONG)) for word in row_words)
    height = int(np.clip(170 + 30 * len(columns), 380, 720)) + below
    band = 56 / (height - 96 - below)  # the margins' bars over the plan are as high in every figure
    figure = make_subplots(
        rows=2,
        cols=3,
        column_widths=[0.60, 0.09, 0.31],
        row_heights=[band, 1 - band],
        horizontal_spacing=0.015,
        vertical_spacing=0.025,
    )
    figure.add_trace(_heat(mass, rows, columns, names, most), 2, 1)
    figure.add_trace(_rings(partners), 2, 1)
    for trace, place in zip(_marginals(mass, rows, columns, names), ((1, 1), (2, 2)), strict=True):
        figure.add_trace(trace, *place)
    for trace in (*links(mass, partners), *link_ends(mass, rows, columns, names)):
        figure.add_trace(trace, 2, 3)
    _axes(figure, rows, columns, names)
    best = "; ".join(
        f"{named(rows[i], i, names[0])} → {named(columns[j], j, names[1])}" for i, j in strongest(mass)[:3]
    ).replace("<br>", " ")
    words = f"The strongest links: {best}." if best else "No link is clearly stronger than an even spread."
    figure = titled(figure, f"Transport plan: {names[0]} → {names[1]}", note, height=height, words=words)
    return figure.update_layout(margin_b=below)


def transport_sweep(
    masses: Sequence[Any],
    values: Sequence[float],
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    start: int = 0,
    label: str = "ε = ",
    **rest: Any,
) -> go.Figure:
    """Several plans of the same tokens behind one slider that needs no running Python.

    Parameters
    ----------
    masses : K arrays (T_m, T_anchor)
    values : K numbers
        What the slider shows beside each.
    start : int
        The plan that is shown first.
    label : str
        Stands before the value.
    row_words, column_words, **rest
        As for `transport_plan`.

    Examples
    --------
    >>> figure = transport_sweep([[[0.5, 0], [0, 0.5]], [[0.25, 0.25], [0.25, 0.25]]], [0.01, 1.0])
    >>> len(figure.frames)
    2
    """
    most = max(float(array(mass).max()) for mass in masses)  # one colour scale, or the plans could not be compared
    each = [transport_plan(mass, row_words, column_words, most=most, **rest) for mass in masses]
    figure = each[start]
    marks = [f"{value:.3g}" for value in values]
    figure.frames = [
        go.Frame(name=mark, data=one.data, layout={"title": one.layout.title.to_plotly_json()})
        for mark, one in zip(marks, each, strict=True)
    ]
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    figure.update_layout(
        sliders=[
            {
                "active": start,
                "currentvalue": {"prefix": label, "font": {"size": 16}},
                "pad": {"t": figure.layout.margin.b},
                "len": 0.6,
                "steps": [{"label": mark, "method": "animate", "args": [[mark], still]} for mark in marks],
            }
        ],
        height=figure.layout.height + 90,
        margin_b=figure.layout.margin.b + 90,
    )
    return figure


def labels_of(words: Sequence[str], count: int) -> list[str]:
    if len(words) not in (0, count):
        raise ValueError(f"labels: found {len(words)}; expected {count}, one a token of the plan, or none")
    return [str(w) for w in words] or [str(i + 1) for i in range(count)]


def named(label: str, i: int, modality: str) -> str:
    """A token in words: its place, and what was said if that is more than its place."""
    place = f"{modality} {i + 1}"
    return place if label == str(i + 1) else f"{place} “{wrapped(label)}”"


def _heat(mass: np.ndarray, rows: list[str], columns: list[str], names: Pair, most: float) -> go.Heatmap:
    own = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
    hover = [
        [
            f"{named(rows[i], i, names[0])}<br>→ {named(columns[j], j, names[1])}<br>"
            f"{mass[i, j]:.2%} of all mass, {own[i, j]:.0%} of this {names[0]} token's"
            for i in range(len(rows))
        ]
        for j in range(len(columns))
    ]
    return go.Heatmap(
        z=mass.T,
        zmin=0,
        zmax=most,
        colorscale=PLAN_SCALE,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        xgap=1 if max(mass.shape) <= 32 else 0,
        ygap=1 if max(mass.shape) <= 32 else 0,
        colorbar={  # in the free corner over the links
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "top",
            "len": 0.27,
            "thickness": 10,
            "xpad": 0,
            "ypad": 0,
            "tickvals": [0, most],
            "ticktext": ["0", f"{most:.1%}"],
            "title": {"text": "share of all mass", "side": "top", "font": {"size": 13}},
        },
    )


def _rings(partners: np.ndarray | None) -> go.Scatter:
    known = np.flatnonzero(partners >= 0) if partners is not None else np.array([], int)
    size = float(np.clip(300 / max(len(known), 1), 4, 9))
    return go.Scatter(
        x=known,
        y=partners[known] if partners is not None else known,
        mode="markers",
        name="true partner",
        marker={"symbol": "circle", "size": size, "color": "white", "line": {"color": "black", "width": size / 5}},
        hoverinfo="skip",
        showlegend=bool(len(known)),
    )


def _marginals(mass: np.ndarray, rows: list[str], columns: list[str], names: Pair) -> tuple[go.Bar, go.Bar]:
    def bar(sums: np.ndarray, labels: list[str], name: str, **axes: Any) -> go.Bar:
        text = [
            f"{named(w, i, name)}<br>{s:.1%} of all mass" for i, (w, s) in enumerate(zip(labels, sums, strict=True))
        ]
        return go.Bar(
            **axes,
            marker_color=look(name).colour,
            hovertext=text,
            hovertemplate="%{hovertext}<extra></extra>",
            textposition="none",
            showlegend=False,
        )

    of_rows, of_columns = mass.sum(1), mass.sum(0)
    return (
        bar(of_rows, rows, names[0], x=np.arange(len(rows)), y=of_rows),
        bar(of_columns, columns, names[1], x=of_columns, y=np.arange(len(columns)), orientation="h"),
    )


def _heights(mass: np.ndarray) -> np.ndarray:
    """Where the modality's tokens stand in the links' right column: spread over the anchor's height."""
    return (np.arange(mass.shape[0]) + 0.5) * mass.shape[1] / max(mass.shape[0], 1) - 0.5


def strongest(mass: np.ndarray, most: int | None = None) -> np.ndarray:
    """(K, 2): the cells with most mass, the strongest first; K at most max(T_m, T_anchor), or `most`.

    None that carries less than CLEAR times what an even spread would.
    """
    even = np.outer(mass.sum(1), mass.sum(0))
    clear = np.where(mass > CLEAR * even, mass, 0)
    count = min(most or max(mass.shape), int((clear > 0).sum()))
    return np.dstack(np.unravel_index(np.argsort(clear, axis=None)[::-1][:count], mass.shape))[0]


def links(mass: np.ndarray, partners: np.ndarray | None) -> list[go.Scatter]:
    """The `strongest` links from x = 0 to x = 1, in a fixed number of traces: by width, and true or not."""
    heights, traces = _heights(mass), []
    most = max(min(mass.sum(1).max(), mass.sum(0).max()), 1e-12) if mass.size else 1  # a link cannot carry more
    thin = float(np.clip(24 / max(mass.shape), 0.3, 1))
    for true in (False, True):
        for k, width in enumerate(WIDTHS):
            x, y = [], []
            for i, j in strongest(mass):
                is_true = partners is not None and partners[i] == j
                if is_true == true and min(int(mass[i, j] / most * len(WIDTHS)), len(WIDTHS) - 1) == k:
                    x += [0, 1, None]
                    y += [j, heights[i], None]
            traces.append(
                go.Scatter(
                    x=x or [None],  # an empty trace would lose its place in the legend
                    y=y or [None],
                    mode="lines",
                    line={"width": width * thin, "color": INK if true else LIGHT},
                    name="true link" if true else "other link",
                    legendgroup=str(true),
                    showlegend=k == 2 and partners is not None,
                    hoverinfo="skip",
                )
            )
    return traces


def link_ends(mass: np.ndarray, rows: list[str], columns: list[str], names: Pair) -> list[go.Scatter]:
    sides = ((0, np.arange(len(columns)), columns, names[1]), (1, _heights(mass), rows, names[0]))
    return [
        go.Scatter(
            x=[x] * len(labels),
            y=y,
            mode="markers",
            marker={"symbol": look(name).symbol, "size": 11 if len(labels) <= 32 else 6, "color": look(name).colour},
            text=[named(label, i, name) for i, label in enumerate(labels)],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
        for x, y, labels, name in sides
    ]


def _axes(figure: go.Figure, rows: list[str], columns: list[str], names: Pair) -> None:
    n_rows, n_columns = len(rows), len(columns)
    numbered = rows == [str(i + 1) for i in range(n_rows)]
    down = {"range": [n_columns - 0.5, -0.5]}
    bare = {"showticklabels": False, "ticks": "", "showline": False}
    along = {"range": [-0.5, n_rows - 0.5]}
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(**along, **bare, row=1, col=1)
    figure.update_yaxes(**bare, rangemode="tozero", row=1, col=1)
    figure.update_xaxes(
        **along,
        **ticks(rows if numbered else [short(r, ALONG) for r in rows], 20),
        tickangle=0 if numbered else -45,
        title=f"{names[0]}, in order",
        row=2,
        col=1,
    )
    figure.update_yaxes(**down, **ticks([short(c) for c in columns], 26), ticks="", row=2, col=1)
    figure.update_xaxes(**bare, rangemode="tozero", row=2, col=2)
    figure.update_yaxes(**down, **bare, row=2, col=2)
    figure.update_xaxes(
        range=[-0.12, 1.12],
        tickvals=[0, 1],
        ticktext=[names[1], names[0]],
        ticks="",
        title="strongest links",
        row=2,
        col=3,
    )
    figure.update_yaxes(**down, **bare, row=2, col=3)
    for axis in ("xaxis2", "yaxis2", "xaxis3", "yaxis3"):  # the unused corners of the top row
        figure.layout[axis].visible = False
    # Beside the title, where neither words nor a slider can run into it.
    beside = {"orientation": "v", "x": 1, "xanchor": "right", "y": 0.99, "yanchor": "top", "yref": "container"}
    figure.update_layout(bargap=0.25, legend=beside)
