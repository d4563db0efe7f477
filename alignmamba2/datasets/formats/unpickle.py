"""Reads pickles of arrays, and nothing else, without ever running one.

`pickle.load` runs whatever a file asks for, and the benchmarks' pickles come from mirrors. This reader is the standard
library's `pickle._Unpickler` with all taken out that can run code: it imports nothing, and the names in `KNOWN`, which
arrays, sets and bytes need, stand for methods of its own.

It also reads no large array. Its bytes lie in one piece in the file, so all that is kept is their place: a `FileArray`.
A pickle of 10 GB opens in the memory of its small parts. (Protocols 0 to 2, as Python 3 writes them, keep bytes as
text; those are decoded in memory.)

A budget bounds what a file may ask for: instructions, depth, and bytes in proportion to its size. What is built is
compared with it beforehand, and the whole result once more, in which what is shared counts as often as it is used.
"""

import math
import mmap
import pickle
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...storage.files import FileArray
from ..base import DataError

LARGE = 1 << 16  # bytes: from here on they stay in the file
READS = 1 << 22  # about the number of instructions
DEPTH = 64
GROWTH, ROOM = 8, 1 << 26  # what may be built: so many bytes per byte of the file, and so many more
KEYS = (str, bytes, int, float, type(None), np.generic)


class UnsafePickle(DataError):
    """The pickle asks for something that is not data; the message names it."""


def read_pickle(path: str | Path) -> Any:
    """Return what a pickle of dicts, lists, tuples, sets, strings, numbers and arrays holds.

    It is the same as `pickle.load` returns, with four exceptions. Arrays, and bytes by themselves (as uint8), of at
    least 64 KiB are `FileArray`s. Smaller arrays are read-only. Strings of Python 2 are str where they are ASCII, else
    bytes. A bytearray is bytes. An `UnsafePickle` names what the pickle tried to import; a `DataError` says that it is
    no pickle, is cut off, asks for more than its size allows, or does not make sense.
    """
    path, start = Path(path), b""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data[:64].lstrip().lower()
            reader = _Reader(path, data)
            value = reader.load()
            _measure(value, reader.room, {})
            return value
    except DataError:
        raise
    except Exception as error:  # a stack that is too short, a memo that was never set, wrong types, no file
        if start.startswith((b"<!doctype", b"<html")):
            raise DataError(f"{path}: a web page, not the file; the download asked for something first") from error
        if start.startswith(b"version https://git-lfs"):
            raise DataError(f"{path}: a pointer of Git LFS, not the file; bring it with: git lfs pull") from error
        raise DataError(
            f"{path}: no readable pickle ({type(error).__name__}: {error}); it may be cut off or of another kind. "
            "Bring it again"
        ) from error


class _Unbuilt:
    """An array or a dtype before BUILD, which sets its value."""

    def __init__(self, value: np.dtype | None = None):
        self.value: Any = value


class _Memo(dict):
    def __getitem__(self, index: int) -> Any:
        entry = super().__getitem__(index)
        return entry.value if type(entry) is _Unbuilt and entry.value is not None else entry


