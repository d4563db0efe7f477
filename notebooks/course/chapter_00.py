"""Chapter 00, start here."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("00")


def _kernel(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = torch.randint(3, 9, (2,), generator=draw).tolist()
    columns += rows == columns
    cost = 2 * torch.rand(rows, columns, generator=draw).double()
    return torch.exp(-cost / 0.5), 0.5 + torch.rand(columns, generator=draw).double()


@chapter.exercise(
    1,
    inputs=_kernel,
    hints=[
        "Row i of the plan sums to u_i · Σ_j K_ij v_j. Which u_i makes that 1 / T_x?",
        "kernel @ v is Σ_j K_ij v_j for all i at once; T_x is len(kernel).",
    ],
)
def rows_right(kernel, v):
    """Kernel (T_x, T_y) and v (T_y,) → the plan u_i K_ij v_j, (T_x, T_y), whose rows all sum to 1 / T_x."""
    u = 1 / len(kernel) / (kernel @ v)
    return u[:, None] * kernel * v


@chapter.mistake(1, "Each row sums to 1; but all mass together is 1, and a token of x has 1 / T_x of it.")
def _a_unit_each(kernel, v):
    return kernel * v / (kernel @ v)[:, None]


@chapter.mistake(1, "You made the columns right. Here v is given, and u has to make the rows right.")
def _columns(kernel, v):
    plan = kernel * v
    return plan / plan.sum(0) / kernel.shape[1]


@chapter.mistake(1, "That is u, one number per row. The plan is u_i K_ij v_j.")
def _only_u(kernel, v):
    return 1 / len(kernel) / (kernel @ v)


@chapter.mistake(1, "You left out v: the plan is u_i K_ij v_j, and u makes up for v, too.")
def _without_v(kernel, v):
    return kernel / kernel.sum(1, keepdim=True) / len(kernel)
