"""`transport` against POT in float64, against its own limits, and against finite differences."""

from fractions import Fraction

import numpy as np
import ot
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2.alignment import transport
from alignmamba2.alignment.costs import COSTS

from .conftest import ragged_pairs

SOLVERS = ("numba", "kernel", "log")


def tokens(b=3, n=7, m=9, d=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(b, t, d, generator=generator, dtype=torch.float64).to(dtype) for t in (n, m))


def masks(b=3, n=7, m=9):
    x_mask, y_mask = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    x_mask[0, 4:] = False
    y_mask[0, 6:] = False
    x_mask[1, ::2] = False  # padding need not stand at the end
    return x_mask, y_mask


def dtype_of(solver):
    return torch.float32 if solver == "numba" else torch.float64


def closeness(solver):
    return {"rtol": 1e-4, "atol": 2e-5} if solver == "numba" else {"rtol": 1e-7, "atol": 1e-9}


@pytest.mark.parametrize("cost", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_agrees_with_pot(solver, cost):
    x, y = tokens()
    x_mask, y_mask = masks()
    epsilon = 0.3 if cost == "cosine" else 2.0
    tolerance = 1e-6 if solver == "numba" else 1e-11
    dtype = dtype_of(solver)
    found = transport(
        x.to(dtype), y.to(dtype), x_mask, y_mask,
        epsilon=epsilon, cost=cost, solver=solver, tolerance=tolerance, max_iterations=5000,
    )  # fmt: skip
    assert found.converged.all()
    metric = "sqeuclidean"
    for s in range(3):
        u, v = x[s, x_mask[s]], y[s, y_mask[s]]
        if cost == "cosine":
            c = 1 - torch.nn.functional.cosine_similarity(u[:, None], v[None], dim=2)
        else:
            c = torch.as_tensor(ot.dist(u.numpy(), v.numpy(), metric))
        a, b = np.full(len(u), 1 / len(u)), np.full(len(v), 1 / len(v))
        plan = torch.as_tensor(ot.sinkhorn(a, b, c.numpy(), epsilon, stopThr=1e-13, numItermax=100_000))
        mine = found.plan[s][x_mask[s]][:, y_mask[s]].double()
        torch.testing.assert_close(mine, plan, **closeness(solver))
        value = (plan * c).sum() + epsilon * (plan * (plan * len(u) * len(v)).log()).sum()
        torch.testing.assert_close(found.distance[s].double(), value, **closeness(solver))
        torch.testing.assert_close(found.transport_cost[s].double(), (plan * c).sum(), **closeness(solver))
    assert (found.plan * ~(x_mask[:, :, None] & y_mask[:, None])).abs().sum() == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_uniform_weights_over_the_real_tokens_are_the_marginals(solver):
    x, y = (t.to(dtype_of(solver)) for t in tokens())
    x_mask, y_mask = masks()
    found = transport(x, y, x_mask, y_mask, epsilon=0.2, solver=solver, tolerance=2e-6, max_iterations=5000)
    for mask, mass in ((x_mask, found.plan.sum(2)), (y_mask, found.plan.sum(1))):
        torch.testing.assert_close(mass, mask / mask.sum(1, keepdim=True).to(x.dtype), rtol=0, atol=5e-6)
    assert (found.marginal_error <= 2e-6).all()


def test_exact_is_pots_network_simplex():
    x, y = tokens()
    found = transport(x, y, *masks(), method="exact")
    x_mask, y_mask = masks()
    for s in range(3):
        c = found.cost[s][x_mask[s]][:, y_mask[s]].numpy()
        assert found.distance[s].item() == pytest.approx(ot.emd2([], [], c), abs=1e-12)
    assert found.converged.all()
    torch.testing.assert_close(found.distance, found.transport_cost)


@pytest.mark.parametrize("solver", ["numba", "log"])
def test_small_epsilon_tends_to_exact(solver):
    x, y = (t.to(dtype_of(solver)) for t in tokens())
    exact = transport(x, y, method="exact").distance
    errors = []
    for epsilon in (0.1, 0.01, 0.001):
        found = transport(x, y, epsilon=epsilon, solver=solver, tolerance=1e-4, max_iterations=30_000)
        assert found.converged.all()
        assert torch.isfinite(found.plan).all()
        assert (found.distance >= exact - 1e-4).all()
        errors.append((found.distance - exact).max().item())
    assert errors[0] > errors[1] > errors[2] - 1e-6
    assert errors[2] < 0.005


@pytest.mark.parametrize("solver", SOLVERS)
def test_large_epsilon_tends_to_the_independent_plan(solver):
    x, y = (t.to(dtype_of(solver)) for t in tokens())
    found = transport(x, y, epsilon=1e3, solver=solver, tolerance=1e-5)
    torch.testing.assert_close(found.plan, torch.full_like(found.plan, 1 / 63), rtol=0.01, atol=0)
    torch.testing.assert_close(found.distance, found.cost.mean((1, 2)), rtol=2e-3, atol=0)


@pytest.mark.parametrize("method", ["sinkhorn", "unbalanced", "exact"])
def test_symmetric(method):
    x, y = tokens()
    x_mask, y_mask = masks()
    options = {"method": method, "epsilon": 0.2, "tolerance": 1e-9, "max_iterations": 10_000}
    there, back = transport(x, y, x_mask, y_mask, **options), transport(y, x, y_mask, x_mask, **options)
    torch.testing.assert_close(there.distance, back.distance, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(there.plan, back.plan.transpose(1, 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["sinkhorn", "relaxed", "unbalanced", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_neighbours_and_order_do_not_matter(method, dtype):
    x, y = (t.to(dtype) for t in tokens())
    x_mask, y_mask = masks()
    options = {"method": method, "epsilon": 0.2, "tolerance": 1e-6, "max_iterations": 10_000}
    together = transport(
        x.masked_fill(~x_mask[:, :, None], torch.nan),
        y.masked_fill(~y_mask[:, :, None], 1e30),
        x_mask,
        y_mask,
        **options,
    )
    # The solvers look at the same numbers; only the order of their sums differs.
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-5, "atol": 1e-7}
    for s in range(3):
        alone = transport(x[s : s + 1, x_mask[s]], y[s : s + 1, y_mask[s]], **options)
        torch.testing.assert_close(alone.distance[0], together.distance[s], **close)
        torch.testing.assert_close(alone.plan[0], together.plan[s][x_mask[s]][:, y_mask[s]], **close)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    shuffled = transport(x[:, order], y, x_mask[:, order], y_mask, **options)
    torch.testing.assert_close(shuffled.distance, together.distance, **close)
    torch.testing.assert_close(shuffled.plan, together.plan[:, order], **close)


@pytest.mark.parametrize("method", ["sinkhorn", "relaxed", "unbalanced", "exact"])
@pytest.mark.parametrize("cost", ["cosine", "sqeuclidean"])
def test_gradient_against_finite_differences_of_the_converged_solve(method, cost):
    x, y = (t.requires_grad_() for t in tokens(b=2, n=4, m=5, d=3))
    x_mask, y_mask = (mask[:2, :k] for mask, k in zip(masks(), (4, 5), strict=True))
    scale = 1.0 if cost == "cosine" else 4.0

    def distance(x, y):
        return transport(
            x, y, x_mask, y_mask, method=method, cost=cost, epsilon=0.2 * scale, tolerance=1e-12, max_iterations=20_000
        ).distance  # fmt: skip

    assert torch.autograd.gradcheck(distance, (x, y), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_the_plan_is_the_gradient_of_distance_and_not_of_transport_cost():
    x, y = tokens(b=1, n=4, m=5)
    cost = COSTS["cosine"](x, y).requires_grad_()
    options = {"epsilon": 0.2, "tolerance": 1e-13, "max_iterations": 20_000}
    found = transport(x, y, cost=cost, **options)
    (gradient,) = torch.autograd.grad(found.distance.sum(), cost)
    torch.testing.assert_close(gradient, found.plan)
    slopes = {"distance": torch.zeros(4, 5), "transport_cost": torch.zeros(4, 5)}
    for i in range(4):
        for j in range(5):
            step = torch.zeros_like(cost)
            step[0, i, j] = 1e-5
            up, down = (transport(x, y, cost=cost.detach() + k * step, **options) for k in (1, -1))
            for name, slope in slopes.items():
                slope[i, j] = (getattr(up, name) - getattr(down, name)).item() / 2e-5
    torch.testing.assert_close(slopes["distance"], found.plan[0].float(), rtol=1e-4, atol=1e-6)
    off = (slopes["transport_cost"] - found.plan[0]).abs().sum() / found.plan.sum()
    assert off > 0.3


@pytest.mark.parametrize("solver", SOLVERS)
def test_value_and_gradient_belong_together_before_convergence(solver):
    # The dual value's error is of second order, so an early stop still gives nearly the converged value.
    x, y = (t.to(dtype_of(solver)) for t in tokens(n=20, m=20))
    early = transport(x, y, epsilon=0.1, solver=solver, tolerance=1e-2, max_iterations=1000)
    late = transport(x, y, epsilon=0.1, solver=solver, tolerance=1e-6, max_iterations=5000)
    assert (early.distance <= late.distance + 1e-6).all()  # every dual value is a lower bound
    torch.testing.assert_close(early.distance, late.distance, rtol=0, atol=1e-3)


def test_second_derivative_is_refused():
    x, y = (t.requires_grad_() for t in tokens(b=1, n=3, m=3))
    distance = transport(x, y).distance.sum()
    with pytest.raises(RuntimeError, match="transport has no second derivative"):
        torch.autograd.grad(distance, x, create_graph=True)


def test_only_distance_carries_a_gradient():
    x, y = (t.requires_grad_() for t in tokens())
    found = transport(x, y)
    assert found.distance.requires_grad
    assert not any(t.requires_grad for t in (found.plan, found.cost, found.transport_cost, found.marginal_error))


def test_relaxed_is_the_nearest_anchor_token():
    x, y = tokens()
    x_mask, y_mask = masks()
    found = transport(x, y, x_mask, y_mask, method="relaxed")
    for s in range(3):
        u, v = x[s, x_mask[s]], y[s, y_mask[s]]
        c = 1 - torch.nn.functional.cosine_similarity(u[:, None], v[None], dim=2)
        assert found.distance[s].item() == pytest.approx(c.min(1).values.mean().item())
        plan = found.plan[s][x_mask[s]][:, y_mask[s]]
        assert (plan.argmax(1) == c.argmin(1)).all()
        torch.testing.assert_close(plan.amax(1), torch.full((len(u),), 1 / len(u), dtype=torch.float64))
        assert ((plan > 0).sum(1) == 1).all()


def test_unbalanced_agrees_with_pot_and_tends_to_balanced():
    x, y = tokens(b=1)
    found = transport(x, y, method="unbalanced", epsilon=0.2, marginal_penalty=0.5, tolerance=1e-12)
    a, b = np.full(7, 1 / 7), np.full(9, 1 / 9)
    c = found.cost[0].numpy()
    plan = ot.unbalanced.sinkhorn_unbalanced(a, b, c, 0.2, 0.5, reg_type="kl", stopThr=1e-14, numItermax=100_000)
    np.testing.assert_allclose(found.plan[0].numpy(), plan, rtol=1e-6)

    def kl(p, q):
        return (p * np.log(p / q) - p + q).sum()

    value = (plan * c).sum() + 0.2 * kl(plan, np.outer(a, b)) + 0.5 * (kl(plan.sum(1), a) + kl(plan.sum(0), b))
    assert found.distance.item() == pytest.approx(value, rel=1e-6)
    stiff = transport(
        x, y, method="unbalanced", epsilon=0.2, marginal_penalty=1e5, tolerance=1e-13, max_iterations=20_000
    )
    balanced = transport(x, y, epsilon=0.2, tolerance=1e-10, max_iterations=20_000)
    torch.testing.assert_close(stiff.plan, balanced.plan, rtol=1e-3, atol=1e-6)


class TestAnyPair:
    """What holds whatever the tokens, their numbers and their padding are."""

    any_pair = given(ragged_pairs(), st.sampled_from(["cosine", "sqeuclidean"]), st.sampled_from(["kernel", "log"]))
    few = settings(max_examples=40, deadline=None)

    @staticmethod
    def scaled(x, y, x_mask, y_mask, cost):
        """The cost (B, Tx, Ty) in units of a sample's mean, so that one ε fits any scale."""
        c = COSTS[cost](*(torch.where(m[..., None], t, 0) for t, m in ((x, x_mask), (y, y_mask))))
        real = x_mask[:, :, None] & y_mask[:, None]
        mean = (c * real).sum((1, 2)) / real.sum((1, 2)).clamp_min(1)
        return c / torch.where(mean > 1e-12, mean, 1)[:, None, None]

    @classmethod
    def solved(cls, x, y, x_mask, y_mask, cost, solver):
        scaled = cls.scaled(x, y, x_mask, y_mask, cost)
        options = {"cost": scaled, "solver": solver, "epsilon": 0.5, "tolerance": 1e-9, "max_iterations": 20_000}
        found = transport(x, y, x_mask, y_mask, **options)
        assert found.converged.all()
        return found

    @few
    @any_pair
    def test_marginals_hold_and_padding_has_no_mass(self, pair, cost, solver):
        x_mask, y_mask = pair[2:]
        found = self.solved(*pair, cost, solver)
        here = (x_mask.any(1) & y_mask.any(1))[:, None]
        rows, columns = (m * here / m.sum(1, keepdim=True).clamp_min(1).double() for m in (x_mask, y_mask))
        torch.testing.assert_close(found.plan.sum(2), rows, rtol=0, atol=2e-9)
        torch.testing.assert_close(found.plan.sum(1), columns, rtol=0, atol=2e-9)
        assert (found.plan >= 0).all()
        assert (found.plan[~(x_mask[:, :, None] & y_mask[:, None])] == 0).all()

    @few
    @any_pair
    def test_the_value_lies_between_the_bounds(self, pair, cost, solver):
        """relaxed, from either side ≤ exact ≤ ⟨P, C⟩ ≤ distance ≤ ⟨abᵀ, C⟩, the mean cost."""
        x, y, x_mask, y_mask = pair
        found, scaled = self.solved(*pair, cost, solver), self.scaled(*pair, cost)
        nearest = transport(*pair, cost=scaled, method="relaxed").distance
        nearest = nearest.maximum(transport(y, x, y_mask, x_mask, cost=scaled.mT, method="relaxed").distance)
        exact = transport(*pair, cost=scaled, method="exact").distance
        mean = found.cost.sum((1, 2)) / (x_mask.sum(1) * y_mask.sum(1)).clamp_min(1)
        bounds = torch.stack([nearest, exact, found.transport_cost, found.distance, mean])
        assert (bounds.diff(dim=0) >= -1e-7 * (1 + mean)).all(), bounds
        assert (bounds >= -1e-12).all()

    @few
    @any_pair
    def test_symmetric(self, pair, cost, solver):
        x, y, x_mask, y_mask = pair
        one, other = self.solved(*pair, cost, solver), self.solved(y, x, y_mask, x_mask, cost, solver)
        torch.testing.assert_close(one.distance, other.distance, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one.plan, other.plan.mT, rtol=0, atol=1e-6)

    @few
    @any_pair
    def test_order_padding_and_neighbours_change_nothing(self, pair, cost, solver):
        x, y, x_mask, y_mask = pair
        found = self.solved(*pair, cost, solver)
        nearest = transport(*pair, cost=cost, method="relaxed").distance
        for s in range(len(x)):
            a, b = (m[s].nonzero().flatten().flip(0) for m in (x_mask, y_mask))  # alone, and the other way round
            real = torch.ones(1, len(a)) > 0, torch.ones(1, len(b)) > 0
            alone = self.solved(x[s, a][None], y[s, b][None], *real, cost, solver)
            torch.testing.assert_close(found.distance[s], alone.distance[0], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(found.plan[s][a][:, b], alone.plan[0], rtol=0, atol=1e-6)
            relaxed = transport(x[s, a][None], y[s, b][None], cost=cost, method="relaxed").distance[0]
            torch.testing.assert_close(nearest[s], relaxed, rtol=1e-9, atol=1e-12)


def allowed_pairs(n, m, window):
    """By exact fractions: steps [i/n, (i + 1)/n] and [j/m, (j + 1)/m] that overlap, or less than the window apart."""
    gaps = [
        [max(Fraction(j, m) - Fraction(i + 1, n), Fraction(i, n) - Fraction(j + 1, m)) for j in range(m)]
        for i in range(n)
    ]
    return np.array([[gap < Fraction(window) for gap in row] for row in gaps])


def best_plan_within(c, allowed):
    """The linear programme without the forbidden pairs: its value."""
    n, m = c.shape
    pairs = np.argwhere(allowed)
    sums = np.zeros((n + m, len(pairs)))
    sums[pairs[:, 0], range(len(pairs))] = 1
    sums[n + pairs[:, 1], range(len(pairs))] = 1
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return scipy.optimize.linprog(c[allowed], A_eq=sums, b_eq=weights).fun


@pytest.mark.parametrize("shift", [0.0, 1e3])
@pytest.mark.parametrize("window", [0.0, 0.25])
@pytest.mark.parametrize("method", ["exact", "sinkhorn", "float32"])
def test_no_mass_moves_beyond_the_window(method, window, shift):
    """Ragged, with padding between, one sample of a single token, one without any; clouds that lie far apart."""
    x, y = tokens(5)
    x_mask, y_mask = masks(5)
    y_mask[3, 1:] = False
    x_mask[4] = False
    y = y + shift
    dtype = torch.float32 if method == "float32" else torch.float64
    options = (
        {"method": "exact"} if method == "exact" else {"epsilon": 0.02, "tolerance": 1e-5, "max_iterations": 20_000}
    )
    found = transport(x.to(dtype), y.to(dtype), x_mask, y_mask, window=window, **options)
    assert found.converged.all()
    assert found.plan[4].abs().sum() == found.distance[4] == 0
    for s in range(4):
        u, v = x[s, x_mask[s]], y[s, y_mask[s]]
        plan, allowed = found.plan[s][x_mask[s]][:, y_mask[s]].double(), allowed_pairs(len(u), len(v), window)
        assert plan[~torch.from_numpy(allowed)].sum() < 1e-9
        torch.testing.assert_close(plan.sum(1), torch.full((len(u),), 1 / len(u)).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(plan.sum(0), torch.full((len(v),), 1 / len(v)).double(), atol=1e-4, rtol=0)
        c = 1 - torch.nn.functional.cosine_similarity(u[:, None], v[None], dim=2).numpy()
        entropy = 0.0 if method == "exact" else 0.02 * np.log(len(u) * len(v))
        value = best_plan_within(c, allowed)
        assert value - 1e-4 <= found.distance[s] <= value + entropy + 1e-4


def test_an_unbalanced_plan_within_a_window_agrees_with_pot():
    x, y = tokens(1, 6, 9)
    found = transport(x, y, method="unbalanced", epsilon=0.2, marginal_penalty=0.5, window=0.2, tolerance=1e-12)
    c = found.cost[0].numpy() + 1e3 * ~allowed_pairs(6, 9, 0.2)
    a, b = np.full(6, 1 / 6), np.full(9, 1 / 9)
    plan = ot.unbalanced.sinkhorn_unbalanced(a, b, c, 0.2, 0.5, reg_type="kl", stopThr=1e-14, numItermax=100_000)
    torch.testing.assert_close(found.plan[0], torch.as_tensor(plan), rtol=1e-6, atol=1e-9)
    free = transport(x, y, method="unbalanced", epsilon=0.2, marginal_penalty=0.5, tolerance=1e-12)
    assert found.plan.sum() < free.plan.sum() < 1


def test_a_window_as_long_as_the_whole_changes_nothing_and_a_wrong_one_is_refused():
    x, y = tokens()
    assert torch.equal(transport(x, y, window=1.0).plan, transport(x, y).plan)
    with pytest.raises(ValueError, match=r"window: found -0.1; expected a number in \[0, 1\]"):
        transport(x, y, window=-0.1)
