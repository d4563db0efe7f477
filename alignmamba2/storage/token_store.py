"""Token sequences on disk: whole or not there, opened at once, checked as they are read.

A store is a folder of safetensors files and `store.json`, which says what they were made from. Its name is a hash of
that, and it appears when it is whole. A file holds, for N samples of M modalities,

    m        (Σ T_i, D_m) float32    for each modality m, the real tokens of all samples, one sample behind the other
    index    (N + 1, M + 1) int64    rows i and i + 1: where sample i begins and ends in each modality; last column of
                                     row i + 1: CRC-32 of its tokens, its modalities one behind the other
    ...                              small arrays with a row per sample, such as labels, and packed strings
    head     (32,) uint8             SHA-256 of the header and of every array but the tokens

Damage is found before a number of it is used: all but the tokens is checked on opening, a sample's tokens each time
that they are read. So a store of 8 GB opens at once, and no pass over all of it is ever needed. CRC-32 takes about 0.1
ms per sample of MOSEI (0.4 MB), a step of training on it some 25 ms. It finds what disks and copies do to a file, and
is no defence against someone who changes it on purpose; a store is written and read on the same machine.
"""

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .files import FileArray, FileError, blocks, read_json, whole_folder, write_json

VERSION = 4
NOTES = "store.json"
INDEX, HEAD = "index", "head"
HEADER = 1 << 12  # bytes of the header, with the 8 that say how long it is
DTYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def folder_of(cache: str | Path, kind: str, **source: Any) -> Path:
    """Return the folder of the store of this kind that is made from this source with these options."""
    key = hashlib.sha256(json.dumps([VERSION, source], sort_keys=True).encode()).hexdigest()
    return Path(cache) / f"{kind}-{key[:24]}"


def read_notes(folder: Path) -> dict[str, Any]:
    """Return `store.json`; empty if there is no such store, or it is damaged: it is then made again."""
    try:
        return read_json(folder / NOTES)
    except (OSError, FileError):
        return {}


def write_store(folder: Path, write: Callable[[Path], Mapping[str, Any]]) -> None:
    """Write a store, whole or not at all: `write` fills a folder with files and returns what goes into `store.json`."""
    with whole_folder(folder) as part:
        write_json(part / NOTES, {**write(part), "version": VERSION})
        if not read_notes(folder):  # what is there has lost its notes, or they are damaged
            shutil.rmtree(folder, ignore_errors=True)


def write_tokens(
    path: Path, tokens: Mapping[str, tuple[int, Iterable[np.ndarray]]], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write one file of a store, sample by sample: never more than one sample's tokens are in memory.

    `tokens` are by modality its width D and its N arrays (T_i, D); `arrays` are float32, int64, int32 or uint8, as
    `StoredTokens` then has them under these names. A `ValueError` names the modality of which a sample has another
    width, or which has another number of samples.
    """
    ends: list[list[int]] = []
    crc: list[int] = []
    with path.open("wb") as file:
        file.write(bytes(HEADER))
        for modality, (width, samples) in tokens.items():
            ends.append([0])
            for i, sample in enumerate(samples):
                if np.ndim(sample) != 2 or np.shape(sample)[1] != width:
                    raise ValueError(f"{modality}[{i}]: found tokens {np.shape(sample)}; expected (T, {width})")
                content = np.asarray(sample, "<f4").tobytes()
                file.write(content)
                ends[-1].append(ends[-1][-1] + len(sample))
                if i == len(crc):
                    crc.append(0)
                crc[i] = zlib.crc32(content, crc[i])
            if len(ends[-1]) != len(crc) + 1:
                raise ValueError(f"{modality}: found {len(ends[-1]) - 1} samples; expected {len(crc)}")
        widths = {modality: width for modality, (width, _) in tokens.items()}
        finish(file, widths, np.array([*ends, [0, *crc]], "<i8").T, arrays or {})


def finish(file: BinaryIO, widths: Mapping[str, int], index: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Write all but the tokens, from the file's present place on, and the header in front."""
    arrays = {INDEX: np.ascontiguousarray(index), **arrays}
    shapes = {m: ("F32", (int(index[-1, column]), width)) for column, (m, width) in enumerate(widths.items())}
    shapes |= {name: (CODES[x.dtype], x.shape) for name, x in arrays.items()}
    shapes |= {HEAD: ("U8", (hashlib.sha256().digest_size,))}
    entries: dict[str, Any] = {}
    end = 0
    for name, (code, shape) in shapes.items():
        start, end = end, end + int(np.prod(shape)) * DTYPES[code].itemsize
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    header = struct.pack("<Q", HEADER - 8) + json.dumps(entries).encode().ljust(HEADER - 8)
    if len(header) != HEADER:
        raise ValueError(f"the store's header takes {len(header)} bytes; expected {HEADER} at most")
    digest = hashlib.sha256(header)
    for array in arrays.values():
        file.write(array.tobytes())
        digest.update(array.tobytes())
    file.write(digest.digest())
    file.seek(0)
    file.write(header)


class Strings(Sequence):
    """Strings that stay in the file."""

    def __init__(self, content: FileArray, ends: FileArray):
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, key: int) -> str:
        i = range(len(self))[key]
        ends = self._ends[max(0, i - 1) : i + 1].tolist()
        return self._content[ends[0] if i else 0 : ends[-1]].tobytes().decode()


