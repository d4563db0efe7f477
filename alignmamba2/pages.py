"""Notebooks: built from their text sources, executed, and turned into pages that open without a server.

python -m alignmamba2 build                                               # notebooks/src/*.py → notebooks/*.ipynb
python -m alignmamba2 run notebooks/00_start_here.ipynb --folder runs/start
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat

from .files import write_text

FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
PLOTLY = "plotly.min.js"
# The last line of an exercise cell: what CI fills a solution into.
EXERCISE = re.compile(r"^check\(\"(?P<name>\d\d\.\d+)\", (?P<answer>\w+)\)\s*\Z", re.MULTILINE)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
CELL_TIMEOUT = 1800  # seconds: a cell may train several models, on a machine that others use too
OUTPUT_TIMEOUT = 120  # seconds that a cell's output may take to arrive; nbclient's 4 fail on a machine that is busy


class NotebookError(ValueError):
    """A notebook could not be built or run; the message names it and the cell."""


def build_notebook(source: str | Path) -> nbformat.NotebookNode:
    """A notebook without outputs from a text source in the percent format.

    A cell begins at a line ``# %%``; ``# %% [markdown]`` makes it text, whose lines stand behind ``# ``;
    ``tags=["parameters"]`` tags it. Comments before the first cell stay behind.
    Cell ids are the file's name and the cell's number.
    """
    source = Path(source)
    head, *blocks = re.split(r"^# %%(.*)$", source.read_text("utf-8"), flags=re.MULTILINE)
    if any(line.strip() and not line.startswith("#") for line in head.splitlines()):
        raise NotebookError(f"{source}: code before the first '# %%'; expected a cell or a comment")
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", source.stem)
    cells = []
    for number, (kind, body) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
        tags = re.search(r"tags=(\[.*?\])", kind)
        options = {"id": f"{stem}-{number:02d}", "metadata": {"tags": json.loads(tags[1])} if tags else {}}
        if "[markdown]" in kind:
            text = re.sub(r"^# ?", "", body.strip("\n"), flags=re.MULTILINE)
            cells.append(nbformat.v4.new_markdown_cell(text, **options))
        else:
            cells.append(nbformat.v4.new_code_cell(body.strip("\n"), **options))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    nbformat.validate(notebook)
    return notebook


def write_notebook(notebook: nbformat.NotebookNode, path: str | Path) -> None:
    """Write a notebook, whole or not at all."""
    write_text(Path(path), nbformat.writes(notebook) + "\n")


def build_notebooks(folder: str | Path = "notebooks") -> list[Path]:
    """Build every notebook of a folder from ``src/*.py``; returns their paths."""
    paths = []
    for source in sorted(Path(folder).glob("src/*.py")):
        paths.append(Path(folder) / f"{source.stem}.ipynb")
        write_notebook(build_notebook(source), paths[-1])
    return paths


def with_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the course's solutions in the place of the exercises' stubs.

    A cell tagged "exercise" ends in ``check("NN.K", answer)``; what stands before is replaced by the solution's source.
    """
    from .course import exercises

    solved = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in solved.cells:
        if "exercise" in cell.metadata.get("tags", ()):
            found = EXERCISE.search(cell.source)
            if not found:
                raise NotebookError(f'the exercise “{notebook_cell(cell.source)}” must end in check("NN.K", answer)')
            exercise = exercises(found["name"].partition(".")[0])[found["name"]]
            cell.source = f"{exercise.source(found['answer'])}\n\n\n{found[0]}"
    return solved


def run_notebook(
    source: str | Path,
    folder: str | Path,
    parameters: Mapping[str, Any] | None = None,
    solutions: bool = False,
) -> Path:
    """Execute a notebook and leave it, and a page of it, in a folder; returns the page's path.

    The page opens without a server or a network: figures stay interactive through one plotly.min.js beside it.
    Panels of widgets need a running notebook; a page shows the still figure that such a panel brings along.

    Parameters
    ----------
    source : path of an .ipynb, or of a text source
    folder : made if it is not there
    parameters : mapping of a parameter's name to its value
        Only names that the notebook's cell tagged "parameters" has.
    solutions : bool
        Run it with the exercises solved.

    Raises
    ------
    NotebookError
        A parameter is unknown, a cell failed, or a widget's callback did; the message names the cell.
    """
    import papermill  # here, so that building needs nothing but nbformat
    from papermill.exceptions import PapermillExecutionError

    source, folder = Path(source), Path(folder)
    notebook = build_notebook(source) if source.suffix == ".py" else nbformat.read(source, as_version=4)
    notebook = with_solutions(notebook) if solutions else notebook
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        given, done = (str(Path(scratch, name)) for name in ("given.ipynb", "done.ipynb"))
        nbformat.write(notebook, given)
        # papermill only warns about a name that it does not know, and runs with the default.
        known = set(papermill.inspect_notebook(given))
        unknown = sorted(set(parameters or {}) - known)
        if unknown:
            raise NotebookError(f"{source}: unknown parameters {unknown}; it has {sorted(known)}")
        try:
            with _kernel_settings():
                papermill.execute_notebook(
                    given,
                    done,
                    dict(parameters or {}),
                    kernel_name="python3",
                    progress_bar=False,
                    execution_timeout=CELL_TIMEOUT,
                    iopub_timeout=OUTPUT_TIMEOUT,
                )
        except PapermillExecutionError as error:
            failed = notebook_cell(error.source)
            raise NotebookError(f"{source}: the cell “{failed}” failed: {error.ename}: {error.evalue}") from error
        executed = nbformat.read(done, as_version=4)
    problems = widget_errors(executed)
    if problems:
        raise NotebookError(f"{source}: error in a widget: {'; '.join(problems)}")
    executed.metadata.pop("widgets", None)  # five megabytes a figure, and no page can show it
    write_notebook(executed, folder / f"{source.stem}.ipynb")
    return write_page(executed, folder / f"{source.stem}.html")


def data_set(path: str | Path) -> str:
    """The line in which an executed notebook says what data it used, "Data set: …"; empty if it does not."""
    cells = nbformat.read(path, as_version=4).cells
    printed = "\n".join(o.get("text", "") for c in cells for o in c.get("outputs", ()) if o.output_type == "stream")
    return next((line for line in printed.splitlines() if line.startswith("Data set: ")), "")


def notebook_cell(code: str) -> str:
    """How a message names a cell: by its first line of code."""
    return next((line.strip() for line in code.splitlines() if line.strip()), "(empty)")


def widget_errors(notebook: nbformat.NotebookNode) -> list[str]:
    """What went wrong inside widgets: a callback's error fails no cell, it only stands in the widget's output."""
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [output for model in state.values() for output in model.get("state", {}).get("outputs", ())]
    return [f"{o.get('ename')}: {o.get('evalue')}" for o in outputs if o.get("output_type") == "error"]


def write_page(notebook: nbformat.NotebookNode, path: str | Path, navigation: str = "") -> Path:
    """An executed notebook as one HTML page, with plotly.min.js beside it; returns the page's path.

    Formulas become MathML, which browsers draw themselves. The page and its figures follow the reader's light or dark.
    `navigation` is HTML that stands above and below.
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
            cell.source = FORMULA.sub(lambda found: _set_aside(found, formulas), cell.source)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    for i, formula in enumerate(formulas):
        body = body.replace(f"FORMULA{i}END", formula)
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body)
    first = next((c.source for c in notebook.cells if c.cell_type == "markdown"), path.stem)
    title = html.escape(first.splitlines()[0].lstrip("# ").strip())
    code = [HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark")]
    style = f"{STYLE}{code[0]}\n@media (prefers-color-scheme: dark) {{ {code[1]} {DARK_STYLE} }}"
    if not (path.parent / PLOTLY).is_file():
        write_text(path.parent / PLOTLY, get_plotlyjs())
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<script src="{PLOTLY}"></script>\n<script>{_follow_the_reader()}</script>\n<style>{style}</style></head>\n'
        f"<body><main>{navigation}{body}{navigation}</main><script>{PRESENT}</script></body></html>\n",
    )
    return path


def _set_aside(found: re.Match, formulas: list[str]) -> str:
    """A formula as MathML, kept out of Markdown's sight: its place in the list stands for it."""
    from latex2mathml.converter import convert

    display = "block" if found[1] is not None else "inline"
    formulas.append(convert((found[1] or found[2]).strip(), display=display))
    return f"FORMULA{len(formulas) - 1}END"


def _follow_the_reader() -> str:
    """Draw every figure in the dark template's colours where the reader prefers dark."""
    from .figures.style import IN_THE_DARK

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
    return f'<figure role="img" aria-label="{html.escape(label, quote=True)}">{drawn}</figure>'


@contextlib.contextmanager
def _kernel_settings() -> Iterator[None]:
    """For kernels started in here: figures are left as data, not as five megabytes of script each; and threads that
    wait sleep. They would spin, and where other programs run too, take from training what it needs: UMAP leaves some.
    """
    settings = {"PLOTLY_RENDERER": "plotly_mimetype", "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
