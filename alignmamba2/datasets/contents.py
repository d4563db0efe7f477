"""The contents of a file or folder of data as plain arrays and strings, whatever its format, and their faults.

`python -m alignmamba2 data check PATH` prints `report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from ..storage.files import blocks, printable

MOST_VALUES = 12  # labels of up to so many values are counted one by one
BINS = 10
WIDE = 40  # a quoted text is cut here


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
            for _, block in blocks(array) if shape else [(0, array[()])]:
                nan += int(np.isnan(np.asarray(block)).sum())
                infinite += int(np.isinf(np.asarray(block)).sum())
        return cls(shape, str(dtype), nan, infinite)


@dataclass(frozen=True)
class Part:
    """A part is one split of a file; strings that the file has not are empty."""

    fields: Mapping[str, Field] = field(default_factory=dict)  # by the array's name in the file
    labels: np.ndarray | None = None  # (N,), numbers or strings
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N,) by modality: tokens without padding
    ids: Sequence[str] = ()
    texts: Sequence[str] = ()
    groups: Sequence[str] = ()  # a video, a speaker, a scene: never to be in two splits


@dataclass(frozen=True)
class Contents:
    """Contents are what a file or folder holds, with faults and remarks as sentences."""

    path: Path
    format: str  # in words, such as "MMSA pickle, unaligned"
    parts: Mapping[str, Part]  # by split; "all" if the file has no splits
    synthetic: bool = False
    group_name: str = "video"  # or such as "scene"
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by file name


@dataclass(frozen=True)
class Leak:
    """A leak is texts, ids or groups that two splits share, with one of them as an example."""

    kind: str  # "text", "id", or the name of a group, such as "video"
    first: str
    second: str
    count: int  # of the second split's texts, ids or groups: how many are shared
    total: int
    example: str

    def __str__(self) -> str:
        return (
            f"{self.count} of {self.total} {self.kind}s of {self.second} are also in {self.first}, such as "
            f"{_quoted(self.example)}"
        )


def _comparable(contents: Contents, part: Part) -> dict[str, Sequence[str]]:
    """The strings of a split that should be in no other, by kind."""
    return {"text": part.texts, "id": part.ids, contents.group_name: sorted(set(part.groups))}


def leaks(contents: Contents) -> list[Leak]:
    """Return equal texts, equal ids and equal groups of every two splits."""
    result = []
    for first, second in combinations(contents.parts, 2):
        one, two = (_comparable(contents, contents.parts[name]) for name in (first, second))
        for kind, strings in two.items():
            known = set(filter(None, one[kind]))
            if shared := [s for s in strings if s in known]:
                result.append(Leak(kind, first, second, len(shared), len(strings), shared[0]))
    return result


def histograms(contents: Contents) -> dict[str, dict[str, int]]:
    """Return, per split with labels, the number of samples per label, or per range of labels; same ranges for all."""
    labels = {
        name: np.asarray(p.labels).reshape(-1)
        for name, p in contents.parts.items()
        if p.labels is not None and len(p.labels)
    }
    if not labels:
        return {}
    whole = np.concatenate(list(labels.values()))
    values = sorted(set(whole.tolist()))
    if whole.dtype.kind not in "fiu" or len(values) <= MOST_VALUES:
        counts = {name: Counter(x.tolist()) for name, x in labels.items()}
        words = {v: f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in values}
        return {name: {words[v]: count[v] for v in values} for name, count in counts.items()}
    finite = whole[np.isfinite(whole)]
    edges = np.linspace(finite.min(), finite.max(), BINS + 1)
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return {
        name: dict(zip(names, np.histogram(x[np.isfinite(x)], edges)[0].tolist(), strict=True))
        for name, x in labels.items()
    }


def problems(contents: Contents) -> list[str]:
    """Return all faults: those that the reader found, and those that any data can have."""
    result = list(contents.problems)
    counts = histograms(contents)
    for name, part in contents.parts.items():
        result += [
            f"{name}/{field}: {' and '.join(bad)} values" for field, x in part.fields.items() if (bad := _bad(x))
        ]
        labels = np.asarray(() if part.labels is None else part.labels)
        if labels.dtype.kind == "f" and (n := int((~np.isfinite(labels)).sum())):
            result.append(f"{name}: {n} labels are NaN or infinite")
        if repeated := [i for i, n in Counter(part.ids).items() if n > 1]:
            result.append(f"{name}: {len(repeated)} ids stand there more than once, such as {_quoted(repeated[0])}")
        for m, n in part.lengths.items():
            if empty := int((np.asarray(n) == 0).sum()):
                result.append(f"{name}: {empty} samples have no {m}")
        if sum(n > 0 for n in counts.get(name, {}).values()) == 1 < len(part.labels):
            result.append(f"{name}: all labels are alike")
    return result


def report(contents: Contents) -> str:
    """Return contents, leaks, faults and notes as text."""
    lines = [str(contents.path), f"  {contents.format}{', synthetic' if contents.synthetic else ''}"]
    lines += [f"  SHA-256 {digest}  {name}" for name, digest in contents.hashes.items()]
    counts = histograms(contents)
    for name, part in contents.parts.items():
        size = len(part.labels if part.labels is not None else part.ids) or next(iter(part.fields.values())).shape[0]
        groups = f", {len(set(part.groups))} {contents.group_name}s" if part.groups else ""
        lines += ["", f"{name}: {size} samples{groups}"]
        lines += [f"  {field:24s} {', '.join([f'{x.shape} {x.dtype}', *_bad(x)])}" for field, x in part.fields.items()]
        spread = {m: f"{min(n)} to {max(n)}, median {np.median(n):g}" for m, n in part.lengths.items() if len(n)}
        lines += [f"  {'tokens of ' + m:24s} {spread.get(m, 'none')}" for m in part.lengths]
        if name in counts:
            lines.append(f"  {'labels':24s} {', '.join(f'{label}: {n}' for label, n in counts[name].items())}")
    if len(contents.parts) > 1:
        shared = leaks(contents)
        strings = [_comparable(contents, part) for part in contents.parts.values()]
        clean = [kind for kind in strings[0] if all(any(s[kind]) for s in strings)]
        clean = [kind for kind in clean if kind not in {leak.kind for leak in shared}]
        lines += ["", "leaks between splits", *(f"  {leak}" for leak in shared)]
        lines += [f"  no {kind} is in two splits" for kind in clean]
        if not shared and not clean:
            lines.append("  cannot be told: the file names no texts, ids or groups")
    for title, sentences in (("wrong", problems(contents)), ("worth knowing", contents.notes)):
        if sentences:
            lines += ["", title, *(f"  {s}" for s in sentences)]
        elif title == "wrong":
            lines += ["", "nothing wrong was found"]
    return "\n".join(map(printable, lines)) + "\n"


def lengths(contents: Contents) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Return, per split and modality, the number of tokens of each sample."""
    return {name: {m: np.asarray(n) for m, n in p.lengths.items()} for name, p in contents.parts.items() if p.lengths}


def _bad(x: Field) -> list[str]:
    return [f"{n} {kind}" for n, kind in ((x.nan, "NaN"), (x.infinite, "infinite")) if n]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= WIDE else text[:WIDE] + "…")
