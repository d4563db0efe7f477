# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What is left of a model when a microphone fails?
# needs: 00; probability, the binomial distribution

# %% [markdown]
# # Missing and noisy modalities: what is left when a microphone fails?
#
# In a data set every sample has all its modalities. In a room the camera looks at the wall, the microphone is muted,
# speech recognition returns nothing. A model that was trained on whole samples has never seen that, and nobody knows
# what it will do.
#
# So one tests it: takes something away on purpose, in a way that is written down, more and more of it, and draws the
# curve. Three papers take three different things away. The curve depends on which, on whose dice, and most of all on
# whether the model met such losses in training.
#
# ## The question, and your prediction
#
# > 1. Without words, on the voice and the face alone: how much of the correlation is left? Without voice and face?
# > 2. Another model loses a modality now and then *while it trains*. Is it better when one is missing? Is it worse when
# >    all are there?
# > 3. Of 20 tokens each is lost with probability 0.3. How often are exactly 6 lost?
# > 4. A modality is padding from beginning to end. Does that change what the model says of the others: a little, or
# >    not at all?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: few samples and two epochs; the curves then show little
interactive = True  # False: a still figure instead of a panel

# %%
import dataclasses
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from alignmamba2 import MultimodalBatch, evaluate, figures, fit, load_dataset
from alignmamba2.datasets.corruptions import KINDS, corrupt, dice
from alignmamba2.explorers import SampleExplorer
from course import check, check_parameters

check_parameters(globals())
data = load_dataset("mini-mosi")
modalities = tuple(data["train"].modalities)
test = dataclasses.replace(data["test"], samples=data["test"].samples[: 40 if fast else 200])
note = "mini-mosi, synthetic"
print(f"Data set: {note}\n{data['train'].description}")

# %% [markdown]
# ## A picture of the data
#
# One sentence, whole; and the same after every token was lost with probability 0.5. Columns left white are the lost
# tokens: all their features are 0.

# %%
sample = next(s for s in test if len(s.words["text"]) == 8)
mean_sd = data["train"].statistics()


def strips(sample, title):
    standard = {m: (x - mean_sd[m][0]) / mean_sd[m][1].clamp_min(1e-8) for m, x in sample.features.items()}
    kept = {m: x * (sample.features[m] != 0).any(1, keepdim=True) for m, x in standard.items()}
    return figures.sample_strips(kept, sample.words, title=title, note=note)


strips(sample, f"{sample.id}, whole")

# %%
half = corrupt(dataclasses.replace(test, samples=[sample]), "frames", 0.5, seed=seed)
strips(half[0], f"{sample.id}, frames lost with probability 0.5")

# %% [markdown]
# ## The idea by hand: a coin for every token
#
# The drop of *frames* is that of TFR-Net (Yuan and others, 2021): every token is kept or lost by itself,
#
# $$ \tilde{x}_t = b_t\, x_t, \qquad b_t \sim \mathrm{Bernoulli}(1 - p). $$
#
# Two things are easy to get wrong. The coins must not depend on the batch or its order, or the same test twice gives
# two numbers; so each sample tosses its own, from its name. And a lost token is *zero*, not absent: the sequence keeps
# its length, and the model must find out by itself that nothing is there. By hand, with the sample's own dice:


# %%
def drop_frames(x, p, coins):
    """x (T, D) → the same with each token set to 0 with probability p."""
    lost = torch.from_numpy(coins.random(len(x)) < p)
    return x * ~lost[:, None]


# %% [markdown]
# ## The library's version
#
# `corrupt` gives a data set back, corrupted when a sample is asked for. Its `dice` come from the seed, the kind, the
# modality and the sample's name.

# %%
p = 0.3
library = corrupt(test, "frames", p, seed=seed)
for i in range(20):
    for m in modalities:
        by_hand = drop_frames(test[i].features[m], p, dice(seed, "frames", test[i].id, m))
        assert torch.equal(by_hand, library[i].features[m])
assert all(torch.equal(library[3].features[m], library[3].features[m]) for m in modalities)  # and again the same
print(library.protocol.rpartition(", corrupted")[2].lstrip(": "))

