"""Prediction as a program of `torch.export`, for batches of one form."""

import copy
import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .batch import MultimodalBatch
from .model import AlignMamba2


def export_program(model: AlignMamba2, batch: MultimodalBatch) -> ExportedProgram:
    """Return the prediction of a model as a program, for batches with the modalities, shapes and masks of this one.

    `program.module()(features)` takes a mapping of modality to Tensor (B, T_m, D_m), finite at real tokens, and returns
    "prediction" and, of classes, "logits", as the model does. A modality with an encoder inside the model enters as the
    encoder's tokens. `torch.export.save` keeps the program; where it is loaded, `alignmamba2` has to be imported, since
    the selective scan is an operator of its own. ONNX has no such operator.
    """
    if not isinstance(model, AlignMamba2):
        raise TypeError(f"export_program: found {type(model).__name__}; expected an AlignMamba2")
    with torch.no_grad():
        fixed = _Fixed(copy.deepcopy(model).eval(), batch)
        widths, masks = model.config.modalities, fixed.masks
        example = {m: torch.zeros(*mask.shape, widths[m], device=mask.device) for m, mask in masks.items()}
        return torch.export.export(fixed, (example,))  # which looks at the shapes alone


class _Fixed(nn.Module):
    """The prediction with all that depends on the values of masks computed beforehand."""

    def __init__(self, model: AlignMamba2, batch: MultimodalBatch):
        super().__init__()
        self.masks, real = model._real_tokens(batch)
        self.places = {m: place for m, (_, place) in real.items()}
        tokens = model._tokens(self.masks, real)
        # Of tokens that are all 0, what is added for positions and modalities.
        added, orderings, full = model._order({m: torch.zeros_like(x) for m, x in tokens.items()}, self.masks)

        def order(projected: Mapping[str, Tensor], _masks: Mapping[str, Tensor]):
            rows = [projected[m].flatten(0, 1)[place] for m, place in self.places.items()]
            return torch.cat(rows) + added, orderings, full

        model._order = order
        model._fuse = inspect.unwrap(type(model)._fuse).__get__(model)  # no border of graphs in a program
        self.model = model

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        real = {m: (features[m].flatten(0, 1)[place], place) for m, place in self.places.items()}
        output = self.model.predict(self.model._tokens(self.masks, real), self.masks)
        if self.model.shortcut is not None:
            output, _ = self.model._with_shortcut(output, real, self.masks)
        values = {"prediction": output.prediction, "logits": output.logits}
        return {name: x for name, x in values.items() if x is not None}
