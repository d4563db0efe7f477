"""CMU-MOSI and CMU-MOSEI, sequences of text, sound and face with a sentiment in [-3, 3], from the files that are there.

These are MMSA's pickles (aligned or not), MulT's pickles, or a folder of the SDK's `.csd` files, told apart by content
(see `mosi_pickles.py` and `csd.py`). The first reading writes them as a store (`store.py`), without padding; values
that are not finite are set to 0 (as MMSA does with `-inf`) and counted. From then on the store is opened, at once.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ..storage.files import file_hash, read_plain
from ..storage.token_store import folder_of, read_notes
from . import store
from .base import DataError, Dataset, check_choice, splits_of
from .contents import Contents, Field, Part
from .fetch import PUBLISHED, data_root
from .formats import csd, mosi_pickles
from .formats.hdf5 import reading, values
from .formats.mosi_pickles import SPLITS, Utterances
from .registry import Entry

# Utterances of the standard split, and widths of audio and video in the pickles, which tell the two sets apart.
STANDARD = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659)}
WIDTHS = {"mosi": (5, 20), "mosei": (74, 35)}
TITLES = {"mosi": "CMU-MOSI", "mosei": "CMU-MOSEI"}
KNOWN_FILES = read_plain(PUBLISHED / "mmsa.json")  # names by SHA-256, as thuiar/MMSA's README lists them
LABELS = {split: f"y_{split}.h5" for split in SPLITS}
PICKLES = (".pkl", ".pickle")
BERT = "bert-base-uncased"  # whose tokenizer made MMSA's `text_bert`
ALIGNMENTS = ("aligned", "unaligned")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    alignment: str | None = None,
    text: str | None = None,
    folds: str | Path | None = None,
) -> dict[str, Dataset]:
    """Load the three splits.

    A `DataError` says that there is no file, or several fit, or it is broken, and the remedy.

    Parameters
    ----------
    name : "mosi" or "mosei"
    root : folder of all data sets; or the file itself, or the folder of `.csd` files
    alignment : "aligned" or "unaligned"
        Selects among several files; for `.csd`, how to cut them (default "aligned").
    text : "bert", "glove", or such as "100-d"
        Kind of text that the file must hold; default any. Or "ids", of an MMSA pickle: the ids (T,) int64 of
        `text_bert` in place of BERT's features, for bert-base-uncased inside the model (`Dataset.encoders`).
    folds : for `.csd`, a file that lists the videos of each split (see `csd.py`)
    """
    if alignment is not None:
        check_choice("alignment", alignment, ALIGNMENTS)
    words = "bert" if text == "ids" else text
    cache = _cache(root)
    candidates = find(name, root)
    if not candidates:
        raise DataError(
            f"{data_root(root) / name}: no pickle and no .csd files there. Put the file there, or give root=FILE; "
            "data/README.md says where the files come from"
        )
    # The shapes in each file tell its alignment and its kind of text. Only the one that fits is converted.
    kinds = {
        path: (alignment or "aligned", csd.kind_of_text(path)) if path.is_dir() else mosi_pickles.peek(path)
        for path in candidates
    }
    fitting = [p for p, kind in kinds.items() if alignment in (None, kind[0]) and words in (None, kind[1])]
    if len(fitting) != 1:
        problem = f"{'none fits' if not fitting else 'several fit'} alignment={alignment!r}, text={text!r}"
        held = "; ".join(f"{path} is {', text '.join(kind)}" for path, kind in kinds.items())
        raise DataError(f"{TITLES[name]}: {problem}. There are: {held}. Say alignment= and text=, or give root=FILE")
    return _open(name, fitting[0], _stored(fitting[0], cache, alignment, folds), text == "ids")


def find(name: str, root: str | Path | None = None) -> list[Path]:
    """Return the pickles and folders of `.csd` files that may be this data set."""
    if root is not None and (Path(root).is_file() or csd.is_csd_folder(Path(root))):
        return [Path(root)]
    folders = [f for f in data_root(root).glob("*") if f.name.lower() in (name, f"cmu-{name}", f"cmu_{name}")]
    return sorted({source for folder in folders for path in folder.rglob("*") for source in _sources(path)})


def _sources(path: Path) -> list[Path]:
    if path.suffix in PICKLES:
        return [path]
    return [path.parent] if path.suffix == ".csd" else []


def _cache(root: str | Path | None) -> Path:
    whole = root is None or (Path(root).is_dir() and not csd.is_csd_folder(Path(root)))
    return data_root(root if whole else None) / "cache"


def _stored(path: Path, cache: Path, alignment: str | None, folds: str | Path | None) -> Path:
    files, options = [path], {}
    if path.is_dir():
        lists = Path(folds) if folds else path / csd.FOLDS
        files = [*sorted(path.glob("*.csd")), *([lists] if lists.is_file() else [])]
        options = {"alignment": alignment or "aligned"}
    hashes = {p.name: file_hash(p, cache) for p in files}
    folder = folder_of(cache, "store", hashes=hashes, **options)
    if read_notes(folder):
        return folder
    utterances = read(path, alignment, folds)
    if utterances.problems:
        raise DataError(f"{path}: " + "; ".join(utterances.problems))
    about = {
        "source": str(path),
        "hashes": hashes,
        "format": utterances.format,
        "alignment": ALIGNMENTS[not utterances.aligned],
        "text": utterances.text,
        "synthetic": utterances.synthetic,
        "sizes": {s: len(utterances.splits[s].ids) for s in SPLITS},
        "widths": dict(utterances.splits["train"].widths),
        "notes": [*utterances.notes, *_published(hashes)],
    }
    store.write(folder, utterances.splits, about)
    return folder


def read(path: Path, alignment: str | None = None, folds: str | Path | None = None) -> Utterances:
    """Return the utterances of a pickle or of a folder of `.csd` files."""
    return csd.read(path, folds, alignment != "unaligned") if path.is_dir() else mosi_pickles.read(path)


def _published(hashes: dict[str, str]) -> list[str]:
    names = {n: KNOWN_FILES.get(digest, "SHA-256 is none of those that MMSA publishes") for n, digest in hashes.items()}
    return [f"{n}: {name}" for n, name in names.items() if n.endswith(PICKLES)]


def _open(name: str, path: Path, folder: Path, ids: bool) -> dict[str, Dataset]:
    about = read_notes(folder)
    widths = tuple(about["widths"][m] for m in ("audio", "video"))
    for other in STANDARD:
        if other != name and path.is_file() and widths == WIDTHS[other]:
            raise DataError(f"{path}: audio and video are {widths} wide, as in {TITLES[other]}; load it as {other!r}")
    sizes = tuple(about["sizes"][s] for s in SPLITS)
    split = " / ".join(map(str, sizes))
    standard = f"standard split {split}" if sizes == STANDARD[name] else f"NOT the standard split: {split} utterances"
    synthetic = "synthetic, " if about["synthetic"] else ""
    replaced = [
        f"{s}/{m}: {sum(counts.values())} values were no finite numbers, set to 0, in {len(counts)} samples: "
        + ", ".join(f"{i!r} ({n})" for i, n in list(counts.items())[:5])
        + (", …" if len(counts) > 5 else "")
        for s, modalities in about["replaced"].items()
        for m, counts in modalities.items()
        if counts
    ]
    kind = "synthetic: generated files of that form" if about["synthetic"] else "real"
    aligned = about["alignment"] == "aligned"
    words = "ids" if ids else about["text"]
    samples = {s: store.StoredSamples(folder / f"{s}.safetensors", aligned, ids) for s in SPLITS}
    if ids and any(part.bert(0) is None for part in samples.values()):
        raise DataError(f"{path}: no text_bert in it; text='ids' needs an MMSA pickle")
    return splits_of(
        samples,
        name=name,
        protocol=f"{synthetic}{about['format']}, {about['alignment']}, text {words}, {standard}",
        description=f"{TITLES[name]}, {kind}: {sum(sizes)} utterances as sequences of text, sound and face, "
        "a label in [-3, 3]",
        synthetic=about["synthetic"],
        hashes=about["hashes"],
        encoders={"text": BERT} if ids else {},
        notes=(*about["notes"], *replaced),
    )


def inspect(path: Path) -> Contents | None:
    """Return the contents of a pickle, a folder of `.csd` files, or a tree in which there is one of either."""
    if path.is_dir():
        below = {source for depth in ("*", "*/*", "*/*/*") for p in path.glob(depth) for source in _sources(p)}
        path = below.pop() if len(below) == 1 else path
    if path.is_file() and (path.suffix in PICKLES or path.open("rb").read(1) == b"\x80"):
        files = [path]
    elif csd.is_csd_folder(path):
        files = sorted(path.glob("*.csd"))
    elif all((path / name).is_file() for name in LABELS.values()):
        return _inspect_labels(path)
    else:
        return None
    utterances, hashes = read(path), {p.name: file_hash(p, _cache(None)) for p in files}
    utterances.notes += _published(hashes)
    return utterances.contents(path, hashes)


def _inspect_labels(path: Path) -> Contents | None:
    """The contents of MOSI's regression labels by themselves, HDF5 `data`, as pliang279/MFN has them."""
    parts = {}
    for split, name in LABELS.items():
        with reading(path / name, "numbers in 'data'") as file:
            if "data" not in file:
                return None
            labels = np.asarray(values(path / name, file["data"])).reshape(-1)
            parts[split] = Part({"data": Field.of(labels)}, labels.astype(np.float64))
    sizes = tuple(len(p.labels) for p in parts.values())
    problems = [f"{s}: labels are not in [-3, 3]" for s, p in parts.items() if not (np.abs(p.labels) <= 3).all()]
    if sizes != STANDARD["mosi"]:
        problems.append(f"{sizes} labels; the standard split has {STANDARD['mosi']}")
    hashes = {name: file_hash(path / name, _cache(None)) for name in LABELS.values()}
    return Contents(path, "labels of CMU-MOSI, without features", parts, problems=problems, hashes=hashes)


BRING = "see data/README.md: MMSA's or MulT's pickle, or the SDK's .csd files"
MOSI, MOSEI = (
    Entry(name, partial(load, name), lambda root, name=name: bool(find(name, root)), BRING, inspect=inspect)
    for name in STANDARD
)
