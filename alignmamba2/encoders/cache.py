"""Tokens of encoders, computed once and kept on disk in a store."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..storage.files import tensors_digest
from ..storage.token_store import StoredTokens, folder_of, read_notes, write_store, write_tokens

DATA = "tokens.safetensors"


class Tokens(Sequence):
    """N sequences of tokens, each a float32 Tensor (T_i, D), read and checked when it is requested.

    A `FileError` on opening or on reading says that the file is missing, cut off or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._store = StoredTokens(folder / DATA)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self._store.read(range(len(self))[index])["tokens"])

    @property
    def width(self) -> int:
        return self._store.width("tokens")

    @property
    def array(self) -> Tensor:
        """All of it as (N, T, D), where all sequences have the same length."""
        lengths = self._store.lengths("tokens")
        if len(set(lengths.tolist())) > 1:
            raise ValueError(f"tokens: lengths from {lengths.min()} to {lengths.max()}; (N, T, D) needs equal ones")
        return torch.stack(list(self))


def cached(cache: str | Path, encoder: str, data: str, width: int, parts: Iterable[Sequence[Tensor]]) -> Tokens:
    """Return the tokens under this key, computing them only if they are not there.

    `encoder` is all that decides what the encoder does, its weights' hash and its options; `data` is the hash of what
    is encoded (see `hash_items`). `parts` are batches of Tensors (T_i, width), iterated over only if there is something
    to compute, and never more than one of them in memory.
    """
    folder = folder_of(cache, "tokens", encoder=encoder, data=data)

    def write(part: Path) -> dict[str, str]:
        write_tokens(part / DATA, {"tokens": (width, _finite(parts))})
        return {"encoder": encoder, "data": data}

    if not read_notes(folder):
        write_store(folder, write)
    return Tokens(folder)


def _finite(parts: Iterable[Sequence[Tensor]]) -> Iterator[np.ndarray]:
    for number, tokens in enumerate(tokens for batch in parts for tokens in batch):
        if not torch.isfinite(tokens).all():
            raise ValueError(f"encoder: NaN or infinity in the tokens of item {number}")
        yield tokens.detach().cpu().float().numpy()


def hash_items(items: Iterable[np.ndarray | str]) -> str:
    """Return the SHA-256 over arrays (type, shape, values) or strings, in order."""
    digest = hashlib.sha256()
    for item in items:
        if isinstance(item, str):
            blob = item.encode()
            digest.update(b"s%d:" % len(blob) + blob)
        else:
            array = np.ascontiguousarray(item)
            digest.update(f"{array.dtype.str}{array.shape}:".encode())
            digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def hash_model(model: torch.nn.Module) -> str:
    """Return the SHA-256 over a model's weights and buffers, by name."""
    return tensors_digest({name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()})


def in_batches(items: Sequence, size: int) -> Iterator[list]:
    """Yield the items as lists of `size`, the last perhaps shorter."""
    for start in range(0, len(items), size):
        yield [items[i] for i in range(start, min(start + size, len(items)))]
