"""Sound → tokens, one per 20 ms for wav2vec2 and its kin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import hub
from .cache import Tokens, cached, hash_items, hash_model


def audio_encoder(name: str) -> AudioEncoder:
    """Return a Hugging Face speech model by name or folder: wav2vec2, HuBERT, WavLM, ..."""
    model, settings = hub.load(name, "preprocessor_config.json")
    return AudioEncoder(name, model, int(settings.get("sampling_rate", 16000)), settings.get("do_normalize", True))


class AudioEncoder:
    """AudioEncoder turns waveforms (S,) into a frozen model's last hidden states (T, D) float32.

    It takes one waveform at a time: the convolutions of these models see padding, and a sample's tokens must not depend
    on the other samples of its batch.
    """

    def __init__(self, name: str, model: nn.Module, rate: int, normalize: bool):
        self.name, self.model, self.rate, self.normalize = name, model.eval().requires_grad_(False), rate, normalize
        self.width = model.config.hidden_size

    def encode(self, waveforms: Sequence[np.ndarray], rate: int, cache: str | Path) -> Tokens:
        """Return tokens per waveform (S,), floats in [-1, 1] at `rate` samples per second; kept in `cache`.

        Raises
        ------
        ValueError
            If `rate` is not the rate that the model was trained on, or a waveform is not (S,) of floats.
        """
        if rate != self.rate:
            raise ValueError(f"rate: found {rate}; {self.name} expects {self.rate} samples a second. Resample first")
        for i, wave in enumerate(waveforms):
            wave = np.asarray(wave)
            if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating) or not len(wave):
                raise ValueError(f"waveforms[{i}]: found {wave.shape} {wave.dtype}; expected (S,), floating point")
        settings = f"{self.name} {hash_model(self.model)} normalize={self.normalize}"
        return cached(cache, settings, hash_items(waveforms), self.width, self._batches(waveforms))

    @torch.no_grad()
    def _batches(self, waveforms: Sequence[np.ndarray]) -> Iterator[Tensor]:
        for wave in waveforms:
            x = torch.from_numpy(np.array(wave, np.float32))[None]
            if self.normalize:  # zero mean, unit variance, as these models were trained
                x = (x - x.mean()) / (x.var(correction=0) + 1e-7).sqrt()
            yield self.model(x).last_hidden_state
