"""Data sets: one file a benchmark; `load_dataset(name)` finds the right one. To add one: `registry.py`."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

from . import emoji, ict_mmmo, mosi, mosi_utterances, mvsa, nyu, spoken_reviews
from .base import DataError, Dataset
from .contents import Contents
from .fetch import Source
from .mini import files as mini_files
from .mini import mvsa as mini_mvsa
from .mini import nyu as mini_nyu
from .nonfinite import without_nonfinite
from .registry import Entry

__all__ = ["ENTRIES", "SOURCES", "DataError", "Dataset", "inspect", "is_present", "load_dataset", "names"]

# The order is that of `names()`, and that in which `inspect` asks.
MODULES = (mini_files, mosi, mosi_utterances, ict_mmmo, emoji, spoken_reviews, mini_nyu, nyu, mini_mvsa, mvsa)
ENTRIES: dict[str, Entry] = {entry.name: entry for module in MODULES for entry in module.ENTRIES}
# Data sets whose files have a public home.
SOURCES: dict[str, Source] = {name: entry.source for name, entry in ENTRIES.items() if entry.source}


def names() -> tuple[str, ...]:
    return tuple(ENTRIES)


def is_present(name: str, root: str | Path | None = None) -> bool:
    """Whether `load_dataset(name)` finds its files, here or in the mirror. Generated sets always are."""
    return _entry(name).present(root)


def load_dataset(
    name: str, split: str | None = None, root: str | Path | None = None, nonfinite: str = "error", **options
) -> dict[str, Dataset] | Dataset:
    """Load a data set.

    Parameters
    ----------
    name : one of `names()`
    split : "train", "valid" or "test"; left out, all of them as a dict
    root : folder of all data sets; default $ALIGNMAMBA2_DATA, else data/
    nonfinite : "error", "mask" or "zero"
        What is done about NaN and infinities in features (see `nonfinite.without_nonfinite`); never silently.
    options : the data set's own, such as ``text="minilm"`` for "mosi-utterances"

    Raises
    ------
    ValueError
        For an unknown name, split or option.
    DataError
        Naming the file that is missing or not what it should be, and what to do.
    """
    load = _entry(name).load
    try:
        signature(load).bind(root, **options)
    except TypeError as error:
        raise ValueError(f"data set {name!r}: {error}") from error
    splits = {name: without_nonfinite(data, nonfinite) for name, data in load(root, **options).items()}
    if split is None:
        return splits
    if split not in splits:
        raise ValueError(f"split: found {split!r}; {name} has {list(splits)}")
    return splits[split]


def inspect(path: str | Path) -> Contents:
    """What a file or folder holds, found by its content; see `contents.Contents`.

    Raises
    ------
    DataError
        It is not there, is of no known format, or is broken.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: not found")
    for entry in ENTRIES.values():
        contents = entry.inspect(path) if entry.inspect else None
        if contents is not None:
            return contents
    raise DataError(
        f"{path}: of no format known here; data/README.md lists them, with the tree of files that each needs"
    )


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        raise ValueError(f"data set: found {name!r}; expected one of {', '.join(names())}")
    return ENTRIES[name]
