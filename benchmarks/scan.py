"""The selective scan beside its peers: time, memory, slopes against length.

Every method gets what a Mamba layer has: u, Δ, z in (B, L, D) memory, softplus with a bias, D and the gate, N = 16,
float32, and the gradient of all inputs. Medians; methods take turns within one process, a new one a shape. Peers:

    mamba-ssm ref        `selective_scan_ref`, as it is; its backward takes L² time: not run beyond B · L² · D = 10⁸
    mamba-ssm unbind     the same with `.unbind` in place of indexing: linear time, the fair comparison
    mambapy              its parallel scan

Hugging Face's slow path is not a function of its own (it stands inside the layer), and is the loop of mamba-ssm ref;
see the layer's bench. mamba-ssm's source is read from an unpacked source distribution, since installing it needs CUDA:

    pip download --no-deps --no-binary :all: --no-build-isolation mamba-ssm     (with MAMBA_SKIP_CUDA_BUILD=TRUE)
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from alignmamba2.scan import selective_scan
from alignmamba2.storage.files import write_text
from tools.stopwatch import machine, medians, peak_extra_mib, slope

SHAPES = ((8, 50, 128), (16, 150, 256), (16, 512, 256), (32, 150, 512), (8, 8192, 128))  # B, L, D
LENGTHS = (512, 1024, 2048, 4096, 8192)  # for the slopes, at B = 8, D = 128
FAST_SHAPES, FAST_LENGTHS = ((2, 50, 32), (2, 150, 32)), (64, 128, 256)
PARTS = ("times", "first-call", "lengths", "huge-pages")
STATES = 16
LINEAR_PEERS = ("mamba-ssm unbind", "mambapy")
OURS = ("reference", "chunked", "cpu")
QUADRATIC_LIMIT = 10**8  # B · L² · D of the reference's backward; beyond, it only measures patience
Scan = Callable[..., Tensor]


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print the tables, write results/bench-scan.json and .html, return what the first holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scan", description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="tiny shapes: does it run?")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--budget", type=float, default=6.0, help="seconds a shape, pass and thread count, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mamba-ssm", type=Path, help="folder of mamba-ssm's unpacked source distribution")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the results")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts; a results file keeps its others")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="B,L,D", help="times of these; it keeps the others")
    arguments = parser.parse_args(argv)
    if arguments.fast:
        arguments.budget = 0.2
    scans, missing = methods(arguments.mamba_ssm)
    for name, reason in missing.items():
        print(f"missing peer: {name}: {reason}")

    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine("numba", "mambapy", "transformers"),
        "settings": {"N": STATES, "dtype": "float32", "seed": arguments.seed, "budget": arguments.budget},
        "huge pages": os.environ.get("THP_MEM_ALLOC_ENABLE", "0"),
        "missing": missing,
        "times": [],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "bench-scan.json"
    if (arguments.only or arguments.shapes) and file.exists():
        earlier = json.loads(file.read_text())
        for key in ("machine", "settings", "huge pages", "missing"):
            if earlier[key] != result[key]:
                raise SystemExit(
                    f"{file}: {key} is {earlier[key]} there and {result[key]} now, which can't stand in one file. "
                    "Measure all parts again, or give another folder: --out"
                )
        result = earlier
    parts = arguments.only or (("times",) if arguments.shapes else PARTS)

    def save() -> None:  # after every measurement: a run that is cut short leaves what it has
        write_text(file, json.dumps(result, indent=1) + "\n")

    for part, key in (("times", "times"), ("huge-pages", "with huge pages")):
        if part not in parts:
            continue
        if part == "huge-pages":
            print("\nagain with THP_MEM_ALLOC_ENABLE=1: fewer page faults, peers' above all")
        for shape in arguments.shapes or (FAST_SHAPES if arguments.fast else SHAPES):
            for threads in arguments.threads:
                row = in_own_process(shape, threads, arguments, huge_pages=part == "huge-pages")
                print(describe(row), flush=True)
                rows = [r for r in result.get(key, ()) if (tuple(r["shape"]), r["threads"]) != (shape, threads)]
                result[key] = sorted([*rows, row], key=lambda r: (math.prod(r["shape"]), r["threads"]))
                save()
    if "first-call" in parts:
        result["first call"] = measure_first_call()
        print("\nfirst call in a new process, warm cache, seconds:", result["first call"])
        save()
    if "lengths" in parts:
        lengths = FAST_LENGTHS if arguments.fast else LENGTHS
        result["against length"] = measure_lengths(scans, lengths, arguments)
        figure(result).write_html(arguments.out / "bench-scan.html", include_plotlyjs="directory")
        save()
    print(f"written: {arguments.out}/bench-scan.json")
    return result


def _shape(text: str) -> tuple[int, int, int]:
    batch, length, channels = map(int, text.split(","))
    return batch, length, channels


# --- Methods ----------------------------------------------------------------------------------------------


def methods(mamba_ssm: Path | None) -> tuple[dict[str, Scan], dict[str, str]]:
    """What can be measured here, by name, each with mamba-ssm's signature; and what is missing, and why."""
    scans: dict[str, Scan] = {}
    missing: dict[str, str] = {}
    for name, load in (
        ("mamba-ssm ref", lambda: mamba_ssm_reference(mamba_ssm, unbind=False)),
        ("mamba-ssm unbind", lambda: mamba_ssm_reference(mamba_ssm, unbind=True)),
        ("mambapy", mambapy_scan),
    ):
        try:
            scans[name] = load()
        except (ImportError, OSError) as error:
            missing[name] = str(error)
    for backend in OURS:
        scans[backend] = lambda *args, backend=backend: selective_scan(*args, backend=backend)
    return scans, missing


