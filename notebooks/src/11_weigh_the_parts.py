# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: Does each part of the model earn its place, and how would you know?
# needs: 03 to 06; mean and standard deviation

# %% [markdown]
# # What does each part buy?
#
# A paper's table has a row *full model*, 79.0. Below it stand *without this*, 78.9, and *without that*, 78.6. And
# below the table stands the sentence: *each part contributes*.
#
# Perhaps. But train the full model again with another seed, and it may say 78.1. Ask other people for their opinion of
# the same films, and it may say 80. A number with one decimal looks like a measurement, and is one draw from a
# lottery. This chapter is about how wide that lottery is, how to ask it a fair question, and what it answers for
# AlignMamba-2. The answer on real data is not flattering, and that is why it stands here.
#
# ## The question, and your prediction
#
# > 1. The same model, trained five times on the real CMU-MOSI, with five seeds: how many points lie between the best
# >    test accuracy and the worst?
# > 2. It is tested on 31 videos. How wide is a 95 % interval of its accuracy, in points?
# > 3. Seven variants are compared with a full model, and in truth not one of them is better or worse. How often does
# >    at least one of the seven have p < .05?
# > 4. On the real CMU-MOSI, how many parts of AlignMamba-2 have an effect that stands out of the noise?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two seeds, two epochs, few sentences; the comparisons then show little
interactive = True  # False: a still figure instead of a panel

# %%
import dataclasses

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom

from alignmamba2 import figures, fit, load_dataset
from alignmamba2.baselines import matching_width, parameter_count
from alignmamba2.experiments import ABLATIONS
from alignmamba2.metrics import holm, interval, paired_test
from course import check, check_parameters, stored_results
from course.comparison import ComparisonExplorer

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: {note}, to train on; and kept results of the real CMU-MOSI")

# %% [markdown]
# ## A picture of the data
#
# The data of this chapter are scores. Here are those of the *ablations*, the recipe with one thing changed at a time,
# on the real CMU-MOSI. You need not train thirty models for it: they were trained once, by the command below, and their
# numbers are kept in the repository. Every tick is one training with a seed of its own.

# %%
kept = stored_results("ablations.json")
print(f"results/ablations.json, {kept['date'][:10]}\n{kept['command']}")
accuracy = {name: [run["test"]["accuracy"] for run in row["runs"]] for name, row in kept["results"].items()}
figures.scores(accuracy, note="the real CMU-MOSI, five seeds a row; results/ablations.json")

# %%
means = {name: np.mean(values) for name, values in accuracy.items()}
print(f"one model, five seeds: {100 * (max(accuracy['full']) - min(accuracy['full'])):.1f} points from worst to best")
print(f"six models, their means: {100 * (max(means.values()) - min(means.values())):.2f} points from worst to best")
for name in ("without OT", "without MMD", "without OT and MMD"):
    print(f"{name}: {'the same as full, seed by seed' if accuracy[name] == accuracy['full'] else 'not as full'}")

# %% [markdown]
# Look at the last lines. With this recipe's weights, λ<sub>OT</sub> = 0.001 and λ<sub>MMD</sub> = 0.01, the alignment
# losses are so small beside the task's that leaving them out left every accuracy as it was, to the last digit. An
# ablation can say "no effect" because a part is of no use, or because it was never really switched on. Here it is the
# second. Keep that apart from the first.
#
# ## Train some yourself
#
# Now in your own hands, on mini-mosi, where alignment weighs more in the recipe, and with few enough sentences and
# epochs that it does not take long. Same data, same seeds, same epochs for all; one thing changed in each.

# %%
small = {k: dataclasses.replace(d, samples=d.samples[: 60 if fast else 160]) for k, d in data.items()}
batch, seeds = small["test"].batch(), range(seed, seed + (2 if fast else 3))
short = {"training.max_epochs": 15, "training.patience": 15}


def errors(change):
    """Train once a seed → the absolute error of every test sentence (S, N), and the number of parameters."""
    options = {"fast": fast, "datasets": small, "progress": False, "overrides": {**short, **change}}
    models = [fit("mini-mosi", seed=s, **options).model for s in seeds]
    with torch.no_grad():
        found = [(model(batch).prediction - batch.labels).abs().numpy() for model in models]
    return np.stack(found), sum(p.numel() for p in models[0].parameters())


