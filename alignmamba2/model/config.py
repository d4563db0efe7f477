"""Every setting of the model, checked."""

from __future__ import annotations  # fields' types are read as text

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..alignment.losses import Pair, aligned_pairs
from ..encoders.inside import checked_settings
from ..tasks import TASKS
from .layers import DIRECTIONS, EXPERTS, PLACEMENTS, ROUTINGS, one_of
from .ordering import SCAN_ORDERS

STEPS = ("per_step", "anchor_steps")  # one prediction per step
READOUTS = ("mean", "anchor", "last", "attention", *STEPS)
AT_LEAST_0 = ("lambda_ot", "lambda_mmd", "share_ot", "share_mmd", "lambda_balance", "ffn", "shortcut_loss")
# The values of settings that a config.json does not name, where they are no longer the default.
BEFORE = {"ties": "listed"}

# Of settings; whole numbers are checked as `counts`.
KINDS = {"float": (int, float), "bool": bool, "str": str, "Mapping": Mapping, "Sequence": (list, tuple)}
CHOICES = {
    "task": tuple(TASKS),
    "readout": READOUTS,
    "order": ("interleave", "concat"),
    "ties": ("anchor last", "listed"),
    "positions": ("none", "sinusoidal"),
    "experts": EXPERTS,
    "routing": ROUTINGS,
    "ffn_routing": ROUTINGS,
    "placement": PLACEMENTS,
    "direction": DIRECTIONS,
    "transport": ("sinkhorn", "relaxed", "unbalanced"),
    "mmd_estimator": ("biased", "unbiased"),
}


