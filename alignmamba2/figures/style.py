"""The look of every figure: a light and a dark template, and one colour, symbol and dash per modality."""

import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

# The neutral colours, by role. `dark` puts others in their place, so figures name them and no other greys.
NEUTRAL = PAPER, INK, QUIET, LIGHT, GRID, SHADE = "#FFFFFF", "#222222", "#6B6B6B", "#A8A8A8", "#E4E4E4", "#EDEDED"
IN_THE_DARK = dict(zip(NEUTRAL, ("#15181C", "#F2F2F2", "#B4B8BD", "#7D838A", "#363B41", "#2B3036"), strict=True))
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
    """A colour, with the symbol and the dash that say the same without colour."""

    colour: str
    symbol: str
    dash: str

    def line(self, width: float = 3) -> dict[str, Any]:
        """Return Plotly's settings of a line in this look, `width` pixels wide."""
        return {"color": self.colour, "dash": self.dash, "width": width}

    def marker(self, size: float = 9, **settings: Any) -> dict[str, Any]:
        """Return Plotly's settings of a symbol in this look, `size` pixels wide, with further `settings`."""
        return {"symbol": self.symbol, "color": self.colour, "size": size, **settings}

    def fill(self, opacity: float) -> str:
        """Return the colour of an area in this look that lets through what is behind it."""
        return see_through(self.colour, opacity)


def numbered_look(number: int) -> Look:
    """Return the look of the model, method or class with this number, counted from 0; it repeats after six."""
    return Look(*(kind[number % len(kind)] for kind in (COLOURS, SYMBOLS, DASHES)))


def look(modality: str) -> Look:
    """Return the look of a modality, which is the same in every figure.

    The six in `KNOWN` have one each. Another name always gets the same one of the six.

    >>> look("text")
    Look(colour='#0072B2', symbol='circle', dash='solid')
    """
    return numbered_look(KNOWN.index(modality) if modality in KNOWN else sum(map(ord, modality)))


