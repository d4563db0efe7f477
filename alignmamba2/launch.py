"""JupyterLab on the course, or on the panels of a trained model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from .datasets import Dataset
    from .model import AlignMamba2

END = "All explorers are open."
FIRST = "notebooks/00_start_here.ipynb"


@dataclass(frozen=True)
class Run:
    """A trained model with its data, history and note, and the validation metric that chose the epoch.

    The note, for every figure, is the name of the data set, with "synthetic" if it is.
    """

    model: AlignMamba2
    data: dict[str, Dataset]
    history: list[dict[str, float]]
    monitor: str
    note: str


def open_run(folder: str | Path, trust: bool = False) -> Run:
    """Return a model that `fit` or `train` wrote into a folder, and its data.

    Folders, modules and models of a hub that its files name are refused, but with `trust`.

    Raises
    ------
    FileNotFoundError
        The folder has no model, or no notes on its training.
    FileError
        A file is damaged, or lacks a field.
    """
    # Here, since `start` needs none of it, and PyTorch takes seconds to import.
    from .datasets import load_dataset
    from .model import AlignMamba2
    from .training import training_notes

    folder = Path(folder)
    notes = training_notes(folder, trust)
    model = AlignMamba2.from_pretrained(folder)
    recipe = notes["recipe"]
    data = load_dataset(recipe["dataset"], **recipe["data"])
    monitor = recipe.get("training", {}).get("monitor", "valid/loss").removeprefix("valid/")
    synthetic = next(iter(data.values())).synthetic
    note = f"{recipe['dataset']}, synthetic" if synthetic else recipe["dataset"]
    return Run(model, data, notes["history"], monitor, note)


def explorer_cells(folder: str | Path, split: str = "test", trust: bool = False) -> list[str]:
    """Return the code cells of a notebook with every panel on a model's folder; the last one prints `END`."""
    return [
        "from alignmamba2 import explorers\n"
        "from alignmamba2.launch import open_run\n\n"
        f"run = open_run({str(Path(folder).resolve())!r}{', trust=True' if trust else ''})\n"
        f"data = run.data[{split!r}]\n"
        "print(data.description)",
        "explorers.DataExplorer(run.data, split=data.split, batch=16, note=run.note)",
        "explorers.SampleExplorer(run.model, data, note=run.note)",
        "explorers.TransportExplorer.of_model(run.model, data, note=run.note)",
        "explorers.TransportExplorer.of_points()",
        "explorers.DiscrepancyExplorer.of_model(run.model, data, note=run.note)",
        "explorers.RoutingExplorer(run.model, data, note=run.note)",
        "explorers.ScanExplorer()",
        "explorers.ScanExplorer(run.model, data, note=run.note)",
        "trace = run.model.trace(data.batch(range(min(len(data), 60))), scans=False)\n"
        "explorers.EmbeddingExplorer(trace, data, note=run.note)",
        "monitor = explorers.TrainingMonitor(run.monitor, epochs=len(run.history) or 10, note=run.note)\n"
        "for row in run.history:\n"
        "    monitor.on_epoch(row)\n"
        "monitor",
        f"print({END!r})",
    ]


def write_explorers(checkpoint: str | Path, folder: str | Path, split: str = "test", trust: bool = False) -> Path:
    """Write a notebook with every panel on a trained model; return its path. `trust` is that of `open_run`.

    Raises
    ------
    FileNotFoundError
        `checkpoint` has no model, or no notes on its training.
    ValueError
        The data set has no such split.
    """
    _check_jupyter()
    import nbformat  # takes long, too

    from .storage.files import write_text

    run = open_run(checkpoint, trust)
    if run.model.task.several:
        raise ValueError(f"{checkpoint}: its task is {run.model.config.task!r}; the panels draw one class or number")
    if split not in run.data:
        raise ValueError(f"split: found {split!r}; expected one of {list(run.data)}")
    head = (
        f"# A model of {run.note}, explored\n\n`{checkpoint}`. Run all cells (in the menu: Run, Run All Cells). Every "
        "panel can be used with the keyboard: Tab to a control, arrow keys to move it."
    )
    cells: list[Any] = [nbformat.v4.new_markdown_cell(head, id="head")]
    code = explorer_cells(checkpoint, split, trust)
    cells += [nbformat.v4.new_code_cell(c, id=f"cell-{i}") for i, c in enumerate(code)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = Path(folder) / "explorers.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, nbformat.writes(notebook) + "\n")
    return path


def copy_course(folder: str | Path) -> Path:
    """Copy the course, with its pictures and results, of the clone or of the wheel; return where its notebooks are.

    A `FileNotFoundError` says that they are in neither place, a `FileExistsError` that `folder` has some already.
    """
    root, folder = Path(__file__).parents[1], Path(folder)
    if not (root / FIRST).is_file():
        brought = [p.locate() for p in files("alignmamba2") or () if str(p).endswith(f"share/alignmamba2/{FIRST}")]
        if not brought:
            raise FileNotFoundError(f"{FIRST}: not in this installation; take the notebooks from a clone")
        root = Path(brought[0]).resolve().parents[1]
    for name in ("results", "notebooks"):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name}: is there already; expected a folder without. Nothing was changed")
    for name in ("results", "notebooks"):
        part = folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        ignored = shutil.ignore_patterns("src", "data", "__pycache__", ".*", "make.py", "gallery.py", "*.js")
        shutil.copytree(root / name, part, ignore=ignored)
        part.rename(folder / name)
    return folder / "notebooks"


def start(target: str | Path, *, browser: bool = True, port: int = 8888, allow_root: bool = False) -> int:
    """Start JupyterLab on a folder or a notebook, on this machine alone, behind a token; return its exit status.

    JupyterLab prints the address with the token. SIGTERM to this process ends it, too. `allow_root`: it may run as
    root, as in a container, which it refuses otherwise.
    """
    target = Path(target).resolve()
    if not target.exists():
        how = "`alignmamba2 course FOLDER` copies those of the course"
        raise FileNotFoundError(f"{target}: not found; expected a folder with notebooks, or a notebook; {how}")
    _check_jupyter()
    if not allow_root and getattr(os, "geteuid", lambda: 1)() == 0:
        print("JupyterLab refuses to run as root, unless its settings or --allow-root say that it may", file=sys.stderr)
    if threading.current_thread() is threading.main_thread():  # before there is a process that would be left
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with subprocess.Popen(command(target, browser=browser, port=port, allow_root=allow_root)) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _check_jupyter() -> None:
    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        raise ImportError("JupyterLab is not here: pip install 'alignmamba2[notebooks]'") from None


def command(target: Path, *, browser: bool = True, port: int = 8888, allow_root: bool = False) -> list[str]:
    """Return the command of `start`. JupyterLab makes a new token each time, and listens to this machine only."""
    place = [f"--notebook-dir={target if target.is_dir() else target.parent}"]
    if target.is_file():  # the address that is printed, too, leads to the notebook
        place.append(f"--LabApp.default_url=/lab/tree/{quote(target.name)}")
    options = [f"--port={port}", "--ip=127.0.0.1", *["--no-browser"] * (not browser), *["--allow-root"] * allow_root]
    return [sys.executable, "-m", "jupyter", "lab", *place, *options]
