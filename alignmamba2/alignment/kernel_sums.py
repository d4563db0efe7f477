r"""Σ_ij p_i q_j k(u_i, v_j) over all pairs of two token sets, with its gradient, in memory linear in the tokens.

The pairs are visited tile by tile: one matrix product gives a tile's inner products, one elementwise pass turns them
into k and into w = −dk/dr² (r the distance), and a second product turns w into the gradient

    ∂/∂u_i Σ_ij p_i q_j k_ij = −2 Σ_j p_i q_j w_ij (u_i − v_j) = 2 (W v)_i − 2 (W 1)_i u_i,   W_ij = p_i q_j w_ij.

The gradient is made in the forward pass, while the tile is at hand, and only scaled in the backward pass: no tile is
stored or computed twice. Of a set with itself only the tiles on and above the diagonal are visited.

Where float32 does not do, see `FARTHEST`, all is done in float64 and r² comes from differences: slower, always right.
On a GPU, whose host would wait for the answer to that question, r² comes from differences always.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import cpu
from ..gpu.host import widest
from .costs import RESOLUTION, exact_squares, refuse_second_derivative

KERNELS = ("gaussian", "laplacian", "rational_quadratic")

# A tile of this size stays in the second-level cache between the two products; a GPU does that of several samples.
TILE_ROWS, TILE_COLUMNS, GPU_TILES = 512, 512, 64

# Up to so many σ² of the largest ‖u‖², float32 does: k is then good to 1e-4; the Laplacian, whose r is a root, to 4e-3.
FARTHEST = {"gaussian": 100, "laplacian": 10, "rational_quadratic": 100}


def rates_of(sigma: Tensor, kernel: str) -> Tensor:
    """Return 1/(2σ²), which multiplies r²; for the Laplacian kernel 1/σ, which multiplies r."""
    return 1 / sigma if kernel == "laplacian" else 0.5 / sigma.square()


def kernel_and_slope(squared: Tensor, rate: Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    """Return k and w = −dk/dr² at r² = `squared`, elementwise. The Laplacian kernel's slope at r = 0 counts as 0."""
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


class Tile(NamedTuple):
    """A tile is pairs of tokens u_i, v_j of B samples, with all that their kernel needs."""

    products: Tensor  # (B, n, m) ⟨u_i, v_j⟩
    u_norms: Tensor  # (B, n) ‖u_i‖²
    v_norms: Tensor  # (B, m)
    p: Tensor  # (B, n) weights
    q: Tensor  # (B, m)
    rates: Tensor  # (B, S)


class Kernel(NamedTuple):
    """A kernel is its name and how it is to be computed."""

    name: str
    resolution: float
    ladder: bool  # a Gaussian's rates, each 4 times the one before: exp(−4x) is exp(−x), squared twice


