"""The optimiser, the course of its learning rate, and the warm-up of the alignment losses, as a recipe says them."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..model import FusionModel
from ..recipes import TrainingConfig


def optimizer_of(model: FusionModel, config: TrainingConfig) -> AdamW:
    """Return AdamW for a model, as Mamba has it: no decay for what is no matrix of weights (norms, biases, A and D).

    Modalities' own experts beside shared ones have a decay of their own. Encoders inside the model have one too, and a
    learning rate: that of a layer at depth k below the last one is `layer_decay` to the power of k times
    `encoder_learning_rate`.
    """
    encoders = [group for encoder in model.encode.values() for group in encoder.groups()]
    inside = {id(p) for encoder in model.encode.values() for p in encoder.parameters()}
    own = {name: p for name, p in model.named_parameters() if id(p) not in inside}
    deviations = {n: p for n, p in own.items() if "specific" in n.split(".") and model.config.experts == "both"}
    rest = {name: p for name, p in own.items() if name not in deviations}
    groups = _groups(rest, config.learning_rate, config.weight_decay)
    groups += _groups(deviations, config.learning_rate, config.expert_decay)
    for depth, parameters in encoders:
        rate = config.encoder_learning_rate * config.layer_decay**depth
        groups += _groups(parameters, rate, config.encoder_weight_decay)
    return AdamW(groups, lr=config.learning_rate, fused=True)


def _groups(parameters: Mapping[str, nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    plain = {name for name, p in parameters.items() if p.ndim < 2 or name.endswith("A_log")}
    parts = ([p for n, p in parameters.items() if (n in plain) == is_plain] for is_plain in (False, True))
    return [{"params": p, "lr": rate, "weight_decay": d} for p, d in zip(parts, (decay, 0.0), strict=True)]


def schedule_of(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """Return the learning rate's course over all steps: it rises along a line, then falls along a cosine to 0."""
    warm = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return LambdaLR(optimizer, factor)


def warm_alignment(model: FusionModel, config: TrainingConfig, step: int, steps: int) -> None:
    """Set the factor on both λ for a step: it rises from 0 to 1 over the share `alignment_warmup` of all steps."""
    if model.align is not None:
        warm = round(config.alignment_warmup * steps)
        model.align.warmth = min(1.0, step / warm) if warm else 1.0
