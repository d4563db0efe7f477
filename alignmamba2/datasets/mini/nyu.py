"""mini-nyu: synthetic rooms in the format of NYU-Depth V2, whose structure is planted and therefore known.

A room is a box with boxes on its floor, one of five colour schemes, and a scale: a small room is 0.75 to 1 times the
drawn one, a large one 1.6 to 2.1 times. The camera scales with the room, so **the picture is the same at every scale**,
and the depth map is the same in all colours. The class, one of NYU-Depth V2's ten, is the pair:

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
folders, are called `synthetic_…`, so that the files say so themselves.

Patch i of the depth map and patch i of the picture show the same place, as in the real data; `Sample.partners` says so.
They share the shape of the room, which draws edges and shades in both.

Files: `nyu_depth_v2_labeled.mat`, v7.3, with `images`, `depths`, `rawDepths`, and `sceneTypes` and `scenes` as
references (not `labels`, `instances` and `names`, which scene classification does not need), and `splits.mat`; or
QMF's folders with HHA on the right. Rays are cast for every second pixel of 640 × 480.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..base import Dataset, check_choice, check_fraction
from ..fetch import data_root
from ..formats.nyu_files import CLASSES, FOLDERS, MAT, OTHERS, SPLITS, SYNTHETIC, FolderFrames, MatFrames, scene_class
from ..hha import CX, CY, FX, FY, HEIGHT, WIDTH, hha
from ..nyu import DEPTHS, datasets
from ..registry import Entry
from . import seeded, write_generated

NAME = "mini-nyu"
FORMATS = ("mat", "folders")
# Colours of floor, walls and furniture of each scheme, then the classes of its small and its large room.
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
TRAIN = 160  # frames, if `size` is None, and half as many for testing
RAY_STEP = 2  # one ray per 2 × 2 pixels
LIGHT = np.array([0.35, 0.8, -0.5]) / np.linalg.norm([0.35, 0.8, -0.5])
VERSION = 2  # of the generated files; another version generates them anew


@dataclass(frozen=True)
class Frame:
    """A frame to be written: picture (480, 640, 3) uint8, depth and raw depth (480, 640) float32 in metres."""

    picture: np.ndarray
    depth: np.ndarray
    raw: np.ndarray
    type: str
    scene: str
    train: bool


@dataclass(frozen=True)
class Room:
    """A room [0, w] × [0, h] × [0, d] with boxes on its floor; x right, y up, z away from the camera's wall."""

    size: tuple[float, float, float]  # w, h, d
    boxes: np.ndarray  # (n, 6): x0, y0, z0, x1, y1, z1
    colors: np.ndarray  # (n + 3, 3) in [0, 1]: floor, walls, ceiling, boxes


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

    `seed` is that of the files, `size` the number of training frames (default 160), half as many are for testing, and
    `format` "mat" or "folders"; all else as of `nyu`.
    """
    check_choice("format", format, FORMATS)
    if depth not in (None, *DEPTHS) or (format == "folders" and (depth or not filled)):
        raise ValueError(f"depth: found {depth!r}; expected one of {DEPTHS}, or with folders nothing, and no filled")
    check_fraction("valid_fraction", valid_fraction)
    cache = data_root(root) / "cache"
    folder = cache / f"{NAME}-{VERSION}-{format}-{seed}-{TRAIN if size is None else size}"
    if not folder.is_dir():
        make(folder, format=format, seed=seed, size=size)
    frames = MatFrames(folder, cache) if format == "mat" else FolderFrames(folder / FOLDERS)
    return seeded(datasets(frames, cache, image, depth, filled, valid_fraction, split_seed, name=NAME), seed)


def make(folder: Path, *, format: str = "mat", seed: int = 0, size: int | None = None) -> list[Path]:
    """Write the generated set into `folder`, see `write_generated`."""
    check_choice("format", format, FORMATS)
    n = TRAIN if size is None else size
    if n < 60 or n % VIEWS:
        raise ValueError(
            f"size: found {size!r}; expected an even number of at least 60 training frames, so that every class has a "
            "scene for validation"
        )
    write = _write_mat if format == "mat" else _write_folders
    return write_generated(folder, lambda part: write(part, frames(seed, n, n // 2), n + n // 2))


def frames(seed: int, train: int, test: int) -> Iterator[Frame]:
    """Yield the frames, training and testing in a mixed order, the same for the same arguments."""
    rng = np.random.default_rng([seed, 1])
    rooms = []
    for is_train, count in ((True, train), (False, test)):
        kinds = np.arange(-(-count // VIEWS)) % (2 * len(PAIRS))  # the classes in turn, so that none is missing
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
    """Draw a room of one of the five colour schemes; only its colours depend on the scheme."""
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
    """A sensor's picture, depth and raw depth: noise, steps of 1/256 m, and in the raw one shadows at edges, as 0."""
    noisy = picture + 0.02 * rng.standard_normal(picture.shape, np.float32)
    picture = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    depth = (np.rint(np.float32(256) * depth) / np.float32(256)).astype(np.float32)
    step = np.abs(np.diff(depth, axis=1, append=depth[:, -1:])) > 0.05 * depth
    shadow = step | np.roll(step, 1, axis=1) | (rng.random(depth.shape, np.float32) < 0.01)
    raw = np.where(shadow, 0, depth).astype(np.float32)
    return tuple(x.repeat(RAY_STEP, axis=0).repeat(RAY_STEP, axis=1) for x in (picture, depth, raw))


