"""What users get wrong on the command line: each is one line that says what was found and what to do, never a trace."""

import io
import json

import pandas as pd
import pytest

from alignmamba2 import __main__ as commands
from alignmamba2.__main__ import main

DEEP = 100_000


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty place with a few wrong files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNMAMBA2_DEBUG", raising=False)
    (tmp_path / "broken.toml").write_text("dataset = ")
    (tmp_path / "deep.toml").write_text("a = " + "[" * DEEP)
    (tmp_path / "number.toml").write_text('dataset = "mini-mosi"\ntraining = 5\n')
    (tmp_path / "latin.toml").write_bytes(b'dataset = "caf\xe9"')
    (tmp_path / "gone.toml").write_text('dataset = "gone"\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("[" * DEEP)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no")
    (tmp_path / "loaders.py").write_text(
        "def nothing(root=None):\n    return 5\n"
        "def narrow():\n    return {}\n"
        "def failing(root=None):\n    return [][1]\n"
        "def hungry(root=None):\n    raise MemoryError\n"
        "def endless(root=None):\n    return endless()\n"
        "def splits(**columns):\n    import alignmamba2 as am\n"
        "    return am.Dataset.from_arrays(x=[[i / 40, 1.0] for i in range(40)], say=lambda _: None, **columns)\n"
        "def sparse(root=None):\n    return splits(label=[None] * 40)\n"
        "def mixed(root=None):\n    return splits(label=[[0, 1]] * 20 + [1] * 20)\n"
        "def uneven(root=None):\n    return splits(label=[[0, 1]] * 20 + [[1]] * 20)\n"
        "def wrong(root=None):\n    return splits(label=[[0, 2]] * 40, task='multilabel')\n"
        "def steps(root=None):\n    return splits(label=[[0, 1]] * 40, steps='x')\n"
        "def tokens(root=None):\n    return splits(label=[[i % 2] for i in range(40)], steps='x')\n"
        "def one(root=None):\n    return splits(label=[1] * 40)\n"
        "def many(root=None):\n    return splits(label=[[0, 1, i % 2] for i in range(40)])\n"
        "def two(root=None):\n    return splits(label=[0, 1] * 20)\n"
        "def columns(root=None):\n    import pandas as pd, alignmamba2 as am\n"
        "    return am.Dataset.from_frame(pd.DataFrame({'a': [[1.0]] * 4, 'b': [0, 1] * 2}), a='a', label='c')\n"
    )
    (tmp_path / "taken").write_text("a file")
    return tmp_path


TRAIN = ["train", "mini-mosi", "--fast", "--quiet"]
MANY = ["train", "loaders:many", "--fast", "--quiet", "--set"]
TWO = ["train", "loaders:two", "--fast", "--quiet", "--set"]
SET = [*TRAIN, "--set"]
MISTAKES = [
    (["trian"], "invalid choice: 'trian'"),
    ([], "required: VERB"),
    (["data"], "required: WHAT"),
    (["data", "lst"], "invalid choice: 'lst'"),
    (["train"], "required: RECIPE"),
    (["train", "mini-moso"], "did you mean 'mini-mosi'"),
    (["train", "nowhere.toml"], "'nowhere.toml': not found"),
    (["train", "broken.toml"], "broken.toml: "),
    (["train", "deep.toml"], ""),
    (["train", "number.toml"], "number.toml: "),
    (["train", "latin.toml"], "latin.toml: "),
    (["train", "gone.toml"], "found 'gone'; expected one of"),
    (["train", "no_such_module:load"], "could not be imported (No module named 'no_such_module')"),
    (["train", "loaders:missing"], "could not be imported"),
    (["train", "loaders:narrow"], "its loader takes root"),
    (["train", "loaders:nothing"], "found int; expected"),
    (["train", "loaders:failing"], "IndexError (ALIGNMAMBA2_DEBUG=1 shows where): list index out of range"),
    (["train", "loaders:hungry"], "MemoryError (ALIGNMAMBA2_DEBUG=1 shows where)"),
    (["train", "loaders:endless"], "RecursionError (ALIGNMAMBA2_DEBUG=1 shows where)"),
    ([*TRAIN, "--seeds", "5-1"], "found '5-1'; expected a seed, or the first and the last"),
    ([*TRAIN, "--seeds", "one"], "found 'one'; expected a seed"),
    ([*TRAIN, "--seed", "-3"], "found '-3'; expected a seed"),
    (
        [*SET, "model.shortcut=text,sound"],
        "model.shortcut: found 'sound'; the modalities are ['text', 'audio', 'video']",
    ),
    ([*SET, 'model.shuffle=["txt"]'], "model.shuffle: found 'txt'; the modalities are"),
    ([*TRAIN, "--devices", "0"], "devices: found 0; expected a whole number of at least 1"),
    ([*TRAIN, "--devices", "-1"], "devices: found -1"),
    ([*TRAIN, "--devices", "cuda"], "devices: found 'cuda'; expected a whole number of at least 1"),
    ([*TRAIN, "--accelerator", "gpus"], "accelerator: found 'gpus'; expected one of auto"),
    ([*TRAIN, "--precision", "16"], "precision: found '16'"),
    ([*TRAIN, "--accumulate", "0"], "accumulate: found 0"),
    ([*TRAIN, "--num-workers", "x"], "invalid int value: 'x'"),
    ([*TRAIN, "--tracker", "tensorbord"], "tensorbord"),
    ([*TRAIN, "--fats"], "unrecognized arguments: --fats"),
    ([*TRAIN, "--folder", "taken"], "taken"),
    ([*TRAIN, "--results", "taken/results.json"], "taken"),
    ([*SET, "model.dropout"], "found 'model.dropout'; expected KEY=VALUE"),
    ([*SET, "dropout=0.1"], "override 'dropout': expected data.NAME, model.NAME or training.NAME"),
    ([*SET, "model.dropout=abc"], "dropout: found 'abc'; expected a float"),
    ([*SET, "model.dropout=2"], "dropout: found 2; expected a number in [0, 1)"),
    ([*SET, "model.d_model=x"], "d_model: found 'x'; expected a whole number"),
    ([*SET, "model.d_modle=3"], "unknown keys ['d_modle']"),
    ([*SET, "model.order=zigzag"], "order: found 'zigzag'"),
    ([*SET, "model.fixed_anchor=maybe"], "fixed_anchor: found 'maybe'; expected a bool"),
    ([*SET, "model.swap=0.5"], "swap: found 0.5; expected a mapping"),
    ([*SET, "model.encoders=minilm"], "encoders: found 'minilm'; expected a mapping"),
    ([*SET, "model.encoders.text=minilm"], "encoders['text']: found 'minilm'; expected a table"),
    ([*SET, "model.shuffle=5"], "shuffle: found 5; expected a sequence"),
    ([*SET, "model.window=2"], "window: found 2; expected a number in [0, 1]"),
    ([*SET, "training.refit=maybe"], "training.refit: found 'maybe'; expected true or false"),
    ([*SET, "model.kind=transfromer"], "transfromer"),
    ([*SET, "training.max_epochs=two"], "training.max_epochs: found 'two'"),
    ([*SET, "training.monitor=valid/nothing"], "valid/nothing"),
    ([*SET, "data.noise=loud"], "data set 'mini-mosi': noise: found 'loud'; expected a value such as 0.1"),
    ([*SET, "data.nois=1"], "nois"),
    ([*SET, "model.n_layers=true"], "n_layers: found True; expected a whole number of at least 1"),
    ([*TWO, "model.n_heads=x"], "unknown keys ['n_heads']"),
    ([*TWO, "model.kind=transformer", "--set", "model.n_heads=x"], "n_heads: found 'x'; expected a whole number"),
    ([*TWO, "model.kind=transformer", "--set", "model.n_heads=0"], "n_heads: found 0; expected a whole number"),
    ([*TWO, "model.kind=transformer", "--set", "model.n_heads=5"], "n_heads: found 5; expected a divisor of d_model"),
    ([*TWO, "model.kind=lmf", "--set", "model.rank=1.5"], "rank: found 1.5; expected a whole number"),
    ([*TWO, "model.class_weights=[1,2,3]"], "class_weights: found [1, 2, 3]; expected 2 numbers"),
    ([*TWO, "model.class_weights=balance"], "class_weights: found 'balance'; expected a sequence"),
    ([*MANY, "model.class_weights=[1,-1,1]"], "class_weights: found [1, -1, 1]; expected 3 numbers"),
    ([*MANY, "model.task=ranking"], "task: found 'ranking'"),
    ([*MANY, "model.task=regression"], "labels: found (6, 3); task='regression'"),
    (
        [*MANY, "model.kind=transformer", "--set", "model.readout=anchor_steps"],
        "shortcut: not with a prediction per step",
    ),
    (["train", "loaders:sparse"], "label: found none; expected one each, or several each, and some that are known"),
    (["train", "loaders:mixed"], "label: found several (sample '19') and one (sample '39')"),
    (["train", "loaders:uneven"], "expected equally many, 2 at least"),
    (["train", "loaders:wrong"], "label: found [0, 2]; expected 0 and 1 alone"),
    (["train", "loaders:steps"], "label, sample '0': found 2; x has 1 tokens"),
    (["train", "loaders:one", "--quiet"], "every label of its 28 samples is [0]; expected at least two classes"),
    (["train", "loaders:columns"], "label: no column 'c'; there are ['a', 'b']"),
    (["reproduce", "loaders:tokens", "--fast", "--quiet"], "loaders:tokens: found a label per token of 'x'"),
    (["reproduce", "loaders:sparse", "--fast", "--quiet"], "label: found none; expected one each"),
    ([*SET, "model.d_model=x,8"], "d_model: found 'x'; expected a whole number"),
    ([*SET, "model.d_model=0,8"], "d_model: found 0; expected a whole number"),
    ([*SET, "model.d_model="], "d_model: found ''; expected a whole number"),
    ([*SET, "model.dropout=[0.1,0.2]"], "dropout: found [0.1, 0.2]; expected a float"),
    ([*SET, "model.dropout=()"], "model.dropout"),
    ([*SET, "model.kind=lmff,lmf"], "lmff"),
    ([*SET, "=5"], "override '': expected data.NAME, model.NAME or training.NAME"),
    ([*SET, "training.learning_rate=fast,slow"], "training.learning_rate: found 'fast'"),
    (
        ["ablate", "mini-mosi", "--fast", "--quiet", "--set", "model.d_model=8,16"],
        "d_model: found (8, 16); expected a whole",
    ),
    (["results", "taken"], "taken: no finished run found"),
    (["results", "runs", "--to", "html"], "invalid choice: 'html'"),
    (["course"], "required: FOLDER"),
    (["results", "nowhere"], "nowhere: no finished run found"),
    (["course", "taken"], "taken"),
    (["evaluate", "nowhere"], "nowhere/training.json: not found"),
    (["evaluate", "model"], ""),
    (["evaluate", "model", "--split", "tset"], "invalid choice: 'tset'"),
    (["explore", "nowhere"], "nowhere/training.json: not found"),
    (["search", "mini-mosi", "--folds", "1"], "folds: found 1"),
    (["reproduce", "mini-moso"], "did you mean 'mini-mosi'"),
    (["reproduce", "mini-mosi", "--only", "foo"], "only: found 'foo'; the rows are AlignMamba-2, "),
    (["reproduce", "mini-mosi", "--only", "mullt"], "did you mean 'mult'"),
    (["reproduce", "mini-mosi", "--jobs", "0"], "--jobs: found 0"),
    (["reproduce", "mini-mosi", "--equal", "all"], "invalid choice: 'all'"),
    (["data", "fetch", "mosi-standart"], "did you mean 'mosi-standard'"),
    (["data", "make", "nothing"], "nothing to make"),
    (["data", "make", "mini-mosi", "--size", "0"], "size: found 0"),
    (["data", "check", "nowhere"], "nowhere: not found"),
    (["data", "check", "taken"], "taken: of no format known here"),
    (["start", "nowhere"], "nowhere: not found"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(words) or "nothing" for words, _ in MISTAKES])
def test_a_mistake_is_one_line(words, says, capsys):
    try:
        status = main(words)
    except SystemExit as exit:  # argparse ends in this way
        status = exit.code
    lines = capsys.readouterr().err.splitlines()
    assert status in (1, 2)
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert says in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_there_are_enough_of_them():
    assert len(MISTAKES) >= 60


def test_a_stop_by_hand_is_one_line(capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignmamba2.experiments.run_variants", stopped)
    assert main(TRAIN) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


def test_debugging_shows_the_trace(monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DEBUG", "1")
    with pytest.raises(IndexError):
        main(["train", "loaders:failing"])


def test_sweeps_do_not_overwrite_each_other_and_are_one_table(folder, capsys):
    quick = ["--set", "model.d_model=8", "--set", "model.n_layers=1", "--set", "model.d_state=2"]
    for value in ("0.1", "0.2"):
        assert main([*TRAIN, "--seeds", "1", *quick, "--set", f"model.dropout={value}"]) == 0
    names = [p.name for p in folder.glob("runs/mini-mosi+*")]
    assert len(names) == 2
    import alignmamba2 as am

    table = am.results("runs")
    assert sorted(table["overrides/model.dropout"]) == [0.1, 0.2]
    files = [json.loads(p.read_text())["results"]["mini-mosi"] for p in folder.glob("runs/results+*.json")]
    capsys.readouterr()
    assert main(["results", "runs"]) == 0
    again = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert sorted(again["test/mae"]) == pytest.approx(sorted(table["test/mae"]))
    assert main(["results", "runs", "--to", "latex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "\\toprule"
    cells = [[cell.strip(" \\") for cell in line.split("&")] for line in lines if "&" in line]
    column = cells[0].index("mae")
    assert sorted(row[column] for row in cells[1:]) == sorted(f"{x:.3f}" for x in table["test/mae"])
    assert {f["recipe"]["model"]["dropout"]: f["runs"][0]["test"]["mae"] for f in files} == dict(
        zip(table["overrides/model.dropout"], table["test/mae"], strict=True)
    )


def test_nothing_is_overwritten_unasked(folder, capsys, monkeypatch):
    """The same command takes finished runs as they are and goes on; another run in their place is refused."""
    import alignmamba2.experiments.seeds as seeds

    trained = []
    fit = seeds.fit
    monkeypatch.setattr(seeds, "fit", lambda *a, **o: trained.append(o["seed"]) or fit(*a, **o))
    command = ["train", "loaders:two", "--quiet", "--set", "training.max_epochs=1", "--set", "model.d_model=8"]
    assert main([*command, "--seeds", "1"]) == 0
    (first,) = folder.glob("runs/loaders-two+*/seed-1/model.safetensors")
    before = first.read_bytes(), (folder / next(folder.glob("runs/results+*.json"))).read_bytes()
    capsys.readouterr()
    assert main([*command, "--seeds", "1-2"]) == 0
    assert trained == [1, 2]
    assert "seed 1: test" in capsys.readouterr().out
    runs = [json.loads(p.read_text())["results"]["loaders-two"]["runs"] for p in folder.glob("runs/results+*.json")]
    assert sorted(len(r) for r in runs) == [1, 2]  # the second in a file of its own
    assert min(runs, key=len)[0] == max(runs, key=len)[0]
    assert main([*command, "--seeds", "1", "--accumulate", "2"]) == 1
    assert "holds a finished run of other settings" in capsys.readouterr().err
    assert trained == [1, 2]
    assert first.read_bytes() == before[0]
    assert before[1] in [p.read_bytes() for p in folder.glob("runs/results+*.json")]
    assert main([*command, "--seeds", "1", "--accumulate", "2", "--overwrite"]) == 0
    assert trained == [1, 2, 1]


def test_the_names_of_runs_differ_where_the_changes_do():
    from alignmamba2.experiments import run_name

    changes = [
        {},
        {"a": "x y"},
        {"a": "x-y"},
        {"a": ["x", "y"]},
        {"a": "z" * 200},
        {"a": "z" * 201},
        {"a": 1},
        {"b": 1},
    ]
    names = [run_name("mosi", c) for c in changes]
    assert len(set(names)) == len(names)
    assert names[0] == "mosi"
    assert all(len(name) < 140 and "/" not in name and " " not in name for name in names)


def test_the_installed_command_names_itself(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/alignmamba2"])
    assert commands.parser().prog == "alignmamba2"
    monkeypatch.setattr("sys.argv", ["/somewhere/alignmamba2/__main__.py"])
    assert commands.parser().prog == "python -m alignmamba2"
