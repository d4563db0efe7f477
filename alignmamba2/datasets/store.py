"""What was read once, kept so that it opens at once and trains in little memory.

A store is a folder: one safetensors file a split, and `store.json`. A split's file holds, for each modality m of N
samples,

    m           (Σ T_i, D_m) float32    the real tokens of all samples, one sample behind the other: no padding
    m.offsets   (N + 1,) int64          sample i is rows offsets[i] to offsets[i + 1]
    m.partner   (Σ T_i,) int32          where it is known: the text token that each token belongs to, −1 for none
    label       (N,) float32
    bert        (N, 3, T) int64         where the source has it: ids, mask and segments of BERT's tokens
    crc         (N,) int64              CRC-32 of each sample's tokens, its modalities one behind the other
    ids, texts  as name.bytes (any number,) uint8, UTF-8, and name.ends (N,) int64; no texts where the source has none
    head        (32,) uint8             SHA-256 of the header and of every array but the tokens

Of all this, only the labels are kept in memory: what a store takes there hardly grows with it. Only finite numbers get
in: what was not finite is 0, and counted by sample in `store.json`. The folder's name is a hash of the source's SHA-256
and of what was asked of it; it appears when it is whole.

Damage is found before a number of it is used: all but the tokens is checked on opening, a sample's tokens each time
that they are read. So a store of 8 GB opens at once, and no pass over all of it is ever needed. CRC-32 takes about 0.1
ms for a sample of MOSEI (0.4 MB), a step of training on it some 25 ms. It finds what disks and copies do to a file, and
is no defence against someone who changes it on purpose; a store is written and read on the same machine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pooch
import torch

from ..batch import Sample
from ..storage.files import FileError, read_json, whole_folder, write_json
from .base import DataError
from .formats.file_array import FileArray, blocks

VERSION = 3
NOTES = "store.json"
CRC, HEAD = "crc", "head"
DTYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Split:
    """One split, ready to be written.

    Attributes
    ----------
    widths : mapping of modality to D_m
    lengths : mapping of modality to int array (N,): real tokens of each sample
    tokens : function of a modality that yields its real tokens, (any number, D_m), sample after sample
    labels : array (N,)
    ids, texts : N strings each; texts may be empty
    partners : mapping of modality to int array (Σ T_i,)
    bert : int array (N, 3, T), or None
    """

    widths: Mapping[str, int]
    lengths: Mapping[str, np.ndarray]
    tokens: Callable[[str], Iterator[np.ndarray]]
    labels: np.ndarray
    ids: Sequence[str]
    texts: Sequence[str] = ()
    partners: Mapping[str, np.ndarray] = field(default_factory=dict)
    bert: np.ndarray | None = None


def file_hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file; a file of the same size and time as when it was last read is not read again."""
    notes = cache / "hashes.json"
    try:
        known = read_json(notes)
    except (OSError, FileError):  # none yet, or damaged: it only saves time
        known = {}
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns]
    name = str(path.resolve())
    if known.get(name, [None, None])[0] != state:
        known[name] = [state, pooch.file_hash(path)]
        cache.mkdir(parents=True, exist_ok=True)
        write_json(notes, known)
    return known[name][1]


def folder_of(cache: Path, **what: Any) -> Path:
    """Where the store of this source, read with these options, lies."""
    key = hashlib.sha256(json.dumps([VERSION, what], sort_keys=True).encode()).hexdigest()
    return cache / f"store-{key[:20]}"


def write(folder: Path, splits: Mapping[str, Split], about: Mapping[str, Any]) -> None:
    """Write a store, whole or not at all. `about` goes into `store.json`, beside "replaced" and "versions".

    Raises
    ------
    DataError
        There is no room, or a split does not hold what it says.
    """
    need = sum(4 * int(s.lengths[m].sum()) * s.widths[m] for s in splits.values() for m in s.widths)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if need > (free := shutil.disk_usage(folder.parent).free):
            raise DataError(
                f"{folder.parent}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. "
                "Make room, or set ALIGNMAMBA2_DATA to a folder with more"
            )
        with whole_folder(folder) as part:
            replaced = {name: _write_split(part / f"{name}.safetensors", split) for name, split in splits.items()}
            write_json(part / NOTES, {**about, "version": VERSION, "replaced": replaced})
            if not read_notes(folder):  # what is there has lost its notes, or they are damaged
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{error}. Set ALIGNMAMBA2_DATA to a folder with room") from error


