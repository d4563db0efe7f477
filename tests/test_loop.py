"""The loop: who is told what and when, parts of a batch, trackers, devices, and Lightning in its place."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from alignmamba2 import fit, load_dataset
from alignmamba2.recipes import Recipe
from alignmamba2.training import Machines, build, evaluate, loader

SMALL = {"model.d_model": 8, "model.d_state": 2, "model.n_layers": 1, "model.dropout": 0.0}
SMALL |= {"training.max_epochs": 2, "training.batch_size": 16, "model.lambda_ot": 1.0, "model.lambda_mmd": 0.1}


@pytest.fixture(scope="module")
def splits():
    """mini-mosi, cut short: the last batch of three has 8 samples."""
    return {k: dataclasses.replace(d, samples=d.samples[:40]) for k, d in load_dataset("mini-mosi").items()}


def train(splits, **options):
    overrides = {**SMALL, **options.pop("overrides", {})}
    return fit("mini-mosi", datasets=splits, overrides=overrides, progress=False, **options)


@pytest.fixture(scope="module")
def plain(splits):
    return train(splits)


class Log:
    def __init__(self):
        self.events, self.rows = [], []

    def on_start(self, model, epochs):
        self.events.append(("start", epochs))
        self.model = model

    def on_step(self, row):
        self.events.append((row["epoch"], row["step"]))
        assert {"loss", "task", "ot", "mmd"} <= set(row)

    def on_epoch(self, row):
        self.events.append(("epoch", row["epoch"]))
        self.rows.append(row)


def test_callbacks_hear_of_the_start_each_step_and_each_epoch(splits, plain):
    log = Log()
    result = train(splits, callbacks=[log], overrides={"training.refit": True})
    steps = [[(epoch, step) for step in range(3)] + [("epoch", epoch)] for epoch in range(2)]
    assert log.events == [("start", 2), *steps[0], *steps[1]]  # and nothing of the refit
    assert log.rows == result.history == plain.history


def test_a_callback_needs_one_method_alone_and_one_it_does_need(splits):
    class Steps:
        losses: list[float] = []  # noqa: RUF012

        def on_step(self, row):
            self.losses.append(row["loss"])

    train(splits, callbacks=[Steps()])
    assert len(Steps.losses) == 6
    with pytest.raises(ValueError, match=r"callbacks: found .* expected an object with some of on_start, on_step"):
        train(splits, callbacks=[object()])


def test_parts_of_a_batch_add_up_to_its_step(splits, plain):
    """The last batch has 8 samples, so that of 5 parts not all are equally large; and of 16 parts, 8 are empty."""
    for parts in (2, 5, 16):
        result = train(splits, accumulate=parts)
        for row, expected in zip(result.history, plain.history, strict=True):  # shares are measured on a part alone
            same = {name for name in row if "share" not in name}
            assert {name: row[name] for name in same} == pytest.approx(
                {n: expected[n] for n in same}, rel=1e-3, abs=1e-5
            )
        for name, x in result.model.state_dict().items():
            torch.testing.assert_close(x, plain.model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_the_last_steps_are_averaged_and_a_stop_changes_nothing(splits, tmp_path):
    """Six steps, the last four of them averaged: from the last of the first epoch on."""

    class Weights:
        def on_start(self, model, epochs):
            self.model, self.steps = model, []

        def on_step(self, row):
            self.steps.append([p.detach().clone() for p in self.model.parameters()])

    class Stop:
        def on_epoch(self, row):
            raise KeyboardInterrupt

    overrides = {"training.average": 4 / 6, "training.monitor": "epoch"}
    weights = Weights()
    result = train(splits, overrides=overrides, callbacks=[weights])
    for p, *steps in zip(result.model.parameters(), *weights.steps[2:], strict=True):
        torch.testing.assert_close(p.detach(), torch.stack(steps).mean(0), rtol=1e-5, atol=1e-6)
    assert evaluate(result.model, splits["valid"])["mae"] == pytest.approx(result.history[-1]["valid/mae"], rel=1e-5)
    with pytest.raises(KeyboardInterrupt):
        train(splits, overrides=overrides, folder=tmp_path, callbacks=[Stop()])
    resumed = train(splits, overrides=overrides, folder=tmp_path)
    assert resumed.history == result.history
    for name, x in resumed.model.state_dict().items():
        assert torch.equal(x, result.model.state_dict()[name])


def test_a_refit_for_a_number_of_epochs_chosen_before_is_the_only_training(splits):
    log = Log()
    change = {"training.refit": True, "training.monitor": "epoch"}
    result = train(splits, overrides=change, callbacks=[log])
    size = len(splits["train"]) + len(splits["valid"])
    assert log.events.count(("start", 2)) == 1
    assert sum(isinstance(event[0], int) for event in log.events) == 2 * -(-size // 16)  # steps of both splits
    assert result.history == log.rows
    assert result.best_epoch == 1
    assert not any(name.startswith("valid/") for row in result.history for name in row)


def test_a_refit_is_averaged_too(splits):
    change = {"training.average": 0.5, "training.refit": True}
    averaged, last = (train(splits, overrides={**change, "training.average": x}).model for x in (0.5, 0.0))
    assert not torch.equal(averaged.head.weight, last.head.weight)


def test_workers_read_the_same_batches(splits, plain):
    result = train(splits, num_workers=1)
    assert result.history == plain.history


def test_a_csv_tracker_writes_the_history(splits, tmp_path):
    result = train(splits, folder=tmp_path, trackers=["csv"])
    with (tmp_path / "history.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == result.history


def test_a_tracker_has_the_epochs_before_a_stop_too(splits, tmp_path):
    class Stop:
        def on_epoch(self, row):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(splits, folder=tmp_path, trackers=["csv"], callbacks=[Stop()])
    result = train(splits, folder=tmp_path, trackers=["csv"])
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + len(result.history) == 3


def test_measured_weights_go_on_where_a_run_was_stopped(splits, tmp_path):
    class Stop:
        def on_epoch(self, row):
            raise KeyboardInterrupt

    overrides = {"model.share_ot": 0.1, "model.share_mmd": 0.2, "model.dropout": 0.5, "training.max_epochs": 8}
    options = {"overrides": overrides, "accumulate": 2}
    whole = train(splits, **options)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(splits, folder=tmp_path, callbacks=[Stop()], **options)
    resumed = train(splits, folder=tmp_path, **options)
    assert resumed.history == whole.history
    assert all(torch.equal(x, whole.model.state_dict()[name]) for name, x in resumed.model.state_dict().items())
    for name, share in (("ot", 0.1), ("mmd", 0.2)):
        reached = [row[f"train/share/{name}"] for row in whole.history]
        assert reached[0] == pytest.approx(share, rel=1e-3)
        assert all(share / 2 < value < 2 * share for value in reached)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accelerator": "tpu"}, "accelerator: found 'tpu'; expected one of auto, cpu, gpu, mps"),
        ({"devices": 0}, "devices: found 0; expected a whole number of at least 1"),
        ({"devices": "all"}, "devices: found 'all'"),
        ({"accumulate": 0}, "accumulate: found 0; expected a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers: found -1"),
        ({"precision": "16-mixed"}, "precision: found '16-mixed'; expected one of 32-true, bf16-mixed"),
        ({"trackers": ["diary"]}, "trackers: found 'diary', which is unknown; expected some of csv"),
        ({"trackers": ["csv"]}, "trackers: found csv without a folder"),
    ],
)
def test_options_that_are_none_are_named(splits, options, says):
    with pytest.raises(ValueError, match=says):
        train(splits, **options)


@pytest.mark.parametrize("kind", ["gpu", "mps"])
def test_a_device_that_is_not_here_is_named(kind):
    if {"gpu": torch.cuda.is_available, "mps": torch.backends.mps.is_available}[kind]():
        pytest.skip(f"there is a device of kind {kind}")
    with pytest.raises(ValueError, match=f"accelerator: found '{kind}', which PyTorch does not see"):
        Machines(accelerator=kind)


def test_devices_change_the_identity_of_a_run_and_workers_do_not():
    assert Machines().identity() == {"processes": 1}
    assert Machines(devices=2, accumulate=3).identity() == {"processes": 2, "accumulate": 3}
    assert Machines(num_workers=2, accelerator="cpu").identity() == {"processes": 1}


def test_two_processes_stop_together(splits, tmp_path):
    """One of them meets a NaN; both end, the error names the sample, and the state of the last epoch is kept."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom alignmamba2 import fit\nfrom alignmamba2.training.machines import process\n"
        "class Poison:\n"
        "    def on_start(self, model, epochs): self.model = model\n"
        "    def on_epoch(self, row):\n"
        "        if process()[0] == 1: self.model.head.bias.data.fill_(float('nan'))\n"
        "fit('mini-mosi', overrides={'model.d_model': 8, 'model.n_layers': 1, 'training.batch_size': 107},\n"
        "    folder=sys.argv[1], devices=2, callbacks=[Poison()], progress=False)\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("TrainingError: epoch 1, step 0, samples ") == 2 * done.stderr.count("holds the run as it")
    assert (tmp_path / "run" / "unfinished.safetensors").is_file()


