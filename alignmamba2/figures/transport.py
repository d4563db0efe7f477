"""The transport plan of one sample and one pair: where the mass goes, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..trace import Pair, Trace
from .marks import add_trace, axes_of, named
from .style import INK, LIGHT, PAPER, PLAN_SCALE, array, floats, joined, look, short, ticks, titled, token_names

WIDTHS = (1.0, 2.5, 5.0)  # of links: few steps, so that a slider redraws ten traces and not a hundred
MOST_LINKS = 60
KINDS = {"other link": LIGHT, "true link": INK}
CLEAR = 1.5  # times an even spread, from which on a link is drawn
ALONG = 14  # letters of a label under the plan


def plan_of(trace: Trace, sample: int, pair: Pair) -> dict[str, Any]:
    """Return the arguments with which `transport_plan` draws one sample's plan: mass, words and names, without padding.

    `sample` is its place in the batch that was traced, `pair` is (modality, anchor); a `KeyError` says that the trace
    has no plan of it.
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
    row_words, column_words : T_m and T_anchor strings, or a `ValueError` says how many; left empty, tokens are numbered
    partners : integer array (T_m,), the true anchor token of each token, −1 for none: drawn as rings, and the share of
        mass that agrees is in the subtitle
    most : the mass that gets the brightest colour; left out, the largest of this plan, but never less than three times
        what an even spread puts in a cell, so that a plan without structure looks like one

    Examples
    --------
    >>> figure = transport_plan([[0.5, 0.0], [0.1, 0.4]], ["step 1", "step 2"], ["good", "film"])
    >>> figure.data[0].z.sum().round(6)
    np.float64(1.0)
    """
    mass = floats(mass)
    below = 64 if not len(row_words) else 64 + 6 * max(len(short(word, ALONG)) for word in row_words)
    height = int(np.clip(170 + 30 * mass.shape[1], 380, 720)) + below
    figure = laid_out(56 / (height - 96 - below))  # the marginals' bars over the plan are as high in every figure
    ends = Ends(names, row_words, column_words, partners)
    row_names, column_names = put_tokens(figure, ends, *mass.shape)
    put_mass(figure, ends, mass, most)
    best = "; ".join(f"{row_names[i]} → {column_names[j]}" for i, j in strongest(mass)[:3]).replace("<br>", " ")
    words = f"The strongest links: {best}." if best else "No link is clearly stronger than an even spread."
    # Beside the title, where neither words nor a slider can run into it.
    legend = {"orientation": "v", "x": 1, "xanchor": "right", "y": 0.99, "yanchor": "top", "yref": "container"}
    title, note = f"Transport plan: {names[0]} → {names[1]}", with_agreement(note, mass, partners)
    return titled(figure, title, note, height=height, words=words, margin_b=below, legend=legend)


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
    """Return the words of `count` tokens, or their numbers from 1 without words; and their names."""
    if len(words) not in (0, count):
        raise ValueError(f"labels: found {len(words)}; expected {count}, one per token of the plan, or none")
    labels = [str(w) for w in words] or [str(i + 1) for i in range(count)]
    return labels, token_names(modality, words, count)


def strongest(mass: np.ndarray, most: int | None = None) -> np.ndarray:
    """Return the cells (K, 2) with most mass, the strongest first.

    K is at most `most`, or max(T_m, T_anchor). No cell carries less than CLEAR times what an even spread would.
    """
    even = np.outer(mass.sum(1), mass.sum(0))
    clear = np.where(mass > CLEAR * even, mass, 0)
    count = min(most or max(mass.shape), int((clear > 0).sum()))
    return np.dstack(np.unravel_index(np.argsort(clear, axis=None)[::-1][:count], mass.shape))[0]


@dataclass(frozen=True)
class Ends:
    """The tokens of a plan (T_m, T_anchor): modality and anchor, their words, the true partners, and their places.

    `places` are (T_m, 2) and (T_anchor, 2), of points on a plane. Without them, links run between two sides.
    """

    names: Pair = ("tokens", "anchor")
    row_words: Sequence[str] = ()
    column_words: Sequence[str] = ()
    partners: Any = None
    places: tuple[np.ndarray, np.ndarray] | None = None

    def at(self, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where the links of the n tokens begin, and where those of the anchor's k tokens end."""
        if self.places is not None:
            return self.places
        right, left = (np.column_stack([np.full(c, x), (np.arange(c) + 0.5) / c]) for x, c in ((1, n), (0, k)))
        return right, left


