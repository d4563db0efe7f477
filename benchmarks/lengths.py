"""Whole models against the length of their input: prediction, a training step, memory; equal parameters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from alignmamba2.storage.files import write_text
from notebooks.course.lengths import CALLS, measure, models
from tools.stopwatch import machine, slope

LENGTHS = (96, 192, 384, 768, 1536, 3072, 6144, 24_576)


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print the tables, write results/bench-lengths.json, return what it holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lengths", description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="three short lengths: does it run?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds a length, at least")
    parser.add_argument("--out", type=Path, default=Path("results/bench-lengths.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    lengths, networks = LENGTHS[:3] if arguments.fast else LENGTHS, models()
    options = {"budget": 0.05 if arguments.fast else arguments.budget}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine("numba"),
        "settings": {"threads": arguments.threads, "dtype": "float32", "seed": 0, "samples": 1, **options},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in networks.items()},
        "lengths": lengths,
        "ms": {what: measure(networks, lengths, what=what, **options) for what in CALLS},
        "mib": {what: measure(networks, lengths[:-1], what=what, memory=True) for what in CALLS},
    }
    for kind, unit in (("ms", "ms"), ("mib", "MiB more")):
        for what, rows in result[kind].items():
            print(f"\n{what}, {unit}, at {list(lengths)} tokens")
            for name, row in rows.items():
                pairs = [(x, y) for x, y in zip(lengths, row, strict=False) if y == y and y > 0][-3:]
                line = f"  {name:12}" + " ".join(f"{v:9.1f}" for v in row)
                print(
                    line + (f"   L^{slope([x for x, _ in pairs], [y for _, y in pairs]):.2f}" if len(pairs) > 1 else "")
                )
    write_text(arguments.out, json.dumps(result, indent=1).replace("NaN", "null") + "\n")
    print(f"\nwritten: {arguments.out}")
    return result
