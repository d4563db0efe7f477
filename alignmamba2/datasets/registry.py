"""The names of data sets with their loaders, and the one way to add a name, `register_dataset`.

The package's own data sets are registered in this way too (`BUILT_IN` in `__init__.py`), by the address of an `Entry`
in their module.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from .base import Dataset
from .contents import Contents
from .fetch import Source


@dataclass(frozen=True)
class Entry:
    """A data set's name and loader, and its details for `python -m alignmamba2 data`."""

    name: str
    # Function (root, **options) -> {"train": Dataset, "valid": Dataset, "test": Dataset}; options are keywords with
    # defaults, a wrong value raises `ValueError`, a wrong file `DataError`. Or "package.module:attribute", the address
    # of such a function or of an `Entry`, imported when the name is first used.
    load: Callable[..., Mapping[str, Dataset]] | str
    # Function (root) -> whether `load` would find its files, decided without reading large files. Default: whether the
    # files of its homes are there, and True without a home.
    is_present: Callable[[str | Path | None], bool] | None = None
    bring: str = (
        ""  # a command for missing files, or a pointer into data/README.md; default `data fetch`, if it has a home
    )
    source: Source | None = None  # its public home, for `data fetch`
    # Further homes by "pictures" or "frames", for `data fetch --pictures`; by "" those that are always fetched.
    more: Mapping[str, Sequence[Source]] = field(default_factory=dict)
    # Function (folder, *, format, seed, size) -> written paths, for `data make`: a generated set in the real format,
    # with `size` training samples, or None for the default.
    make: Callable[..., list[Path]] | None = None
    formats: tuple[str, ...] = ()  # that `make` can write, the default first
    # Function (path) -> contents of the file or folder for `data check`; None, quickly, if it is not of this data set.
    inspect: Callable[[Path], Contents | None] | None = None

    def present(self, root: str | Path | None = None) -> bool:
        """Return whether `load` finds its files, here or in the mirror; generated sets are always present."""
        if self.is_present is not None:
            return self.is_present(root)
        return all(source.at_hand(root) for source in self.sources())

    def sources(self, *options: str) -> list[Source]:
        """Return the homes of all that `data fetch` brings with these options, keys of `more`."""
        if unknown := [name for name in options if name not in self.more]:
            raise ValueError(f"data set {self.name!r}: has no {', '.join(unknown)} of its own to fetch")
        first = [self.source] if self.source else []
        return [*first, *(s for name in ("", *options) for s in self.more.get(name, ()))]

    @property
    def command(self) -> str:
        """The command that brings the files, or a pointer to their home."""
        return self.bring or (f"python -m alignmamba2 data fetch {self.name}" if self.source else "")

    def imported(self) -> Entry:
        """Return the entry with `load` imported, if it is an address."""
        if not isinstance(self.load, str):
            return self
        module, _, attribute = self.load.partition(":")
        try:
            target = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"data set {self.name!r}: {self.load!r} could not be imported ({error}); expected 'package.module:name'"
            ) from error
        return target if isinstance(target, Entry) else replace(self, load=target)


class Registry(UserDict[str, Entry]):
    """Entries by name, in the order of registration; imports an entry's module when the entry is first read."""

    def __getitem__(self, name: str) -> Entry:
        entry = self.data[name] = self.data[name].imported()
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        """Add an entry; the same function may be registered again, as when a notebook's cell runs twice."""
        other = self.data.get(name, entry)
        if _address(other) != _address(entry):
            raise ValueError(
                f"data set {name!r}: the name is taken by {_address(other)}; choose one that is none of "
                f"{', '.join(self)}"
            )
        self.data[name] = entry


def _address(entry: Entry) -> str:
    load = getattr(entry.load, "func", entry.load)  # of a partial, its function
    return f"{load.__module__}:{load.__qualname__}" if hasattr(load, "__qualname__") else str(load)


ENTRIES = Registry()


def register_dataset(name: str, loader: Callable[..., Mapping[str, Dataset]] | str, **details) -> None:
    """Give a loader a name that `load_dataset`, recipes, `fit` and every command that takes a data set know.

    A `ValueError` says that the name is taken, or that `loader` is neither a function nor an address.

    Parameters
    ----------
    name : such as "two-digits"
    loader : function (root, **options) -> {"train": Dataset, "valid": Dataset, "test": Dataset}, or its address
        "package.module:function"; see `Entry.load`
    details : further fields of `Entry`, such as ``bring="pip install two-digits"``
    """
    if not (isinstance(loader, str) and ":" in loader) and not callable(loader):
        raise ValueError(f"data set {name!r}: found loader {loader!r}; expected a function, or 'package.module:name'")
    ENTRIES[name] = Entry(name, loader, **details)
