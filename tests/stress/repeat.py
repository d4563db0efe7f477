"""Run tests several times, each time in a fresh process, and record how each run ended: are they green every time?"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from alignmamba2.storage.files import write_text
from tools.stopwatch import machine

from . import browser

COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress repeat", description=__doc__)
    parser.add_argument("tests", nargs="*", default=["tests/test_browser.py"], help="default: tests/test_browser.py")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("results/browser.json"))
    arguments = parser.parse_args(argv)
    notes = {
        "command": "python -m tests.stress repeat " + " ".join(argv),
        "tests": arguments.tests,
        "machine": machine("pytest", "playwright", "jupyterlab", "ipywidgets", "anywidget", "plotly"),
        "browser": version_of_browser(),
        "asked": arguments.times,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict] = []
    for i in range(arguments.times):  # written each time: a long command may be stopped
        runs.append(run(arguments.tests))
        print(f"run {i + 1} of {arguments.times}: {runs[-1]}", flush=True)
        notes |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "green": sum(r["green"] for r in runs)}
        write_text(arguments.results, json.dumps({**notes, "runs": runs}, indent=2, ensure_ascii=False) + "\n")
    print(f"{notes['green']} of {len(runs)} runs are green; written: {arguments.results}")


def run(tests: Sequence[str]) -> dict[str, int | float | bool]:
    """One run: how many passed, failed and so on, seconds, and whether all ran and passed."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or [""]
    counts = {kind: int(count) for count, kind in COUNT.findall(lines[-1])}
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    green = done.returncode == 0 and counts.get("passed", 0) > 0 and not counts.get("skipped")
    return {**counts, "seconds": round(time.monotonic() - start, 1), "green": green}


def version_of_browser() -> str:
    path = browser.chromium()
    return subprocess.run([path, "--version"], capture_output=True, text=True).stdout.strip() if path else "none"
