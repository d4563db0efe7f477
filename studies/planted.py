"""Is found what is planted, and nothing where nothing is? Small synthetic worlds, each built to need one part or none.

Alignment. A sentence is read and heard; its label is the sum of its words' polarities. Text tells them plainly. Sound
tells them too, among nuisances that are louder together and more than there are labels: 80 labels teach to hear less
well than 800 words do that are read and heard. Tested with all that there is, and without the text.

    late           Every word is heard up to twelve words late, and thus in another order.
    prompt         It is heard at once: the i-th sound is the i-th word's.
    strangers      What is heard is another sentence: there is nothing to align.

    aligned        L_OT and L_MMD.               unaligned      Neither.
    mispaired      The losses take each text with the sound of another sample of the batch (the label sees true pairs):
                   the same losses and weights, and no partners. Aligned against mispaired is what partners make of
                   them, mispaired against unaligned what they do without.
    by share       L_OT and L_MMD, weighed so that the gradient of each is as large as the task's on the tokens.
    in order       For L_OT, the mean cost of the i-th sound to the i-th word: right where nothing is late.

For `late`, the share of their mass that the plans of the test split put on true partners is reported too (see
`python -m studies partners`).

Experts. At each step a word in every one of eight modalities, of the same codes and equally often. The label of a step
is the sum of what its words count. All modalities share the map from features to tokens; a scale and a shift after it
are all that tells a token's modality before the experts.

    eight languages  A word counts something else in each modality.
    one language     It counts the same: experts have nothing to tell apart.

    experts          A shared one and each modality's own.
    shared           One expert, equally wide, so at the same cost a token.
    wider            One expert, as wide as makes it as large as all experts together.

    expert FFN       One linear map for all, and behind it an FFN of one shared expert and each modality's own.
    one FFN          The same with one FFN, as wide as the two experts that a token meets (`active`), or as all together
                     (`stored`).

A gain in one language is none of what modalities differ in, so a row says what remains of the gain in eight without it.

Clans. A token belongs to one of four clans, whose place is written beside four numbers; two modalities have tokens of
all clans. The label of a step is the sum over both of the product of two directions of these numbers.

    four clans       Each clan has two directions of its own.
    one clan         All have the same: a gate has nothing to tell apart.

    gate             Of four experts in an FFN, a gate asks two.
    plain FFN        One, as wide as two of these experts (`active`), or as all (`stored`).

For the gate, the normalised mutual information of a token's expert and its clan is reported too, before and after
training.

In `nothing` each sample has another one's label: nobody has anything to find.

Every world has a seed of its own, for data, weights and order, and all models of a world share it. The epoch is chosen
on the validation split. L_OT can settle on wrong partners, so of sound's worlds every model, aligned or not, is trained
from two seeds, and the one that is better on the validation split counts. Sizes, λ and widths were chosen on other
worlds; there, with nuisances half as loud again, L_OT found wrong partners and the error grew: it needs sound that can
be heard a little before. What is reported is the difference of mean absolute errors on the test split, positive where
the part helps: mean over worlds, 95 % interval and p of Student's t, corrected for the number of rows (Holm).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F

from alignmamba2.alignment.losses import TransportLoss
from alignmamba2.batch import Sample
from alignmamba2.datasets import Dataset
from alignmamba2.effects import expert_effects
from alignmamba2.experiments import provenance, write_results
from alignmamba2.experiments.reproduction import examine
from alignmamba2.metrics import holm
from alignmamba2.model import AlignMamba2
from alignmamba2.recipes import Recipe
from alignmamba2.storage.files import write_text
from alignmamba2.training import fit
from alignmamba2.training.fitting import build

from .partners import agreement, best

RECIPE = "mini-mosi"
SIZES = {"heard": {"train": 80, "valid": 60, "test": 240}, "languages": {"train": 250, "valid": 50, "test": 150}}
SMALL = {"model.n_layers": 1, "model.d_state": 4, "model.dropout": 0.0, "model.direction": "forward"}
SMALL |= {"model.lambda_ot": 0.0, "model.lambda_mmd": 0.0}
HEARD = {**SMALL, "model.d_model": 16, "model.modality_dropout": 0.3, "model.fixed_anchor": True}
HEARD |= {"training.batch_size": 20, "training.max_epochs": 80, "training.patience": 80}
ALIGNING = {**HEARD, "model.lambda_ot": 10.0, "model.lambda_mmd": 10.0}
NARROW = {**SMALL, "model.d_model": 6, "model.readout": "per_step", "training.learning_rate": 0.02}
NARROW |= {"training.batch_size": 25, "training.max_epochs": 40, "training.patience": 40}
GATE = {**NARROW, "model.d_model": 8, "model.expand": 1, "model.experts": "shared"}

WORDS, CONCEPT, LATE = 30, 8, 12
NUISANCES, LOUDNESS = 200, 2.0
LANGUAGES, VOCABULARY, CODE, STEPS = 8, 24, 4, 8
CLANS = 4


def heard(world: int, late: int = LATE, strangers: bool = False) -> dict[str, Dataset]:
    """Sentences as text, and as sound that comes up to `late` words late or, of `strangers`, from another sentence.

    A word is a concept, a unit vector of 8 numbers, and a polarity; either modality carries both through a linear map,
    sound together with louder nuisances. The label is the sum of polarities over the root of 20/3, about their spread.
    """
    rng = np.random.default_rng([world, 0])
    concepts = rng.standard_normal((WORDS, CONCEPT))
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    polarity = np.repeat((1.0, -1.0, 0.0), WORDS // 3)
    words = np.concatenate([concepts, polarity[:, None]], 1)
    text = rng.standard_normal((CONCEPT + 1, 16)) / np.sqrt(CONCEPT)
    sound = rng.standard_normal((CONCEPT + 1 + NUISANCES, CONCEPT + NUISANCES)) / np.sqrt(CONCEPT)

    def sample(rng: np.random.Generator) -> Sample:
        read = rng.integers(WORDS, size=rng.integers(8, 13))
        arrival = np.arange(len(read)) + rng.integers(0, late + 1, len(read))
        order = np.argsort(arrival, kind="stable")
        spoken = rng.integers(WORDS, size=len(read)) if strangers else read[order]
        nuisance = LOUDNESS * np.sqrt(2 / NUISANCES) * rng.standard_normal((len(read), NUISANCES))
        features = {"text": words[read] @ text, "audio": np.concatenate([words[spoken], nuisance], 1) @ sound}
        label = polarity[read].sum() / np.sqrt(20 / 3)
        partners = {} if strangers else {("audio", "text"): torch.from_numpy(order)}
        return Sample(_noisy(features, rng), torch.tensor(float(label)), partners=partners)

    return _splits(world, "heard", "mean", sample)


def languages(world: int, same: bool = False) -> dict[str, Dataset]:
    """Sequences of the same words' codes, one a modality; a word counts something else in each, or the `same`."""
    rng = np.random.default_rng([world, 0])
    codes = rng.standard_normal((VOCABULARY, CODE))
    codes *= np.sqrt(CODE) / np.linalg.norm(codes, axis=1, keepdims=True)
    counts = rng.standard_normal((LANGUAGES, VOCABULARY))
    counts -= counts.mean(1, keepdims=True)
    counts /= counts.std(1, keepdims=True)
    if same:
        counts[:] = counts[0]

    def sample(rng: np.random.Generator) -> Sample:
        spoken = rng.integers(VOCABULARY, size=(LANGUAGES, STEPS))
        features = {"abcdefgh"[i]: codes[w] for i, w in enumerate(spoken)}
        label = np.take_along_axis(counts, spoken, 1).sum(0) / np.sqrt(LANGUAGES)
        return Sample(_noisy(features, rng), torch.from_numpy(label).float())

    return _splits(world, "languages", "per_step", sample)


