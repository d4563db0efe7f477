"""The GPU's kernels without a GPU: Triton's in its interpreter, and strict stand-ins for those of other packages."""

from __future__ import annotations

import itertools
import sys
import types
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alignmamba2 import gpu
from alignmamba2.__main__ import main
from alignmamba2.gpu import packages
from alignmamba2.model.layers import SelectiveSSM
from alignmamba2.scan import available_backends, interface, selective_scan
from benchmarks import gpu_interpreter as bench

from .test_scan import problem, values_and_gradients

OBSTACLE = gpu.obstacle("cuda" if torch.cuda.is_available() else "cpu")
interpreted = pytest.mark.skipif(OBSTACLE is not None, reason="; ".join(OBSTACLE or ()))
CASES = bench.covering(240)


@interpreted
@pytest.mark.parametrize("i", range(0, len(CASES), 10))
def test_values_and_gradients_are_those_of_the_definition(i):
    """A part of the cases that `python -m benchmarks gpu_interpreter` tries."""
    errors = bench.check(CASES[i])
    assert max(errors.values()) <= bench.TOLERANCE[CASES[i]["dtype"]], errors


def test_every_two_options_meet_in_some_case():
    names = list(bench.OPTIONS)
    for a, b in itertools.combinations(names, 2):
        met = {(case[a], case[b]) for case in CASES}
        assert met == set(itertools.product(bench.OPTIONS[a], bench.OPTIONS[b])), (a, b)


@interpreted
def test_blocks_as_large_as_on_a_gpu_and_the_interpreter_as_it_is():
    case = {name: values[0] for name, values in bench.OPTIONS.items()} | {"dtype": torch.float32}
    args = bench.problem(case | {"batch": 1, "width": 33, "states": 5, "length": 18})
    expected = bench.values_and_gradients(case, {k: x.double() for k, x in args.items()}, "reference")
    with bench.quick_interpreter():
        found = bench.values_and_gradients(case, args, "triton")
    for name, x in expected.items():
        assert (found[name] - x).abs().max() <= 2e-5 * x.abs().max(), name
    args = bench.problem(case | {"length": 3, "width": 2, "states": 2})
    with bench.quick_interpreter():
        quick = bench.values_and_gradients(case, args, "triton")
    with bench.blocks(**bench.SMALL):
        slow = bench.values_and_gradients(case, args, "triton")
    for name, x in slow.items():
        torch.testing.assert_close(quick[name], x, msg=name)


@interpreted
def test_the_maps_that_are_scanned_compose_in_any_grouping():
    """On a GPU an associative scan groups steps as it likes; the interpreter does not."""
    from alignmamba2.gpu import scan_kernels

    draw = torch.Generator().manual_seed(0)
    for name, size in (("_compose", 2), ("_compose_open", 3), ("_compose_back", 3)):
        combine = getattr(scan_kernels, name).fn
        one, two, three = (tuple(torch.randn(size, dtype=torch.float64, generator=draw)) for _ in range(3))
        left, right = combine(*combine(*one, *two), *three), combine(*one, *combine(*two, *three))
        torch.testing.assert_close(left, right)


@interpreted
def test_small_steps_keep_their_digits():
    """log(1 + e^x) in float32 loses all of them below −17, and a part from −7 on."""
    raw = torch.tensor([-40.0, -20, -9, -5, -1, 0, 1, 9, 40]).view(1, 1, 9)
    one = torch.ones(1, 1, 9)
    exact = F.softplus(raw.double())
    with bench.quick_interpreter():
        y = selective_scan(one, raw, torch.full((1, 1), -200.0), one, one, delta_softplus=True, backend="triton")
        first = selective_scan(one, raw, torch.zeros(1, 1), one, one, delta_softplus=True, backend="triton")[..., :1]
    torch.testing.assert_close(first.double(), exact[..., :1], rtol=1e-6, atol=0)
    expected = selective_scan(
        one.double(), raw.double(), torch.full((1, 1), -200.0).double(), one.double(), one.double(),
        delta_softplus=True, backend="reference",
    )  # fmt: skip
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=0)


@interpreted
def test_launches_do_not_depend_on_the_length_and_one_graph_serves_all():
    counts = bench.launches((1, 50, 16_384))
    assert len({tuple(grids) for grids in counts.values()}) == 1
    assert len(counts[50]) == 2
    assert bench.graphs((5, 16, 17, 40, 70)) == 1


