"""Chapter 09, rooms in colour and depth."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("09")


def _confusion(draw: torch.Generator) -> tuple[torch.Tensor]:
    classes = int(torch.randint(3, 6, (), generator=draw))
    counts = torch.randint(0, 6, (classes, classes), generator=draw) + torch.diag(torch.arange(classes) * 4.0 + 1)
    counts[int(torch.randint(0, classes, (), generator=draw))] = 0  # a class without a frame
    return (counts,)


@chapter.exercise(
    1,
    inputs=_confusion,
    hints=[
        "A class's own accuracy is its place on the diagonal, divided by the sum of its row.",
        "Leave out the rows whose sum is 0, then take the mean.",
    ],
)
def balanced(counts):
    """counts (C, C), float → a number."""
    total = counts.sum(1)
    return (counts.diagonal()[total > 0] / total[total > 0]).mean()


@chapter.mistake(1, "That is accuracy, where frames count alike. Here classes do: a mean over the rows' own shares.")
def _accuracy(counts):
    return counts.diagonal().sum() / counts.sum()


@chapter.mistake(1, "A class without a frame counts as 0 here; it should not count at all.")
def _empty_counts(counts):
    return (counts.diagonal() / counts.sum(1).clamp_min(1)).mean()


@chapter.mistake(1, "Rows are what a frame is: divide by the sums of rows, sum(1), not of columns.")
def _columns(counts):
    there = counts.sum(1) > 0
    return (counts.diagonal() / counts.sum(0).clamp_min(1))[there].mean()


def _cloud(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    n = int(torch.randint(4, 12, (), generator=draw))
    down = torch.tensor([0.0, 1.0, 0.0]) + 0.3 * torch.randn(3, generator=draw)
    return torch.randn(n, 3, generator=draw) + torch.tensor([0.0, 0.5, 3.0]), down / down.norm()


@chapter.exercise(
    2,
    inputs=_cloud,
    hints=[
        "cloud @ down says how far down each point lies. Up is its negative.",
        "Then take off the smallest, so that the lowest point has height 0.",
    ],
)
def height(cloud, down):
    """cloud (N, 3), down (3,) → (N,)."""
    up = -(cloud @ down)
    return up - up.min()


@chapter.mistake(2, "Gravity points down, so this is depth below the highest point; height goes the other way.")
def _downwards(cloud, down):
    return cloud @ down - (cloud @ down).min()


@chapter.mistake(2, "That is height over the camera; take off the lowest point's.")
def _over_the_camera(cloud, down):
    return -(cloud @ down)


@chapter.mistake(2, "y is down only for a camera held level; use the direction that is given.")
def _level(cloud, down):
    return cloud[:, 1].max() - cloud[:, 1]


def _scenes(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    scene = torch.randint(0, 9, (20,), generator=draw)
    valid = torch.rand(20, generator=draw) < 0.35
    valid[:2] = torch.tensor([True, False])
    return scene, valid


@chapter.exercise(
    3,
    inputs=_scenes,
    hints=[
        "scene[valid][:, None] == scene[~valid][None] compares each validation frame with each training frame.",
        "A frame has a twin if any of its row is True; then the mean over validation frames.",
    ],
)
def twins(scene, valid):
    """scene (N,), int64; valid (N,), bool, the rest is for training → a number between 0 and 1."""
    return (scene[valid][:, None] == scene[~valid][None]).any(1).float().mean()


@chapter.mistake(3, "That counts pairs of frames; ask of each validation frame whether it has any twin.")
def _pairs(scene, valid):
    return (scene[valid][:, None] == scene[~valid][None]).float().mean()


@chapter.mistake(3, "Every frame is its own scene's: compare validation with training frames, not with all.")
def _with_all(scene, valid):
    return (scene[valid][:, None] == scene[None]).any(1).float().mean()


@chapter.mistake(
    3, "That is the share of training frames with a twin in validation; the question is the other way round."
)
def _of_training(scene, valid):
    return (scene[~valid][:, None] == scene[valid][None]).any(1).float().mean()
