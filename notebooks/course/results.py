"""Read what was measured once for all and is kept in the repository's folder results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "results"


def stored_results(name: str) -> dict[str, Any]:
    """Return a results file with its provenance.

    Raises
    ------
    FileNotFoundError
        It is not in results/: the folder `notebooks` was taken out of its clone, or there is no such file.
    """
    path = FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the notebooks in a clone of the repository")
    return json.loads(path.read_text("utf-8"))
