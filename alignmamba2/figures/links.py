"""Which token belongs to which, drawn as links: two rows of tokens, patches of two pictures, words on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..model.trace import Pair
from .pictures import as_trace, pixels
from .style import COLOURS, INK, array, look, short, titled
from .transport import labels_of, link_ends, links, named, strongest, with_agreement

Grid = tuple[int, int]
LABEL = 20  # letters of a token's label


def token_links(
    mass: Any,
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    names: Pair = ("tokens", "anchor"),
    partners: Any = None,
    note: str = "",
) -> go.Figure:
    """The strongest links of a plan between two rows of tokens: the anchor's words above, the others' below.

    Parameters
    ----------
    mass : array (T_m, T_anchor)
    row_words, column_words, names, partners, note
        As for `transport_plan`: with partners, true links are dark and the others light.

    Examples
    --------
    >>> figure = token_links([[0.5, 0], [0, 0.5]], ["a laugh", "a sigh"], ["funny", "sad"], names=("audio", "text"))
    >>> [word.text for word in figure.layout.annotations]
    ['funny', 'sad', 'a laugh', 'a sigh']
    """
    mass = array(mass).astype(float)
    rows, columns = labels_of(row_words, mass.shape[0]), labels_of(column_words, mass.shape[1])
    lines = [*links(mass, partners), *link_ends(mass, rows, columns, names)]
    for one in lines:
        one.x, one.y = one.y, [None if x is None else 1 - x for x in one.x]
    figure, labels = go.Figure(lines), []
    for label, i, y, at in (
        *((c, j, 1.05, float(j)) for j, c in enumerate(columns)),
        *((r, i, -0.05, float(x)) for i, (r, x) in enumerate(zip(rows, _along(mass), strict=True))),
    ):
        many = len(columns if y > 0 else rows) > 24
        if many and i % (1 + len(columns if y > 0 else rows) // 24):
            continue
        labels.append(
            {
                "x": at,
                "y": y,
                "text": short(label, LABEL),
                "textangle": -55,
                "showarrow": False,
                "xanchor": "left" if y > 0 else "right",
                "yanchor": "bottom" if y > 0 else "top",
                "font": {"size": 15},
            }
        )
    figure.update_layout(annotations=labels)  # at once: one by one takes half a second
    length = mass.shape[1]
    figure.update_xaxes(visible=False, range=[-1.6, length + 0.6])
    figure.update_yaxes(
        range=[-0.06, 1.06], tickvals=[0, 1], ticktext=[names[0], names[1]], showgrid=False, ticks="", showline=False
    )
    longest = [max((len(short(w, LABEL)) for w in side), default=0) for side in (columns, rows)]
    above, below = (24 + int(8.2 * n) for n in longest)
    best = strongest(mass)[:3]
    told = "; ".join(f"{_plain(rows[i], i, names[0])} with {_plain(columns[j], j, names[1])}" for i, j in best)
    words = f"The strongest links: {told}" if told else "No link is clearly stronger than an even spread"
    note = with_agreement(note, mass, partners)
    figure = titled(
        figure, f"Who belongs to whom: {names[0]} ↔ {names[1]}", note, height=400 + above + below, words=words + "."
    )
    legend = {"orientation": "v", "x": 1, "xanchor": "right", "y": 0.99, "yanchor": "top", "yref": "container"}
    return figure.update_layout(margin={"t": 90 + above, "b": 30 + below, "r": 20 + above // 2}, legend=legend)


def patch_links(
    mass: Any,
    left: Any,
    right: Any,
    grid: Grid,
    *,
    names: Pair = ("rgb", "depth"),
    most: int = 14,
    note: str = "",
) -> go.Figure:
    """The strongest links between the patches of two pictures side by side, such as colour and depth.

    Parameters
    ----------
    mass : array (P, P)
        From patches of the left picture (rows) to those of the right; patches go row by row.
    left, right : uint8 arrays (H, W, 3) or arrays (H, W) of any scale, in the same size
    grid : (rows, columns)
        Of patches, P = rows · columns.
    names : (left, right)
    most : int
        Links that are drawn.
    note : str

    Examples
    --------
    >>> import numpy
    >>> photo = numpy.zeros((8, 8, 3), "uint8")
    >>> figure = patch_links(numpy.eye(4) / 4, photo, photo, (2, 2))
    >>> figure.layout.meta["words"]
    '4 links are drawn; 100% of them join the same place in both pictures.'
    """
    mass = array(mass).astype(float)
    pictures = [pixels(p) for p in (left, right)]
    if pictures[0].shape != pictures[1].shape or mass.shape != (grid[0] * grid[1],) * 2:
        raise ValueError(
            f"patch_links: found pictures {pictures[0].shape} and {pictures[1].shape}, mass {mass.shape}; expected two "
            f"of one size and ({grid[0] * grid[1]}, {grid[0] * grid[1]}) for a grid of {grid}"
        )
    height, width = pictures[0].shape[:2]
    away = width * 1.12
    figure = go.Figure([as_trace(pictures[0]), as_trace(pictures[1], away)])
    centres = _centres(grid, height, width)
    own = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
    pairs = strongest(mass, most)
    _curves(figure, [(centres[i], centres[j] + (away, 0), own[i, j]) for i, j in pairs], bow=0.3)
    for side, (picks, shift) in enumerate((([i for i, _ in pairs], 0), ([j for _, j in pairs], away))):
        _dots(figure, centres[picks] + (shift, 0), names[side], [f"{names[side]} patch {p + 1}" for p in picks])
    _bare(figure, height, away + width)
    for x, name in ((width / 2, names[0]), (away + width / 2, names[1])):
        figure.add_annotation(
            x=x, y=0, text=f"<b>{name}</b>", showarrow=False, yanchor="bottom", yshift=4, font={"size": 17}
        )
    if len(pairs):
        stay = float(np.mean([i == j for i, j in pairs]))
        words = f"{len(pairs)} links are drawn; {stay:.0%} of them join the same place in both pictures."
        told = f"{stay:.0%} of the links drawn join the same place"
    else:
        told = "no link is stronger than chance"
        words = f"{told.capitalize()}, so none is drawn."
    note = " · ".join(filter(None, (note, told)))
    figure = titled(figure, f"Which patch belongs to which: {names[0]} ↔ {names[1]}", note, height=520, words=words)
    return figure.update_layout(margin={"l": 20, "r": 20, "b": 20, "t": 122})


def words_on_picture(
    mass: Any,
    image: Any,
    grid: Grid,
    words: Sequence[str],
    *,
    word: int | None = None,
    most: int = 20,
    names: Pair = ("image", "text"),
    note: str = "",
) -> go.Figure:
    """A picture with its words beside it: links from patches to words, or one word's mass laid over the picture.

    Parameters
    ----------
    mass : array (P, T)
        From patches, row by row, to words.
    image : uint8 array (H, W, 3) or array (H, W)
    grid : (rows, columns) of patches
    words : T strings
    word : int, optional
        Show where this one word's mass lies. Left out: the strongest links of each word.
    most : int
        Links that are drawn, as many for each word.
    names, note

    Examples
    --------
    >>> import numpy
    >>> figure = words_on_picture(numpy.eye(4) / 4, numpy.zeros((8, 8)), (2, 2), ["a", "cat", "on", "grass"], word=1)
    >>> figure.data[1].z.tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """
    mass, picture = array(mass).astype(float), pixels(image)
    if mass.shape != (grid[0] * grid[1], len(words)):
        raise ValueError(f"mass: found {mass.shape}; expected ({grid[0] * grid[1]}, {len(words)}), patches by words")
    height, width = picture.shape[:2]
    figure = go.Figure(as_trace(picture))
    column = width * 1.22
    heights = (np.arange(len(words)) + 0.5) * height / len(words)
    centres = _centres(grid, height, width)
    if word is None:
        pairs = _best_of_each(mass, most)
        share = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
        _curves(figure, [(centres[i], np.array((column, heights[j])), share[i, j]) for i, j in pairs])
        _dots(
            figure,
            centres[[i for i, _ in pairs]],
            names[0],
            [f"patch {i + 1} → “{words[j]}”: {share[i, j]:.0%} of its mass" for i, j in pairs],
        )
        lit = {j for _, j in pairs}
        told = "; ".join(f"“{words[j]}” takes {int((pairs[:, 1] == j).sum())}" for j in sorted(lit))
        about = f"Of the {len(pairs)} links drawn, {told}."
    else:
        figure.add_heatmap(
            z=mass[:, word].reshape(grid),
            x0=width / grid[1] / 2 - 0.5,
            dx=width / grid[1],
            y0=height / grid[0] / 2 - 0.5,
            dy=height / grid[0],
            colorscale=[[0, "rgba(0,0,0,0.62)"], [1, "rgba(255,255,255,0.0)"]],
            showscale=False,
            hovertemplate=f"%{{z:.2%}} of all mass goes from here to “{words[word]}”<extra></extra>",
        )
        lit = {word}
        about = f"Where the mass of “{words[word]}” lies: its patches are bright, the others are darkened."
    _dots(figure, np.column_stack([np.full(len(words), column), heights]), names[1], list(words))
    for j, text in enumerate(words):
        figure.add_annotation(
            x=column,
            y=heights[j],
            xshift=12,
            xanchor="left",
            showarrow=False,
            text=f"<b>{short(text, 18)}</b>" if j in lit else short(text, 18),
            font={"size": 17, "color": INK},
        )
    _bare(figure, height, width * 1.75)
    figure = titled(figure, "Words on the picture", note, height=540, words=about)
    return figure.update_layout(margin={"l": 20, "r": 20, "b": 20, "t": 96})


def _plain(label: str, i: int, modality: str) -> str:
    return named(label, i, modality).replace("<br>", " ")


def _along(mass: np.ndarray) -> np.ndarray:
    return (np.arange(mass.shape[0]) + 0.5) * mass.shape[1] / max(mass.shape[0], 1) - 0.5


def _centres(grid: Grid, height: int, width: int) -> np.ndarray:
    """(P, 2): x and y of the patches' centres, row by row."""
    y, x = np.meshgrid(np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5, indexing="ij")
    return np.column_stack([x.ravel() * width / grid[1] - 0.5, y.ravel() * height / grid[0] - 0.5])


