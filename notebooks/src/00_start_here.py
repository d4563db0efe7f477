# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What does a model make of words, voice and face?
# needs: Python, and what a vector is

# %% [markdown]
# # Start here: which sound belongs to which word?
#
# Somebody reviews a film. She says *the story is great*, her voice drops on *great*, and she frowns. Three streams,
# words, voice and face, and only together do they say what she thought of it.
#
# To a computer each stream is a sequence of **tokens**: lists of numbers, one list a word, a moment of sound, a
# glimpse of the face. The streams differ in length and kind, and nobody writes down which sound belongs to which
# word. AlignMamba-2 is a model that reads all of them. It rests on three ideas:
#
# 1. **Optimal transport** asks of two streams: what is the cheapest way to carry the one over to the other? The
#    answer, the *plan*, says which token goes to which.
# 2. **Maximum mean discrepancy (MMD)** asks: seen as clouds of points, how far are the two streams apart?
# 3. **A Mamba with experts** reads all tokens as one sequence. Every token passes through two experts, one for its
#    own modality and one that all modalities share.
#
# The first two are losses: they shape the model while it trains and cost nothing when it predicts.
#
# The chapter has two acts. In the first, **you train a model yourself, here, in a minute or two**, on data that were
# made so that the ideas can work, and you watch each of them at work. The second asks what becomes of them on the real
# CMU-MOSI. That is the harder question, and the answer is not the one that a press release would give.
#
# ![The model: text, audio and video are each projected to tokens of one width; in training two losses align them; all
# tokens become one sequence in the order of time; N layers of a Modality-Aware Mamba fuse it; a mean and a head give
# the prediction](pictures/architecture.svg)
#
# *The whole model. Circles are words, diamonds are sounds, squares are glimpses of the face, here and in every drawing
# of the course. Chapter 06 goes through it box by box.*
#
# ## The question, and your prediction
#
# Before you run anything, write down what you expect. (A wrong guess that you wrote down teaches more than a right
# one that you did not.)
#
# > 1. Nobody tells the model which sound belongs to which word. Will the plan find out? How much of its mass will
# >    lie on the true partners?
# > 2. Training pulls at the MMD between the streams. Will it fall? To zero?
# > 3. Will words lean more on their own expert, or on the one that they share with sound and face?
# > 4. Look at a token's nearest neighbours. Before fusion, are they of the same modality? And after?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs, to see that everything runs; the pictures then show little
interactive = True  # False: still figures instead of panels
dataset = "mini-mosi"  # "mini-mosi", generated; or "mosi-utterances", real, where its files are

# %%
import numpy as np
import pandas as pd
import torch

from alignmamba2 import AlignMamba2, evaluate, figures, fit, load_dataset, mmd, transport
from alignmamba2.explorers import TransportExplorer
from course import check, check_parameters
from course.results import benchmarks, beside_published, effects

check_parameters(globals())
data = load_dataset(dataset)
train, test = data["train"], data["test"]
note = f"{dataset}, synthetic" if train.synthetic else dataset
print(f"Data set: {note}; and, as measured before, the real benchmarks")
print(train.description)
print(f"{len(train)} samples to learn from, {len(data['valid'])} to choose the epoch by, {len(test)} to test on")

# %% [markdown]
# ## Act one: data that we made
#
# In mini-mosi a sample is a short generated sentence, a token is a word or a moment of sound or of the face, and the
# whole has one label: how positive it is, from −3 to 3. We made it, so we *know* which sound belongs to which word.
# The model is never told.
#
# ## A picture of the data
#
# One sample of the test split, as the model gets it. A column is a token, a row is a feature, red is above that
# feature's mean and blue below. Hover to read the words.

# %%
chosen = next((i for i, s in enumerate(test) if 8 <= len(s.words["text"]) <= 12), 0)
sample = test[chosen]
statistics = train.statistics()
standard = {m: (x - statistics[m][0]) / statistics[m][1].clamp_min(1e-8) for m, x in sample.features.items()}
figures.sample_strips(standard, sample.words, title=f"What the model gets: {sample.id}", note=note)

