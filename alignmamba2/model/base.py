"""What AlignMamba-2 and its baselines share: projections, statistics, task loss and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from ..alignment import DualAlignment
from ..batch import BatchError, MultimodalBatch
from ..encoders.encoder import without_weights
from ..encoders.inside import Encoders
from ..gpu.host import on_host, send
from ..storage.model_folder import CARD, CONFIG_FILE, check_model, on_hub, read_model, write_model
from ..tasks import TASKS
from .config import BEFORE, AlignMamba2Config
from .ordering import place_rows


@dataclass
class ModelOutput:
    """The prediction of a model for a batch and, with labels, its loss.

    Attributes
    ----------
    prediction : Tensor (B,) or, per step, (B, T); with several labels or targets (..., K)
        The class (int64), the number, or 0 and 1 for the labels (int64).
    logits : Tensor (..., n_classes) of classes and labels, else None
    loss : scalar Tensor, or in prediction None without labels
        L = L_task + λ_OT L_OT + λ_MMD L_MMD; the last two in training only.
    losses : mapping of name to scalar Tensor
        The parts, unweighted: "task", "ot", "mmd", each pair's, such as "ot/audio-text", and a gate's "balance". In
        training, beside them, "share/ot" and "share/mmd": see `DualAlignment.state`.
    tokens : mapping of modality to Tensor (B, T_m, d)
        The tokens that are aligned, if these are a fusion layer's (see `align_after`) and not the projections.
    """

    prediction: Tensor
    logits: Tensor | None = None
    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Tensor] = field(default_factory=dict)


class Projection(nn.Module):
    """Features (N, D_m) → tokens (N, d): standardise, clip, (in training) swap, linear, norm.

    The statistics belong to the model, are saved with it, and come from training data alone. Dropout comes after the
    alignment: two dropouts of one vector, each with probability p, have cosine 1 − p.
    """

    def __init__(self, width: int, d_model: int, clip: float, swap: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.clip, self.swap = clip, swap
        self.always_swap = False
        self.linear = nn.Linear(width, d_model)
        self.norm = nn.LayerNorm(d_model)

    def standardised(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.scale).clamp(-self.clip, self.clip)

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardised(x)
        if self.swap > 0 and (self.training or self.always_swap):
            other = torch.randperm(len(x), device=x.device)
            x = torch.where(torch.rand(len(x), 1, device=x.device) < self.swap, x[other], x)
        return self.norm(self.linear(x))


class FusionModel(nn.Module, PyTorchModelHubMixin, library_name="alignmamba2", model_card_template=CARD):
    """A model of a `MultimodalBatch`: encode, project to tokens, predict from all tokens, compare with labels.

    Modalities that have an encoder in `config.encoders` are encoded first; `config` then holds the encoders'
    architectures, the hashes of their weights, and the widths of their tokens.

    A subclass makes its layers in `__init__` and predicts in `predict`; it may add losses.
    """

    config_class = AlignMamba2Config  # a subclass with more settings names its own
    width_step = 1  # d_model must be a multiple of this
    card: Mapping[str, Any] = MappingProxyType({})  # for `push_to_hub`; `fit` sets "recipe", "metrics" and "data"
    aligning = False  # set it to have a prediction with labels return the added losses too, beside the task's

    def __init__(self, config: AlignMamba2Config):
        super().__init__()
        self.encode = Encoders(config.encoders)
        widths = self.encode.widths(config.modalities)
        self.config = c = dataclasses.replace(config, modalities=widths, encoders=self.encode.settings)
        self.project = nn.ModuleDict(
            {m: Projection(width, c.d_model, c.clip, c.swap.get(m, 0.0)) for m, width in c.modalities.items()}
        )
        self.dropout = nn.Dropout(c.dropout)
        self.align: DualAlignment | None = None
        self.task = TASKS[c.task](c)
        self.outputs = self.task.outputs
        straight = sum(c.modalities[m] for m in c.shortcut)
        self.shortcut = nn.Linear(straight, self.outputs) if c.shortcut else None

    def predict(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> ModelOutput:
        """Predict from the tokens (B, T_m, d), 0 on padding, and masks of the batch's modalities.

        In training, dropout of the tokens comes first, and equally in each model.
        """
        raise NotImplementedError

    def added_losses(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return further losses, by name, of a training step (or of a prediction, see `aligning`)."""
        return {}

    def total_loss(self, losses: dict[str, Tensor], tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the loss that is trained, from all losses and the tokens that `added_losses` saw."""
        if "shortcut" in losses:
            return losses["task"] + self.config.shortcut_loss * losses["shortcut"]
        return losses["task"]

    def forward(self, batch: MultimodalBatch | None = None, **tensors: Any) -> ModelOutput:
        """Predict and, with labels, return the loss; `tensors`, features, masks, labels …, may stand for a batch."""
        if batch is None:
            names = {"masks", "labels", "label_mask", "ids"} & tensors.keys()
            batch = MultimodalBatch(tensors, **{name: tensors.pop(name) for name in names})
        masks, real = self._real_tokens(batch)
        tokens = self._tokens(masks, real)
        visible = self._drop_modalities(masks)
        output = self.predict(tokens, visible)
        if output.tokens:
            tokens, masks = output.tokens, visible
        losses = output.losses
        if self.training or self.aligning:
            losses |= self.added_losses(tokens, masks)
        if self.shortcut is not None:
            output, straight = self._with_shortcut(output, real, visible)
            if self.training:
                losses["shortcut"] = self.task.loss(straight, batch, self.training)
        if batch.labels is not None or self.training:  # samples without a label can still be aligned
            losses["task"] = self.task.loss(output, batch, self.training)
            output.loss = self.total_loss(losses, tokens) if self.training else losses["task"]
        output.losses = losses
        return output

    @torch.no_grad()
    def set_statistics(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise each modality's features by (mean (D_m,), standard deviation (D_m,)) of training data.

        A feature that never varied (sd 0) is only centred. Tokens of an encoder that learns are taken as they are.
        """
        for m, (mean, sd) in statistics.items():
            if m in self.encode and self.encode[m].config.train:
                continue
            projection = self.project[m]
            projection.mean.copy_(mean)
            varies = sd > 1e-7 * mean.abs()  # more than rounding does
            projection.scale.copy_(torch.where(varies, 1 / sd.clamp_min(1e-30), torch.ones_like(sd)))

    @contextmanager
    def swapping(self, seed: int) -> Iterator[None]:
        """Within, swap features in prediction too, each time alike (see `AlignMamba2Config.swap`).

        A validation split that shares the training split's leak must not choose by it.
        """
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

    def _tokens(self, masks: Mapping[str, Tensor], real: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Tokens (B, T_m, d), 0 on padding, of the real features of each modality."""
        return {m: padded(self.project[m](x), place, masks[m]) for m, (x, place) in real.items()}

    def _with_shortcut(
        self, output: ModelOutput, real: Mapping[str, tuple[Tensor, Tensor]], masks: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, ModelOutput]:
        """The prediction from fused tokens and mean tokens together, and from mean tokens alone."""
        means = self.dropout(self._mean_tokens(real, masks))
        with torch.autocast(means.device.type, enabled=False):  # a score in bfloat16 has but three digits
            straight = self.shortcut(means)
        return self._output(self.task.scores(output).view_as(straight) + straight), self._output(straight)

    def _mean_tokens(self, real: Mapping[str, tuple[Tensor, Tensor]], masks: Mapping[str, Tensor]) -> Tensor:
        """The shortcut's input: mean tokens (B, Σ D_m) side by side, 0 where a modality is missing or hidden."""
        means = []
        for m in self.config.shortcut:
            mask = next(iter(masks.values())) if m not in real else masks[m]
            mean = self.shortcut.weight.new_zeros(len(mask), self.config.modalities[m])
            if m in real:
                x, place = real[m]
                sample = place // mask.shape[1]
                count = sample.new_zeros(len(mask)).index_add(0, sample, torch.ones_like(sample))
                count = count.clamp_min(1).unsqueeze(1)
                mean = mean.index_add(0, sample, self.project[m].standardised(x).to(mean.dtype)) / count
                mean = mean * mask.any(1, keepdim=True)
            means.append(mean)
        return torch.cat(means, -1)

    @torch.compiler.disable  # computation that depends on the values of masks or labels is no graph for torch.compile
    def _real_tokens(self, batch: MultimodalBatch) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Masks, and of each modality the features (N_m, D_m) of real tokens, with their places in (B · T_m)."""
        expected = self.config.modalities
        for m in batch.features:
            if m not in expected:
                raise BatchError(f"features: modality {m!r} is unknown to this model; it has {list(expected)}")
        batch = self.encode.read(batch)
        for m, x in batch.features.items():
            if x.shape[-1] != expected[m]:
                raise BatchError(f"features[{m!r}]: width {x.shape[-1]}; this model expects {expected[m]}")
        masks = {m: batch.masks[m] for m in expected if m in batch.features}
        empty = ~torch.stack([on_host(mask).any(1) for mask in masks.values()]).any(0)
        if empty.any():
            rows = [batch.ids[i] for i in empty.nonzero().flatten().tolist()]
            raise BatchError(f"masks: no real token in any modality of samples {rows[:5]}; expected at least one")
        places = {m: real_places(mask) for m, mask in masks.items()}
        return masks, {m: (batch.features[m].flatten(0, 1)[place], place) for m, place in places.items()}

    @torch.compiler.disable
    def _drop_modalities(self, masks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Training: hide each modality of each sample with probability p, but never all of a sample's tokens."""
        p = self.config.modality_dropout
        if not self.training or p == 0:
            return masks
        here = {m: on_host(mask) for m, mask in masks.items()}
        present = torch.stack([mask.any(1) for mask in here.values()], 1)  # (B, M)
        keep = present & (torch.rand(present.shape) >= p)
        keep = torch.where(keep.any(1, keepdim=True), keep, present)
        return {m: send(mask & keep[:, i : i + 1], masks[m].device) for i, (m, mask) in enumerate(here.items())}

    def _check_steps(self, masks: Mapping[str, Tensor]) -> None:
        """With one prediction per step, refuse modalities of different numbers of steps."""
        steps = {m: mask.shape[1] for m, mask in masks.items() if on_host(mask).any()}
        if self.config.readout == "per_step" and len(set(steps.values())) > 1:
            raise BatchError(f"features: readout='per_step' needs equally many steps in each modality; found {steps}")

    def _output(self, scores: Tensor) -> ModelOutput:
        """Scores (B, n) or, per step, (B, T, n) → prediction, and logits if they are of classes or labels."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # mixed precision leaves half of it
        return ModelOutput(*self.task.predicted(scores))

    def save_pretrained(
        self, folder: str | Path, *, whole: bool = False, config: None = None, model_card_kwargs: Any = False
    ) -> None:
        """Write config.json and model.safetensors into `folder`, each of them whole or not at all.

        The weights name the config that they belong to, and hold a SHA-256 of their content. Of encoders they hold what
        has learnt; the rest is loaded by the encoder's name and checked by its hash, or, with `whole`, saved too. The
        other options are those that `push_to_hub` gives, for which a model card is written too.
        """
        with self.encode.whole(whole):
            notes = {"encoders": "whole"} if whole else {}
            sha256 = write_model(Path(folder), dataclasses.asdict(self.config), self.state_dict(), notes)
        if model_card_kwargs is not False:
            self.generate_model_card(sha256=sha256, **(model_card_kwargs or self.card)).save(Path(folder) / "README.md")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **hub: Any) -> Self:
        """Load a model that `save_pretrained` wrote, ready to predict (eval mode). Nothing in the files is executed.

        `folder` may be "user/model" of the Hugging Face hub; `hub` are options of its `snapshot_download`.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file, and what is missing, unknown or of another shape in it.
        """
        folder = on_hub(folder, **hub)
        values, tensors, notes = read_model(folder)
        whole = notes.get("encoders") == "whole"
        try:
            config = cls.config_class.from_dict({**BEFORE, **values})
            with torch.device("meta"):  # the weights must fit before any memory is taken for them
                skeleton = cls(config)
            with skeleton.encode.whole(whole):
                check_model(values, skeleton.state_dict(), tensors, notes)
        except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
        with without_weights() if whole else nullcontext():
            model = cls(config)
        model.load_state_dict(tensors)
        return model.eval()


def real_places(mask: Tensor) -> Tensor:
    """Return the places (N,) of True in a flattened mask (B, T)."""
    return send(on_host(mask).flatten().nonzero().squeeze(1), mask.device)


def padded(rows: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """Rows (N, k), at the N places of True in a mask (B, T) → (B, T, k), 0 elsewhere."""
    return place_rows(rows, place, mask.numel()).view(*mask.shape, rows.shape[-1])
