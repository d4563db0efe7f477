"""The definition, one step at a time, which every other backend must equal.

It is slow, and its backward keeps a (B, D, N) state per step: to be read, and for checks in float64.
Letters: B batch, D channels, L length, N state size, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Do one token: (state h_{t-1}, token) → (state h_t, output y_t).

    state (B, D, N); u, delta, z (B, D); A (D, N); B, C (B, G, N); D, delta_bias (D,).
    """
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = F.softplus(delta)
    decay = torch.exp(delta.unsqueeze(-1) * A)  # (B, D, N)
    state = decay * state + (delta * u).unsqueeze(-1) * _per_channel(B, u)
    y = (state * _per_channel(C, u)).sum(-1)  # (B, D)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return state, y


def scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Do `step` over the whole sequence: u, delta, z (B, D, L); B, C (B, G, N, L) → y, last state."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    batch, channels, length = u.shape
    state = u.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    # unbind, not x[:, :, t]: the backward of an index fills a whole zero tensor at every step, L² work.
    us, deltas, Bs, Cs = (x.unbind(-1) for x in (u, delta, B, C))
    zs = [None] * length if z is None else z.unbind(-1)
    ys = []
    for t in range(length):
        state, y = step(state, us[t], deltas[t], A, Bs[t], Cs[t], D, zs[t], delta_bias, delta_softplus)
        ys.append(y)
    return torch.stack(ys, -1), state


def _per_channel(x: Tensor, u: Tensor) -> Tensor:
    """B or C of one step, (B, G, N), as each of the D channels of u (B, D) sees it."""
    return x.repeat_interleave(u.shape[1] // x.shape[1], dim=1)
