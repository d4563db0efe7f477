# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: Which sound belongs to which word, if nobody says?
# needs: 00; matrices, the cosine of an angle

# %% [markdown]
# # Optimal transport: which sound belongs to which word?
#
# A video of a review has no subtitles that say *this* rise of the voice belongs to *that* word. The words come
# about three a second, sound is measured a hundred times a second, and people raise their voices a little before or
# after the word that they mean. To fuse the streams well, a model should still have an idea of what belongs to what.
#
# Optimal transport turns that into a question with an answer. Put an equal weight of sand on every sound. Dig a hole
# under every word, all holes together as large as the heap. Say what it costs to carry a spoonful from sound *i* to
# word *j*, little if the two are alike and much if they are not. Now fill all holes as cheaply as possible. How
# much went from which heap to which hole is the **plan**, and it is the alignment that we were looking for.
#
# ![Five heaps of sand above three holes. Left, each heap goes to the nearest hole: one hole is 180 % full, two are 60
# % full. Right, the transport plan splits some heaps, and every hole is full](pictures/transport.svg)
#
# *The same sand twice. A ribbon is as wide as the mass that it carries.*
#
# ## The question, and your prediction
#
# > 1. A lazier rule: every sound simply goes to the word that is most like it. Under this rule, what share of the
# >    words gets nothing at all?
# > 2. Optimal transport does not let that happen. Does that put *more* sounds on their true words, or fewer?
# > 3. A parameter ε makes the plan sharp (small) or blurred (large). Is the sharpest plan the best one?
# > 4. One entry of the cost rises by a little, δ. By how much does the total rise? It depends on the entry: on what?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: fewer samples in the averages
interactive = True  # False: a still figure instead of a panel

# %%
import math

import numpy as np
import pandas as pd
import torch

from alignmamba2 import figures, load_dataset, transport
from alignmamba2.explorers import TransportExplorer
from course import check, check_parameters

check_parameters(globals())
data = load_dataset("mini-mosi")
train, test = data["train"], data["test"]
pair, note = ("audio", "text"), "mini-mosi, synthetic"
print(f"Data set: {note}\n{train.description}")

# %% [markdown]
# We generated mini-mosi, so here we know which sound belongs to which word, and can tell whether a plan is right.
# Each word has one true partner among the sounds, and about a third of the sounds are fillers that belong to nothing.
#
# ## A picture of the data
#
# One sample. Words on top, and below them what the voice does. There are more sounds than words, and nothing in the
# picture says which belong together.

# %%
sample = next(s for s in test if len(s.words["text"]) == 8)
mean_and_sd = train.statistics()
standard = {m: (x - mean_and_sd[m][0]) / mean_and_sd[m][1] for m, x in sample.features.items() if m in pair}
figures.sample_strips(standard, sample.words, title=f"Words and sounds of {sample.id}", note=note)

# %% [markdown]
# A word is 32 numbers here and a sound is 16, so "alike" means nothing yet. AlignMamba-2 learns a projection of both
# to one width. In this chapter we cheat, to have good tokens without training: least squares finds the linear map
# that takes sounds nearest to their true words, on the training split. A second map, random, is there for comparison.


# %%
def features(sample, modality):
    return (sample.features[modality] - mean_and_sd[modality][0]) / mean_and_sd[modality][1]


partnered = torch.cat([features(s, "audio")[s.partners[pair] >= 0] for s in train])
words = torch.cat([features(s, "text") for s in train])  # in the order of their partners
good_map = torch.linalg.lstsq(partnered, words).solution  # (16, 32)
random_map = torch.randn(16, 32, generator=torch.Generator().manual_seed(seed))


def tokens(sample, projection=good_map):
    """Sounds (T_audio, 32) and words (T_text, 32), now of one width."""
    return features(sample, "audio") @ projection, features(sample, "text")


x, y = tokens(sample)
print(f"{len(x)} sounds and {len(y)} words, {x.shape[1]} numbers each")