def clans(world: int, same: bool = False) -> dict[str, Dataset]:
    """Tokens of four clans in two modalities; each clan, or all if `same`, multiplies two directions of its own."""
    rng = np.random.default_rng([world, 0])
    places = np.linalg.qr(rng.standard_normal((CLANS, CLANS)))[0]
    directions = np.stack([np.linalg.qr(rng.standard_normal((CODE, CODE)))[0][:2] for _ in range(CLANS)])
    if same:
        directions[:] = directions[0]

    def sample(rng: np.random.Generator) -> Sample:
        features, words, label = {}, {}, np.zeros(STEPS)
        for m in "ab":
            clan, meaning = rng.integers(CLANS, size=STEPS), rng.standard_normal((STEPS, CODE))
            features[m] = np.concatenate([places[clan], meaning], 1)
            words[m] = tuple(str(c) for c in clan)
            label += np.einsum("tkc,tc->tk", directions[clan], meaning).prod(1) / np.sqrt(2)
        return Sample(_noisy(features, rng), torch.from_numpy(label).float(), words=words)

    return _splits(world, "languages", "per_step", sample)


def _noisy(features: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, Tensor]:
    return {m: torch.from_numpy(x + 0.1 * rng.standard_normal(x.shape)).float() for m, x in features.items()}


