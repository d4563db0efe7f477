"""Sentences → tokens: one per word, by its letters, or one per word piece of a frozen encoder; or word pieces' ids."""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders import Tokens, text_encoder, token_ids
from ..encoders.cache import cached, hash_items, hash_model, in_batches
from ..encoders.text import tokenizer_of

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


class PieceIds:
    """PieceIds turns sentences into the token ids (T,) int64 that an encoder inside a model reads."""

    def __init__(self, name: str, max_length: int):
        self.name, self.max_length = name, max_length

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> list[Tensor]:
        return token_ids(self.name, list(sentences), self.max_length)

    def pieces(self, sentence: str) -> list[str]:
        (ids,) = token_ids(self.name, [sentence], self.max_length)
        return tokenizer_of(self.name).convert_ids_to_tokens(ids.tolist())


class WordMeans:
    """WordMeans gives one token per word by a pretrained encoder: the mean over the word's pieces, in context."""

    def __init__(self, name: str):
        self.name = name

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        encoder = text_encoder(self.name, max_length=512)
        settings = f"{self.name} {hash_model(encoder.model)}, mean over the pieces of a word"
        tokens = word_means(encoder, [s.split() for s in sentences])
        return cached(cache, settings, hash_items(sentences), encoder.width, tokens)

    def pieces(self, sentence: str) -> list[str]:
        return sentence.split()


@torch.no_grad()
def word_means(encoder, sentences: Sequence[Sequence[str]], batch_size: int = 32) -> Iterator[list[Tensor]]:
    """Yield one token (D,) per word of each sentence: the mean over its pieces of a `TextEncoder`'s last states.

    In place of words, short phrases are one token each. A `ValueError` names a word that has no pieces, or lies beyond
    the pieces of a sentence that the encoder reads.
    """
    settings = {"is_split_into_words": True, "padding": True, "truncation": True, "return_tensors": "pt"}
    for batch in in_batches(sentences, batch_size):
        inputs = encoder.tokenizer([list(words) for words in batch], max_length=encoder.max_length, **settings)
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


def sentence_encoder(name: str, encode: bool = True, max_length: int = 128) -> WordEncoder | PieceEncoder | PieceIds:
    """Return `WordEncoder` for "words", or a pretrained encoder by name; or `PieceIds` for one inside a model."""
    if not encode:
        return PieceIds(name, max_length)
    return WordEncoder() if name == "words" else PieceEncoder(name)
