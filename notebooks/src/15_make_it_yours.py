# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: How do you bring your own data, your own modality, your own expert?
# needs: 00, 03

# %% [markdown]
# # Make it yours: new data, a new modality, a new expert
#
# So far everything was given. Now you bring data that this library has never heard of, then one more modality, then an
# expert that the paper does not have. Each takes less than thirty lines, and none needs a change to the package: a
# sample is a dictionary of arrays, a recipe is a text file, an expert is a subclass.
#
# The data: **two handwritten digits and a rule.** On the left a digit, on the right a digit, and somebody who points at
# one of them. The label is the digit pointed at. The digits are real (scikit-learn's copy of the UCI set, 8 × 8
# pixels); that they come in pairs, and the pointing, are ours. It is the smallest task in which a modality of a
# single token decides what all the others mean.
#
# ## The question, and your prediction
#
# > 1. Four digits, and nobody says which side counts. What is the best that a model can do? (It is not 25 %.)
# > 2. Then the rule comes, one token of two numbers among sixteen rows of pixels. Will the pixels drown it?
# > 3. Replace the experts by products of two thin matrices, with a fraction of the numbers. Will the score suffer?
# > 4. A model is saved and loaded. To how many digits are its answers the same?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: few pairs and two epochs; the scores then show little
interactive = True  # False: a still figure instead of a panel

# %%
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits

from alignmamba2 import AlignMamba2, ModalityAwareMamba, evaluate, figures, fit, register_dataset
from alignmamba2.baselines import KINDS, BaselineConfig, load_model
from alignmamba2.batch import MultimodalBatch, Sample
from alignmamba2.datasets import Dataset, load_dataset
from alignmamba2.explorers import SampleExplorer
from alignmamba2.launch import open_run
from alignmamba2.model.layers import ModalityAwareLinear
from alignmamba2.training import predict
from course import check, check_parameters

check_parameters(globals())
pixels, digit = load_digits(n_class=4, return_X_y=True)
pixels = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 8, 8)
note = "real digits, synthetic pairs"
print(f"Data set: {note}: scikit-learn's digits 0 to 3, {len(pixels)} pictures of 8 × 8 pixels")

# %% [markdown]
# ## A picture of the data
#
# A token is a row of pixels, so each picture is eight tokens of eight numbers. Columns are tokens: turn your head.

# %%
strip = {"left": pixels[3], "right": pixels[2]}
shown = {m: (x.flip(1) - pixels.mean()) / pixels.std() for m, x in strip.items()}
figures.sample_strips(shown, title=f"Left a {digit[3]}, right a {digit[2]}, lying on their side", note=note)

# %% [markdown]
# ## The idea by hand: arrays become samples
#
# A `Sample` is one dictionary: for each modality a tensor $(T_m, D_m)$, tokens by features. Lengths may differ from
# sample to sample, and may be 0 if something is missing. A `Dataset` is a list of samples that says what it is: its
# task, its split, whether anything in it is generated. That is all there is to it.


# %%
def pairs(split, numbers, count, rng):
    """Pairs of the pictures with these numbers: left, right, and a rule, [1, 0] or [0, 1], that points at one."""
    samples = []
    for i in range(count):
        shown, side = rng.choice(numbers, 2), int(rng.integers(2))
        features = {"left": pixels[shown[0]], "right": pixels[shown[1]], "rule": torch.eye(2)[[side]]}
        words = {"rule": [("look left", "look right")[side]]}
        samples.append(Sample(features, torch.tensor(digit[shown[side]]), f"{split}-{i}", words))
    return Dataset(
        name="two-digits",
        split=split,
        protocol=f"{count} pairs of {len(numbers)} pictures that no other split has",
        description="two real handwritten digits and which of them counts; pairs and rule are generated",
        synthetic=True,
        task="classification",
        n_classes=4,
        readout="mean",
        samples=samples,
    )


# %% [markdown]
# And `load`: three splits that share no picture. (Draw the pairs first and split afterwards, and the same digit stands
# in training and in test: the leak of [chapter 13](13_see_the_embeddings.ipynb) and of every careless data set.)