# %% [markdown]
# ## The problem, exactly
#
# Carrying a unit of mass from token *i* of *x* to token *j* of *y* costs
#
# $$ C_{ij} = 1 - \cos(x_i, y_j), $$
#
# 0 if they point the same way, 1 if they have nothing to do with each other, 2 if they are opposites. Every token of
# *x* has mass $a_i = 1/T_x$ and every token of *y* has room for $b_j = 1/T_y$. A plan $P \ge 0$ must empty every heap
# and fill every hole, and among all that do we want the cheapest:
#
# $$ \min_{P} \; \langle P, C \rangle = \min_{P} \sum_{ij} P_{ij} C_{ij}
#    \quad\text{subject to}\quad P\mathbf{1} = a,\; P^\top\mathbf{1} = b. $$
#
# That is a linear programme, and `method="exact"` solves it. The lazy rule, every sound to its nearest word, is
# `method="relaxed"`: it empties the heaps and does not look at the holes. (AlignMamba, the first version, used that
# rule, by a third party's account.)
#
# **In three numbers.** Let heaps lie on a road at 0, 1 and 2, holes at 0, 3 and 4, a third of the sand in each, and let
# the square of a distance be its cost:
#
# | | to 0 | to 3 | to 4 | the lazy rule | the cheapest plan |
# |---|---|---|---|---|---|
# | heap at 0 | 0 | 9 | 16 | to 0, for 0 | to 0, for 0 |
# | heap at 1 | 1 | 4 | 9 | to 0, for 1 | to 3, for 4 |
# | heap at 2 | 4 | 1 | 4 | to 3, for 1 | to 4, for 4 |
# | a third of all | | | | **⅔**, but nothing at 4 | **2⅔**, and all holes are full |
#
# The heap at 2 lies nearer to 3. But if it goes there, for 1, the heap at 1 must go to 4, for 9, and both together
# cost 10 in place of 8. Compare the two rules on our sample:

# %%
exact = transport(x[None], y[None], method="exact")
lazy = transport(x[None], y[None], method="relaxed")
for name, result in (("exact", exact), ("relaxed", lazy)):
    filled = result.plan[0].sum(0) * len(y)  # 1 where a hole is exactly full
    print(f"{name:8s} cost {result.distance.item():.3f}; holes filled to {[round(v, 2) for v in filled.tolist()]}")

# %% [markdown]
# The lazy rule is cheaper, as it must be: it obeys fewer rules. And it overfills some holes and leaves others empty.
#
# ## The idea by hand: a little blur makes it fast and smooth
#
# The exact plan has two faults. It takes long, and when the costs change a little it either stays as it was or jumps:
# there is nothing to learn from. So we pay a little, ε, for every bit by which the plan differs from an even spread
# $ab^\top$:
#
# $$ \min_P \; \langle P, C\rangle + \varepsilon\, \mathrm{KL}(P \,\|\, ab^\top)
#    \quad\text{subject to}\quad P\mathbf{1} = a,\; P^\top\mathbf{1} = b. $$
#
# The minimum now has a form: $P_{ij} = a_i b_j \exp\big((f_i + g_j - C_{ij})/\varepsilon\big)$. Read $f_i$ as a refund
# on everything that leaves heap *i*, and $g_j$ as one on everything that arrives at hole *j*. Sinkhorn's algorithm
# sets the refunds by turns, first all $f$ such that the rows of *P* are right, then all $g$ such that the columns are,
# until both stay right. In the start notebook it worked with $\exp(-C/\varepsilon)$, which is 0 to a computer when ε
# is small; here it works with logarithms, and any ε will do.


# %%
def sinkhorn(cost, epsilon, steps=5000):
    """Cost (T_x, T_y) → the plan (T_x, T_y) between uniform weights."""
    log_a, log_b = -math.log(cost.shape[0]), -math.log(cost.shape[1])
    g = torch.zeros(cost.shape[1])
    for _ in range(steps):
        f = -epsilon * torch.logsumexp(log_b + (g[None, :] - cost) / epsilon, dim=1)  # rows sum to a
        g = -epsilon * torch.logsumexp(log_a + (f[:, None] - cost) / epsilon, dim=0)  # columns sum to b
    return torch.exp(log_a + log_b + (f[:, None] + g[None, :] - cost) / epsilon)


def cosine_cost(x, y):
    return 1 - torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T


epsilon = 0.05
by_hand = sinkhorn(cosine_cost(x, y), epsilon)
print(f"mass {by_hand.sum():.6f}; a row {by_hand[0].sum():.6f} = 1/{len(x)}; a column {by_hand[:, 0].sum():.6f}")

# %% [markdown]
# And the three heaps on the road: the share of each heap, row by row, that goes to each hole.

# %%
road = (torch.tensor([0.0, 1.0, 2.0])[:, None] - torch.tensor([0.0, 3.0, 4.0])) ** 2
for blur in (0.1, 1.0, 10.0, 1000.0):
    blurred = sinkhorn(road, blur)
    shares = "; ".join(" ".join(f"{share:.2f}" for share in row) for row in (3 * blurred).tolist())
    print(f"ε = {blur:6}: {shares}   carried for {(blurred * road).sum():.2f}")

# %% [markdown]
# ## The library's version
#
# `transport` does it for a whole batch with padding, stops when the sums are right, and chooses between three solvers
# by ε, device and size.

