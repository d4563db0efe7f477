"""Chapter 05, the maximum mean discrepancy."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("05")


def _clouds(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    n, m = torch.randint(3, 9, (2,), generator=draw).tolist()
    return torch.randn(n, 2, generator=draw), 1 + torch.randn(m + (n == m), 2, generator=draw)


def _kernels(draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    x, y = _clouds(draw)
    return tuple(torch.exp(-torch.cdist(u, v).square() / 2) for u, v in ((x, x), (y, y), (x, y)))


@chapter.exercise(
    1,
    inputs=_kernels,
    hints=[
        "The diagonal of kxx holds each token with itself: kxx.sum() - kxx.trace() leaves it out.",
        "Without the diagonal N · (N − 1) pairs are left: divide by that. Across the clouds nothing is left out.",
    ],
)
def unbiased(kxx, kyy, kxy):
    """Kernel matrices (N, N), (M, M), (N, M) → the unbiased squared MMD, a number."""
    n, m = kxy.shape
    within_x = (kxx.sum() - kxx.trace()) / (n * (n - 1))
    within_y = (kyy.sum() - kyy.trace()) / (m * (m - 1))
    return within_x + within_y - 2 * kxy.mean()


@chapter.mistake(1, "That is the biased estimate: each token is compared with itself too.")
def _biased(kxx, kyy, kxy):
    return kxx.mean() + kyy.mean() - 2 * kxy.mean()


@chapter.mistake(1, "You leave out the diagonal, but still divide by N²; there are only N · (N − 1) pairs left.")
def _wrong_count(kxx, kyy, kxy):
    return (kxx.sum() - kxx.trace()) / kxx.numel() + (kyy.sum() - kyy.trace()) / kyy.numel() - 2 * kxy.mean()


@chapter.mistake(1, "The part across the clouds counts twice: 2 · E k(x, y).")
def _across_once(kxx, kyy, kxy):
    n, m = kxy.shape
    return (kxx.sum() - kxx.trace()) / (n * (n - 1)) + (kyy.sum() - kyy.trace()) / (m * (m - 1)) - kxy.mean()


def _points(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    return (torch.randn(5, 2, generator=draw), *_clouds(draw), 0.3 + float(torch.rand((), generator=draw)))


@chapter.exercise(
    2,
    inputs=_points,
    hints=[
        "The kernel of every point with every token is a matrix (P, N). torch.cdist gives the distances.",
        "Take the mean over the tokens, dim=1, of both kernels, and subtract.",
    ],
)
def votes_at(points, x, y, sigma):
    """points (P, d), x (N, d), y (M, d) → w (P,), with the Gaussian kernel of bandwidth sigma."""
    near_x = torch.exp(-torch.cdist(points, x).square() / (2 * sigma**2))
    near_y = torch.exp(-torch.cdist(points, y).square() / (2 * sigma**2))
    return near_x.mean(dim=1) - near_y.mean(dim=1)


@chapter.mistake(2, "The kernel is exp(−r² / (2σ²)); the 2 is missing.")
def _without_two(points, x, y, sigma):
    near = [torch.exp(-torch.cdist(points, c).square() / sigma**2).mean(dim=1) for c in (x, y)]
    return near[0] - near[1]


@chapter.mistake(2, "The kernel takes the squared distance: exp(−r² / (2σ²)).")
def _not_squared(points, x, y, sigma):
    near = [torch.exp(-torch.cdist(points, c) / (2 * sigma**2)).mean(dim=1) for c in (x, y)]
    return near[0] - near[1]


@chapter.mistake(2, "It is positive where y is dense; it should be positive where x is.")
def _other_way(points, x, y, sigma):
    near = [torch.exp(-torch.cdist(points, c).square() / (2 * sigma**2)).mean(dim=1) for c in (x, y)]
    return near[1] - near[0]


@chapter.mistake(2, "Sums let the larger cloud win everywhere; take means over the tokens.")
def _sums(points, x, y, sigma):
    near = [torch.exp(-torch.cdist(points, c).square() / (2 * sigma**2)).sum(dim=1) for c in (x, y)]
    return near[0] - near[1]


def _test(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    null = torch.randn(int(torch.randint(20, 60, (), generator=draw)), generator=draw)
    return null[3] + 0.0, null  # a tie, so that "at least as large" and "larger" differ


@chapter.exercise(
    3,
    inputs=_test,
    tolerance=1e-6,
    hints=[
        "How many of the relabellings are at least as large as the statistic?",
        "Add 1 to that number and 1 to the number of relabellings, for the labels as they are; then divide.",
    ],
)
def p_value(statistic, null):
    """MMD² as labelled, a number, and of the relabellings, (n,) → p, between 1/(n + 1) and 1."""
    return (1 + (null >= statistic).sum()) / (1 + len(null))


@chapter.mistake(3, "The labels as they are count too, above and below: (1 + …) / (1 + n). Otherwise p can be 0.")
def _can_be_zero(statistic, null):
    return (null >= statistic).float().mean()


@chapter.mistake(3, "Count the relabellings that are at least as large, not those that are smaller.")
def _smaller(statistic, null):
    return (1 + (null < statistic).sum()) / (1 + len(null))


@chapter.mistake(3, "A relabelling that is exactly as large counts as well: use >=.")
def _strictly(statistic, null):
    return (1 + (null > statistic).sum()) / (1 + len(null))
