"""An array that stays in its file."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import FileError

BLOCK = 1 << 24  # bytes of a block of rows


class FileArray:
    """FileArray is an array whose numbers lie in one piece in a file; indexing copies just the rows requested.

    Each access maps the file, copies, and unmaps it again: what is read through a lasting map counts as the process's
    memory until the system wants it back, so here memory is what the caller holds. The first byte is at `offset`;
    `dtype` and `shape` are as the numbers lie in the file, the last axis fastest; `axes` is the order in which the
    array has those axes, as of `numpy.transpose`, by default the same.
    """

    def __init__(
        self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...], axes: tuple[int, ...] | None = None
    ):
        self.path, self.offset, self.dtype = path, offset, dtype
        self._stored, self._axes = shape, tuple(range(len(shape))) if axes is None else axes
        self.shape = tuple(shape[axis] for axis in self._axes)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: Any) -> np.ndarray:
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)[key]
        try:
            array = np.memmap(self.path, self.dtype, "r", self.offset, self._stored)
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.path}: ends inside an array ({error}); it is cut off, or changed while it was read"
            ) from error
        return np.array(array.transpose(self._axes)[key])[()]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def blocks(array: FileArray | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield an array (N, ...) in pieces of about 16 MiB: the number of the first row, and the rows."""
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, BLOCK // row)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
