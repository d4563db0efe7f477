"""Train a recipe with several seeds, train its ablations, evaluate saved models: mean and sd of each metric."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..baselines import load_model
from ..datasets import Dataset, load_dataset
from ..effects import fusion_parameters
from ..model import FusionModel
from ..recipes import Recipe
from ..storage.files import FileError, json_digest, read_json, write_json
from ..training import evaluate, fit, training_notes
from ..training.fitting import parts_of
from ..training.kept_states import prepared
from ..training.machines import process
from .benchmarks import ABLATIONS
from .results import describe, mean_and_sd_of

RESULT = "result.json"


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
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a recipe once per seed; evaluate each model, chosen on validation, once on the test split.

    The result has the recipe as run, the protocol and hashes of the data, one entry per seed ("seed", "best_epoch",
    "valid", "test", "seconds"), "valid" and "test": mean and sd of each metric over seeds.

    Parameters
    ----------
    overrides : mapping such as ``{"model.d_model": 32}``
    folder : where models go, ``NAME/seed-N`` each, the name as of `run_name`, with the run's numbers beside them for
        `results`; None: they are not kept
    datasets : splits to use in place of the recipe's, which are otherwise loaded and described through `say`
    machines : the options of `fit` that say what trains, such as devices and precision
    overwrite : train anew where the folder has a finished run; else the same run is taken as it is, and another refused
    """
    loaded = Recipe.load(recipe, overrides)
    datasets = datasets or load_described(loaded, say)
    train, runs = datasets["train"], []
    data = {split: parts_of(dataset) for split, dataset in datasets.items()} if folder else {}
    key = json_digest([loaded.to_dict(), fast, version("alignmamba2"), train.protocol, data, dict(machines or {})])
    folders = {seed: folder / run_name(loaded.name, overrides) / f"seed-{seed}" if folder else None for seed in seeds}
    finished = {} if overwrite else {s: _finished(where, key) for s, where in folders.items() if where}
    for seed, where in folders.items():
        started = time.perf_counter()
        if run := finished.get(seed):
            runs.append(run)
            as_run, model = training_notes(where)["recipe"], load_model(where)
            say(f"  seed {seed}: test {_line(run['test'])} (finished before)")
            continue
        options = {"fast": fast, "folder": where, "progress": progress, **(machines or {})}
        result = fit(loaded, seed=seed, datasets=datasets, **options)
        as_run, model = result.recipe.to_dict(), result.model
        run = {
            "seed": seed,
            "best_epoch": result.best_epoch,
            "valid": validation_metrics(result.history[result.best_epoch]),
            "test": evaluate(result.model, prepared(datasets["test"], result.model)),
            "seconds": round(time.perf_counter() - started, 1),
        }
        runs.append(run)
        if where and process()[0] == 0:
            about = {"name": loaded.name, "overrides": dict(overrides or {}), "fast": fast, "key": key}
            write_json(where / RESULT, about | run)
        say(f"  seed {seed}: test {_line(run['test'])} (epoch {run['best_epoch']}, {run['seconds']} s)")
    return {
        **_description(as_run, model, datasets),
        "fast": fast,
        "runs": runs,
        "valid": mean_and_sd_of([run["valid"] for run in runs]),
        "test": mean_and_sd_of([run["test"] for run in runs]),
    }


def _finished(where: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished run in its folder, None without one; a record of another key is refused."""
    if not (where / RESULT).is_file():
        return None
    record = read_json(where / RESULT)
    if record.get("key") != key:
        other = "holds a finished run of other settings, data, machines or version"
        raise FileExistsError(f"{where}: {other}; expected none. Say --overwrite, or give another --folder")
    return {name: record[name] for name in ("seed", "best_epoch", "valid", "test", "seconds")}


def run_name(name: str, overrides: Mapping[str, Any] | None) -> str:
    """Return the name of a run's folder: the recipe's and, behind a plus, what was changed in it."""
    changes = ",".join(f"{key}={value}" for key, value in (overrides or {}).items())
    plain = re.sub(r"[^\w.=,+-]", "-", changes)[:100]
    if plain != changes:  # two different changes must not become one name
        plain += f"-{json_digest(dict(overrides or {}))[:8]}"
    return f"{name}+{plain}" if plain else name


def results(folder: str | Path) -> Any:
    """Return the finished runs of `train`, `ablate` and `reproduce` below a folder as a pandas frame, one row each.

    Columns are such as "name" or "benchmark", "seed", "test/accuracy", "valid/mae" and "overrides/model.d_model".
    """
    import pandas

    rows = []
    for path in sorted(Path(folder).rglob("*.json")):
        with suppress(FileError, FileNotFoundError):
            record = read_json(path)
            keep = {k: v for k, v in record.items() if not k.startswith("prediction") and k not in ("recipe", "data")}
            rows += [{**keep, "folder": str(path.parent)}] if {"seed", "valid", "test"} <= record.keys() else []
    return pandas.json_normalize(rows, sep="/")


def run_variants(
    recipe: str | Path, seeds: Sequence[int], variants: Mapping[str, Mapping[str, Any]] = ABLATIONS, **options: Any
) -> dict[str, Any]:
    """Return `run_seeds` of each variant, changes of the recipe by name, on the same data, seeds and protocol."""
    say, base, datasets = options.get("say", print), options.pop("overrides", None) or {}, None
    if not any(key.startswith("data.") for change in variants.values() for key in change):
        datasets = load_described(Recipe.load(recipe, base), say)
    rows = {}
    for name, change in variants.items():
        if len(variants) > 1:
            say(f"{name}:")
        rows[name] = run_seeds(recipe, seeds, overrides={**base, **change}, datasets=datasets, **options)
    return rows


def evaluate_folders(folders: Sequence[Path], split: str = "test", trust: bool = False) -> dict[str, Any]:
    """Evaluate models that `fit` wrote into folders; those of one recipe are one row, mean and sd over them.

    Folders, modules and models of a hub that their files name are refused, but with `trust`.
    """
    results: dict[str, Any] = {}
    for folder in folders:
        notes = training_notes(folder, trust)
        model = load_model(folder)
        recipe = notes["recipe"]
        datasets = load_dataset(recipe["dataset"], **recipe["data"])
        run = {"seed": notes["seed"], "best_epoch": notes["best_epoch"], split: evaluate(model, datasets[split])}
        row = results.setdefault(recipe["name"], {**_description(recipe, model, datasets), "runs": []})
        row["runs"].append(run)
    for result in results.values():
        result[split] = mean_and_sd_of([run[split] for run in result["runs"]])
    return results


def validation_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """Return the validation metrics of a row of the history, by which the epoch was chosen."""
    return {name.removeprefix("valid/"): value for name, value in row.items() if name.startswith("valid/")}


def load_described(recipe: Recipe, say: Callable[[str], None], name: str = "") -> dict[str, Dataset]:
    """Load the recipe's data and say what they are, under a name other than the recipe's if one is given."""
    datasets = load_dataset(recipe.dataset, **recipe.data)
    say(f"{name or recipe.name}: {datasets['test'].description}\n  protocol: {datasets['test'].protocol}")
    return datasets


def _description(recipe: Mapping[str, Any], model: FusionModel, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    return {"recipe": dict(recipe), "model": {"parameters": fusion_parameters(model)}, "data": describe(datasets)}


def _line(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{n} {100 * metrics[n]:.2f}" for n in ("accuracy", "f1") if metrics.get(n) is not None)