def render(room: Room, eye: np.ndarray, yaw: float, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Render the picture and the depth map that NYU-Depth V2's colour camera would take.

    It is at `eye` (3,), inside the room and outside its boxes, turned by `yaw` and `pitch` in radians, to the right and
    down. The picture is (240, 320, 3) float32 in [0, 1], the depth (240, 320) float32, along the camera's axis, in the
    unit of the room.
    """
    direction = _rays(yaw, pitch)  # (3, 240, 320): an axis first, so that NumPy works on whole pictures
    with np.errstate(divide="ignore"):
        inverse = 1 / direction
    size, eye = (np.asarray(x, np.float32)[:, None, None] for x in (room.size, eye))
    # The room from inside: the nearest of the walls ahead.
    ahead = (np.where(direction > 0, size, 0) - eye) * inverse
    axis, depth = ahead.argmin(0), ahead.min(0)
    surface = np.where(axis == 1, np.where(direction[1] > 0, 2, 0), 1)
    for i, box in enumerate(np.asarray(room.boxes, np.float32)):
        sides = [(side[:, None, None] - eye) * inverse for side in (box[:3], box[3:])]
        near, far = np.minimum(*sides), np.maximum(*sides)
        enters = near.max(0)
        hit = (enters < far.min(0)) & (enters > 0) & (enters < depth)
        depth[hit], axis[hit], surface[hit] = enters[hit], near[:, hit].argmax(0), i + 3
    # Lambert's law and ambient light; the normal is the axis of the face that was hit, towards the camera.
    towards = -np.sign(np.take_along_axis(direction, axis[None], 0)[0])
    shade = 0.6 + 0.4 * np.clip(towards * LIGHT[axis], 0, None)
    return (room.colors[surface] * shade[..., None]).astype(np.float32), depth


def _rays(yaw: float, pitch: float) -> np.ndarray:
    """Directions (3, 240, 320) in the room's axes, of length 1 along the camera's axis: their multiple is the depth."""
    u, v = (np.arange(0, n, RAY_STEP) + (RAY_STEP - 1) / 2 for n in (WIDTH, HEIGHT))
    x, y = np.meshgrid((u - CX) / FX, -(v - CY) / FY)
    y, z = y * np.cos(pitch) - np.sin(pitch), np.cos(pitch) + y * np.sin(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.stack([x, y, z]).astype(np.float32)


def _write_mat(folder: Path, drawn: Iterator[Frame], n: int) -> None:
    import h5py
    from scipy.io import savemat

    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(folder / MAT, "w", userblock_size=512) as file:
        fields = {
            name: file.create_dataset(name, (n, *shape), dtype, chunks=(1, *shape), **packed)
            for name, shape, dtype in (
                ("images", (3, WIDTH, HEIGHT), "u1"),
                ("depths", (WIDTH, HEIGHT), "f4"),
                ("rawDepths", (WIDTH, HEIGHT), "f4"),
            )
        }
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
    with (folder / MAT).open("r+b") as file:  # MATLAB's header: 116 bytes of text, 8 of offset, version, byte order
        file.write(b"MATLAB 7.3 MAT-file, synthetic: mini-nyu".ljust(116) + bytes(8) + b"\x00\x02IM")
    names = {"trainNdxs": rows[True], "testNdxs": rows[False]}
    savemat(folder / SPLITS, {k: np.array(v, dtype=np.uint16)[:, None] for k, v in names.items()})


def _write_folders(folder: Path, drawn: Iterator[Frame], n: int) -> None:
    for i, frame in enumerate(drawn, start=1):
        depth = hha(frame.depth).repeat(2, axis=0).repeat(2, axis=1)
        both = Image.fromarray(np.concatenate([frame.picture, depth], axis=1))
        place = folder / FOLDERS / ("train" if frame.train else "test") / CLASSES[scene_class(frame.type)]
        place.mkdir(parents=True, exist_ok=True)
        both.save(place / f"{SYNTHETIC}_{i:04d}.png", compress_level=1)


ENTRY = Entry(NAME, load, make=make, formats=FORMATS)
