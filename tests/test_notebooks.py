"""The notebooks are what their sources say, run without an error, and leave pages that show every figure."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from alignmamba2.pages import FIGURE, PLOTLY, NotebookError, build_notebook, build_notebooks, run_notebook

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("src/*.py"))
START = FOLDER / "00_start_here.ipynb"

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem, scope="module")


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures_in(notebook: nbformat.NotebookNode) -> list[dict]:
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output["data"][FIGURE] for output in outputs if FIGURE in output.get("data", {})]


def test_the_notebook_is_built_from_its_source(source):
    committed = FOLDER / f"{source.stem}.ipynb"
    built = nbformat.writes(build_notebook(source)) + "\n"
    assert committed.read_text("utf-8") == built, "the two differ; run: python -m alignmamba2 build"


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


def test_every_notebook_has_a_source(source):
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@pytest.fixture(scope="module")
def page(source, tmp_path_factory) -> Path:
    return run_notebook(
        FOLDER / f"{source.stem}.ipynb", tmp_path_factory.mktemp("run"), {"fast": True, "dataset": "mini-mosi"}
    )


@pytest.fixture(scope="module")
def executed(page) -> nbformat.NotebookNode:
    return nbformat.read(page.with_suffix(".ipynb"), as_version=4)


@pytest.mark.slow
class TestARun:
    """On generated data, in seconds: two epochs, and a page."""

    def test_no_cell_failed_and_all_ran(self, executed):
        outputs = [output for cell in code(executed) for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert all(cell.execution_count for cell in code(executed))
        assert "widgets" not in executed.metadata

    def test_the_first_output_says_which_data(self, executed):
        first = next(output for cell in code(executed) for output in cell.outputs)
        assert first.text.startswith("Data set: mini-mosi, synthetic")

    def test_the_page_holds_every_figure_and_asks_nothing_of_the_network(self, page, executed):
        html = page.read_text("utf-8")
        shown = figures_in(executed)
        assert len(shown) >= 7
        assert html.count("Plotly.newPlot(") == len(shown)
        for figure in shown:
            assert f'aria-label="{figure["layout"]["title"]["text"]}"' in html
        assert (page.parent / PLOTLY).stat().st_size > 1_000_000
        assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', html) == [PLOTLY]
        assert page.stat().st_size < 5_000_000
        assert not list(page.parent.glob("*.part"))

    def test_every_figure_says_synthetic(self, executed):
        assert all("synthetic" in figure["layout"]["title"]["subtitle"]["text"] for figure in figures_in(executed))

    def test_the_panel_stands_in_the_page_with_a_slider_of_its_own(self, executed):
        panels = [figure for figure in figures_in(executed) if figure.get("frames")]
        assert panels
        assert len(panels[0]["layout"]["sliders"][0]["steps"]) == len(panels[0]["frames"])


def test_unknown_parameters_are_refused(source, tmp_path):
    with pytest.raises(NotebookError, match=r"unknown parameters \['sede'\].*seed"):
        run_notebook(source, tmp_path, {"sede": 1})
    assert not list(tmp_path.iterdir())


class TestTrouble:
    """What goes wrong is said with the cell's name."""

    @pytest.fixture
    def write(self, source, tmp_path):
        if source != SOURCES[0]:
            pytest.skip("once is enough")
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
