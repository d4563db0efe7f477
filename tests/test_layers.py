import itertools

import pytest
import torch
from torch.nn import functional as F

from alignmamba2 import AlignMamba2, AlignMamba2Config, ModalityAwareMamba, MultimodalBatch
from alignmamba2.model.layers import ModalityAwareLinear
from alignmamba2.scan import selective_scan

NAMES = ("text", "audio", "video")
SETTINGS = [
    {"routing": r, "placement": p, "direction": d, "experts": e}
    for r, p, d, e in itertools.product(
        ("modality", "gated"), ("projections", "around"), ("forward", "both"), ("both", "shared", "specific")
    )
    if r == "modality" or e == "both"
]


def layer_and_input(seed: int = 0, **settings):
    torch.manual_seed(seed)
    layer = ModalityAwareMamba(NAMES, 8, d_state=4, **settings)
    return layer, torch.randn(3, 11, 8), torch.randint(0, 3, (3, 11))


@pytest.mark.parametrize("experts", ["both", "shared", "specific"])
def test_merged_experts_equal_unmerged_ones(experts):
    torch.manual_seed(0)
    linear = ModalityAwareLinear(3, 6, 5, experts).double()
    x, counts = torch.randn(9, 6, dtype=torch.float64), (4, 0, 5)
    separate = torch.zeros(9, 5, dtype=torch.float64)
    for i, modality in enumerate(torch.repeat_interleave(torch.arange(3), torch.tensor(counts)).tolist()):
        if experts != "specific":
            separate[i] += linear.shared[0] @ x[i]
        if experts != "shared":
            separate[i] += linear.specific[modality] @ x[i]
    assert torch.allclose(linear(x, counts), separate, atol=1e-12)
    assert torch.allclose(linear.expert_outputs(x, counts).sum(1), separate, atol=1e-12)


def test_an_even_gate_is_routing_by_modality():
    gated, x, modality = layer_and_input(routing="gated")
    plain = ModalityAwareMamba(NAMES, 8, d_state=4)
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gate")})
    assert torch.allclose(gated(x, modality), plain(x, modality), atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s.values()))
def test_padding_is_squeezed_out_and_gradients_reach_every_weight(settings):
    layer, x, modality = layer_and_input(**settings)
    if layer.gate is not None:  # an untouched gate is even: move it, so that it matters
        torch.nn.init.normal_(layer.gate.weight)
    mask = torch.rand(3, 11) > 0.3
    y = layer(x, modality, mask)
    assert (y[~mask] == 0).all()
    for b in range(3):
        alone = layer(x[b : b + 1, mask[b]], modality[b : b + 1, mask[b]])
        assert torch.allclose(y[b, mask[b]], alone[0], atol=1e-5)
    y.square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_forward_only_never_looks_ahead_and_both_does(direction):
    layer, x, modality = layer_and_input(direction=direction)
    y = layer(x, modality)
    x[:, 7:] += 1
    changed = (layer(x, modality) - y)[:, :7].abs().max()
    assert changed < 1e-6 if direction == "forward" else changed > 1e-3


def plain_mamba(state: dict, x: torch.Tensor, d_state: int) -> torch.Tensor:
    """A Mamba mixer as Gu & Dao describe it, in one piece, from its state dict."""
    u, z = (x @ state["in_proj.weight"].T).chunk(2, -1)
    w = state["conv1d.weight"]
    u = F.conv1d(u.transpose(1, 2), w, state["conv1d.bias"], padding=w.shape[-1] - 1, groups=len(w))[..., : x.shape[1]]
    u = F.silu(u)
    rank = state["dt_proj.weight"].shape[1]
    dt, b, c = (u.transpose(1, 2) @ state["x_proj.weight"].T).split((rank, d_state, d_state), -1)
    delta = (dt @ state["dt_proj.weight"].T).transpose(1, 2)
    a = -state["A_log"].exp()
    y = selective_scan(
        u, delta, a, b.transpose(1, 2), c.transpose(1, 2), state["D"], z.transpose(1, 2), state["dt_proj.bias"], True,
        backend="reference",
    )  # fmt: skip
    return y.transpose(1, 2) @ state["out_proj.weight"].T


