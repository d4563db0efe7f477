"""The transport plan of one sample and one pair: where the mass goes, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..trace import Pair, Trace
from .marks import HOVER_ENDS, dots, heat
from .style import INK, LIGHT, array, floats, joined, look, quoted, short, ticks, titled

WIDTHS = (1.5, 3.0, 5.0, 8.0)  # of links: few steps, so that a slider redraws ten traces and not a hundred
CLEAR = 1.5  # times an even spread, from which on a link is drawn
ALONG = 14  # letters of a label under the plan


def plan_of(trace: Trace, sample: int, pair: Pair) -> dict[str, Any]:
    """Return the arguments with which `transport_plan` draws one sample's plan: mass, words and names, without padding.

    Parameters
    ----------
    sample : place in the batch that was traced
    pair : (modality, anchor), one of `trace.pairs`

    Raises
    ------
    KeyError
        If the trace has no plan of this pair.
    """
    if pair not in trace.plans:
        raise KeyError(f"pair {pair!r}: not in this trace; it has {list(trace.plans)}")
    rows, columns = (array(trace.masks[m][sample]) for m in pair)
    words = trace.words[sample]
    row_words, column_words = (list(words.get(m, ()))[: array(trace.masks[m][sample]).sum()] for m in pair)
    return {
        "mass": array(trace.plans[pair][sample])[np.ix_(rows, columns)],
        "row_words": [] if row_words == column_words else row_words,  # in step with the words: numbers say it
        "column_words": column_words,
        "names": pair,
    }


def agreement(mass: Any, partners: Any) -> tuple[float, float]:
    """Return the share of mass on the true partners, and the share that a plan without any preference puts there.

    Parameters
    ----------
    mass : array (T_m, T_anchor)
    partners : integer array (T_m,) of true anchor tokens, −1 for none; tokens without a partner do not count, and the
        result is two NaN if all are

    Examples
    --------
    >>> agreement([[0.5, 0.0], [0.25, 0.25]], [0, 1])
    (0.75, 0.5)
    """
    mass, partners = array(mass), array(partners)
    known = np.flatnonzero(partners >= 0)
    if len(known) == 0 or mass.size == 0:
        return float("nan"), float("nan")
    share = mass[known, partners[known]].sum() / mass[known].sum()
    return float(share), 1 / mass.shape[1]


def with_agreement(note: str, mass: Any, partners: Any) -> str:
    """Return the note and, if true partners are known, how much of the mass lies on them.

    Examples
    --------
    >>> with_agreement("two sentences", [[0.5, 0.0], [0.25, 0.25]], [0, 1])
    'two sentences · 75% of the mass on true partners (chance: 50%)'
    """
    share, chance = (float("nan"),) * 2 if partners is None else agreement(mass, partners)
    return joined(note, f"{share:.0%} of the mass on true partners (chance: {chance:.0%})" if share == share else "")


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
    """Draw a transport plan as a heat map with its marginals, and beside it the strongest links.

    Anchor tokens (words, mostly) run down the side, the other modality runs along the bottom in its order.

    Parameters
    ----------
    mass : array (T_m, T_anchor) that sums to 1
    row_words, column_words : T_m and T_anchor strings; left empty, tokens are numbered from 1
    partners : integer array (T_m,), the true anchor token of each token, −1 for none: drawn as rings, and the share of
        mass that agrees is in the subtitle
    most : the mass that gets the brightest colour; left out, the largest of this plan, but never less than three times
        what an even spread puts in a cell, so that a plan without structure looks like one

    Raises
    ------
    ValueError
        If there are words, but not one per token.

    Examples
    --------
    >>> figure = transport_plan([[0.5, 0.0], [0.1, 0.4]], ["step 1", "step 2"], ["good", "film"])
    >>> figure.data[0].z.sum().round(6)
    np.float64(1.0)
    """
    mass = floats(mass)
    rows, row_names = labels_and_names(row_words, mass.shape[0], names[0])
    columns, column_names = labels_and_names(column_words, mass.shape[1], names[1])
    partners = None if partners is None else array(partners)
    if most is None:
        most = float(max(mass.max(), 3 / mass.size)) if mass.size else 1.0
    below = 64 if not len(row_words) else 64 + 6 * max(len(short(word, ALONG)) for word in row_words)
    height = int(np.clip(170 + 30 * len(columns), 380, 720)) + below
    band = 56 / (height - 96 - below)  # the marginals' bars over the plan are as high in every figure
    sizes = {"column_widths": [0.60, 0.09, 0.31], "row_heights": [band, 1 - band]}
    figure = make_subplots(rows=2, cols=3, horizontal_spacing=0.015, vertical_spacing=0.025, **sizes)
    figure.add_trace(_heat(mass, row_names, column_names, names[0], most), 2, 1)
    figure.add_trace(_rings(partners), 2, 1)
    of_rows, of_columns = mass.sum(1), mass.sum(0)
    figure.add_trace(_bars(of_rows, row_names, names[0], x=np.arange(len(rows)), y=of_rows), 1, 1)
    upright = {"x": of_columns, "y": np.arange(len(columns)), "orientation": "h"}
    figure.add_trace(_bars(of_columns, column_names, names[1], **upright), 2, 2)
    for trace in (*_links(mass, partners), *_link_ends(mass, row_names, column_names, names)):
        figure.add_trace(trace, 2, 3)
    _axes(figure, rows, columns, names)
    best = "; ".join(f"{row_names[i]} → {column_names[j]}" for i, j in strongest(mass)[:3]).replace("<br>", " ")
    words = f"The strongest links: {best}." if best else "No link is clearly stronger than an even spread."
    title, note = f"Transport plan: {names[0]} → {names[1]}", with_agreement(note, mass, partners)
    return titled(figure, title, note, height=height, words=words, margin_b=below)


def transport_sweep(
    masses: Sequence[Any],
    values: Sequence[float],
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    start: int = 0,
    **rest: Any,
) -> go.Figure:
    """Draw several plans of the same tokens behind one slider that needs no running Python.

    Parameters
    ----------
    masses : K arrays (T_m, T_anchor)
    values : the ε of each, shown beside the slider
    start : the plan that is shown first
    row_words, column_words, **rest : as for `transport_plan`

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
    below = figure.layout.margin.b
    slider = {
        "active": start,
        "currentvalue": {"prefix": "ε = ", "font": {"size": 16}},
        "pad": {"t": below},
        "len": 0.6,
        "steps": [{"label": mark, "method": "animate", "args": [[mark], still]} for mark in marks],
    }
    return figure.update_layout(sliders=[slider], height=figure.layout.height + 90, margin_b=below + 90)


