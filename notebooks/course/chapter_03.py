"""Chapter 03, the mixture of experts inside a Mamba."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("03")


def _tokens(draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    count = int(torch.randint(4, 10, (), generator=draw))
    modality = torch.randint(0, 3, (count,), generator=draw)
    return (
        torch.randn(count, 4, generator=draw),
        modality,
        torch.randn(5, 4, generator=draw),
        torch.randn(3, 5, 4, generator=draw),
    )


@chapter.exercise(
    1,
    inputs=_tokens,
    hints=[
        "shared + specific gives one matrix a modality, (M, k, d). Indexing that with `modality` gives one a token.",
        'With weights (N, k, d) and tokens (N, d), torch.einsum("nkd,nd->nk", weights, x) does the rest.',
    ],
)
def mixture(x, modality, shared, specific):
    """x (N, d), modality (N,) int64, shared (k, d), specific (M, k, d) → (N, k)."""
    weights = (shared + specific)[modality]
    return torch.einsum("nkd,nd->nk", weights, x)


@chapter.mistake(1, "The shared expert is missing.")
def _own_only(x, modality, shared, specific):
    return torch.einsum("nkd,nd->nk", specific[modality], x)


@chapter.mistake(1, "The token's own expert is missing.")
def _shared_only(x, modality, shared, specific):
    return x @ shared.T


@chapter.mistake(1, "Here every token asks the experts of all modalities; it should ask its own and the shared one.")
def _all_experts(x, modality, shared, specific):
    return x @ (shared + specific.sum(0)).T


@chapter.mistake(1, "The answers of the experts are added, not averaged.")
def _average(x, modality, shared, specific):
    return torch.einsum("nkd,nd->nk", (shared + specific)[modality], x) / 2


def _gate(draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    shared = int(torch.randint(2, 5, (), generator=draw))
    return (
        torch.randn(4, generator=draw),
        torch.randn(1 + shared, generator=draw),
        torch.randn(5, 4, generator=draw),
        torch.randn(shared, 5, 4, generator=draw),
    )


@chapter.exercise(
    2,
    inputs=_gate,
    hints=[
        "w = logits.softmax(0); w[0] belongs to the own expert and w[1:] to the shared ones. K = len(logits).",
        "Mix the matrices first: w[0] * own + sum of w[s] * shared[s]; then one product with x, times K.",
    ],
)
def gated_mixture(x, logits, own, shared):
    """x (d,), logits (1 + S,), own (k, d), shared (S, k, d) → (k,)."""
    w = logits.softmax(0)
    experts = torch.cat([own[None], shared])
    return len(w) * (w[:, None, None] * experts).sum(0) @ x


@chapter.mistake(2, "The factor K is missing: an even gate would give the mean of the experts, not their sum.")
def _without_factor(x, logits, own, shared):
    w = logits.softmax(0)
    return (w[:, None, None] * torch.cat([own[None], shared])).sum(0) @ x


@chapter.mistake(2, "The gate's weights are the softmax of the logits, not the logits.")
def _without_softmax(x, logits, own, shared):
    return len(logits) * (logits[:, None, None] * torch.cat([own[None], shared])).sum(0) @ x


@chapter.mistake(2, "The first weight belongs to the token's own expert; here it goes to a shared one.")
def _own_last(x, logits, own, shared):
    w = logits.softmax(0)
    return len(w) * (w[:, None, None] * torch.cat([shared, own[None]])).sum(0) @ x


@chapter.mistake(2, "That adds all experts evenly; the gate is not used.")
def _even(x, logits, own, shared):
    return (own + shared.sum(0)) @ x


@chapter.exercise(
    3,
    inputs=lambda draw: (int(torch.randint(1, 7, (), generator=draw)),),
    hints=["Count the matrices: how many experts belong to modalities, and how many are shared?"],
)
def growth(n_modalities):
    """How many times the parameters of one plain projection: a number."""
    return 1 + n_modalities


@chapter.mistake(3, "You forgot the shared expert.")
def _without_shared(n_modalities):
    return n_modalities


@chapter.mistake(3, "A token meets two experts, but the parameters are those of all of them.")
def _two(n_modalities):
    return 2


@chapter.mistake(3, "There is one shared expert for all, not one a modality.")
def _shared_each(n_modalities):
    return 2 * n_modalities