# %% [markdown]
# You can hardly read a feeling off these colours. Neither can the model, yet. Note that the modalities have
# different numbers of features and of tokens: a word's numbers and a sound's cannot even be
# compared. So the model's first step is to **project** every token to the same width, `d_model`. Only then do
# "near" and "far" mean something between a word and a sound.
#
# ## Train it
#
# One call. It reads its settings from the **recipe** of this data set, a text file that holds every setting of a
# training. Then it trains, and keeps the epoch that did best on the validation split (epochs are counted from 0).
# Nothing is learned or chosen on the test split; the last line only measures there.
#
# This recipe gives each of the two alignment losses a tenth of the task's pull: the weight is measured while training
# runs, so that the loss's gradient is a tenth as long as the task's (`share_ot`, `share_mmd`).

# %%
result = fit(dataset, seed=seed, fast=fast, progress=False)  # some ten seconds; a first run compiles for twenty more
model, history = result.model, result.history
scores = evaluate(model, test)
print(f"{len(history)} epochs; the best was epoch {result.best_epoch}")
print("test:", ", ".join(f"{k} {v:.3f}" for k, v in scores.items() if k in ("accuracy", "f1", "mae", "corr")))

# %%
monitor = result.recipe.training.monitor
figures.losses(history, metric=monitor, best="min" if monitor.endswith(("loss", "mae")) else "max", note=note)

# %% [markdown]
# The loss is a sum, *L* = *L*<sub>task</sub> + λ<sub>OT</sub> · *L*<sub>OT</sub> + λ<sub>MMD</sub> ·
# *L*<sub>MMD</sub>, and each part has its own axis above since their sizes differ. Look closer at the last part, pair
# by pair. A pair is a modality and the **anchor**, the modality that all others are aligned with; here it is the text.
# The numbers are those of validation: before the first step, and in the epoch that the model comes from.

# %%
for m, anchor in model.config.pairs:
    first = history[0][f"untrained/mmd/{m}-{anchor}"]
    last = history[result.best_epoch][f"valid/mmd/{m}-{anchor}"]
    print(f"MMD of {m} and {anchor}: {first:.3f} untrained, {last:.3f} in the best epoch, {last / first - 1:+.0%}")
figures.mmd_over_epochs(history, note=note)

# %% [markdown]
# ## The idea by hand: a transport plan in a dozen lines
#
# Every sound starts with the same amount of mass, and every word must end up with the same amount. Moving mass from
# sound *i* to word *j* costs *C*<sub>ij</sub> = 1 − cos(angle between the two tokens): 0 if they point the same
# way, 2 if they point apart. The cheapest plan under these rules can be found, but it jumps whenever the costs
# change a little, and a network cannot learn from jumps. So one adds a small preference, of strength **ε**, for
# spreading the mass evenly. Then the plan has a beautiful form, *P*<sub>ij</sub> = *u*<sub>i</sub> ·
# exp(−*C*<sub>ij</sub> / ε) · *v*<sub>j</sub>, and *u* and *v* are found by turns: make the rows right, make the
# columns right, repeat. That is all of Sinkhorn's algorithm.


# %%
def sinkhorn(x, y, epsilon, steps=5000):
    """Tokens (T_x, d) and (T_y, d) → plan (T_x, T_y)."""
    x, y = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True) for tokens in (x, y))
    cost = 1 - x @ y.T
    kernel = np.exp(-cost / epsilon)
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    v = np.ones(len(y))
    for _ in range(steps):
        u = a / (kernel @ v)  # now every row sums to a
        v = b / (kernel.T @ u)  # now every column sums to b
    return u[:, None] * kernel * v


# %% [markdown]
# Try it on tokens of the model that you just trained. `trace` runs the model on a batch, here the whole test split,
# and keeps everything worth looking at. We take the projected tokens of our one sample:

