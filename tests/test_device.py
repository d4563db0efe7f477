"""Whole training steps on a device that is none: how often the host waits for it, and what is made there."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignmamba2 import AlignMamba2, AlignMamba2Config, MultimodalBatch
from alignmamba2.alignment import sinkhorn
from alignmamba2.gpu import host
from alignmamba2.training.loop import Loop

from .conftest import WIDTHS, make_samples
from .fake_device import DEVICE, FakeDevice, There

LENGTHS = [(5, 7, 3), (1, 4, 9), (6, 0, 2), (3, 3, 3)]
SMALL = {"task": "classification", "d_model": 16, "d_state": 4, "n_layers": 2, "lambda_ot": 0.1, "lambda_mmd": 0.1}
CHANGES = [
    {},
    {"transport": "unbalanced", "align_after": 1, "direction": "both", "readout": "last", "shuffle": ["audio"]},
    {"task": "regression", "readout": "attention", "ffn": 1.0, "modality_dropout": 0.3, "positions": "sinusoidal"},
    {
        "readout": "anchor",
        "transport": "relaxed",
        "mmd_estimator": "unbiased",
        "routing": "gated",
        "shortcut": ["text"],
    },
    {"window": 0.3, "share_ot": 0.1, "share_mmd": 0.1, "order": "concat", "negatives": 1, "bandwidth": 2.0},
]


def training(config: dict, device: torch.device, batch: MultimodalBatch) -> SimpleNamespace:
    """As much of a `Loop` as a step needs."""
    torch.manual_seed(0)
    model = AlignMamba2(AlignMamba2Config(modalities=WIDTHS, dropout=0.0, **{**SMALL, **config})).to(device).train()
    accelerator = SimpleNamespace(device=device, backward=lambda loss: loss.backward())
    accelerator.no_sync = lambda _: contextlib.nullcontext()
    loop = SimpleNamespace(model=model, shared=model, accelerator=accelerator, epoch=0, train=range(1000), place="")
    loop.config = SimpleNamespace(batch_size=len(batch), grad_clip=1.0)
    loop.machines = SimpleNamespace(accumulate=1)
    loop.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loop.schedule = SimpleNamespace(step=lambda: None)
    return loop


def step(loop: SimpleNamespace, batch: MultimodalBatch, i: int) -> dict[str, float]:
    losses = Loop.backward(loop, batch, i, 0)
    Loop.update(loop)
    return losses


class Arrived:
    """A CUDA event that has happened."""

    def record(self) -> None: ...

    def query(self) -> bool:
        return True


@pytest.fixture
def late(monkeypatch):
    """The device's flags are read late, as CUDA's are; a copy has arrived when it is next asked for."""
    monkeypatch.setattr(host, "LATE", {DEVICE.type})
    monkeypatch.setattr(torch.cuda, "Event", Arrived)


@pytest.fixture
def batch():
    return MultimodalBatch.from_samples(make_samples(LENGTHS))


def labelled(batch: MultimodalBatch, config: dict) -> MultimodalBatch:
    if config.get("task") == "regression":
        return MultimodalBatch(batch.features, batch.masks, batch.labels.float())
    return batch


@pytest.mark.usefixtures("late")
@pytest.mark.filterwarnings("ignore:selective_scan on CUDA")
@pytest.mark.parametrize("config", CHANGES)
def test_a_step_looks_at_the_device_at_most_three_times_and_trains_as_on_a_processor(config, batch, monkeypatch):
    monkeypatch.setattr("alignmamba2.cpu.obstacle", lambda: ("off, to compare with the device", ""))
    batch = labelled(batch, config)
    here = training(config, torch.device("cpu"), batch)
    expected = [step(here, batch, i) for i in range(3)]
    with FakeDevice() as device:
        there = training(config, DEVICE, batch)
        for i in range(3):
            device.looks.clear()
            found = step(there, batch, i)
            assert sum(device.looks.values()) <= (3 if i == 0 else 2), device.looks
            for name, value in expected[i].items():
                assert found[name] == pytest.approx(value, rel=2e-3, abs=2e-4), (i, name)


@pytest.mark.usefixtures("late")
def test_a_gate_over_experts_looks_once_per_layer_more(batch):
    with FakeDevice() as device:
        loop = training({"ffn": 1.0, "ffn_routing": "gated"}, DEVICE, batch)
        step(loop, batch, 0)
        device.looks.clear()
        step(loop, batch, 1)
        assert sum(device.looks.values()) == 2 + 2


def test_a_loss_that_is_no_number_is_still_found(batch):
    with FakeDevice():
        loop = training({}, DEVICE, batch)
        with torch.no_grad():
            loop.model.head.weight.copy_(torch.full(loop.model.head.weight.shape, torch.nan))
        with pytest.raises(ValueError, match=r"epoch 0, step 0, samples .* no finite number .*task nan"):
            step(loop, batch, 0)


class NoFloat64(TorchDispatchMode):
    """Refuses to make a float64 tensor on the device, as Apple's does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for x in tree_leaves(results):
            if isinstance(x, There) and x.dtype == torch.float64:
                raise TypeError(f"{func}: float64 on the device")
        return results


@pytest.mark.parametrize("config", CHANGES)
def test_no_float64_on_the_way_of_a_model(config, batch):
    batch = labelled(batch, config)
    with FakeDevice(), NoFloat64():
        loop = training(config, DEVICE, batch)
        step(loop, batch, 0)
        loop.model.eval()
        loop.model.aligning = True
        assert torch.isfinite(torch.tensor(float(loop.model(batch.to(DEVICE)).loss.detach())))
        with pytest.raises(TypeError, match="float64 on the device"):
            loop.model.head.weight.double()


def test_two_devices_are_not_mixed(batch):
    with FakeDevice(), pytest.raises(RuntimeError, match="two devices"):
        training({}, DEVICE, batch).model(batch)


def test_sinkhorn_reads_its_convergence_late_and_stays_right(late):
    torch.manual_seed(0)
    cost, a = torch.rand(3, 5, 4), torch.full((3, 5), 0.2)
    b, epsilon = torch.full((3, 4), 0.25), torch.full((3,), 0.05)
    limits = {"tolerance": 1e-4, "max_iterations": 500}
    expected = sinkhorn.solve_log_domain(cost, a, b, epsilon, **limits)
    with FakeDevice() as device:
        found = sinkhorn.solve_log_domain(*(x.to(DEVICE) for x in (cost, a, b, epsilon)), **limits)
        assert not device.looks
        torch.testing.assert_close(found.plan.here, expected.plan)
        assert torch.equal(found.iterations.here, expected.iterations)
