"""The Modality-Aware Mamba layer beside the same layer with one shared expert, and beside a plain Mamba of a peer.

Three modalities, interleaved token by token, float32, N = 16, expand 2; forward, and forward + backward with the
gradient of the input and of every weight. Methods take turns within one process; medians, wall and processor time.

    one shared expert       `ModalityAwareMamba(experts="shared")`: what the ratios are taken against
    modality-aware          experts="both", routing by modality: shared + specific experts, merged
    gated                   routing="gated": a weight a token over the experts, so no merging
    Hugging Face            `MambaMixer` of transformers, its slow path (what it runs without mamba-ssm's CUDA kernels);
                            it holds the weights of the shared expert, and the outputs are compared before timing
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from alignmamba2.model.layers import ModalityAwareMamba
from alignmamba2.storage.files import write_text
from tools.stopwatch import machine, medians

MODALITIES = ("text", "audio", "video")
SHAPES = ((8, 150, 64), (16, 150, 128), (8, 600, 128), (2, 2048, 128))  # B, L (all modalities together), d
FAST_SHAPES = ((2, 30, 16),)
BASE = "one shared expert"
SLOW_PATH_LIMIT = 100_000  # B · L · d: beyond, the peer's L² backward only measures patience


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print the tables, write results/bench-layer.json, return what it holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks layer", description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="a tiny shape: does it run?")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--budget", type=float, default=8.0, help="seconds a shape, pass and thread count, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/bench-layer.json"))
    arguments = parser.parse_args(argv)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine("numba", "transformers"),
        "settings": {"modalities": MODALITIES, "dtype": "float32", "seed": arguments.seed, "budget": arguments.budget},
        "times": [],
    }
    for shape in FAST_SHAPES if arguments.fast else SHAPES:
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            row = {"shape": shape, "threads": threads, **measure(shape, 0.2 if arguments.fast else arguments.budget)}
            result["times"].append(row)
            print(describe(row), flush=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(f"written: {arguments.out}")
    return result


def layers(batch: int, length: int, d_model: int) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """Each layer, and the call that runs it on (B, L, d)."""
    torch.manual_seed(0)
    modality = torch.arange(length) % len(MODALITIES)
    settings = {BASE: {"experts": "shared"}, "modality-aware": {}, "gated": {"routing": "gated"}}
    methods: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {}
    for name, options in settings.items():
        layer = ModalityAwareMamba(MODALITIES, d_model, **options)
        methods[name] = layer, lambda x, layer=layer: layer(x, modality)
    if batch * length * d_model > SLOW_PATH_LIMIT:
        return methods
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError:
        print("missing peer: Hugging Face (pip install transformers)")
        return methods
    mixer = MambaMixer(MambaConfig(hidden_size=d_model, state_size=16, num_hidden_layers=1), layer_idx=0)
    shared = methods[BASE][0]
    shared.load_mamba(mixer.state_dict())
    methods["Hugging Face"] = mixer, mixer
    x = torch.randn(2, length, d_model)
    with torch.no_grad():
        torch.testing.assert_close(methods[BASE][1](x), mixer(x), rtol=1e-3, atol=1e-4)
    return methods


def measure(shape: tuple[int, int, int], budget: float) -> dict:
    """Times of all layers at one shape (B, L, d)."""
    batch, length, d_model = shape
    x = torch.randn(batch, length, d_model, requires_grad=True)
    gradient = torch.randn(batch, length, d_model)
    forward, both = {}, {}
    for name, (layer, call) in layers(batch, length, d_model).items():
        leaves = [x, *layer.parameters()]
        forward[name] = lambda call=call: call(x.detach())
        both[name] = lambda call=call, leaves=leaves: torch.autograd.grad(call(x), leaves, gradient, allow_unused=True)
    with torch.no_grad():
        times = {"forward": medians(forward, budget)}
    return times | {"forward+backward": medians(both, budget)}


def describe(row: dict) -> str:
    """A table of a shape: milliseconds, and the ratio to the layer with one shared expert."""
    lines = [f"\nB, L, d = {row['shape']}, threads {row['threads']}: wall ms [processor ms] (× one shared expert)"]
    for kind in ("forward", "forward+backward"):
        base = row[kind][BASE]
        cells = []
        for name, t in row[kind].items():
            ratios = "×{:.2f} [×{:.2f}]".format(*(t[key] / base[key] for key in ("ms", "cpu_ms")))
            cells.append(f"{name} {t['ms']:.2f} [{t['cpu_ms']:.2f}] ({ratios})")
        lines.append(f"  {kind:17}" + " · ".join(cells))
    return "\n".join(lines)
