"""What an exercise is, and how a chapter lists its own."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Inputs = Callable[[torch.Generator], tuple]


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer, and what to say to who gives it."""

    answer: Any
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes
    ----------
    name : chapter and number, such as "02.1"
    solution : a function, or a value (a number or a word)
    inputs : for a function, from a generator to a tuple of arguments
    hints : from the gentlest on; the solution itself comes after the last
    tolerance : largest difference that counts as right, relative to the size of the reference
    mistakes : typical wrong answers
    """

    name: str
    solution: Any
    inputs: Inputs | None
    hints: tuple[str, ...]
    tolerance: float
    mistakes: list[Mistake] = field(default_factory=list)

    def source(self, name: str = "") -> str:
        """The solution as text that can stand in a notebook; `name` is what a value is called there."""
        if not callable(self.solution):
            return f"{name or 'answer'} = {self.solution!r}"
        text = textwrap.dedent(inspect.getsource(self.solution))
        return re.sub(r"\A.*?^(?=def )", "", text, flags=re.DOTALL | re.MULTILINE).rstrip()


class Chapter:
    """The exercises of one notebook, collected by decorators.

    Examples
    --------
    >>> chapter = Chapter("99")
    >>> @chapter.exercise(1, inputs=lambda draw: (torch.rand(3, generator=draw),), hints=["Two words."])
    ... def double(x):
    ...     return 2 * x
    >>> @chapter.mistake(1, "That is the square.")
    ... def square(x):
    ...     return x * x
    >>> chapter.value(2, 0.5, hints=["Half."])
    >>> chapter.mistake(2, "That is all of it.")(1.0)
    1.0
    >>> list(chapter.exercises)
    ['99.1', '99.2']
    """

    def __init__(self, number: str):
        self.number = number
        self.exercises: dict[str, Exercise] = {}

    def exercise(self, number: int, *, inputs: Inputs, hints: Sequence[str], tolerance: float = 1e-4):
        """Decorate the solution of an exercise that asks for a function.

        The solution is shown to readers and filled into notebooks: it may use nothing but its arguments, `math`,
        `np` and `torch`.
        """

        def add(solution: Callable) -> Callable:
            self._add(number, solution, inputs, hints, tolerance)
            return solution

        return add

    def value(self, number: int, solution: float | str, *, hints: Sequence[str], tolerance: float = 1e-2) -> None:
        """Add an exercise that asks for a number, or for a word such as the letter of a choice."""
        self._add(number, solution, None, hints, tolerance)

    def mistake(self, number: int, message: str):
        """Decorate (or call with) a typical wrong answer; `message` says what it gets wrong."""

        def add(answer: Any) -> Any:
            self.exercises[f"{self.number}.{number}"].mistakes.append(Mistake(answer, message))
            return answer

        return add

    def _add(self, number: int, solution: Any, inputs: Inputs | None, hints: Sequence[str], tolerance: float) -> None:
        name = f"{self.number}.{number}"
        self.exercises[name] = Exercise(name, solution, inputs, tuple(hints), tolerance)
