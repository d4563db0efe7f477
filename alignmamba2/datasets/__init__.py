"""Data sets: one module per benchmark, and `load_dataset(name)`, which finds it; `register_dataset` adds another."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path

from .base import DataError, Dataset, similar, without_nonfinite
from .contents import Contents
from .own import from_arrays, from_frame, from_hf
from .registry import ENTRIES, Entry, register_dataset

__all__ = [
    "ENTRIES",
    "DataError",
    "Dataset",
    "entry_of",
    "inspect",
    "is_present",
    "load_dataset",
    "names",
    "register_dataset",
]

# Name → module and entry in this folder, imported when the name is first used.
BUILT_IN = {
    "mosi-standard": "mosi_standard:ENTRY",  # before "mosi", which takes any .csd and pickle for its own
    "mini-mosi": "mini.mosi:MOSI",
    "mini-mosei": "mini.mosi:MOSEI",
    "mosi": "mosi:MOSI",
    "mosei": "mosi:MOSEI",
    "mosi-utterances": "mosi_utterances:ENTRY",
    "mini-nyu": "mini.nyu:ENTRY",
    "nyu": "nyu:ENTRY",
    "mini-mvsa": "mini.mvsa:ENTRY",
    "mvsa": "mvsa:ENTRY",
    "rated-sentences": "rated_sentences:ENTRY",
}
for _name, _home in BUILT_IN.items():
    register_dataset(_name, f"{__name__}.{_home}")
for _point in entry_points(group="alignmamba2.datasets"):  # of installed packages; imported when first used
    if _point.name not in ENTRIES:
        register_dataset(_point.name, _point.value)

Dataset.from_arrays, Dataset.from_frame, Dataset.from_hf = map(staticmethod, (from_arrays, from_frame, from_hf))


def names() -> tuple[str, ...]:
    """Return the names of all data sets."""
    return tuple(ENTRIES)


def is_present(name: str, root: str | Path | None = None) -> bool:
    """Return whether `load_dataset(name)` finds its files, here or in the mirror; generated sets are always present."""
    return entry_of(name).present(root)


def load_dataset(
    name: str, split: str | None = None, root: str | Path | None = None, nonfinite: str = "error", **options
) -> dict[str, Dataset] | Dataset:
    """Load a data set.

    A `ValueError` names an unknown name, split or option; a `DataError` the file that is missing or wrong, and the
    remedy.

    Parameters
    ----------
    name : one of `names()`, or the address "package.module:name" of a loader or an `Entry`
    split : "train", "valid" or "test"; default all of them, as a dict
    root : folder of all data sets; default see `fetch.data_root`
    nonfinite : "error", "mask" or "zero"
        Treatment of NaN and infinities in features (see `base.without_nonfinite`); never silent.
    options : the data set's own, such as ``text="minilm"`` for "mosi-utterances"
    """
    load = entry_of(name).load
    takes = signature(load)
    try:
        takes.bind(root, **options)
    except TypeError as error:
        raise ValueError(f"data set {name!r}: {error}; its loader takes root and, as keywords, options") from error
    for option, value in options.items():
        usual = getattr(takes.parameters.get(option), "default", None)
        if isinstance(usual, (int, float)) and not isinstance(value, (int, float)):
            raise ValueError(f"data set {name!r}: {option}: found {value!r}; expected a value such as {usual}")
    splits = load(root, **options)
    if not isinstance(splits, Mapping):
        raise DataError(f"data set {name!r}: found {type(splits).__name__}; expected a Dataset for each split, by name")
    splits = {part: without_nonfinite(data, nonfinite) for part, data in splits.items()}
    if split is None:
        return splits
    if split not in splits:
        raise ValueError(f"split: found {split!r}; {name} has {list(splits)}")
    return splits[split]


def inspect(path: str | Path) -> Contents:
    """Return the contents of a file or folder, whose format is found by its content; see `contents.Contents`.

    A `DataError` says that it does not exist, has no known format, or is broken.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: not found")
    for name in sorted(ENTRIES, key=BUILT_IN.__contains__):  # those that were registered are asked first
        contents = ENTRIES[name].inspect(path) if ENTRIES[name].inspect else None
        if contents is not None:
            return contents
    raise DataError(
        f"{path}: of no format known here; data/README.md lists them, with the tree of files that each needs"
    )


def entry_of(name: str) -> Entry:
    """Return what is known of a data set, by its name or by an address "package.module:name" (see `Entry.load`).

    A `ValueError` says that there is no such name, or nothing at the address.
    """
    if ":" in name:
        return Entry(name, name).imported()
    if name not in ENTRIES:
        raise ValueError(
            f"data set: found {name!r}; expected one of {', '.join(names())}, or 'package.module:name'"
            f"{similar(name, names())} Data given in memory have no address: see register_dataset"
        )
    return ENTRIES[name]
