"""A pretrained encoder inside a model: its last layers learn, what lies below them is frozen."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from . import hub
from .cache import hash_model
from .efficientnet import SideBySide

# Settings of Hugging Face's configs that are a probability of dropout between or within layers.
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout")

LARGEST = 2048  # pixels a side
PRETRAINED = ContextVar("PRETRAINED", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, encoders are made without their pretrained weights, for a state that holds all of them."""
    token = PRETRAINED.set(False)
    try:
        yield
    finally:
        PRETRAINED.reset(token)


@dataclass(frozen=True)
class EncoderConfig:
    """EncoderConfig says which encoder reads a modality, and how much of it learns.

    Attributes
    ----------
    name : an encoder of `text_encoder` or `image_encoder`
    train : number of last layers that learn, or "all"; 0: the encoder is frozen
        What follows the last layer, such as a norm, learns with it. A pooling layer is left out of the encoder.
    neighbours : the most samples, following each other in a group, whose words are read as one sequence
        So an utterance is understood in what is said before and after it. Of text only. What frozen layers compute then
        depends on the neighbours, and is not kept.
    size : height and width that pictures are resized to; default what the encoder was trained on
        Several, such as [[256, 341], [384, 512]], are read one after the other, and their tokens, of one `grid`, stand
        side by side.
    grid : rows and columns that frozen tokens are pooled to, by adaptive averages; default as many as there are
        A class token stays as it is, in front.
    mirror : tokens are the mean of a picture's and, put back in place, of its mirror image's; of frozen maps only
    bf16 : matrix products and convolutions of frozen layers in bfloat16: two to three times as fast on a processor
    dropout : probability within the encoder; default its own
    checkpointing : compute activations again in the backward pass, which takes a third more time and far less memory
    architecture : the encoder without its weights, as `described` fills it in
    sha256 : hash of the pretrained weights, as loading them fills it in
    """

    name: str
    train: int | str = 0
    neighbours: int = 1
    size: Sequence[int] | Sequence[Sequence[int]] | None = None
    grid: Sequence[int] | None = None
    mirror: bool = False
    bf16: bool = False
    dropout: float | None = None
    checkpointing: bool = False
    architecture: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        layers = self.train == "all" or (isinstance(self.train, int) and not isinstance(self.train, bool))
        if not layers or (self.train != "all" and self.train < 0):
            raise ValueError(f'train: found {self.train!r}; expected a number of layers from 0, or "all"')
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise ValueError(f"neighbours: found {self.neighbours!r}; expected a whole number of at least 1")
        fits = [len(size) == 2 and all(isinstance(n, int) and 0 < n <= LARGEST for n in size) for size in self.sizes]
        if self.size is not None and not (self.size and all(fits)):
            expected = f"height and width, 1 to {LARGEST} pixels, or a list of such"
            raise ValueError(f"size: found {self.size!r}; expected {expected}")
        if len(fits) > 1 and not self.grid:
            raise ValueError(f"grid: none, with {len(fits)} sizes; expected the rows and columns of their tokens")
        if (self.mirror or self.grid) and self.train != 0:
            raise ValueError(f"grid, mirror: not of an encoder that learns; found train = {self.train!r}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: found {self.dropout!r}; expected a number in [0, 1)")

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The height and width that pictures are resized to, one pair or several."""
        size = self.size or (self.architecture.get("size"),) * 2
        return [tuple(s) for s in (size if isinstance(size[0], Sequence) else [size])]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Build it from a mapping; an unknown key is refused by name."""
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"unknown keys {unknown}; known are {known[:10]}")
        if "name" not in settings:
            raise ValueError("no name; expected such as {'name': 'minilm', 'train': 3}")
        return cls(**settings)

    def described(self) -> Self:
        """Return it with its architecture, which is read from the encoder's own settings."""
        return self if self.architecture else dataclasses.replace(self, architecture=hub.architecture(self.name))


