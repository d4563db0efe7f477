"""Translation, scale, padding and order change no number, near the origin or far from it; float64 is the oracle.

In each property the tokens are float32, and the oracle sees the same numbers in float64, by the definition and without
padding: so a float32 limit shows as an error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2 import ModalityAwareMamba, MultimodalBatch, metrics
from alignmamba2.alignment import MMDLoss, mmd, permutation_test, transport, witness
from alignmamba2.batch import BatchError, Sample

from .test_discrepancy import by_definition

KERNELS, ESTIMATORS = ("gaussian", "laplacian", "rational_quadratic"), ("biased", "unbiased")
few = settings(max_examples=20, deadline=None)


@st.composite
def clouds(draw, size: int = 12, tight: bool = True) -> tuple[torch.Tensor, torch.Tensor, float]:
    """x (1, n, d), y (1, m, d), float32, and their spread: wherever, of whatever scale, one of two clusters each."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, m, d = draw(st.integers(2, size)), draw(st.integers(2, size)), draw(st.integers(1, 20))
    scale, offset = draw(st.sampled_from([1e-6, 1.0, 1e4])), draw(st.sampled_from([0.0, 1.0, -1e3, 1e4]))
    gap = draw(st.sampled_from([0.3, 3.0, 1e3] if tight else [0.3, 3.0]))
    sides = []
    for length, side in ((n, 0.0), (m, 0.5)):
        clusters = torch.rand(1, length, 1, generator=generator) + side > 0.9
        sides.append((torch.randn(1, length, d, generator=generator) + gap * clusters + offset) * scale)
    return *sides, scale


