"""AlignMamba-2: project, align (in training), order, fuse, read out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import DualAlignment
from ..batch import BatchError, MultimodalBatch
from ..storage.files import read_tensors, write_tensors, write_text
from .config import AlignMamba2Config
from .layers import ModalityAwareMamba
from .ordering import Ordering, order_tokens, place_rows, select_rows
from .trace import Trace
from .tracing import trace_of

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass
class ModelOutput:
    """What `AlignMamba2` returns.

    Attributes
    ----------
    prediction : Tensor (B,) or, per step, (B, T)
        The class (int64) or the value.
    logits : Tensor (..., n_classes) for classification, else None
    loss : scalar Tensor, or None without labels
        L = L_task + λ_OT L_OT + λ_MMD L_MMD; the last two in training only.
    losses : mapping of name to scalar Tensor
        The parts, unweighted: "task", "ot", "mmd", and each pair's, such as "ot/audio-text".
    """

    prediction: Tensor
    logits: Tensor | None = None
    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class Projection(nn.Module):
    """Features (N, D_m) → tokens (N, d): standardise, clip, (in training) swap, linear, norm, dropout.

    The statistics belong to the model, are saved with it, and come from training data alone.
    """

    def __init__(self, width: int, d_model: int, dropout: float, clip: float, swap: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.clip, self.swap = clip, swap
        self.always_swap = False
        self.linear = nn.Linear(width, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) * self.scale).clamp(-self.clip, self.clip)
        if self.swap > 0 and (self.training or self.always_swap):
            other = torch.randperm(len(x), device=x.device)
            x = torch.where(torch.rand(len(x), 1, device=x.device) < self.swap, x[other], x)
        return self.dropout(self.norm(self.linear(self.dropout(x))))


class AlignMamba2(nn.Module):
    """Multimodal fusion with a Modality-Aware Mamba and a dual alignment (arXiv 2603.18462).

    1. Project every modality's features (B, T_m, D_m) to tokens (B, T_m, d).
    2. In training only: L_OT and L_MMD between each modality and the anchor, mean over the samples
       that have both, sum over pairs.
    3. Order all real tokens of a sample into one sequence; padding is squeezed out.
    4. n_layers × x + ModalityAwareMamba(norm(x)).
    5. Norm, read out, head.

    A modality may be missing from a batch, or from a sample (no real tokens). Padding never changes an answer.
    """

    config_class = AlignMamba2Config  # a subclass that takes more settings names its own
    mixer = ModalityAwareMamba  # or has other layers

    def __init__(self, config: AlignMamba2Config):
        super().__init__()
        self.config = c = config
        self.project = nn.ModuleDict(
            {
                m: Projection(width, c.d_model, c.dropout, c.clip, c.swap.get(m, 0.0))
                for m, width in c.modalities.items()
            }
        )
        self.alignment_warmth = 1.0  # a factor on both λ, for who trains with a warm-up
        self.align = DualAlignment(
            c.lambda_ot,
            c.lambda_mmd,
            anchor=c.anchor,
            fixed_anchor=c.fixed_anchor,
            transport={"epsilon": c.epsilon, "method": c.transport},
            mmd={"bandwidth": c.bandwidth, "estimator": c.mmd_estimator},
        )
        self.norms = nn.ModuleList(nn.RMSNorm(c.d_model, eps=1e-5) for _ in range(c.n_layers))
        self.layers = nn.ModuleList(
            self.mixer(
                tuple(c.modalities),
                c.d_model,
                c.d_state,
                c.d_conv,
                c.expand,
                experts=c.experts,
                routing=c.routing,
                placement=c.placement,
                direction=c.direction,
                n_shared=c.n_shared,
            )
            for _ in range(c.n_layers)
        )
        self.norm = nn.RMSNorm(c.d_model, eps=1e-5)
        self.dropout = nn.Dropout(c.dropout)
        self.head = nn.Linear(c.d_model, c.n_classes if c.task == "classification" else 1)

    @torch.no_grad()
    def set_statistics(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise each modality's features by (mean (D_m,), standard deviation (D_m,)) of training data.

        A feature that never varied (sd 0) is only centred.
        """
        for m, (mean, sd) in statistics.items():
            projection = self.project[m]
            projection.mean.copy_(mean)
            projection.scale.copy_(torch.where(sd > 1e-8, 1 / sd.clamp_min(1e-8), torch.ones_like(sd)))

    @contextmanager
    def swapping(self, seed: int) -> Iterator[None]:
        """Within, features are swapped in prediction too, always alike: a validation split that shares the training
        split's leak must not choose by it (see `AlignMamba2Config.swap`)."""
        projections = list(self.project.values())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for projection in projections:
                projection.always_swap = True
            try:
                yield
            finally:
                for projection in projections:
                    projection.always_swap = False

    def forward(self, batch: MultimodalBatch) -> ModelOutput:
        masks, projected = self._project(batch)
        losses = {}
        if self.training and self.config.anchor in projected:
            losses = self._alignment_losses(projected, masks)
        tokens, ordering, kept = self._fuse(projected, self._drop_modalities(masks))
        output = self._predict(tokens, ordering, kept)
        if batch.labels is not None:
            losses["task"] = self._task_loss(output, batch)
            output.loss = self._weighted(losses)
        output.losses = losses
        return output

    @torch.compiler.disable  # the warmth is another number each step, and would be another graph
    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        warmth = self.alignment_warmth
        weight = {"task": 1.0, "ot": warmth * self.config.lambda_ot, "mmd": warmth * self.config.lambda_mmd}
        return sum(w * losses[name] for name, w in weight.items() if name in losses)

    def _project(self, batch: MultimodalBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Masks, and tokens (B, T_m, d) with 0 on padding, of the modalities that the batch has."""
        masks, real = self._real_tokens(batch)
        projected = {}
        for m, (features, place) in real.items():
            projected[m] = _padded(self.project[m](features), place, masks[m])
        return masks, projected

    @torch.compiler.disable  # what depends on the values of masks and labels is no graph for torch.compile
    def _real_tokens(self, batch: MultimodalBatch) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Masks, and of each modality the features (N_m, D_m) of real tokens, with their places in (B · T_m)."""
        expected = self.config.modalities
        for m, x in batch.features.items():
            if m not in expected:
                raise BatchError(f"features: modality {m!r} is unknown to this model; it has {list(expected)}")
            if x.shape[-1] != expected[m]:
                raise BatchError(f"features[{m!r}]: width {x.shape[-1]}; this model expects {expected[m]}")
        masks = {m: batch.masks[m] for m in expected if m in batch.features}
        empty = ~torch.stack([mask.any(1) for mask in masks.values()]).any(0)
        if empty.any():
            rows = [batch.ids[i] for i in empty.nonzero().flatten().tolist()]
            raise BatchError(f"masks: no real token in any modality of samples {rows[:5]}; expected at least one")
        places = {m: _real(mask) for m, mask in masks.items()}
        return masks, {m: (batch.features[m].flatten(0, 1)[place], place) for m, place in places.items()}

    @torch.compiler.disable
    def _alignment_losses(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms that count, "ot" and "mmd", and each pair's, such as "ot/audio-text"."""
        # Costs and kernels live on small differences: not in bfloat16, whatever the rest is computed in.
        with torch.autocast(next(iter(tokens.values())).device.type, enabled=False):
            output = self.align({m: full_precision(x) for m, x in tokens.items()}, masks)
        losses: dict[str, Tensor] = {}
        for kind, total, pairs in (
            ("ot", output.transport, output.transport_by_pair),
            ("mmd", output.mmd, output.mmd_by_pair),
        ):
            if pairs:
                losses[kind] = total
                losses |= {f"{kind}/{m}-{anchor}": value for (m, anchor), value in pairs.items()}
        return losses

    def _drop_modalities(self, masks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Training: hide each modality of each sample with probability p, but never all of a sample's tokens."""
        p = self.config.modality_dropout
        if not self.training or p == 0:
            return masks
        present = torch.stack([mask.any(1) for mask in masks.values()], 1)  # (B, M)
        keep = present & (torch.rand(present.shape, device=present.device) >= p)
        keep = torch.where(keep.any(1, keepdim=True), keep, present)
        return {m: mask & keep[:, i : i + 1] for i, (m, mask) in enumerate(masks.items())}

    @torch.compiler.disable(recursive=False)  # torch.compile makes one graph of a layer, and all layers share it
    def _fuse(
        self,
        projected: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        records: list[dict[str, Any]] | None = None,
    ) -> tuple[Tensor, Ordering, dict[str, Tensor]]:
        """Grouped tokens (N, d) after fusion, their ordering, and all modalities' masks (absent ones empty)."""
        tokens, ordering, full = self._order(projected, masks)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            record = None if records is None else {"tokens": tokens}
            tokens = self._pass(norm, layer, tokens, ordering, record)
            if records is not None and record is not None:
                records.append(record)
        return self.norm(tokens), ordering, full

    @torch.compiler.disable
    def _order(
        self, projected: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Ordering, dict[str, Tensor]]:
        """Grouped tokens (N, d) before fusion, their ordering, and all modalities' masks (absent ones empty)."""
        some = next(iter(masks.values()))
        full = {m: masks[m] if m in masks else some.new_zeros(len(some), 1) for m in self.config.modalities}
        tokens = [select_rows(projected[m].flatten(0, 1), _real(mask)) for m, mask in masks.items()]
        return torch.cat(tokens), order_tokens(full, self.config.order), full

    def _pass(
        self, norm: nn.Module, layer: nn.Module, tokens: Tensor, ordering: Ordering, record: dict[str, Any] | None
    ) -> Tensor:
        return tokens + self.dropout(layer.mix(norm(tokens), ordering, record))

    def _predict(self, tokens: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> ModelOutput:
        logits = full_precision(self.head(self.dropout(self._read_out(tokens, ordering, masks))))
        if self.config.task == "regression":
            return ModelOutput(prediction=logits.squeeze(-1))
        return ModelOutput(prediction=logits.argmax(-1), logits=logits)

    def _read_out(self, tokens: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> Tensor:
        """(B, d), or (B, T, d) with readout="per_step"."""
        if self.config.readout == "mean":
            b = ordering.size[0]
            total = tokens.new_zeros(b, tokens.shape[-1]).index_add(0, ordering.sample, tokens)
            return total / ordering.lengths.unsqueeze(-1)
        if self.config.readout == "last":
            sequence = ordering.to_sequence(tokens)
            return sequence[torch.arange(len(sequence), device=sequence.device), ordering.lengths - 1]
        steps = {m: mask.shape[1] for m, mask in masks.items() if mask.any()}
        if len(set(steps.values())) > 1:
            raise BatchError(f"features: readout='per_step' needs equally many steps a modality; found {steps}")
        total = count = 0.0
        for m, x in self._ungroup(tokens, ordering, masks).items():
            if m in steps:
                total = total + x
                count = count + masks[m].unsqueeze(-1).to(x.dtype)
        return total / count.clamp_min(1)

    @staticmethod
    def _ungroup(rows: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Grouped (N, k) → {modality: (B, T_m, k)}, 0 on padding."""
        parts = zip(ordering.split(rows), masks.items(), strict=True)
        return {m: _padded(part, _real(mask), mask) for part, (m, mask) in parts}

    @torch.compiler.disable
    def _task_loss(self, output: ModelOutput, batch: MultimodalBatch) -> Tensor:
        labels, guess = batch.labels, output.prediction if output.logits is None else output.logits
        if labels.shape != output.prediction.shape:
            raise BatchError(
                f"labels: found {tuple(labels.shape)}; readout={self.config.readout!r} predicts "
                f"{tuple(output.prediction.shape)}"
            )
        if batch.label_mask is not None:
            labels, guess = labels[batch.label_mask], guess[batch.label_mask]
        if self.config.task == "regression":
            return F.l1_loss(guess, labels.to(guess.dtype))
        if labels.is_floating_point() or labels.numel() == 0 or not 0 <= labels.min() <= labels.max() < guess.shape[-1]:
            raise BatchError(
                f"labels: found {labels.dtype} {sorted(set(labels.tolist()))[:8]}; "
                f"expected whole numbers from 0 to {guess.shape[-1] - 1}"
            )
        return F.cross_entropy(guess, labels, label_smoothing=self.config.label_smoothing if self.training else 0.0)

    def trace(self, batch: MultimodalBatch, *, scans: bool = True) -> Trace:
        """Run a batch as in prediction, and keep everything worth looking at (see `Trace`).

        Here, and only here, are transport plans and discrepancies computed outside training. `scans=False` leaves
        out what the selective scans were given: some (3 + n_classes) · d_inner numbers a token and layer.
        """
        return trace_of(self, batch, scans)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, each of them whole or not at all.

        The second says which config it belongs to, and holds a SHA-256 of its content.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = dataclasses.asdict(self.config)
        write_tensors(folder / WEIGHTS_FILE, self.state_dict(), {"format": "pt", "config": _digest(config)})
        write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AlignMamba2:
        """Load what `save_pretrained` wrote, ready to predict (eval mode). Nothing in the files is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file, and what is missing, unknown or of another shape in it.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: not found; expected a folder written by save_pretrained")
        tensors, notes = read_tensors(folder / WEIGHTS_FILE)
        try:
            values = _plain_config(folder / CONFIG_FILE, tensors)
            config = cls.config_class.from_dict(values)
            with torch.device("meta"):  # what is there must fit before any memory is taken for it
                _check_shapes(cls(config).state_dict(), tensors)
        except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
        if notes.get("config", _digest(values)) != _digest(values):
            raise ValueError(
                f"{folder}: {CONFIG_FILE} is not what {WEIGHTS_FILE} was saved with. Was it changed, or saving cut off?"
                " Save the model again; to change a setting: AlignMamba2(config).load_state_dict(model.state_dict())"
            )
        model = cls(config)
        model.load_state_dict(tensors)
        return model.eval()


def _real(mask: Tensor) -> Tensor:
    """(N,): the places of True in a flattened mask (B, T)."""
    return mask.flatten().nonzero().squeeze(1)


def _padded(rows: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """(N, k), at the N places of True in a mask (B, T) → (B, T, k), 0 elsewhere."""
    return place_rows(rows, place, mask.numel()).view(*mask.shape, rows.shape[-1])


def full_precision(x: Tensor) -> Tensor:
    """float32 where mixed precision left bfloat16 or float16; anything else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _plain_config(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values in config.json, none of them large enough to ask for more than the weights hold."""
    if path.stat().st_size > 1 << 20:
        raise ValueError(f"{path.stat().st_size} bytes; expected a config of a few lines")
    try:
        values = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"found a {type(values).__name__}; expected settings and their values")
    most = {"n_layers": len(tensors)}
    total = sum(x.numel() for x in tensors.values())
    for name, value in values.items():
        if isinstance(value, int) and value > most.get(name, max(total, 16)):
            raise ValueError(f"{name}: found {value}; the weights hold {len(tensors)} tensors of {total} values in all")
    return values


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted({*expected, *found}):
        a, b = (tuple(x[name].shape) if name in x else None for x in (expected, found))
        if a != b:
            raise ValueError(f"asks for {name} of shape {a}; {WEIGHTS_FILE} has {b}")
