# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What lies in the files that everybody's numbers come from?
# needs: 00; arrays and their shapes

# %% [markdown]
# # Meet the data: what lies in the files?
#
# A paper says *87.0 on CMU-MOSI*. Before there was a model there was a file, and somebody decided where it ends, what a
# zero means in it, which half may be looked at, and what counts as right. Another paper used another file. Both call it
# CMU-MOSI, and their numbers stand in one table.
#
# Four benchmarks come up in this course, and all four have traps that cost people weeks, or, worse, gave them better
# numbers than they had earned:
#
# | benchmark | a sample | the label |
# |---|---|---|
# | CMU-MOSI | a sentence of a film review on video: words, voice, face | sentiment from −3 to 3 |
# | CMU-MOSEI | the same, ten times as many, other speakers | sentiment from −3 to 3 |
# | NYU-Depth V2 | a picture of a room, and how far away everything in it is | one of ten kinds of room |
# | MVSA-Single | a tweet: text and picture | positive, neutral or negative |
#
# This chapter opens the files with bare hands. In the end you will know what the loader of this package does for you,
# and be able to check anyone else's.
#
# ## The question, and your prediction
#
# > 1. A file of CMU-MOSI gives every sentence 50 steps. How much of it is padding, and at which end?
# > 2. The file is a *pickle*, that is, data. Can opening it delete your files?
# > 3. NYU's list of test frames counts from 1, Python from 0. Forget it for the test frames only: of 654, how many do
# >    you now test on that the model was trained on?
# > 4. MVSA-Single has 519 tweets for testing. How many of their texts are also among those for training?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: smaller miniatures
interactive = True  # False: a still figure instead of a panel
root = ""  # folder of all data sets; "": where `load_dataset` looks by itself

# %%
import json
import pickle
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from scipy.io import loadmat

from alignmamba2 import figures, load_dataset
from alignmamba2.datasets import ENTRIES, DataError, inspect, is_present
from alignmamba2.datasets.contents import leaks, report
from alignmamba2.datasets.formats import mvsa_files, nyu_files
from alignmamba2.datasets.formats.unpickle import UnsafePickle, read_pickle
from alignmamba2.explorers import DataExplorer
from course import check, check_parameters

check_parameters(globals())
print("Data set: miniatures of all four benchmarks, synthetic\nThe real files:")
for name in ("mosi", "mosei", "nyu", "mvsa", "mosi-utterances"):
    print(f"{name:16s}{'here' if is_present(name, root or None) else f'not here; {ENTRIES[name].command}'}")

# %% [markdown]
# The features of CMU-MOSI and CMU-MOSEI may not be passed on, and the pictures of the other two are large. So this
# package can *make* each benchmark's files: small, generated, with the same names, shapes, types and traps.
# On the command line that is `python -m alignmamba2 data make`. What you learn on them holds for the real
# ones; what is measured on them says nothing about the world, so every picture here says *synthetic*.
#
# Nothing pretends to be there. Ask for a set without its files, and you are told what is missing and what to do:

# %%
try:
    load_dataset("mosi", root=tempfile.mkdtemp())
except DataError as error:
    print(error)

# %% [markdown]
# ## A picture of the data
#
# CMU-MOSI goes round in two kinds of pickle, MMSA's and MulT's, called after the public code that they came with. We
# make one of each. `read_pickle` opens them (how, comes next).

# %%
place = Path(tempfile.mkdtemp())
size = 40 if fast else 160


def make(name, form, size=size):
    """Write a miniature in a real format; returns the paths."""
    return ENTRIES[name].make(place / f"{name}-{form}", format=form, seed=seed, size=size)


(mmsa_path,), (mult_path,) = make("mini-mosi", "mmsa"), make("mini-mosi", "mult")
mmsa, mult = read_pickle(mmsa_path), read_pickle(mult_path)
trees = {"MMSA": mmsa["train"], "MulT": mult["train"]}
shapes = {name: {key: f"{x.shape} {x.dtype}" for key, x in tree.items()} for name, tree in trees.items()}
print(f"{mmsa_path.name} holds {list(mmsa)}; {mult_path.name} holds {list(mult)}; in train of each:")
pd.DataFrame(shapes).fillna("")