def padded(tokens: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens in another order, with padding of any value between them, and the mask."""
    generator, length = torch.Generator().manual_seed(seed), tokens.shape[1]
    places = torch.randperm(length + 5, generator=generator)[:length]
    full = torch.tensor([0.0, 1e4, -1e4, torch.nan, torch.inf])[torch.arange(length + 5) % 5]
    full = full[None, :, None].expand(1, -1, tokens.shape[2]).clone()
    full[:, places] = tokens
    mask = torch.zeros(1, length + 5, dtype=torch.bool)
    mask[:, places] = True
    return full, mask


def discrepancy(x: torch.Tensor, y: torch.Tensor, sigmas: list[float], kernel: str, estimator: str) -> torch.Tensor:
    """MMD² of x (1, n, d) and y (1, m, d) by its definition, in float64, from differences."""
    return by_definition(x[0].double(), y[0].double(), sigmas, kernel, estimator)


def median(x: torch.Tensor, y: torch.Tensor) -> float:
    z = torch.cat([x, y], 1)[0].double()
    r = (z[:, None] - z[None]).square().sum(-1).sqrt()[tuple(torch.triu_indices(len(z), len(z), 1))]
    return next((v.median().item() for v in (r, r[r > 0]) if len(v) and v.median() > 0), 1.0)


@few
@given(
    clouds(),
    st.sampled_from(KERNELS),
    st.sampled_from(ESTIMATORS),
    st.sampled_from([None, 0.1, 2.0]),
    st.integers(0, 99),
)
def test_mmd_and_its_gradient_are_right_wherever_the_clouds_lie(pair, kernel, estimator, width, seed):
    x, y, scale = pair
    sigma = median(x, y) if width is None else width * scale
    x64, y64 = (t.double().requires_grad_() for t in (x, y))
    right = discrepancy(x64, y64, [sigma], kernel, estimator)
    (x_pad, x_mask), (y_pad, y_mask) = padded(x, seed), padded(y, seed + 1)
    options = {"bandwidth": "median" if width is None else sigma, "kernel": kernel, "estimator": estimator}
    x_pad, y_pad = x_pad.requires_grad_(), y_pad.requires_grad_()
    found = mmd(x_pad, y_pad, x_mask, y_mask, **options)[0]
    close = 5e-3 if kernel == "laplacian" else 5e-4
    torch.testing.assert_close(found.double(), right, rtol=0, atol=close)
    for tokens, mask, other in ((x_pad, x_mask, x64), (y_pad, y_mask, y64)):
        (mine,), (theirs,) = (
            torch.autograd.grad(found, tokens, retain_graph=True),
            torch.autograd.grad(right, other, retain_graph=True),
        )
        assert (mine[~mask] == 0).all()
        if kernel == "laplacian" and nearest(x, y) < 1e-3:
            continue  # its gradient jumps where two points meet, and float32 takes these for one
        # Of a set, in any order: sums over tokens, in units of 1/σ, and their squares.
        for power in (1, 2):
            a, b = (((g.double() * sigma) ** power).sum() for g in (mine[mask], theirs))
            torch.testing.assert_close(a, b, rtol=1e-2, atol=2 * close)
    expected = witness_by_definition(x, y, [sigma], kernel)
    votes = witness(
        x[:, :1], x_pad.detach(), y_pad.detach(), x_mask, y_mask, bandwidth=options["bandwidth"], kernel=kernel
    )
    torch.testing.assert_close(votes[0, 0].double(), expected, rtol=1e-4, atol=1e-5)


def nearest(x: torch.Tensor, y: torch.Tensor) -> float:
    """The smallest distance of two tokens that differ, in units of the largest."""
    z = torch.cat([x[0], y[0]]).double()
    r = torch.pdist(z)
    return float(r[r > 0].min() / r.max()) if (r > 0).any() else 1.0


def witness_by_definition(x: torch.Tensor, y: torch.Tensor, sigmas: list[float], kernel: str) -> torch.Tensor:
    """The witness at the first token t of x, from MMD²({t}, z) = 1 + E k(z, z') − 2 E k(t, z) by its definition."""
    t = x[:, :1]
    ones = torch.ones((), dtype=torch.float64)
    means = [(discrepancy(t, z, sigmas, kernel, "biased") - ones - within(z, sigmas, kernel)) / -2 for z in (x, y)]
    return means[0] - means[1]


def within(z: torch.Tensor, sigmas: list[float], kernel: str) -> torch.Tensor:
    """E k(z, z'), which is MMD² to a token so far away that k is 0 there, less 1."""
    far = z[:, :1].double() + 1e9 * sigmas[0]
    return discrepancy(z.double(), far, sigmas, kernel, "biased") - 1


@few
@given(clouds(), st.floats(0.01, 100), st.sampled_from(KERNELS))
def test_mmd_of_a_median_bandwidth_does_not_see_a_common_scale_or_neighbours(pair, factor, kernel):
    x, y, _ = pair
    factor = 2.0 ** round(math.log2(factor))  # exact in float32
    value = mmd(x, y, kernel=kernel)
    torch.testing.assert_close(mmd(x * factor, y * factor, kernel=kernel), value, rtol=1e-5, atol=1e-6)
    apart = mmd(torch.cat([x, 7 * x]), torch.cat([y, -y]), kernel=kernel)[:1]  # another sample that is hard
    torch.testing.assert_close(apart, value, rtol=0, atol=5e-3 if kernel == "laplacian" else 5e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_mmd_at_the_ends_of_float32(scale):
    x, y = (torch.randn(1, n, 3, generator=torch.Generator().manual_seed(n)) for n in (30, 40))
    for options in ({}, {"bandwidth": scale}, {"bandwidth": [scale, 3 * scale], "kernel": "laplacian"}):
        plain = {k: v if isinstance(v, str) else [s / scale for s in np.atleast_1d(v)] for k, v in options.items()}
        torch.testing.assert_close(mmd(x * scale, y * scale, **options), mmd(x, y, **plain), rtol=1e-4, atol=1e-6)


def test_a_ladder_of_many_bandwidths_is_as_good_as_one():
    x, y = (torch.randn(1, n, 8, generator=torch.Generator().manual_seed(n)) for n in (60, 70))
    for rungs in (5, 6, 12):
        sigmas = [0.5 * 2.0**s for s in range(rungs)]
        right = discrepancy(x, y, sigmas, "gaussian", "biased")
        assert mmd(x, y, bandwidth=sigmas).item() == pytest.approx(right.item(), abs=2e-6)


@few
@given(
    clouds(8),
    st.sampled_from(["sinkhorn", "relaxed", "unbalanced"]),
    st.sampled_from([0.05, 1.0, 1e4]),
    st.integers(0, 99),
)
def test_transport_of_squared_distances_does_not_see_the_place(pair, method, strength, seed):
    x, y, _ = pair
    truth = (x.double()[:, :, None] - y.double()[:, None]).square().sum(-1)
    epsilon = strength * truth.mean().item() + 1e-20
    options = {"method": method, "epsilon": epsilon, "marginal_penalty": epsilon, "max_iterations": 3000}
    right = transport(x.double(), y.double(), cost=truth, **options)
    (x_pad, x_mask), (y_pad, y_mask) = padded(x, seed), padded(y, seed + 1)
    found = transport(x_pad, y_pad, x_mask, y_mask, cost="sqeuclidean", **options)
    unit = epsilon if method == "unbalanced" else truth.mean().item() + 1e-20
    if right.converged.all() and truth.max() < 1e30:
        assert found.distance.item() / unit == pytest.approx(
            right.distance.item() / unit, abs=3e-3 if strength < 1e3 else 2e-4
        )
    assert found.cost[~(x_mask[:, :, None] & y_mask[:, None])].abs().sum() == 0
    torch.testing.assert_close(found.cost.sum().double() / unit, truth.sum() / unit, rtol=2e-3, atol=2e-3)


@few
@given(clouds(8, tight=False), st.floats(-6, 20), st.integers(0, 99))
def test_transport_of_cosines_does_not_see_the_scale_and_is_never_negative(pair, exponent, seed):
    x, y, scale = pair
    if (x == 0).all(2).any() or (y == 0).all(2).any():
        return
    right = transport(x.double(), y.double(), tolerance=1e-5)
    (x_pad, x_mask), (y_pad, y_mask) = padded(x / scale * 10**exponent, seed), padded(y / scale, seed + 1)
    found = transport(x_pad, y_pad, x_mask, y_mask, tolerance=1e-5)
    if right.converged.all():
        assert found.distance.item() == pytest.approx(right.distance.item(), abs=2e-4)
    assert (found.cost >= 0).all()
    assert found.distance.item() >= -1e-7


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_a_cost_of_ones_own_is_not_looked_at_on_padding(value):
    x, y, generator = torch.zeros(1, 5, 3), torch.zeros(1, 6, 3), torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, False, True, False]])
    cost = torch.rand(1, 5, 6, generator=generator).requires_grad_()
    dirty = cost.masked_fill(~mask[:, :, None], value)
    for method in ("sinkhorn", "relaxed", "unbalanced", "exact"):
        for window in (1.0, 0.5):
            plain = transport(x[:, mask[0]], y, cost=cost[:, mask[0]], method=method, window=window)
            found = transport(x, y, mask, cost=dirty, method=method, window=window)
            torch.testing.assert_close(found.distance, plain.distance, rtol=1e-5, atol=1e-5)
            (gradient,) = torch.autograd.grad(found.distance.sum(), cost, retain_graph=True)
            assert torch.isfinite(gradient).all()
            assert (gradient[:, ~mask[0]] == 0).all()


