"""Own data: columns of texts, pictures and numbers become the splits of a data set, without a loader of their own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..encoders.cache import hash_items
from ..encoders.text import sentence_encoder
from .base import Dataset, Mapped, similar, splits_of
from .fetch import data_root
from .formats.images import LARGE, SIZE, central, picture_encoder, pixels_of, read_picture
from .labels import is_missing, read_labels
from .mvsa import split_by_class
from .raw_modalities import AsTheyAre, RawModality, RawSamples

SHARES = {"train": 70, "valid": 15, "test": 15}
SPLITS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid"} | {s: s for s in SHARES}
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SETTINGS = ("encoders", "task", "steps", "label_names", "name", "seed", "say")  # no names of columns
ENCODERS = {"text": "minilm", "pictures": "efficientnet-lite0"}


def from_arrays(
    *,
    label: Sequence | None = None,
    split: Sequence | None = None,
    group: Sequence | None = None,
    id: Sequence | None = None,
    encoders: Mapping[str, str] | None = None,
    task: str | None = None,
    steps: str = "",
    label_names: Sequence[str] = (),
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
    label : N texts, bools, whole numbers (classes) or floats (regression); or N rows of K numbers, 0 and 1 alone
        (multilabel) or others (multitarget), or N lists of names (multilabel). None and NaN are not known, and count
        neither in the loss nor in metrics. Without a column of labels nothing is split, all is "test"
    split : N of "train", "valid" and "test"; what is not named is drawn from "train", 70 / 15 / 15, class by class
    group, id : N names, of what samples are a part of, such as a speaker, drawn as a whole; and of the samples
    encoders : mapping of modality to encoder; default "minilm" for text, "efficientnet-lite0" for pictures
        It stands inside the model (see `EncoderConfig`). "words" and "patches" need no weights, and learn nothing.
    task : "classification", "regression", "multilabel" or "multitarget", where the labels' type says another
    steps : a modality of numbers, whose tokens have a label each: `label` is N rows of as many as there are tokens
    label_names : names of several labels or targets

    Raises
    ------
    ValueError, ImportError
        Naming column, sample and expectation, or the command that installs an encoder's package.
    """
    columns = {"label": label, "split": split, "group": group, "id": id, **modalities}
    sizes = {key: len(values) for key, values in columns.items() if values is not None}
    if not modalities or len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ValueError(f"columns: found sizes {sizes}; expected a modality at least, and equal sizes, not 0")
    size, wanted = sizes.popitem()[1], dict(encoders or {})
    if unknown := sorted(wanted.keys() - modalities.keys()):
        raise ValueError(f"encoders: found {unknown}; the modalities are {list(modalities)}")
    ids = [str(i) for i in (range(size) if id is None else id)]
    groups = [str(g) for g in (() if group is None else group)]
    raws, inside, told = {}, {}, []
    for m, values in modalities.items():
        raw, kind, encoder = _modality(m, values, ids, wanted.get(m))
        by, missing = f" by {encoder}" if encoder else "", raw.present.count(False)
        told.append(f"{m}: {kind or 'left out'}{by}{f' ({missing} missing)' if missing else ''}")
        raws |= {m: raw} if kind else {}
        inside |= {m: encoder} if encoder not in ("", "words", "patches") else {}
    if empty := [i for row, i in enumerate(ids) if not any(raw.present[row] for raw in raws.values())]:
        raise ValueError(f"samples {empty[:5]} ({len(empty)}): every modality is missing; leave these rows out")
    labels, fields, names, how = [None] * size, {}, np.full(size, "test"), "no labels"
    if label is not None:
        task, classes, labels, kinds, said = read_labels(label, ids, task, steps, label_names)
        _check_steps(steps, raws.get(steps), labels, ids)
        names, how = _splits(split, kinds, groups, seed)
        fields = {"task": task, "classes": classes}
        told.append(said)
    rows = {s: np.flatnonzero(names == s).tolist() for s in SHARES if s in names}
    parts = " / ".join(f"{len(part)} {s}" for s, part in rows.items())
    description = f"{name}: {parts} ({how}); {'; '.join(told)}"
    say(description)
    samples = {s: RawSamples(raws, part, labels, ids, groups=groups) for s, part in rows.items()}
    fields |= {"name": name, "protocol": f"{parts} ({how})", "description": description, "synthetic": False}
    fields |= {"readout": "anchor_steps", "anchor": steps} if steps else {}
    return splits_of(samples, encoders=inside, **fields)


