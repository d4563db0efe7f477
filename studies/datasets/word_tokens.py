"""Sentences → one token per word by a frozen MiniLM: the mean over a word's pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignmamba2.encoders import INSTALL, MiniLM, Tokens, text_encoder
from alignmamba2.encoders.cache import cached, hash_items, in_batches
from alignmamba2.encoders.packages import WEIGHTS

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
    return cached(cache, settings, data, MINILM_WIDTH, _embedded(sentences, Path(cache), batch_size))


@torch.no_grad()
def _embedded(sentences: Sequence[Sequence[str]], cache: Path, batch_size: int) -> Iterator[list[Tensor]]:
    if not MiniLM.is_present():
        raise ImportError(f"text tokens need transformers and the MiniLM weights. Install them with: {INSTALL}")
    encoder = text_encoder("minilm", max_length=PIECES)
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
