"""The exercises: solutions pass, stubs and typical mistakes do not, and a verdict says what is wrong, how far off."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from alignmamba2.experiments.benchmarks import FULL
from notebooks import course
from notebooks.course import check, check_parameters, exercises, hint
from notebooks.course.checking import TODO, WRONG, compare
from notebooks.course.exercise import Chapter
from notebooks.course.parameters import KINDS
from notebooks.course.results import BENCHMARKS, differences, measured
from tools.build import EXERCISE, build_notebook

SOURCES = sorted((Path(__file__).parents[1] / "notebooks" / "src").glob("*.py"))
ALL = exercises()
MISTAKES = [(name, i) for name, exercise in ALL.items() for i in range(len(exercise.mistakes))]


def exercise_cells() -> dict[str, str]:
    """The code of every exercise cell of the notebooks, by the exercise's name."""
    cells = {}
    for source in SOURCES:
        for cell in build_notebook(source).cells:
            if "exercise" in cell.metadata.get("tags", ()):
                found = EXERCISE.search(cell.source)
                assert found, f"{source.name}: an exercise cell must end in check(...)\n{cell.source}"
                assert found["name"].partition(".")[0] == source.stem[:2], source.name
                cells[found["name"]] = cell.source
    return cells


CELLS = exercise_cells()


def run_cell(code: str) -> dict:
    """Run an exercise cell alone; it may use nothing but these."""
    names = {"torch": torch, "np": np, "math": math}
    names["check"] = lambda name, answer: names.__setitem__("verdict", check(name, answer))
    exec(code, names)
    return names


class TestParameters:
    """What papermill injects, against what the notebook's own cell has."""

    OWN = "seed = 0\nfast = False\ninteractive = True\n"

    def names(self, injected: str) -> dict:
        names = {"In": ["", self.OWN, f"# Parameters\n{injected}"]}
        exec(self.OWN + injected, names)
        return names

    @pytest.mark.parametrize("injected", ["", "seed = 3", "fast = True\ninteractive = False"])
    def test_what_the_notebook_has_is_taken(self, injected):
        check_parameters(self.names(injected))

    @pytest.mark.parametrize(
        ("injected", "words"),
        [
            ("sead = 3", "parameter 'sead': this notebook has no such parameter; it has fast, interactive, seed"),
            ("epochs = 3", "parameter 'epochs': this notebook has no such parameter"),
            ("fast = 'false'", "parameter 'fast': found 'false' (str); expected True or False"),
            ("interactive = 0", "parameter 'interactive': found 0 (int); expected True or False"),
            ("seed = True", "parameter 'seed': found True (bool); expected a whole number"),
            ("seed = 1.5", "parameter 'seed': found 1.5 (float); expected a whole number"),
            ("seed = -1", "parameter 'seed': found -1 (int); expected a whole number"),
        ],
    )
    def test_anything_else_is_refused_by_name(self, injected, words):
        with pytest.raises(ValueError, match=re.escape(words)):
            check_parameters(self.names(injected))

    def test_names_of_later_cells_are_no_parameters(self):
        names = self.names("seed = 3")
        names["In"].append("%time\nx = 1")
        names["In"].append("epochs = [1, 2]")
        check_parameters(names)

    @pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])
    def test_every_chapter_checks_them_first(self, source):
        cells = [cell for cell in build_notebook(source).cells if cell.cell_type == "code"]
        at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ()))
        own = set(re.findall(r"^(\w+) = ", cells[at].source, re.MULTILINE))
        assert own <= set(KINDS)
        lines = [line for line in cells[at + 1].source.splitlines() if line and not re.match(r"import |from ", line)]
        assert at == 0
        assert lines[0] == "check_parameters(globals())"


def test_notebooks_and_chapters_have_the_same_exercises():
    assert sorted(CELLS) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
class TestEveryExercise:
    def test_the_solution_is_right_on_any_seed(self, name):
        for seed in range(5):
            assert check(name, course.solution(name), seed), check(name, course.solution(name), seed)

    def test_the_stub_in_the_notebook_is_refused(self, name):
        assert run_cell(CELLS[name])["verdict"].status == TODO

    def test_the_solution_runs_in_the_place_of_the_stub(self, name):
        answer = EXERCISE.search(CELLS[name])["answer"]
        solved = run_cell(f"{ALL[name].source(answer)}\ncheck({name!r}, {answer})")
        assert solved["verdict"]

    def test_it_has_hints_and_mistakes(self, name):
        assert ALL[name].hints
        assert ALL[name].mistakes

    def test_what_is_no_answer_is_refused(self, name):
        nothing = [None, ...] + ([lambda *_: None] if callable(ALL[name].solution) else [])
        assert [check(name, answer).status for answer in nothing] == [TODO] * len(nothing)
        assert [check(name, answer).status for answer in ("?", [1, 2], {})] == [WRONG] * 3


@pytest.mark.parametrize(("name", "i"), MISTAKES)
def test_typical_mistakes_are_refused_and_named(name, i):
    mistake = ALL[name].mistakes[i]
    for seed in range(3):
        verdict = check(name, mistake.answer, seed)
        assert verdict.status == WRONG
        assert mistake.message in verdict.message


