"""The parameters of a chapter, checked before anything is computed with them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

# What a chapter can be asked for; each has some of these, with the values that it takes.
KINDS = {
    "seed": (int, "a whole number"),
    "fast": (bool, "True or False"),
    "interactive": (bool, "True or False"),
    "dataset": (str, "a name"),
    "root": (str, "a path"),
    "epochs": (int, "a whole number"),
}
INJECTED = "# Parameters\n"  # what papermill writes over a cell of its own


def check_parameters(names: Mapping[str, Any]) -> None:
    """Check the names of a running notebook, `globals()`: papermill injects any parameter without a word.

    Raises
    ------
    ValueError
        A parameter that was injected is none of this notebook's, or a value is of the wrong type, such as the word
        "false" for a switch, which Python would take for true.
    """
    ran = [cell for cell in names.get("In", ()) if cell.strip()]
    injected = {name for cell in ran if cell.startswith(INJECTED) for name in _assigned(cell)}
    known = {name for cell in ran if not cell.startswith(INJECTED) for name in _assigned(cell)} & set(KINDS)
    for name in sorted(injected - known):
        raise ValueError(f"parameter {name!r}: this notebook has no such parameter; it has {', '.join(sorted(known))}")
    for name in (name for name in KINDS if name in names):
        kind, expected = KINDS[name]
        value = names[name]
        if value is None and name == "root":
            continue  # "", after the cell that says so has run
        if type(value) is not kind or (kind is int and value < 0):
            raise ValueError(f"parameter {name!r}: found {value!r} ({type(value).__name__}); expected {expected}")


def _assigned(cell: str) -> set[str]:
    """The names to which a cell's own lines assign; none of a cell that is no plain Python."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = (line.targets if isinstance(line, ast.Assign) else [] for line in body)
    return {target.id for group in targets for target in group if isinstance(target, ast.Name)}
