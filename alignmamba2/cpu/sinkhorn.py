r"""Sinkhorn's iterations on the processor: one pass over the kernel per iteration, for every ε.

The iterations run in the kernel domain, u ← a / (K v), v ← b / (Kᵀ u), where they are a few multiplications an entry.
K = exp((f_i + g_j − C_ij) / ε) is taken relative to potentials f, g. Whenever the scalings leave the range in which
float32 is safe, their logarithms move into f and g and K is computed anew ("absorption" [1]_), so small ε costs more
iterations but neither overflows nor needs a logarithm in the loop.

One pass serves both updates: sixteen rows of K, still in the first-level cache from their product with v, are added to
Kᵀ u with their new u. The product with v also gives the marginal error of the previous iterate for nothing.

Samples are shared among the threads, and each stops on its own: the same bits for any number of threads.

References
----------
.. [1] B. Schmitzer. Stabilized sparse scaling algorithms for entropy regularized transport problems. SIAM Journal on
   Scientific Computing, 2019.
"""

import functools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .compiler import arrays, compiled, float32, int64
from .lanes.arithmetic import at_least, at_most, chosen, largest, spread, totals, weighted
from .lanes.arithmetic import total as sum_of
from .lanes.functions import exp2
from .lanes.memory import aligned, load, load_first, load_rows, store, store_first
from .lanes.vectors import LOG2E, WIDTH
from .threads import share

f32 = np.float32
WORTH_A_THREAD = 5_000  # pairs of tokens (B · Tx · Ty) that outweigh handing work to another thread

# Sums and minima may be reordered, so that they fill vector registers. Inputs are finite, so NaN need not be minded;
# infinity keeps its meaning.
FAST = {"contract", "reassoc", "nsz", "nnan"}

# u/a and v/b stay within e^±20. An entry of K below e^-60 then carries less than e^-20 of the mass a_i b_j: cut off
# there, K needs no denormal numbers, which are slow, and loses nothing that float32 could hold.
LARGEST_SCALING = f32(np.exp(20.0))
LEAST_EXPONENT, LARGEST_EXPONENT = -60 * LOG2E, 60 * LOG2E  # powers of 2
TINY = f32(1e-30)


@njit
def _gibbs_kernel(cost, f, g, epsilon, n, m, k):
    """k[i, j] = exp((f_i + g_j − cost_ij) / ε), and any finite number in the columns that fill a vector up."""
    rate = f32(LOG2E) / epsilon
    for i in range(n):
        for j in range(0, m, WIDTH):
            exponent = (load(g, (j,)) + f[i] - load_first(cost, (i, j), m - j)) * rate
            # The upper limit only ever holds at padding, whose potentials mean nothing.
            store(k, (i, j), exp2(at_most(at_least(exponent, LEAST_EXPONENT), LARGEST_EXPONENT)))


@njit(fastmath=FAST)
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


@njit(forceinline=True)
def _update(s, weights, extreme):
    """weights / s, and the largest of `extreme`, 1/s and s where there is a weight."""
    ratio = f32(1) / at_least(s, TINY)
    return weights * ratio, at_least(extreme, chosen(weights, at_least(ratio, s), extreme))


@njit
def _iterate(k, a, b, u, v, total, partial, n, m):
    """u ← a / (k v), v ← b / (kᵀ u) in place, in one pass over k.

    Returns ‖P1 − a‖₁ of the plan *before* the pass, and the largest of a/u, u/a, b/v and v/b after it.
    """
    zero = spread(f32(0))
    error, extreme = zero, spread(f32(1))
    for j in range(0, m, WIDTH):
        store(total, (j,), zero)
    for i in range(0, n, WIDTH):
        # Four rows at a time: v is then loaded a quarter as often.
        for r in range(i, min(i + WIDTH, n), 4):
            products = load_rows(k, (r, 0), 4) * load(v, (0,))
            for j in range(WIDTH, m, WIDTH):
                products = products + load_rows(k, (r, j), 4) * load(v, (j,))
            store(partial, (r - i, 0), products)
        s, weights = totals(load_rows(partial, (0, 0), WIDTH)), load(a, (i,))
        wrong = load(u, (i,)) * s - weights
        error = error + at_least(wrong, wrong * f32(-1))
        ui, extreme = _update(s, weights, extreme)
        store(u, (i,), ui)
        for j in range(0, m, WIDTH):
            store(total, (j,), load(total, (j,)) + weighted(load_rows(k, (i, j), WIDTH), ui))
    for j in range(0, m, WIDTH):
        vj, extreme = _update(load(total, (j,)), load(b, (j,)), extreme)
        store(v, (j,), vj)
    return sum_of(error), largest(extreme)


@njit
def _absorb(potential, scaling, weight, epsilon, size):
    """Move ε log(scaling / weight) into the potential and reset the scaling to the weight."""
    for i in range(size):
        if weight[i] > 0:
            potential[i] += epsilon * np.log(max(scaling[i] / weight[i], TINY))
        scaling[i] = weight[i]