@pytest.fixture
def chapter() -> Chapter:
    chapter = Chapter("99")

    @chapter.exercise(1, inputs=lambda draw: (torch.randn(4, 6, generator=draw), 2.0), hints=["One.", "Two."])
    def scale(x, by):
        """x (T, d) → (T, d)."""
        return x * by

    @chapter.exercise(2, inputs=lambda draw: (torch.rand(3, generator=draw),), hints=["Both."])
    def extremes(x):
        return x.min(), x.max()

    chapter.value(3, 0.25, hints=["A quarter."])
    chapter.mistake(3, "That is three quarters.")(0.75)
    chapter.value(4, "b", hints=["Not a."])
    chapter.mistake(4, "No: a is a vowel.")("a")
    return chapter


def say(chapter: Chapter, number: int, answer) -> str:
    verdict = compare(chapter.exercises[f"99.{number}"], answer)
    assert not verdict
    return verdict.message


class TestVerdicts:
    """Wrong answers that nobody listed: the message says what and how far."""

    def test_right_answers_of_any_numeric_kind(self, chapter):
        answers = [lambda x, by: (x * by).numpy(), lambda x, by: (x * by).tolist(), lambda x, by: x.double() * by]
        assert all(compare(chapter.exercises["99.1"], answer) for answer in answers)
        assert compare(chapter.exercises["99.2"], lambda x: (float(x.min()), x.max()))
        assert compare(chapter.exercises["99.3"], torch.tensor(0.2501))
        assert compare(chapter.exercises["99.4"], " B ")

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda x, by: -x * by, "wrong sign"),
            (lambda x, by: 3 * x * by, "every number is 3 times what it should be"),
            (lambda x, by: x * by + 0.5, "every number is 0.5 too large"),
            (lambda x, by: (x * by).T, r"found shape \(6, 4\), expected \(4, 6\). It is the transpose"),
            (lambda x, by: (x * by)[0], r"found shape \(6,\), expected \(4, 6\)$"),
            (lambda x, by: x * by / 0, "24 of 24 numbers are NaN or infinite"),
            (lambda x, by: x * by + 0.5 * torch.eye(4, 6), r"off by up to 0.5 at \[\d, \d\].*83% of the numbers"),
            (lambda x, by: x.mul_(by), "changes its argument 'x'"),
            (lambda x, by: x @ x, r"raised RuntimeError: .*\(for x \(4, 6\), by = 2\)"),
            (lambda x: x, "raised TypeError"),
            (lambda x, by: "two", "found str; expected numbers"),
            (lambda x, by: (x, by), "it returns 2 things; expected 1"),
            (torch.ones(4, 6), "found Tensor; expected a function"),
        ],
    )
    def test_what_is_wrong_with_a_function(self, chapter, answer, message):
        assert re.search(message, say(chapter, 1, answer))

    def test_which_of_several_outputs(self, chapter):
        assert "output 2 of 2" in say(chapter, 2, lambda x: (x.min(), x.mean()))

    def test_what_is_wrong_with_a_value(self, chapter):
        assert "0.5 is too large; 2 times" in say(chapter, 3, 0.5)
        assert "three quarters" in say(chapter, 3, 0.75)
        assert "expected a number" in say(chapter, 3, "a quarter")
        assert "vowel" in say(chapter, 4, "A")
        assert "none of the choices" in say(chapter, 4, "x")

    def test_unfinished_work_is_not_wrong(self, chapter):
        def later(x, by):
            raise NotImplementedError

        verdict = compare(chapter.exercises["99.1"], later)
        assert verdict.status == TODO
        assert "hint('99.1')" in verdict.message

    def test_a_verdict_shows_itself(self, chapter):
        verdict = compare(chapter.exercises["99.1"], lambda x, by: "<b>")
        assert repr(verdict).startswith("✗ 99.1: ")
        assert "✗ 99.1" in verdict._repr_html_()


def test_hints_come_one_by_one_and_end_in_the_solution(capsys, monkeypatch):
    monkeypatch.setattr(course, "_asked", {})
    name = next(iter(ALL))
    printed = []
    for _ in range(len(ALL[name].hints) + 2):
        hint(name)
        printed.append(capsys.readouterr().out)
    for i, text in enumerate(ALL[name].hints):
        assert text in printed[i]
        assert f"hint {i + 1} of" in printed[i]
    assert ALL[name].source() in printed[-2] == printed[-1]


@pytest.mark.parametrize("name", ["04.9", "98.1", "four"])
def test_unknown_exercises_are_named(name):
    for ask in (lambda: check(name, 1), lambda: hint(name)):
        with pytest.raises(ValueError, match=rf"exercise '{name}': unknown; (chapter 04 has 04\.1|there are chapters)"):
            ask()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_difference_is_ours_less_theirs(name):
    table, drawn = measured(name), differences(name).data[0]
    accuracy = table["accuracy"].str.partition(" ")[0].astype(float)
    assert list(drawn.y) == [f"{row}, {recipe}" for recipe, row in table.index if row != FULL]
    for (recipe, row), less in table["AlignMamba-2 less it"].items():
        if row != FULL:
            there = drawn.x[drawn.y.index(f"{row}, {recipe}")]
            assert there == pytest.approx(accuracy[recipe, FULL] - accuracy[recipe, row], abs=0.11)
            middle, low, high = map(float, re.findall(r"[+-][\d.]+", less))
            assert low <= middle <= high
            assert middle == pytest.approx(there, abs=0.051)