def _splits(world: int, kind: str, readout: str, sample: Callable[[np.random.Generator], Sample]) -> dict[str, Dataset]:
    splits = {}
    for number, (split, size) in enumerate(SIZES[kind].items(), start=1):
        rng = np.random.default_rng([world, number])
        splits[split] = Dataset(
            name=kind,
            split=split,
            protocol=f"synthetic, seed {world}",
            description="synthetic: see `python -m studies planted --help`",
            synthetic=True,
            task="regression",
            n_classes=1,
            readout=readout,
            samples=[dataclasses.replace(sample(rng), id=f"{split}-{i}") for i in range(size)],
        )
    return splits


def mislabelled(splits: Mapping[str, Dataset], world: int) -> dict[str, Dataset]:
    """The same samples, each with another one's label."""
    mixed = {}
    for number, (name, dataset) in enumerate(splits.items()):
        order = np.random.default_rng([world, 9, number]).permutation(len(dataset)).tolist()
        labels = dataset.labels
        samples = [dataclasses.replace(s, label=labels[i]) for s, i in zip(dataset.samples, order, strict=True)]
        mixed[name] = dataclasses.replace(dataset, samples=samples)
    return mixed


class InOrderLoss(TransportLoss):
    """Mean cost 1 − cos of the i-th token of x to the i-th of y; both have equally many."""

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(x, y, dim=-1))[x_mask & y_mask].mean()


def mispair(model: AlignMamba2) -> None:
    """Let the losses, and nothing else, meet each anchor with the next sample's others: batches are in random order."""

    def shifted(align: nn.Module, inputs: tuple[Mapping[str, Tensor], ...]) -> tuple[dict[str, Tensor], ...]:
        return tuple({m: x if m == model.config.anchor else x.roll(1, 0) for m, x in of.items()} for of in inputs)

    model.align.register_forward_pre_hook(shifted)


def keep_order(model: AlignMamba2) -> None:
    model.align.transport_loss = InOrderLoss(**model.align.transport_loss.options)


def share_projection(model: AlignMamba2) -> None:
    """One map from features to tokens for all modalities; each keeps the scale and shift of its own norm."""
    first = next(iter(model.project.values())).linear
    for projection in model.project.values():
        projection.linear = first


def share_maps(model: AlignMamba2) -> None:
    """One projection and one linear map for all modalities: linear deviations stay at 0."""
    share_projection(model)
    for projection in (p for layer in model.layers for p in (layer.in_proj, layer.out_proj)):
        projection.specific.requires_grad_(False)


