"""The exercises of the notebooks: `check` an answer, ask for a `hint`.

    check("02.1", recurrence)   # compares with a reference on random inputs; says what is wrong, and how far off
    hint("02.1")                # one more hint a call; the last is the solution

A chapter's exercises stand in ``chapter_NN.py``: the solution, what it is tried on, hints, and the mistakes that
people make, each with what to say about it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

from .checking import Verdict, compare
from .exercise import Exercise
from .parameters import check_parameters
from .results import stored_results

__all__ = ["Exercise", "Verdict", "check", "check_parameters", "exercises", "hint", "solution", "stored_results"]

_asked: dict[str, int] = {}

# In a clone, chapters also use what stands beside the package, such as `studies.datasets`.
_CLONE = Path(__file__).resolve().parents[2]
if (_CLONE / "studies").is_dir() and str(_CLONE) not in sys.path:
    sys.path.append(str(_CLONE))


def check(name: str, answer: Any, seed: int = 0) -> Verdict:
    """Compare an answer with the reference; the result says what is wrong and how far off, and is true if it is right.

    Parameters
    ----------
    name : chapter and number, such as "02.1"
    answer : the function or the value that the exercise asks for
    seed : int
        Of the random inputs that a function is tried on.

    Raises
    ------
    ValueError
        There is no such exercise. A wrong answer raises nothing.
    """
    return compare(_exercise(name), answer, seed)


def hint(name: str) -> None:
    """Print the next hint; after the last one, the solution."""
    exercise = _exercise(name)
    earlier = _asked.get(name, 0)
    _asked[name] = earlier + 1
    if earlier < len(exercise.hints):
        left = len(exercise.hints) - earlier - 1
        print(f"{name}, hint {earlier + 1} of {len(exercise.hints)}: {exercise.hints[earlier]}")
        print(f"({left} more hints; ask again)" if left else "(Ask once more for the solution.)")
    else:
        print(f"{name}, the solution:\n\n{exercise.source()}")


def solution(name: str) -> Any:
    """The function or value that `check` compares with."""
    return _exercise(name).solution


def exercises(chapter: str | None = None) -> dict[str, Exercise]:
    """All exercises by name, or those of one chapter such as "02"."""
    chapters = [chapter] if chapter else sorted(_chapters())
    return {e.name: e for c in chapters for e in _load(c).values()}


def _exercise(name: str) -> Exercise:
    chapter = str(name).partition(".")[0]
    if chapter not in _chapters():
        raise ValueError(f"exercise {name!r}: unknown; there are chapters {', '.join(sorted(_chapters()))}")
    known = _load(chapter)
    if name not in known:
        raise ValueError(f"exercise {name!r}: unknown; chapter {chapter} has {', '.join(known)}")
    return known[name]


def _chapters() -> set[str]:
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return {name.removeprefix("chapter_") for name in modules if name.startswith("chapter_")}


def _load(chapter: str) -> dict[str, Exercise]:
    return importlib.import_module(f".chapter_{chapter}", __name__).chapter.exercises
