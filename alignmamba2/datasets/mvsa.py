"""MVSA-Single: tweets with a picture, positive, neutral or negative.

Two layouts are read, together or alone:

- **the original folder**: `labelResultAll.txt` (number, annotation of the text, annotation of the picture),
  `data/{number}.txt` in gb18030, `data/{number}.jpg`.
- **QMF's splits**: `train.jsonl`, `dev.jsonl`, `test.jsonl`, beside them the same `data/{number}.jpg`. Their texts were
  read as latin-1 by whoever wrote them; they are repaired.

Two protocols, whose numbers cannot be compared:

- `agree-2592`: both annotations are equal. 1555 / 518 / 519, as the .jsonl files say; without them, a split of our own
  in the same proportions.
- `merged-4511`: a neutral annotation yields to the other, positive against negative is left out; 2683 positive, 470
  neutral, 1358 negative. 3611 / 450 / 450 by a split of our own, drawn with `split_seed` class by class: CLMLF, whose
  sizes these are, has its own lists, which are not among the public files here. It needs data/{number}.txt.

Of the published splits, 21 test and 28 validation texts are also in train; `Dataset.notes` counts them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .base import DataError, Dataset
from .contents import Contents, Part
from .fetch import data_root
from .formats.images import Mapped, central, picture_encoder, read_picture
from .formats.mvsa_files import (
    BRING,
    CLASSES,
    LABELS,
    NAME,
    PLANTED,
    SOURCE,
    SPLITS,
    Pair,
    read_folder,
    read_jsonl,
    read_labels,
    repeated,
    survey,
)
from .raw import Raw, RawSamples, as_label
from .registry import Entry
from .store import file_hash
from .texts import key_of, sentence_encoder

PROTOCOLS = ("agree-2592", "merged-4511")
PICTURES = ("require", "mask", "drop", "none")
SHARES = {"agree-2592": (1555, 518, 519), "merged-4511": (3611, 450, 450)}
# Grey levels of noise at severity 1 (QMF: ten times ε).
NOISE = 10.0


def load(
    root: str | Path | None = None,
    *,
    protocol: str = "agree-2592",
    pictures: str = "require",
    image: str = "patches",
    text: str = "minilm",
    split_seed: int = 0,
) -> dict[str, Dataset]:
    """Load the splits; modalities "text" and "image".

    Parameters
    ----------
    root : folder of all data sets, or the folder that holds the files
    protocol : "agree-2592" or "merged-4511"
    pictures : what to do where pictures are missing or cannot be read
        "require": refuse, and say how many. "mask": keep the text alone, the picture is a modality that is missing.
        "drop": leave the pair out. "none": no pictures at all, text is the only modality.
    image : "patches", "efficientnet-lite0", or the name of a Hugging Face vision model
    text : "words" (no learning, see `texts.WordEncoder`), "minilm", or the name of a Hugging Face text model
    split_seed : of splits of our own
    """
    _one_of("protocol", protocol, PROTOCOLS)
    _one_of("pictures", pictures, PICTURES)
    folder = find(root)
    cache = data_root(root) / "cache"
    pairs, layout = read_pairs(folder, protocol, split_seed)
    hashes = {name: file_hash(folder / name, cache) for name in SOURCE.hashes if (folder / name).is_file()}
    other = [name for name, digest in hashes.items() if digest != SOURCE.hashes[name]]
    notes = [f"{name}: SHA-256 {hashes[name]}, not the published copy's" for name in other]
    splits = datasets(
        pairs,
        cache,
        pictures=pictures,
        image=image,
        text=text,
        protocol=f"{protocol}, {layout}",
        synthetic=(folder / PLANTED).is_file(),
    )
    return {split: dataclasses.replace(d, hashes=hashes, notes=(*d.notes, *notes)) for split, d in splits.items()}


def datasets(
    pairs: Sequence[Pair],
    cache: Path,
    *,
    pictures: str,
    image: str,
    text: str,
    protocol: str,
    name: str = NAME,
    synthetic: bool = False,
    partners=None,
) -> dict[str, Dataset]:
    """The splits of pairs, as `load` gives them."""
    what = (
        f"{name}, synthetic: generated texts with drawn pictures"
        if synthetic
        else "MVSA-Single, real: tweets with a picture"
    )
    if synthetic:
        protocol = f"synthetic, {protocol}"
    notes = []
    wrong: dict[str, str] = {}
    if pictures != "none":
        wrong, key = survey(pairs, cache)
        counts = Counter(wrong.values())
        found = ", ".join(f"{counts[kind]} {kind}" for kind in ("missing", "unreadable"))
        if wrong and (pictures == "require" or len(wrong) == len(pairs)):
            first = next(p.picture for p in pairs if p.id in wrong)
            raise DataError(
                f"{first.parent}: of {len(pairs)} pictures, {found}, the first {first.name}. "
                "pictures='mask' keeps their texts, 'drop' leaves the pairs out, 'none' takes texts and no pictures. "
                + BRING
            )
        notes.append(f"pictures: {found}, of {len(pairs)}")
        if wrong:
            protocol += f", pictures {found}: {pictures}"
        if pictures == "drop":
            pairs = [p for p in pairs if p.id not in wrong]
    texts = [p.text for p in pairs]
    said = [bool(t.split()) for t in texts]
    empty = [p.id for p, is_said in zip(pairs, said, strict=True) if not is_said]
    mute = [i for i in empty if pictures == "none" or i in wrong]
    if mute:
        raise DataError(f"{pairs[0].picture.parent}: pairs {mute[:5]} ({len(mute)}) have neither text nor picture")
    if empty:
        notes.append(f"texts: {len(empty)} are empty, and count as missing: {', '.join(empty[:5])}")
    words = sentence_encoder(text, cache)
    raws = {"text": Raw(texts, said, "words", key_of(texts), lambda: words, cache, names=words.pieces)}
    if pictures == "none":
        image = "none"
    else:
        raws["image"] = Raw(
            Mapped(pairs, lambda p: central(read_picture(p.picture))),
            [p.id not in wrong for p in pairs],
            "pixels",
            f"mvsa {key} {len(pairs)}",
            lambda: picture_encoder(image),
            cache,
            noise=NOISE,
        )
    rows = {split: [i for i, p in enumerate(pairs) if p.split == split] for split in SPLITS}
    sizes = " / ".join(str(len(r)) for r in rows.values())
    same = repeated({split: [texts[i] for i in r] for split, r in rows.items()})
    notes.append(f"texts that are also in train: {same['valid']} of valid, {same['test']} of test")
    labels, ids = [as_label(p.label) for p in pairs], [p.id for p in pairs]
    samples = {split: RawSamples(raws, r, labels, ids, partners) for split, r in rows.items()}
    return {
        split: Dataset(
            name=name,
            split=split,
            protocol=f"{protocol}, {sizes}, text={text}, image={image}",
            description=f"{what}; positive, neutral or negative",
            synthetic=synthetic,
            task="classification",
            n_classes=len(CLASSES),
            readout="mean",
            samples=own,
            notes=(f"classes: {', '.join(CLASSES)}", *notes),
            show=own.show,
        )
        for split, own in samples.items()
    }


def read_pairs(folder: Path, protocol: str, split_seed: int = 0) -> tuple[list[Pair], str]:
    """The protocol's pairs, every one in a split, and in words where the split comes from."""
    if protocol == "agree-2592" and (folder / SPLITS["train"]).is_file():
        return read_jsonl(folder), "QMF's split"
    if not (folder / "data").is_dir():
        raise DataError(f"{folder / 'data'}: not found; {protocol} needs the texts in it, data/{{number}}.txt. {BRING}")
    pairs = read_folder(folder, merge=protocol == "merged-4511")
    splits = split_by_class(np.array([p.label for p in pairs]), SHARES[protocol], split_seed)
    return [
        dataclasses.replace(p, split=s) for p, s in zip(pairs, splits, strict=True)
    ], f"split of our own (split_seed {split_seed})"


