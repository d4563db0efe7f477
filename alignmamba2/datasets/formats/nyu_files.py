"""The files of NYU-Depth V2, in its three layouts, read frame by frame (see `nyu`).

HDF5 has MATLAB's axes in reverse: `images` (N, 3, 640, 480) uint8, `depths` and `rawDepths` (N, 640, 480) float32 in
metres; `sceneTypes` and `scenes` are references to (n, 1) character codes.
"""

import csv
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ...storage.files import file_hash
from ..base import DataError
from ..fetch import PUBLISHED, published
from .hdf5 import errors_named, opened, plain, values
from .images import read_picture

NAME = "nyu"
MAT, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
FOLDERS, PLAIN = "nyud2_trainvaltest", "frames"
# In the order of sorted folder names, which is QMF's.
CLASSES = (
    "bathroom", "bedroom", "bookstore", "classroom", "dining_room", "home_office", "kitchen", "living_room", "office",
    "others",
)  # fmt: skip
# "excercise_room" is the file's own spelling in some copies.
OTHERS = (
    "basement", "cafe", "computer_lab", "conference_room", "dinette", "exercise_room", "excercise_room", "foyer",
    "furniture_store", "home_storage", "indoor_balcony", "laundry_room", "office_kitchen", "playroom", "printer_room",
    "reception_room", "student_lounge", "study", "study_room",
)  # fmt: skip
SOURCE = published("nyu")
FRAMES = published("nyu_images"), published("nyu_depths")
# Of every frame of the set: split, scene type and the type's origin, in runs of frames, which are counted from 1.
SCENES = PUBLISHED / "nyu_scenes.csv"
# Generated files say so in the names of scenes, or of pictures in folders.
SYNTHETIC = "synthetic"
LONGEST = 1000  # letters of a name in the .mat
FETCH = "python -m alignmamba2 data fetch nyu --frames"
BRING = f"Bring them with: {FETCH}; data/README.md#nyu says where other layouts come from"
# Of MATLAB's v5 files.
HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
COMPLEX = 0x0800  # among a matrix's flags
MATRIX_ROOM = 1 << 26  # bytes that all compressed parts may take, unpacked


def scene_class(scene_type: str) -> int:
    """Return the class, an index into `CLASSES`, of one of the 27 scene types.

    A `DataError` names a scene type that is not known.
    """
    name = scene_type.strip().lower()
    if name in CLASSES[:-1]:
        return CLASSES.index(name)
    if name in OTHERS:
        return CLASSES.index("others")
    raise DataError(f"scene type {scene_type!r} is not one of NYU-Depth V2's 27: {', '.join(CLASSES[:-1] + OTHERS)}")


