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
seed: twice as many sentences, and wider sound and face. `mosi_files.py` writes both in the real files' formats.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ...batch import Sample
from ..base import Dataset, splits_of

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
