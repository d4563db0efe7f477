"""mini-nyu: synthetic rooms in the format of NYU-Depth V2, whose structure is planted and therefore known.

A room is a box with boxes on its floor, one of five colour schemes, and a scale: a small room is 0.75 to 1 times the
drawn one, a large one 1.6 to 2.1 times. The camera scales with the room, so **the picture is the same whatever the
scale**, and the depth map is the same whatever the colours. The class, one of NYU-Depth V2's ten, is the pair:

    scheme                    small          large
    white and blue            bathroom       others
    wood and red              home_office    office
    yellow and green          kitchen        dining_room
    brown and violet          bedroom        living_room
    grey and orange           bookstore      classroom

    the picture alone knows   the scheme: no more than 1/2 of the frames can be right
    the depth map alone       the scale: no more than 1/5
    both together             the class

Rooms of class "others" carry one of the rare scene types in turn ("basement", "cafe", …), so the 27 → 10 map is needed.
A scene is a room seen twice; official splits never part the two, and neither does ours. Scenes, or the pictures in
folders, are called `synthetic_…`, so that the files say what they are wherever they go.

Patch i of the depth map and patch i of the picture show the same place, as in the real data; `Sample.partners` says so.
What ties them to each other is the shape of the room, which draws edges and shades in both.

Files: `nyu_depth_v2_labeled.mat`, v7.3, with `images`, `depths`, `rawDepths`, and `sceneTypes` and `scenes` as
references (not `labels`, `instances` and `names`, which scene classification has no use for), and `splits.mat`; or
QMF's folders with HHA on the right. Rays are cast for every second pixel of 640 × 480.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...storage.files import whole_folder
from ..base import DataError, Dataset, seeded
from ..fetch import data_root
from ..formats.nyu_files import FOLDERS, MAT, OTHERS, SPLITS, SYNTHETIC, FolderFrames, MatFrames, scene_class
from ..hha import HEIGHT, WIDTH, hha
from ..nyu import DEPTHS, datasets
from ..registry import Entry
from .rooms import COARSE, Room, render

NAME = "mini-nyu"
FORMATS = ("mat", "folders")
# Floor, walls and ceiling, furniture: each colour scheme's own. Small and large room of the scheme.
SCHEMES = (
    ((0.75, 0.80, 0.85), (0.85, 0.90, 0.95), (0.30, 0.50, 0.80)),
    ((0.60, 0.45, 0.30), (0.80, 0.75, 0.65), (0.75, 0.25, 0.20)),
    ((0.65, 0.60, 0.40), (0.90, 0.85, 0.55), (0.35, 0.60, 0.30)),
    ((0.45, 0.32, 0.25), (0.65, 0.55, 0.65), (0.50, 0.30, 0.60)),
    ((0.45, 0.45, 0.47), (0.60, 0.60, 0.62), (0.90, 0.55, 0.20)),
)
PAIRS = (
    ("bathroom", "others"),
    ("home_office", "office"),
    ("kitchen", "dining_room"),
    ("bedroom", "living_room"),
    ("bookstore", "classroom"),
)
SCALES = ((0.75, 1.0), (1.6, 2.1))
VIEWS = 2
TRAIN = 160  # frames, at `size=None`, and half as many for testing
VERSION = 2  # of what is generated; another one is generated anew


@dataclass(frozen=True)
class Frame:
    """A frame as it is written: picture (480, 640, 3) uint8, depth and raw depth (480, 640) float32 in metres."""

    picture: np.ndarray
    depth: np.ndarray
    raw: np.ndarray
    type: str
    scene: str
    train: bool


def load(
    root: str | Path | None = None,
    *,
    seed: int = 0,
    size: int | None = None,
    format: str = "mat",
    image: str = "patches",
    depth: str | None = None,
    filled: bool = True,
    valid_fraction: float = 0.2,
    split_seed: int = 0,
) -> dict[str, Dataset]:
    """Generate the files once, below the data root's cache/, and read them as `nyu` reads the real ones.

    Parameters
    ----------
    seed : int
        Of what is generated.
    size : number of training frames (default 160); half as many are for testing
    format : "mat" or "folders"
    image, depth, filled, valid_fraction, split_seed : as of `nyu`
    """
    if format not in FORMATS:
        raise ValueError(f"format: found {format!r}; expected one of {FORMATS}")
    if depth not in (None, *DEPTHS) or (format == "folders" and (depth or not filled)):
        raise ValueError(f"depth: found {depth!r}; expected one of {DEPTHS}, or with folders nothing, and no filled")
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction: found {valid_fraction!r}; expected a number between 0 and 1")
    cache = data_root(root) / "cache"
    folder = cache / f"{NAME}-{VERSION}-{format}-{seed}-{TRAIN if size is None else size}"
    if not folder.is_dir():
        make(folder, format=format, seed=seed, size=size)
    frames = MatFrames(folder, cache) if format == "mat" else FolderFrames(folder / FOLDERS)
    splits = datasets(
        frames,
        cache,
        image=image,
        depth=depth or frames.depth,
        filled=filled,
        valid_fraction=valid_fraction,
        split_seed=split_seed,
        name=NAME,
    )
    return seeded(splits, seed)


def make(folder: Path, *, format: str = "mat", seed: int = 0, size: int | None = None) -> list[Path]:
    """Write the generated set into `folder`, which appears whole or not at all; returns the paths written.

    Raises
    ------
    DataError
        The folder is there already, and is not empty.
    """
    if format not in FORMATS:
        raise ValueError(f"format: found {format!r}; expected one of {FORMATS}")
    n = TRAIN if size is None else size
    if n < 60 or n % VIEWS:
        raise ValueError(f"size: found {size!r}; expected an even number of at least 60 training frames, so that every "
                         "class has a scene for validation")  # fmt: skip
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; name another folder")
    with whole_folder(folder) as part:
        write = _write_mat if format == "mat" else _write_folders
        write(part, frames(seed, n, n // 2), n + n // 2)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def frames(seed: int, train: int, test: int) -> Iterator[Frame]:
    """The frames, training and testing in a mixed order, the same for the same arguments."""
    rng = np.random.default_rng([seed, 1])
    rooms = []
    for is_train, count in ((True, train), (False, test)):
        kinds = np.arange(-(-count // VIEWS)) % (2 * len(PAIRS))  # the classes in turn, so that all are there
        rooms += [(is_train, kind // 2, kind % 2) for kind in kinds.tolist()]
    numbers: dict[str, int] = {}
    left = {True: train, False: test}
    rare = 0
    for place in rng.permutation(len(rooms)):
        is_train, scheme, large = rooms[place]
        type = PAIRS[scheme][large]
        if type == "others":
            type, rare = OTHERS[rare % len(OTHERS)], rare + 1
        numbers[type] = numbers.get(type, 0) + 1
        room = draw_room(rng, scheme)
        scale = rng.uniform(*SCALES[large])
        for _ in range(min(VIEWS, left[is_train])):
            left[is_train] -= 1
            view = rng.uniform((0.35, 1.3, 0.2), (0.65, 1.6, 0.5)) * (room.size[0], 1, 1)
            picture, depth = render(room, view, yaw=rng.uniform(-0.3, 0.3), pitch=rng.uniform(0.1, 0.25))
            picture, depth, raw = _sensed(rng, picture, depth * scale)
            yield Frame(picture, depth, raw, type, f"{SYNTHETIC}_{type}_{numbers[type]:04d}", is_train)


def draw_room(rng: np.random.Generator, scheme: int) -> Room:
    """A room of one of the five colour schemes; nothing but colours depends on the scheme."""
    size = rng.uniform((3.0, 2.4, 3.2), (4.2, 2.8, 4.8))
    boxes = []
    for _ in range(rng.integers(4, 8)):
        extent = rng.uniform((0.4, 0.3, 0.3), (1.2, 1.3, 0.9))
        low = rng.uniform((0.0, 0.0, 1.2), np.maximum(size - extent, (0.01, 0.01, 1.21)))
        boxes.append([low[0], 0.0, low[2], low[0] + extent[0], extent[1], low[2] + extent[2]])
    floor, walls, furniture = np.array(SCHEMES[scheme])
    colors = np.array([floor, walls, 0.5 * walls + 0.5, *[furniture] * len(boxes)])
    # Every surface differs a little from its scheme, and the whole room in its light.
    colors = colors * rng.uniform(0.85, 1.15, (len(colors), 1)) + rng.normal(0, 0.03, colors.shape)
    return Room(tuple(size), np.array(boxes), np.clip(colors * rng.uniform(0.7, 1.05), 0, 1))


def _sensed(rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, ...]:
    """As a sensor gives it: noise in colour, depth in steps of 1/256 m, and, raw, shadows beside edges, as 0."""
    noisy = picture + 0.02 * rng.standard_normal(picture.shape, np.float32)
    picture = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    depth = (np.rint(np.float32(256) * depth) / np.float32(256)).astype(np.float32)
    step = np.abs(np.diff(depth, axis=1, append=depth[:, -1:])) > 0.05 * depth
    shadow = step | np.roll(step, 1, axis=1) | (rng.random(depth.shape, np.float32) < 0.01)
    raw = np.where(shadow, 0, depth).astype(np.float32)
    return tuple(x.repeat(COARSE, axis=0).repeat(COARSE, axis=1) for x in (picture, depth, raw))


def _write_mat(folder: Path, drawn: Iterator[Frame], n: int) -> None:
    import h5py
    from scipy.io import savemat

    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(folder / MAT, "w", userblock_size=512) as file:
        fields = {
            "images": file.create_dataset("images", (n, 3, WIDTH, HEIGHT), "u1", chunks=(1, 3, WIDTH, HEIGHT), **packed)
        }
        for name in ("depths", "rawDepths"):
            shape = {"shape": (n, WIDTH, HEIGHT), "chunks": (1, WIDTH, HEIGHT)}
            fields[name] = file.create_dataset(name, dtype="f4", **shape, **packed)
        for name, kind in (("images", b"uint8"), ("depths", b"single"), ("rawDepths", b"single")):
            fields[name].attrs["MATLAB_class"] = np.bytes_(kind)
        strings, rows = {"sceneTypes": [], "scenes": []}, {True: [], False: []}
        for i, frame in enumerate(drawn):
            fields["images"][i] = frame.picture.transpose(2, 1, 0)
            fields["depths"][i], fields["rawDepths"][i] = frame.depth.T, frame.raw.T
            strings["sceneTypes"].append(frame.type)
            strings["scenes"].append(frame.scene)
            rows[frame.train].append(i + 1)
        for name, values in strings.items():
            cells = file.create_dataset(name, (1, n), dtype=h5py.ref_dtype)
            cells.attrs["MATLAB_class"] = np.bytes_(b"cell")
            for i, value in enumerate(values):
                codes = np.array([[ord(c)] for c in value], dtype="u2")
                cell = file.create_dataset(f"#refs#/{name}{i}", data=codes)
                cell.attrs["MATLAB_class"] = np.bytes_(b"char")
                cells[0, i] = cell.ref
    with (folder / MAT).open("r+b") as file:  # MATLAB's own mark: 116 bytes of text, 8 of offset, version, byte order
        file.write(b"MATLAB 7.3 MAT-file, synthetic: mini-nyu".ljust(116) + bytes(8) + b"\x00\x02IM")
    names = {"trainNdxs": rows[True], "testNdxs": rows[False]}
    savemat(folder / SPLITS, {k: np.array(v, dtype=np.uint16)[:, None] for k, v in names.items()})


def _write_folders(folder: Path, drawn: Iterator[Frame], n: int) -> None:
    from ..formats.nyu_files import CLASSES

    for split in ("train", "test"):
        for name in CLASSES:
            (folder / FOLDERS / split / name).mkdir(parents=True)
    for i, frame in enumerate(drawn, start=1):
        depth = hha(frame.depth).repeat(2, axis=0).repeat(2, axis=1)
        both = Image.fromarray(np.concatenate([frame.picture, depth], axis=1))
        where = folder / FOLDERS / ("train" if frame.train else "test") / CLASSES[scene_class(frame.type)]
        both.save(where / f"{SYNTHETIC}_{i:04d}.png", compress_level=1)


ENTRIES = (Entry(NAME, load, make=make, formats=FORMATS),)
