"""Write an executed notebook as one HTML page, which opens without a server or a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from alignmamba2.storage.files import write_text

FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
PLOTLY = "plotly.min.js"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; background: white; color: #222; font: 17px/1.6 "DejaVu Sans", Verdana, Arial, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 24px 96px; }
h1 { font-size: 34px; line-height: 1.25; margin: 0 0 24px; }
h2 { font-size: 24px; margin: 56px 0 12px; padding-top: 16px; border-top: 1px solid #e4e4e4; }
p, ul, ol, blockquote, table { max-width: 780px; }
blockquote { margin: 16px 0; padding: 4px 20px; border-left: 4px solid #0072B2; background: #f4f8fb; }
table { border-collapse: collapse; }
th, td { padding: 4px 16px 4px 0; text-align: left; border-bottom: 1px solid #e4e4e4; }
pre { margin: 0; overflow-x: auto; font: 13px/1.5 "DejaVu Sans Mono", Consolas, monospace; }
.jp-InputArea, .input_area, .highlight { background: #f7f7f7; border-radius: 4px; }
.highlight { padding: 10px 14px; margin: 12px 0 4px; }
p code, li code, td code { background: #f2f2f2; padding: 1px 4px; border-radius: 3px; font-size: 0.88em; }
.jp-OutputArea pre, .output_subarea pre { padding: 6px 14px; white-space: pre-wrap; }
figure { margin: 8px 0; }
img { max-width: 100%; height: auto; }
p:has(> img) { max-width: 100%; }
table.dataframe { border: none; margin: 12px 14px; font-size: 15px; }
.dataframe th, .dataframe td { border-width: 0 0 1px 0; }
.anchor-link { display: none; }
nav { display: flex; justify-content: space-between; font-size: 15px; margin: 0 0 24px; }
math[display="block"] { margin: 20px 0; text-align: left; }
figure, .jp-OutputArea { overflow-x: auto; }
[hidden] { display: none !important; }
.presenting nav { display: none; }
.presenting { font-size: 22px; }
.presenting main { max-width: 1200px; }
.presenting :is(p, ul, ol, blockquote, table) { max-width: 1100px; }
.presenting pre { font-size: 17px; }
"""
DARK_STYLE = """
body { background: #15181C; color: #F2F2F2; }
a { color: #7CC4F0; }
h2 { border-top-color: #363B41; }
blockquote { background: #1D242B; }
th, td, .dataframe th, .dataframe td { border-bottom-color: #363B41; }
.jp-InputArea, .input_area, .highlight { background: #1D2126; }
p code, li code, td code { background: #2B3036; }
"""
# The key "p" turns a page into slides and back: a slide is a heading with what follows it; the arrow keys turn them.
PRESENT = """
const slides = [];
for (const cell of [...document.querySelector('main').children].filter(cell => cell.tagName !== 'NAV')) {
  const heading = cell.querySelector('h1, h2, h3');
  for (const part of heading ? [...heading.parentElement.children] : [cell]) {
    if (!slides.length || /^H[123]$/.test(part.tagName)) slides.push([]);
    slides[slides.length - 1].push(part);
  }
}
let at = -1;
function show(next) {
  at = next < 0 ? -1 : Math.min(next, slides.length - 1);
  document.body.classList.toggle('presenting', at >= 0);
  slides.forEach((slide, i) => slide.forEach(cell => { cell.hidden = at >= 0 && i !== at; }));
  window.scrollTo(0, 0);
  window.dispatchEvent(new Event('resize'));
}
document.addEventListener('keydown', event => {
  if (event.target.closest('input, textarea, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'p') show(at < 0 ? 0 : -1);
  if (at >= 0 && ['ArrowRight', 'PageDown'].includes(event.key)) show(at + 1);
  if (at >= 0 && ['ArrowLeft', 'PageUp'].includes(event.key)) show(Math.max(at - 1, 0));
  if (event.key === 'Escape') show(-1);
});
"""


