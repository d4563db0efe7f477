"""Scan, layer, alignment and whole models on an NVIDIA GPU, in float32 and bfloat16, beside the alternatives there.

The scan runs in Triton, in mamba-ssm's kernel where it is installed, and in plain PyTorch (chunked); the Triton kernels
with other block sizes too. Whole models are AlignMamba-2 and a transformer of as many parameters on PyTorch's fused
attention. Times are medians of calls that the device has finished; memory is the device's peak beyond the inputs.
Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignmamba2 import gpu
from alignmamba2.alignment import mmd, transport
from alignmamba2.model.layers import ModalityAwareMamba
from alignmamba2.scan import selective_scan
from tools.results_file import keep

PARTS = ("scan", "layer", "alignment", "models")
SCANS = ((16, 2048, 256), (8, 8192, 512), (16, 150, 256))  # B, L, D; 16 states
LENGTHS = (150, 1536, 6144)  # tokens in all, 8 samples
TUNED = ({}, {"BACKWARD_WARPS": 4}, {"BACKWARD_WARPS": 16}, {"FORWARD_WARPS": 8}, {"TILE": 4096}, {"STEPS": 32})


def main(argv: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds per method and shape (default: 0.5)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of gpu-*.json")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no NVIDIA GPU; nothing was measured")
        return 0
    words = " ".join(["python -m benchmarks gpu", *argv])
    device = torch.cuda.get_device_name()
    print(device, torch.__version__, gpu.status())
    for part in arguments.only:
        found = {"device": device, "scan": gpu.status()[0], **globals()[f"{part}_part"](arguments.budget)}
        print(f"written: {keep(arguments.results / f'gpu-{part}.json', {part: found}, words)}", flush=True)
    return 0


def timed(call: Callable[[], object], budget: float) -> dict[str, float | str]:
    """Return median milliseconds and peak MiB of a call, or its error."""
    try:
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, times, end = torch.cuda.memory_allocated(), [], time.perf_counter() + budget
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        return {"ms": statistics.median(times), "mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
    except Exception as error:  # one method that fails leaves the others
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def both(call: Callable[[], Tensor], leaves: Sequence[Tensor], budget: float) -> dict[str, Any]:
    """Time a call without and with its gradient."""

    def whole() -> None:
        y = call()
        torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)

    with torch.no_grad():
        forward = timed(call, budget)
    row = {"forward": forward, "forward+backward": timed(whole, budget)}
    print(row, flush=True)
    return row


def scan_part(budget: float) -> dict[str, Any]:
    rows = []
    for shape in SCANS:
        for dtype in (torch.float32, torch.bfloat16):
            row: dict[str, Any] = {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
            args = scan_inputs(*shape, dtype)
            call = partial(selective_scan, **args, delta_softplus=True)
            for name in ("triton", "chunked"):
                row[name] = both(partial(call, backend=name), list(args.values()), budget)
            if gpu.packages.mamba_ssm()[0]:
                row["mamba-ssm"] = both(partial(call, backend="cuda"), list(args.values()), budget)
            rows.append(row)
    return {"times": rows, "tuned": tuned(budget)}


def scan_inputs(batch: int, length: int, channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)

    def sequence(width: int) -> Tensor:
        return torch.randn(batch, length, width, device="cuda", dtype=dtype).transpose(1, 2)

    args = {"u": sequence(channels), "delta": sequence(channels), "A": -torch.rand(channels, 16, device="cuda")}
    args |= {"B": sequence(16), "C": sequence(16), "D": torch.ones(channels, device="cuda"), "z": sequence(channels)}
    args["delta_bias"] = torch.full((channels,), -4.0, device="cuda")
    return {name: x.requires_grad_() for name, x in args.items()}


def tuned(budget: float) -> list[dict[str, Any]]:
    """Time the Triton scan at the first shape with other block sizes."""
    from alignmamba2.gpu import scan_kernels

    args = scan_inputs(*SCANS[0], torch.float32)
    call, rows = partial(selective_scan, **args, delta_softplus=True, backend="triton"), []
    for change in TUNED:
        before = {name: getattr(scan_kernels, name) for name in change}
        try:
            for name, value in change.items():
                setattr(scan_kernels, name, value)
            rows.append({"change": change, **both(call, list(args.values()), budget)})
        finally:
            for name, value in before.items():
                setattr(scan_kernels, name, value)
    return rows


def layer_part(budget: float) -> dict[str, Any]:
    rows = []
    for batch, length, d in ((16, 150, 128), (8, 2048, 128)):
        torch.manual_seed(0)
        layer = ModalityAwareMamba(("text", "audio", "video"), d).cuda()
        x = torch.randn(batch, length, d, device="cuda", requires_grad=True)
        modality = torch.arange(length, device="cuda") % 3
        row: dict[str, Any] = {"shape": (batch, length, d)}
        for name, enabled in (("float32", False), ("bfloat16", True)):
            with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                row[name] = both(partial(layer, x, modality), [x, *layer.parameters()], budget)
        rows.append(row)
    return {"times": rows}


def alignment_part(budget: float) -> dict[str, Any]:
    rows = []
    for tokens in (50, 512):
        torch.manual_seed(0)
        x, y = (torch.randn(32, tokens, 128, device="cuda", requires_grad=True) for _ in range(2))
        calls = {"transport": lambda x=x, y=y: transport(x, y).distance, "mmd": lambda x=x, y=y: mmd(x, y)}
        rows.append({"tokens": tokens, **{name: both(call, [x, y], budget) for name, call in calls.items()}})
    return {"times": rows}


def models_part(budget: float) -> dict[str, Any]:
    from notebooks.course import lengths

    rows = []
    for tokens in LENGTHS:
        batch = lengths.batch_of(tokens, samples=8).to("cuda")
        row: dict[str, Any] = {"tokens": tokens}
        for name, model in lengths.models(("alignmamba2", "transformer"), d_model=128).items():
            model.cuda()
            for what, call in lengths.CALLS.items():
                for precision, enabled in (("float32", False), ("bfloat16", True)):
                    with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                        row[f"{name}, {what}, {precision}"] = timed(partial(call, model, batch), budget)
        print(row, flush=True)
        rows.append(row)
    return {"times": [*rows, {"tokens": 1536, **against_chunked(budget)}]}


def against_chunked(budget: float) -> Mapping[str, Any]:
    """Time a training step of 1536 tokens per sample with the scan in plain PyTorch, as a GPU without Triton has it."""
    from notebooks.course import lengths

    batch, before = lengths.batch_of(1536, samples=8).to("cuda"), gpu.quickest_scan
    model = lengths.models(("alignmamba2",), d_model=128)["alignmamba2"].cuda()
    gpu.quickest_scan = lambda *_: "chunked"
    try:
        return {"training step, chunked scan": timed(partial(lengths.train_step, model, batch), budget)}
    finally:
        gpu.quickest_scan = before
