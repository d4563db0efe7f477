"""Time and memory of a call, measured so that the methods compared see the same machine."""

from __future__ import annotations

import ctypes
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

TURN = 0.5


def medians(calls: dict[str, Callable[[], object]], budget: float, least: int = 3) -> dict[str, dict[str, float]]:
    """Median wall and processor time of each call in milliseconds; the calls take turns.

    They go round until `budget` seconds are spent, and at least `least` times, after one round that does not count. A
    turn is one call, or as many as fit into `TURN` seconds, each of which counts: what is quick is measured as in a
    loop of training steps, not as the first call after another method has emptied the caches and given back memory.
    Where other programs want the processor too, wall time grows with their appetite; the processor time of this
    process (of all its threads) hardly does.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, call in calls.items():
            turn = time.perf_counter() + TURN
            while True:
                wall, processor = time.perf_counter(), time.process_time()
                call()
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
                if time.perf_counter() > turn:
                    break
        rounds += 1
    return {
        name: {
            key: 1e3 * statistics.median(column)
            for key, column in zip(("ms", "cpu_ms"), zip(*rows, strict=True), strict=True)
        }
        for name, rows in times.items()
    }


def peak_extra_mib(call: Callable[[], object]) -> float | None:
    """How far the memory of this process grows during a call, in MiB; None where the system does not tell.

    The second call counts: the first may load libraries.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    call()
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, or the call could hide in it
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from here
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def peak_mib() -> float:
    """The most memory that was ever resident in this process; not `ru_maxrss`, which is inherited from the parent."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM") / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def slope(x: list[float], y: list[float]) -> float:
    """Slope of log y against log x, by least squares: the exponent of a power law."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def machine(*packages: str) -> dict[str, str]:
    """Processor, system and versions; 'missing' for a package that is not installed."""
    found = {"processor": _processor(), "system": f"{platform.system()} {platform.machine()}"}
    found["python"] = sys.version.split()[0]
    for package in ("torch", "numpy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    found["vector instructions"] = torch.backends.cpu.get_cpu_capability()
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()
