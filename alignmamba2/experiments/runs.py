"""Several seeds, several variants, one results file: measured, never typed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..baselines import load_model
from ..datasets import Dataset, load_dataset
from ..metrics import mean_and_sd
from ..model import FusionModel
from ..recipes import Recipe
from ..storage.files import write_text
from ..training import evaluate, fit, training_notes

# Each ablation changes the recipe in one place. "full" is the recipe itself.
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without OT": {"model.lambda_ot": 0.0},
    "without MMD": {"model.lambda_mmd": 0.0},
    "without OT and MMD": {"model.lambda_ot": 0.0, "model.lambda_mmd": 0.0},
    "one shared expert only": {"model.experts": "shared"},
    "modality experts only": {"model.experts": "specific"},
}
PACKAGES = ("torch", "numpy", "numba", "accelerate", "pot", "transformers")


def run_seeds(
    recipe: str | Path,
    seeds: Sequence[int],
    *,
    overrides: Mapping[str, Any] | None = None,
    fast: bool = False,
    folder: Path | None = None,
    datasets: dict[str, Dataset] | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    machines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a recipe once a seed; evaluate each model, chosen on validation, once on the test split.

    Says first what data it is, unless `datasets`, splits to use instead of the recipe's, are given. `machines` are
    the options of `fit` that say what trains, such as devices and precision.

    Returns
    -------
    dict
        The recipe as run, the protocol and hashes of the data, one entry a seed ("seed", "best_epoch", "valid",
        "test", "seconds") and "test": mean and sd of each metric over seeds.
    """
    read = Recipe.load(recipe, overrides)
    datasets = datasets or _load(read, say)
    test = datasets["test"]
    runs = []
    for seed in seeds:
        started = time.perf_counter()
        where = folder / read.name / f"seed-{seed}" if folder else None
        options = {"fast": fast, "folder": where, "progress": progress, **(machines or {})}
        result = fit(read, seed=seed, datasets=datasets, **options)
        run = {
            "seed": seed,
            "best_epoch": result.best_epoch,
            "valid": _validation(result.history[result.best_epoch]),
            "test": evaluate(result.model, test),
            "seconds": round(time.perf_counter() - started, 1),
        }
        runs.append(run)
        say(f"  seed {seed}: test {_line(run['test'])} (epoch {run['best_epoch']}, {run['seconds']} s)")
    return {
        **_described(result.recipe.to_dict(), result.model, datasets),
        "fast": fast,
        "runs": runs,
        "test": _summary(runs, "test"),
    }


def run_ablations(recipe: str | Path, seeds: Sequence[int], **options: Any) -> dict[str, Any]:
    """`run_seeds` for each of `ABLATIONS`, on the same data, seeds and protocol."""
    say = options.get("say", print)
    base = options.pop("overrides", None) or {}
    folder = options.pop("folder", None)
    datasets = _load(Recipe.load(recipe, base), say)  # ablations change the model alone
    table = {}
    for name, change in ABLATIONS.items():
        say(f"{name}:")
        where = folder / name.replace(" ", "-") if folder else None
        table[name] = run_seeds(recipe, seeds, overrides={**base, **change}, folder=where, datasets=datasets, **options)
    return table


def evaluate_folders(folders: Sequence[Path], split: str = "test") -> dict[str, Any]:
    """Evaluate models that `fit` wrote into folders; those of one recipe are one row, mean and sd over them."""
    results: dict[str, Any] = {}
    for folder in folders:
        model = load_model(folder)
        notes = training_notes(folder)
        recipe = notes["recipe"]
        datasets = load_dataset(recipe["dataset"], **recipe["data"])
        run = {"seed": notes["seed"], "best_epoch": notes["best_epoch"], split: evaluate(model, datasets[split])}
        known = results.setdefault(recipe["name"], {**_described(recipe, model, datasets), "runs": []})
        known["runs"].append(run)
    for result in results.values():
        result[split] = _summary(result["runs"], split)
    return results


def _load(recipe: Recipe, say: Callable[[str], None]) -> dict[str, Dataset]:
    """The recipe's data; and say what it is."""
    datasets = load_dataset(recipe.dataset, **recipe.data)
    say(f"{recipe.name}: {datasets['test'].description}\n  protocol: {datasets['test'].protocol}")
    return datasets


def _validation(row: Mapping[str, float]) -> dict[str, float]:
    """What the epoch was chosen by: the validation metrics of a row of the history."""
    return {name.removeprefix("valid/"): value for name, value in row.items() if name.startswith("valid/")}


def _described(recipe: Mapping[str, Any], model: FusionModel, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    test = datasets["test"]
    return {
        "recipe": dict(recipe),
        "model": {"parameters": sum(p.numel() for p in model.parameters())},
        "data": {
            "protocol": test.protocol,
            "description": test.description,
            "synthetic": test.synthetic,
            "samples": {split: len(d) for split, d in datasets.items()},
            "sha256": dict(test.hashes),
        },
    }


def _summary(runs: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Mean and sd over runs of every metric of a split; None where a run has none."""
    summary: dict[str, Any] = {}
    for name in runs[0][split]:
        both = mean_and_sd([run[split][name] for run in runs])
        summary[name] = None if both is None else {"mean": both[0], "sd": both[1]}
    return summary


def table(results: Mapping[str, Mapping[str, Any]], split: str = "test") -> str:
    """A Markdown table of results: one row each, a split's metrics as mean ± sd over seeds."""
    names = ["accuracy", "f1"]
    lines = ["| | " + " | ".join(names) + " | seeds | parameters |", "|---" * (len(names) + 3) + "|"]
    for row, result in results.items():
        scores = [result[split].get(name) for name in names]
        cells = ["–" if s is None else f"{100 * s['mean']:.2f} ± {100 * s['sd']:.2f}" for s in scores]
        cells += [str(len(result["runs"])), f"{result['model']['parameters']:,}"]
        label = row + (" (synthetic)" if result["data"]["synthetic"] else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stored_results(name: str) -> dict[str, Any]:
    """What was measured once for all and is kept in the repository's folder results/, with its provenance.

    Raises
    ------
    FileNotFoundError
        Only the package is here, not the repository.
    """
    path = Path(__file__).parents[2] / "results" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; it comes with the repository: clone it, then pip install -e .")
    return json.loads(path.read_text("utf-8"))


def write_results(path: str | Path, results: Mapping[str, Any], command: str) -> Path:
    """Write results with everything that it takes to read them later; the file is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**provenance(command), "results": results}, indent=2) + "\n")
    return path


def provenance(command: str) -> dict[str, Any]:
    """Date, command, git commit, versions and machine of a measurement."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_commit": _git_commit(),
        "source_sha256": _source_hash(),
        "versions": {
            "alignmamba2": importlib.metadata.version("alignmamba2"),
            "python": platform.python_version(),
            **versions,
        },
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _git_commit() -> str | None:
    """The commit of the source, "+changes" behind it where files differ; None outside a clone."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit, changed = ask("rev-parse", "HEAD"), ask("status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def _source_hash() -> str:
    """One hash over the package's Python and TOML files: tells two states of the code apart without git."""
    digest = hashlib.sha256()
    here = Path(__file__).parents[1]
    for path in sorted([*here.rglob("*.py"), *here.rglob("*.toml")]):
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _line(metrics: Mapping[str, float | None]) -> str:
    shown = {name: metrics[name] for name in ("accuracy", "f1") if metrics.get(name) is not None}
    return ", ".join(f"{name} {100 * value:.2f}" for name, value in shown.items())