# %%
found = transport(x[None], y[None], epsilon=epsilon, tolerance=1e-6, max_iterations=10_000)
print("largest difference:", f"{(found.plan[0] - by_hand).abs().max():.0e}", "after", found.iterations.item(), "rounds")
assert torch.allclose(found.plan[0], by_hand, atol=1e-5)
figures.transport_plan(
    found.plan[0], sample.words["audio"], sample.words["text"], names=pair, partners=sample.partners[pair], note=note
)

# %% [markdown]
# Rings mark the true partners. Look at the columns without a ring, the fillers: they had to put their sand somewhere,
# too. That is a limit of the method, and not of the tokens: *all* mass must go. Do they at least show it, by spreading
# their sand? Count how many words a sound reaches: $e^H$, with $H$ the entropy of how its mass is shared out, is 1 if
# one word gets all, and $n$ if $n$ words get equally much.

# %%
reach, alone = {False: [], True: []}, {False: [], True: []}  # of sounds with a true word, and of fillers
for s in [test[i] for i in range(20 if fast else 200)]:
    sounds, spoken = tokens(s)
    share = len(sounds) * transport(sounds[None], spoken[None], epsilon=epsilon).plan[0]  # each row sums to 1
    for filler in reach:
        rows = share[(s.partners[pair] < 0) == filler]
        reach[filler] += torch.exp(-torch.special.xlogy(rows, rows).sum(1)).tolist()
        alone[filler] += (rows.max(1).values > 0.9).tolist()
for filler, name in ((False, "a sound with a true word"), (True, "a filler")):
    print(f"{name} reaches {np.mean(reach[filler]):.1f} words on average;", end=" ")
    print(f"{np.mean(alone[filler]):.0%} of them put more than nine tenths on a single word")

# %% [markdown]
# On average they do. But a single filler may go to one word as firmly as if it belonged there, so a sharp column is no
# proof of a partner.
#
# ## How often is each method right?
#
# One sample is an anecdote. Here are all of the test split: mass on the true partners (among the sounds that have
# one), and the share of words that get less than a tenth of what they should.


# %%
def measure(samples, projection=good_map, **options):
    """Mean share of mass on true partners, and of words that stay empty."""
    right, empty = [], []
    for s in samples:
        a, b = tokens(s, projection)
        plan = transport(a[None], b[None], **options).plan[0]
        right.append(figures.agreement(plan, s.partners[pair])[0])
        empty.append((plan.sum(0) < 0.1 / len(b)).float().mean().item())
    return {"on true partners": np.mean(right), "words left empty": np.mean(empty)}


some = [test[i] for i in range(20 if fast else 200)]
rows = {"nearest word (relaxed)": measure(some, method="relaxed"), "exact": measure(some, method="exact")}
for e in (0.01, 0.05, 0.2, 1.0):
    rows[f"Sinkhorn, ε = {e}"] = measure(some, epsilon=e, tolerance=1e-5, max_iterations=10_000)
rows["Sinkhorn, ε = 0.05, random map"] = measure(some, random_map, epsilon=0.05)
rows["chance"] = {"on true partners": np.mean([1 / len(s.words["text"]) for s in some]), "words left empty": 0.0}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## Its gradient is the plan
#
# Why does this make a good loss? The value of the problem, `distance`, has the simplest of all derivatives. If
# $C_{ij}$ rises by a tiny δ, the total rises by δ times the mass that goes that way:
#
# $$ \frac{\partial\, \mathrm{OT}_\varepsilon}{\partial C_{ij}} = P_{ij}. $$
#
# (The plan changes too, but at a minimum that makes no difference to first order: the *envelope theorem*.) So nothing
# is differentiated through the rounds, however many there were. Let us try it on the largest entry and on one of
# middle size:

# %%
x64, y64 = x[None].double(), y[None].double()
cost = cosine_cost(x64[0], y64[0])[None]
options = {"epsilon": epsilon, "tolerance": 1e-12, "max_iterations": 100_000}
plan = transport(x64, y64, cost=cost, **options).plan[0]
delta = 1e-4
for place in (plan.argmax(), (plan - 0.02).abs().argmin()):
    i, j = divmod(place.item(), plan.shape[1])
    bump = torch.zeros_like(cost)
    bump[0, i, j] = delta
    up, down = (transport(x64, y64, cost=cost + s * bump, **options).distance.item() for s in (1, -1))
    print(f"mass {plan[i, j]:.3e}   change of the total, per δ: {(up - down) / (2 * delta):.3e}")

# %% [markdown]
# That answers the fourth question, and says what training does: **it pulls every pair of tokens together exactly as
# hard as the plan ties them.** A sound that goes to one word is drawn to that word; a sound that is spread over all
# words is drawn to their middle.
#
# ## One panel to play with
#
# Turn ε, with the slider or the arrow keys. Watch three things: the share on true partners in the subtitle, the bars
# (they never change: the rules hold at every ε), and what the fillers do.

