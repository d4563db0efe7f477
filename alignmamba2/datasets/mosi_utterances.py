"""The real CMU-MOSI as utterance features: 93 videos, 2199 utterances, three modalities, a binary label each.

Files of Poria et al. (ACL 2017): per modality `<m>/<m>_{train,test}0.csv`, one row per utterance, features and then the
label 0/1; `text_{train,test}.csv`, whose first column is the row's index into `transcripts.csv`, which gives
`video_clip`, the words and the label. 62 videos train, 31 test, no speaker in both. data/README.md#mosi-utterances
tells their traps: the row order gives the label away, and text and video features know training labels.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..batch import Sample
from .base import DataError, Dataset, check_choice, check_fraction, splits_of
from .contents import Contents, Field, Part
from .fetch import data_root, published
from .registry import Entry

if TYPE_CHECKING:
    import pandas as pd

NAME = "mosi-utterances"
MODALITIES = {"text": 100, "audio": 73, "video": 100}
TEXTS = ("released", "minilm")
ROWS = {"train": 1447, "test": 752}
SOURCE = published("mosi_utterances")


def load(
    root: str | Path | None = None, *, text: str = "released", valid_fraction: float = 0.2, split_seed: int = 0
) -> dict[str, Dataset]:
    """Load the splits: a sample is a video, its steps are its utterances in the order spoken.

    Parameters
    ----------
    text : "released", the published 100-d features, or "minilm", frozen embeddings of the transcripts (see `MiniLM`)
    valid_fraction, split_seed : share of the 62 training *videos* that validates, and the seed of the draw
    """
    check_choice("text", text, TEXTS)
    check_fraction("valid_fraction", valid_fraction)
    folder = SOURCE.ensure(NAME, root)
    videos = {split: read_videos(folder, split) for split in ROWS}
    if shared := set(videos["train"]) & set(videos["test"]):
        raise DataError(f"{folder}: videos {sorted(shared)} are in both train and test")
    if text == "minilm":
        videos = _with_minilm(videos, data_root(root) / "cache")
    names = sorted(videos["train"])
    shuffled = np.random.default_rng(split_seed).permutation(len(names))
    held_out = {names[i] for i in shuffled[: max(1, round(valid_fraction * len(names)))]}
    return splits_of(
        {
            "train": [s for v, s in videos["train"].items() if v not in held_out],
            "valid": [s for v, s in videos["train"].items() if v in held_out],
            "test": list(videos["test"].values()),
        },
        name=NAME,
        protocol=f"62 train / 31 test videos (Poria et al. 2017), {len(held_out)} of the 62 for validation "
        f"(split_seed {split_seed}), binary, text={text}",
        description="CMU-MOSI, real: 2199 utterances of 93 videos, utterance features, one label an utterance",
        synthetic=False,
        classes=("negative", "positive"),
        readout="per_step",
        hashes=SOURCE.hashes,
    )


def read_videos(folder: Path, split: str) -> dict[str, Sample]:
    """Return a split's videos, by name, from the files in `folder`.

    A `DataError` names the file: it is missing, cut off, has another number of rows or columns, holds a number that is
    not finite, or labels that are not 0 or 1 or differ between files.
    """
    transcripts = _read_csv(folder / "transcripts.csv", columns=4, rows=sum(ROWS.values()))
    index = _numbers(folder / f"text_{split}.csv", columns=101, rows=ROWS[split])[:, 0].astype(int)
    if index.min() < 0 or index.max() >= len(transcripts) or len(set(index)) != len(index):
        raise DataError(f"{folder / f'text_{split}.csv'}: first column is no set of row numbers of transcripts.csv")
    features, labels = _read_features(folder, split)
    utterances = defaultdict(list)
    for row, place in enumerate(index):
        name = str(transcripts.iat[place, 0])
        match = re.fullmatch(r"(.+)_(\d+)", name)
        if not match:
            raise DataError(f"{folder / 'transcripts.csv'}: row {place + 1} names {name!r}; expected video_clip")
        utterances[match[1]].append((int(match[2]), row, str(transcripts.iat[place, 1]).strip()))
    videos = {}
    for video, spoken in utterances.items():
        spoken.sort()  # by clip number: the order spoken, not the order of the file (see the module's traps)
        rows = [row for _, row, _ in spoken]
        texts = [text for _, _, text in spoken]
        words = dict.fromkeys(MODALITIES, texts)
        videos[video] = Sample({m: x[rows] for m, x in features.items()}, labels[rows], video, words)
    return videos


def _read_features(folder: Path, split: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features (rows, width) of each modality, and labels (rows,), which must be the same in all files."""
    features, labels = {}, None
    for m, width in MODALITIES.items():
        path = folder / m / f"{m}_{split}0.csv"
        table = _numbers(path, columns=width + 1, rows=ROWS[split])
        column = table[:, -1]
        if bad := sorted(set(column.tolist()) - {0, 1}):
            raise DataError(f"{path}: labels {bad[:5]} in the last column; expected 0 or 1")
        if labels is not None and not np.array_equal(column, labels):
            raise DataError(f"{path}: {int((column != labels).sum())} labels differ from the text file's")
        features[m], labels = torch.from_numpy(table[:, :-1]).float(), column
    return features, torch.from_numpy(labels).long()


