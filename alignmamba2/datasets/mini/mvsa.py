"""mini-mvsa: synthetic tweets with a picture, in the formats of MVSA-Single, whose structure is planted and known.

A picture is a 3 × 3 board under a sky: things (a ball, a kite, …) on some squares, and a face on one. Its mood is
positive (the face smiles, the sky is warm), negative (it frowns, the sky is dark) or neutral (a straight mouth, a grey
sky). A text names every thing in the picture once, in any order, sometimes one that is not there, among filler words;
and its mood is one or two positive or negative words, or none. There are three kinds of pairs:

    agree       both annotations are s; but of half the positive and negative ones, one side is *veiled*, looks neutral
    complete    one annotation is s, positive or negative, the other neutral, and each side looks as it is annotated
    disagree    one is positive, the other negative

`agree-2592` (here of fewer pairs, of course) keeps the first kind: each side alone can be right in 5 of 6, both
together always. `merged-4511` adds the second, whose class is s: there each side alone knows half. Neither takes the
third.

A thing covers 2 × 2 of the 7 × 7 patches of a picture; `Sample.partners` gives each patch the word that names what is
on it, −1 for none, where a text token is a word (`text="words"`).

Files: `data/{number}.jpg`, `data/{number}.txt` (gb18030), `labelResultAll.txt`, and `train.jsonl`, `dev.jsonl`,
`test.jsonl` whose texts are read as latin-1, as the published ones are; beside them `planted.json`, which no real set
has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...storage.files import whole_folder
from ..base import DataError, Dataset, seeded
from ..fetch import data_root
from ..formats.images import GRID
from ..formats.mvsa_files import CLASSES, HEADER, LABELS, PLANTED, SPLITS
from ..mvsa import PICTURES, PROTOCOLS, datasets, read_pairs
from ..registry import Entry

NAME = "mini-mvsa"
TRAIN = 300  # pairs that agree, at `size=None`; a third as many for validation, and for testing
COMPLETE, DISAGREE = 0.7, 0.15  # pairs of the other kinds, by pairs that agree
VEILED = 0.5
VERSION = 1  # of what is generated; another one is generated anew
MOODS = {
    "positive": ("lovely", "happy", "great", "sweet", "brilliant", "wonderful"),
    "neutral": (),
    "negative": ("awful", "sad", "terrible", "broken", "horrible", "lonely"),
}
FILLERS = (
    "the",
    "a",
    "today",
    "here",
    "we",
    "saw",
    "at",
    "of",
    "street",
    "http://t.co/x",
    "RT",
    "…",
    "with",
    "“photo”",
)
THINGS = {
    "ball": (210, 60, 50),
    "kite": (60, 160, 80),
    "house": (150, 100, 60),
    "tree": (40, 110, 50),
    "boat": (40, 80, 170),
    "star": (235, 190, 40),
    "cup": (150, 60, 150),
    "flag": (30, 160, 170),
}
SKIES = {"positive": (205, 185, 130), "neutral": (165, 165, 165), "negative": (85, 95, 120)}
SIDE, MARGIN, SQUARE = 256, 16, 64  # pixels; what is beyond the margin is cut off when the picture is read


@dataclass(frozen=True)
class Drawn:
    """A generated pair: both moods as annotated, the words, the picture, and each patch's word."""

    annotations: tuple[str, str]
    words: list[str]
    picture: Image.Image
    partner: list[int]


def load(
    root: str | Path | None = None,
    *,
    seed: int = 0,
    size: int | None = None,
    protocol: str = "agree-2592",
    pictures: str = "require",
    image: str = "patches",
    text: str = "words",
    split_seed: int = 0,
) -> dict[str, Dataset]:
    """Generate the files once, below the data root's cache/, and read them as `mvsa` reads the real ones.

    Parameters
    ----------
    seed : int
        Of what is generated.
    size : number of training pairs that agree (default 300)
    protocol, pictures, image, text, split_seed : as of `mvsa`
    """
    for name, found, known in (("protocol", protocol, PROTOCOLS), ("pictures", pictures, PICTURES)):
        if found not in known:
            raise ValueError(f"{name}: found {found!r}; expected one of {known}")
    cache, folder = data_root(root) / "cache", find(root, seed=seed, size=size)
    pairs, layout = read_pairs(folder, protocol, split_seed)
    layout = layout.replace("QMF's split", "generated split")
    planted = json.loads((folder / PLANTED).read_text("utf-8"))
    splits = datasets(
        pairs,
        cache,
        pictures=pictures,
        image=image,
        text=text,
        synthetic=True,
        protocol=f"as {protocol}, {layout}",
        name=NAME,
        partners=partial(_partners, planted) if text == "words" and image == "patches" and pictures != "none" else None,
    )
    return seeded(splits, seed)


