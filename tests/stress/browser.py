"""A real JupyterLab in a real headless browser: a notebook is opened and run, keys are pressed, the page is asked.

Needs Playwright's Python package and a Chromium that is installed, at $CHROMIUM, on the path, or in /usr/bin; no
browser is downloaded. Used by the tests and by `python -m tests.stress explorers`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKEN = "t"
PATIENCE = 400  # seconds: a cold start on a machine that others use too
READY = "window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'"
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def missing() -> str:
    """What is not here of what a browser test needs, and the command that adds it; empty if nothing is missing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not here: pip install playwright"
    if chromium() is None:
        return "no Chromium here: apt-get install chromium, or name one in $CHROMIUM"
    return ""


def chromium() -> str | None:
    """The path of a Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    candidates = (os.environ.get("CHROMIUM"), *map(shutil.which, names), "/usr/bin/chromium")
    return next((path for path in candidates if path and Path(path).is_file()), None)


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path) -> Iterator[str]:
    """A JupyterLab on `folder`, with settings of its own in `home`; yields its address, and ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    here["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    # numba's caches stay where they are: compiling anew would take a minute.
    environment = {**os.environ, "HOME": str(home), **here}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={folder}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url=", "--expose-app-in-browser"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--allow-root"]
    # All cells stay in the page, whatever is scrolled to; and nobody is asked whether news are wanted.
    for plugin, setting in (
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),
        ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}'),
    ):
        path = home / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(setting, encoding="utf-8")
    with (home / "jupyter.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(server, f"{address}/api/status?token={TOKEN}", home / "jupyter.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for(server: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended at once; {log} says:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not answer within {PATIENCE} s; see {log}")


class Lab:
    """A notebook in JupyterLab in a browser.

    Attributes
    ----------
    page : Playwright's page
    problems : list of str
        Errors of the console and of scripts, so far.
    """

    def __init__(self, page: Any, address: str):
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda m: self.problems.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))

    def run(self, notebook: str, until: str) -> None:
        """Open a notebook, run all of it, and wait for a text that its last cell prints."""
        self.page.goto(f"{self.address}/lab/tree/{notebook}?reset&token={TOKEN}", wait_until="domcontentloaded")
        self.page.wait_for_function(READY)
        self.page.evaluate(
            "() => { window.jupyterapp.commands.execute('application:toggle-left-area').catch(() => 0) }"
        )
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.get_by_text(until, exact=True).last.wait_for(state="attached")

    def panel(self, name: str) -> Any:
        """The output of the cell whose code has this text, scrolled to, its figure drawn."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell", has_text=name).first
        cell.scroll_into_view_if_needed()
        output = cell.locator(".jp-Cell-outputArea")
        output.locator(".js-plotly-plot .main-svg").first.wait_for()
        return output

    @staticmethod
    def data(output: Any) -> str:
        """All numbers of the figure of a panel, as text: to see whether they changed."""
        return output.locator(".js-plotly-plot").first.evaluate(NUMBERS)

    @staticmethod
    def words(output: Any) -> str:
        return output.locator(".alignmamba2-words, .alignmamba2-wrong").last.inner_text()

    def press(self, output: Any, label: str, key: str = "ArrowRight") -> float:
        """Move a slider with the keyboard; returns the ms from the key to the finished picture with other numbers."""
        slider = output.locator(".widget-slider", has_text=label).locator(".noUi-handle").first
        slider.scroll_into_view_if_needed()
        slider.focus()
        plot = output.locator(".js-plotly-plot").first
        plot.evaluate(WATCH)
        self.page.keyboard.press(key)
        plot.evaluate("plot => plot.changed")
        return plot.evaluate("plot => plot.took")


NUMBERS = """plot => JSON.stringify(plot.data.map(t => [t.meta, t.x, t.y, t.z, t.marker && t.marker.color]
    .map(v => ArrayBuffer.isView(v) ? Array.from(v) : v && v._inputArray ? Array.from(v._inputArray) : v)))"""
# The clock begins when the key arrives, and ends in the first frame after Plotly has drawn numbers that differ.
WATCH = """plot => {
    const numbers = %s;
    const before = numbers(plot);
    let start = 0;
    document.addEventListener('keydown', () => { start = performance.now(); }, {once: true, capture: true});
    plot.changed = new Promise((done, fail) => {
        const late = setTimeout(() => fail(new Error('the figure did not change')), %d);
        const look = () => {
            if (!start || numbers(plot) === before) return;
            plot.removeListener('plotly_afterplot', look);
            clearTimeout(late);
            requestAnimationFrame(() => { plot.took = performance.now() - start; done(true); });
        };
        plot.on('plotly_afterplot', look);
    });
    plot.changed.catch(() => 0);
}""" % (NUMBERS, 1000 * PATIENCE)  # noqa: UP031


@contextlib.contextmanager
def lab(folder: Path, home: Path, width: int = 1280, height: int = 900) -> Iterator[Lab]:
    """JupyterLab on a folder, opened in a fresh headless Chromium."""
    from playwright.sync_api import sync_playwright

    with jupyterlab(folder, home) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_OPTIONS), headless=True)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            yield Lab(page, address)
        finally:
            browser.close()


def write_notebook(path: Path, cells: list[str]) -> None:
    """A notebook of these cells."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