# %%
trace = model.trace(test.batch())
pair = trace.pairs[0]
x, y = (trace.projected[m][chosen][trace.masks[m][chosen]] for m in pair)
by_hand = sinkhorn(x.double().numpy(), y.double().numpy(), model.config.epsilon)
print(f"{pair[0]} → {pair[1]}: a plan of {by_hand.shape[0]} × {by_hand.shape[1]}, total mass {by_hand.sum():.6f}")

# %% [markdown]
# ## The library's version
#
# `alignmamba2.transport` does the same for whole batches with padding, on a GPU too, stops when the sums are right,
# and lets gradients through. It is what the model trained with.

# %%
found = transport(x[None], y[None], epsilon=model.config.epsilon, tolerance=1e-6, max_iterations=10_000)
library = found.plan[0].numpy()
print("largest difference:", f"{np.abs(library - by_hand).max():.1e}")
assert np.allclose(library, by_hand, atol=1e-4), "the two should agree"

# %% [markdown]
# Here is that plan. Words run down, the other stream runs along. A bright cell is much mass; the rings mark the
# true partners. The bars are the sums of the rows and columns, all equal, as they must be. On the right the same
# plan as links: dark where a link joins true partners, the thicker the more mass.


# %%
def partners(i, pair):
    """The true word of every token, −1 for none; on mosi-utterances the sentence at the same place."""
    steps = len(test[i].features[pair[0]])
    return test[i].partners.get(pair, torch.arange(steps))


plan = figures.plan_of(trace, chosen, pair)
figures.transport_plan(**plan, partners=partners(chosen, pair), note=note)

# %% [markdown]
# ## One panel to play with: ε
#
# Turn ε. (Click the slider's handle, then use the arrow keys.) On the left of the scale the plan is stingy and
# sharp, on the right it does not care about cost and spreads everything evenly. Where is most mass on the true
# partners? Is that where it is sharpest?

# %%
labels = {key: plan[key] for key in ("row_words", "column_words", "names")}
labels |= {"partners": partners(chosen, pair), "note": note}
panel = TransportExplorer(x, y, **labels, epsilon=model.config.epsilon, interactive=interactive)
panel

# %% [markdown]
# ## The experts
#
# Inside the fusion layers each token is multiplied by two matrices and the results are added: its modality's own
# expert and the shared one. (Since a sum of two matrices is a matrix, the model adds them *first*, and pays for
# one.) A modality's own expert is how it deviates from the mean of all, and begins at zero. How long is what each of
# the two contributes? Shares over all test tokens:

# %%
figures.expert_shares(trace.expert_shares(), trace.expert_names, note=note)

# %% [markdown]
# ## Before and after fusion
#
# Last, all tokens at once. UMAP draws points with many coordinates on a plane such that neighbours stay neighbours.
# (Distances *between* groups and the sizes of groups mean little in such a picture; do not read them.) The number
# over each panel is not read off the plane but counted in the full space: of a token's 10 nearest, how many are of
# its own modality? With three modalities mixed perfectly it would be a third.

# %%
tokens = figures.tokens_of(trace, most=300 if fast else 1500, random_state=seed)
clouds = {"before": tokens.before, "after": tokens.after}
own = {k: figures.same_modality_neighbours(cloud, tokens.modality) for k, cloud in clouds.items()}
planes = [figures.umap_2d(cloud, random_state=seed) for cloud in clouds.values()]
facts = {k: f"{share:.0%} own neighbours" for k, share in own.items()}
figures.before_after(*planes, tokens.modality, tokens.hover, facts=facts, note=note)

# %% [markdown]
# ## What to notice
#
# Now hold your predictions against numbers. A picture of a trained model proves little unless you know what an
# *untrained* one looks like: the same architecture with random weights, shown the same test samples. And both prove
# little unless you know what blind *chance* would give. For the MMD that is not zero: from so few tokens even two
# handfuls of the same bag look a little different. How different, we find out by throwing the tokens of both
# modalities into one bag and drawing two handfuls.


