# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: Are two clouds of tokens the same cloud?
# needs: 00; means, variances, the Gaussian

# %% [markdown]
# # Maximum mean discrepancy: are two clouds of tokens the same cloud?
#
# Transport asked which sound belongs to which word. Now step back until single tokens blur into two clouds, one of
# words and one of sounds. Do they lie in the same place? If words sit in one corner of the space and sounds in
# another, then all that a later layer learns about the one corner is of no use in the other.
#
# To compare means is not enough. Two clouds can have the same mean and the same spread and still be quite different, a
# ring and a ball for instance. What one would like is a detective who looks at *everything* about a cloud. The maximum
# mean discrepancy, MMD, is such a detective, with one parameter: how closely she looks.
#
# ## The question, and your prediction
#
# > 1. A ring and a ball of the same mean and variance: will the MMD tell them apart, and at every bandwidth?
# > 2. Two samples of 12 tokens from one and the same cloud: is their MMD zero? Roughly what?
# > 3. How many tokens of each cloud does it take to see a small difference, ten or a hundred?
# > 4. Before training, words and sounds go through random projections. Do they lie in the same place after training?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs of training only, and fewer draws of the permutation tests
interactive = True  # False: a still figure instead of a panel

# %%
import math

import pandas as pd
import torch

from alignmamba2 import AlignMamba2, figures, fit, load_dataset, mmd
from alignmamba2.alignment import permutation_test, witness
from alignmamba2.explorers import DiscrepancyExplorer
from course import check, check_parameters

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: {note}; first, a ring and a ball, synthetic too")
draw = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## A picture of the data
#
# A ring and a ball in the plane. Both have mean 0, and on both axes variance ½; a little noise makes the ring thick.
# We look at both along a line through the middle.


# %%
def ring(count):
    angle = 2 * math.pi * torch.rand(count, generator=draw)
    points = torch.stack([angle.cos(), angle.sin()], 1)
    return math.sqrt(0.98) * points + 0.1 * torch.randn(count, 2, generator=draw)


def ball(count):
    return math.sqrt(0.5) * torch.randn(count, 2, generator=draw)


x, y = ring(200), ball(200)
for name, cloud in (("ring", x), ("ball", y)):
    mean, variance = cloud.mean(0).tolist(), cloud.var(0).tolist()
    print(f"{name}: mean ({mean[0]:+.2f}, {mean[1]:+.2f}), variance ({variance[0]:.2f}, {variance[1]:.2f})")
along = torch.linspace(-2, 2, 121)
line = torch.stack([along, torch.zeros(121)], 1)
votes = witness(line[None], x[None], y[None], bandwidth=0.4)[0]
figures.witness_curve(along, votes, {"ring": x[:, 0], "ball": y[:, 0]}, note="a ring and a ball, synthetic")

# %% [markdown]
# The curve is the **witness**: where it is positive, ring is denser, where it is negative, ball. It has found the
# hole in the middle and the wall around it.
#
# ## The idea by hand
#
# Lay a little hill of width σ, the **bandwidth**, on every token, and let all hills of a cloud make a landscape.
# Where the two landscapes differ, the clouds do.
#
# ![Left: a hill on every sound and every word of a line. Middle: the mean of the sounds' hills and that of the words'.
# Right: their difference, positive where sounds are denser and negative where words are](pictures/kernels.svg)
#
# With the Gaussian kernel
#
# $$ k(u, v) = \exp\!\Big(-\frac{\lVert u - v\rVert^2}{2\sigma^2}\Big) $$
#
# the witness is $w(t) = \mathbb{E}\,k(x, t) - \mathbb{E}\,k(y, t)$, and the squared MMD is the mean witness over $x$
# less the mean witness over $y$. Multiply out:
#
# $$ \mathrm{MMD}^2 = \mathbb{E}\,k(x, x') + \mathbb{E}\,k(y, y') - 2\,\mathbb{E}\,k(x, y). $$
#
# How alike are tokens of $x$ among themselves, tokens of $y$ among themselves, and tokens across? If across is less
# than within, the clouds differ.


# %%
def gaussian(u, v, sigma):
    """u (N, d), v (M, d) → how alike they are, (N, M), between 0 and 1."""
    squared = (u[:, None] - v[None]).square().sum(-1)
    return torch.exp(-squared / (2 * sigma**2))


