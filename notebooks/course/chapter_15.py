"""Chapter 15, data, modalities and experts of one's own."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("15")


def _low_rank(draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    n = int(torch.randint(4, 10, (), generator=draw))
    shape = {"x": (n, 6), "shared": (5, 6), "up": (3, 5, 2), "down": (3, 2, 6)}
    x, shared, up, down = (torch.randn(size, generator=draw) for size in shape.values())
    return x, torch.randint(0, 3, (n,), generator=draw), shared, up, down


@chapter.exercise(
    1,
    inputs=_low_rank,
    hints=[
        "up @ down is one matrix a modality, (M, k, d). Then it is the mixture of chapter 03.",
        'weights = (shared + up @ down)[modality], then torch.einsum("nkd,nd->nk", weights, x).',
    ],
)
def low_rank_mixture(x, modality, shared, up, down):
    """x (N, d), modality (N,), shared (k, d), up (M, k, r), down (M, r, d) → (N, k)."""
    return torch.einsum("nkd,nd->nk", (shared + up @ down)[modality], x)


@chapter.mistake(1, "The shared expert is missing.")
def _own_only(x, modality, shared, up, down):
    return torch.einsum("nkd,nd->nk", (up @ down)[modality], x)


@chapter.mistake(1, "All tokens go through the first modality's expert here; index with `modality`.")
def _first(x, modality, shared, up, down):
    return x @ (shared + up[0] @ down[0]).T


@chapter.mistake(1, "Every token asks the experts of all modalities; it should ask its own.")
def _all(x, modality, shared, up, down):
    return x @ (shared + (up @ down).sum(0)).T


def _sizes(draw: torch.Generator) -> tuple[int, int, int, int]:
    low, high = torch.tensor([2, 8, 8, 1]), torch.tensor([6, 40, 40, 6])
    return tuple((low + (torch.rand(4, generator=draw) * (high - low)).long()).tolist())


@chapter.exercise(
    2,
    inputs=_sizes,
    hints=[
        "The shared matrix has k · d numbers.",
        "A modality's up has k · r and its down r · d.",
    ],
)
def parameters(n_modalities, d, k, rank):
    """How many numbers a low-rank mixture d → k has."""
    return k * d + n_modalities * rank * (k + d)


@chapter.mistake(2, "That is what full experts have; a low-rank one has r · (k + d).")
def _full(n_modalities, d, k, rank):
    return k * d * (1 + n_modalities)


@chapter.mistake(2, "You forgot the shared expert.")
def _without_shared(n_modalities, d, k, rank):
    return n_modalities * rank * (k + d)


@chapter.mistake(2, "Each modality has its own two matrices: multiply by their number.")
def _one(n_modalities, d, k, rank):
    return k * d + rank * (k + d)


def _guess(draw: torch.Generator) -> tuple[int, int]:
    return (
        int(torch.randint(2, 6, (), generator=draw)),
        int(torch.randint(3, 11, (), generator=draw)),
    )


@chapter.exercise(
    3,
    inputs=_guess,
    hints=[
        "Say always what the first picture shows. When is that right?",
        "With probability 1/S the rule names it. Otherwise another picture, and by luck, 1/C, that shows the same.",
    ],
)
def without_rule(sides, classes):
    """S pictures, each with one of C classes evenly and independently; the rule names one picture evenly → a number."""
    return 1 / sides + (1 - 1 / sides) / classes


@chapter.mistake(3, "Also where the rule names another picture, the two may show the same class.")
def _no_luck(sides, classes):
    return 1 / sides


@chapter.mistake(3, "One can do better than guess: say what one of the pictures shows.")
def _chance(sides, classes):
    return 1 / classes


@chapter.mistake(3, "The luck of 1/C counts only where another picture is asked for, in a share 1 − 1/S.")
def _added(sides, classes):
    return 1 / sides + 1 / classes