def _write_split(path: Path, split: Split) -> dict[str, dict[str, int]]:
    """Returns, by modality and id of a sample, how many of its values were not finite."""
    raw, small = head(split)
    digest, crc = hashlib.sha256(raw), np.zeros(len(split.labels), "<i8")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for array in small.values():
            file.write(array.tobytes())
            digest.update(array.tobytes())
        bad = {m: _write_tokens(file, split, m, crc, small[f"{m}.offsets"]) for m in split.widths}
        digest.update(crc.tobytes())
        file.write(crc.tobytes() + digest.digest())
    return bad


def head(split: Split) -> tuple[bytes, dict[str, np.ndarray]]:
    """The header of a split's file, and the arrays that come before the tokens."""
    small: dict[str, np.ndarray] = {"label": np.asarray(split.labels, "<f4")}
    for m, lengths in split.lengths.items():
        small[f"{m}.offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    for m, partner in split.partners.items():
        small[f"{m}.partner"] = np.asarray(partner, "<i4")
    if split.bert is not None:
        small["bert"] = np.asarray(split.bert, "<i8")
    for name, strings in (("ids", split.ids), ("texts", split.texts)):
        encoded = [s.encode() for s in strings]
        small[f"{name}.bytes"] = np.frombuffer(b"".join(encoded), "u1")
        small[f"{name}.ends"] = np.cumsum([len(b) for b in encoded]).astype("<i8")
    shapes = {name: (CODES[x.dtype], x.shape) for name, x in small.items()}
    shapes |= {m: ("F32", (int(split.lengths[m].sum()), width)) for m, width in split.widths.items()}
    shapes |= {CRC: ("I64", (len(split.labels),)), HEAD: ("U8", (hashlib.sha256().digest_size,))}
    header: dict[str, Any] = {}
    end = 0
    for name, (code, shape) in shapes.items():
        start, end = end, end + int(np.prod(shape)) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    return raw + b" " * (-len(raw) % 8), small


def _write_tokens(file: BinaryIO, split: Split, modality: str, crc: np.ndarray, offsets: np.ndarray) -> dict[str, int]:
    """Returns how many values were not finite, by id, and goes on with each sample's CRC-32 in `crc`."""
    bad: dict[str, int] = {}
    rows = sample = 0
    for block in split.tokens(modality):
        # A float64 beyond float32's range becomes infinite here, and is counted with the others.
        with np.errstate(over="ignore"):
            values = np.array(block, "<f4", order="C")
        wrong = ~np.isfinite(values)
        values[wrong] = 0
        if rows + len(values) > offsets[-1]:
            raise DataError(f"{modality}: more tokens were read than the {int(offsets[-1])} expected")
        place, rows = rows, rows + len(values)
        while place < rows:  # the block may begin and end inside samples, and pass over some without a token
            sample += int(np.searchsorted(offsets[sample + 1 :], place, side="right"))
            end = min(rows, int(offsets[sample + 1]))
            own = slice(place - rows + len(values), end - rows + len(values))
            crc[sample] = zlib.crc32(values[own], crc[sample])
            if n := int(wrong[own].sum()):
                bad[split.ids[sample]] = bad.get(split.ids[sample], 0) + n
            place = end
        file.write(values.data)
    if rows != split.lengths[modality].sum():
        raise DataError(f"{modality}: {rows} tokens were read; expected {int(split.lengths[modality].sum())}")
    return bad


def read_notes(folder: Path) -> dict[str, Any]:
    """`store.json`; empty if there is no such store, or it is damaged: it is then made again."""
    try:
        return read_json(folder / NOTES)
    except (OSError, FileError):
        return {}


class StoredSamples(Sequence):
    """The samples of a split's file, each read when it is asked for; a slice is a view.

    Attributes
    ----------
    ids, texts : sequences of N strings, read when they are asked for; texts is empty where the source has none
    labels : float32 Tensor (N,)
    finite : True: there is no NaN and no infinity in a store
    """

    finite = True

    def __init__(self, path: Path, aligned: bool = False):
        self.path, self.aligned = path, aligned
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > path.stat().st_size:
                    raise ValueError("the header is longer than the file")
                raw = file.read(length)
            header = json.loads(raw)
            self._arrays = {
                name: FileArray(path, 8 + length + x["data_offsets"][0], DTYPES[x["dtype"]], tuple(x["shape"]))
                for name, x in header.items()
            }
            end = 8 + length + max(x["data_offsets"][1] for x in header.values())
            if path.stat().st_size != end:
                raise ValueError(f"{path.stat().st_size} bytes; expected {end}")
            self.ids, self.texts = (
                _Strings(self._arrays[f"{name}.bytes"], self._arrays[f"{name}.ends"]) for name in ("ids", "texts")
            )
            self.labels = torch.from_numpy(self._arrays["label"][:])
            self.modalities = [n for n in self._arrays if f"{n}.offsets" in self._arrays]
            self._check_head(raw)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError, struct.error) as error:
            raise DataError(
                f"{path}: no whole file of a store ({error}); remove its folder, it is made again"
            ) from error

    def _check_head(self, raw: bytes) -> None:
        """All but the tokens, against its SHA-256."""
        digest = hashlib.sha256(raw)
        for name, array in self._arrays.items():
            if name not in (*self.modalities, HEAD):
                for _, rows in blocks(array):
                    digest.update(rows)
        if digest.digest() != self._arrays[HEAD][:].tobytes():
            raise ValueError("damaged: it does not have the SHA-256 that was written with it")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return _View(self, range(*key.indices(len(self))))
        i = range(len(self))[key]
        features, partners, crc = {}, {}, 0
        for m in self.modalities:
            rows = slice(*self._arrays[f"{m}.offsets"][i : i + 2].tolist())
            tokens = self._arrays[m][rows]
            crc = zlib.crc32(tokens, crc)
            features[m] = torch.from_numpy(tokens)
            if f"{m}.partner" in self._arrays:
                partners[m, "text"] = torch.from_numpy(self._arrays[f"{m}.partner"][rows]).long()
            elif self.aligned and m != "text":
                partners[m, "text"] = torch.arange(rows.stop - rows.start)
        if crc != self._arrays[CRC][i]:
            raise DataError(
                f"{self.path}: damaged: sample {self.ids[i]!r} does not have the CRC-32 that was written with it; "
                "remove its folder, it is made again"
            )
        words = self.texts[i].split() if self.texts else []
        # Only where every token is a word: BERT's tokens are pieces of words.
        shown = {"text": words} if len(words) == len(features["text"]) else {}
        return Sample(features, self.labels[i], self.ids[i], shown, partners)

    def lengths(self, modality: str) -> np.ndarray:
        """Tokens (N,) of each sample, without reading any."""
        return np.diff(self._arrays[f"{modality}.offsets"][:])

    def bert(self, index: int) -> np.ndarray | None:
        """BERT's ids, mask and segments (3, T) int64 of a sample, where the source has them."""
        return self._arrays["bert"][index] if "bert" in self._arrays else None


class _Strings(Sequence):
    """Strings that stay in the file."""

    def __init__(self, data: FileArray, ends: FileArray):
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, key: int) -> str:
        i = range(len(self))[key]
        ends = self._ends[max(0, i - 1) : i + 1].tolist()
        return self._data[ends[0] if i else 0 : ends[-1]].tobytes().decode()


class _View(Sequence):
    """Some of the samples of another sequence, still not read."""

    finite = True

    def __init__(self, whole: StoredSamples, rows: range):
        self.whole, self.rows = whole, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key):
        return _View(self.whole, self.rows[key]) if isinstance(key, slice) else self.whole[self.rows[key]]

    @property
    def labels(self) -> torch.Tensor:
        return self.whole.labels[list(self.rows)]