def labels_and_names(words: Sequence[str], count: int, modality: str) -> tuple[list[str], list[str]]:
    """Return the words of `count` tokens, or their numbers from 1 without words; and "audio 3 “so”" or "audio 3"."""
    if len(words) not in (0, count):
        raise ValueError(f"labels: found {len(words)}; expected {count}, one per token of the plan, or none")
    numbers = [str(i + 1) for i in range(count)]
    labels = [str(w) for w in words] or numbers
    pairs = zip(labels, numbers, strict=True)
    return labels, [f"{modality} {number}" + ("" if label == number else quoted(label)) for label, number in pairs]


def strongest(mass: np.ndarray, most: int | None = None) -> np.ndarray:
    """Return the cells (K, 2) with most mass, the strongest first.

    K is at most `most`, or max(T_m, T_anchor). No cell carries less than CLEAR times what an even spread would.
    """
    even = np.outer(mass.sum(1), mass.sum(0))
    clear = np.where(mass > CLEAR * even, mass, 0)
    count = min(most or max(mass.shape), int((clear > 0).sum()))
    return np.dstack(np.unravel_index(np.argsort(clear, axis=None)[::-1][:count], mass.shape))[0]


def links(
    mass: np.ndarray, true: np.ndarray, starts: Sequence[Any], ends: Sequence[Any], widths: int, most: int | None = None
) -> dict[tuple[bool, int], tuple[list, list]]:
    """Return x and y of the lines of the `strongest` links, by whether they are true and by width, 0 the thinnest.

    The number of lines is fixed, so that a slider redraws few traces. Tokens are at `starts` (T_m, 2) and the anchor's
    at `ends` (T_anchor, 2); `true` (T_m, T_anchor) holds True for true partners.
    """
    largest = max(min(mass.sum(1).max(), mass.sum(0).max()), 1e-12) if mass.size else 1  # a link cannot carry more
    lines: dict[tuple[bool, int], tuple[list, list]] = {(t, k): ([], []) for t in (False, True) for k in range(widths)}
    for i, j in strongest(mass, most):
        x, y = lines[bool(true[i, j]), min(int(mass[i, j] / largest * widths), widths - 1)]
        x += [ends[j][0], starts[i][0], None]
        y += [ends[j][1], starts[i][1], None]
    # An empty trace would lose its place in the legend.
    return {key: (x or [None], y or [None]) for key, (x, y) in lines.items()}


def shares_of_rows(mass: np.ndarray) -> np.ndarray:
    """Return what share of its mass each row sends to each column."""
    return mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)


def texts_of_bars(names: Sequence[str], sums: np.ndarray) -> list[str]:
    """Return the hover text of each token's bar: its name, and its share of all mass."""
    return [f"{name}<br>{share:.1%} of all mass" for name, share in zip(names, sums, strict=True)]


def plan_axes(rows: list[str], columns: list[str], modality: str, most: tuple[int, int]) -> tuple[dict, dict]:
    """Return the settings of the axes under and beside a plan, with `most` labels at each."""
    numbered = rows == [str(i + 1) for i in range(len(rows))]
    along = ticks(rows if numbered else [short(r, ALONG) for r in rows], most[0])
    along |= {"range": [-0.5, len(rows) - 0.5], "tickangle": 0 if numbered else -45}
    down = {"range": [len(columns) - 0.5, -0.5], **ticks([short(c) for c in columns], most[1])}
    return {**along, "title_text": f"{modality}, in order"}, {**down, "ticks": ""}


