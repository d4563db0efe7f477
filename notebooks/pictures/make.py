"""Make start.png, the picture in the README: train on the real CMU-MOSI, and photograph what the model learned.

python notebooks/pictures/make.py [--chromium /path/to/chromium]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import torch
from PIL import Image
from plotly.offline import get_plotlyjs

from alignmamba2 import evaluate, figures, fit

RECIPE = "mosi-utterances-minilm"
SIZE = 1560, 1140
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>{plotly}</script><style>
body {{ margin: 0; padding: 20px 28px; background: white; color: #222;
  font-family: "DejaVu Sans", Verdana, sans-serif; }}
h1 {{ font-size: 30px; margin: 0 0 4px; }} p {{ font-size: 17px; color: #555; margin: 0 0 8px; }}
main {{ display: grid; grid-template-columns: 760px 720px; column-gap: 24px; }}
</style><h1>{title}</h1><p>{note}</p><main>{panels}</main>"""


def pictures(seed: int = 0) -> tuple[str, list[go.Figure]]:
    """Train, and draw four pictures of what was learned; with what to say above them."""
    result = fit(RECIPE, seed=seed, overrides={"model.lambda_ot": 1.0, "model.lambda_mmd": 1.0}, progress=False)
    test = result.datasets["test"]
    accuracy = evaluate(result.model, test)["accuracy"]
    trace = result.model.trace(test.batch())
    chosen = next(i for i, sample in enumerate(test) if 8 <= len(sample.words["text"]) <= 12)
    pair = trace.pairs[0]
    plan = figures.plan_of(trace, chosen, pair)
    tokens = figures.tokens_of(trace, random_state=seed)
    clouds = {"before": tokens.before, "after": tokens.after}
    facts = {k: f"{figures.same_modality_neighbours(x, tokens.modality):.0%} own neighbours" for k, x in clouds.items()}
    planes = [figures.umap_2d(cloud, random_state=seed) for cloud in clouds.values()]
    drawn = [
        figures.transport_plan(**plan, partners=torch.arange(len(plan["mass"])), note="one test video"),
        figures.before_after(*planes, tokens.modality, tokens.hover, facts=facts, note="all test videos"),
        figures.mmd_over_epochs(result.history, note="training videos, as the model saw them"),
        figures.expert_shares(trace.expert_shares(), trace.expert_names, note="all test videos"),
    ]
    note = (
        "CMU-MOSI, 93 videos, words, voice and face; both alignment losses weighed 1; "
        f"test accuracy {accuracy:.1%} (seed {seed})"
    )
    return note, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    browser = parser.parse_args().chromium
    if not browser:
        parser.error(f"no browser found; looked for {', '.join(BROWSERS)}. Give one with --chromium")
    note, drawn = pictures()
    for figure, height in zip(drawn, (590, 590, 440, 440), strict=True):
        figure.update_layout(height=height)
    still = {"staticPlot": True}
    panels = "".join(
        f"<div>{pio.to_html(f, include_plotlyjs=False, full_html=False, config=still)}</div>" for f in drawn
    )
    title = "What a model made of words, voice and face"
    target = Path(__file__).with_name("start.png")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "start.html"), Path(folder, "start.png")
        page.write_text(PAGE.format(plotly=get_plotlyjs(), title=title, note=note, panels=panels), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        subprocess.run([browser, *flags, size, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as picture:  # a palette is a third of the size
            picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target)
    print(f"{target}: {target.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
