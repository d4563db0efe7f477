"""Checks of loaders' options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `ValueError` unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}; expected one of {tuple(choices)}")


def check_fraction(name: str, value: float) -> None:
    """Raise `ValueError` unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: found {value!r}; expected a number between 0 and 1")


def chosen_modalities(modalities: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the modalities in the known order; raise `ValueError` if there is none, or an unknown one."""
    modalities, known = list(modalities), list(known)
    if not modalities or set(modalities) - set(known):
        raise ValueError(f"modalities: found {modalities}; expected some of {known}")
    return [m for m in known if m in modalities]
