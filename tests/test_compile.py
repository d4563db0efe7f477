"""`torch.compile`: the same model, and the setting that trains through it."""

import copy
import json

import pytest
import torch
from torch._dynamo.utils import counters
from torch._functorch import config as functorch

from alignmamba2 import AlignMamba2, AlignMamba2Config, MultimodalBatch
from alignmamba2.__main__ import main
from alignmamba2.training import Machines
from alignmamba2.training.environment import no_compiler

WIDTHS = {"text": 11, "audio": 5, "video": 7}


@pytest.fixture
def compiler():
    torch.compiler.reset()
    counters.clear()
    if why := no_compiler():
        pytest.skip(f"torch.compile: {why}")
    yield
    torch.compiler.reset()


def batch_of(steps: int, size: int, names=tuple(WIDTHS)) -> MultimodalBatch:
    """Ragged; the first sample has text alone."""
    draw = torch.Generator().manual_seed(steps)
    features, masks = {}, {}
    for i, m in enumerate(names):
        features[m] = torch.randn(size, steps + i, WIDTHS[m], generator=draw)
        lengths = torch.randint(steps // 2, steps + i + 1, (size, 1), generator=draw)
        masks[m] = torch.arange(steps + i) < lengths
        masks[m][0] &= m == "text"
    return MultimodalBatch(features, masks, torch.randn(size, generator=draw))


def models(**settings) -> tuple[AlignMamba2, AlignMamba2]:
    """One twice: as it is, and to be compiled in place."""
    functorch.donated_buffer = False  # as `fit` has it
    torch.manual_seed(0)
    known = {"d_model": 16, "d_state": 4, "n_layers": 1, "dropout": 0.0, "lambda_ot": 0.1, "lambda_mmd": 0.1}
    plain = AlignMamba2(AlignMamba2Config(modalities=WIDTHS, task="regression", **(known | settings)))
    return plain, copy.deepcopy(plain)


def assert_alike(plain: AlignMamba2, compiled: AlignMamba2, batch: MultimodalBatch) -> None:
    outputs, gradients = [], []
    for model in (plain, compiled):
        outputs.append(model(batch))
        found = torch.autograd.grad(outputs[-1].loss, list(model.parameters()), allow_unused=True)
        gradients.append([torch.zeros(()) if g is None else g for g in found])
    assert set(outputs[0].losses) == set(outputs[1].losses)
    torch.testing.assert_close(outputs[1].prediction, outputs[0].prediction)
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
    for found, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_model_equals_itself(compiler):
    plain, compiled = models()
    compiled.compile(dynamic=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert_alike(plain, compiled, batch_of(26, 6))
    with torch.no_grad():
        compiled.eval(), plain.eval()
        torch.testing.assert_close(compiled(batch_of(26, 6)).prediction, plain(batch_of(26, 6)).prediction)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"n_layers": 2, "ffn": 1.0, "ffn_routing": "gated"}, {"direction": "both", "routing": "gated", "readout": "last"}],
)
def test_graphs_serve_batches_of_every_length_and_all_layers(compiler, change):
    """By the graphs alone, run by PyTorch's own operators. No two sizes are equal, or PyTorch takes them for one."""
    plain, compiled = models(**change)
    compiled.compile(dynamic=True, backend="aot_eager")
    assert_alike(plain, compiled, batch_of(26, 6))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs <= 4 + ("ffn" in change)  # projections, a layer, readout; the dropout behind an FFN
    for steps, size in ((37, 9), (45, 10)):
        assert_alike(plain, compiled, batch_of(steps, size))
    assert counters["stats"]["unique_graphs"] == graphs
    assert_alike(plain, compiled, batch_of(29, 6, ("text", "video")))  # a modality is missing from the whole batch
    compiled.align.warmth = plain.align.warmth = 0.5
    graphs = counters["stats"]["unique_graphs"]
    assert_alike(plain, compiled, batch_of(29, 6, ("text", "video")))
    assert counters["stats"]["unique_graphs"] == graphs


def test_the_setting_reaches_the_trainer(compiler, tmp_path, monkeypatch):
    compiled = []

    def spied(call, **options):
        compiled.append(options)
        return call

    monkeypatch.setattr(torch, "compile", spied)
    command = ["train", "mini-mosi", "--seeds", "1", "--fast", "--quiet", "--folder", str(tmp_path)]
    command += ["--results", str(tmp_path / "results.json")]
    command += [x for name in ("d_model=8", "n_layers=1", "d_state=2") for x in ("--set", f"model.{name}")]
    assert main(command) == 0
    assert compiled == []
    before = json.loads((tmp_path / "results.json").read_text())["results"]["mini-mosi"]["test"]
    assert main([*command, "--compile"]) == 1  # another run than the one in the folder
    assert compiled == []
    assert main([*command, "--compile", "--overwrite"]) == 0
    assert compiled == [{"dynamic": True}]
    assert json.loads((tmp_path / "results.json").read_text())["results"]["mini-mosi"]["test"] == before
    assert Machines(compile=True).identity() != Machines().identity()  # an unfinished run goes on as it began


def test_without_a_compiler_it_says_so_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")  # PyTorch's own setting
    assert main(["train", "mini-mosi", "--compile"]) == 1
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("error: compile: found no C++ compiler")
    assert "apt install g++" in captured.err
    assert "apt install g++" in captured.out
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
