"""Maximum mean discrepancy: how far two clouds of tokens are apart as distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .costs import check_tokens, common_dtype, expand_mask, real_tokens, require_finite
from .kernel_sums import KERNELS, RESOLUTION, discrepancy, kernel_and_slope, rates_of

ESTIMATORS = ("biased", "unbiased", "linear")
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
    scales: Sequence[float] = (1.0,),
    estimator: str = "biased",
    kernel: str = "gaussian",
    pooled: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy between the real tokens of x and y, sample by sample or pooled.

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y)  [1]_,  with r = ‖u − v‖ and bandwidth σ

    - "gaussian":            k(u, v) = exp(−r² / (2σ²))   ("AlignMamba v1, third-party write-up": one Gaussian)
    - "laplacian":           k(u, v) = exp(−r / σ)
    - "rational_quadratic":  k(u, v) = 1 / (1 + r² / (2σ²))

    With several bandwidths k is the mean of their kernels ("our choice"), so 0 ≤ k ≤ 1 always.

    Parameters
    ----------
    x : Tensor (B, Tx, d), float;  y : Tensor (B, Ty, d), float
        Half precision is computed in float32.
    x_mask, y_mask : Tensor (B, T), bool
        True at real tokens; left out: all are real.
    bandwidth : "median" | float | sequence of floats | Tensor
        σ. "median": the median distance between two different tokens of the sample (of the batch, if pooled),
        x and y together, at most `MEDIAN_TOKENS` of them, evenly spaced; without gradient [1]_.
    scales : sequence of floats
        Factors on the bandwidth: ``bandwidth="median", scales=(0.25, 0.5, 1, 2, 4)`` are five kernels.
    estimator : "biased" | "unbiased" | "linear"
        "biased" is the V-statistic (never negative), "unbiased" the U-statistic (leaves out k(u, u); its mean is 0
        under equal distributions), "linear" the mean over disjoint pairs of tokens, in time linear in T [1]_, section
        6; it uses the first 2 ⌊min(Tx, Ty) / 2⌋ real tokens and takes neighbours for independent.
    kernel : "gaussian" | "laplacian" | "rational_quadratic"
    pooled : bool
        Throw the real tokens of all samples together.

    Returns
    -------
    Tensor (B,), or () if pooled
        Differentiable in x and y. 0, with zero gradient, where x or y has no real token ("unbiased" and "linear":
        fewer than two).

    Raises
    ------
    ValueError
        For shapes, masks or options that do not fit, and for NaN or infinity at real tokens.

    References
    ----------
    .. [1] A. Gretton et al. A kernel two-sample test. JMLR 13, 2012.
    """
    check_tokens(x, y, x_mask, y_mask)
    _check_options(x, y, kernel, estimator)
    with torch.autocast(x.device.type, enabled=False):
        x, y, a, b = _prepare(x, y, x_mask, y_mask, pooled)
        sigma = bandwidths(x, y, a, b, bandwidth, scales)
        if estimator == "linear":
            value = _linear(x, y, a, b, sigma, kernel)
        else:
            value = discrepancy(x, y, a, b, sigma, kernel, biased=estimator == "biased")
    return value[0] if pooled else value


def _check_options(x: Tensor, y: Tensor, kernel: str, estimator: str = "biased") -> None:
    for name, found, known in (("kernel", kernel, KERNELS), ("estimator", estimator, ESTIMATORS)):
        if found not in known:
            raise ValueError(f"{name}: found {found!r}; expected one of {', '.join(known)}")
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"x and y: found widths {x.shape[2]} and {y.shape[2]}; expected the same")


def _prepare(x, y, x_mask, y_mask, pooled) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens with zeros on padding and their masks; one sample of all real tokens if pooled."""
    a, b = expand_mask(x_mask, x), expand_mask(y_mask, y)
    dtype = common_dtype(x, y)
    x, y = real_tokens(x, x_mask, dtype), real_tokens(y, y_mask, dtype)
    for name, tokens in (("x", x), ("y", y)):
        require_finite(name, tokens)
        # A distance that overflows would count as 0.
        require_finite(f"‖{name}‖²", tokens.detach().square().sum(2, keepdim=True))
    if pooled:
        x, y = x[a].unsqueeze(0), y[b].unsqueeze(0)
        a, b = expand_mask(None, x), expand_mask(None, y)
    return x, y, a, b


@torch.no_grad()
def bandwidths(x, y, a, b, bandwidth: Bandwidth, scales: Sequence[float]) -> Tensor:
    """σ (B, S) of each sample; S = number of bandwidths × number of scales."""
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f"bandwidth: found {bandwidth!r}; expected 'median', a number or several")
        sigma = median_distance(x, y, a, b).unsqueeze(1)
    else:
        sigma = torch.as_tensor(bandwidth, dtype=x.dtype, device=x.device).reshape(1, -1).expand(x.shape[0], -1)
    factors = torch.as_tensor(scales, dtype=x.dtype, device=x.device)
    sigma = (sigma.unsqueeze(2) * factors).flatten(1)
    if not ((sigma > 0) & torch.isfinite(sigma)).all() or sigma.shape[1] == 0:
        raise ValueError("bandwidth and scales: expected finite numbers > 0, at least one")
    return sigma


@torch.no_grad()
def median_distance(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B,) median of ‖u − v‖ over pairs of different real tokens of x and y together; 1 where it is 0 or no pair is."""
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
    distances = torch.cdist(z, z)[:, i, j].masked_fill(~(real[:, i] & real[:, j]), torch.nan)
    median = distances.nanmedian(1).values
    return torch.where(median > 0, median, 1)