def mamba_ssm_reference(folder: Path | None, unbind: bool) -> Scan:
    """`selective_scan_ref` out of mamba-ssm's source, without importing the module, which needs a GPU."""
    import einops

    if folder is None:
        raise ImportError("give the folder of its unpacked source distribution: --mamba-ssm FOLDER")
    source = (folder / "mamba_ssm/ops/selective_scan_interface.py").read_text()
    nodes = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "selective_scan_ref"]
    text = ast.unparse(nodes[0])
    if unbind:
        loop = "for i in range(u.shape[2]):"
        for old, new in (
            (loop, f"(decays, inputs, Cs) = (deltaA.unbind(2), deltaB_u.unbind(2), C.unbind(2))\n    {loop}"),
            ("deltaA[:, :, i]", "decays[i]"),
            ("deltaB_u[:, :, i]", "inputs[i]"),
            ("C[:, :, i]", "Cs[i]"),
        ):
            if old not in text:
                raise ImportError(f"this version of selective_scan_ref has no {old!r} to replace")
            text = text.replace(old, new)
    namespace = {"torch": torch, "F": F, "rearrange": einops.rearrange, "repeat": einops.repeat}
    exec(text, namespace)
    return namespace["selective_scan_ref"]


def mambapy_scan() -> Scan:
    """mambapy's layer around its parallel scan, as in its `MambaBlock`."""
    from mambapy.pscan import pscan

    def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
        delta = F.softplus(delta + delta_bias)
        decay = torch.exp(delta.unsqueeze(-1) * A)  # (B, L, D, N)
        states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
        y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
        return (y * F.silu(z)).transpose(1, 2)

    return scan


