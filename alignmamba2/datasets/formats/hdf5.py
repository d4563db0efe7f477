"""HDF5 files of strangers: nothing outside them is read, no declared size is believed, every error names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..base import DataError

GROWTH, ROOM = 256, 1 << 26  # a data set may have so many bytes per byte that is stored of it, and so many more


@contextmanager
def errors_named(path: Path, expected: str) -> Iterator[None]:
    """Turn what h5py raises within, nearly every kind of error by the place that is damaged, into `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: no readable HDF5 ({type(error).__name__}: {error}); expected {expected}. It may be cut off: "
            "bring it again"
        ) from error


@contextmanager
def reading(path: Path, expected: str) -> Iterator:
    """Open a file as `h5py.File`, with errors named."""
    with errors_named(path, expected), opened(path) as file:
        yield file


def opened(path: Path) -> Any:
    """Open a file as `h5py.File`, once nothing in it leads outside; a file is looked through when it has changed."""
    import h5py

    status = path.stat()
    _look_through(path, status.st_size, status.st_mtime_ns)
    return h5py.File(path, "r")


@lru_cache(maxsize=64)
def _look_through(path: Path, size: int, changed: int) -> None:
    import h5py

    def problem(name: str, link: Any) -> str | None:  # HDF5 stops at the first; it does not pass exceptions on
        if isinstance(link, h5py.ExternalLink):
            return f"refused, {name!r} leads to another file, {link.filename!r}"
        item = file[name] if isinstance(link, h5py.HardLink) else None
        return _problem(item) if isinstance(item, h5py.Dataset) else None

    with h5py.File(path, "r") as file:
        if reason := file.visititems_links(problem):
            raise DataError(f"{path}: {reason}")


def _problem(dataset: Any) -> str | None:
    if dataset.external or dataset.is_virtual:
        return f"refused, the numbers of {dataset.name!r} lie in other files"
    if dataset.nbytes > GROWTH * dataset.id.get_storage_size() + ROOM:
        return f"{dataset.name!r} says that it is {dataset.shape}, far more than the file can hold"
    return None


def plain(path: Path, dataset: Any) -> Any:
    """Return the data set, unless its numbers lie in other files, or are far more than what is stored of them."""
    if reason := _problem(dataset):
        raise DataError(f"{path}: {reason}")
    return dataset
