"""The two kinds of pickle that CMU-MOSI and CMU-MOSEI go round in, told apart by what they hold.

Both are a dict of "train", "valid" and "test", each a dict of arrays with one row per utterance.

**MMSA** (thuiar/MMSA): `text` (N, 50, 768) BERT features, `text_bert` (N, 3, 50) ids, mask, segments, `audio` and
`vision` (N, T, D), `raw_text`, `id` (`video$_$clip`), `annotations`, `classification_labels`, `regression_labels` (N,);
where the modalities have steps of their own ("unaligned"), also `audio_lengths` and `vision_lengths`. Zeros behind.

**MulT** (yaohungt/Multimodal-Transformer): `text` (GloVe, 300), `audio`, `vision`, `labels` (N, 1, 1), and perhaps
`id`, rows of three fields, bytes in MOSI's. Zeros in front in the aligned files.

The place of the padding is looked up in the arrays: a step is padding if all of it is 0 and it stands at the end (or
the beginning) at which more such steps stand, counted over the split. `-inf` is a value, not padding. Text with a BERT
mask is as long as the mask says. `*_lengths` are believed unless something stands behind them. In an aligned file all
modalities keep the same steps, from the first to the last that any of them uses, because step i of each belongs to the
same word.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.files import FileArray, blocks
from ..base import DataError
from ..contents import Contents, Field, Part
from ..store import Split, video_of
from .unpickle import read_pickle

SPLITS = ("train", "valid", "test")
# The file's name for each modality.
NAMES = {"text": "text", "audio": "audio", "video": "vision"}
TEXTS = {768: "bert", 300: "glove"}
MARK = "synthetic"  # generated files say so in the names of their videos, the one place that every format has
Span = tuple[np.ndarray, np.ndarray]  # first real step and the one behind the last, (N,) each


@dataclass
class Utterances:
    """Utterances are the content of a file of MOSI or MOSEI, whatever its format."""

    format: str  # "MMSA pickle", "MulT pickle" or "CSD folder"
    aligned: bool  # whether step i of every modality is the same word
    text: str  # as of `kind_of_width`
    splits: dict[str, Split] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)  # arrays by split and by the file's own names
    problems: list[str] = field(default_factory=list)  # reasons why the file cannot be used, one sentence each
    notes: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        return all(video_of(i).startswith(MARK) for split in self.splits.values() for i in split.ids)

    def contents(self, path: Path, hashes: Mapping[str, str]) -> Contents:
        """Return the same for `data check`."""
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


def peek(path: Path) -> tuple[str, str]:
    """Return ("aligned" or "unaligned", the kind of text) of a pickle, by its shapes alone; errors as of `read`."""
    tree = _tree(path)
    train = {k: _array(v) for k, v in tree["train"].items() if k in NAMES.values()}
    steps = {x.shape[1:2] for x in train.values()}
    aligned = len(steps) == 1 and "audio_lengths" not in tree["train"]
    return "aligned" if aligned else "unaligned", kind_of_width(train["text"].shape[-1])


def _tree(path: Path) -> dict[str, Any]:
    tree = read_pickle(path)
    if isinstance(tree, dict) and all(isinstance(tree.get(s), dict) for s in SPLITS):
        keys = set(tree["train"])
        if set(NAMES.values()) <= keys and keys & {"regression_labels", "labels"}:
            return tree
    raise DataError(
        f"{path}: a pickle, but neither MMSA's nor MulT's; expected a dict of train, valid and test, each with text, "
        "audio, vision, and regression_labels or labels"
    )


def kind_of_width(width: int) -> str:
    """Return "bert", "glove" or such as "100-d", by the width of text features."""
    return TEXTS.get(width, f"{width}-d")


def read(path: Path) -> Utterances:
    """Return the utterances of a pickle, arrays still in the file.

    A `DataError` says that it is no pickle, an unsafe one, or of another kind; errors inside are in `problems`.
    """
    tree = _tree(path)
    mmsa = "regression_labels" in tree["train"]
    result = Utterances("MMSA pickle" if mmsa else "MulT pickle", aligned=True, text="")
    for name in SPLITS:
        _read_split(result, name, tree[name], "regression_labels" if mmsa else "labels")
    if extra := sorted(set(map(str, tree)) - set(SPLITS)):
        result.notes.append(f"also holds {extra}, which are not read")
    if not result.problems:
        widths = {name: dict(s.widths) for name, s in result.splits.items()}
        result.text = kind_of_width(widths["train"]["text"])
        if any(w != widths["train"] for w in widths.values()):
            result.problems.append(f"feature widths differ between the splits: {widths}")
    return result


def _read_split(result: Utterances, name: str, tree: Mapping[str, Any], label_key: str) -> None:
    if missing := [k for k in (*NAMES.values(), label_key) if k not in tree]:
        result.problems.append(f"{name}: no {missing}; there are {sorted(map(str, tree))}")
        return
    arrays = {k: _array(v) for k, v in tree.items()}
    features = {m: arrays[k] for m, k in NAMES.items()}
    if problems := _problems(arrays, label_key):
        result.problems += [f"{name}{problem}" for problem in problems]
        return
    spans = _spans(result, name, arrays, features)

    def tokens(m: str) -> Iterator[np.ndarray]:
        low, high = spans[m]
        for start, block in blocks(features[m]):
            yield from (x[low[start + i] : high[start + i]] for i, x in enumerate(block))

    size = len(arrays[label_key])
    result.splits[name] = Split(
        widths={m: x.shape[2] for m, x in features.items()},
        lengths={m: high - low for m, (low, high) in spans.items()},
        tokens=tokens,
        labels=arrays[label_key][:].reshape(size).astype(np.float64),
        ids=_ids(arrays.get("id"), name, size),
        texts=_strings(arrays["raw_text"], size, " ") if "raw_text" in arrays else (),
        bert=arrays["text_bert"][:].astype(np.int64) if "text_bert" in arrays else None,
    )
    result.fields[name] = arrays


def _problems(arrays: Mapping[str, np.ndarray | FileArray], label_key: str) -> list[str]:
    """Return reasons why a split cannot be used, each beginning behind the split's name."""
    problems = []
    rows = (*NAMES.values(), label_key, "text_bert", "audio_lengths", "vision_lengths", "id", "raw_text")
    sizes = {k: len(arrays[k]) if arrays[k].shape else 0 for k in rows if k in arrays}
    size = sizes[label_key]
    for key in NAMES.values():
        x = arrays[key]
        if x.ndim != 3 or x.dtype.kind not in "fiu":
            problems.append(f"/{key}: shape {x.shape} {x.dtype}; expected (N, T, D) numbers")
    if wrong := {k: n for k, n in sizes.items() if n != size}:
        problems.append(f": {wrong} rows; {label_key} has {size}")
    if not size:
        problems.append(": no utterances")
    labels = arrays[label_key]
    if math.prod(labels.shape) != size or labels.dtype.kind not in "fiu":
        problems.append(
            f"/{label_key}: shape {labels.shape} {labels.dtype}; expected one number per utterance (MOSI and MOSEI)"
        )
    elif (outside := ~(np.abs(labels[:]) <= 3)).any():
        problems.append(
            f"/{label_key}: {int(outside.sum())} labels are not in [-3, 3], such as {labels[:][outside][:1]}"
        )
    bert = arrays.get("text_bert")
    if bert is not None and (bert.ndim != 3 or bert.shape[1] != 3 or bert.dtype.kind not in "fiu"):
        problems.append(f"/text_bert: shape {bert.shape} {bert.dtype}; expected (N, 3, T): ids, mask, segments")
    return problems


