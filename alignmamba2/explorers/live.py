"""A Plotly figure in a notebook that answers to Python: `FigureWidget`, opened quickly and surely.

Plotly's own sends its five megabytes of script with every figure, and the numbers after it. anywidget waits two seconds
for a script; on a slow or busy machine it then drops what follows, and the figure stays empty. Here the script is sent
once for all figures, and the first message of a figure holds all of it.
"""

from __future__ import annotations

import uuid

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
    """A `FigureWidget` of a figure that is laid out; `buttons=False` leaves Plotly's own buttons out."""

    # `initialize` is quick, so nothing is dropped; what Python says before Plotly is there is kept and said again.
    _esm = """
    const MESSAGES = ['addTraces', 'deleteTraces', 'moveTraces', 'restyle', 'relayout', 'update', 'animate',
      'removeLayoutProps', 'removeTraceProps'].map(name => `_py2js_${name}`);
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
      async function begin(model) {
        const figure = await plotly(model);
        figure.initialize({ model });
        const told = early;
        early = null;
        for (const [name, message] of told) {
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
          return figure.render({ model, el });
        },
      };
    };
    """
    _script = traitlets.Unicode().tag(sync=True)
    _set_trace_uid = False  # they have theirs from here

    def __init__(self, figure: go.Figure, *, buttons: bool = True):
        for trace in figure.data:
            trace.uid = trace.uid or str(uuid.uuid4())  # FigureWidget would do it after the first message
        self._script = Script.shared().model_id
        self._config = {"displaylogo": False} if buttons else {"displayModeBar": False}
        self._widget_data = [trace.to_plotly_json() for trace in figure.data]
        self._widget_layout = figure.layout.to_plotly_json()
        super().__init__(figure)
