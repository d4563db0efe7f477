"""The threads of all kernels: PyTorch's own where they can be had, else a pool of ours.

numba's own threads are not used: its layers are not there everywhere, forbid two callers at once, or die in a forked
child. And after each operation PyTorch's OpenMP threads spin for milliseconds, on the processors that other threads
want. So kernels that run between its operations do best on the same threads, which then have nothing to wake up for
either. GNU's OpenMP hands them out by `GOMP_parallel`, the function that a compiler makes of `#pragma omp parallel`,
and so does LLVM's on Linux; PyTorch's library is linked with one of them. macOS and Windows have no such function, and
in a child process made by a fork GNU's waits for ever for threads that the child does not have. There a pool of threads
does the work: right too, and slower by the spinning, which GOMP_SPINCOUNT=0 in the environment stops. PyTorch's own
operations wait for ever in such a child unless it calls torch.set_num_threads(1), as a DataLoader's workers do.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

_PROCESS = os.getpid()  # not that of a forked child
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share(kernel: Callable[..., None], tasks: int, most: int, *args) -> None:
    """Call kernel(start, stop, *args) until tasks 0 … tasks − 1 are done, on as many threads as PyTorch uses.

    `most` is the number of threads that the work is worth. Which thread does a task must not change its result.
    """
    count = min(torch.get_num_threads(), tasks, most)
    if count <= 1:
        kernel(0, tasks, *args)
        return
    # More runs than threads, taken one by one: a thread that the system holds up does not hold up the rest.
    bounds = np.linspace(0, tasks, min(tasks, 4 * count) + 1).astype(int).tolist()
    runs = iter(list(itertools.pairwise(bounds)))

    def work() -> None:
        for start, stop in runs:
            kernel(start, stop, *args)

    run(work, count)


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
    """Return `GOMP_parallel` of the library that PyTorch is linked with, or None.

    void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags)
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


def _run_in_pool(work: Callable[[], None], threads: int) -> None:
    helpers = [_pool(os.getpid()).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        started = [helper for helper in helpers if not helper.cancel()]  # the others are not needed any more
        errors = [helper.exception() for helper in started]
    for error in filter(None, errors):
        raise error


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: they do not survive a fork (of a DataLoader, say), the child makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), "alignmamba2")
