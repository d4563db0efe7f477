# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What does a picture of a thousand dots prove?
# needs: 00; the mean, the distance of two points

# %% [markdown]
# # Embeddings with UMAP: what does a picture of a thousand dots prove?
#
# Every paper on fusion has this picture: a cloud of coloured dots on the left, before; another on the right, after;
# and a sentence that the colours are mixed now, or apart. It persuades at once. It should not.
#
# A token inside the model has dozens of coordinates, a sheet of paper has two. Something has to be given up. UMAP
# gives up nearly everything but one thing: which points are neighbours. A reader who takes sizes, gaps and islands for
# facts is reading what is not written there. In this chapter you learn to read what is, and to say it in numbers.
#
# ![Left: three clouds, one wide, one far away, with lines between nearest neighbours. Middle: as UMAP draws them, the
# same lines, but all clouds equally wide and equally far. Right: what can be counted: of the seven tokens nearest to
# one, five are of its own kind](pictures/neighbours.svg)
#
# ## The question, and your prediction
#
# > 1. Of three clouds one is ten times as wide as the others, and another lies ten times as far away. Will UMAP draw
# >    the one wider, and the other farther?
# > 2. Pure noise, one round ball without any groups. What will UMAP draw?
# > 3. Of a token's 10 nearest tokens, how many are of its own modality: in an untrained model, and in a trained one?
# > 4. Do tokens of sentences with similar labels lie near each other after fusion?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs of training, and fewer tokens; the pictures then show little
interactive = True  # False: a still figure instead of a panel

# %%
import dataclasses

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import trustworthiness

from alignmamba2 import AlignMamba2, figures, fit, load_dataset
from alignmamba2.explorers import EmbeddingExplorer
from course import check, check_parameters

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: {note}; first, clouds in the plane, synthetic too")
rng = np.random.default_rng(seed)
if fast:
    data = {split: dataclasses.replace(d, samples=d.samples[:120]) for split, d in data.items()}
# Trained before UMAP runs, whose threads would slow it down.
model = fit("mini-mosi", seed=seed, fast=fast, datasets=data, progress=False).model

# %% [markdown]
# ## A picture of the data
#
# Begin where the truth can be seen: three clouds that lie in a plane already. *narrow* and *far* have the same width,
# *wide* is ten times as wide. *wide* lies 10 from *narrow*, and *far* lies 100 from it. Left, where they are (the panel
# is 100 wide and some 12 high, so heights are stretched); right, what UMAP makes of them.

# %%
kinds = np.repeat(["narrow", "wide", "far"], 100)
middle, width = {"narrow": 0.0, "wide": 10.0, "far": 100.0}, {"narrow": 0.2, "wide": 2.0, "far": 0.2}
clouds = np.stack([[middle[k], 0] + width[k] * rng.standard_normal(2) for k in kinds])
drawn = figures.umap_2d(clouds, random_state=seed)
heads = ("where they are, heights stretched", "UMAP")
figures.before_after(clouds, drawn, kinds, by=kinds, heads=heads, note="three clouds, synthetic")

# %%
rows = {}
for name, points in (("as they are", clouds), ("UMAP", drawn)):
    centre = {k: points[kinds == k].mean(0) for k in middle}
    spread = {k: np.linalg.norm(points[kinds == k] - centre[k], axis=1).mean() for k in middle}
    gap = {k: np.linalg.norm(centre[k] - centre["narrow"]) for k in ("wide", "far")}
    rows[name] = {"wide ÷ narrow, width": spread["wide"] / spread["narrow"]}
    rows[name]["far ÷ wide, distance from narrow"] = gap["far"] / gap["wide"]
pd.DataFrame(rows).T.round(1)

# %% [markdown]
# The first row is what we planted. The second is what a reader would measure on the plane. Widths and distances are
# gone: UMAP asks each point for its 15 nearest, and ten times as wide is ten times as far to *all* of them, which
# changes nothing about who they are.
#
# And noise? One ball in 32 dimensions, without any groups, drawn twice with different random starts. The number over
# each panel is the *trustworthiness* (Venna and Kaski, 2001), 1 where all who are neighbours on the plane are
# neighbours in truth, and about ½ where the plane was drawn by chance.

