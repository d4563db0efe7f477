"""NYU-Depth V2, scene classification: a colour picture and a depth map, ten classes.

Two layouts are read, whichever is there:

- **labelled set**: `nyu_depth_v2_labeled.mat` (MATLAB v7.3, which is HDF5) and `splits.mat` (MATLAB v5, 1-based row
  numbers). HDF5 has MATLAB's axes in reverse: `images` (N, 3, 640, 480) uint8, `depths` and `rawDepths` (N, 640, 480)
  float32 in metres; `sceneTypes` and `scenes` are references to (n, 1) character codes. A frame is read when it is
  asked for, so the 2.8 GB are never in memory.
- **folders**, as QMF and TMC use them: `nyud2_trainvaltest/{train,test}/<class>/*.png`, colour on the left half of a
  picture and depth (usually HHA) on the right.

The 27 scene types become 10 classes as in Gupta et al. (see `nyu_files.scene_class`). Validation is drawn from the
training frames alone. (QMF's published "validation" is the test folder; never do that.)

Frames are resized to 224 × 224. Tokens are a 7 × 7 grid of patches in both modalities, so patch i of the depth
map and patch i of the picture show the same piece of the room: `Sample.partners` says so, and a transport plan can be
held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..encoders import depth_image
from .base import DataError, Dataset
from .contents import Contents, Field, Part
from .fetch import data_root
from .formats.images import Mapped, nearest, picture_encoder, square
from .formats.nyu_files import BRING, CLASSES, FOLDERS, MAT, NAME, SOURCE, SPLITS, FolderFrames, MatFrames, read_splits
from .hha import hha
from .raw import Raw, RawSamples, as_label
from .registry import Entry
from .store import file_hash

FRAMES = 1449  # of the whole set
DEPTHS = ("metres", "hha")
# Metres of depth that count as one grey level of 255, for noise (see `encoders.depth_image`).
METRES_A_LEVEL = 10.0 / 255


def load(
    root: str | Path | None = None,
    *,
    image: str = "patches",
    depth: str | None = None,
    filled: bool = True,
    valid_fraction: float = 0.2,
    split_seed: int = 0,
) -> dict[str, Dataset]:
    """Load the splits; modalities "image" and "depth".

    Parameters
    ----------
    root : folder of all data sets, or the folder that holds the files
    image : "patches", "efficientnet-lite0", or the name of a Hugging Face vision model; for both modalities
    depth : "metres" or "hha" (three channels, see `hha`), default metres; from folders, always as stored
    filled : bool
        Depth with its holes filled (`depths`), or as the sensor gave it, 0 where it saw nothing (`rawDepths`).
    valid_fraction, split_seed
        That share of each class's training frames, drawn with that seed; whole scenes together where the file
        says which scene a frame is from.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction: found {valid_fraction!r}; expected a number between 0 and 1")
    if depth not in (None, *DEPTHS):
        raise ValueError(f"depth: found {depth!r}; expected one of {DEPTHS}")
    folder = find(root)
    cache = data_root(root) / "cache"
    if (folder / MAT).is_file():
        frames: MatFrames | FolderFrames = MatFrames(folder, cache, root)
    else:
        if depth is not None or not filled:
            raise ValueError("depth, filled: the pictures in folders hold depth as they hold it; leave both out")
        frames = FolderFrames(folder / FOLDERS)
    depth = frames.depth if depth is None else depth
    return datasets(frames, cache, image, depth, filled, valid_fraction, split_seed)


