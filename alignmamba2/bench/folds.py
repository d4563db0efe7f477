"""Does fusion pay? Five emoji-disjoint folds: AlignMamba-2 on picture and text, on either alone, and concatenation.

Every arm is trained by the same recipe and trainer on the same frozen features of the same emoji. Its settings are
chosen among the same candidates, fold by fold, by the loss on the fold's validation split; then the model is trained
anew on training and validation splits and tested, once a seed. No test fold chooses anything for itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import load_dataset
from ..datasets.emoji import FOLDS
from ..experiments import write_results
from ..recipes import Recipe
from ..training import evaluate, fit

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


def run_arm(recipe: str, change: Mapping[str, Any], seeds: Sequence[int], folds: int, fast: bool) -> dict[str, Any]:
    """One arm on all folds: what was chosen, and test metrics; mean and sd over folds of the mean over seeds."""
    table = []
    for fold in range(folds):
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
            result = fit(
                Recipe.load(recipe, {**base, **chosen}), seed=seed, fast=fast, datasets=datasets, progress=False
            )
            scores = evaluate(result.model, datasets["test"])
            runs.append({"seed": seed, "best_epoch": result.best_epoch, **{m: scores[m] for m in METRICS}})
        mean = {m: float(np.mean([run[m] for run in runs])) for m in METRICS}
        table.append({"fold": fold, "valid_losses": losses, "chosen": chosen, "test": mean, "runs": runs})
    summary = {}
    for m in METRICS:
        values = [row["test"][m] for row in table]
        summary[m] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if folds > 1 else 0.0}
    test = datasets["test"]
    return {
        "recipe": read.to_dict(),
        "data": {
            "protocol": test.protocol.replace(f"fold {fold} of", "folds, all"),
            "description": test.description,
            "synthetic": test.synthetic,
            "samples": sum(map(len, datasets.values())),
            "notes": list(test.notes),
        },
        "folds": table,
        "test": summary,
    }


def differences(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy of the fused arm minus each other arm's, fold by fold: mean, sd, and in how many folds it is above 0."""
    accuracy = {name: np.array([row["test"]["accuracy"] for row in arm["folds"]]) for name, arm in arms.items()}
    found = {}
    for name, values in accuracy.items():
        if name != FUSED:
            d = accuracy[FUSED] - values
            sd = float(d.std(ddof=1)) if len(d) > 1 else 0.0
            found[name] = {"mean": float(d.mean()), "sd": sd, "folds_above": int((d > 0).sum())}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m alignmamba2 bench folds", description=__doc__)
    parser.add_argument("--recipe", default="emoji")
    parser.add_argument("--seeds", type=int, default=3, help="seeds a fold (default: 3)")
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first so many folds")
    parser.add_argument("--fast", action="store_true", help="two epochs: to see that everything runs")
    parser.add_argument("--results", type=Path, default=Path("runs/emoji.json"))
    arguments = parser.parse_args(argv)
    arms = {}
    print("Emoji, real: test accuracy over three classes in %, chance 33; mean ± sd over folds of the mean over seeds")
    for name, change in ARMS.items():
        arms[name] = run_arm(arguments.recipe, change, range(arguments.seeds), arguments.folds, arguments.fast)
        score = arms[name]["test"]["accuracy"]
        print(f"  {name:28s} {100 * score['mean']:.1f} ± {100 * score['sd']:.1f}", flush=True)
    found = differences(arms)
    for name, d in found.items():
        print(f"  {FUSED} − {name}: {100 * d['mean']:+.1f} ± {100 * d['sd']:.1f}, above 0 in {d['folds_above']} folds")
    results = {"arms": arms, "differences": found, "candidates": CANDIDATES, "fast": arguments.fast}
    command = " ".join(["python -m alignmamba2 bench folds", *(argv or ())])
    print(f"written: {write_results(arguments.results, results, command)}")
