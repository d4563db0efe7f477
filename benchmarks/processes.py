"""Do two processes that train together follow the loss curve of one?

The same recipe, seed and data (mini-mosi, synthetic; a number of samples that no batch divides; no dropout, which each
process draws for itself) with one process and with two (PyTorch's DDP over gloo, on one machine). The results hold both
curves, the largest relative difference between them, and between the weights that they end with.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from alignmamba2.datasets import load_dataset
from alignmamba2.storage.files import read_json, read_tensors, write_json, write_tensors
from alignmamba2.training import fit
from alignmamba2.training.machines import process
from tools.results_file import keep

RECIPE = {"model.d_model": 8, "model.d_state": 2, "model.n_layers": 1, "model.dropout": 0.0}
RECIPE |= {"training.batch_size": 16}


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks processes", description=__doc__)
    parser.add_argument("--samples", type=int, default=41, help="of each split (default: 41)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--results", type=Path, default=Path("results/processes.json"))
    parser.add_argument("--one-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one_of:
        _train(arguments)
        return
    curves, weights = {}, {}
    with tempfile.TemporaryDirectory(prefix="processes-") as scratch:
        for n in (1, 2):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
            command += ["-m", "benchmarks", "processes", "--one-of", str(n), "--folder", scratch]
            command += ["--samples", str(arguments.samples), "--epochs", str(arguments.epochs)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise ValueError(f"{n} processes did not train: {done.stderr[-2000:]}")
            curves[n] = read_json(Path(scratch) / f"{n}.json")["loss"]
            weights[n], _ = read_tensors(Path(scratch) / f"{n}.safetensors")
    apart = max(abs(a - b) / abs(a) for a, b in zip(curves[1], curves[2], strict=True))
    moved = max(float((weights[1][k] - x).abs().max() / weights[1][k].abs().max()) for k, x in weights[2].items())
    measured = {"loss_one_process": curves[1], "loss_two_processes": curves[2]}
    measured |= {"largest_relative_difference": apart, "of_weights": moved, "samples": arguments.samples, **RECIPE}
    print(f"loss, one process:   {' '.join(f'{x:.7f}' for x in curves[1])}")
    print(f"loss, two processes: {' '.join(f'{x:.7f}' for x in curves[2])}")
    print(f"largest relative difference: of the loss {apart:.1e}, of the weights {moved:.1e}")
    words = " ".join(["python -m benchmarks processes", *argv])
    print(f"written: {keep(arguments.results, {'mini-mosi, synthetic': measured}, words)}")


def _train(arguments: argparse.Namespace) -> None:
    data = {
        split: dataclasses.replace(d, samples=d.samples[: arguments.samples])
        for split, d in load_dataset("mini-mosi").items()
    }
    change = {**RECIPE, "training.max_epochs": arguments.epochs}
    result = fit("mini-mosi", datasets=data, overrides=change, progress=False, devices=arguments.one_of)
    if process()[0] == 0:
        write_json(arguments.folder / f"{arguments.one_of}.json", {"loss": [r["train/loss"] for r in result.history]})
        state = {k: x for k, x in result.model.state_dict().items() if x.is_floating_point() and torch.any(x != 0)}
        write_tensors(arguments.folder / f"{arguments.one_of}.safetensors", state)