def split_by_class(labels: np.ndarray, shares: Sequence[int], seed: int) -> list[str]:
    """A split's name a sample, each class in these shares; exactly `shares` where they add up to N.

    A class's samples are shuffled and laid on [0, 1) at even distances, all classes on one line; then the line is cut.
    So totals are exact, and every class has its share in every part, give or take two samples.
    """
    place = np.empty(len(labels))
    draw = np.random.default_rng(seed)
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        place[draw.permutation(own)] = (np.arange(len(own)) + draw.random()) / len(own)
    cuts = np.rint(np.cumsum(shares) / sum(shares) * len(labels)).astype(int)
    parts = np.repeat(np.arange(len(shares)), np.diff(cuts, prepend=0))
    result = np.empty(len(labels), int)
    result[np.argsort(place, kind="stable")] = parts
    return [tuple(SPLITS)[p] for p in result]


def find(root: str | Path | None = None) -> Path:
    """The folder with `labelResultAll.txt` or the .jsonl files: `root` itself, or one in it, or the fetched one."""
    return _found(root) or SOURCE.ensure(NAME, root)


def is_present(root: str | Path | None = None) -> bool:
    """Whether there are pictures too; texts alone, for ``pictures="none"``, can be fetched."""
    folder = _found(root)
    return folder is not None and any((folder / "data").glob("*.jpg"))


