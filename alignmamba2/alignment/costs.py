"""The cost (B, Tx, Ty) of moving one token onto another, and the checks that transport and MMD share."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..gpu.host import may_look, widest

# Shorter vectors have no direction: their cosine with anything counts as 0. The same limit as torch's cosine.
SHORTEST = 1e-12

# r² = ‖u‖² + ‖v‖² − 2⟨u, v⟩ is only known to some units in the last place of ‖u‖² + ‖v‖²; below, it counts as 0, and
# equal tokens are exactly equal.
RESOLUTION = 8


def exact_squares(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x_i − y_j‖² from differences: as exact as the tokens are, and slow."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 − cos(x_i, y_j), in [0, 2]; 1, without gradient, where a vector is zero ("AlignMamba v1").

    x : (B, Tx, d),  y : (B, Ty, d)  →  (B, Tx, Ty), float.
    """
    one = torch.ones((), dtype=x.dtype, device=x.device)
    # Of parallel vectors it is a rounding error, which may be negative.
    return torch.baddbmm(one, _directions(x), _directions(y).transpose(1, 2), alpha=-1).clamp_min(0)


def squared_euclidean_cost(
    x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None, error: float = 0.0
) -> Tensor:
    """Return ‖x_i − y_j‖², with at most this error where both tokens are real, or as exact as the tokens are.

    x : (B, Tx, d),  y : (B, Ty, d)  →  (B, Tx, Ty), float.
    """
    if x.dtype == torch.float64:
        return exact_squares(x, y)
    # ‖x‖² + ‖y‖² − 2⟨x, y⟩, ten times as fast, loses digits when the tokens lie far from the origin, so move the origin
    # among the real ones.
    weight = expand_mask(y_mask, y).to(y.dtype)
    centre = torch.bmm((weight / weight.sum(1, keepdim=True).clamp_min(1)).unsqueeze(1), y.detach())
    v = real_tokens(y - centre, y_mask, y.dtype)
    u = v if x is y else real_tokens(x - centre, x_mask, x.dtype)
    norms = u.square().sum(-1).unsqueeze(2) + v.square().sum(-1).unsqueeze(1)
    if norms.numel() and may_look(x) and RESOLUTION * torch.finfo(x.dtype).eps * norms.detach().amax() <= error:
        return torch.baddbmm(norms, u, v.transpose(1, 2), alpha=-2).clamp_min(0)
    return exact_squares(x.to(widest(x)), y.to(widest(x))).to(x.dtype)


# Each takes x and y and, if it has a use for them, their masks and the error that is allowed.
COSTS: dict[str, Callable[..., Tensor]] = {
    "cosine": lambda x, y, *_: cosine_cost(x, y),
    "sqeuclidean": squared_euclidean_cost,
}


def beyond_window(x_real: Tensor, y_real: Tensor, window: float) -> Tensor:
    """Return where tokens are `window` or more apart in relative time: masks (B, T) → (B, Tx, Ty), bool.

    The i-th of T real tokens lasts from i/T to (i + 1)/T. Tokens that overlap are always within: so there is always a
    plan between uniform weights.
    """
    lasts = [1 / real.sum(1, keepdim=True).clamp_min(1) for real in (x_real, y_real)]
    starts = [(real.cumsum(1) - 1) * last for real, last in zip((x_real, y_real), lasts, strict=True)]
    later = starts[1][:, None] - starts[0][:, :, None]
    return torch.maximum(later - lasts[0][:, :, None], -later - lasts[1][:, None]) > window - 1e-6


def _directions(x: Tensor) -> Tensor:
    # Dividing by the largest entry first keeps the norm from overflowing or underflowing. The direction does not
    # depend on that scale, so the scale needs no gradient; a zero vector is multiplied by 0, gradient included.
    largest = x.detach().abs().amax(-1, keepdim=True)
    scaled = x * torch.where(largest > SHORTEST, 1 / largest.clamp_min(SHORTEST), 0)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(1)


def check_tokens(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> None:
    """Raise a `ValueError` that names a shape, dtype or mask that does not fit."""
    for name, tokens, mask in (("x", x, x_mask), ("y", y, y_mask)):
        if tokens.ndim != 3 or not tokens.is_floating_point():
            raise ValueError(f"{name}: found {tuple(tokens.shape)} {tokens.dtype}; expected (B, T, d), floating point")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != tokens.shape[:2]):
            raise ValueError(
                f"{name}_mask: found {tuple(mask.shape)} {mask.dtype}; expected {tuple(tokens.shape[:2])} torch.bool, "
                "True at real tokens"
            )
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x and y: found batches of {x.shape[0]} and {y.shape[0]} samples; expected the same number")


def common_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype that both are computed in: at least float32, for half precision cannot hold a plan."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def real_tokens(tokens: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the tokens in `dtype`, with 0 on padding."""
    tokens = tokens.to(dtype)
    return tokens if mask is None else torch.where(mask.unsqueeze(-1), tokens, 0)


def require_finite(name: str, value: Tensor) -> None:
    """Raise a `ValueError` that counts the NaN and infinities in `value` (B, ...) and names their samples."""
    # A sum is one quick pass; only when it is not finite do we look closer.
    if not may_look(value) or torch.isfinite(value.detach().sum()):
        return
    bad = ~torch.isfinite(value.detach()).flatten(1)
    if not bad.any():  # every entry is finite and only their sum overflows
        return
    samples = bad.any(1).nonzero().flatten().tolist()
    names = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
    raise ValueError(
        f"{name}: {int(bad.sum())} of {bad.numel()} values are NaN or infinite (samples {names}); "
        "expected finite values at real tokens. Clean or mask them, or rescale values that overflow"
    )


def refuse_second_derivative(function: str) -> None:
    """Raise if a graph of the running backward pass is asked for: it computes its result without one."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{function} has no second derivative: its gradient was asked for with create_graph=True")


def expand_mask(mask: Tensor | None, like: Tensor) -> Tensor:
    """Return the mask (B, T), or one that is True everywhere."""
    return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if mask is None else mask