# %%
ball = rng.standard_normal((150 if fast else 400, 32))
planes = [figures.umap_2d(ball, random_state=start, neighbours=5) for start in (seed, seed + 1)]
facts = {
    side: f"trustworthiness {trustworthiness(ball, plane, n_neighbors=10):.2f}"
    for side, plane in zip(("before", "after"), planes, strict=True)
}
heads = (f"random_state {seed}", f"random_state {seed + 1}")
figures.before_after(*planes, ["noise"] * len(ball), heads=heads, facts=facts, note="one ball of noise, synthetic")

# %% [markdown]
# Whatever strands and clumps you see, they are not there, and with another start they are others.
#
# ## The idea by hand: count neighbours
#
# So do not measure on the plane. Go back to the space of the tokens, where distances are what they are, and count.
# Token $i$ has $k$ nearest others, the set $N_k(i)$. The share of them that are of its own modality, averaged over all
# $N$ tokens, is
#
# $$ s = \frac{1}{N} \sum_{i=1}^{N} \frac{1}{k} \sum_{j \in N_k(i)} [m_j = m_i]. $$
#
# It is 1 if the modalities lie apart. If they are mixed so well that nobody could tell, it is what shuffled labels
# give: about $\sum_m (N_m / N)^2$, a third for three modalities of equal size.


# %%
def nearest(points, k):
    """points (N, d) → the numbers of the k nearest others of each, (N, k)."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)  # nobody is their own neighbour
    return np.argsort(apart, axis=1)[:, :k]


def own_share(points, modality, k=10):
    """How many of a token's k nearest are of its own modality, averaged."""
    return (modality[nearest(points, k)] == modality[:, None]).mean()


print(f"three clouds: {own_share(clouds, kinds):.2f}; shuffled: {own_share(clouds, rng.permutation(kinds)):.2f}")

# %% [markdown]
# ## The library's version
#
# Take the model that was trained above, and one with the same architecture that has not trained. `trace` keeps the
# tokens before fusion (projected to one width) and after; `tokens_of` draws as many of each modality from it.

# %%
torch.manual_seed(seed)
untrained = AlignMamba2(model.config)
untrained.set_statistics(data["train"].statistics())
batch = data["test"].batch(range(60 if fast else 240))
traces = {"untrained": untrained.trace(batch), "trained": model.trace(batch)}
tokens = {name: figures.tokens_of(t, most=300 if fast else 900, random_state=seed) for name, t in traces.items()}
by_hand = own_share(tokens["trained"].before, tokens["trained"].modality)
library = figures.same_modality_neighbours(tokens["trained"].before, tokens["trained"].modality)
print(f"own neighbours before fusion: {by_hand:.3f} by hand, {library:.3f} by the library")
assert abs(by_hand - library) < 1e-3  # ties may fall either way

# %%
rows = {}
for name, t in tokens.items():
    clouds = {"before fusion": t.before, "after fusion": t.after}
    rows[name] = {when: figures.same_modality_neighbours(x, t.modality) for when, x in clouds.items()}
shuffled = rng.permutation(t.modality)
rows["chance"] = {when: figures.same_modality_neighbours(x, shuffled) for when, x in clouds.items()}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# Now the picture may come: with its numbers over it, and knowing what they are held against.

# %%
t = tokens["trained"]
planes = [figures.umap_2d(x, random_state=seed) for x in (t.before, t.after)]
pairs = zip(("before", "after"), (t.before, t.after), strict=True)
facts = {when: f"{figures.same_modality_neighbours(x, t.modality):.0%} own neighbours" for when, x in pairs}
figures.before_after(*planes, t.modality, t.hover, facts=facts, landmarks=5, note=note)

# %% [markdown]
# ## Does the label show?
#
# Colour the same planes by the label of the sentence. If dots of one colour lie together, does the model know the
# label? Careful: all tokens of a sentence share its label, and if a sentence's tokens lie together, the colours do
# too, whatever the label means. It is the same leak as a speaker who stands in the training and in the test split.

# %%
figures.before_after(*planes, t.modality, t.hover, by=t.label, by_name="label", note=note)

# %% [markdown]
# So guess each token's label from its 10 nearest tokens, once from all, and once only from those of **other**
# sentences. The table shows how well the guess correlates with the truth; the shuffle moves whole sentences.


