"""The selective scan: every backend equals the definition in float64, in values and in every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2.scan import available_backends, chunked, selective_scan, selective_step

BACKENDS = [
    pytest.param(s.name, marks=() if s.works else pytest.mark.skip(reason=s.reason))
    for s in available_backends()
    if s.name in ("cpu", "chunked")
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}  # of the largest number
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def problem(b=2, d=5, length=9, n=3, groups=1, fixed=(), seed=0, delta_scale=1.0, rates=None) -> dict:
    """Arguments of `selective_scan` by name, float64; `fixed`: which of B and C do not vary with time."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    def per_step(name):
        if name in fixed:
            return normal(d, n)
        return normal(b, n, length) if groups == 1 else normal(b, groups, n, length)

    rates = -4 * torch.rand(d, n, dtype=torch.float64, generator=random) if rates is None else rates.expand(d, n)
    values = (
        *(normal(b, d, length), normal(b, d, length) * delta_scale, rates, per_step("B"), per_step("C")),
        *(normal(d), normal(b, d, length), normal(d), normal(b, d, n)),
    )
    return dict(zip(NAMES, values, strict=True))


def values_and_gradients(args: dict, backend: str, dtype=torch.float64, softplus=True) -> dict[str, torch.Tensor]:
    args = {k: v.detach().to(dtype).requires_grad_() for k, v in args.items()}
    y, last = selective_scan(**args, delta_softplus=softplus, return_last_state=True, backend=backend)
    grads = torch.autograd.grad(weighed(y, last), list(args.values()))
    return {"y": y, "last": last, **dict(zip(args, grads, strict=True))}


def weighed(*outputs: torch.Tensor) -> torch.Tensor:
    """One number to differentiate: the sum of the outputs with weights that differ everywhere."""
    return sum((x * torch.arange(x.numel(), dtype=x.dtype).cos().view_as(x)).sum() for x in outputs)


