"""The two pickles that CMU-MOSI and CMU-MOSEI go round in, told apart by what they hold.

Both are a dict of "train", "valid" and "test", each a dict of arrays with a row an utterance.

**MMSA** (thuiar/MMSA): `text` (N, 50, 768) BERT features, `text_bert` (N, 3, 50) ids, mask, segments, `audio` and
`vision` (N, T, D), `raw_text`, `id` (`video$_$clip`), `annotations`, `classification_labels`, `regression_labels` (N,);
where the modalities have steps of their own ("unaligned"), also `audio_lengths` and `vision_lengths`. Zeros behind.

**MulT** (yaohungt/Multimodal-Transformer): `text` (GloVe, 300), `audio`, `vision`, `labels` (N, 1, 1), and perhaps
`id`, rows of three fields, bytes in MOSI's. Zeros in front in the aligned files.

Where padding is, is looked up in the arrays, not assumed: a step is padding if all of it is 0 and it stands at the end
(or the beginning) at which more such steps stand, counted over the split. `-inf` is a value, not padding. Text with a
BERT mask is as long as the mask says; `*_lengths` are believed unless something stands behind them. In an aligned file
all modalities keep the same steps, from the first to the last that any of them uses, because step i of each belongs to
the same word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.file_array import FileArray, blocks
from ..contents import Contents, Field, Part
from ..store import Split
from .unpickle import read_pickle

SPLITS = ("train", "valid", "test")
# The file's name for each modality.
NAMES = {"text": "text", "audio": "audio", "video": "vision"}
TEXTS = {768: "bert", 300: "glove"}
MARK = "synthetic"  # generated files say so in the names of their videos, the one place that every format has


@dataclass
class Utterances:
    """What a file of MOSI or MOSEI holds, whatever its format.

    Attributes
    ----------
    format : "MMSA pickle", "MulT pickle" or "CSD folder"
    aligned : whether step i of every modality is the same word
    text : "bert", "glove" or such as "100-d"
    splits : mapping of split name to `Split`
    fields : mapping of split name to a mapping of the file's own names to arrays
    problems : what keeps the file from being used, one sentence each
    notes : what is worth knowing
    """

    format: str
    aligned: bool
    text: str
    splits: dict[str, Split] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        return all(video_of(i).startswith(MARK) for split in self.splits.values() for i in split.ids)

    def contents(self, path: Path, hashes: Mapping[str, str]) -> Contents:
        """The same, as `data check` takes it."""
        parts = {
            name: Part(
                fields={n: Field.of(x) if hasattr(x, "dtype") else Field((len(x),), "list") for n, x in fields.items()},
                labels=self.splits[name].labels,
                lengths=self.splits[name].lengths,
                ids=self.splits[name].ids,
                texts=self.splits[name].texts,
                groups=[video_of(i) for i in self.splits[name].ids],
            )
            for name, fields in self.fields.items()
        }
        kind = f"{self.format}, {'aligned' if self.aligned else 'unaligned'}, text {self.text}"
        return Contents(path, kind, parts, self.synthetic, "video", self.problems, self.notes, hashes)


def video_of(utterance: str) -> str:
    """The video of an utterance's id, `video$_$clip` or `video[k]`."""
    return utterance.split("$_$")[0].split("[")[0]


def peek(path: Path) -> tuple[str, str] | None:
    """("aligned" or "unaligned", the kind of text) of a pickle, from its shapes alone; None if it is of something else.

    Raises
    ------
    DataError
        It is no pickle, or an unsafe one.
    """
    tree = _tree(path)
    if tree is None:
        return None
    train = {k: _array(v) for k, v in tree["train"].items() if k in NAMES.values()}
    steps = {x.shape[1:2] for x in train.values()}
    aligned = len(steps) == 1 and "audio_lengths" not in tree["train"]
    return "aligned" if aligned else "unaligned", _text(train["text"].shape[-1])


