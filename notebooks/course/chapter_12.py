"""Chapter 12, how it scales."""

from __future__ import annotations

import math

import torch

from .exercise import Chapter

chapter = Chapter("12")


def _times(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    length = 2.0 ** torch.arange(4, 4 + int(torch.randint(4, 9, (), generator=draw)))
    power = 0.5 + 2 * torch.rand((), generator=draw)
    return length, 0.1 * length**power * torch.exp(0.2 * torch.randn(len(length), generator=draw))


@chapter.exercise(
    1,
    inputs=_times,
    hints=[
        "If time = c · L^s, then log(time) = log(c) + s · log(L): a straight line, and s is its slope.",
        "With x and y less their means, the slope by least squares is Σ x y / Σ x².",
    ],
)
def exponent(length, time):
    """Lengths and times (S,) → the s with which time grows like length to the s, by least squares: a number."""
    x, y = length.log(), time.log()
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x * x).sum()


@chapter.mistake(1, "Take logarithms first; this is how many milliseconds a token costs, and not a power.")
def _no_logarithm(length, time):
    x, y = length - length.mean(), time - time.mean()
    return (x * y).sum() / (x * x).sum()


@chapter.mistake(1, "Those are the two ends only; all points should have a say.")
def _ends(length, time):
    return (time[-1] / time[0]).log() / (length[-1] / length[0]).log()


@chapter.mistake(1, "Take the means away first, or the line is forced through length 1, time 1.")
def _through_one(length, time):
    x, y = length.log(), time.log()
    return (x * y).sum() / (x * x).sum()


def _powers(draw: torch.Generator) -> tuple[float, float, float, float]:
    a, p = 2 + torch.rand((), generator=draw).item(), 0.9 + 0.2 * torch.rand((), generator=draw).item()
    return a, p, 0.01 + 0.01 * torch.rand((), generator=draw).item(), p + 0.8


@chapter.exercise(
    2,
    inputs=_powers,
    hints=["Set a L^p = b L^q, and bring all L to one side.", "L^(q − p) = a / b; now take the (q − p)-th root."],
)
def crossover(a, p, b, q):
    """Times a · L^p and b · L^q, p < q → the length L at which both take equally long: a number."""
    return (a / b) ** (1 / (q - p))


@chapter.mistake(2, "Upside down: that is 1 over the length.")
def _upside_down(a, p, b, q):
    return (b / a) ** (1 / (q - p))


@chapter.mistake(2, "That would do if the powers differed by 1; take the (q − p)-th root.")
def _no_root(a, p, b, q):
    return a / b


@chapter.mistake(2, "That is the logarithm of the length: exp of it.")
def _logarithm(a, p, b, q):
    return math.log(a / b) / (q - p)


def _layer(draw: torch.Generator) -> tuple[int, int, int, int]:
    choice = [int(torch.randint(low, high, (), generator=draw)) for low, high in ((1, 9), (1, 4), (1, 9), (2, 5))]
    return 16 * choice[0], choice[1], 2 * choice[2] + 1, choice[3]


@chapter.exercise(
    3,
    inputs=_layer,
    tolerance=1e-6,
    hints=[
        "A Mamba layer has e = expand · d channels. Each keeps d_state numbers, and the last d_conv − 1 inputs of its "
        "convolution.",
        "A layer of attention keeps a key and a value of every token, d numbers each.",
        "The state is larger as long as 2 d L ≤ e (d_state + d_conv − 1). The next whole number is asked for.",
    ],
)
def outgrown(d, expand, d_state, d_conv):
    """Whole numbers → after how many tokens a layer's keys and values are more numbers than a Mamba layer's state."""
    state = expand * d * (d_state + d_conv - 1)
    return state // (2 * d) + 1


@chapter.mistake(3, "The convolution remembers, too: the last d_conv − 1 inputs of every channel.")
def _no_convolution(d, expand, d_state, d_conv):
    return expand * d_state // 2 + 1


@chapter.mistake(3, "Attention keeps two vectors of every token, its key and its value.")
def _keys_only(d, expand, d_state, d_conv):
    return expand * (d_state + d_conv - 1) + 1


@chapter.mistake(3, "The convolution needs the d_conv − 1 inputs before the new one; the new one comes anyway.")
def _all_taps(d, expand, d_state, d_conv):
    return expand * (d_state + d_conv) // 2 + 1
