r"""Sinkhorn's iterations for a batch of entropic transport problems.

For weights a (Tx,), b (Ty,) that sum to 1, cost C (Tx, Ty) and ε > 0, the problem is

    min over P ≥ 0 with P1 = a, Pᵀ1 = b  of  ⟨P, C⟩ + ε KL(P ‖ abᵀ),   KL(P ‖ Q) = Σ P log(P/Q) − ΣP + ΣQ,

and its dual  max over f, g  of  ⟨a, f⟩ + ⟨b, g⟩ − ε (Σ_ij P_ij − 1)  with  P_ij = a_i b_j exp((f_i + g_j − C_ij)/ε).

The solvers return the dual value. Its error is of second order in the marginal error, while the primal
value's is of first order; and its derivative with respect to C at fixed potentials is P itself, so value and
gradient belong together even before convergence.

References
----------
.. [1] M. Cuturi. Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 2013.
.. [2] G. Peyré, M. Cuturi. Computational optimal transport. Foundations and Trends in ML, 2019.
.. [3] L. Chizat, G. Peyré, B. Schmitzer, F.-X. Vialard. Scaling algorithms for unbalanced optimal transport
   problems. Mathematics of Computation, 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The marginal error is looked at every so many iterations: on a GPU each look waits for the device.
LOOK_EVERY = 10


class Solution(NamedTuple):
    """What a solver returns, for B problems; nothing of it carries a gradient."""

    value: Tensor  # (B,) dual value
    plan: Tensor  # (B, Tx, Ty)
    iterations: Tensor  # (B,) int64
    marginal_error: Tensor  # (B,) ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁; unbalanced: change of the potentials over ε


def solve_log_domain(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    scaling: float | None = None,
    penalty: float | None = None,
) -> Solution:
    """Sinkhorn on the potentials: slow and safe for every ε; also the unbalanced problem [3]_.

    Parameters
    ----------
    cost : (B, Tx, Ty);  a : (B, Tx);  b : (B, Ty)
        Rows of `a` and `b` sum to 1; a weight of 0 takes the token out of the problem.
    epsilon : (B,)
    scaling : float in (0, 1), optional
        Iterate with max(ε, range(C) · scalingᵗ) in iteration t instead of ε.
    penalty : float ρ, optional
        Replace the constraints on the marginals by ρ KL(P1 ‖ a) + ρ KL(Pᵀ1 ‖ b).
    """
    log_a, log_b = a.log(), b.log()
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    start = cost.amax((1, 2)) - cost.amin((1, 2))
    iterations = torch.zeros_like(epsilon, dtype=torch.int64)
    error = torch.full_like(epsilon, torch.inf)
    done = torch.zeros_like(epsilon, dtype=torch.bool)
    for t in range(1, max_iterations + 1):
        eps = epsilon if scaling is None else torch.maximum(epsilon, start * scaling**t)
        eps = eps[:, None]
        # With the marginals relaxed, the update is pulled towards 0 by the factor ρ / (ρ + ε).
        damping = 1.0 if penalty is None else penalty / (penalty + eps)
        new_f = -damping * eps * torch.logsumexp((g[:, None] - cost) / eps[..., None] + log_b[:, None], 2)
        new_g = -damping * eps * torch.logsumexp((new_f[:, :, None] - cost) / eps[..., None] + log_a[:, :, None], 1)
        look = t % LOOK_EVERY == 0 or t == max_iterations
        if look:
            change = ((new_f - f).abs() * (a > 0)).amax(1) / epsilon
        # A finished sample stands still, so its answer does not depend on its neighbours in the batch.
        f, g = torch.where(done[:, None], f, new_f), torch.where(done[:, None], g, new_g)
        iterations += ~done
        if look:
            error = torch.where(done, error, change if penalty else _row_error(cost, f, g, log_a, log_b, epsilon, a))
            if scaling is not None:
                error = torch.where(eps[:, 0] > epsilon, torch.inf, error)
            done = error <= tolerance
            if done.all():
                break
    plan = torch.exp(_log_plan(cost, f, g, log_a, log_b, epsilon))
    value = _dual_value(f, g, a, b, plan, epsilon, penalty)
    return Solution(value, plan, iterations, error)


def _log_plan(cost: Tensor, f: Tensor, g: Tensor, log_a: Tensor, log_b: Tensor, epsilon: Tensor) -> Tensor:
    return (f[:, :, None] + g[:, None] - cost) / epsilon[:, None, None] + log_a[:, :, None] + log_b[:, None]


def _row_error(cost, f, g, log_a, log_b, epsilon, a) -> Tensor:
    # g was updated last, so the columns are right and the rows carry the whole error.
    rows = torch.logsumexp(_log_plan(cost, f, g, log_a, log_b, epsilon), 2).exp()
    return (rows - a).abs().sum(1)


def _dual_value(f, g, a, b, plan, epsilon, penalty) -> Tensor:
    f, g = torch.where(a > 0, f, 0), torch.where(b > 0, g, 0)
    if penalty is None:
        marginals = (a * f).sum(1) + (b * g).sum(1)
    else:
        marginals = -penalty * ((a * torch.expm1(-f / penalty)).sum(1) + (b * torch.expm1(-g / penalty)).sum(1))
    return marginals - epsilon * (plan.sum((1, 2)) - 1)
