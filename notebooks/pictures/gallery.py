"""Draw every family of figures from models trained here, as pictures and pages, light and dark.

python -m notebooks.pictures.gallery FOLDER [--epochs 12] [--only scan plans] [--pages]

The sequences are the real CMU-MOSI where its files are (python -m alignmamba2 data fetch mosi-utterances), else
mini-mosi; where true partners are needed it is mini-mosi, synthetic. The pictures with patches show a photograph that
scikit-learn brings, its brightness in the place of a depth map, and words for colours: no model has seen them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

import alignmamba2 as am
import studies.datasets  # registers spoken-reviews
from alignmamba2 import figures
from alignmamba2.alignment import permutation_test, witness
from alignmamba2.datasets import is_present

REAL = "mosi-utterances-minilm"
SPOKEN = "spoken-reviews"  # synthetic speech of real sentences: when each word is said is known
SPOKEN_RECIPE = str(studies.recipe_path(SPOKEN))
EPOCHS = [12]
Drawn = Iterator[tuple[str, go.Figure]]


@cache
def trained(name: str):
    """(fit result, test split, its trace, how the data are called)."""
    settings = {
        REAL: {"model.lambda_ot": 1.0, "model.lambda_mmd": 1.0, "training.max_epochs": EPOCHS[0]},
        # With mini-mosi's weights of L_OT: the recipe's hardly align, and that is the figures' subject.
        SPOKEN_RECIPE: {"model.lambda_ot": 1.0, "model.fixed_anchor": True, "training.max_epochs": EPOCHS[0]},
    }.get(name, {})
    result = am.fit(name, overrides=settings, progress=False)
    test = result.datasets["test"]
    note = f"{test.name}, synthetic" if test.synthetic else f"{test.name}, test videos"
    return result, test, result.model.trace(test.batch()), note


def real():
    return trained(REAL if is_present("mosi-utterances") else "mini-mosi")


def middling(test, low: int = 8, high: int = 12) -> int:
    """The first sample of a length that fits a picture."""
    return next((i for i, s in enumerate(test) if low <= len(s.words["text"]) <= high), 0)


def transport() -> Drawn:
    spoken = [trained(SPOKEN_RECIPE)] if is_present(SPOKEN) else []
    for _result, test, trace, note in (real(), trained("mini-mosi"), *spoken):
        i, pair = middling(test), trace.pairs[0]
        partners = test[i].partners.get(pair)
        plan = figures.plan_of(trace, i, pair)
        yield f"plan-{test.name}", figures.transport_plan(**plan, partners=partners, note=note)


def patches() -> Drawn:
    from sklearn.datasets import load_sample_image

    photo, (rows, columns) = load_sample_image("china.jpg")[:420:2, :640:2], (7, 10)
    note = "a photograph, not a model's"
    blocks = photo.reshape(rows, photo.shape[0] // rows, columns, photo.shape[1] // columns, 3)
    colour = torch.tensor(blocks.mean((1, 3)).reshape(-1, 3) / 255).float()
    grey = colour @ torch.tensor([0.3, 0.59, 0.11])
    place = torch.cartesian_prod(torch.arange(rows) / rows, torch.arange(columns) / columns)
    both = [torch.cat([side.reshape(-1, 1), 0.3 * place], 1) for side in (grey, grey**0.8)]
    mass = am.transport(both[0][None], both[1][None], cost="sqeuclidean", epsilon=0.001, max_iterations=5000).plan[0]
    size = (rows, columns)
    yield "patches", figures.patch_links(mass, photo, photo.mean(2), size, names=("rgb", "depth"), note=note)
    words = {"sky": (0.85, 0.9, 0.95), "mist": (0.6, 0.65, 0.65), "roof": (0.4, 0.3, 0.27), "trees": (0.2, 0.22, 0.15)}
    prototypes = torch.tensor(list(words.values()))
    mass = am.transport(
        colour[None], prototypes[None], cost="sqeuclidean", method="unbalanced", marginal_penalty=0.05, epsilon=0.01
    ).plan[0]
    mass = mass / mass.sum()
    yield "words-on-picture", figures.words_on_picture(mass, photo, size, list(words), note=note)
    yield "one-word-on-picture", figures.words_on_picture(mass, photo, size, list(words), word=3, note=note)


def discrepancy() -> Drawn:
    result, test, trace, note = real()
    i, names = middling(test, 18, 40), trace.pairs[0]
    x, y = (trace.projected[m][i][trace.masks[m][i]] for m in names)
    sigmas, values, bands = np.geomspace(0.3, 60, 24), {}, {}
    for pair in trace.pairs:
        a, b = (trace.projected[m][i][trace.masks[m][i]][None] for m in pair)
        tests = [permutation_test(a, b, bandwidth=float(s), estimator="biased", permutations=200) for s in sigmas]
        values["-".join(pair)] = [float(one.statistic) for one in tests]
        if pair == names:
            null = np.array([one.null[0].numpy() for one in tests])
            bands["-".join(pair)] = np.quantile(null, (0.05, 0.95), axis=1)
    distances = torch.cdist(torch.cat([x, y]), torch.cat([x, y]))
    median = float(distances[distances > 0].median())
    one = f"{note}, {test[i].id}"
    yield "mmd-bandwidth", figures.mmd_by_bandwidth(sigmas, values, bands=bands, note=one)
    kernel = torch.exp(-(distances**2) / (2 * median**2))
    yield "kernel", figures.kernel_matrix(kernel, [names[0]] * len(x) + [names[1]] * len(y), note=one)
    x, y = (trace.projected[m][trace.masks[m]] for m in names)
    centre, step = (x.mean(0) + y.mean(0)) / 2, torch.nn.functional.normalize(x.mean(0) - y.mean(0), dim=0)
    along = {name: (cloud - centre) @ step for name, cloud in zip(names, (x, y), strict=True)}
    ends = torch.cat(list(along.values()))
    at = torch.linspace(float(ends.min()), float(ends.max()), 121)
    votes = witness((centre + at[:, None] * step)[None], x[None], y[None], bandwidth=median)[0]
    yield "witness", figures.witness_curve(at, votes, along, note=note)
    yield "mmd-epochs", figures.mmd_over_epochs(result.history, note=f"{test.name}, training split")


def routing() -> Drawn:
    _result, _test, trace, note = real()
    yield "expert-shares", figures.expert_shares(trace.expert_shares(), trace.expert_names, note=note)


def gates() -> Drawn:
    overrides = {"model.routing": "gated", "model.n_shared": 2, "training.max_epochs": EPOCHS[0]}
    result = am.fit("mini-mosi", overrides=overrides, progress=False)
    trace = result.model.trace(result.datasets["test"].batch(), scans=False)
    yield "gate-flow", figures.gate_flow(trace, note="mini-mosi, synthetic")


def scan() -> Drawn:
    for _result, test, trace, note in (real(), trained("mini-mosi")):
        i = middling(test)
        one = f"{note}, {test[i].id}"
        yield f"scan-steps-{test.name}", figures.scan_steps(trace.scan(i), note=one)
        yield f"scan-influence-{test.name}", figures.scan_influence(trace.scan(i), note=one)
        classes = ["negative", "positive"] if test.task == "classification" else []
        yield f"attribution-{test.name}", figures.attribution_bars(trace.attribution(i), classes=classes, note=one)


def embedding() -> Drawn:
    _, _, trace, note = real()
    tokens = figures.tokens_of(trace, most=1200)
    planes = [figures.umap_2d(cloud) for cloud in (tokens.before, tokens.after)]
    near = {
        k: f"{figures.same_modality_neighbours(cloud, tokens.modality):.0%} own neighbours"
        for k, cloud in (("before", tokens.before), ("after", tokens.after))
    }
    rest = {"modality": tokens.modality, "hover": tokens.hover, "note": note}
    yield "embedding", figures.before_after(*planes, **rest, facts=near, landmarks=8)
    label = tokens.label
    if trace.logits is not None:
        label = np.array(["negative", "positive"])[label.astype(int)]
    yield "embedding-label", figures.before_after(*planes, **rest, by=label, by_name="label")


def training() -> Drawn:
    result, test, _, _ = real()
    monitor = result.recipe.training.monitor
    best = "min" if monitor.endswith(("loss", "mae")) else "max"
    yield "losses", figures.losses(result.history, metric=monitor, best=best, note=test.name)
    path = Path(__file__).parents[2] / "results" / "ablations.json"
    ablations = json.loads(path.read_text("utf-8"))["results"]
    values = {name: [run["test"]["accuracy"] for run in rows["runs"]] for name, rows in ablations.items()}
    yield "scores", figures.scores(values, metric="test accuracy", note="CMU-MOSI, results/ablations.json")


def efficiency() -> Drawn:
    lengths, seconds = (128, 256, 512, 1024, 2048), {"Mamba layer": [], "self-attention": []}
    for length in lengths:
        x = torch.randn(1, length, 64)
        layer, modality = am.ModalityAwareMamba(("a", "b"), 64), torch.arange(length) % 2
        attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)
        calls: dict[str, Callable] = {
            "Mamba layer": lambda layer=layer, x=x, m=modality: layer(x, m),
            "self-attention": lambda a=attention, x=x: a(x, x, x, need_weights=True),
        }
        for name, call in calls.items():
            times = []
            with torch.no_grad():
                for _ in range(6):
                    start = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - start)
            seconds[name].append(min(times[1:]))
    note = "one forward pass, width 64, this machine; a sketch, not a benchmark"
    yield "efficiency", figures.against_length(lengths, {"time": seconds}, units={"time": "seconds"}, note=note)


FAMILIES = (transport, patches, discrepancy, routing, gates, scan, embedding, training, efficiency)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=[], help="of: " + ", ".join(f.__name__ for f in FAMILIES))
    parser.add_argument("--pages", action="store_true", help="also .html")
    options = parser.parse_args()
    EPOCHS[0] = options.epochs
    torch.manual_seed(0)
    for family in FAMILIES:
        if options.only and family.__name__ not in options.only:
            continue
        for name, figure in family():
            for dark in (False, True):
                figures.save(figure, options.folder / f"{name}{'-dark' * dark}.png", dark=dark, scale=1)
            if options.pages:
                figures.save(figure, options.folder / f"{name}.html")
            print(f"{name}: {figures.describe(figure)}")


if __name__ == "__main__":
    main()