# %% [markdown]
# Both are called CMU-MOSI. A word is 768 numbers in one (BERT's) and 300 in the other (GloVe's); labels differ in name
# and axes, and only one file has the words themselves. Here is the sound of a sentence in each, 50 steps wide.

# %%
sounds = {f"audio, {name}": np.nan_to_num(tree["audio"][3], neginf=0) for name, tree in trees.items()}
sounds = {name: x / x[x != 0].std() for name, x in sounds.items()}
figures.sample_strips(
    sounds, title="The sound of a sentence in each file", note="mini-mosi, synthetic; pale: exactly 0"
)

# %% [markdown]
# MMSA puts the zeros behind, MulT puts them in front. Code that takes the first T steps works on one file and reads
# nothing but padding from the other, without an error.
#
# ## The idea by hand, 1: read a pickle without running it
#
# A pickle is a little programme. One of its instructions is *import this name and call it*, and any name will do. Here
# is a file that prints when it is opened; it could as well have deleted your home folder.


# %%
class Trap:
    def __reduce__(self):
        return print, ("This ran, and you only wanted to look.",)


trap_path = place / "aligned_50.pkl"
trap_path.write_bytes(pickle.dumps({"train": Trap()}))
pickle.loads(trap_path.read_bytes())

# %% [markdown]
# Benchmarks' pickles come from drives of strangers. The remedy is ten lines: an unpickler that knows the few names that
# arrays need, and refuses all others.


# %%
class Careful(pickle.Unpickler):
    """Builds arrays, and nothing else."""

    known = ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer")

    def find_class(self, module, name):
        asked = f"{module.replace('numpy._core', 'numpy.core')}.{name}"  # numpy 2 says _core
        if asked not in self.known:
            raise pickle.UnpicklingError(f"this file asks for {asked}, which is no data")
        return super().find_class(module, name)


for name, path in (("MMSA's file", mmsa_path), ("the trap", trap_path)):
    try:
        with path.open("rb") as file:
            print(f"{name}: {list(Careful(file).load())}")
    except pickle.UnpicklingError as error:
        print(f"{name} is refused: {error}")

# %% [markdown]
# ## The idea by hand, 2: which steps are real?
#
# The file does not say how long a sentence is; the zeros do. A step is padding if *all* its numbers are 0 and it stands
# at the end (or the beginning) with others like it. Three traps are in that sentence. A pause in the middle may be all
# zeros and is no padding. `-inf`, which real sound features hold (MMSA's loader sets it to 0), is a value and no
# padding. And at which end the padding stands must be looked up in the whole array: one sentence alone may begin with
# silence.


# %%
def real_steps(array):
    """(N, T, D) → the first real step and the one behind the last, (N,) each."""
    n, steps, _ = array.shape
    some = (array != 0).any(axis=2)
    first = np.where(some.any(1), some.argmax(1), steps)
    behind = np.where(some.any(1), steps - some[:, ::-1].argmax(1), 0)
    in_front = first[first < steps].sum() > (steps - behind[behind > 0]).sum()
    return (first, np.full(n, steps)) if in_front else (np.zeros(n, int), behind)


def spans(tree):
    """The span that any modality uses: in an aligned file, step i of each belongs to the same word."""
    both = np.array([real_steps(tree[key][:]) for key in ("text", "audio", "vision")])
    return both[:, 0].min(0), both[:, 1].max(0)


for name, tree in trees.items():
    low, high = spans(tree)
    padding = 1 - (high - low).mean() / 50
    print(f"{name}: the first sentence is steps {low[0]} to {high[0] - 1}; of all steps {padding:.0%} are padding")

# %% [markdown]
# ## The library's version
#
# `load_dataset` finds out what a file is by looking inside, reads it without running it, leaves padding out, and says
# what it did: the *protocol* goes into every result, the *notes* tell what was mended.