def _tree(path: Path) -> dict[str, Any] | None:
    tree = read_pickle(path)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(s), dict) for s in SPLITS):
        return None
    keys = set(tree["train"])
    return tree if set(NAMES.values()) <= keys and keys & {"regression_labels", "labels"} else None


def _text(width: int) -> str:
    return TEXTS.get(width, f"{width}-d")


def read(path: Path) -> Utterances | None:
    """What a pickle holds, arrays still in the file; None if it is a pickle of something else.

    Raises
    ------
    DataError
        It is no pickle, or an unsafe one. What is wrong inside is told in `problems`.
    """
    tree = _tree(path)
    if tree is None:
        return None
    mmsa = "regression_labels" in tree["train"]
    found = Utterances("MMSA pickle" if mmsa else "MulT pickle", aligned=True, text="")
    for name in SPLITS:
        _read_split(found, name, tree[name], "regression_labels" if mmsa else "labels")
    if extra := sorted(set(map(str, tree)) - set(SPLITS)):
        found.notes.append(f"also holds {extra}, which are not read")
    if not found.problems:
        widths = {name: dict(s.widths) for name, s in found.splits.items()}
        found.text = _text(widths["train"]["text"])
        if any(w != widths["train"] for w in widths.values()):
            found.problems.append(f"feature widths differ between the splits: {widths}")
    return found


def _read_split(found: Utterances, name: str, tree: Mapping[str, Any], label_key: str) -> None:
    problems = []
    missing = [k for k in (*NAMES.values(), label_key) if k not in tree]
    if missing:
        found.problems.append(f"{name}: no {missing}; there are {sorted(map(str, tree))}")
        return
    arrays = {k: _array(v) for k, v in tree.items()}
    features = {m: arrays[k] for m, k in NAMES.items()}
    used = (*NAMES.values(), label_key, "text_bert", "audio_lengths", "vision_lengths", "id", "raw_text")
    sizes = {k: len(arrays[k]) if arrays[k].shape else 0 for k in used if k in arrays}
    size = sizes[label_key]
    for m, x in features.items():
        if x.ndim != 3 or x.dtype.kind not in "fiu":
            problems.append(f"{name}/{NAMES[m]}: shape {x.shape} {x.dtype}; expected (N, T, D) numbers")
    if bad := {k: n for k, n in sizes.items() if n != size}:
        problems.append(f"{name}: {bad} rows, where {label_key} has {size}")
    if not size:
        problems.append(f"{name}: no utterances")
    labels, complaint = _labels(arrays[label_key], size)
    if complaint:
        problems.append(f"{name}/{label_key}: {complaint}")
    found.problems += problems
    if problems:
        return
    mask = arrays.get("text_bert")
    if mask is not None and (mask.ndim != 3 or mask.shape[1] != 3 or mask.dtype.kind not in "fiu"):
        found.problems.append(
            f"{name}/text_bert: shape {mask.shape} {mask.dtype}; expected (N, 3, T): ids, mask, segments"
        )
        return
    spans = {m: _span(found, f"{name}/{NAMES[m]}", x) for m, x in features.items()}
    if mask is not None:
        spans["text"] = _masked(found, f"{name}/text_bert", mask[:], features["text"].shape[1], spans["text"])
    for m in ("audio", "video"):
        key = f"{NAMES[m]}_lengths"
        if key in arrays:
            spans[m] = _given(found, f"{name}/{key}", arrays[key][:], features[m].shape[1], spans[m])
    steps = {x.shape[1] for x in features.values()}
    aligned = len(steps) == 1 and "audio_lengths" not in arrays
    found.aligned &= aligned
    if aligned:
        # Where a modality is missing its span is empty and says nothing about the beginning.
        high = np.max([last for _, last in spans.values()], axis=0)
        low = np.min([np.where(first < last, first, high) for first, last in spans.values()], axis=0)
        spans = dict.fromkeys(spans, (low, high))

    def tokens(m: str) -> Iterator[np.ndarray]:
        low, high = spans[m]
        for start, block in blocks(features[m]):
            yield from (x[low[start + i] : high[start + i]] for i, x in enumerate(block))

    found.splits[name] = Split(
        widths={m: x.shape[2] for m, x in features.items()},
        lengths={m: high - low for m, (low, high) in spans.items()},
        tokens=tokens,
        labels=labels,
        ids=_ids(arrays.get("id"), name, size),
        texts=[str(t) for t in arrays["raw_text"][:]] if "raw_text" in arrays else (),
        bert=None if mask is None else mask[:].astype(np.int64),
    )
    found.fields[name] = arrays


