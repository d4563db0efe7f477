"""`mmd`, `witness` and `permutation_test`: against the definition, and as a statistical test."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2.alignment import kernel_sums as sums
from alignmamba2.alignment import mmd, permutation_test, witness
from alignmamba2.alignment.mean_discrepancy import median_distance

from .conftest import ragged_pairs

KERNELS = ("gaussian", "laplacian", "rational_quadratic")
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)


def tokens(b=3, n=9, m=12, d=4, shift=0.3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(b, t, d, generator=generator, dtype=torch.float64) for t in (n, m))
    return x.to(dtype), (y + shift).to(dtype)


def masks(b=3, n=9, m=12):
    x_mask, y_mask = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    x_mask[0, 5:] = False
    y_mask[1, ::2] = False
    return x_mask, y_mask


def by_definition(x, y, sigma, kernel, estimator):
    """MMD² of x (n, d) and y (m, d), from the (n + m)² distances."""
    z, n, m = torch.cat([x, y]), len(x), len(y)
    squared = (z[:, None] - z[None]).square().sum(-1)
    r = torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
    forms = {
        "gaussian": lambda s: torch.exp(-squared / (2 * s * s)),
        "laplacian": lambda s: torch.exp(-r / s),
        "rational_quadratic": lambda s: 1 / (1 + squared / (2 * s * s)),
    }
    k = torch.stack([forms[kernel](s) for s in sigma]).mean(0)
    xx, yy, xy = k[:n, :n].sum(), k[n:, n:].sum(), k[:n, n:].mean()
    if estimator == "unbiased":
        return (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy
    return xx / n**2 + yy / m**2 - 2 * xy


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scales", [SCALES, (1.0, 1.7, 3.0)])
def test_value_and_gradient_follow_the_definition(kernel, estimator, dtype, scales):
    x, y = (t.requires_grad_() for t in tokens())
    x_mask, y_mask = masks()
    found = mmd(x.to(dtype), y.to(dtype), x_mask, y_mask, bandwidth=scales, kernel=kernel, estimator=estimator)
    expected = torch.stack(
        [by_definition(x[s, x_mask[s]], y[s, y_mask[s]], scales, kernel, estimator) for s in range(3)]
    )
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(found.double(), expected, **close)
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    mine = torch.autograd.grad((found.double() * weights).sum(), (x, y))
    theirs = torch.autograd.grad((expected * weights).sum(), (x, y))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_gradient_against_finite_differences(kernel, estimator):
    x, y = (t.requires_grad_() for t in tokens(b=2, n=4, m=5, d=3))
    x_mask, y_mask = (mask[:2, :k] for mask, k in zip(masks(), (4, 5), strict=True))

    def value(x, y):
        return mmd(x, y, x_mask, y_mask, bandwidth=[1.0, 2.0], kernel=kernel, estimator=estimator)

    assert torch.autograd.gradcheck(value, (x, y), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiles_change_nothing(monkeypatch, dtype):
    x, y = (t.requires_grad_() for t in tokens(n=40, m=50, dtype=dtype))
    x_mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) > 0.3
    results = []
    for rows, columns in ((512, 512), (8, 8), (8, 16)):
        monkeypatch.setattr(sums, "TILE_ROWS", rows)
        monkeypatch.setattr(sums, "TILE_COLUMNS", columns)
        value = mmd(x, y, x_mask, bandwidth=SCALES)
        results.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_layout_of_a_mask_changes_nothing():
    """A transposed mask keeps its strides when its type changes; the kernels want neighbours side by side."""
    x, y = tokens(n=40, m=50, dtype=torch.float32)
    random = torch.Generator().manual_seed(1)
    x_mask, y_mask = (torch.rand(t, 3, generator=random).T > 0.3 for t in (40, 50))
    assert torch.equal(mmd(x, y, x_mask, y_mask), mmd(x, y, x_mask.contiguous(), y_mask.contiguous()))


def test_memory_is_linear_in_the_tokens():
    from torch.profiler import ProfilerActivity, profile

    largest = []
    for n in (1024, 4096):
        x, y = (t.requires_grad_() for t in tokens(b=1, n=n, m=n, d=16, dtype=torch.float32))
        mmd(x, y, bandwidth=4.0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            mmd(x, y, bandwidth=4.0).sum().backward()
        largest.append(max(event.cpu_memory_usage for event in record.events()))
    tile = 4 * sums.TILE_ROWS * sums.TILE_COLUMNS
    assert max(largest) <= tile + 16 * 4096 * 4  # a full kernel of 4096 tokens would be 64 MiB


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padding_and_neighbours_do_not_matter(estimator, dtype):
    x, y = tokens(dtype=dtype)
    x_mask, y_mask = masks()
    dirty_x, dirty_y = x.masked_fill(~x_mask[:, :, None], torch.nan), y.masked_fill(~y_mask[:, :, None], 1e30)
    together = mmd(dirty_x, dirty_y, x_mask, y_mask, estimator=estimator)
    for s in range(3):
        alone = mmd(x[s : s + 1, x_mask[s]], y[s : s + 1, y_mask[s]], estimator=estimator)
        torch.testing.assert_close(alone[0], together[s])


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_symmetric_and_blind_to_order_and_place(estimator):
    x, y = tokens()
    x_mask, y_mask = masks()
    value = mmd(x, y, x_mask, y_mask, estimator=estimator)
    torch.testing.assert_close(mmd(y, x, y_mask, x_mask, estimator=estimator), value)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mmd(x[:, order], y, x_mask[:, order], y_mask, estimator=estimator), value)
    far = mmd(x.float() + 1000, y.float() + 1000, x_mask, y_mask, estimator=estimator)
    torch.testing.assert_close(far, value.float(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_identical_and_duplicated_tokens(kernel):
    x, y = tokens(dtype=torch.float32)
    x = x.requires_grad_()
    same = mmd(x, x.detach(), kernel=kernel, bandwidth=[0.5, 1.0])
    assert same.abs().max() < 1e-6
    assert torch.autograd.grad(same.sum(), x)[0].abs().max() < 1e-4
    twice = mmd(torch.cat([x, x], 1), y, kernel=kernel, bandwidth=1.0)  # the biased estimator sees only proportions
    torch.testing.assert_close(twice, mmd(x, y, kernel=kernel, bandwidth=1.0), rtol=1e-5, atol=1e-6)
    points = torch.ones(3, 4, 4, requires_grad=True)  # every distance is 0, and so is the median
    value = mmd(points, points.detach())
    assert value.abs().max() < 1e-6
    assert torch.isfinite(torch.autograd.grad(value.sum(), points)[0]).all()


def test_biased_is_never_negative():
    for seed in range(20):
        x, y = tokens(shift=0.0, seed=seed, dtype=torch.float32)
        assert (mmd(x, y, bandwidth=SCALES) >= -1e-6).all()


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_median_bandwidth_does_not_see_the_scale(scale):
    x, y = tokens(dtype=torch.float32)
    torch.testing.assert_close(mmd(x * scale, y * scale), mmd(x, y), rtol=1e-3, atol=1e-5)


def test_median_distance_and_its_stand_in():
    x, y = tokens()
    x_mask, y_mask = masks()
    found = median_distance(x, y, x_mask, y_mask)
    for s in range(3):
        expected = torch.pdist(torch.cat([x[s, x_mask[s]], y[s, y_mask[s]]])).median()
        assert found[s].item() == pytest.approx(expected.item())
    x, y = tokens(b=1, n=700, m=900)
    every = torch.ones(1, 700, dtype=torch.bool), torch.ones(1, 900, dtype=torch.bool)
    torch.testing.assert_close(
        median_distance(x, y, *every)[0], torch.pdist(torch.cat([x, y], 1)[0]).median(), rtol=0.1, atol=0
    )
    x = x.requires_grad_()
    bandwidth = median_distance(x, y, *every).item()
    (through,) = torch.autograd.grad(mmd(x, y).sum(), x)
    (fixed,) = torch.autograd.grad(mmd(x, y, bandwidth=bandwidth).sum(), x)
    torch.testing.assert_close(through, fixed)  # the median is detached


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_empty_modality_and_single_token(estimator):
    x, y = (t.requires_grad_() for t in tokens(dtype=torch.float32))
    x_mask, y_mask = masks()
    x_mask[1] = False
    y_mask[2] = False
    x_mask[0, 1:] = False
    value = mmd(x, y, x_mask, y_mask, estimator=estimator)
    assert value[1:].tolist() == [0, 0]
    assert (value[0] > 0) == (estimator == "biased")
    for gradient in torch.autograd.grad(value.sum(), (x, y)):
        assert torch.isfinite(gradient).all()
        assert gradient[1:].abs().sum() == 0
    assert mmd(x[:, :0], y, estimator=estimator).tolist() == [0, 0, 0]
    assert mmd(x, y, x_mask & False, y_mask, estimator=estimator).abs().sum() == 0


def test_unbiased_is_near_zero_under_equal_distributions_and_biased_is_not():
    x, y = tokens(b=400, n=15, m=20, shift=0.0)
    unbiased, biased = (mmd(x, y, bandwidth=2.0, estimator=e) for e in ("unbiased", "biased"))
    assert unbiased.mean().abs() < 4 * unbiased.std() / 20
    assert biased.mean() > 10 * unbiased.mean().abs()


@pytest.mark.parametrize("kernel", KERNELS)
def test_witness_means_differ_by_mmd(kernel):
    x, y = tokens()
    x_mask, y_mask = masks()
    at_x, at_y = (witness(points, x, y, x_mask, y_mask, bandwidth=(1.5, 3), kernel=kernel) for points in (x, y))
    mean_x = (at_x * x_mask).sum(1) / x_mask.sum(1)
    mean_y = (at_y * y_mask).sum(1) / y_mask.sum(1)
    expected = mmd(x, y, x_mask, y_mask, bandwidth=(1.5, 3), kernel=kernel)
    torch.testing.assert_close(mean_x - mean_y, expected)


def test_test_statistic_is_mmd():
    x, y = tokens()
    x_mask, y_mask = masks()
    for estimator in ("biased", "unbiased"):
        test = permutation_test(x, y, x_mask, y_mask, estimator=estimator, permutations=50)
        torch.testing.assert_close(test.statistic, mmd(x, y, x_mask, y_mask, estimator=estimator))
        assert test.null.shape == (3, 50)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_false_positive_rate_is_the_level(estimator):
    tests = 600
    x, y = tokens(b=tests, n=12, m=15, shift=0.0, seed=5)
    p = permutation_test(x, y, estimator=estimator, permutations=99, seed=1).p_value
    rate = (p <= 0.05).double().mean().item()
    assert abs(rate - 0.05) < 4 * (0.05 * 0.95 / tests) ** 0.5  # four standard errors
    assert abs(p.mean().item() - 0.5) < 4 * (1 / 12 / tests) ** 0.5  # and uniform in the mean


def test_power_rises_with_the_shift():
    powers = []
    for shift in (0.0, 0.3, 0.6, 1.2):
        x, y = tokens(b=60, n=20, m=20, shift=shift, seed=3)
        powers.append((permutation_test(x, y, permutations=99).p_value <= 0.05).double().mean().item())
    assert powers == sorted(powers)
    assert powers[0] < 0.2
    assert powers[-1] == 1.0


def test_empty_samples_are_not_significant():
    x, y = tokens()
    x_mask, y_mask = masks()
    x_mask[1] = False
    assert permutation_test(x, y, x_mask, y_mask, permutations=20).p_value[1] == 1


def test_second_derivative_is_refused():
    x, y = (t.requires_grad_() for t in tokens())
    value = mmd(x, y).sum()
    with pytest.raises(RuntimeError, match="mmd has no second derivative"):
        torch.autograd.grad(value, x, create_graph=True)


def test_autocast_is_computed_in_float32():
    x, y = tokens(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mmd(x, y)
    torch.testing.assert_close(mixed, mmd(x, y))
    assert mmd(x.bfloat16(), y).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "cauchy"}, "kernel: found 'cauchy'"),
        ({"estimator": "quadratic"}, "estimator: found 'quadratic'"),
        ({"bandwidth": "mean"}, "bandwidth: found 'mean'"),
        ({"bandwidth": 0.0}, "bandwidth: found 0.0; expected finite numbers > 0"),
        ({"bandwidth": []}, r"bandwidth: found \[\]"),
        ({"bandwidth": [1.0, -1.0]}, r"bandwidth: found \[1.0, -1.0\]"),
        ({"x": torch.zeros(3, 9, 5)}, "widths 5 and 4"),
        (
            {"y": torch.full((3, 7, 4), 1e160, dtype=torch.float64)},
            r"‖y‖²: 21 of 21 values are .*rescale",
        ),
        ({"x": torch.full((3, 9, 4), torch.nan)}, r"x: 108 of 108 values are NaN or infinite \(samples 0, 1, 2\)"),
        ({"x_mask": torch.ones(3, 8, dtype=torch.bool)}, r"x_mask: found \(3, 8\)"),
    ],
)
def test_errors_say_what_was_found(change, message):
    x, y = tokens()
    with pytest.raises(ValueError, match=message):
        mmd(**({"x": x, "y": y} | change))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kernel", KERNELS)
def test_cuda_agrees_with_cpu(kernel):
    x, y = tokens(dtype=torch.float32)
    gx, gy = (t.cuda().requires_grad_() for t in (x, y))
    x, y = x.requires_grad_(), y.requires_grad_()
    here, there = mmd(x, y, bandwidth=SCALES, kernel=kernel), mmd(gx, gy, bandwidth=SCALES, kernel=kernel)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)
    a, b = torch.autograd.grad(here.sum(), x)[0], torch.autograd.grad(there.sum(), gx)[0].cpu()
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


class TestAnyPair:
    """What holds whatever the tokens, their numbers and their padding are."""

    kernels, bandwidths = st.sampled_from(KERNELS), st.sampled_from(["median", 1.0, [0.5, 3.0]])
    estimators = st.sampled_from(["biased", "unbiased"])
    few = settings(max_examples=40, deadline=None)

    @few
    @given(ragged_pairs(), kernels, bandwidths)
    def test_biased_is_a_squared_distance(self, pair, kernel, bandwidth):
        """Between 0 and 2, 0 for equal sets and for a set that is empty, and symmetric."""
        x, y, x_mask, y_mask = pair
        options = {"kernel": kernel, "bandwidth": bandwidth}
        value = mmd(*pair, **options)
        assert ((value >= -1e-9) & (value <= 2)).all()
        assert (value[~(x_mask.any(1) & y_mask.any(1))] == 0).all()
        torch.testing.assert_close(value, mmd(y, x, y_mask, x_mask, **options), rtol=1e-6, atol=1e-7)
        same = mmd(x, x.flip(1), x_mask, x_mask.flip(1), **options)
        torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-7)

    @few
    @given(ragged_pairs(), kernels, estimators)
    def test_different_means_are_told_apart(self, pair, kernel, estimator):
        """Two clouds far from each other: k(x, y) is as good as 0, and what is left is known."""
        x, y, x_mask, y_mask = pair
        here = x_mask.sum(1).minimum(y_mask.sum(1)) >= (1 if estimator == "biased" else 2)
        options = {"kernel": kernel, "bandwidth": 1.0, "estimator": estimator}
        far = mmd(x, y + 1e6, x_mask, y_mask, **options)
        assert ((far > 0) | ~here).all()

    @few
    @given(ragged_pairs(), kernels, bandwidths, estimators)
    def test_order_padding_neighbours_and_place_change_nothing(self, pair, kernel, bandwidth, estimator):
        x, y, x_mask, y_mask = pair
        options = {"kernel": kernel, "bandwidth": bandwidth, "estimator": estimator}
        value = mmd(*pair, **options)
        place = torch.arange(1.0, x.shape[2] + 1, dtype=x.dtype)
        moved = mmd(x + place, y + place, x_mask, y_mask, **options)
        torch.testing.assert_close(moved, value, rtol=1e-6, atol=1e-7)
        for s in range(len(x)):
            a, b = x[s, x_mask[s]].flip(0), y[s, y_mask[s]].flip(0)  # alone, and the other way round
            torch.testing.assert_close(mmd(a[None], b[None], **options)[0], value[s], rtol=1e-6, atol=1e-7)
