"""Choose settings by k-fold cross-validation: as many for each kind of model, and a file of all that was tried."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, ParameterGrid, ParameterSampler, StratifiedGroupKFold
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset
from tqdm import tqdm

from ..baselines import OURS, counted, matching_width, parameter_count
from ..batch import Sample
from ..datasets import Dataset, entry_of
from ..model.config import AlignMamba2Config
from ..recipes import Recipe
from ..storage.files import FileError, json_digest, read_json, write_json
from ..training import fit
from ..training.best import sign_of
from ..training.fitting import settings_of
from ..training.kept_states import content_hash
from .reproduction import fingerprint
from .results import mean_and_sd_of, provenance
from .seeds import load_described, run_name


def search(
    recipe: str | Path,
    space: Mapping[str, Sequence[Any]],
    *,
    kinds: Sequence[str] = (OURS,),
    trials: int = 8,
    folds: int = 5,
    seed: int = 0,
    folder: Path = Path("runs/search"),
    fast: bool = False,
    command: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Try settings of a recipe by k-fold cross-validation over its training and validation samples together.

    Samples of one group, such as a video or a scene, are never on both sides. A setting's score is the mean over folds
    of the recipe's `monitor` at the epoch that is best on average, so the number of epochs is chosen, too. The test
    split is not touched. The result has provenance, protocol, "trials" (every setting with kind, size, curves by fold,
    score and epochs) and "chosen", for each kind the place of its best trial.

    Parameters
    ----------
    space : mapping of setting to values, such as ``{"model.dropout": [0.1, 0.5]}``
        All combinations if there are at most `trials`, otherwise a random choice of them; the recipe as it is comes
        first.
    kinds : kinds of model (see `build_model`)
        Each is given the same settings, and the width at which its fusion is as large as AlignMamba-2's.
    trials : settings per kind, the recipe's own included
    folder : where finished trainings are kept, one file each, which are not run again
    fast : two epochs per training: to see that everything runs
    """
    base = Recipe.load(recipe)
    splits = load_described(base, say)
    train, valid = splits["train"], splits["valid"]
    names = {m: f"{content_hash(train, m)}+{content_hash(valid, m)}" for m in train.encoders}
    pool = ConcatDataset([train.samples, valid.samples])
    groups, labels = [*train.groups, *valid.groups], [*train.labels, *valid.labels]
    parts = _folds(groups, labels if train.task == "classification" else [], folds, seed)
    data = fingerprint({"train": train, "valid": valid})
    monitor = base.training.monitor
    if monitor == "epoch":
        monitor = "valid/accuracy" if train.task in ("classification", "multilabel") else "valid/mae"
    sign = -sign_of(monitor)  # more is better
    table: list[dict[str, Any]] = []
    settings = _settings(space, trials, seed)
    with tqdm(total=len(kinds) * len(settings) * folds, unit="training", disable=not progress) as bar:
        for kind, change in itertools.product(kinds, settings):
            loaded, size = _sized(recipe, train, kind, change, fast)
            curves = []
            for places in parts:
                fold = {s: _part(train, pool, names, p) for s, p in zip(("train", "valid"), places, strict=True)}
                curves.append(_curve(loaded, fold, seed, folder, data))
                bar.update()
            scores = np.array([[row[monitor] for row in curve] for curve in curves])
            epoch = int((sign * scores.mean(0)).argmax())
            trial = {"kind": kind, "change": change, **size, "epochs": epoch + 1, "curves": scores.tolist()}
            table.append({**trial, "score": mean_and_sd_of([curve[epoch] for curve in curves])})
            score = table[-1]["score"][monitor]
            say(f"  {kind}, {change or 'the recipe as it is'}: {monitor} {score['mean']:.4f}, {epoch + 1} epochs")
    ranked = sorted(table, key=lambda trial: sign * trial["score"][monitor]["mean"])
    return {
        **provenance(command),
        "recipe": base.to_dict(),
        "protocol": f"{folds}-fold cross-validation over training and validation samples, by group; {train.protocol}",
        "monitor": monitor,
        "seed": seed,
        "fast": fast,
        "trials": table,
        "chosen": {trial["kind"]: table.index(trial) for trial in ranked},  # the last one of its kind is the best
    }


