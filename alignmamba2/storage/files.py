"""Files that are whole or not there, tensors that are what they were when written, and arrays that stay in a file."""

import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DIGEST = "sha256"
DEEPEST = 32  # of plain data in JSON and TOML
BLOCK = 1 << 24  # bytes of a block of rows


class FileError(ValueError):
    """A file is not what it should be; the message names it and says what to do."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file to: once it is on the disk, it takes the place of `path`.

    Whatever happens in between (an error, `kill -9`, a full disk, a power cut), a reader finds the old file or the new
    one. What a killed process left behind is swept away by the next one that writes the same file. An `OSError` names
    the file: the disk is full, say; `path` is as it was.
    """
    with _beside(path, "what was there before is unchanged") as part:
        yield part
        _sync(part)
        part.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to write files into: once all are there, it takes the place of `folder`.

    As with `whole`, a reader finds all of it or nothing. `folder` may be there empty. Where it holds something when all
    is written, another process was faster, and its folder stays. An `OSError` names the folder: the disk is full, say.
    """
    with _beside(folder, "it is not there") as part:
        part.mkdir(parents=True)
        yield part
        for path in part.rglob("*"):
            _sync(path)
        try:
            if folder.is_dir():
                folder.rmdir()
            part.rename(folder)
        except OSError:
            if not (folder.is_dir() and any(folder.iterdir())):
                raise


@contextmanager
def _beside(path: Path, state: str) -> Iterator[Path]:
    """Give a name beside `path` that is gone afterwards; errors of the system name `path` and say its state."""
    part = _part(path)
    try:
        yield part
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"{path}: could not be written ({reason}); {state}") from error
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Return the text with each control character, which could steer a terminal, in its escaped form."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_plain(path: Path, parse: Callable[[str], Any] = json.loads, most: int = 1 << 28) -> Any:
    """Return the plain data of a UTF-8 text file of at most `most` bytes (see `plain`), or raise a `FileError`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    with plain_errors(path):
        if path.stat().st_size > most:
            raise ValueError(f"{path.stat().st_size} bytes; at most {most} are read")
        return plain(path.read_text("utf-8"), parse)


@contextmanager
def plain_errors(place: object, kind: type[ValueError] = FileError, expected: str = "plain data") -> Iterator[None]:
    """Turn what parsers raise of damaged or hostile text into one error of a kind that names the place."""
    try:
        yield
    except FileError as error:
        raise kind(str(error)) from error
    except Exception as error:
        reason = str(error) or "nested too deeply"
        raise kind(f"{place}: expected {expected}; {reason}. It may be cut off or damaged") from error


def plain(text: str, parse: Callable[[str], Any] = json.loads) -> Any:
    """Return what the parser makes of the text: values nested at most `DEEPEST`, strings that are UTF-8."""
    value = parse(text)
    level = [value]
    for _ in range(DEEPEST):
        level = [x for v in level if isinstance(v, (dict, list)) for x in (v.values() if isinstance(v, dict) else v)]
    if level:
        raise ValueError(f"values nested deeper than {DEEPEST}")
    if "\\ud" in text.lower():  # half of a pair of surrogates is a string that cannot be written
        json.dumps(value, ensure_ascii=False, default=str).encode()
    return value


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a reader never sees half of it."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, notes: Mapping[str, Any]) -> None:
    """Write plain data as JSON, with a SHA-256 of it beside it."""
    write_text(path, json.dumps({**notes, DIGEST: json_digest(notes)}, indent=2) + "\n")


def read_json(path: Path, *, sealed: bool = True) -> dict[str, Any]:
    """Return what `write_json` wrote; with `sealed=False` also a file of earlier versions, which have no SHA-256.

    A `FileError` names a file that is cut off, damaged, or of another writer; a missing one is a `FileNotFoundError`.
    """
    notes = read_plain(path)
    if not isinstance(notes, dict):
        raise FileError(f"{path}: holds a {type(notes).__name__}; expected a JSON object")
    expected = notes.pop(DIGEST, None)
    if (sealed or expected is not None) and expected != json_digest(notes):
        raise FileError(f"{path}: damaged: its content does not have the SHA-256 that was written with it")
    return notes


def file_hash(path: Path, cache: Path) -> str:
    """Return a file's SHA-256; see `file_hashes`."""
    return file_hashes([path], cache)[0]


