"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK has them: a folder of `.csd` files, one per feature, of whole videos.

A `.csd` is HDF5: `/<root>/data/<video>/{features (T, D), intervals (T, 2) in seconds}` and `/<root>/metadata/<key>`,
JSON in a string. The root's name need not be the file's, so it is the first key. Five files are needed, told apart by
what they hold:

    words       features are byte strings, one per word; `sp` is a pause and left out
    labels      features (K, ≥ 1), K utterances of the video; the first column is the sentiment in [-3, 3]
    text        word vectors (GloVe, 300)
    audio       such as COVAREP (74)
    video       such as FACET (35 or 47) or OpenFace (713)

An utterance is a label's interval; its id is `video[k]`. Its words are those that overlap the interval. Aligned, a step
is a word, and its sound and face are the means of the frames that overlap the word, 0 if there are none, as in the
SDK's examples. Unaligned, sound and face keep their frames, and `Sample.partners` has the word during which the middle
of each frame lies. Files are read video by video.

The files do not say which videos train and which test; `folds` does (see data/README.md#mosi-and-mosei).
"""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.files import plain_errors, read_plain
from ..base import DataError
from ..contents import Field
from ..store import Split, video_of
from .hdf5 import reading, values
from .mosi_pickles import SPLITS, Utterances, kind_of_width
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
WORK = 1 << 26  # pairs of intervals that are compared for a video
FOLDS = "folds.json"


def is_csd_folder(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.csd"))


class Csd:
    """Csd is one `.csd` file: its first group's name, its videos, and the width and type of their features."""

    def __init__(self, path: Path):
        self.path = path
        with self._reading() as file:
            self.root = next(iter(file))
            self.videos = list(file[self.root]["data"])
            features = ((video, file[self.root]["data"][video]["features"]) for video in self.videos)
            self.first, first = next(((v, x) for v, x in features if len(x)), ("", None))
            if first is None:
                raise ValueError("no video has features")
            if first.dtype.kind not in "fiuSO":
                raise DataError(f"{self.path}: {self.first}: features of type {first.dtype}; expected numbers or words")
            self.width, self.dtype = (1 if first.ndim == 1 else first.shape[1]), first.dtype

    def _reading(self):
        return reading(self.path, "a .csd with <root>/data/<video>/features and intervals")

    def read(self, video: str) -> tuple[np.ndarray, np.ndarray]:
        """Return features (T, D) of the file's type and intervals (T, 2) float64 in seconds; a video may have T = 0."""
        with self._reading() as file:
            group = file[self.root]["data"][video]
            features, intervals = (values(self.path, group[name]) for name in ("features", "intervals"))
            intervals = intervals.astype(np.float64)
            if features.ndim == 1 or not len(features):  # without frames, a file may say (0,)
                features = features.reshape(len(features), 1 if len(features) else self.width)
            if not len(intervals):
                intervals = intervals.reshape(0, 2)
        wrong_kind = len(features) and (features.dtype.kind in "fiu") != (self.dtype.kind in "fiu")
        if features.ndim != 2 or features.shape[1] != self.width or wrong_kind:
            reason = (
                f"features {features.shape} {features.dtype}; those of {self.first} are (T, {self.width}) {self.dtype}"
            )
        elif intervals.shape != (len(features), 2):
            reason = f"intervals {intervals.shape}; features {features.shape}"
        elif wrong := int((~np.isfinite(intervals)).sum()):
            reason = f"{wrong} of its intervals' times are NaN or infinite"
        else:
            return features, intervals
        raise DataError(f"{self.path}: {video}: {reason}")

    def during(self, video: str, times: np.ndarray, spans: np.ndarray) -> list[np.ndarray]:
        """Return, per span (K, 2), the rows of the times (T, 2) that overlap it; refuse more than a video can have."""
        if len(spans) * (len(times) + 1000) > WORK:
            raise DataError(f"{self.path}: {video}: {len(times)} rows for {len(spans)} intervals; no video has so many")
        rows = [np.flatnonzero(_overlaps(times, *span)) for span in spans]
        if sum(map(len, rows)) > 8 * len(times) + 1000:
            raise DataError(f"{self.path}: {video}: its labelled intervals overlap each other many times over")
        return rows


@dataclass(frozen=True)
class _Utterance:
    """An utterance's place and content: id, video, label, interval (2,), words and their times (W, 2)."""

    id: str
    video: str
    label: float
    span: np.ndarray
    words: list[str]
    times: np.ndarray


def read(folder: Path, folds: str | Path | None = None, aligned: bool = True) -> Utterances:
    """Read a folder of `.csd` files as utterances in folds.

    A `DataError` names a file that is broken or missing, or says how to give the folds.
    """
    files = _files(folder)
    result = Utterances("CSD folder", aligned, kind_of_text(folder))
    for file in files.values():
        if not set(file.videos) & set(files["labels"].videos):
            raise DataError(
                f"{file.path}: has {file.videos[0]!r}, and none of the videos of {files['labels'].path.name}, such as "
                f"{files['labels'].videos[0]!r}; expected features of whole videos by the videos' names"
            )
    videos = sorted(set.intersection(*(set(f.videos) for f in files.values())))
    if left := sorted(set().union(*(f.videos for f in files.values())) - set(videos)):
        result.notes.append(f"{len(left)} videos are not in every file and are left out, such as {left[0]}")
    for split, members in _folds(Path(folds) if folds else folder / FOLDS, videos, result).items():
        _build(result, split, [v for v in videos if v in members], files)
    return result


def kind_of_text(folder: Path) -> str:
    """Return "glove", or such as "100-d"."""
    return kind_of_width(_files(folder)["text"].width)


def _files(folder: Path) -> dict[str, Csd]:
    files: dict[str, Csd] = {}
    for file in map(Csd, sorted(folder.glob("*.csd"))):
        role = _role(file)
        if role in files:
            names = f"{files[role].path.name} and {file.path.name}"
            raise DataError(f"{folder}: both {names} hold {role}; leave one of them there")
        if role:
            files[role] = file
    if missing := [r for r in ROLES if r not in files]:
        raise DataError(
            f"{folder}: no .csd of {missing}; found { {r: f.path.name for r, f in files.items()} }. Needed are words, "
            "labels, word vectors, sound and face: see data/README.md"
        )
    return files


def _role(file: Csd) -> str | None:
    name = f"{file.path.stem} {file.root}".lower()
    if file.dtype.kind in "SO":
        return None if "phone" in name else "words"
    roles = [role for role, hints in HINTS.items() if any(hint in name for hint in hints)]
    return roles[0] if roles else {300: "text"}.get(file.width)


def _folds(path: Path, videos: list[str], result: Utterances) -> Mapping[str, set[str]]:
    if not path.is_file():
        raise DataError(
            f"{path}: not found. The .csd files do not say which videos train and which test; give folds=FILE: a JSON "
            '{"train": [videos], "valid": …, "test": …}, the SDK\'s cmu_mosi_std_folds.py, or an MMSA or MulT pickle'
        )
    if path.suffix in (".pkl", ".pickle"):
        named = {s: {video_of(i) for i in part.ids} for s, part in read_pickle_splits(path).splits.items()}
    else:
        named = fold_lists(path)
    if set(named) != set(SPLITS):
        raise DataError(f"{path}: found lists of {sorted(named)}; expected {', '.join(SPLITS)}")
    sizes = " / ".join(str(len(named[s] & set(videos))) for s in SPLITS)
    result.notes.append(f"folds of {path.name}: {sizes} videos")
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if both := named[a] & named[b]:
            result.problems.append(f"{path.name}: {len(both)} videos are in both {a} and {b}, such as {min(both)}")
    if left := sorted(set(videos) - set.union(*named.values())):
        result.notes.append(f"{len(left)} videos are in no fold and are left out, such as {left[0]}")
    return {s: named[s] for s in SPLITS}


def fold_lists(path: Path) -> dict[str, set[str]]:
    """Return the videos of each fold that a JSON file or the SDK's .py (read, not run) lists."""
    with plain_errors(path, DataError, "lists of videos"):
        lists = read_plain(path, _assigned if path.suffix == ".py" else json.loads)
        if path.suffix == ".py":
            lists = {s: v for s in SPLITS for name, v in lists.items() if s in name and "fold" in name}
        return {str(k): set(map(str, v)) for k, v in lists.items()}


def _assigned(text: str) -> dict[str, Any]:
    """The plain values of a Python file's names; nothing in it is run."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _overlaps(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    return np.minimum(intervals[:, 1], end) - np.maximum(intervals[:, 0], start) > EPSILON


def _utterances(files: dict[str, Csd], video: str) -> list[_Utterance]:
    features, times = files["words"].read(video)
    words = [w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in features[:, 0]]
    labels, spans = files["labels"].read(video)
    utterances = []
    for k, rows in enumerate(files["words"].during(video, times, spans)):
        rows = [i for i in rows if words[i] != PAUSE]
        texts = [words[i] for i in rows]
        utterances.append(_Utterance(f"{video}[{k}]", video, float(labels[k, 0]), spans[k], texts, times[rows]))
    return utterances


def _build(result: Utterances, split: str, videos: list[str], files: dict[str, Csd]) -> None:
    utterances = [u for video in videos for u in _utterances(files, video)]
    if outside := sum(not abs(u.label) <= 3 for u in utterances):
        result.problems.append(f"{split}: {outside} labels are not in [-3, 3]")
    if silent := sum(not u.words for u in utterances):
        result.notes.append(f"{split}: {silent} labelled intervals without a word are left out")
    utterances = [u for u in utterances if u.words]
    if not utterances:
        result.problems.append(f"{split}: no utterances; do the folds name videos of these files?")
        return

    def frames(m: str, by_word: bool) -> Iterator[tuple[_Utterance, np.ndarray, np.ndarray]]:
        """Yield each utterance with the features and intervals within it or its words; a video is read once."""
        for video, group in groupby(utterances, lambda u: u.video):
            group = list(group)
            features, times = files[m].read(video)
            spans = [(u.times[:, 0].min(), u.times[:, 1].max()) if by_word else u.span for u in group]
            for u, rows in zip(group, files[m].during(video, times, np.array(spans)), strict=True):
                if len(u.words) * len(rows) > WORK:
                    raise DataError(f"{files[m].path}: {u.id}: {len(rows)} rows for {len(u.words)} words")
                yield u, features[rows], times[rows]

    def tokens(m: str) -> Iterator[np.ndarray]:
        by_word = result.aligned or m == "text"
        for utterance, features, times in frames(m, by_word):
            yield _means(features, times, utterance.times) if by_word else features

    words = np.array([len(u.words) for u in utterances])
    lengths, partners = dict.fromkeys(("text", "audio", "video"), words), {}
    if not result.aligned:
        for m in ("audio", "video"):
            rows = [_partners(times, u.times) for u, _, times in frames(m, False)]
            lengths[m], partners[m] = np.array([len(x) for x in rows]), np.concatenate(rows)
    result.splits[split] = Split(
        widths={m: files[m].width for m in lengths},
        lengths=lengths,
        tokens=tokens,
        labels=np.array([u.label for u in utterances]),
        ids=[u.id for u in utterances],
        texts=[" ".join(u.words) for u in utterances],
        partners=partners,
    )
    result.fields[split] = {m: _field(result.splits[split], m) for m in lengths}


def _field(split: Split, m: str) -> Field:
    nan = infinite = 0
    for x in split.tokens(m):
        nan, infinite = nan + int(np.isnan(x).sum()), infinite + int(np.isinf(x).sum())
    return Field((len(split.ids), int(split.lengths[m].max()), split.widths[m]), "float", nan, infinite)


def _partners(frames: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return, per frame (T, 2), the word (W, 2) during which its middle lies, −1 for none."""
    middle = frames.mean(axis=1)[:, None]
    within = (words[:, 0] <= middle) & (middle < words[:, 1])
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def _means(frames: np.ndarray, at: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return, per word (W, 2), the mean (W, D) of the frames (T, D) that overlap it; NaN stays NaN."""
    result = np.zeros((len(words), frames.shape[1]))
    with np.errstate(invalid="ignore"):
        for row, (start, end) in zip(result, words, strict=True):
            near = _overlaps(at, start, end)
            if near.any():
                row[:] = frames[near].mean(axis=0)
    return result
