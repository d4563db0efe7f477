# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: How can a state of fixed size know what to keep?
# needs: 00; the exponential function, matrix products

# %% [markdown]
# # The selective scan: what to keep, and what to let go
#
# You read this sentence from left to right, and by its end you do not hold every letter in mind. You hold something
# smaller, a *state*, and you changed it at every word: some words went in, others passed you by.
#
# A transformer does it the other way. It keeps everything and compares each token with every other; twice the tokens,
# four times the work. A Mamba reads as you do: one state of fixed size, changed at every token; twice the tokens,
# twice the work. What made it good, after years in which such models were not, is one idea: **each token itself says
# how far the state should move on.** That number is called Δ, and this chapter is about it.
#
# ## The question, and your prediction
#
# A stream of 64 numbers comes along. Most are noise; now and then one is *marked*. At every moment we want to know the
# last marked number.
#
# > 1. A state that forgets at a fixed rate is tuned as well as can be. Will it get near? What share of the variance of
# >    the target will it explain?
# > 2. And if every token may choose its own rate?
# > 3. Each state needs the one before. So with 1024 tokens, and as many workers as you like, how many rounds of work
# >    does it take: 1024, or fewer?
# > 4. In a model that trained on sentences a layer has many channels, each with a Δ of its own. By what factor do they
# >    differ at one and the same token: by 2, by 10, by 100? And do words take larger steps than sounds do?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: the model at the end trains for two epochs only
interactive = True  # False: a still figure instead of a panel

# %%
import math

import torch

from alignmamba2 import figures, fit, load_dataset, selective_scan
from alignmamba2.explorers import ScanExplorer
from alignmamba2.trace import Scan
from course import check, check_parameters

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: a generated stream; at the end {note}")

# %% [markdown]
# ## A picture of the data
#
# The stream, which of its tokens are marked, and what we want to know. Hover to read the numbers.

# %%
draw = torch.Generator().manual_seed(seed)
length = 64
numbers = torch.randn(length, generator=draw)
marked = torch.rand(length, generator=draw) < 0.12
marked[0] = True
last_marked = torch.cummax(torch.where(marked, torch.arange(length), 0), 0).values
target = numbers[last_marked]
strips = {"text": numbers[:, None], "marked": 3.0 * marked[:, None], "target": target[:, None]}
figures.sample_strips(strips, title="A stream of numbers, some of them marked", note="a generated stream, synthetic")

# %% [markdown]
# ## The idea by hand: a recurrence in a dozen lines
#
# A state that follows an input is an old idea, of physics: $h' = A h + B u$. A computer has tokens in place of a flow
# of time. So hold each input for a time Δ and ask where the state then is. The answer is exact for $A$; for $B$ Mamba
# takes its first term, $\bar B \approx \Delta B$, which is good while Δ is small.
#
# ![Three steps: a differential equation h′ = A h + B u with a smooth input; the input held for a step Δ, and a value
# of h for each step; a chain of states, each from the one before, with an input from below and an output
# above](pictures/scan.svg)
#
# *From left to right: the equation, its steps, and what is computed.*
#
# Mamba's recurrence has, for each channel of the input $u$, a state $h$ of $n$ numbers:
#
# $$ h_t = e^{\Delta_t A}\, h_{t-1} + \Delta_t B_t\, u_t, \qquad y_t = C_t \cdot h_t . $$
#
# - $A < 0$ is a rate of decay, learned and then fixed. Each of the $n$ numbers has its own: some forget fast, some
#   slowly.
# - $\Delta_t > 0$ is the **step size**: how much time, so to speak, passes at token $t$. It stands in both terms. If
#   $\Delta_t$ is near 0, then $e^{\Delta_t A} \approx 1$ and nothing is added: the token is *skipped*. If it is
#   large, the old state is gone and the token is *written*.
# - $B_t$ says what of the token goes in, and $C_t$ what of the state comes out.
#
# **In three numbers.** Let $A = -\ln 2$, so that a step of Δ = 1 halves the state, and let $B = C = 1$. Three tokens
# come, 4, 8 and 3, and the second one chooses Δ = 0:
#
# | token | $u_t$ | $\Delta_t$ | kept, $e^{\Delta_t A}\, h_{t-1}$ | added, $\Delta_t B_t u_t$ | $h_t = y_t$ |
# |---|---|---|---|---|---|
# | 1 | 4 | 1 | ½ · 0 = 0 | 1 · 4 = 4 | **4** |
# | 2 | 8 | 0 | 1 · 4 = 4 | 0 · 8 = 0 | **4** |
# | 3 | 3 | 1 | ½ · 4 = 2 | 1 · 3 = 3 | **5** |
#
# The 8 has left no trace. With three steps of 1 the states are 4, 10 and 8. The code below gets the same numbers, and
# we meet them again twice in this chapter.


