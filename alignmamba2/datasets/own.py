"""Own data: columns of texts, pictures and numbers become the splits of a data set, without a loader of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..encoders.cache import hash_items
from ..storage.files import file_hashes
from .base import Dataset, Mapped, check_choice, similar, splits_of
from .fetch import data_root
from .formats.images import LARGE, SIZE, central, picture_encoder, pixels_of, read_picture
from .raw_modalities import AsTheyAre, RawModality, RawSamples
from .text_tokens import sentence_encoder

SHARES = {"train": 70, "valid": 15, "test": 15}
SPLITS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid"} | {s: s for s in SHARES}
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
ENCODERS = {"text": "minilm", "pictures": "efficientnet-lite0", "numbers": ""}
MOST_CLASSES = 100


def from_arrays(
    *,
    label: Sequence | None = None,
    split: Sequence | None = None,
    group: Sequence | None = None,
    id: Sequence | None = None,
    encoders: Mapping[str, str] | None = None,
    task: str | None = None,
    name: str = "own",
    seed: int = 0,
    say: Callable[[str], object] = print,
    **modalities: Sequence,
) -> dict[str, Dataset]:
    """Return the splits of N samples that are given as columns; `say` is told in one line what was understood.

    Parameters
    ----------
    modalities : N values each, under the name of the modality
        Texts; pictures, as paths, PIL images or uint8 arrays (H, W, 3); or numbers, one token (D,) or several (T, D).
        None, NaN and an empty text are missing; a column of nothing else is left out.
    label : N texts, bools, whole numbers (classes) or floats (regression); None: nothing is split, all is "test"
    split : N of "train", "valid" and "test"; what is not named is drawn from "train", 70 / 15 / 15, class by class
    group : N names of what samples are a part of, such as a speaker; a group is drawn as a whole
    id : N names of the samples, for errors and pictures; default their numbers
    encoders : mapping of modality to encoder; default "minilm" for text, "efficientnet-lite0" for pictures
        It stands inside the model (see `EncoderConfig`). "words" and "patches" need no weights, and learn nothing.
    task : "classification" or "regression", where the labels' type says the other

    Raises
    ------
    ValueError, DataError, ImportError
        Naming column, sample and expectation, or the command that installs an encoder's package.
    """
    columns = {"label": label, "split": split, "group": group, "id": id, **modalities}
    sizes = {key: len(values) for key, values in columns.items() if values is not None}
    if not modalities or len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ValueError(f"columns: found sizes {sizes}; expected a modality at least, and equal sizes, not 0")
    size, named = sizes.popitem()[1], dict(encoders or {})
    if unknown := sorted(named.keys() - modalities.keys()):
        raise ValueError(f"encoders: found {unknown}; the modalities are {list(modalities)}")
    ids = [str(i) for i in (range(size) if id is None else id)]
    groups = [] if group is None else [str(g) for g in group]
    raws, inside, kinds = {}, {}, []
    for m, values in modalities.items():
        raw, kind, encoder = _modality(m, list(values), ids, named.get(m))
        missing = raw.present.count(False)
        kinds.append(f"{m}: {kind}{f' by {encoder}' * bool(encoder)}{f' ({missing} missing)' * bool(missing)}")
        raws |= {m: raw} if missing < size else {}
        inside |= {m: encoder} if missing < size and encoder not in ("", "words", "patches") else {}
    empty = [ids[row] for row in range(size) if not any(raw.present[row] for raw in raws.values())]
    if empty:
        raise ValueError(f"samples {empty[:5]} ({len(empty)}): every modality is missing; leave these rows out")
    classes, labels, names, how = [], [None] * size, np.full(size, "test"), "no labels"
    if label is not None:
        classes, labels = _labels(list(label), ids, task)
        names, how = _splits(split, labels.numpy() if classes else np.zeros(size), groups, seed)
        kinds.append(
            f"{len(classes)} classes: {', '.join(classes[:9])}{', …' * (len(classes) > 9)}" if classes else "regression"
        )
    rows = {s: np.flatnonzero(names == s).tolist() for s in SHARES if s in names}
    parts = " / ".join(f"{len(part)} {s}" for s, part in rows.items())
    description = f"{name}: {parts} ({how}); {'; '.join(kinds)}"
    say(description)
    return splits_of(
        {s: RawSamples(raws, part, labels, ids, groups=groups) for s, part in rows.items()},
        name=name,
        protocol=f"{parts} ({how})",
        description=description,
        synthetic=False,
        classes=classes,
        encoders=inside,
    )


def from_frame(frame: Any, **columns: Any) -> dict[str, Dataset]:
    """Return the splits of a pandas frame: as `from_arrays`, with names of columns in place of their values.

    ``text="review"`` makes the column "review" the modality "text"; a list of columns of numbers is one token.
    """
    return _from_tables({"": frame}, list(frame.columns), {"id": frame.index, **columns})


def from_hf(data: Any, **columns: Any) -> dict[str, Dataset]:
    """Return the splits of a Hugging Face `datasets.Dataset`, or of a dict of them by split; as `from_frame`.

    Labels of its type `ClassLabel` get their names. Nothing is imported: anything with `column_names` will do.
    """
    parts = dict(data) if isinstance(data, Mapping) else {"": data}
    first = next(iter(parts.values()))
    if len(parts) > 1:
        columns.setdefault("split", [s for s, part in parts.items() for _ in range(len(part))])
    label = (getattr(first, "features", None) or {}).get(columns.get("label"))
    return _from_tables(parts, first.column_names, columns, getattr(label, "names", None))


def _from_tables(
    parts: Mapping[str, Any], known: Sequence[str], columns: Mapping[str, Any], classes: Sequence[str] | None = None
) -> dict[str, Dataset]:
    """The splits of tables with the same columns, one below the other; `classes` names the labels 0, 1, …"""
    values = dict(columns)
    for key, names in columns.items():
        several = isinstance(names, list) and key not in ("split", "group", "id")
        if key in ("encoders", "task", "name", "seed", "say") or not (several or isinstance(names, str)):
            continue
        for c in names if several else [names]:
            if c not in known:
                raise ValueError(f"{key}: no column {c!r}; the columns are {list(known)}{similar(c, known)}")
        tables = (zip(*(part[c] for c in names), strict=True) if several else part[names] for part in parts.values())
        values[key] = [value for table in tables for value in table]
    if classes:
        values["label"] = [classes[k] for k in values["label"]]
    return from_arrays(**values)


def _modality(m: str, values: list, ids: Sequence[str], encoder: str | None) -> tuple[RawModality, str, str]:
    """A modality, with the kind of its values, "text", "pictures" or "numbers", and the name of its encoder."""
    kinds = ["" if _is_missing(value) else _kind(value) for value in values]
    present, kind = [bool(k) for k in kinds], next(filter(None, kinds), "left out")
    for row, other in enumerate(kinds):
        if other not in ("", kind):
            raise ValueError(f"{m}, sample {ids[row]!r}: found {other}; the values before it are {kind}")
    cache, encoder = data_root() / "cache", encoder or ENCODERS.get(kind, "")
    if kind == "text":
        texts = [str(value) if is_there else "" for value, is_there in zip(values, present, strict=True)]
        words = sentence_encoder(encoder, encoder == "words")
        words.pieces("a")  # an encoder that is not installed is named now, not in training
        raw = RawModality(texts, present, "words", hash_items(texts), lambda: words, cache, names=words.pieces)
    elif kind == "pictures":
        paths = {row: Path(v) for row, v in enumerate(values) if present[row] and isinstance(v, (str, Path))}
        for row, path in paths.items():
            if not path.is_file():
                raise ValueError(
                    f"{m}, sample {ids[row]!r}: {path} not found; expected a file, or None without a picture"
                )
        hashes = dict(zip(paths, file_hashes(list(paths.values()), cache), strict=True))
        key = hash_items(hashes.get(row) or _picture(v) if present[row] else "" for row, v in enumerate(values))
        side = SIZE if encoder == "patches" else LARGE
        items = Mapped(values, lambda value: central(_picture(value), side))
        named = partial(picture_encoder, encoder, encode=encoder == "patches")
        raw = RawModality(items, present, "pixels", f"own {key}", named, cache)
    else:
        tokens = [_numbers(f"{m}, sample {i!r}", v) if k else None for v, k, i in zip(values, kinds, ids, strict=True)]
        first = present.index(True) if any(present) else 0
        for i, x in zip(ids, tokens, strict=True):
            if x is not None and x.shape[1] != tokens[first].shape[1]:
                found, expected = x.shape[1], tokens[first].shape[1]
                raise ValueError(f"{m}, sample {i!r}: found width {found}; sample {ids[first]!r} has {expected}")
        raw = RawModality(tokens, present, "numbers", "", AsTheyAre, cache)
    return raw, kind, encoder


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Sequence) and not value)


def _kind(value: Any) -> str:
    if isinstance(value, (str, Path)):
        return "pictures" if Path(value).suffix.lower() in SUFFIXES else "text"
    pixels = getattr(value, "dtype", None) == np.uint8 and value.ndim == 3 and value.shape[2] == 3
    return "pictures" if pixels or isinstance(value, Image.Image) else "numbers"


def _picture(value: Any) -> np.ndarray:
    if isinstance(value, (str, Path)):
        return read_picture(Path(value))
    return pixels_of(value) if isinstance(value, Image.Image) else np.asarray(value)


def _numbers(place: str, value: Any) -> torch.Tensor:
    """Tokens (T, D) float32; (D,) is one token."""
    try:
        x = np.atleast_2d(np.array(value, dtype=np.float32))
        if x.ndim > 2 or not np.isfinite(x).all():
            raise ValueError(f"shape {x.shape}, {np.isfinite(x).mean():.0%} finite")
    except (TypeError, ValueError, RuntimeError) as error:
        problem = f"found {type(value).__name__} ({error}); expected text, a picture, or finite numbers (D,) or (T, D)"
        raise ValueError(f"{place}: {problem}") from None
    return torch.from_numpy(x)


def _labels(values: list, ids: Sequence[str], task: str | None) -> tuple[list[str], torch.Tensor]:
    """Names of the classes, none for regression, and the labels (N,)."""
    if missing := [i for i, value in zip(ids, values, strict=True) if _is_missing(value)]:
        raise ValueError(f"label: missing in {len(missing)} samples, such as {missing[:3]}; leave these rows out")
    check_choice("task", task, (None, "classification", "regression"))
    try:
        array = np.array(values)
        if array.ndim != 1 or array.dtype.kind not in "iufbUS":
            raise ValueError(f"found {type(values[0]).__name__}")
        classes, places = np.unique(array, return_inverse=True)
        many = array.dtype.kind == "f" or (array.dtype.kind in "iu" and len(classes) > MOST_CLASSES)
        if task == "regression" or (task is None and many):
            return [], torch.from_numpy(array.astype(np.float32))
    except ValueError as error:
        raise ValueError(f"label: {error}; expected one text, bool or number per sample") from None
    return [str(c).replace(", ", "/") for c in classes], torch.from_numpy(places)


def _splits(split: Sequence | None, kinds: np.ndarray, groups: Sequence[str], seed: int) -> tuple[np.ndarray, str]:
    """The split of each sample, and in words where it is from; `kinds` are drawn in equal shares."""
    from .mvsa import split_by_class

    words = ["train"] * len(kinds) if split is None else [str(s).strip().lower() for s in split]
    if unknown := sorted(set(words) - SPLITS.keys()):
        raise ValueError(f"split: found {unknown[:5]}; expected train, valid and test")
    names = np.array([SPLITS[word] for word in words])
    drawn, rows = [s for s in SHARES if s not in names[:]], np.flatnonzero(names == "train")
    if drawn and len(rows):
        units, first, place = np.unique(
            [groups[r] for r in rows] if groups else rows, return_index=True, return_inverse=True
        )
        shares = [n * (s == "train" or s in drawn) for s, n in SHARES.items()]
        parts = split_by_class(np.zeros(len(units)) if groups else kinds[rows][first], shares, seed)
        names[rows] = np.array(parts)[place]
    if absent := [s for s in SHARES if s not in names]:
        raise ValueError(f"split: no sample is left for {absent}; expected at least a few of 'train' to draw from")
    return names, f"{' and '.join(drawn)} drawn with seed {seed}" if drawn else "as given"