def kernel_mean(squared: Tensor, sigma: Tensor, kernel: str) -> Tensor:
    """Mean over the bandwidths of k, elementwise, differentiable. squared : (B, ...),  sigma : (B, S)."""
    total = torch.zeros_like(squared)
    for rate in rates_of(sigma, kernel).T:
        total = total + kernel_and_slope(squared, rate.reshape(-1, *[1] * (squared.ndim - 1)), kernel)[0]
    return total / sigma.shape[1]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    squared = torch.baddbmm(norms, x, y.transpose(1, 2), alpha=-2)
    return torch.where(squared > RESOLUTION * torch.finfo(x.dtype).eps * norms, squared, 0)


def _linear(x, y, a, b, sigma, kernel) -> Tensor:
    def halves(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.argsort(~mask, dim=1, stable=True)[:, : 2 * pairs]
        tokens = tokens.gather(1, order.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        return tokens[:, ::2], tokens[:, 1::2]

    pairs = min(x.shape[1], y.shape[1]) // 2
    used = torch.minimum(a.sum(1), b.sum(1)) // 2
    (x1, x2), (y1, y2) = halves(x, a), halves(y, b)

    def k(u: Tensor, v: Tensor) -> Tensor:
        return kernel_mean((u - v).square().sum(2), sigma, kernel)

    h = k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1)
    real = torch.arange(pairs, device=x.device) < used[:, None]
    return torch.where(real, h, 0).sum(1) / used.clamp_min(1)


def witness(
    points: Tensor,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    bandwidth: Bandwidth = "median",
    scales: Sequence[float] = (1.0,),
    kernel: str = "gaussian",
) -> Tensor:
    """The function that tells x from y best: w(t) = E k(x, t) − E k(y, t), at the points t.

    Positive where tokens of x are dense and those of y are not. MMD² is its mean over x less its mean over y.

    Parameters
    ----------
    points : Tensor (B, P, d), float
    x, y, x_mask, y_mask, bandwidth, scales, kernel
        As in `mmd`.

    Returns
    -------
    Tensor (B, P)
        0 for a sample in which x or y has no real token.
    """
    check_tokens(x, y, x_mask, y_mask)
    _check_options(x, y, kernel)
    x, y, a, b = _prepare(x, y, x_mask, y_mask, False)
    points = points.to(x.dtype)
    sigma = bandwidths(x, y, a, b, bandwidth, scales)
    centre = points.detach().mean(1, keepdim=True)

    def mean(tokens: Tensor, mask: Tensor) -> Tensor:
        k = kernel_mean(_squared_distances(points - centre, tokens - centre), sigma, kernel)
        return (k * mask[:, None]).sum(2) / mask.sum(1).clamp_min(1)[:, None]

    present = (a.any(1) & b.any(1))[:, None]
    return torch.where(present, mean(x, a) - mean(y, b), 0)


@dataclass(frozen=True)
class PermutationTest:
    """Result of `permutation_test`.

    Attributes
    ----------
    statistic : Tensor (B,), or () if pooled
        MMD² of the tokens as they are labelled.
    p_value : Tensor, of the same shape
        (1 + number of relabellings with at least this MMD²) / (1 + number of relabellings).
    null : Tensor (B, permutations), or (permutations,) if pooled
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
    scales: Sequence[float] = (1.0,),
    estimator: str = "unbiased",
    kernel: str = "gaussian",
    pooled: bool = False,
    permutations: int = 500,
    seed: int = 0,
) -> PermutationTest:
    """Are the tokens of x and y draws from one distribution? A two-sample test by relabelling.

    If they are, and the tokens are independent, the p-value is at most α with probability at most α. Tokens
    of one sequence are not independent: test pooled tokens, or means over samples, before you believe it.

    Parameters
    ----------
    x, y, x_mask, y_mask, bandwidth, scales, kernel, pooled
        As in `mmd`.
    estimator : "biased" | "unbiased"
    permutations : int
    seed : int
        Of the relabellings.

    Returns
    -------
    PermutationTest
        p = 1 where x or y has no real token (fewer than two for "unbiased").
    """
    check_tokens(x, y, x_mask, y_mask)
    _check_options(x, y, kernel, estimator)
    if estimator == "linear":
        raise ValueError("estimator: found 'linear'; expected 'biased' or 'unbiased'")
    x, y, a, b = _prepare(x, y, x_mask, y_mask, pooled)
    sigma = bandwidths(x, y, a, b, bandwidth, scales)
    generator = torch.Generator().manual_seed(seed)
    all_values = []
    for s in range(x.shape[0]):
        z, n, m = torch.cat([x[s, a[s]], y[s, b[s]]]).unsqueeze(0), int(a[s].sum()), int(b[s].sum())
        least = 1 if estimator == "biased" else 2
        if min(n, m) < least:
            all_values.append(z.new_zeros(permutations + 1))
            continue
        z = z - z.mean(1, keepdim=True)
        k = kernel_mean(_squared_distances(z, z), sigma[s : s + 1], kernel)[0]
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
        shrink = 0 if estimator == "biased" else 1
        all_values.append(xx / (n * (n - shrink)) + yy / (m * (m - shrink)) - 2 * xy / (n * m))
    values = torch.stack(all_values)
    statistic, null = values[:, 0], values[:, 1:]
    p = (1 + (null >= statistic[:, None]).sum(1)) / (1 + permutations)
    return PermutationTest(statistic[0], p[0], null[0]) if pooled else PermutationTest(statistic, p, null)