@dataclass(frozen=True)
class AlignMamba2Config:
    """The settings of the model. Marks: [T] a third-party reading of the paper, [O] our choice.

    Attributes
    ----------
    modalities : mapping of name to feature width
        The order is that of blocks in "concat". 0: its encoder's.
    encoders : mapping of modality to the settings of an `EncoderConfig`, such as ``{"text": {"name": "minilm", "train":
        3}}``: the modality comes as token ids or pictures, and this encoder, inside the model, makes its tokens
    task : "classification", "regression", "multilabel" or "multitarget"; see `tasks` [O]
    classes : names of the n_classes classes, labels or targets, for predictions; may be empty
    class_weights : of classes, labels' ones or targets in the loss; empty: all 1. `fit` takes "balanced", too [O]
    readout : "mean" over all tokens, "anchor": the mean over the anchor's tokens (over all, where a sample has none of
        them), "last" token, "attention" (the mean over all tokens x, weighted by the softmax of q · x with a learnt
        query q), "per_step" (one prediction per step, of which each modality has as many: the mean over its tokens) or
        "anchor_steps" (one per token of the anchor, from it) [O]. Baselines know "mean", "last" and "per_step"
    anchor : the modality that the others are aligned with; "" means "text" where there is one, else the first [T]
    d_model, dropout [O]; n_layers 2, d_state 16, d_conv 4, expand 2 [T]
    order : "interleave" [T, AlignMamba v1] or "concat" [T]
    ties : tokens of equal time in "interleave" come "anchor last", so that the anchor has seen its own step [T,
        AlignMamba v1], or as "listed" in `modalities`, as in models of 0.1.0
    shuffle : modalities whose tokens are read in another order each time in training, as sets and patches may be, so
        that no order is memorised; not with one label per step [O]
    grids : modality → [h, w], the grid of patches that its tokens are, row by row [O]
    scan_orders : the orders in which grids are read, "rows", "columns", "snake" (every second row backwards) or one of
        these from its end, such as "rows back"; layer i of the n_layers reads in order i, and so on in turn [O]
    positions : "none", or "sinusoidal": sinusoids of the relative time, on grids of row and column, are added to
        tokens before fusion; modality_embedding : so is a learnt vector per modality [O]
    experts, routing, placement, direction, n_shared : see `ModalityAwareMamba`
    ffn : width of the experts of an FFN behind each layer, in units of d_model; 0: none [O]
    ffn_routing, ffn_experts, ffn_top_k : "modality", as `experts` says, or "gated", the top k; see `ExpertFFN` [O]
    lambda_balance : weight of the gate's load-balancing loss, mean over layers [O, as in Switch]
    lambda_ot 0.001, lambda_mmd 0.01 : weights of the alignment losses [T]; a loss whose λ is 0 is not computed
    share_ot, share_mmd : in place of λ, how large the loss's gradient is to be, as a share of the task's (see
        `DualAlignment`); 0: λ is as it is set [O]
    fixed_anchor : the alignment losses move the others towards the anchor and leave the anchor's tokens where the task
        wants them; see `DualAlignment` [O]
    transport : "sinkhorn" [T], "relaxed" (AlignMamba v1's closed form) [T] or "unbalanced" [O]; epsilon 0.05 [T];
        marginal_penalty, of "unbalanced", and window: see `transport` [O]
    negatives : number of other samples that L_OT is a contrast to; see `TransportLoss` [O]
    align_most : tokens per modality that are aligned, of longer sequences some; see `DualAlignment` [O]
    align_after : the fusion layer after which tokens are aligned; 0: as they are projected. In training dropout sets in
        there, with the tokens [O]
    bandwidth : "median", a number, or a list of numbers; mmd_estimator : "biased" or "unbiased" [O]
    modality_dropout : probability that a sample loses a modality in training; one always stays [O]
    swap : modality → probability that a token's features are, in training, those of another token of the batch. Makes
        features that were fitted to the training labels as unreliable as they are on new data (see data/README.md):
        where they are right with probability r and should be right with r', swap with (r − r') / (r − ½), since the
        features of another token are right half of the time [O]
    label_smoothing : of the cross-entropy [O]
    shortcut : modalities whose mean token, as it comes from features or encoder, also goes to the prediction along a
        straight line: scores = f(fused tokens) + Σ_m W_m mean_m + b. So the model holds the linear model of these
        means, and fusion adds to it. Not with one label per step [O]
    shortcut_loss : weight of the straight line's own task loss, L_task(Σ_m W_m mean_m + b), in training [O]
    clip : standardised features are limited to ±clip, against heavy-tailed sensors [O]
    """

    modalities: Mapping[str, int]
    task: str = "classification"
    n_classes: int = 2
    classes: Sequence[str] = ()
    class_weights: Sequence[float] = ()
    readout: str = "mean"
    anchor: str = ""
    d_model: int = 64
    n_layers: int = 2
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dropout: float = 0.1
    order: str = "interleave"
    ties: str = "anchor last"
    shuffle: Sequence[str] = ()
    grids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    scan_orders: Sequence[str] = ("rows",)
    positions: str = "none"
    modality_embedding: bool = False
    experts: str = "both"
    routing: str = "modality"
    placement: str = "projections"
    direction: str = "forward"
    n_shared: int = 1
    ffn: float = 0.0
    ffn_routing: str = "modality"
    ffn_experts: int = 4
    ffn_top_k: int = 1
    lambda_balance: float = 0.01
    lambda_ot: float = 0.001
    lambda_mmd: float = 0.01
    share_ot: float = 0.0
    share_mmd: float = 0.0
    fixed_anchor: bool = False
    transport: str = "sinkhorn"
    epsilon: float = 0.05
    marginal_penalty: float = 1.0
    window: float = 1.0
    negatives: int = 0
    align_most: int = 512
    align_after: int = 0
    bandwidth: str | float | list[float] = "median"
    mmd_estimator: str = "biased"
    modality_dropout: float = 0.0
    swap: Mapping[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.0
    clip: float = 10.0
    shortcut: Sequence[str] = ()
    shortcut_loss: float = 0.0
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            kind, value = f.type.partition("[")[0], getattr(self, f.name)
            if not isinstance(value, KINDS.get(kind, object)) or (kind == "float" and isinstance(value, bool)):
                raise ValueError(f"{f.name}: found {value!r}; expected a {kind.lower()}")
        if not self.modalities:
            raise ValueError("modalities: empty; expected at least one, such as {'text': 300}")
        object.__setattr__(self, "modalities", dict(self.modalities))
        object.__setattr__(self, "encoders", checked_settings(self.encoders, self.modalities))
        for name, allowed in CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        anchor = self.anchor or ("text" if "text" in self.modalities else next(iter(self.modalities)))
        object.__setattr__(self, "anchor", one_of("anchor", anchor, tuple(self.modalities)))
        for name in (*(f.name for f in dataclasses.fields(self) if f.type == "int"), *self.modalities):
            value = self.modalities[name] if name in self.modalities else getattr(self, name)
            least = int(name not in ("align_after", "negatives", *self.encoders))
            if type(value) is not int or value < least:
                raise ValueError(f"{name}: found {value!r}; expected a whole number of at least {least}")
        limits = dict.fromkeys(("dropout", "modality_dropout", "label_smoothing"), 1)
        limits |= dict.fromkeys(AT_LEAST_0, math.inf)
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; expected a number in [0, {limit})")
        for name, most in (("align_after", self.n_layers), ("negatives", 10_000)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; expected a whole number from 0 to {most}")
        if not 0 <= self.window <= 1:
            raise ValueError(f"window: found {self.window!r}; expected a number in [0, 1]")
        object.__setattr__(self, "swap", dict(self.swap))
        for m, p in self.swap.items():
            if m not in self.modalities or not 0 <= p <= 1:
                raise ValueError(f"swap: found {m!r} = {p!r}; expected probabilities for {list(self.modalities)}")
        object.__setattr__(self, "shuffle", list(self.shuffle))
        object.__setattr__(self, "scan_orders", list(self.scan_orders) or ["rows"])
        names = tuple(self.modalities)
        for name, allowed in {"shuffle": names, "grids": names, "scan_orders": SCAN_ORDERS}.items():
            for value in getattr(self, name):
                one_of(name, value, allowed)
        if any(len(grid) != 2 or min(grid) < 1 for grid in self.grids.values()):
            raise ValueError(f"grids: found {self.grids}; expected [height, width] of each")
        if self.shuffle and self.readout in STEPS:
            raise ValueError(f"shuffle: found {self.shuffle} with readout={self.readout!r}; steps have an order")
        object.__setattr__(self, "shortcut", [m for m in self.modalities if m in self.shortcut])
        if self.shortcut and (self.readout in STEPS or set(self.shortcut) & set(self.swap)):
            raise ValueError("shortcut: not with a prediction per step, and not of a modality that is swapped")
        for name in ("epsilon", "marginal_penalty", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; expected a positive number")
        if self.ffn_top_k > self.ffn_experts:
            raise ValueError(f"ffn_top_k: found {self.ffn_top_k}; there are {self.ffn_experts} experts (ffn_experts)")
        object.__setattr__(self, "classes", list(self.classes))
        if self.classes and len(self.classes) != self.n_classes:
            raise ValueError(f"classes: found {self.classes}; expected {self.n_classes} names (n_classes), or none")
        object.__setattr__(self, "class_weights", list(self.class_weights))
        TASKS[self.task](self)  # which checks what is its own

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs (modality, anchor) that are aligned."""
        return aligned_pairs(self.modalities, self.anchor)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlignMamba2Config:
        """Build a config; an unknown key is refused by name."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"config: unknown keys {unknown}; known are {known}")
        return cls(**values)
