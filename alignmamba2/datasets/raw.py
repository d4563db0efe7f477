"""Samples whose pictures and words are kept, so that they can be corrupted before they become tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..batch import Sample
from ..encoders import depth_image
from .formats.images import Mapped


class Encoder(Protocol):
    """What makes tokens (T, D) of items; `data_hash` names the items where that is cheaper than reading them."""

    def encode(self, items: Sequence, cache: str | Path, data_hash: str) -> Sequence[Tensor]: ...


class Raw:
    """One modality as it was before it became tokens.

    Items are read, and tokens computed, when a token is first asked for; encoders keep tokens on disk.

    Parameters
    ----------
    items : sequence of arrays or strings
    here : sequence of bool
        False where the modality is missing; that item is never asked for.
    level : "pixels" (n, n, 3) uint8, "metres" (n, n) float32, or "words", strings
    key : names the items in the encoder's cache
    encoder : function of nothing that makes the encoder, called when there is something to encode
    cache : folder
    noise : standard deviation, in units of the items, of Gaussian noise of severity 1
    names : function of an item that names its tokens, for pictures; optional
    """

    def __init__(
        self,
        items: Sequence,
        here: Sequence[bool],
        level: str,
        key: str,
        encoder: Callable[[], Encoder],
        cache: Path,
        noise: float = 1.0,
        names: Callable[[Any], Sequence[str]] | None = None,
    ):
        self.items, self.here, self.level, self.key = items, list(here), level, key
        self.encoder, self.cache, self.noise, self.names = encoder, cache, noise, names
        self._place = {i: place for place, i in enumerate(i for i, is_here in enumerate(self.here) if is_here)}

    @cached_property
    def _tokens(self) -> Sequence[Tensor]:
        if not self._place:
            raise ValueError(f"{self.level}: missing from every sample, so there is nothing to encode")
        present = list(self._place)
        items = Mapped(present, lambda i: self.items[i])
        return self.encoder().encode(items, self.cache, data_hash=self.key)

    def tokens(self, index: int) -> Tensor:
        """(T, D); T is 0 where the modality is missing."""
        tokens = self._tokens
        return tokens[self._place[index]] if self.here[index] else tokens[0].new_zeros(0, tokens[0].shape[-1])

    def words(self, index: int) -> Sequence[str]:
        return self.names(self.items[index]) if self.names and self.here[index] else ()

    def changed(self, rows: Sequence[int], change: Callable[[int, Any], Any], how: str) -> Raw:
        """The same, with items seen through `change(row, item)`, for these rows alone; `how` names the change."""
        key = hashlib.sha256(f"{self.key} {how} {list(rows)}".encode()).hexdigest()
        items = Mapped(range(len(self.here)), lambda row: change(row, self.items[row]))
        kept = set(rows)
        here = [is_here and row in kept for row, is_here in enumerate(self.here)]
        return Raw(items, here, self.level, key, self.encoder, self.cache, self.noise, self.names)


class RawSamples(Sequence):
    """Samples made of `Raw` modalities. Their features are finite: encoders refuse to keep anything else.

    Parameters
    ----------
    raws : mapping of modality to Raw
    rows : the rows of `raws` that are these samples, in their order
    labels, ids : one a row of `raws`
    partners : function of a sample's id and its features that gives the sample's partners; optional
    """

    finite = True

    def __init__(
        self,
        raws: Mapping[str, Raw],
        rows: Sequence[int],
        labels: Sequence[Tensor],
        ids: Sequence[str],
        partners: Callable[[str, Mapping[str, Tensor]], Mapping] | None = None,
    ):
        self.raws, self.rows, self._labels, self._ids, self._partners = raws, list(rows), labels, ids, partners

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        features = {m: raw.tokens(row) for m, raw in self.raws.items()}
        words = {m: names for m, raw in self.raws.items() if len(names := raw.words(row)) == len(features[m])}
        partners = self._partners(self._ids[row], features) if self._partners else {}
        return Sample(features, self._labels[row], self._ids[row], words, partners)

    @property
    def labels(self) -> list[Tensor]:
        return [self._labels[i] for i in self.rows]

    @property
    def ids(self) -> list[str]:
        return [self._ids[i] for i in self.rows]

    def item(self, index: int, modality: str) -> Any:
        """What a sample's tokens are made of: pixels (n, n, 3), metres (n, n), or a text; None where it is missing."""
        raw, row = self.raws[modality], self.rows[index]
        return raw.items[row] if raw.here[row] else None

    @property
    def show(self) -> dict[str, Callable[[Sample], np.ndarray | None]]:
        """For `Dataset.show`: the pictures that tokens are made of; of depth in metres a grey one, 10 m are white."""
        return {m: partial(self._picture, m) for m, raw in self.raws.items() if raw.level in ("pixels", "metres")}

    def _picture(self, modality: str, sample: Sample) -> np.ndarray | None:
        item = self.item(self.ids.index(sample.id), modality)
        return depth_image(item) if item is not None and self.raws[modality].level == "metres" else item

    def changed(self, changes: Mapping[str, Callable[[str, Any], Any]], how: str) -> RawSamples:
        """The same samples with items of some modalities seen through a function of the sample's id and the item.

        Nothing is read or encoded before it is asked for.
        """
        raws = dict(self.raws)
        for m, change in changes.items():
            raws[m] = raws[m].changed(self.rows, _by_id(change, self._ids), how)
        return RawSamples(raws, self.rows, self._labels, self._ids, self._partners)


def _by_id(change: Callable[[str, Any], Any], ids: Sequence[str]) -> Callable[[int, Any], Any]:
    return lambda row, item: change(ids[row], item)


def as_label(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64)
