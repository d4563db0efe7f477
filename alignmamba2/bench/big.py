"""Data of MOSEI's unaligned size, from a pickle through the store into training, with the memory that each step takes.

Writes a synthetic pickle in MMSA's format (22,856 utterances; text 50 × 768, sound 500 × 74, face 500 × 35; no padding,
so nothing shrinks), converts it, opens it again, and trains one epoch. Each step is a process of its own, and what is
printed is the peak of the memory resident in it, imports included. At full size it needs 17 GB of disk, and training
takes long on a few cores: `--samples` says how many utterances train, `--steps` how many of them an epoch sees.
"""

from __future__ import annotations

import argparse
import io
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

SPLITS = {"train": 16326, "valid": 1871, "test": 4659}
SHAPES = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}
BLOCK = 64  # utterances made at a time
BATCH = 16


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m alignmamba2 bench big", description=__doc__)
    parser.add_argument(
        "--samples", type=int, default=SPLITS["train"], help="training utterances; others in proportion"
    )
    parser.add_argument("--steps", type=int, help="utterances that the epoch sees (default: all)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed at the end)")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.stage:
        STAGES[arguments.stage](arguments)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="alignmamba2-big-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for stage in STAGES:
            options = ["--samples", str(arguments.samples), "--folder", str(folder), "--stage", stage]
            options += ["--steps", str(arguments.steps)] if arguments.steps else []
            subprocess.run([sys.executable, "-m", "alignmamba2", "bench", "big", *options], check=True)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


def write_pickle(path: Path, sizes: dict[str, int], seed: int = 0) -> None:
    """An MMSA pickle, protocol 4, written a block of utterances at a time: no array is ever in memory."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(b"\x80\x04}(")
        for split, size in sizes.items():
            file.write(_small(split) + b"}(")
            for name, shape in SHAPES.items():
                file.write(_small(name))
                _array(file, (size, *shape), _noise(rng, size, shape))
            names = [f"synthetic-{split}-{i // 10}$_${i % 10}" for i in range(size)]
            bert = np.tile(np.array([[[1000], [1], [0]]]), (size, 1, SHAPES["text"][0]))
            for name, value in {
                "id": names,
                "raw_text": [f"generated {n}" for n in names],
                "text_bert": bert,
                "regression_labels": np.clip(rng.standard_normal(size), -3, 3).astype(np.float32),
                "audio_lengths": np.full(size, SHAPES["audio"][0]),
                "vision_lengths": np.full(size, SHAPES["vision"][0]),
            }.items():
                file.write(_small(name) + _small(value))
            file.write(b"u")
        file.write(b"u.")


def _noise(rng: np.random.Generator, size: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for start in range(0, size, BLOCK):
        yield rng.standard_normal((min(BLOCK, size - start), *shape), np.float32)


def _small(value: object) -> bytes:
    """The opcodes of a value, without those that begin and end a pickle, and without its memo."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 3)
    pickler.fast = True
    pickler.dump(value)
    return out.getvalue()[2:-1]


def _array(file: BinaryIO, shape: tuple[int, ...], blocks: Iterator[np.ndarray]) -> None:
    """The opcodes that NumPy writes for a float32 array, its bytes block by block."""
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01")
    file.write(_small(shape) + _small(np.dtype("<f4")) + b"\x89")
    file.write(b"\x8e" + struct.pack("<Q", int(np.prod(shape)) * 4))
    for block in blocks:
        file.write(block.tobytes())
    file.write(b"tb")


def _sizes(samples: int) -> dict[str, int]:
    return {split: max(2, round(size * samples / SPLITS["train"])) for split, size in SPLITS.items()}


def _write(arguments: argparse.Namespace) -> None:
    path, start = arguments.folder / "unaligned_50.pkl", time.perf_counter()
    if not path.exists():
        part = path.with_suffix(".part")
        write_pickle(part, _sizes(arguments.samples))
        part.replace(path)
    _say("written", path.stat().st_size, start)


def _load(arguments: argparse.Namespace) -> dict:
    import os

    from ..datasets import load_dataset

    os.environ["ALIGNMAMBA2_DATA"] = str(arguments.folder)
    return load_dataset("mosei", root=arguments.folder / "unaligned_50.pkl")


def _convert(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    _load(arguments)
    _say("converted", sum(p.stat().st_size for p in arguments.folder.rglob("*.safetensors")), start)


def _open(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    splits = _load(arguments)
    _say("opened again", sum(len(d) for d in splits.values()), start, "utterances")


def _train(arguments: argparse.Namespace) -> None:
    import dataclasses

    from ..training import fit

    start = time.perf_counter()
    splits = _load(arguments)
    if arguments.steps:
        splits = {s: dataclasses.replace(d, samples=d.samples[: arguments.steps]) for s, d in splits.items()}
    one = {"training.max_epochs": 1, "training.batch_size": BATCH, "training.refit": False}
    fit("mini-mosi", overrides=one, datasets=splits, progress=False)
    _say(f"trained an epoch, {BATCH} a batch", len(splits["train"]), start, "utterances")


def _say(what: str, amount: int, start: float, unit: str = "") -> None:
    amount_text = f"{amount:,} {unit}" if unit else f"{amount / 1e9:.2f} GB"
    print(
        f"{what:32s} {amount_text:>20s} {time.perf_counter() - start:8.1f} s   peak resident {_peak_mib():8.0f} MiB",
        flush=True,
    )


def _peak_mib() -> float:
    """The peak of this process; not `ru_maxrss`, which a process inherits from the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(s.split()[1]) / 1024 for s in status.read_text().splitlines() if s.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


STAGES = {"write": _write, "convert": _convert, "open": _open, "train": _train}
