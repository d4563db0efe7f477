"""Data sets: one file a benchmark; `load_dataset(name)` finds the right one."""

from __future__ import annotations

from pathlib import Path

from . import mini_mosi, mosi_utterances
from .base import DataError, Dataset
from .fetch import Source, data_root

__all__ = ["SOURCES", "DataError", "Dataset", "is_present", "load_dataset", "names"]

# Data sets whose files have a public home.
SOURCES: dict[str, Source] = {mosi_utterances.NAME: mosi_utterances.SOURCE}


def names() -> tuple[str, ...]:
    return (mini_mosi.NAME, mosi_utterances.NAME)


def is_present(name: str, root: str | Path | None = None) -> bool:
    """Whether `load_dataset(name)` finds its files, here or in the mirror. Generated sets always are."""
    _known(name)
    source = SOURCES.get(name)
    return source is None or not source.missing(data_root(root)) or source.mirror() is not None


def load_dataset(
    name: str, split: str | None = None, root: str | Path | None = None, **options
) -> dict[str, Dataset] | Dataset:
    """Load a data set.

    Parameters
    ----------
    name : one of `names()`
    split : "train", "valid" or "test"; left out, all of them as a dict
    root : folder of all data sets; default $ALIGNMAMBA2_DATA, else data/
    options : the data set's own, such as ``text="minilm"`` for "mosi-utterances"

    Raises
    ------
    ValueError
        For an unknown name, split or option.
    DataError
        Naming the file that is missing or not what it should be, and what to do.
    """
    _known(name)
    try:
        splits = mini_mosi.load(**options) if name == mini_mosi.NAME else mosi_utterances.load(root, **options)
    except TypeError as error:  # an unknown option
        raise ValueError(f"data set {name!r}: {error}") from error
    if split is None:
        return splits
    if split not in splits:
        raise ValueError(f"split: found {split!r}; {name} has {list(splits)}")
    return splits[split]


def _known(name: str) -> None:
    if name not in names():
        raise ValueError(f"data set: found {name!r}; expected one of {', '.join(names())}")