@interpreted
@pytest.mark.parametrize("optional", [True, False])
def test_the_operator_keeps_pytorchs_rules(optional):
    from alignmamba2.gpu import scan

    args = {k: v.float().requires_grad_() for k, v in problem(d=6, length=5, n=2, groups=2).items()}
    if not optional:
        args |= dict.fromkeys(("D", "z", "delta_bias", "initial_state"))
    args = [None if x is None else x.detach() for x in args.values()]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    with bench.quick_interpreter():
        torch.library.opcheck(scan._scan, (*args, True, True), test_utils=tests)
        *inputs, first = args
        _, last, kept = scan._scan(*inputs, first, True, True)
        torch.library.opcheck(scan._scan_backward, (*inputs, True, kept, args[0], last), test_utils=tests)


@interpreted
def test_memory_grows_like_the_input():
    """What is kept from the forward to the backward, at 16 states: one number for each of the input."""
    from alignmamba2.gpu import scan

    u = torch.empty(2, 64, 4096, device="meta")
    _, _, kept = scan._empty_outputs(u, torch.empty(64, 16, device="meta"), True)
    assert kept.numel() == u.numel()


@pytest.mark.skipif(OBSTACLE is not None, reason="needs Triton to compile")
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("options", [{}, {"optional": False, "number": "fp64"}])
def test_kernels_compile_for_a_gpu_that_is_not_here(name, options):
    """Triton's compiler and ptxas make machine code for an A100; the model's own scan hardly spills a register."""
    pytest.importorskip("triton.backends.nvidia")
    found = bench.compiled(name, 80, **options)
    assert options or found["spilled_bytes"] <= 128


def test_the_choice_breaks_no_graph():
    A = torch.zeros(2, 4)

    @torch.compile(backend="eager", fullgraph=True)
    def chosen(u: Tensor) -> Tensor:
        return u + len(gpu.quickest_scan(u, A, None, False))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert int(chosen(torch.zeros(1, 2, 3)).max()) in (len("mamba-ssm"), len("triton"), len("chunked"))


