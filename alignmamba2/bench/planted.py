"""Is found what is planted, and nothing where nothing is? Small synthetic worlds, each built to need one part or none.

    lag       mini-mosi's sentences: the word's sound and face come late, among fillers. With L_OT and L_MMD or without.
    rules     two modalities of alike features, of which one counts with the other sign: modality experts or one shared.
    one rule  the same with one sign for both: here experts have nothing to tell apart.
    nothing   mini-mosi's sentences, each with another one's label: no part and no model has anything to find.

Every world has a seed of its own, for data, weights and order, and all models of a world share it; the epoch is chosen
on its validation split. What is reported is the difference of mean absolute errors on its test split, positive where
the part helps: mean over worlds, 95 % interval and p of Student's t, corrected for the number of rows (Holm).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ..batch import Sample
from ..datasets import Dataset, load_dataset
from ..experiments import write_results
from ..metrics import holm
from ..reproduce.runs import examine
from ..training import fit

SIZES = {"train": 480, "valid": 120, "test": 240}
RECIPE = "mini-mosi"
SMALL = {"model.d_model": 24, "model.n_layers": 1, "training.max_epochs": 15, "training.patience": 15}
SMALL |= {"training.batch_size": 48}
UNALIGNED = {"model.lambda_ot": 0.0, "model.lambda_mmd": 0.0}
SHARED = {**UNALIGNED, "model.experts": "shared"}
WIDER = {**SHARED, "model.d_model": 37}  # as many parameters as with experts
WIDTH, STEPS = 3, 3  # of the worlds of rules
CONSTANT = "the training labels' median"


def sentences(world: int, labels: bool = True) -> dict[str, Dataset]:
    """mini-mosi of that seed, cut short; without `labels`, each sentence has another one's."""
    splits = {}
    for number, (name, dataset) in enumerate(load_dataset("mini-mosi", seed=world).items()):
        samples = list(dataset.samples[: SIZES[name]])
        if not labels:
            order = np.random.default_rng([world, number]).permutation(len(samples))
            samples = [
                dataclasses.replace(s, label=samples[i].label) for s, i in zip(samples, order.tolist(), strict=True)
            ]
        splits[name] = dataclasses.replace(dataset, samples=samples)
    return splits


