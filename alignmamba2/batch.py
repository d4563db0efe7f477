"""A sample, and the padded, masked batch of samples that every data set yields and every model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .gpu.host import remember


class BatchError(ValueError):
    """A field of a sample or batch does not fit; the message names the field."""


@dataclass(frozen=True)
class Sample:
    """A sample: a sequence of tokens for each modality.

    Lists, numbers and NumPy arrays become tensors: floats of any width float32, whole numbers int64, masks of 0 and 1
    bool; ids that are numbers become strings. What fits nothing raises a `BatchError` that names sample and field.

    Attributes
    ----------
    features : mapping of modality name to Tensor (T_m, D_m), float
        T_m may differ between modalities and may be 0 (the modality is missing). For an encoder inside the model: int64
        token ids (T_m,), or uint8 pictures (T_m, H, W, 3).
    label : scalar Tensor; (T,) for one label per step; (K,) for several labels or targets; or None: not known
        float for numbers, int64 for classes, 0 and 1 for several labels.
    label_mask : bool Tensor as `label`, False where it is not known and counts neither in the loss nor in metrics
    id : str
        Names the sample in errors and pictures.
    words : mapping of modality name to a sequence of T_m strings
        A text for each token, for pictures; optional.
    partners : mapping of (modality, anchor) to int64 Tensor (T_m,)
        If the truth is known: the anchor's token that each token belongs to, −1 for none; optional.
    masks : mapping of modality name to bool Tensor (T_m,)
        False at tokens that are passed over as if they did not exist; by default all are real.
    group : str
        Names what the sample is a part of, such as the video of an utterance; "" if it stands alone. Encoders inside a
        model may read samples together that follow each other in a group.
    """

    features: Mapping[str, Tensor]
    label: Tensor | None = None
    id: str = ""
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    partners: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    group: str = ""
    label_mask: Tensor | None = None

    def __post_init__(self) -> None:
        name = f"sample {self.id!r}, "
        features = {m: _readable(x, f"{name}{m!r}") for m, x in self.features.items()}
        lengths = {m: features[m].shape[:1] if m in features else (0,) for m in self.masks}
        masks = {m: as_mask(x, f"{name}mask of {m!r}", lengths[m]) for m, x in self.masks.items()}
        partners = {pair: as_tensor(x, f"{name}partners of {pair}") for pair, x in self.partners.items()}
        label = _labels(self.label, f"{name}label")
        if label is not None and label.ndim > 1:
            raise BatchError(f"{name}label: found {tuple(label.shape)}; expected one number, (T,) or (K,)")
        self.__dict__.update(features=features, masks=masks, partners=partners, label=label)  # frozen for others
        if self.label_mask is not None and label is not None:
            self.__dict__["label_mask"] = as_mask(self.label_mask, f"{name}label_mask", label.shape)
        self.__dict__.update(id=str(self.id), group=str(self.group))


@dataclass(frozen=True)
class MultimodalBatch:
    """B samples, padded to the longest of the batch in each modality; types are taken as in `Sample`.

    Attributes
    ----------
    features : mapping of modality name to Tensor (B, T_m, D_m), float; or, for an encoder inside the model, int64 token
        ids (B, T_m), or uint8 pictures (B, T_m, H, W, 3)
    masks : mapping of modality name to bool Tensor (B, T_m)
        True at real tokens, by default everywhere. A missing modality is a row without any True.
    labels : Tensor (B,), (B, T) or (B, K), as of `Sample`, or None
    label_mask : bool Tensor as `labels`, True where there is a step and its label is known, or None
    ids : tuple of B strings
    words : tuple of B mappings, as in `Sample`
    groups : tuple of B strings, as in `Sample`

    Raises
    ------
    BatchError
        Naming the field, with the value and the expectation: sizes that do not agree, a mask that is not boolean, a
        NaN or an infinity at a real token (counted, with its samples). Values on padding are ignored and set to 0.
    """

    features: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    label_mask: Tensor | None = None
    ids: Sequence[str] = ()
    words: Sequence[Mapping[str, Sequence[str]]] = ()
    groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.features:
            raise BatchError("features: empty; expected at least one modality, such as {'text': (B, T, D)}")
        features = {m: _readable(x, f"features[{m!r}]", batched=True) for m, x in self.features.items()}
        self.__dict__.update(features=features, labels=_labels(self.labels, "labels"))
        size = next(iter(features.values())).shape[0]
        unknown = set(self.masks) - set(self.features)
        if unknown:
            raise BatchError(f"masks: {sorted(unknown)} have no features; features has {list(self.features)}")
        masks = {m: self._checked_mask(m, size) for m in self.features}
        ids, words = tuple(map(str, self.ids)) or tuple(map(str, range(size))), tuple(self.words) or ({},) * size
        groups = tuple(map(str, self.groups)) or ("",) * size
        for name, entries in (("ids", ids), ("words", words), ("groups", groups)):
            if len(entries) != size:
                raise BatchError(f"{name}: found {len(entries)} entries; expected {size}, one per sample")
        self.__dict__.update(masks=masks, ids=ids, words=words, groups=groups)  # frozen for others
        self.__dict__["features"] = {m: self._cleaned(m) for m in self.features}
        self._check_labels(size)

    def _checked_mask(self, name: str, size: int) -> Tensor:
        """The mask of a modality, once it and the features have the right shape."""
        x, mask = self.features[name], self.masks.get(name)
        if x.shape[0] != size:
            raise BatchError(f"features[{name!r}]: found {x.shape[0]} samples; the first modality has {size}")
        if mask is None:
            return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return as_mask(mask, f"masks[{name!r}]", x.shape[:2])

    def _cleaned(self, name: str) -> Tensor:
        """The features with zeros on padding, once every real token is known to be finite."""
        x, mask = self.features[name], self.masks[name]
        mask = mask.view(*mask.shape, *[1] * (x.ndim - 2))
        bad = ~torch.isfinite(x) & mask
        if bad.any():
            raise BatchError(
                f"features[{name!r}]: {int(bad.sum())} NaN or infinite values in {self._samples(bad)}; expected finite "
                "numbers. Replace them, mask those tokens out, or load the data with nonfinite='mask' or 'zero'."
            )
        return x if mask.all() else x.masked_fill(~mask, 0)

    def _check_labels(self, size: int) -> None:
        if self.labels is None:
            if self.label_mask is not None:
                raise BatchError("label_mask: given without labels")
            return
        if self.labels.ndim not in (1, 2) or self.labels.shape[0] != size:
            expected = f"({size},), ({size}, T) or ({size}, K)"
            raise BatchError(f"labels: found {tuple(self.labels.shape)}; expected {expected}")
        bad = ~torch.isfinite(self.labels)
        if self.labels.ndim > 1 and self.label_mask is None:
            self.__dict__["label_mask"] = torch.ones_like(self.labels, dtype=torch.bool)
        if self.label_mask is not None:
            self.__dict__["label_mask"] = as_mask(self.label_mask, "label_mask", self.labels.shape)
            bad &= self.label_mask
        if bad.any():
            raise BatchError(f"labels: {int(bad.sum())} NaN or infinite in {self._samples(bad)}; expected finite ones")

    def _samples(self, bad: Tensor) -> str:
        """Number and first ids of the samples with a True."""
        rows = bad.reshape(len(bad), -1).any(1).nonzero().flatten().tolist()
        ids = ", ".join(self.ids[i] for i in rows[:5]) + (", …" if len(rows) > 5 else "")
        return f"{len(rows)} samples ({ids})"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.features)

    @property
    def device(self) -> torch.device:
        return next(iter(self.features.values())).device

    def _map(self, move: Callable[[Tensor], Tensor]) -> MultimodalBatch:
        batch = object.__new__(MultimodalBatch)  # the values are known to be good: not checked again
        batch.__dict__.update(
            vars(self),
            features={m: move(x) for m, x in self.features.items()},
            masks={m: move(x) for m, x in self.masks.items()},
            labels=None if self.labels is None else move(self.labels),
            label_mask=None if self.label_mask is None else move(self.label_mask),
        )
        return batch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultimodalBatch:
        """Return the same batch on another device; its masks and labels stay here too, see `on_host`."""
        batch = self._map(lambda x: x.to(device, non_blocking=non_blocking))
        for name in ("labels", "label_mask"):
            remember(getattr(batch, name), getattr(self, name))
        for m, mask in batch.masks.items():
            remember(mask, self.masks[m])
        return batch

    def pin_memory(self) -> MultimodalBatch:
        """Return the same batch in page-locked memory, from which copies to a GPU do not block."""
        return self._map(lambda x: x.pin_memory())

    def only(self, *modalities: str) -> MultimodalBatch:
        """Return the same batch with these modalities alone, as a model sees it when the others are missing."""
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
        for sample in samples:
            _check_alike(sample, first)
        features, masks = {}, {}
        for m in first.features:
            features[m], masks[m] = _pad([s.features[m] for s in samples])
            for row, s in zip(masks[m], samples, strict=True):
                if m in s.masks:
                    row[: len(s.masks[m])] = s.masks[m]
        labels, label_mask = _joined(samples)
        ids, words, groups = zip(*((s.id, s.words, s.group) for s in samples), strict=True)
        return cls(features, masks, labels, label_mask, ids, words, groups)


def _check_alike(sample: Sample, first: Sample) -> None:
    """Refuse a sample that does not fit into one batch with the first."""
    if set(sample.features) != set(first.features):
        raise BatchError(
            f"sample {sample.id!r}: modalities {sorted(sample.features)}; sample {first.id!r} has "
            f"{sorted(first.features)}. Give a missing modality as a tensor of shape (0, D)."
        )
    for m, x in sample.features.items():
        other = first.features[m]
        if x.shape[1:] != other.shape[1:] or x.dtype != other.dtype:
            expected = "".join(f", {n}" for n in other.shape[1:])
            raise BatchError(
                f"sample {sample.id!r}, {m!r}: shape {tuple(x.shape)} {x.dtype}; expected (T{expected}) {other.dtype}"
            )


def as_tensor(x: Any, name: str) -> Tensor:
    """Return what is like an array as a float32, int64, bool or uint8 tensor; otherwise raise a `BatchError`."""
    if not isinstance(x, Tensor):
        try:
            array = np.asarray(x)
            x = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), "C"))  # a copy, in a layout that torch has
        except (ValueError, TypeError, RuntimeError) as error:
            found = f"{type(x).__name__} {getattr(x, 'dtype', '')}".strip()
            raise BatchError(f"{name}: found {found}; expected numbers, in one array") from error
    if x.is_floating_point():
        return x.float()
    return x if x.dtype in (torch.bool, torch.uint8) or x.is_complex() else x.long()


def as_mask(mask: Any, name: str, shape: Sequence[int]) -> Tensor:
    """Return a mask as bool, if it has this shape and holds nothing but 0 and 1; otherwise raise a `BatchError`."""
    mask = as_tensor(mask, name)
    if mask.shape != torch.Size(shape) or not (mask.dtype == torch.bool or ((mask == 0) | (mask == 1)).all()):
        found = f"{tuple(mask.shape)} {mask.dtype}"
        raise BatchError(f"{name}: found {found}; expected {tuple(shape)} torch.bool, or nothing but 0 and 1")
    return mask.bool()


def _labels(labels: Any, name: str) -> Tensor | None:
    labels = None if labels is None else as_tensor(labels, name)
    return labels if labels is None or labels.is_floating_point() else labels.long()


def _readable(x: Any, name: str, batched: bool = False) -> Tensor:
    """Features as float (T, D), int64 token ids (T,) or uint8 pictures (T, H, W, 3), B in front; or refused."""
    x, b = as_tensor(x, name), "B, " * batched
    kinds = {torch.float32: 2, torch.int64: 1, torch.uint8: 4}
    if x.ndim - batched != kinds.get(x.dtype) or (x.dtype == torch.uint8 and x.shape[-1] != 3):
        raise BatchError(
            f"{name}: found {tuple(x.shape)} {x.dtype}; expected ({b}T, D), a float; for an encoder int64 token ids "
            f"({b}T), or uint8 pictures ({b}T, H, W, 3)"
        )
    return x


def _joined(samples: Sequence[Sample]) -> tuple[Tensor | None, Tensor | None]:
    """Labels (B, ...) and, unless each is one known number, the mask of what is known of them; None without any."""
    kinds = {s.label.ndim: s for s in samples if s.label is not None}
    if len(kinds) > 1:
        raise BatchError(f"samples {[s.id for s in kinds.values()]}: another kind of label each")
    if not kinds:
        return None, None
    ((ndim, like),) = kinds.items()
    labels, known = _pad([like.label.new_zeros(0) if s.label is None else s.label.reshape(-1) for s in samples])
    for row, s in enumerate(samples):
        if s.label_mask is not None:
            known[row, : s.label.numel()] &= s.label_mask
    return (labels, known) if ndim else (labels[:, 0], None if known.all() else known[:, 0])


def _pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (T_i, ...) → (B, max T_i, ...) with zeros behind, and the mask (B, max T_i). T is at least 1."""
    lengths = torch.tensor([len(x) for x in sequences])
    padded = pad_sequence(list(sequences), batch_first=True)
    if padded.shape[1] == 0:
        padded = padded.new_zeros((len(sequences), 1, *padded.shape[2:]))
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
