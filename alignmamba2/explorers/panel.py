"""What all panels share: controls, one figure, and below it in words what the figure shows."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import ipywidgets as widgets
import plotly.graph_objects as go

from ..figures.style import IN_THE_DARK, QUIET, TEMPLATE, dark
from .live import LiveFigure

WIDTH = 830  # pixels: what JupyterLab has beside its bars on a projector of 1024
THEMES = ("light", "dark")


class Shown(TypedDict, total=False):
    """What every panel takes besides its subject; see `Explorer`."""

    note: str
    interactive: bool
    theme: str


class Explorer:
    """A panel: controls above a figure, and the figure in words below it, for who cannot see it or not well.

    A control that changes calls `update`, which puts new numbers into the figure's traces, all in one message; the
    figure is laid out once. An error in there stands in red below the figure, and is raised.

    Parameters
    ----------
    figure : Figure
        Laid out; the traces whose numbers change have names in `meta`.
    controls : mapping of name to widget
    note : str
        Stands under the title: the data, and "synthetic" where they are.
    interactive : bool
        False for a page: the figure alone, with no Python behind it.
    theme : "light" or "dark"

    Attributes
    ----------
    fig : FigureWidget, or Figure with interactive=False
    controls : mapping of name to widget; empty with interactive=False
    words : str
        What the figure shows, as it stands below it.
    """

    BUTTONS = True  # Plotly's, over the figure's upper right corner; not where a legend stands there

    def __init__(
        self,
        figure: go.Figure,
        controls: Mapping[str, widgets.Widget],
        *,
        note: str = "",
        interactive: bool = True,
        theme: str = "light",
    ):
        if theme not in THEMES:
            raise ValueError(f"theme: found {theme!r}; expected one of {', '.join(map(repr, THEMES))}")
        self._note, self._theme = note, theme
        figure.update_layout(template=TEMPLATE, width=WIDTH)
        if theme == "dark":
            figure = dark(figure)
        title, note = figure.layout.title.text, note or figure.layout.title.subtitle.text or ""
        figure.layout.title = {"text": self._headed(title, note), "pad": {"t": 32 if note else 18, "l": 20}}
        if figure.layout.annotations:  # headings of panels, close under the title
            figure.layout.margin.t = 108 if note else 88
        self.words = ""
        self._controls = dict(controls)
        self.fig: go.Figure = figure
        self._name_traces()
        self.controls: dict[str, widgets.Widget] = self._controls if interactive else {}
        self._silent = False
        self._line = widgets.HTML()
        for name, control in self.controls.items():
            control.layout.margin = "2px 14px 2px 0"
            if isinstance(control, widgets.Button):
                control.on_click(lambda _button, name=name: self._respond(name))
            else:
                control.observe(lambda _change, name=name: self._respond(name), names="value")
        self.update()
        if interactive:
            self.fig = LiveFigure(figure, buttons=self.BUTTONS)
            self._name_traces()
            row = widgets.HBox(list(self._controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
            self._view = widgets.VBox([row, self.fig, self._line])

    def _name_traces(self) -> None:
        """`meta` names the traces whose numbers change."""
        self._traces = {trace.meta: trace for trace in self.fig.data if trace.meta}

    def update(self) -> None:
        """Draw what the controls say."""
        with self.fig.batch_update():
            self.words = self._paint()
        self._say(self.words)

    def _paint(self) -> str:
        """Put numbers into the traces; return what they show, in words."""
        raise NotImplementedError

    def _changed(self, name: str) -> None:
        """Before `update`: bring other controls into line with one that changed."""

    def _respond(self, name: str) -> None:
        if not self._silent:
            with self._answering():
                self._changed(name)
                self.update()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Controls that are set meanwhile do not answer themselves; an error stands below the figure, and is raised."""
        before, self._silent = self._silent, True
        try:
            yield
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", wrong=True)
            raise
        finally:
            self._silent = before

    def _say(self, text: str, *, wrong: bool = False) -> None:
        # `status` and `alert` are read aloud when they change.
        role, name, colour = ("status", "words", "inherit")
        if wrong:
            role, name, colour = ("alert", "wrong", "var(--jp-error-color1, #C00000)")
        self._line.value = (
            f'<div class="alignmamba2-{name}" role="{role}" style="max-width: {WIDTH - 20}px; line-height: 1.5; '
            f'font-size: 15px; padding: 2px 10px 10px 20px; color: {colour}">{html.escape(text)}</div>'
        )

    def _neutral(self, colour: str) -> str:
        """A neutral colour of `figures.style` in this panel's theme."""
        return IN_THE_DARK[colour] if self._theme == "dark" else colour

    def _headed(self, title: str, note: str) -> str:
        """A title with a note under it, as one text.

        Plotly's own subtitle measures the title first, and a widget is drawn before it stands on the page: they
        would collide.
        """
        return (
            f'{title}<br><span style="font-size: 15px; color: {self._neutral(QUIET)}">{note}</span>' if note else title
        )

    @property
    def still(self) -> go.Figure:
        """The figure as it stands, for where no Python runs."""
        return go.Figure(self.fig)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The panel where widgets live, the still figure everywhere else."""
        shown = dict(self._view._repr_mimebundle_(**kwargs)) if self.controls else {}
        still = {"application/vnd.plotly.v1+json": json.loads(self.still.to_json())}
        return {**shown, **still, "text/plain": f"{type(self).__name__}: {self.words}"}


# --- controls, all reached and moved with the keyboard ---


def choice(label: str, options: Sequence[Any], value: Any = None, width: str = "230px") -> widgets.Dropdown:
    """A list to choose from; `options` may be (words, value) pairs."""
    return widgets.Dropdown(options=options, description=label, **_start(value), **_layout(width))


def steps(label: str, options: Sequence[tuple[str, Any]], value: Any = None, width: str = "400px"):
    """A slider over values that are given."""
    return widgets.SelectionSlider(options=options, description=label, **_start(value), **_layout(width))


def whole(label: str, low: int, high: int, value: int, step: int = 1, width: str = "300px") -> widgets.IntSlider:
    """A slider over whole numbers."""
    return widgets.IntSlider(value, low, max(low, high), step, description=label, **_layout(width))


def number(label: str, low: float, high: float, value: float, step: float, width: str = "300px"):
    """A slider over numbers."""
    return widgets.FloatSlider(value, min=low, max=high, step=step, description=label, **_layout(width))


def button(label: str, icon: str = "") -> widgets.Button:
    return widgets.Button(description=label, icon=icon, layout=widgets.Layout(width="auto"))


def _start(value: Any) -> dict[str, Any]:
    return {} if value is None else {"value": value}


def _layout(width: str) -> dict[str, Any]:
    return {"layout": widgets.Layout(width=width), "style": {"description_width": "initial"}}
