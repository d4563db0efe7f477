"""Train and evaluate every row of a benchmark: one file per finished run, which is never run again."""

import functools
import hashlib
import itertools
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..batch import MultimodalBatch
from ..datasets import Dataset, entry_of, is_present, load_dataset, similar
from ..datasets.corruptions import can_suffer, corrupt
from ..effects import fusion_parameters
from ..encoders import Encoder, EncoderConfig
from ..metrics import calibration_error
from ..recipes import Recipe
from ..storage.files import FileError, json_digest, read_json, write_json
from ..tasks import TASKS, Task
from ..training import Machines, fit
from ..training.evaluation import outputs
from ..training.fitting import trained_start
from ..training.kept_states import prepared
from ..training.machines import process
from .benchmarks import FULL, Variant, benchmark_of, variants
from .results import label_rows, provenance, summarise, summary_of
from .seeds import load_described, validation_metrics

MACHINES = asdict(Machines())  # the defaults
# Severities, as the data set's noise counts them (see `datasets.corruptions`): of features, and QMF's of pictures.
NOISE = {False: (0.5, 1.0, 2.0), True: (5.0, 10.0)}
LATE = 0.25  # of the audio's length
STRENGTHS = tuple(10.0**k for k in range(-4, 3))  # C of the logistic regression; 1/α of the ridge regression