def grid(recipe: str | Path, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every combination of overrides by name: a tuple is several values, and validation chooses among them.

    Of a setting whose type is a list, only a tuple of lists is several values. A recipe that would train on the
    validation split too (`refit`) does not do so here.
    """
    lists = {f"model.{f.name}" for f in fields(AlignMamba2Config) if re.search("Sequence|list", f.type)}
    takes = signature(entry_of(Recipe.load(recipe).dataset).load).parameters.values()
    lists |= {f"data.{option.name}" for option in takes if isinstance(option.default, (list, tuple))}
    values, base = {}, dict(overrides)
    for key, value in overrides.items():
        listed = ".".join(key.split(".")[:2]) in lists
        if isinstance(value, tuple) and (not listed or {type(x) for x in value} == {list}):
            values[key] = base.pop(key)
    loaded = Recipe.load(recipe, base)
    if values and loaded.training.refit and loaded.training.monitor == "epoch":
        values["training.refit"] = [False]
    return {run_name(loaded.name, change): {**base, **change} for change in ParameterGrid(values)}


def ranked(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the validation split's metric that chooses among results of `grid`, and these results, best first."""
    monitors = {result["recipe"]["training"]["monitor"].removeprefix("valid/") for result in results.values()}
    usual = "mae" if all("mae" in result["valid"] for result in results.values()) else "accuracy"
    metric = usual if len(monitors) > 1 or monitors == {"epoch"} else monitors.pop()
    return metric, dict(sorted(results.items(), key=lambda row: sign_of(metric) * row[1]["valid"][metric]["mean"]))


def _folds(names: Sequence[str], classes: Sequence[Tensor], folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Places of training and validation samples in each fold; a sample without a group is a group of its own."""
    groups = [name or f"sample {i}" for i, name in enumerate(names)]
    if not 2 <= folds <= len(set(groups)):
        raise ValueError(f"folds: found {folds}; expected 2 to {len(set(groups))}, the number of groups")
    labels, kind = np.zeros(len(groups)), GroupKFold
    if classes and all(label is not None and label.ndim == 0 for label in classes):
        labels, kind = np.array([int(label) for label in classes]), StratifiedGroupKFold
    cut = kind(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    return [(train.tolist(), valid.tolist()) for train, valid in cut]


def _settings(space: Mapping[str, Sequence[Any]], trials: int, seed: int) -> list[dict[str, Any]]:
    grid = ParameterGrid({name: list(values) for name, values in space.items()})
    drawn = grid if len(grid) < trials else ParameterSampler(grid.param_grid, trials - 1, random_state=seed)
    return [{}, *(dict(setting) for setting in drawn if setting)]


def _sized(
    recipe: str | Path, train: Dataset, kind: str, change: Mapping[str, Any], fast: bool
) -> tuple[Recipe, dict[str, int]]:
    always = {"training.monitor": "epoch", "training.refit": False} | ({"training.max_epochs": 2} if fast else {})
    loaded = Recipe.load(recipe, {**change, **always})
    settings = counted(settings_of(loaded, train))
    if kind != OURS:
        width = matching_width({**settings, "kind": kind}, parameter_count(settings))
        loaded = Recipe.load(recipe, {**change, **always, "model.kind": kind, "model.d_model": width})
        settings |= {"kind": kind, "d_model": width}
    return loaded, {"parameters": parameter_count(settings), "d_model": settings["d_model"]}


def _part(dataset: Dataset, pool: Sequence[Sample], names: Mapping[str, str], places: Sequence[int]) -> Dataset:
    cut, samples = json_digest(places)[:16], Subset(pool, places)
    samples.keys = {m: f"{name}, part {cut}" for m, name in names.items()}
    return replace(dataset, split=f"part {cut}", samples=samples)


def _curve(recipe: Recipe, fold: Mapping[str, Dataset], seed: int, folder: Path, data: str) -> list[dict[str, float]]:
    recipe = replace(recipe, training=replace(recipe.training, patience=recipe.training.max_epochs))
    what = [recipe.to_dict(), [part.split for part in fold.values()], data, seed, version("alignmamba2")]
    path = folder / recipe.name / f"{json_digest(what)[:20]}.json"
    with suppress(FileNotFoundError, FileError):
        return read_json(path)["history"]
    history = fit(recipe, seed=seed, datasets=dict(fold), progress=False).history
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"history": history})
    return history
