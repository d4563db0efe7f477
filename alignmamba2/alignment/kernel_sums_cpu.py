"""The elementwise half of `kernel_sums`, in numba: a tile of inner products becomes kernel weights in one pass."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .sinkhorn_cpu import FAST, exp32, torch_threads

f32 = np.float32
FARTHEST = f32(-80.0)  # exp below is 2e-35: nothing beside 1


@njit(fastmath=FAST, cache=True)
def _gaussian(squared, rate, k, w):
    for j in range(squared.size):
        e = exp32(max(-rate * squared[j], FARTHEST))
        k[j] += e
        w[j] += rate * e


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
def _weigh_row(products, norm, norms, p, q, rates, kind, resolution):
    """One row of `weigh`: returns p Σ_j q_j k_j and replaces the products by p q_j w_j."""
    size = products.size
    k, w = np.zeros(size, f32), np.zeros(size, f32)
    for j in range(size):
        lengths = norm + norms[j]
        squared = lengths - f32(2.0) * products[j]
        products[j] = squared if squared > resolution * lengths else f32(0.0)
    for rate in rates:
        if kind == 0:
            _gaussian(products, rate, k, w)
        elif kind == 1:
            _laplacian(products, rate, k, w)
        else:
            _rational(products, rate, k, w)
    total = f32(0.0)
    for j in range(size):
        total += q[j] * k[j]
        products[j] = p * q[j] * w[j]
    return p * total


@njit(parallel=True, cache=True)
def _weigh(products, u_norms, v_norms, p, q, rates, kind, resolution, sums):
    rows = products.shape[1]
    for row in prange(products.shape[0] * rows):
        s, i = row // rows, row % rows
        sums[s, i] = _weigh_row(products[s, i], u_norms[s, i], v_norms[s], p[s, i], q[s], rates[s], kind, resolution)


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
    arrays = [t.contiguous().numpy() for t in (products, u_norms, v_norms, p, q, rates)]
    with torch_threads():
        _weigh(*arrays, kind, f32(resolution), sums.numpy())
    return sums
