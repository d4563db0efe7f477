"""What a file or folder of data holds, as plain arrays and strings: what `data check` looks at, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .base import Dataset

BLOCK = 1 << 22  # values looked at in one go


@dataclass(frozen=True)
class Field:
    """One array of a split: its shape, its type, and how many of its values are no finite numbers."""

    shape: tuple[int, ...]
    dtype: str
    nan: int = 0
    infinite: int = 0

    @classmethod
    def of(cls, array) -> Field:
        """Look at an array a block of rows at a time; `array` slices like one (NumPy, memory map, HDF5, torch)."""
        if isinstance(array, cls):  # looked at already
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
    lengths : mapping of modality to int array (N,): real tokens of each sample, padding left out
    ids, texts, groups : N strings each, or empty where the file does not say
        A group is what must not be in two splits: a video, a speaker, a scene.
    """

    fields: Mapping[str, Field] = field(default_factory=dict)
    labels: np.ndarray | None = None
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] = ()
    texts: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Contents:
    """What a file or folder is and holds.

    Attributes
    ----------
    path : Path
    format : str
        In words, such as "MMSA pickle, unaligned".
    parts : mapping of split name to `Part`; "all" where the file has no splits
    synthetic : bool
    group_name : str
        What a group is: "video", "scene".
    problems : what is wrong, one sentence each
    notes : what is worth knowing, one sentence each
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


def of_datasets(path: Path, format: str, splits: Mapping[str, Dataset], **more) -> Contents:
    """The contents of loaded splits. `more` are fields of `Contents`; it reads every sample once."""
    parts = {}
    for split, dataset in splits.items():
        counts = {m: [0, 0, 0] for m in dataset.modalities}
        lengths: dict[str, list[int]] = {m: [] for m in dataset.modalities}
        labels, ids, texts = [], [], []
        for sample in dataset.samples:
            ids.append(sample.id)
            texts.append(" ".join(sample.words.get("text", ())))
            if sample.label is not None:
                labels.append(np.atleast_1d(sample.label.numpy()))
            for m, x in sample.features.items():
                lengths[m].append(len(x))
                for k, count in enumerate((x.numel(), x.isnan().sum(), x.isinf().sum())):
                    counts[m][k] += int(count)
        parts[split] = Part(
            fields={
                m: Field((len(ids), max(lengths[m]), width), "float32", *counts[m][1:])
                for m, width in dataset.modalities.items()
            },
            labels=np.concatenate(labels) if labels else None,
            lengths={m: np.array(n) for m, n in lengths.items()},
            ids=ids,
            texts=texts if any(texts) else (),
        )
    first = next(iter(splits.values()))
    return Contents(path, format, parts, **{"synthetic": first.synthetic, "hashes": first.hashes, **more})