# %%
names = ("full", "without OT", "without MMD", "one shared expert only")
error, parameters = {}, {}
for name in names:
    error[name], parameters[name] = errors(ABLATIONS[name])
figures.scores({k: e.mean(1) for k, e in error.items()}, metric="mean absolute error", best="min", note=note)

# %% [markdown]
# ## The idea by hand
#
# Two kinds of luck are in such a number: which **seed**, and which **test samples**. To see how far luck reaches, let
# it play again. The *bootstrap* draws as many samples as there are from the samples that there are, with replacement,
# and likewise the seeds; takes the mean; and again, two thousand times. What holds 95 % of these means is the interval.


# %%
def bootstrap(scores, draws=2000):
    """Scores (S, N) of S seeds on N samples → the ends of the 95 % interval of their mean."""
    rng, means = np.random.default_rng(0), []
    for _ in range(draws):
        samples = rng.integers(0, scores.shape[1], scores.shape[1])
        runs = rng.integers(0, len(scores), len(scores))
        means.append(scores[runs][:, samples].mean())
    return np.quantile(means, [0.025, 0.975])


# %% [markdown]
# That is for one model. For two, do not ask whether their intervals overlap: both were tested on the *same* samples,
# and what is hard for the one is mostly hard for the other. So take the difference, sample by sample. If the models do
# not differ in truth, then each difference might as well have had the other sign. Toss a coin for each, add up, and
# see how often chance gives a sum as far from zero as the one that was found. That share is *p*, and the procedure is a
# **paired permutation test**.
#
# ![Left: the answers of two models to the same twelve samples, which differ in two. Middle: the difference of a score
# for each of fifteen videos, some up, some down. Right: the mean difference of samples drawn anew, as a hill, with the
# interval of 95 % below it; 0 lies inside](pictures/paired.svg)


# %%
def flip_test(difference, draws=5000):
    """Differences (N,) on the same samples → p, two-sided."""
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (draws, len(difference)))
    tossed = np.abs(signs @ difference)
    return (1 + (tossed >= abs(difference.sum()) - 1e-9).sum()) / (draws + 1)


full, other = error["full"], error["without OT"]
difference = other.mean(0) - full.mean(0)  # over the seeds; positive where the full model is better
alone = np.sqrt(full.mean(0).var(ddof=1) + other.mean(0).var(ddof=1))
print(f"standard error of the difference, not paired: {alone / np.sqrt(len(difference)):.4f}")
print(f"standard error of the difference, paired:     {difference.std(ddof=1) / np.sqrt(len(difference)):.4f}")

# %% [markdown]
# ## The library's version
#
# `interval` and `paired_test` do the same, and one thing more: they take `units`. On CMU-MOSI thirty utterances are one
# video by one speaker, and whoever understands the speaker is right in many of them at once. They are not thirty
# independent samples. So the library draws, and flips, whole units. In mini-mosi every sentence is a unit of its own.

# %%
units = np.arange(len(difference))
by_hand, library = bootstrap(full), interval(full, units)
print(f"mean absolute error {full.mean():.3f}, interval by hand {by_hand.round(4)}, library {np.round(library, 4)}")
assert np.allclose(by_hand, library, atol=1e-6)
test = paired_test(-full, -other, units)  # scores: the larger the better
print(f"p by hand {flip_test(difference):.4f}, library {test['p']:.4f}")
assert abs(flip_test(difference) - test["p"]) < 1e-9

# %% [markdown]
# And for all variants. The last column is *p* corrected for their number; why, comes next.

# %%
rows = {name: paired_test(-full, -error[name], units) for name in names[1:]}
table = pd.DataFrame(rows).T.rename(columns={"difference": "full is better by"})
table["p, Holm"] = holm(table["p"].tolist())
table["parameters"] = [parameters[name] for name in names[1:]]
table.round(3).astype({"parameters": int})