def share_all(model: AlignMamba2) -> None:
    """The same, and one expert in the FFN."""
    share_maps(model)
    for ffn in model.ffns:
        ffn.specific, ffn.top_k = nn.ModuleList(), 1


class Change:
    """Change is a callback that changes a part of the model once it is built; all other weights are the seed's."""

    def __init__(self, change: Callable[[AlignMamba2], None]):
        self.change = change

    def on_start(self, model: AlignMamba2, epochs: int) -> None:
        self.change(model)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model: overrides of the recipe, and what is changed in it before it is trained; the best of some tries."""

    overrides: Mapping[str, Any]
    change: Callable[[AlignMamba2], None] | None = None
    tries: int = 1  # trainings from seeds of their own, the best on the validation split counts


VARIANTS = {
    "aligned": Variant(ALIGNING, tries=2),
    "mispaired": Variant(ALIGNING, mispair, tries=2),
    "in order": Variant(ALIGNING, keep_order, tries=2),
    "by share": Variant({**ALIGNING, "model.share_ot": 1.0, "model.share_mmd": 1.0}, tries=2),
    "unaligned": Variant(HEARD, tries=2),
    "experts": Variant(NARROW, share_projection),
    "shared": Variant({**NARROW, "model.experts": "shared"}, share_projection),
    "wider": Variant({**NARROW, "model.experts": "shared", "model.d_model": 15}, share_projection),
}
VARIANTS |= {
    "expert FFN": Variant({**NARROW, "model.ffn": 1.0}, share_maps),
    "one FFN, active": Variant({**NARROW, "model.ffn": 2.0}, share_all),
    "one FFN, stored": Variant({**NARROW, "model.ffn": LANGUAGES + 1.0}, share_all),
    "gate": Variant({**GATE, "model.ffn": 0.5, "model.ffn_routing": "gated", "model.ffn_top_k": 2}),
    "plain FFN, active": Variant({**GATE, "model.ffn": 1.0}),
    "plain FFN, stored": Variant({**GATE, "model.ffn": 2.0}),
}
CONSTANT = "a constant"  # the training labels' median, whatever comes
WORLDS: dict[str, Callable[[int], dict[str, Dataset]]] = {
    "late": heard,
    "prompt": functools.partial(heard, late=0),
    "strangers": functools.partial(heard, strangers=True),
    "eight languages": languages,
    "one language": functools.partial(languages, same=True),
    "four clans": clans,
    "one clan": functools.partial(clans, same=True),
    "nothing to hear": lambda world: mislabelled(heard(world), world),
    "nothing to say": lambda world: mislabelled(languages(world), world),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """Two variants (or `CONSTANT`) on one kind of world."""

    world: str
    part: str
    other: str
    only: tuple[str, ...] = ()  # the modalities that are there when testing; all of them if empty

    @property
    def title(self) -> str:
        return f"{self.world}: {self.part} against {self.other}" + (", tested without text" if self.only else "")


SOUND = ("audio",)
QUESTIONS = (
    Question("late", "aligned", "unaligned"),
    Question("late", "aligned", "unaligned", SOUND),
    Question("late", "aligned", "mispaired"),
    Question("late", "aligned", "mispaired", SOUND),
    Question("late", "mispaired", "unaligned"),
    Question("late", "aligned", "in order", SOUND),
    Question("late", "by share", "unaligned", SOUND),
    Question("prompt", "aligned", "unaligned", SOUND),
    Question("prompt", "aligned", "in order", SOUND),
    Question("strangers", "aligned", "unaligned"),
    Question("strangers", "aligned", "unaligned", SOUND),
    Question("eight languages", "experts", "shared"),
    Question("eight languages", "experts", "wider"),
    Question("one language", "experts", "shared"),
    Question("one language", "experts", "wider"),
    *(
        Question(world, "expert FFN", f"one FFN, {size}")
        for world in ("eight languages", "one language")
        for size in ("active", "stored")
    ),
    *(
        Question(world, "gate", f"plain FFN, {size}")
        for world in ("four clans", "one clan")
        for size in ("active", "stored")
    ),
    Question("nothing to hear", "aligned", "unaligned"),
    Question("nothing to hear", "aligned", CONSTANT),
    Question("nothing to say", "experts", "shared"),
)
# Rows of differences between two questions: what the first planted thing gives beyond the second.
BEYOND = {
    "late less prompt: aligned against in order, tested without text": (
        "late: aligned against in order, tested without text",
        "prompt: aligned against in order, tested without text",
    ),
    **{
        f"eight languages less one: experts against {other}": (
            f"eight languages: experts against {other}",
            f"one language: experts against {other}",
        )
        for other in ("shared", "wider")
    },
    **{
        f"eight languages less one: expert FFN against one FFN, {size}": (
            f"eight languages: expert FFN against one FFN, {size}",
            f"one language: expert FFN against one FFN, {size}",
        )
        for size in ("active", "stored")
    },
}


@dataclasses.dataclass(frozen=True)
class Found:
    """Of one world: errors with the part and without it, a question each; mass on true partners over chance; how much
    experts that a gate chose tell of clans; and the change of predictions without a modality's expert, on average."""

    errors: list[dict[str, float]]
    partners: dict[str, float]
    clans: dict[str, float]
    effects: dict[str, float]


