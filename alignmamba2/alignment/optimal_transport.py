"""Optimal transport between the tokens of two modalities: which token belongs to which, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .costs import (
    COSTS,
    Cost,
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
    """What `transport` returns, whatever the method. Only `distance` carries a gradient.

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
        How far the plan is from what the method promises: ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ for "sinkhorn" and "exact",
        the last change of the potentials over ε for "unbalanced", 0 for "relaxed".
    iterations : Tensor (B,), int64
    epsilon : Tensor (B,), float
        The absolute ε of each sample; 0 for "relaxed" and "exact".
    """

    distance: Tensor
    plan: Tensor
    cost: Tensor
    converged: Tensor
    marginal_error: Tensor
    iterations: Tensor
    epsilon: Tensor

    @property
    def transport_cost(self) -> Tensor:
        """⟨P, C⟩ (B,): the cost that the plan pays, without the entropy. To be looked at, not trained."""
        return (self.plan * self.cost).sum((1, 2))


def transport(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    cost: Cost = "cosine",
    method: str = "sinkhorn",
    relative: bool = False,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    marginal_penalty: float = 1.0,
    debias: bool = False,
    scaling: float | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    solver: str = "auto",
) -> TransportResult:
    r"""Optimal transport between the real tokens of x and y, sample by sample.

    With C the cost, a and b the weights of the tokens (uniform over the real ones unless given), a plan P ≥ 0 is
    sought and `distance` is

    - "sinkhorn":    min ⟨P, C⟩ + ε KL(P ‖ abᵀ)  subject to  P1 = a, Pᵀ1 = b  [1]_;
    - "relaxed":     Σ_i a_i min_j C_ij: every token of x goes to its nearest of y, the anchor; Pᵀ1 = b is dropped;
    - "unbalanced":  min ⟨P, C⟩ + ε KL(P ‖ abᵀ) + ρ KL(P1 ‖ a) + ρ KL(Pᵀ1 ‖ b), ρ = `marginal_penalty` [2]_;
    - "exact":       min ⟨P, C⟩  subject to  P1 = a, Pᵀ1 = b, by POT's network simplex [3]_ (CPU, float64, slow).

    **Which value is trained.** `distance` is the *regularised* value above, whose gradient with respect to C is
    the plan (envelope theorem); nothing is differentiated through the iterations, so memory does not grow with
    them. It is not ⟨P, C⟩, which is `transport_cost` and whose gradient is another one. The constant: with the
    weights fixed, ε KL(P ‖ abᵀ) = ε Σ P log P − ε Σ a log a − ε Σ b log b, so for uniform weights `distance` is
    ⟨P, C⟩ + ε Σ P log P + ε log(Tx Ty); it is never negative for C ≥ 0, tends to the exact distance for ε → 0 and to
    the mean cost for ε → ∞. Weights and ε get no gradient. A second derivative raises an error.

    Parameters
    ----------
    x : Tensor (B, Tx, d), float;  y : Tensor (B, Ty, d), float
        Half precision is computed in float32. What lies on padding is never looked at.
    x_mask : Tensor (B, Tx), bool;  y_mask : Tensor (B, Ty), bool
        True at real tokens; left out: all are real. In a sample without a real token in x or in y, the
        distance is 0, the plan is zero, and so is the gradient.
    epsilon : float
        ε, in the unit of the cost. 0.05 for the cosine cost ("third-party implementation").
    cost : "cosine" | "sqeuclidean" | Tensor (B, Tx, Ty) | callable (x, y) -> (B, Tx, Ty)
        "cosine" is 1 − cos ("AlignMamba v1, third-party write-up").
    method : "sinkhorn" | "relaxed" | "unbalanced" | "exact"
        "relaxed" is AlignMamba v1's closed form ("third-party write-up"); that v2 uses "sinkhorn" is said by a
        third-party implementation only.
    relative : bool
        Measure ε in units of the sample's mean cost over real pairs ("our choice"); no gradient flows through it.
    x_weights : Tensor (B, Tx), float;  y_weights : Tensor (B, Ty), float
        Non-negative; set to 0 on padding and scaled to sum 1.
    marginal_penalty : float
        ρ of "unbalanced", in the unit of the cost.
    debias : bool
        distance(x, y) − ½ distance(x, x) − ½ distance(y, y): the Sinkhorn divergence [4]_, 0 for x = y. "sinkhorn"
        only, and the cost must be a name or a callable. The plan stays that of (x, y).
    scaling : float in (0, 1), optional
        Start with a large ε and multiply it by `scaling` until ε is reached: fewer iterations when ε is small.
    tolerance : float
        A sample is `converged` and stands still once its `marginal_error` is at most this ("our choice": a tenth of
        a per cent of the mass; the plan is the gradient, and a training step's noise is far larger).
    max_iterations : int
    solver : "auto" | "numba" | "kernel" | "log"
        Of "sinkhorn". "numba": fused, any ε, float32 on the CPU. "kernel": matrix-vector products, only where
        range(C)/ε is small. "log": any ε, any device. "auto": the first of them that is safe here.

    Returns
    -------
    TransportResult

    Raises
    ------
    ValueError
        For shapes, masks or options that do not fit, and for NaN or infinity at real tokens (counted, with the
        samples that hold them).

    References
    ----------
    .. [1] M. Cuturi. Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 2013.
    .. [2] L. Chizat, G. Peyré, B. Schmitzer, F.-X. Vialard. Scaling algorithms for unbalanced optimal transport
       problems. Mathematics of Computation, 2018.
    .. [3] R. Flamary et al. POT: Python Optimal Transport. JMLR, 2021.
    .. [4] J. Feydy et al. Interpolating between optimal transport and MMD using Sinkhorn divergences. AISTATS 2019.

    Examples
    --------
    >>> x = torch.eye(3).unsqueeze(0)
    >>> result = transport(x, x, epsilon=0.01)
    >>> result.plan[0].argmax(1)
    tensor([0, 1, 2])
    """
    check_tokens(x, y, x_mask, y_mask)
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}; expected one of {', '.join(METHODS)}")
    if method in ("sinkhorn", "unbalanced") and not epsilon > 0:
        raise ValueError(f"epsilon: found {epsilon}; expected a number > 0 (for ε = 0 use method='exact')")
    if solver not in SOLVERS:
        raise ValueError(f"solver: found {solver!r}; expected one of {', '.join(SOLVERS)}")
    if debias and (method != "sinkhorn" or isinstance(cost, Tensor)):
        raise ValueError("debias=True needs method='sinkhorn' and a cost that is a name or a callable")
    options = {"method": method, "epsilon": epsilon, "penalty": marginal_penalty, "scaling": scaling}
    options |= {"tolerance": tolerance, "max_iterations": max_iterations, "solver": solver}

    # Autocast would run the products in half precision, and the plan with them.
    with torch.autocast(x.device.type, enabled=False):
        dtype = common_dtype(x, y)
        x_side, y_side = (
            (real_tokens(tokens, mask, dtype), expand_mask(mask, tokens), _weights(name, tokens, mask, weights, dtype))
            for name, tokens, mask, weights in (("x", x, x_mask, x_weights), ("y", y, y_mask, y_weights))
        )
        padded = x_mask is not None or y_mask is not None
        result = _solve(x_side, y_side, cost, padded, relative=relative, **options)
        if not debias:
            return result
        # The same ε for all three, or the differences would not cancel.
        options["epsilon"] = result.epsilon
        own = [_solve(side, side, cost, padded, relative=False, **options).distance for side in (x_side, y_side)]
        present = (result.plan.sum((1, 2)) > 0).to(result.distance.dtype)
        distance = result.distance - 0.5 * present * (own[0] + own[1])
        return TransportResult(**{**vars(result), "distance": distance})


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


def _solve(x_side, y_side, cost, padded, *, method, epsilon, relative, penalty, **options) -> TransportResult:
    (x, x_mask, a), (y, y_mask, b) = x_side, y_side
    c = _cost(x, y, cost)
    if c.numel() == 0:  # no samples, or no tokens at all
        nothing = c.detach().sum((1, 2))
        zero = torch.zeros_like(nothing, dtype=torch.int64)
        return TransportResult(c.sum((1, 2)), c.detach(), c.detach(), zero == 0, nothing, zero, nothing)
    if padded:
        pairs = x_mask[:, :, None] & y_mask[:, None]
        c = torch.where(pairs, c, 0)
    present = x_mask.any(1) & y_mask.any(1)
    with torch.no_grad():
        fixed = c.detach()
        eps = torch.as_tensor(epsilon, dtype=c.dtype, device=c.device).expand(c.shape[0])
        if relative:
            mean = (fixed * (x_mask[:, :, None] & y_mask[:, None])).sum((1, 2)) / (x_mask.sum(1) * y_mask.sum(1))
            eps = torch.where(present, eps * mean, eps).clamp_min(torch.finfo(c.dtype).tiny)
        if method == "relaxed":
            eps, solution = torch.zeros_like(eps), _relaxed(fixed, a, y_mask)
        elif method == "exact":
            eps, solution = torch.zeros_like(eps), _exact(fixed, a, b)
        else:
            options["penalty"] = penalty if method == "unbalanced" else None
            solution = solve(fixed, *_stand_in(a, b, present), eps, **options)
        value, plan, iterations, error = solution
        if padded and not present.all():  # in a sample without one of the two modalities there is nothing to move
            value, error = (torch.where(present, t, 0) for t in (value, error))
            plan = torch.where(present[:, None, None], plan, 0)
    return TransportResult(
        distance=_Envelope.apply(c, value, plan),
        plan=plan,
        cost=fixed,
        converged=error <= options["tolerance"],
        marginal_error=error,
        iterations=iterations,
        epsilon=eps,
    )


def _cost(x: Tensor, y: Tensor, cost: Cost) -> Tensor:
    expected = (x.shape[0], x.shape[1], y.shape[1])
    if isinstance(cost, str):
        if cost not in COSTS:
            raise ValueError(f"cost: found {cost!r}; expected one of {', '.join(COSTS)}, a tensor or a callable")
        if x.shape[2] != y.shape[2]:
            raise ValueError(
                f"x and y: found widths {x.shape[2]} and {y.shape[2]}; expected the same for cost={cost!r}"
            )
        require_finite("x", x)
        require_finite("y", y)
        c = COSTS[cost](x, y)
    else:
        c = cost(x, y) if callable(cost) else cost
        if torch.promote_types(c.dtype, torch.float32) != x.dtype:
            raise ValueError(
                f"cost: found {c.dtype}, where x and y are computed in {x.dtype}; expected the same: "
                f"pass cost.to({x.dtype}), or x and y in {c.dtype}"
            )
    if tuple(c.shape) != expected:
        raise ValueError(f"cost: found {tuple(c.shape)}; expected {expected}")
    require_finite("cost", c)
    return c.to(torch.promote_types(c.dtype, torch.float32))


def _weights(name: str, tokens: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(B, T), summing to 1 over real tokens; all zero in a sample without any."""
    if weights is None:
        weights = expand_mask(mask, tokens).to(dtype)
        return weights / weights.sum(1, keepdim=True).clamp_min(1)
    if weights.shape != tokens.shape[:2]:
        raise ValueError(f"{name}_weights: found {tuple(weights.shape)}; expected {tuple(tokens.shape[:2])}")
    weights = weights.detach().to(dtype)
    if mask is not None:
        weights = torch.where(mask, weights, 0)
    total = weights.sum(1, keepdim=True)
    has_tokens = torch.ones_like(total, dtype=torch.bool) if mask is None else mask.any(1, keepdim=True)
    if (weights < 0).any() or not torch.isfinite(total).all() or (has_tokens & (total <= 0)).any():
        raise ValueError(
            f"{name}_weights: expected finite, non-negative weights, not all zero over a sample's real tokens"
        )
    return weights / torch.where(total > 0, total, 1)


def _stand_in(a, b, present) -> tuple[Tensor, Tensor]:
    # A sample without tokens still has to pass through the batched solver: give it uniform weights, drop its answer.
    gone = ~present[:, None]
    return torch.where(gone, 1 / a.shape[1], a), torch.where(gone, 1 / b.shape[1], b)


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
