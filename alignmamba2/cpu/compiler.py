"""Kernels from functions: found in numba's cache on disk (half a second), or compiled (some seconds)."""

import sys
from collections.abc import Callable
from functools import cache

from numba import njit, types
from numba.core.event import Listener, install_listener

boolean, int64, float32, float64 = types.boolean, types.int64, types.float32, types.float64


def arrays(number: types.Number, *dimensions: int, layout: str = "A") -> list[types.Array]:
    """Return the types of arrays: with strides open ("A"), or rows side by side ("C")."""
    return [types.Array(number, n, layout) for n in dimensions]


def compiled(function: Callable[..., None], *signature: types.Type) -> Callable[..., None]:
    """Return function(start, stop, ...) as a kernel that lets other threads run; `signature` is that of the rest.

    The one signature keeps numba from compiling again for every layout of the arrays.
    """
    kind = types.void(int64, int64, *signature)
    with install_listener("numba:compile", Notice()):
        try:
            return njit(kind, cache=True, nogil=True)(function)
        except RuntimeError as error:  # numba finds no folder to write to: compile in every process
            if "cache" not in str(error):
                raise
            return njit(kind, nogil=True)(function)


class Notice(Listener):
    """Notice tells, once per process, that numba compiles; it is not asked where a kernel comes from the cache."""

    def on_start(self, event: object) -> None:
        _tell()

    def on_end(self, event: object) -> None:
        pass


@cache
def _tell() -> None:
    place = sys.stdout if type(sys.stdout).__module__.startswith("ipykernel") else sys.stderr  # which looks wrong there
    print("numba compiles kernels for this processor, once: some seconds", file=place, flush=True)
