# ruff: noqa: B018, E402 (a cell may end with what it shows, and imports follow the parameters)
# question: What does a depth map know that a photograph cannot?
# needs: 00; the cross product; 04 helps with the plan

# %% [markdown]
# # NYU-Depth V2: what a photograph cannot know
#
# Film makers used to burn down cities that stood on a table. It works because of a law: **a photograph does not know
# how large things are.** Double a room, its furniture, and the distance to the camera, and every ray of light arrives
# where it did before. A depth camera measures those distances, so it sees at once that the city is a toy. But it is
# blind to colour: a white tile and a brown board of the same shape are the same to it.
#
# ![Left: a camera and two rays, between which a toy city stands near and a city twice as large stands twice as far;
# both give the same picture, and only depth differs. Right: photograph and depth map, each cut into 49 patches that
# become 49 tokens](pictures/cameras.svg)
#
# NYU-Depth V2 has 1449 photographs of rooms, each with a depth map of the same place, and asks: which kind of room?
# This chapter makes the two kinds of picture into tokens, turns metres into something that a network likes better,
# and trains a model on what neither side knows alone. It also shows two ways to fool yourself with 654 test frames.
#
# ## The question, and your prediction
#
# > 1. Our generated rooms have one of five colour schemes and one of two sizes; the class is the pair, so there are
# >    ten. How often can the photograph alone be right? The depth map alone? Both?
# > 2. The real classes are uneven. What is the accuracy of a model that always says *bedroom*? And what is the mean of
# >    its accuracies over the ten classes?
# > 3. A model that guesses blindly among ten classes is tested after each of 30 epochs, and the best epoch is
# >    reported. How far above 10 % is that?
# > 4. Patch *i* of the depth map and patch *i* of the photograph show the same place. Will the transport plan find it?
#
# ## Parameters

# %% tags=["parameters"]
seed = 0
fast = False  # True: few frames and two epochs; the scores and pictures then show little
interactive = True  # False: a still figure instead of a panel
dataset = ""  # "": the real NYU-Depth V2 where its files are, else "mini-nyu", generated
root = ""  # the folder with all data sets; "": $ALIGNMAMBA2_DATA, else data/
epochs = 0  # 0: as many as the recipe says

# %%
from collections import Counter

import numpy as np
import pandas as pd
import torch

from alignmamba2 import evaluate, figures, fit, load_dataset, transport
from alignmamba2.datasets import nyu
from alignmamba2.datasets.formats import nyu_files
from alignmamba2.datasets.formats.images import resized
from alignmamba2.datasets.hha import CX, FX, gravity, hha, points
from alignmamba2.datasets.mini import nyu as mini_nyu
from alignmamba2.explorers import TransportExplorer
from alignmamba2.training import predict
from course import check, check_parameters
from course.results import differences

check_parameters(globals())

# %%
root = root or None
name = dataset or ("nyu" if nyu.is_present(root) else "mini-nyu")
recipe = name if name.startswith("mini") else f"{name}-frozen"
options = {"size": 60} if fast and name == "mini-nyu" else {}
options |= {"image": "efficientnet-lite0"} if name == "nyu" and not fast else {}  # else pixels, in patches
data = load_dataset(name, root=root, **options)
train, valid, test = data.values()
note = f"{name}, synthetic" if train.synthetic else "NYU-Depth V2"
print(f"Data set: {note}; and kept results of the real set\n{train.description}\n{train.protocol}")
print(f"{len(train)} frames to learn from, {len(valid)} to choose the epoch by, {len(test)} to test on")

# %% [markdown]
# ## A picture of the data
#
# One frame: the photograph, and the depth map with near things dark. A model gets both as 7 × 7 patches, each of
# them a token. The links join patches that show the same place.

# %%
pair = ("depth", "image")
same_place = torch.diag((torch.arange(49) % 6 == 0) / 9)  # nine of the 49, to be drawn
picture, depth = (test.samples.item(0, m) for m in ("image", "depth"))
figures.patch_links(same_place, depth, picture, (7, 7), names=pair, most=9, note=f"{note} · {test[0].id}")

# %% [markdown]
# **The law, in two lines of geometry.** A point at $(x, y, z)$ metres falls on the pixel column $u = f x / z + c$.
# Double all three: nothing changes. So we double a depth map, and look where its points fall.

# %%
metres = depth if depth.ndim == 2 else np.full((224, 224), 2.0, np.float32)  # folders hold no metres
for size in (1, 2):
    x, _, z = np.moveaxis(points(size * metres), -1, 0)
    column = FX * x / z.clip(1e-6) + CX
    print(f"room × {size}: its middle row falls on columns {column[112, 0]:.1f} to {column[112, -1]:.1f},", end=" ")
    print(f"and is {x[112].max() - x[112].min():.2f} m wide")

