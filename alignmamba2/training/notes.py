"""What `fit` writes beside a model: its recipe and its history."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..encoders.efficientnet import SIZES
from ..encoders.packages import WEIGHTS
from ..storage.files import FileError, plain_errors, read_json, write_json
from ..storage.model_folder import read_config

FILE = "training.json"
PLAIN = ("words", "patches", "released", "ids", "glove", "bert")  # ways to read text and pictures of the package's own


def write_notes(folder: Path, recipe: Mapping[str, Any], seed: int, best_epoch: int, history: list[Any]) -> None:
    """Write what `training_notes` reads."""
    notes = {"recipe": dict(recipe), "seed": seed, "best_epoch": best_epoch, "history": history}
    write_json(folder / FILE, notes)


def training_notes(folder: str | Path, trust: bool = True) -> dict[str, Any]:
    """Return what `fit` wrote beside a model: "recipe", "seed", "best_epoch", and "history", one mapping per epoch.

    Without `trust`, notes that lead out of the package (to a folder, a module, or a model of a hub) are refused.

    Raises
    ------
    FileNotFoundError
        There is no such file, so nothing says which data the model saw.
    FileError
        It is damaged, a field is missing, or it is not trusted.
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
    recipe = notes["recipe"]
    with plain_errors(path.parent, expected="a recipe and a config as train writes them"):
        places = {} if trust else _places(recipe, read_config(path.parent))
    if places:
        found = f"{path.parent}: names {places}; what files name is not followed unasked."
        raise FileError(f"{found} If they are yours, say trust=True, or --trust")
    return notes


def _places(recipe: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Names outside the package that loading the model or its data would follow."""
    data = recipe["data"]
    places = {"dataset": recipe["dataset"]} if ":" in recipe["dataset"] else {}
    places |= {name: data[name] for name in ("root", "folds") if data.get(name) is not None}
    names = {name: data.get(name) for name in ("text", "image")}
    names |= {m: dict(encoder).get("name") for m, encoder in dict(config.get("encoders", {})).items()}
    known = {*WEIGHTS, *SIZES, *PLAIN, None}
    return places | {n: x for n, x in names.items() if x not in known and not re.fullmatch(r"\d+-d", str(x))}
