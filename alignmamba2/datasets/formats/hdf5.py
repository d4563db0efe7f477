"""HDF5 files that may be damaged: whatever goes wrong in one is a `DataError` that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base import DataError


@contextmanager
def errors_named(path: Path, expected: str) -> Iterator[None]:
    """Turns what h5py raises within, nearly every kind of error by the place that is damaged, into `DataError`."""
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
    """The open `h5py.File`, with errors named."""
    import h5py

    with errors_named(path, expected), h5py.File(path, "r") as file:
        yield file
