"""The files of MVSA-Single, in both layouts (see `mvsa`)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

from ...storage.files import FileError, plain, plain_errors, read_json, write_json
from ..base import DataError
from ..fetch import published
from .images import read_picture

NAME = "mvsa"
CLASSES = ("positive", "neutral", "negative")
LABELS, SPLITS = "labelResultAll.txt", {"train": "train.jsonl", "valid": "dev.jsonl", "test": "test.jsonl"}
HEADER = "ID\ttext,image"
ROW = re.compile(rf"(\d+)\t({'|'.join(CLASSES)}),({'|'.join(CLASSES)})")
SOURCE = published("mvsa")
TWEETS = published("tweets")  # the pictures and texts of the pairs that agree
PLANTED = "planted.json"  # beside generated files; no real set has it
FETCH = "python -m alignmamba2 data fetch mvsa --pictures"
BRING = f"Bring the pairs that agree with: {FETCH}; data/README.md#mvsa says where all come from"


@dataclass(frozen=True)
class Pair:
    """A pair is a tweet: its text, the path of its picture, its class, and its split in the files, or ""."""

    id: str
    text: str
    picture: Path
    label: int
    split: str = ""


def read_labels(path: Path) -> dict[str, tuple[str, str]]:
    """Return both annotations, (text, image), of every pair in `labelResultAll.txt`; line ends LF or CRLF."""
    lines = _text(path, "gb18030").splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise DataError(f"{path}: first line is {lines[0] if lines else ''!r}; expected {HEADER!r}")
    labels = {}
    for number, line in enumerate(lines[1:], start=2):
        match = ROW.fullmatch(line.strip())
        if not match:
            raise DataError(f"{path}: line {number} is {line!r}; expected number, tab, two of {CLASSES} with a comma "
                            "between. It may be cut off: bring it again")  # fmt: skip
        if match[1] in labels:
            raise DataError(f"{path}: line {number} names pair {match[1]} a second time")
        labels[match[1]] = match[2], match[3]
    if not labels:
        raise DataError(f"{path}: no pairs in it. It may be cut off: bring it again")
    return labels


def by_protocol(labels: Mapping[str, tuple[str, str]], merge: bool) -> dict[str, str]:
    """Return the classes of the pairs that a protocol keeps, by id, from both annotations of each.

    Without `merge`, agree-2592: the two annotations must be equal. With it, merged-4511: a neutral one yields to the
    other, and positive against negative is left out.
    """
    classes = {}
    for i, pair in labels.items():
        sides = set(pair) - {"neutral"} or {"neutral"} if merge else set(pair)
        if len(sides) == 1:
            classes[i] = sides.pop()
    return classes


def read_jsonl(folder: Path) -> list[Pair]:
    """Return the pairs of train, dev and test.jsonl, with their splits and with their texts repaired.

    With `labelResultAll.txt` beside them, they must be the pairs whose two annotations agree, every one once.
    """
    pairs: list[Pair] = []
    for split, name in SPLITS.items():
        path = folder / name
        for number, line in enumerate(_text(path, "utf-8").split("\n"), start=1):
            if not line.strip():
                continue
            expected = f'{{"id", "label", "text", "img"}} with one of {CLASSES}'
            with plain_errors(f"{path}: line {number}", DataError, expected):
                row = plain(line)
                text, label = "" + row["text"], CLASSES.index(row["label"])
                pairs.append(Pair(str(row["id"]), text, folder / _inside(row["img"]), label, split))
        if not pairs or pairs[-1].split != split:
            raise DataError(f"{path}: no pairs in it. It may be cut off: bring it again")
    misread = max(max(p.text, default="") for p in pairs) <= "ÿ"  # else they are texts as they should be
    pairs = [replace(p, text=(repaired(p.text) if misread else p.text).strip()) for p in pairs]
    ids = [p.id for p in pairs]
    if len(set(ids)) != len(ids):
        raise DataError(f"{folder}: {len(ids) - len(set(ids))} pairs are in the .jsonl files more than once")
    if (folder / LABELS).is_file():
        labels = read_labels(folder / LABELS)
        agreed = {i: CLASSES.index(name) for i, name in by_protocol(labels, merge=False).items()}
        differ = sorted(agreed.items() ^ {(p.id, p.label) for p in pairs})
        if differ:
            raise DataError(
                f"{folder}: the .jsonl files hold {len(pairs)} pairs, {LABELS} {len(agreed)} whose annotations "
                f"agree, and they differ at pair {differ[0][0]}. A file may be cut off, or of another copy"
            )
    return pairs


def _inside(name: str) -> str:
    """The name of a file, unless it leads out of the folder, on whatever system."""
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not name.isprintable():
        raise ValueError(f"img {name!r} is no path inside the folder")
    return name


def repaired(text: str) -> str:
    """Return a text of gb18030 bytes that was misread as latin-1 as it should read; any other text unchanged."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("gb18030")
    except UnicodeError:
        return text


def read_folder(folder: Path, merge: bool) -> list[Pair]:
    """Return the pairs of `labelResultAll.txt` and data/{id}.txt that the protocol keeps (`by_protocol`), by number."""
    labels = read_labels(folder / LABELS)
    classes = {i: CLASSES.index(name) for i, name in by_protocol(labels, merge).items()}
    data = folder / "data"
    there = {p.stem for p in data.glob("*.txt")}
    missing = sorted(set(classes) - there, key=int)
    if missing:
        raise DataError(
            f"{data}: no text of {len(missing)} of {len(classes)} pairs, the first {missing[0]}.txt. {BRING}"
        )
    stray = sorted(there - set(labels))
    if stray:
        raise DataError(f"{folder / LABELS}: no row for {len(stray)} texts in data/, the first {stray[0]}.txt. "
                        "It may be cut off: bring it again")  # fmt: skip
    order = sorted(classes, key=int)
    return [Pair(i, read_text(data / f"{i}.txt"), data / f"{i}.jpg", classes[i]) for i in order]


def read_text(path: Path) -> str:
    """Return a tweet: UTF-8 where it is that, which no published text is by chance, else gb18030 with U+FFFD."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return content.decode("gb18030", errors="replace").strip()


def survey(pairs: Sequence[Pair], cache: Path) -> tuple[dict[str, str], str]:
    """Return the pictures that are "missing" or "unreadable", by id, and a key of all pictures.

    Decodes every picture once, whole, and keeps the result in `cache` as long as sizes and times do not change.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        status = pair.picture.stat() if pair.picture.is_file() else None
        state = (status.st_size, status.st_mtime_ns) if status else None
        digest.update(f"{pair.id} {pair.picture.resolve()} {state}\n".encode())
    key = digest.hexdigest()
    notes = cache / f"pictures-{key[:20]}.json"
    try:
        return read_json(notes), key
    except (OSError, FileError):  # not looked at yet, or damaged: looked at again
        pass
    wrong = {}
    for pair in pairs:
        if not pair.picture.is_file():
            wrong[pair.id] = "missing"
            continue
        try:
            read_picture(pair.picture)
        except DataError:
            wrong[pair.id] = "unreadable"
    cache.mkdir(parents=True, exist_ok=True)
    write_json(notes, wrong)
    return wrong, key


def repeated(texts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count the samples of every other split whose text is also in train."""
    known = set(texts["train"])
    return {split: sum(t in known for t in own) for split, own in texts.items() if split != "train"}


def _text(path: Path, encoding: str) -> str:
    try:
        return path.read_bytes().decode(encoding)
    except FileNotFoundError:
        raise DataError(f"{path}: not found. {BRING}") from None
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: no {encoding} text ({error}). It may be cut off: bring it again") from error