# %% [markdown]
# ## One in seven
#
# *p* < .05 means: if there were no difference, this would happen in at most one of twenty studies. Most tables make
# more than one comparison. So let us make up studies in which nothing differs from anything: a full model and seven
# variants, all right with the same chance of 79 %, on the same samples. Each variant answers as the full model does on
# 85 % of the samples; on the others it wins as often as it loses. (For scores that are only right or wrong, the flips
# can be counted without tossing: McNemar's exact test of 1947.)


# %%
def study(rng, variants=7, samples=750, chance=0.79, apart=0.15):
    """One study in which nothing is true → p of each variant against the full model."""
    full = rng.random(samples) < chance
    likely = np.where(full, 1 - apart / 2 / chance, apart / 2 / (1 - chance))  # that a variant is right
    right = rng.random((variants, samples)) < likely
    gained, lost = (right & ~full).sum(1), (~right & full).sum(1)
    return np.minimum(1, 2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))


rng = np.random.default_rng(seed)
p = np.array([study(rng) for _ in range(300 if fast else 2000)])
print(f"one comparison: p < .05 in {(p[:, 0] < 0.05).mean():.1%} of the studies")
print(f"seven comparisons: at least one p < .05 in {(p < 0.05).any(1).mean():.1%}")
print(f"the same after Holm's correction: {(np.array([holm(row) for row in p]) < 0.05).any(1).mean():.1%}")
print(f"seven independent comparisons would give at most {1 - 0.95**7:.1%}")

# %% [markdown]
# That is the third prediction. *One of our seven variants is significantly worse (p < .05)* is what nearly one study in
# four writes about nothing at all. (Seven independent comparisons would be worse still. These share their full model:
# where it was lucky, all seven look bad at once.) **Holm's correction** mends it: sort the *m* values, multiply the
# smallest by *m*, the next by *m* − 1, and so on, and let none end below the one before (Holm, 1979). It is exercise
# 11.3.
#
# ## Equal parameters
#
# *One shared expert only* changes two things: the experts are gone, and with them a good part of the parameters. If it
# were worse, which of the two was it? The fair question is put to a model of the same size, made wider until it is as
# large. The same holds for other models:

# %%
c = dataclasses.asdict(fit("mini-mosi", fast=True, datasets=small, progress=False).model.config)
rows = {"AlignMamba-2": {"width d": c["d_model"], "parameters": parameter_count(c)}}
for kind in ("mamba", "transformer", "mult", "late-lstm"):
    width = matching_width({**c, "kind": kind}, rows["AlignMamba-2"]["parameters"])
    size = parameter_count({**c, "kind": kind, "d_model": width})
    same = parameter_count({**c, "kind": kind})
    rows[kind] = {"width d": width, "parameters": size, f"parameters at d = {c['d_model']}": same}
pd.DataFrame(rows).T.astype("Int64")

# %% [markdown]
# Now put the fair question: one shared expert, and as many parameters as the full model.

# %%
width = matching_width({**c, "experts": "shared"}, parameters["full"])
wide, size = errors({"model.experts": "shared", "model.d_model": width})
for name, other, count in (
    ("as wide", error["one shared expert only"], parameters[names[-1]]),
    ("as large", wide, size),
):
    test = paired_test(-full, -other, units)
    print(
        f"one shared expert, {name} as the full model, {count:,} parameters: full is better by "
        f"{test['difference']:.3f}, 95 % from {test['low']:.3f} to {test['high']:.3f}, p = {test['p']:.3f}"
    )

# %% [markdown]
# Where the first line says that experts help and the second does not, the size alone is enough to explain it.
#
# ## And on real data?
#
# `python -m alignmamba2 reproduce` does all of this: variants and baselines at equal size, the same trainer and seeds,
# intervals, paired tests over videos, Holm. Here is what it measured on the real CMU-MOSI; accuracy in points.

# %%
kept = stored_results("reproduce.json")
print(f"results/reproduce.json, {kept['date'][:10]}\n{kept['command']}")
rows, found = {}, kept["benchmarks"]["mosi-utterances"]["rows"]
for name, row in found.items():
    against = row["against_full"].get("accuracy", {})
    low, high = row["interval"]["accuracy"]
    rows[name] = {"parameters": row["parameters"], "accuracy": 100 * row["test"]["accuracy"]["mean"]}
    rows[name] |= {
        "95 % from": 100 * low,
        "to": 100 * high,
        "full is better by": 100 * against.get("difference", np.nan),
    }
    rows[name] |= {"p": against.get("p"), "p, Holm": against.get("p_holm")}