def find(root: str | Path | None = None, *, seed: int = 0, size: int | None = None) -> Path:
    """The folder with the generated files, which are made where they are not there; see `load`."""
    folder = data_root(root) / "cache" / f"{NAME}-{VERSION}-{seed}-{TRAIN if size is None else size}"
    if not folder.is_dir():
        make(folder, seed=seed, size=size)
    return folder


def make(folder: Path, *, format: str = "folder", seed: int = 0, size: int | None = None) -> list[Path]:
    """Write the generated set into `folder`, which appears whole or not at all; returns the paths written.

    Raises
    ------
    DataError
        The folder is there already, and is not empty.
    """
    n = TRAIN if size is None else size
    if format != "folder":
        raise ValueError(f"format: found {format!r}; expected 'folder', which holds the .jsonl files too")
    if n < 6:
        raise ValueError(f"size: found {size!r}; expected at least 6 training pairs")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; name another folder")
    with whole_folder(folder) as part:
        _write(part, seed, n)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def draw_pair(rng: np.random.Generator, text: str, image: str, veil: str = "") -> Drawn:
    """A pair annotated `text` and `image`; `veil` names the side, if any, that looks neutral all the same."""
    things = rng.permutation(list(THINGS))[: rng.integers(2, 5)].tolist()
    squares = rng.permutation(9)
    picture = _draw(rng, dict(zip(things, squares[1:].tolist(), strict=False)), int(squares[0]),
                    "neutral" if veil == "image" else image)  # fmt: skip
    mood = MOODS["neutral" if veil == "text" else text]
    words = [*things, *rng.choice(FILLERS, rng.integers(2, 6), replace=False).tolist()]
    if mood:
        words += rng.choice(mood, rng.integers(1, 3), replace=False).tolist()
    absent = [t for t in THINGS if t not in things]
    if rng.random() < 0.3:
        words.append(str(rng.choice(absent)))
    words = rng.permutation(words).tolist()
    partner = np.full((GRID, GRID), -1)
    for thing, square in zip(things, squares[1:].tolist(), strict=False):
        row, column = divmod(square, 3)
        partner[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = words.index(thing)
    return Drawn((text, image), words, picture, partner.ravel().tolist())


def _draw(rng: np.random.Generator, things: Mapping[str, int], face: int, mood: str) -> Image.Image:
    sky = np.clip(np.array(SKIES[mood]) + rng.normal(0, 30, 3), 0, 255).astype(int)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(sky.tolist()))
    pen = ImageDraw.Draw(picture)
    for thing, square in things.items():
        _draw_thing(pen, thing, *_corner(square))
    x, y = _corner(face)
    pen.ellipse((x + 4, y + 4, x + 60, y + 60), fill=(240, 205, 160), outline=(60, 40, 30))
    for eye in (20, 40):
        pen.ellipse((x + eye - 3, y + 18, x + eye + 3, y + 26), fill=(30, 30, 30))
    if mood == "neutral":
        pen.line((x + 18, y + 44, x + 46, y + 44), fill=(120, 20, 20), width=5)
    elif mood == "positive":
        pen.arc((x + 14, y + 22, x + 50, y + 52), 15, 165, fill=(120, 20, 20), width=5)
    else:
        pen.arc((x + 14, y + 38, x + 50, y + 68), 195, 345, fill=(120, 20, 20), width=5)
    noise = rng.normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _draw_thing(pen: ImageDraw.ImageDraw, thing: str, x: int, y: int) -> None:
    """Every thing fills most of its square of 64 pixels, in its own colour and form."""
    color = THINGS[thing]
    if thing == "ball":
        pen.ellipse((x + 6, y + 6, x + 58, y + 58), fill=color)
    elif thing == "kite":
        pen.polygon([(x + 32, y + 2), (x + 60, y + 32), (x + 32, y + 62), (x + 4, y + 32)], fill=color)
    elif thing == "house":
        pen.rectangle((x + 10, y + 28, x + 54, y + 62), fill=color)
        pen.polygon([(x + 2, y + 30), (x + 32, y + 4), (x + 62, y + 30)], fill=(110, 40, 35))
    elif thing == "tree":
        pen.polygon([(x + 32, y + 2), (x + 58, y + 46), (x + 6, y + 46)], fill=color)
        pen.rectangle((x + 26, y + 46, x + 38, y + 62), fill=(100, 70, 40))
    elif thing == "boat":
        pen.polygon([(x + 2, y + 40), (x + 62, y + 40), (x + 50, y + 60), (x + 14, y + 60)], fill=color)
        pen.polygon([(x + 32, y + 4), (x + 32, y + 36), (x + 56, y + 36)], fill=(245, 245, 245))
    elif thing == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2, 12, 30)
        pen.polygon([(x + 32 + r * np.cos(a), y + 32 + r * np.sin(a)) for r, a in zip(reach, turns, strict=True)],
                    fill=color)  # fmt: skip
    elif thing == "cup":
        pen.rectangle((x + 8, y + 14, x + 44, y + 58), fill=color)
        pen.arc((x + 34, y + 22, x + 60, y + 48), 270, 90, fill=color, width=6)
    else:
        pen.rectangle((x + 6, y + 2, x + 12, y + 62), fill=(90, 60, 40))
        pen.rectangle((x + 12, y + 4, x + 60, y + 34), fill=color)