def datasets(
    frames: MatFrames | FolderFrames,
    cache: Path,
    image: str = "patches",
    depth: str = "metres",
    filled: bool = True,
    valid_fraction: float = 0.2,
    split_seed: int = 0,
    name: str = NAME,
) -> dict[str, Dataset]:
    """The splits of frames, as `load` gives them; they say so where they are synthetic."""
    scenes = frames.scenes and [frames.scenes[i] for i in frames.train]
    valid = validation(frames.classes[frames.train], scenes, valid_fraction, split_seed)
    parts = {"train": frames.train[~valid], "valid": frames.train[valid], "test": frames.test}
    here = [True] * len(frames.classes)
    key = f"nyu {frames.key}"
    metric = depth == "metres"
    raws = {
        "image": Raw(
            Mapped(range(len(here)), lambda i: square(frames.picture(i))),
            here,
            "pixels",
            f"{key} image",
            lambda: picture_encoder(image),
            cache,
        ),
        "depth": Raw(
            Mapped(range(len(here)), partial(_depth, frames, depth, filled)),
            here,
            "metres" if metric else "pixels",
            f"{key} {depth} filled={filled}",
            partial(_depth_encoder, image, metric),
            cache,
            noise=METRES_A_LEVEL if metric else 1.0,
        ),
    }
    kind = f"{name}, synthetic, rendered" if frames.synthetic else "NYU-Depth V2, real"
    by = "scene" if frames.scenes else "frame"
    protocol = (
        ("synthetic, " if frames.synthetic else "")
        + f"{len(frames.train)} train / {len(frames.test)} test frames ({frames.layout}), "
        f"{int(valid.sum())} of train for validation by {by} (split_seed {split_seed}), {len(frames.names)} classes, "
        f"image={image}, depth={depth}" + ("" if filled else ", holes not filled")
    )
    labels = [as_label(int(c)) for c in frames.classes]
    samples = {s: RawSamples(raws, rows.tolist(), labels, frames.ids, _same_place) for s, rows in parts.items()}
    return {
        split: Dataset(
            name=name,
            split=split,
            protocol=protocol,
            description=f"{kind}: colour pictures and depth maps of rooms, {len(frames.names)} scene classes",
            synthetic=frames.synthetic,
            task="classification",
            n_classes=len(frames.names),
            readout="mean",
            samples=own,
            hashes=frames.hashes,
            notes=(f"classes: {', '.join(frames.names)}",),
            show=own.show,
        )
        for split, own in samples.items()
    }


def validation(classes: np.ndarray, scenes: Sequence[str] | None, fraction: float, seed: int) -> np.ndarray:
    """Which of these frames are for validation, bool (N,): of each class about that share, whole scenes together.

    Of a class with a single scene nothing is taken, lest training never see it.
    """
    groups = np.asarray(scenes if scenes is not None else np.arange(len(classes)).astype(str))
    chosen = np.zeros(len(classes), bool)
    draw = np.random.default_rng(seed)
    for c in np.unique(classes):
        own = classes == c
        names = np.unique(groups[own])
        wanted = fraction * own.sum()
        spared = len(names) - 1
        for name in draw.permutation(names):
            frames = own & (groups == name)
            # As long as taking the scene brings the class closer to its share.
            if spared and abs(chosen[own].sum() + frames.sum() - wanted) < abs(chosen[own].sum() - wanted):
                chosen |= frames
                spared -= 1
    if not chosen.any():
        raise DataError(f"validation: no scene can be spared from {len(classes)} training frames; more are needed")
    return chosen


def _depth(frames: MatFrames | FolderFrames, depth: str, filled: bool, index: int) -> np.ndarray:
    values = frames.depth_map(index, filled)
    if depth == "hha":
        values = hha(values)
    if values.ndim == 3:
        return square(values)
    return square(values) if filled else nearest(values)


def _depth_encoder(image: str, metric: bool):
    if image == "patches":
        return picture_encoder(image, channels=1 if metric else 3)
    return _Grey(picture_encoder(image)) if metric else picture_encoder(image)


class _Grey:
    """A pretrained encoder of pictures that is shown depth in metres as grey."""

    def __init__(self, encoder):
        self.encoder = encoder

    def encode(self, items: Sequence[np.ndarray], cache: Path, data_hash: str):
        return self.encoder.encode(Mapped(items, depth_image), cache, data_hash=data_hash)


def _same_place(_id: str, features: dict[str, torch.Tensor]) -> dict[tuple[str, str], torch.Tensor]:
    """Both modalities see the same room from the same place: patch i belongs to patch i."""
    n = len(features["image"])
    return {("depth", "image"): torch.arange(n)} if len(features["depth"]) == n else {}


