"""Results: rows of means, intervals and paired tests, files with all that it takes to read them later, and tables."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..datasets import Dataset
from ..metrics import holm, interval, mean_and_sd, paired_test
from ..model.config import STEPS
from ..storage.files import write_text
from ..tasks import TASKS
from .benchmarks import FULL, Benchmark, Variant

if TYPE_CHECKING:
    import pandas

PACKAGE = Path(__file__).parents[1]
# Further columns for a task, and the metrics in them.
EXTRA = {
    "regression": {"Non0": "accuracy_non0", "Acc-7": "accuracy_7", "MAE": "mae", "Corr": "corr"},
    "multilabel": {"all right": "exact", "F1": "f1"},
    "multitarget": {"Corr": "corr"},
}
MEASURES = {"regression": ("accuracy", "mae"), "multitarget": ("mae",)}  # scores of other tasks: "accuracy"
SHARES = ("accuracy", "f1", "exact")  # metrics in %
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


def summarise(
    benchmark: Benchmark,
    datasets: Mapping[str, Dataset],
    variants: Sequence[Variant],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return all that the report says of one benchmark.

    A prediction's score is whether it is right: its class, each of its labels, or in regression its sign (as in
    "accuracy"). Numbers have another score, "mae", the negative error. Labels that are not known do not count. Tests
    compare each variant with the full model on each score; p is corrected for the number of variants (Holm). "drops"
    is the loss of the first score where modalities are missing, noisy or late, with its difference from the full
    model's: above 0, this row loses more.
    """
    test = datasets["test"]
    target, units, known = labels_and_units(test)
    measures = MEASURES.get(test.task, ("accuracy",))
    rows: dict[str, Any] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    drops: dict[tuple[str, str], np.ndarray] = {}  # by row and by what made the test harder
    for variant in variants:
        runs = [r for r in records if r["variant"] == variant.name]
        prediction = np.array([r["prediction"] for r in runs])[:, known]
        scores[variant.name] = {m: _scores(prediction, target, test.task, m) for m in measures}
        rows[variant.name] = {
            "group": variant.group,
            "note": variant.note,
            "overrides": dict(variant.overrides),
            "parameters": runs[0]["parameters"],
            "active_parameters": runs[0].get("active_parameters"),
            "seconds": float(np.mean([r["seconds"] for r in runs])),
            "seeds": [r["seed"] for r in runs],
            "test": mean_and_sd_of([r["test"] for r in runs]),
            "valid": mean_and_sd_of([r["valid"] for r in runs]),
            **{
                kind: {k: mean_and_sd_of([r[kind][k] for r in runs]) for k in runs[0].get(kind, ())}
                for kind in ("only", "noise", "late")
            },
            # "mae" is scored by the negative error
            "interval": {
                m: sorted(-x if m == "mae" else x for x in interval(s, units)) for m, s in scores[variant.name].items()
            },
            "against_full": {},
        }
        for name in runs[0].get("predictions", ()):  # how much of the first score is lost
            harder = np.array([r["predictions"][name] for r in runs])[:, known]
            lost = scores[variant.name][measures[0]] - _scores(harder, target, test.task, measures[0])
            drops[variant.name, name] = lost
    for (row, name), lost in drops.items():
        against = {"against_full": paired_test(lost, drops[FULL, name], units)} if (FULL, name) in drops else {}
        rows[row].setdefault("drops", {})[name] = {"drop": float(lost.mean()), **against}
    others = [name for name in rows if name != FULL and FULL in rows]
    for m in measures:
        tests = [paired_test(scores[FULL][m], scores[name][m], units) for name in others]
        for name, test_result, p in zip(others, tests, holm([t["p"] for t in tests]), strict=True):
            rows[name]["against_full"][m] = {**test_result, "p_holm": p}
    return {
        **describe(datasets),
        "task": test.task,
        "recipe": benchmark.recipe,
        "settings_tried": benchmark.tried,
        "equal_parameters": benchmark.equal,
        "published": list(benchmark.published),
        "rows": rows,
    }


def label_rows(dataset: Dataset) -> tuple[torch.Tensor, list[int]]:
    """Return labels (N,) or (N, K) as `Task.rows` has them, and the number of rows of each sample.

    A `ValueError` says that none is known.
    """
    task, labels = TASKS[dataset.task], [None if x is None else torch.as_tensor(x) for x in dataset.labels]
    there = [x for x in labels if x is not None]
    if not any(task.known(x).any() for x in there):
        raise ValueError(f"{dataset.name}, split {dataset.split!r}: no label of {len(labels)} is known; expected some")
    labels = [torch.full_like(there[0], task.unknown) if x is None else x for x in labels]
    labels = [x[task.known(x)] if dataset.readout in STEPS else x[None] for x in labels]
    return torch.cat(labels), [len(x) for x in labels]


