"""JupyterLab as it is started, figures as they are sent to it, and runs of tests that are counted."""

from __future__ import annotations

import ipywidgets as widgets
import plotly.graph_objects as go
import pytest

from alignmamba2 import lab
from alignmamba2.bench import repeat
from alignmamba2.explorers.live import LiveFigure, Script


def test_the_address_that_is_printed_leads_to_the_notebook(tmp_path):
    notebook = tmp_path / "my model.ipynb"
    notebook.touch()
    made = lab.command(notebook, browser=False, port=9)
    assert {f"--notebook-dir={tmp_path}", "--LabApp.default_url=/lab/tree/my%20model.ipynb"} <= set(made)
    assert {"--no-browser", "--port=9", "--ip=127.0.0.1"} <= set(made)
    assert not any("default_url" in part for part in lab.command(tmp_path))


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
