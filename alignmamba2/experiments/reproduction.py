"""Every run of a benchmark, each a file of its own: written once it is finished, and never run again."""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..datasets import Dataset, is_present, load_dataset
from ..datasets.corruptions import corrupt
from ..metrics import calibration_error
from ..recipes import Recipe
from ..storage.files import FileError, read_json, write_json
from ..training import Machines, fit, loader
from ..training.evaluation import scores as metrics_of
from ..training.machines import process
from .plan import BENCHMARKS, Variant, changed, variants
from .runs import provenance
from .summary import published, summarise

MACHINES = asdict(Machines())  # what runs when nothing is said
NOISE = (0.5, 1.0, 2.0)  # severities, as the data set's noise counts them (see `datasets.corruptions`)


def reproduce(
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    folder: Path = Path("runs/reproduce"),
    fast: bool = False,
    jobs: int = 1,
    command: str = "",
    only: Sequence[str] | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    machines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and evaluate AlignMamba-2, its baselines and its ablations on benchmarks; return what the report says.

    Parameters
    ----------
    names : names of `BENCHMARKS`
    folder : of finished runs, one file each. A run that is there is not run again; one that was cut off goes on, and
        one whose file is damaged is said and run again.
    fast : two epochs a run: to see that everything runs
    jobs : runs at a time, each in a process of its own
    only : variants to run, by name; default: all
    machines : options of `fit` that say what trains, such as devices; where processes train together, `jobs` is 1,
        the first of them evaluates and writes, and the others get an empty report

    Returns
    -------
    dict
        Provenance, and by benchmark either "missing", how to bring its files, or its protocol, hashes, published
        numbers and a row a variant.
    """
    machines = {k: v for k, v in (machines or {}).items() if v != MACHINES[k]}
    if jobs > 1 and "devices" in machines:
        raise ValueError(f"jobs: found {jobs} with {machines}; runs side by side have one device each")
    benchmarks: dict[str, Any] = {}
    plans: dict[str, tuple[dict[str, Dataset], list[Variant]]] = {}
    waiting: list[dict[str, Any]] = []
    for name in names:
        recipe = Recipe.load(BENCHMARKS[name].recipe)
        if not is_present(recipe.dataset):
            how = BENCHMARKS[name].how
            say(f"{name}: data not present. {how}")
            benchmarks[name] = {"missing": how, "published": published(BENCHMARKS[name])}
            continue
        datasets = load_dataset(recipe.dataset, **recipe.data)
        say(f"{name}: {datasets['test'].description}\n  protocol: {datasets['test'].protocol}")
        print_of_data = fingerprint(datasets)
        rows = [v for v in variants(BENCHMARKS[name], recipe, datasets["train"]) if not only or v.name in only]
        plans[name] = datasets, rows
        benchmarks[name] = {"fingerprint": print_of_data}
        for seed, row in itertools.product(seeds, rows):
            job = {"benchmark": name, "variant": row.name, "overrides": dict(row.overrides), "seed": seed}
            job |= {"machines": machines} if machines else {}
            job |= {"fast": fast, "data": print_of_data, "version": importlib.metadata.version("alignmamba2")}
            job["key"] = _key(job, changed(recipe, row.overrides, fast))
            waiting.append(job)
    todo = [job for job in waiting if not _finished(folder, job, say)]
    say(f"{len(waiting)} runs, {len(waiting) - len(todo)} of them finished before")
    _run_all(todo, folder, jobs, {name: plan[0] for name, plan in plans.items()}, progress)
    if process()[0]:
        return {}
    for name, (datasets, rows) in plans.items():
        records = [read_json(_path(folder, job)) for job in waiting if job["benchmark"] == name]
        benchmarks[name] |= summarise(BENCHMARKS[name], datasets, rows, records)
    return {**provenance(command), "seeds": list(seeds), "fast": fast, "benchmarks": benchmarks}


def _key(job: Mapping[str, Any], recipe: Recipe) -> str:
    """Names a run by all that decides its numbers: recipe, seed, data, version, and machines other than one."""
    what = [recipe.to_dict(), *(job[k] for k in ("seed", "fast", "data", "version", "machines") if k in job)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


def _path(folder: Path, job: Mapping[str, Any]) -> Path:
    return folder / "runs" / job["benchmark"] / f"{job['key']}.json"


def _finished(folder: Path, job: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    """Whether a run's file is there and whole."""
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
    """SHA-256 over every number of every split, and the protocols."""
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
    bar = tqdm(total=len(todo), unit="run", disable=not progress, smoothing=0.1)
    if jobs == 1:
        for job in todo:
            bar.set_description(f"{job['benchmark']}: {job['variant']}, seed {job['seed']}")
            run(job, folder, datasets[job["benchmark"]])
            bar.update()
    elif todo:
        # Processes of their own, started afresh: no thread of numba or PyTorch is carried over.
        threads = max(1, (os.cpu_count() or 1) // jobs)
        with concurrent.futures.ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), initializer=_start, initargs=(threads,)
        ) as pool:
            waiting = [pool.submit(run, job, folder) for job in todo]
            try:
                for done in concurrent.futures.as_completed(waiting):
                    done.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    bar.close()


