"""Every explorer in a real JupyterLab in a headless Chromium: opened, moved with the keyboard, looked at.

Screenshots are left in runs/browser/. Skipped, visibly, where there is no browser.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from alignmamba2 import fit
from alignmamba2.explorers.panel import NARROWEST, WIDEST
from alignmamba2.figures import style
from alignmamba2.launch import END, write_explorers
from tests.stress import browser

PICTURES = Path(__file__).parents[1] / "runs" / "browser"
# The code that makes a panel, a file name, the slider to move, and what the words then say.
PANELS = {
    "data": ("DataExplorer(", "sample", "test, sample test-001"),
    "sample": ("SampleExplorer(", "sample", "Sample test-001"),
    "transport": ("TransportExplorer.of_model(", "ε", "ε = 0.1"),
    "points": ("TransportExplorer.of_points(", "to the right", "Blue point"),
    "discrepancy": ("DiscrepancyExplorer.of_model(", "bandwidth", "MMD²"),
    "routing": ("RoutingExplorer(", "sample", "Sample test-001"),
    "scan": ("ScanExplorer()", "step size", "input"),
    "scan-layer": ("ScanExplorer(run", "decay", "channel 0"),
    "embedding": ("EmbeddingExplorer(", "highlight sample", "of test-000"),
    "comparison": ("ComparisonExplorer(", "study", "Study 2: "),
    "scaling": ("ScalingExplorer(", "tokens", "at 2,048 tokens"),
}
# Cells beside those that `write_explorers` writes.
COMPARISON = "from notebooks.course.comparison import ComparisonExplorer\n\nComparisonExplorer(3, 100)"
SCALING = """from notebooks.course.scaling import ScalingExplorer

ScalingExplorer(
    [64, 512, 4096], {"time": {"linear": [1, 8, 64], "square": [0.1, 6.4, 410]}},
    units={"time": "ms"}, at=1024, note="made up",
)"""
LIVE = """from alignmamba2 import fit

