"""Is an answer right? If not: what is wrong with it, and how far off is it?"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .exercise import Exercise

DRAWS = 5  # random inputs that a function is tried on
RIGHT, WRONG, TODO = "right", "wrong", "to do"
MARKS = {RIGHT: "✓", WRONG: "✗", TODO: "○"}
COLOURS = {RIGHT: "#009E73", WRONG: "#D55E00", TODO: "#767676"}


@dataclass(frozen=True)
class Verdict:
    """What `check` found; true if the answer is right."""

    exercise: str
    status: str
    message: str

    def __bool__(self) -> bool:
        return self.status == RIGHT

    def __repr__(self) -> str:
        return f"{MARKS[self.status]} {self.exercise}: {self.message}"

    def _repr_html_(self) -> str:
        colour = COLOURS[self.status]
        return (
            f'<p role="status" style="margin:4px 0;padding:6px 14px;border-left:5px solid {colour}">'
            f"<b>{MARKS[self.status]} {self.exercise}</b> &nbsp;{html.escape(self.message)}</p>"
        )


class _Wrong(Exception):
    """The answer is not right; the message says why."""


class _Unfinished(Exception):
    """There is no answer yet."""


def compare(exercise: Exercise, answer: Any, seed: int = 0) -> Verdict:
    """Judge an answer; see `check`."""
    try:
        judge = _judge_function if callable(exercise.solution) else _judge_value
        return Verdict(exercise.name, RIGHT, judge(exercise, answer, seed))
    except _Unfinished:
        ask = f"not done yet. Replace the placeholder and run the cell again; hint({exercise.name!r}) helps."
        return Verdict(exercise.name, TODO, ask)
    except _Wrong as wrong:
        return Verdict(exercise.name, WRONG, str(wrong))


def _judge_value(exercise: Exercise, answer: Any, seed: int) -> str:
    right = exercise.solution
    if answer is None or answer is ...:
        raise _Unfinished
    if isinstance(right, str):
        if not isinstance(answer, str):
            raise _Wrong(f"found {answer!r}; expected a word in quotes")
        word = answer.strip().lower()
        for mistake in exercise.mistakes:
            if word == mistake.answer.lower():
                raise _Wrong(mistake.message)
        if word != right.lower():
            raise _Wrong(f"found {answer!r}, which is none of the choices")
        return "right."
    numbers = _numbers(answer)
    if numbers is None or numbers.size != 1:
        raise _Wrong(f"found {answer!r}; expected a number")
    for mistake in exercise.mistakes:
        if _near(numbers, mistake.answer, exercise.tolerance):
            raise _Wrong(mistake.message)
    if not _near(numbers, right, exercise.tolerance):
        value = float(numbers.reshape(()))
        size = f"{abs(value / right):.3g} times the size it should have" if right else f"{value:.3g} away from it"
        raise _Wrong(f"{value:.6g} is too {'large' if value > right else 'small'}; {size}.")
    return f"right; {right:.6g} to {exercise.tolerance:.0%}."


def _judge_function(exercise: Exercise, answer: Any, seed: int) -> str:
    if answer is None or answer is ...:
        raise _Unfinished
    if not callable(answer):
        raise _Wrong(f"found {type(answer).__name__}; expected a function. Give its name, without brackets behind it.")
    draw = torch.Generator().manual_seed(seed)
    inputs = [exercise.inputs(draw) for _ in range(DRAWS)]
    expected = [_run(exercise.solution, example) for example in inputs]
    output = [_answer_to(exercise, answer, example) for example in inputs]
    off = [_largest_difference(f, e) for f, e in zip(output, expected, strict=True)]
    if all(d <= exercise.tolerance for d in off):
        return f"right, on {DRAWS} random inputs. Largest difference from the reference: {max(off):.0e}."
    which = next(i for i, d in enumerate(off) if not d <= exercise.tolerance)
    message = _difference(output[which], expected[which], exercise.tolerance)
    for mistake in exercise.mistakes:
        if all(_same(mistake, example, f, exercise.tolerance) for example, f in zip(inputs, output, strict=True)):
            # What to do about it first; how far off it is, behind.
            raise _Wrong(f"{mistake.message} ({message[0].upper() + message[1:].rstrip('.')}.)")
    raise _Wrong(f"on random input {which + 1} of {DRAWS}, {_shapes(exercise.solution, inputs[which])}: {message}")


def _run(function: Callable, example: tuple) -> Any:
    return function(*(x.clone() if isinstance(x, torch.Tensor) else x for x in example))


def _answer_to(exercise: Exercise, answer: Callable, example: tuple) -> Any:
    """The answer's output for one input, once it is known to be comparable and the input untouched."""
    arguments = [x.clone() if isinstance(x, torch.Tensor) else x for x in example]
    shapes = _shapes(exercise.solution, example)
    try:
        output = answer(*arguments)
    except NotImplementedError:
        raise _Unfinished from None
    except Exception as error:
        raise _Wrong(f"your function raised {type(error).__name__}: {error} (for {shapes})") from error
    if output is None or output is ...:
        raise _Unfinished
    names = list(inspect.signature(exercise.solution).parameters)
    for name, before, after in zip(names, example, arguments, strict=True):
        if isinstance(before, torch.Tensor) and not _unchanged(before, after):
            raise _Wrong(f"your function changes its argument {name!r}; the caller still needs it. Work on a copy.")
    return output


