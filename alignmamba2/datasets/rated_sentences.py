"""rated-sentences: sentences, each rated by people, for training a text encoder on sentiment.

The ground truth of VADER (Hutto & Gilbert, ICWSM 2014; MIT licence), which lies inside the source archive of the
package `vaderSentiment`: 10,605 sentences of film reviews, 3,708 of reviews of goods, 5,190 of newspaper editorials and
4,200 tweets, each rated by 15 people or more from −4 (extremely negative) to 4 (extremely positive). The label is the
mean rating. A recipe's `training.start` makes encoders start from what they learnt here.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..batch import Sample
from ..encoders import token_ids
from .base import DataError, Dataset, splits_of
from .fetch import published
from .registry import Entry

NAME = "rated-sentences"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/{}_GroundTruth.txt"
KINDS = {
    "films": "movieReviewSnippets",
    "goods": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
SHARES = {"train": 0.92, "valid": 0.04, "test": 0.04}
LONGEST = 64  # word pieces

SOURCE = published("rated_sentences")


@dataclass(frozen=True)
class Review:
    """A sentence, its mean rating in [−4, 4], and its number in the file."""

    id: str
    rating: float
    text: str


def load(
    root: str | Path | None = None, *, text: str = "minilm", kinds: Sequence[str] = ("films",), split_seed: int = 0
) -> dict[str, Dataset]:
    """Load the splits, 92 / 4 / 4 % by sentence; modality "text", as token ids for an encoder inside a model.

    Sentences are written as speech is transcribed, in lower case without punctuation; of equal ones, the first counts.

    Parameters
    ----------
    text : the encoder, "minilm", "mpnet", or the name of a Hugging Face text model
    kinds : of what is rated, out of "films", "goods", "news", "tweets"
    split_seed : seed of the draw of the splits
    """
    archive = SOURCE.ensure(NAME, root) / ARCHIVE
    reviews = [review for kind in kinds for review in read_reviews(archive, kind)]
    spoken = {re.sub(r"[^a-z0-9à-ÿ']+", " ", r.text.lower()).strip(): r for r in reversed(reviews)}
    spoken.pop("", None)
    ids = token_ids(text, list(spoken), LONGEST)
    samples = [
        Sample({"text": x}, torch.tensor(r.rating), r.id, {"text": tuple(sentence.split())})
        for x, (sentence, r) in zip(ids, spoken.items(), strict=True)
    ]
    order = np.random.default_rng(split_seed).permutation(len(samples))
    cuts = np.round(np.cumsum(list(SHARES.values()))[:-1] * len(samples)).astype(int)
    parts = dict(zip(SHARES, np.split(order, cuts), strict=True))
    return splits_of(
        {split: [samples[i] for i in part] for split, part in parts.items()},
        name=NAME,
        protocol=f"VADER's sentences on {', '.join(kinds)}, split 92/4/4 (split_seed {split_seed}), mean rating in "
        f"[-4, 4], text={text}",
        description="rated-sentences: sentences that are each rated by 15 people or more (VADER)",
        synthetic=False,
        encoders={"text": text},
        hashes=SOURCE.hashes,
    )


def read_reviews(archive: Path, kind: str = "films") -> list[Review]:
    """Return one kind's rated sentences of the archive, read in memory; nothing of it is unpacked or run.

    A `DataError` names the file and the line.
    """
    if kind not in KINDS:
        raise DataError(f"kinds: found {kind!r}; expected some of {', '.join(KINDS)}")
    ratings = RATINGS.format(KINDS[kind])
    try:
        # All of it first: tarfile stops at the file that it looks for, and would miss that the end is cut off.
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive.read_bytes()))) as outer:
            inner = outer.extractfile(INNER).read()
        with tarfile.open(fileobj=io.BytesIO(inner)) as files:
            lines = files.extractfile(ratings).read().decode("utf-8").splitlines()
    except (OSError, EOFError, KeyError, AttributeError, tarfile.TarError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{archive}: no readable {ratings} inside ({error}); remove it and fetch it again") from error
    reviews = []
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        try:
            name, rating, text = cells[0], float(cells[1]), cells[2]
        except (IndexError, ValueError):
            raise DataError(f"{archive}: {ratings}, line {number}: expected id, rating, text; found {line!r}") from None
        if not -4 <= rating <= 4:
            raise DataError(f"{archive}: {ratings}, line {number}: rating {rating:g}; expected -4 to 4")
        reviews.append(Review(name, rating, sayable(text)))
    return reviews


def sayable(text: str) -> str:
    """Return the text as plain words with the punctuation that shapes pauses, to be spoken and shown."""
    text = text.replace("&", " and ").replace("''", '"')
    text = re.sub(r"[^A-Za-z0-9À-ÿ'.,;:!?-]+", " ", text)
    # A mark that stands alone goes to the word before it.
    text = re.sub(r"\s+([.,;:!?'-]+)(?=\s|$)", r"\1", " " + text)
    return " ".join(text.split()).lstrip(".,;:!?'- ")


ENTRY = Entry(NAME, load, source=SOURCE)
