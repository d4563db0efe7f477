"""Sentences → tokens: by a pretrained encoder, or by the letters of each word where none is wanted."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders import Tokens, text_encoder
from ..encoders.cache import cached, hash_items, in_batches

WIDTH = 64


class WordEncoder:
    """A token a word, from its letters alone, without any learning (our choice).

    Each run of three letters of "<word>", in lower case, is a random vector of ±1, drawn by a hash of the run; a word
    is their sum over √(number of runs). Words that share letters are alike; what a word means, nobody knows.
    """

    width = WIDTH

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        settings = f"words by letters, {WIDTH}"
        return cached(cache, settings, data_hash or hash_items(sentences), WIDTH, self._batches(sentences))

    def pieces(self, sentence: str) -> list[str]:
        return sentence.split()

    def _batches(self, sentences: Sequence[str]) -> Iterator[list[Tensor]]:
        for batch in in_batches(sentences, 64):
            yield [torch.stack([_word(w) for w in s.split()]) for s in batch]


@cache
def _word(word: str) -> Tensor:
    marked = f"<{word.lower()}>"
    runs = [marked[i : i + 3] for i in range(len(marked) - 2)]
    signs = [np.random.default_rng(zlib.crc32(run.encode())).integers(0, 2, WIDTH) * 2 - 1 for run in runs]
    return torch.from_numpy((np.sum(signs, axis=0) / np.sqrt(len(runs))).astype(np.float32))


class _Pieces:
    """A pretrained encoder (a token a word piece), made when it is first needed."""

    def __init__(self, name: str, folder: Path):
        self._make: Callable = cache(lambda: text_encoder(name, cache=folder))

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        return self._make().encode(list(sentences), cache)

    def pieces(self, sentence: str) -> list[str]:
        return self._make().pieces(sentence)


def sentence_encoder(name: str, folder: Path) -> WordEncoder | _Pieces:
    """`WordEncoder` for "words", or a pretrained encoder by name (`encoders.text_encoder`)."""
    return WordEncoder() if name == "words" else _Pieces(name, folder)


def repaired(text: str) -> str:
    """Text whose bytes were gb18030 and were read as latin-1, read rightly; any other text as it is."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("gb18030")
    except UnicodeError:
        return text


def key_of(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
