# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What changes when there is ten times as much of everything?
# needs: 07; what a file and an offset are

# %% [markdown]
# # Train on CMU-MOSEI: ten times as much of everything
#
# CMU-MOSEI asks the same question as CMU-MOSI: what did she think of it, from −3 to 3? No new formula is needed. But
# its unaligned file gives every sentence 50 tokens of text, 500 of sound and 500 of face, and there are 22,856
# sentences. Read it as one reads a small file and the machine begins to swap; pad it as one pads a small file and most
# of the work is done on zeros; score it as one scores an even set, and a model that says the same thing always looks
# good.
#
# This chapter is about the craft that keeps such a set small: storing only what is real, reading only what is asked
# for, batching what is of one length, and scoring in such a way that nobody gains by always giving the most frequent
# answer.
#
# ## The question, and your prediction
#
# > 1. How many GB are 22,856 such sentences, in float32? And how much of the file at hand is padding?
# > 2. In batches of 16, each padded to its longest sentence: how much is padding? And if sentences of one length share
# >    a batch?
# > 3. In the file's own form, nine tenths padding and more: how much slower does a model run?
# > 4. Eight of ten sentences are neutral. What accuracy has a model that always says neutral? And what F1, if all seven
# >    classes count alike?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: two epochs of training on fewer sentences; the scores then mean nothing
interactive = True  # False: a still figure instead of a panel
dataset = ""  # "": CMU-MOSEI's file where it is, else "mini-mosei", generated, written as MMSA's unaligned file
root = ""  # folder of all data sets, or the file itself; "": where `load_dataset` looks by itself
epochs = 0  # 0: as many as the recipe says

# %%
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alignmamba2 import MultimodalBatch, evaluate, figures, fit, load_dataset
from alignmamba2.datasets import ENTRIES, mosi
from alignmamba2.datasets.formats.unpickle import read_pickle
from alignmamba2.experiments import BENCHMARKS
from alignmamba2.explorers import DataExplorer
from alignmamba2.metrics import classification_metrics
from alignmamba2.training import predict
from course import check, check_parameters
from tools.stopwatch import peak_extra_mib

check_parameters(globals())

# %%
pd.options.display.max_colwidth = None
found = mosi.find("mosei", root or None)
made = dataset.startswith("mini") or not (dataset or found)
size = {"size": 48 if fast else 160, "format": "mmsa-unaligned"}
file = ENTRIES["mini-mosei"].make(Path(tempfile.mkdtemp()), **size)[0] if made else (found or [root or None])[0]
data = load_dataset("mosei", root=file)
note = "mini-mosei as MMSA's unaligned file, synthetic" if made else "CMU-MOSEI, real"
print(f"Data set: {note}\n{data['train'].protocol}", *data["train"].notes, sep="\n  ")

# %% [markdown]
# ## A picture of the data
#
# One sentence, three clocks. Nobody has brought sound and face to the pace of the words (that is what *unaligned*
# means): the model gets them as they are, and the alignment losses of chapters 04 and 05 have something to do.

# %%
sample = data["train"][1]
some = dataclasses.replace(data["train"], samples=data["train"].samples[:100]).statistics()
standard = {m: ((x - some[m][0]) / some[m][1].clamp_min(1e-8))[:, :40] for m, x in sample.features.items()}
figures.sample_strips(standard, title="A sentence at three paces", note=f"{note}; up to 40 features of each")

# %% [markdown]
# ## The idea by hand, 1: store what is real, read what is asked for
#
# ![Eight samples of 2 to 8 tokens: in a file with 12 steps each 58 % are padding, in batches as they come 38 %, in
# batches by length 9 %. Below, the store: all real tokens in one row, and the offsets 0, 3, 11, 13, 20, 23, 31, 33,
# 40](pictures/batches.svg)
#
# *Above: what padding costs, and what order by length saves. Below: what the file should have been.*
#
# First the arithmetic of the full file, then that of the file here.

# %%
shape = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}
numbers = sum(steps * width for steps, width in shape.values())
print(f"unaligned CMU-MOSEI: 22,856 sentences of {numbers:,} numbers are {22856 * numbers * 4 / 1e9:.1f} GB in float32")
real = sum(len(x) * x.shape[1] for split in data.values() for s in split for x in s.features.values())
whole = sum(np.prod(part[key].shape) for part in read_pickle(file).values() for key in shape)
print(f"{note}: {file.stat().st_size / 1e6:.0f} MB, of whose features {1 - real / whole:.0%} are padding")

