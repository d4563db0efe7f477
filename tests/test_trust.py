"""What happens when things go wrong: stopped runs, damaged files, full disks, numbers that are none."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignmamba2 import AlignMamba2, AlignMamba2Config, evaluate, fit, load_dataset
from alignmamba2.batch import BatchError, MultimodalBatch
from alignmamba2.datasets import DataError
from alignmamba2.datasets.base import without_nonfinite
from alignmamba2.storage.files import FileError, read_tensors, whole, write_tensors, write_text
from alignmamba2.training import TrainingError
from alignmamba2.training.checkpoint import FILE, Checkpoint, CheckpointError
from tests.stress.kills import SUBJECTS

from .conftest import make_samples

SMALL = {"model.d_model": 8, "model.d_state": 2, "model.n_layers": 1, "training.max_epochs": 3}
SMALL |= {"training.batch_size": 16}
FIXTURE = Path(__file__).parent / "fixtures" / "model-0.1.0"


@pytest.fixture(scope="module")
def splits():
    """mini-mosi, cut short."""
    return {k: dataclasses.replace(d, samples=d.samples[:40]) for k, d in load_dataset("mini-mosi").items()}


def train(splits, **options):
    overrides = {**SMALL, **options.pop("overrides", {})}
    return fit("mini-mosi", datasets=splits, overrides=overrides, progress=False, **options)


class Stopped(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch):
    """Training stops as soon as its n-th checkpoint is written."""

    def stop(n: int) -> None:
        written = []

        def write(checkpoint, state):
            real(checkpoint, state)
            written.append(state)
            if len(written) == n:
                raise Stopped

        monkeypatch.setattr(Checkpoint, "write", write)

    real = Checkpoint.write
    return stop


# Stopped and gone on


@pytest.mark.parametrize("at", [1, 3, 5])  # an early epoch, the last one, one of the refit
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(splits, stop_after, monkeypatch, tmp_path, at):
    change = {"training.refit": True, "training.alignment_warmup": 0.9, "model.modality_dropout": 0.2}
    change |= {"model.swap": {"audio": 0.3}}
    straight = train(splits, overrides=change)
    stop_after(at)
    try:
        train(splits, overrides=change, folder=tmp_path)
    except Stopped:
        assert (tmp_path / FILE).is_file()
    else:
        pytest.skip("the best epoch came so early that the refit had no such epoch")
    monkeypatch.undo()
    torch.rand(7)  # whatever was drawn in between does not matter
    resumed = train(splits, overrides=change, folder=tmp_path)
    assert resumed.history == straight.history
    weights = straight.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in resumed.model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "training.json"]


def test_an_unfinished_run_of_something_else_is_refused_by_name(splits, stop_after, monkeypatch, tmp_path):
    stop_after(1)
    with pytest.raises(Stopped):
        train(splits, folder=tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"recipe\.training\.learning_rate was 0.0\d+, is 0\.5"):
        train(splits, folder=tmp_path, overrides={"training.learning_rate": 0.5})
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        train(splits, folder=tmp_path, seed=1)
    other = {**splits, "train": dataclasses.replace(splits["train"], samples=splits["train"].samples[:39])}
    with pytest.raises(CheckpointError, match=r"data\.train\.samples was 40, is 39"):
        train(other, folder=tmp_path)
    for part, split, change in (
        ("labels", "train", lambda s: dataclasses.replace(s, label=-s.label)),
        ("audio", "valid", lambda s: dataclasses.replace(s, features={**s.features, "audio": s.features["audio"] + 1})),
        ("order", "valid", lambda s: dataclasses.replace(s, id=f"another {s.id}")),
    ):
        other = {**splits, split: dataclasses.replace(splits[split], samples=[change(s) for s in splits[split]])}
        with pytest.raises(CheckpointError, match=rf"another one: data\.{split}\.{part} was '\w+', is '\w+'\. "):
            train(other, folder=tmp_path)
    swapped = {**splits, "train": dataclasses.replace(splits["train"], samples=splits["train"].samples[::-1])}
    with pytest.raises(CheckpointError, match=r"data\.train\.order was"):
        train(swapped, folder=tmp_path)
    assert len(train(splits, folder=tmp_path, seed=1, resume=False).history) == 3


def test_killed_at_random_moments():
    """`tests.stress.kills` in small: the whole of it is a command."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    command = [sys.executable, "-m", "tests.stress", "kills", "--kills", "1", "--results", os.devnull + "x"]
    command[-1] = str(Path(os.environ.get("TMPDIR", "/tmp")) / f"kills-{os.getpid()}.json")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(Path(command[-1]).read_text())
    Path(command[-1]).unlink()
    assert {name: r["results"]["same_bits_after"] for name, r in found.items()} == dict.fromkeys(
        ("training", "conversion", "features", "fetching", "reproduction"), 1
    )