def _spans(
    result: Utterances, name: str, arrays: Mapping[str, np.ndarray | FileArray], features: Mapping[str, Any]
) -> dict[str, Span]:
    """Return the real steps of each modality, in an aligned file the same for all."""
    spans = {m: _span(result, f"{name}/{NAMES[m]}", x) for m, x in features.items()}
    if "text_bert" in arrays:
        mask = arrays["text_bert"][:][:, 1] > 0
        spans["text"] = _masked(result, f"{name}/text_bert", mask, features["text"].shape[1], spans["text"])
    for m in ("audio", "video"):
        key = f"{NAMES[m]}_lengths"
        if key in arrays:
            spans[m] = _as_listed(result, f"{name}/{key}", arrays[key][:], features[m].shape[1], spans[m])
    aligned = len({x.shape[1] for x in features.values()}) == 1 and "audio_lengths" not in arrays
    result.aligned &= aligned
    if not aligned:
        return spans
    # Where a modality is missing its span is empty and says nothing about the beginning.
    high = np.max([last for _, last in spans.values()], axis=0)
    low = np.min([np.where(first < last, first, high) for first, last in spans.values()], axis=0)
    return dict.fromkeys(spans, (low, high))


def _array(value: Any) -> np.ndarray | FileArray:
    """Return an array of a list, as some writers leave it; in memory, unlike arrays."""
    if isinstance(value, (np.ndarray, FileArray)):
        return value
    with suppress(ValueError):  # of rows that differ in length
        # An array of texts would give each the room of the longest.
        return np.asarray(value, None if _is_numeric(value) else object)
    array = np.empty(len(value), object)
    array[:] = [v[:] if isinstance(v, FileArray) else v for v in value]
    return array


