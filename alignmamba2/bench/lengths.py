"""Whole models against the length of their input: prediction, a training step, memory; equal parameters.

Three modalities of as many tokens each, one sample a batch, random features, float32. Width of each model such that
it has as many parameters as AlignMamba-2. A model that took longer than `patience` at one length is not asked at the
next. Chapter 12 of the course calls the same functions on the reader's machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..baselines import build_model, matching_width, parameter_count
from ..batch import MultimodalBatch, Sample
from ..files import write_text
from ..model import AlignMamba2
from .measure import machine, medians, peak_extra_mib, slope

OURS = "alignmamba2"
KINDS = (OURS, "transformer", "mult")
MODALITIES = {"text": 32, "audio": 16, "video": 20}
LENGTHS = (96, 192, 384, 768, 1536, 3072, 6144)
NAN = float("nan")


def models(kinds: Sequence[str] = KINDS, d_model: int = 32, seed: int = 0, **settings: Any) -> dict[str, AlignMamba2]:
    """One untrained model a kind, all as large as AlignMamba-2 at this width; `settings` as in its config."""
    settings = {"modalities": MODALITIES, "d_model": d_model, "task": "regression", "dropout": 0.0, **settings}
    target, found = parameter_count(settings), {}
    for kind in kinds:
        torch.manual_seed(seed)
        own = {**settings, "kind": kind}
        width = d_model if kind == OURS else matching_width(own, target)
        found[kind] = build_model({**own, "d_model": width}).eval()
    return found


def batch_of(length: int, samples: int = 1, seed: int = 0) -> MultimodalBatch:
    """Random features of `length` tokens a sample, a third in each modality."""
    draw = torch.Generator().manual_seed(seed)

    def one(name: str) -> Sample:
        features = {m: torch.randn(length // 3, width, generator=draw) for m, width in MODALITIES.items()}
        return Sample(features, torch.randn((), generator=draw), name)

    return MultimodalBatch.from_samples([one(f"random-{i}") for i in range(samples)])


@torch.no_grad()
def predict(model: AlignMamba2, batch: MultimodalBatch) -> torch.Tensor:
    """What a trained model is asked for."""
    return model.eval()(batch).prediction


def train_step(model: AlignMamba2, batch: MultimodalBatch) -> None:
    """The loss, alignment included, and its gradient for every weight; no weight is changed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    torch.autograd.grad(model.train()(batch).loss, weights, allow_unused=True)
    model.eval()


CALLS = {"prediction": predict, "training step": train_step}


def measure(
    found: Mapping[str, AlignMamba2],
    lengths: Sequence[int],
    *,
    what: str = "prediction",
    budget: float = 0.5,
    patience: float = 4.0,
    memory: bool = False,
) -> dict[str, list[float]]:
    """Median milliseconds (with `memory`, the peak of extra MiB) of each model at each length; NaN where not asked.

    Parameters
    ----------
    what : "prediction" or "training step"
    budget : seconds a length, for all models together; at least three calls each
    patience : seconds a call may take, else the model is not asked at longer lengths
    """
    rows: dict[str, list[float]] = {name: [] for name in found}
    tired: set[str] = set()
    for length in lengths:
        batch = batch_of(length)
        calls = {n: partial(CALLS[what], m, batch) for n, m in found.items() if n not in tired}
        if memory:
            values = {name: peak_extra_mib(call) for name, call in calls.items()}
        else:
            values = {name: time["ms"] for name, time in medians(calls, budget).items()}
            tired |= {name for name, ms in values.items() if ms > 1000 * patience}
        for name, row in rows.items():
            row.append(NAN if values.get(name) is None else values[name])
    return rows


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print the tables, write results/bench-lengths.json, return what it holds."""
    parser = argparse.ArgumentParser(prog="python -m alignmamba2 bench lengths", description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="three short lengths: does it run?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds a length, at least")
    parser.add_argument("--out", type=Path, default=Path("results/bench-lengths.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    lengths, found = LENGTHS[:3] if arguments.fast else LENGTHS, models()
    options = {"budget": 0.05 if arguments.fast else arguments.budget}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine("numba"),
        "settings": {"threads": arguments.threads, "dtype": "float32", "seed": 0, "samples": 1, **options},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in found.items()},
        "lengths": lengths,
        "ms": {what: measure(found, lengths, what=what, **options) for what in CALLS},
        "mib": {what: measure(found, lengths[:-1], what=what, memory=True) for what in CALLS},
    }
    for kind, unit in (("ms", "ms"), ("mib", "MiB more")):
        for what, rows in result[kind].items():
            print(f"\n{what}, {unit}, at {list(lengths)} tokens")
            for name, row in rows.items():
                pairs = [(x, y) for x, y in zip(lengths, row, strict=False) if y == y and y > 0][-3:]
                told = f"  {name:12}" + " ".join(f"{v:9.1f}" for v in row)
                print(
                    told + (f"   L^{slope([x for x, _ in pairs], [y for _, y in pairs]):.2f}" if len(pairs) > 1 else "")
                )
    write_text(arguments.out, json.dumps(result, indent=1).replace("NaN", "null") + "\n")
    print(f"\nwritten: {arguments.out}")
    return result


if __name__ == "__main__":
    main()
