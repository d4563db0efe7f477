"""mini-mosi and mini-mosei: small synthetic stand-ins, whose structure is planted and therefore known.

A sample is a sentence of T words, seen three times: as text, as sound, as face. Every word has a *concept*, a fixed
vector of 8 numbers, that all three modalities carry, each through its own fixed linear map. On top of that, each
modality alone knows one thing:

    text    the word's polarity p ∈ {−1, 0, +1}
    audio   its emphasis a ∈ {−1, +1}: half as much, or half as much again
    video   a smile s ∈ {−1, +1}

and the label, in [−3, 3] as in CMU-MOSI, is

    y = clip( Σ_i p_i · (1 + a_i / 2) + s_i / 4 , −3, 3)        over the T words i.

Sound and face have more steps than there are words (about 1.5 T and 1.25 T). Each word has one *partner* among them, in
order but late; the other steps are fillers with a random concept and a random a or s that counts for nothing. So the
partners tell the steps that count. They are given with every sample.

Features are standard Gaussian noise of scale `noise` on top of the linear maps. mini-mosei is made alike, of another
seed: twice as many sentences, and wider sound and face.

`data make` writes both in the real formats (see `mosi_pickles.py` and `csd.py`): MMSA's pickles and MulT's, with and
without steps in common, and the SDK's .csd files. In the pickles, one value of sound in a thousand is `-inf`, as in the
real ones. MOSI's sound has 5 numbers, fewer than the 8 of a concept, so it shows only a part of it. All videos are
called `synthetic…`, and `load_dataset` repeats it.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...batch import Sample
from ...storage.files import whole, write_text
from ..base import Dataset, splits_of
from ..registry import Entry

NAMES = ("mini-mosi", "mini-mosei")
WIDTHS = {"mini-mosi": {"text": 32, "audio": 16, "video": 20}, "mini-mosei": {"text": 32, "audio": 74, "video": 35}}
SIZES = {
    "mini-mosi": {"train": 960, "valid": 120, "test": 240},
    "mini-mosei": {"train": 1920, "valid": 240, "test": 480},
}
STRETCH = {"audio": 1.5, "video": 1.25}
POSITIVE = ("good", "great", "funny", "warm", "clever", "lovely", "moving", "bright", "honest", "sweet")
NEGATIVE = ("bad", "dull", "awful", "boring", "silly", "weak", "cold", "tired", "cheap", "clumsy")
NEUTRAL = ("the", "film", "a", "story", "plot", "with", "and", "it", "was", "scene")
NEUTRAL += ("actor", "then", "music", "they", "end", "this", "camera", "so", "we", "saw")
VOCABULARY = (*POSITIVE, *NEGATIVE, *NEUTRAL)
POLARITY = np.repeat((1.0, -1.0, 0.0), (len(POSITIVE), len(NEGATIVE), len(NEUTRAL)))
CONCEPT = 8
# The strength of the thing that a modality alone knows, against the concept's unit length.
SIGNAL = 1.0
# Of the files.
FILE_WIDTHS = {"mini-mosi": {"audio": 5, "video": 20}, "mini-mosei": {"audio": 74, "video": 35}}
STEPS = {"mini-mosi": {"audio": 375, "video": 500}, "mini-mosei": {"audio": 500, "video": 500}}
ALIGNED_STEPS = 50
FILE_STRETCH = {"audio": 3.0, "video": 4.0}
TOGETHER = {"audio": 1.0, "video": 1.0}
CLIPS = 8  # utterances per video
SIZE = 160
NOISE = 0.1
CLS, SEP, FIRST_WORD = 101, 102, 1000  # BERT's numbers for the first two
FRAME = {"audio": 0.05, "video": 0.1}  # seconds per frame of the .csd files


def load(name: str, root: str | Path | None = None, *, seed: int = 0, noise: float = 0.1) -> dict[str, Dataset]:
    """Generate the three splits of one of `NAMES`; the same seed gives the same data. Nothing is read from `root`.

    `noise` is the standard deviation of the features' noise. (A concept has length 1.)
    """
    concepts, maps = world(name, WIDTHS[name], seed)
    samples = {}
    for number, (split, size) in enumerate(SIZES[name].items(), start=1):
        rng = np.random.default_rng(_seed(name, seed, number))
        samples[split] = [sentence(rng, concepts, maps, noise, f"{split}-{i:03d}", STRETCH) for i in range(size)]
    return splits_of(
        samples,
        name=name,
        protocol=f"synthetic, seed {seed}, noise {noise:g}",
        description=f"{name}, synthetic: generated sentences seen as text, sound and face, a label in [-3, 3]",
        synthetic=True,
    )


def _seed(name: str, seed: int, number: int) -> list[int]:
    return [seed, number] if name == "mini-mosi" else [seed, number, NAMES.index(name)]


def world(name: str, widths: Mapping[str, int], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw each word's concept (words, 8) and each modality's linear map (9, D_m), which all sentences share."""
    rng = np.random.default_rng(_seed(name, seed, 0))
    concepts = rng.standard_normal((len(VOCABULARY), CONCEPT))
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    return concepts, {m: rng.standard_normal((CONCEPT + 1, d)) / np.sqrt(CONCEPT) for m, d in widths.items()}


