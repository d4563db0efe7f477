"""What `fuzz` mutates: for every format that is read here, what makes small files and what reads them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alignmamba2.batch import MultimodalBatch
from alignmamba2.datasets import ENTRIES, inspect, mosi, mosi_utterances, rated_sentences, store
from alignmamba2.datasets.formats import nyu_files
from alignmamba2.datasets.formats.images import read_picture
from alignmamba2.encoders.cache import Tokens, cached
from alignmamba2.model import AlignMamba2
from alignmamba2.model.config import AlignMamba2Config
from alignmamba2.recipes import FOLDER, Recipe
from alignmamba2.storage.files import read_json, read_tensors, write_json
from alignmamba2.storage.token_store import read_notes
from alignmamba2.training.checkpoint import Checkpoint
from studies.datasets import ict_mmmo


@dataclass(frozen=True)
class Target:
    """A format: what makes small files of it in a folder, and what reads that folder.

    `share` is how many inputs it gets for one of another format's: fewer, where one takes long to read.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    share: float = 1.0


class _Runs:
    """A pickle of it runs a command wherever a pickle is loaded carelessly."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def _mini(name: str, form: str, size: int) -> Callable[[Path], Any]:
    return lambda folder: ENTRIES[name].make(folder, format=form, seed=0, size=size)


def files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _utterances(path: Path) -> None:
    utterances = mosi.read(path)
    utterances.contents(path, {})
    for split in utterances.splits.values():
        for m in split.widths:
            sum(len(block) for block in split.tokens(m))


def _dangerous(folder: Path) -> None:
    inner = {"train": {"text": _Runs()}, "valid": {}, "test": {}}
    for protocol in range(6):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(inner, protocol))


def _model(folder: Path) -> None:
    sizes = {"d_model": 4, "n_layers": 1, "d_state": 2, "expand": 1}
    AlignMamba2(AlignMamba2Config(modalities={"text": 3, "audio": 2}, **sizes)).save_pretrained(folder)


def _predicts(folder: Path) -> None:
    model = AlignMamba2.from_pretrained(folder)
    model(MultimodalBatch({m: torch.ones(1, 2, width) for m, width in model.config.modalities.items()}))


def _unfinished(folder: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    Checkpoint(folder, {"seed": 0}).write(
        {"epochs": 1, "model": layer.state_dict(), "optimizer": optimizer.state_dict()}
    )


def _encoded(folder: Path) -> None:
    cached(folder, "fuzz", "fuzz", 4, [[torch.ones(3, 4), torch.ones(2, 4)]])


def _tokens(folder: Path) -> None:
    tokens = Tokens(next(p for p in folder.iterdir() if p.is_dir()))
    sum(float(x.sum()) for x in tokens)


def _stored(folder: Path) -> None:
    source = folder / "source"
    ENTRIES["mini-mosi"].make(source, format="mult", seed=0, size=4)
    (file,) = files_in(source)
    store.write(folder / "store", mosi.read(file).splits, {"sizes": {}, "widths": {}})
    shutil.rmtree(source)


def _store(folder: Path) -> None:
    read_notes(folder / "store")
    for path in sorted((folder / "store").glob("*.safetensors")):
        split = store.StoredSamples(path)
        for i in range(len(split)):
            split[i]


def _nyu_mat(folder: Path) -> None:
    """Three frames, compressed: three scenes of three types."""
    import h5py
    from scipy.io import savemat

    packed = {"compression": "gzip", "compression_opts": 1}
    with h5py.File(folder / nyu_files.MAT, "w", userblock_size=512) as file:
        file.create_dataset("images", data=np.full((3, 3, 640, 480), 7, "u1"), chunks=(1, 3, 640, 480), **packed)
        for name in ("depths", "rawDepths"):
            file.create_dataset(name, data=np.full((3, 640, 480), 2, "f4"), chunks=(1, 640, 480), **packed)
        for name, values in (("sceneTypes", ("office", "cafe", "kitchen")), ("scenes", ("a", "b", "c"))):
            cells = file.create_dataset(name, (1, 3), dtype=h5py.ref_dtype)
            for i, value in enumerate(values):
                codes = np.array([[ord(c)] for c in value], dtype="u2")
                cells[0, i] = file.create_dataset(f"#refs#/{name}{i}", data=codes).ref
    rows = {"trainNdxs": np.array([[1], [2]], np.uint16), "testNdxs": np.array([[3]], np.uint16)}
    savemat(folder / nyu_files.SPLITS, rows)


def _nyu_frames(folder: Path) -> None:
    inspect(folder)
    frames = nyu_files.MatFrames(folder, folder)
    for i in range(3):
        frames.picture(i)
        frames.depth_map(i, filled=i > 0)


def _nyu_folders(folder: Path) -> None:
    for split in ("train", "test"):
        for name in ("kitchen", "office"):
            where = folder / nyu_files.FOLDERS / split / name
            where.mkdir(parents=True)
            Image.new("RGB", (16, 8), (9, 90, 200)).save(where / "1.png")


def _pictures(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for kind in ("jpg", "png", "gif", "bmp"):
        Image.fromarray(noise).save(folder / f"a.{kind}")


def _reviews(folder: Path) -> None:
    """The archive in the archive that holds the ratings."""
    inner = _tar(
        {rated_sentences.RATINGS.format("movieReviewSnippets"): b"1_1\t2.5\ta fine film\n2_1\t-1\tnot so fine\n"}
    )
    (folder / "a.tar.gz").write_bytes(_tar({rated_sentences.INNER: inner}))


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _ict_mmmo(folder: Path) -> None:
    import h5py

    for split, size in ict_mmmo.SIZES.items():
        shapes = {f"y_{split}.h5": (size,)}
        for m, width in ict_mmmo.MODALITIES.items():
            shapes[ict_mmmo.FILES[m].format(split)] = (size, ict_mmmo.STEPS, width)
        for name, shape in shapes.items():
            with h5py.File(folder / name, "w") as file:
                file.create_dataset("d1", data=np.full(shape, 3, "f4"), compression="gzip")


def _utterance_tables(folder: Path) -> None:
    """As many rows and columns as the real files have, of ones."""
    rows, first = mosi_utterances.ROWS, 0
    names = [f"video{i // 20}_{i % 20}" for i in range(sum(rows.values()))]
    (folder / "transcripts.csv").write_text("".join(f"{n},some words,20,{i % 2}\n" for i, n in enumerate(names)))
    for split, n in rows.items():
        index = range(first, first + n)
        first += n
        (folder / f"text_{split}.csv").write_text("".join(f"{i}{',1' * 100}\n" for i in index))
        for m, width in mosi_utterances.MODALITIES.items():
            (folder / m).mkdir(exist_ok=True)
            (folder / m / f"{m}_{split}0.csv").write_text("".join(f"{'1,' * width}{i % 2}\n" for i in index))


def _recipes(folder: Path) -> None:
    shutil.copyfile(FOLDER / "mini-mosi.toml", folder / "a.toml")


def _recipe(folder: Path) -> None:
    recipe = Recipe.load(folder / "a.toml")
    AlignMamba2Config.from_dict({"modalities": {"text": 3}, "n_classes": 2, **recipe.model})


def _each(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def reads(folder: Path) -> None:
        for path in files_in(folder):
            read(path)

    return reads


TARGETS = {
    "pickle-mmsa": Target(_mini("mini-mosi", "mmsa", 4), _each(_utterances)),
    "pickle-mult": Target(_mini("mini-mosi", "mult", 4), _each(_utterances)),
    "pickle-that-runs": Target(_dangerous, _each(mosi.read)),
    "csd": Target(_mini("mini-mosi", "csd", 4), lambda f: _utterances(next(f.rglob("*.csd")).parent), 0.3),
    "mvsa-folder": Target(
        _mini("mini-mvsa", "folder", 6), lambda f: inspect(next(f.rglob("labelResultAll.txt")).parent)
    ),
    "nyu-mat": Target(_nyu_mat, _nyu_frames, 0.2),
    "nyu-folders": Target(_nyu_folders, inspect),
    "picture": Target(_pictures, _each(read_picture)),
    "ict-mmmo": Target(_ict_mmmo, inspect, 0.1),
    "mosi-utterances": Target(_utterance_tables, inspect, 0.01),
    "reviews-archive": Target(_reviews, _each(rated_sentences.read_reviews)),
    "store": Target(_stored, _store),
    "encoder-cache": Target(_encoded, _tokens),
    "model": Target(_model, _predicts, 0.5),
    "unfinished-run": Target(_unfinished, lambda f: Checkpoint(f, {"seed": 0}).read()),
    "safetensors": Target(_unfinished, _each(read_tensors)),
    "notes": Target(lambda f: write_json(f / "a.json", {"a": [1, 2.5, "b"]}), _each(read_json)),
    "recipe": Target(_recipes, _recipe),
}
# The formats of further data sets that write generated files: of those above, real files are larger or lie in folders.
BY_HAND = ("mini-mosi", "mini-mosei", "mini-nyu", "mini-mvsa")
TARGETS |= {
    f"{name}-{form}": Target(_mini(name, form, 4), inspect)
    for name, entry in ENTRIES.items()
    if entry.make and name not in BY_HAND
    for form in entry.formats
}