def rules(world: int, same: bool) -> dict[str, Dataset]:
    """Two sequences of standard Gaussian features; y sums a product of two of a token's features over all tokens, and
    counts one modality's as it is and the other's, unless the rule is the `same`, with the other sign."""
    splits = {}
    for number, (split, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng([world, number])
        samples = []
        for i in range(size):
            x = {m: rng.standard_normal((STEPS, WIDTH)) for m in ("a", "b")}
            a, b = (v[:, :2].prod(1).sum() for v in x.values())
            features = {m: torch.from_numpy(v).float() for m, v in x.items()}
            samples.append(Sample(features, torch.tensor(a + b if same else a - b).float(), f"{split}-{i}"))
        splits[split] = Dataset(
            name="rules",
            split=split,
            protocol=f"synthetic, seed {world}",
            description="synthetic: sums of products of features, of one sign in both modalities or of two",
            synthetic=True,
            task="regression",
            n_classes=1,
            readout="mean",
            samples=samples,
        )
    return splits


@dataclasses.dataclass(frozen=True)
class Question:
    """Two models on one kind of world; None stands for predicting `CONSTANT`, whatever comes."""

    title: str
    world: str
    with_part: Mapping[str, Any]
    without: Mapping[str, Any] | None
    only: tuple[str, ...] = ()  # the modalities that are there when testing; all of them if empty


WORLDS: dict[str, Callable[[int], dict[str, Dataset]]] = {
    "lag": sentences,
    "rules": lambda world: rules(world, same=False),
    "one rule": lambda world: rules(world, same=True),
    "nothing": lambda world: sentences(world, labels=False),
}
QUESTIONS = (
    Question("lag: alignment", "lag", {}, UNALIGNED),
    Question("lag: alignment, tested without text", "lag", {}, UNALIGNED, ("audio", "video")),
    Question("rules: experts, equally wide", "rules", UNALIGNED, SHARED),
    Question("rules: experts, equally large", "rules", UNALIGNED, WIDER),
    Question("one rule: experts, equally wide", "one rule", UNALIGNED, SHARED),
    Question("nothing: alignment", "nothing", {}, UNALIGNED),
    Question("nothing: experts, equally wide", "nothing", UNALIGNED, SHARED),
    Question("nothing: the model against a constant", "nothing", {}, None),
)


def errors(questions: Sequence[Question], worlds: Sequence[int], fast: bool) -> list[dict[str, list[float]]]:
    """For each question the mean absolute errors with the part and without it, a world each."""
    found: list[dict[str, list[float]]] = [{"with": [], "without": []} for _ in questions]
    for world in worlds:
        for kind, make in WORLDS.items():
            asked = [(q, row) for q, row in zip(questions, found, strict=True) if q.world == kind]
            splits = make(world) if asked else {}
            trained: dict[str, torch.nn.Module] = {}
            for question, row in asked:
                for side, change in (("with", question.with_part), ("without", question.without)):
                    row[side].append(_error(change, splits, world, question.only, fast, trained))
        print(f"  world {world}: " + "; ".join(f"{r['without'][-1] - r['with'][-1]:+.3f}" for r in found), flush=True)
    return found


def _error(
    change: Mapping[str, Any] | None,
    splits: dict[str, Dataset],
    world: int,
    only: tuple[str, ...],
    fast: bool,
    trained: dict[str, torch.nn.Module],
) -> float:
    if change is None:
        middle = torch.stack(list(splits["train"].labels)).median()
        return float((torch.stack(list(splits["test"].labels)) - middle).abs().mean())
    name = repr(change)
    if name not in trained:
        overrides = {**SMALL, **change}
        trained[name] = fit(RECIPE, seed=world, overrides=overrides, datasets=splits, fast=fast, progress=False).model
    return examine(trained[name], splits["test"], only)[0]["mae"]


def compared(row: Mapping[str, list[float]]) -> dict[str, Any]:
    """Means, and the mean difference with its interval and p."""
    gain = np.array(row["without"]) - np.array(row["with"])
    test = stats.ttest_1samp(gain, 0.0)
    low, high = test.confidence_interval(0.95)
    means = {f"mae_{side}": float(np.mean(values)) for side, values in row.items()}
    return {**means, "gain": float(gain.mean()), "low": float(low), "high": float(high), "p": float(test.pvalue)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alignmamba2 bench planted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--worlds", type=int, default=8, help="at least 2 (default: 8)")
    parser.add_argument("--fast", action="store_true", help="two epochs: to see that everything runs")
    parser.add_argument("--results", type=Path, default=Path("runs/planted.json"))
    arguments = parser.parse_args(argv)
    if arguments.worlds < 2:
        raise ValueError(f"worlds: found {arguments.worlds}; expected at least 2")
    worlds = range(arguments.worlds)
    print(f"Synthetic, {arguments.worlds} worlds: error without the part minus error with it, question by question")
    found = errors(QUESTIONS, worlds, arguments.fast)
    rows = [compared(row) for row in found]
    results: dict[str, Any] = {}
    for question, row, errs, p in zip(QUESTIONS, rows, found, holm([r["p"] for r in rows]), strict=True):
        results[question.title] = {**row, "p_holm": p, "errors": errs, "only": list(question.only)}
        print(
            f"{question.title:40s} {row['mae_with']:.3f} against {row['mae_without']:.3f}: {row['gain']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], p {p:.3f}"
        )
    described = {"synthetic": True, "worlds": list(worlds), "fast": arguments.fast, "sizes": SIZES}
    described |= {"recipe": RECIPE, "overrides": SMALL, "questions": results}
    command = " ".join(["python -m alignmamba2 bench planted", *(argv or ())])
    print(f"written: {write_results(arguments.results, described, command)}")