# %%
panel = TransportExplorer(
    x,
    y,
    sample.words["audio"],
    sample.words["text"],
    epsilon=epsilon,
    names=pair,
    partners=sample.partners[pair],
    note=note,
    interactive=interactive,
)
panel

# %% [markdown]
# The same with heaps (blue) and holes (orange) that lie on a table; as on the road, a cost is a squared distance. Drag
# a blue point, with the mouse or the sliders, from one hole to another. At a small ε its sand changes the hole all at
# once, and others change theirs with it; at a large one it goes over little by little.

# %%
drawn = "points drawn at random, synthetic"
table = TransportExplorer.of_points(8, epsilon=0.01, seed=seed, note=drawn, interactive=interactive)
table

# %% [markdown]
# ## What to notice
#
# - The lazy rule leaves words empty, transport does not: compare the second column with your first prediction.
# - The rule that all holes must be filled has a price. On these data the lazy rule puts a little *more* mass on the
#   true partners, for it lets the fillers crowd wherever they like, while transport must find room for their sand and
#   pushes others aside. Rules that fit the data help, and rules that do not fit hurt.
#   (`method="unbalanced"` lets a heap keep some of its sand, at a price that you choose.)
# - A small ε comes close to the exact plan; a large one goes to the even spread and to chance. From 0.01 to 0.05 the
#   score hardly changes, so ε can be chosen for speed and smoothness. (The default, 0.05, is what a third-party
#   implementation of the paper uses.)
# - Good tokens matter more than the method. With the random map the plan is close to chance, for it can only find what
#   the tokens show. In AlignMamba-2 the projection and the plan improve each other during training. The start notebook
#   measures how far that goes: less far than our least squares, which was told the partners.
#
# ## Exercises
#
# **04.1 The lazy rule.** From a cost to the relaxed plan: every token of *x* sends all it has, $1/T_x$, to the token
# of *y* that is cheapest for it.


# %% tags=["exercise"]
def relaxed_plan(cost):
    """Cost (T_x, T_y) → plan (T_x, T_y)."""
    return None  # your turn


check("04.1", relaxed_plan)

# %% [markdown]
# **04.2 The price of blur.** Sinkhorn minimises $\langle P, C\rangle + \varepsilon\,\mathrm{KL}(P\,\|\,ab^\top)$
# with $\mathrm{KL}(P\,\|\,Q) = \sum_{ij} P_{ij} \log(P_{ij}/Q_{ij})$ and uniform $a$ and $b$. Compute it. (The library
# calls it `distance`, and `transport_cost` is its first half.)


# %% tags=["exercise"]
def entropic_distance(cost, plan, epsilon):
    """Cost and plan (T_x, T_y), every entry of the plan > 0 → a number."""
    return None  # your turn


check("04.2", entropic_distance)

# %% [markdown]
# **04.3 Padding.** In a batch, short samples are padded, and a mask says which tokens are real. The weights must be
# uniform over the real tokens and 0 on padding; and a sample may have no real token at all, if somebody switched the
# microphone off. Then all its weights are 0.


# %% tags=["exercise"]
def weights(mask):
    """Mask (B, T), bool → weights (B, T), float; every row sums to 1, or to 0 where nothing is real."""
    return None  # your turn


check("04.3", weights)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("04.1")`; each call says a little more.
#
# **04.4 To derive.** What becomes of the plan when $\varepsilon \to \infty$, and when $\varepsilon \to 0$? The
# gradient of the loss is the plan. So what does training do to a sound in each case, and why is neither what one
# wants?
#
# <details><summary>A model answer</summary>
#
# For $\varepsilon \to \infty$ only the KL term counts, and $P = ab^\top$. Every sound is pulled to every word equally
# hard, towards their mean direction: all sounds end up in one place, and nothing is matched.
#
# For $\varepsilon \to 0$ the plan is the exact one. It has at most $T_x + T_y - 1$ entries that are not 0, so each
# sound is pulled to one or two words, at full strength. But early in training those words are mostly wrong, and when
# the costs change a little the plan jumps. In between, a sound is pulled to the middle of the few words that are
# possible, and the choice becomes sharper as the tokens become better.
#
# </details>
#
# ## Recap, and what comes next
#
# - A plan says who belongs to whom; it must empty all heaps and fill all holes, and is the cheapest that does.
# - Entropy, with strength ε, makes it fast to find, smooth, and unique. Sinkhorn sets refunds for rows and columns by
#   turns.
# - The gradient of its value is the plan itself. Nothing is differentiated through the iterations.
# - All mass must go, also that of tokens that belong nowhere; and a plan is only as good as its tokens.
#
# Transport looks at pairs of tokens *within* a sample. The next chapter,
# [05](05_compare_clouds_with_mmd.ipynb), steps back and asks whether the two clouds of tokens, as a whole, lie in the
# same place.
