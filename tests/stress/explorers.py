"""How long each explorer takes to answer a slider: in Python alone, or with --browser from key to picture.

In Python: from the slider's new value until the numbers are in the figure and sent. In the browser, a real JupyterLab
in a headless Chromium: from the key's arrival until the first frame after Plotly has drawn other numbers. Medians.
Both kinds of numbers on the same data stand in one results file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alignmamba2 import explorers
from alignmamba2.launch import END, Run, open_run, write_explorers
from alignmamba2.storage.files import write_text
from alignmamba2.training import fit
from tools.stopwatch import machine

from . import browser

# name: the panel, its slider's name among the controls and on the page, and the code of its cell
PANELS: dict[str, tuple[Callable[[Run], Any], str, str, str]] = {
    "SampleExplorer": (
        lambda r: explorers.SampleExplorer(r.model, r.data["test"]),
        "sample",
        "sample",
        "SampleExplorer(",
    ),
    "TransportExplorer": (
        lambda r: explorers.TransportExplorer.of_model(r.model, r.data["test"]),
        "epsilon",
        "ε",
        "TransportExplorer.of_model(",
    ),
    "TransportExplorer, points": (
        lambda r: explorers.TransportExplorer.of_points(),
        "right",
        "to the right",
        "TransportExplorer.of_points(",
    ),
    "DiscrepancyExplorer": (
        lambda r: explorers.DiscrepancyExplorer.of_model(r.model, r.data["test"]),
        "bandwidth",
        "bandwidth",
        "DiscrepancyExplorer.of_model(",
    ),
    "RoutingExplorer": (
        lambda r: explorers.RoutingExplorer(r.model, r.data["test"]),
        "sample",
        "sample",
        "RoutingExplorer(",
    ),
    "ScanExplorer, toy": (lambda r: explorers.ScanExplorer(), "delta", "step size", "ScanExplorer()"),
    "ScanExplorer, trained layer": (
        lambda r: explorers.ScanExplorer(r.model, r.data["test"]),
        "decay",
        "decay",
        "ScanExplorer(run",
    ),
    "EmbeddingExplorer, highlight": (
        lambda r: explorers.EmbeddingExplorer(
            r.model.trace(r.data["test"].batch(range(min(60, len(r.data["test"])))), scans=False), wait=True
        ),
        "sample",
        "highlight sample",
        "EmbeddingExplorer(",
    ),
}


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress explorers", description=__doc__)
    parser.add_argument("--steps", type=int, default=15, help="slider steps a panel (default: 15)")
    parser.add_argument(
        "--checkpoint", type=Path, help="a folder that train wrote (default: mini-mosi, trained briefly)"
    )
    parser.add_argument("--browser", action="store_true", help="in a real JupyterLab, in a headless Chromium")
    parser.add_argument("--results", type=Path, default=Path("results/explorers.json"))
    arguments = parser.parse_args(argv)
    if arguments.browser and browser.missing():
        raise ImportError(browser.missing())
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.checkpoint or Path(scratch, "model")
        if arguments.checkpoint is None:
            fit("mini-mosi", fast=True, folder=folder, progress=False)
        run = open_run(folder)
        if arguments.browser:
            kind, took = "browser", in_browser(folder, Path(scratch), arguments.steps)
        else:
            kind = "python"
            took = {n: in_python(make(run), slider, arguments.steps) for n, (make, slider, *_) in PANELS.items()}
    earlier = json.loads(arguments.results.read_text("utf-8")) if arguments.results.is_file() else {}
    if earlier.get("data") != run.note:
        earlier = {}
    rows = {name: {**earlier.get("panels", {}).get(name, {}), f"{kind}_ms": took[name]} for name in PANELS}
    print(f"ms from slider to figure, median (largest) of {arguments.steps} steps, {run.note}")
    for name, row in rows.items():
        print(
            f"  {name:30s}"
            + "".join(f"  {k.removesuffix('_ms')} {v['median']:6.1f} ({v['largest']:.1f})" for k, v in row.items())
        )
    here = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m tests.stress explorers " + " ".join(argv),
        "steps": arguments.steps,
        "machine": {**machine("plotly", "ipywidgets", "anywidget", "jupyterlab"), "threads": torch.get_num_threads()},
    }
    notes = {
        "data": run.note,
        "measured": {**earlier.get("measured", {}), kind: here},
        "panels": rows,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.results, json.dumps(notes, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {arguments.results}")


def in_python(panel: Any, slider: str, steps: int) -> dict[str, float]:
    """Median and largest ms of a step of one slider, in this process."""
    control = panel.controls[slider]
    options = [value for _, value in control.options] if hasattr(control, "options") else None
    values = options or [control.min + i * control.step for i in range(1, 9)]
    took = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        control.value = values[(values.index(control.value) + 1) % len(values) if control.value in values else 0]
        took.append(1e3 * (time.perf_counter() - start))
    return _summary(took[1:])


def in_browser(checkpoint: Path, folder: Path, steps: int) -> dict[str, dict[str, float]]:
    """The same from the key to the picture, in JupyterLab."""
    path = write_explorers(checkpoint, folder / "lab")
    rows = {}
    with browser.lab(folder / "lab", folder / "home") as lab:
        lab.run(path.name, END)
        lab.page.wait_for_function("t => document.body.innerText.includes(t)", arg="Select points with the mouse")
        for name, (_, _, label, code) in PANELS.items():
            panel = lab.panel(code)
            keys = ["ArrowRight", "ArrowLeft"] * (steps // 2 + 1)  # to and fro: no slider comes to its end
            rows[name] = _summary([lab.press(panel, label, key) for key in keys[: steps + 1]][1:])
    return rows


def _summary(took: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(took), 1), "largest": round(max(took), 1)}