# %%
def two_handfuls(trace, pair):
    """The mean MMD between tokens whose modality was forgotten: pooled, shuffled, split again."""
    generator, values = torch.Generator().manual_seed(seed), []
    for i in range(len(test)):
        x, y = (trace.projected[m][i][trace.masks[m][i]] for m in pair)
        bag = torch.cat([x, y])[torch.randperm(len(x) + len(y), generator=generator)]
        values.append(float(mmd(bag[None, : len(x)], bag[None, len(x) :], bandwidth=model.config.bandwidth)))
    return np.mean(values)


def measures(trace):
    rows = {}
    for pair in trace.pairs:
        plans = [(figures.plan_of(trace, i, pair)["mass"], partners(i, pair)) for i in range(len(test))]
        found, chance = np.nanmean([figures.agreement(*both) for both in plans], axis=0)
        rows[f"mass on true partners, {pair[0]} → {pair[1]}"] = found, chance
        rows[f"MMD, {pair[0]} ↔ {pair[1]}"] = float(trace.discrepancy[pair].mean()), two_handfuls(trace, pair)
    tokens = figures.tokens_of(trace, random_state=seed)
    for when, cloud in (("before", tokens.before), ("after", tokens.after)):
        mixed = sum((tokens.modality == m).mean() ** 2 for m in trace.modalities)
        rows[f"own neighbours, {when} fusion"] = figures.same_modality_neighbours(cloud, tokens.modality), mixed
    return pd.DataFrame(rows, index=["value", "chance"]).T


# %%
torch.manual_seed(seed)
untrained = AlignMamba2(model.config)
untrained.set_statistics(statistics)
random, trained = measures(untrained.trace(test.batch())), measures(trace)
table = pd.DataFrame({"untrained": random["value"], "trained": trained["value"], "chance": trained["chance"]})
table.round(3)

# %% [markdown]
# Read the table line by line. Where *trained* differs from *untrained*, training did it. Where *trained* equals
# *chance*, the model did not learn that, however suggestive a single picture may look: the losses never see the true
# partners, and a plan can be cheap without being right. Whether the alignment *helps* to predict is yet another
# question, and it takes an experiment to answer it: exercise 3.
#
# ## Your turn: half a round of Sinkhorn
#
# **00.1 Make the rows right.** One half of a round of Sinkhorn: given the kernel $K$ and $v$, find the $u$ with which
# the plan $P_{ij} = u_i K_{ij} v_j$ has the right rows. Replace the placeholder and run the cell: `check` tries your
# function on random inputs and says what is wrong.


# %% tags=["exercise"]
def rows_right(kernel, v):
    """Kernel (T_x, T_y) and v (T_y,) → the plan u_i K_ij v_j, (T_x, T_y), whose rows all sum to 1 / T_x."""
    return None  # your turn


