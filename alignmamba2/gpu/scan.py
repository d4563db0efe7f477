"""The selective scan on a GPU: the kernels as an operator of PyTorch, with its gradient; one graph for all lengths.

Tensors are read as they lie, in whatever type they come; the state is float32, or float64 for a float64 u. Views of
(B, L, D) memory are read best, and y and the gradients of u, delta and z are such views.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import scan_kernels as kernels

NUMBERS = {torch.float32: tl.float32, torch.float64: tl.float64}
TERMS = {torch.float32: 8, torch.float64: 18}  # of softplus, to the last bit


def selective_scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y and the last state of `alignmamba2.scan.selective_scan`, for its tensors in its order.

    Those are u, delta, A, B, C, D, z, delta_bias, initial_state, of any types; B, C (B, G, N, L).
    """
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return _scan(*tensors, delta_softplus, keep)[:2]


_TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias"
_GRADIENTS = ", ".join(["Tensor"] * 9)


@torch.library.custom_op(
    "alignmamba2::triton_scan",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor? initial_state, bool delta_softplus, bool keep) -> (Tensor, Tensor, Tensor)",
)
def _scan(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep):
    """Return y (B, D, L), last state (B, D, N) and, for the backward, states at the starts of chunks (B, K · N, D)."""
    y, last, kept = _empty_outputs(u, A, keep)
    first = None if initial_state is None else initial_state.contiguous()
    parameters = A.contiguous(), B, C, _contiguous(D), z, _contiguous(delta_bias), first
    strides = *u.stride(), *delta.stride(), *(u if z is None else z).stride(), *B.stride(), *C.stride()
    _launch(
        *(kernels.forward, kernels.FORWARD_WARPS, u, A, B, delta_softplus),
        *(u, delta, *parameters, y, last, kept if keep else None, *strides),
    )
    return y, last, kept


@torch.library.custom_op(
    "alignmamba2::triton_scan_backward",
    mutates_args=(),
    schema=f"({_TENSORS}, bool delta_softplus, Tensor kept, Tensor gy, Tensor? g_last) -> ({_GRADIENTS})",
)
def _scan_backward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept, gy, g_last):
    """Return the gradients of all nine tensors; those of missing ones mean nothing."""
    outputs = _empty_gradients(u, delta, A, B, C, z)
    parameters = A.contiguous(), B, C, _contiguous(D), z, _contiguous(delta_bias), kept
    strides = *u.stride(), *delta.stride(), *(u if z is None else z).stride(), *B.stride(), *C.stride(), *gy.stride()
    _launch(
        *(kernels.backward, kernels.BACKWARD_WARPS, u, A, B, delta_softplus),
        *(u, delta, *parameters, gy, _contiguous(g_last), *outputs, *strides),
        samples=len(u),
    )
    return _summed(outputs, B, C, D, A, delta_bias)


def _summed(
    outputs, B: Tensor, C: Tensor, D: Tensor | None, A: Tensor, delta_bias: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the nine gradients, from what the kernel wrote, in their tensors' types."""
    gu, g_delta, gz, *parts, g_first = outputs
    gA, gB, gC, gD, g_bias = (
        x.sum(0).to(x.dtype if like is None else like.dtype)
        for x, like in zip(parts, (A, B, C, D, delta_bias), strict=True)
    )
    return gu, g_delta, gA, gB.transpose(2, 3), gC.transpose(2, 3), gD, gz, g_bias, g_first


def _launch(kernel, warps: int, u: Tensor, A: Tensor, B: Tensor, softplus: bool, *args, **more) -> None:
    batch, channels, length = u.shape
    states, groups = A.shape[1], B.shape[1]
    width, number = channels // groups, _number(u)
    steps, n, p = kernels.sizes(states, width)
    blocks = triton.cdiv(width, p)
    counts = {"length": length, "chunks": triton.cdiv(length, steps), "blocks": blocks, "groups": groups, **more}
    tile = {"STEPS": steps, "STATES": n, "CHANNELS": p, "NUMBER": NUMBERS[number], "TERMS": TERMS[number]}
    if not batch * channels:
        return
    with torch.cuda.device_of(u):  # Triton launches on the current one
        kernel[(batch * groups * blocks,)](
            *args, **counts, width=width, states=states, SOFTPLUS=softplus, **tile, num_warps=warps
        )


def _number(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return (B, D, L), a view of new (B, L, D) memory."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], dtype=dtype).transpose(1, 2)


def _empty_outputs(u: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, channels, length), states, number = u.shape, A.shape[1], _number(u)
    chunks = -(-length // kernels.STEPS) if keep else 0
    last = u.new_empty(batch, channels, states, dtype=number)
    return _empty_like(u), last, u.new_empty(batch, chunks * states, channels, dtype=number)


def _empty_gradients(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> tuple[Tensor, ...]:
    """Return memory for what the backward kernel writes; what is to be summed has the parts in front."""
    (batch, channels, length), states, groups = u.shape, A.shape[1], B.shape[1]
    _, _, p = kernels.sizes(states, channels // groups)
    blocks = -(-(channels // groups) // p)

    def parts(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=_number(u))

    sequences = _empty_like(u), _empty_like(delta), _empty_like(u[:0] if z is None else z)
    gB, gC = (parts(blocks, batch, groups, length, states) for _ in range(2))
    gD, g_bias = (parts(batch, channels) for _ in range(2))
    return *sequences, parts(batch, channels, states), gB, gC, gD, g_bias, parts(batch, channels, states)


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep):
    return _empty_outputs(u, A, keep)


@_scan_backward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept, gy, g_last):
    return _summed(_empty_gradients(u, delta, A, B, C, z), B, C, D, A, delta_bias)


def _keep_inputs(ctx, inputs, output) -> None:
    *tensors, initial_state, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)
    ctx.present = [x is not None for x in (*tensors, initial_state)]
    ctx.first_dtype = None if initial_state is None else initial_state.dtype


def _backward(ctx, gy, g_last, _):
    *tensors, kept = ctx.saved_tensors
    if gy is None:  # the last state alone has a gradient
        gy = torch.zeros_like(tensors[0])
    grads = [*_scan_backward(*tensors, ctx.delta_softplus, kept, gy, g_last)]
    grads[8] = grads[8].to(ctx.first_dtype)
    return *(g if present else None for g, present in zip(grads, ctx.present, strict=True)), None, None


_scan.register_autograd(_backward, setup_context=_keep_inputs)