def _corner(square: int) -> tuple[int, int]:
    row, column = divmod(square, 3)
    return MARGIN + SQUARE * column, MARGIN + SQUARE * row


def _write(folder: Path, seed: int, train: int) -> None:
    (folder / "data").mkdir()
    rng = np.random.default_rng([seed, 2])
    sizes = {"train": train, "valid": train // 3, "test": train // 3}
    agree = sum(sizes.values())
    strong = ("positive", "negative")
    plan: list[tuple[str, tuple[str, str], str]] = []  # split, annotations, veiled side
    for split, n in sizes.items():
        for k in range(n):
            mood = CLASSES[k % 3]
            veil = str(rng.choice(("text", "image"))) if mood in strong and rng.random() < VEILED else ""
            plan.append((split, (mood, mood), veil))
    for k in range(round(COMPLETE * agree)):
        pair = (strong[k // 2 % 2], "neutral")
        plan.append(("", pair if k % 2 else pair[::-1], ""))
    plan += [("", strong if k % 2 else strong[::-1], "") for k in range(round(DISAGREE * agree))]
    labels, planted = [HEADER], {}
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, place in enumerate(rng.permutation(len(plan)), start=1):
        split, annotations, veil = plan[place]
        pair = draw_pair(rng, *annotations, veil)
        text = " ".join(pair.words)
        picture = f"data/{number}.jpg"
        (folder / "data" / f"{number}.txt").write_bytes(f"{text}\n".encode("gb18030"))
        pair.picture.save(folder / picture, quality=90)
        labels.append(f"{number}\t{','.join(annotations)}")
        planted[str(number)] = {"veiled": veil, "partner": pair.partner}
        if split:
            misread = text.encode("gb18030").decode("latin-1")
            row = {"id": str(number), "label": annotations[0], "text": misread, "img": picture}
            lines[split].append(json.dumps(row))
    (folder / LABELS).write_bytes("\n".join([*labels, ""]).encode())
    for split, name in SPLITS.items():
        (folder / name).write_bytes("\n".join([*lines[split], ""]).encode())
    (folder / PLANTED).write_bytes(json.dumps(planted).encode())


def _partners(planted: Mapping[str, dict], id: str, features: Mapping[str, torch.Tensor]) -> dict:
    """Each patch's word."""
    partner = torch.tensor(planted[id]["partner"])
    return {("image", "text"): partner[: len(features["image"])]}


ENTRIES = (Entry(NAME, load, make=make, formats=("folder",)),)
