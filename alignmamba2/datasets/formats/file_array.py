"""An array that stays in its file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..base import DataError

BLOCK = 1 << 24  # bytes read in one go


class FileArray:
    """An array (N, ...) whose bytes lie in one piece in a file; a slice reads just its rows, into memory of its own.

    A memory map would do the same with less code, but what was read through a map counts as the process's memory until
    the system wants it back; here, memory is what the caller holds. The file is opened for each read, so processes that
    share the array do not share a place in the file.

    Attributes
    ----------
    file : a path, or an open temporary file
    offset : of the first byte
    shape, dtype : as of a NumPy array
    """

    def __init__(self, file: Path | BinaryIO, offset: int, dtype: np.dtype, shape: tuple[int, ...]):
        self.file, self.offset, self.dtype, self.shape = file, offset, dtype, shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: slice | int) -> np.ndarray:
        if not isinstance(key, slice):
            row = range(len(self))[key]  # counts from the end where it is negative; IndexError where there is none
            return self[row : row + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise ValueError(f"FileArray: found a step of {step}; rows are read in order")
        rows = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        if not rows.size:
            return rows
        place = self.offset + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        view = memoryview(rows.reshape(-1).view(np.uint8))
        with open(self.file, "rb", 0) if isinstance(self.file, Path) else contextlib.nullcontext(self.file) as file:
            file.seek(place)
            while view:  # one read may bring less than was asked for
                count = file.readinto(view)
                if not count:
                    raise DataError(f"{self.file}: ends inside an array; it is cut off, or changed while it was read")
                view = view[count:]
        return rows


def blocks(array: FileArray | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """An array (N, ...) in pieces of about 16 MiB: the number of the first row, and the rows."""
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, BLOCK // row)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
