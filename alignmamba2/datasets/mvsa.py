"""MVSA-Single: tweets with a picture, positive, neutral or negative.

The original folder and QMF's splits are read, together or alone (data/README.md#mvsa has their tree and their traps).
Two protocols, whose numbers cannot be compared:

- `agree-2592`: both annotations are equal. 1555 / 518 / 519, as in the .jsonl files; without them, a split of our own
  in the same proportions.
- `merged-4511`: a neutral annotation yields to the other, positive against negative is left out; 2683 positive, 470
  neutral, 1358 negative. 3611 / 450 / 450 by a split of our own, drawn with `split_seed` class by class: CLMLF, whose
  sizes these are, has its own lists, which are not among the public files here. It needs data/{number}.txt.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..encoders.text import sentence_encoder
from .base import DataError, Dataset, Mapped, check_choice, splits_of
from .contents import Contents, Part
from .fetch import data_root, find_folder
from .formats import mvsa_files as files
from .formats.images import LARGE, SIZE, central, picture_encoder, read_picture
from .formats.mvsa_files import BRING, CLASSES, FETCH, LABELS, NAME, PLANTED, SOURCE, SPLITS, TWEETS, Pair
from .raw_modalities import RawModality, RawSamples, encoders_inside
from .registry import Entry

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
    encode: bool = True,
) -> dict[str, Dataset]:
    """Load the splits; modalities "text" and "image".

    Parameters
    ----------
    root : folder of all data sets, or the folder that holds the files
    protocol : "agree-2592" or "merged-4511"
    pictures : treatment of pictures that are missing or cannot be read
        "require": refuse, with their number. "mask": keep the text, with the picture as a missing modality. "drop":
        leave the pair out. "none": take no pictures at all, text is the only modality.
    image : "patches", "efficientnet-lite0", or the name of a Hugging Face vision model
    text : "words" (no learning, see `WordEncoder`), "minilm", or the name of a Hugging Face text model
    split_seed : seed of splits of our own
    encode : False for encoders inside the model: samples then hold token ids (T,) int64 and pictures (1, 256, 256, 3)
        uint8 (the shorter side becomes 256, the central square is kept), and `Dataset.encoders` names both encoders
    """
    check_choices(protocol, pictures)
    folder = find(root)
    here = folder == data_root(root) / SOURCE.folder
    if here and pictures != "none" and not any((folder / "data").glob("*.jpg")) and TWEETS.mirror():
        TWEETS.fetch(root, progress=False)
    pairs, layout = read_pairs(folder, protocol, split_seed)
    hashes, changed = SOURCE.hashes_in(folder)
    splits = datasets(
        pairs,
        data_root(root) / "cache",
        pictures=pictures,
        image=image,
        text=text,
        protocol=f"{protocol}, {layout}",
        synthetic=(folder / PLANTED).is_file(),
        encode=encode,
    )
    notes = [f"{name}: SHA-256 {hashes[name]}, not the published copy's" for name in changed]
    return {split: dataclasses.replace(d, hashes=hashes, notes=(*d.notes, *notes)) for split, d in splits.items()}


def check_choices(protocol: str, pictures: str) -> None:
    check_choice("protocol", protocol, PROTOCOLS)
    check_choice("pictures", pictures, PICTURES)


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
    encode: bool = True,
) -> dict[str, Dataset]:
    """Return the splits of pairs; options as of `load`, `partners` as of `RawSamples`."""
    bad: dict[str, str] = {}
    notes, raws, image = [], {}, "none" if pictures == "none" else image
    encoders = encoders_inside(encode, text=text, **({} if pictures == "none" else {"image": image}))
    if pictures != "none":
        bad, key = files.survey(pairs, cache)
        summary = _summary(bad)
        if bad and (pictures == "require" or len(bad) == len(pairs)):
            first = next(p.picture for p in pairs if p.id in bad)
            raise DataError(
                f"{first.parent}: of {len(pairs)} pictures, {summary}, the first {first.name}. "
                "pictures='mask' keeps their texts, 'drop' leaves the pairs out, 'none' takes texts and no pictures. "
                + BRING
            )
        notes.append(f"pictures: {summary}, of {len(pairs)}")
        protocol += f", pictures {summary}: {pictures}" if bad else ""
        if pictures == "drop":
            pairs = [p for p in pairs if p.id not in bad]
        size, key = SIZE if encode else LARGE, f"mvsa {key} {len(pairs)}"
        items = Mapped(pairs, lambda p: central(read_picture(p.picture), size))
        named, present = partial(picture_encoder, image, encode=encode), [p.id not in bad for p in pairs]
        raws["image"] = RawModality(items, present, "pixels", key, named, cache, noise=NOISE)
    empty = [p.id for p in pairs if not p.text.split()]
    if mute := [i for i in empty if pictures == "none" or i in bad]:
        raise DataError(f"{pairs[0].picture.parent}: pairs {mute[:5]} ({len(mute)}) have neither text nor picture")
    if empty:
        notes.append(f"texts: {len(empty)} are empty, and count as missing: {', '.join(empty[:5])}")
    words, texts = sentence_encoder(text, encode), [p.text for p in pairs]
    key, present = hashlib.sha256("\0".join(texts).encode()).hexdigest(), [bool(t.split()) for t in texts]
    raws = {"text": RawModality(texts, present, "words", key, lambda: words, cache, names=words.pieces), **raws}
    rows = {split: [i for i, p in enumerate(pairs) if p.split == split] for split in SPLITS}
    same = files.repeated({split: [pairs[i].text for i in r] for split, r in rows.items()})
    notes.append(f"texts that are also in train: {same['valid']} of valid, {same['test']} of test")
    labels, ids = torch.tensor([p.label for p in pairs]), [p.id for p in pairs]
    sizes = " / ".join(str(len(r)) for r in rows.values())
    kind = "synthetic: generated texts with drawn pictures" if synthetic else "real: tweets with a picture"
    return splits_of(
        {split: RawSamples(raws, r, labels, ids, partners) for split, r in rows.items()},
        name=name,
        protocol=f"{'synthetic, ' if synthetic else ''}{protocol}, {sizes}, text={text}, image={image}",
        description=f"{name if synthetic else 'MVSA-Single'}, {kind}; positive, neutral or negative",
        synthetic=synthetic,
        classes=CLASSES,
        notes=notes,
        encoders=encoders,
    )


def _summary(bad: dict[str, str]) -> str:
    return ", ".join(f"{list(bad.values()).count(kind)} {kind}" for kind in ("missing", "unreadable"))


def read_pairs(folder: Path, protocol: str, split_seed: int = 0) -> tuple[list[Pair], str]:
    """Return the protocol's pairs, every one in a split, and the origin of the split in words."""
    if protocol == "agree-2592" and (folder / SPLITS["train"]).is_file():
        return files.read_jsonl(folder), "QMF's split"
    if not (folder / "data").is_dir():
        raise DataError(f"{folder / 'data'}: not found; {protocol} needs the texts in it, data/{{number}}.txt. {BRING}")
    pairs = files.read_folder(folder, merge=protocol == "merged-4511")
    splits = split_by_class(np.array([p.label for p in pairs]), SHARES[protocol], split_seed)
    pairs = [dataclasses.replace(p, split=s) for p, s in zip(pairs, splits, strict=True)]
    return pairs, f"split of our own (split_seed {split_seed})"