check("00.1", rows_right)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("00.1")`; each call says a little more.
#
# ## Act two: and on the real CMU-MOSI?
#
# Two more questions before you read on; write down your guess.
#
# > 5. People speak, and their words, voices and faces run in step. Will the plan find a sound's word here as well?
# > 6. A model reads words and sound, another the words alone. How many points of accuracy does the sound add?
#
# A fair answer takes more than one training, so these were measured once for all, with several seeds, by commands that
# you can repeat. First the two losses and the experts, on made data and on real ones:

# %%
effects().style.format("{:.3f}", na_rep="–")

# %% [markdown]
# A dash means that nobody knows the true partners. In the untrained model, the share of own experts is 0. On real data:
#
# - **mosi-words**: 229 utterances, of which every word has its sound and its glimpse of the face. The plan puts far
#   more mass on the true partners than chance. But look at *untrained*: it does almost as well. The recipe tells the
#   plan that a sound belongs to about the same *time* as its word (`window`), and that alone finds most of the
#   partners. What the tokens learned adds a little.
# - **mosi-standard**: all 2199 utterances on the split that papers use. The public sound of this split is *one vector
#   per utterance*. There is nothing to match, and the MMD does not fall: one cloud is a single point.
# - **nyu** and **mvsa**, pictures with depth and with tweets: the MMD falls. Partners are not known.
#
# So the losses do what they are meant to do where there is something to align. Do the predictions get better? Test
# accuracy on the real benchmarks, beside what is published:

# %%
beside_published()

# %%
rows = {title: benchmark["rows"] for title, benchmark in benchmarks()}
gaps = {
    (title, f"AlignMamba-2 less {row}"): [
        100 * found["against_full"]["accuracy"][k] for k in ("difference", "low", "high")
    ]
    for title, of_title in rows.items()
    for row, found in of_title.items()
    if row.endswith(" alone") or row in ("linear", "concat-mean", "transformer", "without OT and MMD")
}
pd.DataFrame(gaps, index=["points", "95 % from", "to"]).T.round(1)

# %% [markdown]
# Read it with care. An interval that holds 0 shows nothing.
#
# - **The encoder decides.** The step from the linear model to ours comes from training the text encoder (MiniLM, or the
#   larger mpnet in *strong*), not from fusion.
# - **On MOSI the words say it all.** The text alone is as good as text and sound. A sound that is one vector knows
#   nearly nothing about the sentiment that the words do not know better.
# - **On NYU and MVSA** a second modality adds one to three points. Only for MVSA with the strong encoders does the
#   interval leave 0, and just. The losses change the score by less than their interval.
#
# That a method acts is one claim. That it helps is another. Act one shows the first. For the second, one modality says
# nearly everything in these sets, and they are too small to show a difference of one point. Chapters 07 to 10 go
# through them one by one, chapter 11 says how large a difference must be to be seen, and chapter 14 takes modalities
# away, which is where a second one is worth most.
#
# ## Exercises
#
# The first three are experiments, and the last is a question to argue about:
#
# 2. **Half an algorithm.** Call `sinkhorn(..., steps=1)`. Which sums of the plan are right and which are not? Why
#    those? How many steps until both are right to four digits, at ε = 0.05 and at ε = 0.5?
# 3. **What alignment costs, and what it brings.** Train without it, `overrides={"model.lambda_ot": 0.0,
#    "model.lambda_mmd": 0.0}`, and with both as heavy as the task, `1.0` for `0.0`. Give each model's
#    `trace(test.batch())` to `measures`. Which lines of the table change? Does the score? (One seed is an anecdote:
#    take three before you believe it.)
# 4. **Other neighbours.** Set `k=1` and `k=50` in `same_modality_neighbours`. Does the answer to your fourth
#    prediction depend on it?
# 5. **To argue.** A colleague shows a plan in which nine tenths of the mass lie on the true partners, and says: "so
#    the alignment loss works." Which two further numbers do you ask for, and what could each of them show?
#
# <details><summary>A model answer</summary>
#
# First the same number for the *untrained* model. Tokens that run in step, or features that are alike from the start,
# give a good plan without any training, and then the loss has done nothing. Second the same number for a model that
# was trained *without* the loss. The task alone may bring a sound and its word together, and then the loss has added
# nothing. (And for both: how far are seeds apart?) Only if the number is clearly above both has the loss found the
# partners. Whether that helps to predict is a third question, answered by the score with and without it.
#
# </details>
#
# ## Recap, and what comes next
#
# - Tokens of all modalities are projected to one width. Only then can they be compared.
# - A transport plan says which token goes to which. Sinkhorn finds it by making rows and columns right by turns,
#   and ε decides how sharp it is.
# - The MMD is one number for how far two clouds of tokens are apart.
# - Every token passes through its own expert and a shared one, at the price of one matrix.
# - A picture of a model is evidence only beside a picture of chance.
#
# [Next](01_meet_the_data.ipynb) come the data that such models are judged by. Then one idea at a time: the scan (02),
# the experts (03), the plan (04) and the MMD (05).
