"""CMU-MOSI's published validation split as word-aligned sequences: 229 utterances with sound and face of every word.

One pickle, a list of ((word indices, FACET (T, 47), COVAREP (T, 74), words), label (1, 1), "video[k]"). The k-th frame
of sound and face belongs to the k-th word, so the true partners are known and transport plans can be judged. Its 10
videos are split here by video, a split of our own: no published number compares.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignmamba2.batch import Sample
from alignmamba2.datasets.base import DataError, Dataset, splits_of
from alignmamba2.datasets.contents import Contents, Field, Part
from alignmamba2.datasets.fetch import Source, data_root
from alignmamba2.datasets.formats.mosi_pickles import string
from alignmamba2.datasets.formats.unpickle import read_pickle
from alignmamba2.datasets.registry import Entry
from alignmamba2.datasets.store import video_of
from alignmamba2.encoders.text import WordEncoder
from studies.datasets.word_tokens import WordMeans

NAME = "mosi-words"
FILE = "dev.pkl"
WIDTHS = {"video": 47, "audio": 74}
SHARES = {"train": 6, "valid": 2, "test": 2}  # videos
SOURCE = Source(
    folder="mosi_words",
    url="https://raw.githubusercontent.com/Gautam-Gandhi/Multimodal-Sentiment-Analysis/fa26eb15efd5f4f6e489e9e788ffc0e11677d120/phase1/data/MOSI/",
    licence="none stated; research data of Zadeh et al. (2016)",
    hashes={FILE: "d4405ac91f62a807be9ff8dc4a92a7cbbf9735f0b6032649077d2e7500cf7076"},
)


def load(root: str | Path | None = None, *, text: str = "words", split_seed: int = 0) -> dict[str, Dataset]:
    """Load the splits; modalities "text", "audio" and "video", all with one token per word.

    `text` is "words" (by their letters, see `WordEncoder`), "minilm", "mpnet", or the name of a Hugging Face text
    model, of which a word's token is the mean over its pieces. `split_seed` draws the 6 / 2 / 2 videos.
    """
    folder = SOURCE.ensure(NAME, root)
    samples = read(folder / FILE)
    encoder = WordEncoder() if text == "words" else WordMeans(text)
    tokens = encoder.encode([" ".join(s.words["text"]) for s in samples], data_root(root) / "cache")
    samples = [
        Sample({"text": x, **s.features}, s.label, s.id, s.words, s.partners, group=s.group)
        for s, x in zip(samples, tokens, strict=True)
    ]
    videos = np.random.default_rng(split_seed).permutation(sorted({s.group for s in samples}))
    names = [split for split, n in SHARES.items() for _ in range(n)]
    split_of = dict(zip(videos.tolist(), names, strict=True))
    parts = {split: [s for s in samples if split_of[s.group] == split] for split in SHARES}
    sizes = " / ".join(str(len(part)) for part in parts.values())
    return splits_of(
        parts,
        name=NAME,
        protocol=f"published validation split alone, split by video 6 / 2 / 2 = {sizes} utterances (split_seed "
        f"{split_seed}), not comparable with published numbers, labels in [-3, 3], text={text}",
        description="CMU-MOSI, real: 229 utterances of 10 videos, words with their sound (COVAREP) and face (FACET)",
        synthetic=False,
        hashes=SOURCE.hashes,
    )


def read(path: Path) -> list[Sample]:
    """Return the utterances, without text features.

    A `DataError` names the file, the entry and what does not fit: shapes, a label out of range, no word.
    """
    entries = read_pickle(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: a {type(entries).__name__}; expected a list of utterances. Fetch it again")
    return [_sample(path, number, entry) for number, entry in enumerate(entries)]


def _sample(path: Path, number: int, entry: Any) -> Sample:
    try:
        (_, video, audio, words), label, name = entry
        features = {"video": np.array(video, np.float32), "audio": np.array(audio, np.float32)}
        value, words = np.array(label, np.float32).reshape(()), list(map(string, words))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: entry {number} is no ((indices, face, sound, words), label, id) ({error}). Fetch it again"
        ) from error
    shapes = {m: x.shape for m, x in features.items()}
    if shapes != {m: (len(words), width) for m, width in WIDTHS.items()} or not words:
        raise DataError(f"{path}: {name!r} has {len(words)} words and features {shapes}; expected one frame per word")
    if not abs(value) <= 3:
        raise DataError(f"{path}: {name!r} has the label {value}; expected one in [-3, 3]")
    partner = torch.arange(len(words))
    return Sample(
        {m: torch.from_numpy(x) for m, x in features.items()},
        torch.tensor(float(value)),
        string(name),
        dict.fromkeys(("text", *features), words),
        {(m, "text"): partner for m in features},
        group=video_of(string(name)),
    )


def inspect(path: Path) -> Contents | None:
    """Return the contents of the pickle, or of its folder."""
    path = path / FILE if path.is_dir() else path
    if path.name != FILE or not path.is_file() or not isinstance(read_pickle(path), list):
        return None
    samples = read(path)
    part = Part(
        fields={m: Field.of(torch.cat([s.features[m] for s in samples])) for m in WIDTHS},
        labels=np.array([float(s.label) for s in samples]),
        lengths={"text": np.array([len(s.words["text"]) for s in samples])},
        ids=[s.id for s in samples],
        texts=[" ".join(s.words["text"]) for s in samples],
        groups=[s.group for s in samples],
    )
    hashes, changed = SOURCE.hashes_in(path.parent)
    problems = [f"{n}: SHA-256 is not the published one" for n in changed]
    return Contents(path, "CMU-MOSI, word-aligned (pickle)", {"all": part}, problems=problems, hashes=hashes)


ENTRY = Entry(NAME, load, source=SOURCE, inspect=inspect)
