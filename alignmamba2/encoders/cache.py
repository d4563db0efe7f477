"""Token sequences on disk: written once, whole or not at all, and read as a memory map, checked as they are read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from ..storage.files import FileError, read_json, whole_folder, write_json

VERSION = 2  # of the files
DATA, INDEX, NOTES = "tokens.npy", "index.npy", "key.json"


class Tokens(Sequence):
    """N sequences of tokens, each a float32 Tensor (T_i, D), in one memory-mapped file.

    `array` is (N, T, D) where all have the same length. Tensors share the file's pages: reading one costs what
    it holds, not what the file holds, and writing into one does not reach the file.

    Damage is found before a number of it is used: index.npy, where each sequence ends and its CRC-32, by its SHA-256 in
    key.json on opening; a sequence by its CRC-32, the first time that it is read. So opening stays instant however
    large the file is, and what is never read is never checked.

    Raises
    ------
    FileError
        On opening or on reading: a file is missing, cut off or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            notes = read_json(folder / NOTES)
            index = np.array(np.load(folder / INDEX, mmap_mode="r"))  # a map is never longer than its file
            if hashlib.sha256(index.tobytes()).hexdigest() != notes["index"] or list(index.shape) != notes["shape"]:
                raise ValueError(f"{INDEX} does not have the SHA-256 that was written with it")
            self._ends, self._sums = index.T
            flat = np.load(folder / DATA, mmap_mode="c")
            rows = int(self._ends[-1]) if len(self._ends) else 0
            if flat.dtype != np.float32 or flat.shape != (rows, notes["width"]):
                raise ValueError(f"{DATA} holds {flat.dtype} {flat.shape}; expected float32 {rows, notes['width']}")
        except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, TokenError) as error:
            raise self._damaged(str(error)) from error
        self._flat = torch.from_numpy(flat)
        self._checked = np.zeros(len(self._ends), bool)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"tokens: index {index} of {len(self)}")
        index %= len(self)
        tokens = self._flat[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])]
        if not self._checked[index]:
            if zlib.crc32(tokens.numpy()) != self._sums[index]:
                raise self._damaged(f"sequence {index} of {DATA} does not have the CRC-32 that was written with it")
            self._checked[index] = True
        return tokens

    @property
    def width(self) -> int:
        return self._flat.shape[1]

    @property
    def array(self) -> Tensor:
        lengths = np.diff(self._ends, prepend=0)
        if len(set(lengths.tolist())) > 1:
            raise ValueError(f"tokens: lengths from {lengths.min()} to {lengths.max()}; (N, T, D) needs equal ones")
        for _ in self:  # checks each
            pass
        return self._flat.view(len(self), -1, self.width)

    def _damaged(self, what: str) -> FileError:
        return FileError(f"{self.folder}: cut off or damaged: {what}. Remove that folder; it is made again")


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
    key = hashlib.sha256(json.dumps([VERSION, encoder, data]).encode()).hexdigest()[:24]
    folder = Path(cache) / f"tokens-{key}"
    if not folder.is_dir():
        with whole_folder(folder) as part:
            index = _write(part / DATA, width, parts)
            np.save(part / INDEX, index)
            notes = {"encoder": encoder, "data": data, "width": width, "shape": list(index.shape)}
            write_json(part / NOTES, {**notes, "index": hashlib.sha256(index.tobytes()).hexdigest()})
    return Tokens(folder)


def _write(path: Path, width: int, parts: Iterable[Sequence[Tensor]]) -> np.ndarray:
    """The tokens, batch by batch: the header is written again once the number of rows is known.

    Returns int64 (N, 2): where each sequence ends, and its CRC-32.
    """
    total, index = 0, []
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**15, width)}
    with path.open("w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        room = file.tell()
        for batch in parts:
            for tokens in batch:
                if tokens.ndim != 2 or tokens.shape[1] != width:
                    raise ValueError(f"encoder: gave tokens {tuple(tokens.shape)}; expected (T, {width})")
                if not torch.isfinite(tokens).all():
                    raise ValueError(f"encoder: NaN or infinity in the tokens of item {len(index)}")
                raw = tokens.detach().cpu().contiguous().float().numpy().tobytes()
                file.write(raw)
                total += len(tokens)
                index.append((total, zlib.crc32(raw)))
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (total, width)})
        if file.tell() != room:
            raise RuntimeError("tokens.npy: the header changed its length")
    return np.asarray(index, np.int64).reshape(-1, 2)


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
