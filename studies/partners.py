"""Do the alignment losses teach the model which token belongs to which, and what does that cost?

In `mini-mosi` (synthetic) every word has one true partner among the audio and the video steps; the other steps are
fillers, which belong to nothing. The same recipe is trained with both losses, without L_OT, and without either; and so
in a world without fillers, in which each step is a word's partner. Told of the test split:

- the mass that the transport plans put on true partners, over the mass that the independent plan (every pair alike)
  puts there. 1 is chance; `most` is what the plan reaches that gives each partner all the mass it can take;
- the mean absolute error, and by how much it is smaller without, with the 95 % interval over seeds and sentences.

A transport plan has to place every step somewhere, fillers too.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from alignmamba2.datasets import Dataset, load_dataset
from alignmamba2.datasets.base import splits_of
from alignmamba2.datasets.mini import mosi
from alignmamba2.experiments import ABLATIONS
from alignmamba2.metrics import paired_test
from alignmamba2.model import AlignMamba2
from alignmamba2.training import fit, predict
from tools.results_file import keep

VARIANTS = ("full", "without OT", "without OT and MMD")
WORLDS = {"with fillers": True, "without fillers": False}


def main(argv: Sequence[str] = ()) -> None:
    """Train, print a line per variant, write results/partners.json world by world."""
    parser = argparse.ArgumentParser(prog="python -m studies partners", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--fast", action="store_true", help="two epochs: does it run?")
    parser.add_argument("--results", type=Path, default=Path("results/partners.json"))
    arguments = parser.parse_args(argv)
    command = " ".join(["python -m studies partners", *argv])
    for name in arguments.worlds:
        splits = load_dataset("mini-mosi") if WORLDS[name] else without_fillers()
        print(f"mini-mosi {name}, synthetic; mean ± sd over seeds {arguments.seeds}", flush=True)
        world = measured(splits, arguments.seeds, arguments.fast)
        keep(arguments.results, {name: world}, command)
    print(f"written: {arguments.results}")


def measured(splits: dict[str, Dataset], seeds: Sequence[int], fast: bool) -> dict[str, object]:
    """Train each variant with each seed; return what the study tells of the world."""
    test, rows, errors = splits["test"], {}, {}
    for variant in VARIANTS:
        runs, of_seeds = [], []
        for seed in seeds:
            options = {"overrides": ABLATIONS[variant], "datasets": splits, "fast": fast, "progress": False}
            model = fit("mini-mosi", seed=seed, **options).model
            guess, label = predict(model, test)
            of_seeds.append((guess - label).abs().double().numpy())
            runs.append({"seed": seed, "partners": agreement(model, test), "mae": float(of_seeds[-1].mean())})
        errors[variant], rows[variant] = np.stack(of_seeds), {"runs": runs}
        less = paired_test(errors["full"], errors[variant], np.arange(len(test)))
        rows[variant] |= {"less": less} if variant != "full" else {}
        cells = [f"{m} {_mean_sd([r['partners'][m] for r in runs])}" for m in runs[0]["partners"]]
        gap = " smaller by {difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**less) if variant != "full" else ""
        print(f"  {variant:20s}{', '.join(cells)}; MAE {_mean_sd([r['mae'] for r in runs])}{gap}", flush=True)
    return {"most": {m: best(test, (m, "text")) for m in test.modalities if m != "text"}, "rows": rows}


def without_fillers(seed: int = 0, noise: float = 0.1) -> dict[str, Dataset]:
    """Return mini-mosi's splits with as many steps of sound and face as words, each of them a word's partner."""
    concepts, maps = mosi.world("mini-mosi", mosi.WIDTHS["mini-mosi"], seed)
    samples = {}
    for number, (split, size) in enumerate(mosi.SIZES["mini-mosi"].items(), start=1):
        rng = np.random.default_rng([seed, number])
        one = [mosi.sentence(rng, concepts, maps, noise, f"{split}-{i:03d}", mosi.TOGETHER) for i in range(size)]
        samples[split] = one
    about = {"protocol": f"synthetic, seed {seed}, noise {noise:g}, no fillers", "synthetic": True}
    return splits_of(samples, name="mini-mosi", description="mini-mosi without fillers, synthetic", **about)


def agreement(model: AlignMamba2, dataset: Dataset) -> dict[str, float]:
    """For each modality: the plans' mass on true partners over that of the independent plan."""
    return {m: mass / chance for m, (mass, chance) in partner_masses(model, dataset).items()}


@torch.no_grad()
def partner_masses(model: AlignMamba2, dataset: Dataset) -> dict[str, tuple[float, float]]:
    """For each modality: the mass on true partners per sample, of the plans and of the independent plan."""
    plans = model.trace(dataset.batch(), scans=False).plans
    result = {}
    for (m, anchor), plan in plans.items():
        mass = chance = 0.0
        for i, sample in enumerate(dataset.samples):
            steps, words, size = _partners(sample, (m, anchor))
            mass += float(plan[i, steps, words].sum())
            chance += len(steps) / size
        result[m] = mass / len(dataset), chance / len(dataset)
    return result


def best(dataset: Dataset, pair: tuple[str, str]) -> float:
    """What `agreement` cannot exceed: no pair can hold more than the smaller of its two tokens' masses."""
    mass = chance = 0.0
    for sample in dataset.samples:
        steps, _, size = _partners(sample, pair)
        mass += len(steps) / max(len(sample.features[m]) for m in pair)
        chance += len(steps) / size
    return mass / chance


def _partners(sample, pair: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor, int]:
    partner = sample.partners[pair]
    steps = (partner >= 0).nonzero().flatten()
    return steps, partner[steps], len(sample.features[pair[0]]) * len(sample.features[pair[1]])


def _mean_sd(values: Sequence[float]) -> str:
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{sd}"