# %%
def load(root=None, *, size=900, seed=0):
    """What `load_dataset` calls: the splits by name."""
    rng = np.random.default_rng(seed)
    parts = np.split(rng.permutation(len(pixels)), [480, 580])
    sizes = zip(("train", "valid", "test"), parts, (size, size // 4, size // 2), strict=True)
    return {split: pairs(split, numbers, count, rng) for split, numbers, count in sizes}


data = load(size=160 if fast else 900)
print({split: len(d) for split, d in data.items()}, data["train"].modalities)

# %% [markdown]
# **Padding by hand**, to see what a batch is: sequences of any length become one block, and a mask says what is real.

# %%
three = [
    dataclasses.replace(s, features={"left": s.features["left"][:n]})
    for s, n in zip(data["test"], (8, 3, 5), strict=False)
]
block, real = torch.zeros(3, 8, 8), torch.zeros(3, 8, dtype=torch.bool)
for row, s in enumerate(three):
    length = len(s.features["left"])
    block[row, :length], real[row, :length] = s.features["left"], True

# %% [markdown]
# ## The library's version
#
# `from_samples` does it for all modalities at once, and refuses what does not fit, by name:

# %%
batch = MultimodalBatch.from_samples(three)
assert torch.equal(batch.features["left"], block)
assert torch.equal(batch.masks["left"], real)
wrong = dataclasses.replace(three[0], features={"left": torch.zeros(8, 7)}, id="seven-wide")
try:
    MultimodalBatch.from_samples([*three, wrong])
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# **The short way.** Where your data are columns (of a pandas frame, a Hugging Face data set, lists), five lines do
# all of this: `Dataset.from_frame`, `from_hf` and `from_arrays` take one column per modality, of texts, pictures or
# arrays, `None` for what is missing. The task, the classes and the splits are inferred, and told in one line. `fit`
# without a recipe takes the settings of `recipes/own.toml`, which are a start to copy. Here the columns are arrays:

# %%
rows = data["train"].samples
columns = {m: [s.features[m] for s in rows] for m in ("left", "right", "rule")}
short = Dataset.from_arrays(**columns, label=[int(s.label) for s in rows])
quick = fit(short, seed=seed, fast=True, progress=False)
print(f"two epochs: {evaluate(quick.model, short['test'])['accuracy']:.1%}, and a quarter is guessing")

# %% [markdown]
# **Other labels.** A label may be several things at once: a list of names (or columns of 0 and 1), several numbers, or
# one per token. Each of several labels has a score of its own and asks "yes or no", so the loss is binary
# cross-entropy. A label that nobody gave is `None`: the sample is still aligned, and counts neither in the loss nor in
# metrics. Here each pair is called by its digit *and* by where the finger points, and every third is left unlabelled:

# %%
names = [None if i % 3 == 2 else [f"a {int(s.label)}", *s.words["rule"]] for i, s in enumerate(rows)]
several = Dataset.from_arrays(**columns, label=names)
quick = fit(several, seed=seed, fast=True, progress=False, overrides={"model.class_weights": "balanced"})
found = evaluate(quick.model, several["test"])
print(f"two epochs: {found['accuracy']:.1%} of the single labels, {found['exact']:.1%} of the pairs have all right")

# %% [markdown]
# `fit(..., loss=f, metrics={"auroc": g})` takes a loss and metrics of your own, such as those of torchmetrics.
#
# One thing `from_arrays` cannot know: that rows share pictures, so that splits drawn by row leak. That is why the
# chapter has a `load` of its own. (`group=` names what must stay together, where a row belongs to one group.)
#
# ## A recipe, and your data set by its name
#
# One line gives your `load` a name, and everything that takes a name takes yours: `load_dataset`, `fit`, `open_run`.
# The data sets of the package get their names in the same way. A recipe is a TOML file.

# %%
register_dataset("two-digits", load)
folder = Path(tempfile.mkdtemp())
recipe = folder / "two-digits.toml"
recipe.write_text(f"""
dataset = "two-digits"
[data]
size = {len(data["train"])}
[model]
d_model = 32
order = "concat"
anchor = "left"
lambda_ot = 0.0   # what should a left digit have to do with a right one?
lambda_mmd = 0.0
[training]
batch_size = 32
max_epochs = 14
patience = 14
learning_rate = 5e-3
""")
assert len(load_dataset("two-digits", "test", size=len(data["train"]))) == len(data["test"])

# %% [markdown]
# **Alignment is switched off**, on purpose. It pulls the tokens of two modalities together because they speak of the
# same thing. Here they do not: that the right digit is a 2 says nothing about the left one. Knowing when *not* to use
# the method belongs to using it.
#
# ## A new modality
#
# First without the rule, then with it. Nothing is written anew: the model asks the data set which modalities there are
# and how wide they are, and makes a projection and an expert for each.

# %%
without = {split: d.only("left", "right") for split, d in data.items()}
runs = {
    "left and right": fit(recipe, seed=seed, fast=fast, datasets=without, progress=False),
    "and the rule": fit(recipe, seed=seed, fast=fast, progress=False, folder=folder / "model"),
}
scores = {name: [evaluate(run.model, run.datasets["test"])["accuracy"]] for name, run in runs.items()}
print(f"best possible without the rule, if digits are even: {1 / 2 + 1 / 2 * 1 / 4:.1%}")
for name, run in runs.items():
    print(f"{name:15s} {scores[name][0]:.1%}, {sum(p.numel() for p in run.model.parameters()):,} parameters")

# %%
model, test = runs["and the rule"].model, data["test"]
prediction, label = predict(model, test)
figures.confusion(label, prediction, [str(d) for d in range(4)], note=f"{note} · with the rule")

# %% [markdown]
# Does the model use the rule, or has it found a way around? Turn the finger in every test pair to the other side, and
# leave the pictures alone. A model that looks where it is told now reports the other digit.

# %%
turned = [dataclasses.replace(s, features={**s.features, "rule": s.features["rule"].flip(1)}) for s in test]
other, _ = predict(model, dataclasses.replace(test, samples=turned))
print(f"answers that change when the finger turns: {(other != prediction).float().mean():.0%}")
print(f"(the two digits of a pair differ in {3 / 4:.0%}, if they are even)")

# %% [markdown]
# ## A new expert
#
# In chapter 03 every modality has a full matrix $W_m$ of its own beside the shared one. But a modality of one token
# hardly needs one. So let its expert be **thin**: $W_m = U_m V_m$ with $U_m$ ($k × r$) and $V_m$ ($r × d$),
#
# $$ y = \big(W_{\mathrm{shared}} + U_m V_m\big)\, x . $$
#
# A linear layer asks one method for the modalities' experts, `own`, so that is all to be overridden. (The idea is that
# of LoRA, Hu and others, 2021; there, too, $U$ begins at 0.)


# %%
class LowRankLinear(ModalityAwareLinear):
    """A shared expert, and for each modality one of rank r."""

    rank = 4

    def __init__(self, n_modalities, in_features, out_features, experts="both", n_shared=1):
        super().__init__(n_modalities, in_features, out_features, "shared", n_shared)
        self.up = torch.nn.Parameter(torch.zeros(n_modalities, out_features, self.rank))
        self.down = torch.nn.Parameter(torch.randn(n_modalities, self.rank, in_features) / in_features**0.5)

    def own(self):
        return self.up @ self.down


class LowRankMamba(ModalityAwareMamba):
    linear = LowRankLinear


class LowRankModel(AlignMamba2):
    config_class = BaselineConfig  # knows "kind", so that a saved model says which class it is
    mixer = LowRankMamba


KINDS["low-rank"] = LowRankModel

# %% [markdown]
# Before it trains, it has to be *right*: it must do what the formula says, and be an expert that is already known where
# the two should be the same. At full rank $U V$ can be any matrix. So take a layer of chapter 03, and write each of
# its experts as such a product ($U = W_m$, $V = 1$).

# %%
full = ModalityAwareLinear(3, 6, 10)
thin = type("FullRank", (LowRankLinear,), {"rank": 6})(3, 6, 10)
x, counts = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed)), (4, 3, 5)
with torch.no_grad():
    full.specific.normal_()  # in a new layer they are 0
    thin.shared.copy_(full.shared)
    thin.up.copy_(full.specific)
    thin.down.copy_(torch.eye(6).expand(3, 6, 6))
    assert torch.allclose(thin(x, counts), full(x, counts), atol=1e-6)
    parts = zip(x.split(counts), thin.up, thin.down, strict=True)
    by_hand = torch.cat([tokens @ (thin.shared[0] + u @ v).T for tokens, u, v in parts])
    assert torch.allclose(thin(x, counts), by_hand, atol=1e-6)
    assert torch.allclose(thin.expert_outputs(x, counts).sum(1), by_hand, atol=1e-6)  # pictures take experts apart