# %%
try:
    read_pickle(trap_path)
except UnsafePickle as error:
    print(str(error).replace(str(place), "…"), "\n")

data = load_dataset("mosi", root=mmsa_path)
print(data["train"].protocol, *data["train"].notes, sep="\n  ")

# %%
for path, tree in ((mmsa_path, mmsa), (mult_path, mult)):
    splits = load_dataset("mosi", root=path)
    for split in splits:
        low, high = spans(tree[split])
        assert [len(s.features["audio"]) for s in splits[split]] == (high - low).tolist()
        for i, sample in enumerate(splits[split]):
            as_in_file = np.nan_to_num(tree[split]["audio"][i][low[i] : high[i]], neginf=0)
            assert torch.equal(sample.features["audio"], torch.from_numpy(as_in_file))
minus_infinite = {split: int(np.isneginf(tree["audio"][:]).sum()) for split, tree in mmsa.items()}
print("by hand and by the library, the same lengths and the same numbers; −inf in MMSA's file:", minus_infinite)

# %% [markdown]
# ### The whole file at a glance
#
# `python -m alignmamba2 data check PATH` prints this for any of the formats; here without the training split. Its last
# lines are the ones to read first.

# %%
before, valid, after = report(inspect(mmsa_path)).partition("valid:")
print(valid + after)

# %% [markdown]
# ### CMU-MOSEI: the same keys, another size
#
# The *unaligned* files keep sound and face at their own pace, so each modality has a length of its own, and the file
# brings two lists of lengths. (Chapter [08](08_train_on_mosei.ipynb) is about what that costs.)

# %%
(mosei_path,) = make("mini-mosei", "mmsa-unaligned", size=40)
tree = read_pickle(mosei_path)["train"]
rows = {}
for key in ("text", "audio", "vision"):
    low, high = real_steps(tree[key][:])
    rows[key] = {"shape in the file": str(tree[key].shape), "real steps": f"{min(high - low)} to {max(high - low)}"}
    rows[key]["padding"] = f"{1 - (high - low).mean() / tree[key].shape[1]:.0%}"
pd.DataFrame(rows).T

# %% [markdown]
# ### NYU-Depth V2: axes in reverse, rows from 1, 27 types in 10 classes
#
# The labelled set is a MATLAB file of version 7.3, which is HDF5. MATLAB stores the first axis fastest, HDF5 the last:
# read from Python, an image of 480 × 640 × 3 is (3, 640, 480), and every room lies on its side.

# %%
nyu_folder = make("mini-nyu", "mat", size=60)[0].parent
with h5py.File(nyu_folder / nyu_files.MAT) as file:
    print({name: file[name].shape for name in ("images", "depths", "sceneTypes")})
    image, depth = file["images"][7], file["depths"][7]
    cell = file[file["sceneTypes"][0, 7]][:]
scene_type = "".join(map(chr, cell.ravel()))  # a reference to character codes
print(f"scene type {scene_type!r} is class {nyu_files.CLASSES[nyu_files.scene_class(scene_type)]!r}")
shown = {"as it lies in the file": image.T.swapaxes(0, 1), "axes reversed": image.T, "depth, axes reversed": depth.T}
figures.side_by_side(shown, title=f"A {scene_type.replace('_', ' ')}", note="mini-nyu, synthetic, rendered")

# %% [markdown]
# The split is a file of its own, `splits.mat`, a few thousand bytes that decide what may be trained on. Let us forget,
# for the test frames alone, that it counts from 1. (Where public files have been fetched, we take the real ones from
# here on; the output says which.)


# %%
def files(name, made):
    """The real, public files where they are, else the miniature's; and which."""
    try:
        return ENTRIES[name].source.ensure(name, root or None), f"{name}, real"
    except DataError:
        return made, f"mini-{name}, synthetic"