class _Reader(pickle._Unpickler):
    """The standard library's reader, of a mapped file, for data alone."""

    def __init__(self, path: Path, data: mmap.mmap):
        super().__init__(SimpleNamespace(read=self._read, readline=data.readline))
        self._path, self._data, self._reads, self.memo = path, data, 0, _Memo()
        self.room = GROWTH * len(data) + ROOM

    def refusal(self, request: str) -> UnsafePickle:
        return UnsafePickle(
            f"{self._path}: refused, it asks for {request} at byte {self._data.tell()}. Only arrays, scalars and "
            "containers are read; anything else can run code. Do not open this file with pickle.load"
        )

    def _read(self, count: int) -> bytes:
        self._reads += 1
        content = self._data.read(count)
        if len(content) < count or self._reads > READS:
            raise EOFError(f"{count} bytes expected, {len(content)} left, after {self._reads} of {READS} reads")
        return content

    def _take(self, count: int) -> None:
        """Take bytes of the budget."""
        self.room -= count
        if self.room < 0:
            raise ValueError(f"builds more than {GROWTH} times the file's size and {ROOM >> 20} MiB")

    # --- instructions that differ from the standard library's ---

    def find_class(self, module: str, name: str) -> Any:
        name = f"{re.sub(r'^numpy[.]_core', 'numpy.core', module).replace('__builtin__', 'builtins')}.{name}"
        if name not in KNOWN:
            raise self.refusal(name)
        return _Unbuilt if KNOWN[name] is _Unbuilt else KNOWN[name].__get__(self)

    def payload(self, kind: str) -> bytes | FileArray:
        (length,) = struct.unpack(kind, self.read(struct.calcsize(kind)))
        if not LARGE <= length <= len(self._data) - self._data.tell():
            return self.read(length)
        self._data.seek(length, 1)
        return FileArray(self._path, self._data.tell() - length, np.dtype("u1"), (length,))

    def _decode_string(self, value: bytes | FileArray) -> str | bytes | FileArray:
        """Python 2's str."""
        return value.decode("ascii") if isinstance(value, bytes) and value.isascii() else value

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not _Unbuilt:
            raise self.refusal("the state of an object (BUILD)")
        if isinstance(target.value, np.dtype):
            if any(state[2:5]):
                raise ValueError("a dtype with fields; only numbers, strings and objects are read")
            target.value = target.value.newbyteorder(state[1])
        else:
            _, shape, dtype, columns_first, content = state
            target.value = self.array_of(content, dtype, shape, "F" if columns_first else "C")
        self.stack[-1] = target.value

    def push(self, value: Any) -> None:
        self.append(value)  # looked up here: a mark, once it is gone, gives the reader another stack

    def fill(self, values: Any, target: Any) -> Any:
        """Add values to a container and return it."""
        self._take((64 if type(target) is set else 8) * len(values))
        if type(target) is list:
            target.extend(values)
        elif type(target) is set:
            target.update(map(self.key, values))
        elif type(target) is dict:
            target.update(zip(map(self.key, values[::2]), values[1::2], strict=True))
        else:
            raise self.refusal(f"adding to a {type(target).__name__}")
        return target

    def refuse(self, name: str) -> None:
        raise self.refusal(f"an object or a buffer of its own ({name})")

    # --- methods that names stand for ---

    def array_of(self, content: Any, dtype: Any, shape: Any, order: str = "C", axes: Any = None) -> Any:
        if not isinstance(dtype, np.dtype) or not dtype.itemsize:
            raise ValueError(f"an array of type {dtype!r}")
        axes = tuple(range(len(shape))) if axes is None else axes
        if order == "F":  # the first axis fastest
            shape, axes = shape[::-1], axes[::-1]
        sizes = len(shape) <= DEPTH and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
        if not sizes or sorted(axes) != list(range(len(shape))):
            raise ValueError(f"shape {str(shape)[:99]} with axes {str(axes)[:99]}")
        if dtype.hasobject:
            self._take(8 * len(content))
            values = np.empty(len(content), object)
            for i, value in enumerate(content):
                values[i] = value
            return values.reshape(shape).transpose(axes)
        content = content.encode("latin-1") if isinstance(content, str) else content
        expected = math.prod(shape) * dtype.itemsize
        if len(content) != expected:
            raise ValueError(f"an array of shape {shape}, {dtype}, with {len(content)} bytes; expected {expected}")
        if isinstance(content, FileArray):
            return FileArray(self._path, content.offset, dtype, shape, axes)
        return (np.frombuffer(content, dtype) if content else np.empty(0, dtype)).reshape(shape).transpose(axes)

    def dtype_of(self, code: str, *_: object) -> _Unbuilt:
        if not re.fullmatch(r"[<>|=]?(?:[biufSU]\d+|O8?|\?)", code):
            raise ValueError(f"dtype {code!r}; only numbers, strings and objects are read")
        return _Unbuilt(np.dtype(code))

    def encoded(self, text: Any = "", encoding: str = "latin1") -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"encoding {encoding!r}")
        self._take(len(text))
        return text.encode("latin-1") if isinstance(text, str) else text

    def key(self, value: Any) -> Any:
        # Hashing runs through nested tuples without a limit, which a file could use to overflow the C stack, and
        # integers beyond 64 bits can be chosen so that all have one hash.
        if not isinstance(value, KEYS):
            raise ValueError(f"a key of type {type(value).__name__}; only strings and numbers are read")
        if isinstance(value, int) and value.bit_length() > 64:
            self._take(LARGE)
        return value


