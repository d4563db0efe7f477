"""The real ICT-MMMO: 340 product reviews on video, word-aligned sequences of 20 steps, one sentiment label per review.

Files of Zadeh et al. (MFN, AAAI 2018), one HDF5 array `d1` each: `text_{split}_emb.h5` (N, 20, 300) GloVe,
`audio_{split}.h5` (N, 20, 74) COVAREP, `video_{split}.h5` (N, 20, 36) FACET, `y_{split}.h5` (N,) in [1, 5].
The reviews and labels are those of Wöllmer et al. (IEEE Intelligent Systems 2013).

Three traps in these files, all handled here:

- **Shorter reviews are padded in front**, with zeros. Steps before the first that any modality has are cut off, so
  that a sample has T ≤ 20 steps, the same for all modalities. Zeros later on (no face, a pause) stay, as released.
- **The training split's text file is not among the files with a known hash** (it is far larger than the others).
  Without it training samples have no text: 0 tokens, and `Dataset.notes` says so. A `text_train_emb.h5` beside the
  others is used. A model trained without it has never seen text, so the recipe takes audio and video alone.
- **Labels are 1 to 5** with 3 neutral. Here y − 3, in [−2, 2]: the sign is the sentiment's (our choice).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from alignmamba2.batch import Sample
from alignmamba2.datasets.base import DataError, Dataset, splits_of
from alignmamba2.datasets.contents import Contents, Field, Part
from alignmamba2.datasets.fetch import Source, data_root
from alignmamba2.datasets.formats.hdf5 import reading, values
from alignmamba2.datasets.registry import Entry
from alignmamba2.storage.files import file_hash
from studies.datasets.modalities import chosen_modalities

NAME = "ict-mmmo"
ADDRESS = f"{__name__}:ENTRY"  # for commands
MODALITIES = {"text": 300, "audio": 74, "video": 36}
SIZES = {"train": 220, "valid": 40, "test": 80}
STEPS = 20
FILES = {"text": "text_{}_emb.h5", "audio": "audio_{}.h5", "video": "video_{}.h5"}

SOURCE = Source(
    folder="ict_mmmo",
    url="https://raw.githubusercontent.com/pliang279/MFN/b0453fb6e21b581c796246a0c32a6551f2028c1b/new_data/mmmo/",
    licence="MIT",
    hashes={
        "audio_test.h5": "1d701dc193b3e4404e35b97165fd33af19aff50d193a744488ec4c87ea0d6c44",
        "audio_train.h5": "4c37e59d75bf1fe17baf6d607e4e7eef228b9b16a145f64c9624d2fc8fcb1666",
        "audio_valid.h5": "37b39911ee143d712e36d1fcba5b41400d2b40bef9de3da419de7344486eb8e9",
        "text_test_emb.h5": "8f3bcab7716c482c209c393098fabe6362fa66b58eb9de5ebd4529c2cb53476b",
        "text_valid_emb.h5": "ff332edc367c23495f0a0194fc5a2b83d217565a6a9ab402f98cbbb60bdc3b95",
        "video_test.h5": "d0bfeb4a0ca249ac766b9c426146e4765b783463112e78665231a82c7b02f176",
        "video_train.h5": "2b7d7d442c1ef7aae0c06d19a845baeb5f8685ee844900f30d6cce643da42452",
        "video_valid.h5": "43a44a63e369bca2fc86c54fa42d9b3b30c03657b8f7287bdae60341f4767d8c",
        "y_test.h5": "17a83a344f15fc751bf10a052ade48d0944959052b30f33bc2c5216a31ea59ee",
        "y_train.h5": "872872ba80f2076a2f5287ace2e3cb72dff7abaa01e1906073c1d50a15a84d6e",
        "y_valid.h5": "e164e98d53b01e558af6eb232fdc0ca8660f8bd3e76469ca12bef124688a4c8f",
    },
)


def load(root: str | Path | None = None, *, modalities: Sequence[str] = tuple(MODALITIES)) -> dict[str, Dataset]:
    """Load the splits as released, 220 / 40 / 80: a sample is a review, its steps are its last 20 words at most.

    Parameters
    ----------
    root : folder of all data sets
    modalities : some of "text", "audio", "video"
    """
    chosen = chosen_modalities(modalities, MODALITIES)
    folder = SOURCE.ensure(ADDRESS, root)
    missing = "text" in chosen and not (folder / FILES["text"].format("train")).is_file()
    reviews = {split: read_split(folder, split) for split in SIZES}
    splits = splits_of(
        {split: r.samples(split, chosen) for split, r in reviews.items()},
        name=NAME,
        protocol=f"220 / 40 / 80 reviews as released with MFN (Zadeh et al. 2018), label y − 3 in [−2, 2], "
        f"{'+'.join(chosen)}{', no text in train' if missing else ''}",
        description="ICT-MMMO, real: 340 product reviews on video, word-aligned features, sentiment in [-2, 2]",
        synthetic=False,
    )
    for split, r in reviews.items():
        cut = f"{split}: {int(r.start.sum())} of {r.start.size * STEPS} steps were padding in front, cut off"
        notes = (cut, *(r.notes if "text" in chosen else ()))
        splits[split] = dataclasses.replace(splits[split], hashes={**SOURCE.hashes, **r.hashes}, notes=notes)
    return splits


@dataclasses.dataclass(frozen=True)
class _Reviews:
    """A split's arrays (N, 20, width) by modality, labels (N,) in [1, 5], and the first step (N,) that is not padding.

    `hashes` are those of files that the source does not list, and `notes` tell of them.
    """

    arrays: dict[str, np.ndarray]
    labels: np.ndarray
    start: np.ndarray
    hashes: dict[str, str]
    notes: list[str]

    def samples(self, split: str, modalities: Sequence[str]) -> list[Sample]:
        samples = []
        for i, (start, label) in enumerate(zip(self.start, self.labels - 3, strict=True)):
            rows = {
                m: self.arrays[m][i, start:] if m in self.arrays else np.zeros((0, MODALITIES[m])) for m in modalities
            }
            features = {m: torch.from_numpy(x).float() for m, x in rows.items()}
            # Word-aligned: step i of every modality belongs to word i.
            anchored = [m for m in features if m != "text" and "text" in modalities and "text" in self.arrays]
            partners = {(m, "text"): torch.arange(len(features[m])) for m in anchored}
            label = torch.tensor(label, dtype=torch.float32)
            samples.append(Sample(features, label, f"{split}-{i:03d}", partners=partners))
        return samples


def read_split(folder: Path, split: str) -> _Reviews:
    size = SIZES[split]
    arrays, hashes, notes = {}, {}, []
    for m, width in MODALITIES.items():
        path = folder / FILES[m].format(split)
        if path.name not in SOURCE.hashes:
            if not path.is_file():
                notes.append(f"{split}: no {path.name}, so no sample has {m} (0 tokens)")
                continue
            hashes[path.name] = file_hash(path, data_root() / "cache")
            notes.append(f"{split}: {path.name} has SHA-256 {hashes[path.name]}; no published one is known here")
        arrays[m] = _read(path, (size, STEPS, width))
    path = folder / f"y_{split}.h5"
    labels = _read(path, (size,)).astype(np.float64)
    if labels.min() < 1 or labels.max() > 5:
        raise DataError(f"{path}: labels in [{labels.min():g}, {labels.max():g}]; expected 1 to 5")
    start = np.stack([x.any(-1) for x in arrays.values()]).any(0).argmax(1)
    return _Reviews(arrays, labels, start, hashes, notes)


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with reading(path, "an array 'd1'") as file:
        array = np.asarray(values(path, file["d1"]))
    if array.shape != shape or not np.isfinite(array).all():
        raise DataError(f"{path}: array 'd1' is {array.shape}, or not finite; expected {shape}, finite numbers")
    return array


def inspect(path: Path) -> Contents | None:
    """Return the contents of the folder of `.h5` files."""
    if not all((path / f"{kind}_train.h5").is_file() for kind in ("y", "audio", "video")):
        return None
    parts, notes = {}, []
    hashes, changed = SOURCE.hashes_in(path)
    for split, size in SIZES.items():
        r = read_split(path, split)
        parts[split] = Part(
            fields={FILES[m].format(split): Field.of(x) for m, x in r.arrays.items()},
            labels=r.labels,
            lengths=dict.fromkeys(r.arrays, STEPS - r.start),
        )
        notes += [*r.notes, f"{split}: {int(r.start.sum())} of {size * STEPS} steps are padding in front"]
        hashes |= r.hashes
    problems = [f"{n}: SHA-256 is not the published one" for n in changed]
    hashes = dict(sorted(hashes.items()))
    return Contents(
        path, "ICT-MMMO, word-aligned, as released with MFN", parts, problems=problems, notes=notes, hashes=hashes
    )


ENTRY = Entry(NAME, load, source=SOURCE, inspect=inspect, bring=f"python -m alignmamba2 data fetch {ADDRESS}")
