"""Two clouds of points in the unit square: drawn at random, moved by a slider, or dragged in the figure itself."""

from __future__ import annotations

from collections.abc import Callable

import anywidget
import numpy as np
import traitlets

EDGE = 0.03  # points stay this far inside the square


class Points:
    """Two clouds `x` and `y` (N, 2), the one to the left of the other."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed, self._drawn = count, seed, -1
        self.draw()

    def draw(self) -> None:
        """Other points; the same ones in the same order for the same seed."""
        self._drawn += 1
        rng = np.random.default_rng([self._seed, self._drawn])
        spread = (0.13, 0.2)
        self.x, self.y = (
            np.clip(rng.normal((middle, 0.5), spread, (self._count, 2)), EDGE, 1 - EDGE) for middle in (0.3, 0.7)
        )


class Drag(anywidget.AnyWidget):
    """Lets points of a figure's trace be dragged. Without a look of its own; it stands in the same box as the figure.

    While a point is under way, its place is sent whenever the last one has been answered, so that the figure follows
    the hand as quickly as Python can and never lags behind.

    Parameters
    ----------
    traces : names, in `meta`, of the traces whose points can be dragged
    axes : such as ("xaxis6", "yaxis6"), the axes they lie on
    moved : callable (trace's name, point's index, x, y)
    """

    _esm = """
    const NEAR = 14;  // pixels
    const clamp = v => Math.min(1, Math.max(0, v));
    function render({ model, el }) {
      let plot = null;
      const [xName, yName] = model.get('axes');
      // Where a point of the page lies on the axes, and what lies near it.
      const at = event => {
        const box = plot.getBoundingClientRect(), x = plot._fullLayout[xName], y = plot._fullLayout[yName];
        return { px: event.clientX - box.left - x._offset, py: event.clientY - box.top - y._offset, x, y };
      };
      const near = event => {
        const { px, py, x, y } = at(event);
        let best = null, least = NEAR;
        for (const trace of plot._fullData) {
          if (!model.get('traces').includes(trace.meta)) continue;
          for (let i = 0; i < trace._length; i++) {
            const away = Math.hypot(x.d2p(trace.x[i]) - px, y.d2p(trace.y[i]) - py);
            if (away < least) { least = away; best = { trace: trace.meta, index: i }; }
          }
        }
        return best;
      };
      let held = null, waiting = false, next = null;
      const send = () => {
        if (waiting || !next) return;
        waiting = true;
        model.set('moved', next);
        next = null;
        model.save_changes();
      };
      model.on('change:answered', () => { waiting = false; send(); });
      const down = event => {
        held = event.button ? null : near(event);
        if (!held) return;
        event.stopPropagation();
        plot.setPointerCapture(event.pointerId);
        plot.style.touchAction = 'none';
      };
      const move = event => {
        if (!held) {
          const cursor = near(event) ? 'grab' : '';
          plot.querySelectorAll('.nsewdrag').forEach(layer => { layer.style.cursor = cursor; });
          return;
        }
        event.stopPropagation();
        const { px, py, x, y } = at(event);
        next = [held.trace, held.index, clamp(x.p2d(px)), clamp(y.p2d(py))];
        send();
      };
      const up = () => { held = null; };
      const still = event => { if (held) { event.stopPropagation(); event.preventDefault(); } };  // no zoom meanwhile
      const listen = found => {
        plot = found;
        for (const [name, what] of [['pointerdown', down], ['pointermove', move], ['pointerup', up],
            ['pointercancel', up], ['mousedown', still], ['touchstart', still]])
          plot.addEventListener(name, what, true);
      };
      const look = setInterval(() => {
        let box = el;
        while (box && !box.querySelector('.js-plotly-plot')) box = box.parentElement;
        const found = box && box.querySelector('.js-plotly-plot');
        if (!found || !found._fullLayout || !found._fullLayout[xName]) return;
        clearInterval(look);
        listen(found);
      }, 100);
      return () => clearInterval(look);
    }
    export default { render };
    """
    traces = traitlets.List().tag(sync=True)
    axes = traitlets.List().tag(sync=True)
    moved = traitlets.List().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, traces: tuple[str, ...], axes: tuple[str, str], moved: Callable[[str, int, float, float], None]):
        super().__init__(traces=list(traces), axes=list(axes), layout={"display": "none"})
        self._tell = moved

    @traitlets.observe("moved")
    def _answer(self, change: dict) -> None:
        try:
            self._tell(*change["new"])
        finally:
            self.answered += 1
