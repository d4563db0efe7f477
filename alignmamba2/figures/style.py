"""How every figure looks: a light and a dark template, one colour, symbol and dash a modality, and words for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

# The neutral colours, by role. `dark` puts others in their place, so figures name them and no other greys.
PAPER, INK, QUIET, LIGHT, GRID, SHADE = "#FFFFFF", "#222222", "#6B6B6B", "#A8A8A8", "#E4E4E4", "#EDEDED"
IN_THE_DARK = {
    PAPER: "#15181C",
    INK: "#F2F2F2",
    QUIET: "#B4B8BD",
    LIGHT: "#7D838A",
    GRID: "#363B41",
    SHADE: "#2B3036",
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# The place in this list is the colour, for good: text is blue in every picture of the course.
KNOWN = ("text", "audio", "video", "image", "depth", "rgb")
PLAN_SCALE = "cividis"
SIGNED = ((0, "#2070B4"), (0.5, PAPER), (1, "#C8302B"))  # around 0; `dark` gives it a dark middle
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"
TEMPLATE, DARK_TEMPLATE = "alignmamba2", "alignmamba2_dark"


@dataclass(frozen=True)
class Look:
    """A modality's colour, and the symbol and dash that say the same without colour."""

    colour: str
    symbol: str
    dash: str


def look(modality: str) -> Look:
    """The look of a modality, by its name; the same in every figure.

    Parameters
    ----------
    modality : str
        "text", "audio", "video", "image", "depth" and "rgb" have their own; another name always gets the
        same one of the six.

    Examples
    --------
    >>> look("text")
    Look(colour='#0072B2', symbol='circle', dash='solid')
    """
    i = KNOWN.index(modality) if modality in KNOWN else sum(map(ord, modality)) % len(KNOWN)
    return Look(COLOURS[i], SYMBOLS[i], DASHES[i])


def array(values: Any) -> np.ndarray:
    """Numbers of any kind (a tensor with a gradient too) as a NumPy array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def class_names(named: Sequence[str], count: int) -> list[str]:
    """The classes' names where there are any, or else "class 0", "class 1", and so on."""
    return list(named) or [f"class {i}" for i in range(count)]


def short(text: str, length: int = 24) -> str:
    """Text cut at a word near `length` characters, with an ellipsis when something was cut.

    Examples
    --------
    >>> short("a lot of sad parts in this film", 18)
    'a lot of sad parts…'
    """
    text = " ".join(str(text).split())
    if len(text) <= length + 1:
        return text
    cut = text[: length + 1]
    return (cut[: cut.rfind(" ")] if " " in cut[length // 2 :] else cut[:length]).rstrip(" ,.;:") + "…"


def wrapped(text: str, width: int = 60) -> str:
    """Text on several lines, for a hover box."""
    lines, line = [], ""
    for word in str(text).split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])


def titled(figure: go.Figure, title: str, note: str = "", *, height: int = 440, words: str = "") -> go.Figure:
    """Give a figure the template, a title, `note` as its subtitle and `words` for `describe`; returned for chaining."""
    figure.update_layout(template=TEMPLATE, height=height, title={"text": title, "subtitle": {"text": note}})
    figure.update_layout(meta={**(figure.layout.meta or {}), "words": words})
    if figure.layout.annotations:  # the panels' headings need a line of their own under the subtitle
        figure.update_layout(margin_t=122)
    return figure


def see_through(colour: str, opacity: float) -> str:
    """A colour "#RRGGBB" that lets this much of what is behind it through.

    Examples
    --------
    >>> see_through("#0072B2", 0.2)
    'rgba(0, 114, 178, 0.2)'
    """
    return f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, {opacity:g})"


def describe(figure: go.Figure) -> str:
    """What a figure shows, in plain words: its alt text.

    Examples
    --------
    >>> describe(titled(go.Figure(), "Two cats", "one photograph", words="The left one sleeps."))
    'Two cats. One photograph. The left one sleeps.'
    """
    title = figure.layout.title
    meta = figure.layout.meta or {}
    parts = [title.text or "", title.subtitle.text or "", meta.get("words", "")]
    sentences = [re.sub(r"<[^>]+>", " ", part).strip() for part in parts]
    return " ".join(s[0].upper() + s[1:] + ("" if s.endswith((".", "!", "?")) else ".") for s in sentences if s)


def dark(figure: go.Figure) -> go.Figure:
    """The same figure for a dark room: a copy in the dark template. The modalities keep their colours.

    Examples
    --------
    >>> dark(titled(go.Figure(), "Two cats")).layout.template.layout.paper_bgcolor
    '#15181C'
    """

    def darkened(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k in ("meta", "images") else darkened(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [darkened(v) for v in value]
        return IN_THE_DARK.get(value, value) if isinstance(value, str) else value

    # Part by part, since a whole figure's to_dict() would turn arrays into base64.
    parts = {
        "data": [trace.to_plotly_json() for trace in figure.data],
        "layout": {k: v for k, v in figure.layout.to_plotly_json().items() if k != "template"},
        "frames": [frame.to_plotly_json() for frame in figure.frames],
    }
    return go.Figure(darkened(parts)).update_layout(template=DARK_TEMPLATE)


def ticks(labels: Sequence[str], most: int = 30) -> dict[str, Any]:
    """Axis settings that put `labels` at 0, 1, 2, …, leaving some out where there are more than `most`."""
    step = max(1, -(-len(labels) // most))
    at = list(range(0, len(labels), step))
    return {"tickmode": "array", "tickvals": at, "ticktext": [labels[i] for i in at]}


def whole_steps(count: int, most: int) -> int:
    """A round step of 1, 2, 5, 10, … such that `count` whole numbers get at most about `most` ticks."""
    return next(s * 10**k for k in range(12) for s in (1, 2, 5) if count <= most * s * 10**k)


def _template(neutral: Callable[[str], str]) -> go.layout.Template:
    paper, ink, quiet, grid = map(neutral, (PAPER, INK, QUIET, GRID))
    axis = {
        "gridcolor": grid,
        "linecolor": quiet,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": grid,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 15}},
        "tickfont": {"size": 14},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 16, "color": ink},
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 18, "l": 20},
                "font": {"size": 20},
                "subtitle": {"font": {"size": 15, "color": quiet}},
            },
            "margin": {"l": 70, "r": 30, "t": 96, "b": 92},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": COLOURS,
            "colorscale": {"sequential": PLAN_SCALE},
            "hoverlabel": {
                "bgcolor": paper,
                "bordercolor": quiet,
                "font": {"family": FONT, "size": 15, "color": ink},
                "align": "left",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 0.01,
                "yanchor": "bottom",
                "yref": "container",
            },
            "xaxis": axis,
            "yaxis": axis,
        },
        data={
            "heatmap": [
                {
                    "colorscale": PLAN_SCALE,
                    "colorbar": {
                        "outlinewidth": 0,
                        "thickness": 14,
                        "title": {"font": {"size": 14}},
                        "tickfont": {"size": 13},
                    },
                }
            ],
            "scatter": [{"line": {"width": 3}, "marker": {"size": 9}}],
        },
    )


pio.templates[TEMPLATE] = _template(lambda colour: colour)
pio.templates[DARK_TEMPLATE] = _template(lambda colour: IN_THE_DARK[colour])
