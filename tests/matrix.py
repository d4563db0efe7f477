"""`make test-matrix`: the tests with the lowest and the newest versions of every library, on every Python that is here.

Each combination gets a virtual environment of its own, the package with extras "test" and "text", and runs a selection
of tests that touches every library (`--tests`); the environment is removed afterwards. "lowest" takes every `>=` of
pyproject.toml for `==`, torch's too, on the oldest Python alone, since a new Python has no builds of old libraries.
`--torch-from PYTHON` links the torch of that interpreter's environment instead of installing it once more, where both
are of the same Python version; the row says which one it was.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("test", "text")
NOT_HERE = ("playwright", "ruff")  # a browser's and a linter: nothing of the package runs on them
TESTS = ("batch", "store", "formats", "metrics", "model", "scan", "training", "figures", "encoders", "trust")
SLOW = "not two_processes and not killed_at and not mutated and not threads"
LINKED = "import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])"


def interpreter(version: str) -> Path | None:
    """A Python of this version: on the path, or one of pyenv's."""
    places = [shutil.which(f"python{version}"), *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for place in filter(None, places):
        done = subprocess.run([place, "-c", "import sys, venv; print(sys.version)"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.startswith(version):
            return Path(place)
    return None


def requirements(lowest: bool) -> list[str]:
    names = [*PROJECT["dependencies"], *(d for e in EXTRAS for d in PROJECT["optional-dependencies"][e])]
    names = [n for n in names if re.split("[=><]", n)[0] not in NOT_HERE]
    return [n.replace(">=", "==") for n in names] if lowest else names


def link_torch(source: str, python: Path, site: Path) -> None:
    """Torch and what it needs, from another environment of the same Python version."""
    there = Path(subprocess.run([source, "-c", LINKED], capture_output=True, text=True, check=True).stdout.strip())
    for name in ("torch", "torchgen", "functorch", "nvidia", "triton"):
        for path in [there / name, *there.glob(f"{name}-*.dist-info"), *there.glob(f"{name}.libs")]:
            if path.exists():
                (site / path.name).symlink_to(path)


def tried(version: str, versions: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Install and test one combination."""
    base = interpreter(version)
    if base is None:
        return {"outcome": f"not run: no Python {version} here"}
    folder, started = arguments.folder / f"{version}-{versions}", time.perf_counter()
    try:
        subprocess.run([base, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        site = next((folder / "lib").glob("python*/site-packages"))
        version_line = subprocess.run(
            [arguments.torch_from or base, "--version"], capture_output=True, text=True
        ).stdout
        wanted = requirements(versions == "lowest")
        if arguments.torch_from and version_line.startswith(f"Python {version}."):
            link_torch(arguments.torch_from, python, site)
            wanted = [name for name in wanted if not name.startswith("torch=") and not name.startswith("torch>")]
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
        if done.returncode == 0:
            done = subprocess.run([*pip, "--no-deps", "-e", ROOT], capture_output=True, text=True)
        if done.returncode:
            return {
                "outcome": "not installed",
                "said": [x for x in done.stderr.splitlines() if x.startswith("ERROR")][:6],
            }
        tests = [ROOT / "tests" / f"test_{name}.py" for name in arguments.tests]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", SLOW, *tests]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        listed = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        installed = {p["name"]: p["version"] for p in json.loads(subprocess.run(listed, stdout=subprocess.PIPE).stdout)}
        named = {re.split("[=><]", n)[0] for n in requirements(False)}
        lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
        return {
            "outcome": "passed" if done.returncode == 0 else "failed",
            "said": [lines[-1]] if done.returncode == 0 else [s for s in lines if s.startswith(("FAILED", "ERROR"))],
            "seconds": round(time.perf_counter() - started),
            "versions": {k: v for k, v in installed.items() if k in named},
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="PYTHON-VERSIONS", help="such as 3.11-lowest; all if left out")
    parser.add_argument("--tests", nargs="*", default=TESTS, help=f"default: {' '.join(TESTS)}")
    parser.add_argument("--folder", type=Path, help="for environments (default: a temporary one)")
    parser.add_argument("--torch-from", metavar="PYTHON", help="an interpreter whose torch is linked")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "test-matrix.json")
    arguments = parser.parse_args()
    every = [(PYTHONS[0], "lowest"), *((version, "newest") for version in PYTHONS)]
    chosen = [row for row in every if not arguments.only or "-".join(row) in arguments.only]
    rows = json.loads(arguments.results.read_text("utf-8")) if arguments.results.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        arguments.folder = arguments.folder or Path(scratch)
        for row in chosen:
            outcome = tried(*row, arguments)
            print(f"Python {row[0]}, {row[1]:7s} {outcome['outcome']} {' '.join(outcome.get('said', ()))}", flush=True)
            rows["-".join(row)] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **outcome}
            arguments.results.parent.mkdir(parents=True, exist_ok=True)
            arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return any(rows["-".join(row)]["outcome"] in ("failed", "not installed") for row in chosen)


if __name__ == "__main__":
    sys.exit(main())