live = explorers.TrainingMonitor("mae", epochs=2, note="mini-mosi, synthetic")
display(live)
result = fit("mini-mosi", fast=True, progress=False, callbacks=[live])"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
    pytest.mark.xdist_group("browser"),  # one server and one run of the notebook for all
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One server, one notebook with all explorers, run once."""
    folder = tmp_path_factory.mktemp("browser")
    fit("mini-mosi", seed=0, fast=True, progress=False, folder=folder / "model")
    path = write_explorers(folder / "model", folder / "lab")
    notebook = json.loads(path.read_text("utf-8"))
    for name, source in {"comparison": COMPARISON, "scaling": SCALING, "live": LIVE}.items():
        cell = {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None}
        notebook["cells"].insert(-1, {**cell, "source": source})
    path.write_text(json.dumps(notebook), encoding="utf-8")
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    with browser.lab(folder / "lab", folder / "home") as lab:
        lab.run(path.name, END)
        # While UMAP compiles itself beside, the kernel hardly answers.
        lab.page.wait_for_function("t => document.body.innerText.includes(t)", arg="Select points with the mouse")
        yield lab


def test_no_picture_is_empty(lab):
    """Before anything is touched: a figure can be there, and be white."""
    drawn = (
        "plots => plots.map(p => [p._fullData.length, p.layout.title.text, p._fullLayout.height === p.layout.height])"
    )
    found = lab.page.locator(".js-plotly-plot").evaluate_all(drawn)
    assert len(found) == len(PANELS) + 2
    assert all(traces > 1 and title and fits for traces, title, fits in found), found


def place(plot, trace: str, point: int) -> list[float]:
    """Where a point of a trace lies on the page, and its numbers."""
    return plot.evaluate(
        """(plot, [meta, i]) => {
            const t = plot._fullData.find(t => t.meta === meta), box = plot.getBoundingClientRect();
            const x = plot._fullLayout['xaxis' + t.xaxis.slice(1)], y = plot._fullLayout['yaxis' + t.yaxis.slice(1)];
            return [box.left + x._offset + x.d2p(t.x[i]), box.top + y._offset + y.d2p(t.y[i]), t.x[i], t.y[i]];
        }""",
        [trace, point],
    )


def stroke(lab, places, held: str = "true") -> None:
    """Press the mouse at the first place, once `held` is so in the page; carry it over the others, and let go.

    A browser joins moves that come within a frame: each must have been seen before the next.
    """
    page = lab.page
    page.evaluate(
        """() => {
            window.seen = [-1, -1];
            document.addEventListener('pointermove', e => { window.seen = [e.clientX, e.clientY]; }, true);
        }"""
    )
    for i, place in enumerate(places):
        page.mouse.move(*place)
        page.wait_for_function("([x, y]) => Math.hypot(window.seen[0] - x, window.seen[1] - y) < 1", arg=list(place))
        if not i:
            page.wait_for_function(held)
            page.mouse.down()
    page.mouse.up()


@pytest.mark.parametrize("trace", ["from", "to"])
def test_a_point_is_dragged_with_the_mouse(lab, trace):
    panel = lab.panel("TransportExplorer.of_points(")
    plot = panel.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    left, top, x, y = place(plot, trace, 3)
    grab = "[...document.querySelectorAll('.nsewdrag')].some(layer => layer.style.cursor === 'grab')"
    stroke(lab, [(left + 6 * step, top + 4 * step) for step in range(6)], held=grab)
    there = "([plot, meta, x]) => plot._fullData.find(t => t.meta === meta).x[3] > x + 0.05"
    lab.page.wait_for_function(there, arg=[plot.element_handle(), trace, x])
    *_, moved_y = place(plot, trace, 3)
    assert moved_y < y  # down on the page
    panel.screenshot(path=PICTURES / f"points-dragged-{trace}.png")


def selected(plot) -> list[list[list[int]]]:
    """The points that are bright: of each panel, of each modality."""
    return plot.evaluate(
        """plot => ['before', 'after'].map(side => ['text', 'audio', 'video'].map(
            m => plot._fullData.find(t => t.meta === `${side} ${m}`).selectedpoints))"""
    )


def amid(plot, trace: str) -> int:
    """The point of a trace that lies nearest to the middle of its panel."""
    return plot.evaluate(
        """(plot, meta) => {
            const t = plot._fullData.find(t => t.meta === meta);
            const middle = axis => axis.range.map(Number).reduce((a, b) => a + b) / 2;
            const [x, y] = ['x', 'y'].map(k => plot._fullLayout[`${k}axis` + t[`${k}axis`].slice(1)]);
            const away = [...t.x].map((_, i) => Math.hypot(x.d2p(t.x[i]) - x.d2p(middle(x)),
                y.d2p(t.y[i]) - y.d2p(middle(y))));
            return away.indexOf(Math.min(...away));
        }""",
        trace,
    )


@pytest.mark.parametrize("trace", ["before text", "after video", "before video"])
def test_tokens_selected_with_the_mouse_are_named(lab, trace):
    """With a lasso, one after the other, while the pointer hovers over points and leaves them."""
    panel = lab.panel("EmbeddingExplorer(")
    plot = panel.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    point, before = amid(plot, trace), lab.words(panel)
    left, top, *_ = place(plot, trace, point)
    stroke(lab, [(left + x, top + y) for x, y in ((-25, -25), (0, -25), (25, -25), (25, 25), (-25, 25), (-25, -20))])
    side, m = trace.split()
    both = """([panel, plot, m, i, before]) =>
        [...panel.querySelectorAll('.alignmamba2-words')].at(-1)?.innerText !== before && ['before', 'after'].every(
            side => plot._fullData.find(t => t.meta === `${side} ${m}`).selectedpoints?.includes(i))"""
    lab.page.wait_for_function(both, arg=[panel.element_handle(), plot.element_handle(), m, point, before])
    one, other = selected(plot)
    assert one == other
    assert f"Highlighted: {sum(map(len, one))} tokens of" in lab.words(panel)
    assert panel.locator(".alignmamba2-samples b").count()
    panel.screenshot(path=PICTURES / f"embedding-selected-{side}.png")


@pytest.mark.parametrize("name", PANELS)
def test_a_slider_moved_with_the_keyboard_changes_the_figure(lab, name):
    code, slider, said = PANELS[name]
    panel = lab.panel(code)
    before, took = lab.words(panel), lab.press(panel, slider)
    lab.page.wait_for_function("t => document.body.innerText.includes(t)", arg=said)
    assert lab.words(panel) != before
    assert said in lab.words(panel)
    assert took > 0
    panel.screenshot(path=PICTURES / f"{name}.png")


def test_a_modality_is_switched_off_with_the_keyboard(lab):
    panel = lab.panel("SampleExplorer(")
    box = panel.locator(".widget-checkbox", has_text="audio").locator("input")
    box.focus()
    lab.page.keyboard.press("Space")
    lab.page.wait_for_function("t => document.body.innerText.includes(t)", arg="without audio it moved by")
    assert "without audio it moved by" in lab.words(panel)
    panel.screenshot(path=PICTURES / "sample-without-audio.png")


def test_the_monitor_draws_a_training(lab):
    panel = lab.panel("live = explorers")
    assert lab.words(panel).startswith("Epoch 1: task loss")
    drawn = panel.locator(".js-plotly-plot").first.evaluate(
        "plot => plot.data.find(t => t.meta === 'train/task').x.length"
    )
    assert drawn == 2
    panel.screenshot(path=PICTURES / "training.png")


# Of what a figure draws, the texts that are not wholly in its picture, which may be scrolled in a narrow cell.
CUT_OFF = """plots => plots.flatMap(plot => {
    const box = plot.querySelector('.main-svg').getBoundingClientRect(), title = plot.layout.title.text.slice(0, 40);
    const texts = [...plot.querySelectorAll('text')].filter(t => t.textContent && t.getBoundingClientRect().width);
    return texts.filter(t => { const b = t.getBoundingClientRect(); return b.left < box.left - 1
        || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
    }).map(t => `${title}: ${t.textContent}`);
})"""


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [600, 900, 1280, 1920])
def test_panels_fit_their_cell_and_follow_the_theme(lab, width, theme):
    page, paper = lab.page, style.IN_THE_DARK[style.PAPER] if theme == "Dark" else style.PAPER
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    # Each figure has been told: as wide as its widget, if that is neither too narrow nor too wide.
    page.wait_for_function(
        """([paper, low, high]) => [...document.querySelectorAll('.js-plotly-plot')].every(plot => {
            const room = Math.floor(plot.parentElement.clientWidth), layout = plot._fullLayout;
            const as_wide = Math.abs(layout.width - Math.min(Math.max(room, low), high)) < 2;
            return as_wide && layout.paper_bgcolor.toUpperCase() === paper;
        })""",
        arg=[paper, NARROWEST, WIDEST],
    )
    plots = page.locator(".js-plotly-plot")
    assert plots.evaluate_all(CUT_OFF) == []
    for i in range(plots.count()):
        plots.nth(i).screenshot(path=PICTURES / f"{width}-{theme.lower()}-{i:02d}.png")


def test_nothing_went_wrong_anywhere(lab):
    """No error in the console, in a script, in a cell, or inside a widget."""
    assert not lab.problems
    page = lab.page
    error, warning = (f"[data-mime-type='application/vnd.jupyter.{k}']" for k in ("error", "stderr"))
    for name in (".alignmamba2-wrong", error, warning):
        found = page.locator(f".jp-Notebook {name}")
        assert [found.nth(i).inner_text() for i in range(found.count())] == [], name
    panels = page.locator(".js-plotly-plot")
    assert panels.count() == len(PANELS) + 2
    assert os.listdir(PICTURES)
