"""Reads pickles of arrays, and nothing else, without ever running one.

`pickle.load` runs whatever a file asks for, and the benchmarks' pickles come from mirrors. So this is a small machine
of its own for pickle's opcodes (protocols 0 to 5, the format that `pickletools` documents). It imports nothing: of all
names a pickle can ask for, it knows those that NumPy arrays need, and what they stand for is built here.

    numpy.ndarray, numpy.dtype, numpy{._core,.core}.multiarray.{_reconstruct, scalar},
    numpy{._core,.core}.numeric._frombuffer, _codecs.encode

It also reads no large array. Its bytes lie in one piece in the file, so all that is kept is where: a `FileArray`, whose
rows are read when they are asked for. A pickle of 10 GB opens in the memory of its small parts. (Protocols 0 to 2, as
Python 3 writes them, keep bytes as text; a large one is decoded into a temporary file, block by block.) Nothing a
pickle says is believed before it is compared with the size of the file, so memory is bounded by what lies in it.
"""

from __future__ import annotations

import codecs
import math
import mmap
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..base import DataError
from .file_array import FileArray

LARGE = 1 << 16  # bytes: from here on they stay in the file
BLOCK = 1 << 20
MARK = object()
# What may be asked for; numpy 1 says numpy.core, numpy 2 numpy._core.
KNOWN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
# Opcodes that only make sense for what is refused here, by the name that `pickletools` gives them.
REFUSED = {
    b"P": "a persistent id (PERSID)", b"Q": "a persistent id (BINPERSID)", b"\x82": "an extension code (EXT1)",
    b"\x83": "an extension code (EXT2)", b"\x84": "an extension code (EXT4)", b"o": "an object (OBJ)",
    b"\x81": "an object (NEWOBJ)", b"\x92": "an object (NEWOBJ_EX)", b"\x97": "a buffer outside the file (NEXT_BUFFER)",
    b"\x98": "a buffer outside the file (READONLY_BUFFER)",
}  # fmt: skip


class UnsafePickle(DataError):
    """The pickle asks for something that is not data; the message names it."""