def split_by_class(labels: np.ndarray, shares: Sequence[int], seed: int) -> list[str]:
    """Return the name of a split per sample, each class in these shares; exactly `shares` if they add up to N.

    A class's samples are shuffled and laid on [0, 1) at even distances, all classes on one line; then the line is cut.
    So totals are exact, and every class has its share in every part, give or take two samples.
    """
    place = np.empty(len(labels))
    draw = np.random.default_rng(seed)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        place[draw.permutation(rows)] = (np.arange(len(rows)) + draw.random()) / len(rows)
    cuts = np.rint(np.cumsum(shares) / sum(shares) * len(labels)).astype(int)
    parts = np.repeat(np.arange(len(shares)), np.diff(cuts, prepend=0))
    result = np.empty(len(labels), int)
    result[np.argsort(place, kind="stable")] = parts
    return [tuple(SPLITS)[p] for p in result]


def _folder(root: str | Path | None) -> Path | None:
    return find_folder(root, ("mvsa_single", "MVSA_Single", "MVSA", "mvsa"), (LABELS, SPLITS["train"]))


def find(root: str | Path | None = None) -> Path:
    """Return the folder with `labelResultAll.txt` or the .jsonl files: `root`, one in it, or the fetched one."""
    return _folder(root) or SOURCE.ensure(NAME, root)


def is_present(root: str | Path | None = None) -> bool:
    """Return whether there are pictures too, here or in the mirror; texts alone are for ``pictures="none"``."""
    folder = _folder(root)
    if folder is not None and any((folder / "data").glob("*.jpg")):
        return True
    here = folder in (None, data_root(root) / SOURCE.folder)
    return here and TWEETS.mirror() is not None and SOURCE.at_hand(root)


def inspect(path: Path) -> Contents | None:
    """Return the contents of the folder, in either layout or both, or of the folder around one of its files."""
    folder = path.parent if path.name in SOURCE.hashes else path
    if not folder.is_dir() or not any((folder / name).is_file() for name in (LABELS, SPLITS["train"])):
        return None
    problems, notes = [], []
    if (folder / SPLITS["train"]).is_file():
        pairs, form = files.read_jsonl(folder), "MVSA-Single, QMF's .jsonl splits (agree-2592)"
    else:
        pairs, form = files.read_folder(folder, merge=False), "MVSA-Single, original folder (pairs that agree)"
    if (folder / LABELS).is_file():
        counts = Counter(files.read_labels(folder / LABELS).values())
        opposed = sum(n for pair, n in counts.items() if set(pair) == {"positive", "negative"})
        agreed = sum(n for (a, b), n in counts.items() if a == b)
        notes.append(
            f"{LABELS}: {counts.total()} pairs; annotations agree in {agreed}; {counts.total() - opposed} when neutral "
            f"yields, without {opposed} of positive against negative"
        )
    bad, _ = files.survey(pairs, data_root() / "cache")
    if bad:
        problems.append(f"pictures: {_summary(bad)}, of {len(pairs)}")
    parts = {}
    for split in SPLITS if pairs[0].split else ("",):
        part = [p for p in pairs if p.split == split]
        parts[split or "all"] = Part(
            labels=np.array([CLASSES[p.label] for p in part]),
            lengths={"text": np.array([len(p.text.split()) for p in part])},
            ids=[p.id for p in part],
            texts=[p.text for p in part],
        )
    hashes, _ = SOURCE.hashes_in(folder)
    return Contents(folder, form, parts, (folder / PLANTED).is_file(), problems=problems, notes=notes, hashes=hashes)


MORE = {"pictures": [TWEETS]}
ENTRY = Entry(NAME, load, is_present=is_present, bring=FETCH, source=SOURCE, more=MORE, inspect=inspect)
