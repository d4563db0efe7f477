"""Optimal transport between the tokens of two modalities: which token belongs to which, and at what cost."""

import numbers
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..gpu.host import may_look, widest
from .costs import (
    COSTS,
    beyond_window,
    check_tokens,
    common_dtype,
    expand_mask,
    real_tokens,
    refuse_second_derivative,
    require_finite,
)
from .sinkhorn import SOLVERS, Solution, marginal_error, solve

METHODS = ("sinkhorn", "relaxed", "unbalanced", "exact")


@dataclass(frozen=True)
class TransportResult:
    """The result of `transport`, the same for every method. Only `distance` carries a gradient.

    Attributes
    ----------
    distance : Tensor (B,), float
        The value that is trained; its gradient with respect to the cost is the plan.
    plan : Tensor (B, Tx, Ty), float
        plan[s, i, j]: mass that sample s moves from token i of x to token j of y. Zero on padding.
    cost : Tensor (B, Tx, Ty), float
        Zero on padding.
    converged : Tensor (B,), bool
    marginal_error : Tensor (B,), float
        How far the plan is from the method's promise: ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ for "sinkhorn" and "exact",
        the last change of the potentials over ε for "unbalanced", 0 for "relaxed".
    iterations : Tensor (B,), int64
    """

    distance: Tensor
    plan: Tensor
    cost: Tensor
    converged: Tensor
    marginal_error: Tensor
    iterations: Tensor

    @property
    def transport_cost(self) -> Tensor:
        """⟨P, C⟩ (B,): the cost of the plan without the entropy. To be looked at, not trained."""
        return (self.plan * self.cost).sum((1, 2))


def transport(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    cost: str | Tensor = "cosine",
    method: str = "sinkhorn",
    marginal_penalty: float = 1.0,
    window: float = 1.0,
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    solver: str = "auto",
) -> TransportResult:
    r"""Return the optimal transport between the real tokens of x and y, sample by sample.

    With C the cost and a, b uniform weights over the real tokens, a method chooses a plan P ≥ 0, and `distance` is

    - "sinkhorn":    min ⟨P, C⟩ + ε KL(P ‖ abᵀ)  subject to  P1 = a, Pᵀ1 = b  (Cuturi 2013);
    - "relaxed":     Σ_i a_i min_j C_ij: every token of x goes to its nearest of y, the anchor; Pᵀ1 = b is dropped;
    - "unbalanced":  min ⟨P, C⟩ + ε KL(P ‖ abᵀ) + ρ KL(P1 ‖ a) + ρ KL(Pᵀ1 ‖ b), ρ = `marginal_penalty` (Chizat et al.
      2018);
    - "exact":       min ⟨P, C⟩  subject to  P1 = a, Pᵀ1 = b, by POT's network simplex (CPU, float64, slow).

    `distance` is the *regularised* value above. Its gradient with respect to C is the plan (envelope theorem): nothing
    is differentiated through the iterations, and memory does not grow with them. ⟨P, C⟩ is `transport_cost`, and has
    another gradient. For "sinkhorn", `distance` is ⟨P, C⟩ + ε Σ P log P + ε log(Tx Ty): never negative for C ≥ 0, the
    exact distance for ε → 0, the mean cost for ε → ∞. A second derivative raises an error.

    Parameters
    ----------
    x : Tensor (B, Tx, d), float;  y : Tensor (B, Ty, d), float
        Half precision is computed in float32.
    x_mask : Tensor (B, Tx), bool;  y_mask : Tensor (B, Ty), bool
        True at real tokens, by default everywhere; values on padding are ignored. In a sample without a real token in
        x or in y, distance, plan and gradient are 0.
    epsilon : float
        ε, in the unit of the cost, at least 1e-30. 0.05 for the cosine cost ("third-party implementation").
    cost : "cosine" | "sqeuclidean" | Tensor (B, Tx, Ty)
        "cosine" is 1 − cos ("AlignMamba v1, third-party write-up").
    method : "sinkhorn" | "relaxed" | "unbalanced" | "exact"
        "relaxed" is AlignMamba v1's closed form ("third-party write-up"). That v2 uses "sinkhorn" is said by a
        third-party implementation only.
    marginal_penalty : float
        ρ of "unbalanced", in the unit of the cost.
    window : float in [0, 1]
        No mass moves between tokens that are as far or further apart in relative time, for streams in which one may be
        late and not anywhere; see `costs.beyond_window`. 0: between tokens that overlap alone; 1: between all.
    tolerance : float
        A sample is `converged` and stands still once its `marginal_error` is at most this ("our choice": a tenth of
        a per cent of the mass; the plan is the gradient, and the noise of a training step is far larger).
    max_iterations : int
    solver : "auto" | "numba" | "kernel" | "log"
        Of "sinkhorn". "numba": fused, any ε, float32 on the CPU. "kernel": matrix-vector products, only where
        range(C)/ε is small. "log": any ε, any device. "auto": the first of them that is safe here.

    Raises
    ------
    ValueError
        For shapes, masks or options that do not fit, and for NaN or infinity at real tokens (counted, with the
        samples that hold them).

    Examples
    --------
    >>> x = torch.eye(3).unsqueeze(0)
    >>> result = transport(x, x, epsilon=0.01)
    >>> result.plan[0].argmax(1)
    tensor([0, 1, 2])
    """
    check_tokens(x, y, x_mask, y_mask)
    options = {"tolerance": tolerance, "max_iterations": max_iterations, "solver": solver}
    _check_options(method, epsilon=epsilon, marginal_penalty=marginal_penalty, window=window, **options)
    # Autocast would run the products in half precision, and the plan with them.
    with torch.autocast(x.device.type, enabled=False):
        x_real, y_real = expand_mask(x_mask, x), expand_mask(y_mask, y)
        # The solvers pass over an error in the cost that is small beside ε; the others know no ε.
        c = _cost(x, y, x_mask, y_mask, cost, epsilon / 1000 if method in ("sinkhorn", "unbalanced") else 0.0)
        options["penalty"] = marginal_penalty if method == "unbalanced" else None
        limited = c.detach()
        if window < 1 and c.numel():
            # So dear that no chain of cheaper moves, each of them once, is worth a pair that the window leaves out.
            dear = (limited.abs().amax() + 40 * epsilon) * 2 * sum(c.shape[1:])
            beyond = beyond_window(x_real, y_real, window) & (x_real[:, :, None] & y_real[:, None])
            limited = torch.where(beyond, dear.clamp_max(torch.finfo(c.dtype).max / 4), limited)
        value, plan, iterations, error = _solve(limited, x_real, y_real, method, epsilon, options)
        distance = _Envelope.apply(c, value, plan)
    converged = (error <= tolerance) & torch.isfinite(value)
    return TransportResult(distance, plan, c.detach(), converged, error, iterations)