def read_pickle(path: str | Path) -> Any:
    """What a pickle of dicts, lists, tuples, sets, strings, numbers and arrays holds.

    Returns
    -------
    The same as `pickle.load`, but: an array of at least 64 KiB is a `FileArray`; strings of Python 2 are str where they
    are ASCII, else bytes; a bytearray is bytes.

    Raises
    ------
    UnsafePickle
        Naming what the pickle tried to import.
    DataError
        It is no pickle, is cut off, or does not make sense.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not size:
        file.close()
        raise DataError(f"{path}: empty; bring the file again")
    with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        machine = _Machine(path, data)
        try:
            return machine.run()
        except DataError:
            raise
        # What a damaged file can do to the machine: a stack that is too short, a memo that was never set, wrong types.
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
            start = bytes(data[:64]).lstrip().lower()
            if start.startswith((b"<!doctype", b"<html")):
                raise DataError(f"{path}: a web page, not the file; the download asked for something first") from error
            if start.startswith(b"version https://git-lfs"):
                raise DataError(f"{path}: a pointer of Git LFS, not the file; bring it with: git lfs pull") from error
            raise DataError(
                f"{path}: no readable pickle (byte {machine.place} of {size}: {type(error).__name__}: {error}); "
                "it may be cut off or of another kind. Bring it again"
            ) from error


class _Span:
    """Bytes, or text in UTF-8, left where they are."""

    def __init__(self, file: Path | BinaryIO, offset: int, length: int):
        self.file, self.offset, self.length = file, offset, length

    def latin1(self) -> _Span:
        """Text whose letters stand for bytes, as bytes in a temporary file."""
        decoder, left = codecs.getincrementaldecoder("utf-8")(), self.length
        out = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the arrays that read from it)
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise ValueError("text ends early")
                left -= len(block)
                out.write(decoder.decode(block, final=not left).encode("latin-1"))
        return _Span(out, 0, out.tell())


class _Name:
    """One of the names in KNOWN."""

    def __init__(self, module: str, name: str):
        self.key = (module, name)


class _DType:
    """A dtype under construction: BUILD gives it its byte order."""

    def __init__(self, code: str | bytes, *_: object):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"[<>|=]?(?:[biufSU]\d+|O8?|\?)", code):
            raise ValueError(f"dtype {code!r}; only numbers, strings and objects are read")
        self.value = np.dtype(code)

    def build(self, state: tuple) -> None:
        _version, order, subtype, names, fields = state[:5]
        if (subtype, names, fields) != (None, None, None):
            raise ValueError("a dtype with fields; only numbers, strings and objects are read")
        self.value = self.value.newbyteorder(order.decode("ascii") if isinstance(order, bytes) else order)


class _Array:
    """An array under construction: `_reconstruct` makes it, BUILD fills it."""

    value: np.ndarray | FileArray


class _Machine:
    """Runs opcodes over a file: a stack, a memo, and a place."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.size = path, data, len(data)
        self.place = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                return _finished(self.stack.pop())
            if opcode in REFUSED:
                raise UnsafePickle(self.refusal(REFUSED[opcode]))
            operation = OPERATIONS.get(opcode)
            if operation is None:
                raise ValueError(f"no opcode {opcode!r}")
            operation(self)

    def refusal(self, what: str) -> str:
        return (
            f"{self.path}: refused, it asks for {what} at byte {self.place}. Only arrays, scalars and containers are "
            "read; anything else can run code. Do not open this file with pickle.load"
        )

    # --- reading ---

    def take(self, count: int) -> bytes:
        if count < 0 or count > self.size - self.place:
            raise ValueError(f"wants {count} bytes, {self.size - self.place} are left")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, kind: str) -> int:
        return struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.place)
        if end < 0:
            raise ValueError("a line without an end")
        text = self.take(end - self.place)
        self.place += 1
        return text

    def raw(self, kind: str) -> bytes | _Span:
        length = self.number(kind)
        if length < LARGE:
            return self.take(length)
        if length > self.size - self.place:
            raise ValueError(f"wants {length} bytes, {self.size - self.place} are left")
        self.place += length
        return _Span(self.path, self.place - length, length)

    # --- the stack ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """What lies above the last mark; the mark goes too."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark on the stack")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return [_finished(v) for v in values]

    def text(self, kind: str) -> None:
        value = self.raw(kind)
        self.push(value if isinstance(value, _Span) else value.decode("utf-8", "surrogatepass"))

    def string(self, value: bytes | _Span) -> None:
        """Python 2's str."""
        self.push(value.decode("ascii") if isinstance(value, bytes) and value.isascii() else value)

    def name_of(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no text")
        key = (re.sub(r"^numpy\._core\b", "numpy.core", module), name)
        if key not in KNOWN:
            raise UnsafePickle(self.refusal(f"{module}.{name}"))
        self.push(_Name(*key))

    def pop(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) != count or any(v is MARK for v in values):
            raise IndexError("too few values on the stack")
        del self.stack[-count:]
        return [_finished(v) for v in values]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        """Add values to the list, dict or set on the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, dict):
            _set_pairs(target, values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        else:
            raise UnsafePickle(self.refusal(f"adding to a {type(target).__name__}"))

    def dict(self, values: list[Any]) -> None:
        self.push({})
        self.extend(values)

    # --- what stands for a call ---

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise UnsafePickle(self.refusal("a call of something that is no known name"))
        self.push(CALLS[function.key](self, *arguments))

    def build(self) -> None:
        (state,), target = self.pop(1), self.stack[-1]
        if isinstance(target, _DType):
            target.build(state)
        elif isinstance(target, _Array):
            _version, shape, dtype, fortran, content = state
            target.value = self.array(content, dtype, shape, "F" if fortran else "C")
        else:
            raise UnsafePickle(self.refusal("the state of an object (BUILD)"))

    def array(self, content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray | FileArray:
        kind: np.dtype = dtype
        if not isinstance(kind, np.dtype):
            raise ValueError(f"an array of type {dtype!r}")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"shape {shape!r}")
        count = math.prod(shape)
        if kind.hasobject:
            if not isinstance(content, list) or len(content) != count:
                raise ValueError(f"an array of objects of shape {shape} without as many objects")
            values = np.empty(count, object)
            for i, value in enumerate(content):
                values[i] = value
            return values.reshape(shape, order=order)
        if isinstance(content, str):
            content = content.encode("latin-1")
        span = isinstance(content, _Span)
        length = content.length if span else len(content)
        if length != count * kind.itemsize:
            raise ValueError(
                f"an array of shape {shape}, {kind}, with {length} bytes; expected {count * kind.itemsize}"
            )
        if span and order == "C":
            return FileArray(content.file, content.offset, kind, shape)
        if span:  # columns first: no rows lie in one piece
            whole = FileArray(content.file, content.offset, kind, (count,))
            return whole[:].reshape(shape, order="F")
        return np.frombuffer(content, kind).reshape(shape, order=order).copy()

    def reconstruct(self, cls: Any, shape: Any, _code: Any) -> _Array:
        if not isinstance(cls, _Name) or cls.key != ("numpy", "ndarray") or shape != (0,):
            raise ValueError("an array that begins with something else than nothing")
        return _Array()

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes | _Span:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"encoding {encoding!r}")
        return text.latin1() if isinstance(text, _Span) else text.encode("latin-1")

    def scalar(self, dtype: Any, content: Any) -> Any:
        return self.array(content, dtype, (1,))[0]


def _finished(value: Any) -> Any:
    """The array or dtype, once it is built; everything else as it is."""
    return value.value if isinstance(value, (_Array, _DType)) else value


def _key(value: Any) -> Any:
    # Hashing runs through nested tuples without a limit, which a file could use to overflow the C stack.
    if not isinstance(value, (str, bytes, int, float, type(None), np.generic)):
        raise ValueError(f"a key of type {type(value).__name__}; only strings and numbers are read")
    return value


def _set_pairs(target: dict, values: list) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_key(key)] = value


def _integer(line: bytes) -> int:
    return line == b"01" if line in (b"00", b"01") else int(line)  # how protocol 0 writes False and True


def _quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0]


CALLS: dict[tuple[str, str], Callable] = {
    ("numpy", "dtype"): lambda m, *a: _DType(*a),
    ("numpy.core.multiarray", "_reconstruct"): _Machine.reconstruct,
    ("numpy.core.multiarray", "scalar"): _Machine.scalar,
    ("numpy.core.numeric", "_frombuffer"): _Machine.array,
    ("_codecs", "encode"): _Machine.encode,
}

OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1), b"\x95": lambda m: m.take(8),  # PROTO, FRAME
    # Constants and numbers.
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_integer(m.line())), b"L": lambda m: m.push(int(m.line().removesuffix(b"L"))),
    b"J": lambda m: m.push(m.number("i")), b"K": lambda m: m.push(m.number("B")), b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"\x8b": lambda m: m.push(int.from_bytes(m.take(m.number("i")), "little", signed=True)),
    b"F": lambda m: m.push(float(m.line())), b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # Python 2's strings, bytes, text.
    b"S": lambda m: m.string(_quoted(m.line())), b"T": lambda m: m.string(m.raw("i")),
    b"U": lambda m: m.string(m.raw("B")),
    b"B": lambda m: m.push(m.raw("I")), b"C": lambda m: m.push(m.raw("B")), b"\x8e": lambda m: m.push(m.raw("Q")),
    b"\x96": lambda m: m.push(m.raw("Q")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")), b"X": lambda m: m.text("I"),
    b"\x8c": lambda m: m.text("B"), b"\x8d": lambda m: m.text("Q"),
    # Containers.
    b"]": lambda m: m.push([]), b"l": lambda m: m.push(m.pop_mark()),
    b"a": lambda m: m.extend(m.pop(1)), b"e": lambda m: m.extend(m.pop_mark()),
    b")": lambda m: m.push(()), b"t": lambda m: m.push(tuple(m.pop_mark())), b"\x85": lambda m: m.push(tuple(m.pop(1))),
    b"\x86": lambda m: m.push(tuple(m.pop(2))), b"\x87": lambda m: m.push(tuple(m.pop(3))),
    b"}": lambda m: m.push({}), b"d": lambda m: m.dict(m.pop_mark()),
    b"s": lambda m: m.extend(m.pop(2)), b"u": lambda m: m.extend(m.pop_mark()),
    b"\x8f": lambda m: m.push(set()), b"\x90": lambda m: m.extend(m.pop_mark()),
    b"\x91": lambda m: m.push(frozenset(map(_key, m.pop_mark()))),
    # Stack and memo.
    b"(": lambda m: m.push(MARK), b"0": lambda m: m.stack.pop(), b"1": _Machine.pop_mark,
    b"2": lambda m: m.push(m.stack[-1]),
    b"p": lambda m: m.put(int(m.line())), b"q": lambda m: m.put(m.number("B")), b"r": lambda m: m.put(m.number("I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[int(m.line())]), b"h": lambda m: m.push(m.memo[m.number("B")]),
    b"j": lambda m: m.push(m.memo[m.number("I")]),
    # Names and calls.
    b"c": lambda m: m.name_of(m.line().decode("utf-8"), m.line().decode("utf-8")),
    b"\x93": lambda m: m.name_of(*m.pop(2)),
    b"i": lambda m: m.name_of(m.line().decode("utf-8"), m.line().decode("utf-8") + " (INST)"),
    b"R": _Machine.reduce, b"b": _Machine.build,
}  # fmt: skip
