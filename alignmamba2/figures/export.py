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
LINKED = Path(__file__).with_name("linked_panels.js").read_text("utf-8")


def to_page(figure: go.Figure, *, plotly: str | bool = True) -> str:
    """Return a page with the figure and, for those who cannot see it, what it shows in words.

    With `plotly`, Plotly's script is part of the page (5 MB), so that it opens without a network; other values are
    those of `include_plotlyjs` of `plotly.io.to_html`.

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

    A `ValueError` names another ending; a `RuntimeError` says what to do where Kaleido or a browser for it is missing.

    A picture is `width` pixels wide, times `scale`, and as high as the figure; `dark` is in the dark template.
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
