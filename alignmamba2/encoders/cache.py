"""Token sequences on disk: written once, whole or not at all, and read as a memory map."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Tokens(Sequence):
    """N sequences of tokens, each a float32 Tensor (T_i, D), in one memory-mapped file.

    `array` is (N, T, D) where all have the same length. Tensors share the file's pages: reading one costs what
    it holds, not what the file holds, and writing into one does not reach the file.
    """

    def __init__(self, folder: Path):
        flat = np.load(folder / "tokens.npy", mmap_mode="c")
        self._flat = torch.from_numpy(flat)
        self._ends = np.load(folder / "ends.npy")
        if len(flat) != (self._ends[-1] if len(self._ends) else 0):
            raise ValueError(f"{folder}: {len(flat)} tokens; ends.npy counts {self._ends[-1]}. Remove the folder")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"tokens: index {index} of {len(self)}")
        index %= len(self)
        return self._flat[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])]

    @property
    def width(self) -> int:
        return self._flat.shape[1]

    @property
    def array(self) -> Tensor:
        lengths = np.diff(self._ends, prepend=0)
        if len(set(lengths.tolist())) > 1:
            raise ValueError(f"tokens: lengths from {lengths.min()} to {lengths.max()}; (N, T, D) needs equal ones")
        return self._flat.view(len(self), -1, self.width)


def cached(cache: str | Path, encoder: str, data: str, width: int, parts: Iterable[Sequence[Tensor]]) -> Tokens:
    """The tokens under this key, computing them only if they are not there.

    Parameters
    ----------
    cache : folder
    encoder : str
        All that decides what the encoder does: its weights' hash, its options.
    data : str
        Hash of what is encoded (see `hash_items`).
    parts : iterable of batches of Tensors (T_i, width)
        Only iterated over if there is something to compute; never more than one batch in memory.
    """
    key = hashlib.sha256(json.dumps([encoder, data]).encode()).hexdigest()[:24]
    folder = Path(cache) / f"tokens-{key}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        part.mkdir(parents=True, exist_ok=True)
        _write(part, width, parts)
        notes = {"encoder": encoder, "data": data}
        (part / "key.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
        try:
            part.rename(folder)
        except OSError:  # another process was faster, with the same tokens
            if not folder.is_dir():
                raise
    return Tokens(folder)


def _write(folder: Path, width: int, parts: Iterable[Sequence[Tensor]]) -> None:
    """tokens.npy, batch by batch: the header is written again once the number of rows is known."""
    total, ends = 0, []
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**15, width)}
    with open(folder / "tokens.npy", "w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        room = file.tell()
        for batch in parts:
            for tokens in batch:
                if tokens.ndim != 2 or tokens.shape[1] != width:
                    raise ValueError(f"encoder: gave tokens {tuple(tokens.shape)}; expected (T, {width})")
                if not torch.isfinite(tokens).all():
                    raise ValueError(f"encoder: NaN or infinity in the tokens of item {len(ends)}")
                file.write(tokens.detach().cpu().contiguous().float().numpy().tobytes())
                total += len(tokens)
                ends.append(total)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (total, width)})
        if file.tell() != room:
            raise RuntimeError("tokens.npy: the header changed its length")
    np.save(folder / "ends.npy", np.asarray(ends, np.int64))


def hash_items(items: Iterable[np.ndarray | str]) -> str:
    """SHA-256 over arrays (type, shape, values) or strings, in order."""
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
    """SHA-256 over a model's weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def in_batches(items: Sequence, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield [items[i] for i in range(start, min(start + size, len(items)))]
