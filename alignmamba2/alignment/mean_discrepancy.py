"""Maximum mean discrepancy: how far two clouds of tokens are apart as distributions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .costs import COSTS, check_tokens, common_dtype, exact_squares, expand_mask, real_tokens, require_finite
from .kernel_sums import KERNELS, discrepancy, kernel_and_slope, rates_of

ESTIMATORS = ("biased", "unbiased")
Bandwidth = str | float | Sequence[float] | Tensor

# So many tokens (8128 pairs) stand for all when the median is taken: it moves by a per cent or two, and costs a fixed
# time and memory.
MEDIAN_TOKENS = 128


def mmd(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    bandwidth: Bandwidth = "median",
    estimator: str = "biased",
    kernel: str = "gaussian",
) -> Tensor:
    r"""Return the squared maximum mean discrepancy between the real tokens of x and y, sample by sample.

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y)  (Gretton et al., JMLR 2012),  with r = ‖u − v‖ and bandwidth σ

    - "gaussian":            k(u, v) = exp(−r² / (2σ²))   ("AlignMamba v1, third-party write-up": one Gaussian)
    - "laplacian":           k(u, v) = exp(−r / σ)
    - "rational_quadratic":  k(u, v) = 1 / (1 + r² / (2σ²))

    With several bandwidths k is the mean of their kernels ("our choice"), so 0 ≤ k ≤ 1 always.

    Parameters
    ----------
    x : Tensor (B, Tx, d), float;  y : Tensor (B, Ty, d), float
        Half precision is computed in float32.
    x_mask, y_mask : Tensor (B, T), bool
        True at real tokens, by default everywhere. ``mmd(x[x_mask][None], y[y_mask][None])`` pools all samples.
    bandwidth : "median" | float | sequence of floats | Tensor
        σ, the same for each sample. "median": the median distance between two different tokens of the sample, x and y
        together, at most `MEDIAN_TOKENS` of them, evenly spaced; without gradient.
    estimator : "biased" | "unbiased"
        "biased" is the V-statistic (never negative), "unbiased" the U-statistic (leaves out k(u, u); its mean is 0
        under equal distributions).
    kernel : "gaussian" | "laplacian" | "rational_quadratic"
        The Laplacian's gradient jumps where two tokens meet; closer than about a thousandth of all they count as one.

    Returns
    -------
    Tensor (B,)
        Differentiable in x and y. 0, with zero gradient, where x or y has no real token ("unbiased": fewer than two).

    Raises
    ------
    ValueError
        For shapes, masks or options that do not fit, and for NaN or infinity at real tokens.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y, a, b, sigma = _prepare(x, y, x_mask, y_mask, bandwidth, kernel, estimator)
        return discrepancy(x, y, a, b, sigma, kernel, biased=estimator == "biased")


