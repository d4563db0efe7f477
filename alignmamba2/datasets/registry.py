"""What a data set's module gives to `load_dataset` and to `python -m alignmamba2 data`.

**To add a data set**, write a module of this package that ends in

    ENTRIES = (
        Entry("emoji", load, is_present=is_present, bring="pip install 'alignmamba2[realdata]'", inspect=inspect),
    )

and add that module to `MODULES` in `__init__.py`. Nothing else changes: `load_dataset`, `data list`, `data fetch`,
`data check` and `data make` find it there. Keep the module quick to import: what is large (h5py, transformers, …) is
imported inside the functions that need it.

`load(root, **options) -> {"train": Dataset, "valid": Dataset, "test": Dataset}`
    Options are keywords with defaults, checked, with `ValueError` for a value that is not one of theirs and `DataError`
    for files. An unknown keyword needs no care. Every `Dataset.protocol` names split, labels and features.
`is_present(root) -> bool`
    Whether `load` would find its files; quick, reads nothing large. Left out: the `source`'s files, or True.
`make(folder, *, format, seed, size) -> list of paths written`
    For miniatures: writes the generated set in exactly the real on-disk format. `formats[0]` is the default. `size` is
    the number of training samples, or None for the module's own.
`inspect(path) -> Contents | None`
    For `data check`: None, quickly, if the file or folder is none of this module's; otherwise what it holds
    (`contents.Contents`; `contents.of_datasets` makes one from loaded splits). `DataError` if it is, and is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .base import Dataset
from .contents import Contents
from .fetch import Source


@dataclass(frozen=True)
class Entry:
    """One name of `load_dataset`, and what goes with it.

    Attributes
    ----------
    name : str
    load, is_present, make, inspect : functions, see the module
    bring : str
        What to do where its files are missing: a command, or a pointer into data/README.md.
    source : its public home, for `data fetch`
    formats : what `make` can write, the default first
    """

    name: str
    load: Callable[..., Mapping[str, Dataset]]
    is_present: Callable[[str | Path | None], bool] | None = None
    bring: str = ""
    source: Source | None = None
    make: Callable[..., list[Path]] | None = None
    formats: tuple[str, ...] = ()
    inspect: Callable[[Path], Contents | None] | None = None

    def present(self, root: str | Path | None = None) -> bool:
        """Whether `load` finds its files, here or in the mirror; generated sets always are."""
        if self.is_present is not None:
            return self.is_present(root)
        return self.source is None or self.source.at_hand(root)

    @property
    def command(self) -> str:
        """What brings the files."""
        return self.bring or (f"python -m alignmamba2 data fetch {self.name}" if self.source else "")