def _curves(figure: go.Figure, ends: Sequence[tuple[np.ndarray, np.ndarray, float]], bow: float = 0.0) -> None:
    """Lines with a light rim, to be seen on any picture; the wider, the more of the patch's mass.

    Bowed upwards, so that those of one row do not lie on each other.
    """
    for low, width in ((0.0, 1.5), (1 / 3, 2.5), (2 / 3, 3.5)):
        x, y = [], []
        for a, b, share in ends:
            if low <= share < low + 1 / 3 or (low > 0.6 and share >= 1):
                part = np.linspace(0, 1, 13)[:, None]
                arc = a + part * (b - a) - part * (1 - part) * (0, bow * np.abs(b - a)[0])
                x += [*arc[:, 0], None]
                y += [*arc[:, 1], None]
        for colour, extra, mode in (("white", 2.5, "lines+markers"), (COLOURS[3], 0.0, "lines")):
            figure.add_scatter(
                x=x,
                y=y,
                mode=mode,
                marker={"size": 0.1},
                line={"width": width + extra, "color": colour},
                hoverinfo="skip",
                showlegend=False,
            )


def _dots(figure: go.Figure, at: np.ndarray, name: str, text: Sequence[str]) -> None:
    figure.add_scatter(
        x=at[:, 0],
        y=at[:, 1],
        mode="markers",
        marker={
            "symbol": look(name).symbol,
            "size": 11,
            "color": look(name).colour,
            "line": {"color": "white", "width": 1.5},
        },
        text=list(text),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _best_of_each(mass: np.ndarray, most: int) -> np.ndarray:
    """(K, 2): for each column in turn the rows that it gets most from, as many for each."""
    each = max(1, most // mass.shape[1])
    best = np.argsort(-mass, axis=0)[:each]
    return np.array([(i, j) for j in range(mass.shape[1]) for i in best[:, j] if mass[i, j] > 0], int).reshape(-1, 2)


def _bare(figure: go.Figure, height: float, width: float) -> None:
    figure.update_xaxes(visible=False, range=[-width * 0.01, width * 1.01], constrain="domain")
    figure.update_yaxes(visible=False, range=[height * 1.01, -height * 0.01], scaleanchor="x", constrain="domain")