class Encoder(nn.Module):
    """Encoder turns token ids (B, T) or pictures (B, 1, H, W, 3) into tokens (B, T', D), by a pretrained network.

    The layers below the first that learns are frozen: no dropout, no gradient, so what they compute of an input is
    always the same, and `below` gives it for keeping. Such states (B, T, D) are an input too. Statistics of batch norms
    stay as they were pretrained (our choice).

    The frozen weights are no part of `state_dict`: they are loaded by the encoder's name and checked by their hash.

    Attributes
    ----------
    config : EncoderConfig, with architecture and hash
    width : D
    vocabulary : number of token ids, or 0 for pictures
    whole : whether `state_dict` holds the frozen weights too

    Raises
    ------
    ImportError, ValueError
        The encoder is not there, is another one than `config` says, or has fewer layers than shall learn.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        config = config.described()
        with_weights = PRETRAINED.get() and torch.get_default_device().type != "meta"
        self.body = hub.network(config.name, config.architecture, self._dropout(config), weights=with_weights)
        for module in self.body.modules():
            if hasattr(module, "_fc"):  # EfficientNet's classifier of ImageNet
                module._fc = None
        if with_weights:
            digest = hash_model(self.body)
            if config.sha256 not in ("", digest):
                raise ValueError(
                    f"encoder {config.name!r}: weights of SHA-256 {digest}; this model was trained on {config.sha256}"
                )
            config = dataclasses.replace(config, sha256=digest)
        self.config, self.whole = config, False
        self.vocabulary = config.architecture.get("vocab_size", 0)
        self.width = config.architecture["width"] * len(config.sizes)
        self._owner, self._list = _layers_of(self.body)
        count = len(self.layers)
        if isinstance(self.body, SideBySide) and config.train not in (0, "all"):
            raise ValueError(f'train: found {config.train}; of networks side by side none learns, or "all"')
        if config.train != "all" and config.train > count:
            raise ValueError(f"train: found {config.train}; encoder {config.name!r} has {count} layers")
        self.first = 0 if config.train == "all" else count - config.train
        self.body.requires_grad_(False)
        for module in self._learning():
            module.requires_grad_(True)
        if config.checkpointing:
            self.body.gradient_checkpointing_enable()
        self.register_load_state_dict_pre_hook(_with_frozen)

    @property
    def layers(self) -> nn.ModuleList:
        return getattr(self.body.get_submodule(self._owner), self._list)

    @property
    def key(self) -> str:
        """A name for the states that `below` returns: by weights, layer, and the way pictures are read."""
        c = self.config
        how = "" if self.vocabulary else f" of {' and '.join(map(str, c.sizes))}"
        how += (f" as {tuple(c.grid)}" if c.grid else "") + " and mirrored" * c.mirror + " in bfloat16" * c.bf16
        return f"states of {c.sha256} before layer {self.first}{how}"

    @property
    def states_width(self) -> int:
        """D' of the states that `below` returns."""
        return self._states_shape[-1 if self.vocabulary or len(self._states_shape) == 3 else 1]

    @cached_property
    def _states_shape(self) -> torch.Size:
        """The shape of the states of one input: (1, T', D'), or of a map (1, D', h, w)."""
        device = next(self.body.parameters()).device
        shape, dtype = ((1, 1), torch.int64) if self.vocabulary else ((1, 1, *self.config.sizes[0], 3), torch.uint8)
        mask = torch.ones(1, 1, dtype=torch.bool, device=device)
        return self._states(torch.zeros(shape, dtype=dtype, device=device), mask).shape

    def groups(self) -> Iterator[tuple[int, dict[str, nn.Parameter]]]:
        """Yield depth and the parameters that learn by name: 0 for the last layer and what follows, 1 below it, …"""
        parts = [(0, module) for module in self._after()]
        parts += list(enumerate(reversed(self.layers)))
        parts.append((len(self.layers), self.body))
        seen: set[int] = set()
        for depth, module in parts:
            named = {n: p for n, p in module.named_parameters() if p.requires_grad and id(p) not in seen}
            seen |= {id(p) for p in named.values()}
            if named:
                yield depth, named

    def forward(self, x: Tensor, mask: Tensor, groups: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T', D) and their mask (B, T') of an input with its mask (B, T).

        `groups` names each row's group: rows of a group that follow each other are read together, `config.neighbours`
        of them at most.
        """
        runs = _runs(groups, self.config.neighbours) if self.config.neighbours > 1 else []
        if len(runs) in (0, len(x)) or x.is_floating_point():
            return self._read(x, mask)
        first = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        first[torch.tensor([0, *runs[:-1]], device=x.device).cumsum(0)] = True
        mask = mask.clone()
        mask[:, 0] &= first | (mask.sum(1) == 1)  # one token in front of a sequence
        joined, joined_mask = _joined(x, mask, runs)
        tokens, _ = self._read(joined, joined_mask)
        apart = tokens.new_zeros(*mask.shape, tokens.shape[-1])
        apart[mask] = tokens[joined_mask]
        return apart, mask

    def _read(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if not x.is_floating_point():
            if self.config.train == "all":
                return self._restored(self._run(x, mask), mask)
            x, mask = self.below(x, mask)
        if self.first == len(self.layers):
            return x, mask
        return self._restored(self._above(x, mask), mask)

    def below(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (B, T', D') that enter the first layer that learns, and their mask, of a raw input."""
        return self._restored(_rows(self._states(x, mask)).float(), mask)

    @torch.no_grad()
    def _states(self, x: Tensor, mask: Tensor) -> Tensor:
        was_training = self.training
        self.eval()
        bf16 = self.config.bf16 or torch.is_autocast_enabled(x.device.type)
        try:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                if self.first == len(self.layers):
                    return self._run(x, mask)
                return self._states_at(self.layers[self.first], x, mask)
        finally:
            self.train(was_training)

    def train(self, mode: bool = True) -> Self:
        super().train(False)
        self.training = mode
        for module in self._learning():
            module.train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **options)
        if not self.whole:
            for name in self.frozen_names():
                state.pop(options.get("prefix", "") + name, None)
        return state

    def frozen_names(self) -> list[str]:
        """Return the names of all weights and buffers that do not learn."""
        learn = {name for name, p in self.named_parameters() if p.requires_grad}
        return [name for name in super().state_dict() if name not in learn]

    @staticmethod
    def _dropout(config: EncoderConfig) -> dict[str, float]:
        known = config.architecture.get("config", {})
        return {} if config.dropout is None else {name: config.dropout for name in DROPOUTS if name in known}

    def _learning(self) -> list[nn.Module]:
        """The parts of the network that learn: all of it, or the last layers with what comes after the layers."""
        if self.config.train == "all":
            return [self.body]
        return [*self.layers[self.first :], *self._after()] if self.config.train else []

    def _after(self) -> list[nn.Module]:
        """The parts of the network that come after its layers, such as a last norm."""
        children = dict(self.body.named_children())
        names = list(children)
        place = names.index((self._owner or self._list).partition(".")[0])
        return [children[name] for name in names[place + 1 :]]

    def _run(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.vocabulary:
            output = self.body(input_ids=x, attention_mask=_readable(mask))
            return _rows(getattr(output, "last_hidden_state", output))
        return self.seen([x[mask]])

    def seen(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return the tokens (n, T', D) of n pictures, given as tensors (k, H, W, 3) uint8 of k pictures each."""
        parts = [torch.cat([self._pixels(p, size) for p in pictures]) for size in self.config.sizes]
        return torch.cat([self._tokens(pixels) for pixels in parts], -1)

    def _tokens(self, pixels: Tensor) -> Tensor:
        output, grid = self._output(pixels), self.config.grid
        if output.ndim != 4 and (self.config.mirror or (grid and pixels.shape[-1] != pixels.shape[-2])):
            found = f"{tuple(pixels.shape[-2:])} pixels for {self.config.name!r}"
            raise ValueError(f"mirror, grid: found {found}, which makes no map; it can have a grid of square pictures")
        if self.config.mirror:
            output = (output + self._output(pixels.flip(-1)).flip(-1)) / 2
        return _pooled(output, grid) if grid else _rows(output)

    def _output(self, pixels: Tensor) -> Tensor:
        output = self.body(pixels)
        return getattr(output, "last_hidden_state", output)

    def _pixels(self, pictures: Tensor, size: Sequence[int]) -> Tensor:
        """Pictures (n, H, W, 3) uint8 → (n, 3, *size), standardised as the network was trained."""
        about = self.config.architecture
        pixels = pictures.permute(0, 3, 1, 2).float()
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, sd = (pixels.new_tensor(about[name]).view(1, 3, 1, 1) for name in ("mean", "sd"))
        return (pixels - mean) / sd

    def _states_at(self, layer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        """The states that enter a layer: the network is run as far as there."""
        states: list[Tensor] = []

        def stop(_module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
            states.append(args[0] if args else options["hidden_states"])
            raise _Reached

        handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run(x, mask)
        except _Reached:
            return states[0]
        finally:
            handle.remove()
        raise ValueError(f"encoder {self.config.name!r}: its layers are not run one after the other")

    def _above(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the layers that learn, and what follows, on states; the network's own code makes masks and positions.

        It is given a stand-in for the input, the frozen layers are out of its list, and its states are put in before
        the first layer that learns.
        """
        if self.vocabulary:
            with self._without_frozen_layers(x):
                output = self.body(input_ids=mask.long(), attention_mask=_readable(mask))
        else:
            states = x[mask.any(1)]
            if len(self._states_shape) == 4:
                states = states.transpose(1, 2).unflatten(2, self._states_shape[-2:]).contiguous()
            with self._without_frozen_layers(states):
                output = self.body(states.new_zeros(1, 3, *self.config.sizes[0]))
        return _rows(getattr(output, "last_hidden_state", output))

    @contextmanager
    def _without_frozen_layers(self, states: Tensor) -> Iterator[None]:
        def put_in(_module: nn.Module, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            return ((states, *args[1:]), options) if args else (args, {**options, "hidden_states": states})

        owner, layers = self.body.get_submodule(self._owner), self.layers
        handle = layers[self.first].register_forward_pre_hook(put_in, with_kwargs=True)
        setattr(owner, self._list, layers[self.first :])
        try:
            yield
        finally:
            handle.remove()
            setattr(owner, self._list, layers)

    def _restored(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, T', D) of the n pictures that are there → (B, T', D) with their mask; words stay as they are."""
        if self.vocabulary:
            return rows, mask
        present = mask.any(1)
        whole = rows.new_zeros(len(mask), *rows.shape[1:])
        whole[present] = rows
        return whole, present.unsqueeze(1).expand(whole.shape[:2]).contiguous()


class _Reached(Exception):
    """The layer is reached whose input was wanted."""


def _layers_of(body: nn.Module) -> tuple[str, str]:
    """The module, by its name, that owns the network's list of layers, and the list's name there: the longest list."""
    lists = {name: len(module) for name, module in body.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ValueError(f"encoder: {type(body).__name__} has no list of layers")
    owner, _, name = max(lists, key=lists.__getitem__).rpartition(".")
    return owner, name


def _rows(states: Tensor) -> Tensor:
    """A convolution's map (n, D, h, w) → (n, h · w, D); sequences stay as they are."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


def _pooled(states: Tensor, grid: Sequence[int]) -> Tensor:
    """A map (n, D, h, w), or tokens (n, T, D) that end with a square of patches, as rows, pooled to a grid."""
    if states.ndim == 4:
        return _rows(F.adaptive_avg_pool2d(states, grid))
    side = math.isqrt(states.shape[1])
    front, patches = states.split((states.shape[1] - side**2, side**2), 1)
    return torch.cat([front, _pooled(patches.transpose(1, 2).unflatten(2, (side, side)), grid)], 1)


def _runs(groups: Sequence[str], most: int) -> list[int]:
    """The lengths of runs of the same group, cut to at most `most`; what has no group stands alone."""
    runs: list[int] = []
    for place, group in enumerate(groups):
        if place and group and group == groups[place - 1] and runs[-1] < most:
            runs[-1] += 1
        else:
            runs.append(1)
    return runs


def _joined(x: Tensor, mask: Tensor, runs: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The real tokens of each run of rows as one row, in their order, and the mask of the new rows."""
    lengths = [int(part.sum()) for part in mask.split(list(runs))]
    parts = pad_sequence(list(x[mask].split(lengths)), batch_first=True)
    places = torch.arange(parts.shape[1], device=x.device)
    return parts, places < torch.tensor(lengths, device=x.device).unsqueeze(1)


def _readable(mask: Tensor) -> Tensor:
    """The mask with one word in rows that have none: attention over nothing is not defined, and is not read."""
    first = torch.zeros_like(mask)
    first[:, 0] = ~mask.any(1)
    return (mask | first).long()


def _with_frozen(encoder: Encoder, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Frozen weights that are not in a state are there already."""
    tensors = nn.Module.state_dict(encoder)
    for name in encoder.frozen_names():
        state.setdefault(prefix + name, tensors[name])
