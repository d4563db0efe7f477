"""Kernels for the processor, compiled by numba, behind one door.

`selective_scan`, `solve_transport` and `weigh_pairs` may be called where `available()` is true. The first question
imports numba, so importing the package does not wait for it.

`lanes` are the processor's vector registers by name; `compiler` makes a kernel from a function; `threads` are those
that all kernels run on. `scan`, `sinkhorn` and `kernel_sums` hold the three functions.
"""

import importlib

_HOMES = {"selective_scan": "scan", "solve_transport": "sinkhorn", "weigh_pairs": "kernel_sums"}


def obstacle() -> tuple[str, str] | None:
    """Return what keeps the kernels from running here, and the command that mends it; None where they run."""
    from .support import OBSTACLE

    return OBSTACLE


def available() -> bool:
    """Return whether the kernels run here."""
    return obstacle() is None


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return globals()[name]