print("at full rank: the layer of chapter 03")

# %%
kind = {"model.kind": "low-rank"}
runs["low-rank experts"] = fit(recipe, seed=seed, fast=fast, overrides=kind, progress=False, folder=folder / "thin")
rows = {}
for name in ("and the rule", "low-rank experts"):
    own = sum(layer.in_proj.own().numel() for layer in runs[name].model.layers)
    if name == "low-rank experts":
        own = sum(p.numel() for layer in runs[name].model.layers for p in (layer.in_proj.up, layer.in_proj.down))
    size = sum(p.numel() for p in runs[name].model.parameters())
    score = evaluate(runs[name].model, test)["accuracy"]
    rows[name] = {"own experts of in_proj": f"{own:,}", "all parameters": f"{size:,}", "accuracy": f"{score:.3f}"}
pd.DataFrame(rows).T

# %% [markdown]
# One seed each, so a difference of a few points means nothing. What it shows is that the seam holds: your expert
# trains, is evaluated, and its pictures can be drawn.

# %%
trace = runs["low-rank experts"].model.trace(test.batch(range(60)))
figures.expert_shares(trace.expert_shares(), trace.expert_names, note=f"{note} · low-rank experts")

# %% [markdown]
# ## Saved, and loaded again
#
# `fit(..., folder=…)` wrote the weights (safetensors, nothing in it can run) and the settings as JSON. `load_model`
# finds the class by its kind; `open_run` also finds the data, by the name that you gave it.