def write_page(notebook: nbformat.NotebookNode, path: str | Path, navigation: str = "", front: str = "") -> Path:
    """An executed notebook as one HTML page, with plotly.min.js beside it; returns the page's path.

    Formulas become MathML, which browsers draw themselves. The page and its figures follow the reader's light or dark.
    `navigation` is HTML that stands above and below, `front` HTML before the first cell.
    """
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs
    from pygments.formatters import HtmlFormatter

    path = Path(path)
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    formulas: list[str] = []
    for cell in notebook.cells:
        cell["outputs"] = [o for o in cell.get("outputs", ()) if _readable(o)]
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(lambda match: _set_aside(match, formulas), cell.source)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    for i, formula in enumerate(formulas):
        body = body.replace(f"FORMULA{i}END", formula)
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body)
    first = next((c.source for c in notebook.cells if c.cell_type == "markdown"), path.stem)
    title = html.escape(first.splitlines()[0].lstrip("# ").strip())
    code = [HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark")]
    again = navigation.replace('"chapters"', '"chapters, below"', 1)
    style = f"{STYLE}{code[0]}\n@media (prefers-color-scheme: dark) {{ {code[1]} {DARK_STYLE} }}"
    if not (path.parent / PLOTLY).is_file():
        write_text(path.parent / PLOTLY, get_plotlyjs())
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<script src="{PLOTLY}"></script>\n<script>{_follow_the_reader()}</script>\n<style>{style}</style></head>\n'
        f"<body><main>{navigation}{front}{body}{again}</main><script>{PRESENT}</script></body></html>\n",
    )
    return path


def _set_aside(match: re.Match, formulas: list[str]) -> str:
    """A formula as MathML, kept out of Markdown's sight: its place in the list stands for it."""
    from latex2mathml.converter import convert

    display = "block" if match[1] is not None else "inline"
    formulas.append(convert((match[1] or match[2]).strip(), display=display))
    return f"FORMULA{len(formulas) - 1}END"


def _follow_the_reader() -> str:
    """Draw every figure in the dark template's colours where the reader prefers dark."""
    from alignmamba2.figures.style import IN_THE_DARK

    return (
        f"const inTheDark = {json.dumps(IN_THE_DARK)};"
        "const reader = matchMedia('(prefers-color-scheme: dark)');"
        "const darkened = v => typeof v === 'string' ? (inTheDark[v] ?? v)"
        " : Array.isArray(v) ? v.map(darkened)"
        " : v?.constructor === Object ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, darkened(x)])) : v;"
        "if (reader.matches) for (const name of ['newPlot', 'addFrames']) {"
        " const draw = Plotly[name]; Plotly[name] = (where, ...rest) => draw(where, ...rest.map(darkened)); }"
        "reader.addEventListener('change', () => location.reload());"
    )


def _readable(output: nbformat.NotebookNode) -> bool:
    """Keep what a page can show; a figure becomes HTML, in place."""
    if output.output_type == "stream":
        return output.name == "stdout"  # progress bars and warnings are no part of the chapter
    data = output.get("data", {})
    if FIGURE in data:
        output["data"] = {"text/html": _figure(data[FIGURE])}
    return FIGURE in data or WIDGET not in data


def _figure(figure: Mapping[str, Any]) -> str:
    import plotly.io as pio

    layout = figure.get("layout", {})
    title = layout.get("title", {}).get("text", "figure").partition("<br>")[0]
    words = (layout.get("meta") or {}).get("words", "")
    label = f"{title}. {words}" if words else title
    drawn = pio.to_html(
        {key: figure[key] for key in ("data", "layout", "frames") if key in figure},
        include_plotlyjs=False,
        full_html=False,
        auto_play=False,
        validate=False,
        config={"responsive": True, "displaylogo": False},
    )
    return f'<figure aria-label="{html.escape(label, quote=True)}">{drawn}</figure>'
