"""Make start.png, the picture in the README: what alignment and experts do in two models, beside untrained ones.

python -m notebooks.pictures.make [--folder runs/effects] [--chromium /path/to/chromium]

Above mini-mosi, which is synthetic, below the words of the real CMU-MOSI; of both the true partners are known. Models
that `python -m studies effects` left in the folder are not trained again. All is of the test split as a whole, or of
the validation split: no single utterance is shown.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from PIL import Image
from plotly.offline import get_plotlyjs

from alignmamba2 import AlignMamba2, Dataset, figures, load_dataset
from alignmamba2.figures.style import LIGHT, QUIET, look, titled
from alignmamba2.recipes import Recipe
from studies import recipe_path
from studies.effects import models

ROWS = {  # title of a row, and the name of its recipe
    "mini-mosi, synthetic": "mini-mosi",
    "CMU-MOSI, real, word by word (229 utterances)": "mosi-words",
}
PAIR, REACH, SEED = ("audio", "text"), 6, 0
SIZE = 1560, 1010
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>{plotly}</script><style>
body {{ margin: 0; padding: 20px 28px; background: white; color: #222;
  font-family: "DejaVu Sans", Verdana, sans-serif; }}
h1 {{ font-size: 26px; margin: 8px 0 0; }}
main {{ display: grid; grid-template-columns: repeat(3, 500px); }}
</style>{rows}"""


def by_distance(model: AlignMamba2, test: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a sound's mass that go to the word at each distance from the true one, and of an even spread."""
    trace = model.trace(test.batch(), scans=False)
    mass, even, sounds = np.zeros(2 * REACH + 1), np.zeros(2 * REACH + 1), 0
    for i, sample in enumerate(test):
        plan, partners = figures.plan_of(trace, i, PAIR)["mass"], sample.partners[PAIR].numpy()
        for row, partner in zip(plan / plan.sum(1, keepdims=True), partners, strict=True):
            away = np.arange(len(row)) - partner
            near = (partner >= 0) & (abs(away) <= REACH)
            np.add.at(mass, away[near] + REACH, row[near])
            np.add.at(even, away[near] + REACH, 1 / len(row))
            sounds += partner >= 0
    return mass / sounds, even / sounds


def plans(trained: AlignMamba2, untrained: AlignMamba2, test: Dataset) -> go.Figure:
    places = np.arange(-REACH, REACH + 1)
    (mass, even), (before, _) = by_distance(trained, test), by_distance(untrained, test)
    figure = go.Figure()
    colour = look(PAIR[0]).colour
    for name, values, line in (
        ("trained", mass, {"color": colour, "width": 4}),
        ("untrained", before, {"color": QUIET, "dash": "dash", "width": 2}),
        ("an even spread", even, {"color": LIGHT, "dash": "dot", "width": 2}),
    ):
        figure.add_trace(go.Scatter(x=places, y=values, mode="lines", name=name, line=line))
    figure.update_xaxes(title="words from the true one", dtick=2)
    figure.update_yaxes(title="share of mass", tickformat=".0%", rangemode="tozero")
    return titled(figure, "Where transport takes a sound", f"all test samples; on the true word: {mass[REACH]:.0%}")


def distances(history: list) -> go.Figure:
    """The MMD on the validation split, the untrained model before the first epoch."""
    figure = go.Figure()
    for modality in ("audio", "video"):
        name = f"mmd/{modality}-text"
        values = [history[0][f"untrained/{name}"], *(row[f"valid/{name}"] for row in history)]
        line, epochs = look(modality).line(), list(range(-1, len(history)))
        figure.add_trace(go.Scatter(x=epochs, y=values, mode="lines", name=f"{modality} ↔ text", line=line))
    figure.update_xaxes(title="epoch (−1: untrained)")
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    return titled(figure, "MMD between the modalities", "validation split, in prediction")


def shares(trained: AlignMamba2, untrained: AlignMamba2, test: Dataset) -> go.Figure:
    """Shares of the modalities' own experts in what the experts of the first layer add."""
    own, new = (
        {m: float(share[0]) for m, share in model.trace(test.batch(), scans=False).expert_shares()[0].items()}
        for model in (trained, untrained)
    )
    figure = go.Figure(go.Bar(x=list(own), y=list(own.values()), marker_color=[look(m).colour for m in own], width=0.5))
    figure.update_yaxes(title="share", tickformat=".0%", range=[0, 0.5])
    note = f"all test samples; the rest is the shared expert's; untrained: {max(new.values()):.0%}"
    return titled(figure, "What a modality's own expert adds", note)


def row(name: str, folder: Path) -> list[go.Figure]:
    """The three pictures of a data set."""
    recipe = Recipe.load(recipe_path(name), {"training.refit": False})  # as `studies effects` trains it
    data = load_dataset(recipe.dataset, **recipe.data)
    trained, untrained, notes = models(recipe, SEED, data, folder / recipe.name / f"seed-{SEED}")
    test = data["test"]
    return [plans(trained, untrained, test), distances(notes["history"]), shares(trained, untrained, test)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/effects"))
    parser.add_argument("--chromium", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    arguments = parser.parse_args()
    if not arguments.chromium:
        parser.error(f"no browser found; looked for {', '.join(BROWSERS)}. Give one with --chromium")
    still, rows = {"staticPlot": True}, ""
    for title, name in ROWS.items():
        drawn = row(name, arguments.folder)
        for figure in drawn:
            figure.update_layout(height=430, width=500)
        pages = (pio.to_html(f, include_plotlyjs=False, full_html=False, config=still) for f in drawn)
        rows += f"<h1>{title}</h1><main>{''.join(f'<div>{page}</div>' for page in pages)}</main>"
    target = Path(__file__).with_name("start.png")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "start.html"), Path(folder, "start.png")
        page.write_text(PAGE.format(plotly=get_plotlyjs(), rows=rows), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        command = [arguments.chromium, *flags, f"--window-size={SIZE[0]},{SIZE[1]}"]
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as picture:  # a palette is a third of the size
            picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target)
    print(f"{target}: {target.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
