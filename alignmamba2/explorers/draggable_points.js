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
  const noZoom = event => { if (held) { event.stopPropagation(); event.preventDefault(); } };
  const listen = element => {
    plot = element;
    for (const [name, listener] of [['pointerdown', down], ['pointermove', move], ['pointerup', up],
        ['pointercancel', up], ['mousedown', noZoom], ['touchstart', noZoom]])
      plot.addEventListener(name, listener, true);
  };
  const search = setInterval(() => {
    let box = el;
    while (box && !box.querySelector('.js-plotly-plot')) box = box.parentElement;
    const element = box && box.querySelector('.js-plotly-plot');
    if (!element || !element._fullLayout || !element._fullLayout[xName]) return;
    clearInterval(search);
    listen(element);
  }, 100);
  return () => clearInterval(search);
}
export default { render };
