"""Threads that share the work of the kernels: PyTorch's, or those of a pool; also in forked children."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader

from alignmamba2 import cpu, mmd, transport
from alignmamba2.cpu import threads

from .test_scan import problem, values_and_gradients

needs_numba = pytest.mark.skipif(not cpu.available(), reason=str(cpu.obstacle()))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
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


def in_a_fork(work) -> int:
    """The exit status of a forked child that calls `work`: 0 if that returns True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 2)
        finally:
            os._exit(1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """After the parent has used both kinds; GNU's OpenMP would wait for ever in the child."""
    threads.run(lambda: None, 2)
    threads._run_in_pool(lambda: None, 2)
    together = threading.Barrier(2, timeout=30)
    assert in_a_fork(lambda: threads.run(together.wait, 2) is None) == 0


# --- The kernels on them ------------------------------------------------------------------------------------


def scan_results() -> list[torch.Tensor]:
    return list(values_and_gradients(problem(b=3, d=300, length=40, n=16), "cpu", torch.float32).values())


def loss_results(loss) -> list[torch.Tensor]:
    """The loss of nine samples and its gradients."""
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, t, 8, generator=random).requires_grad_() for t in (21, 30))
    value = loss(x, y)
    return [value.detach(), *torch.autograd.grad(value.sum(), (x, y))]


RESULTS = {
    "selective_scan": scan_results,
    "transport": lambda: loss_results(lambda x, y: transport(x, y).distance),
    "mmd": lambda: loss_results(lambda x, y: mmd(x, y, bandwidth=(0.5, 1.0, 2.0))),
}


def same(results: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(results, others, strict=True))


@pytest.fixture(params=RESULTS)
def shared(request, monkeypatch):
    """A function that runs a kernel on two threads, and the results of one."""
    if not cpu.available():
        pytest.skip(str(cpu.obstacle()))
    from alignmamba2.cpu import kernel_sums, scan, sinkhorn

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # PyTorch's own operations would wait for ever for more in a forked child
    expected = RESULTS[request.param]()
    for module in (kernel_sums, scan, sinkhorn):
        monkeypatch.setattr(module, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    yield RESULTS[request.param], expected
    torch.set_num_threads(before)


def test_the_same_bits_on_any_threads(shared, kind, monkeypatch):
    results, expected = shared
    assert same(results(), expected)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert same(results(), expected)


def test_kernels_of_several_callers_at_once(shared, kind):
    results, expected = shared
    outcomes = []
    callers = [threading.Thread(target=lambda: outcomes.append(same(results(), expected))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert outcomes == [True] * 4


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kernels_in_a_forked_child(shared):
    results, expected = shared
    assert same(results(), expected)  # the parent's threads are there
    assert in_a_fork(lambda: same(results(), expected)) == 0


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kernels_in_workers_of_a_data_loader(shared):
    results, expected = shared

    class Results(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, _: int) -> bool:
            return same(results(), expected)

    loader = DataLoader(Results(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert list(loader) == [True] * 4


def test_every_task_is_done_once_and_an_error_of_one_is_raised(kind, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done = []
    threads.share(lambda start, stop, name: done.extend((name, i) for i in range(start, stop)), 50, 3, "task")
    assert sorted(done) == [("task", i) for i in range(50)]

    def kernel(start: int, stop: int) -> None:
        if start <= 30 < stop:
            raise ValueError("task 30")

    with pytest.raises(ValueError, match="task 30"):
        threads.share(kernel, 50, 3)


def run_python(code: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


USE_ALL = """
import torch, alignmamba2 as am
x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
am.transport(x, x + 0.1), am.mmd(x, x + 1)
am.selective_scan(x, x.abs(), -torch.ones(20, 3), torch.ones(2, 3, 8), torch.ones(2, 3, 8))
"""


@needs_numba
def test_numbas_own_threads_are_never_started():
    code = "import numba\ntry: numba.threading_layer()\nexcept ValueError as error: print(error)"
    assert "not initialized" in run_python(USE_ALL + code)


@needs_numba
def test_with_numbas_compiler_switched_off_pytorch_does_it_all():
    code = """
from alignmamba2.scan import available_backends
print(*[s for s in available_backends() if s.name == "cpu"])
for call in (lambda: am.transport(x, x, solver="numba"),
             lambda: am.selective_scan(x, x, -torch.ones(20, 3), x[:, :3], x[:, :3], backend="cpu")):
    try: call()
    except RuntimeError as error: print(error)
"""
    status, *errors = run_python(USE_ALL + code, NUMBA_DISABLE_JIT="1").splitlines()
    assert "works=False" in status
    assert len(errors) == 2
    assert all("NUMBA_DISABLE_JIT" in line for line in (status, *errors))


def test_compiling_is_told_once(capsys):
    from alignmamba2.cpu import compiler

    space: dict = {}
    exec("def one(start, stop):\n    pass\ndef two(start, stop):\n    pass", space)  # of no file, so in no cache
    compiler._tell.cache_clear()
    compiler.compiled(space["one"])
    compiler.compiled(space["two"])
    assert capsys.readouterr().err == "numba compiles kernels for this processor, once: some seconds\n"
