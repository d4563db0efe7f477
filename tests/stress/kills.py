"""Killed at a random moment, does it go on, and to the same bits?

For each subject: one run that is left alone; then again and again, in an empty folder, a run that gets SIGKILL at a
moment drawn from the time that the first one took, and a run after it that is left alone. That one must end with the
same content, bit by bit, whatever the killed run left behind, and take away the checkpoint that it went on from. Linux
and macOS: subjects are forked, so that a run is not mostly imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from alignmamba2 import fit, load_dataset
from alignmamba2.datasets import Dataset
from alignmamba2.datasets.fetch import Source
from alignmamba2.datasets.mini.mosi import make
from alignmamba2.encoders import cache
from alignmamba2.experiments import reproduce
from alignmamba2.storage.files import read_json
from alignmamba2.training.checkpoint import FILE
from tools.results_file import keep

Subject = Callable[[Path], str]  # works in a folder, returns a digest of what came of it

RECIPE = {"model.d_model": 16, "model.d_state": 4, "model.n_layers": 1, "training.max_epochs": 3}
RECIPE |= {"training.batch_size": 32, "training.refit": True}


def training(folder: Path) -> str:
    """`fit` with a refit: weights and history."""
    result = fit("mini-mosi", seed=1, overrides=RECIPE, folder=folder / "run", progress=False)
    weights = [x.numpy().tobytes() for x in result.model.state_dict().values()]
    notes = (folder / "run" / "training.json").read_bytes()
    return hashlib.sha256(b"".join([*weights, notes])).hexdigest()


def conversion(folder: Path) -> str:
    """`load_dataset` of a pickle, which keeps what it read in a store: every value."""
    source = folder / "source"
    if not source.is_dir():
        make("mini-mosi", source, format="mmsa", size=200)
    os.environ["ALIGNMAMBA2_DATA"] = str(folder)
    (file,) = (p for p in source.rglob("*") if p.is_file())
    return _values(load_dataset("mosi", root=file))


def features(folder: Path) -> str:
    """The cache of an encoder's tokens."""
    parts = (torch.full((40, 96), float(i)).split(10) for i in range(400))
    tokens = cache.cached(folder, "kills", "kills", 96, parts)
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in tokens)).hexdigest()


def fetching(folder: Path) -> str:
    """`data fetch`, from a mirror, of three files."""
    mirror = folder / "source" / "kills"
    if not mirror.is_dir():
        mirror.mkdir(parents=True)
        for i in range(3):
            (mirror / f"{i}.bin").write_bytes(random.Random(i).randbytes(1 << 24))
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(mirror.iterdir())}
    os.environ["ALIGNMAMBA2_MIRROR"] = str(mirror.parent)
    here = Source("kills", "https://example.org/", hashes).fetch(folder, progress=False)
    for name, digest in hashes.items():
        if hashlib.sha256((here / name).read_bytes()).hexdigest() != digest:
            raise AssertionError(f"{name}: taken for good, and is not")
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def reproduction(folder: Path) -> str:
    """`reproduce`, of two runs: all that the runs' files say but how long they took."""
    only = ("late-lstm", "mamba")
    reproduce(["mini-mosi"], [1], folder=folder / "runs", fast=True, only=only, progress=False, say=lambda _: None)
    records = [read_json(p) for p in sorted(folder.rglob("runs/mini-mosi/*.json"))]
    if len(records) != len(only):
        raise AssertionError(f"{len(records)} runs have a file; expected {len(only)}")
    for record in records:
        del record["seconds"]
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


SUBJECTS: dict[str, Subject] = {f.__name__: f for f in (training, conversion, features, fetching, reproduction)}


def survived(subject: Subject, kills: int, draw: random.Random) -> dict[str, float]:
    """Kills made, and those after which the next run ended with the same bits as one that was left alone."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"

        def emptied() -> None:
            """Nothing but what the subject reads."""
            for path in folder.iterdir():
                if path.name != "source":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

        folder.mkdir()
        _forked(subject, folder)  # compiles what is compiled once, and makes the source
        emptied()
        started = time.perf_counter()
        expected = _forked(subject, folder)
        seconds = time.perf_counter() - started
        made = same = left = 0
        while made < kills:
            emptied()
            if _forked(subject, folder, kill_after=draw.uniform(0, seconds)) is not None:
                continue  # it was done before
            made += 1
            same += _forked(subject, folder) == expected
            left += any(folder.rglob(FILE))
    return {"kills": made, "same_bits_after": same, "unfinished_left": left, "seconds_alone": round(seconds, 2)}


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress kills", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all if left out")
    parser.add_argument("--kills", type=int, default=20, help="of each (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/kills.json"))
    arguments = parser.parse_args(argv)
    for name in arguments.subjects:
        if name not in SUBJECTS:
            raise ValueError(f"subject: found {name!r}; expected one of {', '.join(SUBJECTS)}")
    words, bad = " ".join(["python -m tests.stress kills", *argv]), []
    print(f"{'':12s}{'kills':>8s}{'same bits after':>18s}{'unfinished left':>18s}")
    for name in arguments.subjects or SUBJECTS:
        tally = survived(SUBJECTS[name], arguments.kills, random.Random(f"{arguments.seed} {name}"))
        print(f"{name:12s}{tally['kills']:8d}{tally['same_bits_after']:18d}{tally['unfinished_left']:18d}", flush=True)
        keep(arguments.results, {name: tally}, words)
        if tally["same_bits_after"] != tally["kills"] or tally["unfinished_left"]:
            bad.append(name)
    print(f"written: {arguments.results}")
    if bad:
        raise ValueError(f"not every kill was survived: {', '.join(bad)}")


def _forked(subject: Subject, folder: Path, kill_after: float | None = None) -> str | None:
    """What the subject returns in a process of its own; None if that was killed before its end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, subject(folder).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(read) as pipe:
        digest = pipe.read()
    _, status = os.waitpid(pid, 0)
    if kill_after is None and status:
        raise ValueError(f"{subject.__name__}: the run that was left alone failed, status {status}")
    return digest if status == 0 else None


def _values(splits: dict[str, Dataset]) -> str:
    digest = hashlib.sha256()
    for name, dataset in splits.items():
        for sample in dataset.samples:
            digest.update(f"{name} {sample.id} {float(np.asarray(sample.label).ravel()[0])}".encode())
            for m, x in sample.features.items():
                digest.update(m.encode() + x.contiguous().numpy().tobytes())
    return digest.hexdigest()