@pytest.mark.parametrize("method", ["sinkhorn", "unbalanced"])
@pytest.mark.parametrize("epsilon", [1e2, 1e4, 1e9, 1e25, math.inf])
def test_for_large_epsilon_the_distance_is_the_mean_cost(method, epsilon):
    x, y = (torch.randn(4, n, 3, generator=torch.Generator().manual_seed(n)) for n in (5, 6))
    found = transport(x, y, method=method, epsilon=epsilon)
    torch.testing.assert_close(found.distance, found.cost.mean((1, 2)), rtol=0, atol=3e-5 + 1 / epsilon)
    assert found.converged.all()
    torch.testing.assert_close(found.plan, torch.full_like(found.plan, 1 / 30), rtol=0, atol=1 / epsilon + 1e-6)


def test_no_mass_leaves_the_window_whatever_epsilon():
    x, y = (torch.randn(1, n, 3, generator=torch.Generator().manual_seed(n)) for n in (2, 2))
    for epsilon in (0.05, 10.0, 1e6):
        plan = transport(x, y, window=0.0, epsilon=epsilon).plan[0]
        torch.testing.assert_close(plan, torch.eye(2) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"epsilon": e} for e in (0, -1, math.nan, 1e-40, "1")]
    + [{"method": "unbalanced", "marginal_penalty": p} for p in (0, -1, math.nan, math.inf)]
    + [{"tolerance": t} for t in (-1, math.nan, math.inf)]
    + [{"window": w} for w in (-0.1, 1.1, math.nan)]
    + [{"max_iterations": i} for i in (0, -1, 1.5)]
    + [{"cost": [[1.0]]}, {"epsilon": math.inf, "window": 0.5}],
    ids=str,
)
def test_transport_refuses_options_outside_their_range_by_name(options):
    x, y = torch.ones(1, 2, 3), torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match=f"^({'|'.join(options)}): found "):
        transport(x, y, **options)


