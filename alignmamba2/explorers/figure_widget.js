// Runs Plotly's widget from the script that all figures share. `initialize` is quick, so anywidget drops nothing;
// messages that come from Python before Plotly has loaded are kept and replayed.
const MESSAGES = ['addTraces', 'deleteTraces', 'moveTraces', 'restyle', 'relayout', 'update', 'animate',
  'removeLayoutProps', 'removeTraceProps'].map(name => `_py2js_${name}`);
// Plotly reports every selection after each redraw. Only one that the mouse drew has an outline (`selector`).
const byMouse = event => event?.event_type === 'plotly_deselect'
  || (event?.event_type === 'plotly_selected' && event.selector);
// The outline of a selection is removed, since selected points are bright: no other selection could begin on it, and
// at each redraw Plotly would select by it again, in its panel alone.
const removeOutlines = plot => {
  for (const layout of [plot.layout, plot._fullLayout]) layout.selections = [];
  plot.querySelectorAll('.selectionlayer path').forEach(outline => outline.remove());
};
const withoutHover = (model, plots) => Object.create(model, {
  set: { value: (name, value) => {
    if (name === '_js2py_pointsCallback' && !byMouse(value)) return;
    if (name === '_js2py_relayout' && value?.relayout_data.selections) plots.forEach(removeOutlines);
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
// Tells Python how wide the cell is, and whether JupyterLab is dark; once at first, then at each change.
const tellRoom = (model, el) => {
  const tell = () => {
    const told = model.get('_room'), dark = document.body.dataset.jpThemeLight === 'false';
    const width = Math.floor(el.clientWidth) || told.width; // hidden while the theme changes
    if (!width || (told.width === width && told.dark === dark)) return;
    model.set('_room', { width, dark });
    model.save_changes();
  };
  const sizes = new ResizeObserver(tell), themes = new MutationObserver(tell);
  sizes.observe(el);
  themes.observe(document.body, { attributes: true, attributeFilter: ['data-jp-theme-light'] });
  return () => { sizes.disconnect(); themes.disconnect(); };
};
export default () => {
  let begun = null, early = [];
  const plots = new Set();
  async function begin(model) {
    const figure = await plotly(model);
    figure.initialize({ model: withoutHover(model, plots) });
    const messages = early;
    early = null;
    for (const [name, message] of messages) {
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
      const stop = tellRoom(model, el);
      return () => { plots.delete(el); stop(); remove(); };
    },
  };
};
