"""The base of all panels: controls, one figure, and below it in words what the figure shows."""

from __future__ import annotations

import contextlib
import html
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

from ..figures.marks import add_trace as add_trace
from ..figures.marks import axes_of, named
from ..figures.style import IN_THE_DARK, QUIET, TEMPLATE, dark, redress
from ..model.layers import one_of

# Pixels: what JupyterLab has beside its bars on a projector of 1024, and what a panel in a cell may have.
WIDTH, NARROWEST, WIDEST = 830, 700, 1500
THEMES = ("auto", "light", "dark")


class PanelOptions(TypedDict, total=False):
    """Options that every panel takes besides its subject; see `Explorer`."""

    note: str
    interactive: bool
    theme: str


class Script(widgets.Widget):
    """The script of Plotly's widget, for all figures of a notebook.

    Plotly's own sends its script of five megabytes with every figure, and the numbers after it. anywidget waits two
    seconds for a script. On a slow or busy machine it then drops the numbers, and the figure stays empty. Here the
    script is sent once, and the first message of a figure holds all of its numbers.
    """

    source = traitlets.Unicode().tag(sync=True)
    _only: Script | None = None

    @classmethod
    def shared(cls) -> Script:
        """Return the script of this kernel, or a new one if its connection was closed."""
        if cls._only is None or cls._only.comm is None:
            cls._only = cls(source=str(go.FigureWidget._esm))
        return cls._only


class LiveFigure(go.FigureWidget):
    """A `FigureWidget` of a figure that is laid out; `buttons=False` leaves Plotly's own buttons out.

    `selected` is called with the indices of the points that the mouse selected, one list per trace. All lists are empty
    if it selected none, or ended a selection. `selected` has to set the traces' `selectedpoints`. Events of hovering
    are not sent: while Python is busy, the browser keeps only the newest event of a figure, of any kind, and a pointer
    that leaves a point just after a lasso would replace the selection.
    """

    _esm = Path(__file__).with_name("figure_widget.js").read_text("utf-8")
    _script = traitlets.Unicode().tag(sync=True)
    _room = traitlets.Dict().tag(sync=True)  # set by the browser: the cell's "width" and whether it is "dark"
    _set_trace_uid = False  # `__init__` sets them
    selected: Callable[[list[list[int]]], None] | None = None

    def __init__(self, figure: go.Figure, *, buttons: bool = True):
        for trace in figure.data:
            trace.uid = trace.uid or str(uuid.uuid4())  # FigureWidget would do it after the first message
        self._script = Script.shared().model_id
        self._config = {"displaylogo": False} if buttons else {"displayModeBar": False}
        self._widget_data = [trace.to_plotly_json() for trace in figure.data]
        self._widget_layout = figure.layout.to_plotly_json()
        super().__init__(figure)

    @traitlets.observe("_js2py_pointsCallback")
    def _handler_js2py_pointsCallback(self, change: dict[str, Any]) -> None:
        """Answer a selection once; Plotly's own would answer once per trace, and draw each time."""
        if not change["new"]:
            return
        points = change["new"]["points"]
        selection: list[list[int]] = [[] for _ in self.data]
        for trace, point in zip(points["trace_indexes"], points["point_indexes"], strict=True):
            selection[trace].append(point)
        for trace in self._data:  # the browser has changed some of them, so the next ones set must be sent
            trace["selectedpoints"] = [-1]
        self._js2py_pointsCallback = None
        if self.selected is not None:
            self.selected(selection)


class PointDragging(anywidget.AnyWidget):
    """A widget without a look of its own, in the same box as a figure, that lets points of the figure be dragged.

    While a point moves, its place is sent whenever Python has answered the last one, so that the figure follows the
    hand as quickly as Python can and never lags behind: it goes to `move`, with the trace's name and the point's index.
    """

    _esm = Path(__file__).with_name("draggable_points.js").read_text("utf-8")
    traces = traitlets.List().tag(sync=True)  # names, in `meta`, of the traces with these points
    axes = traitlets.List().tag(sync=True)  # names in the layout, such as "xaxis4" and "yaxis4", of their axes
    moved = traitlets.List().tag(sync=True)  # the arguments of `move`, set by the browser
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, traces: Sequence[str], axes: Sequence[str], move: Callable[[str, int, float, float], None]):
        super().__init__(traces=list(traces), axes=list(axes), layout={"display": "none"})
        self._move = move

    @traitlets.observe("moved")
    def _answer(self, change: dict) -> None:
        try:
            self._move(*change["new"])
        finally:
            self.answered += 1