def problem(shape: tuple[int, int, int], seed: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Leaves as a layer has them, the arguments made of them (views), and a gradient for the output."""
    random = torch.Generator().manual_seed(seed)
    batch, length, d = shape

    def normal(*size):
        return torch.randn(*size, generator=random)

    A = -torch.arange(1.0, STATES + 1).repeat(d, 1)
    leaves = [normal(batch, length, d), normal(batch, length, d), A, normal(batch, length, 2 * STATES)]
    leaves = [x.requires_grad_() for x in (*leaves, normal(d), normal(batch, length, d), normal(d) - 3)]
    u, delta, A, bc, D, z, bias = leaves
    B, C = bc.transpose(1, 2).chunk(2, dim=1)
    args = [u.transpose(1, 2), delta.transpose(1, 2), A, B, C, D, z.transpose(1, 2), bias, True]
    return leaves, args, normal(batch, length, d).transpose(1, 2)


# --- Measurements -----------------------------------------------------------------------------------------


def in_own_process(shape, threads: int, arguments, huge_pages: bool = False) -> dict:
    """`measure_times` in a new process.

    Half of a peer's time and more is page faults: 1.7 µs for each 4 KiB of its state-sized tensors, which malloc gives
    back to the system when they are freed. After other methods and shapes in the same process, the same call took a
    third of the time: probably malloc finds holes in a heap that small objects keep from shrinking. What was measured
    before must not decide.
    """
    code = "import json, sys; from benchmarks.scan import measure_times as m; print(json.dumps(m(*sys.argv[1:])))"
    settings = {"shape": shape, "threads": threads, "seed": arguments.seed, "budget": arguments.budget}
    settings["mamba_ssm"] = arguments.mamba_ssm and str(arguments.mamba_ssm)
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"} if huge_pages else None
    return json.loads(_run_python(code, json.dumps(settings), environment=environment))


def _run_python(code: str, *args: str, environment: dict[str, str] | None = None) -> str:
    """What the code prints in a new process; its errors are seen."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def measure_times(settings: str) -> dict:
    """Forward, and forward + backward, of all methods in turns; the settings as JSON from `in_own_process`."""
    options = json.loads(settings)
    shape, threads, budget = tuple(options["shape"]), options["threads"], options["budget"]
    scans, _ = methods(options["mamba_ssm"] and Path(options["mamba_ssm"]))
    leaves, args, gy = problem(shape, options["seed"])
    torch.set_num_threads(threads)
    backward = {
        name: lambda scan=scan: torch.autograd.grad(scan(*args), leaves, gy)
        for name, scan in scans.items()
        if name != "mamba-ssm ref" or shape[0] * shape[1] ** 2 * shape[2] <= QUADRATIC_LIMIT
    }
    with torch.no_grad():
        forward = medians({name: lambda scan=scan: scan(*args) for name, scan in scans.items()}, budget)
    return {"shape": shape, "threads": threads, "forward": forward, "forward+backward": medians(backward, budget)}


def describe(row: dict) -> str:
    """A table of a shape: times, and how much faster than the best linear-time peer."""
    what = f"B, L, D = {tuple(row['shape'])}, threads {row['threads']}"
    lines = [f"\n{what}: wall ms [processor ms] (× best linear-time peer)"]
    for kind in ("forward", "forward+backward"):
        cells = []
        peers = [row[kind][p] for p in LINEAR_PEERS if p in row[kind]]
        for name, times in row[kind].items():
            text = f"{name} {times['ms']:.2f} [{times['cpu_ms']:.2f}]"
            if peers and name in OURS:
                ratios = (min(p[key] for p in peers) / times[key] for key in ("ms", "cpu_ms"))
                text += " (×{:.1f} [×{:.1f}])".format(*ratios)
            cells.append(text)
        lines.append(f"  {kind:17}" + " · ".join(cells))
    return "\n".join(lines)


def measure_lengths(scans: dict[str, Scan], lengths: Sequence[int], arguments) -> dict:
    """Forward + backward at B = 8, D = 128 against length: milliseconds and peak extra MiB, with slopes.

    The lengths of a method take turns, or a machine that grows faster or slower on the way would bend the slope. That
    of each doubling says where one slope for all is no power law: new memory is touched page by page from some length
    on, and on several threads PyTorch's own spin for some milliseconds after a call, which only a short one notices.
    """
    torch.set_num_threads(max(arguments.threads))
    rows: dict[str, dict] = {}
    for name in [n for n in scans if n not in ("mamba-ssm ref", "reference")]:
        calls = {}
        for length in lengths:
            leaves, args, gy = problem((8, length, 128), arguments.seed)

            def call(scan=scans[name], args=args, leaves=leaves, gy=gy):
                torch.autograd.grad(scan(*args), leaves, gy)

            calls[str(length)] = call
        memory = [peak_extra_mib(call) for call in calls.values()]
        times = medians(calls, arguments.budget / 6 * len(lengths)).values()
        row = {"L": list(lengths), "ms": [t["ms"] for t in times], "cpu_ms": [t["cpu_ms"] for t in times]}
        row |= {"MiB": memory, "slope of time": slope(lengths, row["cpu_ms"])}
        row["slope of time, each doubling"] = [
            slope(pair, times) for pair, times in zip(pairwise(lengths), pairwise(row["cpu_ms"]), strict=True)
        ]
        row["slope of memory"] = slope(lengths, memory) if all(memory) else None
        rows[name] = row
        doublings = ", ".join(f"{x:.2f}" for x in row["slope of time, each doubling"])
        print(f"{name}: time slope {row['slope of time']:.2f} (each doubling {doublings}), ", end="")
        print(f"memory slope {row['slope of memory']}, MiB {memory}")
    return rows


def measure_first_call() -> dict[str, float]:
    """Seconds of the first and of the second forward + backward in a new process whose cache is warm."""
    code = (
        "import time, torch; from benchmarks.scan import problem; from alignmamba2.scan import selective_scan\n"
        "leaves, args, gy = problem((2, 20, 32), 0)\n"
        "for _ in range(2):\n"
        "    t = time.perf_counter(); torch.autograd.grad(selective_scan(*args), leaves, gy)\n"
        "    print(time.perf_counter() - t)\n"
    )
    out = _run_python(code).split()
    return {"first": float(out[0]), "second": float(out[1])}


def figure(result: dict):
    """Time and memory against length, log–log, the slopes in the legend."""
    from plotly.subplots import make_subplots

    colours = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
    fig = make_subplots(1, 2, subplot_titles=("Forward + backward, ms of processor time", "Peak extra memory, MiB"))
    for (name, row), colour in zip(result["against length"].items(), colours, strict=False):
        for column, (key, of) in enumerate((("cpu_ms", "slope of time"), ("MiB", "slope of memory")), 1):
            if row[of] is not None:
                label = f"{name}: {of} {row[of]:.2f}"
                fig.add_scatter(x=row["L"], y=row[key], name=label, line_color=colour, row=1, col=column)
    fig.update_xaxes(type="log", title="length L (B = 8, D = 128, N = 16)")
    fig.update_yaxes(type="log")
    fig.update_layout(title=f"Selective scan on {result['machine']['processor']}", template="plotly_white")
    return fig
