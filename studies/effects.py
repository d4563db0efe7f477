"""Do the alignment and the experts act? Shares of the gradient, distances, true partners, experts switched off.

For each data set, the recipe is trained once per seed, and told of the model beside an untrained one of the same seed:

- how large the gradient of each alignment loss is beside the task's, on the tokens that are aligned;
- L_OT and L_MMD in prediction, on the validation split;
- where partners are known, the mass that the plans of the test split put on them, over chance;
- how far predictions on the validation split move when an expert is switched off, and the experts' shares;
- with ``--rows``, the results of `reproduce`, with intervals.

The test split is read for partners alone, and for the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alignmamba2.baselines import load_model
from alignmamba2.datasets import Dataset, is_present, load_dataset
from alignmamba2.effects import expert_effects
from alignmamba2.experiments import ABLATIONS, provenance, reproduce
from alignmamba2.experiments.benchmarks import FULL, benchmark_of
from alignmamba2.model import AlignMamba2, FusionModel
from alignmamba2.recipes import Recipe
from alignmamba2.storage.files import write_text
from alignmamba2.training import build, fit, loader, training_notes
from alignmamba2.training.kept_states import prepared

from . import recipe_path
from .partners import partner_masses

NAMES = ("mini-mosi", "mini-mvsa", "mini-nyu", "mosi-words", "mosi-standard", "mvsa", "nyu")
ROWS = (FULL, "linear", "concat-mean", "transformer", "without OT", "without MMD", "without OT and MMD")
ROWS += ("one shared expert only", "modality experts only")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train what is not trained yet, print a line per data set, write the results, return what they hold."""
    parser = argparse.ArgumentParser(prog="python -m studies effects", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", action="store_true", help="also `reproduce` the recipe beside baselines")
    parser.add_argument("--fast", action="store_true", help="two epochs: does it run?")
    parser.add_argument("--folder", type=Path, default=Path("runs/effects"), help="of trained models")
    parser.add_argument("--out", type=Path, default=Path("results/effects.json"))
    arguments = parser.parse_args(argv)
    datasets = json.loads(arguments.out.read_text("utf-8")) if arguments.out.is_file() else {}
    for name in arguments.only:
        recipe = Recipe.load(recipe_path(name), {"training.refit": False})  # validation stays unseen
        if not is_present(recipe.dataset):
            print(f"{name}: data not present")
            continue
        row = effects(recipe, arguments.seeds, arguments.folder, arguments.fast)
        if arguments.rows:
            row["rows"] = _rows(name, arguments)
        datasets[name] = {**row, "measured": provenance(f"python -m studies effects --only {name}")}
        print(f"{name}\n  " + "\n  ".join(_lines(row)), flush=True)
        write_text(arguments.out, json.dumps(datasets, indent=1) + "\n")
    print(f"written: {arguments.out}")
    return datasets


def effects(recipe: Recipe, seeds: Sequence[int], folder: Path, fast: bool = False) -> dict[str, Any]:
    """Return the means over seeds of all that is measured of a recipe, "sd" and "runs"."""
    splits = load_dataset(recipe.dataset, **recipe.data)
    runs = [_run(recipe, seed, splits, folder / recipe.name / f"seed-{seed}", fast) for seed in seeds]
    test = splits["test"]
    return {
        "protocol": test.protocol,
        "synthetic": test.synthetic,
        "seeds": list(seeds),
        **_nested(runs, statistics.mean),
        "sd": _nested(runs, statistics.stdev) if len(runs) > 1 else None,
        "runs": runs,
    }


def models(
    recipe: Recipe, seed: int, splits: Mapping[str, Dataset], folder: Path, fast: bool = False
) -> tuple[FusionModel, FusionModel, dict[str, Any]]:
    """Return the trained model, an untrained one of the same seed, and the notes of the training.

    A model of this recipe that lies in the folder is not trained again.
    """
    if not (folder / "training.json").is_file() or training_notes(folder)["recipe"] != json.loads(
        json.dumps(recipe.to_dict())
    ):
        fit(recipe, seed=seed, datasets=dict(splits), folder=folder, fast=fast, progress=False)
    model, notes = load_model(folder), training_notes(folder)
    torch.manual_seed(seed)
    untrained = build(recipe, splits["train"]).eval()
    if frozen := [m for m, encoder in untrained.encode.items() if encoder.config.train == 0]:
        untrained.set_statistics(prepared(splits["train"], untrained).only(*frozen).statistics())
    return model, untrained, notes


def _run(recipe: Recipe, seed: int, splits: Mapping[str, Dataset], folder: Path, fast: bool) -> dict[str, Any]:
    """What is measured of one seed."""
    model, untrained, notes = models(recipe, seed, splits, folder, fast)
    history, best = notes["history"], notes["history"][notes["best_epoch"]]
    losses = [name for name in ("ot", "mmd") if f"valid/{name}" in best]
    valid = prepared(splits["valid"], model)
    batches = list(loader(valid, 64, neighbours=model.encode.neighbours))
    result = {
        "gradient_share": {n: sum(row[f"train/share/{n}"] for row in history) / len(history) for n in losses},
        **{f"{n}_eval": {"trained": best[f"valid/{n}"], "untrained": history[0][f"untrained/{n}"]} for n in losses},
        "expert_off": expert_effects(model, batches),
        "expert_shares": {"trained": _shares(model, batches), "untrained": _shares(untrained, batches)},
        "valid": {n.removeprefix("valid/"): x for n, x in best.items() if n in ("valid/accuracy", "valid/mae")},
    }
    if splits["test"][0].partners:
        pairs = {
            "trained": partner_masses(model, splits["test"]),
            "untrained": partner_masses(untrained, splits["test"]),
        }
        mean = {n: [sum(x) / len(x) for x in zip(*masses.values(), strict=True)] for n, masses in pairs.items()}
        result["true_partners"] = {**{n: mass for n, (mass, _) in mean.items()}, "chance": mean["trained"][1]}
    return result


def _shares(model: AlignMamba2, batches: Sequence[Any]) -> dict[str, float]:
    """The share of each modality's own experts in the first layer, of the first batch."""
    return {m: float(shares[0]) for m, shares in model.trace(batches[0], scans=False).expert_shares()[0].items()}


def _rows(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `reproduce` reports of the recipe's row and the others, without predictions."""
    benchmark = benchmark_of(name)
    only = [row for row in ROWS if row in {FULL, *benchmark.rows, *benchmark.baselines, *ABLATIONS}]
    folder = arguments.folder / "reproduce"
    report = reproduce([name], arguments.seeds, folder=folder, fast=arguments.fast, only=only, progress=False)
    keep = ("group", "parameters", "test", "interval", "against_full", "only", "noise")
    rows = report["benchmarks"][name]["rows"]
    return {variant: {key: row[key] for key in keep if key in row} for variant, row in rows.items()}


def _nested(values: Sequence[Any], function: Callable[[Sequence[float]], float]) -> Any:
    """A function of the numbers in the same place of several runs, nested as they are."""
    if isinstance(values[0], Mapping):
        return {name: _nested([value[name] for value in values], function) for name in values[0]}
    return function(values)


def _lines(row: Mapping[str, Any]) -> list[str]:
    spread = row["sd"] or {}
    return [f"{name}: {_text(x, spread.get(name))}" for name, x in row.items() if name in row["runs"][0]]


def _text(value: Any, sd: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{n} {_text(x, sd and sd[n])}" for n, x in value.items())
    return f"{value:.3g}" + ("" if sd is None else f" ± {sd:.2g}")
