"""NYU-Depth V2, scene classification: a colour picture and a depth map, ten classes.

Two layouts are read, whichever is there:

- **labelled set**: `nyu_depth_v2_labeled.mat` (MATLAB v7.3, which is HDF5) and `splits.mat` (MATLAB v5, 1-based row
  numbers). HDF5 has MATLAB's axes in reverse: `images` (N, 3, 640, 480) uint8, `depths` and `rawDepths` (N, 640, 480)
  float32 in metres; `sceneTypes` and `scenes` are references to (n, 1) character codes. Reads a frame when it is first
  requested, so the 2.8 GB are never in memory.
- **folders**, as QMF and TMC use them: `nyud2_trainvaltest/{train,test}/<class>/*.png`, colour on the left half of a
  picture and depth (usually HHA) on the right.

The 27 scene types become 10 classes as in Gupta et al. (see `nyu_files.scene_class`). Validation is drawn from the
training frames alone. (QMF's published "validation" is the test folder; never do that.)

Frames are resized to 224 × 224. Tokens are a 7 × 7 grid of patches in both modalities, so patch i of the depth map and
patch i of the picture show the same piece of the room: `Sample.partners` says so, as the truth for transport plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..encoders import depth_image
from .base import DataError, Dataset, Mapped, check_choice, check_fraction, splits_of
from .contents import Contents, Field, Part
from .fetch import data_root, find_folder
from .formats.images import nearest, picture_encoder, square
from .formats.nyu_files import BRING, CLASSES, FOLDERS, MAT, NAME, SOURCE, SPLITS, FolderFrames, MatFrames, read_splits
from .hha import hha
from .raw_modalities import RawModality, RawSamples
from .registry import Entry

FRAMES = 1449  # of the whole set
DEPTHS = ("metres", "hha")
# Metres of depth per grey level of 255, for noise (see `encoders.depth_image`).
METRES_PER_LEVEL = 10.0 / 255


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
        Depth with its holes filled (`depths`), or as the sensor gave it, with 0 in the holes (`rawDepths`).
    valid_fraction, split_seed
        Share of each class's training frames that validates, and the seed of the draw; whole scenes together if the
        file names the scenes.
    """
    check_fraction("valid_fraction", valid_fraction)
    if depth is not None:
        check_choice("depth", depth, DEPTHS)
    folder = find(root)
    cache = data_root(root) / "cache"
    in_folders = not (folder / MAT).is_file()
    if in_folders and (depth is not None or not filled):
        raise ValueError("depth, filled: the pictures in folders hold depth as they hold it; leave both out")
    frames = FolderFrames(folder / FOLDERS) if in_folders else MatFrames(folder, cache, root)
    return datasets(frames, cache, image, depth, filled, valid_fraction, split_seed)


def datasets(
    frames: MatFrames | FolderFrames,
    cache: Path,
    image: str = "patches",
    depth: str | None = None,
    filled: bool = True,
    valid_fraction: float = 0.2,
    split_seed: int = 0,
    name: str = NAME,
) -> dict[str, Dataset]:
    """Return the splits of frames; options as of `load`."""
    depth = depth or frames.depth
    scenes = frames.scenes and [frames.scenes[i] for i in frames.train]
    valid = validation(frames.classes[frames.train], scenes, valid_fraction, split_seed)
    rows = {"train": frames.train[~valid], "valid": frames.train[valid], "test": frames.test}
    n = len(frames.classes)
    metric = depth == "metres"
    raws = {
        "image": RawModality(
            Mapped(range(n), lambda i: square(frames.picture(i))),
            [True] * n,
            "pixels",
            f"nyu {frames.key} image",
            lambda: picture_encoder(image),
            cache,
        ),
        "depth": RawModality(
            Mapped(range(n), partial(_depth, frames, depth, filled)),
            [True] * n,
            "metres" if metric else "pixels",
            f"nyu {frames.key} {depth} filled={filled}",
            partial(_depth_encoder, image, metric),
            cache,
            noise=METRES_PER_LEVEL if metric else 1.0,
        ),
    }
    kind = f"{name}, synthetic, rendered" if frames.synthetic else "NYU-Depth V2, real"
    labels = torch.from_numpy(frames.classes)
    return splits_of(
        {split: RawSamples(raws, part.tolist(), labels, frames.ids, _same_place) for split, part in rows.items()},
        name=name,
        protocol=("synthetic, " if frames.synthetic else "")
        + f"{len(frames.train)} train / {len(frames.test)} test frames ({frames.layout}), {int(valid.sum())} of train "
        f"for validation by {'scene' if frames.scenes else 'frame'} (split_seed {split_seed}), {len(frames.names)} "
        f"classes, image={image}, depth={depth}" + ("" if filled else ", holes not filled"),
        description=f"{kind}: colour pictures and depth maps of rooms, {len(frames.names)} scene classes",
        synthetic=frames.synthetic,
        classes=frames.names,
        hashes=frames.hashes,
    )