# %% [markdown]
# So keep the real tokens only, all sentences one behind the other, and remember where each begins. A *memory map* lets
# the file stand for an array: nothing is read until a row is asked for, and then only that row.


# %%
def write(path, arrays):
    """Arrays (T_i, D) into one file; returns where each begins, and the end, (N + 1,)."""
    with path.open("wb") as out:
        for x in arrays:
            out.write(np.asarray(x, "<f4").tobytes())
    return np.cumsum([0, *(len(x) for x in arrays)])


def read(path, offsets, i, width):
    """Sample i (T_i, D), and no other."""
    return np.memmap(path, "<f4", "r").reshape(-1, width)[offsets[i] : offsets[i + 1]]


store = Path(tempfile.mkdtemp(), "audio.bin")
some = [data["train"][i].features["audio"] for i in range(40)]
offsets = write(store, some)
width = data["train"].modalities["audio"]
assert all(np.array_equal(read(store, offsets, i, width), x) for i, x in enumerate(some))
print(f"40 sentences of sound: {store.stat().st_size:,} bytes; padded to 500 steps {40 * 500 * width * 4:,}")

# %% [markdown]
# ## The library's version
#
# `load_dataset` does that once, for all modalities (into a token store: one safetensors file per split), and opens the
# store from then on. How far does the memory of this very process grow, on the way from a file to a batch?

# %%
steps = {
    "all arrays of the file, as pickle.load": lambda: [p[k][:] for p in read_pickle(file).values() for k in shape],
    "opening the store": lambda: load_dataset("mosei", root=file),
    "a batch of 16 from it": lambda: data["train"].batch(range(16)),
}
grown = {name: peak_extra_mib(step) for name, step in steps.items()}
pd.Series(grown, name="MiB, measured here").round(1).to_frame()

# %% [markdown]
# (Empty cells mean that this system does not tell.) The first line grows with the file, the others do not: at the full
# size `python -m benchmarks big` measures the same steps, each in a process of its own.
#
# ## The idea by hand, 2: batches by length
#
# A batch is a box: as long as its longest sentence. Put sentences of about one length into each box, and shuffle the
# *boxes*, so that training still meets them in a random order.


# %%
def batches(lengths, size, by_length, rng):
    """Lengths (N,) → lists of sample numbers, at most `size` in each, in a random order."""
    order = rng.permutation(len(lengths))
    if by_length:
        order = order[np.argsort(lengths[order], kind="stable")]
    boxes = [order[i : i + size] for i in range(0, len(order), size)]
    return [boxes[i] for i in rng.permutation(len(boxes))]


def padding(lengths, boxes):
    """Share of all steps that are padding."""
    return 1 - lengths.sum() / sum(len(box) * lengths[box].max() for box in boxes)


train = data["train"] if made else dataclasses.replace(data["train"], samples=data["train"].samples[:2000])
lengths = {m: np.array([len(s.features[m]) for s in train]) for m in train.modalities}
total = sum(lengths.values())
ways = {name: batches(total, 16, by, np.random.default_rng(seed)) for name, by in
        (("as they come", False), ("by length", True))}  # fmt: skip
shares = {name: {m: padding(n, boxes) for m, n in lengths.items()} for name, boxes in ways.items()}
shares["in the file"] = {m: 1 - lengths[m].mean() / s[0] for m, s in zip(lengths, shape.values(), strict=True)}
pd.DataFrame(shares).map("{:.1%}".format)

# %% [markdown]
# Does the library's own padding say the same? `Dataset.batch` pads to the longest of the batch, and its masks count.

# %%
for name, boxes in ways.items():
    masks = [train.batch(box.tolist()).masks for box in boxes]
    for m in lengths:
        counted = 1 - sum(int(mask[m].sum()) for mask in masks) / sum(mask[m].numel() for mask in masks)
        assert np.isclose(counted, shares[name][m]), (name, m)
print("the masks count the same")

# %% [markdown]
# ## Train it
#
# (`fit` draws its batches at random; what order by length would save, comes right after.)

