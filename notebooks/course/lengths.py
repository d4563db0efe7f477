"""Whole models against the length of their input, for chapter 12 and for ``python -m benchmarks lengths``.

Three modalities of as many tokens each, one sample per batch, random features, float32. Each model is as wide as gives
it the parameters of AlignMamba-2. A model whose call took longer than `patience` at one length is left out at the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from alignmamba2.baselines import build_model, matching_width, parameter_count
from alignmamba2.batch import MultimodalBatch, Sample
from alignmamba2.model import FusionModel
from tools.stopwatch import medians, peak_extra_mib

OURS = "alignmamba2"
KINDS = (OURS, "transformer", "mult")
MODALITIES = {"text": 32, "audio": 16, "video": 20}
NAN = float("nan")


def models(kinds: Sequence[str] = KINDS, d_model: int = 32, seed: int = 0, **settings: Any) -> dict[str, FusionModel]:
    """One untrained model a kind, all as large as AlignMamba-2 at this width; `settings` as in its config."""
    settings = {"modalities": MODALITIES, "d_model": d_model, "task": "regression", "dropout": 0.0, **settings}
    target, networks = parameter_count(settings), {}
    for kind in kinds:
        torch.manual_seed(seed)
        config = {**settings, "kind": kind}
        width = d_model if kind == OURS else matching_width(config, target)
        networks[kind] = build_model({**config, "d_model": width}).eval()
    return networks


def batch_of(length: int, samples: int = 1, seed: int = 0) -> MultimodalBatch:
    """Random features of `length` tokens a sample, a third in each modality."""
    draw = torch.Generator().manual_seed(seed)

    def one(name: str) -> Sample:
        features = {m: torch.randn(length // 3, width, generator=draw) for m, width in MODALITIES.items()}
        return Sample(features, torch.randn((), generator=draw), name)

    return MultimodalBatch.from_samples([one(f"random-{i}") for i in range(samples)])


@torch.no_grad()
def predict(model: FusionModel, batch: MultimodalBatch) -> torch.Tensor:
    """What a trained model is asked for."""
    return model.eval()(batch).prediction


def train_step(model: FusionModel, batch: MultimodalBatch) -> None:
    """The loss, alignment included, and its gradient for every weight; no weight is changed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    torch.autograd.grad(model.train()(batch).loss, weights, allow_unused=True)
    model.eval()


CALLS = {"prediction": predict, "training step": train_step}


def measure(
    networks: Mapping[str, FusionModel],
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
    rows: dict[str, list[float]] = {name: [] for name in networks}
    tired: set[str] = set()
    for length in lengths:
        batch = batch_of(length)
        calls = {n: partial(CALLS[what], m, batch) for n, m in networks.items() if n not in tired}
        if memory:
            values = {name: peak_extra_mib(call) for name, call in calls.items()}
        else:
            values = {name: time["ms"] for name, time in medians(calls, budget).items()}
            tired |= {name for name, ms in values.items() if ms > 1000 * patience}
        for name, row in rows.items():
            row.append(NAN if values.get(name) is None else values[name])
    return rows