def test_mmd_refuses_options_outside_their_range_by_name():
    x = torch.randn(1, 4, 3)
    for bandwidth in (0, -1.0, math.nan, math.inf, [], [1.0, 0.0], torch.ones(2, 2)):
        with pytest.raises(ValueError, match=r"^bandwidth: found "):
            mmd(x, x, bandwidth=bandwidth)
    with pytest.raises(ValueError, match=r"^permutations: found 0"):
        permutation_test(x, x, permutations=0)
    with pytest.raises(ValueError, match=r"^points: found "):
        witness(x[..., :2], x, x)
    with pytest.raises(ValueError, match=r"^points: 12 of 12 values"):
        witness(x * torch.nan, x, x)


def test_relabellings_that_are_alike_reach_the_statistic():
    """Of 3 and 3 tokens 2 of 20 relabellings are the labels themselves: p is never below a tenth, but for chance."""
    for seed in range(20):
        x, y = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(seed))
        p = permutation_test(x + 1e4, y + 1e4, permutations=400, seed=seed).p_value.item()
        assert p > 0.1 - 4 * math.sqrt(0.1 * 0.9 / 400)
    same = torch.ones(1, 5, 3)
    assert permutation_test(same, same, permutations=20).p_value.item() == 1


numbers = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=20)


@few
@given(numbers, st.integers(0, 2**32), st.sampled_from([1e-150, 1e-3, 1.0, 1e3, 1e160]), st.sampled_from([0.0, 1e4]))
def test_correlation_and_error_move_with_place_and_scale(values, seed, scale, offset):
    rng = np.random.default_rng(seed)
    t = torch.tensor(values, dtype=torch.float64)
    p = t + torch.from_numpy(rng.normal(size=len(values)))
    plain, moved = metrics.regression_metrics(p, t), metrics.regression_metrics(p * scale + offset, t * scale + offset)
    assert moved["mae"] == pytest.approx(plain["mae"] * scale, rel=1e-6, abs=1e-11)
    if offset == 0 or scale >= 1e-3:
        assert (moved["corr"] is None) == (plain["corr"] is None)
        assert plain["corr"] is None or moved["corr"] == pytest.approx(plain["corr"], abs=1e-5)
    order = torch.from_numpy(rng.permutation(len(values)))
    assert metrics.regression_metrics(p[order], t[order]) == pytest.approx(plain, abs=1e-9)


@settings(few, max_examples=6)
@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(1, 4))
def test_tests_of_scores_do_not_see_scale_place_or_the_names_of_units(seed, n, s):
    rng = np.random.default_rng(seed)
    a, b, units = rng.normal(size=(s, n)), rng.normal(size=(s, n)), rng.integers(0, 4, n)
    plain = metrics.paired_test(a, b, units, 200)
    for scale, offset in ((1e-12, 0.0), (1e9, 0.0), (1.0, 1e4)):
        found = metrics.paired_test(a * scale + offset, b * scale + offset, units + 7, 200)
        assert found["p"] == pytest.approx(plain["p"])
        assert {k: v / scale for k, v in found.items() if k != "p"} == pytest.approx(
            {k: v for k, v in plain.items() if k != "p"}, abs=1e-9
        )
        low, high = metrics.interval(a * scale + offset, units, draws=200)
        assert ((low - offset) / scale, (high - offset) / scale) == pytest.approx(
            metrics.interval(a, units, draws=200), abs=1e-9
        )
    assert metrics.paired_test(a, a, units, 50)["p"] == 1


def test_metrics_refuse_what_would_be_a_silent_nan():
    scores, units = np.array([[0.5, np.nan]]), np.arange(2)
    for call in (
        lambda: metrics.interval(scores, units),
        lambda: metrics.paired_test(scores, scores, units),
        lambda: metrics.holm([0.5, math.nan]),
        lambda: metrics.holm([1.5]),
        lambda: metrics.calibration_error(torch.full((2, 3), 0.2), torch.tensor([0, 1])),
        lambda: metrics.paired_test(np.ones((1, 3)), np.ones((1, 1)), np.arange(3)),
    ):
        with pytest.raises(ValueError, match="metrics: "):
            call()


