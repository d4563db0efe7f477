"""The contents of a file or folder of data, as plain arrays and strings, for `data check`, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BLOCK = 1 << 22  # values examined at once


@dataclass(frozen=True)
class Field:
    """An array of a split: its shape, its type, and how many of its values are NaN or infinite."""

    shape: tuple[int, ...]
    dtype: str
    nan: int = 0
    infinite: int = 0

    @classmethod
    def of(cls, array) -> Field:
        """Examine an array (NumPy, memory map, HDF5, torch) block by block."""
        if isinstance(array, cls):  # examined already
            return array
        dtype = np.dtype(str(array.dtype).removeprefix("torch."))
        shape = tuple(array.shape)
        nan = infinite = 0
        if dtype.kind == "f":
            for block in _blocks(array, shape):
                nan += int(np.isnan(block).sum())
                infinite += int(np.isinf(block).sum())
        return cls(shape, str(dtype), nan, infinite)


def _blocks(array, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    if not shape:
        yield np.asarray(array)
        return
    step = max(1, BLOCK // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield np.asarray(array[start : start + step])


@dataclass(frozen=True)
class Part:
    """One split of a file.

    Attributes
    ----------
    fields : mapping of an array's name in the file to its `Field`
    labels : array (N,) of numbers or of strings, or None
    lengths : mapping of modality to int array (N,): tokens of each sample, without padding
    ids, texts, groups : N strings each, or empty if the file has none
        A group must not be in two splits: a video, a speaker, a scene.
    """

    fields: Mapping[str, Field] = field(default_factory=dict)
    labels: np.ndarray | None = None
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] = ()
    texts: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Contents:
    """The contents of a file or folder.

    Attributes
    ----------
    path : Path
    format : str
        In words, such as "MMSA pickle, unaligned".
    parts : mapping of split name to `Part`; "all" where the file has no splits
    synthetic : bool
    group_name : name of the groups: "video", "scene"
    problems, notes : sequences of sentences: faults, and remarks
    hashes : mapping of file name to SHA-256
    """

    path: Path
    format: str
    parts: Mapping[str, Part]
    synthetic: bool = False
    group_name: str = "video"
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
