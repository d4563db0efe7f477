"""The Modality-Aware Mamba: a mixture of modality-specific and modality-shared experts inside a Mamba.

y = E_shared(x) + E_{modality(x)}(x)                 [the layer's rule: two third-party readings of the paper]
  = (W_shared + W_modality) x                        [both are linear, so the mixture costs one product a token]
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import gpu
from ..batch import as_mask
from ..scan import selective_scan
from .ordering import Ordering, arrange

EXPERTS = ("both", "shared", "specific")
ROUTINGS = ("modality", "gated")
PLACEMENTS = ("projections", "around")
DIRECTIONS = ("forward", "both")


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`; otherwise raise a ValueError that names them."""
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(map(repr, choices))}")
    return value


class ModalityAwareLinear(nn.Module):
    r"""A linear map whose weight is a mixture of a shared and a modality-specific expert.

    .. math:: y = (W_{shared} + W_m)\, x                                    \quad\text{routing="modality"}
    .. math:: y = K \bigl(w_0 W_m + \sum_{s} w_s W_s\bigr) x                \quad\text{routing="gated"}

    with gate weights w ≥ 0, Σw = 1 over the K = 1 + n_shared experts of a token: its modality's own and the
    shared ones. The factor K makes an even gate equal to routing="modality" (our choice).

    Tokens come grouped: (N, in_features), modality after modality, `counts` of each (see `ordering`). The modalities'
    experts beside a shared one are deviations: they start at 0, and the layer starts like `nn.Linear` (our choice).

    Parameters
    ----------
    n_modalities, in_features, out_features : int
    experts : "both", "shared" (one expert for all) or "specific" (one per modality, nothing shared)
    n_shared : int
        Shared experts; more than one only with gated routing, since without a gate their sum is one expert.
    """

    def __init__(
        self, n_modalities: int, in_features: int, out_features: int, experts: str = "both", n_shared: int = 1
    ):
        super().__init__()
        one_of("experts", experts, EXPERTS)
        self.shared = self.specific = None
        if experts != "specific":
            self.shared = nn.Parameter(torch.empty(n_shared, out_features, in_features))
        if experts != "shared":
            self.specific = nn.Parameter(torch.empty(n_modalities, out_features, in_features))
        self.n_modalities = n_modalities
        for weight in self.parameters():
            bound = 1 / math.sqrt(in_features * (n_shared if weight is self.shared else 1))
            nn.init.uniform_(weight, -bound, bound)
        if experts == "both":
            nn.init.zeros_(self.specific)

    def own(self) -> Tensor | None:
        """Return the modalities' experts (n_modalities, out_features, in_features), or None; a subclass may differ."""
        return self.specific

    def merged(self) -> list[Tensor]:
        """Return one weight (out_features, in_features) per modality; gradients reach both kinds of expert."""
        specific = self.own()
        if self.shared is None:
            return list(specific)
        if specific is None:
            return [self.shared[0]] * self.n_modalities
        return list(self.shared[0] + specific)

    def expert_outputs(self, tokens: Tensor, counts: Sequence[int], centred: bool = False) -> Tensor:
        """Return each expert's output (N, K, out_features): the modality's own first, then the shared ones.

        Without a gate, W_shared + D and all W_m − D are the same layer for any D; `centred`: at that with Σ_m W_m = 0.
        """
        outputs, shared, specific = [], self.shared, self.own()
        if centred and shared is not None and specific is not None:
            mean = specific.mean(0)
            shared, specific = shared + mean, specific - mean
        if specific is not None:
            slices = zip(tokens.split(tuple(counts)), specific, strict=True)
            outputs.append(torch.cat([F.linear(x, w) for x, w in slices]))
        if shared is not None:
            outputs.extend(F.linear(tokens, w) for w in shared)
        return torch.stack(outputs, 1)

    def forward(self, tokens: Tensor, counts: Sequence[int], gate: Tensor | None = None) -> Tensor:
        """(N, in_features) → (N, out_features). `gate`: (N, K) expert weights of each token, or None."""
        if gate is not None:
            outputs = self.expert_outputs(tokens, counts)
            return (outputs * (gate * gate.shape[1]).unsqueeze(-1)).sum(1)
        if self.own() is None:
            return F.linear(tokens, self.shared[0])
        slices = zip(tokens.split(tuple(counts)), self.merged(), strict=True)
        return torch.cat([F.linear(x, w) for x, w in slices])


