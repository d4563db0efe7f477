r"""Sinkhorn's iterations for a batch of entropic transport problems.

For weights a (Tx,), b (Ty,) that sum to 1, cost C (Tx, Ty) and ε > 0, the problem is

    min over P ≥ 0 with P1 = a, Pᵀ1 = b  of  ⟨P, C⟩ + ε KL(P ‖ abᵀ),   KL(P ‖ Q) = Σ P log(P/Q) − ΣP + ΣQ,

and its dual  max over f, g  of  ⟨a, f⟩ + ⟨b, g⟩ − ε (Σ_ij P_ij − 1)  with  P_ij = a_i b_j exp((f_i + g_j − C_ij)/ε).

Three solvers, one contract: `cpu.solve_transport` (float32 on the CPU, any ε), `solve_kernel_domain` (two matrix-vector
products an iteration; only where exp(−C/ε) is safe) and `solve_log_domain` (any ε, any device; also the
unbalanced problem). `solve` chooses.

They return the dual value. Its error is of second order in the marginal error, while the primal value's is of
first order; and its derivative with respect to C at fixed potentials is P itself, so value and gradient belong
together even before convergence.

References
----------
.. [1] M. Cuturi. Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 2013.
.. [2] G. Peyré, M. Cuturi. Computational optimal transport. Foundations and Trends in ML, 2019.
.. [3] L. Chizat, G. Peyré, B. Schmitzer, F.-X. Vialard. Scaling algorithms for unbalanced optimal transport
   problems. Mathematics of Computation, 2018.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import cpu
from ..gpu.host import Flag, may_look, widest

SOLVERS = ("auto", "numba", "kernel", "log")

# Range of C/ε up to which the kernel domain is safe: products of two scalings stay normal numbers.
SAFE_RANGE = {torch.float32: 30.0, torch.float64: 250.0}

# Potentials are known to a rounding error times ε: in float32 to that of the cost up to so many times its size.
ROUGH_EPSILON, LARGEST_EPSILON = 1_000, 1e8

# The marginal error is looked at every so many iterations.
LOOK_EVERY = 10


class Solution(NamedTuple):
    """The solution of B problems, by any solver; nothing of it carries a gradient."""

    value: Tensor  # (B,) dual value
    plan: Tensor  # (B, Tx, Ty)
    iterations: Tensor  # (B,) int64
    marginal_error: Tensor  # (B,) ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁; unbalanced: last change of f over ε


@torch.compiler.disable
def solve(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    solver: str = "auto",
    penalty: float | None = None,
    **limits: float,
) -> Solution:
    """Solve with `solver`, or with the quickest one that is safe here; the rest as in `solve_log_domain`."""
    size = cost.flatten(1).abs().amax(1)
    # Beyond, the distance is the mean cost, but for a rounding error times ε.
    epsilon = torch.minimum(epsilon, torch.where(size > 0, LARGEST_EPSILON * size.to(epsilon.dtype), 1))
    rough = cost.dtype != widest(cost) and may_look(cost)
    rough = rough and bool(((epsilon > ROUGH_EPSILON * size) & (size > 0)).any())
    if rough:
        weights, dtype = (t.double() / t.sum(1, keepdim=True, dtype=torch.float64) for t in (a, b)), cost.dtype
        solver = "auto" if solver == "numba" else solver
        found = solve(cost.double(), *weights, epsilon, solver=solver, penalty=penalty, **limits)
        return Solution(found.value.to(dtype), found.plan.to(dtype), found.iterations, found.marginal_error.to(dtype))
    epsilon = epsilon.to(cost.dtype)
    if penalty is not None:
        return solve_log_domain(cost, a, b, epsilon, penalty=penalty, **limits)
    fits_numba = cost.device.type == "cpu" and cost.dtype == torch.float32
    if solver == "auto" and fits_numba and cpu.available():
        solver = "numba"
    if solver == "auto" and not may_look(cost):
        solver = "log"
    if solver in ("auto", "kernel"):
        pairs = _pairs(a, b)
        most, least = torch.where(pairs, cost, -torch.inf), torch.where(pairs, cost, torch.inf)
        safe = bool((most.amax((1, 2)) - least.amin((1, 2)) <= SAFE_RANGE[cost.dtype] * epsilon).all())
        if solver == "kernel" and not safe:
            raise ValueError(
                f"solver='kernel': found range(C)/ε above {SAFE_RANGE[cost.dtype]:.0f}, where exp(−C/ε) underflows; "
                "expected less. Use solver='auto'"
            )
        solver = "kernel" if safe else "log"
    if solver == "numba":
        if not fits_numba:
            raise ValueError(f"solver='numba': found {cost.dtype} on {cost.device}; expected float32 on the CPU")
        if not cpu.available():
            reason, fix = cpu.obstacle()
            raise RuntimeError(f"solver='numba': {reason}; expected numba to compile: {fix}")
        return Solution(*cpu.solve_transport(cost, a, b, epsilon, **limits))
    if solver == "kernel":
        return solve_kernel_domain(cost, a, b, epsilon, **limits)
    return solve_log_domain(cost, a, b, epsilon, **limits)


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a > 0)[:, :, None] & (b > 0)[:, None]


def _repeat(
    update: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    error: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Iterate (x, y) ← update(x, y), sample by sample until error(old x, x, y) ≤ tolerance.

    A finished sample stands still, so its answer does not depend on its neighbours in the batch.
    """
    done = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    iterations = torch.zeros_like(done, dtype=torch.int64)
    last = torch.full(done.shape, torch.inf, dtype=x.dtype, device=x.device)
    all_done = Flag(x.device)
    for t in range(1, max_iterations + 1):
        new_x, new_y = update(x, y)
        look = t % LOOK_EVERY == 0 or t == max_iterations
        if look:
            last = torch.where(done, last, error(x, new_x, new_y))
        x, y = torch.where(done[:, None], x, new_x), torch.where(done[:, None], y, new_y)
        iterations += ~done
        if look:
            done = last <= tolerance
            if all_done.was(done.all()):
                break
    return x, y, iterations, last


