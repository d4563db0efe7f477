"""Results files: what was measured, with all that it takes to read it later; and their table."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..storage.files import write_text

if TYPE_CHECKING:
    import pandas

PACKAGE = Path(__file__).parents[1]
# Further columns for a task, and the metrics in them.
EXTRA = {"regression": {"Non0": "accuracy_non0", "Acc-7": "accuracy_7", "MAE": "mae", "Corr": "corr"}}
LIBRARIES = ("torch", "numpy", "numba", "accelerate", "pot", "transformers")


def write_results(
    path: str | Path, results: Mapping[str, Any], command: str, summary: Mapping[str, Any] | None = None
) -> Path:
    """Write results with their provenance; the file is whole or not there. Returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**provenance(command), "results": results, **({"summary": summary} if summary else {})}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path


def provenance(command: str) -> dict[str, Any]:
    """Return date, command, git commit, versions and machine of a measurement."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_commit": _git_commit(),
        "source_sha256": _source_hash(),
        "versions": {
            "alignmamba2": _version("alignmamba2"),
            "python": platform.python_version(),
            **{library: _version(library) for library in LIBRARIES},
        },
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the package's source, "+changes" behind it where files differ; None where git does not hold it.

    An installed package may lie inside another project's clone; git does not know its files then.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")


def _source_hash() -> str:
    """One hash over the package's Python and TOML files: tells two states of the code apart without git."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.toml")]):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def table(results: Mapping[str, Mapping[str, Any]], split: str = "test") -> str:
    """Return results as a Markdown table: per row the metrics of a split as mean ± sd over seeds."""
    names = ["accuracy", "f1"]
    lines = ["| | " + " | ".join(names) + " | seeds | parameters |", "|---" * (len(names) + 3) + "|"]
    for row, result in results.items():
        scores = [result[split].get(name) for name in names]
        cells = ["–" if s is None else f"{100 * s['mean']:.2f}{_spread(s['sd'])}" for s in scores]
        cells += [str(len(result["runs"])), f"{result['model']['parameters']:,}"]
        label = row + (" (synthetic)" if result["data"]["synthetic"] else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def latex(runs: pandas.DataFrame) -> str:
    """Return test metrics of runs, as `results` has them, as a table for LaTeX's booktabs: mean ± sd over seeds."""
    keys = [c for c in runs if c in ("name", "benchmark", "variant") or c.startswith("overrides/")]
    scores = runs.groupby(keys, dropna=False)[[c for c in runs if c.startswith("test/")]]
    cells = scores.mean().map("{:.3f}".format) + scores.std().map(lambda sd: "" if sd != sd else f" ± {sd:.3f}")
    cells = cells.rename(columns=lambda c: c.removeprefix("test/")).replace("nan", "–").reset_index().fillna("")
    return cells.assign(seeds=scores.size().to_numpy()).to_latex(index=False, escape=True)


def _spread(sd: float | None, digits: int = 2) -> str:
    return "" if sd is None else f" ± {100 * sd:.{digits}f}"


def comparison(report: Mapping[str, Any]) -> list[str]:
    """Return what `reproduce` measured as lines of Markdown: one table per benchmark, published numbers behind."""
    lines = []
    for name, benchmark in report["benchmarks"].items():
        if "missing" in benchmark:
            lines += ["", f"{name}: data not present. {benchmark['missing']}"]
            continue
        label = name + (" (synthetic)" if benchmark["synthetic"] else "")
        label += f", equal {benchmark['equal_parameters']} parameters" if "equal_parameters" in benchmark else ""
        more = EXTRA.get(benchmark["task"], {})
        head = [f"{label}, accuracy in %", "Has0" if more else "", *more, "full minus this", "p", "parameters"]
        lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += [_row(variant, row, more.values()) for variant, row in benchmark["rows"].items()]
        for paper in benchmark["published"]:
            non0 = paper["accuracy_non0"]
            cells = [f"published: {paper['method']}", f"{paper['accuracy']:.1f}"]
            cells += ["" if non0 is None else f"{non0:.1f}", *[""] * (len(more) - 1)] if more else []
            lines.append("| " + " | ".join([*cells, "", "", ""]) + " |")
    return lines


def _row(variant: str, row: Mapping[str, Any], more: Iterable[str]) -> str:
    low, high = (100 * x for x in row["interval"]["accuracy"])
    score, test = row["test"]["accuracy"], row["against_full"].get("accuracy")
    cells = [variant, f"{100 * score['mean']:.1f}{_spread(score['sd'], 1)} [{low:.1f}, {high:.1f}]"]
    for name in more:
        value, percent = row["test"].get(name), name.startswith("accuracy")
        cells.append("–" if value is None else f"{100 * value['mean']:.1f}" if percent else f"{value['mean']:.3f}")
    if test:
        middle, low, high = (f"{100 * test[k]:+.1f}" for k in ("difference", "low", "high"))
        cells += [f"{middle} [{low}, {high}]", "< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"]
    else:
        cells += ["", ""]
    return "| " + " | ".join([*cells, f"{row['parameters']:,}"]) + " |"