# %%
def scan_by_hand(u, delta, A, B, C):
    """u, delta (L, e), A (e, n), B, C (L, n) → y (L, e)."""
    h, ys = torch.zeros_like(A), []
    for t in range(len(u)):
        keep = torch.exp(delta[t, :, None] * A)  # (e, n), between 0 and 1
        h = keep * h + delta[t, :, None] * B[t] * u[t, :, None]
        ys.append(h @ C[t])
    return torch.stack(ys)


def explained(y):
    """The share of the target's variance (its mean is about 0) that y explains, scaled as well as can be."""
    scale = (y @ target) / (y @ y)
    return 1 - ((target - scale * y).square().sum() / target.square().sum()).item()


three, one = torch.tensor([[4.0], [8.0], [3.0]]), torch.ones(3, 1)
for steps in ([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]):
    states = scan_by_hand(three, torch.tensor(steps)[:, None], torch.tensor([[-math.log(2)]]), one, one)
    print(f"4, 8, 3 with the steps {steps}: states {[round(h.item(), 6) for h in states]}")

# %% [markdown]
# Now the stream from above, first with the same Δ at every token.

# %%
u, ones = numbers[:, None], torch.ones(length, 1)
A = torch.tensor([[-12.0]])
fixed = {d: explained(scan_by_hand(u, d * ones, A, ones, ones)[:, 0]) for d in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}
for d, share in fixed.items():
    print(f"Δ = {d:<5g} half is forgotten after {math.log(2) / (12 * d):5.1f} tokens; explained: {share:.0%}")

# %% [markdown]
# No fixed Δ will do. A small one averages over the noise with the signal, a large one forgets the signal as soon as
# noise comes. Now let the token choose: Δ = 1 where it is marked and 0 where it is not.

# %%
selective = scan_by_hand(u, 1.0 * marked[:, None], A, ones, ones)[:, 0]
print(
    f"Δ chosen by the token: explained {explained(selective):.4%}, where the best fixed Δ has {max(fixed.values()):.0%}"
)

# %% [markdown]
# That is *selection*. In a Mamba nobody says which tokens are marked: Δ, B and C are computed from the token itself,
#
# $$ \Delta_t = \mathrm{softplus}(W_\Delta x_t + b_\Delta), \qquad B_t = W_B x_t, \qquad C_t = W_C x_t, $$
#
# with learned matrices $W$, so the model finds out in training what deserves a large step.
#
# ## The library's version
#
# `selective_scan` takes a batch, adds what Mamba has besides (a skip connection D, the gate, softplus), and runs in
# compiled code that never holds more than a few dozen states. Shapes are those of the original: (B, e, L).

# %%
e, n = 6, 4
u, delta = torch.randn(length, e, generator=draw), torch.rand(length, e, generator=draw)
A = -torch.arange(1.0, n + 1).repeat(e, 1)
B, C = torch.randn(length, n, generator=draw), torch.randn(length, n, generator=draw)
by_hand = scan_by_hand(u, delta, A, B, C)
library = selective_scan(u.T[None], delta.T[None], A, B.T[None], C.T[None])[0].T
print("largest difference:", f"{(by_hand - library).abs().max():.0e}")
assert torch.allclose(by_hand, library, atol=1e-5)

# %% [markdown]
# ## From recurrence to scan
#
# "Each needs the one before" sounds like a queue. It is not one. A running *maximum* needs the one before as well, and
# yet it can be had in a few rounds: first everyone takes the maximum with their neighbour, then with the token two
# places back, then four, eight, ... After $k$ rounds each knows the maximum of $2^k$ tokens. All that is needed is
# that two stretches can be **combined** into one, and that it does not matter in which order stretches are joined
# (the operation is *associative*). Such a procedure is called a scan.


