"""Count what the notebooks hold: questions, minutes, parameters, sizes.

python -m tools syllabus           # print reading time, longest cell, size in git
python -m tools syllabus --write   # write the tables of notebooks/README.md
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignmamba2.storage.files import write_text

from .build import build_notebook

BEGIN, END = "<!-- {}: written by `python -m tools syllabus --write`, do not edit -->", "<!-- /{} -->"
# Reading time, "our choice": prose at a calm 150 words a minute, a line of code in 6 seconds, an exercise in 8 minutes,
# and 5 minutes for the panel.
WORDS_A_MINUTE, SECONDS_A_LINE, MINUTES_AN_EXERCISE, MINUTES_A_PANEL = 150, 6, 8, 5


@dataclass(frozen=True)
class Entry:
    """One notebook."""

    stem: str
    title: str
    question: str
    needs: str
    minutes: int
    parameters: dict[str, tuple[Any, str]]  # name → (default, the comment behind it)
    exercises: int
    longest_cell: int
    bytes: int  # of the .ipynb, as it is in git

    @property
    def generated(self) -> dict[str, str]:
        """The parameter that asks for generated data in place of real files, where there is a choice of `dataset`.

        Which these are is said in the comment behind that parameter.
        """
        name = re.search(r"mini-\w+", self.parameters.get("dataset", ("", ""))[1])
        return {"dataset": name[0]} if name else {}


def syllabus(folder: str | Path = "notebooks") -> list[Entry]:
    """All notebooks of a folder, in their order."""
    return [_entry(source) for source in sorted(Path(folder).glob("src/*.py"))]


def _entry(source: Path) -> Entry:
    head = dict(re.findall(r"^# (question|needs): (.*)$", source.read_text("utf-8").split("# %%")[0], re.MULTILINE))
    notebook = build_notebook(source)
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = [len(cell.source.splitlines()) for cell in code]
    tagged = {tag: [c for c in code if tag in c.metadata.get("tags", ())] for tag in ("parameters", "exercise")}
    minutes = (
        len(" ".join(text).split()) / WORDS_A_MINUTE
        + sum(lines) * SECONDS_A_LINE / 60
        + len(tagged["exercise"]) * MINUTES_AN_EXERCISE
        + MINUTES_A_PANEL
    )
    committed = source.parents[1] / f"{source.stem}.ipynb"
    return Entry(
        stem=source.stem,
        title=text[0].splitlines()[0].lstrip("# "),
        question=head.get("question", ""),
        needs=head.get("needs", ""),
        minutes=5 * round(minutes / 5),
        parameters=_parameters(tagged["parameters"][0].source) if tagged["parameters"] else {},
        exercises=len(tagged["exercise"]),
        longest_cell=max(lines, default=0),
        bytes=committed.stat().st_size if committed.is_file() else 0,
    )


def _parameters(cell: str) -> dict[str, tuple[Any, str]]:
    parameters = {}
    for line in cell.splitlines():
        assigned = re.match(r"(\w+) = (.+?)(?:  # (.*))?$", line)
        if assigned:
            parameters[assigned[1]] = (ast.literal_eval(assigned[2]), assigned[3] or "")
    return parameters


def facts(entries: Sequence[Entry], seconds: Mapping[str, float] | None = None) -> str:
    """Reading time, exercises, longest cell and size of each notebook, as text to print.

    `seconds`: how long each ran, if it was measured; `build_gallery` keeps it beside its pages.
    """
    seconds = seconds or {}
    head = f"{'notebook':32s} minutes exercises longest cell    in git"
    rows = [head + ("    ran in" if seconds else "")]
    for e in entries:
        ran = f" {seconds[e.stem]:7.0f} s" if e.stem in seconds else ""
        rows.append(f"{e.stem:32s} {e.minutes:7d} {e.exercises:9d} {e.longest_cell:12d} {e.bytes / 1000:6.1f} kB{ran}")
    total = sum(e.minutes for e in entries), sum(e.exercises for e in entries)
    ran = f" {sum(seconds.values()):7.0f} s" if seconds else ""
    rows.append(f"{'all':32s} {total[0]:7d} {total[1]:9d} {'':12s} {sum(e.bytes for e in entries) / 1000:6.1f} kB{ran}")
    return "\n".join(rows)


def course_table(entries: Sequence[Entry]) -> str:
    """The table of the notebooks: title, question, minutes, what one should know before."""
    rows = ["| | | the question | minutes | needs |", "|---|---|---|---|---|"]
    for e in entries:
        rows.append(f"| {e.stem[:2]} | [{e.title}]({e.stem}.ipynb) | {e.question} | {e.minutes} | {e.needs} |")
    return "\n".join(rows)


def parameter_table(entries: Sequence[Entry]) -> str:
    """The table of every notebook's papermill parameters."""
    rows = ["| notebook | parameter | default | |", "|---|---|---|---|"]
    for e in entries:
        for name, (default, comment) in e.parameters.items():
            rows.append(f"| {e.stem[:2]} | `{name}` | `{default!r}` | {comment} |")
    return "\n".join(rows)


def with_tables(text: str, entries: Sequence[Entry]) -> str:
    """A page with its two tables written anew between their marks."""
    for name, table in (("course", course_table(entries)), ("parameters", parameter_table(entries))):
        begin, end = BEGIN.format(name), END.format(name)
        before, mark, rest = text.partition(begin)
        if not mark or end not in rest:
            raise ValueError(f"README: no place for the table {name!r}; expected {begin} … {end}")
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def write_tables(folder: str | Path = "notebooks") -> Path:
    """Write the tables of the folder's README.md; returns its path."""
    readme = Path(folder) / "README.md"
    write_text(readme, with_tables(readme.read_text("utf-8"), syllabus(folder)))
    return readme


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools syllabus", description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("notebooks"))
    parser.add_argument("--write", action="store_true", help="write the tables of the folder's README.md")
    arguments = parser.parse_args(argv)
    if arguments.write:
        print(f"written: {write_tables(arguments.folder)}")
    times = Path("runs/gallery/seconds.json")
    print(facts(syllabus(arguments.folder), json.loads(times.read_text("utf-8")) if times.is_file() else None))
    if times.is_file():
        print(f"run times: {times}, as the last `gallery` left it; two run at a time")
