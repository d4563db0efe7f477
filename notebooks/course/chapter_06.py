"""Chapter 06, the model assembled."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("06")


def _counts(draw: torch.Generator) -> tuple[list[int]]:
    return ([*torch.randint(1, 9, (2,), generator=draw).tolist(), 6, 3],)


@chapter.exercise(
    1,
    inputs=_counts,
    hints=[
        "Make two tensors, the time of each token and its modality, one modality after the other.",
        "torch.argsort(times, stable=True) keeps the order where times are equal. Use float64 for the times.",
    ],
)
def reading_order(counts):
    """counts, a list of T_m, one a modality → (L,) int64: the modality of each token of the sequence.

    Token i of T has the time (i + ½)/T; equal times keep the order of the modalities.
    """
    times = torch.cat([(2 * torch.arange(n).double() + 1) / (2 * n) for n in counts])
    modality = torch.cat([torch.full((n,), m) for m, n in enumerate(counts)])
    return modality[torch.argsort(times, stable=True)]


@chapter.mistake(1, 'That is one modality behind the other, the order called "concat".')
def _concat(counts):
    return torch.cat([torch.full((n,), m) for m, n in enumerate(counts)])


@chapter.mistake(1, "You go by the number of the token, i. Short modalities are then over before the long ones are.")
def _by_number(counts):
    number = torch.cat([torch.arange(n) for n in counts])
    modality = torch.cat([torch.full((n,), m) for m, n in enumerate(counts)])
    return modality[torch.argsort(number, stable=True)]


@chapter.mistake(1, "The times are i / T; without the ½ all modalities begin at once, at 0.")
def _without_half(counts):
    times = torch.cat([torch.arange(n).double() / n for n in counts])
    modality = torch.cat([torch.full((n,), m) for m, n in enumerate(counts)])
    return modality[torch.argsort(times, stable=True)]


def _padded(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.rand(3, 6, generator=draw) < 0.6
    mask[:, 0], mask[0] = True, True  # every sample has a token, and one is full
    tokens = torch.randn(3, 6, 4, generator=draw)
    # Rubbish on padding, and at one place not even a number.
    tokens[~mask] = 100 * torch.randn(int((~mask).sum()), 4, generator=draw)
    if (~mask).any():
        b, t = (~mask).nonzero()[0].tolist()
        tokens[b, t] = float("nan")
    return tokens, mask


@chapter.exercise(
    2,
    inputs=_padded,
    hints=[
        "Set the padding to 0, sum over dim=1, and divide by the number of real tokens.",
        "Padding may hold NaN, and NaN · 0 is NaN: use torch.where or masked_fill, not a product with the mask.",
    ],
)
def masked_mean(tokens, mask):
    """tokens (B, L, d), mask (B, L) bool → (B, d): the mean over the real tokens, whatever lies on padding."""
    real = torch.where(mask[..., None], tokens, 0)
    return real.sum(dim=1) / mask.sum(dim=1, keepdim=True)


@chapter.mistake(2, "A product with the mask does not remove NaN: NaN · 0 = NaN. Use torch.where.")
def _nan_times_zero(tokens, mask):
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@chapter.mistake(2, "You divide by the padded length, so a short sample comes out too small.")
def _padded_length(tokens, mask):
    return torch.where(mask[..., None], tokens, 0).mean(1)


@chapter.mistake(2, "The mask is not used: padding counts as tokens here.")
def _plain_mean(tokens, mask):
    return tokens.mean(1)


def _signal(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    length = int(torch.randint(6, 12, (), generator=draw))
    return torch.randn(length, generator=draw), torch.randn(4, generator=draw)


@chapter.exercise(
    3,
    inputs=_signal,
    hints=[
        "Put K − 1 zeros before x. Then y_t is the sum of w times the K numbers that begin at place t.",
        "padded.unfold(0, K, 1) gives all these windows, (L, K). Multiply with w and sum over the last axis.",
    ],
)
def causal_convolution(x, w):
    """x (L,), w (K,) → y (L,)."""
    padded = torch.cat([torch.zeros(len(w) - 1), x])
    return padded.unfold(0, len(w), 1) @ w


@chapter.mistake(3, "The filter is the wrong way round: the last weight, w[K − 1], belongs to the token itself.")
def _flipped(x, w):
    return torch.cat([torch.zeros(len(w) - 1), x]).unfold(0, len(w), 1) @ w.flip(0)


@chapter.mistake(3, "Here a token sees later ones: the zeros belong before the first token, not behind the last.")
def _looks_ahead(x, w):
    return torch.cat([x, torch.zeros(len(w) - 1)]).unfold(0, len(w), 1) @ w


@chapter.mistake(3, "Without zeros before the first token the result is K − 1 tokens too short.")
def _too_short(x, w):
    return x.unfold(0, len(w), 1) @ w
