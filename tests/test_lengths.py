"""The benches behind chapters 11 and 12 and the newcomer's path, in small."""

from __future__ import annotations

import json
import math

import pytest
import torch

from alignmamba2.experiments import ABLATIONS
from benchmarks import lengths as bench
from notebooks.course import lengths, stored_results
from tests.stress import newcomer


class TestLengths:
    """Whole models against the length of their input."""

    def test_models_are_of_equal_size_and_the_batch_of_the_length_asked(self):
        found = lengths.models(["alignmamba2", "transformer", "late-lstm"], d_model=24)
        sizes = [sum(p.numel() for p in model.parameters()) for model in found.values()]
        assert max(sizes) < 1.2 * min(sizes)
        batch = lengths.batch_of(90, samples=2)
        assert {m: tuple(mask.shape) for m, mask in batch.masks.items()} == dict.fromkeys(lengths.MODALITIES, (2, 30))

    def test_alignment_changes_no_prediction_and_a_step_no_weight(self):
        batch = lengths.batch_of(30, samples=2)
        one, other = (lengths.models(["alignmamba2"], 8, lambda_ot=w, lambda_mmd=w)["alignmamba2"] for w in (0.0, 1.0))
        before = {name: value.clone() for name, value in other.state_dict().items()}
        assert torch.equal(lengths.predict(one, batch), lengths.predict(other, batch))
        lengths.train_step(other, batch)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())

    def test_who_took_too_long_is_not_asked_again(self):
        found = lengths.models(["alignmamba2", "transformer"], 8)
        times = lengths.measure(found, [30, 60], budget=0.01, patience=0.0)
        assert all(row[0] > 0 and math.isnan(row[1]) for row in times.values())

    def test_the_command_writes_what_it_measured(self, tmp_path, capsys):
        bench.main(["--fast", "--out", str(tmp_path / "l.json")])
        written = json.loads((tmp_path / "l.json").read_text("utf-8"))
        assert set(written["ms"]["prediction"]) == set(lengths.KINDS)
        assert "training step" in capsys.readouterr().out


class TestNewcomer:
    """Commands in a fresh folder, and the picture at their end."""

    PAGE = "mkdir -p alignmamba2/out && echo 'Plotly.newPlot(1); Plotly.newPlot(2)' > alignmamba2/out/page.html"

    def test_commands_are_timed_and_pictures_counted(self, tmp_path, capsys):
        out = tmp_path / "n.json"
        found = newcomer.main(
            ["--command", self.PAGE, "--command", "test -d out", "--page", "out/page.html", "--out", str(out)]
        )
        assert found == json.loads(out.read_text("utf-8"))
        assert found["interactive pictures"] == 2
        assert [step["command"] for step in found["commands"]] == [self.PAGE, "test -d out"]
        assert "2 commands to a page with 2 interactive pictures" in capsys.readouterr().out

    def test_a_command_that_fails_and_a_page_without_pictures_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"'echo no >&2; exit 3' ended with 3: no"):
            newcomer.walk("echo no >&2; exit 3", tmp_path, cache=True)
        with pytest.raises(ValueError, match="no interactive picture"):
            newcomer.count_pictures(tmp_path / "missing.html")


def test_kept_results_hold_what_chapter_11_reads():
    rows = stored_results("ablations.json")["results"]
    assert set(rows) == set(ABLATIONS)
    assert all(len(row["runs"]) == len(rows["full"]["runs"]) for row in rows.values())
    against = stored_results("reproduce.json")["benchmarks"]["mosi-utterances"]["rows"]["mamba"]["against_full"]
    assert {"difference", "low", "high", "p", "p_holm"} <= set(against["accuracy"])
    with pytest.raises(FileNotFoundError, match="in a clone of the repository"):
        stored_results("nothing.json")
