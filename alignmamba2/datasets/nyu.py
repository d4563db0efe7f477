"""NYU-Depth V2, scene classification: a colour picture and a depth map, ten classes.

Three layouts are read, whichever is there, in this order: the labelled set, `frames/` and folders (data/README.md#nyu
has their trees and homes, and `nyu_files` reads them). The 27 scene types become 10 classes as in Gupta et al.
Validation is drawn from the training frames alone, whole scenes together. (QMF's published "validation" is the test
folder; never do that.)

Frames are resized to 224 × 224; for encoders inside the model to 256 × 341, colour and depth alike, so that one random
crop of 224 × 224 can be taken of both.
Tokens are a 7 × 7 grid of patches in both modalities, so patch i of the depth map and patch i of the picture show the
same piece of the room: `Sample.partners` says so, as the truth for transport plans.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ..encoders import depth_colours, depth_image
from .base import DataError, Dataset, Mapped, check_choice, check_fraction, splits_of
from .contents import Contents, Field, Part
from .fetch import data_root, find_folder
from .formats import nyu_files as files
from .formats.images import LARGE, SIZE, nearest, picture_encoder, resized
from .formats.nyu_files import FOLDERS, FRAMES, MAT, NAME, PLAIN, SOURCE, SPLITS, FolderFrames, MatFrames, PlainFrames
from .hha import hha
from .raw_modalities import RawModality, RawSamples, encoders_inside
from .registry import Entry

COUNT, HEIGHT = 1449, 480  # frames of the whole set, and their pixels from top to bottom
Frames = MatFrames | PlainFrames | FolderFrames
DEPTHS = ("metres", "hha", "jet")
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
    encode: bool = True,
    height: int = LARGE,
) -> dict[str, Dataset]:
    """Load the splits; modalities "image" and "depth".

    Parameters
    ----------
    root : folder of all data sets, or the folder that holds the files
    image : "patches", "efficientnet-lite0", or the name of a Hugging Face vision model; for both modalities
    depth : "metres", "hha" (three channels, see `hha`) or "jet" (colours of a rainbow, see `encoders.depth_colours`),
        default metres; from folders, always as stored
    filled : bool
        Depth with its holes filled (`depths`), or as the sensor gave it, with 0 in the holes (`rawDepths`).
    valid_fraction, split_seed
        Share of each class's training frames that validates, and the seed of the draw; whole scenes together if the
        scenes are known.
    encode : False for an encoder inside the model: samples then hold pictures (1, 256, 341, 3) uint8, depth as grey,
        HHA or jet, and `Dataset.encoders` names `image`
    height : of those pictures, in pixels, up to the camera's 480; they are 4/3 as wide
    """
    if not (isinstance(height, int) and SIZE <= height <= HEIGHT):
        raise ValueError(f"height: found {height!r}; expected {SIZE} to {HEIGHT} pixels")
    check_fraction("valid_fraction", valid_fraction)
    if depth is not None:
        check_choice("depth", depth, DEPTHS)
    folder = find(root)
    cache = data_root(root) / "cache"
    if (folder / MAT).is_file():
        frames = MatFrames(folder, cache, root)
    elif (folder / PLAIN).is_dir():
        if not filled:
            raise ValueError(f"filled: found False; {PLAIN}/ holds depth with its holes filled")
        frames = PlainFrames(folder, cache)
    else:
        if depth is not None or not filled:
            raise ValueError("depth, filled: the pictures in folders hold depth as they hold it; leave both out")
        frames = FolderFrames(folder / FOLDERS)
    return datasets(frames, cache, image, depth, filled, valid_fraction, split_seed, encode=encode, height=height)


def datasets(
    frames: Frames,
    cache: Path,
    image: str = "patches",
    depth: str | None = None,
    filled: bool = True,
    valid_fraction: float = 0.2,
    split_seed: int = 0,
    name: str = NAME,
    encode: bool = True,
    height: int = LARGE,
) -> dict[str, Dataset]:
    """Return the splits of frames; options as of `load`."""
    depth = depth or frames.depth
    size = (SIZE, SIZE) if encode else (height, round(height * 4 / 3))
    larger = "" if height == LARGE else f" of height {height}"
    encoders = encoders_inside(encode, image=image, depth=image)
    scenes = frames.scenes and [frames.scenes[i] for i in frames.train]
    valid = validation(frames.classes[frames.train], scenes, valid_fraction, split_seed)
    rows = {"train": frames.train[~valid], "valid": frames.train[valid], "test": frames.test}
    n = len(frames.classes)
    metric = depth == "metres"
    raws = {
        "image": RawModality(
            Mapped(range(n), lambda i: resized(frames.picture(i), *size)),
            [True] * n,
            "pixels",
            f"nyu {frames.key} image{larger}",
            partial(picture_encoder, image, encode=encode),
            cache,
        ),
        "depth": RawModality(
            Mapped(range(n), partial(_depth, frames, depth, filled, size)),
            [True] * n,
            "metres" if metric else "pixels",
            f"nyu {frames.key} {depth} filled={filled}{larger}",
            partial(_depth_encoder, image, metric, encode),
            cache,
            noise=METRES_PER_LEVEL if metric else 1.0,
        ),
    }
    kind = f"{name}, synthetic, rendered" if frames.synthetic else "NYU-Depth V2, real"
    labels, partners = torch.from_numpy(frames.classes), _same_place if encode else None
    known = (labels, frames.ids, partners, frames.scenes or ())
    return splits_of(
        {split: RawSamples(raws, part.tolist(), *known) for split, part in rows.items()},
        name=name,
        protocol=("synthetic, " if frames.synthetic else "")
        + f"{len(frames.train)} train / {len(frames.test)} test frames ({frames.layout}), {int(valid.sum())} of train "
        f"for validation by {'scene' if frames.scenes else 'frame'} (split_seed {split_seed}), {len(frames.names)} "
        f"classes, image={image}, depth={depth}" + ("" if filled else ", holes not filled"),
        description=f"{kind}: colour pictures and depth maps of rooms, {len(frames.names)} scene classes",
        synthetic=frames.synthetic,
        classes=frames.names,
        hashes=frames.hashes,
        encoders=encoders,
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


def _depth(frames: Frames, depth: str, filled: bool, size: tuple[int, int], index: int) -> np.ndarray:
    values = frames.depth_map(index, filled)
    if depth == "hha":
        values = hha(values)
    if values.ndim == 3:
        return resized(values, *size)
    values = resized(values, *size) if filled else nearest(values, *size)
    return depth_colours(values) if depth == "jet" else values


def _depth_encoder(image: str, metric: bool, encode: bool):
    encoder = picture_encoder(image, 1 if metric else 3, encode)
    if image == "patches" or not metric:
        return encoder
    return SimpleNamespace(encode=lambda items, *a, **more: encoder.encode(Mapped(items, depth_image), *a, **more))


def _same_place(_id: str, features: dict[str, torch.Tensor]) -> dict[tuple[str, str], torch.Tensor]:
    """Both modalities see the same room from the same place: patch i belongs to patch i."""
    n = len(features["image"])
    return {("depth", "image"): torch.arange(n)} if len(features["depth"]) == n else {}


def find(root: str | Path | None = None) -> Path:
    """Return the folder with the labelled set, `frames/` or `nyud2_trainvaltest/`: `root` itself, or one in it.

    Without any, the frames of a mirror are copied. A `DataError` names the files and the folder that were searched.
    """
    folder = _folder(root)
    if folder is None and all(source.mirror() for source in (SOURCE, *FRAMES)):
        folder = SOURCE.fetch(root, progress=False)
        for source in FRAMES:
            source.fetch(root, progress=False)
    if folder is None:
        raise DataError(f"{data_root(root)}: no {MAT}, {PLAIN}/ or {FOLDERS}/ here or in nyuv2/. {files.BRING}")
    return folder


def _folder(root: str | Path | None) -> Path | None:
    base = data_root(root)
    if base.name in (PLAIN, FOLDERS) and base.is_dir():
        return base.parent
    return find_folder(root, ("nyuv2", "nyu", "nyu_depth_v2"), (MAT, PLAIN, FOLDERS))


def is_present(root: str | Path | None = None) -> bool:
    """Return whether `find` finds a folder, or can copy the frames."""
    return _folder(root) is not None or all(source.mirror() for source in (SOURCE, *FRAMES))


def inspect(path: Path) -> Contents | None:
    """Return the contents of any layout (file or folder), or of `splits.mat` alone."""
    folder = path.parent if path.name in (MAT, PLAIN, FOLDERS, SPLITS) else path
    if not folder.is_dir():
        return None
    if path.name not in (PLAIN, FOLDERS, SPLITS) and (folder / MAT).is_file():
        return _inspect_mat(folder)
    if path.name not in (FOLDERS, SPLITS) and (folder / PLAIN / "images").is_dir():
        return _inspect_frames(folder)
    if path.name != SPLITS and (folder / FOLDERS).is_dir():
        return _inspect_folders(folder / FOLDERS)
    return _inspect_splits(folder / SPLITS) if (folder / SPLITS).is_file() else None


def _inspect_splits(path: Path) -> Contents:
    rows = dict(zip(("train", "test"), files.read_splits(path, COUNT), strict=True))
    parts = {
        split: Part(ids=[f"frame-{i + 1:04d}" for i in part], fields={split: Field(part.shape, str(part.dtype))})
        for split, part in rows.items()
    }
    left = COUNT - len(set().union(*rows.values()))
    problems = [f"{left} of {COUNT} frames are in neither split"] if left else []
    hashes, changed = SOURCE.hashes_in(path.parent)
    problems += [f"{name}: SHA-256 is not that of the official split" for name in changed]
    return Contents(path, "NYU-Depth V2, the split alone", parts, group_name="scene", problems=problems, hashes=hashes)


def _inspect_mat(folder: Path) -> Contents:
    frames = MatFrames(folder, data_root() / "cache")
    fields = {name: Field.of(frames._file[name]) for name in ("images", "depths", "rawDepths")}
    unused = len(frames.classes) - len(frames.train) - len(frames.test)
    problems = [f"{unused} frames are in neither split"] if unused else []
    types = len(set(frames.types))
    notes = [f"fields are those of the whole file; {types} scene types become {len(files.CLASSES)} classes"]
    differences, remarks = files.read_scenes().compare(frames.types)
    return _contents(folder, "labelled set (MATLAB v7.3)", frames, problems + differences, notes + remarks, fields)


def _inspect_frames(folder: Path) -> Contents:
    frames = PlainFrames(folder, data_root() / "cache")
    changed = [p for source in FRAMES for p in source.hashes_in(folder / PLAIN / Path(source.folder).name)[1]]
    problems = [f"{len(changed)} files are not the published ones by SHA-256: {changed[:5]}"] if changed else []
    notes = [f"{frames.layout}; a labelled set ({MAT}) beside {PLAIN}/ would tell whether they are right"]
    return _contents(folder, f"{PLAIN}/ (8-bit depth)", frames, problems, notes, {})


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
    folder: Path, layout: str, frames: Frames, problems: list[str], notes: list[str], fields: dict[str, Field]
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


MORE = {"frames": FRAMES}
ENTRY = Entry(NAME, load, is_present=is_present, bring=files.FETCH, source=SOURCE, more=MORE, inspect=inspect)