# %%
def running(combine, *items):
    """Combine each token with all before it: items (L,) each → (results (L,) each, rounds)."""
    reach, rounds = 1, 0
    while reach < len(items[0]):
        joined = combine(*(x[:-reach] for x in items), *(x[reach:] for x in items))
        items = [torch.cat([x[:reach], new]) for x, new in zip(items, joined, strict=True)]
        reach, rounds = 2 * reach, rounds + 1
    return items, rounds


x = torch.randn(1024, generator=draw)
(found,), rounds = running(lambda first, second: (torch.maximum(first, second),), x)
assert torch.equal(found, x.cummax(0).values)
print(f"the running maximum of {len(x)} tokens in {rounds} rounds")

# %% [markdown]
# Our recurrence is of that kind, too: what a stretch of tokens does to the state is always $h \mapsto a\,h + b$. The
# tokens 4, 8 and 3 do $\tfrac12 h + 4$, then $h$, then $\tfrac12 h + 3$; the first two together $\tfrac12 h + 4$, and
# all three $\tfrac14 h + 5$. How two such stretches become one is your exercise 02.2. (GPUs use it. On a CPU with its
# few cores the work of all rounds together is more than that of the queue, so there the library walks through the
# tokens and works on many channels at once.)
#
# ## Who reaches whom
#
# Unroll the recurrence and you see that each output is a weighted sum of all inputs so far:
#
# $$ y_t = \sum_{s \le t} M_{ts}\, u_s, \qquad
#    M_{ts} = C_t \cdot \Big(\textstyle\prod_{r=s+1}^{t} e^{\Delta_r A}\Big) \Delta_s B_s . $$
#
# For the three numbers, $y_3 = \tfrac12 \cdot 4 + 0 \cdot 8 + 1 \cdot 3 = 5$: the last row of $M$ is ½, 0, 1.
#
# $M$ plays the part of an attention matrix, but it is never built. For the stream from above we can look at it; first
# with the best of the fixed Δ, then with the chosen one.


# %%
def as_scan(delta):
    """The stream as the library takes scans apart; the gate is open (SiLU(z) ≈ 1), and there is no skip connection."""
    words = [f"{v:.1f}{' marked' if m else ''}" for v, m in zip(numbers.tolist(), marked.tolist(), strict=True)]
    open_gate = torch.full((length, 1), 1.2784645)
    names, rate, no_skip = ["text"] * length, torch.tensor([[-12.0]]), torch.zeros(1)
    return Scan(numbers[:, None], delta, open_gate, ones, ones, rate, no_skip, names, range(length), words)


best = max(fixed, key=fixed.get)
figures.scan_influence(as_scan(best * ones), note=f"a generated stream, synthetic · Δ = {best} at every token")

# %%
figures.scan_influence(as_scan(1e-9 + marked[:, None]), note="a generated stream, synthetic · Δ = 1 at marked tokens")

# %% [markdown]
# On top a stripe along the diagonal: every token reaches the next few, and none reaches far. Below, a staircase: each
# marked token reaches all that follow until the next marked one. Nothing but Δ is different.
#
# ## One panel to play with
#
# Here is one channel, with a stream like ours and others. Switch Δ between "the same at every token" and "large at
# marked tokens", and change both factors. With a fixed Δ, can you make it remember *and* ignore? With a chosen one,
# does A still matter?

# %%
panel = ScanExplorer(note="a generated stream, synthetic", interactive=interactive)
panel

# %% [markdown]
# ## And in a trained model?
#
# Around the scan stands a whole layer. A convolution over four tokens comes before it, $D$ lets the token pass beside
# it, and the gate, SiLU of a second half of the projection, says how much of the result goes on.
#
# ![A Mamba layer: norm, in_proj, which gives u and z; u goes through a causal convolution, SiLU and the selective
# scan, to whose output D times its input is added; that is multiplied by SiLU of z, then out_proj; what came in is
# added](pictures/block.svg)
#
# Train AlignMamba-2 on mini-mosi, then look inside the scan of its first layer, for one sentence of the test split.
# The sequence holds words, sounds and glimpses of the face, in the order of time. The dots are medians over all
# channels.

# %%
result = fit("mini-mosi", seed=seed, fast=fast, progress=False)
test = result.datasets["test"]
trace = result.model.trace(test.batch(range(40)))
figures.scan_steps(trace.scan(0, layer=0), note=f"{note} · test sentence {trace.ids[0]}")

