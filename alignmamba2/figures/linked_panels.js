// Hovering a token marks the same one in every panel.
const plot = document.getElementById('{plot_id}');
let busy = false;
plot.on('plotly_hover', event => {
  if (busy) return;
  const token = event.points[0].customdata, same = [];
  plot.data.forEach((trace, curve) => {
    const at = trace.customdata ? Array.from(trace.customdata).indexOf(token) : -1;
    if (at >= 0) same.push({curveNumber: curve, pointNumber: at});
  });
  busy = true;
  const panels = same.map(one => plot.data[one.curveNumber].xaxis === 'x2' ? 'x2y2' : 'xy');
  Plotly.Fx.hover(plot, same, panels);
  busy = false;
});
