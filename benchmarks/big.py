"""How memory and time grow with the data.

    mosei     A synthetic pickle in MMSA's format of MOSEI's unaligned size (22,856 utterances; text 50 × 768, sound
              500 × 74, face 500 × 35; no padding, so nothing shrinks) is written, converted, opened again, and trained
              on for one whole epoch. 17 GB of disk; about ten minutes of one core for the epoch. Smaller: `--samples`,
              `--steps`.
    sizes     The same utterances as a store of 0.1 to 100 times MOSEI's training split, a step of training each time
              on samples that lie anywhere in it (`growth.py`).
    lengths   A step of training on samples of 50 to 5,000 tokens of sound and of face.

Every row is a process of its own; "peak" is the most memory that was ever resident in it, imports included.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alignmamba2.datasets import load_dataset
from alignmamba2.storage.files import whole
from alignmamba2.training import fit
from tools.results_file import keep
from tools.stopwatch import peak_mib

from . import growth
from .growth import SHAPES

SPLITS = {"train": 16326, "valid": 1871, "test": 4659}
BLOCK = 64  # utterances made at a time
BATCH = 16


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks big", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if left out")
    parser.add_argument(
        "--samples", type=int, default=SPLITS["train"], help="mosei: training utterances; others in proportion"
    )
    parser.add_argument("--steps", type=int, help="mosei: utterances that the epoch sees (default: all)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed at the end)")
    parser.add_argument("--results", type=Path, default=Path("results/big.json"))
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--amount", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.stage:
        start = time.perf_counter()
        row = STAGES[arguments.stage](arguments)
        print(json.dumps({**row, "seconds": round(time.perf_counter() - start, 1), "peak_mib": round(peak_mib())}))
        return
    for part in arguments.parts:
        if part not in PARTS:
            raise ValueError(f"part: found {part!r}; expected one of {', '.join(PARTS)}")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="alignmamba2-big-"))
    folder.mkdir(parents=True, exist_ok=True)
    words = " ".join(["python -m benchmarks big", *argv])
    try:
        for part in arguments.parts or PARTS:
            rows = []
            for stage, amount in PARTS[part]:
                rows.append(_row(stage, amount, folder, arguments))
                print(_line(part, rows[-1]), flush=True)
            print(f"written: {keep(arguments.results, {part: rows}, words)}", flush=True)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


def _row(stage: str, amount: float, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    if stage == "size":  # written by another process, lest its memory count
        _row("store", amount, folder, arguments)
    options = ["--samples", str(arguments.samples), "--folder", str(folder), "--stage", stage, "--amount", str(amount)]
    options += ["--steps", str(arguments.steps)] if arguments.steps else []
    command = [sys.executable, "-m", "benchmarks", "big", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"stage": stage, **json.loads(done.stdout.splitlines()[-1])}


def _line(part: str, row: Mapping[str, Any]) -> str:
    columns = ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in row.items() if isinstance(v, (int, float)))
    return f"{part:8s} {row['stage']:8s} {columns}"


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


def _write(arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.folder / "unaligned_50.pkl"
    there = path.exists()  # from a run that was stopped
    if not there:
        with whole(path) as part:
            write_pickle(part, _sizes(arguments.samples))
    return {"gb": round(path.stat().st_size / 1e9, 2), "there_before": there}


def _load(arguments: argparse.Namespace) -> dict:
    os.environ["ALIGNMAMBA2_DATA"] = str(arguments.folder)
    return load_dataset("mosei", root=arguments.folder / "unaligned_50.pkl")


def _convert(arguments: argparse.Namespace) -> dict[str, Any]:
    _load(arguments)
    return {"gb": round(sum(p.stat().st_size for p in arguments.folder.rglob("*.safetensors")) / 1e9, 2)}


def _open(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"utterances": sum(len(d) for d in _load(arguments).values())}


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    splits = _load(arguments)
    if arguments.steps:
        splits = {s: dataclasses.replace(d, samples=d.samples[: arguments.steps]) for s, d in splits.items()}
    one = {"training.max_epochs": 1, "training.batch_size": BATCH, "training.refit": False}
    fit("mini-mosi", overrides=one, datasets=splits, progress=False)
    return {"utterances": len(splits["train"]), "validated_on": len(splits["valid"]), "batch": BATCH}


def _store(arguments: argparse.Namespace) -> dict[str, Any]:
    growth.sparse_store(arguments.folder / "growth.safetensors", round(arguments.amount * SPLITS["train"]))
    return {}


def _size(arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.folder / "growth.safetensors"
    try:
        return growth.of_size(path, round(arguments.amount * SPLITS["train"]))
    finally:
        path.unlink()


def _length(arguments: argparse.Namespace) -> dict[str, Any]:
    return growth.of_length(int(arguments.amount))


STAGES = {"write": _write, "convert": _convert, "open": _open, "train": _train}
STAGES |= {"store": _store, "size": _size, "length": _length}
PARTS: dict[str, list[tuple[str, float]]] = {
    "mosei": [(stage, 1) for stage in ("write", "convert", "open", "train")],
    "sizes": [("size", times) for times in (0.1, 1, 10, 100)],
    "lengths": [("length", tokens) for tokens in (50, 150, 500, 1500, 5000)],
}