def reproduce(
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    folder: Path = Path("runs/reproduce"),
    fast: bool = False,
    jobs: int = 1,
    command: str = "",
    only: Sequence[str] | None = None,
    equal: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    machines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and evaluate AlignMamba-2, its baselines and its ablations on benchmarks; return what the report says.

    That is provenance, and for each benchmark its protocol, hashes, published numbers and one row per variant, or
    "missing", how to bring its files.

    Parameters
    ----------
    names : names as of `benchmark_of`
    folder : where finished runs are kept, one file each
        A run whose file is there is not run again, one that was stopped goes on, and one whose file is damaged is
        named and run again.
    fast : two epochs a run: to see that everything runs
    jobs : runs at a time, each in a process of its own
    only : variants to run, by name, or "benchmark/variant"; default: all
    equal : "stored" or "active", the parameters that baselines have as many of; default: the recipe's, see `Benchmark`
    machines : options of `fit` that say what trains, such as devices; where processes train together, `jobs` is 1,
        the first of them evaluates and writes, and the others get an empty report
    """
    machines = {k: v for k, v in (machines or {}).items() if v not in (None, MACHINES[k])}
    if jobs > 1 and "devices" in machines:
        raise ValueError(f"jobs: found {jobs} with {machines}; runs side by side have one device each")
    benchmarks: dict[str, Any] = {}
    tables: dict[str, tuple[dict[str, Dataset], list[Variant]]] = {}
    runs: list[dict[str, Any]] = []
    known: list[str] = []
    of = {name: replace(benchmark_of(name), **({"equal": equal} if equal else {})) for name in names}
    for name in names:
        recipe = Recipe.load(of[name].recipe)
        if not is_present(recipe.dataset):
            how = entry_of(recipe.dataset).command
            say(f"{name}: data not present. {how}")
            benchmarks[name] = {"missing": how, "published": list(of[name].published)}
            continue
        datasets = load_described(recipe, say, name)
        _check_labels(name, datasets)
        rows = variants(of[name], recipe, datasets["train"])
        known += [v.name for v in rows if v.name not in known]
        rows = [v for v in rows if not only or {v.name, f"{name}/{v.name}"} & set(only)]
        tables[name] = datasets, rows
        benchmarks[name] = {"fingerprint": fingerprint(datasets)}
        decisive = {"fast": fast, "data": benchmarks[name]["fingerprint"], "version": version("alignmamba2")}
        for seed, row in itertools.product(seeds, rows):
            if row.name == "linear" and seed != seeds[0]:  # nothing of it is random
                continue
            job = {"benchmark": name, "variant": row.name, "overrides": dict(row.overrides), "seed": seed}
            job |= {"modalities": list(row.modalities)} if row.modalities else {}
            job |= ({"machines": machines} if machines else {}) | decisive
            runs.append(job | {"key": _key(job)})
    for name in only or () if known else ():
        if name.rpartition("/")[2] not in known:
            raise ValueError(f"only: found {name!r}; the rows are {', '.join(known)}{similar(name, known)}")
    todo = [job for job in runs if not _finished(folder, job, say)]
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before")
    _run_all(todo, folder, jobs, {name: datasets for name, (datasets, _) in tables.items()}, progress)
    if process()[0]:
        return {}
    for name, (datasets, rows) in tables.items():
        records = [read_json(_path(folder, job)) for job in runs if job["benchmark"] == name]
        benchmarks[name] |= summarise(of[name], datasets, rows, records)
    report = {**provenance(command), "seeds": list(seeds), "fast": fast, "benchmarks": benchmarks}
    full = {b["recipe"]: b["rows"][FULL] for b in benchmarks.values() if FULL in b.get("rows", {})}
    return {**report, "summary": summary_of(full)}


def _check_labels(name: str, datasets: Mapping[str, Dataset]) -> None:
    """Refuse labels that some rows cannot predict, before anything is trained."""
    label_rows(datasets["test"])
    if datasets["train"].readout == "anchor_steps":
        expected = "one per sample or step, since rows without that modality have none; `train` takes them"
        raise ValueError(f"{name}: found a label per token of {datasets['train'].anchor!r}; expected {expected}")


def _recipe(job: Mapping[str, Any]) -> Recipe:
    fast = {"training.max_epochs": 2} if job["fast"] else {}
    return Recipe.load(benchmark_of(job["benchmark"]).recipe, {**job["overrides"], **fast})


def _key(job: Mapping[str, Any]) -> str:
    """The name of a run: a hash of all that decides its numbers, recipe, seed, data, version and machines."""
    names = ("seed", "fast", "data", "version", "machines", "modalities")
    decisive = [_recipe(job).to_dict(), *(job[k] for k in names if k in job)]
    decisive += ["linear"] if job["variant"] == "linear" else []
    return json_digest(decisive)[:20]


def _path(folder: Path, job: Mapping[str, Any]) -> Path:
    return folder / "runs" / re.sub(r"[^\w.-]", "-", job["benchmark"]) / f"{job['key']}.json"


def _finished(folder: Path, job: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    path = _path(folder, job)
    if not path.is_file():
        return False
    try:
        key = read_json(path).get("key")
    except FileError as error:
        say(f"{error}. That run is run again")
        return False
    if key != job["key"]:
        say(f"{path}: holds another run, {key}. That run is run again")
        return False
    # Killed between writing a run's file and sweeping up behind it?
    shutil.rmtree(folder / "unfinished" / job["key"], ignore_errors=True)
    return True


def fingerprint(datasets: Mapping[str, Dataset]) -> str:
    """Return the SHA-256 over every number of every split, and the protocols."""
    digest = hashlib.sha256()
    for split, dataset in sorted(datasets.items()):
        digest.update(f"{split} {dataset.protocol} {len(dataset)}".encode())
        for sample in dataset:
            digest.update(f"{sample.id} {None if sample.label is None else sample.label.tolist()}".encode())
            for m, x in sorted(sample.features.items()):
                digest.update(f"{m}{tuple(x.shape)}".encode() + np.ascontiguousarray(x.numpy()).tobytes())
    return digest.hexdigest()


def _run_all(
    todo: Sequence[Mapping[str, Any]],
    folder: Path,
    jobs: int,
    datasets: Mapping[str, dict[str, Dataset]],
    progress: bool,
) -> None:
    starts = {recipe.training.start: recipe for recipe in (_recipe(j) for j in todo if j["variant"] != "linear")}
    for recipe in starts.values():
        trained_start(recipe, progress)  # once, before processes would each train it, and with a bar of its own
    with tqdm(total=len(todo), unit="run", disable=not progress, smoothing=0.1) as bar:
        if jobs == 1:
            for job in todo:
                bar.set_description(f"{job['benchmark']}: {job['variant']}, seed {job['seed']}")
                epochs = SimpleNamespace(on_epoch=lambda row: bar.set_postfix(epoch=row["epoch"]))
                run(job, folder, datasets[job["benchmark"]], [epochs])
                bar.update()
            return
        # Processes of their own, started afresh: no thread of numba or PyTorch is carried over. The scan, too, takes
        # as many threads as PyTorch.
        threads = max(1, (os.cpu_count() or 1) // jobs)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            waiting = [pool.submit(run, job, folder) for job in todo]
            try:
                for done in as_completed(waiting):
                    done.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@functools.cache
def _load(benchmark: str) -> dict[str, Dataset]:
    recipe = Recipe.load(benchmark_of(benchmark).recipe)
    return load_dataset(recipe.dataset, **recipe.data)


def run(job: Mapping[str, Any], folder: Path, datasets: dict[str, Dataset] | None = None, callbacks: Any = ()) -> None:
    """Train one run (or go on with it), evaluate it clean, with modalities missing and with noise, write its file."""
    datasets = datasets or _load(job["benchmark"])
    recipe = _recipe(job)
    unfinished = folder / "unfinished" / job["key"]
    started = time.perf_counter()
    options = {"folder": unfinished, "progress": False, "callbacks": callbacks, **job.get("machines", {})}
    if job.get("modalities"):
        datasets = {split: dataset.only(*job["modalities"]) for split, dataset in datasets.items()}
    path = _path(folder, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    if job["variant"] == "linear":
        fitted = fit_linear(datasets, recipe)
        record = {**job, "recipe": recipe.to_dict(), **fitted, "only": {}, "noise": {}, "late": {}}
        write_json(path, {**record, "seconds": round(time.perf_counter() - started, 2)})
        return
    result = fit(recipe, seed=job["seed"], datasets=datasets, **options)
    if process()[0]:  # of processes that train together, the first evaluates and writes
        return
    trained = time.perf_counter() - started
    test = datasets["test"]
    kept = prepared(test, result.model)
    clean, prediction = examine(result.model, kept)
    harder = {
        kind: {
            name: examine(result.model, kept if changed is test else prepared(changed, result.model), only)
            for name, changed, only in changes
        }
        for kind, changes in _harder(test).items()
    }
    record = {
        **job,
        "recipe": recipe.to_dict(),
        "parameters": fusion_parameters(result.model),
        "active_parameters": fusion_parameters(result.model, active=True),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "seconds": round(trained, 2),
        "valid": validation_metrics(result.history[result.best_epoch]),
        "test": clean,
        **{kind: {name: metrics for name, (metrics, _) in results.items()} for kind, results in harder.items()},
        "predictions": {f"{kind} {n}": p for kind, results in harder.items() for n, (_, p) in results.items()},
        "prediction": prediction,
    }
    write_json(path, record)
    shutil.rmtree(unfinished, ignore_errors=True)


def _harder(test: Dataset) -> dict[str, list[tuple[str, Dataset, Sequence[str]]]]:
    """The harder tests by kind: "only" some modalities, "noise" by severity, and "late" audio."""
    modalities = list(test.modalities)
    subsets = [s for n in range(1, len(modalities)) for s in itertools.combinations(modalities, n)]
    severities = NOISE[any(m in ("image", "depth") for m in modalities)] if can_suffer(test, "noise") else ()
    stream = len(modalities) > 1 and "audio" in modalities and len(test[0].features["audio"]) > 1
    return {
        "only": [("+".join(s), test, s) for s in subsets],
        "noise": [(f"{s:g}", corrupt(test, "noise", s), ()) for s in severities],
        "late": [(f"{LATE:g}", corrupt(test, "late", LATE), ())] if stream else [],
    }


def examine(model: torch.nn.Module, dataset: Dataset, only: Sequence[str] = ()) -> tuple[dict[str, Any], list[Any]]:
    """Return metrics and predictions; with `only`, the other modalities are missing.

    For classes, "calibration_error" is among the metrics. A sample that has none of the modalities in `only` still
    counts: it gets one token of zeros.
    """
    prediction, target, logits = outputs(model, dataset, change=lambda batch: _only(batch, only) if only else batch)
    metrics = model.task.metrics(prediction, target)
    if logits is not None and not model.task.several:
        known = model.task.known(target)
        metrics["calibration_error"] = calibration_error(logits[known].softmax(-1), target[known])
    return metrics, prediction.tolist()


def _only(batch: MultimodalBatch, modalities: Sequence[str]) -> MultimodalBatch:
    """The batch with these modalities only; a sample that has none of them gets one token of zeros in the first."""
    batch = batch.only(*modalities)
    empty = ~torch.stack([mask.any(1) for mask in batch.masks.values()]).any(0)
    if not empty.any():
        return batch
    mask = batch.masks[modalities[0]].clone()
    mask[empty, 0] = True
    return replace(batch, masks={**batch.masks, modalities[0]: mask})


def fit_linear(datasets: Mapping[str, Dataset], recipe: Recipe | None = None) -> dict[str, Any]:
    """Fit logistic or ridge regression (scikit-learn) per label; return the record of a run of `reproduce`.

    Token ids and pictures are read by the encoder that they were made for, frozen, pictures as the recipe says; values
    are standardised by the training split. The strength of the penalty is chosen among `STRENGTHS` on the validation
    split, by the accuracy or the mean absolute error; with the recipe's `refit`, that split then trains too.
    """
    train = datasets["train"]
    settings = recipe.model.get("encoders", {}) if recipe else {}
    views = {m: {k: v for k, v in s.items() if k in ("size", "grid", "mirror", "bf16")} for m, s in settings.items()}
    encode = {m: Encoder(EncoderConfig(name, **views.get(m, {}))) for m, name in train.encoders.items()}
    frozen = SimpleNamespace(encode=encode)
    x, y = {}, {}
    for split, dataset in datasets.items():
        x[split] = np.stack([_means(sample.features) for sample in prepared(dataset, frozen)])
        labels = label_rows(dataset)[0]
        y[split] = (labels.double() if labels.is_floating_point() else labels).numpy()
    names = ("task", "n_classes", "classes")
    task = TASKS[train.task](SimpleNamespace(**{name: getattr(train, name) for name in names}, class_weights=()))
    mean, sd = x["train"].mean(0), x["train"].std(0)
    x = {split: (part - mean) / np.where(sd > 1e-8, sd, 1) for split, part in x.items()}
    fitted = [_fit(x["train"], y["train"], task, strength) for strength in STRENGTHS]
    guesses = [_predict(models, x["valid"], y["valid"]) for models in fitted]
    scores = [task.metrics(guess, torch.from_numpy(y["valid"])) for guess in guesses]
    best = min(range(len(fitted)), key=lambda i: scores[i]["mae"] if "mae" in scores[i] else -scores[i]["accuracy"])
    if recipe and recipe.training.refit:
        both = (np.concatenate([part["train"], part["valid"]]) for part in (x, y))
        fitted[best] = _fit(*both, task, STRENGTHS[best])
    prediction = _predict(fitted[best], x["test"], y["test"])
    return {
        "parameters": int(sum(np.size(part) for model in fitted[best] for part in (model.coef_, model.intercept_))),
        "valid": scores[best],
        "test": task.metrics(prediction, torch.from_numpy(y["test"])),
        "prediction": prediction.tolist(),
        "strength": STRENGTHS[best],
        "settings_tried": len(STRENGTHS),
    }


def _means(features: Mapping[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([x.double().mean(0) if len(x) else x.new_zeros(x.shape[1]) for x in features.values()]).numpy()


def _fit(x: np.ndarray, y: np.ndarray, task: Task, strength: float) -> list[Any]:
    """One model per label, fitted to samples whose label is known; of a label that never varies, a ridge regression."""
    from sklearn.linear_model import LogisticRegression, Ridge

    models = []
    for label in y.reshape(len(y), -1).T:
        known = task.known(label)
        numbers = label.dtype.kind == "f" or len(np.unique(label[known])) < 2
        model = Ridge(alpha=1 / strength) if numbers else LogisticRegression(C=strength, max_iter=2000)
        models.append(model.fit(x[known], label[known]))
    return models


def _predict(models: Sequence[Any], x: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    """Predictions of the shape and kind of labels."""
    prediction = np.stack([model.predict(x) for model in models], 1).reshape(labels.shape)
    return torch.from_numpy((prediction if labels.dtype.kind == "f" else prediction.round()).astype(labels.dtype))
