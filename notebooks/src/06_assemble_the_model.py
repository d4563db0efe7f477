# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: Do you understand every number of the model?
# needs: 02 to 05

# %% [markdown]
# # AlignMamba-2, assembled by hand
#
# You have met all the parts. A part that one understands is a good thing; a whole that one understands is another, for
# the trouble lives between the parts: which axis, which order, before or after the norm. The honest test is to write
# it all down again, without looking at the library's layers, and to get *the same numbers*.
#
# That is what this chapter does. Some hundred lines of plain tensors, one sample at a time, no masks and no batches;
# they take a trained model's weights and nothing else from it. Then the library runs the same samples in one padded
# batch. If the two agree to the fifth decimal, in the prediction and in every part of the loss, then nothing is
# hidden.
#
# ![The model: text, audio and video are each projected to tokens of one width; in training two losses align them; all
# tokens become one sequence in the order of time; N layers of a Modality-Aware Mamba fuse it; a mean and a head give
# the prediction](pictures/architecture.svg)
#
# *The map of this chapter. At each step the box that is being written lights up.*
#
# ## The question, and your prediction
#
# > 1. The model has six steps: project, align, order, fuse, read out, and the loss. Which of them has the most
# >    parameters, and which have none?
# > 2. Which steps can be left out when the model predicts?
# > 3. In the padded batch, the shortest sentence stands beside the longest. By how much does padding change its
# >    prediction?
# > 4. Of a prediction, which modality contributes most?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs of training
interactive = True  # False: a still figure instead of a panel

# %%
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from alignmamba2 import figures, fit, load_dataset
from alignmamba2.explorers import SampleExplorer
from course import check, check_parameters

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: {note}\n{data['train'].description}")

# %% [markdown]
# Train it without **dropout**, which in training sets some numbers to 0 at random so that a model does not come to
# rely on single ones; so every number can be computed twice, and reading forwards only, so that a layer has one scan
# to write. All that we take from the model are its settings `c`, and its weights `W` by name.

# %%
overrides = {"model.dropout": 0.0, "model.direction": "forward", "model.lambda_ot": 0.5, "model.lambda_mmd": 0.5}
model = fit("mini-mosi", seed=seed, fast=fast, overrides=overrides, progress=False).model
c, W = model.config, model.state_dict()
test = data["test"]
sizes = pd.Series({name: tensor.numel() for name, tensor in W.items()}).groupby(lambda n: n.split(".")[0]).sum()
sizes.rename("numbers")

# %% [markdown]
# ## A picture of the data
#
# The prediction that we want to rebuild. Each bar is what a token adds to it; on the right, what each modality adds,
# and the sum.

# %%
trace = model.trace(test.batch(range(4)))
figures.attribution_bars(trace.attribution(0), note=f"{note} · {trace.ids[0]}")

# %% [markdown]
# ## The idea by hand
#
# ### 1. Project
#
# <img src="pictures/architecture-project.svg" width="640" alt="The model of the first drawing, with the part “project”
# lit">
#
# Features $X_m$ of width $D_m$, whatever it is, become tokens $H_m$ of width $d$: standardise with the training data's
# mean and standard deviation, limit what is extreme, multiply, normalise.


# %%
def project(x, m):
    """x (T_m, D_m) → tokens (T_m, d)."""
    x = (x - W[f"project.{m}.mean"]) * W[f"project.{m}.scale"]
    x = x.clamp(-c.clip, c.clip) @ W[f"project.{m}.linear.weight"].T + W[f"project.{m}.linear.bias"]
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)
    return x * W[f"project.{m}.norm.weight"] + W[f"project.{m}.norm.bias"]


# %% [markdown]
# ### 2. Align, in training only
#
# <img src="pictures/architecture-align.svg" width="640" alt="The model of the first drawing, with the part “align”
# lit">
#
# The entropic transport distance (chapter 04) and the squared MMD with the median distance as its bandwidth (chapter
# 05), between a modality's tokens and those of the **anchor**, the modality that all others are aligned with: here the
# words.


# %%
def transport_distance(x, y, epsilon, steps=500):
    cost = 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    log_a, log_b, g = -math.log(len(x)), -math.log(len(y)), torch.zeros(len(y))
    for _ in range(steps):
        f = -epsilon * torch.logsumexp(log_b + (g[None] - cost) / epsilon, 1)
        g = -epsilon * torch.logsumexp(log_a + (f[:, None] - cost) / epsilon, 0)
    return f.mean() + g.mean()  # at the optimum, the refunds are worth what the plan costs


def squared_mmd(x, y):
    z = torch.cat([x, y])
    squared = (z[:, None] - z[None]).square().sum(-1)
    i, j = torch.triu_indices(len(z), len(z), 1)
    sigma = squared[i, j].sqrt().median()
    k, n = torch.exp(-squared / (2 * sigma**2)), len(x)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