@njit
def _dual(potential, scaling, weight, epsilon, size):
    value = 0.0  # float64: the sum of many small terms
    for i in range(size):
        if weight[i] > 0:
            value += weight[i] * (potential[i] + epsilon * np.log(max(scaling[i] / weight[i], TINY)))
    return value


@njit
def _write_plan(k, u, v, a, b, total, n, m, plan):
    """plan = diag(u) k diag(v), 0 outside. Returns its sum and ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁."""
    mass, error = 0.0, f32(0.0)
    for j in range(0, m, WIDTH):
        store(total, (j,), spread(f32(0)))
    for i in range(n):
        row, ui = spread(f32(0)), u[i]
        for j in range(0, m, WIDTH):
            p = load(k, (i, j)) * load(v, (j,)) * ui
            store_first(plan, (i, j), m - j, p)
            row = row + p
            store(total, (j,), load(total, (j,)) + p)
        moved = sum_of(row)
        error += abs(moved - a[i])
        mass += moved
        plan[i, m:] = f32(0.0)
    plan[n:] = f32(0.0)
    for j in range(m):
        error += abs(total[j] - b[j])
    return mass, error


@njit
def _filled_up(weights, size):
    """Return the first `size` numbers, and zeros that fill up a vector."""
    filled = np.zeros((size + WIDTH - 1) // WIDTH * WIDTH, f32)
    filled[:size] = weights[:size]
    return filled


@njit
def _room(rows, columns):
    """Return an array with both sides filled up to whole vectors; rows beyond `rows` are 0, the others empty."""
    high, wide = (rows + WIDTH - 1) // WIDTH * WIDTH, (columns + WIDTH - 1) // WIDTH * WIDTH
    room = aligned(high * wide, f32).reshape(high, wide)
    room[rows:] = f32(0.0)
    return room


@njit
def _last_real(weight):
    size = weight.size
    while size > 0 and weight[size - 1] == 0:
        size -= 1
    return size


@njit
def _solve_one(cost, a, b, f, epsilon, tolerance, max_iterations, plan):
    n, m = _last_real(a), _last_real(b)  # trailing padding is not even read
    k, partial = _room(n, m), _room(WIDTH, WIDTH)
    partial[:] = f32(0.0)
    a, b = _filled_up(a, n), _filled_up(b, m)
    u, v, g, total = a.copy(), b.copy(), np.zeros_like(b), np.empty_like(b)
    _least_of_columns(cost, a, f, n, m, g)
    _gibbs_kernel(cost, f, g, epsilon, n, m, k)
    t = 0
    while t < max_iterations:
        error, extreme = _iterate(k, a, b, u, v, total, partial, n, m)
        t += 1
        # Before the first pass the columns were not right, so the rows did not carry the whole error.
        if t > 1 and error <= tolerance:
            break
        if extreme > LARGEST_SCALING:
            _absorb(f, u, a, epsilon, n)
            _absorb(g, v, b, epsilon, m)
            _gibbs_kernel(cost, f, g, epsilon, n, m, k)
    value = _dual(f, u, a, epsilon, n) + _dual(g, v, b, epsilon, m)
    mass, error = _write_plan(k, u, v, a, b, total, n, m, plan)
    return value - epsilon * (mass - 1.0), t, error


def _solve(start, stop, cost, a, b, f, epsilon, tolerance, max_iterations, plan, value, iterations, error):
    for s in range(start, stop):
        value[s], iterations[s], error[s] = _solve_one(
            cost[s], a[s], b[s], f[s], epsilon[s], tolerance, max_iterations, plan[s]
        )


@functools.cache
def _kernel():
    inputs = [*arrays(float32, 3, 2, 2, 2, 1, layout="C"), float32, int64]
    return compiled(_solve, *inputs, *arrays(float32, 3, 1, layout="C"), *arrays(int64, 1), *arrays(float32, 1))


def solve_transport(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, *, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve B problems in float32: return value (B,), plan (B, Tx, Ty), iterations (B,) and marginal error (B,).

    cost (B, Tx, Ty); weights a (B, Tx), b (B, Ty), whose rows sum to 1; epsilon (B,).
    """
    size = cost.shape[0]
    plan = torch.empty_like(cost, memory_format=torch.contiguous_format)
    value, error = torch.empty(size), torch.empty(size)
    iterations = torch.empty(size, dtype=torch.int64)
    # Start from f_i = min_j C_ij, g_j = min_i (C_ij − f_i): whatever ε, every row and column of K then holds a 1.
    # The minima are over real tokens. (Here, because numba's minimum of a row does not fill vector registers.)
    padded = bool((a == 0).any() or (b == 0).any())
    f = (torch.where((b > 0)[:, None], cost, torch.inf) if padded else cost).amin(2)
    inputs = [t.detach().contiguous().numpy() for t in (cost, a, b, f, epsilon)]
    outputs = [t.numpy() for t in (plan, value, iterations, error)]
    threads = 1 + cost.numel() // WORTH_A_THREAD
    share(_kernel(), size, threads, *inputs, f32(tolerance), max_iterations, *outputs)
    return value, plan, iterations, error
