"""Figures as files: pages that work without a network, and pictures."""

import html
import os
import shutil
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

from .style import dark as in_the_dark
from .style import describe

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
# Hovering a token marks the same one in every panel.
LINKED = """
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
"""


def to_page(figure: go.Figure, *, plotly: str | bool = True) -> str:
    """Return a page with the figure and, for those who cannot see it, what it shows in words.

    Parameters
    ----------
    plotly : if true, Plotly's script is part of the page (5 MB), so that it opens without a network; else as
        `include_plotlyjs` of `plotly.io.to_html`

    Examples
    --------
    >>> 'aria-label="Cats."' in to_page(go.Figure(layout_title_text="Cats"), plotly=False)
    True
    """
    words = describe(figure)
    linked = LINKED if (figure.layout.meta or {}).get("linked") else None
    body = pio.to_html(
        figure,
        include_plotlyjs=plotly,
        full_html=False,
        post_script=linked,
        config={"displaylogo": False, "responsive": True},
    )
    paper = figure.layout.template.layout.paper_bgcolor or "white"
    title = html.escape(figure.layout.title.text or "figure")
    return (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<body style="margin: 0; background: {paper}"><figure aria-label="{html.escape(words)}" '
        f'style="margin: 0">{body}</figure></body></html>\n'
    )


def save(figure: go.Figure, path: str | Path, *, width: int = 1000, scale: float = 2.0, dark: bool = False) -> Path:
    """Write a figure to a file: .html (a page that stands alone), or .png, .svg, .pdf (by Kaleido and a browser).

    Parameters
    ----------
    path : its ending says what is written
    width : pixels of a picture; the height is the figure's
    scale : pixels of a picture per pixel of the figure
    dark : whether in the dark template

    Raises
    ------
    ValueError
        If the name has another ending.
    RuntimeError
        If Kaleido or a browser for it is missing, with what to do.
    """
    path = Path(path)
    figure = in_the_dark(figure) if dark else figure
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        path.write_text(to_page(figure), encoding="utf-8")
        return path
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"save: found {path.name!r}; expected a name that ends in .html, .png, .svg or .pdf")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        os.environ.setdefault("BROWSER_PATH", browser)
    try:
        figure.write_image(path, width=width, height=figure.layout.height, scale=scale)
    except (ImportError, ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"save: {path.name} needs the package kaleido (pip install kaleido) and a Chromium or Chrome "
            f"(found: {browser or 'none'}; else name one in BROWSER_PATH). Or write .html, which needs neither. {error}"
        ) from error
    return path