def mmd_by_hand(x, y, sigma):
    """The squared MMD; means over all pairs, a token with itself included."""
    return gaussian(x, x, sigma).mean() + gaussian(y, y, sigma).mean() - 2 * gaussian(x, y, sigma).mean()


print(
    f"ring against ball: {mmd_by_hand(x, y, 0.4):.4f}; ring against another ring: {mmd_by_hand(x, ring(200), 0.4):.4f}"
)

# %% [markdown]
# ## The library's version
#
# `mmd` takes batches with padding, chooses a bandwidth (the median distance between two tokens), and never holds the
# matrix of all pairs. Its three terms are the three blocks of this matrix:

# %%
by_hand, library = mmd_by_hand(x, y, 0.4), mmd(x[None], y[None], bandwidth=0.4)[0]
print("difference:", f"{(by_hand - library).abs():.0e}")
assert torch.allclose(by_hand, library, atol=1e-6)
few = torch.cat([x[:40], y[:40]])
figures.kernel_matrix(gaussian(few, few, 0.4), ["ring"] * 40 + ["ball"] * 40, note="synthetic, σ = 0.4")

# %% [markdown]
# ## How closely to look: the bandwidth
#
# Very narrow hills never touch: every token is alone, and all clouds look the same. Very wide hills cover everything:
# the landscape only knows the mean. In between the detective sees something. But how much is *something*? To know,
# throw both clouds into one bag and draw two handfuls, again and again: that is what chance gives, and the band below
# holds 90 % of it. That is a *permutation test*, and each draw is a **relabelling**: all tokens stay where they are,
# and only the names of their clouds are dealt anew.

# %%
sigmas = torch.logspace(-2, 1.2, 9 if fast else 17).tolist()
values, low, high = [], [], []
for sigma in sigmas:
    options = {"bandwidth": sigma, "permutations": 100 if fast else 400, "seed": seed}
    test = permutation_test(x[None], y[None], **options)
    values.append(test.statistic.item())
    for side, share in ((low, 0.05), (high, 0.95)):
        side.append(test.null[0].quantile(share).item())
figures.mmd_by_bandwidth(
    sigmas, {"ring-ball": values}, bands={"ring-ball": (low, high)}, note="ring and ball, synthetic; unbiased estimate"
)

# %% [markdown]
# ## Why the MMD of equal clouds is not zero
#
# The mean over all pairs of a cloud counts each token with itself, where $k = 1$, and so finds a small cloud more
# alike within than it is. The **biased** estimate therefore never is zero: for two samples of $N$ tokens each from
# one cloud it is on average $2\,(1 - \mathbb{E}\,k)/N$. The **unbiased** estimate leaves those pairs out. Its mean is
# zero, so it must fall below zero, too.

# %%
rows = {}
repeats = 40 if fast else 200
for count in (6, 12, 50, 200):
    a, b = (ring(count * repeats).view(repeats, count, 2) for _ in range(2))  # many pairs of clouds in one batch
    rows[count] = {
        f"{estimator}, mean": mmd(a, b, bandwidth=0.4, estimator=estimator).mean().item()
        for estimator in ("biased", "unbiased")
    }
    rows[count]["2 (1 − E k) / N"] = 2 * (1 - gaussian(x, ring(200), 0.4).mean().item()) / count
table = pd.DataFrame(rows).T.round(4)
table.index.name = "ring against ring, tokens of each"
table

# %% [markdown]
# Remember this when a training curve of the MMD stops above zero. With a dozen tokens a sentence, *that is what zero
# looks like*. (The library's loss is the biased one, for it is never negative; both have nearly the same gradient.)
#
# ## Words and sounds, before and after training
#
# Now the real use. Tokens of the test split, projected to one width by a model that has not trained and by one that
# has, all sentences thrown together.