# %%
longer = {"training.max_epochs": epochs} if epochs else {}
result = fit("mosei", seed=seed, fast=fast, overrides=longer, datasets=data, progress=False)
scores = evaluate(result.model, data["test"])
print(f"{note}: {len(result.history)} epochs, the best was epoch {result.best_epoch}; test:")
print(", ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None))
figures.losses(result.history, metric="valid/mae", best="min", note=note)

# %% [markdown]
# ## Sentences a second
#
# One pass over the training sentences in each kind of box; and sixteen of them as the file has them, every one 50 +
# 500 + 500 steps long. Two readers: the trained model, and, for comparison, a small recurrent network (a GRU) over the
# sound alone, which computes on every step of the box, real or not. Measured here, now, on this machine, in processor
# time.

# %%
model = result.model.eval()
gru = torch.nn.GRU(width, 32, batch_first=True)
few = train.batch(range(16))
empty = {m: (torch.zeros(16, n, few.features[m].shape[2]), torch.zeros(16, n, dtype=torch.bool))
         for m, (n, _) in zip(lengths, shape.values(), strict=True)}  # fmt: skip
for m, (full, seen) in empty.items():
    full[:, : few.features[m].shape[1]], seen[:, : few.features[m].shape[1]] = few.features[m], few.masks[m]
long_box = MultimodalBatch({m: both[0] for m, both in empty.items()}, {m: both[1] for m, both in empty.items()})
rounds = {name: [train.batch(box.tolist()) for box in boxes] for name, boxes in ways.items()}
rounds["in the file"] = [long_box]


# %%
@torch.no_grad()
def pace(run, repeats=3 if fast else 7):
    """Sentences a second of processor time in each kind of box: median of rounds in turn, but for the first."""
    seconds = {name: [] for name in rounds}
    for _ in range(1 + repeats):
        for name, boxes in rounds.items():
            begin = time.process_time()
            for box in boxes:
                run(box)
            seconds[name].append(time.process_time() - begin)
    return {name: sum(map(len, rounds[name])) / np.median(s[1:]) for name, s in seconds.items()}


paces = {"this model": pace(model), "a GRU on sound": pace(lambda box: gru(box.features["audio"]))}
table = pd.DataFrame({"padding of sound": {n: f"{s['audio']:.0%}" for n, s in shares.items()}} | paces)
table.round(dict.fromkeys(paces, 0))

# %% [markdown]
# The GRU pays for every step, and slows down as the box grows. AlignMamba-2 does not: before it computes, it lays the
# real tokens of all modalities one behind the other and leaves the rest out (`ordering.py`, chapter 06). What it still
# pays for is sentences of unequal length in one batch. And the answer is the same, in a short box and in a long one:

# %%
with torch.no_grad():
    apart = (model(few).prediction - model(long_box).prediction).abs().max()
print(f"largest difference between the predictions: {apart:.0e}")
assert apart < 1e-3

# %% [markdown]
# ### And if something is missing
#
# In the wild a face is out of the picture, or a microphone is off. In MMSA's files that is a row of zeros; here it is a
# modality with no token at all, which may stand in a batch with others. (Chapter 14 asks what that costs.)

# %%
deaf = dataclasses.replace(sample, id="the same, silent", features={**sample.features, "audio": torch.zeros(0, width)})
pair = MultimodalBatch.from_samples([sample, deaf])
with torch.no_grad():
    said = model(pair).prediction.tolist()
for one, value in zip((sample, deaf), said, strict=True):
    print(f"{one.id}: {len(one.features['audio'])} tokens of sound, prediction {value:.3f}")

# %% [markdown]
# ## When one answer is frequent
#
# Let us make the test split as lopsided as we like: every sentence that rounds to 0 is counted once, 4 times, 16
# times. Classes are those of Acc-7. *Weighted F1*, which MMSA reports, counts a class by its frequency; *macro F1* is
# the plain mean over the classes.

# %%
p, y = (x.clamp(-3, 3).round().long() + 3 for x in predict(model, data["test"]))
rows = {}
for times in (1, 4, 16):
    counted = torch.arange(len(y)).repeat_interleave(torch.where(y == 3, times, 1))
    neutral = f"{(y[counted] == 3).float().mean():.0%} neutral"
    for name, answer in (("this model", p), ("always 0", torch.full_like(y, 3))):
        rows[neutral, name] = classification_metrics(answer[counted], y[counted], 7)
table = pd.DataFrame(rows).T
table.columns = ["accuracy", "weighted F1", "macro F1"]
table.round(2)

# %% [markdown]
# Nothing about *always 0* changes from row to row, and its accuracy grows to the share of neutral sentences; weighted
# F1 follows. Its macro F1 can never pass 1 over the number of classes that occur, for it is 0 in all but one. On a
# lopsided set, ask for a measure in which every class has an equal say, or at least for what the constant gets.
#
# ## Published, and measured here

# %%
rows = [(p["method"], *(f"{p[m]:.1f}" if p[m] else "" for m in ("accuracy", "accuracy_non0")), p["source"])
        for p in BENCHMARKS["mosei"].published]  # fmt: skip
if not made:
    ours = (f"{100 * scores[name]:.1f}" for name in ("accuracy", "accuracy_non0"))
    rows.append(("AlignMamba-2, this notebook", *ours, f"seed {seed}; {data['test'].protocol}"))
print("CMU-MOSEI, accuracy in %")
pd.DataFrame(rows, columns=["", "Has0", "Non0", "source"]).set_index("").rename_axis(None)

# %% [markdown]
# Has0 counts neutral sentences as positive, Non0 leaves them out (chapter 07). Ours stands there only if the file was
# the real one. (The recipe was never tuned on it, since it was not at hand.)
#
# ## One panel to play with
#
# The training sentences in their batches. Make the batch larger, then set *batches* to *by length*: what happens to the
# grey, and for which samples does it stay?

# %%
panel = DataExplorer(data, sample=1, batch=16, note=note, interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Most of an unaligned file is zeros. Without them it is small, and opening it costs no memory to speak of.
# - By length, little padding is left, and it takes no more than a sort. But sentences of one length now meet each other
#   in every epoch, so batches are less random. (Sorting within large random pools is the usual compromise.)
# - The GRU's speed follows the padding. This model's hardly does, since it leaves padding out before it computes.
# - A frequent class makes accuracy generous. The constant tells by how much.
#
# ## Exercises
#
# **08.1 What a batch wastes.** Samples of these lengths are cut into batches of `size` in the order given (the last
# may be smaller), and each batch is padded to its longest. Which share of all padded steps is padding?


# %% tags=["exercise"]
def wasted(lengths, size):
    """lengths (N,) int64, size → a number between 0 and 1."""
    return None  # your turn


check("08.1", wasted)

# %% [markdown]
# **08.2 From the store to a batch.** Tokens lie one sample behind the other; sample $i$ is rows `offsets[i]` to
# `offsets[i + 1]`, the last not counted. Make a padded batch of the chosen samples, zeros behind, as long as its
# longest.


# %% tags=["exercise"]
def gather(tokens, offsets, chosen):
    """tokens (Σ T_i, D), offsets (N + 1,), chosen (B,) → batch (B, T, D)."""
    return None  # your turn


check("08.2", gather)

# %% [markdown]
# **08.3 An equal say.** The *balanced accuracy*: of each class that occurs among the labels, the share that was
# recognised; then the plain mean of these shares.


# %% tags=["exercise"]
def balanced(prediction, label):
    """prediction, label (N,) int64 → a number between 0 and 1."""
    return None  # your turn


check("08.3", balanced)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("08.1")`; each call says a little more.
#
# **08.4 To derive.** Let lengths be spread evenly between 0 and $L$. A batch of $B$ random samples is padded to its
# longest. Which share of it is padding, on average? What becomes of it for $B = 1$ and for large $B$, and what if $N$
# samples are sorted first?
#
# <details><summary>A model answer</summary>
#
# The longest of $B$ such lengths is $L B/(B+1)$ on average, and the mean length is $L/2$. So about
# $1 - \frac{L/2}{LB/(B+1)} = \frac{B-1}{2B}$ is padding: nothing for $B = 1$, 47 % for $B = 16$, and one half for
# large $B$.
#
# Sorted, a batch covers a strip of lengths that is $LB/N$ wide. Its samples are short of the longest by half a strip
# on average, $LB/(2N)$, against a mean length of $L/2$: some $B/N$ is padding. For 16 of 16,000 samples that is one
# in a thousand. (Real lengths have a long tail, so the random batch is worse than this, and the sorted one nearly as
# good.)
#
# </details>
#
# ## Recap, and what comes next
#
# - Store real tokens and offsets; read a sample when it is asked for.
# - A batch is as long as its longest sample. Sort by length, shuffle the boxes.
# - Masks keep padding out of the answer; whether out of the time, too, is up to the model. Measure it.
# - A missing modality is a sequence of length 0.
# - Say what a constant would get, and use a measure in which classes count alike when they are not alike in number.
#
# MOSEI is Zadeh et al., ACL 2018; the file is thuiar/MMSA's. The next two chapters leave video reviews: first
# [rooms](09_train_on_nyu_depth.ipynb), seen in colour and depth, then tweets with pictures.
