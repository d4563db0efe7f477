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

from .sinkhorn import numba_is_there

KERNELS = ("gaussian", "laplacian", "rational_quadratic")

# A tile of this size stays in the second-level cache between the two products.
TILE_ROWS, TILE_COLUMNS = 256, 1024

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


def kernel_sum(
    u: Tensor, v: Tensor | None, p: Tensor, q: Tensor | None, rates: Tensor, kernel: str, with_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Σ_ij p_i q_j k_ij (B,), summed over the bandwidths, and its gradients in u and v; v = None: of u with itself.

    u : (B, n, d);  v : (B, m, d);  p : (B, n);  q : (B, m);  rates : (B, S)
    """
    same = v is None
    v, q = (u, p) if same else (v, q)
    kind, resolution = KERNELS.index(kernel), RESOLUTION * torch.finfo(u.dtype).eps
    elementwise = weigh
    if u.device.type == "cpu" and u.dtype == torch.float32 and numba_is_there():
        from .kernel_sums_cpu import weigh_numba as elementwise
    u_norms = u.square().sum(2)
    v_norms = u_norms if same else v.square().sum(2)
    grad_u = torch.zeros_like(u) if with_gradient else None
    grad_v = torch.zeros_like(v) if with_gradient and not same else grad_u
    total = torch.zeros(u.shape[0], dtype=torch.float64, device=u.device)

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
                if with_gradient:
                    grad_u[s, i].baddbmm_(tile, vj).sub_(ui * tile.sum(2).unsqueeze(2))
                    if mirrored or not same:
                        grad_v[s, j].baddbmm_(tile.transpose(1, 2), ui).sub_(vj * tile.sum(1).unsqueeze(2))
    if not with_gradient:
        return total, None, None
    # In Σ_ij p_i p_j k(u_i, u_j) every token stands on both sides, so its gradient counts twice.
    return total, grad_u.mul_(4 if same else 2), None if same else grad_v.mul_(2)


class _Discrepancy(torch.autograd.Function):
    """Σ over (xx, yy, xy) of factor · kernel_sum; the gradient is ready when the value is."""

    @staticmethod
    def forward(ctx, x, y, p, q, rates, xx_factor, yy_factor, xy_factor, kernel):
        need = any(ctx.needs_input_grad[:2])
        xx, xx_grad, _ = kernel_sum(x, None, p, None, rates, kernel, need)
        yy, yy_grad, _ = kernel_sum(y, None, q, None, rates, kernel, need)
        xy, x_grad, y_grad = kernel_sum(x, y, p, q, rates, kernel, need)
        if need:
            scale = [factor[:, None, None] for factor in (xx_factor, yy_factor, xy_factor)]
            ctx.save_for_backward(scale[0] * xx_grad + scale[2] * x_grad, scale[1] * yy_grad + scale[2] * y_grad)
        return (xx_factor * xx + yy_factor * yy + xy_factor * xy).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x_grad, y_grad = ctx.saved_tensors
        return gradient[:, None, None] * x_grad, gradient[:, None, None] * y_grad, *[None] * 7


@torch.compiler.disable
def discrepancy(x: Tensor, y: Tensor, a: Tensor, b: Tensor, sigma: Tensor, kernel: str, biased: bool) -> Tensor:
    """MMD² (B,) from all pairs, between the tokens where the masks a (B, Tx), b (B, Ty) are True. sigma : (B, S)."""
    p, q = a.to(x.dtype), b.to(x.dtype)
    n, m = p.sum(1, dtype=torch.float64), q.sum(1, dtype=torch.float64)
    defined = torch.minimum(n, m) >= (1 if biased else 2)
    # Inner products lose digits when the tokens lie far from the origin, so move the origin among them.
    weight = p / p.sum(1, keepdim=True).clamp_min(1)
    centre = torch.bmm(weight.unsqueeze(1), x.detach())
    x, y = (x - centre) * p.unsqueeze(2), (y - centre) * q.unsqueeze(2)
    shrink = 0 if biased else 1
    bandwidths = sigma.shape[1]

    def factor(pairs: Tensor) -> Tensor:
        return torch.where(defined, 1 / (pairs.clamp_min(1) * bandwidths), 0)

    xx, yy, xy = factor(n * (n - shrink)), factor(m * (m - shrink)), -2 * factor(n * m)
    value = _Discrepancy.apply(x, y, p, q, rates_of(sigma, kernel), xx, yy, xy, kernel)
    # The pairs (i, i), each with k = 1, are in the sums; without them the estimate is unbiased.
    return value if biased else value - (bandwidths * (xx * n + yy * m)).to(x.dtype)
