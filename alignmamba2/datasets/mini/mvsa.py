"""mini-mvsa: synthetic tweets with a picture, in the formats of MVSA-Single, whose structure is planted and known.

A picture is a 3 × 3 board under a sky: things (a ball, a kite, …) on some squares, and a face on one. Its mood is
positive (the face smiles, the sky is warm), negative (it frowns, the sky is dark) or neutral (a straight mouth, a grey
sky). A text names every thing in the picture once, in any order, sometimes an absent one too, among filler words; its
mood is one or two positive or negative words, or none. There are three kinds of pairs:

    agree       both annotations are s; but of half the positive and negative ones, one side is *veiled*, looks neutral
    complete    one annotation is s, positive or negative, the other neutral, and each side looks as it is annotated
    disagree    one is positive, the other negative

`agree-2592` (here of fewer pairs, of course) keeps the first kind: each side alone can be right in 5 of 6, both
together always. `merged-4511` adds the second, whose class is s: there each side alone knows half. Neither takes the
third.

A thing covers 2 × 2 of the 7 × 7 patches of a picture; `Sample.partners` gives each patch the word that names its
thing, −1 for none, if a text token is a word (`text="words"`).

Files: `data/{number}.jpg`, `data/{number}.txt` (gb18030), `labelResultAll.txt`, and `train.jsonl`, `dev.jsonl`,
`test.jsonl` with texts misread as latin-1, as in the published ones; `planted.json`, which no real set has.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..base import Dataset
from ..fetch import data_root
from ..formats.images import GRID
from ..formats.mvsa_files import CLASSES, HEADER, LABELS, PLANTED, SPLITS
from ..mvsa import check_choices, datasets, read_pairs
from ..registry import Entry
from . import seeded, write_generated

NAME = "mini-mvsa"
TRAIN = 300  # pairs that agree, if `size` is None; a third as many for validation, and for testing
COMPLETE, DISAGREE = 0.7, 0.15  # pairs of the other kinds, per pair that agrees
VEILED = 0.5
VERSION = 1  # of the generated files; another version generates them anew
DRAWN = tomllib.loads(Path(__file__).with_name("tweets.toml").read_text("utf-8"))
MOODS, FILLERS, SHAPES, SKIES = (DRAWN[name] for name in ("moods", "fillers", "shapes", "skies"))
THINGS = {name: tuple(colour) for name, colour in DRAWN["things"].items()}  # colours, as Pillow wants them
SIDE, MARGIN, SQUARE = 256, 16, 64  # pixels; the margin is cut off when the picture is read


@dataclass(frozen=True)
class Drawn:
    """A generated pair: both annotated moods, the words, the picture, and each patch's word."""

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

    `seed` is that of the files, `size` the number of training pairs that agree (default 300); all else as of `mvsa`.
    """
    check_choices(protocol, pictures)
    folder = find(root, seed=seed, size=size)
    pairs, layout = read_pairs(folder, protocol, split_seed)
    layout = layout.replace("QMF's split", "generated split")
    planted = json.loads((folder / PLANTED).read_text("utf-8"))
    splits = datasets(
        pairs,
        data_root(root) / "cache",
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
    """Return the folder with the generated files, which are made if they are not there; see `load`."""
    folder = data_root(root) / "cache" / f"{NAME}-{VERSION}-{seed}-{TRAIN if size is None else size}"
    if not folder.is_dir():
        make(folder, seed=seed, size=size)
    return folder


def make(folder: Path, *, format: str = "folder", seed: int = 0, size: int | None = None) -> list[Path]:
    """Write the generated set into `folder`, see `write_generated`."""
    n = TRAIN if size is None else size
    if format != "folder":
        raise ValueError(f"format: found {format!r}; expected 'folder', which holds the .jsonl files too")
    if n < 6:
        raise ValueError(f"size: found {size!r}; expected at least 6 training pairs")
    return write_generated(folder, lambda part: _write(part, seed, n))


def draw_pair(rng: np.random.Generator, text: str, image: str, veil: str = "") -> Drawn:
    """Draw a pair annotated `text` and `image`; the side named by `veil`, if any, looks neutral all the same."""
    things = rng.permutation(list(THINGS))[: rng.integers(2, 5)].tolist()
    squares = rng.permutation(9)
    places = dict(zip(things, squares[1:].tolist(), strict=False))
    picture = _draw(rng, places, int(squares[0]), "neutral" if veil == "image" else image)
    mood = MOODS["neutral" if veil == "text" else text]
    words = [*things, *rng.choice(FILLERS, rng.integers(2, 6), replace=False).tolist()]
    if mood:
        words += rng.choice(mood, rng.integers(1, 3), replace=False).tolist()
    absent = [t for t in THINGS if t not in things]
    if rng.random() < 0.3:
        words.append(str(rng.choice(absent)))
    words = rng.permutation(words).tolist()
    partner = np.full((GRID, GRID), -1)
    for thing, square in places.items():
        row, column = divmod(square, 3)
        partner[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = words.index(thing)
    return Drawn((text, image), words, picture, partner.ravel().tolist())


def _draw(rng: np.random.Generator, things: Mapping[str, int], face: int, mood: str) -> Image.Image:
    sky = np.clip(np.array(SKIES[mood]) + rng.normal(0, 30, 3), 0, 255).astype(int)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(sky.tolist()))
    pen = ImageDraw.Draw(picture)
    for name, square in (*things.items(), ("face", face), (mood, face)):
        corner = MARGIN + SQUARE * np.array(divmod(square, 3)[::-1])  # x, y
        for method, coordinates, options in SHAPES[name]:
            points = [tuple(point) for point in (corner + np.reshape(coordinates, (-1, 2))).tolist()]
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            getattr(pen, method)(points, **{"fill": THINGS.get(name), **options})
    noise = rng.normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _plan(rng: np.random.Generator, train: int) -> list[tuple[str, tuple[str, str], str]]:
    """Split ("" for none), annotations and veiled side ("" for none) of every pair."""
    sizes = {"train": train, "valid": train // 3, "test": train // 3}
    agree = sum(sizes.values())
    strong = ("positive", "negative")
    plan = []
    for split, n in sizes.items():
        for k in range(n):
            mood = CLASSES[k % 3]
            veil = str(rng.choice(("text", "image"))) if mood in strong and rng.random() < VEILED else ""
            plan.append((split, (mood, mood), veil))
    for k in range(round(COMPLETE * agree)):
        pair = (strong[k // 2 % 2], "neutral")
        plan.append(("", pair if k % 2 else pair[::-1], ""))
    return plan + [("", strong if k % 2 else strong[::-1], "") for k in range(round(DISAGREE * agree))]


def _write(folder: Path, seed: int, train: int) -> None:
    (folder / "data").mkdir()
    rng = np.random.default_rng([seed, 2])
    plan = _plan(rng, train)
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
    for name, rows in ((LABELS, labels), *((name, lines[split]) for split, name in SPLITS.items())):
        (folder / name).write_bytes("\n".join([*rows, ""]).encode())
    (folder / PLANTED).write_bytes(json.dumps(planted).encode())


def _partners(planted: Mapping[str, dict], id: str, features: Mapping[str, torch.Tensor]) -> dict:
    partner = torch.tensor(planted[id]["partner"])  # each patch's word
    return {("image", "text"): partner[: len(features["image"])]}


ENTRY = Entry(NAME, load, make=make, formats=("folder",))