def random_state(d: int, e: int, n: int, rank: int) -> dict[str, torch.Tensor]:
    shapes = {
        "in_proj.weight": (2 * e, d), "out_proj.weight": (d, e), "conv1d.weight": (e, 1, 4), "conv1d.bias": (e,),
        "x_proj.weight": (rank + 2 * n, e), "dt_proj.weight": (e, rank), "dt_proj.bias": (e,), "A_log": (e, n),
        "D": (e,),
    }  # fmt: skip
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("placement", ["projections", "around"])
def test_a_plain_mamba_loaded_into_the_shared_expert_computes_the_same(placement):
    layer, x, modality = layer_and_input(placement=placement)
    state = random_state(8, 16, 4, 1)
    layer.load_mamba(state)
    assert torch.allclose(layer(x, modality), plain_mamba(state, x, 4), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("A_log"), r"'A_log' is missing; expected \(16, 4\)"),
        (lambda s: s.update({"D": torch.zeros(3)}), r"'D' is \(3,\); expected \(16,\)"),
        (lambda s: s.update({"in_proj.bias": torch.zeros(3)}), "in_proj.bias"),
    ],
)
def test_loading_something_else_is_refused_by_name(change, says):
    layer, *_ = layer_and_input()
    state = random_state(8, 16, 4, 1)
    change(state)
    before = [p.clone() for p in layer.parameters()]
    with pytest.raises(ValueError, match=says):
        layer.load_mamba(state)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_equals_the_hugging_face_layer_on_its_own_weights():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    config = transformers.MambaConfig(hidden_size=8, state_size=4, expand=2, conv_kernel=4, use_mambapy=False)
    theirs = MambaMixer(config, layer_idx=0).eval()
    ours, x, modality = layer_and_input()
    ours.load_mamba(theirs.state_dict())
    assert torch.allclose(ours(x, modality), theirs(x), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"routing": "random"}, "routing: found 'random'; expected one of 'modality', 'gated'"),
        ({"placement": "inside"}, "placement"),
        ({"direction": "backward"}, "direction"),
        ({"experts": "none"}, "experts"),
        ({"n_shared": 2}, "n_shared"),
        ({"routing": "gated", "experts": "shared"}, "gate"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        ModalityAwareMamba(NAMES, 8, **settings)


def test_an_unknown_modality_index_is_refused():
    layer, x, modality = layer_and_input()
    with pytest.raises(ValueError, match="modality: found values"):
        layer(x, modality + 1)


class Thin(ModalityAwareLinear):
    """Modalities' experts made of something else than one matrix each."""

    def __init__(self, n_modalities, in_features, out_features, experts="both", n_shared=1):
        super().__init__(n_modalities, in_features, out_features, "shared", n_shared)
        self.up = torch.nn.Parameter(torch.randn(n_modalities, out_features, 2))
        self.down = torch.nn.Parameter(torch.randn(n_modalities, 2, in_features))

    def own(self):
        return self.up @ self.down


def test_experts_of_a_subclass_are_used_wherever_the_known_ones_are():
    known, thin = ModalityAwareLinear(3, 4, 5), Thin(3, 4, 5)
    with torch.no_grad():
        known.shared.copy_(thin.shared)
        known.specific.copy_(thin.own())
    x, counts = torch.randn(9, 4), (2, 3, 4)
    torch.testing.assert_close(thin(x, counts), known(x, counts))
    torch.testing.assert_close(thin.expert_outputs(x, counts), known.expert_outputs(x, counts))
    gate = torch.rand(9, 2).softmax(-1)
    torch.testing.assert_close(thin(x, counts, gate), known(x, counts, gate))


def test_a_mamba_and_a_model_of_other_experts():
    class ThinMamba(ModalityAwareMamba):
        linear = Thin

    class ThinModel(AlignMamba2):
        mixer = ThinMamba

    model = ThinModel(AlignMamba2Config({"a": 3, "b": 2}, d_model=8, d_state=4, n_layers=1))
    layer = model.layers[0]
    assert isinstance(layer.in_proj, Thin)
    torch.testing.assert_close(layer.in_proj.merged()[1], layer.in_proj.shared[0] + layer.in_proj.own()[1])
    batch = MultimodalBatch({"a": torch.randn(2, 4, 3), "b": torch.randn(2, 5, 2)}, labels=torch.tensor([0, 1]))
    model.train()(batch).loss.backward()
    assert all(layer.in_proj.up.grad[m].abs().sum() > 0 for m in range(2))
    with pytest.raises(ValueError, match="load_mamba: needs experts"):
        layer.load_mamba({})
