"""The selective scan in Triton: kernels that the GPU's own driver compiles, on first use, without a compiler here.

A program takes some channels of one sample through the whole sequence, a chunk of steps at a time: so the number of
launches does not depend on the length. A chunk's states (T, N, P), of T steps and P channels, live in registers. The
affine maps of its steps, h → a h + x, are composed by an associative scan along T. The forward keeps the state at the
start of each chunk; the backward goes through the chunks from the last to the first and computes their states again.
The sums over channels that the gradients of B and C need are written for each program and added up afterwards, in one
order: the same bits each time.

Steps beyond the sequence have Δ = 0, the identity; states and channels beyond have A = B = C = 0.
"""

import triton
import triton.language as tl

STEPS = 16  # of a chunk: a state is kept for each, so memory is that of the input at 16 states
TILE = 8192  # elements of a chunk: 64 registers in each thread of the forward's four warps
FORWARD_WARPS, BACKWARD_WARPS = 4, 8


def sizes(states: int, width: int) -> tuple[int, int, int]:
    """Return how many steps, states and channels a tile has, for `width` channels that share B and C; powers of 2."""
    n = triton.next_power_of_2(states)
    return STEPS, n, min(max(1, TILE // (STEPS * n)), 32, triton.next_power_of_2(width))


@triton.jit
def _compose(a, x, later_a, later_x):
    """The map h → later_a (a h + x) + later_x."""
    return later_a * a, later_a * x + later_x


@triton.jit
def _compose_open(a, x, now, later_a, later_x, later_now):
    """As `_compose`, of maps that leave out their last step's own x, `now`: a_t h_{t−1} without cancellation."""
    return later_a * a, later_a * (x + now) + later_x, later_now


@triton.jit
def _compose_back(p, v, a, earlier_p, earlier_v, earlier_a):
    """From the last step to the first, the maps r → p r + v of gradients; `a` is the decay that each still lacks."""
    through = earlier_p * a
    return through * p, through * v + earlier_v, earlier_a


@triton.jit
def _softplus(x, TERMS: tl.constexpr):
    """max(x, 0) + log(1 + e), e = exp(−|x|), as 2 artanh(e / (2 + e)): exact where 1 + e would round e away."""
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    square, total = s * s, tl.zeros_like(s)
    for i in tl.static_range(TERMS):
        total = total * square + 1.0 / (2 * (TERMS - i) - 1)
    return tl.maximum(x, 0.0) + 2 * s * total


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _rows(x, start, column, column_stride, t, t_stride, mask, NUMBER: tl.constexpr):
    """A chunk (T, columns) of a sequence, 0 outside the mask."""
    return tl.load(x + start + column[None, :] * column_stride + t[:, None] * t_stride, mask=mask, other=0).to(NUMBER)


@triton.jit
def _parameter(x, channel, inside, NUMBER: tl.constexpr):
    """A parameter (D,) at the program's channels, float; 0 where there is none."""
    if x is None:  # noqa: SIM108 - known when it is compiled: one of the two branches is
        value = tl.zeros_like(channel).to(NUMBER)
    else:
        value = tl.load(x + channel, mask=inside, other=0).to(NUMBER)
    return value


@triton.jit
def _step_size(raw, bias, real, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Δ before and after softplus (T, P); 0 beyond the sequence."""
    raw += bias[None, :]
    dt = _softplus(raw, TERMS) if SOFTPLUS else raw
    return raw, tl.where(real, dt, 0.0)


@triton.jit
def _place(blocks, groups, width, CHANNELS: tl.constexpr):
    """This program's sample, group and block of channels; the channels, and which of them there are."""
    pid = tl.program_id(0).to(tl.int64)
    block, group, sample = pid % blocks, (pid // blocks) % groups, pid // (blocks * groups)
    lane = block * CHANNELS + tl.arange(0, CHANNELS)
    return sample, group, block, group * width + lane, lane < width


@triton.jit(do_not_specialize=["length", "chunks", "blocks", "groups", "width"])
def forward(
    u, delta, A, B, C, D, z, delta_bias, first, y, last, kept,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, z_b, z_d, z_t, B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t,
    length, chunks, blocks, groups, width, states,
    SOFTPLUS: tl.constexpr, NUMBER: tl.constexpr, TERMS: tl.constexpr,
    STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, group, _, channel, inside = _place(blocks, groups, width, CHANNELS)
    d_all = groups * width
    step, n = tl.arange(0, STEPS), tl.arange(0, STATES)
    is_first, is_last = (step == 0)[:, None, None], (step == STEPS - 1)[:, None, None]
    there = (n < states)[:, None] & inside[None, :]  # (N, P)
    of_state = channel[None, :] * states + n[:, None]
    rate = tl.load(A + of_state, mask=there, other=0).to(NUMBER)
    skip, bias = _parameter(D, channel, inside, NUMBER), _parameter(delta_bias, channel, inside, NUMBER)
    state = tl.zeros([STATES, CHANNELS], NUMBER)
    if first is not None:
        state = tl.load(first + sample * d_all * states + of_state, mask=there, other=0).to(NUMBER)
    for k in range(chunks):
        t = k * STEPS + step.to(tl.int64)
        real, of_B = (t < length)[:, None] & inside[None, :], (t < length)[:, None] & (n < states)[None, :]
        if kept is not None:
            place = ((sample * chunks + k) * states + n[:, None]) * d_all + channel[None, :]
            tl.store(kept + place, state, mask=there)
        ut = _rows(u, sample * u_b, channel, u_d, t, u_t, real, NUMBER)
        raw = _rows(delta, sample * delta_b, channel, delta_d, t, delta_t, real, NUMBER)
        Bt = _rows(B, sample * B_b + group * B_g, n, B_n, t, B_t, of_B, NUMBER)
        Ct = _rows(C, sample * C_b + group * C_g, n, C_n, t, C_t, of_B, NUMBER)
        raw, dt = _step_size(raw, bias, real, SOFTPLUS, TERMS)
        a = tl.exp(dt[:, None, :] * rate[None, :, :])
        x = (dt * ut)[:, None, :] * Bt[:, :, None]
        x += tl.where(is_first, a * state[None, :, :], 0.0)
        _product, h = tl.associative_scan((a, x), 0, _compose)
        state = tl.sum(tl.where(is_last, h, 0.0), 0)
        yt = tl.sum(h * Ct[:, :, None], 1) + skip[None, :] * ut
        if z is not None:
            zt = _rows(z, sample * z_b, channel, z_d, t, z_t, real, NUMBER)
            yt *= zt * _sigmoid(zt)
        tl.store(y + (sample * length + t[:, None]) * d_all + channel[None, :], yt, mask=real)
    tl.store(last + sample * d_all * states + of_state, state, mask=there)


@triton.jit
def _decayed(a, x, before, is_first):
    """a_t h_{t−1} of a chunk's steps (T, N, P), from the state (N, P) before it."""
    first = tl.where(is_first, a * before[None, :, :], 0.0)
    _product, decayed, _own = tl.associative_scan((a, first, x), 0, _compose_open)
    return decayed


@triton.jit
def _through_gate(gy, ungated, z):
    """The gradients of `ungated` and of z, of y = ungated · z σ(z)."""
    s = _sigmoid(z)
    return gy * (z * s), gy * ungated * s * (1 + z * (1 - s))


@triton.jit
def _store_both(one, of_one, other, of_other, place, mask):
    tl.store(one + place, of_one, mask=mask)
    tl.store(other + place, of_other, mask=mask)


@triton.jit(do_not_specialize=["length", "chunks", "blocks", "groups", "width", "samples"])
def backward(
    u, delta, A, B, C, D, z, delta_bias, kept, gy, g_last,
    gu, g_delta, gz, gA, gB, gC, gD, g_bias, g_first,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, z_b, z_d, z_t, B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, gy_b, gy_d, gy_t,
    length, chunks, blocks, groups, width, samples, states, SOFTPLUS: tl.constexpr, NUMBER: tl.constexpr,
    TERMS: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, group, block, channel, inside = _place(blocks, groups, width, CHANNELS)
    d_all = groups * width
    step, n = tl.arange(0, STEPS), tl.arange(0, STATES)
    is_first, is_last = (step == 0)[:, None, None], (step == STEPS - 1)[:, None, None]
    there = (n < states)[:, None] & inside[None, :]
    of_state = channel[None, :] * states + n[:, None]
    rate = tl.load(A + of_state, mask=there, other=0).to(NUMBER)
    skip, bias = _parameter(D, channel, inside, NUMBER), _parameter(delta_bias, channel, inside, NUMBER)
    carry = tl.zeros([STATES, CHANNELS], NUMBER)  # gradient of the state before the chunk that was done last
    if g_last is not None:
        carry = tl.load(g_last + sample * d_all * states + of_state, mask=there, other=0).to(NUMBER)
    sum_A, sum_D, sum_bias = tl.zeros_like(carry), tl.zeros([CHANNELS], NUMBER), tl.zeros([CHANNELS], NUMBER)
    for done in range(chunks):
        k = chunks - 1 - done
        t = k * STEPS + step.to(tl.int64)
        real, of_B = (t < length)[:, None] & inside[None, :], (t < length)[:, None] & (n < states)[None, :]
        ut = _rows(u, sample * u_b, channel, u_d, t, u_t, real, NUMBER)
        raw = _rows(delta, sample * delta_b, channel, delta_d, t, delta_t, real, NUMBER)
        gyt = _rows(gy, sample * gy_b, channel, gy_d, t, gy_t, real, NUMBER)
        Bt = _rows(B, sample * B_b + group * B_g, n, B_n, t, B_t, of_B, NUMBER)
        Ct = _rows(C, sample * C_b + group * C_g, n, C_n, t, C_t, of_B, NUMBER)
        place = ((sample * chunks + k) * states + n[:, None]) * d_all + channel[None, :]
        before = tl.load(kept + place, mask=there, other=0)
        raw, dt = _step_size(raw, bias, real, SOFTPLUS, TERMS)
        a = tl.exp(dt[:, None, :] * rate[None, :, :])
        x = (dt * ut)[:, None, :] * Bt[:, :, None]
        decayed = _decayed(a, x, before, is_first)
        h = decayed + x
        row = (sample * length + t[:, None]) * d_all + channel[None, :]
        if z is not None:
            zt = _rows(z, sample * z_b, channel, z_d, t, z_t, real, NUMBER)
            ungated = tl.sum(h * Ct[:, :, None], 1) + skip[None, :] * ut
            gyt, gzt = _through_gate(gyt, ungated, zt)
            tl.store(gz + row, gzt, mask=real)
        # (sample, group, step, state) of this block's channels
        pair = (((block * samples + sample) * groups + group) * length + t[:, None]) * states + n[None, :]
        tl.store(gC + pair, tl.sum(gyt[:, None, :] * h, 2), mask=of_B)
        g = gyt[:, None, :] * Ct[:, :, None] + tl.where(is_last, carry[None, :, :], 0.0)
        _product, g, _own = tl.associative_scan((tl.zeros_like(g) + 1.0, g, a), 0, _compose_back, reverse=True)
        carry = tl.sum(tl.where(is_first, a * g, 0.0), 0)
        tl.store(gB + pair, tl.sum((dt * ut)[:, None, :] * g, 2), mask=of_B)
        gx = tl.sum(g * Bt[:, :, None], 1)  # gradient of Δu
        decayed *= g  # gradient of Δ_t A
        sum_A += tl.sum(decayed * dt[:, None, :], 0)
        gdt = tl.sum(decayed * rate[None, :, :], 1) + gx * ut
        if SOFTPLUS:
            gdt *= _sigmoid(raw)
        gdt = tl.where(real, gdt, 0.0)
        sum_bias += tl.sum(gdt, 0)
        sum_D += tl.sum(gyt * ut, 0)
        tl.store(g_delta + row, gdt, mask=real)
        tl.store(gu + row, gx * dt + gyt * skip[None, :], mask=real)
    _store_both(g_first, carry, gA, sum_A, sample * d_all * states + of_state, there)
    _store_both(gD, sum_D, g_bias, sum_bias, sample * d_all + channel, inside)
