"""JupyterLab as it is started, figures as they are sent to it, and runs of tests that are counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import ipywidgets as widgets
import plotly.graph_objects as go
import pytest

from alignmamba2 import AlignMamba2, AlignMamba2Config, launch
from alignmamba2.__main__ import main
from alignmamba2.experiments import evaluate_folders
from alignmamba2.explorers.panel import LiveFigure, Script
from alignmamba2.storage.files import FileError, write_json
from alignmamba2.training import training_notes
from tests.stress import repeat


def test_the_address_that_is_printed_leads_to_the_notebook(tmp_path):
    notebook = tmp_path / "my model.ipynb"
    notebook.touch()
    made = launch.command(notebook, browser=False, port=9)
    assert {f"--notebook-dir={tmp_path}", "--LabApp.default_url=/lab/tree/my%20model.ipynb"} <= set(made)
    assert {"--no-browser", "--port=9", "--ip=127.0.0.1"} <= set(made)
    assert not any("default_url" in part for part in launch.command(tmp_path))


def test_start_passes_on_the_status_and_says_what_root_needs(tmp_path, monkeypatch, capsys):
    asked = []

    def ending(target, **options):
        asked.append(options)
        return [sys.executable, "-c", "raise SystemExit(3)"]

    monkeypatch.setattr(launch, "command", ending)
    monkeypatch.setattr("os.geteuid", lambda: 0, raising=False)
    assert main(["start", str(tmp_path), "--no-browser"]) == 3
    assert "JupyterLab refuses to run as root" in capsys.readouterr().err
    assert main(["start", str(tmp_path), "--allow-root"]) == 3
    assert "root" not in capsys.readouterr().err
    assert [options["allow_root"] for options in asked] == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_ends_the_server_too(tmp_path):
    server = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = (
        "import sys\nfrom alignmamba2 import launch\nfrom alignmamba2.__main__ import main\n"
        f"launch.command = lambda *_, **__: [sys.executable, '-c', {server!r}]\n"
        f"sys.exit(main(['start', {str(tmp_path)!r}, '--allow-root']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as start:
        pid = int(start.stdout.readline())  # the server runs
        start.send_signal(signal.SIGTERM)
        assert start.stdout.read() == ""  # which ends when nobody holds the pipe any more, the server neither
        assert start.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("words", [["start", "."], ["explore", "model"]])
def test_a_missing_extra_is_named(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    assert main(words) == 1
    assert "pip install 'alignmamba2[notebooks]'" in capsys.readouterr().err


def test_the_course_is_copied_whole_and_over_nothing(tmp_path, capsys):
    assert main(["course", str(tmp_path / "here")]) == 0
    assert "16 notebooks are in" in capsys.readouterr().out
    copied = {p.relative_to(tmp_path / "here").as_posix() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    assert {"notebooks/00_start_here.ipynb", "notebooks/course/chapter_00.py", "results/ablations.json"} <= copied
    assert not any("/src/" in name or "__pycache__" in name for name in copied)
    text = "".join(p.read_text("utf-8") for p in (tmp_path / "here" / "notebooks").glob("*.ipynb"))
    for picture in re.findall(r"\]\((pictures/[\w.-]+)\)", text):
        assert f"notebooks/{picture}" in copied
    (tmp_path / "here" / "notebooks" / "00_start_here.ipynb").write_text("my answers")
    assert main(["course", str(tmp_path / "here")]) == 1
    assert "Nothing was changed" in capsys.readouterr().err
    assert (tmp_path / "here" / "notebooks" / "00_start_here.ipynb").read_text() == "my answers"


def test_the_first_message_of_a_figure_holds_all_of_it_but_the_script(monkeypatch):
    opened, plain = [], widgets.Widget.open
    monkeypatch.setattr(LiveFigure, "open", lambda self: (opened.append(self.get_state()), plain(self)))
    live = LiveFigure(go.Figure(go.Bar(y=[1, 2])).update_layout(title_text="two"), buttons=False)
    (state,) = opened
    assert list(state["_widget_data"][0]["y"]) == [1, 2]
    assert state["_widget_data"][0]["uid"] == live.data[0].uid  # by which the browser names it
    assert state["_widget_layout"]["title"]["text"] == "two"
    assert state["_config"] == {"displayModeBar": False}
    assert state["_script"] == Script.shared().model_id
    assert len(state["_esm"]) < 5000 < 1_000_000 < len(Script.shared().source)


def test_the_script_is_sent_once_and_again_after_it_was_closed(monkeypatch):
    monkeypatch.setattr(Script, "_only", None)
    first = Script.shared()
    assert Script.shared() is first
    first.close()
    assert Script.shared() is not first


@pytest.mark.parametrize("field", ["recipe", "recipe.dataset", "seed"])
def test_a_model_that_does_not_say_what_it_was_trained_on_is_refused_by_file_and_field(tmp_path, field):
    recipe = {"name": "mini-mosi", "dataset": "mini-mosi", "data": {}}
    notes = {"recipe": recipe, "seed": 0, "best_epoch": 0}
    AlignMamba2(AlignMamba2Config({"text": 2}, d_model=4, n_layers=1)).save_pretrained(tmp_path)
    path = tmp_path / "training.json"
    with pytest.raises(FileNotFoundError, match=r"training\.json: not found, so nothing says"):
        launch.open_run(tmp_path)
    path.write_text(json.dumps(notes))  # as earlier versions wrote it, without a checksum
    assert training_notes(tmp_path) == {**notes, "history": []}
    if field == "recipe.dataset":
        del recipe["dataset"]
    else:
        del notes[field]
    write_json(path, notes)
    for read in (launch.open_run, lambda folder: evaluate_folders([folder])):
        with pytest.raises(FileError, match=rf"training\.json: has no field '{field}'"):
            read(tmp_path)
    path.write_text(path.read_text().replace("best_epoch", "best_epoc"))
    with pytest.raises(FileError, match=r"training\.json: damaged"):
        launch.open_run(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"dataset": "package.module:load"},
        {"data": {"root": "/somewhere"}},
        {"data": {"folds": "folds.py"}},
        {"data": {"text": "owner/model"}},
        {"data": {"image": "../model"}},
    ],
)
def test_what_a_folder_names_is_followed_when_it_is_trusted_alone(tmp_path, monkeypatch, recipe):
    AlignMamba2(AlignMamba2Config({"text": 2}, d_model=4, n_layers=1)).save_pretrained(tmp_path)
    recipe = {"name": "x", "dataset": "mini-mosi", "data": {}, **recipe}
    write_json(tmp_path / "training.json", {"recipe": recipe, "seed": 0, "best_epoch": 0})
    for read in (launch.open_run, lambda folder: evaluate_folders([folder])):
        with pytest.raises(FileError, match="what files name is not followed unasked"):
            read(tmp_path)
    monkeypatch.setattr("alignmamba2.datasets.load_dataset", lambda *_, **__: {"test": "loaded"})
    with pytest.raises(AttributeError, match="'str' object has no attribute 'synthetic'"):
        launch.open_run(tmp_path, trust=True)


def test_an_encoder_of_a_hub_is_not_fetched_for_a_config_that_names_it(tmp_path):
    AlignMamba2(AlignMamba2Config({"text": 2}, d_model=4, n_layers=1)).save_pretrained(tmp_path)
    recipe = {"name": "x", "dataset": "mini-mosi", "data": {}}
    write_json(tmp_path / "training.json", {"recipe": recipe, "seed": 0, "best_epoch": 0})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "encoders": {"text": {"name": "owner/model"}}}))
    with pytest.raises(FileError, match=r"names \{'text': 'owner/model'\}"):
        launch.open_run(tmp_path)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("pass", {"passed": 1, "green": True}),
        ("assert 0", {"failed": 1, "green": False}),
        ("import pytest; pytest.skip('no browser')", {"skipped": 1, "green": False}),
    ],
)
def test_a_run_is_green_if_all_of_it_ran_and_passed(tmp_path, capsys, body, found):
    path = tmp_path / "test_it.py"
    path.write_text(f"def test_it():\n    {body}\n", encoding="utf-8")
    run = repeat.run([str(path)])
    assert run.pop("seconds") > 0
    assert run == found
