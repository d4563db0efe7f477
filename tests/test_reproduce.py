"""`reproduce`: finished runs are never repeated, a killed one goes on, and no synthetic number fills a row."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers

from alignmamba2 import Dataset, load_dataset
from alignmamba2.baselines import build_model, counted, parameter_count
from alignmamba2.datasets.registry import ENTRIES, Entry
from alignmamba2.experiments import BENCHMARKS, benchmark_names, comparison, reproduce
from alignmamba2.experiments.benchmarks import FULL, variants
from alignmamba2.experiments.reproduction import STRENGTHS, examine, fingerprint, fit_linear
from alignmamba2.experiments.results import labels_and_units
from alignmamba2.experiments.seeds import fusion_parameters
from alignmamba2.recipes import Recipe
from alignmamba2.storage import files
from tools.page import main as page
from tools.page import write_page

ROWS = ["early-lstm", "tfn"]
OPTIONS = {"fast": True, "only": ROWS, "progress": False, "say": lambda _: None}


def numbers(report):
    """All that was measured; without times and dates."""
    rows = report["benchmarks"]["mini-mosi"]["rows"]
    return {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in rows.items()}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce")
    return folder, reproduce(["mini-mosi"], [1, 2], folder=folder, **OPTIONS)


def test_a_finished_run_is_never_repeated(first, monkeypatch):
    folder, report = first

    def never(*_args, **_options):
        raise AssertionError("trained again")

    monkeypatch.setattr("alignmamba2.experiments.reproduction.fit", never)
    again = reproduce(["mini-mosi"], [1, 2], folder=folder, **OPTIONS)
    assert again["benchmarks"] == report["benchmarks"]
    with pytest.raises(AssertionError, match="trained again"):
        reproduce(["mini-mosi"], [3], folder=folder, **OPTIONS)


def test_a_damaged_run_is_named_and_run_again(first, tmp_path, monkeypatch):
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    good = {path: path.read_bytes() for path in sorted(tmp_path.glob("runs/*/*.json"))}
    one, other, third, fourth = good
    digit = re.search(rb'"accuracy": 0\.(\d)', good[one]).start(1)
    one.write_bytes(good[one][:digit] + bytes([good[one][digit] ^ 1]) + good[one][digit + 1 :])
    assert json.loads(one.read_bytes()) != json.loads(good[one])  # another number, and still good JSON
    other.write_bytes(good[other][: len(good[other]) // 2])
    third.write_bytes(good[one])
    fourth.write_bytes(good[fourth].replace(b'"sha256"', b'"sha257"'))
    said, ran = [], []

    def run(job, folder, _datasets, _callbacks):
        ran.append(folder / "runs" / "mini-mosi" / f"{job['key']}.json")
        ran[-1].write_bytes(good[ran[-1]])

    monkeypatch.setattr("alignmamba2.experiments.reproduction.run", run)
    again = reproduce(["mini-mosi"], [1, 2], folder=tmp_path, **{**OPTIONS, "say": said.append})
    assert again["benchmarks"] == first[1]["benchmarks"]
    assert sorted(ran) == list(good)
    assert "4 runs, 0 of them finished before" in said
    for path in good:
        assert sum(str(path) in s and s.endswith("That run is run again") for s in said) == 1


@pytest.mark.slow
def test_a_full_disk_at_any_write_is_an_error_and_with_room_it_goes_on(first, tmp_path, monkeypatch):
    options = {**OPTIONS, "only": ROWS[:1], "folder": tmp_path}
    sync, full, errors = files._sync, [], []

    def fails_once(path):
        """There is no room for the second half of a file: once for each file that is written."""
        name = path.name.partition(".")[0]
        if path.suffix == ".part" and name not in full:
            full.append(name)
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    monkeypatch.setattr(files, "_sync", fails_once)
    while True:
        try:
            reproduce(["mini-mosi"], [1], **options)
            break
        except OSError as error:
            errors.append(str(error))
        assert not [p for p in tmp_path.rglob("*") if p.suffix == ".part" or p.parent.name == "mini-mosi"]
    (run,) = tmp_path.glob("runs/mini-mosi/*.json")
    assert set(full) == {"unfinished", "config", "model", "training", run.stem}
    for name, said in zip(full, errors, strict=True):
        assert re.search(rf"{name}\.\w+: could not be written \(No space left on device\)", said)
    expected = json.loads((first[0] / "runs" / "mini-mosi" / run.name).read_text())
    found = json.loads(run.read_text())
    for record in (expected, found):  # how long it took is in it, and so in its checksum
        del record["seconds"], record["sha256"]
    assert found == expected
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_numbers(first, tmp_path):
    """kill -9 in the middle of the runs; then to the end."""
    command = [sys.executable, "-m", "alignmamba2", "reproduce", "mini-mosi", "--fast", "--seeds", "1-2", "--quiet"]
    command += ["--folder", str(tmp_path), "--only", *ROWS]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        # Not at the end of a run but within the next: its folder is there.
        if list(tmp_path.glob("runs/*/*.json")) and any(tmp_path.glob("unfinished/*/*")):
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(list(tmp_path.glob("runs/*/*.json"))) < 4
    assert not (tmp_path / "report.json").exists()
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/*.json")}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert all(p.stat().st_mtime_ns == when for p, when in finished.items())
    assert not list((tmp_path / "unfinished").iterdir())
    report = json.loads((tmp_path / "report.json").read_text())
    assert numbers(report) == json.loads(json.dumps(numbers(first[1])))
    page([str(tmp_path)])
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_what_is_absent_is_said_and_nothing_fills_its_row(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "nothing"))
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    said = []
    report = reproduce(["mosi", "mosei", "nyu", "mvsa"], [1], folder=tmp_path, say=said.append, progress=False)
    for name, found in report["benchmarks"].items():
        assert list(found) == ["missing", "published"]
        assert any(s.startswith(f"{name}: data not present. ") for s in said)
    text = write_page(tmp_path / "report.html", report).read_text()
    assert text.count("<b>data not present</b>") == 4
    assert text.count("Published") == 4
    assert "Measured" not in text


def test_the_report_says_what_is_synthetic_and_how_it_was_made(first, tmp_path):
    report = first[1]
    found = report["benchmarks"]["mini-mosi"]
    assert found["synthetic"]
    assert {"protocol", "fingerprint", "samples", "sha256"} <= set(found)
    assert {"versions", "machine", "date", "git_commit", "source_sha256"} <= set(report)
    for row in found["rows"].values():
        assert row["seeds"] == [1, 2]
        low, high = row["interval"]["accuracy"]
        assert low <= row["test"]["accuracy"]["mean"] <= high
        assert set(row["only"]) == {"text", "audio", "video", "text+audio", "text+video", "audio+video"}
        assert row["noise"]["2"]["mae"]["mean"] > 0
        clean, late = row["test"]["accuracy"]["mean"], row["late"]["0.25"]["accuracy"]["mean"]
        assert row["drops"]["late 0.25"]["drop"] == pytest.approx(clean - late, abs=1e-6)
        assert row["drops"]["only text"]["drop"] == pytest.approx(
            clean - row["only"]["text"]["accuracy"]["mean"], abs=1e-6
        )
    text = write_page(tmp_path / "report.html", report).read_text()
    assert "Synthetic" in text
    assert "Two epochs a run" in text
    hostile = json.loads(re.sub(r'"(text|2|0\.25|train|full)":', r'"<script>\1":', json.dumps(report)))
    text = write_page(tmp_path / "report.html", hostile).read_text()
    assert text.count("&lt;script&gt;") >= 3
    assert "<script" not in text


@pytest.mark.parametrize("equal", ["stored", "active"])
@pytest.mark.parametrize("name", ["mini-mosi", "mini-mosei"])
def test_baselines_are_as_large_as_the_model(name, equal):
    recipe, train = Recipe.load(BENCHMARKS[name].recipe), load_dataset(name)["train"]
    settings = {"modalities": train.modalities, "task": train.task, "n_classes": train.n_classes, **recipe.model}
    rows = variants(dataclasses.replace(BENCHMARKS[name], equal=equal), recipe, train)
    assert rows[0].name == FULL
    target = fusion_parameters(build_model(settings), active=equal == "active")
    assert equal == "stored" or target < 0.7 * fusion_parameters(build_model(settings))
    sizes = {}
    for row in rows:
        change = {k.removeprefix("model."): v for k, v in row.overrides.items()}
        sizes[row.name] = sum(p.numel() for p in build_model({**settings, **change}).parameters())
    for row in rows:
        if row.group == "baseline":
            assert row.note or abs(sizes[row.name] / target - 1) < 0.2, (row.name, target, sizes)
    assert {r.group for r in rows} == {"ours", "baseline", "ablation"}


def test_other_data_is_another_run():
    one, other = load_dataset("mini-mosi"), load_dataset("mini-mosi", noise=0.2)
    assert fingerprint(one) == fingerprint(load_dataset("mini-mosi"))
    assert fingerprint(one) != fingerprint(other)


def test_a_modality_that_is_missing_is_not_seen():
    train = load_dataset("mini-mosi")["test"]
    torch.manual_seed(0)
    model = build_model({"modalities": train.modalities, "task": "regression", "d_model": 8, "d_state": 2})
    whole, prediction = examine(model, train)
    alone, other = examine(model, train, ("audio",))
    labels, units, known = labels_and_units(train)
    assert known.all()
    assert len(prediction) == len(other) == len(labels) == len(units)
    assert whole["mae"] == pytest.approx(float(np.abs(np.array(prediction) - labels).mean()), rel=1e-5)
    with torch.no_grad():
        assert other[:8] == pytest.approx(model(train.batch(range(8)).only("audio")).prediction.tolist(), abs=1e-5)
    assert alone["mae"] != whole["mae"]


def test_names_on_the_command_line():
    assert benchmark_names(["all"]) == list(BENCHMARKS)
    assert benchmark_names(["mini-*", "mini-nyu", "nyu"]) == ["mini-mosei", "mini-mosi", "mini-mvsa", "mini-nyu", "nyu"]
    with pytest.raises(ValueError, match="benchmark 'moso': unknown"):
        benchmark_names(["moso"])


def test_the_linear_row_is_ridge_regression_of_mean_tokens():
    data = load_dataset("mini-mosi")
    row = fit_linear(data)

    def means(dataset):
        return np.stack([np.concatenate([x.double().mean(0).numpy() for x in s.features.values()]) for s in dataset])

    x, y = means(data["train"]), np.array([float(s.label) for s in data["train"]])
    mean, sd = x.mean(0), x.std(0)
    x = (x - mean) / sd
    errors = {}
    for strength in STRENGTHS:
        weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]) / strength, x.T @ (y - y.mean()))
        guess = {split: (means(data[split]) - mean) / sd @ weights + y.mean() for split in ("valid", "test")}
        target = np.array([float(s.label) for s in data["valid"]])
        errors[strength] = (np.abs(guess["valid"] - target).mean(), guess["test"])
    assert row["strength"] == min(errors, key=lambda strength: errors[strength][0])
    assert row["prediction"] == pytest.approx(errors[row["strength"]][1].tolist(), abs=1e-6)
    assert row["settings_tried"] == len(STRENGTHS)


def test_a_linear_row_and_modalities_alone_are_rows_of_the_report(tmp_path, monkeypatch):
    with_rows = dataclasses.replace(BENCHMARKS["mini-mosi"], rows=("linear", "alone"), tried=7)
    monkeypatch.setitem(BENCHMARKS, "mini-mosi", with_rows)
    names = [FULL, "linear", "text alone", "audio alone"]
    only = [*names[:3], "mini-mosi/audio alone", "mini-nyu/transformer"]
    options = {**OPTIONS, "only": only, "folder": tmp_path, "equal": "active"}
    report = reproduce(["mini-mosi"], [1], **options)
    found = report["benchmarks"]["mini-mosi"]
    assert list(found["rows"]) == names
    assert found["equal_parameters"] == "active"
    assert "mini-mosi (synthetic), equal active parameters, accuracy" in "\n".join(comparison(report))
    assert found["settings_tried"] == 7
    assert found["rows"]["text alone"]["only"] == {}
    assert found["rows"]["linear"]["test"]["mae"]["mean"] > 0
    size = found["rows"][FULL]["active_parameters"]
    assert size < 0.7 * found["rows"][FULL]["parameters"]
    assert abs(found["rows"]["text alone"]["parameters"] / size - 1) < 0.15
    full, alone = (found["rows"][name]["drops"]["noise 2"] for name in (FULL, "audio alone"))
    assert alone["against_full"]["difference"] == pytest.approx(alone["drop"] - full["drop"])
    accuracy = found["rows"][FULL]["test"]["accuracy"]["mean"]
    assert report["summary"]["mini-mosi"]["accuracy"] == {"mean": 100 * accuracy, "sd": None, "seeds": 1}
    assert report["summary"]["mini-mosi"]["mae"]["mean"] == found["rows"][FULL]["test"]["mae"]["mean"]
    lines = "\n".join(comparison(report))
    assert "| linear |" in lines
    assert "Has0 | Non0 | Acc-7 | MAE | Corr" in lines
    assert "text alone" in write_page(tmp_path / "report.html", report).read_text()


def test_encoders_are_not_counted_in_comparisons(tmp_path):
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    modalities = {"text": 0, "audio": 3}
    settings = {"modalities": modalities, "encoders": {"text": {"name": str(tmp_path), "train": 1}}, "d_model": 8}
    without = parameter_count(counted(settings))
    assert without == fusion_parameters(build_model(settings))
    assert without < sum(p.numel() for p in build_model(settings).parameters())


@pytest.mark.parametrize("task", ["multilabel", "multitarget", "classification"])
def test_several_labels_and_those_not_known_are_compared_too(tmp_path, monkeypatch, task):
    """Accuracy is over known labels alone, MAE a mean over them; the linear row has a model per label."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3))
    label = (x[:, :2] if task == "multitarget" else (x[:, :2] > 0).astype(float)).tolist()
    label = [row[0] > 0 for row in x] if task == "classification" else label
    for i in range(0, 60, 7):
        label[i] = None
    if task != "classification":
        for i in range(1, 60, 7):
            label[i][1] = None
    data = Dataset.from_arrays(x=x, label=label, say=lambda _: None)
    row = fit_linear(data)
    known = [list(np.atleast_1d(t)) if t is not None else [] for t in data["test"].labels]
    pairs = [
        (float(p), float(t))
        for guess, labels in zip(row["prediction"], known, strict=True)
        for p, t in zip(np.atleast_1d(guess), labels, strict=False)
        if t >= 0 or (task == "multitarget" and t == t)
    ]
    assert 0 < len(pairs) < np.size(row["prediction"])
    if task != "multitarget":
        assert row["test"]["accuracy"] == pytest.approx(np.mean([p == t for p, t in pairs]))
        assert row["test"]["accuracy"] > 0.8
    else:
        assert row["test"]["mae"] < 0.1  # the labels are columns of x
    labels, units, places = labels_and_units(data["test"])
    assert sorted(labels.tolist()) == pytest.approx(sorted(t for _, t in pairs))
    assert len(units) == len(pairs) == places.sum()

    monkeypatch.setitem(ENTRIES, "own-labels", Entry("own-labels", lambda root=None: data))
    report = reproduce(["own-labels"], [1], **OPTIONS | {"folder": tmp_path, "only": [FULL, "linear"]})
    rows = report["benchmarks"]["own-labels"]["rows"]
    first = "mae" if task == "multitarget" else "accuracy"
    low, high = rows[FULL]["interval"][first]
    assert low <= rows[FULL]["test"][first]["mean"] <= high
    assert ("MAE" if first == "mae" else "accuracy in %") in "\n".join(comparison(report))
    assert "own-labels" in write_page(tmp_path / "report.html", report).read_text()
