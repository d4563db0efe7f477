"""Pretrained networks by name: those whose weights come as packages, and Hugging Face models by name or folder.

A folder's model is never looked up on a hub.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from . import efficientnet
from .packages import TRANSFORMERS, WEIGHTS


def architecture(name: str) -> dict[str, Any]:
    """Return all of an encoder but its weights, as plain values.

    These are "width" of its tokens; "config", as Hugging Face has it; for text "vocab_size"; for pictures "size",
    pixels a side, "mean" and "sd" of its channels, 0 to 255. An `ImportError` has the command that installs
    transformers, a `ValueError` names a model that neither a folder nor the hub has.
    """
    if name in efficientnet.SIZES:
        picture = {"size": efficientnet.SIZES[name], "mean": [127.0] * 3, "sd": [128.0] * 3}
        return {"width": efficientnet.WIDTH * (1 + (name == efficientnet.BOTH)), **picture}
    with _not_found(name):
        place = place_of(name)
        config = require().AutoConfig.from_pretrained(place, local_files_only=Path(place).is_dir())
        config = getattr(config, "vision_config", config)
        values = {**config.to_diff_dict(), "model_type": config.model_type}
        if vocabulary := getattr(config, "vocab_size", 0):
            return {"config": values, "width": config.hidden_size, "vocab_size": vocabulary}
        settings = _settings(place)
    sizes = getattr(config, "hidden_sizes", None)
    mean, sd = ([255 * v for v in settings.get(k, (0.5,) * 3)] for k in ("image_mean", "image_std"))
    size = settings.get("crop_size") or settings.get("size") or getattr(config, "image_size", 224)
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    width = sizes[-1] if sizes else config.hidden_size
    return {"config": values, "width": width, "size": int(size), "mean": mean, "sd": sd}


def network(
    name: str, architecture: Mapping[str, Any], dropout: Mapping[str, float] | None = None, *, weights: bool = True
) -> nn.Module:
    """Return the bare network in float32, with its pretrained weights or, without `weights`, with any.

    `architecture` is of the function of that name; `dropout` are settings of a Hugging Face config to change.
    """
    if "config" not in architecture:
        return efficientnet.network(name, weights)
    transformers = require()
    if not weights:
        config = transformers.AutoConfig.for_model(**architecture["config"], **(dropout or {}))
        model = transformers.AutoModel.from_config(config)
    else:  # by its own settings: those in a file that came with other weights are not believed
        with _not_found(name):
            place = place_of(name)
            model = transformers.AutoModel.from_pretrained(
                place, local_files_only=Path(place).is_dir(), **(dropout or {})
            )
    model = getattr(model, "vision_model", model).float()
    pooler = getattr(model, "pooler", None)
    if pooler is not None and list(pooler.parameters()):
        model.pooler = None  # reads the last layer, and no token comes of it
    return model


@contextmanager
def _not_found(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"encoder {name!r}: not found, neither as a folder nor on the Hugging Face hub ({reason}). Offline: "
            f"{', '.join(map(repr, WEIGHTS))}"
        ) from error


def _settings(place: str) -> dict[str, Any]:
    file = require().utils.cached_file(place, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(file).read_text("utf-8")) if file else {}


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