def from_frame(frame: Any, **columns: Any) -> dict[str, Dataset]:
    """Return the splits of a pandas frame: as `from_arrays`, with names of columns in place of their values.

    ``text="review"`` makes the column "review" the modality "text"; a list of columns of numbers is one token.
    """
    return _from_tables({"": frame}, list(frame.columns), {"id": frame.index, **columns})


def from_hf(data: Any, **columns: Any) -> dict[str, Dataset]:
    """Return the splits of a Hugging Face `datasets.Dataset`, or of a dict of them by split; as `from_frame`.

    Labels of its type `ClassLabel`, or lists of it, get their names; −1, its sign for none, is not known. Nothing is
    imported: anything with `column_names` will do.
    """
    parts = dict(data) if isinstance(data, Mapping) else {"": data}
    first = next(iter(parts.values()))
    if len(parts) > 1:
        columns.setdefault("split", [s for s, part in parts.items() for _ in range(len(part))])
    label = columns.get("label")
    kind = (getattr(first, "features", None) or {}).get(label) if isinstance(label, str) else None
    kind = getattr(kind, "feature", kind)  # of a list
    return _from_tables(parts, first.column_names, columns, getattr(kind, "names", None))


def _from_tables(
    parts: Mapping[str, Any], known: Sequence[str], columns: Mapping[str, Any], classes: Sequence[str] | None = None
) -> dict[str, Dataset]:
    """The splits of tables with the same columns, one below the other; `classes` names the labels 0, 1, …"""
    values = dict(columns)
    for key, names in columns.items():
        several = isinstance(names, list) and key not in ("split", "group", "id")
        if key == "label" and several:  # names of columns, or labels
            several = bool(names) and set(map(type, names)) == {str} and not set(names).isdisjoint(known)
            values |= {"label_names": names} if several else {}
        if key in SETTINGS or not (several or isinstance(names, str)):
            continue
        if unknown := [c for c in (names if several else [names]) if c not in known]:
            raise ValueError(f"{key}: no column {unknown[0]!r}; there are {list(known)}{similar(unknown[0], known)}")
        tables = (zip(*(part[c] for c in names), strict=True) if several else part[names] for part in parts.values())
        values[key] = [value for table in tables for value in table]
    if classes:
        values["label"] = [_named(k, classes) for k in values["label"]]
    return from_arrays(**values)


def _named(k: Any, classes: Sequence[str]) -> Any:
    """The name of a class, the names of several, or None of −1."""
    if np.ndim(k):
        return [classes[i] for i in k]
    return None if is_missing(k) or k < 0 else classes[k]


def _modality(m: str, values: Sequence, ids: Sequence[str], encoder: str | None) -> tuple[RawModality, str, str]:
    """A modality, with the kind of its values, "" if all are missing, and the name of its encoder."""
    items, kinds, first, cache = [], [], {}, data_root() / "cache"
    for i, value in zip(ids, values, strict=True):
        try:
            kind, item = _read(value)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"{m}, sample {i!r}: found {type(value).__name__}: {error}") from None
        items.append(item)
        kinds.append(kind)
        first |= {kind: i} if kind and kind not in first else {}
    if len(first) > 1:
        found = " and ".join(f"{kind} (sample {i!r})" for kind, i in first.items())
        raise ValueError(f"{m}: found {found}; expected one kind of values, or None for what is missing")
    kind, present = next(iter(first), ""), [bool(kind) for kind in kinds]
    encoder = (encoder or ENCODERS.get(kind, "")) if kind in ENCODERS else ""
    if kind == "text":
        words = sentence_encoder(encoder, encoder == "words")
        words.pieces("a")  # an encoder that is not installed is named now, not in training
        raw = RawModality(items, present, "words", hash_items(items), lambda: words, cache, names=words.pieces)
    elif kind == "pictures":
        plain = encoder == "patches"
        key = f"own {hash_items(map(_content, items))}"
        seen = Mapped(items, lambda item: central(_pixels(item), SIZE if plain else LARGE))
        named = partial(picture_encoder, encoder, encode=plain)
        raw = RawModality(seen, present, "pixels", key, named, cache)
    else:
        raw = RawModality(items, present, "numbers", "", AsTheyAre, cache)
    return raw, kind, encoder


