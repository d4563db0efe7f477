"""The expert FFN after a mixer: experts that are not linear, asked by modality or by a gate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ordering import place_rows, select_rows


class Expert(nn.Module):
    r"""A SwiGLU (Shazeer 2020), :math:`W_{down} (\mathrm{SiLU}(W_{gate} x) \odot W_{up} x)`."""

    def __init__(self, d_model: int, width: int):
        super().__init__()
        self.up = nn.Linear(d_model, 2 * width, bias=False)  # gate and up, one above the other
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor, still: bool = False) -> Tensor:
        gate, x = self.up(x).chunk(2, -1)
        return self.down((F.silu(gate).detach() if still else F.silu(gate)) * x)


class ExpertFFN(nn.Module):
    r"""What a mixture of experts adds to each token, :math:`\sum_e g_e E_e(\mathrm{RMSNorm}(x))`.

    routing="modality": g = 1 for the token's own expert and for the shared one, beside which the own ones start at 0.
    routing="gated": the `top_k` of `n_experts` with the largest p = softmax(G x) are asked, g = p for one (Switch,
    Fedus et al. 2021), p over their sum for several (Mixtral, Jiang et al. 2024). No token is dropped. Switch's balance
    loss is E Σ_e f_e P_e, with f_e the share of all choices and P_e the mean of p: 1 if both are even, E at collapse.
    """

    def __init__(
        self, n_modalities: int, d_model: int, width: int, experts: str, routing: str, n_experts: int, top_k: int
    ):
        super().__init__()
        gated = routing == "gated"
        n_shared, n_specific = int(experts != "specific"), n_modalities * (experts != "shared")
        sizes = (0, n_experts) if gated else (n_specific, n_shared)
        self.specific, self.shared = (nn.ModuleList(Expert(d_model, width) for _ in range(n)) for n in sizes)
        self.scale = nn.Parameter(torch.ones(d_model))
        self.gate = nn.Linear(d_model, n_experts, bias=False) if gated else None
        self.top_k = top_k if gated else n_shared + (n_specific > 0)
        for expert in self.specific if n_shared else ():
            nn.init.zeros_(expert.down.weight)

    @torch.compiler.disable  # the experts of a token depend on its values
    def forward(
        self,
        tokens: Tensor,
        counts: Sequence[int],
        record: dict[str, Any] | None = None,
        balance: list[Tensor] | None = None,
        still: bool = False,
    ) -> Tensor:
        """Grouped tokens (N, d) → (N, d), to be added to them.

        Of a gate, `balance` takes the balance loss and `record` "ffn_gate" (N, E), 0 at experts that are not asked.
        `still`: the same values, and the gradient of the linear map that keeps norm, gate and SiLU as they are.
        """
        norm = torch.rsqrt(tokens.square().mean(-1, keepdim=True) + 1e-5)
        x = tokens * (norm.detach() if still else norm) * self.scale
        k, experts = self.top_k, [*self.specific, *self.shared]
        if self.gate is None:
            times = torch.tensor(counts, device=x.device)
            kind = torch.arange(len(counts), device=x.device).repeat_interleave(times, output_size=len(x))
            shared = torch.full_like(kind, len(self.specific))
            chosen = torch.stack([kind] * (len(self.specific) > 0) + [shared] * len(self.shared), 1)
            weight = x.new_ones(len(x), k)
        else:
            p = self.gate(x).softmax(-1, dtype=x.dtype)
            weight, chosen = p.topk(k)
            weight = weight / weight.sum(-1, keepdim=True) if k > 1 else weight
            if record is not None:
                record["ffn_gate"] = torch.zeros_like(p).scatter(1, chosen, weight)
        each = torch.ones_like(chosen).flatten()
        sizes = each.new_zeros(len(experts)).index_add(0, chosen.flatten(), each)
        known = [*counts] * (len(self.specific) > 0) + [len(x)] * len(self.shared) if self.gate is None else None
        if balance is not None and self.gate is not None:
            balance.append((sizes * p.mean(0)).sum() * len(experts) / max(chosen.numel(), 1))
        order = chosen.flatten().argsort(stable=True)  # expert after expert
        parts = zip(experts, select_rows(x.repeat_interleave(k, 0), order).split(known or sizes.tolist()), strict=True)
        outputs = place_rows(torch.cat([expert(part, still) for expert, part in parts]), order, len(order))
        weight = weight.detach() if still else weight
        return (outputs.view(len(x), k, x.shape[-1]) * weight.unsqueeze(-1)).sum(1)
