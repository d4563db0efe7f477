"""Samples whose raw pictures and texts are kept, so that they can be corrupted before they are encoded as tokens."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor

from ..batch import Sample
from ..encoders import depth_image
from ..encoders.cache import hash_items
from .base import Mapped


class Encoder(Protocol):
    """Encodes items as tokens (T, D); `data_hash` names the items, which is cheaper than reading them."""

    def encode(self, items: Sequence, cache: str | Path, data_hash: str) -> Sequence[Tensor]: ...


class AsTheyAre:
    """AsTheyAre encodes items that are tokens already."""

    def encode(self, items: Sequence, cache: str | Path, data_hash: str) -> Sequence[Tensor]:
        return items


@dataclass(frozen=True, eq=False)
class RawModality:
    """One modality before it is encoded. Items are read, and all tokens computed, when a token is first requested."""

    items: Sequence  # N arrays or strings
    present: Sequence[bool]  # N; the item of a sample that lacks the modality is never read
    level: str  # "pixels" (n, n, 3) uint8, "metres" (n, n) float32, or "words", strings
    key: str  # names the items in the encoder's cache
    encoder: Callable[[], Encoder]  # called when there is something to encode
    cache: Path
    noise: float = 1.0  # standard deviation, in units of the items, of Gaussian noise of severity 1
    names: Callable[[Any], Sequence[str]] | None = None  # of an item: the names of its tokens, for pictures

    @cached_property
    def _places(self) -> dict[int, int]:
        """The place of each present row among the encoded ones."""
        rows = (row for row, is_present in enumerate(self.present) if is_present)
        return {row: place for place, row in enumerate(rows)}

    @cached_property
    def _tokens(self) -> Sequence[Tensor]:
        if not self._places:
            raise ValueError(f"{self.level}: missing from every sample, so there is nothing to encode")
        items = Mapped(list(self._places), self.items.__getitem__)
        return self.encoder().encode(items, self.cache, data_hash=self.key)

    def tokens(self, row: int) -> Tensor:
        """Return the row's tokens (T, D), or ids or pictures for an encoder inside a model; T is 0 if it is missing."""
        tokens = self._tokens
        return tokens[self._places[row]] if self.present[row] else tokens[0][:0]

    def words(self, row: int) -> Sequence[str]:
        return self.names(self.items[row]) if self.names and self.present[row] else ()


def encoders_inside(encode: bool, **names: str) -> dict[str, str]:
    """Return encoders by modality for `Dataset.encoders`, none where the data set encodes.

    A `ValueError` names one that cannot stand in a model: "patches" and "words" have no weights.
    """
    for modality, name in names.items():
        if not encode and name in ("patches", "words"):
            raise ValueError(f"{modality}: found {name!r} with encode=False; expected the name of a pretrained encoder")
    return {} if encode else names


@dataclass(frozen=True, eq=False)
class RawSamples(Sequence):
    """Samples made of `RawModality`s. Their features are finite: encoders refuse to keep anything else."""

    raws: Mapping[str, RawModality]  # of N rows each, as all below but `rows`
    rows: list[int]  # those that are these samples, in their order
    all_labels: Tensor | Sequence[None]
    all_ids: Sequence[str]
    partners: Callable[[str, Mapping[str, Tensor]], Mapping] | None = None  # of a sample, by its id and its features
    groups: Sequence[str] = ()
    finite: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        features = {m: raw.tokens(row) for m, raw in self.raws.items()}
        words = {m: names for m, raw in self.raws.items() if len(names := raw.words(row)) == len(features[m])}
        name, group = self.all_ids[row], self.groups[row] if self.groups else ""
        partners = self.partners(name, features) if self.partners else {}
        label, known = self.all_labels[row], None
        if label is not None and label.ndim:  # of several, −1 and NaN are not known
            known = ~label.isnan() if label.is_floating_point() else label >= 0
        return Sample(features, label, name, words, partners, group=group, label_mask=known)

    @property
    def labels(self) -> list[Tensor]:
        return [self.all_labels[row] for row in self.rows]

    @property
    def ids(self) -> list[str]:
        return [self.all_ids[row] for row in self.rows]

    def item(self, index: int, modality: str) -> Any:
        """Return a sample's pixels (n, n, 3), metres (n, n), or text; None if the modality is missing."""
        raw, row = self.raws[modality], self.rows[index]
        return raw.items[row] if raw.present[row] else None

    @property
    def show(self) -> dict[str, Callable[[Sample], np.ndarray | None]]:
        """The pictures that tokens are made of, for `Dataset.show`; depth in metres is grey, 10 m are white."""
        return {m: partial(self._picture, m) for m, raw in self.raws.items() if raw.level in ("pixels", "metres")}

    def _picture(self, modality: str, sample: Sample) -> np.ndarray | None:
        item = self.item(self.ids.index(sample.id), modality)
        return depth_image(item) if item is not None and self.raws[modality].level == "metres" else item

    def changed(self, changes: Mapping[str, Callable[[str, Any], Any]], how: str) -> Self:
        """Return the same samples with items of some modalities replaced by a function of id and item; `how` names it.

        Reads and encodes nothing before a sample is requested.
        """
        raws, rows = dict(self.raws), set(self.rows)
        for m, change in changes.items():
            raw = raws[m]
            raws[m] = replace(
                raw,
                items=Mapped(range(len(raw.present)), partial(_changed_item, change, self.all_ids, raw.items)),
                present=[is_present and row in rows for row, is_present in enumerate(raw.present)],
                key=hashlib.sha256(f"{raw.key} {how} {self.rows}".encode()).hexdigest(),
            )
        return replace(self, raws=raws)

    @property
    def keys(self) -> dict[str, str]:
        """Names of the raw items of these rows, by modality: what is computed of them is kept under these names."""
        return {m: f"{raw.key} {hash_items(map(str, self.rows))}" for m, raw in self.raws.items() if raw.key}

    def without(self, modalities: Sequence[str]) -> Self:
        """Return the same samples without some of their modalities, of which nothing is read then."""
        raws = {m: raw for m, raw in self.raws.items() if m not in modalities}
        return replace(self, raws=raws, partners=self.partners if len(raws) == len(self.raws) else None)


def _changed_item(change: Callable[[str, Any], Any], ids: Sequence[str], items: Sequence, row: int) -> Any:
    return change(ids[row], items[row])
