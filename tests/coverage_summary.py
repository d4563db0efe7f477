"""Write what `make coverage` measured to results/coverage.json: lines and branches of the library and of each file."""

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
    summary = {"library": share([*parts.values()]), "files": {name: share([p]) for name, p in parts.items()}}
    library = summary["library"]
    print(
        f"library {library['lines_covered_percent']:6.2f} % of {library['lines']:6,} lines, "
        f"{library['branches_covered_percent']:6.2f} % of {library['branches']:6,} branches"
    )
    command = " ".join(["make coverage", *sys.argv[1:]])
    print(f"written: {keep(ROOT / 'results' / 'coverage.json', {'tests': summary}, command)}")


if __name__ == "__main__":
    main()
