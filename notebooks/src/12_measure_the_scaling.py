# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: Twice the tokens: how much more time, and from which length on does it matter?
# needs: 02 and 06; logarithms

# %% [markdown]
# # How does it scale?
#
# *Linear time*, says every paper on Mamba, and *quadratic*, with a shudder, of attention. Both are true, of a sequence
# that is long enough. Yours may not be. A sentence has twenty words; three streams of a minute of video have some
# thousand tokens; and a computer that multiplies matrices all day is not impressed by the square of a hundred.
#
# ![Left: four tokens have sixteen pairs, eight tokens sixty-four. Middle: a scan of eight tokens takes twice the steps
# of one of four, and the state that it carries stays as large. Right: time against length on logarithmic axes: both
# curves are flat at first, attention's then rises twice as steeply and crosses the scan's](pictures/lengths.svg)
#
# So do not take it from a paper, nor from this chapter. Here is a stopwatch. It runs on *your* machine, and all that
# the text may say is how to read it.
#
# ## The question, and your prediction
#
# > 1. Double the number of tokens. By what factor does the time of self-attention grow at some hundred tokens, and by
# >    what factor does that of the scan?
# > 2. From how many tokens on is AlignMamba-2 faster than a transformer with as many parameters, when it predicts?
# > 3. By what share do the alignment losses slow down a training step? And a prediction?
# > 4. A stream has run for 1000 tokens, and one more comes. How many numbers must a Mamba layer have kept of the past,
# >    and how many a layer of attention?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: short sequences and few repetitions; the powers then are those of the overhead
interactive = True  # False: a still figure instead of a panel

# %%
import math

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from alignmamba2 import figures, load_dataset, selective_scan
from alignmamba2.scan import selective_step
from course import check, check_parameters
from course.lengths import batch_of, measure, models, predict, train_step
from course.scaling import ScalingExplorer
from tools.stopwatch import machine, medians

check_parameters(globals())
draw = torch.Generator().manual_seed(seed)
print("Data set: random tokens, synthetic; and lengths of mini-mosi, synthetic")
here = machine("numba")
print(
    f"Measured on: {here['processor'] or 'unknown processor'}, {torch.get_num_threads()} threads, torch {here['torch']}"
)

# %% [markdown]
# ## A picture of the data
#
# A stopwatch does not care what the tokens say, so they are random here. What matters is how many there are. And before
# anything is measured, count. In one layer of width $d$, with $L$ tokens, multiplications are
#
# - attention: $4 L d^2$ for queries, keys, values and output, and $2 L^2 d$ to compare all pairs and to add the values;
# - Mamba, with $e = 2d$ channels and $n$ numbers of state: $6 L d^2$ for the two projections, some $2Le(n + d/16)$
#   for $\Delta$, $B$ and $C$, and about $3 L e n$ for the scan.

# %%
d, n = 32, 16
grid = 2 ** np.arange(5, 15)
count = {
    "attention": 4 * grid * d**2 + 2 * grid**2 * d,
    "mamba": 6 * grid * d**2 + 2 * grid * 2 * d * (n + d // 16) + 3 * grid * 2 * d * n,
}
tokens = [sum(len(x) for x in s.features.values()) for s in load_dataset("mini-mosi")["test"]]
print(f"a sentence of mini-mosi has {min(tokens)} to {max(tokens)} tokens, all modalities together")
print(f"equal work at about {grid[np.argmax(count['attention'] > count['mamba'])]} tokens, by this count")
figures.against_length(
    grid,
    {"multiplications": count},
    title="One layer, counted",
    note=f"d = {d}, n = {n}; counted, for synthetic lengths",
)

# %% [markdown]
# The slope over the whole range is not 2 for attention: at its lower end the projections, linear in $L$, are most of
# the work. And a count is not a time. Multiplications in a large matrix product are cheap, one by one they are dear.
#
# ## The idea by hand
#
# Self-attention, with the matrix of all pairs that makes it what it is, and the slope of time against length on
# logarithmic axes: if $t = c\,L^s$, then $\log t = \log c + s \log L$, a straight line with slope $s$.


# %%
def attention(q, k, v):
    """(L, d) each → (L, d); in between stands a matrix (L, L)."""
    weights = torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1)
    return weights @ v


