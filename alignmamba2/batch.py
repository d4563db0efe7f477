"""What every data set yields and every model takes: a sample, and a padded, masked batch of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class BatchError(ValueError):
    """A field of a sample or batch is not what it should be; the message names the field."""


@dataclass(frozen=True)
class Sample:
    """One sample: for each modality a sequence of tokens.

    Attributes
    ----------
    features : mapping of modality name to Tensor (T_m, D_m), float
        T_m may differ between modalities and may be 0 (the modality is missing).
    label : scalar Tensor, or Tensor (T,) for one label a step, or None
        float for regression, int64 for classes.
    id : str
        Names the sample in errors and pictures.
    words : mapping of modality name to a sequence of T_m strings
        What a token stands for, for pictures; optional.
    partners : mapping of (modality, anchor) to int64 Tensor (T_m,)
        Where the truth is known: the anchor's token that each token belongs to, −1 for none; optional.
    masks : mapping of modality name to bool Tensor (T_m,)
        False where a token is to be passed over, as if it were not there; left out: all are real.
    """

    features: Mapping[str, Tensor]
    label: Tensor | None = None
    id: str = ""
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    partners: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MultimodalBatch:
    """B samples, padded to the longest of the batch in each modality.

    Attributes
    ----------
    features : mapping of modality name to Tensor (B, T_m, D_m), float
    masks : mapping of modality name to bool Tensor (B, T_m)
        True where a token is real. A missing modality is a row without any True. Left out: all are real.
    labels : Tensor (B,) or (B, T) or None
    label_mask : bool Tensor (B, T) or None
        For one label a step: True where there is a label.
    ids : tuple of B strings
    words : tuple of B mappings, as in `Sample`

    Raises
    ------
    BatchError
        Naming the field, what was found and what was expected: sizes that do not agree, a mask that is
        not boolean, a NaN or an infinity at a real token (counted, with the samples that hold it).
        What lies on padding is never looked at, and is set to 0.
    """

    features: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    label_mask: Tensor | None = None
    ids: Sequence[str] = ()
    words: Sequence[Mapping[str, Sequence[str]]] = ()

    def __post_init__(self) -> None:
        if not self.features:
            raise BatchError("features: empty; expected at least one modality, such as {'text': (B, T, D)}")
        size = next(iter(self.features.values())).shape[0]
        unknown = set(self.masks) - set(self.features)
        if unknown:
            raise BatchError(f"masks: {sorted(unknown)} have no features; features has {list(self.features)}")
        masks = {}
        for name, x in self.features.items():
            if x.ndim != 3 or not x.is_floating_point():
                raise BatchError(
                    f"features[{name!r}]: found {tuple(x.shape)} {x.dtype}; expected (B, T, D), floating point"
                )
            mask = self.masks.get(name)
            if mask is None:
                mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
                raise BatchError(
                    f"masks[{name!r}]: found {tuple(mask.shape)} {mask.dtype}; expected "
                    f"{tuple(x.shape[:2])} torch.bool, True where a token is real"
                )
            if x.shape[0] != size:
                raise BatchError(f"features[{name!r}]: found {x.shape[0]} samples; the first modality has {size}")
            masks[name] = mask
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "ids", tuple(self.ids) or tuple(str(i) for i in range(size)))
        object.__setattr__(self, "words", tuple(self.words) or ({},) * size)
        for name in ("ids", "words"):
            if len(getattr(self, name)) != size:
                raise BatchError(f"{name}: found {len(getattr(self, name))} entries; expected {size}, one a sample")
        object.__setattr__(self, "features", {m: self._cleaned(m) for m in self.features})
        self._check_labels(size)

    def _cleaned(self, name: str) -> Tensor:
        """The features with zeros on padding, once every real token is known to be finite."""
        x, mask = self.features[name], self.masks[name]
        bad = ~torch.isfinite(x) & mask.unsqueeze(-1)
        if bad.any():
            rows = bad.flatten(1).any(1)
            raise BatchError(
                f"features[{name!r}]: {int(bad.sum())} NaN or infinite values in {int(rows.sum())} samples "
                f"({self._some(rows)}); expected finite numbers. Replace them, mask those tokens out, or say "
                "nonfinite='mask' or 'zero' where the data is loaded."
            )
        return x if mask.all() else x.masked_fill(~mask.unsqueeze(-1), 0)

    def _check_labels(self, size: int) -> None:
        if self.labels is None:
            if self.label_mask is not None:
                raise BatchError("label_mask: given without labels")
            return
        if self.labels.ndim not in (1, 2) or self.labels.shape[0] != size:
            raise BatchError(f"labels: found {tuple(self.labels.shape)}; expected ({size},) or ({size}, T)")
        if self.labels.ndim == 2:
            mask = self.label_mask
            if mask is None:
                mask = torch.ones_like(self.labels, dtype=torch.bool)
                object.__setattr__(self, "label_mask", mask)
            if mask.shape != self.labels.shape or mask.dtype != torch.bool:
                raise BatchError(
                    f"label_mask: found {tuple(mask.shape)} {mask.dtype}; expected {tuple(self.labels.shape)} bool"
                )
        elif self.label_mask is not None:
            raise BatchError("label_mask: only for one label a step, labels (B, T)")
        bad = ~torch.isfinite(self.labels)
        if self.label_mask is not None:
            bad &= self.label_mask
        if bad.any():
            rows = bad.reshape(size, -1).any(1)
            raise BatchError(
                f"labels: {int(bad.sum())} NaN or infinite in {int(rows.sum())} samples ({self._some(rows)}); "
                "expected finite numbers"
            )

    def _some(self, rows: Tensor) -> str:
        """The first ids of those samples."""
        chosen = [self.ids[i] for i in rows.nonzero().flatten().tolist()]
        return ", ".join(chosen[:5]) + (", …" if len(chosen) > 5 else "")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.features)

    @property
    def device(self) -> torch.device:
        return next(iter(self.features.values())).device

    def _map(self, move) -> MultimodalBatch:
        # The values are known to be good: copy the fields without checking them again.
        new = object.__new__(MultimodalBatch)
        values: dict[str, Any] = {
            "features": {m: move(x) for m, x in self.features.items()},
            "masks": {m: move(x) for m, x in self.masks.items()},
            "labels": None if self.labels is None else move(self.labels),
            "label_mask": None if self.label_mask is None else move(self.label_mask),
            "ids": self.ids,
            "words": self.words,
        }
        for name, value in values.items():
            object.__setattr__(new, name, value)
        return new

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultimodalBatch:
        """The same batch on another device."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MultimodalBatch:
        """The same batch in page-locked memory, from where copies to a GPU do not block."""
        return self._map(lambda x: x.pin_memory())

    def only(self, *modalities: str) -> MultimodalBatch:
        """The same batch with nothing but these modalities: what a model sees when the others are missing."""
        missing = set(modalities) - set(self.features)
        if missing:
            raise BatchError(f"only: no modality {sorted(missing)} here; there are {list(self.features)}")
        return replace(
            self,
            features={m: self.features[m] for m in modalities},
            masks={m: self.masks[m] for m in modalities},
        )

    @classmethod
    def from_samples(cls, samples: Iterable[Sample]) -> MultimodalBatch:
        """Pad samples of any lengths into one batch (the collate function of a `DataLoader`).

        Raises
        ------
        BatchError
            If samples differ in their modalities, feature widths or kind of label; the sample is named.
        """
        samples = list(samples)
        if not samples:
            raise BatchError("samples: none; a batch needs at least one")
        first = samples[0]
        for s in samples:
            if set(s.features) != set(first.features):
                raise BatchError(
                    f"sample {s.id!r}: modalities {sorted(s.features)}; sample {first.id!r} has "
                    f"{sorted(first.features)}. Give a missing modality as a tensor of shape (0, D)."
                )
            for name, x in s.features.items():
                width = first.features[name].shape[-1]
                if x.ndim != 2 or x.shape[-1] != width:
                    raise BatchError(f"sample {s.id!r}, {name!r}: shape {tuple(x.shape)}; expected (T, {width})")
            if (s.label is None) != (first.label is None) or (
                s.label is not None and first.label is not None and s.label.ndim != first.label.ndim
            ):
                raise BatchError(f"sample {s.id!r}: another kind of label than sample {first.id!r}")
        features, masks = {}, {}
        for name in first.features:
            features[name], masks[name] = _pad([s.features[name] for s in samples])
            for row, s in zip(masks[name], samples, strict=True):
                if name in s.masks:
                    row[: len(s.features[name])] = _own_mask(s, name)
        labels = label_mask = None
        if first.label is not None:
            if first.label.ndim == 0:
                labels = torch.stack([s.label for s in samples])  # type: ignore[misc]
            else:
                labels, label_mask = _pad([s.label for s in samples])  # type: ignore[misc]
        return cls(features, masks, labels, label_mask, [s.id for s in samples], [s.words for s in samples])


def _own_mask(sample: Sample, name: str) -> Tensor:
    mask, length = sample.masks[name], len(sample.features[name])
    if mask.dtype != torch.bool or mask.shape != (length,):
        raise BatchError(
            f"sample {sample.id!r}, mask of {name!r}: found {tuple(mask.shape)} {mask.dtype}; expected ({length},) bool"
        )
    return mask


def _pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (T_i, ...) → (B, max T_i, ...) with zeros behind, and the mask (B, max T_i). T is at least 1."""
    lengths = torch.tensor([len(x) for x in sequences])
    padded = pad_sequence(list(sequences), batch_first=True)
    if padded.shape[1] == 0:
        padded = padded.new_zeros((len(sequences), 1, *padded.shape[2:]))
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
