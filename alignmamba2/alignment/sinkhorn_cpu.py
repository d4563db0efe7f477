r"""Sinkhorn's iterations on the CPU, in numba: one pass over the kernel an iteration, for every ε.

The iterations run in the kernel domain, u ← a / (K v), v ← b / (Kᵀ u), where they are a few multiplications an entry.
K = exp((f_i + g_j − C_ij) / ε) is taken relative to potentials f, g. Whenever the scalings leave the range in which
float32 is safe, their logarithms move into f and g and K is computed anew ("absorption" [1]_), so small ε costs more
iterations but neither overflows nor needs a logarithm in the loop.

One pass serves both updates: a block of rows of K, still in the first-level cache from its product with v, is added to
Kᵀ u with its new u. The product with v also gives the marginal error of the previous iterate for nothing.

References
----------
.. [1] B. Schmitzer. Stabilized sparse scaling algorithms for entropy regularized transport problems. SIAM Journal on
   Scientific Computing, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

f32 = np.float32

# Sums and minima may be reordered, so that they fill vector registers. Inputs are finite, so NaN need not be minded;
# infinity keeps its meaning.
FAST = {"contract", "reassoc", "nsz", "nnan"}

# u/a and v/b stay within e^±20. An entry of K below e^-60 then carries less than e^-20 of the mass a_i b_j: cut off
# there, K needs no denormal numbers, which are slow, and loses nothing that float32 could hold.
LARGEST_SCALING = f32(np.exp(20.0))
LEAST_EXPONENT, LARGEST_EXPONENT = f32(-60.0), f32(60.0)
TINY = f32(1e-30)


@contextmanager
def torch_threads() -> Iterator[None]:
    """Let numba use as many threads as torch does, so that one setting rules both."""
    threads = torch.get_num_threads()
    # Torch first: both run on the same OpenMP, and when numba starts it sets the number for both.
    numba_threads = numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(numba_threads)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@njit(fastmath={"contract"}, cache=True)
def exp32(x):
    """exp(x) for |x| ≤ 80 in float32, to 2 units in the last place; unlike `math.exp` it fills vector registers."""
    k = np.floor(x * f32(1.44269504) + f32(0.5))
    r = (x - k * f32(0.693359375)) + k * f32(2.12194440e-4)  # x − k ln 2, ln 2 in two parts to keep the digits
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1.0)
    return p * np.int32((np.int32(k) + 127) << 23).view(f32)  # · 2ᵏ, by writing the exponent's bits


@njit(fastmath=FAST, cache=True)
def _gibbs_kernel(cost, f, g, epsilon, n, m, k):
    """k[i, j] = exp((f_i + g_j − cost_ij) / ε)."""
    rate = f32(1.0) / epsilon
    for i in range(n):
        fi = f[i]
        for j in range(m):
            # The upper limit only ever holds at padding, whose potentials mean nothing.
            k[i, j] = exp32(min(max((fi + g[j] - cost[i, j]) * rate, LEAST_EXPONENT), LARGEST_EXPONENT))


@njit(fastmath=FAST, cache=True)
def _least_of_columns(cost, a, f, n, m, g):
    """g_j = min_i (C_ij − f_i) over rows that have a weight."""
    for j in range(m):
        g[j] = f32(np.inf)
    for i in range(n):
        if a[i] > 0:
            fi = f[i]
            for j in range(m):
                c = cost[i, j] - fi
                g[j] = c if c < g[j] else g[j]


@njit(fastmath=FAST, cache=True)
def _update_row(s, a, u):
    """u = a / s for a row: the new u, u/a, and the marginal error that the old u had."""
    ratio = f32(1.0) / max(s, TINY)
    return a * ratio, ratio if a > 0 else f32(1.0), abs(u * s - a)


@njit(fastmath=FAST, cache=True)
def _iterate(k, a, b, u, v, total, n, m):
    """u ← a / (k v), v ← b / (kᵀ u) in place, in one pass over k.

    Returns ‖P1 − a‖₁ of the plan *before* the pass, and the largest and smallest entry of u/a and v/b after it.
    """
    error, high, low = f32(0.0), f32(1.0), f32(1.0)
    for j in range(m):
        total[j] = f32(0.0)
    blocks = n - n % 4
    # Four rows at a time: v and the column sums are then loaded a quarter as often.
    for i in range(0, blocks, 4):
        s0, s1, s2, s3 = f32(0.0), f32(0.0), f32(0.0), f32(0.0)
        for j in range(m):
            s0 += k[i, j] * v[j]
            s1 += k[i + 1, j] * v[j]
            s2 += k[i + 2, j] * v[j]
            s3 += k[i + 3, j] * v[j]
        u0, r0, e0 = _update_row(s0, a[i], u[i])
        u1, r1, e1 = _update_row(s1, a[i + 1], u[i + 1])
        u2, r2, e2 = _update_row(s2, a[i + 2], u[i + 2])
        u3, r3, e3 = _update_row(s3, a[i + 3], u[i + 3])
        u[i], u[i + 1], u[i + 2], u[i + 3] = u0, u1, u2, u3
        error += e0 + e1 + e2 + e3
        high = max(high, max(max(r0, r1), max(r2, r3)))
        low = min(low, min(min(r0, r1), min(r2, r3)))
        for j in range(m):
            total[j] += k[i, j] * u0 + k[i + 1, j] * u1 + k[i + 2, j] * u2 + k[i + 3, j] * u3
    for i in range(blocks, n):
        s = f32(0.0)
        for j in range(m):
            s += k[i, j] * v[j]
        u[i], ratio, e = _update_row(s, a[i], u[i])
        error += e
        high, low = max(high, ratio), min(low, ratio)
        for j in range(m):
            total[j] += k[i, j] * u[i]
    for j in range(m):
        ratio = f32(1.0) / max(total[j], TINY)
        v[j] = b[j] * ratio
        ratio = ratio if b[j] > 0 else f32(1.0)
        high, low = max(high, ratio), min(low, ratio)
    return error, high, low


@njit(cache=True)
def _absorb(potential, scaling, weight, epsilon, size):
    """Move ε log(scaling / weight) into the potential and reset the scaling to the weight."""
    for i in range(size):
        if weight[i] > 0:
            potential[i] += epsilon * np.log(max(scaling[i] / weight[i], TINY))
        scaling[i] = weight[i]


@njit(cache=True)
def _dual(potential, scaling, weight, epsilon, size):
    value = 0.0  # float64: the sum of many small terms
    for i in range(size):
        if weight[i] > 0:
            value += weight[i] * (potential[i] + epsilon * np.log(max(scaling[i] / weight[i], TINY)))
    return value


@njit(fastmath=FAST, cache=True)
def _scale_to_plan(k, u, v, a, b, total, n, m):
    """k ← diag(u) k diag(v) in place. Returns its sum and ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁."""
    mass, error = 0.0, f32(0.0)
    for j in range(m):
        total[j] = f32(0.0)
    for i in range(n):
        row, ui = f32(0.0), u[i]
        for j in range(m):
            p = ui * k[i, j] * v[j]
            k[i, j] = p
            row += p
            total[j] += p
        error += abs(row - a[i])
        mass += row
    for j in range(m):
        error += abs(total[j] - b[j])
    return mass, error


@njit(cache=True)
def _last_real(weight):
    size = weight.size
    while size > 0 and weight[size - 1] == 0:
        size -= 1
    return size


@njit(cache=True)
def _solve_one(cost, a, b, f, epsilon, start, scaling, tolerance, max_iterations, plan):
    n, m = _last_real(a), _last_real(b)  # trailing padding is not even read
    g, total = np.empty(m, f32), np.empty(m, f32)
    u, v = a[:n].copy(), b[:m].copy()
    _least_of_columns(cost, a, f, n, m, g)
    now = max(epsilon, start)  # ε of this iteration
    _gibbs_kernel(cost, f, g, now, n, m, plan)
    t, fresh = 0, True
    while t < max_iterations:
        error, high, low = _iterate(plan, a, b, u, v, total, n, m)
        t += 1
        # In a fresh kernel the columns were not right before the pass, so the rows did not carry the whole error.
        if now == epsilon and not fresh and error <= tolerance:
            break
        fresh = False
        if now > epsilon or high > LARGEST_SCALING or low * LARGEST_SCALING < 1:
            _absorb(f, u, a, now, n)
            _absorb(g, v, b, now, m)
            fresh = now > epsilon
            now = max(epsilon, now * scaling)
            _gibbs_kernel(cost, f, g, now, n, m, plan)
    if now > epsilon:  # out of iterations on the way to ε: the plan of what there is, at the ε that was asked for
        _gibbs_kernel(cost, f, g, epsilon, n, m, plan)
    value = _dual(f, u, a, epsilon, n) + _dual(g, v, b, epsilon, m)
    mass, error = _scale_to_plan(plan, u, v, a, b, total, n, m)
    plan[n:] = f32(0.0)
    plan[:n, m:] = f32(0.0)
    return value - epsilon * (mass - 1.0), t, error


@njit(parallel=True, cache=True)
def _solve_batch(cost, a, b, f, epsilon, start, scaling, tolerance, max_iterations, plan, value, iterations, error):
    for s in prange(cost.shape[0]):
        value[s], iterations[s], error[s] = _solve_one(
            cost[s], a[s], b[s], f[s], epsilon[s], start[s], scaling, tolerance, max_iterations, plan[s]
        )


def solve_numba(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    scaling: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve B problems, float32, on the CPU; arguments and return as `sinkhorn.solve_log_domain`.

    Samples run in parallel, on as many threads as torch uses, and each stops on its own.
    """
    size = cost.shape[0]
    plan = torch.empty_like(cost, memory_format=torch.contiguous_format)
    value, error = torch.empty(size), torch.empty(size)
    iterations = torch.empty(size, dtype=torch.int64)
    # Start from f_i = min_j C_ij, g_j = min_i (C_ij − f_i): whatever ε, every row and column of K then holds a 1.
    # The minima are over real tokens. (Here, because numba's minimum of a row does not fill vector registers.)
    padded = bool((a == 0).any() or (b == 0).any())
    f = (torch.where((b > 0)[:, None], cost, torch.inf) if padded else cost).amin(2)
    start = torch.zeros(size)
    if scaling:
        pairs = (a > 0)[:, :, None] & (b > 0)[:, None]
        start = scaling * (torch.where(pairs, cost, -torch.inf).amax((1, 2)) - f.amin(1))
    inputs = [t.detach().contiguous().numpy() for t in (cost, a, b, f, epsilon, start)]
    outputs = [t.numpy() for t in (plan, value, iterations, error)]
    with torch_threads():
        _solve_batch(*inputs, f32(scaling or 0.0), f32(tolerance), max_iterations, *outputs)
    return value, plan, iterations, error