# %%
again = load_model(folder / "thin")
assert type(again) is LowRankModel
assert torch.equal(predict(again, test)[0], predict(runs["low-rank experts"].model, test)[0])
run = open_run(folder / "model")
few = test.batch(range(8))
difference = (run.model(few).logits - model(few).logits).abs().max()
print(f"largest difference of a logit after saving and loading: {difference:.0e}")
assert torch.equal(run.model(few).logits, model(few).logits)
assert run.data["test"].description == test.description

# %% [markdown]
# ## One panel to play with
#
# Your data in a panel that knows nothing of digits. Switch the rule off: the model has to guess a side. Switch off the
# digit that it is told to look at: now it cannot know, and should be less sure.


# %%
def side_by_side(sample):
    """Both digits, dark on light, with a line between; eight screen pixels a pixel."""
    both = torch.cat([1 - sample.features["left"], torch.full((8, 1), 0.5), 1 - sample.features["right"]], 1)
    grey = (255 * both).byte().numpy().repeat(8, 0).repeat(8, 1)
    return np.repeat(grey[..., None], 3, 2)


panel = SampleExplorer(run.model, run.data["test"], picture=side_by_side, note=note, interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Without the rule no model can be better than the first line says, on average. (A small test split may be kinder.)
# - One token in seventeen can turn the answer, because it does not only add something to a mean: the scan carries it
#   from token to token, and it changes what the others are read as. (In fast mode two epochs are too few for that.)
# - The first test of a new part is not its score. It is the case in which it must equal an old part.
#
# ## Exercises
#
# **15.1 Thin experts**, for tokens in any order, with an index of modality each.


# %% tags=["exercise"]
def low_rank_mixture(x, modality, shared, up, down):
    """x (N, d), modality (N,), shared (k, d), up (M, k, r), down (M, r, d) → (N, k)."""
    return None  # your turn


check("15.1", low_rank_mixture)

# %% [markdown]
# **15.2 What do they cost?** How many numbers has such a mixture, the shared expert included?


# %% tags=["exercise"]
def parameters(n_modalities, d, k, rank):
    """How many numbers a low-rank mixture d → k has."""
    return None  # your turn


check("15.2", parameters)

# %% [markdown]
# **15.3 A guess without the rule.** Now there are $S$ pictures and $C$ classes, all even and independent, and the rule
# names one of the $S$. How often is right who does not see the rule, and always says what the first picture shows?


# %% tags=["exercise"]
def without_rule(sides, classes):
    """S pictures, each with one of C classes evenly and independently; the rule names one picture evenly → a number."""
    return None  # your turn


check("15.3", without_rule)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("15.1")`; each call says a little more. (For more
# than two pictures, is there a better guess than the first?)
#
# **15.4 To design.** Take data of your own. Write down in ten lines: the unit of the split, the anchor, whether
# alignment makes sense, the baselines, the metric, and the result that would make you give up the fusion model.
#
# <details><summary>A model answer</summary>
#
# For example: heart sounds and an electrocardiogram, one label per patient. Split by *patient*, not by recording.
# Anchor: the electrocardiogram, which is the cleaner of the two. Alignment makes sense, since both show the same
# beats, so a beat's sound and its curve should find each other; transport with a `window`, since they are
# simultaneous. Baselines: each side alone, both with a linear model of the mean tokens, plain concatenation. Metric:
# balanced accuracy, since few patients are ill; five seeds; interval over patients. Given up if, on validation, the
# interval of the difference from the better side alone holds 0: then one microphone less is the better product.
#
# </details>
#
# ## Recap, and what comes next
#
# - A sample is a dictionary of arrays. A data set is a list of samples that says what it is.
# - A modality is a key in that dictionary. The model makes room for it.
# - An expert is a method, `own`; a layer, a model and a recipe find it by name.
# - Test a new part where it must equal an old one. Then train it.
#
# To give what you made to others: `CONTRIBUTING.md` says where a benchmark, an expert or a notebook goes, and which
# test it needs.
