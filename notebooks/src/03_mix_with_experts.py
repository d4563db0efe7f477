# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: How can one model treat words and sounds alike, and yet not?
# needs: 02; matrix products

# %% [markdown]
# # From Mamba to Modality-Aware Mamba: experts
#
# A word's token and a sound's token stand side by side in one sequence. Should the same matrix multiply both? If yes,
# the model must find one map that suits words and sounds. If no, each kind has a matrix of its own, and what was
# learned about words is of no help with sounds.
#
# AlignMamba-2 does both at once. Every token meets two *experts*, one that belongs to its modality and one that all
# modalities share, and their answers are added. This is a mixture of experts, but a gentle one: no gate has to learn
# which expert is asked, for a token's modality is known. And it has a property that is rare among such mixtures: **it
# costs nothing.**
#
# ## The question, and your prediction
#
# > 1. Two experts per token instead of one matrix: by how much does the work grow, and by how much do the parameters?
# > 2. After training, does a modality's own expert add more to its tokens, or the shared one?
# > 3. Switch one modality's own expert off: which modality's do the predictions miss most, and by how much?
# > 4. Take the shared expert away, or the modalities' own: does the model get worse?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs of training, and three models instead of five; the pictures then show little
interactive = True  # False: a still figure instead of a panel

# %%
import pandas as pd
import torch

from alignmamba2 import ModalityAwareMamba, evaluate, figures, fit, load_dataset
from alignmamba2.effects import expert_effects
from alignmamba2.explorers import RoutingExplorer
from alignmamba2.model.layers import ModalityAwareLinear
from alignmamba2.model.ordering import order_tokens
from course import check, check_parameters

check_parameters(globals())
note = "mini-mosi, synthetic"
data = load_dataset("mini-mosi")
print(f"Data set: {note}\n{data['train'].description}")
draw = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## A picture of the data
#
# A sentence as words, sounds and glimpses of the face. To make one sequence out of three, every token gets a time,
# $(i + \tfrac12)/T_m$ for the $i$-th of $T_m$ tokens, and all are sorted by it: the order is *interleaved*. Where times
# are equal, the words come last: a word has then seen its own sound and glimpse.

# %%
sample = next(s for s in data["test"] if len(s.words["text"]) == 6)
mean_and_sd = data["train"].statistics()
standard = {m: (x - mean_and_sd[m][0]) / mean_and_sd[m][1] for m, x in sample.features.items()}
figures.sample_strips(standard, sample.words, title=f"Three modalities of {sample.id}", note=note)

# %%
everywhere = {m: torch.ones(1, len(x), dtype=torch.bool) for m, x in sample.features.items()}
ordering = order_tokens(everywhere, last="text")
modality = torch.repeat_interleave(torch.arange(3), torch.tensor(ordering.counts))
sequence = torch.empty(len(modality), dtype=torch.long)
sequence[ordering.place] = modality
names = list(sample.features)
print("the sequence:", " ".join(names[i] for i in sequence))

# %% [markdown]
# ## The idea by hand: two experts, one matrix
#
# ![Left: a sound meets the shared matrix and its own, whose answers are added, and beside it the one merged matrix.
# Middle: a gate computes weights for three experts. Right: a gate sends the token to one of four small
# networks](pictures/experts.svg)
#
# *Three kinds of experts. The first is this section's; the gate and the experts that are not linear come later.*
#
# In a Mamba layer there are two large matrices, one before the scan (`in_proj`) and one after it (`out_proj`). In the
# Modality-Aware Mamba each becomes a mixture. For a token $x$ of modality $m$:
#
# $$ y = W_{\mathrm{shared}}\,x + W_m\,x . $$
#
# That looks like two products a token. But both are linear, and
#
# $$ W_{\mathrm{shared}}\,x + W_m\,x = (W_{\mathrm{shared}} + W_m)\,x , $$
#
# so add the matrices once, and each token pays for one product, as in a plain Mamba. In training the gradient of the
# sum goes to both. What remains is more parameters, and they cost memory, not time.
#
# **In three numbers.** Let tokens be single numbers, a word 2, a sound 3 and a glimpse 1, and let every "matrix" be a
# number, too: $W_{\mathrm{shared}} = 2$, and 1, −1 and 0 for the modalities' own.
#
# | token | $x$ | shared, $2x$ | own, $W_m x$ | sum | merged, $(2 + W_m)\,x$ |
# |---|---|---|---|---|---|
# | word | 2 | 4 | 1 · 2 = 2 | **6** | 3 · 2 = **6** |
# | sound | 3 | 6 | −1 · 3 = −3 | **3** | 1 · 3 = **3** |
# | glimpse | 1 | 2 | 0 · 1 = 0 | **2** | 2 · 1 = **2** |
#
# Two products on the left, one on the right. The same three numbers will say below why a share needs a convention,
# and what a gate does.


# %%
def two_products(x, modality, shared, specific):
    """x (N, d), modality (N,), shared (k, d), specific (M, k, d) → (N, k): ask both experts, add their answers."""
    own = torch.stack([specific[m] @ token for token, m in zip(x, modality, strict=True)])
    return x @ shared.T + own