# %% [markdown]
# ### 3. Order
#
# <img src="pictures/architecture-order.svg" width="640" alt="The model of the first drawing, with the part “order”
# lit">
#
# One sequence out of three: token $i$ of $T_m$ has the time $(i + \tfrac12)/T_m$; sort by it, and where times are
# equal the anchor, the words, comes last: a word has then seen its own sound and glimpse.


# %%
def interleave(tokens):
    """{modality: (T_m, d)} → tokens (L, d) in their order, and the modality (L,) of each."""
    times = np.concatenate([(2 * np.arange(len(x)) + 1) / (2 * len(x)) for x in tokens.values()])
    modality = np.concatenate([np.full(len(x), i) for i, x in enumerate(tokens.values())])
    order = np.lexsort((modality == list(tokens).index(c.anchor), times))  # by time, then the anchor last
    return torch.cat(list(tokens.values()))[order], torch.from_numpy(modality[order])


# %% [markdown]
# ### 4. Fuse
#
# <img src="pictures/architecture-fuse.svg" width="640" alt="The model of the first drawing, with the part “fuse” lit">
#
# A layer: norm, a product with the experts' merged matrix (chapter 03), a short causal convolution that mixes each
# token with the few before it, the selective scan (chapter 02), a gate, and the product back. Added to what came in.


# %%
def rms_norm(x, weight):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def experts(x, modality, name):
    """Each token times the sum of its two experts: chapter 03."""
    merged = W[f"{name}.shared"][0] + W[f"{name}.specific"]
    return torch.einsum("lkd,ld->lk", merged[modality], x)


def scan(u, delta, A, B, C):
    """The recurrence of chapter 02: u, delta (L, e), A (e, n), B, C (L, n) → (L, e)."""
    h, ys = torch.zeros_like(A), []
    for t in range(len(u)):
        h = torch.exp(delta[t, :, None] * A) * h + delta[t, :, None] * B[t] * u[t, :, None]
        ys.append(h @ C[t])
    return torch.stack(ys)


# %%
def mamba(x, modality, i):
    """One Modality-Aware Mamba: tokens (L, d) → (L, d)."""
    name = f"layers.{i}.ssm"
    u, z = experts(x, modality, f"layers.{i}.in_proj").chunk(2, dim=-1)
    taps = W[f"{name}.conv1d.weight"][:, 0]  # (e, 4)
    padded = F.pad(u, (0, 0, c.d_conv - 1, 0))
    windows = padded.unfold(0, c.d_conv, 1)  # (L, e, 4): each token and the three before it
    u = F.silu((windows * taps).sum(-1) + W[f"{name}.conv1d.bias"])
    rank = math.ceil(c.d_model / 16)
    raw, B, C = (u @ W[f"{name}.x_proj.weight"].T).split((rank, c.d_state, c.d_state), dim=-1)
    delta = F.softplus(raw @ W[f"{name}.dt_proj.weight"].T + W[f"{name}.dt_proj.bias"])
    y = scan(u, delta, -torch.exp(W[f"{name}.A_log"]), B, C) + W[f"{name}.D"] * u
    return experts(y * F.silu(z), modality, f"layers.{i}.out_proj")


# %% [markdown]
# ### 5. Read out, and 6. the loss
#
# <img src="pictures/architecture-read-out.svg" width="640" alt="The model of the first drawing, with the part “read
# out and loss” lit">
#
# The mean over all tokens, and one number from it. The loss is that of the task, here the absolute error, and the two
# of the alignment with their weights, summed over the pairs (sound, words) and (face, words).


# %%
def predict(sample):
    tokens, modality = interleave({m: project(x, m) for m, x in sample.features.items()})
    for i in range(c.n_layers):
        tokens = tokens + mamba(rms_norm(tokens, W[f"norms.{i}.weight"]), modality, i)
    pooled = rms_norm(tokens, W["norm.weight"]).mean(0)
    return pooled @ W["head.weight"][0] + W["head.bias"][0]


def loss_parts(samples):
    """The means over the samples: the task's loss, and the sums over the pairs of L_OT and L_MMD."""
    parts = {"task": [], "ot": [], "mmd": []}
    for s in samples:
        tokens = {m: project(x, m) for m, x in s.features.items()}
        pairs = [(tokens[m], tokens[anchor]) for m, anchor in c.pairs]
        parts["task"].append((predict(s) - s.label).abs())
        parts["ot"].append(sum(transport_distance(*pair, c.epsilon) for pair in pairs))
        parts["mmd"].append(sum(squared_mmd(*pair) for pair in pairs))
    return {name: torch.stack(values).mean() for name, values in parts.items()}


# %% [markdown]
# ## The library's version
#
# Eight sentences of different lengths, by hand one after the other, and by the library in one padded batch:

