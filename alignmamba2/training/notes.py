"""What `fit` writes beside a model: its recipe and its history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..storage.files import FileError, read_json, write_json

FILE = "training.json"


def write_notes(folder: Path, recipe: Mapping[str, Any], seed: int, best_epoch: int, history: list[Any]) -> None:
    """Write what `training_notes` reads."""
    notes = {"recipe": dict(recipe), "seed": seed, "best_epoch": best_epoch, "history": history}
    write_json(folder / FILE, notes)


def training_notes(folder: str | Path) -> dict[str, Any]:
    """Return what `fit` wrote beside a model: "recipe", "seed", "best_epoch", and "history", one mapping per epoch.

    Raises
    ------
    FileNotFoundError
        There is no such file, so nothing says which data the model saw.
    FileError
        It is damaged, or a field is missing.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, so nothing says which data the model saw; expected a folder that train wrote"
        )
    notes = {"history": [], **read_json(path, sealed=False)}
    for field in ("seed", "best_epoch", "recipe", "recipe.name", "recipe.dataset", "recipe.data"):
        value: Any = notes
        for key in field.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            raise FileError(f"{path}: has no field {field!r}; expected what train writes. Train the model again")
    return notes
