"""`transport` where inputs are degenerate, large, missing, broken or in half precision."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from alignmamba2.alignment import transport
from alignmamba2.alignment.sinkhorn import SAFE_RANGE

METHODS = ("sinkhorn", "relaxed", "unbalanced", "exact")


def tokens(b=3, n=7, m=9, d=5, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(b, t, d, generator=generator, dtype=torch.float64).to(dtype) for t in (n, m))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_empty_modality_gives_zero_without_gradient(method, dtype):
    x, y = (t.to(dtype).requires_grad_() for t in tokens())
    x_mask, y_mask = torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 9, dtype=torch.bool)
    x_mask[1] = False
    y_mask[2] = False
    found = transport(x, y, x_mask, y_mask, method=method)
    assert found.distance[0] > 0
    assert found.distance[1:].tolist() == [0, 0]
    assert found.plan[1:].abs().sum() == 0
    for gradient in torch.autograd.grad(found.distance.sum(), (x, y)):
        assert torch.isfinite(gradient).all()
        assert gradient[0].abs().sum() > 0
        assert gradient[1:].abs().sum() == 0


def test_all_samples_empty_and_no_tokens_at_all():
    x, y = tokens()
    nothing = torch.zeros(3, 7, dtype=torch.bool)
    assert transport(x, y, nothing).distance.abs().sum() == 0
    assert transport(x[:, :0], y).distance.tolist() == [0, 0, 0]
    assert transport(x[:0], y[:0]).distance.shape == (0,)


@pytest.mark.parametrize("method", ["sinkhorn", "relaxed", "exact"])
def test_single_token(method):
    x, y = tokens(n=1)
    found = transport(x, y, method=method)
    if method != "relaxed":
        torch.testing.assert_close(found.plan, torch.full_like(found.plan, 1 / 9))
        torch.testing.assert_close(found.distance, found.cost.mean((1, 2)))
    one = transport(x, y[:, :1], method=method)
    torch.testing.assert_close(one.plan, torch.ones(3, 1, 1))
    torch.testing.assert_close(one.distance, one.cost[:, 0, 0])


@pytest.mark.parametrize("epsilon", [0.2, 0.01])
def test_duplicated_points_share_the_mass(epsilon):
    x, y = tokens()
    y = torch.cat([y, y[:, :1]], 1)
    found = transport(x, y, epsilon=epsilon, tolerance=1e-5, max_iterations=20_000)
    torch.testing.assert_close(found.plan[:, :, 0], found.plan[:, :, -1])
    everywhere = transport(x[:, :1].expand(3, 7, 5), x[:, :1].expand(3, 4, 5), epsilon=epsilon)
    torch.testing.assert_close(everywhere.plan, torch.full((3, 7, 4), 1 / 28))
    torch.testing.assert_close(everywhere.distance, torch.zeros(3), rtol=0, atol=1e-6)


def test_zero_vectors_cost_one_and_get_no_gradient():
    x, y = tokens()
    x[:, 2] = 0
    y[:, 3] = 0
    x, y = x.requires_grad_(), y.requires_grad_()
    found = transport(x, y)
    torch.testing.assert_close(found.cost[:, 2], torch.ones(3, 9))
    torch.testing.assert_close(found.cost[:, :, 3], torch.ones(3, 7))
    gx, gy = torch.autograd.grad(found.distance.sum(), (x, y))
    assert torch.isfinite(gx).all()
    assert torch.isfinite(gy).all()
    assert gx[:, 2].abs().sum() == 0
    assert gy[:, 3].abs().sum() == 0


@pytest.mark.parametrize("scale", [1e6, 1e-6, 1e25])
def test_cosine_does_not_see_the_scale(scale):
    x, y = tokens()
    small, large = transport(x, y), transport(x * scale, y * scale)
    torch.testing.assert_close(large.plan, small.plan, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(large.distance, small.distance)


def test_absurdly_small_epsilon_is_finite_and_says_that_it_did_not_converge():
    x, y = tokens(n=30, m=40)
    found = transport(x * 1e6, y * 1e6, cost="sqeuclidean", epsilon=0.05, max_iterations=50)
    assert torch.isfinite(found.plan).all()
    assert torch.isfinite(found.distance).all()
    assert not found.converged.any()


@pytest.mark.parametrize("epsilon", [0.05, 0.005, 0.001])
def test_float32_agrees_with_float64_for_small_epsilon(epsilon):
    x, y = tokens(n=12, m=15)
    options = {"epsilon": epsilon, "max_iterations": 10_000}
    quick = transport(x, y, tolerance=1e-5, **options)
    slow = transport(x.double(), y.double(), tolerance=1e-7, solver="log", **options)
    torch.testing.assert_close(quick.distance.double(), slow.distance, rtol=0, atol=2e-5)
    done = quick.converged & slow.converged
    assert ((quick.plan.double() - slow.plan).abs().sum((1, 2))[done] < 2e-2).all()


def test_squared_euclidean_far_from_the_origin():
    x, y = tokens()
    near, far = (transport(x + k, y + k, cost="sqeuclidean", epsilon=1.0).cost for k in (0.0, 1000.0))
    torch.testing.assert_close(far, near, rtol=1e-3, atol=2e-3)


def test_a_cost_of_ones_own():
    x, y = tokens()
    by_name = transport(x, y, cost="sqeuclidean", epsilon=1.0)
    as_tensor = transport(x, y, cost=torch.cdist(x, y).square(), epsilon=1.0)
    other = torch.float32 if x.dtype == torch.float64 else torch.float64
    with pytest.raises(ValueError, match=f"cost: found {other}, where x and y are computed in {x.dtype}"):
        transport(x, y, cost=torch.cdist(x, y).to(other))
    torch.testing.assert_close(by_name.plan, as_tensor.plan, rtol=1e-3, atol=1e-5)
    # With a cost of one's own the widths may differ.
    assert transport(x[..., :3], y, cost=torch.rand(3, 7, 9)).distance.shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    x, y = tokens()
    half = transport(x.to(dtype), y.to(dtype))
    assert half.distance.dtype == torch.float32
    full = transport(x, y)
    torch.testing.assert_close(half.distance, full.distance, rtol=0, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = transport(x, y)
    torch.testing.assert_close(mixed.plan, full.plan)


def test_memory_does_not_grow_with_the_iterations():
    x, y = (t.requires_grad_() for t in tokens())
    sizes = []
    for iterations in (5, 500):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            transport(x, y, epsilon=0.01, tolerance=0.0, max_iterations=iterations)
        sizes.append(sum(kept))
    assert sizes[0] == sizes[1]


def test_importing_does_not_wait_for_numba_or_pot():
    code = "import sys, alignmamba2.alignment, alignmamba2.scan; print(sorted({'numba', 'ot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_tokens_are_counted_and_named(bad):
    x, y = tokens()
    x[1, 2, 3] = bad
    x[2, 0, 0] = bad
    with pytest.raises(ValueError, match=r"x: 2 of 105 values are NaN or infinite \(samples 1, 2\)"):
        transport(x, y)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 2] = mask[2, 0] = False
    assert torch.isfinite(transport(x, y, mask).distance).all()
    cost = torch.zeros(3, 7, 9)
    cost[0, 0, 0] = bad
    with pytest.raises(ValueError, match="cost: 1 of 189"):
        transport(*tokens(), cost=cost)


def test_overflowing_cost_is_named():
    x, y = tokens()
    with pytest.raises(ValueError, match=r"cost: .* NaN or infinite"):
        transport(x * 1e30, y, cost="sqeuclidean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: found 0.0"),
        ({"method": "sinkhorm"}, "method: found 'sinkhorm'; expected one of sinkhorn"),
        ({"cost": "cos"}, "cost: found 'cos'"),
        ({"cost": torch.zeros(3, 9, 7)}, r"cost: found \(3, 9, 7\); expected \(3, 7, 9\)"),
        ({"x_mask": torch.ones(3, 7)}, r"x_mask: found \(3, 7\) torch.float32"),
        ({"y_mask": torch.ones(3, 7, dtype=torch.bool)}, r"y_mask: found \(3, 7\)"),
        ({"solver": "gpu"}, "solver: found 'gpu'"),
        ({"solver": "kernel", "epsilon": 0.001}, "solver='kernel'"),
        ({"solver": "numba", "x": torch.zeros(3, 7, 5).double()}, "solver='numba': found torch.float64"),
        ({"x": torch.zeros(3, 7, 4)}, "widths 4 and 5"),
        ({"x": torch.zeros(2, 7, 5)}, "batches of 2 and 3"),
        ({"x": torch.zeros(3, 5)}, r"x: found \(3, 5\)"),
    ],
)
def test_errors_say_what_was_found(change, message):
    x, y = tokens()
    with pytest.raises(ValueError, match=message):
        transport(**({"x": x, "y": y} | change))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [0.2, 0.02])
def test_cuda_agrees_with_cpu(method, epsilon):
    x, y = tokens()
    options = {"method": method, "epsilon": epsilon, "tolerance": 1e-5, "max_iterations": 3000}
    here, there = transport(x, y, **options), transport(x.cuda(), y.cuda(), **options)
    torch.testing.assert_close(there.distance.cpu(), here.distance, rtol=0, atol=1e-4)
    torch.testing.assert_close(there.plan.cpu(), here.plan, rtol=0, atol=1e-3)
    assert SAFE_RANGE[torch.float32] * 0.2 > 2 > SAFE_RANGE[torch.float32] * 0.02  # both solvers were used
