"""Execute all notebooks and write them as pages that open without a server or a network.

python -m tools gallery --folder runs/gallery [--fast] [--solutions]
"""

from __future__ import annotations

import argparse
import html
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from alignmamba2.__main__ import setting
from alignmamba2.storage.files import write_text

from .notebook_page import DARK_STYLE, STYLE
from .run import run_notebook
from .syllabus import Entry, syllabus

INDEX, SECONDS = "index.html", "seconds.json"


def build_gallery(
    notebooks: str | Path = "notebooks",
    folder: str | Path = "runs/gallery",
    parameters: Mapping[str, Any] | None = None,
    solutions: bool = False,
    workers: int = 2,
    only: str = "",
    generated: bool = False,
) -> dict[str, float]:
    """Execute the notebooks and leave a page of each, and an index; returns the seconds that each took.

    Parameters
    ----------
    notebooks, folder : where their sources are, and where the site goes
    parameters : for every notebook; those that a notebook does not have are left out
    solutions : with the exercises solved
    workers : notebooks that run at the same time
    only : the beginning of a name, such as "04"
    generated : generated data, even where real files are here

    Raises
    ------
    NotebookError
        A notebook failed; the pages of the others are there.
    """
    folder, entries = Path(folder), [e for e in syllabus(notebooks) if e.stem.startswith(only)]
    # Fresh processes: papermill is told how figures are written through the environment, which threads would share.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {
            entry.stem: pool.submit(
                _run,
                Path(notebooks) / "src" / f"{entry.stem}.py",
                folder,
                (entry.generated if generated else {})
                | {k: v for k, v in (parameters or {}).items() if k in entry.parameters},
                solutions,
                navigation(entries, place),
            )
            for place, entry in enumerate(entries)
        }
        seconds = {stem: job.result() for stem, job in jobs.items()}
    write_text(folder / INDEX, index_page(entries, seconds))
    if not only:
        write_text(folder / SECONDS, json.dumps({k: round(s, 1) for k, s in seconds.items()}, indent=1) + "\n")
    return seconds


def _run(source: Path, folder: Path, parameters: dict[str, Any], solutions: bool, links: str) -> float:
    start = time.perf_counter()
    run_notebook(source, folder, parameters, solutions, links)
    return time.perf_counter() - start


def navigation(entries: Sequence[Entry], place: int) -> str:
    """The links from the page at a place among the chapters to the one before, the one after, and the index."""
    before, after = entries[place - 1] if place else None, entries[place + 1] if place + 1 < len(entries) else None

    def link(entry: Entry | None, mark: str) -> str:
        if entry is None:
            return "<span></span>"
        return f'<a href="{entry.stem}.html">{mark.format(entry.stem[:2] + " " + html.escape(entry.title))}</a>'

    links = f'{link(before, "← {}")}<a href="{INDEX}">all notebooks</a>{link(after, "{} →")}'
    return f'<nav aria-label="chapters">{links}</nav>\n'


def index_page(entries: list[Entry], seconds: Mapping[str, float]) -> str:
    """The page that lists the others, with the seconds that each ran; a chapter without did not run."""

    def ran(stem: str) -> str:
        return f"{seconds[stem]:.0f}" if stem in seconds else "not executed"

    rows = "".join(
        f'<tr><td>{e.stem[:2]}</td><td><a href="{e.stem}.html">{html.escape(e.title)}</a>'
        f"<br>{html.escape(e.question)}</td>"
        f"<td>{e.minutes}</td><td>{html.escape(e.needs)}</td><td>{ran(e.stem)}</td></tr>"
        for e in entries
    )
    style = f"{STYLE}@media (prefers-color-scheme: dark) {{ {DARK_STYLE} }}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>AlignMamba-2, the course</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>\n'
        "<body><main><h1>AlignMamba-2, the course</h1>\n"
        "<p>The notebooks as pages. The figures answer to the mouse; the panels of sliders need a running notebook and "
        "stand here as still figures. On a page, the key <b>p</b> makes slides of it; the arrow keys turn them.</p>\n"
        "<table><tr><th>no.</th><th>the question</th><th>minutes to read</th><th>needs</th><th>seconds it ran</th></tr>"
        f"{rows}</table></main></body></html>\n"
    )


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools gallery", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/gallery"), help="default: runs/gallery")
    parser.add_argument("--fast", action="store_true", help="two epochs each, generated data")
    parser.add_argument("--solutions", action="store_true", help="with the exercises solved")
    parser.add_argument("--only", default="", metavar="NN", help="notebooks whose names begin so")
    parser.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[], type=setting)
    a = parser.parse_args(argv)
    parameters = ({"fast": True} if a.fast else {}) | dict(a.parameters)
    seconds = build_gallery("notebooks", a.folder, parameters, a.solutions, only=a.only, generated=a.fast)
    for name, taken in seconds.items():
        print(f"{name:32s} {taken:6.1f} s")
    print(f"{'all, two at a time':32s} {sum(seconds.values()):6.1f} s\nsite to open: {a.folder / INDEX}")
