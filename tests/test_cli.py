import json
import os
import subprocess
import sys

import pytest

from alignmamba2.__main__ import main

QUICK = ["--fast", "--quiet", "--set", "model.d_model=8", "--set", "model.n_layers=1", "--set", "model.d_state=2"]


def test_train_then_evaluate_write_the_same_numbers(tmp_path, capsys):
    results = tmp_path / "results.json"
    command = ["train", "mini-mosi", "--seeds", "1-2", "--folder", str(tmp_path), "--results", str(results)]
    assert main([*command, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("mini-mosi: mini-mosi, synthetic")
    assert "| mini-mosi (synthetic) |" in printed
    written = json.loads(results.read_text())
    assert {"date", "command", "git_commit", "versions", "machine"} <= set(written)
    row = written["results"]["mini-mosi"]
    assert [r["seed"] for r in row["runs"]] == [1, 2]
    mean = sum(r["test"]["accuracy"] for r in row["runs"]) / 2
    assert row["test"]["accuracy"]["mean"] == pytest.approx(mean)
    assert row["data"]["synthetic"] is True
    assert row["fast"] is True

    folders = sorted(map(str, tmp_path.glob("mini-mosi+*/seed-*")))
    again = tmp_path / "again.json"
    assert main(["evaluate", *folders, "--results", str(again)]) == 0
    assert json.loads(again.read_text())["results"]["mini-mosi"]["test"] == row["test"]


def test_ablations_share_protocol_and_seeds(tmp_path, capsys):
    results = tmp_path / "ablations.json"
    assert main(["ablate", "mini-mosi", "--folder", str(tmp_path), "--results", str(results), *QUICK]) == 0
    rows = json.loads(results.read_text())["results"]
    assert list(rows) == [
        "full", "without OT", "without MMD", "without OT and MMD", "one shared expert only", "modality experts only",
    ]  # fmt: skip
    assert rows["without OT"]["recipe"]["model"]["lambda_ot"] == 0
    assert len({json.dumps(r["data"]) for r in rows.values()}) == 1
    assert rows["one shared expert only"]["model"]["parameters"] < rows["full"]["model"]["parameters"]


def test_two_processes_follow_the_curve_of_one(tmp_path):
    """Gradients are averaged over processes; each counts by its share of the batch. The last batch is an odd one."""
    command = [sys.executable, "-m", "alignmamba2", "train", "mini-mosi", "--seeds", "1-2", *QUICK]
    command += ["--set", "model.dropout=0.0", "--set", "training.batch_size=107"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = []
    for options in ([], ["--devices", "2"]):
        folder = tmp_path / str(len(options))
        command_here = [*command, *options, "--folder", str(folder), "--results", str(folder / "results.json")]
        done = subprocess.run(command_here, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("written: ") == 1  # one process speaks for both
        notes = [json.loads(path.read_text()) for path in sorted(folder.glob("mini-mosi+*/seed-*/training.json"))]
        runs = json.loads((folder / "results.json").read_text())["results"]["mini-mosi"]["runs"]
        found.append([r["train/loss"] for n in notes for r in n["history"]] + [r["test"]["mae"] for r in runs])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "nothing"], "recipe 'nothing': not found"),
        (["train", "mini-mosi", "--set", "model.d_modle=3"], "unknown keys ['d_modle']"),
        (["data", "fetch", "mini-mosi"], "nothing to fetch"),
        (["train", "mini-mosi", "--precision", "16-mixed"], "precision: found '16-mixed'; expected one of 32-true"),
        (["reproduce", "mini-mosi", "--devices", "2", "--jobs", "2"], "jobs: found 2 with {'devices': 2}"),
        (["evaluate", "nowhere"], "nowhere/training.json: not found"),
    ],
)
def test_mistakes_are_one_clear_line(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert "Traceback" not in error


def test_doctor_and_list(capsys):
    assert main(["doctor"]) == 0
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert "chunked" in printed
    assert "mini-mosi" in printed


HEAVY = {"pandas", "plotly", "sklearn", "torchmetrics", "transformers", "accelerate", "jupyterlab", "torch._dynamo"}


@pytest.mark.parametrize(
    ("words", "more", "prints"),
    [
        ([], {"torch", "numpy", "numba", "scipy"}, ""),
        (["train", "--help"], {"torch", "numpy", "numba", "scipy"}, "usage: python -m alignmamba2 train"),
        (["data", "list"], {"numba", "scipy"}, "mosi-standard"),
        (["doctor"], set(), "backends of the selective scan"),
    ],
    ids=["import", "help", "list", "doctor"],
)
def test_a_quick_command_imports_nothing_heavy(words, more, prints):
    """PyTorch without its compiler is what `data list` and `doctor` wait for."""
    code = (
        "import sys\nimport alignmamba2\n"
        f"if {words}:\n    from alignmamba2.__main__ import main\n"
        f"    try:\n        main({words})\n    except SystemExit:\n        pass\n"
        f"print(sorted({HEAVY | more} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(prints)
    assert done.stdout.splitlines()[-1] == "[]"


def test_reproduce_prints_its_table_and_where_the_report_is(tmp_path, capsys):
    command = [
        "reproduce",
        "mini-mosi",
        "--fast",
        "--seeds",
        "1",
        "--only",
        "tfn",
        "--quiet",
        "--folder",
        str(tmp_path),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    row = json.loads((tmp_path / "report.json").read_text())["benchmarks"]["mini-mosi"]["rows"]["tfn"]
    assert "| mini-mosi (synthetic), equal stored parameters, accuracy in % |" in printed
    assert f"| tfn | {100 * row['test']['accuracy']['mean']:.1f} [" in printed
    assert f"written: {tmp_path / 'report.json'}" in printed
    assert f"python -m tools page {tmp_path}" in printed
