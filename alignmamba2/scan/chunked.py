"""The scan in plain PyTorch, a chunk of steps at a time: any device, no compiler, memory like the input.

All exponentials of a chunk are one call; only the recurrence itself is a Python loop, one `addcmul_` a step.
The forward keeps the state at the start of each chunk and nothing else; the backward computes a chunk's
states again from it (our choice: the (B, L, D, N) tensor of all states is 16 times the input).

Buffers are (T, B, G, N, P): T steps of a chunk, G groups of P = D / G channels, channels innermost because
everything but B and C varies with them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG2E = math.log2(math.e)
ELEMENTS = 600_000  # of a chunk's buffer (T, B, G, N, P): fits a second-level cache, and amortises a call


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """u, delta, z (B, D, L); B, C (D, N) or (B, G, N, L); the rest as `selective_scan` → y, last state."""
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    y, last = _ChunkedScan.apply(u, delta, A, B, C, initial_state)
    if D is not None:
        y = torch.addcmul(y, u, D.unsqueeze(-1))
    if z is not None:
        y = y * F.silu(z)
    return y, last


class _Chunks:
    """The inputs, cut into chunks and brought to the buffers' layout."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor):
        self.batch, self.channels, self.length = u.shape
        self.state_size = A.shape[1]
        grouped = [x for x in (B, C) if x.dim() == 4]
        self.groups = grouped[0].shape[1] if grouped else 1
        self.width = self.channels // self.groups
        self.u, self.delta, self.B, self.C = u, delta, B, C
        self.A = self.fixed(A)
        self.rate = self.A * LOG2E
        step = self.batch * self.channels * self.state_size
        size = max(1, min(self.length, ELEMENTS // max(step, 1)))
        self._buffers: list[Tensor] = []
        self.spans = [(t, min(t + size, self.length)) for t in range(0, self.length, size)]

    def fixed(self, x: Tensor) -> Tensor:
        """(D, N) → (G, N, P)"""
        return x.view(self.groups, self.width, self.state_size).transpose(1, 2).contiguous()

    def view(self, x: Tensor, span: tuple[int, int]) -> Tensor:
        """(B, D, L) → (T, B, G, 1, P), the same memory."""
        part = x[:, :, span[0] : span[1]].permute(2, 0, 1)
        return part.view(len(part), self.batch, self.groups, 1, self.width)

    def per_channel(self, x: Tensor, span: tuple[int, int]) -> Tensor:
        """(B, D, L) → (T, B, G, 1, P) in memory of that order, which everything computed from it then has."""
        return self.view(x, span).contiguous()

    def per_state(self, x: Tensor, span: tuple[int, int]) -> Tensor:
        """B or C: (B, G, N, L) → (T, B, G, N, 1);  (D, N) → (G, N, P). They broadcast alike."""
        if x.dim() == 2:
            return self.fixed(x)
        return x[..., span[0] : span[1]].permute(3, 0, 1, 2).contiguous().unsqueeze(-1)

    def to_state(self, state: Tensor) -> Tensor:
        """(B, D, N) → (B, G, N, P)"""
        return state.reshape(self.batch, self.groups, self.width, -1).transpose(2, 3).contiguous()

    def from_state(self, state: Tensor) -> Tensor:
        """(B, G, N, P) → (B, D, N)"""
        return state.transpose(2, 3).reshape(self.batch, self.channels, self.state_size)

    def buffers(self, count: int, span: tuple[int, int]) -> list[Tensor]:
        """`count` buffers (T, B, G, N, P), the same for every chunk: new memory costs as much as arithmetic."""
        while len(self._buffers) < count:
            first = self.spans[0]
            shape = (first[1] - first[0], self.batch, self.groups, self.state_size, self.width)
            self._buffers.append(self.u.new_empty(shape))
        return [x[: span[1] - span[0]] for x in self._buffers[:count]]

    def states(self, state: Tensor, span: tuple[int, int], dt: Tensor, ut: Tensor) -> tuple[Tensor, Tensor]:
        """Decays and states of a chunk in the first two buffers, from the state before it and Δ, u of the chunk."""
        decay, states = self.buffers(2, span)
        torch.mul(dt, self.rate, out=decay).exp2_()
        torch.mul(dt * ut, self.per_state(self.B, span), out=states)
        for i in range(len(states)):
            state = states[i].addcmul_(decay[i], state)
        return decay, states


class _ChunkedScan(torch.autograd.Function):
    """(u, Δ, A, B, C, initial state) → (y, last state), without D, z, bias and softplus."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, initial_state):
        with torch.autocast(u.device.type, enabled=False):
            chunks = _Chunks(u, delta, A, B, C)
            y = u.new_empty(chunks.batch, chunks.length, chunks.channels).transpose(1, 2)
            state = chunks.to_state(initial_state)
            starts = []
            for span in chunks.spans:
                starts.append(state)
                dt, ut = chunks.per_channel(delta, span), chunks.per_channel(u, span)
                _, states = chunks.states(state, span, dt, ut)
                chunks.view(y, span).copy_(_sum_states(chunks.per_state(C, span), states))
                state = states[-1].clone()
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(u, delta, A, B, C, *starts)
        ctx.set_materialize_grads(True)
        return y, chunks.from_state(state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy, glast):
        u, delta, A, B, C, *starts = ctx.saved_tensors
        with torch.autocast(u.device.type, enabled=False):
            chunks = _Chunks(u, delta, A, B, C)
            gu, gdelta = (u.new_empty(chunks.batch, chunks.length, chunks.channels).transpose(1, 2) for _ in range(2))
            gA = torch.zeros_like(chunks.A)
            gB, gC = torch.zeros_like(B), torch.zeros_like(C)
            carry = chunks.to_state(glast)  # gradient of the state after the chunk
            for span, start in zip(reversed(chunks.spans), reversed(starts), strict=True):
                dt, ut = chunks.per_channel(delta, span), chunks.per_channel(u, span)
                decay, states = chunks.states(start, span, dt, ut)
                gyt, bt = chunks.per_channel(gy, span), chunks.per_state(B, span)
                _add_state_grad(gC, span, states, gyt, chunks)
                g = torch.mul(gyt, chunks.per_state(C, span), out=chunks.buffers(3, span)[2])
                g[-1] += carry  # and from last to first g becomes the gradient of every state
                for i in range(len(g) - 2, -1, -1):
                    g[i].addcmul_(decay[i + 1], g[i + 1])
                carry = decay[0] * g[0]
                _add_state_grad(gB, span, g, dt * ut, chunks)
                g_input = _sum_states(bt, g)  # gradient of Δu
                # h_{t-1} · decay_t · g_t, in place of the decays: the gradient of Δ_t A.
                decay.mul_(g)
                decay[1:].mul_(states[:-1])
                decay[0].mul_(start)
                g_exponent = torch.mul(decay, chunks.A, out=g).sum(-2, keepdim=True)
                torch.mul(g_input, dt, out=chunks.view(gu, span))
                torch.addcmul(g_exponent, g_input, ut, out=chunks.view(gdelta, span))
                gA += decay.mul_(dt).sum((0, 1))
        gA = gA.transpose(1, 2).reshape_as(A)
        return gu, gdelta, gA, gB, gC, chunks.from_state(carry)


def _sum_states(weight: Tensor, states: Tensor) -> Tensor:
    """Σ_n weight_n · states_n: (T, B, G, N, P) → (T, B, G, 1, P); weight as from `per_state`."""
    if weight.dim() == 3:
        return (states * weight).sum(-2, keepdim=True)
    return weight.transpose(-1, -2) @ states


def _add_state_grad(grad: Tensor, span: tuple[int, int], states: Tensor, other: Tensor, chunks: _Chunks) -> None:
    """Add to the gradient of B or C, (B, G, N, L) or (D, N): states (T, B, G, N, P) times other (T, B, G, 1, P)."""
    if grad.dim() == 2:
        grad += (states * other).sum((0, 1)).transpose(1, 2).reshape_as(grad)
    else:
        # Row times transposed matrix: the other order, matrix times column, is nine times slower.
        part = other @ states.transpose(-1, -2)  # (T, B, G, 1, N)
        grad[..., span[0] : span[1]] = part.squeeze(-2).permute(1, 2, 3, 0)