class SelectiveSSM(nn.Module):
    """The part of a Mamba along the sequence: causal depthwise convolution, SiLU, selective scan and gate.

    Parameter names, shapes and starting values are Mamba's (Gu & Dao 2023, and `mamba_ssm`'s `Mamba`).
    """

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int):
        super().__init__()
        self.d_state, self.dt_rank = d_state, dt_rank
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        # softplus(bias) is spread evenly on a log scale over [0.001, 0.1]: fast and slow channels.
        step = torch.exp(torch.rand(d_inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor, z: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """x, z: (B, L, e) → (B, L, e). A `record` takes the inputs of the scan."""
        x = self._convolve(x)
        dt, b, c = self.x_proj(x).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        delta = F.linear(dt, self.dt_proj.weight)
        if record is not None:
            step = F.softplus(delta.float() + self.dt_proj.bias.float())
            record |= {"u": x, "delta": step, "z": z, "B": b, "C": c}
        if not x.numel():  # no samples, or nothing but padding
            return x
        # The scan speaks mamba-ssm's (B, D, L); these are views, and nothing is copied.
        y = selective_scan(
            x.transpose(1, 2),
            delta.transpose(1, 2),
            -torch.exp(self.A_log.float()),
            b.transpose(1, 2),
            c.transpose(1, 2),
            self.D.float(),
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
        )
        return y.transpose(1, 2)

    def _convolve(self, x: Tensor) -> Tensor:
        """SiLU of a causal depthwise convolution in the layout (B, L, e): Σ_k w[:, k] · x[:, t − K + 1 + k] + bias."""
        y = gpu.convolve_silu(x, self.conv1d.weight[:, 0], self.conv1d.bias)
        if y is not None:
            return y
        taps = self.conv1d.weight[:, 0].t()  # (K, e)
        k, length = len(taps), x.shape[1]
        padded = F.pad(x, (0, 0, k - 1, 0))
        y = self.conv1d.bias.to(x.dtype)
        for i in range(k):
            y = torch.addcmul(y, padded[:, i : i + length], taps[i].to(x.dtype))
        return F.silu(y)


class ModalityAwareMamba(nn.Module):
    """One Modality-Aware Mamba mixer.

        [x, z] = in_proj(token)  →  causal conv, SiLU, selective scan, gate by SiLU(z)  →  out_proj

    Parameters
    ----------
    modalities : sequence of str
    d_model, d_state, d_conv, expand : int
        As in Mamba. d_inner = expand · d_model, dt_rank = ceil(d_model / 16).
    experts : "both", "shared", "specific"
    routing : "modality" (fixed by the token's modality) or "gated" (learnt weights of the experts for each token)
    placement : "projections" or "around"
        The experts stand in place of in_proj and out_proj, or are one d → d map on the output of a plain
        Mamba. The two public readings of the paper differ; the first is the default (our choice).
    direction : "forward" or "both"
        "both" adds a second convolution and scan over each sample's reversed sequence (our choice).
    n_shared : int
        Shared experts for the gate to choose from; 1 unless routing is "gated".

    Source: arXiv 2603.18462's abstract for the mixture of modality-specific and modality-shared experts; the
    sum, and routing by modality, from third-party readings; everything else as marked.
    """

    linear = ModalityAwareLinear  # a subclass with other experts names its own

    def __init__(
        self,
        modalities: Sequence[str],
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        experts: str = "both",
        routing: str = "modality",
        placement: str = "projections",
        direction: str = "forward",
        n_shared: int = 1,
    ):
        super().__init__()
        one_of("routing", routing, ROUTINGS)
        one_of("placement", placement, PLACEMENTS)
        one_of("direction", direction, DIRECTIONS)
        if routing == "modality" and n_shared != 1:
            raise ValueError(f"n_shared: found {n_shared} with routing='modality'; only a gate can tell them apart")
        if routing == "gated" and experts != "both":
            raise ValueError(f"experts: found {experts!r} with routing='gated'; a gate needs 'both' to choose from")
        self.modalities = tuple(modalities)
        self.d_inner = expand * d_model
        m, mixture = len(self.modalities), (experts, n_shared)
        inside = mixture if placement == "projections" else ("shared",)
        self.in_proj = self.linear(m, d_model, 2 * self.d_inner, *inside)
        self.out_proj = self.linear(m, self.d_inner, d_model, *inside)
        self.around = None if placement == "projections" else self.linear(m, d_model, d_model, *mixture)
        dt_rank = math.ceil(d_model / 16)
        self.ssm = SelectiveSSM(self.d_inner, d_state, d_conv, dt_rank)
        self.ssm_reverse = SelectiveSSM(self.d_inner, d_state, d_conv, dt_rank) if direction == "both" else None
        self.gate = nn.Linear(d_model, 1 + n_shared) if routing == "gated" else None
        if self.gate is not None:  # an even gate: starts as routing="modality"
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, modality: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix sequences of tokens of several modalities.

        Parameters
        ----------
        x : Tensor (B, L, d)
        modality : int64 Tensor (B, L) or (L,), each token's index into `modalities`
        mask : bool Tensor (B, L), or 0 and 1 of any type; True at real tokens; optional
            Padding is squeezed out, anywhere, and comes back as 0.
        """
        b, length, _ = x.shape
        if modality.is_floating_point() or modality.shape not in ((length,), (b, length)):
            found = f"{tuple(modality.shape)} {modality.dtype}"
            raise ValueError(f"modality: found {found}; expected whole numbers, {(b, length)} or {(length,)}")
        modality = modality.expand(b, length)
        if modality.numel() and not (0 <= int(modality.min()) <= int(modality.max()) < len(self.modalities)):
            raise ValueError(
                f"modality: found values {int(modality.min())}…{int(modality.max())}; expected indices into "
                f"{self.modalities}"
            )
        mask = torch.ones_like(modality, dtype=torch.bool) if mask is None else as_mask(mask, "mask", (b, length))
        flat = torch.arange(b * length, device=x.device).view(b, length)
        groups = [flat[(modality == i) & mask] for i in range(len(self.modalities))]
        grouped = torch.cat(groups)
        ordering = arrange(grouped // length, grouped % length, [len(g) for g in groups], b)
        y = self.mix(x.flatten(0, 1)[grouped], ordering)
        return torch.zeros_like(x).flatten(0, 1).index_copy(0, grouped, y).view_as(x)

    def mix(self, tokens: Tensor, ordering: Ordering, record: dict[str, Any] | None = None) -> Tensor:
        """Grouped tokens (N, d) → (N, d), read in the given order.

        A `record` takes "contribution" (N, K), the norms of the experts' outputs, own expert first, centred without a
        gate; "gate" (N, K) or None; "mixed" (N, e), the scans' output; and "scans", the inputs of each one, grouped.
        """
        counts = ordering.counts
        gate = None if self.gate is None else self.gate(tokens).softmax(-1)
        projected = self.in_proj(tokens, counts, gate if self.around is None else None)
        scans: list[dict[str, Tensor]] | None = None if record is None else []
        mixed = self._scan(self.ssm, projected, ordering, False, scans)
        if self.ssm_reverse is not None:
            mixed = mixed + self._scan(self.ssm_reverse, projected, ordering, True, scans)
        y = self.project_out(mixed, counts, gate)
        if record is not None:
            experts, inputs = self.in_proj, tokens
            if self.around is not None:
                experts, inputs = self.around, self.out_proj(mixed, counts)
            weight = 1.0 if gate is None else (gate * gate.shape[1]).unsqueeze(-1)
            outputs = experts.expert_outputs(inputs, counts, centred=gate is None)
            record["contribution"] = (outputs * weight).norm(dim=-1)
            record |= {"gate": gate, "mixed": mixed, "scans": scans}
        return y

    def project_out(self, mixed: Tensor, counts: Sequence[int], gate: Tensor | None = None) -> Tensor:
        """The output of the scans, grouped (N, e) → that of the layer (N, d). Linear in `mixed`."""
        if self.around is None:
            return self.out_proj(mixed, counts, gate)
        return self.around(self.out_proj(mixed, counts), counts, gate)

    @staticmethod
    def _scan(
        ssm: SelectiveSSM,
        projected: Tensor,
        ordering: Ordering,
        reverse: bool,
        scans: list[dict[str, Tensor]] | None = None,
    ) -> Tensor:
        x, z = ordering.to_sequence(projected, reverse).chunk(2, dim=-1)
        inputs: dict[str, Tensor] | None = None if scans is None else {}
        y = ssm(x, z, inputs)
        if scans is not None and inputs is not None:
            scans.append({name: ordering.to_tokens(value, reverse) for name, value in inputs.items()})
        return ordering.to_tokens(y, reverse)

    @torch.no_grad()
    def load_mamba(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of a plain Mamba as the shared expert.

        A new layer, in which the modalities' experts are 0, then computes what that Mamba computes. `state` is the
        state dict of `mamba_ssm`'s `Mamba` or of a Hugging Face `MambaMixer`, which have the same names and shapes.

        Raises
        ------
        ValueError
            If this layer has no shared expert or is not forward-only, or names the first weight that does not fit.
        """
        projections = [p for p in (self.in_proj, self.out_proj, self.around) if p is not None]
        unlike = [p for p in projections if p.shared is None or len(p.shared) != 1 or p.own() is not p.specific]
        if self.ssm_reverse is not None or unlike:
            raise ValueError("load_mamba: needs experts 'both' or 'shared', n_shared=1 and direction='forward'")
        targets = {"in_proj.weight": self.in_proj.shared[0], "out_proj.weight": self.out_proj.shared[0]}
        targets |= dict(self.ssm.named_parameters())
        for name in sorted({*targets, *state}):
            expected, shape = (tuple(x[name].shape) if name in x else "missing" for x in (targets, state))
            if shape != expected:
                raise ValueError(f"load_mamba: {name!r} is {shape}; expected {expected}, as in a Mamba without biases")
        for name, target in targets.items():
            target.copy_(state[name])
        if self.around is not None:  # the map around the Mamba becomes the identity
            nn.init.eye_(self.around.shared[0])