# %% [markdown]
# ## The idea by hand: from metres to HHA
#
# A network for photographs, given metres, must find out by itself what a floor is. Gupta and others (ECCV 2014) gave
# it three channels that say so: **H**orizontal disparity, $\propto 1/z$, fine where things are near; **H**eight above
# the ground; **A**ngle of the surface with gravity, which is one number for all floors and another for all walls.
#
# All three come from the cloud of points. The surface's normal is the cross product of two steps along it, one to the
# right and one down. Gravity is the direction that most normals are parallel to (floors) or perpendicular to (walls);
# `gravity` finds it as an eigenvector. Given gravity $g$, the rest is a dozen lines.


# %%
def hha_by_hand(depth):
    """Depth (H, W) in metres → (H/2, W/2, 3) uint8."""
    cloud = points(depth, stride=2)  # (h, w, 3): x right, y down, z forward
    around = np.pad(cloud, ((3, 3), (3, 3), (0, 0)), mode="edge")
    normal = np.cross(around[3:-3, 6:] - around[3:-3, :-6], around[6:, 3:-3] - around[:-6, 3:-3])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-12)
    normal *= -np.sign((normal * cloud).sum(-1, keepdims=True))  # towards the camera
    g = gravity(normal)
    height = -(cloud @ g) * 100  # cm above the camera
    ground = np.percentile(height, 1)
    height -= ground if ground <= -90 else -130
    disparity = 31000 / (100 * cloud[..., 2]).clip(100)
    angle = np.degrees(np.arccos((normal @ g).clip(-1, 1))) + 38  # floors 218, walls 128
    return np.rint(np.stack([disparity, height, angle], -1)).clip(0, 255).astype(np.uint8)


# %% [markdown]
# ## The library's version
#
# `hha` does the same, and leaves holes, where the sensor saw nothing, at 0. `load_dataset("nyu", depth="hha")` takes it
# instead of metres.

# %%
whole = metres.repeat(2, 0).repeat(2, 1)
by_hand, library = hha_by_hand(whole), hha(whole)
print("largest difference:", np.abs(by_hand.astype(int) - library)[whole[::2, ::2] > 0].max())
angle = library[..., 2].astype(int)
for kind, value in (("walls", 128), ("floors and table tops", 218)):
    print(f"angle within 5 of {value}, as {kind} have it: {(np.abs(angle - value) <= 5).mean():.0%} of the pixels")
assert (np.abs(by_hand.astype(int) - library)[whole[::2, ::2] > 0] <= 1).mean() > 0.999
figures.patch_links(same_place, resized(library), picture, (7, 7), names=("HHA", "image"), most=9, note=note)

# %% [markdown]
# The third channel, drawn as blue, has one value wherever there is floor and another wherever there is wall, near or
# far. That is what the channels are for.
#
# ## Twenty-seven kinds of room, ten classes
#
# The file names 27 scene types. Nine are frequent enough; the other eighteen become *others*. The published counts of
# the nine (Gupta and others' mapping, as in FuseNet_PyTorch's `nyu_scene_mapping.txt`) say how uneven that is.

# %%
published = {"bedroom": 383, "kitchen": 225, "living_room": 221, "bathroom": 121, "dining_room": 117}
published |= {"office": 78, "home_office": 50, "classroom": 49, "bookstore": 36}
counts = Counter({kind: nyu_files.scene_class(kind) for kind in published} and published)
counts["others"] = nyu.COUNT - sum(published.values())
share = pd.Series(counts).sort_values(ascending=False) / nyu.COUNT
for rare in ("basement", "study", "furniture_store"):
    assert nyu_files.CLASSES[nyu_files.scene_class(rare)] == "others"
print(f"always “{share.index[0]}”: accuracy {share.iloc[0]:.1%}, balanced accuracy {1 / len(share):.1%}")
pd.DataFrame({"share of the 1449 frames": share.map("{:.1%}".format)})

# %% [markdown]
# **Accuracy** counts frames, so a model may leave the small classes alone and lose little. **Balanced accuracy** is the
# mean of the classes' own accuracies: *bookstore* weighs as much as *bedroom*. The literature on these ten classes
# reports the first; look at both.
#
# ## Train it
#
# The photograph alone, the depth map alone, and both. In mini-nyu the photograph knows the colour scheme, and the depth
# map the size.

# %%
arms = {"photograph only": ["image"], "depth only": ["depth"], "AlignMamba-2, both": ["image", "depth"]}
length = {"training.max_epochs": epochs} if epochs and not fast else {}
results, scores = {}, {}
for arm, kept in arms.items():
    shown = {split: d.only(*kept) for split, d in data.items()} if len(kept) == 1 else data
    setting = {"datasets": shown, "fast": fast, "overrides": length, "progress": False}
    results[arm] = [fit(recipe, seed=s, **setting) for s in ([seed] if fast else [seed, seed + 1, seed + 2])]
    scores[arm] = [evaluate(r.model, shown["test"])["accuracy"] for r in results[arm]]