def one_product(x, modality, shared, specific):
    """The same, with the matrices added first: one product a token."""
    merged = shared + specific  # (M, k, d), once for all tokens
    y = torch.empty(len(x), shared.shape[0])
    for m, weight in enumerate(merged):
        y[modality == m] = x[modality == m] @ weight.T
    return y


d, k = 16, 24
x = torch.randn(len(modality), d, generator=draw)
shared, specific = torch.randn(k, d, generator=draw), torch.randn(3, k, d, generator=draw)
both = two_products(x, modality, shared, specific), one_product(x, modality, shared, specific)
print("largest difference:", f"{(both[0] - both[1]).abs().max():.0e}")

# %% [markdown]
# ## The library's version
#
# `ModalityAwareLinear` takes tokens grouped by modality, so that each group is one slice and one product.

# %%
layer = ModalityAwareLinear(3, d, k)
with torch.no_grad():
    layer.shared.copy_(shared[None])
    layer.specific.copy_(specific)
    library = layer(x, ordering.counts)
print("largest difference:", f"{(library - both[0]).abs().max():.0e}")
assert torch.allclose(library, both[0], atol=1e-5)

# %% [markdown]
# And here is what it costs, for a whole layer and for three modalities. The work is counted in multiplications of the
# two projections for one token.

# %%
rows = {}
for experts in ("shared", "specific", "both"):
    mixer = ModalityAwareMamba(names, d_model=64, experts=experts)
    a_token = mixer.in_proj.merged()[0].numel() + mixer.out_proj.merged()[0].numel()
    rows[experts] = {"parameters": sum(p.numel() for p in mixer.parameters()), "multiplications a token": a_token}
pd.DataFrame(rows).T

# %% [markdown]
# ## Train it
#
# Three models that differ only in their experts, each with the recipe of mini-mosi. (One seed each; the table says
# what happened here, and no more than that.)

# %%
results = {
    experts: fit("mini-mosi", seed=seed, fast=fast, overrides={"model.experts": experts}, progress=False)
    for experts in (("both",) if fast else ("both", "shared", "specific"))
}
rows = {}
for experts, result in results.items():
    scores = evaluate(result.model, data["test"])
    size = sum(p.numel() for p in result.model.parameters())
    rows[experts] = {"mean absolute error": scores["mae"], "correlation": scores["corr"], "parameters": size}
pd.DataFrame(rows).T.round(3).astype({"parameters": int})

# %% [markdown]
# ## Who adds how much
#
# For every test token, how long is what its own expert adds, and how long what the shared one adds? Take care: only
# the sums $W_{\mathrm{shared}} + W_m$ make the layer. Add any $D$ to the shared matrix and take it from each $W_m$, and
# nothing changes but the lengths that we ask for. So a convention is needed, and ours is $\sum_m W_m = 0$: what all
# modalities have in common is counted as shared, and their own experts are the *deviations* from it. In training they
# start at zero (the layer is then a plain Mamba's, and in its picture each bar would be the shared expert's from end to
# end), and each step pulls them back a little. So whatever an own expert adds below was learned.
#
# (In three numbers: the own experts 1, −1 and 0 sum to 0, so this is the convention, and the word's own expert adds 2
# of 2 + 4, a third. With 3 for the shared expert and 0, −2 and −1 for the own ones the outputs are 6, 3 and 2 as
# before; but now the word's own expert adds nothing.)

# %%
model = results["both"].model
trace = model.trace(data["test"].batch(range(60)))
figures.expert_shares(trace.expert_shares(), trace.expert_names, note=note)

# %% [markdown]
# A length is not yet an effect. So switch an expert off and look at the predictions: by how much do they move, on the
# average of the test sentences? "Off" means that a modality's tokens meet the mean of all $W_m$ in place of their own.

# %%
effects = expert_effects(model, [data["test"].batch()])
pd.Series(effects, name="mean change of the prediction").round(3).to_frame()

# %% [markdown]
# ## A gate that learns whom to ask
#
# Routing by modality is fixed. The alternative that one meets in large language models is a gate: from the token $x$
# it computes weights $w \ge 0$ with $\sum w = 1$ over its own expert and $S$ shared ones,
#
# $$ y = K\,\Big(w_0 W_m + \sum_{s=1}^{S} w_s W_s\Big)\,x, \qquad w = \mathrm{softmax}(G x), \qquad K = 1 + S. $$
#
# The factor $K$ makes an even gate the same as a plain sum. (In three numbers, the word with $S = 1$: weights of ½ and
# ½ give $2\,(\tfrac12 \cdot 1 + \tfrac12 \cdot 2) \cdot 2 = 6$ as above, and ¾ for its own expert with ¼ for the
# shared one give 5.) Now the weights differ from token to token, so the matrices cannot be added beforehand, and the
# mixture is no longer free. The library has it as `routing="gated"`, to compare.

# %%
gated = fit(
    "mini-mosi",
    seed=seed,
    fast=fast,
    overrides={"model.routing": "gated", "model.n_shared": 2},
    progress=False,
)
print(f"mean absolute error, gated: {evaluate(gated.model, data['test'])['mae']:.3f}")
figures.gate_flow(gated.model.trace(data["test"].batch(range(60))), note=note)

