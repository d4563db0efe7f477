"""CMU-MOSI and CMU-MOSEI, sequences of text, sound and face with a sentiment in [-3, 3], from the files that are there.

MMSA's pickles (aligned or not), MulT's pickles, or a folder of the SDK's `.csd` files; which it is, is found by content
(`mosi_pickles.py` and `csd.py` say how). What is found is written once as a store (`store.py`), padding left out,
values that are no finite numbers set to 0 (as MMSA does with `-inf`) and counted; from then on that is opened, at once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .base import DataError, Dataset
from .contents import Contents, Field, Part
from .fetch import data_root
from .formats import csd, mosi_pickles
from .formats.hdf5 import reading
from .formats.mosi_pickles import SPLITS, Utterances
from .registry import Entry

# Utterances of the standard split, and widths of audio and video in the pickles: to notice a file of the other set.
STANDARD = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659)}
WIDTHS = {"mosi": (5, 20), "mosei": (74, 35)}
TITLES = {"mosi": "CMU-MOSI", "mosei": "CMU-MOSEI"}
# As thuiar/MMSA's README lists them.
PUBLISHED = {
    "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524": "MMSA's MOSI/Processed/unaligned_50.pkl",
    "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9": "MMSA's MOSI/Processed/aligned_50.pkl",
    "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f": "MMSA's MOSEI/Processed/unaligned_50.pkl",
    "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791": "MMSA's MOSEI/Processed/aligned_50.pkl",
}
LABELS = {split: f"y_{split}.h5" for split in SPLITS}
PICKLES = (".pkl", ".pickle")
ALIGNMENTS = ("aligned", "unaligned")
OTHER = (
    "a pickle, but neither MMSA's nor MulT's; expected a dict of train, valid and test, each with text, audio, vision, "
    "and regression_labels or labels"
)


def load(
    name: str,
    root: str | Path | None = None,
    *,
    alignment: str | None = None,
    text: str | None = None,
    folds: str | Path | None = None,
) -> dict[str, Dataset]:
    """Load the three splits.

    Parameters
    ----------
    name : "mosi" or "mosei"
    root : folder of all data sets; or the file itself, or the folder of `.csd` files
    alignment : "aligned" or "unaligned"
        Which file, where there are several; for `.csd`, how to cut them ("aligned" if left out).
    text : "bert", "glove", or such as "100-d"
        What the file must hold; left out, what it holds.
    folds : for `.csd`, a file that says which videos train and which test (see `csd.py`)

    Raises
    ------
    DataError
        There is no file, or several fit, or it is not what it should be; the message says which and what to do.
    """
    if alignment not in (None, *ALIGNMENTS):
        raise ValueError(f"alignment: found {alignment!r}; expected one of {ALIGNMENTS}")
    cache = _cache(root)
    candidates = find(name, root)
    if not candidates:
        raise DataError(
            f"{data_root(root) / name}: no pickle and no .csd files there. Put the file there, or give root=FILE; "
            "data/README.md says where the files come from"
        )
    # One file is what it is; among several, their shapes tell which is meant, and only that one is converted.
    kinds = {path: _kind(path, alignment) for path in candidates}
    fitting = [p for p, (held, words) in kinds.items() if alignment in (None, held) and text in (None, words)]
    if len(fitting) != 1:
        wanted = f"{'none fits' if not fitting else 'several fit'} alignment={alignment!r}, text={text!r}"
        held = "; ".join(f"{path} is {', text '.join(kind)}" for path, kind in kinds.items())
        raise DataError(f"{TITLES[name]}: {wanted}. There are: {held}. Say alignment= and text=, or give root=FILE")
    return _open(name, fitting[0], _stored(fitting[0], cache, alignment, folds))


def _kind(path: Path, alignment: str | None) -> tuple[str, str]:
    """Alignment and kind of text of one of the candidates."""
    if path.is_dir():
        return alignment or "aligned", csd.kind_of_text(path)
    kind = mosi_pickles.peek(path)
    if kind is None:
        raise DataError(f"{path}: {OTHER}")
    return kind


def find(name: str, root: str | Path | None = None) -> list[Path]:
    """The pickles and folders of `.csd` files that may be this data set."""
    if root is not None and (Path(root).is_file() or csd.is_csd_folder(Path(root))):
        return [Path(root)]
    base = data_root(root)
    folders = [
        f for f in sorted(base.glob("*")) if f.is_dir() and f.name.lower() in (name, f"cmu-{name}", f"cmu_{name}")
    ]
    found = {p for folder in folders for p in folder.rglob("*") if p.suffix in PICKLES}
    found |= {p.parent for folder in folders for p in folder.rglob("*.csd")}
    return sorted(found)


def _cache(root: str | Path | None) -> Path:
    """Beside the data sets; where `root` is a file, in the usual place."""
    whole = root is None or (Path(root).is_dir() and not csd.is_csd_folder(Path(root)))
    return data_root(root if whole else None) / "cache"


def _stored(path: Path, cache: Path, alignment: str | None, folds: str | Path | None) -> Path:
    """The folder of the store of this source, written if it is not there."""
    is_folder = path.is_dir()
    files = sorted(path.glob("*.csd")) if is_folder else [path]
    if is_folder:
        files += [p for p in [Path(folds) if folds else path / csd.FOLDS] if p.is_file()]
    hashes = {p.name: store.file_hash(p, cache) for p in files}
    options = {"alignment": alignment or "aligned"} if is_folder else {}
    folder = store.folder_of(cache, hashes=hashes, **options)
    if store.read_notes(folder):
        return folder
    found = read(path, alignment, folds)
    if found is None:
        raise DataError(
            f"{path}: a pickle, but neither MMSA's nor MulT's; expected train, valid and test with features"
        )
    if found.problems:
        raise DataError(f"{path}: " + "; ".join(found.problems))
    about = {
        "source": str(path),
        "hashes": hashes,
        "format": found.format,
        "alignment": ALIGNMENTS[not found.aligned],
        "text": found.text,
        "synthetic": found.synthetic,
        "sizes": {s: len(found.splits[s].ids) for s in SPLITS},
        "widths": dict(found.splits["train"].widths),
        "notes": [*found.notes, *_known(hashes)],
    }
    store.write(folder, found.splits, about)
    return folder


def read(path: Path, alignment: str | None = None, folds: str | Path | None = None) -> Utterances:
    """What a pickle or a folder of `.csd` files holds."""
    if path.is_dir():
        return csd.read(path, folds, alignment != "unaligned")
    found = mosi_pickles.read(path)
    if found is None:
        raise DataError(f"{path}: {OTHER}")
    return found


def _known(hashes: dict[str, str]) -> list[str]:
    unknown = "SHA-256 is none of those that MMSA publishes"
    return [f"{n}: {PUBLISHED.get(digest, unknown)}" for n, digest in hashes.items() if n.endswith(PICKLES)]


def _short(notes: dict[str, Any]) -> str:
    return f"{notes['format']}, {notes['alignment']}, text {notes['text']}"


def _open(name: str, path: Path, folder: Path) -> dict[str, Dataset]:
    about = store.read_notes(folder)
    widths = tuple(about["widths"][m] for m in ("audio", "video"))
    for other in STANDARD:
        if other != name and path.is_file() and widths == WIDTHS[other]:
            raise DataError(f"{path}: audio and video are {widths} wide, as in {TITLES[other]}; load it as {other!r}")
    sizes = tuple(about["sizes"][s] for s in SPLITS)
    split = " / ".join(map(str, sizes))
    standard = f"standard split {split}" if sizes == STANDARD[name] else f"NOT the standard split: {split} utterances"
    synthetic = "synthetic, " if about["synthetic"] else ""
    replaced = [
        f"{s}/{m}: {sum(found.values())} values were no finite numbers, set to 0, in {len(found)} samples: "
        + ", ".join(f"{i!r} ({n})" for i, n in list(found.items())[:5])
        + (", …" if len(found) > 5 else "")
        for s, modalities in about["replaced"].items()
        for m, found in modalities.items()
        if found
    ]
    kind = "synthetic: generated files of that form" if about["synthetic"] else "real"
    return {
        s: Dataset(
            name=name,
            split=s,
            protocol=f"{synthetic}{_short(about)}, {standard}",
            description=f"{TITLES[name]}, {kind}: {sum(sizes)} utterances as sequences of text, sound and face, "
            "a label in [-3, 3]",
            synthetic=about["synthetic"],
            task="regression",
            n_classes=1,
            readout="mean",
            samples=store.StoredSamples(folder / f"{s}.safetensors", aligned=about["alignment"] == "aligned"),
            hashes=about["hashes"],
            notes=(*about["notes"], *replaced),
        )
        for s in SPLITS
    }


def inspect(path: Path) -> Contents | None:
    """For `data check`: a pickle, a folder of `.csd` files, or a tree in which there is one of either."""
    if path.is_dir():
        below = [p for depth in ("*", "*/*", "*/*/*") for p in path.glob(depth)]
        inside = {p for p in below if p.suffix in PICKLES} | {p.parent for p in below if p.suffix == ".csd"}
        path = inside.pop() if len(inside) == 1 else path
    if path.is_file() and (path.suffix in PICKLES or path.open("rb").read(1) == b"\x80"):
        files = [path]
    elif csd.is_csd_folder(path):
        files = sorted(path.glob("*.csd"))
    elif all((path / name).is_file() for name in LABELS.values()):
        return _inspect_labels(path)
    else:
        return None
    found = read(path)
    hashes = {p.name: store.file_hash(p, _cache(None)) for p in files}
    found.notes += _known(hashes)
    return found.contents(path, hashes)


def _inspect_labels(path: Path) -> Contents | None:
    """MOSI's regression labels by themselves, HDF5 `data`, as pliang279/MFN has them."""
    parts = {}
    for split, name in LABELS.items():
        with reading(path / name, "numbers in 'data'") as file:
            if "data" not in file:
                return None
            values = np.asarray(file["data"][()]).reshape(-1)
            labels = values.astype(np.float64)
        parts[split] = Part({"data": Field.of(values)}, labels)
    sizes = tuple(len(p.labels) for p in parts.values())
    outside = [f"{s}: labels are not in [-3, 3]" for s, p in parts.items() if not (np.abs(p.labels) <= 3).all()]
    standard = [] if sizes == STANDARD["mosi"] else [f"{sizes} labels; the standard split has {STANDARD['mosi']}"]
    hashes = {name: store.file_hash(path / name, _cache(None)) for name in LABELS.values()}
    return Contents(path, "labels of CMU-MOSI, without features", parts, problems=outside + standard, hashes=hashes)


def _entry(name: str) -> Entry:
    return Entry(
        name,
        partial(load, name),
        is_present=lambda root: bool(find(name, root)),
        bring="see data/README.md: MMSA's or MulT's pickle, or the SDK's .csd files",
        inspect=inspect if name == "mosi" else None,
    )


ENTRIES = (_entry("mosi"), _entry("mosei"))