def _is_numeric(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return set(map(type, value)) <= {int, float} or all(map(_is_numeric, value))
    return isinstance(value, (int, float)) or getattr(value, "dtype", np.dtype("O")).kind in "biuf"


def string(value: Any) -> str:
    """Return a text, with what is no UTF-8 replaced; long bytes may be numbers that still lie in the file."""
    value = value[:].tobytes() if isinstance(value, (FileArray, np.ndarray)) else value
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return value.encode("utf-8", "replace").decode()


def _ids(array: np.ndarray | FileArray | None, split: str, size: int) -> list[str]:
    if array is None:
        return [f"{split}$_${i}" for i in range(size)]
    return _strings(array, size, "$_$")


def _strings(array: np.ndarray | FileArray, size: int, between: str) -> list[str]:
    """A string per row, of one part or several."""
    return [between.join(map(string, row)) for row in array[:].reshape(size, -1)]


def _span(result: Utterances, name: str, array: np.ndarray | FileArray) -> Span:
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
        result.notes.append(f"{name}: {empty} of {len(array)} utterances hold nothing but zeros")
    if first[some].sum() > (steps - last[some]).sum():
        result.notes.append(f"{name}: padded in front")
        return np.where(some, first, steps), np.full(len(array), steps)
    return np.zeros(len(array), int), last


def _masked(result: Utterances, name: str, mask: np.ndarray, steps: int, span: Span) -> Span:
    length = mask.sum(axis=1)
    if mask.shape[1] != steps or not (mask == (np.arange(steps) < length[:, None])).all():
        result.notes.append(f"{name}: the mask is no run of ones from the first step; text is as long as its features")
        return span
    return np.zeros(len(length), int), length


def _as_listed(result: Utterances, name: str, lengths: np.ndarray, steps: int, span: Span) -> Span:
    low, high = span
    lengths = np.asarray(lengths).reshape(-1)
    if lengths.dtype.kind not in "fiu":
        result.notes.append(f"{name}: no numbers; lengths are taken from the array")
        return span
    if low.any():
        result.notes.append(f"{name}: not used, the array is padded in front")
        return span
    lengths = lengths.astype(np.int64)
    wrong = (lengths < high) | (lengths > steps)
    if wrong.any():
        result.notes.append(
            f"{name}: {int(wrong.sum())} of {len(wrong)} lengths do not fit the array; those are taken from the array"
        )
    return low, np.where(wrong, high, lengths)
