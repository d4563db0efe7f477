"""The scan in plain PyTorch, a chunk at a time: any device, no compiler, memory like the input.

A chunk is some samples by some steps, few enough that its states stay in the processor's cache. All its exponentials
are one call; only the recurrence itself is a Python loop, one `addcmul_` per step. Softplus, D and the gate are taken
chunk by chunk too: over the whole sequence, their intermediate tensors would cost more in new memory than in
arithmetic. The forward keeps the state at the start of each chunk and, for the gradient of the gate, what is gated;
the backward computes a chunk's states again (our choice: the (B, L, D, N) tensor of all states is 16 times the input).
Intermediate results are written into buffers that all chunks share, and final ones where they belong.

A chunk's tensors are (B, T, G, N, P): B samples, T steps, G groups of P = D / G channels. Channels are innermost, for
everything but B and C varies with them; samples outermost, for PyTorch cuts an operation between its threads there, on
a whole chunk as on one of its steps: each thread finds its half where it left it, in its own processor's cache.
"""

import math

import torch
from torch import Tensor

LOG2E = math.log2(math.e)
ELEMENTS = 900_000  # states of a chunk: three such buffers fit a third-level cache, and amortise its forty calls
STEP = 131_072  # states of a step on a processor: enough for two threads; more samples go part after part


def scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y and the last state, for the tensors of `selective_scan` in its order.

    u, delta, z (B, D, L); B, C (B, G, N, L); all of one type.
    """
    u, _, A, *_, initial_state = tensors
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    return _ChunkedScan.apply(*tensors[:-1], initial_state, delta_softplus)


class _Chunks:
    """The inputs, cut into chunks: for one part of the samples after the other, its chunks in order of time.

    Inputs that vary with time are lists of (B, T, G, 1 or N, P or 1), one for each chunk; the others (G, 1 or N, P).
    """

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, softplus: bool):
        self.batch, self.channels, self.length = u.shape
        self.state_size = A.shape[1]
        self.groups = B.shape[1]
        self.width = self.channels // self.groups
        sample = max(1, self.channels * self.state_size)
        self.samples = max(1, min(self.batch, STEP // sample) if u.device.type == "cpu" else self.batch)
        self.steps = max(1, min(self.length, ELEMENTS // (self.samples * sample)))
        self.in_time = -(-self.length // self.steps)  # chunks of the same samples
        self.u, self.delta, self.z = self.cut(u), self.cut(delta), None if z is None else self.cut(z)
        self.B, self.C = (self.split(x.permute(0, 3, 1, 2).contiguous().unsqueeze(-1)) for x in (B, C))
        self.A, self.softplus = A.view(self.groups, self.width, self.state_size).transpose(1, 2).contiguous(), softplus
        self.rate = self.A * LOG2E
        self.D, self.bias = (None if x is None else x.view(self.groups, 1, self.width) for x in (D, delta_bias))
        self._memory: dict[str, Tensor] = {}
        self._buffers: dict[tuple[str, torch.Size], Tensor] = {}
        self._steps: dict[tuple[str, torch.Size], tuple[Tensor, ...]] = {}

    def empty(self) -> tuple[Tensor, list[Tensor]]:
        """(B, D, L), a view of new (B, L, D) memory, whole and cut."""
        x = self.rate.new_empty(self.batch, self.length, self.channels).transpose(1, 2)
        return x, self.cut(x)

    def cut(self, x: Tensor) -> list[Tensor]:
        """(B, D, L) → (B, T, G, 1, P) each; the same memory if that is (B, L, D), else copied once."""
        return self.split(x.transpose(1, 2).contiguous().unflatten(-1, (self.groups, 1, self.width)))

    def split(self, x: Tensor) -> list[Tensor]:
        """(B, L, ...) → (B, T, ...) each, the same memory."""
        return [chunk for part in x.split(self.samples) for chunk in part.split(self.steps, 1)]

    def to_state(self, state: Tensor) -> tuple[Tensor, ...]:
        """(B, D, N) → (B, G, N, P) for each part of the samples"""
        state = state.reshape(self.batch, self.groups, self.width, self.state_size).transpose(2, 3).contiguous()
        return state.split(self.samples)

    def from_state(self, states: list[Tensor]) -> Tensor:
        """(B, G, N, P) for each part of the samples → (B, D, N)"""
        return torch.cat(states).transpose(2, 3).reshape(self.batch, self.channels, self.state_size)

    def buffer(self, name: str, i: int, rows: int = 1) -> Tensor:
        """Memory (B, T, G, rows, P) of that name for chunk i, the same for all: what is new has to be fetched first."""
        key = name, self.u[i].shape
        if key not in self._buffers:
            shape = (*self.u[i].shape[:3], rows, self.width)
            if name not in self._memory:
                self._memory[name] = self.rate.new_empty(self.samples * self.steps * self.channels * rows)
            self._buffers[key] = self._memory[name][: math.prod(shape)].view(shape)
        return self._buffers[key]

    def each_step(self, name: str, i: int) -> tuple[Tensor, ...]:
        """A buffer's steps, kept as well: to index a tensor costs as much as a small operation."""
        key = name, self.u[i].shape
        if key not in self._steps:
            self._steps[key] = self._buffers[key].unbind(1)
        return self._steps[key]

    def states(self, i: int, state: Tensor) -> Tensor:
        """States of chunk i from the state before it, in buffer `states`; also fills `decay`, `raw`, `dt` and `x`.

        raw and dt are Δ before and after softplus, x is Δu.
        """
        raw, dt, x = (self.buffer(name, i) for name in ("raw", "dt", "x"))
        decay, states = (self.buffer(name, i, self.state_size) for name in ("decay", "states"))
        if self.bias is None:
            raw.copy_(self.delta[i])
        else:
            torch.add(self.delta[i], self.bias, out=raw)
        if self.softplus:
            torch.ops.aten.softplus.out(raw, out=dt)
        else:
            dt.copy_(raw)
        torch.mul(dt, self.u[i], out=x)
        torch.mul(dt, self.rate, out=decay).exp2_()
        torch.mul(x, self.B[i], out=states)
        for now, a in zip(self.each_step("states", i), self.each_step("decay", i), strict=True):
            state = now.addcmul_(a, state)
        return states