# %%
some = [test[i] for i in range(8)]
with torch.no_grad():
    by_hand = torch.stack([predict(s) for s in some])
    library = model.eval()(test.batch(range(8))).prediction
lengths = [sum(len(x) for x in s.features.values()) for s in some]
print(f"lengths from {min(lengths)} to {max(lengths)} tokens")
print("by hand:", by_hand.numpy().round(4), "\nlibrary:", library.numpy().round(4))
print("largest difference:", f"{(by_hand - library).abs().max():.0e}")
assert torch.allclose(by_hand, library, atol=1e-5)

# %% [markdown]
# Now every part of the loss, for four of them. In training the library stops Sinkhorn when the sums of the plan are
# right to a tenth of a per cent; for this comparison we ask it to go on.

# %%
model.align.transport_loss.options |= {"tolerance": 1e-6, "max_iterations": 5000}
with torch.no_grad():
    mine, output = loss_parts(some[:4]), model.train()(test.batch(range(4)))
mine["loss"] = mine["task"] + c.lambda_ot * mine["ot"] + c.lambda_mmd * mine["mmd"]
theirs = {**output.losses, "loss": output.loss}
table = pd.DataFrame({"by hand": mine, "library": {k: theirs[k] for k in mine}}).astype(float)
table["difference"] = (table["by hand"] - table["library"]).abs()
assert (table["difference"] < 1e-5).all()
table

# %% [markdown]
# So that is all there is. And since we know each number, we know which ones prediction does not need: `predict` never
# calls `transport_distance` or `squared_mmd`. The alignment shapes the weights, and then it is gone.
#
# ## One panel to play with
#
# One sample through the whole model. Switch modalities off, and see the prediction move. (A missing modality has no
# tokens, so the sequence is shorter; nothing else changes.)

# %%
panel = SampleExplorer(model.eval(), test, note=note, interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Most numbers are in the layers, and there most in the experts: one matrix a modality and a shared one. The
#   alignment has none at all; it only measures.
# - The sentences have different lengths, and yet the batch gives what each gives alone. Padding is squeezed out when
#   the sequence is made, so there is nothing that could leak.
# - The picture at the top takes the last scan apart with all gates as they are; that is why its bars add up. It says
#   where a prediction comes from. It does not say what would happen without a token; for that there are the panel's
#   switches.
#
# ## Exercises
#
# **06.1 The order of time.** From the numbers of tokens to the order in which they are read.


# %% tags=["exercise"]
def reading_order(counts):
    """counts, a list of T_m, one a modality → (L,) int64: the modality of each token of the sequence.

    Token i of T has the time (i + ½)/T; equal times keep the order of the modalities.
    """
    return None  # your turn


check("06.1", reading_order)

# %% [markdown]
# **06.2 A mean that padding cannot touch.** The library works on batches: tokens (B, L, d) and a mask.


# %% tags=["exercise"]
def masked_mean(tokens, mask):
    """tokens (B, L, d), mask (B, L) bool → (B, d): the mean over the real tokens, whatever lies on padding."""
    return None  # your turn


check("06.2", masked_mean)

# %% [markdown]
# **06.3 Causal.** The convolution by hand, with one filter: $y_t = \sum_k w_k\, x_{t-K+1+k}$, where what lies before
# the first token is 0. No $y_t$ may know anything of later tokens.


# %% tags=["exercise"]
def causal_convolution(x, w):
    """x (L,), w (K,) → y (L,)."""
    return None  # your turn


check("06.3", causal_convolution)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("06.1")`; each call says a little more.
#
# **06.4 To design.** Where times are equal, the words come last. What could change if they came first? Say which
# token then has seen which, and design an experiment that shows whether it matters.
#
# <details><summary>A model answer</summary>
#
# The scan reads forwards, so a token knows what came before it. With the words last, a word has seen the sound and
# the glimpse of its own moment; with the words first it has seen only those of the moment before, and the sound has
# seen the word. If the model reads out only the words (`readout="anchor"`), they would lose one step of the other
# two. If it reads out the mean of all tokens, or scans in both directions, little can change.
#
# So train both orders, `ties`, crossed with both readouts, forwards only; the same seeds, at least five; and compare
# pairs on the same test samples, as in chapter 11. The hypothesis is a difference with `readout="anchor"` and none
# with the mean; without the second arm a difference would not say why.
#
# </details>
#
# ## Recap, and what comes next
#
# - Project, align (in training), order, fuse, read out: a hundred lines, and they give the library's numbers.
# - What the library adds is speed, batches, masks, and checks of what it is given.
# - The paper's abstract fixes the two losses and the kinds of experts. Much else, such as the order of tokens or the
#   place of the experts, is taken from third-party readings or is our choice; `AlignMamba2Config` marks each.
#
# From here on the model is a tool. The next four chapters train it on the four benchmarks,
# [CMU-MOSI](07_train_on_mosi.ipynb) first.
