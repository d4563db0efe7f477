"""The elementwise half of an MMD's sums: a tile of inner products becomes kernel weights in one pass.

Sixteen pairs at a time, in the processor's vector registers: an inner product is read once, its weight is written in
its place, and the sums over rows and columns are taken on the way, always in the same order.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .compiler import arrays, boolean, compiled, float32, float64, int64
from .lanes.arithmetic import above, at_least, doubled, spread, sqrt
from .lanes.arithmetic import total as sum_of
from .lanes.functions import exp2
from .lanes.memory import load, load_first, store, store_first
from .lanes.vectors import LOG2E, WIDTH
from .threads import share

f32 = np.float32
KINDS = ("gaussian", "laplacian", "rational_quadratic")
ROWS = 64  # a task's; each task has its own sums over columns
WORTH_A_THREAD = 50_000  # pairs that outweigh handing work to another thread
FARTHEST = -40 * LOG2E  # 2 to this power is 4e-18: nothing beside 1
NEGLIGIBLE = f32(1.2e-19)  # its square is a normal number still; denormal ones are slow
SMALLEST = f32(1.2e-38)


@njit(forceinline=True)
def _kernel_and_slope(squared, rates, kind, ladder):
    """Return k and w = −dk/dr² at r² = `squared`, summed over the rates.

    On a ladder an error of exp in the last place grows by 4 with every rung, to 2e-5 on the fifth.
    """
    if ladder:
        e = exp2(at_least(squared * f32(-LOG2E * rates[0]), FARTHEST))
        k, w = e, e * rates[0]
        for s in range(1, rates.size):
            e = at_least(e * e, NEGLIGIBLE)
            e = at_least(e * e, NEGLIGIBLE)
            k = k + e
            w = w + e * rates[s]
        return k, w
    k, w = spread(f32(0)), spread(f32(0))
    r = sqrt(squared) if kind == 1 else squared
    for rate in rates:
        if kind == 0:
            e = exp2(at_least(squared * f32(-LOG2E * rate), FARTHEST))
            w = w + e * rate
        elif kind == 1:
            e = exp2(at_least(r * f32(-LOG2E * rate), FARTHEST))
            w = w + e * (f32(0.5) * rate) * (r / at_least(squared, SMALLEST))  # 1/r, and 0 for r = 0
        else:
            e = f32(1) / (squared * rate + f32(1))
            w = w + e * e * rate
        k = k + e
    return k, w


@njit
def _weigh_rows(
    products, u_norms, v_norms, p, q, rates, kind, ladder, resolution, slopes, start, stop, values, row_mass, mass
):
    """Do rows start … stop − 1 of a sample; `mass` are the sums over columns of these rows."""
    columns = products.shape[1]
    for i in range(start, stop):
        norm, weight = u_norms[i], p[i]
        # The value is a difference of large sums, hence double precision.
        value, moved = spread(0.0), spread(f32(0))
        for j in range(0, columns, WIDTH):
            count = columns - j
            if count >= WIDTH:
                product, norms, weights = load(products, (i, j)), load(v_norms, (j,)), load(q, (j,))
            else:
                product = load_first(products, (i, j), count)
                norms, weights = load_first(v_norms, (j,), count), load_first(q, (j,), count)
            lengths = norms + norm
            squared = above(lengths - product * f32(2), lengths * resolution)
            k, w = _kernel_and_slope(squared, rates, kind, ladder)
            value = value + doubled(weights * k)
            if slopes:
                w = w * (weights * weight)
                moved = moved + w
                if count >= WIDTH:
                    store(products, (i, j), w)
                    store(mass, (j,), load(mass, (j,)) + w)
                else:
                    store_first(products, (i, j), count, w)
                    store_first(mass, (j,), count, load_first(mass, (j,), count) + w)
        values[i] = weight * sum_of(value)
        row_mass[i] = sum_of(moved)


def _weigh(
    start, stop, products, u_norms, v_norms, p, q, rates, kind, ladder, resolution, slopes,
    values, row_mass, column_mass,
):  # fmt: skip
    rows, blocks = products.shape[1], column_mass.shape[1]
    for task in range(start, stop):
        s, block = task // blocks, task % blocks
        _weigh_rows(
            *(products[s], u_norms[s], v_norms[s], p[s], q[s], rates[s], kind, ladder, resolution, slopes),
            *(block * ROWS, min(rows, (block + 1) * ROWS), values[s], row_mass[s], column_mass[s, block]),
        )


@functools.cache
def _kernel():
    inputs = [*arrays(float32, 3, layout="C"), *arrays(float32, 2, 2, 2, 2, 2), int64, boolean, float32, boolean]
    return compiled(_weigh, *inputs, *arrays(float64, 2, layout="C"), *arrays(float32, 2, 3, layout="C"))


def weigh_pairs(
    products: Tensor,
    u_norms: Tensor,
    v_norms: Tensor,
    p: Tensor,
    q: Tensor,
    rates: Tensor,
    kernel: tuple[str, float, bool],
    slopes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn ⟨u_i, v_j⟩ into W_ij in place and return sums, as `alignment.kernel_sums.weigh_pairs` does, in float32.

    The last axis of all tensors lies side by side; kernel: its name, resolution, ladder.
    """
    samples, rows, columns = products.shape
    values, row_mass = np.empty((samples, rows)), np.empty((samples, rows), f32)
    column_mass = np.zeros((samples, -(-rows // ROWS), columns), f32)
    name, resolution, ladder = kernel
    inputs = [t.numpy() for t in (products, u_norms, v_norms, p, q, rates)]
    share(
        *(_kernel(), samples * column_mass.shape[1], 1 + products.numel() // WORTH_A_THREAD),
        *(*inputs, KINDS.index(name), ladder, f32(resolution), slopes, values, row_mass, column_mass),
    )
    return torch.from_numpy(values), torch.from_numpy(row_mass), torch.from_numpy(column_mass.sum(1))
