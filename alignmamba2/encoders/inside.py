"""The encoders inside a model, by modality: made from a config, checked against it, and applied to a batch."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import BatchError, MultimodalBatch
from .encoder import Encoder, EncoderConfig


def checked_settings(settings: Mapping[str, Mapping[str, Any]], modalities: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of encoders by modality, each complete; a wrong one is named with its modality."""
    checked = {}
    for m, values in settings.items():
        if m not in modalities:
            raise ValueError(f"encoders: modality {m!r} is none of {list(modalities)}")
        if not isinstance(values, Mapping):
            raise ValueError(f"encoders[{m!r}]: found {values!r}; expected a table, such as name = 'minilm'")
        try:
            checked[m] = dataclasses.asdict(EncoderConfig.of(values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"encoders[{m!r}]: {error}") from error
    return checked


class Encoders(nn.ModuleDict):
    """Encoders maps the modalities that come as token ids or pictures to the encoders that read them."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]]):
        super().__init__()
        for m, values in settings.items():
            try:
                self[m] = Encoder(EncoderConfig.of(values))
            except ValueError as error:
                raise ValueError(f"encoders[{m!r}]: {error}") from error

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with what the encoders found out: their architectures, and the hashes of their weights."""
        return {m: dataclasses.asdict(encoder.config) for m, encoder in self.items()}

    @property
    def neighbours(self) -> int:
        """The most samples of a group that an encoder reads together."""
        return max((encoder.config.neighbours for encoder in self.values()), default=1)

    def widths(self, modalities: Mapping[str, int]) -> dict[str, int]:
        """Return the modalities' widths, those of encoders filled in where they are 0."""
        for m, encoder in self.items():
            if modalities[m] not in (0, encoder.width):
                name = encoder.config.name
                raise ValueError(f"modalities[{m!r}]: {modalities[m]}; encoder {name!r} has {encoder.width}")
        return {**modalities, **{m: encoder.width for m, encoder in self.items()}}

    @contextmanager
    def whole(self, whole: bool = True) -> Iterator[None]:
        """Within, `state_dict` holds the frozen weights too, if `whole`."""
        for encoder in self.values():
            encoder.whole = whole
        try:
            yield
        finally:
            for encoder in self.values():
                encoder.whole = False

    def read(self, batch: MultimodalBatch) -> MultimodalBatch:
        """Return the batch with tokens in place of the token ids and pictures."""
        features, masks = dict(batch.features), dict(batch.masks)
        for m, x in batch.features.items():
            if m in self:
                _check(m, x, self[m])
                features[m], masks[m] = self[m](x, batch.masks[m], batch.groups)
            elif not x.is_floating_point():
                kind = "token ids" if x.ndim == 2 else "pictures"
                raise BatchError(f"features[{m!r}]: {kind}; this model has no encoder for them, so give it features")
        return dataclasses.replace(batch, features=features, masks=masks) if len(self) else batch


def _check(m: str, x: Tensor, encoder: Encoder) -> None:
    vocabulary, name = encoder.vocabulary, f"features[{m!r}]"
    if x.dtype == torch.int64 and vocabulary and len(x) and not 0 <= x.min() <= x.max() < vocabulary:
        raise BatchError(f"{name}: token ids {x.min()} to {x.max()}; its encoder knows 0 to {vocabulary - 1}")
    if not x.is_floating_point() and (x.dtype == torch.int64) != bool(vocabulary):
        expected = "int64 token ids" if vocabulary else "uint8 pictures"
        raise BatchError(f"{name}: {x.dtype}; encoder {encoder.config.name!r} reads {expected}")
    if x.dtype == torch.uint8 and x.shape[1] != 1:
        raise BatchError(f"{name}: {x.shape[1]} pictures per sample; expected one")
