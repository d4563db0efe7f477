"""What `make coverage` measured, in results/coverage.json: lines and branches, of every file and of all.

Benches are counted apart: they are measurements, most of which no test makes in full.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import coverage

from tools.results_file import keep

ROOT = Path(__file__).parents[1]


def share(parts: list[dict[str, int]]) -> dict[str, object]:
    lines, covered = (sum(p[k] for p in parts) for k in ("num_statements", "covered_lines"))
    branches, taken = (sum(p[k] for p in parts) for k in ("num_branches", "covered_branches"))
    return {
        "lines": lines,
        "lines_covered_percent": round(100 * covered / max(1, lines), 2),
        "branches": branches,
        "branches_covered_percent": round(100 * taken / max(1, branches), 2),
    }


def main() -> None:
    measured = coverage.Coverage(config_file=ROOT / "pyproject.toml")
    measured.load()
    measured.html_report(directory=str(ROOT / "runs" / "coverage"))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "coverage.json"
        measured.json_report(outfile=str(path))
        files = json.loads(path.read_text("utf-8"))["files"]
    parts = {Path(os.path.relpath(name, ROOT)).as_posix(): f["summary"] for name, f in sorted(files.items())}
    bench = [p for name, p in parts.items() if "/bench/" in name]
    library = [p for name, p in parts.items() if "/bench/" not in name]
    found = {"library": share(library), "benches": share(bench), "all": share([*library, *bench])}
    found["files"] = {name: share([p]) for name, p in parts.items()}
    command = " ".join(["make coverage", *sys.argv[1:]])
    for name in ("library", "benches", "all"):
        told = found[name]
        print(f"{name:8s} {told['lines_covered_percent']:6.2f} % of {told['lines']:6,} lines, "
              f"{told['branches_covered_percent']:6.2f} % of {told['branches']:6,} branches")  # fmt: skip
    print(f"written: {keep(ROOT / 'results' / 'coverage.json', {'tests': found}, command)}")


if __name__ == "__main__":
    main()