def measure(world: int, fast: bool) -> Found:
    """Train all that the questions need in this world, and test it."""
    torch.set_num_threads(1)
    made = {kind: make(world) for kind, make in WORLDS.items()}
    trained: dict[tuple[str, str], AlignMamba2] = {}

    def model(kind: str, name: str) -> AlignMamba2:
        if (kind, name) not in trained:
            variant, models = VARIANTS[name], []
            options = {"overrides": variant.overrides, "datasets": made[kind], "fast": fast, "progress": False}
            for number in range(variant.tries):
                changes = [Change(variant.change)] if variant.change else []
                models.append(fit(RECIPE, seed=1000 * number + world, callbacks=changes, **options).model)
            valid = made[kind]["valid"]
            trained[kind, name] = min(models, key=lambda candidate: examine(candidate, valid, ())[0]["mae"])
        return trained[kind, name]

    def error(kind: str, name: str, only: tuple[str, ...]) -> float:
        if name == CONSTANT:
            middle = torch.stack(list(made[kind]["train"].labels)).median()
            return float((torch.stack(list(made[kind]["test"].labels)) - middle).abs().mean())
        return examine(model(kind, name), made[kind]["test"], only)[0]["mae"]

    errors = [{"with": error(q.world, q.part, q.only), "without": error(q.world, q.other, q.only)} for q in QUESTIONS]
    test = made["late"]["test"]
    names = ("aligned", "by share", "in order", "mispaired", "unaligned")
    partners = {name: agreement(model("late", name), test)["audio"] for name in names}
    torch.manual_seed(world)
    new = build(Recipe.load(RECIPE, VARIANTS["gate"].overrides), made["four clans"]["train"])
    told = {"untrained": clans_told(new, made["four clans"]["test"])}
    told |= {kind: clans_told(model(kind, "gate"), made[kind]["test"]) for kind in ("four clans", "one clan")}
    effects = {}
    for kind in ("eight languages", "one language"):
        of = expert_effects(model(kind, "expert FFN"), [made[kind]["test"].batch()])
        effects[kind] = float(np.mean([of[m] for m in made[kind]["test"].modalities]))
    return Found(errors, {**partners, "most": best(test, ("audio", "text"))}, told, effects)