def _unchanged(before: torch.Tensor, after: torch.Tensor) -> bool:
    same = (before == after) | ((before != before) & (after != after))  # NaN stays NaN
    return bool(same.all())


def _shapes(function: Callable, example: tuple) -> str:
    """ "x (3, 4), epsilon = 0.1": the arguments in words."""
    words = []
    for name, x in zip(inspect.signature(function).parameters, example, strict=True):
        words.append(f"{name} {tuple(x.shape)}" if isinstance(x, torch.Tensor) else f"{name} = {_brief(x)}")
    return ", ".join(words)


def _brief(x: Any) -> str:
    return f"{x:.3g}" if isinstance(x, float) else repr(x)


def _parts(x: Any) -> list[Any]:
    return list(x) if isinstance(x, tuple) else [x]


def _numbers(x: Any) -> np.ndarray | None:
    """Anything numeric as float64; None for what is not."""
    try:
        if isinstance(x, torch.Tensor):
            return x.detach().cpu().double().numpy()
        if isinstance(x, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in x):
            return np.stack([_numbers(item) for item in x])
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _near(a: Any, b: Any, tolerance: float) -> bool:
    return _largest_difference(a, b) <= tolerance


def _largest_difference(output: Any, expected: Any) -> float:
    """Largest |found − expected|, relative to the largest |expected|; infinite where they cannot be compared."""
    f, e = _parts(output), _parts(expected)
    if len(f) != len(e):
        return float("inf")
    worst = 0.0
    for a, b in zip(map(_numbers, f), map(_numbers, e), strict=True):
        if a is None or a.shape != b.shape or not np.isfinite(a).all():
            return float("inf")
        if b.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)))
    return worst


def _same(mistake: Any, example: tuple, output: Any, tolerance: float) -> bool:
    """Does the answer do what this mistake does? NaN counts as equal to NaN."""
    try:
        made = _parts(_run(mistake.answer, example))
    except Exception:  # a mistake may not be able to do every input
        return False
    pairs = list(zip(map(_numbers, _parts(output)), map(_numbers, made), strict=False))
    return len(pairs) == len(made) and all(
        a is not None and a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=1e-9, equal_nan=True)
        for a, b in pairs
    )


def _difference(output: Any, expected: Any, tolerance: float) -> str:
    """What is wrong, in one sentence, and how far off."""
    f, e = _parts(output), _parts(expected)
    if len(f) != len(e):
        return f"it returns {len(f)} things; expected {len(e)}"
    for i, (a, b) in enumerate(zip(f, e, strict=True)):
        if not _near(a, b, tolerance):
            where = f"output {i + 1} of {len(e)}: " if len(e) > 1 else ""
            return where + _one_difference(a, _numbers(b), tolerance)
    raise AssertionError("no difference")


def _one_difference(output: Any, right: np.ndarray, tolerance: float) -> str:
    f = _numbers(output)
    if f is None:
        return f"found {type(output).__name__}; expected numbers of shape {right.shape}"
    if f.shape != right.shape:
        turned = f.ndim >= 2 and f.swapaxes(-1, -2).shape == right.shape and _near(f.swapaxes(-1, -2), right, tolerance)
        more = ". It is the transpose of what it should be" if turned else ""
        return f"found shape {f.shape}, expected {right.shape}{more}"
    bad = int((~np.isfinite(f)).sum())
    if bad:
        return f"{bad} of {f.size} numbers are NaN or infinite"
    ratio = _constant(f, right)
    shift = float((f - right).mean())
    if ratio is not None and abs(ratio + 1) < 1e-3:
        return "every number has the wrong sign"
    if ratio is not None:
        return f"every number is {ratio:.3g} times what it should be"
    if f.size > 1 and abs(shift) > 0 and np.abs(f - right - shift).max() <= tolerance * max(np.abs(right).max(), 1e-12):
        return f"every number is {abs(shift):.3g} too {'large' if shift > 0 else 'small'}"
    off = np.abs(f - right)
    at = np.unravel_index(int(off.argmax()), off.shape)
    place = f" at {[int(i) for i in at]}" if f.size > 1 else ""
    share = (off <= tolerance * max(np.abs(right).max(), 1e-12)).mean()
    others = f"; {share:.0%} of the numbers are right" if f.size > 1 else ""
    return f"off by up to {off.max():.3g}{place}: yours {f[at]:.4g}, the reference {right[at]:.4g}{others}"


def _constant(f: np.ndarray, right: np.ndarray) -> float | None:
    """The factor c with f = c · right everywhere, if there is one (and more than one number to see it by)."""
    size = float((right * right).sum())
    if right.size < 2 or size == 0:
        return None
    c = float((f * right).sum() / size)
    return c if c and np.abs(f - c * right).max() <= 1e-4 * abs(c) * np.abs(right).max() else None
