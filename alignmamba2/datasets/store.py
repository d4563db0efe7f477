"""Samples that were read once, kept so that they open at once and train in little memory.

A store (`storage.token_store`) has one file per split. Besides tokens it holds

    m.partner   (Σ T_i,) int32    where it is known: the text token that each token of m belongs to, −1 for none
    label       (N,) float32
    bert        (N, 3, T) int64   where the source has it: ids, mask and segments of BERT's tokens
    ids, texts  strings; no texts where the source has none

Of all this, only the labels are kept in memory. Only finite numbers get in: what was not finite is 0, and counted by
sample in `store.json`.
"""

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..batch import Sample
from ..storage.token_store import StoredTokens, packed, write_store, write_tokens
from .base import DataError


@dataclass(frozen=True)
class Split:
    """A split is N samples, ready to be written; mappings are by modality."""

    widths: Mapping[str, int]
    lengths: Mapping[str, np.ndarray]  # (N,): real tokens of each sample
    tokens: Callable[[str], Iterable[np.ndarray]]  # of a modality: its real tokens (T_i, D_m), sample by sample
    labels: np.ndarray  # (N,)
    ids: Sequence[str]
    texts: Sequence[str] = ()  # N, or empty
    partners: Mapping[str, np.ndarray] = field(default_factory=dict)  # int (Σ T_i,)
    bert: np.ndarray | None = None  # int (N, 3, T)


def write(folder: Path, splits: Mapping[str, Split], about: Mapping[str, Any]) -> None:
    """Write a store, whole or not at all. `about` goes into `store.json`, beside "replaced" and "version".

    A `DataError` says that there is no room, or that a split does not hold what it says.
    """
    need = sum(4 * int(s.lengths[m].sum()) * s.widths[m] for s in splits.values() for m in s.widths)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if need > (free := shutil.disk_usage(folder.parent).free):
            raise DataError(
                f"{folder.parent}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. "
                "Make room, or set ALIGNMAMBA2_DATA to a folder with more"
            )
        write_store(
            folder,
            lambda part: {
                **about,
                "replaced": {name: _write_split(part / f"{name}.safetensors", s) for name, s in splits.items()},
            },
        )
    except OSError as error:
        raise DataError(f"{error}. Set ALIGNMAMBA2_DATA to a folder with room") from error


def _write_split(path: Path, split: Split) -> dict[str, dict[str, int]]:
    """Return how many values were not finite, by modality and id of a sample."""
    replaced: dict[str, dict[str, int]] = {m: {} for m in split.widths}
    arrays = {"label": np.asarray(split.labels, "<f4"), **packed("ids", split.ids), **packed("texts", split.texts)}
    arrays |= {f"{m}.partner": np.asarray(partner, "<i4") for m, partner in split.partners.items()}
    if split.bert is not None:
        arrays["bert"] = np.asarray(split.bert, "<i8")
    write_tokens(path, {m: (d, _finite(split, m, replaced[m])) for m, d in split.widths.items()}, arrays)
    return replaced


def _finite(split: Split, modality: str, replaced: dict[str, int]) -> Iterator[np.ndarray]:
    """Yield each sample's tokens, 0 where they were not finite, and count those by id in `replaced`."""
    for name, length, tokens in zip_longest(split.ids, split.lengths[modality], split.tokens(modality)):
        if name is None or tokens is None:
            number = "more" if name is None else "fewer"
            raise DataError(f"{modality}: {number} samples with tokens were read than the {len(split.ids)} expected")
        # A float64 beyond float32's range becomes infinite here, and is counted with the others.
        with np.errstate(over="ignore"):
            values = np.array(tokens, "<f4")
        if values.shape != (length, split.widths[modality]):
            expected = (int(length), split.widths[modality])
            raise DataError(f"{modality} of {name!r}: found tokens {values.shape}; expected {expected}")
        wrong = ~np.isfinite(values)
        if wrong.any():
            values[wrong] = 0
            replaced[name] = replaced.get(name, 0) + int(wrong.sum())
        yield values


def video_of(utterance: str) -> str:
    """Return the video of an utterance's id, `video$_$clip` or `video[k]`."""
    return utterance.split("$_$")[0].split("[")[0]


class StoredSamples(Sequence):
    """StoredSamples are the samples of a split's file, each read when it is requested; a slice is a view.

    With `as_ids`, text is BERT's token ids (T,) int64 in place of features.
    """

    finite = True  # there is no NaN and no infinity in a store

    def __init__(self, path: Path, aligned: bool = False, as_ids: bool = False):
        self.aligned, self.as_ids = aligned, as_ids
        self._tokens = StoredTokens(path)
        self._ids, self._texts = self._tokens.strings("ids"), self._tokens.strings("texts")
        self._labels = torch.from_numpy(self._tokens.arrays["label"][:])
        self._rows = range(len(self._tokens))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key):
        if isinstance(key, slice):
            part = copy.copy(self)
            part._rows = self._rows[key]
            return part
        i = self._rows[key]
        features = {m: torch.from_numpy(x) for m, x in self._tokens.read(i).items()}
        partners = {}
        for m, rows in self._tokens.rows(i).items():
            if f"{m}.partner" in self._tokens.arrays:
                partners[m, "text"] = torch.from_numpy(self._tokens.arrays[f"{m}.partner"][rows]).long()
            elif self.aligned and m != "text":
                partners[m, "text"] = torch.arange(len(features[m]))
        if self.as_ids:
            ids, mask, _ = torch.from_numpy(np.array(self._tokens.arrays["bert"][i]))
            features["text"] = ids[mask > 0]
            known = len(features["text"])  # of an aligned file, sound and face may go on
            partners = {pair: torch.where(x < known, x, -1) for pair, x in partners.items()}
        words = self._texts[i].split() if self._texts else []
        # Only where every token is a word: BERT's tokens are pieces of words.
        names = {"text": words} if len(words) == len(features["text"]) and not self.as_ids else {}
        return Sample(features, self._labels[i], self._ids[i], names, partners, group=video_of(self._ids[i]))

    @property
    def labels(self) -> torch.Tensor:
        """All labels, float32 (N,)."""
        return self._labels[list(self._rows)]

    @property
    def ids(self) -> list[str]:
        return [self._ids[i] for i in self._rows]

    @property
    def texts(self) -> list[str]:
        """N texts, or none where the source has none."""
        return [self._texts[i] for i in self._rows] if self._texts else []

    def lengths(self, modality: str) -> np.ndarray:
        """Return the number of tokens (N,) of each sample, without reading any."""
        return self._tokens.lengths(modality)[list(self._rows)]

    def bert(self, index: int) -> np.ndarray | None:
        """Return BERT's ids, mask and segments (3, T) int64 of a sample, where the source has them."""
        return self._tokens.arrays["bert"][self._rows[index]] if "bert" in self._tokens.arrays else None