def _start(threads: int) -> None:
    torch.set_num_threads(threads)  # the scan follows it


_loaded: dict[str, dict[str, Dataset]] = {}


def run(job: Mapping[str, Any], folder: Path, datasets: dict[str, Dataset] | None = None) -> None:
    """One run: train (or go on), evaluate clean, with modalities missing and with noise, and write its file."""
    recipe = Recipe.load(BENCHMARKS[job["benchmark"]].recipe)
    if datasets is None:
        datasets = _loaded.get(job["benchmark"]) or load_dataset(recipe.dataset, **recipe.data)
        _loaded[job["benchmark"]] = datasets
    recipe = changed(recipe, job["overrides"], job["fast"])
    unfinished = folder / "unfinished" / job["key"]
    started = time.perf_counter()
    options = {"folder": unfinished, "progress": False, **job.get("machines", {})}
    result = fit(recipe, seed=job["seed"], datasets=datasets, **options)
    if process()[0]:  # of processes that train together, the first evaluates and writes
        return
    trained = time.perf_counter() - started
    best = result.history[result.best_epoch]
    test = datasets["test"]
    clean, prediction = examine(result.model, test)
    modalities = list(test.modalities)
    subsets = [s for n in range(1, len(modalities)) for s in itertools.combinations(modalities, n)]
    record = {
        **job,
        "recipe": recipe.to_dict(),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "seconds": round(trained, 2),
        "valid": {k.removeprefix("valid/"): v for k, v in best.items() if k.startswith("valid/")},
        "test": clean,
        "only": {"+".join(s): examine(result.model, test, s)[0] for s in subsets},
        "noise": {f"{s:g}": examine(result.model, corrupt(test, "noise", s, seed=job["seed"]))[0] for s in NOISE},
        "prediction": prediction,
    }
    path = _path(folder, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    shutil.rmtree(unfinished, ignore_errors=True)


@torch.no_grad()
def examine(model: torch.nn.Module, dataset: Dataset, only: Sequence[str] = ()) -> tuple[dict[str, Any], list[float]]:
    """Metrics, calibration among them for classes, and predictions; with `only`, the other modalities are missing.

    Samples of which nothing is left then are given none of those modalities' tokens but one of zeros: they count.
    """
    model.eval()
    predictions, labels, sure = [], [], []
    for batch in loader(dataset, 64):
        if only:
            batch = _without(batch, only)
        output = model(batch.to(next(model.parameters()).device))
        known = ... if batch.label_mask is None else batch.label_mask
        predictions.append(output.prediction.cpu()[known])
        labels.append(batch.labels[known])
        if output.logits is not None:
            sure.append(output.logits.cpu()[known].softmax(-1))
    prediction, target = torch.cat(predictions), torch.cat(labels)
    found = metrics_of(prediction, target, model.config)
    if sure:
        found["calibration_error"] = calibration_error(torch.cat(sure), target)
    return found, prediction.tolist()


def _without(batch, only: Sequence[str]):
    """The batch with these modalities only; a sample that has none of them gets one token of zeros in the first."""
    kept = batch.only(*only)
    empty = ~torch.stack([mask.any(1) for mask in kept.masks.values()]).any(0)
    if not empty.any():
        return kept
    masks = dict(kept.masks)
    masks[only[0]] = masks[only[0]].clone()
    masks[only[0]][empty, 0] = True
    return type(kept)(kept.features, masks, kept.labels, kept.label_mask, kept.ids, kept.words)