NATURAL = {
    "NumPy": (lambda x: x.numpy(), lambda y: y.numpy()),
    "float64 and int32": (lambda x: x.double(), lambda y: y.int()),
    "NumPy's own": (lambda x: x.double().numpy(), lambda y: np.int32(y)),
    "big-endian, backwards, read-only": (
        lambda x: np.flip(np.flip(x.numpy().astype(">f8"), 0).copy(), 0),
        lambda y: np.uint8(y),
    ),
    "half": (lambda x: x.half(), lambda y: y.bool()),
    "lists": (lambda x: x.tolist(), int),
    "list of arrays": (lambda x: list(x.numpy()), bool),
}


@pytest.mark.parametrize("kind", NATURAL)
def test_natural_types_are_taken(kind):
    of_x, of_y = NATURAL[kind]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).half().float()
    plain = MultimodalBatch.from_samples([Sample({"a": x}, torch.tensor(1), "7", masks={"a": torch.arange(4) < 3})])
    found = MultimodalBatch.from_samples([Sample({"a": of_x(x)}, of_y(torch.tensor(1)), 7, masks={"a": [1, 1, 1, 0]})])
    whole = MultimodalBatch(
        {"a": [of_x(x)] if isinstance(of_x(x), list) else of_x(x)[None]},
        {"a": [[1, 1, 1, 0]]},
        [of_y(torch.tensor(1))],
        ids=[7],
    )
    for batch in (found, whole):
        assert torch.equal(batch.features["a"], plain.features["a"])
        assert torch.equal(batch.masks["a"], plain.masks["a"])
        assert torch.equal(batch.labels, plain.labels)
        assert batch.labels.dtype == torch.int64
        assert batch.ids == ("7",)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"features": {"a": ["x", "y"]}}, r"sample 'it', 'a': found list"),
        ({"features": {"a": [[1.0], [1.0, 2.0]]}}, r"sample 'it', 'a': found list"),
        ({"features": {"a": None}}, r"sample 'it', 'a': found NoneType"),
        ({"features": {"a": np.zeros(3)}}, r"sample 'it', 'a': found \(3,\) torch.float32; expected \(T, D\)"),
        ({"features": {"a": np.zeros((2, 3), int)}}, r"sample 'it', 'a': found \(2, 3\) torch.int64"),
        ({"features": {"a": torch.zeros(2, 3, dtype=torch.complex64)}}, r"sample 'it', 'a': found .*complex64"),
        ({"features": {"a": np.zeros((2, 3))}, "label": "positive"}, r"sample 'it', label: found str"),
        ({"features": {"a": np.zeros((2, 3))}, "label": np.zeros((2, 3))}, r"sample 'it', label: found \(2, 3\)"),
        (
            {"features": {"a": np.zeros((2, 3))}, "masks": {"a": [0.5, 1]}},
            r"sample 'it', mask of 'a': found .*nothing but 0 and 1",
        ),
    ],
)
def test_a_type_that_is_not_natural_is_refused_where_the_sample_is_made(fields, says):
    with pytest.raises(BatchError, match=says):
        Sample(**fields, id="it")


def test_a_layer_takes_masks_of_numbers_and_no_tokens_at_all():
    layer, x = ModalityAwareMamba(("a", "b"), 8), torch.randn(2, 5, 8)
    modality, mask = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    right = layer(x, modality, mask.bool())
    for other in (mask, mask.int(), mask.float()):
        assert torch.equal(layer(x, modality, other), right)
    nothing = layer(x.requires_grad_(), modality, mask * 0)
    assert torch.equal(nothing, torch.zeros_like(x))
    nothing.sum().backward()
    assert layer(x[:0], modality).shape == (0, 5, 8)
    assert layer(x[:, :0], modality[:0]).shape == (2, 0, 8)
    for wrong, says in (
        ({"mask": mask + 1}, "mask: found .* nothing but 0 and 1"),
        ({"mask": mask[:, :4]}, r"mask: found \(2, 4\)"),
        ({"modality": modality + 0.5}, r"modality: found \(5,\) torch.float32; expected whole numbers"),
        ({"modality": modality[:3]}, r"modality: found \(3,\) torch.int64"),
    ):
        with pytest.raises(ValueError, match=says):
            layer(x, **({"modality": modality, "mask": mask} | wrong))


def test_a_loss_over_no_pair_is_0():
    assert MMDLoss()(torch.zeros(0, 3, 2), torch.zeros(0, 4, 2)).item() == 0
