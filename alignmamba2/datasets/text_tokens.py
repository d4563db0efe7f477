"""Sentences → tokens: one per word, by its letters, or one per word piece of a frozen encoder; or word pieces' ids."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders import Tokens, text_encoder, token_ids
from ..encoders.cache import cached, hash_items, in_batches
from ..encoders.text import tokenizer_of

LETTERS_WIDTH = 64
NEIGHBOUR = 60  # pieces of each sentence before and after


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


@dataclass(frozen=True)
class Passage:
    """A sentence between those before and after it, which an encoder reads and a model does not see."""

    before: tuple[str, ...]
    sentence: str
    after: tuple[str, ...]


class PieceIds:
    """PieceIds turns sentences or passages into token ids (T,) int64, for an encoder inside a model.

    A sentence is as the encoder's tokenizer has it, at most 128 ids. A passage is [CLS] before [SEP] … sentence [SEP] …
    after [SEP]. Of a sentence before the last 60 pieces are kept, of one after it the first 60.
    """

    def __init__(self, name: str):
        self.name = name
        self._read = cache(self._read)

    def encode(self, items: Sequence[str | Passage], cache: str | Path, data_hash: str | None = None) -> list[Tensor]:
        return [self._read(item)[0] for item in items]

    def pieces(self, item: str | Passage) -> list[str]:
        return tokenizer_of(self.name).convert_ids_to_tokens(self._read(item)[0].tolist())

    def context(self, item: str | Passage) -> Tensor:
        """Return which tokens are of the sentences before and after, bool (T,)."""
        return self._read(item)[1]

    def _read(self, item: str | Passage) -> tuple[Tensor, Tensor]:
        (ids,) = token_ids(self.name, [item if isinstance(item, str) else item.sentence])
        if isinstance(item, str):
            return ids, torch.zeros(len(ids), dtype=torch.bool)
        tokenizer = tokenizer_of(self.name)
        if ids[0] != tokenizer.cls_token_id or ids[-1] != tokenizer.sep_token_id:
            raise ValueError(f"context: the tokenizer of {self.name!r} writes no [CLS] and [SEP]; expected context=0")
        before = [n for s in item.before for n in (*self._pieces(s)[-NEIGHBOUR:], tokenizer.sep_token_id)]
        after = [n for s in item.after for n in (*self._pieces(s)[:NEIGHBOUR], tokenizer.sep_token_id)]
        parts = [ids[:1], torch.tensor(before, dtype=ids.dtype), ids[1:], torch.tensor(after, dtype=ids.dtype)]
        context = torch.repeat_interleave(torch.tensor([False, True] * 2), torch.tensor([len(x) for x in parts]))
        return torch.cat(parts), context

    def _pieces(self, sentence: str) -> list[int]:
        return tokenizer_of(self.name)(sentence, add_special_tokens=False)["input_ids"]


def sentence_encoder(name: str, encode: bool = True) -> WordEncoder | PieceEncoder | PieceIds:
    """Return `WordEncoder` for "words", or a pretrained encoder by name; or `PieceIds` for one inside a model."""
    if not encode:
        return PieceIds(name)
    return WordEncoder() if name == "words" else PieceEncoder(name)
