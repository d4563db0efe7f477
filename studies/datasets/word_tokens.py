"""Sentences → one token per word by a frozen pretrained encoder: the mean over a word's pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignmamba2.encoders import INSTALL, MiniLM, Tokens, text_encoder
from alignmamba2.encoders.cache import cached, hash_items, hash_model, in_batches
from alignmamba2.encoders.packages import WEIGHTS
from alignmamba2.encoders.text import WordEncoder

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


class WordMeans(WordEncoder):
    """WordMeans gives one token per word by a pretrained encoder: the mean over the word's pieces, in context."""

    def __init__(self, name: str):
        self.name = name

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> Tokens:
        encoder = text_encoder(self.name, max_length=512)
        settings = f"{self.name} {hash_model(encoder.model)}, mean over the pieces of a word"
        tokens = word_means(encoder, [s.split() for s in sentences])
        return cached(cache, settings, hash_items(sentences), encoder.width, tokens)


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