def _heat(mass: np.ndarray, rows: list[str], columns: list[str], modality: str, most: float) -> go.Heatmap:
    share = shares_of_rows(mass)
    hover = [
        [
            f"{row}<br>→ {column}<br>{mass[i, j]:.2%} of all mass, {share[i, j]:.0%} of this {modality} token's"
            for i, row in enumerate(rows)
        ]
        for j, column in enumerate(columns)
    ]
    corner = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "top"}  # the free one over the links
    heading = {"text": "share of all mass", "side": "top", "font": {"size": 13}}
    scale = {
        "len": 0.27,
        "thickness": 10,
        "xpad": 0,
        "ypad": 0,
        "tickvals": [0, most],
        "ticktext": ["0", f"{most:.1%}"],
    }
    return heat(mass.T, most, gap=int(max(mass.shape) <= 32), bar={**corner, **scale, "title": heading}, text=hover)


def _rings(partners: np.ndarray | None) -> go.Scatter:
    """Return a ring per token that has a true partner."""
    partners = np.array([], int) if partners is None else partners
    known = np.flatnonzero(partners >= 0)
    size = float(np.clip(300 / max(len(known), 1), 4, 9))
    marker = {"symbol": "circle", "size": size, "color": "white", "line": {"color": "black", "width": size / 5}}
    return dots(known, partners[known], marker, name="true partner", showlegend=bool(len(known)))


def _bars(sums: np.ndarray, names: list[str], modality: str, **axes: Any) -> go.Bar:
    return go.Bar(
        marker_color=look(modality).colour,
        hovertext=texts_of_bars(names, sums),
        hovertemplate="%{hovertext}" + HOVER_ENDS,
        textposition="none",
        showlegend=False,
        **axes,
    )


def _heights(mass: np.ndarray) -> np.ndarray:
    """Return where the modality's tokens stand in the links' right column: spread over the anchor's height."""
    return (np.arange(mass.shape[0]) + 0.5) * mass.shape[1] / max(mass.shape[0], 1) - 0.5


def _links(mass: np.ndarray, partners: np.ndarray | None) -> list[go.Scatter]:
    """Return the links from the anchor's tokens at x = 0 to the modality's at x = 1."""
    thin = float(np.clip(24 / max(mass.shape), 0.3, 1))
    true = np.zeros(mass.shape, bool) if partners is None else partners[:, None] == np.arange(mass.shape[1])
    starts, ends = [(1, y) for y in _heights(mass)], [(0, j) for j in range(mass.shape[1])]
    return [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"width": WIDTHS[k] * thin, "color": INK if kind else LIGHT},
            name="true link" if kind else "other link",
            legendgroup=str(kind),
            showlegend=k == 2 and partners is not None,
            hoverinfo="skip",
        )
        for (kind, k), (x, y) in links(mass, true, starts, ends, len(WIDTHS)).items()
    ]


def _link_ends(mass: np.ndarray, rows: list[str], columns: list[str], names: Pair) -> list[go.Scatter]:
    """Return the tokens at both ends of the links."""
    sides = ((0, np.arange(len(columns)), columns, names[1]), (1, _heights(mass), rows, names[0]))
    return [
        dots([x] * len(texts), y, look(name).marker(11 if len(texts) <= 32 else 6), texts, showlegend=False)
        for x, y, texts, name in sides
    ]


def _axes(figure: go.Figure, rows: list[str], columns: list[str], names: Pair) -> None:
    along, beside = plan_axes(rows, columns, names[0], (20, 26))
    down = {"range": beside["range"]}
    bare = {"showticklabels": False, "ticks": "", "showline": False}
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(range=along["range"], **bare, row=1, col=1)
    figure.update_yaxes(**bare, rangemode="tozero", row=1, col=1)
    figure.update_xaxes(**along, row=2, col=1)
    figure.update_yaxes(**beside, row=2, col=1)
    figure.update_xaxes(**bare, rangemode="tozero", row=2, col=2)
    figure.update_yaxes(**down, **bare, row=2, col=2)
    sides = {"range": [-0.12, 1.12], "tickvals": [0, 1], "ticktext": [names[1], names[0]], "ticks": ""}
    figure.update_xaxes(**sides, title="strongest links", row=2, col=3)
    figure.update_yaxes(**down, **bare, row=2, col=3)
    for axis in ("xaxis2", "yaxis2", "xaxis3", "yaxis3"):  # the unused corners of the top row
        figure.layout[axis].visible = False
    # Beside the title, where neither words nor a slider can run into it.
    legend = {"orientation": "v", "x": 1, "xanchor": "right", "y": 0.99, "yanchor": "top", "yref": "container"}
    figure.update_layout(bargap=0.25, legend=legend)