def assert_same(args: dict, backend: str, dtype=torch.float64, softplus=True) -> None:
    expected = values_and_gradients(args, "reference", softplus=softplus)
    for name, found in values_and_gradients(args, backend, dtype, softplus).items():
        scale = expected[name].abs().max().clamp_min(1e-30)
        error = ((found.double() - expected[name]).abs().max() / scale).item()
        assert error <= TOLERANCE[dtype], f"{backend}, {dtype}: {name} is off by {error:.1e} of its largest number"


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks even for a small problem, in time and in samples; two of three samples for the smallest."""
    monkeypatch.setattr(chunked, "ELEMENTS", 200)
    monkeypatch.setattr(chunked, "STEP", 30)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 1},
        {"b": 3},
        {"n": 1, "length": 33},
        {"d": 40, "n": 16, "length": 50},
        {"d": 300, "n": 2, "length": 17, "b": 1},
        {"d": 6, "groups": 3, "length": 20},
        {"d": 66, "groups": 2, "length": 40, "n": 5},
        {"fixed": ("B",)},
        {"fixed": ("C",), "d": 4, "groups": 2},
        {"fixed": ("B", "C")},
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_chunks")
def test_equals_the_definition(backend, dtype, shape):
    assert_same(problem(**shape), backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 3),
    width=st.integers(1, 20),
    groups=st.integers(1, 3),
    length=st.integers(1, 40),
    n=st.integers(1, 18),
    given_names=st.sets(st.sampled_from(("D", "z", "delta_bias", "initial_state"))),
    softplus=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_shapes_and_options(backend, b, width, groups, length, n, given_names, softplus, seed):
    args = problem(b, width * groups, length, n, groups, seed=seed)
    args = {k: v for k, v in args.items() if k in NAMES[:5] or k in given_names}
    if not softplus:  # Δ must be positive by itself
        args |= {k: args[k].abs() for k in ("delta", "delta_bias") if k in args}
    assert_same(args, backend, softplus=softplus)
    assert_same(args, backend, torch.float32, softplus)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rate", "delta_scale"), [(-1e-6, 1.0), (-1e4, 1.0), (0.0, 1.0), (-1.0, 1e-6), (-1.0, 300.0), (-1e-3, 1e-3)]
)
def test_extreme_rates_and_steps(backend, rate, delta_scale):
    args = problem(d=20, length=64, n=4, delta_scale=delta_scale, rates=torch.tensor([[rate]], dtype=torch.float64))
    assert_same(args, backend, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_very_negative_delta_keeps_its_relative_precision(backend):
    args = problem(d=20, length=8, n=2)
    args["delta"] = args["delta"] - 30  # softplus of it is 1e-13: 1 + 1e-13 is 1 in float32
    args = {k: args[k] for k in NAMES[:5]}
    assert_same(args, backend, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [-16.0, -1e-4])
def test_16384_steps_do_not_overflow(backend, rate):
    args = problem(1, 2, 16384, 2, rates=torch.tensor([[rate]], dtype=torch.float64))
    expected = selective_scan(**args, delta_softplus=True, backend="reference")
    single = {k: v.float().requires_grad_() for k, v in args.items()}
    y = selective_scan(**single, delta_softplus=True, backend=backend)
    torch.testing.assert_close(y.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    y.sum().backward()
    assert all(x.grad.isfinite().all() for x in single.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "z"])
def test_nan_and_infinity_are_not_swallowed(backend, bad, name):
    args = problem(d=20, length=20, n=2)
    at = (3, 1) if name == "A" else (0, 1, 4)
    args[name][at] = bad
    expected = selective_scan(**args, delta_softplus=True, backend="reference").isfinite()
    y = selective_scan(**{k: v.float() for k, v in args.items()}, delta_softplus=True, backend=backend)
    assert not expected.all()
    assert torch.equal(y.isfinite(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("small_chunks")
def test_gradcheck(backend):
    args = {k: v.requires_grad_() for k, v in problem(d=3, length=18, n=2).items()}

    def run(*values):
        named = dict(zip(args, values, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(args.values()), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_give_one_answer(backend):
    args = problem(d=24, length=21, n=4)
    expected = selective_scan(**args, delta_softplus=True, backend=backend)

    def channels_last(x):
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    def a_slice(x):  # of wider rows, as `chunk` makes it
        wide = torch.cat([x, x], 1).transpose(1, 2).contiguous()
        return wide[..., x.shape[1] :].transpose(1, 2)

    def every_second(x):
        return x.repeat_interleave(2, -1)[..., ::2]

    for layout in (channels_last, a_slice, every_second):
        changed = {k: layout(v) if v.dim() == 3 else every_second(v) for k, v in args.items()}
        found = selective_scan(**changed, delta_softplus=True, backend=backend)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_last_in_channels_last_out(backend):
    args = {k: v.requires_grad_() for k, v in problem(d=24, length=21, n=4).items()}
    for name in ("u", "delta", "z"):
        args[name] = args[name].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    y = selective_scan(**args, backend=backend)
    assert y.transpose(1, 2).is_contiguous()
    y.sum().backward()
    if backend == "cpu":
        assert all(args[k].grad.transpose(1, 2).is_contiguous() for k in ("u", "delta", "z"))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.usefixtures("small_chunks")
def test_a_sequence_in_two_parts(backend):
    args = problem(d=20, length=37, n=4)
    whole = values_and_gradients(args, "reference")
    args = {k: v.requires_grad_() for k, v in args.items()}
    state, ys = args["initial_state"], []
    for part in (slice(0, 13), slice(13, None)):
        piece = {k: v[..., part] if k in ("u", "delta", "B", "C", "z") else v for k, v in args.items()}
        piece["initial_state"] = state
        y, state = selective_scan(**piece, delta_softplus=True, return_last_state=True, backend=backend)
        ys.append(y)
    y = torch.cat(ys, -1)
    grads = torch.autograd.grad(weighed(y, state), list(args.values()))
    for name, found in zip(("y", "last", *args), (y, state, *grads), strict=True):
        torch.testing.assert_close(found, whole[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("groups", [1, 2])
def test_steps_are_the_scan(groups):
    args = problem(b=3, d=6, length=11, n=4, groups=groups)
    state = args.pop("initial_state")
    expected, last = selective_scan(**args, initial_state=state, delta_softplus=True, return_last_state=True)
    for t in range(11):
        token = {k: v[..., t] if k in ("u", "delta", "B", "C", "z") else v for k, v in args.items()}
        state, y = selective_step(state, **token, delta_softplus=True)
        torch.testing.assert_close(y, expected[..., t])
    torch.testing.assert_close(state, last)


def test_a_step_with_fixed_B_and_C():
    args = problem(length=1, fixed=("B", "C"))
    expected = selective_scan(**args)
    state = args.pop("initial_state")
    token = {k: v[..., 0] if k in ("u", "delta", "z") else v for k, v in args.items()}
    torch.testing.assert_close(selective_step(state, **token)[1], expected[..., 0])


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("delta", torch.zeros(2, 5, 8), ValueError, r"delta: found shape \(2, 5, 8\), expected \(2, 5, 9\)"),
        ("A", torch.zeros(4, 3), ValueError, r"A: found shape \(4, 3\).*D = 5"),
        ("B", torch.zeros(2, 4, 9), ValueError, r"B: found shape \(2, 4, 9\).*\(2, 3, 9\)"),
        ("C", torch.zeros(2, 2, 3, 9), ValueError, "C: found shape .* G a divisor of D"),
        ("D", torch.zeros(6), ValueError, r"D: found shape \(6,\), expected \(5,\)"),
        ("z", torch.zeros(2, 9, 5), ValueError, r"z: found shape \(2, 9, 5\)"),
        ("delta_bias", torch.zeros(5, 1), ValueError, "delta_bias"),
        ("initial_state", torch.zeros(2, 3, 5), ValueError, "initial_state"),
        ("A", torch.zeros(5, 3, dtype=torch.complex64), TypeError, "A: found dtype torch.complex64"),
        ("u", torch.zeros(2, 5, 9, dtype=torch.int64), TypeError, "u: found dtype torch.int64"),
        ("u", torch.zeros(2, 5, 0), ValueError, "u: found shape .* L ≥ 1"),
        ("backend", "fast", ValueError, "backend: found 'fast'"),
    ],
)
def test_errors_name_the_argument(name, value, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**{**problem(), name: value})
