r"""Σ_ij p_i q_j k(u_i, v_j) over all pairs of two token sets, with its gradient, in memory linear in the tokens.

The pairs are visited tile by tile: one matrix product gives a tile's inner products, one elementwise pass turns them
into k and into w = −dk/dr² (r the distance), and a second product turns w into the gradient

    ∂/∂u_i Σ_ij p_i q_j k_ij = −2 Σ_j p_i q_j w_ij (u_i − v_j) = 2 (W v)_i − 2 (W 1)_i u_i,   W_ij = p_i q_j w_ij.

The gradient is made in the forward pass, while the tile is at hand, and only scaled in the backward pass: no tile is
stored or computed twice. Of a set with itself only the tiles on and above the diagonal are visited.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import refuse_second_derivative
from .sinkhorn import numba_is_there

KERNELS = ("gaussian", "laplacian", "rational_quadratic")

# A tile of this size stays in the second-level cache between the two products.
TILE_ROWS, TILE_COLUMNS = 512, 512

# r² = ‖u‖² + ‖v‖² − 2⟨u, v⟩ is only known to some units in the last place of ‖u‖² + ‖v‖²; below, it counts as 0, and
# equal tokens are exactly equal.
RESOLUTION = 8


def rates_of(sigma: Tensor, kernel: str) -> Tensor:
    """1/(2σ²), which multiplies r²; for the Laplacian kernel 1/σ, which multiplies r."""
    return 1 / sigma if kernel == "laplacian" else 0.5 / sigma.square()


def kernel_and_slope(squared: Tensor, rate: Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    """k and w = −dk/dr² at r² = `squared`, elementwise. The Laplacian kernel's slope at r = 0 counts as 0."""
    if kernel == "gaussian":
        k = torch.exp(-rate * squared)
        return k, rate * k
    if kernel == "laplacian":
        # The root's slope at 0 is infinite, and would be NaN times 0 in a gradient through here.
        r = torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
        k = torch.exp(-rate * r)
        return k, torch.where(r > 0, 0.5 * rate * k / r, 0)
    k = 1 / (1 + rate * squared)
    return k, rate * k * k


def weigh(
    products: Tensor,
    u_norms: Tensor,
    v_norms: Tensor,
    p: Tensor,
    q: Tensor,
    rates: Tensor,
    kind: int,
    resolution: float,
) -> Tensor:
    """Turn ⟨u_i, v_j⟩ into W_ij in place; return p_i Σ_j q_j k_ij, both summed over the bandwidths.

    products : (B, n, m);  u_norms, p : (B, n);  v_norms, q : (B, m);  rates : (B, S)  →  (B, n)
    """
    lengths = u_norms[:, :, None] + v_norms[:, None]
    squared = lengths - 2 * products
    squared = torch.where(squared > resolution * lengths, squared, 0)
    k, w = torch.zeros_like(squared), products.zero_()
    for rate in rates.T:
        more_k, more_w = kernel_and_slope(squared, rate[:, None, None], KERNELS[kind])
        k += more_k
        w += more_w
    w *= p[:, :, None] * q[:, None]
    return p * torch.bmm(k, q.unsqueeze(2)).squeeze(2)