# %% [markdown]
# How many are lost? The mean is $pT$, and the number is binomial: of 20 tokens exactly 6 are lost with probability
# $\binom{20}{6}\, 0.3^6\, 0.7^{14}$. Count it, with as many tosses as you like:

# %%
tosses = (np.random.default_rng(seed).random((20_000, 20)) < 0.3).sum(1)
exact = torch.distributions.Binomial(20, torch.tensor(0.3)).log_prob(torch.tensor(6.0)).exp().item()
print(f"exactly 6 of 20: {np.mean(tosses == 6):.3f} counted, {exact:.3f} by the formula")
print("corruptions that the library knows:", ", ".join(KINDS))

# %% [markdown]
# The others: *missing* takes whole modalities, but never all of a sample. *noise* is Gaussian, in pictures as QMF does
# it (with probability ½ a sample and modality; σ in grey levels); *blank* turns words into "_" (QMF, too). Where a data
# set has features and no pictures, noise is added to these, and the protocol says so: that part is our choice, and no
# paper's.
#
# ## What padding is, and what it is not
#
# A *missing* modality has no tokens. In a batch its row is padding, and a mask says so. The model squeezes padding out
# before anything is computed, so it cannot matter what stands there.
#
# ![Three sequences. Whole: nine tokens. Lost: nine tokens, of which three sounds are zeros that claim to be tokens.
# Missing: all sounds are masked and left out, and three words remain](pictures/missing.svg)
#
# Let us try to make it matter:
#

# %%
plain = fit("mini-mosi", seed=seed, fast=fast, progress=False).model
batch = test.batch(range(8))
silent = {**batch.masks, "audio": torch.zeros_like(batch.masks["audio"])}
junk = {**batch.features, "audio": 1e6 * torch.ones_like(batch.features["audio"])}
with torch.no_grad():
    absent = plain(batch.only("text", "video")).prediction
    masked = plain(MultimodalBatch(batch.features, silent)).prediction
    filled = plain(MultimodalBatch(junk, silent)).prediction
    zeros = plain(MultimodalBatch({**batch.features, "audio": 0 * batch.features["audio"]}, batch.masks)).prediction
assert torch.equal(masked, filled)
assert torch.allclose(masked, absent, atol=1e-5)
print(f"masked, another content:     answers move by up to {(masked - filled).abs().max():.0e}")
print(f"left out instead of masked:  answers move by up to {(masked - absent).abs().max():.0e}")
print(f"zeros that are not masked:   answers move by up to {(zeros - absent).abs().max():.2f}")

# %% [markdown]
# That answers the fourth question: not at all. And it shows the difference that matters. **Missing** is said to the
# model; **lost** is not. Zeros that claim to be tokens are read as tokens.
#
# ## Train it, with and without losses
#
# The second model trains with *modality dropout*: in each step each modality of each sample is hidden with probability
# 0.4 (never all of them). Same recipe, same seeds otherwise.

# %%
seeds = [seed] if fast else [seed, seed + 1, seed + 2]
models = {"trained whole": [plain], "trained with losses": []}
for s in seeds:
    if s != seed:
        models["trained whole"].append(fit("mini-mosi", seed=s, fast=fast, progress=False).model)
    lossy = {"model.modality_dropout": 0.4}
    models["trained with losses"].append(fit("mini-mosi", seed=s, fast=fast, overrides=lossy, progress=False).model)


def score(model, dataset):
    """The correlation of prediction and label; 0 where it is not defined, for the predictions are all the same."""
    return evaluate(model, dataset)["corr"] or 0.0


# %% [markdown]
# **Every subset of modalities.** The mean over seeds, and in brackets how far the seeds are apart.

# %%
rows = {}
for size in range(len(modalities), 0, -1):
    for kept in combinations(modalities, size):
        found = {name: [score(m, test.only(*kept)) for m in group] for name, group in models.items()}
        rows[" + ".join(kept)] = {n: f"{np.mean(v):.2f} ({np.max(v) - np.min(v):.2f})" for n, v in found.items()}
pd.DataFrame(rows).T.rename_axis("left are")

# %% [markdown]
# **More and more frames lost**, in all modalities at once; dice of three seeds for every model (of one, in
# fast mode).

