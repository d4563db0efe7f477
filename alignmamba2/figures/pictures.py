"""Pictures: side by side, and transport plans as links between the patches of two, or between patches and words."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..trace import Pair
from .marks import HOVER_ENDS, dots, panels
from .style import COLOURS, INK, array, floats, joined, look, short, titled
from .transport import shares_of_rows, strongest

Grid = tuple[int, int]
MARGIN = {"l": 20, "r": 20, "b": 20}
WIDEST = 360  # pixels of a picture; a page should stay light


def side_by_side(pictures: Mapping[str, Any], *, title: str = "Pictures", note: str = "") -> go.Figure:
    """Draw pictures in a row, each under its caption, none stretched.

    They are by caption uint8 arrays (H, W, 3), or arrays (H, W), which become grey, from dark to light. A `ValueError`
    says that an array is no picture.

    >>> figure = side_by_side({"colour": np.zeros((4, 6, 3), np.uint8), "depth": np.eye(4)})
    >>> [a.text for a in figure.layout.annotations]
    ['colour', 'depth']
    """
    figure = panels(list(pictures), 0.03)
    for column, values in enumerate(pictures.values(), start=1):
        figure.add_trace(as_trace(pixels(values)), 1, column)
    hidden = {"visible": False, "constrain": "domain"}
    figure.update_xaxes(**hidden).update_yaxes(**hidden).update_annotations(font_size=15)
    sizes = ", ".join(f"{name}: {' × '.join(map(str, np.shape(array(p))[:2]))}" for name, p in pictures.items())
    return titled(figure, title, note, height=400, words=f"{sizes}.", margin=MARGIN)


def of_sample(dataset: Any, sample: Any) -> dict[str, Any]:
    """Return the pictures of a sample by modality, as `Dataset.show` makes them, without missing modalities.

    >>> from types import SimpleNamespace
    >>> room = SimpleNamespace(features={"image": [1.0], "depth": []})
    >>> show = {"image": lambda sample: "a picture", "depth": lambda sample: None}
    >>> of_sample(SimpleNamespace(show=show), room)
    {'image': 'a picture'}
    """
    show = {m: see for m, see in getattr(dataset, "show", {}).items() if m != "audio"}
    missing = {m for m, tokens in sample.features.items() if not len(tokens)}
    return {m: see(sample) for m, see in show.items() if m not in missing}


def pixels(values: Any) -> np.ndarray:
    """Return a picture as bytes (H, W, 3); one number per pixel (H, W) becomes grey, from dark to light."""
    values = array(values)
    if values.ndim == 3 and values.shape[2] == 3:
        return values.astype(np.uint8)
    if values.ndim != 2:
        raise ValueError(f"picture: found {values.shape}; expected (H, W, 3) or (H, W)")
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def data_uri(picture: Any) -> str:
    """Return a PIL image as a data URI of a PNG, for a page that stands alone."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def as_trace(picture: np.ndarray, x: float = 0.0) -> go.Image:
    """Return a picture (H, W, 3) with its pixels at x, x + 1, …; a large one is drawn coarser, at the same size."""
    from PIL import Image

    step = max(1, -(-max(picture.shape[:2]) // WIDEST))
    source = data_uri(Image.fromarray(np.ascontiguousarray(picture[::step, ::step])))
    first = (step - 1) / 2
    return go.Image(source=source, x0=x + first, dx=step, y0=first, dy=step, hoverinfo="skip")


def patch_links(
    mass: Any, left: Any, right: Any, grid: Grid, *, names: Pair = ("rgb", "depth"), most: int = 14, note: str = ""
) -> go.Figure:
    """Draw the strongest links between the patches of two pictures side by side, such as colour and depth.

    A `ValueError` says that the pictures differ in size, or that the mass does not fit the grid.

    The mass (P, P) goes from patches of the left picture (rows) to those of the right, row by row in a grid of (rows,
    columns), P = rows · columns. Pictures are uint8 arrays (H, W, 3) or arrays (H, W) of any scale, in the same size.
    At `most` so many links are drawn.

    >>> import numpy
    >>> photo = numpy.zeros((8, 8, 3), "uint8")
    >>> figure = patch_links(numpy.eye(4) / 4, photo, photo, (2, 2))
    >>> figure.layout.meta["words"]
    '4 links are drawn; 100% of them join the same place in both pictures.'
    """
    mass, count = floats(mass), grid[0] * grid[1]
    pictures = [pixels(p) for p in (left, right)]
    if pictures[0].shape != pictures[1].shape or mass.shape != (count, count):
        raise ValueError(
            f"patch_links: found pictures {pictures[0].shape} and {pictures[1].shape}, mass {mass.shape}; expected two "
            f"of one size and ({count}, {count}) for a grid of {grid}"
        )
    height, width = pictures[0].shape[:2]
    away = width * 1.12
    figure = go.Figure([as_trace(pictures[0]), as_trace(pictures[1], away)])
    centres, share = _centres(grid, height, width), shares_of_rows(mass)
    pairs = strongest(mass, most)
    _curves(figure, [(centres[i], centres[j] + (away, 0), share[i, j]) for i, j in pairs], bow=0.3)
    _bare(figure, height, away + width)
    heading = {"y": 0, "showarrow": False, "yanchor": "bottom", "yshift": 4, "font": {"size": 17}}
    for name, patches, shift in ((names[0], pairs[:, 0], 0), (names[1], pairs[:, 1], away)):
        _tokens(figure, centres[patches] + (shift, 0), name, [f"{name} patch {p + 1}" for p in patches])
        figure.add_annotation(x=shift + width / 2, text=f"<b>{name}</b>", **heading)
    if len(pairs):
        stay = f"{float(np.mean(pairs[:, 0] == pairs[:, 1])):.0%}"
        words = f"{len(pairs)} links are drawn; {stay} of them join the same place in both pictures."
        note = joined(note, f"{stay} of the links drawn join the same place")
    else:
        words = "No link is stronger than chance, so none is drawn."
        note = joined(note, "no link is stronger than chance")
    title = f"Which patch belongs to which: {names[0]} ↔ {names[1]}"
    return titled(figure, title, note, height=520, words=words, margin={**MARGIN, "t": 122})


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
    """Draw a picture with its words beside it: links from patches to words, or one word's mass over the picture.

    The mass (P, T) goes from patches, row by row in a grid of (rows, columns), to words; a `ValueError` names another
    shape. `word` is the place of the word whose mass is shown; left out, the strongest links of each word are drawn, at
    `most` so many, as many for each. `names` are the modalities of patches and words.

    >>> import numpy
    >>> figure = words_on_picture(numpy.eye(4) / 4, numpy.zeros((8, 8)), (2, 2), ["a", "cat", "on", "grass"], word=1)
    >>> figure.data[1].z.tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """
    mass, picture = floats(mass), pixels(image)
    if mass.shape != (grid[0] * grid[1], len(words)):
        raise ValueError(f"mass: found {mass.shape}; expected ({grid[0] * grid[1]}, {len(words)}), patches by words")
    height, width = picture.shape[:2]
    figure = go.Figure(as_trace(picture))
    at = np.column_stack([np.full(len(words), width * 1.22), (np.arange(len(words)) + 0.5) * height / len(words)])
    if word is None:
        pairs, share, centres = _best_of_each(mass, most), shares_of_rows(mass), _centres(grid, height, width)
        _curves(figure, [(centres[i], at[j], share[i, j]) for i, j in pairs])
        texts = [f"patch {i + 1} → “{words[j]}”: {share[i, j]:.0%} of its mass" for i, j in pairs]
        _tokens(figure, centres[pairs[:, 0]], names[0], texts)
        bold, counts = np.unique(pairs[:, 1], return_counts=True)
        takes = "; ".join(f"“{words[j]}” takes {count}" for j, count in zip(bold, counts, strict=True))
        about = f"Of the {len(pairs)} links drawn, {takes}."
    else:
        figure.add_trace(_shade(mass[:, word].reshape(grid), height, width, words[word]))
        bold = [word]
        about = f"Where the mass of “{words[word]}” lies: its patches are bright, the others are darkened."
    _tokens(figure, at, names[1], list(words))
    beside = {"xshift": 12, "xanchor": "left", "showarrow": False, "font": {"size": 17, "color": INK}}
    for j, (x, y) in enumerate(at):
        text = short(words[j], 18)
        figure.add_annotation(x=x, y=y, text=f"<b>{text}</b>" if j in bold else text, **beside)
    _bare(figure, height, width * 1.75)
    return titled(figure, "Words on the picture", note, height=540, words=about, margin={**MARGIN, "t": 96})


def _shade(mass: np.ndarray, height: int, width: int, word: str) -> go.Heatmap:
    down, across = height / mass.shape[0], width / mass.shape[1]
    return go.Heatmap(
        z=mass,
        x0=across / 2 - 0.5,
        dx=across,
        y0=down / 2 - 0.5,
        dy=down,
        colorscale=[[0, "rgba(0,0,0,0.62)"], [1, "rgba(255,255,255,0.0)"]],
        showscale=False,
        hovertemplate=f"%{{z:.2%}} of all mass goes from here to “{word}”" + HOVER_ENDS,
    )


def _centres(grid: Grid, height: int, width: int) -> np.ndarray:
    y, x = np.meshgrid(np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5, indexing="ij")
    return np.column_stack([x.ravel() * width / grid[1] - 0.5, y.ravel() * height / grid[0] - 0.5])


def _curves(figure: go.Figure, ends: Sequence[tuple[np.ndarray, np.ndarray, float]], bow: float = 0.0) -> None:
    """Draw links (from, to, share of mass) with a light rim, to be seen on any picture; a larger share is wider.

    They are bowed upwards by `bow` of their width, so that those of one row do not lie on each other.
    """
    for third, width in enumerate((1.5, 2.5, 3.5)):
        x, y = [], []
        for a, b, share in ends:
            if min(int(share * 3), 2) == third:
                part = np.linspace(0, 1, 13)[:, None]
                arc = a + part * (b - a) - part * (1 - part) * (0, bow * np.abs(b - a)[0])
                x += [*arc[:, 0], None]
                y += [*arc[:, 1], None]
        quiet = {"marker": {"size": 0.1}, "hoverinfo": "skip", "showlegend": False}
        for colour, extra, mode in (("white", 2.5, "lines+markers"), (COLOURS[3], 0.0, "lines")):
            figure.add_scatter(x=x, y=y, mode=mode, line={"width": width + extra, "color": colour}, **quiet)


def _tokens(figure: go.Figure, at: np.ndarray, modality: str, text: Sequence[str]) -> None:
    marker = look(modality).marker(11, line={"color": "white", "width": 1.5})
    figure.add_trace(dots(at[:, 0], at[:, 1], marker, text, showlegend=False))


def _best_of_each(mass: np.ndarray, most: int) -> np.ndarray:
    """Return (K, 2), for each column in turn the rows that it gets most from, as many for each."""
    each = max(1, most // mass.shape[1])
    best = np.argsort(-mass, axis=0)[:each]
    return np.array([(i, j) for j in range(mass.shape[1]) for i in best[:, j] if mass[i, j] > 0], int).reshape(-1, 2)


def _bare(figure: go.Figure, height: float, width: float) -> None:
    """Hide the axes, and give a pixel the same width and height."""
    figure.update_xaxes(visible=False, range=[-width * 0.01, width * 1.01], constrain="domain")
    figure.update_yaxes(visible=False, range=[height * 1.01, -height * 0.01], scaleanchor="x", constrain="domain")
