"""The elementwise half of an MMD's sums: a tile of inner products becomes kernel weights in one pass.

Sixteen pairs at a time, in the processor's vector registers: an inner product is read once, its weight is written in
its place, and the sums over rows and columns are taken on the way, always in the same order.
"""

import functools

import numpy as np
import torch
from numba import njit, types
from torch import Tensor

from .compiler import arrays, boolean, compiled, float32, float64, int64
from .lanes.arithmetic import above, at_least, doubled, spread
from .lanes.arithmetic import total as sum_of
from .lanes.functions import exp2, sqrt
from .lanes.memory import load_first, store_first
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


def _weigh(start, stop, tile, kind, resolution, ladder, slopes, values, row_mass, column_mass):
    """Do tasks start … stop − 1: ROWS rows of a sample each. `column_mass` (B, tasks per sample, m) starts at zero."""
    products, u_norms, v_norms, p, q, rates = tile
    (_, rows, columns), blocks = products.shape, column_mass.shape[1]
    for task in range(start, stop):
        s, block = task // blocks, task % blocks
        for i in range(block * ROWS, min(rows, (block + 1) * ROWS)):
            # The value is a difference of large sums, hence double precision.
            value, mass = spread(0.0), spread(f32(0))
            for j in range(0, columns, WIDTH):
                count = columns - j
                weights, lengths = load_first(q, (s, j), count), load_first(v_norms, (s, j), count) + u_norms[s, i]
                squared = lengths - load_first(products, (s, i, j), count) * f32(2)
                k, w = _kernel_and_slope(above(squared, lengths * resolution), rates[s], kind, ladder)
                value = value + doubled(weights * k)
                if slopes:
                    w = w * (weights * p[s, i])
                    mass = mass + w
                    store_first(products, (s, i, j), count, w)
                    place = (s, block, j)
                    store_first(column_mass, place, count, load_first(column_mass, place, count) + w)
            values[s, i], row_mass[s, i] = p[s, i] * sum_of(value), sum_of(mass)


@functools.cache
def _kernel():
    tile = types.Tuple([*arrays(float32, 3, layout="C"), *arrays(float32, 2, 2, 2, 2, 2)])
    outputs = [*arrays(float64, 2, layout="C"), *arrays(float32, 2, 3, layout="C")]
    return compiled(_weigh, tile, int64, float32, boolean, boolean, *outputs)


def weigh_pairs(
    tile: tuple[Tensor, ...], kernel: tuple[str, float, bool], slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `alignment.kernel_sums.weigh_pairs` says, in float32. The last axes of the tensors lie side by side."""
    samples, rows, columns = tile[0].shape
    values, row_mass = np.empty((samples, rows)), np.empty((samples, rows), f32)
    column_mass = np.zeros((samples, -(-rows // ROWS), columns), f32)
    name, resolution, ladder = kernel
    share(
        *(_kernel(), samples * column_mass.shape[1], 1 + tile[0].numel() // WORTH_A_THREAD),
        *(tuple(x.numpy() for x in tile), KINDS.index(name), f32(resolution), ladder, slopes),
        *(values, row_mass, column_mass),
    )
    return torch.from_numpy(values), torch.from_numpy(row_mass), torch.from_numpy(column_mass.sum(1))
