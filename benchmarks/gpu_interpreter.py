"""The Triton kernels in Triton's interpreter, without a GPU: against the definition in float64, for every option.

Values and all gradients of the selective scan, for cases in which every pair of options meets: sizes that do not divide
into blocks, groups, B and C per step or fixed, with and without softplus, bias, D, gate, first and last state, in
float64, float32, bfloat16 and float16, in both layouts of memory. Errors are relative to the largest number. It also
counts what does not need a card to be counted: launches of the scan against the length, graphs of `torch.compile` over
five lengths, registers and spills of the machine code that Triton's compiler makes for two GPUs, and how often the host
would wait for the device in a training step, on a device that is none.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
OPTIONS: dict[str, tuple[Any, ...]] = {
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "batch": (1, 2, 3),
    "width": (1, 2, 5, 9),  # channels of a group
    "groups": (1, 2, 3),
    "length": (1, 2, 4, 7, 12),
    "states": (1, 2, 3, 4),
    "fixed": ((), ("B",), ("C",), ("B", "C")),
    "missing": ((), ("D",), ("z",), ("delta_bias",), ("initial_state",), ("D", "z", "delta_bias", "initial_state")),
    "softplus": (True, False),
    "time_innermost": (False, True),
    "last_state": (True, False),  # whether a gradient comes through it
}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}
ALIGNED = ("i32_b", "i32_t")  # strides of samples and steps are multiples of 16
SMALL = {"STEPS": 4, "TILE": 32}  # blocks of 4 steps, so that small cases have several


def main(argv: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_interpreter", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=240, help="how many (default: 240)")
    parser.add_argument("--results", type=Path, default=Path("results/gpu-interpreter.json"))
    arguments = parser.parse_args(argv)
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    torch.set_num_threads(1)
    from tools.results_file import keep

    start, worst, failed = time.perf_counter(), {}, []
    cases = covering(arguments.cases)
    for i, case in enumerate(cases):
        errors = check(case)
        name = str(case["dtype"]).removeprefix("torch.")
        worst[name] = max(worst.get(name, 0.0), *errors.values())
        if max(errors.values()) > TOLERANCE[case["dtype"]]:
            failed.append({"case": {k: str(v) for k, v in case.items()}, "errors": errors})
            print(f"case {i}: {case}: {errors}", flush=True)
    found = {"cases": len(cases), "failed": failed, "worst": worst, "seconds": round(time.perf_counter() - start)}
    found |= {"launches": launches((1, 40, 700, 16_384)), "graphs": graphs((9, 17, 23, 40, 70))}
    found["machine_code"] = {
        f"{name}, sm_{capability}": compiled(name, capability)
        for name in ("forward", "backward")
        for capability in (80, 90)
    }
    parts = {"scan": found, "training step": looks()}
    print(parts)
    words = " ".join(["python -m benchmarks gpu_interpreter", *argv])
    print(f"written: {keep(arguments.results, parts, words)}")
    return len(failed)


def covering(most: int, seed: int = 0) -> list[dict[str, Any]]:
    """Cases in which every two values of two options meet, most pairs first; then random ones."""
    draw, names = random.Random(seed), list(OPTIONS)
    pairs = {
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in OPTIONS[a] for y in OPTIONS[b]
    }  # fmt: skip
    cases = []
    while len(cases) < most:
        tried = [{name: draw.choice(values) for name, values in OPTIONS.items()} for _ in range(30 if pairs else 1)]
        best = max(tried, key=lambda case: len(pairs & set(itertools.combinations(case.items(), 2))))
        pairs -= set(itertools.combinations(best.items(), 2))
        cases.append(best)
    return cases


def problem(case: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor | None]:
    """Arguments of `selective_scan` by name, in the case's type; parameters in its state's."""
    draw = torch.Generator().manual_seed(seed)
    dtype, b, length, n = (case[name] for name in ("dtype", "batch", "length", "states"))
    d, groups = case["width"] * case["groups"], case["groups"]

    def normal(*shape: int, state: bool = False) -> Tensor:
        x = torch.randn(*shape, dtype=torch.float64, generator=draw)
        return x.to(torch.promote_types(dtype, torch.float32) if state else dtype)

    def sequence(channels: int) -> Tensor:
        return normal(b, channels, length) if case["time_innermost"] else normal(b, length, channels).transpose(1, 2)

    def per_step(name: str) -> Tensor:
        if name in case["fixed"]:
            return normal(d, n)
        x = normal(b, groups, n, length)
        return x[:, 0] if groups == 1 else x

    delta = sequence(d) if case["softplus"] else sequence(d).abs() / 2  # a step below 0 would make the state explode
    parameters = [normal(*shape, state=True) for shape in ((d, n), (d,), (d,), (b, d, n))]
    A, D, delta_bias, first = parameters
    if not case["softplus"]:
        delta_bias = delta_bias.abs() / 2
    tensors = sequence(d), delta, -4 * A.abs(), per_step("B"), per_step("C"), D, sequence(d), delta_bias, first
    values = dict(zip(NAMES, tensors, strict=True))
    return {name: None if name in case["missing"] else value for name, value in values.items()}


def values_and_gradients(case: Mapping[str, Any], args: Mapping[str, Tensor | None], backend: str) -> dict[str, Tensor]:
    """y, the last state, and the gradient of everything, of a sum with weights that differ everywhere."""
    from alignmamba2.scan import selective_scan

    args = {name: None if x is None else x.detach().requires_grad_() for name, x in args.items()}
    y, last = selective_scan(**args, delta_softplus=case["softplus"], return_last_state=True, backend=backend)
    outputs = [y, last] if case["last_state"] else [y]
    rough = case["dtype"]  # the weights of y are rounded alike on both sides
    weights = [torch.arange(x.numel(), dtype=torch.float64).cos().view_as(x).to(rough).to(x) for x in outputs]
    there = {name: x for name, x in args.items() if x is not None}
    return {"y": y, "last": last} | dict(
        zip(there, torch.autograd.grad(outputs, list(there.values()), weights), strict=True)
    )


def check(case: Mapping[str, Any], seed: int = 0) -> dict[str, float]:
    """The error of the Triton kernels by output and gradient, relative to the largest number of each."""
    args = problem(case, seed)
    exact = {name: None if x is None else x.double() for name, x in args.items()}
    expected = values_and_gradients(case, exact, "reference")
    with blocks(**SMALL), quick_interpreter():
        found = values_and_gradients(case, args, "triton")
    return {
        name: float((found[name].double() - x).abs().max() / x.abs().max().clamp_min(1e-30))
        for name, x in expected.items()
    }


@contextmanager
def blocks(**constants: int) -> Iterator[None]:
    """Use other block sizes of the kernels within this context."""
    from alignmamba2.gpu import scan_kernels

    before = {name: getattr(scan_kernels, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(scan_kernels, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(scan_kernels, name, value)


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """An associative scan of the interpreter that goes step by step, not number by number: 30 times as fast.

    A kernel that runs on a card is left as it is.
    """
    import numpy as np
    from triton.runtime import interpreter

    def generic_scan(self, inputs):
        arrays = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
        outputs = [np.empty_like(x) for x in arrays]
        now = None
        for t in range(len(arrays[0])):
            step = tuple(self.to_tensor(x[t], of.dtype) for x, of in zip(arrays, inputs, strict=True))
            now = step if now is None else self.combine_fn.fn(*now, *step)
            for output, x in zip(outputs, now, strict=True):
                output[t] = x.handle.data
        back = (np.ascontiguousarray(np.moveaxis(x, 0, self.axis)) for x in outputs)
        return [self.to_tensor(x, of.dtype) for x, of in zip(back, inputs, strict=True)]

    before = interpreter.ScanOps.generic_scan
    interpreter.ScanOps.generic_scan = generic_scan
    try:
        yield
    finally:
        interpreter.ScanOps.generic_scan = before


def launches(lengths: Sequence[int]) -> dict[int, list[tuple[int, ...]]]:
    """The grids that a forward and backward pass launch at each length; nothing is computed."""
    from alignmamba2.gpu import scan, scan_kernels

    class Counted:
        def __getitem__(self, grid):
            return lambda *_, **__: grids.append(tuple(grid))

    counts, kernels = {}, (scan_kernels.forward, scan_kernels.backward)
    scan_kernels.forward = scan_kernels.backward = Counted()
    try:
        for length in lengths:
            grids: list[tuple[int, ...]] = []
            u, B = torch.zeros(2, 70, length, requires_grad=True), torch.zeros(2, 1, 16, length)
            y, _ = scan.selective_scan(u, u, torch.zeros(70, 16), B, B, *[None] * 4, delta_softplus=True)
            y.sum().backward()
            counts[length] = grids
    finally:
        scan_kernels.forward, scan_kernels.backward = kernels
    return counts


def graphs(lengths: Sequence[int]) -> int:
    """Count the graphs that `torch.compile` makes of a scan, forward and backward, over all lengths."""
    from torch._dynamo.testing import CompileCounterWithBackend

    from alignmamba2.scan import selective_scan

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(selective_scan, backend=counter, dynamic=True, fullgraph=True)
    case = {name: values[0] for name, values in OPTIONS.items()} | {"batch": 2, "width": 6, "states": 3}
    with quick_interpreter():
        for length in lengths:
            args = problem(case | {"length": length})
            u = args["u"].requires_grad_()
            y = compiled(**args, delta_softplus=True, backend="triton")
            torch.testing.assert_close(y, selective_scan(**args, delta_softplus=True, backend="triton"))
            torch.autograd.grad(y.sum(), u)
    return counter.frame_count


def looks(steps: int = 3) -> dict[str, Any]:
    """Count the host's waits for the device in each of some training steps of 45 tokens, and operators there."""
    from alignmamba2 import MultimodalBatch
    from alignmamba2.gpu import host
    from tests import fake_device, test_device
    from tests.conftest import make_samples

    batch = MultimodalBatch.from_samples(make_samples([(5, 5, 5)] * 3))
    before, host.LATE = host.LATE, {fake_device.DEVICE.type}
    event, torch.cuda.Event = torch.cuda.Event, test_device.Arrived
    found: dict[str, Any] = {"looks": [], "operators": []}
    try:
        with fake_device.FakeDevice() as device:
            loop = test_device.training({}, fake_device.DEVICE, batch)
            for i in range(steps):
                device.looks.clear()
                device.calls = 0
                test_device.step(loop, batch, i)
                found["looks"].append(sum(device.looks.values()))
                found["operators"].append(device.calls)
    finally:
        host.LATE, torch.cuda.Event = before, event
    return found