def test_two_processes_agree_on_measured_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom alignmamba2 import fit\n"
        "from alignmamba2.training.machines import process\n"
        "class State:\n"
        "    def on_start(self, model, epochs): self.model = model\n"
        "    def on_epoch(self, row):\n"
        "        with (Path(sys.argv[1]) / f'process-{process()[0]}').open('a') as file:\n"
        "            print(sorted(self.model.align.state.items()), file=file)\n"
        "shares = {'model.share_ot': 0.1, 'model.share_mmd': 0.1}\n"
        "fit('mini-mosi', overrides={'model.d_model': 8, 'training.batch_size': 107, **shares},\n"
        "    fast=True, devices=2, callbacks=[State()], progress=False)\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path.joinpath(f"process-{i}").read_text().splitlines() for i in range(2))
    assert len(first) == 2
    assert first == second
    assert "share/ot" in first[0]


def test_lightning_takes_the_same_steps(splits, plain):
    L = pytest.importorskip("lightning")
    from alignmamba2.training.lightning import AlignMambaModule

    recipe = Recipe.load("mini-mosi", SMALL)
    torch.manual_seed(0)
    module = AlignMambaModule(build(recipe, splits["train"]), recipe.training)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.training.grad_clip,
    )
    batches = loader(splits["train"], 16, torch.Generator().manual_seed(0))
    trainer.fit(module, batches, loader(splits["valid"], 16))
    for name in ("train/loss", "train/ot", "valid/loss", "valid/accuracy"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(plain.history[-1][name], rel=1e-4)