def _read(value: Any) -> tuple[str, Any]:
    """The kind of a value, "" if it is missing, and the value as it is kept: numbers as tokens (T, D) float32."""
    if is_missing(value):
        return "", ""
    if isinstance(value, (str, Path)):
        is_file = Path(value).suffix.lower() in SUFFIXES and Path(value).is_file()
        if not is_file and (Path(value).suffix.lower() not in SUFFIXES or len(str(value).split()) > 1):
            return "text", str(value)
        if not is_file:
            raise ValueError(f"{value}, which is not there; expected a picture's file, or None where there is none")
        return "pictures", Path(value)
    if isinstance(value, Image.Image) or (getattr(value, "dtype", 0) == np.uint8 and np.shape(value)[2:] == (3,)):
        return "pictures", value
    x = np.atleast_2d(np.array(value, dtype=np.float32))
    if x.ndim > 2 or not np.isfinite(x).all():
        raise ValueError(f"shape {x.shape}, {np.isfinite(x).mean():.0%} finite; expected finite numbers (D,) or (T, D)")
    return f"{x.shape[1]} numbers" if x.size else "", torch.from_numpy(x)


def _content(item: Any) -> np.ndarray | str:
    """The content that a picture is told apart by: its file's bytes, or its pixels; "" of a missing one."""
    if isinstance(item, Path):
        return np.fromfile(item, np.uint8)
    return item if isinstance(item, str) else _pixels(item)


def _pixels(item: Any) -> np.ndarray:
    if isinstance(item, Path):
        return read_picture(item)
    return pixels_of(item) if isinstance(item, Image.Image) else np.asarray(item)


def _check_steps(steps: str, raw: RawModality | None, labels: Sequence, ids: Sequence[str]) -> None:
    """Refuse labels per step that are not as many as the tokens of the modality."""
    if steps and (raw is None or raw.level != "numbers"):
        raise ValueError(f"steps: found {steps!r}; expected a modality of numbers")
    for i, label, tokens in zip(ids, labels, raw.items, strict=True) if steps else ():
        if label is not None and len(label) != len(tokens):
            raise ValueError(f"label, sample {i!r}: found {len(label)}; {steps} has {len(tokens)} tokens")


def _splits(split: Sequence | None, kinds: np.ndarray, groups: Sequence[str], seed: int) -> tuple[np.ndarray, str]:
    """The split of each sample, and in words where it is from; `kinds` are drawn in equal shares."""
    words = ["train"] * len(kinds) if split is None else [str(s).strip().lower() for s in split]
    if unknown := sorted(set(words) - SPLITS.keys()):
        raise ValueError(f"split: found {unknown[:5]}; expected train, valid and test")
    names = np.array([SPLITS[word] for word in words])
    drawn, rows = [s for s in SHARES if s not in names], np.flatnonzero(names == "train")
    if drawn and len(rows):
        _, first, place = np.unique(np.array(groups)[rows] if groups else rows, return_index=True, return_inverse=True)
        shares = [n * (s == "train" or s in drawn) for s, n in SHARES.items()]
        names[rows] = np.array(split_by_class(kinds[rows][first] * (not groups), shares, seed))[place]
    if absent := [s for s in SHARES if s not in names]:
        raise ValueError(f"split: no sample is left for {absent}; expected at least a few of 'train' to draw from")
    return names, f"{' and '.join(drawn)} drawn with seed {seed}" if drawn else "as given"