def slope(lengths, times):
    """The s of t = c · L^s, by least squares on the logarithms."""
    x, y = np.log(lengths), np.log(times)
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / (x @ x)


# %% [markdown]
# ## The library's version
#
# PyTorch's own attention gives the same numbers without ever holding the whole matrix (that is what *FlashAttention*
# does: its time is still quadratic, its memory is not). And `figures.growth` gives the same slope.

# %%
q, k, v = (torch.randn(64, d, generator=draw) for _ in range(3))
same = F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]
print("attention, largest difference:", f"{(attention(q, k, v) - same).abs().max():.0e}")
assert torch.allclose(attention(q, k, v), same, atol=1e-5)
by_hand = slope(grid, count["attention"])
print(f"slope by hand {by_hand:.4f}, library {figures.growth(grid, count['attention']):.4f}")
assert math.isclose(by_hand, figures.growth(grid, count["attention"]), rel_tol=1e-9)

# %% [markdown]
# ## The stopwatch, one layer
#
# Only what differs: the matrix of pairs against the scan, both without their projections. Medians of several calls, and
# the methods take turns, so that a busy moment of your machine hits them all alike.


# %%
def layer_calls(length):
    """What to time at a length, by name."""
    q, k, v = (torch.randn(length, d, generator=draw) for _ in range(3))
    u, z = (torch.randn(1, 2 * d, length, generator=draw) for _ in range(2))
    delta, A = 0.1 * torch.rand(1, 2 * d, length, generator=draw), -torch.arange(1.0, n + 1).repeat(2 * d, 1)
    B, C = (torch.randn(1, n, length, generator=draw) for _ in range(2))
    heads = [x[None, None] for x in (q, k, v)]
    return {
        "attention by hand": lambda: attention(q, k, v),
        "attention, PyTorch": lambda: F.scaled_dot_product_attention(*heads),
        "scan": lambda: selective_scan(u, delta, A, B, C, z=z),
    }


lengths = [128, 256, 512, 1024] if fast else [128, 256, 512, 1024, 2048, 4096, 8192]
taken = [medians(layer_calls(length), 0.02 if fast else 0.5) for length in lengths]
layer = {name: [t[name]["ms"] for t in taken] for name in taken[0]}
figures.against_length(
    lengths, {"time": layer}, units={"time": "ms"}, title="One layer, measured", note="random tokens, synthetic"
)

# %% [markdown]
# A slope over all lengths mixes two things: what every call costs, however short, and what grows. So look at the slope
# between neighbours, too. It starts low, where the overhead is, and rises towards what theory says: 1 for the scan, 2
# for attention. How far it comes on your machine is in the last row.

# %%
steps = {name: np.diff(np.log(ms)) / np.log(2) for name, ms in layer.items()}
table = pd.DataFrame(steps, index=[f"{a} → {2 * a}" for a in lengths[:-1]])
table.index.name = "slope from … to"
table.round(2)

# %% [markdown]
# ## Whole models, of equal size
#
# A layer is not a model. Here are AlignMamba-2, a transformer over the same tokens, and MulT, which lets every modality
# attend to every other. Each is as wide as brings it nearest to AlignMamba-2's size (chapter 11; widths of the other
# two go in steps of 4, so MulT comes less close). A third of the tokens is in each modality; one sample at a time.

# %%
found = models(d_model=d, seed=seed)
for name, model in found.items():
    print(f"{name:12s} d = {model.config.d_model}, {sum(p.numel() for p in model.parameters()):,} parameters")
lengths = [96, 192, 384] if fast else [96, 192, 384, 768, 1536, 3072]
options = {"budget": 0.05 if fast else 1.0, "patience": 1.0}
times = {what: measure(found, lengths, what=what, **options) for what in ("prediction", "training step")}
figures.against_length(
    lengths, times, units=dict.fromkeys(times, "ms"), title="Whole models, measured", note="random tokens, synthetic"
)


# %%
def overtakes(times, ours="alignmamba2"):
    """In words: from how many tokens on our model is faster than each other, as far as was measured."""
    for other in (name for name in times if name != ours):
        faster = np.array(times[ours]) < np.array(times[other])
        if faster.all() or not faster.any():
            yield other, "at all lengths measured" if faster.all() else "at none of the lengths measured"
        else:
            last = np.flatnonzero(~faster)[-1]
            yield other, f"from {lengths[last + 1]} tokens on" if last + 1 < len(lengths) else "not at the longest"