def laid_out(band: float) -> go.Figure:
    """Return the figure of a plan without numbers, for `put_tokens` and `put_mass`; `band` is the bars' height."""
    sizes = {"column_widths": [0.52, 0.07, 0.41], "row_heights": [band, 1 - band]}
    gaps = {"horizontal_spacing": 0.02, "vertical_spacing": 0.03}
    figure = make_subplots(2, 3, specs=[[{}, None, None], [{}, {}, {}]], **sizes, **gaps)
    # In the free corner over the links.
    corner = {"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "top", "xpad": 0, "ypad": 0}
    title = {"text": "share of all mass", "side": "top", "font": {"size": 13}}
    bar = {"orientation": "h", "len": 0.36, "thickness": 10, "tickformat": ".1%", "nticks": 3, "title": title}
    hover = "%{text}<br>%{z:.2%} of all mass, %{customdata:.0%} of this token's"
    style = {"zmin": 0, "colorscale": PLAN_SCALE, "colorbar": {**corner, **bar}}
    add_trace(figure, "heatmap", "heat", hover, place=(2, 1), **style)
    ring = {"symbol": "circle", "size": 8, "color": "white", "line": {"color": "black", "width": 2}}
    add_trace(figure, "markers", "rings", place=(2, 1), legend="true partner", marker=ring)
    hover = "%{text}<br>%{value:.1%} of all mass"
    add_trace(figure, "bar", "rows", hover.replace("value", "y"), place=(1, 1), textposition="none")
    upright = {"orientation": "h", "textposition": "none"}
    add_trace(figure, "bar", "columns", hover.replace("value", "x"), place=(2, 2), **upright)
    for kind, colour in KINDS.items():
        for k, width in enumerate(WIDTHS):
            style = {"line": {"width": width, "color": colour}, "legendgroup": kind, "showlegend": False}
            add_trace(figure, "lines", f"{kind} {k}", place=(2, 3), legend=kind, **style)
    for side in ("to", "from"):
        add_trace(figure, "markers", side, "%{text}", place=(2, 3))
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    bare = {"showticklabels": False, "ticks": "", "showline": False}
    for row, column in ((1, 1), (2, 2), (2, 3)):
        figure.update_xaxes(**bare, row=row, col=column)
        figure.update_yaxes(**bare, row=row, col=column)
    figure.update_xaxes(showticklabels=True, row=2, col=3)
    return figure.update_layout(bargap=0.25)


def put_tokens(figure: go.Figure, ends: Ends, n: int, k: int) -> tuple[list[str], list[str]]:
    """Put into the figure what does not depend on the mass: names, ticks, rings, links' ends. Return the names."""
    (m, anchor), traces = ends.names, named(figure)
    rows, row_names = labels_and_names(ends.row_words, n, m)
    columns, column_names = labels_and_names(ends.column_words, k, anchor)
    traces["heat"].text = [[f"{a}<br>→ {b}" for a in row_names] for b in column_names]
    partners = np.array([], int) if ends.partners is None else array(ends.partners)
    known = np.flatnonzero(partners >= 0)
    size = float(np.clip(240 / max(n, 1), 3, 8))
    traces["rings"].update(x=known, y=partners[known], showlegend=bool(len(known)), marker_size=size)
    for kind in KINDS:
        traces[f"{kind} 1"].showlegend = bool(len(known))
    along, down = [-0.5, n - 0.5], [k - 0.5, -0.5]
    axes_of(figure, traces["rows"])[0].range, axes_of(figure, traces["columns"])[1].range = along, down
    x, beside = axes_of(figure, traces["heat"])
    numbered = not len(ends.row_words)
    x.update(range=along, tickangle=0 if numbered else -45, title_text=f"{m}, in order")
    x.update(ticks([short(word, ALONG) for word in rows], 18))
    beside.update(range=down, ticks="", **ticks([short(word) for word in columns], 24))
    x, y = axes_of(figure, traces["from"])
    if ends.places:
        beside.title.text = f"{anchor}, in order"
        x.update(range=[0, 1], showticklabels=False, title_text="drag points; lines: strongest links")
        y.range = [0, 1]
    else:
        x.update(range=[-0.1, 1.1], tickvals=[0, 1], ticktext=[anchor, m], title_text="strongest links")
        y.range = [1, 0]
    names = (("from", "rows", row_names, m), ("to", "columns", column_names, anchor))
    for (side, bars, texts, name), at in zip(names, ends.at(n, k), strict=True):
        style = look({"blue": "text", "orange": "audio"}.get(name, name))
        marker = style.marker(11 if max(n, k) <= 32 else 7, line={"width": 1, "color": PAPER})
        traces[side].update(x=at[:, 0], y=at[:, 1], text=texts, marker=marker)
        traces[bars].update(text=texts, marker_color=style.colour)
    return row_names, column_names


def put_mass(figure: go.Figure, ends: Ends, mass: np.ndarray, most: float | None = None) -> None:
    """Put a plan (T_m, T_anchor) into the figure: its cells, their sums, and the strongest links."""
    traces, rows, columns = named(figure), mass.sum(1), mass.sum(0)
    if most is None:
        most = float(max(mass.max(), 3 / mass.size)) if mass.size else 1.0
    traces["heat"].update(z=mass.T, customdata=shares_of_rows(mass).T, zmax=most)
    traces["rows"].update(x=np.arange(len(rows)), y=rows)
    traces["columns"].update(x=columns, y=np.arange(len(columns)))
    lines: dict[str, tuple[list, list]] = {f"{kind} {k}": ([], []) for kind in KINDS for k in range(len(WIDTHS))}
    starts, stops = ends.at(*mass.shape)
    largest = max(min(rows.max(), columns.max()), 1e-12) if mass.size else 1  # a link cannot carry more
    for i, j in strongest(mass, min(2 * max(mass.shape), MOST_LINKS)):
        other = ends.partners is not None and int(ends.partners[i]) != j
        width = min(int(mass[i, j] / largest * len(WIDTHS)), len(WIDTHS) - 1)
        x, y = lines[f"{'other' if other else 'true'} link {width}"]
        x += [stops[j][0], starts[i][0], None]
        y += [stops[j][1], starts[i][1], None]
    for name, (x, y) in lines.items():  # an empty trace would lose its place in the legend
        traces[name].update(x=x or [None], y=y or [None])


def shares_of_rows(mass: np.ndarray) -> np.ndarray:
    """Return what share of its mass each row sends to each column."""
    return mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
