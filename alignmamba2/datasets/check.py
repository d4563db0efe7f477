"""`python -m alignmamba2 data check PATH`: what a file of data holds, in words, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from .contents import Contents, Part

MOST_VALUES = 12  # labels of up to so many values are counted one by one
BINS = 10
WIDE = 40  # a text that is quoted is cut here


@dataclass(frozen=True)
class Leak:
    """What stands in two splits.

    Attributes
    ----------
    kind : "text", "id", or what a group is, such as "video"
    first, second : the splits
    count, total : samples of `second` that it concerns, of how many (of groups: groups)
    example : one of them
    """

    kind: str
    first: str
    second: str
    count: int
    total: int
    example: str

    def __str__(self) -> str:
        return (
            f"{self.count} of {self.total} {self.kind}s of {self.second} are also in {self.first}, such as "
            f"{_quoted(self.example)}"
        )


def leaks(contents: Contents) -> list[Leak]:
    """Equal texts, equal ids and equal groups in two splits."""
    found = []
    for first, second in combinations(contents.parts, 2):
        a, b = contents.parts[first], contents.parts[second]
        for kind, here, there in (("text", a.texts, b.texts), ("id", a.ids, b.ids)):
            known = {t for t in here if t}
            if both := [t for t in there if t in known]:
                found.append(Leak(kind, first, second, len(both), len(there), both[0]))
        groups = set(b.groups)
        if both := sorted(groups & set(a.groups)):
            found.append(Leak(contents.group_name, first, second, len(both), len(groups), both[0]))
    return found


def histograms(contents: Contents) -> dict[str, dict[str, int]]:
    """For each split with labels, how many samples have each label, or each range of labels; the same ones for all."""
    labels = {
        name: np.asarray(p.labels) for name, p in contents.parts.items() if p.labels is not None and len(p.labels)
    }
    if not labels:
        return {}
    whole = np.concatenate([x.reshape(-1) for x in labels.values()])
    values = sorted(set(whole.tolist()))
    if whole.dtype.kind not in "fiu" or len(values) <= MOST_VALUES:
        counts = {name: Counter(x.reshape(-1).tolist()) for name, x in labels.items()}
        return {name: {_label(v): count[v] for v in values} for name, count in counts.items()}
    finite = whole[np.isfinite(whole)]
    edges = np.linspace(finite.min(), finite.max(), BINS + 1)
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return {
        name: dict(zip(names, np.histogram(x[np.isfinite(x)], edges)[0].tolist(), strict=True))
        for name, x in labels.items()
    }


def problems(contents: Contents) -> list[str]:
    """What is wrong: what the reader found, and what can be seen in any data."""
    found = list(contents.problems)
    counts = histograms(contents)
    for name, part in contents.parts.items():
        for field, x in part.fields.items():
            if x.nan or x.infinite:
                what = " and ".join(f"{n} {kind}" for n, kind in ((x.nan, "NaN"), (x.infinite, "infinite")) if n)
                found.append(f"{name}/{field}: {what} values")
        if part.labels is not None and np.asarray(part.labels).dtype.kind == "f":
            bad = int((~np.isfinite(part.labels)).sum())
            if bad:
                found.append(f"{name}: {bad} labels are NaN or infinite")
        if repeated := [i for i, n in Counter(part.ids).items() if n > 1]:
            found.append(f"{name}: {len(repeated)} ids stand there more than once, such as {_quoted(repeated[0])}")
        for m, lengths in part.lengths.items():
            if empty := int((np.asarray(lengths) == 0).sum()):
                found.append(f"{name}: {empty} samples have no {m}")
        if sum(n > 0 for n in counts.get(name, {}).values()) == 1 < len(part.labels):
            found.append(f"{name}: all labels are alike")
    return found


def report(contents: Contents) -> str:
    """All of it, as text."""
    lines = [str(contents.path), f"  {contents.format}{', synthetic' if contents.synthetic else ''}"]
    lines += [f"  SHA-256 {digest}  {name}" for name, digest in contents.hashes.items()]
    counts = histograms(contents)
    for name, part in contents.parts.items():
        lines += ["", f"{name}: {_size(part, contents.group_name)}", *_fields(part)]
        lines += [f"  {'tokens of ' + m:24s} {_spread(n)}" for m, n in part.lengths.items()]
        if name in counts:
            shown = ", ".join(f"{label}: {n}" for label, n in counts[name].items())
            lines.append(f"  {'labels':24s} {shown}")
    if len(contents.parts) > 1:
        found = leaks(contents)
        clean = [k for k in _comparable(contents) if k not in {leak.kind for leak in found}]
        lines += ["", "leaks between splits", *(f"  {leak}" for leak in found)]
        lines += [f"  no {kind} is in two splits" for kind in clean]
        if not found and not clean:
            lines.append("  cannot be told: the file names no texts, ids or groups")
    for title, sentences in (("wrong", problems(contents)), ("worth knowing", contents.notes)):
        if sentences:
            lines += ["", title, *(f"  {s}" for s in sentences)]
        elif title == "wrong":
            lines += ["", "nothing wrong was found"]
    return "\n".join(lines) + "\n"


def _comparable(contents: Contents) -> list[str]:
    parts = contents.parts.values()
    kinds = {"text": "texts", "id": "ids", contents.group_name: "groups"}
    return [kind for kind, field in kinds.items() if all(any(getattr(p, field)) for p in parts)]


def _size(part: Part, group: str) -> str:
    size = len(part.labels) if part.labels is not None else len(part.ids) or next(iter(part.fields.values())).shape[0]
    groups = f", {len(set(part.groups))} {group}s" if part.groups else ""
    return f"{size} samples{groups}"


def _fields(part: Part) -> list[str]:
    lines = []
    for name, x in part.fields.items():
        bad = "".join(f", {n} {kind}" for n, kind in ((x.nan, "NaN"), (x.infinite, "infinite")) if n)
        lines.append(f"  {name:24s} {x.shape} {x.dtype}{bad}")
    return lines


def _spread(lengths: Sequence[int] | np.ndarray) -> str:
    n = np.asarray(lengths)
    return f"{n.min()} to {n.max()}, median {np.median(n):g}" if len(n) else "none"


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= WIDE else text[:WIDE] + "…")


def lengths(contents: Contents) -> Mapping[str, Mapping[str, np.ndarray]]:
    """By split and modality, the tokens of each sample."""
    return {name: {m: np.asarray(n) for m, n in p.lengths.items()} for name, p in contents.parts.items() if p.lengths}
