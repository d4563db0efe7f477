"""The backends of the selective scan among PyTorch's machinery: threads, AMP, compile, GPU, peers."""

from __future__ import annotations

import threading

import pytest
import torch

from alignmamba2 import cpu
from alignmamba2.scan import available_backends, selective_scan

from .test_scan import BACKENDS, problem, values_and_gradients, weighed

STATUS = {s.name: s for s in available_backends()}
needs_numba = pytest.mark.skipif(not STATUS["cpu"].works, reason=STATUS["cpu"].reason)


@needs_numba
def test_one_and_two_threads_give_the_same_bits(monkeypatch):
    from alignmamba2.cpu import scan

    monkeypatch.setattr(scan, "WORTH_A_THREAD", 1)
    args = problem(b=3, d=300, length=40, n=16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(values_and_gradients(args, "cpu", torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], x) for name, x in results[0].items())


@needs_numba
def test_several_callers_at_once(monkeypatch):
    from alignmamba2.cpu import scan

    monkeypatch.setattr(scan, "WORTH_A_THREAD", 1)
    args = problem(b=4, d=64, length=40, n=4)
    expected = values_and_gradients(args, "cpu")
    results = []
    callers = [threading.Thread(target=lambda: results.append(values_and_gradients(args, "cpu"))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 6
    assert all(torch.equal(found[name], x) for found in results for name, x in expected.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients(backend):
    args = {k: v.requires_grad_() for k, v in problem().items()}
    expected = selective_scan(**args, backend=backend)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            y = selective_scan(**args, backend=backend)
        assert not y.requires_grad
        assert torch.equal(y, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_used_twice_and_only_some_gradients(backend):
    args = problem()
    args["u"].requires_grad_()
    once = torch.autograd.grad(weighed(selective_scan(**args, backend=backend)), args["u"])[0]
    both = weighed(selective_scan(**args, backend=backend)) + weighed(selective_scan(**args, backend=backend))
    torch.testing.assert_close(torch.autograd.grad(both, args["u"])[0], 2 * once)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out_with_a_float32_state(backend, dtype):
    args = problem(d=20, length=60, n=4)
    halves = {k: v.to(dtype) if k in ("u", "delta", "B", "C", "z") else v.float() for k, v in args.items()}
    expected, _ = selective_scan(
        **{k: v.double() for k, v in halves.items()}, delta_softplus=True, return_last_state=True, backend="reference"
    )
    halves = {k: v.requires_grad_() for k, v in halves.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y, last = selective_scan(**halves, delta_softplus=True, return_last_state=True, backend=backend)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    # The rounding of y alone: a bfloat16 state would be off by far more after 60 steps.
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)
    y.float().sum().backward()
    assert all(x.grad.dtype == x.dtype and x.grad.isfinite().all() for x in halves.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_compile(backend):
    args = {k: v.float().requires_grad_() for k, v in problem(d=20, length=30, n=4).items()}

    def run(**named):
        y, last = selective_scan(**named, delta_softplus=True, return_last_state=True, backend=backend)
        return y * 2, last

    expected = torch.autograd.grad(weighed(*run(**args)), list(args.values()))
    torch._dynamo.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=backend == "cpu")
    found = torch.autograd.grad(weighed(*compiled(**args)), list(args.values()))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**args), run(**args))


@needs_numba
@pytest.mark.parametrize("optional", [True, False])
def test_the_operator_keeps_pytorchs_rules(optional):
    from alignmamba2.cpu import scan

    args = {k: v.requires_grad_() for k, v in problem(d=20, length=18, n=4, groups=2).items()}
    if not optional:
        args |= dict.fromkeys(("D", "z", "delta_bias", "initial_state"))
    args = [None if x is None else x.detach() for x in args.values()]
    torch.library.opcheck(scan._scan, (*args, True, True))
    *inputs, first = args
    _, last, kept = scan._scan(*inputs, first, True, True)
    torch.library.opcheck(scan._scan_backward, (*inputs, True, kept, args[0], last))


@needs_numba
def test_torch_func_grad():
    args = problem()
    values = tuple(args.values())

    def loss(*values):
        return weighed(selective_scan(**dict(zip(args, values, strict=True)), backend="cpu"))

    found = torch.func.grad(loss, argnums=tuple(range(len(values))))(*values)
    expected = torch.autograd.grad(loss(*(v.requires_grad_() for v in values)), values)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_auto_without_numba_takes_the_chunked_form(monkeypatch):
    monkeypatch.setattr(cpu, "obstacle", lambda: ("numba does not import (test)", "pip install numba"))
    args = problem()
    assert torch.equal(selective_scan(**args), selective_scan(**args, backend="chunked"))
    with pytest.raises(RuntimeError, match="pip install numba"):
        selective_scan(**args, backend="cpu")
    status = {s.name: s for s in available_backends()}["cpu"]
    assert (status.works, status.fix) == (False, "pip install numba")


def test_a_backend_for_another_device():
    with pytest.raises(RuntimeError, match="found 'cuda' for tensors on 'cpu'"):
        selective_scan(**problem(), backend="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("with_state", [False, True])
def test_on_the_gpu(with_state):
    args = problem(d=64, length=300, n=16)
    if not with_state:
        del args["initial_state"]
    expected = values_and_gradients(args, "reference")
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        moved = {k: v.to("cuda", dtype).requires_grad_() for k, v in args.items()}
        y, last = selective_scan(**moved, delta_softplus=True, return_last_state=True)
        weights = [torch.arange(x.numel(), dtype=torch.float64).cos().view_as(x).to(x) for x in (y, last)]
        loss = (y * weights[0]).sum() + (last * weights[1]).sum()
        found = {"y": y, "last": last, **dict(zip(args, torch.autograd.grad(loss, list(moved.values())), strict=True))}
        for name, x in found.items():
            scale = expected[name].abs().max().item()
            torch.testing.assert_close(x.cpu().double(), expected[name], rtol=0, atol=tolerance * scale, msg=name)


def test_equals_hugging_face_mamba():
    """A MambaMixer of transformers, with our scan in the middle of its own weights."""
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba", reason="transformers is not installed")
    from transformers import MambaConfig

    torch.manual_seed(0)
    config = MambaConfig(hidden_size=24, state_size=8, num_hidden_layers=1, use_mambapy=False)
    mixer = mamba.MambaMixer(config, layer_idx=0)
    x = torch.randn(2, 33, 24)
    expected = mixer(x)
    u, z = mixer.in_proj(x).transpose(1, 2).chunk(2, dim=1)
    u = torch.nn.functional.silu(mixer.conv1d(u)[..., : x.shape[1]])
    dt, B, C = mixer.x_proj(u.transpose(1, 2)).split([mixer.time_step_rank, 8, 8], dim=-1)
    delta = (dt @ mixer.dt_proj.weight.t()).transpose(1, 2)
    y = selective_scan(
        u, delta, -mixer.A_log.exp(), B.transpose(1, 2), C.transpose(1, 2), mixer.D, z, mixer.dt_proj.bias, True
    )
    torch.testing.assert_close(mixer.out_proj(y.transpose(1, 2)), expected, rtol=1e-4, atol=1e-5)
