"""Does fusion pay? Five emoji-disjoint folds: AlignMamba-2 on picture and text, on either alone, and concatenation.

Every arm is trained by the same recipe and trainer on the same frozen features of the same emoji. Its settings are
chosen among the same candidates, fold by fold, by the loss on the fold's validation split; then the model is trained
anew on training and validation splits and tested, once a seed. No test fold chooses anything for itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignmamba2.datasets import load_dataset
from alignmamba2.experiments import write_results
from alignmamba2.recipes import Recipe
from alignmamba2.training import evaluate, fit
from studies.datasets.emoji import FOLDS, RECIPE

FUSED = "AlignMamba-2, image + text"
ARMS: dict[str, dict[str, Any]] = {
    FUSED: {},
    "AlignMamba-2, image only": {"data.modalities": ["image"]},
    "AlignMamba-2, text only": {"data.modalities": ["text"]},
    "plain concatenation": {"data.concatenate": True},
}
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"model.d_model": 32, "model.dropout": 0.5},
    {"model.d_model": 64, "model.dropout": 0.7},
)
METRICS = ("accuracy", "f1_macro")


def run_fold(recipe: str, change: Mapping[str, Any], fold: int, seeds: Sequence[int], fast: bool) -> dict[str, Any]:
    """One arm on one fold: validation losses of the candidates, the one chosen, and its test metrics, seed by seed."""
    base = {**change, "data.fold": fold}
    read = Recipe.load(recipe, base)
    datasets = load_dataset(read.dataset, **read.data)
    losses = []
    for candidate in CANDIDATES:
        trial = Recipe.load(recipe, {**base, **candidate, "training.refit": False})
        result = fit(trial, seed=seeds[0], fast=fast, datasets=datasets, progress=False)
        losses.append(result.history[result.best_epoch]["valid/loss"])
    chosen = CANDIDATES[int(np.argmin(losses))]
    runs = []
    for seed in seeds:
        result = fit(Recipe.load(recipe, {**base, **chosen}), seed=seed, fast=fast, datasets=datasets, progress=False)
        scores = evaluate(result.model, datasets["test"])
        runs.append({"seed": seed, "best_epoch": result.best_epoch, **{m: scores[m] for m in METRICS}})
    test = datasets["test"]
    return {
        "fold": fold,
        "protocol": test.protocol,
        "samples": {split: len(d) for split, d in datasets.items()},
        "notes": list(test.notes),
        "valid_losses": losses,
        "chosen": chosen,
        "runs": runs,
        "test": {m: float(np.mean([run[m] for run in runs])) for m in METRICS},
    }


def summary(folds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and sd over folds of each metric's mean over seeds."""
    scores = {}
    for m in METRICS:
        values = [fold["test"][m] for fold in folds]
        scores[m] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
    return scores


def differences(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy of the fused arm minus each other arm's, fold by fold: mean, sd, and in how many folds it is above 0."""
    accuracy = {name: np.array([row["test"]["accuracy"] for row in arm["folds"]]) for name, arm in arms.items()}
    gains = {}
    for name, values in accuracy.items():
        if name != FUSED:
            d = accuracy[FUSED] - values
            sd = float(d.std(ddof=1)) if len(d) > 1 else 0.0
            gains[name] = {"mean": float(d.mean()), "sd": sd, "folds_above": int((d > 0).sum())}
    return gains


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies folds", description=__doc__)
    parser.add_argument("--recipe", default=str(RECIPE))
    parser.add_argument("--seeds", type=int, default=3, help="seeds a fold (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first so many folds")
    parser.add_argument("--fast", action="store_true", help="two epochs: to see that everything runs")
    parser.add_argument("--results", type=Path, default=Path("runs/emoji.json"))
    arguments = parser.parse_args(argv)
    seeds = range(arguments.seeds)
    load_dataset("emoji", **Recipe.load(arguments.recipe).data)  # tokens are computed once, before anyone shares them
    jobs = [
        (arguments.recipe, change, fold, seeds, arguments.fast)
        for change in ARMS.values()
        for fold in range(arguments.folds)
    ]
    # Processes of one thread each: these models are too small for more.
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        folds = list(pool.map(run_fold, *zip(*jobs, strict=True)))
    arms = {}
    print("Emoji, real: test accuracy over three classes in %, chance 33; mean ± sd over folds of the mean over seeds")
    for i, (name, change) in enumerate(ARMS.items()):
        mine = folds[i * arguments.folds : (i + 1) * arguments.folds]
        recipe = Recipe.load(arguments.recipe, change).to_dict()
        arms[name] = {"recipe": recipe, "folds": mine, "test": summary(mine), "synthetic": False}
        score = arms[name]["test"]["accuracy"]
        print(f"  {name:28s} {100 * score['mean']:.1f} ± {100 * score['sd']:.1f}")
    gains = differences(arms)
    for name, d in gains.items():
        print(f"  {FUSED} − {name}: {100 * d['mean']:+.1f} ± {100 * d['sd']:.1f}, above 0 in {d['folds_above']} folds")
    results = {"arms": arms, "differences": gains, "candidates": CANDIDATES, "fast": arguments.fast}
    command = " ".join(["python -m studies folds", *(argv or ())])
    print(f"written: {write_results(arguments.results, results, command)}")