# %%
def guesses(points, label, sample, others):
    """The mean label of the 10 nearest tokens, (N,); `others`: of other sentences only."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart[(sample[:, None] == sample[None]) if others else np.eye(len(points), dtype=bool)] = np.inf
    return label[np.argsort(apart, axis=1)[:, :10]].mean(1)


rows = {}
_, first, sentence = np.unique(t.sample, return_index=True, return_inverse=True)
shuffled = rng.permutation(t.label[first])[sentence]
for name, x, label in (("before", t.before, t.label), ("after", t.after, t.label), ("shuffled", t.after, shuffled)):
    rows[name] = {
        "from all": np.corrcoef(guesses(x, label, t.sample, False), label)[0, 1],
        "from other sentences": np.corrcoef(guesses(x, label, t.sample, True), label)[0, 1],
    }
pd.DataFrame(rows).T.round(2)

# %%
panel = EmbeddingExplorer(  # wait=False: planes are made beside, with a bar and a stop; a page would be empty
    traces["trained"], most=240 if fast else 600, random_state=seed, note=note, interactive=interactive, wait=True
)

# %% [markdown]
# ## One panel to play with
#
# Turn the number of neighbours from 5 to 120: which islands stay, and which were made by the setting? Colour by the
# prediction and by the error. Highlight one sentence: do its words, sounds and glimpses lie together before fusion?
# And after? (A new plane takes some seconds.)

# %%
panel

# %% [markdown]
# ## What to notice
#
# - In the plane of the three clouds widths and gaps are not what they are, and the ball of noise has shapes of its own.
# - The table of own neighbours has a row *untrained*. If it is near *trained*, the architecture mixes the tokens, and
#   not what it learned.
# - In the last table, the row *shuffled* has labels that mean nothing. Where its guess from all tokens is better than
#   that from other sentences, a sentence's tokens lie together and give each other away. Only what the other rows have
#   from other sentences, beyond what *shuffled* has there, speaks for the labels.
#
# ## Exercises
#
# **13.1 What was kept.** Of a point's $k$ nearest in the space, which share is among its $k$ nearest on the plane?
# Averaged over all points.


# %% tags=["exercise"]
def kept(space, plane, k):
    """space (N, d), plane (N, 2), torch tensors → a number between 0 and 1."""
    return None  # your turn


check("13.1", kept)

# %% [markdown]
# **13.2 Chance, exactly.** Modality $m$ has $N_m$ tokens. If modalities are dealt to the tokens at random, which share
# of neighbours is of one's own? (Nobody is their own neighbour.)


# %% tags=["exercise"]
def chance(counts):
    """counts (M,), how many tokens of each modality → a number between 0 and 1."""
    return None  # your turn


check("13.2", chance)

# %% [markdown]
# **13.3 An honest guess.** The mean label of the $k$ nearest tokens of *other* sentences.


# %% tags=["exercise"]
def guess(points, label, sample, k):
    """points (N, d), label (N,), sample (N,) whose token it is, torch tensors → (N,)."""
    return None  # your turn


check("13.3", guess)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("13.1")`; each call says a little more.
#
# **13.4 To argue.** A paper shows one plane before fusion, without order, and one after it, with an island per class,
# and concludes that fusion makes the classes separable. What do you ask for before you believe it?
#
# <details><summary>A model answer</summary>
#
# (1) Which tokens are drawn? If they are of the training split, the islands may be what the model has learned by
# heart. (2) The same two planes of an untrained model, and with another random start and another number of
# neighbours. (3) A number from the full space: how well a token's label is guessed from its nearest tokens of *other*
# samples, beside the same with shuffled labels. (4) The same number before fusion: if the labels could be guessed as
# well there, only UMAP saw a difference. And a remark: a classifier's last layer is trained to make classes
# separable. That it does so on test data is the accuracy, which is in the table already.
#
# </details>
#
# ## Recap, and what comes next
#
# - UMAP keeps neighbourhoods. Widths, gaps and islands are not to be read.
# - Count neighbours in the space of the tokens, and put untrained and chance beside it.
# - Tokens of one sentence share their label. Whoever asks whether labels show must leave the sentence itself out.
#
# UMAP is McInnes, Healy and Melville, 2018 ([arXiv 1802.03426](https://arxiv.org/abs/1802.03426)).
# Here all modalities were there. In the [next chapter](14_lose_a_modality.ipynb) one is taken away, or drowned in
# noise.