# %%
for layer in range(2):
    steps = {m: [] for m in trace.modalities}
    for i in range(40):
        scan = trace.scan(i, layer)
        for m, step in zip(scan.modality, scan.delta.median(1).values, strict=True):
            steps[m].append(step.item())
    medians = ", ".join(f"{m} {sum(s) / len(s):.4f}" for m, s in steps.items())
    print(f"layer {layer + 1}: mean over 40 sentences of the tokens' median Δ: {medians};", end=" ")
    low, high = scan.delta.quantile(torch.tensor([0.05, 0.95]), dim=1).mean(1).tolist()
    print(f"nine tenths of the channels lie between {low:.4f} and {high:.4f}, a factor of {high / low:.0f}")

# %% [markdown]
# ## What to notice
#
# - Compare the two percentages with your first and second prediction. Selection is not a little better at this task:
#   it solves it, and a fixed rate cannot.
# - 1024 tokens take 10 rounds, since $2^{10} = 1024$.
# - In the trained model, channels differ by orders of magnitude: the grey band. They start that way (Δ is spread
#   between 0.001 and 0.1 before training, and $A$ from −1 to −16, as in Mamba), so that some remember for a thousand
#   tokens and others not for ten. Between words, sounds and faces there is next to no difference in the medians.
#   To find nothing is an answer, too. (Try another seed before you believe it.)
#
# ## Exercises
#
# **02.1 The recurrence.** The heart of it: states $h_t = a_t\,h_{t-1} + b_t$, from $h = 0$ on.


# %% tags=["exercise"]
def recurrence(decay, drive):
    """The states h_t = decay_t · h_{t−1} + drive_t, with h = 0 before the first token.

    decay, drive : (L,)  →  (L,)
    """
    return None  # your turn


check("02.1", recurrence)

# %% [markdown]
# **02.2 Combine.** A first stretch of tokens does $h \mapsto a_1 h + b_1$, a second one $h \mapsto a_2 h + b_2$. What
# do both together do? (When it is right, `running(combine, decay, drive)[0][1]` gives what your `recurrence` gives,
# in $\log_2 L$ rounds. Try it.)


# %% tags=["exercise"]
def combine(a_first, b_first, a_second, b_second):
    """Two spans of tokens as one: the (a, b) for which h → a·h + b does first the one, then the other.

    All arguments have the same shape, and so have both results.
    """
    return None  # your turn


check("02.2", combine)

# %% [markdown]
# **02.3 Half-life.** With a constant Δ, after how many tokens is half of what the state held still there?


# %% tags=["exercise"]
def half_life(delta, A):
    """Tokens after which half of what the state held is left, at a constant step size.

    delta, A : (e,), A < 0  →  (e,)
    """
    return None  # your turn


check("02.3", half_life)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("02.1")`; each call says a little more.
#
# **02.4 To derive.** With a fixed Δ the output is $y_t = \sum_r k_r u_{t-r}$, with weights that depend on the
# distance $r$ alone. Let each token be marked with probability $p$, and all numbers be independent with variance 1.
# Which $k$ is best for the task of this chapter, and what share of the variance does it explain? Is there a Δ that
# reaches it?
#
# <details><summary>A model answer</summary>
#
# The last marked token lies $r$ back with probability $q_r = p(1-p)^r$. The numbers are independent, so the best
# weight is the covariance of $u_{t-r}$ with the target, $k_r = q_r$, and the share explained is
# $\sum_r q_r^2 = p^2 / (1 - (1-p)^2) = p/(2-p)$. For $p = 0.12$ that is 6 %.
#
# And $q_r$ falls by the same factor $1-p$ at each step, as $e^{r \Delta A}$ does. So the fixed Δ with
# $e^{\Delta A} = 1 - p$ is the best of *all* fixed rules, and still explains next to nothing. (On one stream of 64
# tokens the share that is printed may be larger: its scale was fitted to that very stream.)
#
# </details>
#
# ## Recap, and what comes next
#
# - A state of fixed size is changed at every token: $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t$.
# - Δ decides: near 0 the token is skipped, large it is written over the past. It is computed from the token, and that
#   is what "selective" means.
# - What a stretch of tokens does to the state is again of the form $a\,h + b$; so stretches can be combined, and a
#   recurrence becomes a scan.
#
# The idea is that of Gu and Dao, *Mamba: linear-time sequence modeling with selective state spaces*, 2023. So far all
# tokens were of one kind. In the [next chapter](03_mix_with_experts.ipynb) they are words, sounds and faces, and Mamba
# learns to treat them differently.
