"""Build the notebooks from their text sources: notebooks/src/*.py → notebooks/*.ipynb."""

from __future__ import annotations

import argparse
import base64
import json
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat

from alignmamba2.storage.files import write_text

# The last line of an exercise cell: what CI fills a solution into.
EXERCISE = re.compile(r"^check\(\"(?P<name>\d\d\.\d+)\", (?P<answer>\w+)\)\s*\Z", re.MULTILINE)

# A picture of a text, in Markdown or HTML, beside the notebook.
PICTURE = re.compile(r"""(\]\(|<img src=")(pictures/[\w-]+\.\w+)(["\)])""")


class NotebookError(ValueError):
    """A notebook could not be built or run; the message names it and the cell."""


def build_notebook(source: str | Path) -> nbformat.NotebookNode:
    """Return a notebook without outputs from a text source in jupytext's percent format.

    Comments before the first cell stay out of it. Cell ids are the file's name and the cell's number.
    """
    source = Path(source)
    head, mark, body = source.read_text("utf-8").partition("# %%")
    if any(line.strip() and not line.startswith("#") for line in head.splitlines()):
        raise NotebookError(f"{source}: code before the first '# %%'; expected a cell or a comment")
    notebook = jupytext.reads(mark + body, fmt="py:percent")
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", source.stem)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{stem}-{number:02d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
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
    from notebooks.course import exercises

    solved = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in solved.cells:
        if "exercise" in cell.metadata.get("tags", ()):
            ending = EXERCISE.search(cell.source)
            if not ending:
                raise NotebookError(f'the exercise “{notebook_cell(cell.source)}” must end in check("NN.K", answer)')
            exercise = exercises(ending["name"].partition(".")[0])[ending["name"]]
            cell.source = f"{exercise.source(ending['answer'])}\n\n\n{ending[0]}"
    return solved


def with_pictures(notebook: nbformat.NotebookNode, folder: str | Path) -> nbformat.NotebookNode:
    """The notebook itself, with the pictures of its text inside it, so that it can be read anywhere."""

    def inside(match: re.Match) -> str:
        return match[1] + data_address(Path(folder) / match[2]) + match[3]

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub(inside, cell.source)
    return notebook


def data_address(picture: Path) -> str:
    """The picture itself as an address, for a page that stands alone."""
    kind, _ = mimetypes.guess_type(picture)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def notebook_cell(code: str) -> str:
    """How a message names a cell: by its first line of code."""
    return next((line.strip() for line in code.splitlines() if line.strip()), "(empty)")


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools build", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("notebooks"))
    print(*build_notebooks(parser.parse_args(argv).folder), sep="\n")
