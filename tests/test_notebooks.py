"""The notebooks are what their sources say, run without an error, and leave pages that show every figure."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import nbformat
import pytest

from alignmamba2.pages import (
    FIGURE,
    PLOTLY,
    WIDGET,
    NotebookError,
    build_notebook,
    build_notebooks,
    run_notebook,
    with_solutions,
)

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("src/*.py"))
# One worker runs all tests of one notebook, so that it is executed once.
GROUPED = [pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(path.stem)) for path in SOURCES]
every_notebook = pytest.mark.parametrize("source", GROUPED, scope="module")


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures_in(notebook: nbformat.NotebookNode) -> list[dict]:
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output["data"][FIGURE] for output in outputs if FIGURE in output.get("data", {})]


@every_notebook
def test_the_notebook_is_built_from_its_source(source):
    committed = FOLDER / f"{source.stem}.ipynb"
    built = nbformat.writes(build_notebook(source)) + "\n"
    assert committed.read_text("utf-8") == built, "the two differ; run: python -m alignmamba2 build"


@every_notebook
def test_the_conventions_hold(source):
    notebook = build_notebook(source)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 25
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    (parameters,) = (cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", ()))
    assert {"seed", "fast", "interactive"} <= set(re.findall(r"^(\w+) = ", parameters.source, re.MULTILINE))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for section in ("your prediction", "Parameters", "picture of the data", "by hand", "library's version"):
        assert section in text
    for section in ("panel to play with", "What to notice", "Exercises", "Recap"):
        assert section in text
    imported = "\n".join(cell.source for cell in code(notebook))
    assert not re.search(r"plotly|matplotlib|optim|backward\(", imported), "plotting or training code in a cell"


@every_notebook
def test_the_exercises_are_checked(source):
    cells = [cell for cell in code(build_notebook(source)) if "exercise" in cell.metadata.get("tags", ())]
    if source.stem.startswith("00"):
        pytest.skip("the start notebook's exercises are open questions")
    assert 2 <= len(cells) <= 4
    assert all("your turn" in cell.source for cell in cells)


def test_every_notebook_has_a_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@pytest.fixture(scope="module")
def page(source, tmp_path_factory) -> Path:
    parameters = {"fast": True}
    if "dataset =" in source.read_text("utf-8"):
        parameters["dataset"] = "mini-mosi"
    return run_notebook(source, tmp_path_factory.mktemp("run"), parameters, solutions=True)


@pytest.fixture(scope="module")
def executed(page) -> nbformat.NotebookNode:
    return nbformat.read(page.with_suffix(".ipynb"), as_version=4)


@pytest.mark.slow
@every_notebook
class TestARun:
    """Fast, on generated data, with the exercises solved; and its page."""

    def test_no_cell_failed_and_all_ran(self, executed):
        outputs = [output for cell in code(executed) for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert all(cell.execution_count for cell in code(executed))
        assert "widgets" not in executed.metadata

    def test_the_first_output_says_which_data(self, executed):
        first = next(output for cell in code(executed) for output in cell.outputs)
        assert first.text.startswith("Data set: ")

    def test_every_exercise_is_solved(self, executed):
        for cell in code(executed):
            if "exercise" in cell.metadata.get("tags", ()):
                verdict = cell.outputs[-1]["data"]["text/plain"]
                assert verdict.startswith("✓"), verdict

    def test_the_page_holds_every_figure_and_asks_nothing_of_the_network(self, page, executed):
        html = page.read_text("utf-8")
        shown = figures_in(executed)
        assert len(shown) >= 2
        assert html.count("Plotly.newPlot(") == len(shown)
        for figure in shown:
            assert f'aria-label="{escape(figure["layout"]["title"]["text"], quote=True)}"' in html
        assert (page.parent / PLOTLY).stat().st_size > 1_000_000
        outside = [link for link in re.findall(r'(?:src|href)="(?!#)([^"]*)"', html) if "://" in link]
        assert not [link for link in outside if not link.startswith("https://arxiv.org/")]
        assert page.stat().st_size < 5_000_000
        assert not list(page.parent.glob("*.part"))

    def test_figures_of_synthetic_data_say_so(self, executed):
        first = next(output for cell in code(executed) for output in cell.outputs)
        if "synthetic" in first.text.splitlines()[0]:
            assert all("synthetic" in figure["layout"]["title"]["subtitle"]["text"] for figure in figures_in(executed))

    def test_a_panel_stands_in_the_page_as_a_figure(self, executed):
        outputs = [output.get("data", {}) for cell in code(executed) for output in cell.outputs]
        panels = [data for data in outputs if WIDGET in data]
        assert panels
        assert all(FIGURE in data for data in panels)


@every_notebook
def test_unknown_parameters_are_refused(source, tmp_path):
    with pytest.raises(NotebookError, match=r"unknown parameters \['sede'\].*seed"):
        run_notebook(source, tmp_path, {"sede": 1})
    assert not list(tmp_path.iterdir())


class TestTrouble:
    """What goes wrong is said with the cell's name."""

    @pytest.fixture
    def write(self, tmp_path):
        path = tmp_path / "src" / "90_trouble.py"
        path.parent.mkdir()

        def write(text: str) -> Path:
            path.write_text(text, encoding="utf-8")
            return path

        return write

    def test_a_failing_cell_is_named_and_nothing_is_left(self, write, tmp_path):
        source = write("# %%\nx = 1\n\n# %%\nshare = x / 0\n")
        with pytest.raises(NotebookError, match=r"90_trouble.py: the cell “share = x / 0” failed: ZeroDivisionError"):
            run_notebook(source, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())

    def test_an_error_inside_a_widget_is_found(self, write, tmp_path):
        source = write(
            "# %%\nimport ipywidgets\n\npanel = ipywidgets.Output()\nwith panel:\n    raise KeyError('lost')\npanel\n"
        )
        with pytest.raises(NotebookError, match="error in a widget: KeyError: 'lost'"):
            run_notebook(source, tmp_path / "out")

    def test_an_exercise_without_a_check_is_refused(self, write):
        source = write('# %% tags=["exercise"]\ndef f():\n    return None  # your turn\n')
        with pytest.raises(NotebookError, match=r'the exercise “def f\(\):” must end in check\("NN.K", answer\)'):
            with_solutions(build_notebook(source))

    def test_code_before_the_first_cell_is_refused(self, write):
        with pytest.raises(NotebookError, match="code before the first"):
            build_notebook(write("x = 1\n# %%\ny = 2\n"))

    def test_the_builder_keeps_text_code_and_tags(self, write, tmp_path):
        write('# a comment\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %% tags=["parameters"]\nseed = 0\n')
        build_notebooks(tmp_path)
        notebook = nbformat.read(tmp_path / "90_trouble.ipynb", as_version=4)
        text, cell = notebook.cells
        assert text.source == "# Title\n\nText."
        assert (cell.source, cell.metadata.tags, cell.id) == ("seed = 0", ["parameters"], "90-trouble-01")