# %%
alignment = {"model.lambda_mmd": 1.0}
result = fit("mini-mosi", seed=seed, fast=fast, overrides=alignment, progress=False)
torch.manual_seed(seed)
untrained = AlignMamba2(result.model.config)
untrained.set_statistics(data["train"].statistics())
batch, clouds = data["test"].batch(), {}
for name, model in (("untrained", untrained), ("trained", result.model)):
    trace = model.trace(batch)
    some = torch.randperm(int(trace.masks["text"].sum()), generator=draw)[:200]
    clouds[name] = tuple(trace.projected[m][trace.masks[m]][some] for m in ("audio", "text"))
    test = permutation_test(*(c[None] for c in clouds[name]), permutations=200, seed=seed)
    chance = test.null[0].quantile(0.95).item()
    print(f"{name:9s} MMD² {test.statistic.item():.4f}; 95 % of relabellings are below {chance:.4f}")

# %%
names = dict.fromkeys(clouds, ("audio", "text"))
panel = DiscrepancyExplorer(clouds, names, note=note, interactive=interactive)

# %% [markdown]
# ## One panel to play with
#
# Choose between untrained and trained. Then: find the bandwidth at which the MMD is largest against the band of
# chance. Close the gap between the means, and see whether anything is left. Take fewer tokens, until the p-value no
# longer tells them apart.

# %%
panel

# %% [markdown]
# ## What to notice
#
# - Ring and ball have equal mean and variance, and the MMD tells them apart, but not at any bandwidth: it leaves the
#   band of chance in the middle of the scale.
# - A value of the MMD means little without what chance gives for as many tokens. The table shows how that falls with
#   1/N.
# - The last two lines hold the answer to your fourth prediction. That the clouds come nearer does not say that sounds
#   come to lie at *their* words: for that there is transport. The one works on clouds, the other on pairs;
#   AlignMamba-2 uses both.
#
# ## Exercises
#
# **05.1 The unbiased estimate.** Leave out the pairs of a token with itself. `k(u, v)` gives the kernel of all pairs.


# %% tags=["exercise"]
def unbiased(kxx, kyy, kxy):
    """Kernel matrices (N, N), (M, M), (N, M) → the unbiased squared MMD, a number."""
    return None  # your turn


check("05.1", unbiased)

# %% [markdown]
# **05.2 The witness.** $w(t) = \mathbb{E}\,k(x, t) - \mathbb{E}\,k(y, t)$, at many points $t$ at once.


# %% tags=["exercise"]
def votes_at(points, x, y, sigma):
    """points (P, d), x (N, d), y (M, d) → w (P,), with the Gaussian kernel of bandwidth sigma."""
    return None  # your turn


check("05.2", votes_at)

# %% [markdown]
# **05.3 The p-value.** Of a permutation test with $n$ relabellings. The labels as they are count as one of the
# relabellings, so that no p-value is ever 0.


# %% tags=["exercise"]
def p_value(statistic, null):
    """MMD² as labelled, a number, and of the relabellings, (n,) → p, between 1/(n + 1) and 1."""
    return None  # your turn


check("05.3", p_value)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("05.1")`; each call says a little more.
#
# **05.4 To derive.** Two samples of $N$ tokens each come from one cloud. Let $\mu$ be the mean of $k(x, x')$ over two
# different tokens. Derive the mean of the biased estimate, $2(1-\mu)/N$. Why does a training curve of the MMD fall
# when sentences get longer, though nothing is learned?
#
# <details><summary>A model answer</summary>
#
# Of the $N^2$ pairs within a cloud $N$ are a token with itself, with $k = 1$; the others have the mean $\mu$. So the
# mean within is $\frac{1}{N} + (1 - \frac{1}{N})\mu$. Twice that, less $2\mu$ across, is
# $\frac{2}{N} - \frac{2\mu}{N} = 2(1-\mu)/N$.
#
# The number of tokens stands below: twice the tokens, half of what chance gives. So never compare MMDs of sentences
# of different lengths, or of two data sets, without what chance gives for each (or take the unbiased estimate).
#
# </details>
#
# ## Recap, and what comes next
#
# - The MMD compares two clouds as wholes: alike within, less alike across the clouds that differ.
# - The bandwidth says how closely to look. Too narrow or too wide, and there is nothing to see.
# - The biased estimate is above zero even for equal clouds. A permutation test says what chance gives.
#
# The estimates and the test are from Gretton and others, *A kernel two-sample test*, JMLR 2012. Now you have all
# parts: the scan, the experts, transport and the MMD. In the [next chapter](06_assemble_the_model.ipynb) you put them
# together.