def weigh_pairs(tile: Tile, kernel: Kernel, slopes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Turn ⟨u_i, v_j⟩ into W_ij in place; return p_i Σ_j q_j k_ij, summed over the bandwidths, Σ_j W_ij and Σ_i W_ij.

    Returns (B, n), (B, n), (B, m). Without `slopes` only the first of the three means anything.
    """
    products, u_norms, v_norms, p, q, rates = tile
    lengths = u_norms[:, :, None] + v_norms[:, None]
    squared = lengths - 2 * products
    squared = torch.where(squared > kernel.resolution * lengths, squared, 0)
    k, w = torch.zeros_like(squared), products.zero_()
    for rate in rates.T:
        more_k, more_w = kernel_and_slope(squared, rate[:, None, None], kernel.name)
        k += more_k
        w += more_w
    w *= p[:, :, None] * q[:, None]
    return p * torch.bmm(k, q.unsqueeze(2)).squeeze(2), w.sum(2), w.sum(1)


class _Side:
    """A side is one of the two token sets (B, n, d), the weights (B, n) of its tokens, and its gradient, as it grows.

    *Half* the gradient is pull_i − mass_i u_i; pull_i collects Σ_j W_ij v_j over all tiles, mass_i collects Σ_j W_ij.
    """

    def __init__(self, tokens: Tensor, weights: Tensor, needs_gradient: bool) -> None:
        self.tokens, self.weights, self.norms = tokens, weights, tokens.square().sum(2)
        self.exact = tokens.dtype == torch.float64 or tokens.device.type != "cpu"
        if self.exact:  # −r²/2 then stands for ⟨u, v⟩
            self.norms.zero_()
        self.pull = torch.zeros_like(tokens) if needs_gradient else None
        self.mass = torch.zeros_like(weights)

    def gradient(self) -> Tensor | None:
        return None if self.pull is None else self.pull.addcmul_(self.tokens, self.mass.unsqueeze(2), value=-1).mul_(2)

    def add(self, samples: slice, tokens: slice, weights: Tensor, others: Tensor, mass: Tensor) -> None:
        if self.pull is not None:
            self.pull[samples, tokens].baddbmm_(weights, others)
            self.mass[samples, tokens] += mass


def add_kernel_sum(one: _Side, other: _Side, factor: Tensor, rates: Tensor, kernel: Kernel) -> Tensor:
    """Return factor · Σ_ij p_i q_j k_ij (B,) in float64, over all bandwidths, and add its gradient to both sides.

    The two sides may be the same one. factor : (B,);  rates : (B, S)
    """
    u, v, same = one.tokens, other.tokens, one is other
    compiled = u.device.type == "cpu" and u.dtype == torch.float32 and cpu.available()
    weigh = cpu.weigh_pairs if compiled else weigh_pairs
    # Of a set with itself a tile stands for its mirror image too, so it counts twice.
    p = one.weights * (2 * factor if same else factor).unsqueeze(1)
    slopes = one.pull is not None or other.pull is not None
    total = torch.zeros(u.shape[0], dtype=widest(u), device=u.device)

    n, m = u.shape[1], v.shape[1]
    rows, columns = max(1, min(n, TILE_ROWS)), max(1, min(m, TILE_COLUMNS))
    tiles = TILE_ROWS * TILE_COLUMNS * (1 if u.device.type == "cpu" else GPU_TILES)
    samples = max(1, min(u.shape[0], tiles // (rows * columns)))
    room = u.new_empty(samples * rows * columns)  # for every tile in turn
    for s in (slice(k, k + samples) for k in range(0, u.shape[0], samples)):
        for j in (slice(k, k + columns) for k in range(0, m, columns)):
            vj = v[s, j]
            for i in (slice(k, k + rows) for k in range(0, min(n, j.stop) if same else n, rows)):
                ui = u[s, i]
                products = room[: ui.shape[0] * ui.shape[1] * vj.shape[1]].view(*ui.shape[:2], -1)
                if one.exact:
                    torch.mul(exact_squares(ui, vj), -0.5, out=products)
                else:
                    torch.bmm(ui, vj.transpose(1, 2), out=products)
                tile = Tile(products, one.norms[s, i], other.norms[s, j], p[s, i], other.weights[s, j], rates[s])
                values, row_mass, column_mass = weigh(tile, kernel, slopes)
                # On the diagonal a tile is its own mirror image: its pairs are there twice, its gradient is whole.
                diagonal = same and i.stop > j.start
                total[s] += (0.5 if diagonal else 1) * values.sum(1, dtype=total.dtype)
                one.add(s, i, products, vj, row_mass)
                if not diagonal:
                    other.add(s, j, products.transpose(1, 2), ui, column_mass)
    return total


class _Discrepancy(torch.autograd.Function):
    """The sum over (xx, yy, xy) of factor · kernel sum; its gradient is ready when the value is."""

    @staticmethod
    def forward(ctx, x, y, p, q, rates, factors, kernel):
        xx, yy, xy = factors.to(x.dtype)
        rates = rates.sort(1).values
        # See _kernel_and_slope in cpu.kernel_sums.
        ladder = x.device.type == "cpu" and kernel == "gaussian" and rates.shape[1] <= 5
        ladder = ladder and torch.allclose(rates[:, 1:], 4 * rates[:, :-1], rtol=1e-6, atol=0)
        kernel = Kernel(kernel, RESOLUTION * torch.finfo(x.dtype).eps, ladder)
        sides = [_Side(*side) for side in zip((x, y), (p, q), ctx.needs_input_grad, strict=False)]
        value = add_kernel_sum(sides[0], sides[0], xx, rates, kernel)
        value += add_kernel_sum(sides[1], sides[1], yy, rates, kernel)
        value += add_kernel_sum(*sides, xy, rates, kernel)
        ctx.save_for_backward(*(side.gradient() for side in sides))
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        refuse_second_derivative("mmd")
        gradient = gradient[:, None, None]
        return *(None if g is None else gradient * g for g in ctx.saved_tensors), *[None] * 5


@torch.compiler.disable
def discrepancy(x: Tensor, y: Tensor, a: Tensor, b: Tensor, sigma: Tensor, kernel: str, biased: bool) -> Tensor:
    """Return MMD² (B,) from all pairs of tokens where the masks a (B, Tx), b (B, Ty) are True. sigma : (B, S)."""
    p, q = a.to(x.dtype).contiguous(), b.to(x.dtype).contiguous()  # a transposed mask's type keeps its strides
    n, m = p.sum(1, dtype=widest(x)), q.sum(1, dtype=widest(x))
    defined = torch.minimum(n, m) >= (1 if biased else 2)
    # Inner products lose digits when the tokens lie far from the origin, so move the origin among them.
    weight = p / p.sum(1, keepdim=True).clamp_min(1)
    centre = torch.bmm(weight.unsqueeze(1), x.detach())
    u, v, dtype, squares = x - centre, y - centre, x.dtype, sigma.detach().square()
    here = x.device.type == "cpu"
    near = (squares.amin(1) > 1e-30) & (squares.amax(1) < 1e30)  # which float32 can hold
    both = ((u, a), (v, b)) if here and dtype == torch.float32 and len(x) * x.shape[1] * y.shape[1] else ()
    for tokens, mask in both:
        lengths = torch.where(mask, tokens.detach().square().sum(2), 0)
        near &= lengths.amax(1) <= FARTHEST[kernel] * squares.amin(1)
    if here and not near.all():
        u, v, p, q, sigma = (t.double() for t in (x, y, p, q, sigma))
        u, v = u - centre, v - centre
    shrink = 0 if biased else 1
    bandwidths = sigma.shape[1]

    def factor(pairs: Tensor) -> Tensor:
        return torch.where(defined, 1 / (pairs.clamp_min(1) * bandwidths), 0)

    factors = torch.stack([factor(n * (n - shrink)), factor(m * (m - shrink)), -2 * factor(n * m)])
    value = _Discrepancy.apply(u, v, p, q, rates_of(sigma, kernel), factors, kernel)
    # The pairs (i, i), each with k = 1, are in the sums; without them the estimate is unbiased.
    return (value if biased else value - (bandwidths * (factors[0] * n + factors[1] * m)).to(u.dtype)).to(dtype)
