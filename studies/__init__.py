"""Studies: what the method finds in data whose truth is known; ``python -m studies NAME``."""

from pathlib import Path

from alignmamba2.recipes import FOLDER

RECIPES = FOLDER, Path(__file__).parent / "recipes"


def recipe_path(name: str) -> Path:
    """Return the file of a data set's recipe, in the package or among the studies' own."""
    return next(path for folder in RECIPES if (path := folder / f"{name}.toml").is_file())