KNOWN: dict[str, Callable] = {
    "numpy.ndarray": _Unbuilt,
    "numpy.dtype": _Reader.dtype_of,
    "numpy.core.multiarray._reconstruct": lambda reader, cls, shape, code: cls(),
    "numpy.core.multiarray.scalar": lambda reader, dtype, content: reader.array_of(content, dtype, (1,))[0],
    "numpy.core.numeric._frombuffer": _Reader.array_of,
    "_codecs.encode": _Reader.encoded,
    "builtins.bytes": _Reader.encoded,
    "builtins.bytearray": _Reader.encoded,
    "builtins.set": lambda reader, values: reader.fill(values, set()),
    "builtins.frozenset": lambda reader, values: frozenset(reader.fill(values, set())),
}

INSTRUCTIONS: dict[str, Callable[[_Reader], Any]] = {
    "FRAME": lambda reader: reader.read(8),  # a frame's length; everything is read as it comes
    "BINSTRING": lambda reader: reader.append(reader._decode_string(reader.payload("<i"))),
    "BINBYTES": lambda reader: reader.append(reader.payload("<I")),
    "BINBYTES8": lambda reader: reader.append(reader.payload("<Q")),
    "BYTEARRAY8": lambda reader: reader.append(reader.payload("<Q")),
    "FROZENSET": lambda reader: reader.push(frozenset(reader.fill(reader.pop_mark(), set()))),
    "DICT": lambda reader: reader.push(reader.fill(reader.pop_mark(), {})),
    "APPEND": lambda reader: reader.fill([reader.stack.pop()], reader.stack[-1]),
    "SETITEM": lambda reader: reader.fill([reader.stack.pop(-2), reader.stack.pop()], reader.stack[-1]),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), lambda r: r.fill(r.pop_mark(), r.stack[-1])),
    "BUILD": _Reader.load_build,
    "READONLY_BUFFER": lambda reader: None,  # all that is read is read-only
}
INSTRUCTIONS |= {
    name: partial(_Reader.refuse, name=name)
    for name in ("OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER")
}
_Reader.dispatch = pickle._Unpickler.dispatch | {getattr(pickle, name)[0]: f for name, f in INSTRUCTIONS.items()}


def _measure(value: Any, room: int, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return the bytes and the depth of a value, what is shared counted each time; refuse what is beyond the budget."""
    size, height = 8, 0
    if isinstance(value, (*KEYS, FileArray)) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
        size += len(value) if isinstance(value, (str, bytes)) else getattr(value, "nbytes", 0)
    elif not isinstance(value, (dict, list, tuple, set, frozenset, np.ndarray)):
        raise ValueError(f"a {type(value).__name__} that was never finished")
    elif id(value) in known:
        size, height = known[id(value)]
    elif depth <= DEPTH:  # a value that contains itself is too deep
        for part in (*value, *value.values()) if isinstance(value, dict) else getattr(value, "flat", value):
            inner, below = _measure(part, room - size, known, depth + 1)
            size, height = size + inner, max(height, below + 1)
        known[id(value)] = size, height
    if depth + height > DEPTH:
        raise ValueError(f"values nested deeper than {DEPTH}, or inside themselves")
    if size > room:
        raise ValueError(f"more than {GROWTH} times the file's size and {ROOM >> 20} MiB, with all that is used twice")
    return size, height