def _read_csv(path: Path, columns: int, rows: int) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: not found. Bring it with: python -m alignmamba2 data fetch {NAME}") from None
    except (ValueError, OSError) as error:  # pandas' parser errors and wrong encodings are ValueErrors
        raise DataError(f"{path}: no readable CSV ({error}); remove it and fetch it again") from error
    if table.shape != (rows, columns):
        raise DataError(
            f"{path}: {table.shape[0]} rows of {table.shape[1]} columns; expected {rows} of {columns}. "
            "It may be cut off: remove it and fetch it again"
        )
    return table


def _numbers(path: Path, columns: int, rows: int) -> np.ndarray:
    import pandas as pd

    values = _read_csv(path, columns, rows).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0] + 1
        raise DataError(
            f"{path}: {int(bad.sum())} cells are not finite numbers, the first in row {row}, column {column}; "
            "remove the file and fetch it again"
        )
    return values


def _with_minilm(videos: dict[str, dict[str, Sample]], cache: Path) -> dict[str, dict[str, Sample]]:
    from ..encoders import MiniLM

    words = sorted({w for samples in videos.values() for s in samples.values() for w in s.words["text"]})
    vectors = dict(zip(words, MiniLM().encode(words, cache=cache), strict=True))

    def embedded(sample: Sample) -> Sample:
        text = torch.stack([vectors[w] for w in sample.words["text"]])
        return dataclasses.replace(sample, features={**sample.features, "text": text})

    return {split: {v: embedded(s) for v, s in samples.items()} for split, samples in videos.items()}


def inspect(path: Path) -> Contents | None:
    """Return the contents of the folder of the nine files; one utterance is one sample there."""
    if not (path / "transcripts.csv").is_file():
        return None
    parts = {}
    for split in ROWS:
        videos = read_videos(path, split)
        utterances = [(v, k, s) for v, s in videos.items() for k in range(len(s.label))]
        parts[split] = Part(
            fields={m: Field.of(torch.cat([s.features[m] for s in videos.values()])) for m in MODALITIES},
            labels=torch.cat([s.label for s in videos.values()]).numpy(),
            lengths={"text": np.array([len(s.label) for s in videos.values()])},
            ids=[f"{v}, utterance {k + 1}" for v, k, _ in utterances],
            texts=[s.words["text"][k] for _, k, s in utterances],
            groups=[v for v, _, _ in utterances],
        )
    hashes, changed = SOURCE.hashes_in(path)
    return Contents(
        path,
        "CMU-MOSI as utterance features (Poria et al. 2017); tokens of a sample are the utterances of a video",
        parts,
        problems=[f"{n}: SHA-256 is not the published one" for n in changed],
        notes=[
            "the files' row order gives the label away, so utterances are read in the order spoken",
            "text and video features were fitted to the training labels: measure it with python -m studies leaks",
        ],
        hashes=hashes,
    )


ENTRY = Entry(NAME, load, source=SOURCE, inspect=inspect)
