"""Kernels for the processor, compiled by numba, behind one door.

`selective_scan`, `solve_transport` and `weigh_pairs` may be called where `available()` is true. The first call of any of
them imports numba, so importing the package does not wait for it.

`lanes` are the processor's vector registers by name; `compiler` makes a kernel from a function; `threads` are those
that all kernels run on. `scan`, `sinkhorn` and `kernel_sums` hold the three functions.
"""

from __future__ import annotations

import functools
import importlib

_HOMES = {"selective_scan": "scan", "solve_transport": "sinkhorn", "weigh_pairs": "kernel_sums"}


@functools.cache
def obstacle() -> tuple[str, str] | None:
    """Return what keeps the kernels from running here, and the command that mends it; None where they run."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return "numba's compiler is switched off by NUMBA_DISABLE_JIT", "unset NUMBA_DISABLE_JIT"
        importlib.import_module(".lanes.functions", __name__)  # stands on parts of numba that change with its version
    except Exception as error:  # numba refuses a NumPy that it does not know with more than ImportError
        return f"numba does not import ({error})", "pip install numba"
    return None


def available() -> bool:
    """Return whether the kernels run here."""
    return obstacle() is None


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return globals()[name]
