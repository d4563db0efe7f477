"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK has them: a folder of `.csd` files, one a feature, of whole videos.

A `.csd` is HDF5: `/<root>/data/<video>/{features (T, D), intervals (T, 2) in seconds}` and `/<root>/metadata/<key>`,
JSON in a string. The root's name need not be the file's, so it is the first key. Needed, and told apart by what they
hold:

    words       features are byte strings, one a word; `sp` is a pause and left out
    labels      features (K, ≥ 1), K utterances of the video; the first column is the sentiment in [-3, 3]
    text        word vectors (GloVe, 300)
    audio       such as COVAREP (74)
    video       such as FACET (35 or 47) or OpenFace (713)

An utterance is what lies within a label's interval; its id is `video[k]`. Words are those that overlap it. Aligned, a
step is a word, and its sound and face are the means of the frames that overlap the word, 0 where there are none, which
is what the SDK's examples do. Unaligned, sound and face keep their frames, and each frame knows the word in whose time
its middle lies: true correspondences, in `Sample.partners`. A file is read a video at a time.

The files do not say which videos train and which test. Give `folds`: a JSON file {"train": [videos], "valid": …,
"test": …}, the SDK's own `cmu_mosi_std_folds.py` (read, not run), or an MMSA or MulT pickle of the same data set, whose
ids tell.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base import DataError
from ..contents import Field
from ..store import Split
from .hdf5 import reading
from .mosi_pickles import SPLITS, TEXTS, Utterances, video_of
from .mosi_pickles import read as read_pickle_splits

ROLES = ("words", "labels", "text", "audio", "video")
PAUSE = "sp"
# Parts of a feature's name that say what it is, where its shape does not.
HINTS = {
    "labels": ("label", "opinion"),
    "audio": ("covarep", "opensmile", "acoustic", "audio"),
    "video": ("facet", "openface", "visual", "vision", "video"),
    "text": ("vector", "glove"),
}
EPSILON = 1e-5  # seconds: overlaps below this are rounding
FOLDS = "folds.json"


