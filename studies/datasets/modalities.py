"""The modalities that an option of a data set asks for."""

from __future__ import annotations

from collections.abc import Iterable


def chosen_modalities(modalities: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the modalities in the known order; raise `ValueError` if there is none, or an unknown one."""
    modalities, known = list(modalities), list(known)
    if not modalities or set(modalities) - set(known):
        raise ValueError(f"modalities: found {modalities}; expected some of {known}")
    return [m for m in known if m in modalities]
