"""Chapter 11, what each part buys."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("11")


def _two_models(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    n = int(torch.randint(20, 60, (), generator=draw))
    hard = torch.randn(n, generator=draw)  # some samples are hard for both
    return hard + 0.3 * torch.randn(n, generator=draw), hard + 0.2 + 0.3 * torch.randn(n, generator=draw)


@chapter.exercise(
    1,
    inputs=_two_models,
    hints=[
        "The two models saw the same samples. So first take the difference, sample by sample.",
        "The standard error of a mean of N numbers is their standard deviation (with N − 1) divided by √N.",
    ],
)
def standard_error(a, b):
    """Scores (N,) of two models on the same samples → the standard error of the mean difference, a number."""
    return (a - b).std() / len(a) ** 0.5


@chapter.mistake(
    1, "That treats the models as if each had samples of its own; what is hard for both cancels: a − b first."
)
def _not_paired(a, b):
    return torch.sqrt((a.var() + b.var()) / len(a))


@chapter.mistake(1, "That is the spread of single differences; a mean of N is surer, by √N.")
def _spread(a, b):
    return (a - b).std()


@chapter.mistake(1, "You divided by N; the standard error falls with √N.")
def _by_n(a, b):
    return (a - b).std() / len(a)


def _tossed(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    n = int(torch.randint(4, 9, (), generator=draw))
    codes = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
    signs = 1.0 - 2.0 * codes  # all of them, the first as it was
    shift = 0.6 * torch.rand(1, generator=draw)
    return torch.randn(n, generator=draw) * 0.5 + shift, signs[1:]


@chapter.exercise(
    2,
    inputs=_tossed,
    hints=[
        "signs @ difference is the sum of the differences under every row of signs.",
        "Count the rows whose sum is at least as far from 0, on either side, as the sum as it was. Then count the "
        "labels as they were among them: + 1 above and below.",
    ],
)
def flip_p(difference, signs):
    """Differences (N,), rows of +1 and −1 (R, N) without the row of all +1 → p, two-sided, a number."""
    tossed = (signs @ difference).abs()
    return (1 + (tossed >= difference.sum().abs() - 1e-6).sum()) / (len(signs) + 1)


@chapter.mistake(2, "That is one-sided; a difference as large the other way is as surprising. Take absolute values.")
def _one_sided(difference, signs):
    observed = difference.sum()
    return (1 + ((signs @ difference) * observed.sign() >= observed.abs() - 1e-6).sum()) / (len(signs) + 1)


@chapter.mistake(2, "The differences as they are count as one of the rows: + 1 above and below, so that p is never 0.")
def _without_itself(difference, signs):
    return ((signs @ difference).abs() >= difference.sum().abs() - 1e-6).sum() / len(signs)


@chapter.mistake(2, "That is 1 − p, about: you counted the sums that are nearer to 0.")
def _nearer(difference, signs):
    return (1 + ((signs @ difference).abs() < difference.sum().abs() - 1e-6).sum()) / (len(signs) + 1)


def _p_values(draw: torch.Generator) -> tuple[torch.Tensor]:
    n = int(torch.randint(4, 9, (), generator=draw))
    p = 0.2 * torch.rand(n, generator=draw)
    p[1] = p[0] * 1.01  # neighbours whose corrected values would change places
    p[-1] = 0.9
    return (p,)


@chapter.exercise(
    3,
    inputs=_p_values,
    tolerance=1e-5,
    hints=[
        "Sort. The smallest p is multiplied by m, the next by m − 1, the last by 1.",
        "A larger p must not end with a smaller corrected one: a running maximum (cummax) over the sorted ones, then "
        "at most 1.",
        "Put them back: result[order] = corrected, with order = p.argsort().",
    ],
)
def holm_corrected(p):
    """p values (m,) of m comparisons → corrected p values (m,), in the same order."""
    m, order = len(p), p.argsort()
    corrected = ((m - torch.arange(m)) * p[order]).cummax(0).values.clamp(max=1)
    result = torch.empty_like(p)
    result[order] = corrected
    return result


@chapter.mistake(
    3, "That is Bonferroni's correction: all times m. Holm's next ones are multiplied by less, and finds more."
)
def _bonferroni(p):
    return (len(p) * p).clamp(max=1)


@chapter.mistake(3, "A larger p must not end with a smaller corrected one: take the running maximum.")
def _no_maximum(p):
    m, order = len(p), p.argsort()
    result = torch.empty_like(p)
    result[order] = ((m - torch.arange(m)) * p[order]).clamp(max=1)
    return result


@chapter.mistake(3, "They come back sorted; put each corrected p where its own p stood.")
def _sorted(p):
    m = len(p)
    return ((m - torch.arange(m)) * p.sort().values).cummax(0).values.clamp(max=1)
