"""A pen for schematics: boxes, arrows, tokens, ribbons and curves, written as SVG that is legible on any page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

from alignmamba2.figures.style import FONT, GRID, IN_THE_DARK, INK, PAPER, QUIET, SHADE, look

SIZE, LINE = 17, 23  # pixels: of the one type, and from line to line
LAMP = ("#FFF0B8", "#4D4110")  # a box that is lit, on light and on dark paper
# Every neutral colour is a class, so that one rule turns it round in the dark.
FILLS = {"ink": INK, "quiet": QUIET, "paper": PAPER, "shade": SHADE}
STROKES = {"edge": QUIET, "strong": INK, "grid": GRID}
HEADS = {"edge": "quiet", "grid": "quiet", "strong": "ink"}  # what an arrow's head is filled with
CORNERS = {  # of the symbols that are no circle, in tenths of their size
    "diamond": "0,-12 12,0 0,12 -12,0",
    "square": "-9,-9 9,-9 9,9 -9,9",
    "triangle-up": "0,-12 11,8 -11,8",
    "cross": "-4,-10 4,-10 4,-4 10,-4 10,4 4,4 4,10 -4,10 -4,4 -10,4 -10,-4 -4,-4",
}
Point = tuple[float, float]


def _rules(colour: Callable[[str], str], lamp: str) -> str:
    fills = "".join(f".{name}{{fill:{colour(value)}}}" for name, value in FILLS.items())
    return fills + "".join(f".{k}{{stroke:{colour(v)}}}" for k, v in STROKES.items()) + f".lamp{{fill:{lamp}}}"


STYLE = (
    f"text{{font:{SIZE}px {FONT};white-space:pre}}.bold{{font-weight:bold}}"
    f"{_rules(lambda c: c, LAMP[0])}@media(prefers-color-scheme:dark){{{_rules(IN_THE_DARK.__getitem__, LAMP[1])}}}"
)


class Drawing:
    """A sheet of `width` × `height` pixels that brings its own paper, light or dark as the reader prefers.

    Coordinates are pixels from the upper left corner. Words may have several lines, and `_{…}` and `^{…}` for indices.
    A colour is a modality's name, whose look is that of `alignmamba2.figures`, or one of the classes above.
    """

    def __init__(self, width: float, height: float, script: str = ""):
        self.width, self.height = width, height
        self.parts: list[str] = []
        self.draw(script)

    def draw(self, script: str) -> None:
        """Draw statements, divided by ";" or lines: a command, its numbers, its words, in which "|" ends a line.

            t X,Y words            text with its middle there; "t<" begins and "t>" ends there; "T" is bold
            b X,Y,W,H words        box; "b-" is dashed
            a X,Y X,Y …            arrow; "a-" is dashed; "l" is a line without a head
            r X,Y,STEP,SIZE,COUNT  row of tokens

        A colour follows the command, as in "a:depth" or "r:audio".
        """
        for statement in filter(None, (s.strip() for s in re.split("[;\n]", script))):
            command, rest = statement.split(" ", 1)
            command, _, colour = command.partition(":")
            numbers, _, words = rest.partition(" ")
            at, words = [float(n) for n in numbers.split(",")], words.replace("|", "\n")
            if command[0] in "tT":
                anchor = {"<": "start", ">": "end"}.get(command[1:], "middle")
                self.text(*at, words, anchor, "ink bold" if command[0] == "T" else "ink")
            elif command[0] == "b":
                self.box(*at, words, colour, dashed="-" in command)
            elif command[0] == "r":
                self.row(*at[:2], [colour] * int(at[4]), step=at[2], size=at[3])
            else:
                self.path(_points(rest), colour or "edge", arrow=command[0] == "a", dashed="-" in command)

    def svg(self) -> str:
        """Return the file's text."""
        size = f'width="{self.width}" height="{self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self.width} {self.height}">'
        return "\n".join([f'{head}<style>{STYLE}</style><rect class="paper" {size} rx="10"/>', *self.parts, "</svg>\n"])

    def text(self, x: float, y: float, words: str, anchor: str = "middle", style: str = "ink") -> None:
        """Write words whose middle is at (x, y); `anchor` is "start", "middle" or "end"."""
        lines = words.split("\n")
        for i, line in enumerate(lines):
            place = _short(x), _short(y + (i - (len(lines) - 1) / 2) * LINE + 0.36 * SIZE)
            self._add("text", 'x="{}" y="{}" text-anchor="{}" class="{}"'.format(*place, anchor, style), _indexed(line))

    def box(
        self, x: float, y: float, w: float, h: float, words: str = "", colour: str = "", *, lit: bool = False,
        style: str = "paper", dashed: bool = False,
    ) -> None:  # fmt: skip
        """Draw a rounded box with words in its middle."""
        place = f'x="{_short(x)}" y="{_short(y)}" width="{_short(w)}" height="{_short(h)}" rx="8"'
        paint = f'class="{"lamp strong" if lit else f"{style} edge"}" stroke-width="{3 if lit else 1.6}"'
        if colour:
            paint = f'fill="{look(colour).colour}" fill-opacity="0.16" stroke="{look(colour).colour}" stroke-width="2"'
        self._add("rect", f"{place} {paint}" + ' stroke-dasharray="7 5"' * dashed)
        if words:
            self.text(x + w / 2, y + h / 2, words)

    def path(
        self, points: Sequence[Point], colour: str = "edge", width: float = 2, *, arrow: bool = True,
        dashed: bool = False, fill: float = 0,
    ) -> None:  # fmt: skip
        """Draw a line through the points, with a head at its end, or fill the area inside with this opacity."""
        stroke = f'class="{colour}"' if colour in STROKES else f'stroke="{look(colour).colour}"'
        solid = f'class="{HEADS[colour]}"' if colour in HEADS else f'fill="{look(colour).colour}"'
        points = list(points)
        if arrow:
            (x0, y0), (x1, y1) = points[-2:]
            ux, uy = ((b - a) / math.dist(*points[-2:]) for a, b in ((x0, x1), (y0, y1)))
            points[-1] = (x1 - 8 * ux, y1 - 8 * uy)
            sides = [(x1 - 11 * ux + s * uy, y1 - 11 * uy - s * ux) for s in (5.5, -5.5)]
            self._add("polygon", f'points="{_places([(x1, y1), *sides])}" {solid}')
        how = f'{stroke} fill="none" stroke-width="{_short(width)}" stroke-linejoin="round"'
        how = f'{solid} fill-opacity="{fill}"' if fill else how + ' stroke-dasharray="6 5"' * dashed
        self._add("polygon" if fill else "polyline", f'points="{_places(points)}" {how}')

    def ribbon(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: str) -> None:
        """Draw a ribbon that hangs from (x0, y0) to (x1, y1), `width` wide all the way."""
        a, b, middle = _short(x0), _short(x1), _short((y0 + y1) / 2)
        way = f"M{a} {_short(y0)} C{a} {middle} {b} {middle} {b} {_short(y1)}"
        paint = f'fill="none" stroke="{look(colour).colour}" stroke-opacity="0.55" stroke-width="{_short(width)}"'
        self._add("path", f'd="{way}" {paint}')

    def token(self, x: float, y: float, colour: str, size: float = 9, hollow: bool = False) -> None:
        """Draw a token as its modality's symbol, filled, or hollow for one without content."""
        kind, hue = look(colour).symbol, look(colour).colour
        paint = f'fill="{hue}" stroke="{hue}" stroke-width="2"' + ' fill-opacity="0"' * hollow
        if kind not in CORNERS:
            self._add("circle", f'cx="{_short(x)}" cy="{_short(y)}" r="{_short(size)}" {paint}')
        else:
            points = [(x + size * a / 10, y + size * b / 10) for a, b in _points(CORNERS[kind])]
            self._add("polygon", f'points="{_places(points)}" {paint}')

    def row(self, x: float, y: float, colours: Iterable[str], step: float = 26, size: float = 9) -> None:
        """Draw a row of tokens, from (x, y) to the right."""
        for i, colour in enumerate(colours):
            self.token(x + i * step, y, colour, size)

    def _add(self, tag: str, attributes: str, content: str = "") -> None:
        self.parts.append(f"<{tag} {attributes}>{content}</{tag}>" if content else f"<{tag} {attributes}/>")


def _indexed(line: str) -> str:
    """A line with _{…} and ^{…} as spans that are lower or higher, and smaller."""
    out, height = "", 0
    for part in filter(None, re.split(r"([_^]\{[^}]*\})", line)):
        shift = {"_{": 5, "^{": -7}.get(part[:2], 0)
        small = ' font-size="13"' if shift else ""
        words = escape(part[2:-1] if shift else part, quote=False)
        out += f'<tspan dy="{shift - height}"{small}>{words}</tspan>' if shift != height else words
        height = shift
    return out


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _places(points: Iterable[Point]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _points(text: str) -> list[Point]:
    return [(float(x), float(y)) for x, _, y in (place.partition(",") for place in text.split())]