def _check_options(method: str, solver: str, max_iterations: int, **values: float) -> None:
    """Raise a `ValueError` that names an option outside its range; what lies beyond, float32 cannot hold."""
    for name, choice, choices in (("method", method, METHODS), ("solver", solver, SOLVERS)):
        if choice not in choices:
            raise ValueError(f"{name}: found {choice!r}; expected one of {', '.join(choices)}")
    if not isinstance(max_iterations, int) or max_iterations < 1:
        raise ValueError(f"max_iterations: found {max_iterations!r}; expected a whole number of at least 1")
    ranges = {"window": (0, 1), "tolerance": (0, 1e30)}
    if method in ("sinkhorn", "unbalanced"):
        ranges["epsilon"] = (1e-30, torch.inf if values["window"] == 1 else 1e30)
    if method == "unbalanced":
        ranges["marginal_penalty"] = (1e-30, 1e30)
    for name, (least, most) in ranges.items():
        if not isinstance(values[name], numbers.Real) or not least <= values[name] <= most:
            hint = " (for ε = 0 use method='exact')" if name == "epsilon" else ""
            raise ValueError(f"{name}: found {values[name]!r}; expected a number in [{least}, {most}]{hint}")


class _Envelope(torch.autograd.Function):
    """The value of a transport problem as a function of its cost: the derivative is the plan."""

    @staticmethod
    def forward(ctx, cost: Tensor, value: Tensor, plan: Tensor) -> Tensor:
        ctx.save_for_backward(plan)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        refuse_second_derivative("transport")
        (plan,) = ctx.saved_tensors
        return gradient[:, None, None] * plan, None, None