def _found(root: str | Path | None) -> Path | None:
    base = data_root(root)
    for folder in (base, *(base / name for name in ("mvsa_single", "MVSA_Single", "MVSA", "mvsa"))):
        if (folder / LABELS).is_file() or (folder / SPLITS["train"]).is_file():
            return folder
    return None


def inspect(path: Path) -> Contents | None:
    """For `data check`: the folder, in either layout or both, or one of its files."""
    folder = path.parent if path.name in SOURCE.hashes else path
    if not folder.is_dir() or not any((folder / name).is_file() for name in (LABELS, SPLITS["train"])):
        return None
    cache = data_root() / "cache"
    problems, notes = [], []
    if (folder / SPLITS["train"]).is_file():
        pairs, form = read_jsonl(folder), "MVSA-Single, QMF's .jsonl splits (agree-2592)"
    else:
        pairs, form = read_folder(folder, merge=False), "MVSA-Single, original folder (pairs that agree)"
    if (folder / LABELS).is_file():
        counts = Counter(read_labels(folder / LABELS).values())
        merged = sum(n for pair, n in counts.items() if set(pair) != {"positive", "negative"})
        agreed = sum(n for (a, b), n in counts.items() if a == b)
        notes.append(
            f"{LABELS}: {sum(counts.values())} pairs; annotations agree in {agreed}; {merged} when neutral yields, "
            f"without {sum(counts.values()) - merged} of positive against negative"
        )
    wrong, _ = survey(pairs, cache)
    counts = Counter(wrong.values())
    if wrong:
        problems.append(f"pictures: {counts['missing']} missing, {counts['unreadable']} unreadable, of {len(pairs)}")
    parts = {}
    for split in SPLITS if pairs[0].split else ("",):
        own = [p for p in pairs if p.split == split]
        parts[split or "all"] = Part(
            labels=np.array([CLASSES[p.label] for p in own]),
            lengths={"text": np.array([len(p.text.split()) for p in own])},
            ids=[p.id for p in own],
            texts=[p.text for p in own],
        )
    hashes = {name: file_hash(folder / name, cache) for name in SOURCE.hashes if (folder / name).is_file()}
    return Contents(folder, form, parts, (folder / PLANTED).is_file(), problems=problems, notes=notes, hashes=hashes)


def _one_of(name: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise ValueError(f"{name}: found {found!r}; expected one of {tuple(known)}")


ENTRIES = (Entry(NAME, load, is_present=is_present, bring=BRING, source=SOURCE, inspect=inspect),)
