"""The same work on several threads: PyTorch's own where they can be had, else a pool of ours.

After each operation PyTorch's OpenMP threads spin for milliseconds, on the processors that other threads want. So what
runs between its operations does best on the same threads, which then have nothing to wake up for either. GNU's OpenMP
hands them out by `GOMP_parallel`, what a compiler makes of `#pragma omp parallel`, and so does LLVM's on Linux;
PyTorch's library is linked with one of them. Not so on macOS and Windows; nor in a child process made by a fork, where
GNU's waits for ever for threads that the child does not have. There a pool does it: right too, and slower by the
spinning, which GOMP_SPINCOUNT=0 in the environment stops.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_PROCESS = os.getpid()  # not that of a forked child
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(work: Callable[[], None], threads: int) -> None:
    """Call `work` on this thread and on up to threads - 1 others at once; return when all are done.

    How many others there are in the end is up to the system: the calls must share the work, not count on each other.
    An error in one of them is raised here, after the rest have ended.
    """
    parallel = _openmp() if os.getpid() == _PROCESS else None
    if parallel is None:
        _run_in_pool(work, threads)
        return
    errors: list[BaseException] = []

    def call(_: int | None) -> None:
        try:
            work()
        except BaseException as error:  # C, which calls this, knows no errors
            errors.append(error)

    parallel(_Work(call), None, threads, 0)
    if errors:
        raise errors[0]


@functools.cache
def _openmp() -> Callable | None:
    """void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags), if PyTorch has it."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel  # found in what PyTorch is linked with
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


def _run_in_pool(work: Callable[[], None], threads: int) -> None:
    helpers = [_pool(os.getpid()).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        waited_for = [helper for helper in helpers if not helper.cancel()]  # who never started is not needed any more
        errors = [helper.exception() for helper in waited_for]
    for error in filter(None, errors):
        raise error


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of a process: they do not survive a fork (of a DataLoader, say), the child makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), "selective_scan")