def sentence(
    rng: np.random.Generator,
    concepts: np.ndarray,
    maps: Mapping[str, np.ndarray],
    noise: float,
    name: str,
    stretch: Mapping[str, float],
) -> Sample:
    """Draw a sentence. `stretch`: steps of sound and face per word."""
    length = int(rng.integers(6, 13))
    # Every second word, on average, is neutral.
    chance = np.where(POLARITY == 0, 0.5 / len(NEUTRAL), 0.5 / (len(POSITIVE) + len(NEGATIVE)))
    word = rng.choice(len(VOCABULARY), size=length, p=chance)
    polarity = POLARITY[word]
    signals = {m: rng.choice((-1.0, 1.0), length) for m in ("audio", "video")}
    label = np.clip(np.sum(polarity * (1 + signals["audio"] / 2) + signals["video"] / 4), -3, 3)

    features = {"text": _observe(rng, concepts[word], polarity, maps["text"], noise)}
    words = {"text": [VOCABULARY[w] for w in word]}
    partners = {}
    for m, factor in stretch.items():
        steps = round(length * factor)
        # In order, and late: the partner of word i is never earlier than step i.
        place = np.sort(rng.choice(steps, size=length, replace=False))
        filler = rng.choice(len(VOCABULARY), size=steps)
        concept, alone = concepts[filler], rng.choice((-1.0, 1.0), steps)
        concept[place], alone[place] = concepts[word], signals[m]
        features[m] = _observe(rng, concept, alone, maps[m], noise)
        partner = np.full(steps, -1)
        partner[place] = np.arange(length)
        partners[m, "text"] = torch.from_numpy(partner)
        sign = {"audio": ("soft", "loud"), "video": ("frown", "smile")}[m]
        owner = [VOCABULARY[word[p]] if p >= 0 else "filler" for p in partner]
        words[m] = [f"{sign[int(a > 0)]} ({w})" for a, w in zip(alone, owner, strict=True)]
    return Sample(features, torch.tensor(label, dtype=torch.float32), name, words, partners)


def _observe(
    rng: np.random.Generator, concept: np.ndarray, alone: np.ndarray, linear: np.ndarray, noise: float
) -> torch.Tensor:
    x = np.concatenate([concept, SIGNAL * alone[:, None]], axis=1) @ linear
    return torch.from_numpy(x + noise * rng.standard_normal(x.shape)).float()


def make(name: str, folder: Path, *, format: str, seed: int = 0, size: int | None = None) -> list[Path]:
    """Write a miniature below `folder`, in its real tree and one of `FORMATS`; return the files.

    `size` is the number of training utterances; a quarter as many validate, half as many test.
    """
    return FORMATS[format](name, Path(folder), seed, SIZE if size is None else size)


