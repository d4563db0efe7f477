"""Figures in a notebook that answer to Python: Plotly's `FigureWidget`, opened quickly and surely, and its dragging.

Plotly's own sends its script of five megabytes with every figure, and the numbers after it. anywidget waits two seconds
for a script. On a slow or busy machine it then drops the numbers, and the figure stays empty. Here the script is sent
once for all figures, and the first message of a figure holds all of its numbers.

While Python is busy, the browser keeps only the newest event of a figure, of any kind: a pointer that leaves a point
just after a lasso would replace the selection. So events of hovering are not sent to Python here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets


class Script(widgets.Widget):
    """The script of Plotly's widget, for all figures of a notebook."""

    source = traitlets.Unicode().tag(sync=True)
    _only: Script | None = None

    @classmethod
    def shared(cls) -> Script:
        """Return the one of this kernel, or a new one if its connection was closed."""
        if cls._only is None or cls._only.comm is None:
            cls._only = cls(source=str(go.FigureWidget._esm))
        return cls._only


class LiveFigure(go.FigureWidget):
    """A `FigureWidget` of a figure that is laid out; `buttons=False` leaves Plotly's own buttons out.

    `selected` is called with the indices of the points that the mouse selected, one list per trace. All lists are empty
    if it selected none, or ended a selection. `selected` has to set the traces' `selectedpoints`.
    """

    _esm = Path(__file__).with_suffix(".js").read_text("utf-8")
    _script = traitlets.Unicode().tag(sync=True)
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
