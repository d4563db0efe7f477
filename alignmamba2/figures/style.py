"""How every figure looks: one template, one colour, symbol and dash a modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

INK, QUIET, LIGHT, GRID = "#222222", "#767676", "#A8A8A8", "#E4E4E4"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# The place in this list is the colour, for good: text is blue in every picture of the course.
KNOWN = ("text", "audio", "video", "image", "depth", "rgb")
PLAN_SCALE = "cividis"
TEMPLATE = "alignmamba2"


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


def titled(figure: go.Figure, title: str, note: str = "", *, height: int = 440) -> go.Figure:
    """Give a figure the template, a title, and `note` as its subtitle; returned for chaining."""
    figure.update_layout(template=TEMPLATE, height=height, title={"text": title, "subtitle": {"text": note}})
    if figure.layout.annotations:  # the panels' headings need a line of their own under the subtitle
        figure.update_layout(margin_t=122)
    return figure


def ticks(labels: Sequence[str], most: int = 30) -> dict[str, Any]:
    """Axis settings that put `labels` at 0, 1, 2, …, leaving some out where there are more than `most`."""
    step = max(1, -(-len(labels) // most))
    at = list(range(0, len(labels), step))
    return {"tickmode": "array", "tickvals": at, "ticktext": [labels[i] for i in at]}


def whole_steps(count: int, most: int) -> int:
    """A round step of 1, 2, 5, 10, … such that `count` whole numbers get at most about `most` ticks."""
    return next(s * 10**k for k in range(12) for s in (1, 2, 5) if count <= most * s * 10**k)


def _template() -> go.layout.Template:
    axis = {
        "gridcolor": GRID,
        "linecolor": QUIET,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GRID,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 15}},
        "tickfont": {"size": 14},
    }
    return go.layout.Template(
        layout={
            "font": {"family": "DejaVu Sans, Verdana, Arial, sans-serif", "size": 15, "color": INK},
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 18, "l": 20},
                "font": {"size": 20},
                "subtitle": {"font": {"size": 15, "color": QUIET}},
            },
            "margin": {"l": 70, "r": 30, "t": 96, "b": 92},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "colorway": COLOURS,
            "colorscale": {"sequential": PLAN_SCALE},
            "hoverlabel": {
                "bgcolor": "white",
                "bordercolor": QUIET,
                "font": {"size": 14, "color": INK},
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
            "heatmap": [{"colorscale": PLAN_SCALE, "colorbar": {"outlinewidth": 0, "thickness": 14}}],
            "scatter": [{"line": {"width": 3}, "marker": {"size": 9}}],
        },
    )


pio.templates[TEMPLATE] = _template()