nyu, which = files("nyu", nyu_folder)
split = loadmat(nyu / nyu_files.SPLITS)
train, test = (split[key].ravel().astype(int) for key in ("trainNdxs", "testNdxs"))
print(f"{which}: {len(train)} frames train, {len(test)} test, numbers {min(*train, *test)} to {max(*train, *test)}")
wrong = test  # as if from 0: row i is then frame i + 1
print(f"frames shared: {len(set(train) & set(test))}; with the mistake: {len(set(train - 1) & set(wrong))}")

# %% [markdown]
# No error, and a better number than one deserves: among those frames the model has seen the very picture.
#
# A second trap stands in published code: the metric that QMF calls validation is computed on the test folder
# (QingyangZhang/QMF on GitHub; `data/README.md` notes it). Whoever picks the epoch by it has trained on the test. Here
# validation is taken from the training frames, whole scenes together, since two views of one room are nearly the same
# sample:

# %%
rooms = load_dataset("mini-nyu")
print(rooms["train"].protocol)
print({s: len(d) for s, d in rooms.items()}, rooms["train"].notes[0])

# %% [markdown]
# ### MVSA-Single: two annotations, two protocols
#
# Every tweet was annotated twice, its text and its picture, and often the two differ. What then is *the* label? Some
# papers keep the pairs that agree. Others let a neutral side yield to the other, and leave out positive against
# negative. They report on different tweets, in different proportions, and their numbers cannot be compared.

# %%
mvsa, which = files("mvsa", make("mini-mvsa", "folder")[-1].parent)
annotated = list(mvsa_files.read_labels(mvsa / mvsa_files.LABELS).values())
agree = [text for text, image in annotated if text == image]
kept = [pair for pair in annotated if set(pair) != {"positive", "negative"}]
merged = [text if image == "neutral" else image for text, image in kept]
table = pd.DataFrame({"agree": Counter(agree), "merged": Counter(merged)}).loc[list(mvsa_files.CLASSES)]
print(f"{which}: {len(annotated)} pairs; {len(agree)} agree, {len(merged)} can be merged")
pd.concat([table, (table / table.sum()).map("{:.0%}".format).add_suffix(", share")], axis=1)

# %% [markdown]
# The published split of the pairs that agree (QMF's) has two more surprises. Its texts were decoded with the wrong
# alphabet, and come out as *mojibake*; and some tweets for testing are copies of tweets for training.

# %%
lines = [line for name in mvsa_files.SPLITS.values() for line in (mvsa / name).read_text("utf-8").splitlines()]
tweets = [json.loads(line)["text"] for line in lines]
spoilt = [t for t in tweets if not t.isascii()]
print(f"{which}: {len(spoilt)} of {len(tweets)} texts are not plain ASCII; one of them, as it lies there and repaired:")
example = min(spoilt, key=lambda t: sum(map(str.isascii, t)) / len(t))
print(f"  {example}\n  {mvsa_files.repaired(example)}\n")
print(*(leaks(inspect(mvsa)) or ["no text is in two splits"]), sep="\n")

# %% [markdown]
# So a model that only remembers what it has read is right on those. This package counts and reports them
# (`Dataset.notes`) and does not remove them, for then the split would not be the published one.
#
# ### CMU-MOSI as utterances: the order of the rows
#
# One real form of CMU-MOSI can be had by a command: one token a sentence, 93 videos, a label a sentence (Poria et al.,
# ACL 2017). Its trap is the order of the rows. Make sequences of it in that order, and a model that reads sequences
# needs to find only one place.

# %%
try:
    folder = ENTRIES["mosi-utterances"].source.ensure("mosi-utterances", root or None)
    in_file = pd.read_csv(folder / "text" / "text_train0.csv", header=None).iloc[:, -1].to_numpy()
    splits = load_dataset("mosi-utterances", root=root or None)
    spoken = np.concatenate([s.label for split in ("train", "valid") for s in splits[split]])
    for order, y in (("in the file", in_file), ("as spoken, in videos", spoken)):
        print(f"mosi-utterances, real, {order}: {np.sum(y[1:] != y[:-1])} of {len(y)} labels differ from the last")
except DataError as error:
    print(error)