def _array(value: Any) -> np.ndarray | FileArray:
    """A list, as some writers leave it, becomes an array; in memory, unlike arrays."""
    if isinstance(value, (np.ndarray, FileArray)):
        return value
    if isinstance(value, (list, tuple)):
        value = [v[:] if isinstance(v, FileArray) else v for v in value]
    return np.asarray(value, object if _ragged(value) else None)


def _ragged(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len({np.shape(v) for v in value}) > 1


def _labels(array: np.ndarray | FileArray, size: int) -> tuple[np.ndarray, str]:
    values = array[:]
    if values.size != size or values.dtype.kind not in "fiu":
        return np.zeros(size), f"shape {values.shape} {values.dtype}; expected one number an utterance (MOSI and MOSEI)"
    values = values.reshape(size).astype(np.float64)
    outside = ~(np.abs(values) <= 3)
    complaint = (
        f"{int(outside.sum())} labels are not in [-3, 3], such as {values[outside][:1]}" if outside.any() else ""
    )
    return values, complaint


def _ids(array: np.ndarray | FileArray | None, split: str, size: int) -> list[str]:
    if array is None:
        return [f"{split}$_${i}" for i in range(size)]
    rows = array[:].reshape(size, -1)
    text = [[v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in row] for row in rows]
    return ["$_$".join(row) for row in text]


Span = tuple[np.ndarray, np.ndarray]  # first real step and the one behind the last, (N,) each


def _span(found: Utterances, name: str, array: np.ndarray | FileArray) -> Span:
    steps = array.shape[1]
    first, last = np.full(len(array), steps), np.zeros(len(array), int)
    for start, block in blocks(array):
        real = (block != 0).any(axis=2)
        some = real.any(axis=1)
        rows = slice(start, start + len(block))
        first[rows] = np.where(some, real.argmax(axis=1), steps)
        last[rows] = np.where(some, steps - real[:, ::-1].argmax(axis=1), 0)
    some = first < last
    if empty := int((~some).sum()):
        found.notes.append(f"{name}: {empty} of {len(array)} utterances hold nothing but zeros")
    if first[some].sum() > (steps - last[some]).sum():
        found.notes.append(f"{name}: padded in front")
        return np.where(some, first, steps), np.full(len(array), steps)
    return np.zeros(len(array), int), last


def _masked(found: Utterances, name: str, bert: np.ndarray, steps: int, span: Span) -> Span:
    mask = bert[:, 1] > 0
    length = mask.sum(axis=1)
    if mask.shape[1] != steps or not (mask == (np.arange(steps) < length[:, None])).all():
        found.notes.append(
            f"{name}: the mask is no run of ones from the first step; text is as long as its features say"
        )
        return span
    return np.zeros(len(length), int), length


def _given(found: Utterances, name: str, lengths: np.ndarray, steps: int, span: Span) -> Span:
    low, high = span
    lengths = np.asarray(lengths).reshape(-1)
    if lengths.dtype.kind not in "fiu":
        found.notes.append(f"{name}: no numbers; lengths are taken from the array")
        return span
    lengths = lengths.astype(np.int64)
    if low.any():
        found.notes.append(f"{name}: not used, the array is padded in front")
        return span
    if wrong := int(((lengths < high) | (lengths > steps)).sum()):
        found.notes.append(
            f"{name}: {wrong} of {len(lengths)} lengths do not fit the array; those are taken from the array"
        )
    return low, np.where((lengths < high) | (lengths > steps), high, lengths)