def _prepare(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    bandwidth: Bandwidth,
    kernel: str,
    estimator: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check everything; return the tokens with zeros on padding, their masks, and the bandwidths (B, S)."""
    check_tokens(x, y, x_mask, y_mask)
    for name, value, choices in (("kernel", kernel, KERNELS), ("estimator", estimator, ESTIMATORS)):
        if value not in choices:
            raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(choices)}")
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"x and y: found widths {x.shape[2]} and {y.shape[2]}; expected the same")
    a, b = expand_mask(x_mask, x), expand_mask(y_mask, y)
    dtype = common_dtype(x, y)
    x, y = real_tokens(x, x_mask, dtype), real_tokens(y, y_mask, dtype)
    for name, tokens in (("x", x), ("y", y)):
        require_finite(name, tokens)
        if dtype == torch.float64:  # which the rest of float32 is computed in
            require_finite(f"‖{name}‖²", tokens.detach().square().sum(2, keepdim=True))
    return x, y, a, b, _bandwidths(x, y, a, b, bandwidth)


@torch.no_grad()
def _bandwidths(x: Tensor, y: Tensor, a: Tensor, b: Tensor, bandwidth: Bandwidth) -> Tensor:
    """σ (B, S) of each sample, S the number of bandwidths."""
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f"bandwidth: found {bandwidth!r}; expected 'median', a number or several")
        return median_distance(x, y, a, b).unsqueeze(1)
    sigma = torch.as_tensor(bandwidth, dtype=x.dtype)
    sigma = sigma.reshape(1, -1) if sigma.ndim < 2 else sigma.new_empty(1, 0)
    if not ((sigma > 0) & torch.isfinite(sigma)).all() or sigma.shape[1] == 0:
        raise ValueError(f"bandwidth: found {bandwidth}; expected finite numbers > 0, at least one")
    return sigma.to(x.device, non_blocking=True).expand(x.shape[0], -1)


@torch.no_grad()
def median_distance(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the median (B,) of ‖u − v‖ over pairs of different real tokens of x and y together.

    Where it is 0, the median of those that are not; 1 where there is none.
    """
    z, real = torch.cat([x, y], 1), torch.cat([a, b], 1)
    if z.shape[1] < 2:  # no pair at all
        return z.new_ones(len(z))
    if z.shape[1] > MEDIAN_TOKENS:
        # Real tokens first (a stable sort keeps their order), then evenly spaced ones of each sample.
        order = torch.argsort(~real, dim=1, stable=True)
        count = real.sum(1, keepdim=True)
        steps = torch.arange(MEDIAN_TOKENS, device=z.device).unsqueeze(0)
        chosen = torch.where(count > MEDIAN_TOKENS, steps * count // MEDIAN_TOKENS, steps)
        index = order.gather(1, chosen)
        z, real = z.gather(1, index.unsqueeze(2).expand(-1, -1, z.shape[2])), real.gather(1, index)
    i, j = torch.triu_indices(z.shape[1], z.shape[1], 1, device=z.device)
    none = ~(real[:, i] & real[:, j])
    exact = z.device.type != "cpu"  # where nothing is decided by values, for the host would wait for them
    squared = exact_squares(z, z) if exact else COSTS["sqeuclidean"](z, z, real, real, torch.inf)
    median = squared[:, i, j].masked_fill(none, torch.nan).nanmedian(1).values
    # Too little for products in float32 to tell?
    if exact or (~(median > 0.01 * squared.flatten(1).amax(1)) & ~none.all(1)).any():
        squared = squared if exact else exact_squares(z.double(), z.double())
        squared = squared[:, i, j].masked_fill(none, torch.nan)
        median = squared.nanmedian(1).values
        other = squared.masked_fill(squared == 0, torch.nan).nanmedian(1).values
        median = torch.where(median > 0, median, other)
    return torch.where(median > 0, median, 1).sqrt().to(z.dtype)


def kernel_mean(squared: Tensor, sigma: Tensor, kernel: str) -> Tensor:
    """Return the mean of k over the bandwidths, elementwise.   squared : (B, ...),  sigma : (B, S)"""
    total = torch.zeros_like(squared)
    for rate in rates_of(sigma, kernel).T:
        total = total + kernel_and_slope(squared, rate.reshape(-1, *[1] * (squared.ndim - 1)), kernel)[0]
    return total / sigma.shape[1]


def witness(
    points: Tensor,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    bandwidth: Bandwidth = "median",
    kernel: str = "gaussian",
) -> Tensor:
    """Return the function that tells x from y best, w(t) = E k(x, t) − E k(y, t), at the points t.

    Positive where tokens of x are dense and those of y are not. MMD² is its mean over x less its mean over y.

    points : Tensor (B, P, d), the rest as in `mmd`  →  (B, P), 0 for a sample in which x or y has no real token
    """
    x, y, a, b, sigma = _prepare(x, y, x_mask, y_mask, bandwidth, kernel, "biased")
    if points.ndim != 3 or points.shape[::2] != x.shape[::2]:
        raise ValueError(f"points: found {tuple(points.shape)}; expected (B, P, d) with B, d = {tuple(x.shape[::2])}")
    require_finite("points", points)

    def mean(tokens: Tensor, mask: Tensor) -> Tensor:
        k = kernel_mean(exact_squares(points.double(), tokens.double()), sigma.double(), kernel)
        return (k * mask[:, None]).sum(2) / mask.sum(1).clamp_min(1)[:, None]

    present = (a.any(1) & b.any(1))[:, None]
    return torch.where(present, mean(x, a) - mean(y, b), 0).to(x.dtype)


@dataclass(frozen=True)
class PermutationTest:
    """Result of `permutation_test`.

    Attributes
    ----------
    statistic : Tensor (B,)
        MMD² of the tokens as they are labelled.
    p_value : Tensor (B,)
        (1 + number of relabellings with at least this MMD²) / (1 + number of relabellings).
    null : Tensor (B, permutations)
        MMD² of the relabellings.
    """

    statistic: Tensor
    p_value: Tensor
    null: Tensor


@torch.no_grad()
def permutation_test(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    bandwidth: Bandwidth = "median",
    estimator: str = "unbiased",
    kernel: str = "gaussian",
    permutations: int = 500,
    seed: int = 0,
) -> PermutationTest:
    """Test whether the tokens of x and y are draws from one distribution, by relabelling them with `seed`.

    If they are, and the tokens are independent, the p-value is at most α with probability at most α. Tokens
    of one sequence are not independent: test pooled tokens, or means over samples, before you believe it.

    Parameters as in `mmd`. p = 1 where x or y has no real token (fewer than two for "unbiased").
    """
    if not isinstance(permutations, int) or permutations < 1:
        raise ValueError(f"permutations: found {permutations!r}; expected a whole number of at least 1")
    x, y, a, b, sigma = _prepare(x, y, x_mask, y_mask, bandwidth, kernel, estimator)
    generator = torch.Generator().manual_seed(seed)
    shrink = 0 if estimator == "biased" else 1
    rows = []
    for s in range(x.shape[0]):
        z, n, m = torch.cat([x[s, a[s]], y[s, b[s]]]).double().unsqueeze(0), int(a[s].sum()), int(b[s].sum())
        if min(n, m) <= shrink:
            rows.append(z.new_zeros(permutations + 1))
            continue
        k = kernel_mean(exact_squares(z, z), sigma[s : s + 1].double(), kernel)[0]
        if estimator == "unbiased":
            k.fill_diagonal_(0)
        # Row 0: as labelled. Relabelling leaves K as it is and only chooses other rows for x.
        random = torch.rand(permutations, n + m, generator=generator)
        order = torch.cat([torch.arange(n + m)[None], random.argsort(1)]).to(z.device)
        is_x = torch.zeros(order.shape, dtype=k.dtype, device=k.device).scatter_(1, order[:, :n], 1)
        product = is_x @ k
        xx, x_all = (product * is_x).sum(1), product.sum(1)
        xy = x_all - xx
        yy = k.sum() - x_all - xy
        rows.append(xx / (n * (n - shrink)) + yy / (m * (m - shrink)) - 2 * xy / (n * m))
    values = torch.stack(rows) if rows else sigma.new_zeros(0, permutations + 1)
    statistic, null = values[:, 0], values[:, 1:]
    # Of few tokens many relabellings are alike: they reach the statistic, whatever the last digit of a sum says.
    p = (1 + (null >= statistic[:, None] - 1e-12).sum(1)) / (1 + permutations)
    return PermutationTest(statistic.to(x.dtype), p, null.to(x.dtype))