# Files


def test_a_damaged_checkpoint_is_never_taken_for_good(splits, stop_after, monkeypatch, tmp_path):
    stop_after(1)
    with pytest.raises(Stopped):
        train(splits, folder=tmp_path)
    monkeypatch.undo()
    path = tmp_path / FILE
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], content[:4], b"", flipped(content, -3)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="resume=False"):
            train(splits, folder=tmp_path)
    newer = content.replace(b'"version":"2"', b'"version":"3"', 1)
    assert newer != content
    path.write_bytes(newer)
    with pytest.raises(CheckpointError):
        train(splits, folder=tmp_path)


def flipped(content: bytes, at: int) -> bytes:
    data = bytearray(content)
    data[at] ^= 1
    return bytes(data)


def test_a_checkpoint_of_the_future_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.write({"epochs": 1})
    tensors, notes = read_tensors(checkpoint.path)
    write_tensors(checkpoint.path, tensors, {**notes, "version": "3"})
    with pytest.raises(CheckpointError, match="format 3, from a newer alignmamba2"):
        checkpoint.read()


def test_every_flipped_bit_of_a_model_is_found(tmp_path):
    small = AlignMamba2Config({"text": 2}, d_model=4, n_layers=1, d_state=2)
    AlignMamba2(small).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for at in range(8, len(content), 97):
        path.write_bytes(flipped(content, at))
        with pytest.raises(ValueError, match=r"model\.safetensors|config\.json"):
            AlignMamba2.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"from_the_future": 1}, r"unknown keys \['from_the_future'\]"),
        ({"d_model": 10**12}, "d_model: found 1000000000000"),
        ({"n_layers": 10**9}, "n_layers: found 1000000000"),
        ({"n_layers": 20_000}, "n_layers: found 20000"),
        ({"modalities": json.loads("[" * 40 + "]" * 40)}, "nested deeper than 32"),
        ({"d_model": 8}, "of shape"),
        ({"epsilon": 0.5}, "is not what model.safetensors was saved with"),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_refused(tmp_path, change, says):
    AlignMamba2(AlignMamba2Config({"text": 2}, d_model=4, n_layers=1)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=says):
        AlignMamba2.from_pretrained(tmp_path)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    notes = dict.fromkeys("gfedcba", "é\n")
    for name in "ab":
        write_tensors(tmp_path / name, {"y": torch.ones(3), "x": torch.zeros(2, dtype=torch.int64)}, notes)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == [*"abcdefg", "sha256"]
    assert read_tensors(tmp_path / "a")[1] == notes


@pytest.mark.parametrize("name", ["lambda_ot", "epsilon", "clip", "bandwidth", "window", "dropout", "modalities"])
def test_nan_is_no_setting_and_no_weight(tmp_path, name):
    model = AlignMamba2(AlignMamba2Config({"text": 2}, d_model=4, n_layers=1))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    sound = path.read_text()
    path.write_text(json.dumps({**json.loads(sound), name: float("nan")}))
    with pytest.raises(ValueError, match=r"config\.json: .*NaN is no setting"):
        AlignMamba2.from_pretrained(tmp_path)
    model.head.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors: head\.weight holds NaN"):
        AlignMamba2.from_pretrained(tmp_path)


