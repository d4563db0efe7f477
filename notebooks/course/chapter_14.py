"""Chapter 14, missing and noisy modalities."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("14")


def _frames(draw: torch.Generator) -> tuple[torch.Tensor, float, torch.Tensor]:
    n = int(torch.randint(6, 14, (), generator=draw))
    p = 0.2 + 0.5 * float(torch.rand((), generator=draw))
    coins = torch.rand(n, generator=draw)
    coins[:2] = torch.tensor([0.01, 0.99])  # one is lost and one is kept, always
    return torch.randn(n, 3, generator=draw), p, coins


@chapter.exercise(
    1,
    inputs=_frames,
    hints=["coins >= p is True for tokens that stay.", "Multiply: x * (coins >= p)[:, None]."],
)
def drop(x, p, coins):
    """x (T, D), p a number, coins (T,) → (T, D)."""
    return x * (coins >= p)[:, None]


@chapter.mistake(1, "Here the tokens below p stay and the others are lost; p is the probability to be lost.")
def _kept(x, p, coins):
    return x * (coins < p)[:, None]


@chapter.mistake(1, "Lost tokens are taken out here; they must stay in their places, as zeros.")
def _taken_out(x, p, coins):
    return x[coins >= p]


@chapter.mistake(1, "What is left is not scaled up: this is a corruption, not dropout in training.")
def _scaled(x, p, coins):
    return x * (coins >= p)[:, None] / (1 - p)


def _some(draw: torch.Generator) -> tuple[int, float]:
    return int(torch.randint(2, 12, (), generator=draw)), 0.1 + 0.6 * float(torch.rand((), generator=draw))


@chapter.exercise(
    2,
    inputs=_some,
    hints=["With which probability are all of them kept?", "All are kept with (1 − p)^T."],
)
def some_lost(tokens, p):
    """A number between 0 and 1."""
    return 1 - (1 - p) ** tokens


@chapter.mistake(2, "That is how often none is lost; the question is the opposite.")
def _none(tokens, p):
    return (1 - p) ** tokens


@chapter.mistake(2, "That is how often all are lost.")
def _all(tokens, p):
    return p**tokens


@chapter.mistake(2, "That is how many are lost on average.")
def _mean(tokens, p):
    return tokens * p


def _padded(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 5, 2, generator=draw)
    length = torch.tensor([5, 2, 0, 3])[torch.randperm(4, generator=draw)]
    mask = torch.arange(5) < length[:, None]
    x[~mask] = 7.0
    x[(length > 0) & (length < 5), 4] = torch.nan  # what stands on padding may be anything
    return x, mask


@chapter.exercise(
    3,
    inputs=_padded,
    hints=[
        "0 · NaN is NaN: put zeros there instead, x.masked_fill(~mask[:, :, None], 0).",
        "Divide the sum by the number of real tokens, and by 1 where there is none: clamp_min(1).",
    ],
)
def mean_of_real(x, mask):
    """x (B, T, D), mask (B, T), bool → (B, D)."""
    return x.masked_fill(~mask[:, :, None], 0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


@chapter.mistake(3, "0 times NaN is NaN: multiplying with the mask does not remove what stands on padding.")
def _times(x, mask):
    return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


@chapter.mistake(3, "Divide by the number of real tokens, not by the padded length.")
def _by_length(x, mask):
    return x.masked_fill(~mask[:, :, None], 0).mean(1)


@chapter.mistake(3, "A sample without tokens is divided by 0 here; it should be 0.")
def _by_nothing(x, mask):
    return x.masked_fill(~mask[:, :, None], 0).sum(1) / mask.sum(1, keepdim=True)
