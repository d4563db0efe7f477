"""AlignMamba-2 as it is, and through `torch.compile`: where does compiling help?

The recipe `mosi` with features as wide as CMU-MOSI's, drawn: samples of at most 50 tokens in each modality, as in its
word-aligned file, and longer ones; float32, one thread. `predict` is a forward in evaluation; `train` is a forward with
both alignments, the backward and a step of AdamW. Both models hold the same weights, and their predictions are compared
before timing; they take turns within one process; medians, wall and processor time. What compiling takes is measured
apart: all that goes before the first result, with nothing in PyTorch's caches, on a machine as busy as it is.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch

from alignmamba2.batch import MultimodalBatch
from alignmamba2.model import AlignMamba2
from alignmamba2.model.config import AlignMamba2Config
from alignmamba2.recipes import Recipe
from tools.results_file import keep
from tools.stopwatch import machine, medians

WIDTHS = {"text": 768, "audio": 5, "video": 20}
SHAPES = ((8, 50), (64, 50), (8, 500))  # samples, tokens a modality
FAST_SHAPES = ((3, 13),)
EAGER, COMPILED = "as it is", "compiled"


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compile", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="a tiny shape: does it run?")
    parser.add_argument("--budget", type=float, default=12.0, help="seconds a shape and pass, at least (default: 12)")
    parser.add_argument("--results", type=Path, default=Path("results/bench-compile.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe.load("mosi")
    model = AlignMamba2(AlignMamba2Config.from_dict({"modalities": WIDTHS, "task": "regression", **recipe.model}))
    rows = []
    for shape in FAST_SHAPES if arguments.fast else SHAPES:
        batch = batch_of(*shape)
        for name, calls in (("predict", prediction), ("train", training)):
            row = {"samples": shape[0], "tokens": shape[1], "pass": name}
            rows.append(row | measure(model, batch, calls, 0.2 if arguments.fast else arguments.budget))
            print(describe(rows[-1]), flush=True)
    measured = {"recipe": recipe.name, "widths": WIDTHS, "on": machine("numba"), "times": rows}
    words = " ".join(["python -m benchmarks compile", *argv])
    print(f"written: {keep(arguments.results, {'compile': measured}, words)}")


def batch_of(size: int, steps: int) -> MultimodalBatch:
    """Samples of between half of the steps and all."""
    mask = torch.arange(steps) < torch.randint(steps // 2, steps + 1, (size, 1))
    features = {m: torch.randn(size, steps, width) for m, width in WIDTHS.items()}
    return MultimodalBatch(features, dict.fromkeys(WIDTHS, mask), torch.randn(size))


def prediction(model: AlignMamba2, batch: MultimodalBatch) -> Callable[[], Tensor]:
    model.eval()

    @torch.no_grad()
    def predict() -> Tensor:
        return model(batch).prediction

    return predict


def training(model: AlignMamba2, batch: MultimodalBatch) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()

    return step


def measure(model: AlignMamba2, batch: MultimodalBatch, calls: Callable, budget: float) -> dict[str, Any]:
    """Seconds until the first compiled result, the graphs made for it, and times from then on."""
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    counters.clear()
    compiled = copy.deepcopy(model)
    functorch.donated_buffer = False  # as `fit` has it
    compiled.compile(dynamic=True)
    run = {EAGER: calls(copy.deepcopy(model), batch), COMPILED: calls(compiled, batch)}
    with fresh_cache():
        expected = run[EAGER]()
        start = time.perf_counter()
        actual = run[COMPILED]()
        seconds = time.perf_counter() - start
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
        times = medians(run, budget)
    breaks = sum(counters["graph_break"].values())
    graphs = counters["stats"]["unique_graphs"]
    return {"compiling": {"seconds": seconds, "graphs": graphs, "breaks": breaks}, **times}


def describe(row: dict[str, Any]) -> str:
    """A line: milliseconds both ways, their ratio, and what compiling took."""
    a, b, first = row[EAGER], row[COMPILED], row["compiling"]
    ratios = "×{:.2f} [×{:.2f}]".format(*(b[key] / a[key] for key in ("ms", "cpu_ms")))
    return (
        f"{row['samples']} samples × {row['tokens']} tokens, {row['pass']}: wall ms [processor ms] "
        f"{a['ms']:.1f} [{a['cpu_ms']:.1f}] → {b['ms']:.1f} [{b['cpu_ms']:.1f}], {ratios}; compiling "
        f"{first['seconds']:.0f} s, {first['graphs']} graphs, {first['breaks']} breaks"
    )