def compiled(name: str, capability: int, **options: Any) -> dict[str, int]:
    """Compile a kernel for a GPU that need not be here: shared memory, and registers and spilled bytes by ptxas.

    As for the model's own scan: float32, 16 states, channels side by side, D, z and bias there.
    """
    program = f"from benchmarks.gpu_interpreter import _compile; print(_compile({name!r}, {capability}, **{options}))"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as cache:
        environment |= {"TRITON_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"{name}: Triton did not compile it\n{done.stderr}")
    return ast.literal_eval(done.stdout.splitlines()[-1])


def _compile(name: str, capability: int, optional: bool = True, number: str = "fp32") -> dict[str, int]:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alignmamba2.gpu import scan_kernels as kernels

    kernel, warps = {
        "forward": (kernels.forward, kernels.FORWARD_WARPS),
        "backward": (kernels.backward, kernels.BACKWARD_WARPS),
    }[name]
    steps, states, channels = kernels.sizes(16, 256)
    constants: dict[str, Any] = {"STEPS": steps, "STATES": states, "CHANNELS": channels}
    constants |= {"NUMBER": getattr(tl, number.replace("fp", "float")), "TERMS": 8, "SOFTPLUS": optional}
    constants |= dict.fromkeys(("first", "g_last") if optional else ("D", "z", "delta_bias", "kept"))
    if name == "backward":
        constants.pop("kept", None)
    strides = [x for x in kernel.arg_names if re.fullmatch(r"(u|delta|z|B|C|gy)_[bdgnt]", x)]
    constants |= dict.fromkeys((x for x in strides if x[-2:] in ("_d", "_n")), 1)
    whole = [*strides, "length", "chunks", "blocks", "groups", "width", "states", "samples"]
    constants = {x: value for x, value in constants.items() if x in kernel.arg_names}
    signature = {
        x: "constexpr" if x in constants else "i32" if x in whole else f"*{number}" for x in kernel.arg_names
    }  # fmt: skip
    aligned = [i for i, x in enumerate(kernel.arg_names) if signature[x][0] == "*" or signature[x] + x[-2:] in ALIGNED]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        told = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", told).groups())
    return {"registers": registers, "spilled_bytes": stack, "shared_bytes": built.metadata.shared}
