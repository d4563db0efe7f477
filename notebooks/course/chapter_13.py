"""Chapter 13, embeddings with UMAP."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("13")


def _spaces(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, int]:
    n = int(torch.randint(12, 30, (), generator=draw))
    space = torch.randn(n, 5, generator=draw)
    return space, space[:, :2] + 0.3 * torch.randn(n, 2, generator=draw), int(torch.randint(2, 5, (), generator=draw))


@chapter.exercise(
    1,
    inputs=_spaces,
    hints=[
        "Find the k nearest of each point twice: torch.cdist(x, x), infinity on the diagonal, topk(k, largest=False).",
        "Make two matrices (N, N) that are True where j is among i's nearest, and count where both are True.",
        "Divide that count by N · k.",
    ],
)
def kept(space, plane, k):
    """space (N, d), plane (N, 2), torch tensors → a number between 0 and 1."""
    near = []
    for x in (space, plane):
        apart = torch.cdist(x, x).fill_diagonal_(torch.inf)
        near.append(torch.zeros_like(apart).scatter_(1, apart.topk(k, largest=False).indices, 1.0))
    return (near[0] * near[1]).sum() / (len(space) * k)


def _near(x, k, itself=False):
    apart = torch.cdist(x, x)
    if not itself:
        apart = apart.fill_diagonal_(torch.inf)
    return torch.zeros_like(apart).scatter_(1, apart.topk(k, largest=False).indices, 1.0)


@chapter.mistake(1, "Each point is its own nearest here; put infinity on the diagonal first.")
def _itself(space, plane, k):
    return (_near(space, k, True) * _near(plane, k, True)).sum() / (len(space) * k)


@chapter.mistake(1, "Neighbours that are nearest in the same order are too much to ask; being among the k is enough.")
def _in_order(space, plane, k):
    first, second = (torch.cdist(x, x).fill_diagonal_(torch.inf).topk(k, largest=False).indices for x in (space, plane))
    return (first == second).float().mean()


@chapter.mistake(1, "That is the share of all pairs of points; divide by N · k, the neighbours there are.")
def _all_pairs(space, plane, k):
    return (_near(space, k) * _near(plane, k)).mean()


def _counts(draw: torch.Generator) -> tuple[torch.Tensor]:
    return (torch.randint(1, 12, (int(torch.randint(2, 5, (), generator=draw)),), generator=draw) + 0.0,)


@chapter.exercise(
    2,
    inputs=_counts,
    tolerance=1e-5,
    hints=[
        "Take one token of modality m. Among the N − 1 others, how many are of m?",
        "N_m − 1 of them. A token is of modality m with probability N_m / N; sum over m.",
    ],
)
def chance(counts):
    """counts (M,), how many tokens of each modality → a number between 0 and 1."""
    total = counts.sum()
    return (counts / total * (counts - 1) / (total - 1)).sum()


@chapter.mistake(2, "That lets a token be its own neighbour: there are N − 1 others, N_m − 1 of them like it.")
def _with_itself(counts):
    return (counts / counts.sum()).square().sum()


@chapter.mistake(2, "1/M holds only for modalities of equal size, and many tokens.")
def _even(counts):
    return 1 / len(counts)


@chapter.mistake(2, "Tokens count alike, not modalities: weigh modality m with N_m / N.")
def _each_modality_alike(counts):
    return ((counts - 1) / (counts.sum() - 1)).mean()


def _tokens(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    sample = torch.arange(6).repeat_interleave(torch.randint(2, 5, (6,), generator=draw))
    sample = sample[torch.randperm(len(sample), generator=draw)]
    middle, label = 0.5 * torch.randn(6, 4, generator=draw), torch.randn(6, generator=draw)
    return middle[sample] + torch.randn(len(sample), 4, generator=draw), label[sample], sample, 3


@chapter.exercise(
    3,
    inputs=_tokens,
    hints=[
        "sample[:, None] == sample[None] is True for two tokens of one sentence.",
        "Set those distances to infinity, take the k nearest, and the mean of their labels over dim=1.",
    ],
)
def guess(points, label, sample, k):
    """points (N, d), label (N,), sample (N,) whose token it is, torch tensors → (N,)."""
    apart = torch.cdist(points, points)
    apart[sample[:, None] == sample[None]] = torch.inf
    return label[apart.topk(k, largest=False).indices].mean(dim=1)


@chapter.mistake(3, "A token of the same sentence gives its label away; leave out all of them, not the token alone.")
def _from_all(points, label, sample, k):
    return label[torch.cdist(points, points).fill_diagonal_(torch.inf).topk(k, largest=False).indices].mean(dim=1)


@chapter.mistake(3, "The k nearest, and of those the ones from other sentences, are fewer than k. Leave out first.")
def _afterwards(points, label, sample, k):
    near = torch.cdist(points, points).fill_diagonal_(torch.inf).topk(k, largest=False).indices
    other = (sample[near] != sample[:, None]).float()
    return (label[near] * other).sum(dim=1) / other.sum(dim=1).clamp_min(1)


@chapter.mistake(3, "Those are the farthest; topk takes the largest unless it is told largest=False.")
def _farthest(points, label, sample, k):
    apart = torch.cdist(points, points)
    apart[sample[:, None] == sample[None]] = -torch.inf
    return label[apart.topk(k).indices].mean(dim=1)