class StoredTokens:
    """StoredTokens is one file of a store: its modalities, and its arrays by name, read in parts as they are requested.

    A `FileError` on opening or on reading says that it is missing, cut off or damaged, and what to remove.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                header = file.read(HEADER)
            entries = json.loads(header[8:])
            self.arrays = {
                name: FileArray(path, HEADER + x["data_offsets"][0], DTYPES[x["dtype"]], tuple(x["shape"]))
                for name, x in entries.items()
            }
            end = HEADER + max(x["data_offsets"][1] for x in entries.values())
            if path.stat().st_size != end:
                raise ValueError(f"{path.stat().st_size} bytes; expected {end}")
            self.modalities = list(entries)[: list(entries).index(INDEX)]
            self._check_head(header)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            raise FileError(f"{path}: no whole file of a store ({error}); {self._remedy}") from error

    @property
    def _remedy(self) -> str:
        return f"remove its folder, {self.path.parent}; it is made again"

    def _check_head(self, header: bytes) -> None:
        digest = hashlib.sha256(header)
        for name, array in self.arrays.items():
            if name not in (*self.modalities, HEAD):
                for _, rows in blocks(array):
                    digest.update(rows)
        if digest.digest() != self.arrays[HEAD][:].tobytes():
            raise ValueError("damaged: it does not have the SHA-256 that was written with it")

    def __len__(self) -> int:
        return len(self.arrays[INDEX]) - 1

    def width(self, modality: str) -> int:
        """Return D, the width of a modality's tokens."""
        return self.arrays[modality].shape[1]

    def lengths(self, modality: str) -> np.ndarray:
        """Return the number of tokens of each sample (N,), without reading any."""
        return np.diff(self.arrays[INDEX][:, self.modalities.index(modality)])

    def rows(self, index: int) -> dict[str, slice]:
        """Return the rows of a sample, by modality."""
        begin, end = self.arrays[INDEX][index : index + 2].tolist()
        return {m: slice(begin[column], end[column]) for column, m in enumerate(self.modalities)}

    def read(self, index: int) -> dict[str, np.ndarray]:
        """Return the tokens (T_m, D_m) of a sample by modality, checked; memory of their own."""
        tokens = {m: self.arrays[m][rows] for m, rows in self.rows(index).items()}
        crc = 0
        for x in tokens.values():
            crc = zlib.crc32(x, crc)
        if crc != self.arrays[INDEX][index + 1, -1]:
            raise FileError(
                f"{self.path}: damaged: sample {index} does not have the CRC-32 written with it; {self._remedy}"
            )
        return tokens

    def strings(self, name: str) -> Strings:
        """Return what `packed` made arrays of."""
        return Strings(self.arrays[f"{name}.bytes"], self.arrays[f"{name}.ends"])


def packed(name: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    """Return two arrays of any number of strings: their UTF-8, one behind the other, and where each ends."""
    encoded = [s.encode() for s in strings]
    ends = np.cumsum([len(b) for b in encoded]).astype("<i8")
    return {f"{name}.bytes": np.frombuffer(b"".join(encoded), "u1"), f"{name}.ends": ends}
