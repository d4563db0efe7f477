"""From nothing to the first interactive picture: the commands that README names, in a fresh clone, with their times.

The clone has no environment, and pip's cache is not used (except with --cache); the time is that of this machine and
its network. The picture is looked for in the page that the last command leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from alignmamba2.storage.files import write_text
from tools.stopwatch import machine

ROOT = Path(__file__).parents[2]
COMMANDS = ("git clone {source} alignmamba2", "make run")
PAGE = "runs/start/00_start_here.html"


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the commands, print minutes of each, write results/bench-newcomer.json, return what it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress newcomer", description=__doc__.split("\n")[0])
    parser.add_argument("--source", default=str(ROOT), help="what to clone (default: this repository)")
    parser.add_argument("--cache", action="store_true", help="let pip use its cache: a second machine in a classroom")
    parser.add_argument("--command", dest="commands", action="append", help="instead of: " + "; ".join(COMMANDS))
    parser.add_argument("--page", default=PAGE, help=f"where the picture is expected (default: {PAGE})")
    parser.add_argument("--out", type=Path, default=Path("results/bench-newcomer.json"))
    arguments = parser.parse_args(argv)
    commands = arguments.commands or list(COMMANDS)
    with tempfile.TemporaryDirectory() as folder:
        steps = [walk(command.format(source=arguments.source), Path(folder), arguments.cache) for command in commands]
        pictures = count_pictures(Path(folder) / "alignmamba2" / arguments.page)
    named = [command.format(source="ADDRESS") for command in commands]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "pip cache": arguments.cache,
        "commands": [{"command": c, "seconds": round(s, 1)} for c, s in zip(named, steps, strict=True)],
        "minutes": round(sum(steps) / 60, 1),
        "interactive pictures": pictures,
    }
    for step in result["commands"]:
        print(f"{step['seconds'] / 60:6.1f} min  {step['command']}")
    print(f"{result['minutes']:6.1f} min  {len(commands)} commands to a page with {pictures} interactive pictures")
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(f"written: {arguments.out}")
    return result


def walk(command: str, folder: Path, cache: bool) -> float:
    """Seconds of a command in the clone, or beside it while it is not there.

    Raises
    ------
    ValueError
        It failed, or is no command here; its last words are in the message.
    """
    clone = folder / "alignmamba2"
    # Nothing of the environment that runs this: no package path, no active environment.
    inherited = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in inherited}
    environment |= {} if cache else {"PIP_NO_CACHE_DIR": "1"}
    start = time.perf_counter()
    where = clone if clone.is_dir() else folder
    done = subprocess.run(command, shell=True, cwd=where, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ValueError(f"{command!r} ended with {done.returncode}: {(done.stderr or done.stdout)[-800:].strip()}")
    return seconds


def count_pictures(page: Path) -> int:
    """Figures in a page that answer to the mouse.

    Raises
    ------
    ValueError
        There is no such page, or it has none.
    """
    pictures = len(re.findall(r"Plotly\.newPlot\(", page.read_text("utf-8"))) if page.is_file() else 0
    if not pictures:
        raise ValueError(f"{page.name}: no interactive picture in it; the commands did not lead to one")
    return pictures
