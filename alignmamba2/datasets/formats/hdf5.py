"""HDF5 files of strangers: nothing outside them is read, no declared size is believed, every error names the file."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..base import DataError

GROWTH, ROOM = 256, 1 << 26  # a data set may have so many bytes per byte that is stored of it, and so many more
DEPTH = 16  # of groups
TEXTS = 100_000  # most texts of no fixed length in a data set
SMALL = 1 << 16  # bytes of a compressed chunk, which cannot become more than 64 MiB
FILTERS = {1, 2, 3, 32000}


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

    room = GROWTH * size + ROOM

    def problem(name: str, link: Any) -> str | None:  # HDF5 stops at the first; it does not pass exceptions on
        nonlocal room
        if isinstance(link, h5py.ExternalLink):
            return f"refused, {name!r} leads to another file, {link.filename!r}"
        if name.count("/") > DEPTH:
            return f"groups nested deeper than {DEPTH}"
        item = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(item, h5py.Dataset):
            return None
        room -= item.nbytes
        return _problem(item) or (f"its data sets say that they are more than {GROWTH} times the file" * (room < 0))

    with h5py.File(path, "r") as file:
        if reason := file.visititems_links(problem):
            raise DataError(f"{path}: {reason}")


def _problem(dataset: Any) -> str | None:
    if dataset.external or dataset.is_virtual:
        return f"refused, the numbers of {dataset.name!r} lie in other files"
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= FILTERS:
        return f"{dataset.name!r} is compressed by filters {filters}; each of gzip, LZF, shuffle, checksum is read once"
    largest = max(dataset.nbytes, math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)  # a chunk is read whole
    if largest > GROWTH * dataset.id.get_storage_size() + ROOM:
        return f"{dataset.name!r} says that it is {dataset.shape}, far more than the file can hold"
    return None


def plain(path: Path, dataset: Any) -> Any:
    """Return the data set, unless its numbers lie in other files, or are far more than what is stored of them."""
    if reason := _problem(dataset):
        raise DataError(f"{path}: {reason}")
    return dataset


def values(path: Path, dataset: Any, row: int | None = None) -> np.ndarray:
    """Return a data set or a row of it, once its compressed chunks turned out as large as they say."""
    if dataset.dtype.kind == "O":
        return _texts(path, dataset)
    most = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    every = [slice(None)] * dataset.ndim
    selection = tuple(every if row is None else [slice(row, row + 1), *every[1:]])
    for piece in dataset.iter_chunks(selection) if dataset.compression == "gzip" and dataset.size else ():
        corner = tuple(s.start // n * n for s, n in zip(piece, dataset.chunks, strict=True))
        if dataset.id.get_chunk_info_by_coord(corner).size > SMALL:
            content = dataset.id.read_direct_chunk(corner)[1]
            if len(zlib.decompressobj().decompress(content, most + 1)) > most:
                raise DataError(f"{path}: {dataset.name!r}: a chunk holds more than the {most} bytes that it says")
    return dataset[()] if row is None else dataset[row]


def _texts(path: Path, dataset: Any) -> np.ndarray:
    """Read texts of no fixed length one by one: one that is stored once may stand in each place."""
    room, texts = GROWTH * path.stat().st_size + ROOM, np.empty(dataset.shape, object)
    for place in np.ndindex(dataset.shape) if dataset.size <= TEXTS else ():
        texts[place] = dataset[place]
        room -= len(texts[place])
        if room < 0:
            break
    if room < 0 or dataset.size > TEXTS:
        raise DataError(f"{path}: {dataset.name!r}: {dataset.size} texts, more than {TEXTS} or {GROWTH} times the file")
    return texts