class Explorer:
    """A panel: controls above a figure, and below it the figure in words, for readers who cannot see it well.

    A subclass lays the figure out once, in `_figure`. A control that changes calls `update`, which calls `_paint` with
    the values of all controls by name. All changes that `_paint` makes in the figure are sent in one message. An error
    is shown in red below the figure, and raised.

    `note` stands under the title: the data, and "synthetic" where they are. With ``interactive=False`` there is the
    figure alone, with no Python behind it, for a page. The theme is "light", "dark" or "auto": JupyterLab's, and light
    on a page. The figure is as wide as its cell, from 700 to 1,500 pixels. `fig` is the figure, `controls` are widgets
    by name (none if not interactive), and `words` describe the figure below it.
    """

    BUTTONS = True  # Plotly's, over the figure's upper right corner; not where a legend stands there

    def __init__(
        self, controls: Mapping[str, widgets.Widget], *, note: str = "", interactive: bool = True, theme: str = "auto"
    ):
        self._note, self._controls, self._follows = note, dict(controls), one_of("theme", theme, THEMES) == "auto"
        self._theme = "light" if self._follows else theme
        self.controls: dict[str, widgets.Widget] = self._controls if interactive else {}
        self.words, self._silent, self._line = "", False, widgets.HTML()
        self._show(self._styled(self._figure()))
        for name, control in self.controls.items():
            control.layout.margin = "2px 14px 2px 0"
            if isinstance(control, widgets.Button):
                control.on_click(lambda _button, name=name: self._respond(name))
            else:
                control.observe(lambda _change, name=name: self._respond(name), names="value")
        self.update()
        if interactive:
            self._show(LiveFigure(self.fig, buttons=self.BUTTONS))
            self.fig.observe(lambda change: self._fit(**change["new"]), names="_room")
            row = widgets.HBox(list(self._controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
            self._view = widgets.VBox([row, self.fig, self._line])

    # --- for a subclass to define ---

    def _figure(self) -> go.Figure:
        """Return the figure, laid out, with traces that `add_trace` named."""
        raise NotImplementedError

    def _paint(self, **values: Any) -> str:
        """Put the numbers for these values of the controls into the traces; return their meaning in words."""
        raise NotImplementedError

    def _changed(self, name: str) -> None:
        """Bring other controls into line with one that changed, before `update`."""

    def _set(self, trace: str, **numbers: Any) -> None:
        self._traces[trace].update(**numbers)

    def _axes(self, trace: str) -> tuple[go.layout.XAxis, go.layout.YAxis]:
        return axes_of(self.fig, self._traces[trace])

    def _neutral(self, colour: str) -> str:
        """Return a neutral colour of `figures.style` in this panel's theme."""
        return IN_THE_DARK[colour] if self._theme == "dark" else colour

    def _headed(self, title: str, note: str) -> str:
        """Return a title with a note under it, as one text.

        Plotly's own subtitle measures the title first, and a widget is drawn before it stands on the page: they
        would collide.
        """
        line = f'<br><span style="font-size: 15px; color: {self._neutral(QUIET)}">{note}</span>'
        return title + line if note else title

    def update(self) -> None:
        """Draw what the controls say."""
        values = {name: control.value for name, control in self._controls.items() if hasattr(control, "value")}
        with self.fig.batch_update():
            self.words = self._paint(**values)
        self._say(self.words)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Show an error below the figure, and let it through."""
        try:
            yield
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", wrong=True)
            raise

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Report errors, and keep controls that are set meanwhile from answering."""
        before, self._silent = self._silent, True
        try:
            with self._reporting():
                yield
        finally:
            self._silent = before

    def _styled(self, figure: go.Figure) -> go.Figure:
        """Return a figure as wide as a panel, in the panel's theme, its title and note as one text."""
        figure.update_layout(template=TEMPLATE, width=WIDTH)
        if self._theme == "dark":
            figure = dark(figure)
        title, note = figure.layout.title.text, self._note or figure.layout.title.subtitle.text or ""
        figure.layout.title = {"text": self._headed(title, note), "pad": {"t": 32 if note else 18, "l": 20}}
        if figure.layout.annotations:  # headings of panels, close under the title
            figure.layout.margin.t = 108 if note else 88
        return figure

    def _fit(self, width: int, dark: bool) -> None:
        """Bring the figure to the width of its cell and, if it follows, to the theme of the page."""
        theme = ("light", "dark")[dark] if self._follows else self._theme
        if theme != self._theme:
            self._theme = theme
            redress(self.fig, theme)
            self.update()
        self.fig.layout.width = min(max(width, NARROWEST), WIDEST)

    def _show(self, figure: go.Figure) -> None:
        self.fig: go.Figure = figure
        self._traces = named(figure)

    def _respond(self, name: str) -> None:
        if not self._silent:
            with self._answering():
                self._changed(name)
                self.update()

    def _say(self, text: str, *, wrong: bool = False) -> None:
        # `status` and `alert` are read aloud when they change.
        role, name, colour = ("status", "words", "inherit")
        if wrong:
            role, name, colour = ("alert", "wrong", "var(--jp-error-color1, #C00000)")
        self._line.value = (
            f'<div class="alignmamba2-{name}" role="{role}" style="max-width: {WIDTH - 20}px; line-height: 1.5; '
            f'font-size: 15px; padding: 2px 10px 10px 20px; color: {colour}">{html.escape(text)}</div>'
        )

    @property
    def still(self) -> go.Figure:
        """The figure as it stands, for pages without Python."""
        return go.Figure(self.fig)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the panel for a notebook with widgets, and the still figure for everything else."""
        live = dict(self._view._repr_mimebundle_(**kwargs)) if self.controls else {}
        still = {"application/vnd.plotly.v1+json": json.loads(self.still.to_json())}
        return {**live, **still, "text/plain": f"{type(self).__name__}: {self.words}"}


# --- controls, all reached and moved with the keyboard ---


def choice(label: str, options: Sequence[Any], value: Any = None, width: str = "230px") -> widgets.Dropdown:
    """Return a list to choose from; `options` may be (words, value) pairs."""
    first = {} if value is None else {"value": value}
    return widgets.Dropdown(options=options, description=label, **first, **_layout(width))


def steps(
    label: str, values: Sequence[Any], value: Any, width: str = "400px", form: Callable[[Any], str] = "{:g}".format
) -> widgets.SelectionSlider:
    """Return a slider over given numbers; `form` writes one of them."""
    options = [(form(v), v) for v in values]
    return widgets.SelectionSlider(options=options, description=label, value=value, **_layout(width))


def whole(label: str, low: int, high: int, value: int, step: int = 1, width: str = "300px") -> widgets.IntSlider:
    return widgets.IntSlider(value, low, max(low, high), step, description=label, **_layout(width))


def which_sample(dataset: Any, first: int = 0) -> widgets.IntSlider:
    return whole("sample", 0, len(dataset) - 1, first)


def which_layer(model: Any) -> widgets.Dropdown:
    """Return a list of a model's layers, counted from 1."""
    return choice("layer", [(str(i + 1), i) for i in range(model.config.n_layers)], width="130px")


def number(label: str, low: float, high: float, value: float, step: float, width: str = "300px") -> widgets.FloatSlider:
    return widgets.FloatSlider(value, min=low, max=high, step=step, description=label, **_layout(width))


def button(label: str, icon: str = "") -> widgets.Button:
    return widgets.Button(description=label, icon=icon, layout=widgets.Layout(width="auto"))


def _layout(width: str) -> dict[str, Any]:
    return {"layout": widgets.Layout(width=width), "style": {"description_width": "initial"}}