# %%
severities = (0.0, 0.4, 0.8) if fast else (0.0, 0.2, 0.4, 0.6, 0.8)


def curve(kind, levels, **options):
    """For each group of models (runs, levels): every model with every seed of the dice."""
    worse = {(v, d): corrupt(test, kind, v, seed=d, **options) for v in levels for d in seeds}
    return {n: [[score(m, worse[v, d]) for v in levels] for m in g for d in seeds] for n, g in models.items()}


curves = curve("frames", severities)
figures.under_corruption(severities, curves, metric="correlation", kind="share of frames lost", level=0, note=note)

# %% [markdown]
# **And noise**, in standard deviations of each feature (every modality of a sample has it with probability ½):

# %%
deviations = (0.0, 2.0, 8.0) if fast else (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
curves = curve("noise", deviations)
figures.under_corruption(deviations, curves, metric="correlation", kind="noise, in sd", level=0, note=note)

# %% [markdown]
# ## One panel to play with
#
# The model that was trained with losses. Switch modalities off, one and then another, and follow the prediction and the
# bars: who takes over when the words are gone?

# %%
panel = SampleExplorer(models["trained with losses"][0], test, note=note, interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Read the table from the bottom: what one modality can do alone. Then the top: what all together add. On which rows
#   do the two columns differ by more than the seeds do?
# - *Missing* and *lost* are different tests. A model may stand the one and not the other; modality dropout trains for
#   the first.
# - A curve without a band hides how much of it is luck. With one seed, a dent in it may be nothing else.
# - Where the curve ends matters less than what it is called. "Robust to noise" without kind, severity and dice is no
#   statement.
#
# ## Exercises
#
# **14.1 Lost frames.** Given the coins (a random number in [0, 1) a token), the drop of TFR-Net: a token whose number
# is below $p$ becomes 0.


# %% tags=["exercise"]
def drop(x, p, coins):
    """x (T, D), p a number, coins (T,) → (T, D)."""
    return None  # your turn


check("14.1", drop)

# %% [markdown]
# **14.2 How often is something lost?** Each of $T$ tokens is lost with probability $p$, independently. With which
# probability is at least one lost?


# %% tags=["exercise"]
def some_lost(tokens, p):
    """A number between 0 and 1."""
    return None  # your turn


check("14.2", some_lost)

# %% [markdown]
# **14.3 The mean of what is there.** The mean over real tokens of each sample. A sample without any is 0, and padding
# must not matter, not even NaN on it.


# %% tags=["exercise"]
def mean_of_real(x, mask):
    """x (B, T, D), mask (B, T), bool → (B, D)."""
    return None  # your turn


check("14.3", mean_of_real)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("14.1")`; each call says a little more.
#
# **14.4 To design.** A robot's depth camera fails in sunlight, and sunny rooms are mostly living rooms. Why is a test
# with coins not enough here? Design a better one.
#
# <details><summary>A model answer</summary>
#
# Coins lose depth independently of the label. In the world the loss tells something of it: *no depth* means sun, and
# sun means living room. A model that has seen such losses in training learns that rule, looks fine on a test with the
# same losses, and fails in a house with other windows. A test with coins does not show it.
#
# So record which samples lose depth, and test in three ways: with the losses as they come; with whole samples that
# lose depth by a coin; and with the *exchanged* pattern, where depth is taken from rooms that would have had it. If
# the second and third are much worse than the first, the model reads the absence. A remedy is modality dropout by a
# coin, on top of what the world loses; report all three numbers.
#
# </details>
#
# ## Recap, and what comes next
#
# - Missing is masked and squeezed out: it changes nothing else. Lost is a zero that claims to be a token.
# - A corruption is a definition: kind, severity, dice. Each sample tosses its own, so that a test can be repeated.
# - Modality dropout lets a model train for what it will miss. What it buys, and what it costs, is in the table.
#
# Frames: TFR-Net (Yuan, Li, Xu and Yu, 2021). Noise and blanks: QMF (Zhang and others, 2023). The module
# `alignmamba2/datasets/corruptions.py` lists what is theirs and what is our choice.
# [Next](15_make_it_yours.ipynb): data, modalities and experts of your own.