figures.scores(scores, note=f"{note} · {len(test)} test frames")

# %% [markdown]
# The number says how often each is right; the confusion says *what it does not know*. In mini-nyu the rows are in the
# order of the schemes, small room and large room side by side. What should the photograph confuse? And what the depth
# map? Draw the two patterns on paper before you look.

# %%
order = [c for both in mini_nyu.PAIRS for c in both] if train.synthetic else list(nyu_files.CLASSES)
place = torch.tensor([order.index(c) for c in nyu_files.CLASSES])


def confused(arm):
    prediction, label = predict(results[arm][0].model, test.only(*arms[arm]))
    return figures.confusion(place[label], place[prediction], order, note=f"{note} · {arm}")


confused("photograph only")

# %%
confused("depth only")

# %%
confused("AlignMamba-2, both")

# %% [markdown]
# **And with larger pictures.** The recipe `nyu` looks at whole frames of 256 × 341 pixels through two frozen networks,
# and takes an hour the first time. All its rows were measured once on the 654 test frames of the real set, three seeds
# each; here is AlignMamba-2's accuracy less that of each other row, read from `results/nyu.json`.

# %%
differences("nyu")

# %% [markdown]
# Depth alone knows much less, and everything else lies within what 654 frames can tell apart: the photograph alone,
# every other fusion, and the model without its losses or its experts. A published gain of a point on this set needs
# its interval. The recipe `nyu-strong` looks at each frame in two sizes, 256 and 384 pixels high, side by side:

# %%
differences("nyu-strong")

# %% [markdown]
# Accuracies are higher, of the linear model too, and differences as before. Of the rows that lie near, the photograph
# alone comes closest to being told apart.
#
# ## Two ways to fool yourself
#
# **The best of thirty.** A published code for these files uses the *test* folder as its validation split, and keeps the
# best epoch. Suppose a model knows nothing: after each epoch it guesses blindly, and the best epoch is reported.

# %%
rng = np.random.default_rng(seed)
for frames in (654, len(test)):
    best = (rng.random((1000, 30, frames)) < 0.1).mean(-1).max(-1)  # 1000 such papers
    print(f"{frames} test frames, 30 epochs, ten classes: chance 10 %, reported {best.mean():.1%} on average")

# %% [markdown]
# Our own runs choose the epoch on a part of the training frames. The same run again, epoch by epoch the same weights,
# with the best epoch chosen by the test frames: its number can only be as high or higher, and it is no test any more.

# %%
watch = {**length, "training.monitor": "valid/accuracy", "training.patience": 1000}  # all epochs, both times
setting = {"seed": seed, "fast": fast, "overrides": watch, "progress": False}
cheat = fit(recipe, datasets={**data, "valid": test}, **setting)
honest = fit(recipe, datasets=data, **setting)
reported, right = max(epoch["valid/accuracy"] for epoch in cheat.history), evaluate(honest.model, test)["accuracy"]
print(f"chosen on test frames: {reported:.1%}; chosen on a part of the training frames: {right:.1%}")
assert reported >= right - 1e-6

# %% [markdown]
# **Neighbours in the split.** Frames of one scene are nearly the same picture. Draw the validation frames one by one,
# and most of them have a twin in training; draw whole scenes, and none has.


# %%
def with_twin(scene, chosen):
    """Share of the chosen frames whose scene is also among the others."""
    return np.isin(scene[chosen], scene[~chosen]).mean()


rooms = np.repeat(np.arange(200), 2)  # 200 scenes, each seen twice; two classes, for `validation` draws class by class
one_by_one = np.isin(np.arange(400), rng.choice(400, 80, replace=False))
by_scene = nyu.validation(rooms % 2, rooms.astype(str), 0.2, seed)
print(f"a twin in training: {with_twin(rooms, one_by_one):.0%} one by one, {with_twin(rooms, by_scene):.0%} by scene")
assert with_twin(rooms, by_scene) == 0
assert not {s.id for s in train} & {s.id for s in valid}

# %% [markdown]
# ## Which patch belongs to which?
#
# Colour and depth have little in common but the shape of the room: an edge in the one is often an edge in the other. Is
# that enough for the plan? We know the truth, patch *i* to patch *i*, and count the mass on it: for the trained model,
# and for depth patches that a least-squares map took to the photographs' (told the truth on the training split, as
# in [chapter 04](04_match_with_transport.ipynb)). *How far* is the mean distance, in patches, that mass is moved.

# %%
mean_sd, at = train.statistics(), torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0))
apart = torch.cdist(at, at)


