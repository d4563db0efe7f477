"""Chapter 10, pairs of picture and text."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("10")


def _counts(draw: torch.Generator) -> tuple[torch.Tensor]:
    classes = int(torch.randint(2, 5, (), generator=draw))
    return (torch.randint(1, 9, (classes, classes), generator=draw) + 9.0 * torch.eye(classes),)


@chapter.exercise(
    1,
    inputs=_counts,
    hints=[
        "Divide by the number of pairs first. The share that agrees is then the sum of the diagonal.",
        "By chance they agree in Σ p_c q_c, with p the sums of the rows and q those of the columns.",
    ],
)
def kappa_of(counts):
    """counts (C, C), float → a number."""
    share = counts / counts.sum()
    agree = share.diagonal().sum()
    chance = (share.sum(0) * share.sum(1)).sum()
    return (agree - chance) / (1 - chance)


@chapter.mistake(1, "That is the plain agreement; what chance gives must be taken off.")
def _agreement(counts):
    return counts.diagonal().sum() / counts.sum()


@chapter.mistake(1, "Chance is taken off, but not divided by what was left to gain, 1 − chance.")
def _not_scaled(counts):
    share = counts / counts.sum()
    return share.diagonal().sum() - (share.sum(0) * share.sum(1)).sum()


@chapter.mistake(1, "Chance is 1/C only if all classes are equally frequent on both sides; take Σ p_c q_c.")
def _even_chance(counts):
    agree, chance = counts.diagonal().sum() / counts.sum(), 1 / len(counts)
    return (agree - chance) / (1 - chance)


def _veil(draw: torch.Generator) -> tuple[torch.Tensor, float]:
    p = (torch.rand(3, generator=draw) + 0.1) * torch.tensor([1.0, 0.4, 1.0])
    return p / p.sum(), float(0.2 + 0.8 * torch.rand((), generator=draw))


@chapter.exercise(
    2,
    inputs=_veil,
    hints=[
        "Where the text shows its class, the model is right. Which pairs are left, all looking neutral?",
        "Left are v·p_positive, p_neutral and v·p_negative. The model has one answer for all of them: which?",
        "(1 − v)(p_positive + p_negative) + the largest of v·p_positive, p_neutral, v·p_negative.",
    ],
)
def ceiling(p, veiled):
    """p (3,), positive, neutral, negative, summing to 1; veiled, a number from 0 to 1 → a number."""
    hidden = torch.stack([veiled * p[0], p[1], veiled * p[2]])
    return (1 - veiled) * (p[0] + p[2]) + hidden.max()


@chapter.mistake(2, "Among texts that look neutral a veiled class can be most frequent; take the largest of the three.")
def _always_neutral(p, veiled):
    return (1 - veiled) * (p[0] + p[2]) + p[1]


@chapter.mistake(2, "The model cannot tell the veiled from the neutral: it is not right about both.")
def _all(p, veiled):
    return p.sum()


@chapter.mistake(2, "What looks neutral gets one answer for all, not a guess drawn by its shares.")
def _matching(p, veiled):
    hidden = torch.stack([veiled * p[0], p[1], veiled * p[2]])
    return (1 - veiled) * (p[0] + p[2]) + (hidden * hidden).sum() / hidden.sum()


def _texts(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    def rows(n: int) -> torch.Tensor:
        words = torch.randint(0, 3, (n, 4), generator=draw)
        length = torch.randint(2, 5, (n, 1), generator=draw)
        return torch.where(torch.arange(4) < length, words, -1)

    train, test = rows(12), rows(8)
    return train, torch.cat([test, train[:2], train[:1]])  # one text of train stands in test twice


@chapter.exercise(
    3,
    inputs=_texts,
    hints=[
        "test[:, None] == train[None] compares every number of every row with every row, (M, N, T).",
        "A row is the same where all numbers are (all over the last axis); it is leaked if any row of train is.",
    ],
)
def leaked(train, test):
    """train (N, T), test (M, T), int64 → how many of the M rows are among the N."""
    return (test[:, None] == train[None]).all(-1).any(1).sum()


@chapter.mistake(3, "A test row that stands in train twice counts once: any over train, not a sum.")
def _every_pair(train, test):
    return (test[:, None] == train[None]).all(-1).sum()


@chapter.mistake(3, "Rows that share a word somewhere are not the same text; all numbers must be equal.")
def _any_word(train, test):
    return (test[:, None] == train[None]).any(-1).any(1).sum()


@chapter.mistake(3, "Count rows of test, not different texts: one that stands in test twice is leaked twice.")
def _different(train, test):
    return sum((row == train).all(1).any() for row in torch.unique(test, dim=0))