table = pd.DataFrame(rows).T
table.astype(float).round(3).astype({"parameters": int})

# %%
compared = table.drop(index="AlignMamba-2").astype(float)
gaps = [row["against_full"]["accuracy"] for name, row in found.items() if name != "AlignMamba-2"]
few, fewer = ((compared[column] < 0.05).sum() for column in ("p", "p, Holm"))
print(f"rows with p < .05: {few} of {len(compared)}; after Holm: {fewer}")
half = [50 * (gap["high"] - gap["low"]) for gap in gaps]
print(f"the 95 % intervals of the differences reach {min(half):.1f} to {max(half):.1f} points to either side")

# %% [markdown]
# So this is the honest table. No part of AlignMamba-2, and no other model in it, makes a difference here that is
# larger than luck can make. That is not the same as *the parts are of no use*: the last line says how large an effect
# would have to be to show, with 31 videos and five seeds. A smaller one may be there, and this data set cannot tell.
#
# ## One panel to play with
#
# Studies that never happened. First with no true effect: draw some, and see what is *found*. Then correct with Holm.
# Then give variant 1 a true effect of two points: how many test samples does it take until most studies find it?

# %%
panel = ComparisonExplorer(interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Seeds alone moved the accuracy of one and the same model by more than the means of the six variants differ.
# - The interval over samples is wider still, for 31 videos are few. More seeds do not make it narrower.
# - Pairing makes the standard error smaller where the two models find the same samples hard: compare the two lines.
# - A corrected *p* protects from finding what is not there. It does not help to find what is there; only more, or more
#   telling, samples do. Try it in the panel.
# - On mini-mosi, read the answer off your own table, and do not believe it before you have set another `seed`.
#
# ## Exercises
#
# **11.1 Paired.** The standard error of the mean difference of two models on the same samples.


# %% tags=["exercise"]
def standard_error(a, b):
    """Scores (N,) of two models on the same samples → the standard error of the mean difference, a number."""
    return None  # your turn


check("11.1", standard_error)

# %% [markdown]
# **11.2 The test.** From the differences and many rows of tossed signs to *p*. The differences as they are count as
# one more row.


# %% tags=["exercise"]
def flip_p(difference, signs):
    """Differences (N,), rows of +1 and −1 (R, N) without the row of all +1 → p, two-sided, a number."""
    return None  # your turn


check("11.2", flip_p)

# %% [markdown]
# **11.3 Holm.** Correct *m* values of *p*.


# %% tags=["exercise"]
def holm_corrected(p):
    """p values (m,) of m comparisons → corrected p values (m,), in the same order."""
    return None  # your turn


check("11.3", holm_corrected)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("11.1")`; each call says a little more.
#
# **11.4 To design.** You may train twenty models, an hour each, and want to know whether your change is better.
# Videos for testing are few. More seeds, or something else?
#
# <details><summary>A model answer</summary>
#
# The variance of a mean score is about $\sigma_{\mathrm{seed}}^2 / S + \sigma_{\mathrm{video}}^2 / N$, with $S$ seeds
# and $N$ test videos. Ten seeds for each model make the first term small and leave the second as it is, and with few
# videos that is the larger one.
#
# So cut *all* videos into ten folds, and train both models on each, with the same seed: twenty trainings, and every
# video is tested once. The difference is taken video by video, with a paired test over videos. Fix before the first
# run: the metric, the folds, the test, and the smallest difference that would matter. One comparison, so no
# correction; whoever tries three changes must correct for three.
#
# </details>
#
# ## Recap, and what comes next
#
# - A score has two kinds of luck in it, of the seed and of the test samples. Give an interval over both.
# - Compare on the same samples, in pairs, and draw whole videos or speakers where samples belong together.
# - Correct for the number of comparisons, and compare at equal size.
# - *No significant difference* is a statement about the study as much as about the models: say what it could have seen.
#
# Accuracy is one thing that a part can buy. Time is another, and it can be measured far more surely: the
# [next chapter](12_measure_the_scaling.ipynb) brings a stopwatch.
