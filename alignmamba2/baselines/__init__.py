"""The models that AlignMamba-2 is compared with: same batch, same projections, same trainer, same `ModelOutput`.

`KINDS` names them, and the docstring of each says what it is. Each is ours, written from its paper, and as small as the
paper allows. Projection, standardisation, modality dropout, swapping and task loss are those of AlignMamba-2
(`model.base`), so that a comparison compares the fusion.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..effects import fusion_parameters
from ..encoders import EncoderConfig
from ..model import AlignMamba2, AlignMamba2Config, FusionModel
from ..model.layers import one_of
from ..storage.model_folder import read_config
from .attention import MulT, Transformer
from .base import Baseline, BaselineConfig
from .mamba import AlignMambaV1, PlainMamba
from .pooled import BcLSTM, ConcatMean, EarlyLSTM, LateLSTM, LateMean, LowRankFusion, TensorFusion

OURS = "alignmamba2"
KINDS: dict[str, type[FusionModel]] = {
    "early-lstm": EarlyLSTM,
    "late-lstm": LateLSTM,
    "bc-lstm": BcLSTM,
    "tfn": TensorFusion,
    "lmf": LowRankFusion,
    "mult": MulT,
    "transformer": Transformer,
    "concat-mean": ConcatMean,
    "late-mean": LateMean,
    "mamba": PlainMamba,
    "alignmamba-v1": AlignMambaV1,
}


def build_model(settings: Mapping[str, Any]) -> FusionModel:
    """Build a model from the settings of `AlignMamba2Config` and "kind", one of `KINDS` or "alignmamba2" (the default).

    A baseline ignores the settings that it has no use for.
    """
    kind = one_of("model.kind", settings.get("kind", OURS), (OURS, *KINDS))
    if kind == OURS:
        return AlignMamba2(AlignMamba2Config.from_dict({k: v for k, v in settings.items() if k != "kind"}))
    return KINDS[kind](BaselineConfig.from_dict(settings))


def load_model(folder: str | Path) -> FusionModel:
    """Load a model of any kind that `save_pretrained` wrote, ready to predict."""
    kind = str(read_config(Path(folder)).get("kind", OURS))
    return KINDS.get(kind, AlignMamba2).from_pretrained(folder)


def counted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without encoders, which every model has alike, for counting and matching parameters."""
    encoders = settings.get("encoders", {})
    widths = {m: EncoderConfig.of(s).described().architecture["width"] for m, s in encoders.items()}
    return {**settings, "modalities": {**settings["modalities"], **widths}, "encoders": {}}


def parameter_count(settings: Mapping[str, Any], active: bool = False) -> int:
    """Return `fusion_parameters` of the model that `build_model` would build; nothing is allocated."""
    with torch.device("meta"):
        return fusion_parameters(build_model(settings), active)


def matching_width(settings: Mapping[str, Any], target: int) -> int:
    """Return the d_model at which `build_model(settings)` comes closest to `target` parameters.

    If even the narrowest model is more than half as large again, a `ValueError` says so.
    """
    kind = settings.get("kind", OURS)
    step = KINDS.get(kind, AlignMamba2).width_step

    def count(steps: int) -> int:
        return parameter_count({**settings, "d_model": steps * step})

    low, high = 1, 2
    while count(high) < target:
        low, high = high, 2 * high
    while high - low > 1:  # counts grow with the width
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    best = min((low, high), key=lambda steps: abs(count(steps) - target))
    if count(best) > 1.5 * target:
        raise ValueError(f"{kind}: {count(best)} parameters at d_model {best * step}; cannot be as small as {target}")
    return best * step
