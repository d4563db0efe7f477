"""Is found what is planted, and nothing where nothing is? Small synthetic worlds, each built to need one part or none.

    late           A sentence is read and heard. Every word is heard once, up to four words late and thus in another
                   order; the sound has as many features again that say nothing, and louder. Text tells the label
                   (the sum of polarities), sound tells it too, to who can read it: 120 labels do not teach that, 1200
                   pairs of words might. With L_OT and L_MMD or without; tested with the text and without it.
    strangers      The same, but what is heard is another sentence: there is nothing to align.
    two languages  Two modalities with the same words, which mean (count) something else in each. Modality experts, or
                   one shared expert: equally wide, so at the same cost a token, or equally large.
    one language   The same with the same meaning in both: experts have nothing to tell apart.
                   What experts gain here is what more weights gain; so a row says what the second language costs,
                   error with two less error with one, with experts and without.
    nothing        late and two languages, each sample with another one's label: nobody has anything to find.

Every world has a seed of its own, for data, weights and order, and all models of a world share it. λ is one of two
pairs, chosen on the validation split; who has no λ is trained twice as well, of the same two seeds, and chosen alike.
(In nothing, and for experts, each is trained once.) The epoch is chosen on validation too. What is reported
is the difference of mean absolute errors on the test split, positive where the part helps: mean over worlds, 95 %
interval and p of Student's t, corrected for the number of rows (Holm).

A gain among strangers is none of partners: the losses then only keep a model from learning the sound's noise by heart,
and so may part of what they gain where partners are. Without the text strangers leave nothing to be learned at all, so
that row says that nothing is made up, not how much of the gain in `late` comes from partners.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ..batch import Sample
from ..datasets import Dataset
from ..experiments import write_results
from ..metrics import holm
from ..reproduce.runs import examine
from ..training import fit

RECIPE = "mini-mosi"
SIZES = {"late": {"train": 120, "valid": 80, "test": 240}, "languages": {"train": 400, "valid": 80, "test": 240}}
SMALL = {"model.n_layers": 1, "model.d_state": 4, "model.lambda_ot": 0.0, "model.lambda_mmd": 0.0}
HEARD = {**SMALL, "model.d_model": 16, "model.modality_dropout": 0.3, "model.fixed_anchor": True}
HEARD |= {"training.batch_size": 40, "training.max_epochs": 60, "training.patience": 60}
NARROW = {**SMALL, "model.d_model": 8, "model.dropout": 0.0}
NARROW |= {"training.batch_size": 50, "training.max_epochs": 30, "training.patience": 30}

OT, MMD = (3.0, 10.0), (10.0, 30.0)  # the λ to choose from
ALIGNED = tuple({**HEARD, "model.lambda_ot": a, "model.lambda_mmd": b} for a, b in zip(OT, MMD, strict=True))
ONLY_OT = tuple({**HEARD, "model.lambda_ot": a} for a in OT)
ONLY_MMD = tuple({**HEARD, "model.lambda_mmd": b} for b in MMD)
UNALIGNED = (HEARD, HEARD)
EXPERTS = (NARROW,)
SHARED = ({**NARROW, "model.experts": "shared"},)
WIDER = ({**NARROW, "model.experts": "shared", "model.d_model": 12},)  # about as many parameters as with experts

WORDS, CONCEPT, LATE = 30, 8, 4
NUISANCES, LOUDNESS = 100, 3.0
VOCABULARY, CODE, LENGTH = 20, 8, 6  # of the languages


def heard(world: int, strangers: bool = False) -> dict[str, Dataset]:
    """Sentences as text, and as sound that comes late or, of `strangers`, from another sentence.

    A word is a concept, a unit vector of 8 numbers, and a polarity; either modality carries both through a linear map,
    sound together with louder nuisances. The label is the sum of polarities over the root of 20/3, about their spread.
    """
    rng = np.random.default_rng([world, 0])
    concepts = rng.standard_normal((WORDS, CONCEPT))
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    polarity = np.repeat((1.0, -1.0, 0.0), WORDS // 3)
    words = np.concatenate([concepts, polarity[:, None]], 1)
    text = rng.standard_normal((CONCEPT + 1, 16)) / np.sqrt(CONCEPT)
    sound = rng.standard_normal((CONCEPT + 1 + NUISANCES, 128)) / np.sqrt(CONCEPT)

    def sample(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
        read = rng.integers(WORDS, size=rng.integers(8, 13))
        arrival = np.arange(len(read)) + rng.integers(0, LATE + 1, len(read))
        order = np.argsort(arrival, kind="stable")
        said = rng.integers(WORDS, size=len(read)) if strangers else read[order]
        nuisance = LOUDNESS * np.sqrt(2 / NUISANCES) * rng.standard_normal((len(read), NUISANCES))
        features = {"text": words[read] @ text, "audio": np.concatenate([words[said], nuisance], 1) @ sound}
        features = {m: x + 0.1 * rng.standard_normal(x.shape) for m, x in features.items()}
        return features, float(polarity[read].sum() / np.sqrt(20 / 3))

    return _splits(world, "late", sample)


def languages(world: int, same: bool = False) -> dict[str, Dataset]:
    """Two sequences of the same 20 words' codes; a word counts something else in each modality, or the `same`."""
    rng = np.random.default_rng([world, 0])
    codes = rng.standard_normal((VOCABULARY, CODE))
    codes *= np.sqrt(CODE) / np.linalg.norm(codes, axis=1, keepdims=True)
    counts = {m: rng.standard_normal(VOCABULARY) for m in ("a", "b")}
    counts = {m: x - x.mean() for m, x in counts.items()}
    if same:
        counts["b"] = counts["a"]

    def sample(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
        said = {m: rng.integers(VOCABULARY, size=LENGTH) for m in counts}
        features = {m: codes[w] + 0.1 * rng.standard_normal((LENGTH, CODE)) for m, w in said.items()}
        return features, float(sum(counts[m][w].sum() for m, w in said.items()) / np.sqrt(2 * LENGTH))

    return _splits(world, "languages", sample)


def _splits(
    world: int, kind: str, sample: Callable[[np.random.Generator], tuple[dict[str, np.ndarray], float]]
) -> dict[str, Dataset]:
    splits = {}
    for number, (split, size) in enumerate(SIZES[kind].items(), start=1):
        rng = np.random.default_rng([world, number])
        samples = []
        for i in range(size):
            features, label = sample(rng)
            tokens = {m: torch.from_numpy(x).float() for m, x in features.items()}
            samples.append(Sample(tokens, torch.tensor(label), f"{split}-{i}"))
        splits[split] = Dataset(
            name=kind,
            split=split,
            protocol=f"synthetic, seed {world}",
            description="synthetic: see `bench planted`",
            synthetic=True,
            task="regression",
            n_classes=1,
            readout="mean",
            samples=samples,
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


Tries = Sequence[Mapping[str, Any]]  # overrides of the recipe; the best on validation counts


@dataclasses.dataclass(frozen=True)
class Question:
    """Two models on one kind of world; None stands for predicting the training labels' median, whatever comes."""

    title: str
    world: str
    with_part: Tries
    without: Tries | None
    only: tuple[str, ...] = ()  # the modalities that are there when testing; all of them if empty


WORLDS: dict[str, Callable[[int], dict[str, Dataset]]] = {
    "late": heard,
    "strangers": functools.partial(heard, strangers=True),
    "two languages": languages,
    "one language": functools.partial(languages, same=True),
    "nothing to hear": lambda world: mislabelled(heard(world), world),
    "nothing to say": lambda world: mislabelled(languages(world), world),
}
QUESTIONS = (
    Question("late: L_OT and L_MMD", "late", ALIGNED, UNALIGNED),
    Question("late: L_OT and L_MMD, tested without text", "late", ALIGNED, UNALIGNED, ("audio",)),
    Question("late: L_OT alone", "late", ONLY_OT, UNALIGNED),
    Question("late: L_OT alone, tested without text", "late", ONLY_OT, UNALIGNED, ("audio",)),
    Question("late: L_MMD alone", "late", ONLY_MMD, UNALIGNED),
    Question("late: L_MMD alone, tested without text", "late", ONLY_MMD, UNALIGNED, ("audio",)),
    Question("strangers: L_OT and L_MMD", "strangers", ALIGNED, UNALIGNED),
    Question("strangers: L_OT and L_MMD, tested without text", "strangers", ALIGNED, UNALIGNED, ("audio",)),
    Question("two languages: experts, equally wide", "two languages", EXPERTS, SHARED),
    Question("two languages: experts, equally large", "two languages", EXPERTS, WIDER),
    Question("one language: experts, equally wide", "one language", EXPERTS, SHARED),
    Question("one language: experts, equally large", "one language", EXPERTS, WIDER),
    Question("nothing: L_OT and L_MMD", "nothing to hear", ALIGNED[1:], UNALIGNED[1:]),
    Question("nothing: experts, equally wide", "nothing to say", EXPERTS, SHARED),
    Question("nothing: the model against a constant", "nothing to hear", ALIGNED[1:], None),
)
# What the second language costs, error with two less error with one: rows of differences between two questions.
COSTS = {
    f"two languages less one: experts, equally {size}": tuple(
        f"{number}: experts, equally {size}" for number in ("two languages", "one language")
    )
    for size in ("wide", "large")
}


def errors(world: int, fast: bool) -> list[dict[str, float]]:
    """For each question, the mean absolute errors with the part and without it in this world."""
    torch.set_num_threads(1)
    trained: dict[str, torch.nn.Module] = {}
    made: dict[str, dict[str, Dataset]] = {}
    found = []
    for question in QUESTIONS:
        if question.world not in made:
            made, trained = {question.world: WORLDS[question.world](world)}, {}
        splits = made[question.world]
        sides = {"with": question.with_part, "without": question.without}
        found.append({side: _error(t, splits, world, question.only, fast, trained) for side, t in sides.items()})
    return found


def _error(
    tries: Tries | None,
    splits: dict[str, Dataset],
    world: int,
    only: tuple[str, ...],
    fast: bool,
    trained: dict[str, torch.nn.Module],
) -> float:
    """On the test split, of the try that is best on the validation split."""
    if tries is None:
        middle = torch.stack(list(splits["train"].labels)).median()
        return float((torch.stack(list(splits["test"].labels)) - middle).abs().mean())
    models = []
    for number, overrides in enumerate(tries):
        name = repr((number, overrides))
        if name not in trained:
            options = {"overrides": overrides, "datasets": splits, "fast": fast, "progress": False}
            trained[name] = fit(RECIPE, seed=1000 * number + world, **options).model
        models.append(trained[name])
    best = min(models, key=lambda model: examine(model, splits["valid"], only)[0]["mae"])
    return examine(best, splits["test"], only)[0]["mae"]


def compared(row: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Means, and the mean difference with its interval and p."""
    gain = np.array(row["without"]) - np.array(row["with"])
    test = stats.ttest_1samp(gain, 0.0)
    low, high = test.confidence_interval(0.95)
    means = {f"mae_{side}": float(np.mean(values)) for side, values in row.items()}
    return {**means, "gain": float(gain.mean()), "low": float(low), "high": float(high), "p": float(test.pvalue)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alignmamba2 bench planted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--worlds", type=int, default=8, help="at least 2 (default: 8)")
    parser.add_argument("--first", type=int, default=0, help="the first world's seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at a time, a process and a thread each")
    parser.add_argument("--fast", action="store_true", help="two epochs: to see that everything runs")
    parser.add_argument("--results", type=Path, default=Path("runs/planted.json"))
    arguments = parser.parse_args(argv)
    if arguments.worlds < 2:
        raise ValueError(f"worlds: found {arguments.worlds}; expected at least 2")
    worlds = range(arguments.first, arguments.first + arguments.worlds)
    print(f"Synthetic, {arguments.worlds} worlds: error without the part minus error with it, question by question")
    each = []
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        measure = functools.partial(errors, fast=arguments.fast)
        for world, rows in zip(worlds, pool.map(measure, worlds), strict=True):
            each.append(rows)
            print(f"  world {world}: " + "; ".join(f"{r['without'] - r['with']:+.3f}" for r in rows), flush=True)
    found = {
        question.title: {side: [rows[i][side] for rows in each] for side in ("with", "without")}
        for i, question in enumerate(QUESTIONS)
    }
    for title, (two, one) in COSTS.items():
        found[title] = {side: np.subtract(found[two][side], found[one][side]).tolist() for side in ("with", "without")}
    rows = {title: compared(row) for title, row in found.items()}
    results: dict[str, Any] = {}
    for (title, row), p in zip(rows.items(), holm([r["p"] for r in rows.values()]), strict=True):
        results[title] = {**row, "p_holm": p, "errors": found[title]}
        print(
            f"{title:48s} {row['mae_with']:.3f} against {row['mae_without']:.3f}: {row['gain']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], p {p:.3f}"
        )
    described = {"synthetic": True, "worlds": list(worlds), "fast": arguments.fast, "sizes": SIZES, "recipe": RECIPE}
    described |= {"overrides": {q.title: [q.with_part, q.without] for q in QUESTIONS}, "questions": results}
    command = " ".join(["python -m alignmamba2 bench planted", *(argv or ())])
    print(f"written: {write_results(arguments.results, described, command)}")