def kept(world: int, folder: Path, fast: bool) -> Found:
    """Return the findings of `measure`, read from the folder where these sources have measured the world before."""
    sources = hashlib.sha256((provenance("")["source_sha256"] + Path(__file__).read_text("utf-8")).encode()).hexdigest()
    path = folder / f"{sources[:16]}-{'fast-' * fast}world-{world}.json"
    if not path.is_file():
        found = json.dumps(dataclasses.asdict(measure(world, fast)))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, found)
    return Found(**json.loads(path.read_text("utf-8")))


def clans_told(model: AlignMamba2, dataset: Dataset) -> float:
    """Normalised mutual information of the experts that a gate chose and the tokens' clans, in the first layer."""
    trace = model.trace(dataset.batch(), scans=False)
    chosen = torch.cat([gate[trace.masks[m]].argmax(-1) for m, gate in trace.ffn_gates[0].items()])
    clan = [name for m in trace.masks for words in trace.words for name in words[m]]
    return float(normalized_mutual_info_score(clan, chosen))


def compared(row: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Means, and the mean difference with its interval and p."""
    gain = np.array(row["without"]) - np.array(row["with"])
    test = stats.ttest_1samp(gain, 0.0)
    low, high = test.confidence_interval(0.95)
    means = {f"mae_{side}": float(np.mean(values)) for side, values in row.items()}
    return {**means, "gain": float(gain.mean()), "low": float(low), "high": float(high), "p": float(test.pvalue)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies planted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--worlds", type=int, default=8, help="at least 2 (default: 8)")
    parser.add_argument("--first", type=int, default=0, help="the first world's seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at a time, a process and a thread each")
    parser.add_argument("--fast", action="store_true", help="two epochs: to see that everything runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/planted"), help="of finished worlds")
    parser.add_argument("--results", type=Path, default=Path("runs/planted.json"))
    arguments = parser.parse_args(argv)
    if arguments.worlds < 2:
        raise ValueError(f"worlds: found {arguments.worlds}; expected at least 2")
    worlds = range(arguments.first, arguments.first + arguments.worlds)
    print(f"Synthetic, {arguments.worlds} worlds: error without the part minus error with it, question by question")
    each: list[Found] = []
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        run = functools.partial(kept, folder=arguments.folder, fast=arguments.fast)
        for world, one in zip(worlds, pool.map(run, worlds), strict=True):
            each.append(one)
            print(f"  world {world}: " + "; ".join(f"{r['without'] - r['with']:+.3f}" for r in one.errors), flush=True)
    errors = {
        question.title: {side: [one.errors[i][side] for one in each] for side in ("with", "without")}
        for i, question in enumerate(QUESTIONS)
    }
    for title, (first, second) in BEYOND.items():
        errors[title] = {s: np.subtract(errors[first][s], errors[second][s]).tolist() for s in ("with", "without")}
    rows = {title: compared(row) for title, row in errors.items()}
    results: dict[str, Any] = {}
    for (title, row), p in zip(rows.items(), holm([r["p"] for r in rows.values()]), strict=True):
        results[title] = {**row, "p_holm": p, "errors": errors[title]}
        print(
            f"{title:64s} {row['mae_with']:.3f} against {row['mae_without']:.3f}: {row['gain']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], p {p:.3f}"
        )
    partners = {name: [one.partners[name] for one in each] for name in each[0].partners}
    means = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in partners.items())
    print(f"late, mass of the plans on true partners over chance: {means}")
    described = {"synthetic": True, "worlds": list(worlds), "fast": arguments.fast, "sizes": SIZES, "recipe": RECIPE}
    described |= {"variants": {name: dict(variant.overrides) for name, variant in VARIANTS.items()}}
    described |= {"questions": results, "partners": partners}
    for part in ("clans", "effects"):
        described[part] = {name: [getattr(one, part)[name] for one in each] for name in getattr(each[0], part)}
    command = " ".join(["python -m studies planted", *(argv or ())])
    print(f"written: {write_results(arguments.results, described, command)}")