def add_kernel_sum(
    u: Tensor,
    v: Tensor | None,
    p: Tensor,
    q: Tensor,
    rates: Tensor,
    kernel: str,
    grad_u: Tensor | None = None,
    grad_v: Tensor | None = None,
) -> Tensor:
    """Σ_ij p_i q_j k_ij (B,), summed over the bandwidths; *half* its gradients are added to grad_u and grad_v.

    u : (B, n, d);  v : (B, m, d), or None for u with itself;  p : (B, n);  q : (B, m);  rates : (B, S)
    """
    same = v is None
    if same:
        v, grad_v = u, grad_u
    kind, resolution = KERNELS.index(kernel), RESOLUTION * torch.finfo(u.dtype).eps
    elementwise = weigh
    if u.device.type == "cpu" and u.dtype == torch.float32 and numba_is_there():
        from .kernel_sums_cpu import weigh_numba as elementwise
    u_norms = u.square().sum(2)
    v_norms = u_norms if same else v.square().sum(2)
    total = torch.zeros(u.shape[0], dtype=torch.float64, device=u.device)
    # In a sum over u with itself every token stands on both sides, so its gradient counts twice.
    sides = 2 if same else 1

    n, m = u.shape[1], v.shape[1]
    rows, columns = max(1, min(n, TILE_ROWS)), max(1, min(m, TILE_COLUMNS))
    samples = max(1, min(u.shape[0], TILE_ROWS * TILE_COLUMNS // (rows * columns)))
    room = u.new_empty(samples * rows * columns)  # for every tile in turn
    for s in (slice(k, k + samples) for k in range(0, u.shape[0], samples)):
        for j in (slice(k, k + columns) for k in range(0, m, columns)):
            vj = v[s, j]
            for i in (slice(k, k + rows) for k in range(0, min(n, j.stop) if same else n, rows)):
                ui = u[s, i]
                tile = room[: ui.shape[0] * ui.shape[1] * vj.shape[1]].view(*ui.shape[:2], -1)
                torch.bmm(ui, vj.transpose(1, 2), out=tile)
                sums = elementwise(tile, u_norms[s, i], v_norms[s, j], p[s, i], q[s, j], rates[s], kind, resolution)
                mirrored = same and i.stop <= j.start  # wholly above the diagonal: stands for its mirror image too
                total[s] += (2 if mirrored else 1) * sums.sum(1, dtype=torch.float64)
                if grad_u is not None:
                    row_sums, column_sums = tile.sum(2).unsqueeze(2), tile.sum(1).unsqueeze(2)
                    grad_u[s, i].baddbmm_(tile, vj, alpha=sides).addcmul_(ui, row_sums, value=-sides)
                    if mirrored or not same:
                        grad_v[s, j].baddbmm_(tile.transpose(1, 2), ui, alpha=sides)
                        grad_v[s, j].addcmul_(vj, column_sums, value=-sides)
    return total


class _Discrepancy(torch.autograd.Function):
    """Σ over (xx, yy, xy) of factor · kernel sum; the gradient is ready when the value is."""

    @staticmethod
    def forward(ctx, x, y, p, q, rates, factors, kernel):
        xx, yy, xy = factors.to(x.dtype).unsqueeze(2)
        need = any(ctx.needs_input_grad[:2])
        x_grad, y_grad = (torch.zeros_like(x), torch.zeros_like(y)) if need else (None, None)
        value = add_kernel_sum(x, None, xx * p, p, rates, kernel, x_grad)
        value += add_kernel_sum(y, None, yy * q, q, rates, kernel, y_grad)
        value += add_kernel_sum(x, y, xy * p, q, rates, kernel, x_grad, y_grad)
        if need:
            ctx.save_for_backward(x_grad, y_grad)
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        refuse_second_derivative("mmd")
        x_grad, y_grad = ctx.saved_tensors
        gradient = 2 * gradient[:, None, None]
        return gradient * x_grad, gradient * y_grad, *[None] * 5


@torch.compiler.disable
def discrepancy(x: Tensor, y: Tensor, a: Tensor, b: Tensor, sigma: Tensor, kernel: str, biased: bool) -> Tensor:
    """MMD² (B,) from all pairs, between the tokens where the masks a (B, Tx), b (B, Ty) are True. sigma : (B, S)."""
    p, q = a.to(x.dtype), b.to(x.dtype)
    n, m = p.sum(1, dtype=torch.float64), q.sum(1, dtype=torch.float64)
    defined = torch.minimum(n, m) >= (1 if biased else 2)
    # Inner products lose digits when the tokens lie far from the origin, so move the origin among them.
    weight = p / p.sum(1, keepdim=True).clamp_min(1)
    centre = torch.bmm(weight.unsqueeze(1), x.detach())
    x, y = x - centre, y - centre
    shrink = 0 if biased else 1
    bandwidths = sigma.shape[1]

    def factor(pairs: Tensor) -> Tensor:
        return torch.where(defined, 1 / (pairs.clamp_min(1) * bandwidths), 0)

    factors = torch.stack([factor(n * (n - shrink)), factor(m * (m - shrink)), -2 * factor(n * m)])
    value = _Discrepancy.apply(x, y, p, q, rates_of(sigma, kernel), factors, kernel)
    # The pairs (i, i), each with k = 1, are in the sums; without them the estimate is unbiased.
    return value if biased else value - (bandwidths * (factors[0] * n + factors[1] * m)).to(x.dtype)