def array(values: Any) -> np.ndarray:
    """Return numbers of any kind, also a tensor with a gradient, as a NumPy array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def floats(values: Any) -> np.ndarray:
    """Return numbers of any kind as a float64 array."""
    return array(values).astype(float)


def class_names(names: Sequence[str], count: int) -> list[str]:
    """Return the names of the classes, or "class 0", "class 1", … if there are none."""
    return list(names) or [f"class {i}" for i in range(count)]


def short(text: str, length: int = 24) -> str:
    """Return the text cut between words near `length` characters, with an ellipsis if it was cut.

    >>> short("a lot of sad parts in this film", 18)
    'a lot of sad parts…'
    """
    text = " ".join(str(text).split())
    if len(text) <= length + 1:
        return text
    cut = text[: length + 1]
    return (cut[: cut.rfind(" ")] if " " in cut[length // 2 :] else cut[:length]).rstrip(" ,.;:") + "…"


def quoted(words: str, before: str = " ") -> str:
    """Return `before` and the words in quotation marks, in lines for a hover box; nothing if there are no words.

    >>> "text 3" + quoted("a cat"), "audio 3" + quoted("")
    ('text 3 “a cat”', 'audio 3')
    """
    one_line = " ".join(str(words).split())
    lines = textwrap.wrap(one_line, 60, break_long_words=False, break_on_hyphens=False)
    return f"{before}“{'<br>'.join(lines)}”" if words else ""


def token_names(modality: str, words: Iterable[str], count: int) -> list[str]:
    """Return the names of `count` tokens of a modality, with their words as far as there are any.

    >>> token_names("text", ["so", "what"], 3)
    ['text 1 “so”', 'text 2 “what”', 'text 3']
    """
    spoken = [*words, *itertools.repeat("", count)][:count]
    return [f"{modality} {i}{quoted(word)}" for i, word in enumerate(spoken, start=1)]


def joined(*remarks: str) -> str:
    """Return the remarks that are not empty in one line, with dots between them, as a subtitle has them."""
    return " · ".join(filter(None, remarks))


def titled(
    figure: go.Figure, title: str, note: str = "", *, height: int = 440, words: str = "", **layout: Any
) -> go.Figure:
    """Return the figure itself with the template, a title, the note as subtitle, and a height in pixels.

    The words are whole sentences that say what the picture shows, for `describe`; `layout` holds further settings of
    Plotly's layout.
    """
    figure.update_layout(template=TEMPLATE, height=height, title={"text": title, "subtitle": {"text": note}})
    figure.update_layout(meta={**(figure.layout.meta or {}), "words": words})
    if figure.layout.annotations:  # the panels' headings need a line of their own under the subtitle
        figure.update_layout(margin_t=122)
    return figure.update_layout(**layout)


def see_through(colour: str, opacity: float) -> str:
    """Return a colour "#RRGGBB" with an opacity from 0 to 1, in CSS.

    >>> see_through("#0072B2", 0.2)
    'rgba(0, 114, 178, 0.2)'
    """
    return f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, {opacity:g})"


def describe(figure: go.Figure) -> str:
    """Return in plain words what a figure shows: its title, subtitle and further sentences, as its alt text.

    >>> describe(titled(go.Figure(), "Two cats", "one photograph", words="The left one sleeps."))
    'Two cats. One photograph. The left one sleeps.'
    """
    title = figure.layout.title
    meta = figure.layout.meta or {}
    parts = [title.text or "", title.subtitle.text or "", meta.get("words", "")]
    sentences = [re.sub(r"<[^>]+>", " ", part).strip() for part in parts]
    return " ".join(s[0].upper() + s[1:] + ("" if s.endswith((".", "!", "?")) else ".") for s in sentences if s)


def dark(figure: go.Figure) -> go.Figure:
    """Return a copy of the figure in the dark template; the modalities keep their colours.

    >>> dark(titled(go.Figure(), "Two cats")).layout.template.layout.paper_bgcolor
    '#15181C'
    """

    # Part by part, since a whole figure's to_dict() would turn arrays into base64.
    parts = {
        "data": [trace.to_plotly_json() for trace in figure.data],
        "layout": {k: v for k, v in figure.layout.to_plotly_json().items() if k != "template"},
        "frames": [frame.to_plotly_json() for frame in figure.frames],
    }
    return go.Figure(with_colours(parts, IN_THE_DARK)).update_layout(template=DARK_TEMPLATE)


def redress(figure: go.Figure, theme: str) -> None:
    """Change a figure on display to the light or dark theme, sending only its parts of another colour."""
    colours = IN_THE_DARK if theme == "dark" else {night: day for day, night in IN_THE_DARK.items()}
    with figure.batch_update():
        for part in (*figure.data, figure.layout):
            before = {k: v for k, v in part.to_plotly_json().items() if k not in ("template", "x", "y", "z")}
            after = with_colours(before, colours)
            part.update({k: v for k, v in after.items() if v is not before[k]})
        figure.layout.template = DARK_TEMPLATE if theme == "dark" else TEMPLATE


def ticks(labels: Sequence[str], most: int = 30) -> dict[str, Any]:
    """Return axis settings that put the labels at 0, 1, 2, …, leaving out some of more than `most`."""
    step = max(1, -(-len(labels) // most))
    at = list(range(0, len(labels), step))
    return {"tickmode": "array", "tickvals": at, "ticktext": [labels[i] for i in at]}


def whole_steps(count: int, most: int) -> int:
    """Return the least step of 1, 2, 5, 10, … that gives `count` whole numbers about `most` ticks at the most."""
    return next(s * 10**k for k in range(12) for s in (1, 2, 5) if count <= most * s * 10**k)


def with_colours(value: Any, colours: Mapping[str, str]) -> Any:
    """Return parts of a figure with some colours replaced; a part without those colours is returned itself."""
    if isinstance(value, dict):
        new = {k: v if k in ("meta", "images") else with_colours(v, colours) for k, v in value.items()}
        return new if any(new[k] is not v for k, v in value.items()) else value
    if isinstance(value, (list, tuple)):
        items = [with_colours(v, colours) for v in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, str) and "#" in value:  # a colour, or a text that has some
        new = re.sub("#[0-9A-F]{6}", lambda found: colours.get(found[0], found[0]), value)
        return value if new == value else new
    return value


_LIGHT = json.loads(Path(__file__).with_name("template.json").read_text("utf-8"))
pio.templates[TEMPLATE], pio.templates[DARK_TEMPLATE] = map(
    go.layout.Template, (_LIGHT, with_colours(_LIGHT, IN_THE_DARK))
)
