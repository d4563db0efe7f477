"""The optimiser, the course of its learning rate, and the warm-up of the alignment losses, as a recipe says them."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..recipes import TrainingConfig


def optimizer_of(model: nn.Module, config: TrainingConfig) -> AdamW:
    """Return AdamW for a model, as Mamba has it: no decay for what is no matrix of weights (norms, biases, A and D)."""
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or name.endswith("A_log")]
    others = {id(p) for p in plain}
    decayed = [p for p in model.parameters() if id(p) not in others]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.learning_rate, fused=True)


def schedule_of(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """Return the learning rate's course over all steps: it rises along a line, then falls along a cosine to 0."""
    warm = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return LambdaLR(optimizer, factor)


def alignment_warmth(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the factor on both λ at a step: it rises from 0 to 1 over the share `alignment_warmup` of all steps."""
    warm = round(config.alignment_warmup * steps)
    return min(1.0, step / warm) if warm else 1.0