def validation(classes: np.ndarray, scenes: Sequence[str] | None, fraction: float, seed: int) -> np.ndarray:
    """Draw frames for validation, bool (N,): about that share of each class, whole scenes together.

    A class with a single scene gives none, so that training sees it.
    """
    groups = np.asarray(scenes if scenes is not None else np.arange(len(classes)).astype(str))
    chosen = np.zeros(len(classes), bool)
    draw = np.random.default_rng(seed)
    for c in np.unique(classes):
        members = classes == c
        names = np.unique(groups[members])
        wanted = fraction * members.sum()
        spared = len(names) - 1
        for name in draw.permutation(names):
            frames = members & (groups == name)
            # As long as taking the scene brings the class closer to its share.
            if spared and abs(chosen[members].sum() + frames.sum() - wanted) < abs(chosen[members].sum() - wanted):
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
    """Return the folder with the labelled set, or with `nyud2_trainvaltest/`: `root` itself, or one in it.

    Raises
    ------
    DataError
        Naming the files and the folder that were searched.
    """
    base = data_root(root)
    if base.name == FOLDERS and base.is_dir():
        return base.parent
    folder = find_folder(root, ("nyuv2", "nyu", "nyu_depth_v2"), (MAT, FOLDERS))
    if folder is None:
        raise DataError(f"{base}: neither {MAT} nor {FOLDERS}/ here or in nyuv2/. {BRING}")
    return folder


def is_present(root: str | Path | None = None) -> bool:
    """Return whether `find` finds a folder."""
    try:
        return bool(find(root))
    except DataError:
        return False


def inspect(path: Path) -> Contents | None:
    """Return the contents of a labelled set (file or folder), of `nyud2_trainvaltest/`, or of `splits.mat` alone."""
    folder = path.parent if path.name in (MAT, FOLDERS, SPLITS) else path
    if not folder.is_dir():
        return None
    if path.name not in (FOLDERS, SPLITS) and (folder / MAT).is_file():
        return _inspect_mat(folder)
    if path.name != SPLITS and (folder / FOLDERS).is_dir():
        return _inspect_folders(folder / FOLDERS)
    return _inspect_splits(folder / SPLITS) if (folder / SPLITS).is_file() else None


def _inspect_splits(path: Path) -> Contents:
    rows = dict(zip(("train", "test"), read_splits(path, FRAMES), strict=True))
    parts = {
        split: Part(ids=[f"frame-{i + 1:04d}" for i in part], fields={split: Field(part.shape, str(part.dtype))})
        for split, part in rows.items()
    }
    left = FRAMES - len(set().union(*rows.values()))
    problems = [f"{left} of {FRAMES} frames are in neither split"] if left else []
    hashes, changed = SOURCE.hashes_in(path.parent)
    problems += [f"{name}: SHA-256 is not that of the official split" for name in changed]
    return Contents(path, "NYU-Depth V2, the split alone", parts, group_name="scene", problems=problems, hashes=hashes)


def _inspect_mat(folder: Path) -> Contents:
    frames = MatFrames(folder, data_root() / "cache")
    fields = {name: Field.of(frames._file[name]) for name in ("images", "depths", "rawDepths")}
    unused = len(frames.classes) - len(frames.train) - len(frames.test)
    problems = [f"{unused} frames are in neither split"] if unused else []
    types = len(set(frames.types))
    notes = [f"fields are those of the whole file; {types} scene types become {len(CLASSES)} classes"]
    return _contents(folder, "labelled set (MATLAB v7.3)", frames, problems, notes, fields)


def _inspect_folders(folder: Path) -> Contents:
    frames = FolderFrames(folder)
    problems = []
    sizes: Counter[tuple[int, ...]] = Counter()
    for i in range(len(frames.paths)):
        try:
            sizes[frames.picture(i).shape] += 1
        except DataError as error:
            problems.append(str(error))
    shapes = ", ".join(f"{count} of {h} × {w}" for (h, w, _), count in sorted(sizes.items()))
    return _contents(folder, "folders as in QMF", frames, problems, [f"pictures, each half: {shapes}"], {})


def _contents(
    folder: Path,
    layout: str,
    frames: MatFrames | FolderFrames,
    problems: list[str],
    notes: list[str],
    fields: dict[str, Field],
) -> Contents:
    parts = {
        split: Part(
            fields=fields if split == "train" else {},
            labels=np.array(frames.names)[frames.classes[rows]],
            ids=[Path(frames.ids[i]).name for i in rows],
            groups=[frames.scenes[i] for i in rows] if frames.scenes else (),
        )
        for split, rows in (("train", frames.train), ("test", frames.test))
    }
    form = f"NYU-Depth V2, {layout}"
    return Contents(folder, form, parts, frames.synthetic, "scene", problems, notes, frames.hashes)


ENTRY = Entry(NAME, load, is_present=is_present, bring=BRING, source=SOURCE, inspect=inspect)