def solve_kernel_domain(cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, **limits: float) -> Solution:
    """Iterate on the scalings u = a exp(f/ε), v = b exp(g/ε) [1]_; arguments as in `solve_log_domain`.

    Only where range(C)/ε ≤ `SAFE_RANGE`; beyond, exp(−C/ε) underflows and NaN follows.
    """
    pairs = _pairs(a, b)
    least = torch.where(pairs, cost, torch.inf).amin((1, 2))
    k = torch.exp((least[:, None, None] - cost) / epsilon[:, None, None]) * pairs

    def ratio(weight: Tensor, product: Tensor) -> Tensor:
        return torch.where(weight > 0, weight / product, 0)

    def rows(v: Tensor) -> Tensor:
        return torch.bmm(k, v.unsqueeze(2)).squeeze(2)

    def update(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u = ratio(a, rows(v))
        return u, ratio(b, torch.bmm(u.unsqueeze(1), k).squeeze(1))

    def error(old: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * rows(v) - a).abs().sum(1)

    u, v, iterations, _ = _repeat(update, error, a, b, **limits)
    plan = u[:, :, None] * k * v[:, None]
    f = epsilon[:, None] * torch.where(a > 0, u / a, 1).log() + least[:, None]
    g = epsilon[:, None] * torch.where(b > 0, v / b, 1).log()
    return Solution(_dual_value(f, g, a, b, plan, epsilon), plan, iterations, marginal_error(plan, a, b))


def solve_log_domain(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, *, penalty: float | None = None, **limits: float
) -> Solution:
    """Iterate on the potentials f, g [2]_: slow, and safe for every ε; also the unbalanced problem [3]_.

    Parameters
    ----------
    cost : Tensor (B, Tx, Ty), float32 or float64
    a : Tensor (B, Tx);  b : Tensor (B, Ty)
        Rows sum to 1; a weight of 0 takes the token out of the problem.
    epsilon : Tensor (B,)
    penalty : float ρ, optional
        Replace the constraints on the marginals by ρ KL(P1 ‖ a) + ρ KL(Pᵀ1 ‖ b).
    **limits
        `tolerance` and `max_iterations`, as in `transport`.
    """
    log_a, log_b = a.log(), b.log()  # −∞ for a weight of 0, whose token then never counts in a sum
    eps = epsilon[:, None]
    # With the marginals relaxed, every update is pulled towards 0 by the factor ρ / (ρ + ε).
    step = eps if penalty is None else eps * penalty / (penalty + eps)

    def log_plan(f: Tensor, g: Tensor) -> Tensor:
        kernel = (f[:, :, None] + g[:, None] - cost) / epsilon[:, None, None]
        return kernel + log_a[:, :, None] + log_b[:, None]

    def update(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        f = -step * torch.logsumexp((g[:, None] - cost) / eps[:, :, None] + log_b[:, None], 2)
        return f, -step * torch.logsumexp((f[:, :, None] - cost) / eps[:, :, None] + log_a[:, :, None], 1)

    def error(old: Tensor, f: Tensor, g: Tensor) -> Tensor:
        if penalty is None:  # g was updated last, so the columns are right and the rows carry the whole error
            return (torch.logsumexp(log_plan(f, g), 2).exp() - a).abs().sum(1)
        return ((f - old).abs() * (a > 0)).amax(1) / epsilon

    f, g, iterations, last = _repeat(update, error, torch.zeros_like(a), torch.zeros_like(b), **limits)
    plan = log_plan(f, g).exp()
    value = _dual_value(f, g, a, b, plan, epsilon, penalty)
    return Solution(value, plan, iterations, marginal_error(plan, a, b) if penalty is None else last)


def marginal_error(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁."""
    return (plan.sum(2) - a).abs().sum(1) + (plan.sum(1) - b).abs().sum(1)


def _dual_value(f, g, a, b, plan, epsilon, penalty: float | None = None) -> Tensor:
    f, g = torch.where(a > 0, f, 0), torch.where(b > 0, g, 0)
    if penalty is None:
        marginals = (a * f).sum(1) + (b * g).sum(1)
    else:
        marginals = -penalty * ((a * torch.expm1(-f / penalty)).sum(1) + (b * torch.expm1(-g / penalty)).sum(1))
    return marginals - epsilon * (plan.sum((1, 2)) - 1)
