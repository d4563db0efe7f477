"""The notebooks are what their sources say, run without an error, and leave pages that show every figure."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
from html import unescape
from pathlib import Path

import nbformat
import pytest

from tools.build import NotebookError, build_notebook, build_notebooks, with_pictures, with_solutions
from tools.drawings import drawn
from tools.gallery import build_gallery
from tools.notebook_page import FIGURE, FORMULA, PLOTLY, WIDGET
from tools.run import data_set, run_notebook
from tools.syllabus import facts, syllabus, with_tables

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


def text_of(source: Path) -> str:
    return "\n".join(cell.source for cell in build_notebook(source).cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium or Chrome here")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@every_notebook
def test_the_notebook_is_built_from_its_source(source):
    committed = FOLDER / f"{source.stem}.ipynb"
    built = nbformat.writes(build_notebook(source)) + "\n"
    assert committed.read_text("utf-8") == built, "the two differ; run: python -m tools build"


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
    assert not re.search(r"plotly|matplotlib|\boptim(izer)?\b|backward\(", imported), (
        "plotting or training code in a cell"
    )


@every_notebook
def test_the_exercises_are_checked(source):
    cells = [cell for cell in code(build_notebook(source)) if "exercise" in cell.metadata.get("tags", ())]
    assert (1 if source.stem.startswith("00") else 2) <= len(cells) <= 4
    assert all("your turn" in cell.source for cell in cells)
    assert text_of(source).count("<details><summary>A model answer</summary>\n\n") == 1  # of the open exercise


def test_every_notebook_has_a_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


class TestDrawings:
    """The schematics: as their code draws them, each with words for who cannot see it, nothing cut off or covered."""

    def test_they_are_drawn_from_their_code(self):
        made = {path.name: path.read_text("utf-8") for path in (FOLDER / "pictures").glob("*.svg")}
        assert made == drawn(), "the two differ; run: python -m tools drawings"

    def test_each_is_shown_with_words(self):
        shown = set()
        for text in [*map(text_of, SOURCES), (FOLDER.parent / "README.md").read_text("utf-8")]:
            for words, name in re.findall(r"!\[([^\]]*)\]\((?:notebooks/)?pictures/([\w-]+\.svg)\)", text):
                shown.add(name)
                assert len(words) > 60, name
            for name, words in re.findall(r'<img src="pictures/([\w-]+\.svg)" width="\d+"\s+alt="([^"]+)"', text):
                shown.add(name)
                assert words, name
        assert shown == set(drawn())

    def test_a_run_notebook_holds_them(self):
        cell = nbformat.v4.new_markdown_cell('![a scan](pictures/scan.svg) and <img src="pictures/block.svg" alt="">')
        (cell,) = with_pictures(nbformat.v4.new_notebook(cells=[cell]), FOLDER).cells
        found = re.findall(r"data:image/svg\+xml;base64,([^\")]+)", cell.source)
        assert [base64.b64decode(text).decode() for text in found] == [drawn()["scan.svg"], drawn()["block.svg"]]

    @pytest.mark.parametrize("name", sorted(drawn()))
    def test_no_words_are_cut_off_or_covered(self, name, browser):
        view = browser.new_page()
        view.goto((FOLDER / "pictures" / name).as_uri())
        texts, boxes = (
            view.evaluate(
                "s => [...document.querySelectorAll(s)].map(e => [e.getBBox(), e.textContent]).map("
                "([b, t]) => [b.x, b.y, b.x + b.width, b.y + b.height, t])",
                kind,
            )
            for kind in ("text", "rect[rx='8']")
        )
        width, height = view.evaluate("[document.documentElement.viewBox.baseVal].flatMap(b => [b.width, b.height])")
        view.close()
        for left, top, right, bottom, words in texts:
            assert 4 < left < right < width - 4, words
            assert 0 < top < bottom < height, words
            for a, b, c, d, _ in boxes:
                if a < (left + right) / 2 < c and b < (top + bottom) / 2 < d:
                    assert a + 2 < left < right < c - 2, f"{words!r} is wider than its box"
        for one, other in itertools.combinations(texts, 2):
            wide = min(one[2], other[2]) - max(one[0], other[0])
            high = min(one[3], other[3]) - max(one[1], other[1])
            assert wide < 1 or high < 5, f"{one[4]!r} lies on {other[4]!r}"


@pytest.fixture(scope="module")
def page(source, tmp_path_factory) -> Path:
    (entry,) = (e for e in syllabus(FOLDER) if e.stem == source.stem)
    parameters = {"fast": True} | entry.generated
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
            title = figure["layout"]["title"]["text"].partition("<br>")[0]
            assert f'aria-label="{title}' in unescape(html)
        assert (page.parent / PLOTLY).stat().st_size > 1_000_000
        outside = [link for link in re.findall(r'(?:src|href)="(?!#)([^"]*)"', html) if "://" in link]
        assert not [link for link in outside if not link.startswith("https://arxiv.org/")]
        assert page.stat().st_size < 5_000_000
        assert not list(page.parent.glob("*.part"))

    def test_figures_of_synthetic_data_say_so(self, executed):
        first = next(output for cell in code(executed) for output in cell.outputs).text.splitlines()[0]
        # Where the first line names real data beside generated ones, each figure says which it shows.
        kinds = [kind for kind in ("synthetic", "real") if re.search(rf"\b{kind}\b", first)]
        if "synthetic" in kinds:
            for figure in figures_in(executed):
                assert any(kind in str(figure["layout"]["title"]) for kind in kinds)

    def test_formulas_became_mathml(self, page, source):
        html = page.read_text("utf-8")
        assert html.count("<math") == len(FORMULA.findall(text_of(source)))
        assert not re.search(r"FORMULA\d+END|\$\$", html)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_page_opens_in_a_browser(self, page, executed, browser, scheme):
        view = browser.new_page(color_scheme=scheme)
        trouble = []
        view.on("pageerror", lambda error: trouble.append(str(error)))
        view.on("console", lambda line: trouble.append(line.text) if line.type == "error" else None)
        view.on("requestfailed", lambda request: trouble.append(request.url))
        view.goto(page.as_uri())
        shown = len(figures_in(executed))
        drawn = "() => document.querySelectorAll('.js-plotly-plot .main-svg').length"
        view.wait_for_function(f"{drawn[6:]} >= {shown}", timeout=60_000)
        assert view.locator(".js-plotly-plot").count() == shown
        papers = view.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].map(p => p._fullLayout.paper_bgcolor.toUpperCase())"
        )
        paper = {"light": "#FFFFFF", "dark": "#15181C"}[scheme]
        assert set(papers) <= {paper, {"light": "WHITE", "dark": paper}[scheme]}
        view.keyboard.press("p")
        assert view.locator("h1:visible, h2:visible, h3:visible").count() == 1
        view.keyboard.press("ArrowRight")
        assert not view.locator("h1").is_visible()
        view.keyboard.press("Escape")
        assert view.locator("h1").is_visible()
        assert not trouble
        view.close()

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

    def test_the_data_that_a_notebook_used_is_read_from_its_output(self, write, tmp_path):
        run_notebook(write("# %%\nprint('Data set: four numbers, synthetic')\n"), tmp_path / "out")
        assert data_set(tmp_path / "out" / "90_trouble.ipynb") == "Data set: four numbers, synthetic"
        assert data_set(FOLDER / "00_start_here.ipynb") == ""  # not run

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


class TestTheCourse:
    """Tables made from the notebooks, and the site of all of them."""

    def test_readme_shows_what_the_notebooks_say(self):
        readme = (FOLDER / "README.md").read_text("utf-8")
        assert readme == with_tables(readme, syllabus(FOLDER)), "run: python -m tools syllabus --write"

    def test_every_notebook_says_its_question_and_needs_and_is_light(self):
        for entry in syllabus(FOLDER):
            assert entry.question.endswith("?"), entry.stem
            assert entry.needs, entry.stem
            assert 0 < entry.bytes < 100_000, entry.stem
            assert entry.longest_cell <= 25, entry.stem
            assert {"seed", "fast", "interactive"} <= set(entry.parameters), entry.stem
        assert "longest cell" in facts(syllabus(FOLDER))

    def test_where_real_files_can_be_the_data_generated_ones_can_stand_in(self):
        found = {e.stem[:2]: e.generated for e in syllabus(FOLDER) if "dataset" in e.parameters}
        benchmarks = {"07": "mini-mosi", "08": "mini-mosei", "09": "mini-nyu", "10": "mini-mvsa"}
        assert found == {k: {"dataset": v} for k, v in {"00": "mini-mosi", **benchmarks}.items()}

    def test_run_times_are_printed_where_they_were_measured(self):
        entries = syllabus(FOLDER)
        text = facts(entries, {entries[0].stem: 12.4, entries[1].stem: 30.0})
        assert "12 s" in text.splitlines()[1]
        assert text.splitlines()[-1].endswith(" 42 s")

    def test_a_page_without_a_place_for_the_tables_is_refused(self):
        with pytest.raises(ValueError, match="no place for the table 'course'"):
            with_tables("# A page", [])

    def test_links_lead_to_notebooks_that_are_there(self):
        there = {path.stem for path in SOURCES}
        for source in SOURCES:
            assert set(re.findall(r"\]\((\w+)\.ipynb\)", text_of(source))) <= there, source.stem

    def test_every_chapter_ends_with_the_way_to_the_next(self):
        for source, following in itertools.pairwise(SOURCES):
            assert f"({following.stem}.ipynb)" in build_notebook(source).cells[-1].source, source.stem

    def test_the_gallery_has_an_index_and_the_way_on(self, tmp_path):
        folder = tmp_path / "course"
        (folder / "src").mkdir(parents=True)
        for number in ("90", "91"):
            text = f"# question: Why {number}?\n# %% [markdown]\n# # Chapter {number} & more\n#\n# See $x^2$.\n"
            text += '# %% tags=["parameters"]\nseed = 0\n# %%\nprint(seed + 1)\n'
            (folder / "src" / f"{number}_chapter.py").write_text(text, encoding="utf-8")
        seconds = build_gallery(folder, tmp_path / "site", {"seed": 41, "fast": True})
        assert list(seconds) == ["90_chapter", "91_chapter"]
        index = (tmp_path / "site" / "index.html").read_text("utf-8")
        page = (tmp_path / "site" / "90_chapter.html").read_text("utf-8")
        assert 'href="91_chapter.html">Chapter 91 &amp; more</a>' in index
        assert 'href="91_chapter.html">91 Chapter 91 &amp; more →</a>' in page
        assert '<a href="index.html">' in page
        assert "<math" in page
        assert "42" in page