# %% [markdown]
# Its features have another trap: they were made by networks that had seen the training labels. That cannot be seen in
# the file. It can be measured, and chapter [07](07_train_on_mosi.ipynb) does.
#
# ## One panel to play with
#
# Sentences of the MMSA miniature as the model is given them. Make the batch larger, from *alone* to 64, and watch the
# grey grow: a batch is as long as its longest sentence. Then put sentences of one length together. Which label is rare?

# %%
panel = DataExplorer(data, sample=3, batch=16, note="mini-mosi as MMSA's file, synthetic", interactive=interactive)
panel

# %% [markdown]
# ## What to notice
#
# - Padding is most of these files, and may stand at either end. Nobody tells you; the zeros do.
# - In the panel, sound and face of the first and the last token are nearly colourless: they stand beside BERT's [CLS]
#   and [SEP], where nothing was said. They are zeros, but not padding.
# - A pickle can do anything. Ten lines make it harmless.
# - Off by one in a list of rows, the test folder read as validation, copies in two splits: all of these *raise* the
#   score. Errors that lower it are looked for; these are not.
# - The same name is no guarantee for the same data: compare protocols before numbers. Every `Dataset` carries its own.
#
# ## Exercises
#
# **01.1 Lengths.** From an array that is padded with zeros, the length of each sample: from its first to its last real
# step, both counted. A step is real if any of its numbers is not 0. Padding is in front in some arrays and behind in
# others; steps in the middle may be all 0; a sample may be missing altogether.


# %% tags=["exercise"]
def lengths(array):
    """array (N, T, D), may hold -inf → whole numbers (N,)."""
    return None  # your turn


check("01.1", lengths)

# %% [markdown]
# **01.2 Two annotations, one label.** Classes are 0 positive, 1 neutral, 2 negative. Merge: equal annotations are the
# label, a neutral one yields to the other, and positive against negative is left out, which we write −1.


# %% tags=["exercise"]
def merged_label(text, image):
    """text, image (N,) int64 → int64 (N,), −1 where the pair is left out."""
    return None  # your turn


check("01.2", merged_label)

# %% [markdown]
# **01.3 Copies.** Every text has a number, equal for equal texts. Which share of the *test* samples has a text that is
# also in train?


# %% tags=["exercise"]
def leaked(train, test):
    """train (N,), test (M,) int64 → a number between 0 and 1."""
    return None  # your turn


check("01.3", leaked)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("01.1")`; each call says a little more.
#
# **01.4 To design.** A company gives you phone calls to learn from: an agent and a customer in each, one label per
# call. Agents take many calls, and some customers call again. Write down how you split them, and three checks of the
# split.
#
# <details><summary>A model answer</summary>
#
# What may be shared depends on what is claimed. If the model is to serve *new customers* of the same agents, all
# calls of one customer go into one split, and agents may stand in all of them; the protocol must say so. If it is to
# serve new agents, it is the other way round. Both at once means to drop the calls that tie the groups together.
#
# Checks: (1) no customer's number, no recording (by hash) and no transcript stands in two splits; (2) the share of
# each label in each split, and with it the score of a constant; (3) a model that sees nothing but the agent's name:
# if it beats the constant on the test split, agents' habits are part of the answer, and a model of the speech must be
# held against that.
#
# </details>
#
# ## Recap, and what comes next
#
# - Look into a file before you believe it: shapes, zeros, infinities, labels, and what stands in two splits.
#   `python -m alignmamba2 data check PATH` does it for you.
# - Read pickles with a list of what is allowed.
# - Padding is found, not assumed; a batch needs only as much of it as its longest sample.
# - A number belongs to a protocol: which file, which split, which labels.
#
# MOSI: Zadeh et al., 2016; MOSEI: Zadeh et al., ACL 2018; NYU-Depth V2: Silberman et al., ECCV 2012; MVSA: Niu et al.,
# MMM 2016. Where the files come from, by hash, and what is done about each trap: `data/README.md`.
# [Next](02_select_with_a_scan.ipynb): a sequence is there. How does one read it?
