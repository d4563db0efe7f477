"""A Plotly figure in a notebook that answers to Python: `FigureWidget`, opened quickly and surely.

Plotly's own sends its five megabytes of script with every figure, and the numbers after it. anywidget waits two seconds
for a script; on a slow or busy machine it then drops what follows, and the figure stays empty. Here the script is sent
once for all figures, and the first message of a figure holds all of it.

While Python is busy, the browser keeps only the newest of a figure's events, whatever its kind: the pointer that leaves
a point in the moment after a lasso makes the selection be forgotten. So hovering is not told to Python here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets


class Script(widgets.Widget):
    """The script of Plotly's widget, for all figures of a notebook."""

    source = traitlets.Unicode().tag(sync=True)
    _only: Script | None = None

    @classmethod
    def shared(cls) -> Script:
        """The one there is; a new one where its connection was closed."""
        if cls._only is None or cls._only.comm is None:
            cls._only = cls(source=str(go.FigureWidget._esm))
        return cls._only


class LiveFigure(go.FigureWidget):
    """A `FigureWidget` of a figure that is laid out; `buttons=False` leaves Plotly's own buttons out.

    `selected` is called with the numbers of the points that the mouse selected, trace by trace; all empty where it
    selected none, or ended a selection. It sets the traces' `selectedpoints`.
    """

    # `initialize` is quick, so nothing is dropped; what Python says before Plotly is there is kept and said again.
    _esm = """
    const MESSAGES = ['addTraces', 'deleteTraces', 'moveTraces', 'restyle', 'relayout', 'update', 'animate',
      'removeLayoutProps', 'removeTraceProps'].map(name => `_py2js_${name}`);
    // A selection that no mouse drew has no outline: Plotly says so after each redraw.
    const told = event => event?.event_type === 'plotly_deselect'
      || (event?.event_type === 'plotly_selected' && event.selector);
    // The outline of a selection goes, since what is selected is bright: no other selection could begin on it, and at
    // each redraw Plotly would select by it again, in its panel alone.
    const forget = plot => {
      for (const layout of [plot.layout, plot._fullLayout]) layout.selections = [];
      plot.querySelectorAll('.selectionlayer path').forEach(outline => outline.remove());
    };
    const quiet = (model, plots) => Object.create(model, {
      set: { value: (name, value) => {
        if (name === '_js2py_pointsCallback' && !told(value)) return;
        if (name === '_js2py_relayout' && value?.relayout_data.selections) plots.forEach(forget);
        else model.set(name, value);
      } },
    });
    const scripts = globalThis.alignmamba2Scripts ??= new Map();
    async function plotly(model) {
      const source = (await model.widget_manager.get_model(model.get('_script'))).get('source');
      if (!scripts.has(source)) {
        const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
        scripts.set(source, import(address));
      }
      const { default: widget } = await scripts.get(source);
      return typeof widget === 'function' ? widget() : widget;
    }
    export default () => {
      let begun = null, early = [];
      const plots = new Set();
      async function begin(model) {
        const figure = await plotly(model);
        figure.initialize({ model: quiet(model, plots) });
        const kept = early;
        early = null;
        for (const [name, message] of kept) {
          model.set(name, message);
          model.set(name, null);
        }
        return figure;
      }
      return {
        initialize({ model }) {
          for (const name of MESSAGES) model.on(`change:${name}`, () => {
            const message = model.get(name);
            if (early && message) early.push([name, message]);
          });
        },
        async render({ model, el }) {
          const figure = await (begun ??= begin(model));
          plots.add(el);
          const remove = figure.render({ model, el });
          return () => { plots.delete(el); remove(); };
        },
      };
    };
    """
    _script = traitlets.Unicode().tag(sync=True)
    _set_trace_uid = False  # they have theirs from here
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
        """One answer to a selection; Plotly's own would be one a trace, each redrawn."""
        if not change["new"]:
            return
        points = change["new"]["points"]
        chosen: list[list[int]] = [[] for _ in self.data]
        for trace, point in zip(points["trace_indexes"], points["point_indexes"], strict=True):
            chosen[trace].append(point)
        for trace in self._data:  # the browser has changed some of them, so whatever is set next must be sent
            trace["selectedpoints"] = [-1]
        self._js2py_pointsCallback = None
        if self.selected is not None:
            self.selected(chosen)
