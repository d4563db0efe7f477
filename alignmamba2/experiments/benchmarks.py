"""What is compared on each benchmark: the model, baselines as large as it, its ablations, and published numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import recipes
from ..baselines import counted, matching_width, parameter_count
from ..datasets import Dataset, similar
from ..model.config import STEPS
from ..recipes import Recipe
from ..training.fitting import settings_of

FULL = "AlignMamba-2"
ALONE = "concat-mean"  # the model of one modality by itself
# Each ablation changes the recipe in one place. "full" is the recipe itself.
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without OT": {"model.lambda_ot": 0.0},
    "without MMD": {"model.lambda_mmd": 0.0},
    "without OT and MMD": {"model.lambda_ot": 0.0, "model.lambda_mmd": 0.0},
    "one shared expert only": {"model.experts": "shared"},
    "modality experts only": {"model.experts": "specific"},
}
# The baselines that fit a kind of data, by the word that a recipe's [benchmark] says.
BASELINES: dict[str, tuple[str, ...]] = {
    "sequences": ("early-lstm", "late-lstm", "tfn", "lmf", "mult", "transformer", "mamba", "alignmamba-v1"),
    # One token a step: transporting tokens between steps would mix up the labels, so v1 is left out.
    "steps": ("bc-lstm", "early-lstm", "late-lstm", "tfn", "lmf", "mult", "transformer", "mamba"),
    "pairs": ("late-mean", "concat-mean", "tfn", "lmf", "mult", "transformer", "mamba", "alignmamba-v1"),
}


@dataclass(frozen=True)
class Benchmark:
    """A recipe, the baselines that fit its data, and what others report: method, accuracy, source, "accuracy_non0".

    `tried` is the number of settings that were tried before the recipe was chosen, if it is known. Further `rows`:
    "linear", a linear model of mean frozen tokens; "alone", each modality by itself; "neighbours", the recipe with
    encoders that read one sample at a time. `equal`: the baselines have as many "stored" parameters as the recipe's
    model, or as many as a token meets there, "active".
    """

    recipe: str
    baselines: Sequence[str]
    published: Sequence[Mapping[str, Any]] = ()
    tried: int | None = None
    rows: Sequence[str] = ()
    equal: str = "stored"


def _benchmark(recipe: str, table: Mapping[str, Any]) -> Benchmark:
    """The benchmark of a recipe's table [benchmark], in which "baselines" is a key of `BASELINES`."""
    published = tuple({"accuracy_non0": None, **row} for row in table.get("published", ()))
    more = {key: table[key] for key in ("tried", "rows", "equal") if key in table}
    return Benchmark(recipe, BASELINES[table["baselines"]], published, **more)


_TABLES = {name: recipes.read(name).get("benchmark") for name in recipes.names()}
# By name, miniatures last.
BENCHMARKS = {table.get("name", name): _benchmark(name, table) for name, table in _TABLES.items() if table is not None}
BENCHMARKS = dict(sorted(BENCHMARKS.items(), key=lambda item: (item[0].startswith("mini-"), item[0])))


def benchmark_of(name: str) -> Benchmark:
    """Return the benchmark of this name, or the one of a recipe's file, or of a data set's name or address."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    return _benchmark(name, recipes.read(name).get("benchmark") or recipes.read(recipes.OWN)["benchmark"])


def benchmark_names(words: Sequence[str]) -> list[str]:
    """Return the benchmarks that words on the command line mean: names as of `benchmark_of`, "mini-*" or "all".

    A `ValueError` names the word that means none.
    """
    names: list[str] = []
    for word in words:
        start = "" if word == "all" else word[:-1] if word.endswith("*") else None
        matching = [n for n in BENCHMARKS if (n == word if start is None else n.startswith(start))]
        if not matching:
            known = f"there are {', '.join(BENCHMARKS)}, 'mini-*' and 'all'{similar(word, BENCHMARKS)}"
            try:
                matching = [word] if benchmark_of(word) else []
            except recipes.RecipeError:
                raise ValueError(f"benchmark {word!r}: unknown; {known} Or give a data set, or a .toml file") from None
        names += [n for n in matching if n not in names]
    return names


@dataclass(frozen=True)
class Variant:
    """One row of a benchmark's table: a name, its group, and what it changes in the recipe."""

    name: str
    group: str  # "ours", "linear", "alone", "baseline" or "ablation"
    overrides: Mapping[str, Any]
    note: str = ""
    modalities: Sequence[str] = ()  # the only ones it sees; all of them if empty


def variants(benchmark: Benchmark, recipe: Recipe, train: Dataset) -> list[Variant]:
    """Return the rows: the recipe itself; each baseline, as wide as makes its fusion as large; each ablation.

    Encoders inside the models are the same in all of them and are not counted.
    """
    settings = counted(settings_of(recipe, train))
    target = parameter_count(settings, active=benchmark.equal == "active")
    rows = [Variant(FULL, "ours", {})]
    if "linear" in benchmark.rows and train.readout not in STEPS:
        rows.append(Variant("linear", "linear", {}, "of mean frozen tokens; its penalty is chosen on validation"))
    if "alone" in benchmark.rows:
        for m in train.modalities:
            alone = {**settings, "modalities": {m: settings["modalities"][m]}, "anchor": m, "kind": ALONE}
            width = matching_width(alone, target)
            changes = {"model.kind": ALONE, "model.d_model": width, "model.anchor": m}
            rows.append(Variant(f"{m} alone", "alone", changes, "its mean token, two layers", (m,)))
    if "neighbours" in benchmark.rows:
        changes = {f"model.encoders.{m}.neighbours": 1 for m in recipe.model["encoders"]}
        rows.append(Variant("without neighbours", "ablation", changes))
    for kind in benchmark.baselines:
        note = ""
        try:
            width = matching_width({**settings, "kind": kind}, target)
        except ValueError:
            width, note = settings.get("d_model", 64), "not at equal parameters: its narrowest model is larger"
        rows.append(Variant(kind, "baseline", {"model.kind": kind, "model.d_model": width}, note))
    return rows + [Variant(name, "ablation", change) for name, change in ABLATIONS.items() if change]
