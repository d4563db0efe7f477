"""Execute chapter 00, and leave its page with a card in front, the other chapters' pages, and an index."""

from __future__ import annotations

import argparse
import html
import time
from collections.abc import Sequence
from pathlib import Path

from alignmamba2.experiments.benchmarks import BENCHMARKS
from alignmamba2.storage.files import write_text
from notebooks.course.results import accuracies, benchmarks, published

from .build import build_notebook, data_address, with_pictures
from .gallery import INDEX, index_page, navigation
from .notebook_page import write_page
from .run import NOTEBOOKS, data_set, run_notebook
from .syllabus import syllabus

NOT_RUN = "<p><em>Not executed: text, code and drawings. <code>make gallery</code> runs all chapters.</em></p>\n"
CARD_STYLE = """<style>
.card { border: 1px solid #8886; border-radius: 10px; padding: 8px 28px 20px; margin: 0 0 48px; }
.card p, .card table { max-width: 100%; }
.card table { width: 100%; font-variant-numeric: tabular-nums; }
.card h2 { border: 0; margin: 24px 0 4px; padding: 0; }
.card img { background: white; border-radius: 4px; }
</style>"""


def start(folder: Path) -> Path:
    """Execute chapter 00 and write the pages; returns the page to open."""
    entries = syllabus(NOTEBOOKS)
    started = time.perf_counter()
    first = NOTEBOOKS / f"{entries[0].stem}.ipynb"
    page = run_notebook(first, folder, navigation=navigation(entries, 0), front=card())
    seconds = {entries[0].stem: time.perf_counter() - started}
    for place, entry in enumerate(entries[1:], 1):
        if not (folder / f"{entry.stem}.ipynb").is_file():  # executed here earlier
            notebook = with_pictures(build_notebook(NOTEBOOKS / "src" / f"{entry.stem}.py"), NOTEBOOKS)
            write_page(notebook, folder / f"{entry.stem}.html", navigation(entries, place), NOT_RUN)
    write_text(folder / INDEX, index_page(entries, seconds))
    return page


def card() -> str:
    """The card as HTML: the model, four benchmarks, what alignment and experts do, and what to do next."""
    rows = "".join(_row(title, benchmark) for title, benchmark in benchmarks())
    rows += (
        f"<tr><td>CMU-MOSEI</td><td>{published(BENCHMARKS['mosei'].published):.1f}</td><td>not measured: no command "
    )
    rows += "brings its files</td><td></td></tr>"
    model = "the model: projections, two alignment losses, one sequence, Mamba layers with experts, a head"
    acts = "where transport takes a sound, the MMD over the epochs, and what a modality's own expert adds"
    return f"""{CARD_STYLE}<section class="card">
<h2>AlignMamba-2 in one picture</h2>
{_picture("architecture.svg", model)}
<h2>What it reaches on real data</h2>
<table><tr><th>data set</th><th>published</th><th>measured here, 95 % interval</th><th>best single modality</th></tr>
{rows}</table>
<p>Test accuracy in %, from <code>results/</code>, each written by the command that measured it. <em>Published</em> was
told second-hand. What the numbers say, and what they do not, is act two of the chapter below.</p>
<h2>What alignment and experts do</h2>
{_picture("start.png", acts)}
<p>Above data that we made, below the real CMU-MOSI word by word.</p>
<h2>What now?</h2>
<ul><li>Read on: the chapter below ran on this machine just now. <a href="01_meet_the_data.html">Next</a> come the data,
and <a href="{INDEX}">all chapters</a> stand in a list.</li>
<li>Play: <code>make lab</code> opens JupyterLab on the notebooks, where the panels have sliders.</li>
<li>Train on your own table of texts, pictures or sounds: <a href="15_make_it_yours.html">chapter 15</a>, five
lines.</li></ul></section>
"""


def _row(title: str, benchmark: dict) -> str:
    scores = accuracies(benchmark)
    low, high = scores["interval"]
    other = f"{scores['alone']:.1f} ({scores['which']})" if "alone" in scores else "–"
    measured = f"<b>{scores['measured']:.1f}</b> [{low:.1f}, {high:.1f}]"
    published = f"{scores['published']:.1f}"
    return f"<tr><td>{html.escape(title)}</td><td>{published}</td><td>{measured}</td><td>{other}</td></tr>\n"


def _picture(name: str, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="{data_address(NOTEBOOKS / "pictures" / name)}">'


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools start", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/start"), help="default: runs/start")
    page = start(parser.parse_args(argv).folder)
    print(data_set(page.with_suffix(".ipynb")))
    print(f"page to open: {page}")
