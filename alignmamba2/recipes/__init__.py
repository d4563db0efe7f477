"""Recipes: one TOML file per benchmark, with every hyperparameter and where it comes from."""

from __future__ import annotations  # fields' types are read as text

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OWN = "own"  # the recipe of data sets that have none
PRECISIONS = ("32-true", "bf16-mixed")
MOST, MOST_DOTS = 1 << 16, 64  # characters of a recipe, and dots in a line


class RecipeError(ValueError):
    """A recipe has a key or value that it should not have; the message names file and key."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes
    ----------
    batch_size, max_epochs, patience : int
        Training stops early after `patience` epochs without a better `monitor`.
    learning_rate, weight_decay : float
        Of AdamW; the learning rate falls to 0 along a cosine over `max_epochs`.
    expert_decay : float
        Weight decay of the modalities' own experts where there are shared ones too, towards no deviation (our choice).
    encoder_learning_rate, encoder_weight_decay, layer_decay : float
        Of encoders inside the model; the rate of each layer is `layer_decay` times that of the layer above it.
    warmup : float
        Share of all steps in which the learning rate rises from 0.
    alignment_warmup : float
        Share of all steps in which the weights λ of the alignment losses rise from 0, along a line; 0: they are there
        from the first step (our choice).
    grad_clip : float
        Largest gradient norm.
    average : float
        Share of all steps, the last ones, whose weights are averaged: validation sees the mean so far, and the mean is
        what is kept. 0: the weights of the last step.
    monitor : str
        What early stopping and the best checkpoint watch: "valid/loss", or a metric such as "valid/accuracy"; or
        "epoch": the last epoch is kept, for a number of epochs that was chosen before.
    bucket : int
        Batches of samples of similar length: so many batches are drawn together, sorted by length, and trained in a
        random order. 1: batches are drawn at random.
    precision : str
        "32-true", or "bf16-mixed" for matrix products in bfloat16; `fit` may be told another.
    augment : mapping
        Settings of `datasets.augmentation.Augmentation` for the training split's pictures; {"views": 8}, say. Empty:
        pictures are taken as they are.
    start : str
        A recipe, by name or path, that is trained first, once, with seed 0, and kept with the data: encoders start from
        those of its model. "": from the weights that they are published with.
    refit : bool
        Once the epoch is chosen, train anew for as many epochs on training and validation splits together. With
        `monitor` = "epoch" nothing is chosen, and this is the only training: nothing is measured on validation then.
    """

    batch_size: int = 16
    max_epochs: int = 50
    patience: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    expert_decay: float = 1.0
    encoder_learning_rate: float = 3e-5
    encoder_weight_decay: float = 0.01
    layer_decay: float = 1.0
    warmup: float = 0.1
    alignment_warmup: float = 0.0
    grad_clip: float = 1.0
    average: float = 0.0
    monitor: str = "valid/loss"
    start: str = ""
    refit: bool = False
    bucket: int = 1
    precision: str = "32-true"
    augment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "patience", "bucket"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"training.{name}: found {value!r}; expected a whole number of at least 1")
        if not isinstance(self.refit, bool):
            raise RecipeError(f"training.refit: found {self.refit!r}; expected true or false")
        if self.precision not in PRECISIONS:
            raise RecipeError(f"training.precision: found {self.precision!r}; expected one of {PRECISIONS}")
        names = [f.name for f in dataclasses.fields(self) if f.type == "float"]
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
                raise RecipeError(f"training.{name}: found {value!r}; expected a number of at least 0")
        for name in ("monitor", "start"):
            if not isinstance(getattr(self, name), str):
                raise RecipeError(f"training.{name}: found {getattr(self, name)!r}; expected a text")
        if not isinstance(self.augment, Mapping):
            raise RecipeError(f"training.augment: found {self.augment!r}; expected a table")
        if self.average > 1:
            raise RecipeError(f"training.average: found {self.average!r}; expected a share of the steps, 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """A data set with its options, the model's settings, and how to train it."""

    name: str
    dataset: str
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def load(cls, name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe by name (a file in this folder) or by path; by a data set's name or address, that of own data.

        Parameters
        ----------
        overrides : mapping such as ``{"model.d_model": 32, "training.max_epochs": 2}``
            A λ of the alignment losses takes the place of the recipe's share.

        Raises
        ------
        RecipeError
            Naming the file and the key. Keys of [model] and [data] are checked by those who take them.
        """
        path, tables = _path(name), read(name)
        for key, value in (overrides or {}).items():
            *parts, setting = key.split(".")
            table = tables if setting and parts and parts[0] in ("data", "model", "training") else None
            for part in parts:
                table = table.setdefault(part, {}) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                raise RecipeError(f"override {key!r}: expected data.NAME, model.NAME or training.NAME, of a table")
            table[setting] = value
            if (
                setting in ("lambda_ot", "lambda_mmd")
                and f"model.{setting.replace('lambda', 'share')}" not in overrides
            ):
                table.pop(setting.replace("lambda", "share"), None)
        kinds = {"dataset": str} | dict.fromkeys(("data", "model", "training", "benchmark"), dict)
        wrong = sorted(key for key, value in tables.items() if not isinstance(value, kinds.get(key, ())))
        if wrong or "dataset" not in tables:
            expected = 'dataset = "...", [data], [model], [training]'
            raise RecipeError(f"{path}: unknown {wrong[:9]}, or of another kind; expected {expected}")
        known = [f.name for f in dataclasses.fields(TrainingConfig)]
        unknown = sorted(set(tables.get("training", {})) - set(known))
        if unknown:
            raise RecipeError(f"{path}: [training] has unknown keys {unknown}; known are {known}")
        try:
            training = TrainingConfig(**tables.get("training", {}))
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error
        return cls(
            path.stem.replace(":", "-"), tables["dataset"], tables.get("data", {}), tables.get("model", {}), training
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read(name: str | Path) -> dict[str, Any]:
    """Return a recipe file's tables as they stand there; beside those of `Recipe`, [benchmark] for `reproduce`.

    Raises
    ------
    RecipeError
        The file is not there, or is no TOML.
    """
    path = _path(name)
    if not path.is_file():
        from ..datasets import ENTRIES, similar

        if path.parent == FOLDER and (":" in str(name) or name in ENTRIES):
            return read(OWN) | {"dataset": name}
        known = ", ".join(names())
        raise RecipeError(
            f"recipe {str(name)!r}: not found; there are {known}{similar(str(name), names())} Or give a .toml file"
        )
    try:
        text = path.read_text("utf-8")
        # Keys of many parts take time and memory with the square of their number.
        if len(text) > MOST or max((line.count(".") for line in text.splitlines()), default=0) > MOST_DOTS:
            raise ValueError(f"more than {MOST} characters, or than {MOST_DOTS} dots in a line; no recipe has so many")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _path(name: str | Path) -> Path:
    return Path(name) if str(name).endswith(".toml") else FOLDER / f"{name}.toml"


def names() -> list[str]:
    """Return the names of the recipes that come with the package for its data sets."""
    return sorted(p.stem for p in FOLDER.glob("*.toml") if p.stem != OWN)
