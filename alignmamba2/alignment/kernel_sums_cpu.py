"""The elementwise half of `kernel_sums`, in numba: a tile of inner products becomes kernel weights in one pass."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .sinkhorn_cpu import FAST, exp32, torch_threads

f32 = np.float32
FARTHEST = f32(-40.0)  # exp of it is 4e-18: nothing beside 1
NEGLIGIBLE = f32(1e-18)  # its square is cut off before it becomes a denormal number, which is slow


@njit(fastmath=FAST, cache=True)
def _gaussian(squared, rate, k, w):
    for j in range(squared.size):
        e = exp32(max(-rate * squared[j], FARTHEST))
        k[j] += e
        w[j] += rate * e


@njit(fastmath=FAST, cache=True)
def _gaussian_ladder(squared, rates, k, w):
    """As `_gaussian` for all rates at once, each 4 times the one before: exp(−4x) is exp(−x), squared twice.

    Overwrites `squared`. An error of exp in the last place grows by 4 with every rung, to 2e-5 on the fifth.
    """
    for j in range(squared.size):
        squared[j] = exp32(max(-rates[0] * squared[j], FARTHEST))
    for s in range(rates.size):
        for j in range(squared.size):
            e = squared[j]
            if s > 0:
                e = e * e
                e = e * e if e > NEGLIGIBLE else f32(0.0)
                squared[j] = e
            k[j] += e
            w[j] += rates[s] * e


@njit(fastmath=FAST, cache=True)
def _laplacian(squared, rate, k, w):
    for j in range(squared.size):
        r = np.sqrt(squared[j])
        e = exp32(max(-rate * r, FARTHEST))
        k[j] += e
        w[j] += f32(0.5) * rate * e / r if r > 0 else f32(0.0)


@njit(fastmath=FAST, cache=True)
def _rational(squared, rate, k, w):
    for j in range(squared.size):
        e = f32(1.0) / (f32(1.0) + rate * squared[j])
        k[j] += e
        w[j] += rate * e * e


@njit(fastmath=FAST, cache=True)
def _weigh_row(products, norm, norms, p, q, rates, kind, ladder, resolution):
    """One row of `weigh`: returns p Σ_j q_j k_j and replaces the products by p q_j w_j."""
    size = products.size
    k, w = np.zeros(size, f32), np.zeros(size, f32)
    for j in range(size):
        lengths = norm + norms[j]
        squared = lengths - f32(2.0) * products[j]
        products[j] = squared if squared > resolution * lengths else f32(0.0)
    if ladder:
        _gaussian_ladder(products, rates, k, w)
    for rate in rates:
        if ladder:
            break
        if kind == 0:
            _gaussian(products, rate, k, w)
        elif kind == 1:
            _laplacian(products, rate, k, w)
        else:
            _rational(products, rate, k, w)
    # In double precision, so that the sum rounded to float32 does not depend on the order that the compiler chose.
    total = 0.0
    for j in range(size):
        total += np.float64(q[j] * k[j])
        products[j] = p * q[j] * w[j]
    return f32(p * total)


@njit(parallel=True, cache=True)
def _weigh(products, u_norms, v_norms, p, q, rates, kind, ladder, resolution, sums):
    rows = products.shape[1]
    for row in prange(products.shape[0] * rows):
        s, i = row // rows, row % rows
        sums[s, i] = _weigh_row(
            products[s, i], u_norms[s, i], v_norms[s], p[s, i], q[s], rates[s], kind, ladder, resolution
        )


def weigh_numba(
    products: Tensor,
    u_norms: Tensor,
    v_norms: Tensor,
    p: Tensor,
    q: Tensor,
    rates: Tensor,
    kind: int,
    resolution: float,
) -> Tensor:
    """As `kernel_sums.weigh`, for float32 on the CPU."""
    sums = torch.empty_like(u_norms, memory_format=torch.contiguous_format)
    rates = rates.sort(1).values
    ladder = kind == 0 and torch.allclose(rates[:, 1:], 4 * rates[:, :-1], rtol=1e-6, atol=0)
    arrays = [t.contiguous().numpy() for t in (products, u_norms, v_norms, p, q, rates)]
    with torch_threads():
        _weigh(*arrays, kind, ladder, f32(resolution), sums.numpy())
    return sums
