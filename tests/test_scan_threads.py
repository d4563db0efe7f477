"""Threads that share the work of a kernel: PyTorch's, or those of a pool."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from alignmamba2.cpu import threads

needs_openmp = pytest.mark.skipif(threads._openmp() is None, reason="PyTorch's OpenMP has no GOMP_parallel here")


@pytest.fixture(params=[pytest.param("PyTorch's", marks=needs_openmp), "the pool's"])
def kind(request, monkeypatch):
    if request.param == "the pool's":
        monkeypatch.setattr(threads, "_openmp", lambda: None)


def test_all_threads_take_part(kind):
    together = threading.Barrier(3, timeout=60)  # passed by three at once only
    seen = []

    def work() -> None:
        together.wait()
        seen.append(threading.get_native_id())

    threads.run(work, 3)
    assert len(set(seen)) == 3
    assert threading.get_native_id() in seen


def test_the_caller_alone(kind):
    seen = []
    threads.run(lambda: seen.append(threading.get_native_id()), 1)
    assert seen == [threading.get_native_id()]


def test_an_error_of_any_thread_is_raised_after_the_rest_have_ended(kind):
    caller, ended = threading.get_native_id(), []
    together = threading.Barrier(2, timeout=60)
    for culprit_is_caller in (True, False):

        def work(culprit_is_caller=culprit_is_caller) -> None:
            together.wait()
            if (threading.get_native_id() == caller) == culprit_is_caller:
                raise ValueError("lost")
            ended.append(culprit_is_caller)

        with pytest.raises(ValueError, match="lost"):
            threads.run(work, 2)
    assert ended == [True, False]
    threads.run(together.wait, 2)  # and all go on as before


def test_several_callers_at_once(kind):
    counts = [[] for _ in range(4)]
    callers = [threading.Thread(target=threads.run, args=(lambda c=c: c.append(1), 2)) for c in counts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(1 <= len(c) <= 2 for c in counts)


@needs_openmp
def test_they_are_the_threads_of_pytorchs_operations():
    """In a process of its own: no thread is added to those that PyTorch has after an operation on three threads."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("/proc tells the threads of a process")
    code = """
import os, threading, torch
from alignmamba2.cpu import threads
torch.set_num_threads(3)
torch.ones(1_000_000).exp()
before = set(os.listdir("/proc/self/task"))
seen, together = [], threading.Barrier(3, timeout=60)
threads.run(lambda: (together.wait(), seen.append(str(threading.get_native_id()))), 3)
assert len(set(seen)) == 3 and set(seen) <= before, (seen, before)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """After the parent has used both kinds; GNU's OpenMP would wait for ever in the child."""
    threads.run(lambda: None, 2)
    threads._run_in_pool(lambda: None, 2)
    child = os.fork()
    if child == 0:
        together = threading.Barrier(2, timeout=30)
        try:
            threads.run(together.wait, 2)
            os._exit(0)
        finally:
            os._exit(1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        threading.Event().wait(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_scan_is_the_same_on_either(monkeypatch):
    pytest.importorskip("numba")
    from alignmamba2.cpu import scan as cpu

    from .test_scan import problem, values_and_gradients

    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    args = problem(b=3, d=300, length=40, n=16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = values_and_gradients(args, "cpu", torch.float32)
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        second = values_and_gradients(args, "cpu", torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(second[name], x) for name, x in first.items())
