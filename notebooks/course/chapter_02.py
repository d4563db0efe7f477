"""Chapter 02, the selective scan."""

from __future__ import annotations

import math

import torch

from .exercise import Chapter

chapter = Chapter("02")


def _steps(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    length = int(torch.randint(5, 20, (), generator=draw))
    return torch.rand(length, generator=draw), torch.randn(length, generator=draw)


@chapter.exercise(
    1,
    inputs=_steps,
    hints=[
        "Keep one number, the state, and start it at 0. Go through the tokens in order.",
        "At each token: state = decay[t] * state + drive[t]. Collect the state after every token.",
    ],
)
def recurrence(decay, drive):
    """The states h_t = decay_t · h_{t−1} + drive_t, with h = 0 before the first token.

    decay, drive : (L,)  →  (L,)
    """
    state, states = 0.0, []
    for a, b in zip(decay, drive, strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states)


@chapter.mistake(1, "You multiply the new token by the decay too; the decay acts only on what was there before.")
def _decays_the_new_token(decay, drive):
    state, states = 0.0, []
    for a, b in zip(decay, drive, strict=True):
        state = a * (state + b)
        states.append(state)
    return torch.stack(states)


@chapter.mistake(1, "These are running sums: nothing is ever forgotten. Multiply the old state by the decay.")
def _never_forgets(decay, drive):
    return drive.cumsum(0)


@chapter.mistake(1, "Here nothing is remembered: the state before this token is missing.")
def _never_remembers(decay, drive):
    return drive


def _two_spans(draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    return tuple(torch.rand(4, generator=draw) for _ in range(4))


@chapter.exercise(
    2,
    inputs=_two_spans,
    hints=[
        "Write down what the first span makes of a state h, and put that into what the second span does.",
        "a₂ (a₁ h + b₁) + b₂. Which number stands before h, and what is left?",
    ],
)
def combine(a_first, b_first, a_second, b_second):
    """Two spans of tokens as one: the (a, b) for which h → a·h + b does first the one, then the other.

    All arguments have the same shape, and so have both results.
    """
    return a_first * a_second, a_second * b_first + b_second


@chapter.mistake(2, "The second part is in the wrong order: you let the second span come first.")
def _wrong_order(a_first, b_first, a_second, b_second):
    return a_first * a_second, a_first * b_second + b_first


@chapter.mistake(2, "What the first span put into the state must pass through the second span, and decays there.")
def _sums_the_drives(a_first, b_first, a_second, b_second):
    return a_first * a_second, b_first + b_second


@chapter.mistake(2, "Decays multiply: half of a third is a sixth.")
def _sums_the_decays(a_first, b_first, a_second, b_second):
    return a_first + a_second, a_second * b_first + b_second


def _channel(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.001 + 0.1 * torch.rand(6, generator=draw), -torch.arange(1.0, 7.0)


@chapter.exercise(
    3,
    inputs=_channel,
    hints=[
        "After k tokens with the same Δ, what was in the state has been multiplied by exp(Δ A) k times.",
        "Solve exp(k Δ A) = 1/2 for k. A is negative, and so is log(1/2).",
    ],
)
def half_life(delta, A):
    """Tokens after which half of what the state held is left, at a constant step size.

    delta, A : (e,), A < 0  →  (e,)
    """
    return math.log(0.5) / (delta * A)


@chapter.mistake(3, "A half-life is positive: mind the sign of A.")
def _negative(delta, A):
    return math.log(2) / (delta * A)


@chapter.mistake(3, "That is the time until 1/e = 37 % is left. Half is left a little earlier.")
def _time_constant(delta, A):
    return -1 / (delta * A)


@chapter.mistake(3, "You left out Δ: what counts is Δ·A, how far the state moves on at a token.")
def _without_delta(delta, A):
    return math.log(0.5) / A