def labels_and_units(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return known labels (M,), the number of each one's unit (M,), and the mask of known labels in `label_rows`.

    Predictions of one sample, and of samples of one group such as a video, are not independent: they are one unit.
    """
    labels, counts = label_rows(dataset)
    known = TASKS[dataset.task].known(labels).numpy()
    names = [group or str(i) for i, group in enumerate(dataset.groups)]
    units = np.repeat(np.unique(names, return_inverse=True)[1], counts)
    return labels.numpy()[known], np.broadcast_to(units.reshape(-1, *[1] * (known.ndim - 1)), known.shape)[known], known


def _scores(prediction: np.ndarray, target: np.ndarray, task: str, measure: str) -> np.ndarray:
    if measure == "mae":
        return -np.abs(prediction - target)
    if task == "regression":
        return ((prediction >= 0) == (target >= 0)).astype(float)
    return (prediction == target).astype(float)


def summary_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return "mean", "sd" and number of "seeds" of each test metric, by recipe; shares of right answers in %.

    `rows` maps the name of a recipe to its row: "test", and "seeds" or "runs", one entry per seed.
    """
    summary = {}
    for name, row in rows.items():
        scores = {metric: score for metric, score in row["test"].items() if score is not None}
        factors = {metric: 100 if metric.startswith(SHARES) else 1 for metric in scores}
        summary[name] = {
            metric: {k: None if v is None else v * factors[metric] for k, v in score.items()}
            | {"seeds": len(row.get("seeds", row.get("runs", ())))}
            for metric, score in scores.items()
        }
    return summary


def mean_and_sd_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return "mean" and "sd" over runs of every metric; None where a run has none, and no sd of a single run."""
    summary: dict[str, Any] = {}
    for name in runs[0]:
        moments = mean_and_sd([run.get(name) for run in runs])
        sd = moments[1] if moments and len(runs) > 1 else None
        summary[name] = None if moments is None else {"mean": moments[0], "sd": sd}
    return summary


def describe(datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """Return what a result says of its data: protocol, description, whether synthetic, sizes and hashes."""
    test = datasets["test"]
    return {
        "protocol": test.protocol,
        "description": test.description,
        "synthetic": test.synthetic,
        "samples": {split: len(d) for split, d in datasets.items()},
        "sha256": dict(test.hashes),
    }


def table(results: Mapping[str, Mapping[str, Any]], split: str = "test", *more: str) -> str:
    """Return results as a Markdown table: per row accuracy, F1 and `more` of a split as mean ± sd over seeds."""
    names = list(dict.fromkeys(["accuracy", "f1", *more]))
    lines = ["| | " + " | ".join(names) + " | seeds | parameters |", "|---" * (len(names) + 3) + "|"]
    for row, result in results.items():
        cells = [_score(name, result[split].get(name), 2) for name in names]
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


def _score(name: str, score: Mapping[str, float | None] | None, digits: int = 1, spread: bool = True) -> str:
    """A metric as mean ± sd, shares of right answers in %; "–" where it is not defined."""
    if score is None:
        return "–"
    factor, digits = (100, digits) if name.startswith(SHARES) else (1, 3)
    sd = f" ± {factor * score['sd']:.{digits}f}" if spread and score["sd"] is not None else ""
    return f"{factor * score['mean']:.{digits}f}{sd}"


def comparison(report: Mapping[str, Any]) -> list[str]:
    """Return what `reproduce` measured as lines of Markdown: one table per benchmark, published numbers behind."""
    lines = []
    for name, benchmark in report["benchmarks"].items():
        if "missing" in benchmark:
            lines += ["", f"{name}: data not present. {benchmark['missing']}"]
            continue
        label = name + (" (synthetic)" if benchmark["synthetic"] else "")
        label += f", equal {benchmark['equal_parameters']} parameters" if "equal_parameters" in benchmark else ""
        more, first = EXTRA.get(benchmark["task"], {}), MEASURES.get(benchmark["task"], ("accuracy",))[0]
        score = "MAE" if first == "mae" else "Has0" if benchmark["task"] == "regression" else ""
        label += ", accuracy in %" if first == "accuracy" else ""
        head = [label, score, *more, "full minus this", "p", "parameters"]
        lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += [_row(variant, row, first, more.values()) for variant, row in benchmark["rows"].items()]
        for paper in benchmark["published"]:
            non0 = paper["accuracy_non0"]
            cells = [f"published: {paper['method']}", f"{paper['accuracy']:.1f}"]
            cells += ["" if non0 is None else f"{non0:.1f}", *[""] * (len(more) - 1)] if more else []
            lines.append("| " + " | ".join([*cells, "", "", ""]) + " |")
    return lines


def _row(variant: str, row: Mapping[str, Any], first: str, more: Iterable[str]) -> str:
    factor, digits = (100, 1) if first == "accuracy" else (1, 3)
    low, high = (f"{factor * x:.{digits}f}" for x in row["interval"][first])
    test = row["against_full"].get(first)
    cells = [variant, f"{_score(first, row['test'][first])} [{low}, {high}]"]
    cells += [_score(name, row["test"].get(name), spread=False) for name in more]
    if test:
        middle, low, high = (f"{factor * test[k]:+.{digits}f}" for k in ("difference", "low", "high"))
        cells += [f"{middle} [{low}, {high}]", "< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"]
    else:
        cells += ["", ""]
    return "| " + " | ".join([*cells, f"{row['parameters']:,}"]) + " |"