def _rows(name: str, seed: int, size: int, widths: dict[str, int], aligned: bool = True) -> dict[str, list[Sample]]:
    concepts, maps = world(name, widths, seed)
    stretch = TOGETHER if aligned else FILE_STRETCH
    rows = {}
    video = 0
    for number, (split, count) in enumerate({"train": size, "valid": size // 4, "test": size // 2}.items(), start=1):
        rng = np.random.default_rng([seed, number, NAMES.index(name)])
        count = max(1, count)
        names = [f"synthetic{video + i // CLIPS:04d}$_${i % CLIPS}" for i in range(count)]
        rows[split] = [sentence(rng, concepts, maps, NOISE, n, stretch) for n in names]
        video += -(-count // CLIPS)
    return rows


def _steps(name: str, aligned: bool) -> dict[str, int]:
    return dict.fromkeys(FILE_WIDTHS[name], ALIGNED_STEPS) if aligned else STEPS[name]


def _padded(arrays: list[np.ndarray], steps: int, front: bool = False) -> np.ndarray:
    result = np.zeros((len(arrays), steps, arrays[0].shape[1]), np.float32)
    for row, x in zip(result, arrays, strict=True):
        x = x[:steps]
        row[steps - len(x) if front else 0 : None if front else len(x)] = x
    return result


def _spoilt(audio: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, len(audio)])
    audio[(audio != 0) & (rng.random(audio.shape) < 1e-3)] = -np.inf
    return audio


def _write(path: Path, tree: dict) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, part.open("wb") as file:
        pickle.dump(tree, file, protocol=4)
    return [path]


def _mmsa(name: str, folder: Path, seed: int, size: int, aligned: bool = True) -> list[Path]:
    rows = _rows(name, seed, size, {"text": 768, **FILE_WIDTHS[name]}, aligned)
    tree = {split: _mmsa_split(name, samples, seed, aligned) for split, samples in rows.items()}
    file = f"{'aligned' if aligned else 'unaligned'}_50.pkl"
    return _write(folder / name.removeprefix("mini-").upper() / "Processed" / file, tree)


def _mmsa_split(name: str, samples: list[Sample], seed: int, aligned: bool) -> dict:
    rng = np.random.default_rng([seed, len(samples), 1])
    ends = rng.standard_normal((2, 768))
    text = [np.concatenate([ends[:1], s.features["text"], ends[1:]]) for s in samples]
    bert = np.zeros((len(samples), 3, 50), np.int64)
    for row, s in zip(bert, samples, strict=True):
        ids = [CLS, *(FIRST_WORD + VOCABULARY.index(w) for w in s.words["text"]), SEP]
        row[0, : len(ids)], row[1, : len(ids)] = ids, 1
    steps = _steps(name, aligned)
    # Aligned, sound and face stand beside the words, and zeros beside [CLS] and [SEP].
    frames = {
        m: [np.concatenate([np.zeros((int(aligned), d)), s.features[m]]) for s in samples]
        for m, d in FILE_WIDTHS[name].items()
    }
    y = np.array([float(s.label) for s in samples], np.float32)
    tree = {
        "raw_text": np.array([" ".join(s.words["text"]) for s in samples]),
        "audio": _spoilt(_padded(frames["audio"], steps["audio"]), seed),
        "vision": _padded(frames["video"], steps["video"]),
        "id": np.array([s.id for s in samples]),
        "text": _padded(text, 50),
        "text_bert": bert,
        "annotations": np.array(["Negative", "Neutral", "Positive"])[np.sign(y).astype(int) + 1],
        "classification_labels": np.sign(y).astype(np.int64) + 1,
        "regression_labels": y,
    }
    if not aligned:
        tree["audio_lengths"] = np.array([len(x) for x in frames["audio"]])
        tree["vision_lengths"] = np.array([len(x) for x in frames["video"]])
    return tree


def _mult(name: str, folder: Path, seed: int, size: int, aligned: bool = True) -> list[Path]:
    rows = _rows(name, seed, size, {"text": 300, **FILE_WIDTHS[name]}, aligned)
    steps = _steps(name, aligned)
    tree = {}
    for split, samples in rows.items():
        frames = {m: [s.features[m].numpy() for s in samples] for m in ("text", "audio", "video")}
        ids = np.array([[*s.id.split("$_$"), str(len(s.words["text"]))] for s in samples])
        tree[split] = {
            "vision": _padded(frames["video"], steps["video"], front=True),
            "text": _padded(frames["text"], 50, front=True),
            "audio": _spoilt(_padded(frames["audio"], steps["audio"], front=True), seed),
            "labels": np.array([float(s.label) for s in samples], np.float32).reshape(-1, 1, 1),
            "id": np.char.encode(ids, "utf-8") if name == "mini-mosi" else ids,
        }
    stem = {"mini-mosi": "mosi", "mini-mosei": "mosei_senti"}[name]
    file = f"{stem}_data{'' if aligned else '_noalign'}.pkl"
    return _write(folder / name.removeprefix("mini-") / file, tree)


def _csd(name: str, folder: Path, seed: int, size: int) -> list[Path]:
    """Sentences one after the other in each video, at times of their own."""
    widths = {"text": 300, "audio": 74, "video": 35}
    rows = _rows(name, seed, size, widths)
    concepts, maps = world(name, widths, seed)
    rng = np.random.default_rng([seed, 9])
    sequences: dict[str, dict] = {kind: {} for kind in ("words", "text", "audio", "video", "labels")}
    folds: dict[str, list[str]] = {}
    for split, samples in rows.items():
        videos: dict[str, list[Sample]] = {}
        for s in samples:
            videos.setdefault(s.id.split("$_$")[0], []).append(s)
        folds[split] = list(videos)
        for video, spoken in videos.items():
            for kind, value in _timed(spoken, concepts, maps, rng).items():
                sequences[kind][video] = value
    title = name.removeprefix("mini-").upper()
    # The SDK's names of each file and of the first group in it, which differ.
    kinds = {
        "words": (f"CMU_{title}_TimestampedWords", "words"),
        "text": (f"CMU_{title}_TimestampedWordVectors", "glove_vectors"),
        "audio": (f"CMU_{title}_COVAREP", "COVAREP"),
        "video": (f"CMU_{title}_Visual_Facet_42", "FACET_4.2"),
        "labels": (f"CMU_{title}_Opinion_Labels", "Opinion Segment Labels"),
    }
    folder = folder / f"CMU-{title}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, (stem, root) in kinds.items():
        paths.append(folder / f"{stem}.csd")
        _write_csd(paths[-1], root, sequences[kind], f"synthetic, {name}, seed {seed}")
    write_text(folder / "folds.json", json.dumps(folds, indent=2) + "\n")
    return [*paths, folder / "folds.json"]


def _timed(spoken: list[Sample], concepts: np.ndarray, maps: dict, rng: np.random.Generator) -> dict[str, tuple]:
    """One video's sentences, a second apart, as sequences in time: features and intervals."""
    words: list[tuple[str, np.ndarray, float, float]] = []  # text, vector, begin, end
    owners: list[tuple[Sample, int] | None] = []  # of each word: sentence and place in it; None for a pause
    spans = []
    clock = 0.0
    for s in spoken:
        begin = clock
        for i, word in enumerate(s.words["text"]):
            end = clock + float(rng.uniform(0.2, 0.6))
            words.append((word, s.features["text"][i].numpy(), clock, end))
            owners.append((s, i))
            clock = end
            if rng.random() < 0.2:
                words.append(("sp", np.zeros(300, np.float32), clock, clock + 0.15))
                owners.append(None)
                clock += 0.15
        spans.append((begin, clock))
        clock += 1.0
    texts, vectors, *times = zip(*words, strict=True)
    at = np.stack(times, axis=1)
    result: dict[str, tuple] = {
        "words": (np.array([[w] for w in texts], "S32"), at),
        "text": (np.array(vectors, np.float32), at),
        "labels": (np.array([[float(s.label)] for s in spoken], np.float32), np.array(spans)),
    }
    for m, step in FRAME.items():
        starts = np.arange(0.0, clock, step)
        # A frame shows the word spoken in its middle, and outside words a random concept.
        frames = (concepts[rng.integers(0, len(VOCABULARY), len(starts))] @ maps[m][:-1]).astype(np.float32)
        for row, middle in enumerate(starts + step / 2):
            j = int(np.searchsorted(at[:, 0], middle, side="right")) - 1
            if j >= 0 and middle < at[j, 1] and owners[j] is not None:
                s, i = owners[j]
                frames[row] = s.features[m][i].numpy()
        result[m] = frames, np.stack([starts, starts + step], axis=1)
    return result


def _write_csd(path: Path, root: str, videos: dict[str, tuple], description: str) -> None:
    import h5py

    with whole(path) as part, h5py.File(part, "w") as file:
        for video, (features, intervals) in videos.items():
            file[f"{root}/data/{video}/features"] = features
            file[f"{root}/data/{video}/intervals"] = intervals
        for key, value in {"root name": root, "computational sequence description": description}.items():
            file.create_dataset(f"{root}/metadata/{key}", data=[json.dumps(value)], dtype=h5py.string_dtype())


FORMATS: dict[str, Callable[[str, Path, int, int], list[Path]]] = {
    "mmsa": _mmsa,
    "mmsa-unaligned": partial(_mmsa, aligned=False),
    "mult": _mult,
    "mult-noalign": partial(_mult, aligned=False),
    "csd": _csd,
}
MOSI, MOSEI = (Entry(n, partial(load, n), make=partial(make, n), formats=tuple(FORMATS)) for n in NAMES)
