"""The folder of a saved model: config.json beside model.safetensors, which knows the config that it belongs to."""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import FileError, json_digest, read_plain, read_tensors, write_tensors, write_text

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# A model card of the Hugging Face hub, a Jinja template.
CARD = Path(__file__).with_name("model_card.md").read_text("utf-8")
MOST_LAYERS = 1000


def write_model(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], notes: Mapping[str, str]
) -> str:
    """Write both files, each of them whole or not at all; return the SHA-256 of the weights', which hold their own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt", "config": json_digest(config), **notes})
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    with open(folder / WEIGHTS_FILE, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def on_hub(folder: str | Path, **options: Any) -> Path:
    """Return the folder; for "user/model" without a folder "user", that of its files of the Hugging Face hub."""
    if str(folder).count("/") != 1 or Path(folder).parent.exists():
        return Path(folder)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **options))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{folder}: found neither here nor on the Hugging Face hub ({error})") from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Return config, tensors and notes of a folder. Nothing in the files is executed.

    A `ValueError` or `FileNotFoundError` names a file that is damaged or missing, or a setting beyond the weights.
    """
    tensors, notes = read_tensors(folder / WEIGHTS_FILE)
    floats = (name for name, x in tensors.items() if x.is_floating_point() and x.element_size() > 1)
    if wrong := [name for name in floats if not tensors[name].isfinite().all()]:
        raise ValueError(f"{folder / WEIGHTS_FILE}: {wrong[0]} holds NaN or infinite values")
    try:
        return _fitting_config(folder, tensors), tensors, notes
    except FileError:
        raise
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error


def check_model(
    config: Mapping[str, Any], expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], notes: Mapping[str, str]
) -> None:
    """Raise a ValueError unless the tensors have the names and shapes `expected`, and were saved with the config."""
    for name in sorted({*expected, *tensors}):
        a, b = (tuple(x[name].shape) if name in x else None for x in (expected, tensors))
        if a != b:
            raise ValueError(f"asks for {name} of shape {a}; {WEIGHTS_FILE} has {b}")
    if notes.get("config", json_digest(config)) != json_digest(config):
        raise ValueError(
            f"is not what {WEIGHTS_FILE} was saved with. Was it changed, or was saving cut off? Save the model "
            "again; to change a setting, load a model of another config with load_state_dict"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the values in config.json; NaN is none, as no comparison would refuse it."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a folder written by save_pretrained")
    values = read_plain(path, partial(json.loads, parse_constant=_infinite), most=1 << 20)
    if not isinstance(values, dict):
        raise FileError(f"{path}: found a {type(values).__name__}; expected settings and their values")
    return values


def _infinite(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no setting")
    return float(name)


def _fitting_config(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values in config.json, none of them large enough to ask for more than the weights hold."""
    values = read_config(folder)
    most = {"n_layers": min(len(tensors), MOST_LAYERS), "align_most": math.inf}  # which limits, and asks for nothing
    total = sum(x.numel() for x in tensors.values())
    for name, value in values.items():
        if isinstance(value, int) and value > most.get(name, max(total, 16)):
            raise ValueError(f"{name}: found {value}; the weights hold {len(tensors)} tensors of {total} values in all")
    return values