@dataclass(frozen=True)
class Scenes:
    """Scenes is the package's table of the 1449 frames, in their order: scene type, part of the official split, origin.

    The types of the test frames are those of BTS's test list; of the training frames 454 are SUN RGB-D's, and 341 are
    derived from the file's order and the published number of frames of each type.
    """

    types: list[str]
    train: np.ndarray  # bool (N,)
    origins: list[str]
    scenes: list[str]  # neighbouring frames of one type and one part: the official split does not part a scene

    @property
    def derived(self) -> np.ndarray:
        """Whether a frame's type is derived, bool (N,)."""
        return np.array([origin.startswith("derived") for origin in self.origins])

    def compare(self, types: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return problems and notes, as sentences: whether the types of a labelled set are those of this table."""
        if len(types) != len(self.types):
            return [], []
        names = [t.strip().lower().replace("excercise", "exercise") for t in types]
        wrong = np.array([a != b for a, b in zip(names, self.types, strict=True)])
        name, derived = SCENES.name, self.derived
        right = f"{int((~wrong).sum())} of {len(wrong)}, of the derived ones {int((~wrong & derived).sum())} of "
        notes = [f"{name}, the labels of {PLAIN}/: equal to this file's sceneTypes {right}{int(derived.sum())}"]
        rows = np.flatnonzero(wrong).tolist()
        first = [f"frame {i + 1} {self.types[i]}, here {names[i]}" for i in rows[:5]]
        return [f"{name} differs from sceneTypes in {len(rows)} frames: {'; '.join(first)}"] if rows else [], notes


def read_scenes() -> Scenes:
    """Return the package's table of frames."""
    types, train, origins, scenes = [], [], [], []
    with SCENES.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            first, last = int(row["first"]), int(row["last"])
            n = last + 1 - first
            train += [row["split"] == "train"] * n
            types += [row["scene_type"]] * n
            origins += [row["label_source"]] * n
    for i, state in enumerate(zip(types, train, strict=True)):
        same = i and state == (types[i - 1], train[i - 1])
        scenes.append(scenes[-1] if same else f"{types[i]} from frame {i + 1}")
    return Scenes(types, np.array(train), origins, scenes)


class PlainFrames:
    """PlainFrames are the frames of `frames/images/{n}.jpg` and `frames/depths/{n}.png`, n from 0 in the file's order.

    Depth is 8-bit, about value / 25.5 in metres. Labels are those of `Scenes`. A `DataError` says that a frame is
    missing, or that `splits.mat` beside them has another split than the table.
    """

    depth, names, synthetic = "metres", CLASSES, False

    def __init__(self, folder: Path, cache: Path):
        table = read_scenes()
        n = len(table.types)
        self.scenes, self.train, self.test = table.scenes, np.flatnonzero(table.train), np.flatnonzero(~table.train)
        self.classes = np.array([scene_class(t) for t in table.types], dtype=np.int64)
        self.images = [folder / PLAIN / "images" / f"{i}.jpg" for i in range(n)]
        self.depths = [folder / PLAIN / "depths" / f"{i}.png" for i in range(n)]
        if missing := [p for p in (*self.images, *self.depths) if not p.is_file()]:
            raise DataError(f"{missing[0]}: not found, and {len(missing) - 1} more of {2 * n} frames' files. {BRING}")
        splits = folder / SPLITS
        if splits.is_file() and not all(map(np.array_equal, read_splits(splits, n), (self.train, self.test))):
            raise DataError(f"{splits}: another split than that of {SCENES.name}; bring it again: {FETCH}")
        self.ids = [f"frame-{i + 1:04d}" for i in range(n)]
        self.hashes = {p.name: file_hash(p, cache) for p in (splits,) if p.is_file()}
        self.key = _stamp([*self.images, *self.depths])
        derived = int(table.derived[self.train].sum())
        self.layout = f"official split, {derived} of {len(self.train)} training labels derived"

    def picture(self, index: int) -> np.ndarray:
        """Return the picture (480, 640, 3) uint8."""
        return read_picture(self.images[index])

    def depth_map(self, index: int, filled: bool) -> np.ndarray:
        """Return the depth (480, 640) float32 in metres."""
        return read_picture(self.depths[index])[..., 0] / np.float32(25.5)


class FolderFrames:
    """FolderFrames are the frames of `nyud2_trainvaltest/{train,test}/<class>/*.png`."""

    layout, depth, scenes = "folders as in QMF", "stored", None

    def __init__(self, folder: Path):
        self.names, others = (_classes(folder / split) for split in ("train", "test"))
        if self.names != others or not others:
            raise DataError(f"{folder}: classes {self.names} in train/, {others} in test/; expected the same")
        self.paths, classes, train = [], [], []
        for split in ("train", "test"):
            for c, name in enumerate(self.names):
                paths = sorted((folder / split / name).glob("*.png"))
                self.paths += paths
                classes += [c] * len(paths)
                train += [split == "train"] * len(paths)
        self.classes = np.array(classes, dtype=np.int64)
        self.train, self.test = np.flatnonzero(train), np.flatnonzero(~np.array(train, bool))
        for split, rows in (("train", self.train), ("test", self.test)):
            if not len(rows):
                raise DataError(f"{folder / split}: no pictures (*.png) in it. {BRING}")
        self.ids = [p.relative_to(folder).with_suffix("").as_posix() for p in self.paths]
        self.synthetic = all(p.name.startswith(SYNTHETIC) for p in self.paths)
        self.key = _stamp(self.paths)
        self.hashes: dict[str, str] = {}

    def _half(self, index: int, right: bool) -> np.ndarray:
        picture = read_picture(self.paths[index])
        middle = picture.shape[1] // 2
        if not middle:
            raise DataError(f"{self.paths[index]}: {picture.shape[1]} pixels wide; expected two pictures side by side")
        return picture[:, middle:] if right else picture[:, :middle]

    def picture(self, index: int) -> np.ndarray:
        return self._half(index, right=False)

    def depth_map(self, index: int, filled: bool) -> np.ndarray:
        return self._half(index, right=True)


class MatFrames:
    """MatFrames are the frames of `nyu_depth_v2_labeled.mat`, read one by one.

    A `DataError` names the file and the field: not there, cut off, another shape or type, an unknown scene type, a
    split that names frames that do not exist or are in both parts.
    """

    depth, names = "metres", CLASSES

    def __init__(self, folder: Path, cache: Path, root: str | Path | None = None):
        self.path = folder / MAT
        splits = folder / SPLITS
        if not splits.is_file():
            splits = SOURCE.ensure(NAME, root) / SPLITS
        n = len(self._field("images", np.uint8, (3,)))
        for name in ("depths", "rawDepths"):
            if len(self._field(name, np.float32, ())) != n:
                raise DataError(f"{self.path}: {name} has another number of frames than images, {n}")
        types = self._strings("sceneTypes")
        if len(types) != n:
            raise DataError(f"{self.path}: {len(types)} sceneTypes; expected {n}, one per frame")
        try:
            self.classes = np.array([scene_class(t) for t in types], dtype=np.int64)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        self.types = types
        with errors_named(self.path, "a MATLAB v7.3 file"):
            scenes = "scenes" in self._file
        self.scenes = self._strings("scenes") if scenes else None
        self.synthetic = bool(self.scenes) and all(s.startswith(SYNTHETIC) for s in self.scenes)
        self.train, self.test = read_splits(splits, n)
        self.ids = [f"frame-{i + 1:04d}" for i in range(n)]  # 1-based, as in splits.mat
        self.hashes = {p.name: file_hash(p, cache) for p in (self.path, splits)}
        self.key = self.hashes[MAT]
        official = self.hashes[SPLITS] == SOURCE.hashes[SPLITS]
        self.layout = "official split" if official else "the file's own split"

    @cached_property
    def _file(self):
        with errors_named(self.path, "a MATLAB v7.3 file"):
            return opened(self.path)

    def _field(self, name: str, dtype: type, channels: tuple[int, ...]):
        field = self._read(name, lambda: self._file[name])
        shape = getattr(field, "shape", ())
        if len(shape) != 3 + len(channels) or shape[1:-2] != channels or field.dtype != dtype:
            expected = ", ".join(map(str, ("N", *channels, 640, 480)))
            raise DataError(
                f"{self.path}: {name} is {shape} {getattr(field, 'dtype', '')}; expected ({expected}) {np.dtype(dtype)}"
            )
        return field

    def _strings(self, name: str) -> list[str]:
        def read() -> list[str]:
            texts = [plain(self.path, self._file[r]) for r in np.asarray(self._file[name]).ravel()]
            if any(text.size > LONGEST for text in texts):
                raise DataError(f"{self.path}: {name}: a text of more than {LONGEST} letters")
            return ["".join(map(chr, np.asarray(text).ravel())) for text in texts]

        return self._read(name, read)

    def _frame(self, name: str, index: int) -> np.ndarray:
        return self._read(name, lambda: values(self.path, self._file[name], index), f", frame {index + 1}")

    def _read(self, name: str, read: Callable, which: str = ""):
        with errors_named(self.path, f"field {name!r}{which}"):
            if name not in self._file:
                raise DataError(f"{self.path}: no field {name!r}; found {sorted(self._file)}")
            return read()

    def picture(self, index: int) -> np.ndarray:
        """Return the picture (480, 640, 3) uint8."""
        return np.ascontiguousarray(self._frame("images", index).transpose(2, 1, 0))

    def depth_map(self, index: int, filled: bool) -> np.ndarray:
        """Return the depth (480, 640) float32 in metres."""
        name = "depths" if filled else "rawDepths"
        depth = self._frame(name, index).T
        if not (np.isfinite(depth).all() and (depth >= 0).all()):
            raise DataError(f"{self.path}: {name}, frame {index + 1}, holds depths that are negative or not finite")
        return np.ascontiguousarray(depth)


def read_splits(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, from 0, of train and test frames in `splits.mat` (`trainNdxs`, `testNdxs`, from 1)."""
    table = read_matrices(path)
    parts = []
    for name in ("trainNdxs", "testNdxs"):
        rows = np.asarray(table.get(name, ())).ravel()
        if not len(rows) or rows.dtype.kind not in "ui" or rows.min() < 1 or rows.max() > n:
            raise DataError(f"{path}: {name} is no list of row numbers from 1 to {n}, the number of frames")
        parts.append(rows.astype(np.int64) - 1)
    both = np.concatenate(parts)
    if len(set(both.tolist())) != len(both):
        raise DataError(f"{path}: a frame is named twice, in trainNdxs and testNdxs together")
    return parts[0], parts[1]


def read_matrices(path: Path) -> dict[str, np.ndarray]:
    """Return the real matrices of numbers of a MATLAB v5 file by name, as they are stored (a double perhaps as int8).

    `scipy.io.loadmat` reads more, but a damaged file can end the interpreter (a read out of bounds in SciPy 1.17, seen
    with mutated files). Here every length is checked before it is believed. A `DataError` names the file, and what does
    not fit. Source: "MAT-File Format", MathWorks: a header of 128 bytes, then elements (type uint32, size uint32,
    content, padded to 8 bytes; or packed in 8 bytes, sizes of 1 to 4), each a matrix, or one compressed by zlib.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise DataError(f"{path}: no MATLAB v5 file: its header of {HEADER} bytes is cut off or another one")
    matrices, room = {}, MATRIX_ROOM
    try:
        for kind, data in _elements(content[HEADER:], order):
            if kind == COMPRESSED:
                unpack = zlib.decompressobj()
                data = unpack.decompress(data, max(1, room))
                room -= len(data)
                if not unpack.eof:
                    raise ValueError(f"a compressed part is cut off, or they are larger than {MATRIX_ROOM >> 20} MiB")
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


def _classes(path: Path) -> tuple[str, ...]:
    if not path.is_dir():
        raise DataError(f"{path}: not found. {BRING}")
    return tuple(sorted(p.name for p in path.iterdir() if p.is_dir()))


def _stamp(paths: Sequence[Path]) -> str:
    """Return a key of files without reading them: names, sizes and times of change."""
    states = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in paths]
    return hashlib.sha256("".join(states).encode()).hexdigest()