def test_files_of_other_writers_have_no_checksum_and_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    tensors, notes = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert notes == {}
    write_tensors(tmp_path / "b.safetensors", {"a": torch.tensor(3.0), "b": torch.zeros(0, 2)}, {"k": "v"})
    assert set(load_file(tmp_path / "b.safetensors")) == {"a", "b"}
    assert read_tensors(tmp_path / "b.safetensors")[1] == {"k": "v"}
    (tmp_path / "c").write_bytes(b"nothing")
    with pytest.raises(FileError, match="no readable safetensors"):
        read_tensors(tmp_path / "c")


def test_an_error_or_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fails():
        with whole(path) as part:
            part.write_text("half")
            raise Stopped

    with pytest.raises(Stopped):
        fails()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    script = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from alignmamba2.storage.files import write_tensors, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for write in (lambda p: write_text(p, 'x' * 10000), lambda p: write_tensors(p, {'a': torch.ones(5000)})):\n"
        "    try: write(Path(sys.argv[1]))\n"
        "    except OSError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("a.txt: could not be written") == 2, done.stderr
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_an_error_and_with_room_it_goes_on(tmp_path):
    """Each subject of `tests.stress.kills`, with a limit on the size of files in the disk's place."""
    pytest.importorskip("resource")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.stress.kills import SUBJECTS\n"
        "for name in SUBJECTS:\n"
        "    roomy, full = (Path(sys.argv[1]) / f'{name}-{kind}' for kind in ('roomy', 'full'))\n"
        "    roomy.mkdir(); full.mkdir()\n"
        "    expected = SUBJECTS[name](roomy)\n"
        "    (roomy / 'source').rename(full / 'source') if (roomy / 'source').exists() else None\n"
        "    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))\n"
        "    try: SUBJECTS[name](full)\n"
        "    except (OSError, ValueError) as error: said = str(error)\n"
        "    else: said = 'nothing'\n"
        "    files = [p for p in full.rglob('*') if p.is_file() and 'source' not in p.parts]\n"
        "    left = [p.name for p in files if p.stat().st_size > 0]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "    print(name, SUBJECTS[name](full) == expected, left, said, sep='\\t')\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[n, "True"] for n in SUBJECTS]
    for _, _, left, said in rows:
        assert "could not be" in said
        assert "File too large" in said
        assert left in ("[]", "['hashes.json']")


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    script = "import os, sys; from pathlib import Path; from alignmamba2.storage.files import whole\n"
    script += "with whole(Path(sys.argv[1])) as part: part.write_text('half'); os.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], check=False)
    assert len(list(tmp_path.glob("a.txt.*.part"))) == 1
    write_text(tmp_path / "a.txt", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_model_of_version_0_1_0_is_read_for_ever():
    model = AlignMamba2.from_pretrained(FIXTURE)
    expected = json.loads((FIXTURE / "expected.json").read_text())
    batch = MultimodalBatch({m: torch.tensor(x) for m, x in expected["features"].items()})
    assert torch.allclose(model(batch).prediction, torch.tensor(expected["prediction"]), atol=1e-5)


def test_a_model_of_version_0_1_0_keeps_its_order_of_ties(tmp_path):
    model = AlignMamba2.from_pretrained(FIXTURE)
    assert model.config.ties == "listed"
    batch = MultimodalBatch({"text": torch.zeros(1, 2, 3), "audio": torch.zeros(1, 2, 2)})
    assert model.trace(batch).scan(0).modality == ("text", "audio", "text", "audio")
    model.save_pretrained(tmp_path)  # and does so when saved anew
    assert AlignMamba2.from_pretrained(tmp_path).config.ties == "listed"
    new = AlignMamba2(AlignMamba2Config({"text": 3, "audio": 2}))
    assert new.trace(batch).scan(0).modality == ("audio", "text", "audio", "text")


# Numbers


def test_nan_in_features_is_found_counted_named_and_dealt_with(splits):
    data = splits["train"]
    a, b = data.samples[3], data.samples[7]
    features = {**a.features, "audio": a.features["audio"].clone()}
    features["audio"][2, :2] = float("nan")
    features["audio"][4, 0] = float("inf")
    gone = {**b.features, "video": torch.full_like(b.features["video"], float("nan"))}
    samples = list(data.samples)
    samples[3], samples[7] = dataclasses.replace(a, features=features), dataclasses.replace(b, features=gone)
    bad = dataclasses.replace(data, samples=samples)
    with pytest.raises(DataError, match=rf"split 'train': .* audio: 3 in 1 samples: '{a.id}' \(3\); video: "):
        without_nonfinite(bad)
    with pytest.raises(BatchError, match=rf"'audio'.*3 NaN or infinite values in 1 samples \({a.id}\)"):
        bad.batch([3])
    with pytest.warns(UserWarning, match="the values are set to 0"):
        zeroed = without_nonfinite(bad, "zero")
    assert float(zeroed[3].features["audio"][2, 0]) == 0
    with pytest.warns(UserWarning, match="the tokens are masked"):
        masked = without_nonfinite(bad, "mask")
    batch = masked.batch([3, 7])
    assert batch.masks["audio"][0].tolist()[:6] == [True, True, False, True, False, True]
    assert not batch.masks["video"][1].any()
    assert "NaN or infinite values: mask" in masked.protocol
    assert torch.equal(masked[0].features["audio"], data[0].features["audio"])
    assert all(torch.isfinite(x).all() for pair in masked.statistics().values() for x in pair)
    # A masked token is as if it were not there; and training goes on without a NaN.
    keep = [i for i in range(len(a.features["audio"])) if i not in (2, 4)]
    short = dataclasses.replace(a, features={**a.features, "audio": a.features["audio"][keep]})
    result = train({**splits, "train": masked}, fast=True)
    alone = result.model(MultimodalBatch.from_samples([short])).prediction
    assert torch.allclose(result.model(masked.batch([3])).prediction, alone, atol=1e-6)


def test_the_recipe_chooses_the_policy():
    with pytest.raises(ValueError, match="nonfinite: found 'ignore'"):
        load_dataset("mini-mosi", nonfinite="ignore")
    assert len(load_dataset("mini-mosi", "test", nonfinite="mask"))


def test_a_sample_that_is_all_nan_cannot_be_masked_away(splits):
    lost = splits["valid"].samples[0]
    lost = dataclasses.replace(lost, features={m: x * float("nan") for m, x in lost.features.items()})
    bad = dataclasses.replace(splits["valid"], samples=[lost, *splits["valid"].samples[1:]])
    with pytest.raises(DataError, match=rf"no token is left of samples \['{lost.id}'\]"):
        without_nonfinite(bad, "mask")


def test_labels_that_are_nan_are_named():
    samples = make_samples([(2, 2, 2), (3, 1, 2)])
    samples[1] = dataclasses.replace(samples[1], label=torch.tensor(float("nan")))
    samples[0] = dataclasses.replace(samples[0], label=torch.tensor(1.0))
    with pytest.raises(BatchError, match=r"labels: 1 NaN or infinite in 1 samples \(sample-1\)"):
        MultimodalBatch.from_samples(samples)


class Poison:
    """Poison changes the model, as it comes, before a step of an epoch."""

    def __init__(self, change, epoch=0, step=0):
        self.change, self.before = change, (epoch, step)

    def on_start(self, model, epochs):
        self.model = model
        if self.before == (0, 0):
            self.change(model)

    def on_step(self, row):
        if (row["epoch"], row["step"] + 1) == self.before:
            with torch.no_grad():
                self.change(self.model)


def test_an_exploding_loss_stops_with_the_last_good_epoch_kept(splits, tmp_path):
    explosion = Poison(lambda model: model.head.weight.fill_(float("inf")), epoch=2, step=1)
    with pytest.raises(
        TrainingError, match=r"epoch 2, step 1, samples 'train-\d+', .*loss is no finite .*holds the run"
    ):
        train(splits, folder=tmp_path, callbacks=[explosion])
    tensors, _ = read_tensors(tmp_path / FILE)
    assert all(torch.isfinite(x).all() for x in tensors.values() if x.is_floating_point())
    assert train(splits, folder=tmp_path).history == train(splits).history


def test_a_validation_loss_that_is_none_names_its_samples(splits):
    last = Poison(lambda model: model.head.weight.fill_(float("inf")), epoch=0, step=3)
    with pytest.raises(TrainingError, match=r"epoch 0, validation, samples 'valid-000', .*: the loss is (nan|inf)"):
        train(splits, callbacks=[last])


def test_a_gradient_that_is_none_stops_before_it_reaches_the_weights(splits):
    poison = Poison(lambda model: model.head.weight.register_hook(lambda gradient: gradient * float("nan")))
    with pytest.raises(
        TrainingError, match=r"epoch 0, step 0, samples 'train-\d+', .*gradient's norm is nan, by 'head.weight'"
    ):
        train(splits, callbacks=[poison])
    assert poison.model.head.weight.isfinite().all()


def test_a_single_class_is_named():
    samples = [dataclasses.replace(s, label=torch.tensor(1)) for s in make_samples([(2, 2, 2)] * 6)]
    base = dataclasses.replace(load_dataset("mini-mosi", "train"), task="classification", n_classes=2)
    one = dataclasses.replace(base, samples=samples)
    two = dataclasses.replace(
        base, samples=[*samples[:3], *(dataclasses.replace(s, label=torch.tensor(0)) for s in samples[3:])]
    )
    with pytest.raises(TrainingError, match=r"split 'train': every label of its 6 samples is \[1\]"):
        train({"train": one, "valid": two})
    with pytest.warns(UserWarning, match="chosen on that one class alone"):
        result = train({"train": two, "valid": dataclasses.replace(one, split="valid")}, fast=True)
    assert 0 <= evaluate(result.model, one)["accuracy"] <= 1


def test_batches_of_one_train(splits):
    few = {k: dataclasses.replace(d, samples=d.samples[:3]) for k, d in splits.items()}
    for size in (1, 2):  # the last of three is alone
        result = train(few, overrides={"training.batch_size": size}, fast=True)
        assert all(torch.isfinite(x).all() for x in result.model.state_dict().values())


def test_a_modality_that_no_sample_has_leaves_the_others(splits):
    """Empty in one split of samples, masked in the other."""
    few = {k: dataclasses.replace(d, samples=d.samples[:8]) for k, d in splits.items()}
    empty = {
        k: [dataclasses.replace(s, features={**s.features, "audio": s.features["audio"][:0]}, partners={}) for s in d]
        for k, d in few.items()
    }
    masked = {
        k: [dataclasses.replace(s, masks={"audio": torch.zeros(len(s.features["audio"]), dtype=torch.bool)}) for s in d]
        for k, d in few.items()
    }
    results = [
        train({k: dataclasses.replace(d, samples=samples[k]) for k, d in few.items()}, fast=True)
        for samples in (empty, masked)
    ]
    for result in results:
        assert all(torch.isfinite(x).all() for x in result.model.state_dict().values())
        assert all(row["train/ot/audio-text"] == 0 for row in result.history if "train/ot/audio-text" in row)
    assert results[0].history == results[1].history


# The same bits


@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_bits_on_one_thread_and_on_two(splits, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = train(splits), train(splits)
    finally:
        torch.set_num_threads(before)
    assert first.history == second.history
    weights = first.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in second.model.state_dict().items())


# Strangers' files


def test_mutated_files_are_read_or_refused(tmp_path):
    """`tests.stress.fuzz` in small, without its processes: the whole of it is a command."""
    names = ("pickle-that-runs", "model", "unfinished-run", "recipe")
    code = "import sys, json; from tests.stress import fuzz\n"
    code += "said = []\nfor n in sys.argv[1:]: fuzz.run(n, 0, 60, 5, lambda m, n=n: said.append((n, *m)))\n"
    code += "print(json.dumps(said))"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    outcomes = [m for m in said if m[2] != "began"]
    assert len(outcomes) == 60 * len(names)
    assert not [m for m in outcomes if m[2] == "found"]
    assert {m[2] for m in outcomes} == {"read", "refused"}


def test_nothing_warns_where_nothing_is_wrong(splits):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(splits, fast=True)
