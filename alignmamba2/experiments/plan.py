"""What is compared on each benchmark, and what is published on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..baselines import matching_width, parameter_count
from ..datasets import Dataset
from ..recipes import Recipe
from .runs import ABLATIONS

FULL = "AlignMamba-2"


@dataclass(frozen=True)
class Published:
    """A number that others report, and where it can be read. Accuracy in %."""

    method: str
    accuracy: float
    source: str
    accuracy_non0: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """A recipe, the baselines that fit its data, what is published, and how its files are brought here."""

    recipe: str
    baselines: Sequence[str]
    published: Sequence[Published] = ()
    how: str = ""


SEQUENCES = ("early-lstm", "late-lstm", "tfn", "lmf", "mult", "transformer", "mamba", "alignmamba-v1")
# One token a step: transporting tokens between steps would mix up the labels, so v1 is left out.
UTTERANCES = ("bc-lstm", "early-lstm", "late-lstm", "tfn", "lmf", "mult", "transformer", "mamba")
PAIRS = ("late-mean", "concat-mean", "tfn", "lmf", "mult", "transformer", "mamba", "alignmamba-v1")

MMSA, BRIEF = "thuiar/MMSA, results/result-stat.md", "arXiv 2603.18462, as this project's brief gives it"
THIRD = "a third party's report; the paper was not at hand"

BENCHMARKS: dict[str, Benchmark] = {
    "mosi": Benchmark(
        "mosi",
        SEQUENCES,
        (
            Published("AlignMamba-2", 87.0, BRIEF),
            Published("AlignMamba v1", 86.9, THIRD),
            Published("TFN", 77.99, MMSA, 79.08),
            Published("MulT", 79.71, MMSA, 80.98),
            Published("MISA", 81.84, MMSA, 83.54),
            Published("Self-MM", 83.44, MMSA, 85.46),
            Published("CENET", 83.53, MMSA, 85.21),
        ),
        "data/README.md says where MMSA's file comes from",
    ),
    "mosei": Benchmark(
        "mosei",
        SEQUENCES,
        (
            Published("AlignMamba-2", 86.5, THIRD),
            Published("TFN", 78.50, MMSA, 81.89),
            Published("MulT", 81.15, MMSA, 84.63),
            Published("MISA", 80.67, MMSA, 84.67),
            Published("Self-MM", 83.76, MMSA, 85.15),
            Published("CENET", 83.52, MMSA, 86.38),
        ),
        "data/README.md says where MMSA's file comes from",
    ),
    "nyu": Benchmark(
        "nyu", PAIRS, (Published("AlignMamba-2", 73.1, BRIEF),), "data/README.md#nyu says where the files come from"
    ),
    "mvsa": Benchmark(
        "mvsa",
        PAIRS,
        (Published("AlignMamba-2", 82.7, BRIEF), Published("QMF", 77.96, THIRD)),
        "data/README.md says where the pictures come from",
    ),
    "mosi-utterances": Benchmark(
        "mosi-utterances-minilm",
        UTTERANCES,
        (
            Published("bc-LSTM", 80.3, "Poria et al., ACL 2017; with the text features as released"),
            Published("contextual inter-modal attention", 82.31, "Ghosal et al., EMNLP 2018; text as released"),
        ),
        "python -m alignmamba2 data fetch mosi-utterances",
    ),
    "emoji": Benchmark("emoji", PAIRS, (), "python -m alignmamba2 data fetch emoji"),
    "mini-mosi": Benchmark("mini-mosi", SEQUENCES),
    "mini-mosei": Benchmark("mini-mosei", SEQUENCES),
    "mini-nyu": Benchmark("mini-nyu", PAIRS),
    "mini-mvsa": Benchmark("mini-mvsa", PAIRS),
}


def benchmark_names(asked: Sequence[str]) -> list[str]:
    """The benchmarks that words on the command line mean: names, "mini-*" or "all".

    Raises
    ------
    ValueError
        Naming the word that means none.
    """
    found: list[str] = []
    for word in asked:
        if word == "all":
            names = list(BENCHMARKS)
        elif word.endswith("*"):
            names = [n for n in BENCHMARKS if n.startswith(word[:-1])]
        else:
            names = [word] if word in BENCHMARKS else []
        if not names:
            raise ValueError(f"benchmark {word!r}: unknown; there are {', '.join(BENCHMARKS)}, 'mini-*' and 'all'")
        found += [n for n in names if n not in found]
    return found


@dataclass(frozen=True)
class Variant:
    """One row of a benchmark's table: a name, its group, and what it changes in the recipe."""

    name: str
    group: str  # "ours", "baseline" or "ablation"
    overrides: Mapping[str, Any]
    note: str = ""


def variants(benchmark: Benchmark, recipe: Recipe, train: Dataset) -> list[Variant]:
    """The recipe itself; each baseline, as wide as makes it as large; each ablation, which changes one thing."""
    fitting = {"modalities": train.modalities, "task": train.task, "n_classes": train.n_classes}
    settings = {**fitting, "readout": train.readout, **recipe.model}
    target = parameter_count(settings)
    rows = [Variant(FULL, "ours", {})]
    for kind in benchmark.baselines:
        note = ""
        try:
            width = matching_width({**settings, "kind": kind}, target)
        except ValueError:
            width, note = settings.get("d_model", 64), "not at equal parameters: its narrowest model is larger"
        rows.append(Variant(kind, "baseline", {"model.kind": kind, "model.d_model": width}, note))
    for name, change in ABLATIONS.items():
        if change:
            rows.append(Variant(name, "ablation", change))
    return rows


def changed(recipe: Recipe, overrides: Mapping[str, Any], fast: bool) -> Recipe:
    """The recipe of a variant; two epochs if `fast`."""
    model = {**recipe.model, **{k.removeprefix("model."): v for k, v in overrides.items()}}
    training = dataclasses.replace(recipe.training, max_epochs=2) if fast else recipe.training
    return dataclasses.replace(recipe, model=model, training=training)