def find(root: str | Path | None = None) -> Path:
    """The folder with the labelled set, or with `nyud2_trainvaltest/`: `root` itself, or one in it.

    Raises
    ------
    DataError
        Saying what was looked for, where.
    """
    base = data_root(root)
    if base.name == FOLDERS and base.is_dir():
        return base.parent
    for folder in (base, base / "nyuv2", base / "nyu", base / "nyu_depth_v2"):
        if (folder / MAT).is_file() or (folder / FOLDERS).is_dir():
            return folder
    raise DataError(f"{base}: neither {MAT} nor {FOLDERS}/ here or in nyuv2/. {BRING}")


def is_present(root: str | Path | None = None) -> bool:
    try:
        find(root)
    except DataError:
        return False
    return True


def inspect(path: Path) -> Contents | None:
    """For `data check`: a labelled set (the file or its folder), or `nyud2_trainvaltest/` (it or the folder around)."""
    if path.name == SPLITS or (path.is_dir() and {p.name for p in path.iterdir()} == {SPLITS}):
        return _inspect_splits(path / SPLITS if path.is_dir() else path)
    folder = path.parent if path.name in (MAT, FOLDERS) else path
    if (path.is_file() and path.name != MAT) or not folder.is_dir():
        return None
    if path.name != FOLDERS and (folder / MAT).is_file():
        return _inspect_mat(folder)
    return _inspect_folders(folder / FOLDERS) if (folder / FOLDERS).is_dir() else None


def _inspect_splits(path: Path) -> Contents:
    train, test = read_splits(path, FRAMES)
    parts = {
        split: Part(ids=[f"frame-{i + 1:04d}" for i in rows], fields={split: Field(rows.shape, str(rows.dtype))})
        for split, rows in (("train", train), ("test", test))
    }
    left = FRAMES - len(set(train) | set(test))
    problems = [f"{left} of {FRAMES} frames are in neither split"] if left else []
    hashes = {path.name: file_hash(path, data_root() / "cache")}
    if hashes[path.name] != SOURCE.hashes[SPLITS]:
        problems.append(f"{path.name}: SHA-256 is not that of the official split")
    return Contents(path, "NYU-Depth V2, the split alone", parts, group_name="scene", problems=problems, hashes=hashes)


def _inspect_mat(folder: Path) -> Contents:
    cache = data_root() / "cache"
    frames = MatFrames(folder, cache)
    fields = {name: Field.of(frames._file[name]) for name in ("images", "depths", "rawDepths")}
    parts = {
        split: Part(
            fields=fields if split == "train" else {},
            labels=np.array([CLASSES[c] for c in frames.classes[rows]]),
            ids=[frames.ids[i] for i in rows],
            groups=[frames.scenes[i] for i in rows] if frames.scenes else (),
        )
        for split, rows in (("train", frames.train), ("test", frames.test))
    }
    unused = len(frames.classes) - len(frames.train) - len(frames.test)
    return Contents(
        folder,
        "NYU-Depth V2, labelled set (MATLAB v7.3)",
        parts,
        synthetic=frames.synthetic,
        group_name="scene",
        problems=[f"{unused} frames are in neither split"] if unused else [],
        notes=[
            f"fields are those of the whole file; {len(set(frames.types))} scene types become {len(CLASSES)} classes"
        ],
        hashes=frames.hashes,
    )


def _inspect_folders(folder: Path) -> Contents:
    frames = FolderFrames(folder)
    problems = []
    sizes: dict[tuple[int, ...], int] = {}
    for i in range(len(frames.paths)):
        try:
            shape = frames.picture(i).shape
            sizes[shape] = sizes.get(shape, 0) + 1
        except DataError as error:
            problems.append(str(error))
    parts = {
        split: Part(
            labels=np.array([frames.names[c] for c in frames.classes[rows]]),
            ids=[Path(frames.ids[i]).name for i in rows],
        )
        for split, rows in (("train", frames.train), ("test", frames.test))
    }
    shown = ", ".join(f"{count} of {h} × {w}" for (h, w, _), count in sorted(sizes.items()))
    notes = [f"pictures, each half: {shown}"]
    return Contents(folder, "NYU-Depth V2, folders as in QMF", parts, frames.synthetic, problems=problems, notes=notes)


ENTRIES = (Entry(NAME, load, is_present=is_present, bring=BRING, source=SOURCE, inspect=inspect),)