# %% [markdown]
# ## Experts that cannot be merged
#
# Linear experts with a fixed route are, in the end, one matrix for each modality. Experts that are not linear are more:
# $E_{\mathrm{shared}}(x) + E_m(x)$ is no single expert. With `ffn=1.0` a small network of two layers stands behind each
# Mamba layer as such an expert, and `ffn_routing="gated"` lets a gate choose one of four for each token, as in the
# language models of today. Left to itself such a gate tends to send everything to one expert. So training adds the
# *balance loss* of the Switch Transformer, $E \sum_e f_e P_e$, with $f_e$ the share of tokens that expert $e$ gets and
# $P_e$ its mean probability: 1 if all get equally many, $E$ if one gets all.

# %%
chosen = fit(
    "mini-mosi",
    seed=seed,
    fast=fast,
    overrides={"model.ffn": 1.0, "model.ffn_routing": "gated"},
    progress=False,
)
print(f"mean absolute error, top 1 of 4 experts: {evaluate(chosen.model, data['test'])['mae']:.3f}")
figures.gate_flow(chosen.model.trace(data["test"].batch(range(60))), note=note)

# %% [markdown]
# Nobody told this gate about modalities. The agreement in the picture's second line says how much its choice has to do
# with them: it is 0 if the choice tells nothing of the modality, and 1 if either tells the other.
#
# ## One panel to play with
#
# Walk through sentences and layers. Then switch experts off in the trained model, see what the others have to carry,
# and read below the picture how far predictions move. Are there words that lean on their own expert more than others
# do?

# %%
models = {"by modality": model, "gated": gated.model, "one of four": chosen.model}
panel = RoutingExplorer(models, data["test"], samples=10 if fast else 40, note=note, interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - The work a token is the same in all three rows; only the parameters grow. That is the answer to the first question.
# - Read the second off the bars and the third off the table, and hold them against what you wrote down. Is the longest
#   bar also the largest effect? It need not be.
# - Whether the experts make the *predictions* better is the table's matter. On the real NYU-Depth V2 and MVSA-Single,
#   over three seeds, one shared expert, modality experts and both are within each other's intervals (chapters 09 and 10
#   draw them); chapter 11 asks how one would know.
#
# ## Exercises
#
# **03.1 The mixture.** For tokens in any order, with an index of modality each.


# %% tags=["exercise"]
def mixture(x, modality, shared, specific):
    """x (N, d), modality (N,) int64, shared (k, d), specific (M, k, d) → (N, k)."""
    return None  # your turn


check("03.1", mixture)

# %% [markdown]
# **03.2 The gate.** One token: its logits $G x$, its own expert $W_m$, and $S$ shared ones, by the formula above.


# %% tags=["exercise"]
def gated_mixture(x, logits, own, shared):
    """x (d,), logits (1 + S,), own (k, d), shared (S, k, d) → (k,)."""
    return None  # your turn


check("03.2", gated_mixture)

# %% [markdown]
# **03.3 How many parameters?** A plain layer's projections have $P$ parameters. With $M$ modalities and both kinds of
# expert, by what factor do they grow? (A function of $M$.)


# %% tags=["exercise"]
def growth(n_modalities):
    """How many times the parameters of one plain projection: a number."""
    return None  # your turn


check("03.3", growth)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("03.1")`; each call says a little more.
#
# **03.4 To derive.** Show that $W_{\mathrm{shared}} + D$ and $W_m - D$ make the same layer for every matrix $D$. How
# many numbers of the layer are thus free? Weight decay prefers small weights: which $D$ does it choose, and is that
# the convention of this chapter?
#
# <details><summary>A model answer</summary>
#
# The layer only uses the sums, and $(W_{\mathrm{shared}} + D) + (W_m - D)$ is the old sum. $D$ is any $k \times d$
# matrix, so as many numbers as one expert has are free.
#
# Decay makes $\lVert W_{\mathrm{shared}} + D \rVert^2 + \sum_m \lVert W_m - D \rVert^2$ small. The derivative is zero
# where $W_{\mathrm{shared}} + D = \sum_m (W_m - D)$: the shared expert becomes the *sum* of the others. Our
# convention makes that sum zero instead, $D = \frac{1}{M}\sum_m W_m$. Same layer, same predictions, other bars: a
# share is a convention, an effect on predictions is not.
#
# </details>
#
# ## Recap, and what comes next
#
# - Every token meets its modality's expert and a shared one; the answers are added.
# - A sum of two matrices is a matrix, so the mixture costs parameters, and no time.
# - Only their sum counts: shares need a convention ($\sum_m W_m = 0$), and effects on predictions say more.
# - A gate would choose token by token; then nothing can be merged, and time is the price.
#
# That a layer's output is the sum of the shared and the token's own expert is how two third parties read the paper;
# its abstract says only that there are modality-specific and modality-shared experts.
# [Next](04_match_with_transport.ipynb): before words and sounds can be mixed well, it helps to know which belong
# together.