@torch.no_grad()
def _solve(cost: Tensor, x_real: Tensor, y_real: Tensor, method: str, epsilon: float, options: dict) -> Solution:
    """Solve by `method`; a sample without tokens in x or in y moves nothing, at no cost."""
    if cost.numel() == 0:  # no samples, or no tokens at all
        nothing = cost.sum((1, 2))
        return Solution(nothing, cost, nothing.to(torch.int64), nothing)
    a, b = (real.to(cost.dtype) / real.sum(1, keepdim=True).clamp_min(1) for real in (x_real, y_real))
    present = x_real.any(1) & y_real.any(1)
    if method == "relaxed":
        solution = _relaxed(cost, a, y_real)
    elif method == "exact":
        solution = _exact(cost, a, b)
    else:
        # A sample without tokens still has to pass through the batched solver: with uniform weights over its padding.
        a, b = (torch.where(present[:, None], weights, 1 / weights.shape[1]) for weights in (a, b))
        solution = solve(cost, a, b, cost.new_full((len(cost),), epsilon, dtype=widest(cost)), **options)
    if may_look(cost) and present.all():
        return solution
    return Solution(
        torch.where(present, solution.value, 0),
        torch.where(present[:, None, None], solution.plan, 0),
        solution.iterations,
        torch.where(present, solution.marginal_error, 0),
    )


def _cost(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, cost: str | Tensor, error: float
) -> Tensor:
    """The cost (B, Tx, Ty) by its name, with at most this error, or as it is passed, checked; 0 on padding."""
    dtype = common_dtype(x, y)
    if isinstance(cost, str):
        if cost not in COSTS:
            raise ValueError(f"cost: found {cost!r}; expected one of {', '.join(COSTS)}, or a tensor")
        if x.shape[2] != y.shape[2]:
            raise ValueError(
                f"x and y: found widths {x.shape[2]} and {y.shape[2]}; expected the same for cost={cost!r}"
            )
        x, y = real_tokens(x, x_mask, dtype), real_tokens(y, y_mask, dtype)
        require_finite("x", x)
        require_finite("y", y)
        cost = COSTS[cost](x, y, x_mask, y_mask, error)
    elif not isinstance(cost, Tensor) or torch.promote_types(cost.dtype, torch.float32) != dtype:
        found = getattr(cost, "dtype", type(cost).__name__)
        raise ValueError(f"cost: found {found}, where x and y are computed in {dtype}; expected a tensor of that dtype")
    expected = (x.shape[0], x.shape[1], y.shape[1])
    if tuple(cost.shape) != expected:
        raise ValueError(f"cost: found {tuple(cost.shape)}; expected {expected}")
    if x_mask is not None or y_mask is not None:
        cost = torch.where(expand_mask(x_mask, x)[:, :, None] & expand_mask(y_mask, y)[:, None], cost, 0)
    require_finite("cost", cost)
    return cost.to(dtype)


def _relaxed(cost: Tensor, a: Tensor, y_mask: Tensor) -> Solution:
    nearest, j = torch.where(y_mask[:, None], cost, torch.inf).min(2)
    plan = torch.zeros_like(cost).scatter_(2, j.unsqueeze(2), a.unsqueeze(2))
    value = (a * torch.where(torch.isfinite(nearest), nearest, 0)).sum(1)
    nothing = torch.zeros_like(value)
    return Solution(value, plan, nothing.to(torch.int64), nothing)


def _exact(cost: Tensor, a: Tensor, b: Tensor) -> Solution:
    import ot  # here, because it takes a second to import and only this method needs it

    plan = torch.zeros_like(cost)
    costs, a64, b64 = (np.ascontiguousarray(t.double().cpu().numpy()) for t in (cost, a, b))
    for s in range(cost.shape[0]):
        rows, columns = np.flatnonzero(a64[s]), np.flatnonzero(b64[s])
        if rows.size and columns.size:
            wa, wb = a64[s, rows] / a64[s, rows].sum(), b64[s, columns] / b64[s, columns].sum()
            best = ot.emd(wa, wb, costs[s][np.ix_(rows, columns)], numItermax=10_000_000)
            plan[s, rows[:, None], columns[None]] = torch.as_tensor(best, dtype=plan.dtype, device=plan.device)
    error = marginal_error(plan, a, b)
    return Solution((plan * cost).sum((1, 2)), plan, torch.zeros_like(error, dtype=torch.int64), error)