def file_hashes(paths: Sequence[Path], cache: Path) -> list[str]:
    """Return the SHA-256 of files; one of the same size and time as when it was last read is not read again."""
    notes = cache / "hashes.json"
    try:
        known = read_json(notes)
    except (OSError, FileError):  # none yet, or damaged: it only saves time
        known = {}
    names, new = [str(path.resolve()) for path in paths], False
    for path, name in zip(paths, names, strict=True):
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns]
        if known.get(name, [None, None])[0] != state:
            known[name], new = [state, pooch.file_hash(path)], True
    if new:
        cache.mkdir(parents=True, exist_ok=True)
        write_json(notes, known)
    return [known[name][1] for name in names]


def json_digest(value: Any) -> str:
    """Return the SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors and notes as one safetensors file, with a SHA-256 over all of it among the notes."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    notes = dict(notes or {})
    with whole(path) as part:
        save_file(tensors, part, metadata={**notes, DIGEST: tensors_digest(tensors, notes)})
        _sort_notes(part)


def _sort_notes(path: Path) -> None:
    """Put the notes of a safetensors file in order, so that the same content has the same bytes."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and notes of a safetensors file. Nothing in it is executed.

    A `FileError` names a file that is cut off, damaged, or no safetensors file (one of another writer has no SHA-256,
    and none is asked for); a missing one is a `FileNotFoundError`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: their memory is aligned as torch aligns it, so products of them have the same bits as ever.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            notes = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise FileError(f"{path}: no readable safetensors file ({error}); it may be cut off or damaged") from error
    expected = notes.pop(DIGEST, None)
    # Damage may have hit the digest's own name: then its value stands under another one.
    lost = expected is None and any(re.fullmatch("[0-9a-f]{64}", value) for value in notes.values())
    if lost or (expected is not None and expected != tensors_digest(tensors, notes)):
        raise FileError(f"{path}: damaged: its content does not have the SHA-256 that was written with it")
    return tensors, notes


def tensors_digest(tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256 over contiguous tensors of the CPU by name, with their types and shapes, and over notes."""
    digest = hashlib.sha256(json.dumps(notes or {}, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class FileArray:
    """FileArray is an array whose numbers lie in one piece in a file; indexing copies just the rows requested.

    Each access maps the file, copies, and unmaps it again: what is read through a lasting map counts as the process's
    memory until the system wants it back, so here memory is what the caller holds. The first byte is at `offset`;
    `dtype` and `shape` are as the numbers lie in the file, the last axis fastest; `axes` is the order in which the
    array has those axes, as of `numpy.transpose`, by default the same.
    """

    def __init__(
        self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...], axes: tuple[int, ...] | None = None
    ):
        self.path, self.offset, self.dtype = path, offset, dtype
        self._stored, self._axes = shape, tuple(range(len(shape))) if axes is None else axes
        self.shape = tuple(shape[axis] for axis in self._axes)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: Any) -> np.ndarray:
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)[key]
        try:
            array = np.memmap(self.path, self.dtype, "r", self.offset, self._stored)
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.path}: ends inside an array ({error}); it is cut off, or changed while it was read"
            ) from error
        return np.array(array.transpose(self._axes)[key])[()]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def blocks(array: FileArray | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield an array (N, ...) in pieces of about 16 MiB: the number of the first row, and the rows."""
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, BLOCK // row)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def pack(state: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Move the tensors of nested dicts and lists into `tensors`, by name; return the rest, which can be JSON."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):  # as pairs: JSON would make every key a string
        return {"pairs": [[k, pack(v, tensors, f"{name}/{k}" if name else str(k))] for k, v in state.items()]}
    if isinstance(state, (list, tuple)):
        return [pack(v, tensors, f"{name}/{i}") for i, v in enumerate(state)]
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(f"pack: {name} is a {type(state).__name__}; expected plain data")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `pack` took apart; tuples have become lists."""
    if isinstance(packed, list):
        return [unpack(v, tensors) for v in packed]
    if isinstance(packed, dict):
        return tensors[packed["tensor"]] if "tensor" in packed else {k: unpack(v, tensors) for k, v in packed["pairs"]}
    return packed


def _part(path: Path) -> Path:
    """Return a name beside `path` of this process's own; remove those of processes of this machine that have ended."""
    ours = f"{path.name}.{socket.gethostname()}-"
    for part in path.parent.glob(f"{glob.escape(ours)}*.part"):
        pid = part.name.removesuffix(".part").rsplit("-", 2)[1]
        if pid.isdecimal() and not _alive(int(pid)):
            _remove(part)
    return path.with_name(f"{ours}{os.getpid()}-{secrets.token_hex(3)}.part")


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk; a folder only where the system lets it be opened."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