def is_csd_folder(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.csd"))


class Csd:
    """One `.csd` file: its videos, each read when it is asked for.

    Attributes
    ----------
    path : Path
    root : the name of its first group
    videos : list of str
    width : D
    """

    def __init__(self, path: Path):
        self.path = path
        with self._reading() as file:
            self.root = next(iter(file))
            self.videos = list(file[self.root]["data"])
            first = file[self.root]["data"][self.videos[0]]["features"]
            self.width, self.dtype = (1 if first.ndim == 1 else first.shape[1]), first.dtype

    def _reading(self):
        return reading(self.path, "a .csd with <root>/data/<video>/features and intervals")

    def intervals(self, video: str) -> np.ndarray:
        """(T, 2) float64, seconds."""
        with self._reading() as file:
            group = file[self.root]["data"][video]
            intervals = group["intervals"][()].astype(np.float64)
            if intervals.shape != (len(group["features"]), 2) or not np.isfinite(intervals).all():
                raise ValueError(f"{video}: intervals {intervals.shape} for features {group['features'].shape}")
            return intervals

    def features(self, video: str) -> np.ndarray:
        """(T, D) of the file's type."""
        with self._reading() as file:
            features = file[self.root]["data"][video]["features"][()]
        return features[:, None] if features.ndim == 1 else features

    def metadata(self) -> dict[str, object]:
        """What the file says about itself."""
        with self._reading() as file:
            entries = file[self.root].get("metadata", {})
            return {key: json.loads(np.asarray(entry[()]).reshape(-1)[0]) for key, entry in entries.items()}


@dataclass(frozen=True)
class _Utterance:
    """Where an utterance lies: its video, its interval (2,), its words and their times (W, 2)."""

    video: str
    span: np.ndarray
    words: list[str]
    times: np.ndarray


def read(folder: Path, folds: str | Path | None = None, aligned: bool = True) -> Utterances:
    """What a folder of `.csd` files holds, as utterances in folds.

    Raises
    ------
    DataError
        A file is broken or missing, or the folds are not known; the message names the file and says what to do.
    """
    files = _files(folder)
    found = Utterances("CSD folder", aligned, kind_of_text(folder))
    videos = sorted(set.intersection(*(set(f.videos) for f in files.values())))
    everywhere = set().union(*(f.videos for f in files.values()))
    if left := sorted(everywhere - set(videos)):
        found.notes.append(f"{len(left)} videos are not in every file and are left out, such as {left[0]}")
    for split, members in _folds(Path(folds) if folds else folder / FOLDS, videos, found).items():
        _build(found, split, [v for v in videos if v in members], files)
    return found


def kind_of_text(folder: Path) -> str:
    """ "glove", or such as "100-d"."""
    width = _files(folder)["text"].width
    return TEXTS.get(width, f"{width}-d")


def _files(folder: Path) -> dict[str, Csd]:
    """The five files, by what they are."""
    found: dict[str, Csd] = {}
    for path in sorted(folder.glob("*.csd")):
        file = Csd(path)
        role = _role(file)
        if role in found:
            raise DataError(
                f"{folder}: both {found[role].path.name} and {path.name} hold {role}; leave one of them there"
            )
        if role:
            found[role] = file
    if missing := [r for r in ROLES if r not in found]:
        raise DataError(
            f"{folder}: no .csd of {missing}; found { {r: f.path.name for r, f in found.items()} }. Needed are words, "
            "labels, word vectors, sound and face: see data/README.md"
        )
    return found


def _role(file: Csd) -> str | None:
    name = f"{file.path.stem} {file.root}".lower()
    if file.dtype.kind in "SO":
        return None if "phone" in name else "words"
    roles = [role for role, hints in HINTS.items() if any(hint in name for hint in hints)]
    return roles[0] if roles else {300: "text"}.get(file.width)


def _folds(path: Path, videos: list[str], found: Utterances) -> Mapping[str, set[str]]:
    if not path.is_file():
        raise DataError(
            f"{path}: not found. The .csd files do not say which videos train and which test; give folds=FILE: a JSON "
            '{"train": [videos], "valid": …, "test": …}, the SDK\'s cmu_mosi_std_folds.py, or an MMSA or MulT pickle'
        )
    if path.suffix in (".pkl", ".pickle"):
        other = read_pickle_splits(path)
        named = {} if other is None else {s: {video_of(i) for i in part.ids} for s, part in other.splits.items()}
    else:
        named = _fold_lists(path)
    if set(named) != set(SPLITS):
        raise DataError(f"{path}: found lists of {sorted(named)}; expected {', '.join(SPLITS)}")
    sizes = " / ".join(str(len(named[s] & set(videos))) for s in SPLITS)
    found.notes.append(f"folds of {path.name}: {sizes} videos")
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if both := named[a] & named[b]:
            found.problems.append(f"{path.name}: {len(both)} videos are in both {a} and {b}, such as {min(both)}")
    if left := sorted(set(videos) - set.union(*named.values())):
        found.notes.append(f"{len(left)} videos are in no fold and are left out, such as {left[0]}")
    return {s: named[s] for s in SPLITS}


def _fold_lists(path: Path) -> dict[str, set[str]]:
    try:
        text = path.read_text("utf-8")
        if path.suffix != ".py":
            return {str(k): set(map(str, v)) for k, v in json.loads(text).items()}
        lists = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        return {s: set(v) for s in SPLITS for name, v in lists.items() if s in name and "fold" in name}
    except (OSError, ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no readable lists of videos ({error})") from error


def _overlaps(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """Which intervals (T, 2) have more than EPSILON seconds in common with [start, end]."""
    return np.minimum(intervals[:, 1], end) - np.maximum(intervals[:, 0], start) > EPSILON


def _utterances(files: dict[str, Csd], video: str) -> Iterator[tuple[int, float, _Utterance]]:
    said, times = files["words"].features(video)[:, 0], files["words"].intervals(video)
    text = [w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in said]
    spoken = np.array([w != PAUSE for w in text], bool)
    values, spans = files["labels"].features(video), files["labels"].intervals(video)
    for k, (value, span) in enumerate(zip(values, spans, strict=True)):
        rows = np.flatnonzero(_overlaps(times, *span) & spoken)
        yield k, float(value[0]), _Utterance(video, span, [text[i] for i in rows], times[rows])


def _build(found: Utterances, split: str, videos: list[str], files: dict[str, Csd]) -> None:
    kept: list[_Utterance] = []
    ids, labels = [], []
    lengths: dict[str, list[int]] = {"text": [], "audio": [], "video": []}
    partners: dict[str, list[np.ndarray]] = {"audio": [], "video": []}
    silent = outside = 0
    for video in videos:
        at = {m: files[m].intervals(video) for m in partners}
        for k, label, utterance in _utterances(files, video):
            silent += not utterance.words
            outside += not abs(label) <= 3
            if not utterance.words:
                continue
            kept.append(utterance)
            ids.append(f"{video}[{k}]")
            labels.append(label)
            lengths["text"].append(len(utterance.words))
            for m, times in at.items():
                near = times[_overlaps(times, *utterance.span)]
                partners[m].append(_partners(near, utterance.times))
                lengths[m].append(len(utterance.words) if found.aligned else len(near))
    if silent:
        found.notes.append(f"{split}: {silent} labelled intervals without a word are left out")
    if outside:
        found.problems.append(f"{split}: {outside} labels are not in [-3, 3]")
    if not ids:
        found.problems.append(f"{split}: no utterances; do the folds name videos of these files?")
        return

    def tokens(m: str) -> Iterator[np.ndarray]:
        video = frames = at = None
        for utterance in kept:
            if utterance.video != video:
                video = utterance.video
                frames, at = files[m].features(video), files[m].intervals(video)
            if found.aligned or m == "text":
                yield _means(frames, at, utterance.times)
            else:
                yield frames[_overlaps(at, *utterance.span)]

    found.splits[split] = Split(
        widths={m: files[m].width for m in lengths},
        lengths={m: np.array(n) for m, n in lengths.items()},
        tokens=tokens,
        labels=np.array(labels),
        ids=ids,
        texts=[" ".join(u.words) for u in kept],
        partners={} if found.aligned else {m: np.concatenate(p) for m, p in partners.items()},
    )
    found.fields[split] = {m: _field(found.splits[split], m) for m in lengths}


def _field(split: Split, m: str) -> Field:
    nan = infinite = 0
    for x in split.tokens(m):
        nan, infinite = nan + int(np.isnan(x).sum()), infinite + int(np.isinf(x).sum())
    return Field((len(split.ids), int(split.lengths[m].max()), split.widths[m]), "float", nan, infinite)


def _partners(frames: np.ndarray, words: np.ndarray) -> np.ndarray:
    """For each frame (T, 2), the word (W, 2) in whose time its middle lies, −1 for none."""
    middle = frames.mean(axis=1)[:, None]
    within = (words[:, 0] <= middle) & (middle < words[:, 1])
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def _means(frames: np.ndarray, at: np.ndarray, words: np.ndarray) -> np.ndarray:
    """For each word (W, 2), the mean (W, D) of the frames (T, D) that overlap it; what is no number stays so."""
    result = np.zeros((len(words), frames.shape[1]))
    with np.errstate(invalid="ignore"):
        for row, (start, end) in zip(result, words, strict=True):
            near = _overlaps(at, start, end)
            if near.any():
                row[:] = frames[near].mean(axis=0)
    return result
