"""How much longer does a training take where other programs compute, too?

A recipe is trained for one epoch in a process of its own, with a thread per core: on the quiet machine, and beside one
process per core that counts without end, which leaves it half of the machine. Each as PyTorch comes, whose threads spin
while they wait for each other, and with threads that sleep (OMP_WAIT_POLICY=passive), as `python -m alignmamba2` has
them. The order is turned in each repetition; what is told is the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from alignmamba2.datasets import is_present
from alignmamba2.recipes import Recipe
from tools.results_file import keep

RECIPES = ("mini-mosi", "mosi-standard")
ONE_EPOCH = {"training.max_epochs": 1, "training.refit": False, "training.start": ""}
WAITING = {"spinning": None, "sleeping": "passive"}


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks busy", description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("results/bench-busy.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(_seconds(arguments.one))
        return
    rows = {}
    for name in filter(lambda name: is_present(Recipe.load(name).dataset), arguments.recipes):
        times: dict[tuple[str, str], list[float]] = {(w, m): [] for w in WAITING for m in ("quiet", "busy")}
        for turn in range(arguments.repeats):
            for waiting, machine in list(times)[:: -1 if turn % 2 else 1]:
                with _neighbours(os.cpu_count() if machine == "busy" else 0):
                    times[waiting, machine].append(_in_a_process(name, WAITING[waiting]))
        rows[name] = {f"{w}, {m}": {"seconds": statistics.median(t), "of": t} for (w, m), t in times.items()}
        for waiting in WAITING:
            quiet, busy = (rows[name][f"{waiting}, {machine}"]["seconds"] for machine in ("quiet", "busy"))
            print(f"{name}, threads {waiting}: {quiet:.1f} s quiet, {busy:.1f} s busy, {busy / quiet:.1f} times")
    command = " ".join(["python -m benchmarks busy", *argv])
    print(f"written: {keep(arguments.results, {'busy': {'cores': os.cpu_count(), 'recipes': rows}}, command)}")


def _seconds(name: str) -> float:
    """Seconds of one epoch after another has been run, so that kernels are compiled and frozen states are there."""
    from alignmamba2.datasets import load_dataset
    from alignmamba2.training import fit

    recipe = Recipe.load(name, ONE_EPOCH)
    datasets = load_dataset(recipe.dataset, **recipe.data)
    warm = {split: replace(d, samples=[d[i] for i in range(64)]) for split, d in datasets.items()}
    fit(recipe, datasets=warm, progress=False)
    started = time.perf_counter()
    fit(recipe, datasets=datasets, progress=False)
    return time.perf_counter() - started


def _in_a_process(name: str, policy: str | None) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    command = [sys.executable, "-m", "benchmarks", "busy", "--one", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} did not train: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


@contextmanager
def _neighbours(number: int | None) -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number or 0)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()
