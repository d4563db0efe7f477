"""Execute one notebook and write a page of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from alignmamba2.__main__ import setting

from .build import NotebookError, build_notebook, notebook_cell, with_pictures, with_solutions, write_notebook
from .notebook_page import write_page

CELL_TIMEOUT = 1800  # seconds: a cell may train several models, on a machine that others use too
OUTPUT_TIMEOUT = 120  # seconds that a cell's output may take to arrive; nbclient's 4 fail on a machine that is busy
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STATE = "application/vnd.jupyter.widget-state+json"


def run_notebook(
    source: str | Path,
    folder: str | Path,
    parameters: Mapping[str, Any] | None = None,
    solutions: bool = False,
    navigation: str = "",
    front: str = "",
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
    navigation, front : as of `write_page`

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
        prepared, finished = (str(Path(scratch, name)) for name in ("given.ipynb", "done.ipynb"))
        nbformat.write(notebook, prepared)
        # papermill only warns about a name that it does not know, and runs with the default.
        known = set(papermill.inspect_notebook(prepared))
        unknown = sorted(set(parameters or {}) - known)
        if unknown:
            raise NotebookError(f"{source}: unknown parameters {unknown}; it has {sorted(known)}")
        try:
            with _kernel_settings():
                papermill.execute_notebook(
                    prepared,
                    finished,
                    dict(parameters or {}),
                    kernel_name="python3",
                    progress_bar=False,
                    execution_timeout=CELL_TIMEOUT,
                    iopub_timeout=OUTPUT_TIMEOUT,
                )
        except PapermillExecutionError as error:
            failed = notebook_cell(error.source)
            raise NotebookError(f"{source}: the cell “{failed}” failed: {error.ename}: {error.evalue}") from error
        executed = with_pictures(nbformat.read(finished, as_version=4), NOTEBOOKS)
    problems = widget_errors(executed)
    if problems:
        raise NotebookError(f"{source}: error in a widget: {'; '.join(problems)}")
    executed.metadata.pop("widgets", None)  # five megabytes a figure, and no page can show it
    write_notebook(executed, folder / f"{source.stem}.ipynb")
    return write_page(executed, folder / f"{source.stem}.html", navigation, front)


def data_set(path: str | Path) -> str:
    """The line in which an executed notebook says what data it used, "Data set: …"; empty if it does not."""
    cells = nbformat.read(path, as_version=4).cells
    printed = "\n".join(o.get("text", "") for c in cells for o in c.get("outputs", ()) if o.output_type == "stream")
    return next((line for line in printed.splitlines() if line.startswith("Data set: ")), "")


def widget_errors(notebook: nbformat.NotebookNode) -> list[str]:
    """What went wrong inside widgets: a callback's error fails no cell, it only stands in the widget's output."""
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [output for model in state.values() for output in model.get("state", {}).get("outputs", ())]
    return [f"{o.get('ename')}: {o.get('evalue')}" for o in outputs if o.get("output_type") == "error"]


@contextlib.contextmanager
def _kernel_settings() -> Iterator[None]:
    """For kernels started in here: figures are left as data, not as five megabytes of script each; and threads that
    wait sleep. They would spin, and where other programs run too, take from training what it needs: UMAP leaves some.
    """
    paths = [str(NOTEBOOKS), os.environ.get("PYTHONPATH", "")]  # chapters import `course`, as they do in their folder
    settings = {
        "PLOTLY_RENDERER": "plotly_mimetype",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
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


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools run", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="of the page (default: runs)")
    parser.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[], type=setting)
    parser.add_argument("--solutions", action="store_true", help="with the exercises solved")
    arguments = parser.parse_args(argv)
    page = run_notebook(arguments.notebook, arguments.folder, dict(arguments.parameters), arguments.solutions)
    print(data_set(page.with_suffix(".ipynb")))
    print(f"page to open: {page}")