class TestOrderOfChoice:
    """Which scan a GPU takes; nothing of it needs one."""

    u, A = torch.zeros(1, 2, 3), torch.zeros(2, 4)

    @pytest.fixture
    def here(self, monkeypatch):
        def install(mamba: bool, triton: bool):
            found = (mamba_ssm_fake, "mamba-ssm's compiled kernel", "")
            missing = (None, "mamba-ssm is not installed", packages.INSTALL)
            monkeypatch.setattr(packages, "mamba_ssm", lambda: found if mamba else missing)
            why = None if triton else ("triton does not import (test)", "pip install triton")
            monkeypatch.setattr(gpu, "obstacle", lambda device="cuda": why)

        return install

    @pytest.mark.parametrize("triton", [True, False])
    def test_mamba_ssm_first(self, here, triton):
        here(True, triton)
        assert gpu.quickest_scan(self.u, self.A, None, False) == "mamba-ssm"
        assert gpu.status() == ("mamba-ssm's compiled kernel", "")
        then = "triton" if triton else "chunked"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # there is nothing to add
            assert gpu.quickest_scan(self.u.double(), self.A, None, False) == then
            assert gpu.quickest_scan(self.u, self.A, torch.zeros(1, 2, 4), False) == then
            assert gpu.quickest_scan(self.u, self.A, None, True) == then
            assert gpu.quickest_scan(self.u, torch.zeros(2, 300), None, False) == then

    def test_then_triton_and_what_would_be_faster(self, here):
        here(False, True)
        assert gpu.quickest_scan(self.u, self.A, None, False) == "triton"
        reason, fix = gpu.status()
        assert reason == "Triton kernels of our own; mamba-ssm is not installed"
        assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in fix
        assert "--no-build-isolation" in fix

    def test_then_pytorch_with_a_warning_that_says_what_to_do(self, here):
        here(False, False)
        with pytest.warns(UserWarning, match=r"slower PyTorch form.*pip install triton.*MAMBA_KEEP_CUDA_BUILD=TRUE"):
            assert gpu.quickest_scan(self.u, self.A, None, False) == "chunked"
        assert gpu.status()[1] == "pip install triton"

    def test_doctor_says_which_why_and_what_would_be_faster(self, here, monkeypatch, capsys):
        here(False, True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(packages, "causal_conv1d", lambda: (None, "causal-conv1d is not installed", "pip ..."))
        main(["doctor"])
        printed = capsys.readouterr().out
        assert "cuda       works    Triton kernels of our own; mamba-ssm is not installed" in printed
        assert f"add it with: {packages.INSTALL}\n" in printed
        assert "causal-conv1d is not installed; our own does without" in printed

    def test_by_name_on_a_processor(self, monkeypatch):
        monkeypatch.setattr(gpu, "obstacle", lambda device="cuda": ("Triton is not here (test)", "pip install triton"))
        with pytest.raises(RuntimeError, match=r"found 'triton', but Triton is not here.*pip install triton"):
            selective_scan(**problem(), backend="triton")
        assert not {s.name: s for s in available_backends()}["triton"].works


@pytest.fixture
def half_a_mamba_ssm(monkeypatch):
    """mamba-ssm's Python files without its compiled kernel."""
    found = {"mamba_ssm": True, "selective_scan_cuda": None}
    monkeypatch.setattr(packages.importlib.util, "find_spec", found.get)
    packages.mamba_ssm.cache_clear()
    yield
    packages.mamba_ssm.cache_clear()


@pytest.mark.usefixtures("half_a_mamba_ssm")
def test_mamba_ssm_without_its_kernel_is_told_with_the_cure():
    kernel, reason, fix = packages.mamba_ssm()
    assert kernel is None
    assert "without its compiled kernel" in reason
    assert {"MAMBA_KEEP_CUDA_BUILD=TRUE", "MAMBA_FORCE_BUILD=TRUE", "--no-build-isolation"} <= set(fix.split())


# --- Stand-ins that refuse what the real ones refuse: mamba-ssm 2.3.2.post1, causal-conv1d 1.7.0 ---------------------


def mamba_ssm_fake(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    """`selective_scan_fn` with the checks of its csrc/selective_scan/selective_scan.cpp."""
    batch, dim, length = u.shape
    half, n = (torch.float32, torch.float16, torch.bfloat16), A.shape[1]
    assert u.dtype in half
    assert A.dtype == torch.float32
    assert delta.dtype == u.dtype
    assert n <= 256
    assert delta.shape == u.shape
    assert A.shape == (dim, n)
    for x in (B, C):
        assert x.dtype == (u.dtype if x.dim() >= 3 else A.dtype)
        groups = x.shape[1] if x.dim() == 4 else 1
        assert x.shape in ((batch, n, length), (batch, groups, n, length), (dim, n))
        assert dim % groups == 0
    for x in (D, delta_bias):
        assert x is None or (x.dtype == torch.float32 and x.shape == (dim,) and x.stride(-1) == 1)
    assert z is None or (z.dtype == u.dtype and z.shape == u.shape)
    assert not torch.is_autocast_enabled("cuda")
    float_ = [None if x is None else x.float() for x in (u, delta, A, B, C, D, z, delta_bias)]
    y, last = selective_scan(*float_, delta_softplus, True, backend="reference")
    return (y.to(u.dtype), last.detach()) if return_last_state else y.to(u.dtype)


def causal_conv1d_fake(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    """`causal_conv1d_fn` with the checks of its csrc/causal_conv1d.cpp."""
    (_, dim, length), (_, width) = x.shape, weight.shape
    assert activation in (None, "silu", "swish")
    assert x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert weight.shape == (dim, width)
    assert 2 <= width <= 4
    assert x.stride(2) == 1 or x.stride(1) == 1
    if x.stride(1) == 1 and x.stride(2) > 1:
        assert dim % 8 == 0
        assert x.stride(2) % 8 == 0
        assert x.stride(0) % 8 == 0
    assert bias is None or (bias.dtype == weight.dtype and bias.shape == (dim,) and bias.stride(-1) == 1)
    assert seq_idx is initial_states is final_states_out is None
    assert not return_final_states
    y = F.conv1d(
        x.float(), weight.float()[:, None], None if bias is None else bias.float(), padding=width - 1, groups=dim
    )
    y = y[..., :length]
    return (F.silu(y) if activation else y).to(x.dtype)


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    monkeypatch.setattr(interface, "_choose", lambda backend, device: "cuda" if backend == "auto" else backend)
    monkeypatch.setattr(packages, "mamba_ssm", lambda: (mamba_ssm_fake, "", ""))
    monkeypatch.setattr(packages, "causal_conv1d", lambda: (causal_conv1d_fake, "", ""))
    monkeypatch.setattr(packages, "_on_gpu", lambda x: True)


@pytest.mark.usefixtures("as_if_on_a_gpu")
@pytest.mark.parametrize("kind", [{}, {"groups": 5}, {"fixed": ("B",)}, {"fixed": ("C",)}, {"fixed": ("B", "C")}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mamba_ssm_is_called_as_it_wants_to_be(kind, dtype):
    args = {k: v.to(dtype) if k in ("u", "delta", "B", "C", "z") else v for k, v in problem(d=10, **kind).items()}
    del args["initial_state"]
    with torch.no_grad():
        y, last = selective_scan(**args, delta_softplus=True, return_last_state=True)
    expected, state = selective_scan(
        **{k: v.double() for k, v in args.items()}, delta_softplus=True, return_last_state=True, backend="reference"
    )
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    torch.testing.assert_close(last.double(), state, rtol=1e-5, atol=1e-5)


class TestConvolution:
    """causal-conv1d in the layer, beside the layer's own sum over taps."""

    @pytest.mark.parametrize("d_conv", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("e", [8, 12])
    def test_the_layer_is_the_same_with_it(self, monkeypatch, d_conv, e):
        torch.manual_seed(0)
        ssm = SelectiveSSM(e, 4, d_conv, 2)
        both = torch.randn(2, 9, 2 * e, requires_grad=True)  # x is a view, as in the layer
        calls = []

        def counted(x, *args, **options):
            calls.append(x.shape)
            return causal_conv1d_fake(x, *args, **options)

        def run() -> tuple[Tensor, ...]:
            y = ssm(*both.chunk(2, -1))
            return y, *torch.autograd.grad(y.square().sum(), [both, ssm.conv1d.weight, ssm.conv1d.bias])

        expected = run()
        monkeypatch.setattr(packages, "_on_gpu", lambda x: True)
        monkeypatch.setattr(packages, "causal_conv1d", lambda: (counted, "", ""))
        for found, x in zip(run(), expected, strict=True):
            torch.testing.assert_close(found, x)
        assert len(calls) == (2 <= d_conv <= 4 and e % 8 == 0)

    def test_it_is_looked_for_once_and_named_where_it_fails(self, monkeypatch):
        module = types.ModuleType("causal_conv1d")
        module.causal_conv1d_fn = causal_conv1d_fake
        monkeypatch.setitem(sys.modules, "causal_conv1d", module)
        monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: True)
        packages.causal_conv1d.cache_clear()
        assert packages.causal_conv1d()[0] is causal_conv1d_fake
        monkeypatch.setitem(sys.modules, "causal_conv1d", None)  # a broken build: it does not import
        packages.causal_conv1d.cache_clear()
        function, reason, fix = packages.causal_conv1d()
        packages.causal_conv1d.cache_clear()
        assert function is None
        assert "does not import" in reason
        assert "CAUSAL_CONV1D_FORCE_BUILD=TRUE" in fix


@pytest.mark.cuda
@pytest.mark.parametrize("i", range(0, len(CASES), 4))
def test_on_a_gpu(i):
    case, args = CASES[i], bench.problem(CASES[i])
    expected = bench.values_and_gradients(
        case, {k: x if x is None else x.double() for k, x in args.items()}, "reference"
    )
    there = {k: x if x is None else x.cuda() for k, x in args.items()}
    for name, x in bench.values_and_gradients(case, there, "triton").items():
        error = (x.cpu().double() - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-30)
        assert error <= max(bench.TOLERANCE[case["dtype"]], 1e-5), name


@pytest.mark.cuda
@pytest.mark.parametrize("length", [1, 100, 16_384])
def test_long_sequences_on_a_gpu(length):
    args = problem(b=1, d=70, n=16, length=length, groups=1)
    expected = values_and_gradients(args, "chunked")
    found = values_and_gradients({k: v.cuda() for k, v in args.items()}, "triton", torch.float32)
    for name, x in expected.items():
        assert (found[name].cpu() - x).abs().max() <= 2e-4 * x.abs().max(), name
