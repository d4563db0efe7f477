"""Reads tables of numbers of MATLAB's v5 files (`.mat`).

`scipy.io.loadmat` reads more, but a damaged file can end the interpreter (a read out of bounds in SciPy 1.17, seen with
mutated files). Here every length is checked before it is believed.

Source: "MAT-File Format", MathWorks: a header of 128 bytes, then elements (type uint32, size uint32, content, padded to
8 bytes; or packed in 8 bytes, sizes of 1 to 4), each a matrix, or one compressed by zlib.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..base import DataError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
COMPLEX = 0x0800  # among a matrix's flags
ROOM = 1 << 26  # bytes that all compressed parts may take, unpacked


def read_matrices(path: Path) -> dict[str, np.ndarray]:
    """Return real matrices of numbers by name, as they are stored (a double may be kept as int8), and no others.

    A `DataError` names the file, and what does not fit.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise DataError(f"{path}: no MATLAB v5 file: its header of {HEADER} bytes is cut off or another one")
    matrices, room = {}, ROOM
    try:
        for kind, data in _elements(content[HEADER:], order):
            if kind == COMPRESSED:
                unpack = zlib.decompressobj()
                data = unpack.decompress(data, max(1, room))
                room -= len(data)
                if not unpack.eof:
                    raise ValueError(f"a compressed part is cut off, or they are larger than {ROOM >> 20} MiB")
                kind, data = next(_elements(data, order), (0, b""))
            if kind == MATRIX:
                matrices |= _matrix(data, order)
    except (ValueError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: no readable MATLAB v5 file ({error}); it may be cut off: bring it again") from error
    return matrices


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of one element after the other."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        packed = kind >> 16
        if packed:
            kind, start, end = kind & 0xFFFF, at + 4, at + 4 + packed
            at += 8
        else:
            start, end = at + 8, at + 8 + size
            at = end if kind == COMPRESSED else end + -end % 8
        if packed > 4 or end > len(data):
            raise ValueError(f"an element of {packed or size} bytes where {len(data) - start} are left")
        yield kind, data[start:end]


def _matrix(data: bytes, order: str) -> dict[str, np.ndarray]:
    """Return {name: array} of a real matrix of numbers, {} of anything else."""
    parts = list(_elements(data, order))
    if len(parts) != 4 or parts[3][0] not in NUMBERS:  # flags, sizes, name, numbers
        return {}
    (_, flags), (_, sizes), (_, name), (kind, numbers) = parts
    if struct.unpack_from(order + "I", flags)[0] & COMPLEX:
        return {}
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4])
    array = np.frombuffer(numbers, order + NUMBERS[kind])  # a ValueError where bytes are left over
    if min(shape, default=-1) < 0 or math.prod(shape) != array.size:
        raise ValueError(f"{len(numbers)} bytes of numbers for a matrix {shape}")
    return {name.decode("latin-1"): array.reshape(shape, order="F")}