def standard(sample, m):
    """Standardised tokens, less the frame's mean: how a patch differs from its frame."""
    x = (sample.features[m] - mean_sd[m][0]) / mean_sd[m][1].clamp_min(1e-6)
    return x - x.mean(0)


x, y = (torch.cat([standard(s, m) for s in train]) for m in pair)
way = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ y)
trace = results["AlignMamba-2, both"][0].model.trace(test.batch(range(min(len(test), 80))), scans=False)
n = len(trace.ids)
trained = trace.plans.get(pair, trace.plans[trace.pairs[0]])
told = torch.stack([transport((standard(test[i], "depth") @ way)[None], standard(test[i], "image")[None],
                              epsilon=0.01).plan[0] for i in range(n)])  # fmt: skip
plans = {"trained, not told": trained, "told on the training split": told, "chance": torch.full_like(told, 49.0**-2)}
rows = {how: {"on the same place": p.diagonal(dim1=1, dim2=2).sum(1).mean().item(),
              "how far, patches": (p * apart).sum((1, 2)).mean().item()} for how, p in plans.items()}  # fmt: skip
pd.DataFrame(rows).T.round(3)

# %%
figures.patch_links(told[0], depth, picture, (7, 7), names=pair, note=f"{note} · told")

# %% [markdown]
# ## One panel to play with
#
# The same tokens. Rings mark the same place. Turn ε, and switch to the lazy rule (*relaxed*) and to the exact plan.

# %%
where = [f"row {i // 7 + 1}, column {i % 7 + 1}" for i in range(49)]
panel = TransportExplorer(
    standard(test[0], "depth") @ way,
    standard(test[0], "image"),
    where,
    where,
    epsilon=0.01,
    names=pair,
    partners=torch.arange(49),
    note=f"{note} · told",
    interactive=interactive,
)
panel

# %% [markdown]
# ## What to notice
#
# - The confusion of each side alone is its blindness, drawn: what it cannot see it confuses, and nothing else. (After
#   the two epochs of fast mode, little of that is to be seen.)
# - With both, no cell need stay. Whether a real photograph knows less than a real depth map is another question; in
#   mini-nyu *we* decided it.
# - The trained model's plan: hold it against *chance*. It may predict well and align nothing, for the class of a room
#   does not depend on which patch belongs to which.
# - The best of thirty blind guesses is well above chance, the more so the fewer the test frames.
#
# ## Exercises
#
# **09.1 Balanced accuracy**, from a table of counts: rows are what a frame is, columns what it was taken for. A class
# without a frame does not count.


# %% tags=["exercise"]
def balanced(counts):
    """counts (C, C), float → a number."""
    return None  # your turn


check("09.1", balanced)

# %% [markdown]
# **09.2 Height.** From a cloud of points and the direction of gravity (a unit vector, pointing down): each point's
# height over the lowest of them.


# %% tags=["exercise"]
def height(cloud, down):
    """cloud (N, 3), down (3,) → (N,)."""
    return None  # your turn


check("09.2", height)

# %% [markdown]
# **09.3 Twins.** Which share of the validation frames has a frame of the same scene in training?


# %% tags=["exercise"]
def twins(scene, valid):
    """scene (N,), int64; valid (N,), bool, the rest is for training → a number between 0 and 1."""
    return None  # your turn


check("09.3", twins)

# %% [markdown]
# Stuck? `from course import hint`, then `hint("09.1")`; each call says a little more.
#
# **09.4 To design.** “Photograph and depth together are no better than the photograph alone, so depth has nothing to
# say.” Which experiments tell *depth knows nothing new* from *this model does not use it*?
#
# <details><summary>A model answer</summary>
#
# (1) Depth alone against the constant: if it is above, depth knows something. (2) Among frames that the photograph
# alone gets wrong, how often is depth alone right? That share, added to the photograph's accuracy, is the most that
# any fusion of these two could have. (3) The same model with the depth maps dealt to other frames at random, trained
# and tested: if it is as good as with the right ones, the model does not use them. (4) A world where depth must help,
# such as mini-nyu: if the model gains there, it *can* use depth. All on the same test frames, in pairs, by scenes;
# and with the interval, which says how large a gain could have been missed.
#
# </details>
#
# ## Recap, and what comes next
#
# - A photograph does not know size, a depth map does not know colour. Fusion has something to gain where two sensors
#   are blind to different things.
# - HHA says in three channels what geometry already knows: nearness, height, and how a surface lies.
# - Report accuracy with balanced accuracy and a confusion; choose the epoch on training frames, by whole scenes.
#
# NYU-Depth V2 is Silberman, Hoiem, Kohli and Fergus, *Indoor Segmentation and Support Inference from RGBD Images*,
# 2012; the files and both of their layouts: `data/README.md`. [Next](10_train_on_mvsa.ipynb): the two sides are a text
# and a picture, and do not even agree.
