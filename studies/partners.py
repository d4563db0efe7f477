"""Does L_OT teach the model which token belongs to which?

In `mini-mosi` (synthetic) every word has one true partner among the audio and the video steps. For models trained with
and without L_OT: the mass that the transport plans of the test split put on true partners, over the mass that the
independent plan (every pair alike) puts there. 1 is chance; `most` is what the plan reaches that gives each partner all
the mass it can take. Two variants weigh L_OT and L_MMD each by a tenth of the task's gradient; one of the two takes
no partners that are 0.3 of the whole time or more apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from alignmamba2.datasets import Dataset, load_dataset
from alignmamba2.model import AlignMamba2
from alignmamba2.storage.files import write_text
from alignmamba2.training import evaluate, fit
from tools.stopwatch import machine

SHARES = {"model.share_ot": 0.1, "model.share_mmd": 0.1}
VARIANTS = {
    "with L_OT": {},
    "a tenth of the gradient": SHARES,
    "and within a window": {**SHARES, "model.window": 0.3},
    "without L_OT": {"model.lambda_ot": 0.0},
    "without L_OT and L_MMD": {"model.lambda_ot": 0.0, "model.lambda_mmd": 0.0},
}


def main(argv: Sequence[str] | None = None) -> dict:
    """Train, print the table, write results/partners.json, return what it holds."""
    parser = argparse.ArgumentParser(prog="python -m studies partners", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fast", action="store_true", help="two epochs: does it run?")
    parser.add_argument("--out", type=Path, default=Path("results/partners.json"))
    arguments = parser.parse_args(argv)
    splits = load_dataset("mini-mosi")
    test = splits["test"]
    rows = {}
    print(f"{test.description}\n{test.protocol}; mass on true partners over chance, mean ± sd over {arguments.seeds}")
    for name, change in VARIANTS.items():
        runs = []
        for seed in arguments.seeds:
            model = fit(
                "mini-mosi", seed=seed, overrides=change, datasets=splits, fast=arguments.fast, progress=False
            ).model
            runs.append({"seed": seed, "partners": agreement(model, test), "test": evaluate(model, test)})
        rows[name] = runs
        cells = [f"{m} {_mean_sd([r['partners'][m] for r in runs])}" for m in runs[0]["partners"]]
        print(f"  {name:24s}{', '.join(cells)}; MAE {_mean_sd([r['test']['mae'] for r in runs])}", flush=True)
    most = {m: round(best(test, (m, "text")), 2) for m in test.modalities if m != "text"}
    print(f"  {'most':24s}{', '.join(f'{m} {v}' for m, v in most.items())}")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": f"{test.name}, {test.protocol}",
        "machine": machine("accelerate"),
        "most": most,
        "runs": rows,
    }
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(f"written: {arguments.out}")
    return result


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