for what, rows in times.items():
    for other, words in overtakes(rows):
        print(f"{what}: alignmamba2 is faster than {other} {words}")

# %% [markdown]
# And memory: by how much this process grew at its highest while the call ran. (Where the system does not tell, on
# Windows and macOS, the table is empty; a few MiB are lost in the allocator, so short lengths say little.)

# %%
memory = measure(found, lengths, what="training step", memory=True)
pd.DataFrame(memory, index=pd.Index(lengths, name="MiB of a training step, at … tokens")).astype(float).round(1)

# %% [markdown]
# ## What alignment costs
#
# The alignment losses are computed while training. When the model predicts, they are not; AlignMamba, the first
# version, moved tokens by transport when predicting, too. Measure both, with 50 tokens in each modality:

# %%
batch = batch_of(150, samples=2 if fast else 8, seed=seed)
aligned = models(["alignmamba2", "alignmamba-v1"], d, seed, lambda_ot=1.0, lambda_mmd=1.0)
plain = models(["alignmamba2"], d, seed, lambda_ot=0.0, lambda_mmd=0.0)["alignmamba2"]
three = {"without alignment": plain, "AlignMamba-2": aligned["alignmamba2"], "AlignMamba v1": aligned["alignmamba-v1"]}
rows = {}
for what, call in (("training step, ms", train_step), ("prediction, ms", predict)):
    calls = {name: lambda model=model, call=call: call(model, batch) for name, model in three.items()}
    rows[what] = {name: t["ms"] for name, t in medians(calls, 0.2 if fast else 4.0).items()}
same = torch.equal(predict(plain, batch), predict(aligned["alignmamba2"], batch))
print("same weights, with and without alignment, predict the same, bit by bit:", same)
assert same
pd.DataFrame(rows).round(2)

# %% [markdown]
# ## A stream: one more token
#
# The last prediction. What a Mamba layer knows of the past is its state, and that does not grow. So one may feed it
# token by token, as they come, and each costs as much as the first. `selective_step` does one step of the scan:

# %%
length, e = 200 if fast else 1000, 2 * d
u, delta = torch.randn(1, e, length, generator=draw), 0.1 * torch.rand(1, e, length, generator=draw)
A, (B, C) = -torch.arange(1.0, n + 1).repeat(e, 1), (torch.randn(1, n, length, generator=draw) for _ in range(2))
state, outputs = torch.zeros(1, e, n), []
for t in range(length):
    state, y = selective_step(state, u[..., t], delta[..., t], A, B[..., t], C[..., t])
    outputs.append(y)
whole = selective_scan(u, delta, A, B, C)
print(f"step by step against all at once, largest difference: {(torch.stack(outputs, -1) - whole).abs().max():.0e}")
assert torch.allclose(torch.stack(outputs, -1), whole, atol=1e-4)
window = 3  # inputs that the convolution looks back at
print(f"kept after {length} tokens: {state.numel() + e * window:,} numbers by Mamba, {2 * d * length:,} by attention")

# %% [markdown]
# Attention keeps a key and a value of every token (the *KV cache*), and compares each new token with all of them. How
# long the next token takes, after a short past and after a long one:

# %%
pasts, rows = ([100, 1000] if fast else [100, 1000, 10_000, 100_000]), {}
now, one = u[..., 0], torch.randn(1, 1, 1, d, generator=draw)
for past in pasts:
    keys, values = (torch.randn(1, 1, past, d, generator=draw) for _ in range(2))
    calls = {
        "attention, PyTorch": lambda keys=keys, values=values: F.scaled_dot_product_attention(one, keys, values),
        "selective_step": lambda: selective_step(state, now, delta[..., 0], A, B[..., 0], C[..., 0]),
    }
    rows[f"after {past:,} tokens"] = {
        f"{name}, ms": t["ms"] for name, t in medians(calls, 0.02 if fast else 0.5).items()
    }
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## One panel to play with
#
# Through each model's points goes the curve $c + aL + bL^2$ that fits best: what every call costs, what every token
# costs, and what every pair of tokens costs. Move the slider to *your* length: a minute of speech at 50 tokens a second
# has 3,000, an hour 180,000. Beyond the last point it is an extrapolation, and the words below say how far. Where fewer
# than four lengths were measured, or the longest still spends most of its time on what every call costs, there is
# nothing to extrapolate from, and they say that. (In fast mode it is so.)