class _ChunkedScan(torch.autograd.Function):
    """The scan with its gradient, both a chunk at a time."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, initial_state, softplus):
        keep = any(ctx.needs_input_grad)
        with torch.autocast(u.device.type, enabled=False):
            chunks = _Chunks(u, delta, A, B, C, D, z, delta_bias, softplus)
            y, ys = chunks.empty()
            first, last = chunks.to_state(initial_state), []
            starts, ungated = [], []
            for i in range(len(ys)):
                part, time = divmod(i, chunks.in_time)
                if time == 0:
                    state = first[part]
                starts.append(state)
                states = chunks.states(i, state)
                state = chunks.each_step("states", i)[-1].clone()
                # What is gated is kept for the gradient of the gate; otherwise one buffer serves all chunks.
                yt = torch.empty_like(chunks.buffer("x", i)) if keep and z is not None else chunks.buffer("y", i)
                torch.matmul(chunks.C[i].mT, states, out=yt)
                if D is not None:
                    yt.addcmul_(chunks.u[i], chunks.D)
                if z is None:
                    ys[i].copy_(yt)
                else:
                    torch.mul(yt, torch.ops.aten.silu.out(chunks.z[i], out=chunks.buffer("gate", i)), out=ys[i])
                    if keep:
                        ungated.append(yt)
                if time == chunks.in_time - 1:
                    last.append(state)
        if keep:
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, *starts, *ungated)
            ctx.softplus = softplus
        ctx.set_materialize_grads(True)
        return y, chunks.from_state(last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy, glast):
        u, delta, A, B, C, D, z, delta_bias, *kept = ctx.saved_tensors
        with torch.autocast(u.device.type, enabled=False):
            chunks = _Chunks(u, delta, A, B, C, D, z, delta_bias, ctx.softplus)
            starts, ungated = kept[: len(chunks.u)], kept[len(chunks.u) :]
            gys = chunks.cut(gy)
            (gu, gus), (gdelta, gdeltas) = chunks.empty(), chunks.empty()
            gz, gzs = (None, None) if z is None else chunks.empty()
            gA = torch.zeros_like(chunks.A)
            gB, gC = (x.new_empty(x.shape[0], x.shape[3], *x.shape[1:3]) for x in (B, C))  # (B, L, G, N)
            gBs, gCs = (chunks.split(x.unsqueeze(-2)) for x in (gB, gC))
            gD = None if D is None else torch.zeros_like(chunks.D)
            glast, gfirst, N = chunks.to_state(glast), [], chunks.state_size
            for i in reversed(range(len(gys))):
                part, time = divmod(i, chunks.in_time)
                if time == chunks.in_time - 1:
                    carry = glast[part]  # gradient of the state after the chunk
                states, decay, g = chunks.states(i, starts[i]), chunks.buffer("decay", i), chunks.buffer("g", i, N)
                decays, gs = chunks.each_step("decay", i), chunks.each_step("g", i)
                raw, dt, x, gyt, scratch = (chunks.buffer(k, i) for k in ("raw", "dt", "x", "gy", "scratch"))
                ut = chunks.u[i]
                if z is None:
                    gyt.copy_(gys[i])
                else:
                    torch.mul(gys[i], ungated[i], out=scratch)
                    torch.ops.aten.silu_backward.grad_input(scratch, chunks.z[i], grad_input=gzs[i])
                    torch.mul(gys[i], torch.ops.aten.silu.out(chunks.z[i], out=scratch), out=gyt)
                # Row times transposed matrix: the other order, matrix times column, is nine times slower.
                gCs[i].copy_(gyt @ states.mT)
                torch.mul(gyt, chunks.C[i], out=g)
                later = gs[-1].add_(carry)
                # From last to first g becomes the gradient of every state.
                for now, a in zip(reversed(gs[:-1]), reversed(decays), strict=False):
                    later = now.addcmul_(a, later)
                carry = decays[0] * gs[0]
                gBs[i].copy_(x @ g.mT)
                gx = torch.matmul(chunks.B[i].mT, g, out=chunks.buffer("gx", i))  # gradient of Δu
                # h_{t-1} · decay_t · g_t, in place of the decays: the gradient of Δ_t A.
                decay.mul_(g)
                decay[:, 1:].mul_(states[:, :-1])
                decays[0].mul_(starts[i])
                gdt = torch.sum(torch.mul(decay, chunks.A, out=g), -2, keepdim=True, out=scratch)
                gA += decay.mul_(dt).sum((0, 1))
                if ctx.softplus:
                    torch.mul(gdt.addcmul_(gx, ut), raw.sigmoid_(), out=gdeltas[i])
                else:
                    torch.addcmul(gdt, gx, ut, out=gdeltas[i])
                if D is None:
                    torch.mul(gx, dt, out=gus[i])
                else:
                    torch.addcmul(gx.mul_(dt), gyt, chunks.D, out=gus[i])
                    gD += gyt.mul_(ut).sum((0, 1))
                if time == 0:
                    gfirst.insert(0, carry)
        gB, gC = (x.permute(0, 2, 3, 1) for x in (gB, gC))
        gD = None if D is None else gD.flatten()
        gbias = None if delta_bias is None else gdelta.sum((0, 2))
        return gu, gdelta, gA.transpose(1, 2).reshape(A.shape), gB, gC, gD, gz, gbias, chunks.from_state(gfirst), None
