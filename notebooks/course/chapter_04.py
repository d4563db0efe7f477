"""Chapter 04, optimal transport between modalities."""

from __future__ import annotations

import math

import torch

from .exercise import Chapter

chapter = Chapter("04")


def _cost(draw: torch.Generator) -> torch.Tensor:
    rows, columns = torch.randint(3, 9, (2,), generator=draw).tolist()
    return 2 * torch.rand(rows, columns + (rows == columns), generator=draw)


@chapter.exercise(
    1,
    inputs=lambda draw: (_cost(draw),),
    hints=[
        "cost.argmin(dim=?) says for every token of x which token of y is cheapest.",
        "Start with torch.zeros_like(cost) and put 1/T_x at [i, cheapest[i]] for every row i.",
    ],
)
def relaxed_plan(cost):
    """Cost (T_x, T_y) → plan (T_x, T_y)."""
    plan = torch.zeros_like(cost)
    plan[torch.arange(len(cost)), cost.argmin(dim=1)] = 1 / len(cost)
    return plan


@chapter.mistake(1, "You let every token of y choose. It is the tokens of x that choose, the rows.")
def _columns_choose(cost):
    plan = torch.zeros_like(cost)
    plan[cost.argmin(dim=0), torch.arange(cost.shape[1])] = 1 / cost.shape[1]
    return plan


@chapter.mistake(1, "Every row sums to 1; but all mass together is 1, and a token of x has 1/T_x of it.")
def _a_unit_each(cost):
    plan = torch.zeros_like(cost)
    plan[torch.arange(len(cost)), cost.argmin(dim=1)] = 1.0
    return plan


@chapter.mistake(1, "That sends everything to the most expensive token.")
def _most_expensive(cost):
    plan = torch.zeros_like(cost)
    plan[torch.arange(len(cost)), cost.argmax(dim=1)] = 1 / len(cost)
    return plan


def _cost_and_plan(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    cost = _cost(draw).double()
    epsilon = 0.1 + float(torch.rand((), generator=draw))
    f, g = torch.zeros(len(cost)).double(), torch.zeros(cost.shape[1]).double()
    for _ in range(300):
        f = -epsilon * torch.logsumexp((g - cost) / epsilon - math.log(cost.shape[1]), 1)
        g = -epsilon * torch.logsumexp((f[:, None] - cost) / epsilon - math.log(len(cost)), 0)
    return cost, torch.exp((f[:, None] + g - cost) / epsilon) / cost.numel(), epsilon


@chapter.exercise(
    2,
    inputs=_cost_and_plan,
    hints=[
        "With uniform weights every entry of a bᵀ is 1 / (T_x T_y).",
        "P / Q is plan * cost.numel(), since Q is 1 / cost.numel() everywhere. Multiply elementwise and sum.",
    ],
)
def entropic_distance(cost, plan, epsilon):
    """Cost and plan (T_x, T_y), every entry of the plan > 0 → a number."""
    kl = (plan * torch.log(plan * plan.numel())).sum()
    return (plan * cost).sum() + epsilon * kl


@chapter.mistake(2, "That is ⟨P, C⟩ alone, the transport cost; the price of the blur is missing.")
def _without_blur(cost, plan, epsilon):
    return (plan * cost).sum()


@chapter.mistake(2, "You took Σ P log P, the entropy; the KL divergence compares P with a bᵀ and adds log(T_x T_y).")
def _entropy(cost, plan, epsilon):
    return (plan * cost).sum() + epsilon * (plan * plan.log()).sum()


@chapter.mistake(2, "The KL divergence has the wrong sign. It is never negative, so blur can only cost.")
def _rewards_blur(cost, plan, epsilon):
    return (plan * cost).sum() - epsilon * (plan * torch.log(plan * plan.numel())).sum()


@chapter.mistake(2, "The KL divergence must be multiplied by ε.")
def _without_epsilon(cost, plan, epsilon):
    return (plan * cost).sum() + (plan * torch.log(plan * plan.numel())).sum()


def _mask(draw: torch.Generator) -> tuple[torch.Tensor]:
    mask = torch.rand(5, 7, generator=draw) < 0.6
    mask[0], mask[1] = True, False  # one sample is full, and one is empty
    return (mask,)


@chapter.exercise(
    3,
    inputs=_mask,
    hints=[
        "Turn the mask into numbers, count the real tokens of each row (keepdim=True), and divide.",
        "An empty row would divide 0 by 0. clamp_min(1) on the count turns that into 0 / 1.",
    ],
)
def weights(mask):
    """Mask (B, T), bool → weights (B, T), float; every row sums to 1, or to 0 where nothing is real."""
    return mask.float() / mask.sum(dim=1, keepdim=True).clamp_min(1)


@chapter.mistake(3, "You divide by the padded length; the rows with padding then sum to less than 1.")
def _padded_length(mask):
    return mask.float() / mask.shape[1]


@chapter.mistake(3, "A sample without real tokens gives 0 / 0 = NaN, and NaN in one sample ruins the whole batch.")
def _nan(mask):
    return mask.float() / mask.sum(dim=1, keepdim=True)


@chapter.mistake(3, "All tokens together sum to 1; each sample's own should.")
def _over_the_batch(mask):
    return mask.float() / mask.sum().clamp_min(1)


@chapter.mistake(3, "An empty sample gets weights here, so its padding would be transported.")
def _softmax(mask):
    return torch.softmax(torch.where(mask, 0.0, -1e9), dim=1)