# %%
units = dict.fromkeys(times, "ms")
panel = ScalingExplorer(
    lengths, times, units=units, note="random tokens, synthetic; your machine", interactive=interactive
)
panel

# %% [markdown]
# ## What to notice
#
# - A slope is a statement about a range of lengths. Where overhead is most of the time, everything looks better than
#   linear, and that says nothing about long sequences.
# - Which model is faster depends on the length, and the lines above say from where on. If your sequences are short,
#   time is no reason to choose a Mamba.
# - In the table of alignment compare the first two rows: in training alignment is paid for, in prediction the model is
#   the same, to the bit. What is left between the two in the column of prediction is the noise of your stopwatch.
# - `selective_step` is called from Python once a token, and so is not fast; attention over a short past may well beat
#   it, as your last table says. What counts is that its work does not grow with the past. (If its column rises a little
#   in the last rows, the other method is to blame: between two steps it sweeps the processor's cache.)
#
# ## Exercises
#
# **12.1 The power.** From lengths and times to the $s$ of $t = c\,L^s$.


# %% tags=["exercise"]
def exponent(length, time):
    """Lengths and times (S,) → the s with which time grows like length to the s, by least squares: a number."""
    return None  # your turn


check("12.1", exponent)

# %% [markdown]
# **12.2 Where they cross.** One method takes $a L^p$, another $b L^q$, with $p < q$.


# %% tags=["exercise"]
def crossover(a, p, b, q):
    """Times a · L^p and b · L^q, p < q → the length L at which both take equally long: a number."""
    return None  # your turn


check("12.2", crossover)

# %% [markdown]
# **12.3 The cache outgrows the state.** A Mamba layer with $e = \mathrm{expand} \cdot d$ channels keeps $n$ numbers of
# state for each, and the last inputs of its convolution of `d_conv` taps. A layer of attention of width $d$ keeps a key
# and a value of every token. After how many tokens does it keep more?


# %% tags=["exercise"]
def outgrown(d, expand, d_state, d_conv):
    """Whole numbers → after how many tokens a layer's keys and values are more numbers than a Mamba layer's state."""
    return None  # your turn


check("12.3", outgrown)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("12.1")`; each call says a little more.
#
# **12.4 To derive.** By the counts of this chapter, at which length do a layer of attention and a Mamba layer
# multiply equally often? Put in $d = 32$ and $d = 1024$, with $n = 16$. Why is the length at which the *times* cross
# another one?
#
# <details><summary>A model answer</summary>
#
# With $e = 2d$ the Mamba layer has $6Ld^2 + 4Ld(n + d/16) + 6Ldn = 6.25\,Ld^2 + 10\,Ldn$. Attention has
# $4Ld^2 + 2L^2d$. Equal where $2Ld = 2.25\,d^2 + 10\,dn$, that is $L = 1.125\,d + 5n$: 116 tokens for $d = 32$, 1232
# for $d = 1024$. The wider the model, the later.
#
# Times cross elsewhere since multiplications differ in price. Those of attention are large matrix products, which a
# processor does many at a time; those of the scan wait for one another, and are bound by memory. And below a few
# hundred tokens both mostly cost what every call costs.
#
# </details>
#
# ## Recap, and what comes next
#
# - On logarithmic axes a power law is a straight line, and its slope the power; say for which lengths.
# - The scan's time grows like $L$, attention's like $L^2$; overhead hides both at short lengths.
# - Alignment is paid for in training. A prediction never computes it.
# - A state of fixed size makes the next token cost the same, however long the stream has run.
#
# The idea of attention without its matrix is Dao and others, *FlashAttention*, 2022; that of a state of fixed size for
# streams is Mamba's own (chapter 02). `python -m benchmarks lengths` writes the measurements of this chapter to
# a file. So far you have looked at numbers. The [next chapter](13_see_the_embeddings.ipynb) looks at pictures, with
# suspicion.
