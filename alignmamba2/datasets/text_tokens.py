"""Sentences → tokens: one token per word, by its letters, or one per word piece of a frozen encoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders import Tokens, text_encoder
from ..encoders.cache import cached, hash_items, in_batches

LETTERS_WIDTH = 64


class WordEncoder:
    """Encodes a word by its letters alone, without any learning (our choice).

    Each run of three letters of "<word>", in lower case, is a random vector of ±1, drawn by a hash of the run; a word
    is their sum over √(number of runs). Words that share letters are alike; meaning plays no part.
    """

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        settings = f"words by letters, {LETTERS_WIDTH}"
        tokens = ([torch.stack([_word(w) for w in s.split()]) for s in batch] for batch in in_batches(sentences, 64))
        return cached(cache, settings, data_hash or hash_items(sentences), LETTERS_WIDTH, tokens)

    def pieces(self, sentence: str) -> list[str]:
        return sentence.split()


@cache
def _word(word: str) -> Tensor:
    marked = f"<{word.lower()}>"
    runs = [marked[i : i + 3] for i in range(len(marked) - 2)]
    signs = [np.random.default_rng(zlib.crc32(run.encode())).integers(0, 2, LETTERS_WIDTH) * 2 - 1 for run in runs]
    return torch.from_numpy((np.sum(signs, axis=0) / np.sqrt(len(runs))).astype(np.float32))


class PieceEncoder:
    """A pretrained encoder, one token per word piece, loaded when it is first needed."""

    def __init__(self, name: str):
        self._name = name

    @cached_property
    def _encoder(self):
        return text_encoder(self._name)

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        return self._encoder.encode(list(sentences), cache)

    def pieces(self, sentence: str) -> list[str]:
        return self._encoder.pieces(sentence)


def sentence_encoder(name: str) -> WordEncoder | PieceEncoder:
    """Return `WordEncoder` for "words", else a pretrained encoder by name (`encoders.text_encoder`)."""
    return WordEncoder() if name == "words" else PieceEncoder(name)
