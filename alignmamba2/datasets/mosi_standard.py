"""CMU-MOSI on its standard split with its official labels: transcripts and sound of 2199 utterances.

Three public sources are joined by video and order, because none has all (data/README.md#mosi-standard): transcripts and
sound (openSMILE, 73 numbers per utterance) of `mosi_utterances`; official labels in [-3, 3] of a `.csd` of the
CMU-MultimodalSDK, whose k-th row of a video belongs to the video's k-th clip number; the SDK's standard folds, 52, 10
and 31 videos, 1284, 229 and 686 utterances. The join is checked each time: the same 93 videos, as many utterances in
each, and all 2199 binary labels of the first source are the signs of the official ones (0 counts as positive).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..batch import Sample
from ..encoders.cache import hash_items
from ..encoders.text import sentence_encoder
from ..storage.files import read_plain
from .base import DataError, Dataset, check_choice, splits_of
from .contents import Contents, Part
from .fetch import PUBLISHED, data_root, published
from .formats.csd import Csd, fold_lists
from .mosi_utterances import ROWS, read_videos
from .mosi_utterances import SOURCE as UTTERANCES
from .raw_modalities import AsTheyAre, RawModality, RawSamples, encoders_inside
from .registry import Entry

NAME = "mosi-standard"
LABELS = "CMU_MOSI_Opinion_Labels.csd"
SOURCE = published("mosi_standard")
# The videos of the SDK's standard folds; all others train.
FOLDS = read_plain(PUBLISHED / "mosi_folds.json")
SIZES = {"train": 1284, "valid": 229, "test": 686}
MODALITIES = ("text", "audio")
PIECES = 64  # the most token ids of an utterance, for an encoder inside the model
KNOWS_TEST = (
    "24 of the 31 standard test videos are in the training part to whose labels the released text and video features "
    "were fitted, so they know test labels"
)


def load(
    root: str | Path | None = None,
    *,
    text: str = "minilm",
    modalities: Sequence[str] = MODALITIES,
    folds: str | Path | None = None,
    encode: bool = True,
) -> dict[str, Dataset]:
    """Load the splits: a sample is an utterance, with id "video[k]" in the order spoken.

    Modalities are "text", one token per word piece or word, and "audio", one token (1, 73). Transcripts are read in
    lower case (the file has capitals). `Sample.group` is the video, and utterances follow each other as spoken. A
    `ValueError` names the option, that of text and video features that know test labels too; a `DataError` says that a
    file is missing or changed, the two sources do not fit, or the folds leave videos out.

    Parameters
    ----------
    text : "minilm", "mpnet", the name of a Hugging Face text model, or "words" (no learning, see `WordEncoder`)
    modalities : of "text" and "audio"
    folds : JSON file {"train": [videos], "valid": …, "test": …} or the SDK's .py, in place of the standard folds
    encode : False for an encoder inside the model: text is then token ids (T,) int64, at most 64, and
        `Dataset.encoders` names it
    """
    if text == "released" or "video" in modalities:
        raise ValueError(f"{'text' if text == 'released' else 'modalities'}: refused. {KNOWS_TEST}")
    for m in modalities:
        check_choice("modalities", m, MODALITIES)
    encoders = encoders_inside(encode, **({"text": text} if "text" in modalities else {}))
    released = UTTERANCES.ensure(NAME, root)
    labels_file = SOURCE.ensure(NAME, root) / LABELS
    videos = {v: sample for split in ROWS for v, sample in read_videos(released, split).items()}
    labels = join(videos, labels_file)
    parts = _folds(folds, set(videos))
    order = [(v, k) for part in parts.values() for v in part for k in range(len(labels[v]))]
    sizes = {split: sum(len(labels[v]) for v in part) for split, part in parts.items()}
    if folds is None and sizes != SIZES:
        raise DataError(f"{labels_file}: folds of {sizes} utterances; expected {SIZES}")
    cache = data_root(root) / "cache"
    raws = {m: _raw(m, videos, order, text, encode, cache) for m in MODALITIES if m in modalities}
    values = torch.cat([torch.from_numpy(labels[v]) for part in parts.values() for v in part])
    ids, groups = [f"{v}[{k}]" for v, k in order], [v for v, _ in order]
    rows = iter(range(len(order)))
    split = " / ".join(map(str, sizes.values()))
    own = "the SDK's standard folds" if folds is None else f"folds of {Path(folds).name}, NOT the standard ones"
    return splits_of(
        {s: RawSamples(raws, [next(rows) for _ in range(n)], values, ids, groups=groups) for s, n in sizes.items()},
        name=NAME,
        protocol=f"{own}, {split} utterances, official labels in [-3, 3], {'+'.join(raws)}"
        + (f", text={text}" if "text" in raws else ""),
        description="CMU-MOSI, real: 2199 utterances of 93 videos, transcripts and sound, a label in [-3, 3]",
        synthetic=False,
        hashes={**UTTERANCES.hashes, **SOURCE.hashes},
        encoders=encoders,
    )


def join(videos: Mapping[str, Sample], labels_file: Path) -> dict[str, np.ndarray]:
    """Return the official labels (K,) float32 of each video, once they are known to belong to its utterances.

    A `DataError` names the file and the first video, or the first utterance, that does not fit.
    """
    labels = read_labels(labels_file)
    if differ := sorted(set(labels) ^ set(videos)):
        side = "no labels" if differ[0] in videos else "no transcripts"
        raise DataError(f"{labels_file}: {len(differ)} videos are in one source alone; {differ[0]} has {side}")
    for v, sample in videos.items():
        if len(labels[v]) != len(sample.label):
            raise DataError(f"{labels_file}: {v} has {len(labels[v])} labels; {len(sample.label)} utterances are known")
        wrong = np.flatnonzero((labels[v] >= 0) != sample.label.numpy().astype(bool))
        if len(wrong):
            k, words = int(wrong[0]), sample.words["text"][int(wrong[0])]
            raise DataError(
                f"{labels_file}: {v}[{k}] ({words[:40]!r}) has the label {labels[v][k]:g}; its binary label is "
                f"{int(sample.label[k])}. One of the two files is another version: fetch them again"
            )
    return labels


def read_labels(path: Path) -> dict[str, np.ndarray]:
    """Return the labels (K,) float32 of each video of a `.csd`, in the order of its rows."""
    labels, file = {}, Csd(path)
    for v in file.videos:
        labels[v] = file.read(v)[0][:, 0].astype(np.float32)
        if not (np.abs(labels[v]) <= 3).all():
            raise DataError(f"{path}: {v} has labels that are not in [-3, 3]: {labels[v]}")
    return labels


def _folds(path: str | Path | None, videos: set[str]) -> dict[str, list[str]]:
    lists = fold_lists(Path(path)) if path else {"train": videos - set().union(*FOLDS.values()), **FOLDS}
    if set(lists) != set(SIZES):
        raise DataError(f"{path}: found lists of {sorted(lists)}; expected {', '.join(SIZES)}")
    names = [v for split in SIZES for v in lists[split]]
    for what, wrong in (
        ("leaves out", videos - set(names)),
        ("names the unknown", set(names) - videos),
        ("names twice", {v for v in names if names.count(v) > 1}),
    ):
        if wrong:
            raise DataError(f"{path or NAME}: {what} {len(wrong)} of {len(videos)} videos, such as {min(wrong)}")
    return {split: sorted(lists[split]) for split in SIZES}


def _raw(
    m: str, videos: Mapping[str, Sample], order: Sequence[tuple[str, int]], text: str, encode: bool, cache: Path
) -> RawModality:
    present = [True] * len(order)
    if m == "audio":
        items = [videos[v].features["audio"][k : k + 1] for v, k in order]
        return RawModality(items, present, "numbers", "", AsTheyAre, cache)
    sentences = [videos[v].words["text"][k].lower() for v, k in order]
    encoder = sentence_encoder(text, encode, max_length=PIECES)
    key = f"{hash_items(sentences)} {PIECES}"
    return RawModality(sentences, present, "words", key, lambda: encoder, cache, names=encoder.pieces)


def inspect(path: Path) -> Contents | None:
    """Return the contents of the official labels, a folder with that one `.csd`, by the standard folds."""
    folder = path.parent if path.name == LABELS else path
    if [p.name for p in folder.glob("*.csd")] != [LABELS]:
        return None
    labels = read_labels(folder / LABELS)
    parts = {
        split: Part(
            labels=np.concatenate([labels[v] for v in part]),
            ids=[f"{v}[{k}]" for v in part for k in range(len(labels[v]))],
            groups=part,
        )
        for split, part in _folds(None, set(labels)).items()
    }
    sizes = {split: len(part.ids) for split, part in parts.items()}
    problems = [] if sizes == SIZES else [f"{sizes} utterances; the standard split has {SIZES}"]
    hashes, changed = SOURCE.hashes_in(folder)
    problems += [f"{n}: SHA-256 is not the published one" for n in changed]
    return Contents(folder, "official labels of CMU-MOSI (.csd)", parts, problems=problems, hashes=hashes)


ENTRY = Entry(NAME, load, source=SOURCE, more={"": [UTTERANCES]}, inspect=inspect)
