"""The figures show the numbers that they were given, and those numbers are consistent."""

from __future__ import annotations

import base64
import io

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from alignmamba2 import figures
from alignmamba2.figures.style import COLOURS, SYMBOLS, short
from alignmamba2.trace import Trace

PAIR = ("audio", "text")
WORDS = ["the story", "is", "great"]


@pytest.fixture
def mass() -> np.ndarray:
    """A plan of 4 sounds and 3 words with unequal marginals."""
    rng = np.random.default_rng(0)
    mass = rng.random((4, 3)) ** 3
    return mass / mass.sum()


@pytest.fixture
def trace(mass: np.ndarray) -> Trace:
    """Two samples, the second shorter: 2 sounds and 2 words, then padding."""
    generator = torch.Generator().manual_seed(0)
    masks = {
        "audio": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
        "text": torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(),
    }
    plan = torch.zeros(2, 4, 3)
    plan[0], plan[1, :2, :2] = torch.from_numpy(mass), torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    tokens = {m: torch.randn(*mask.shape, 6, generator=generator) * mask[..., None] for m, mask in masks.items()}
    norms = {m: torch.rand(*mask.shape, 2, generator=generator) * mask[..., None] for m, mask in masks.items()}
    return Trace(
        modalities=("text", "audio"),
        pairs=(PAIR,),
        ids=("first", "second"),
        words=({"text": WORDS}, {"text": WORDS[:2], "audio": WORDS[:2]}),
        labels=None,
        label_mask=None,
        masks=masks,
        projected=tokens,
        fused={m: x + 1 for m, x in tokens.items()},
        plans={PAIR: plan},
        costs={PAIR: plan},
        transport_distance={PAIR: torch.zeros(2)},
        discrepancy={PAIR: torch.zeros(2)},
        expert_names=("specific", "shared"),
        contributions=[norms, norms],
        gates=[],
        prediction=torch.zeros(2),
        logits=None,
    )


def traces_of(figure: go.Figure, kind: str) -> list:
    return [one for one in figure.data if one.type == kind]


def test_the_heat_map_and_the_bars_are_the_plan_and_its_marginals(mass):
    figure = figures.transport_plan(mass, [], WORDS, names=PAIR)
    (heat,) = traces_of(figure, "heatmap")
    rows, columns = traces_of(figure, "bar")
    np.testing.assert_allclose(heat.z, mass.T)
    np.testing.assert_allclose(rows.y, np.sum(heat.z, axis=0))
    np.testing.assert_allclose(columns.x, np.sum(heat.z, axis=1))
    assert np.sum(heat.z) == pytest.approx(1)
    assert list(figure.layout.yaxis2.ticktext) == WORDS


def test_rings_stand_on_the_true_partners_and_the_subtitle_counts_their_mass(mass):
    partners = np.array([0, -1, 1, 2])
    figure = figures.transport_plan(mass, names=PAIR, partners=partners, note="synthetic")
    ring = next(one for one in figure.data if one.name == "true partner")
    assert list(zip(ring.x, ring.y, strict=True)) == [(0, 0), (2, 1), (3, 2)]
    share = mass[[0, 2, 3], [0, 1, 2]].sum() / mass[[0, 2, 3]].sum()
    assert figures.agreement(mass, partners) == pytest.approx((share, 1 / 3))
    assert figure.layout.title.subtitle.text.startswith(f"synthetic · {share:.0%} of the mass")


def test_links_are_dark_exactly_where_they_are_true():
    figure = figures.transport_plan([[0.4, 0.1], [0.45, 0.05]], names=PAIR, partners=[0, 1])
    links = {one.legendgroup: [] for one in traces_of(figure, "scatter") if one.mode == "lines"}
    for one in traces_of(figure, "scatter"):
        if one.mode == "lines":
            links[one.legendgroup] += [y for y in one.y if y is not None]
    # 0.4 and 0.45 are no clear links: an even spread puts 0.42 there.
    assert links == {"true link": [], "other link": []}
    sharp = figures.transport_plan(np.eye(2)[[1, 0]] / 2, names=PAIR, partners=[1, 1])
    drawn = {
        one.legendgroup: list(one.y) for one in traces_of(sharp, "scatter") if one.mode == "lines" and one.y != (None,)
    }
    assert drawn == {"true link": [0.75, 0.25, None], "other link": [0.25, 0.75, None]}


def test_links_join_the_cells_with_clearly_more_than_an_even_spread(mass):
    figure = figures.transport_plan(mass, names=PAIR)
    text, audio = (one for one in traces_of(figure, "scatter") if one.mode == "markers" and one.text)
    ends = [y for one in traces_of(figure, "scatter") if one.mode == "lines" for y in one.y if y is not None]
    drawn = {(list(audio.y).index(b), list(text.y).index(a)) for a, b in zip(ends[::2], ends[1::2], strict=True)}
    assert drawn == set(zip(*np.nonzero(mass > 1.5 * np.outer(mass.sum(1), mass.sum(0))), strict=True))


def test_a_plan_without_structure_has_no_links_and_no_bright_cell():
    figure = figures.transport_plan(np.full((5, 4), 1 / 20), names=PAIR)
    (heat,) = traces_of(figure, "heatmap")
    assert heat.zmax == pytest.approx(3 / 20)
    assert all(one.y == (None,) for one in traces_of(figure, "scatter") if one.mode == "lines")


def test_plan_of_leaves_out_padding(trace, mass):
    first, second = (figures.plan_of(trace, i, PAIR) for i in (0, 1))
    np.testing.assert_allclose(first["mass"], mass, rtol=1e-6)
    assert second["mass"].shape == (2, 2)
    assert second["mass"].sum() == pytest.approx(1)
    assert first["column_words"] == WORDS
    assert second["row_words"] == []  # the same words as the anchor's: the place says it
    with pytest.raises(KeyError, match="video"):
        figures.plan_of(trace, 0, ("video", "text"))


def test_labels_that_do_not_fit_are_refused(mass):
    with pytest.raises(ValueError, match="found 2; expected 3"):
        figures.transport_plan(mass, [], ["a", "b"])


def test_the_sweep_has_a_frame_a_value_and_one_colour_scale(mass):
    figure = figures.transport_sweep([mass, mass * 0 + 1 / 12], [0.01, 1.0], names=PAIR, partners=[0, 1, 2, 2])
    assert [step.label for step in figure.layout.sliders[0].steps] == [frame.name for frame in figure.frames]
    np.testing.assert_allclose(figure.frames[1].data[0].z, 1 / 12)
    assert figure.frames[0].data[0].zmax == figure.frames[1].data[0].zmax == pytest.approx(mass.max())


def test_mmd_lines_are_the_history_in_the_colour_of_the_modality():
    history = [
        {"epoch": i, "train/mmd": 9.0, "train/mmd/audio-text": 0.5 / (i + 1), "valid/mmd/audio-text": 0.4}
        for i in range(3)
    ]
    figure = figures.mmd_over_epochs(history)
    assert len(figure.data) == 2  # the sum over pairs is not a pair
    assert list(figure.data[0].y) == [epoch["train/mmd/audio-text"] for epoch in history]
    assert figure.data[0].line.color == figures.look("audio").colour
    assert figure.data[0].line.dash != figure.data[1].line.dash
    with pytest.raises(ValueError, match="train/mmd/audio-text"):
        figures.mmd_over_epochs([{"epoch": 0}])


def test_losses_mark_the_best_epoch():
    history = [
        {"epoch": i, "train/task": 1 - i / 9, "train/ot": 0.5, "valid/mae": v} for i, v in enumerate((3.0, 1.0, 2.0))
    ]
    figure = figures.losses(history, metric="valid/mae", best="min")
    assert [len(line.y) for line in figure.data] == [3, 3, 3]
    assert figure.layout.shapes[0].x0 == 1
    assert "best 1" in figure.layout.annotations[-1].text


def test_experts_shares_sum_to_one(trace):
    figure = figures.expert_shares(trace.expert_shares(), trace.expert_names)
    assert len(figure.data) == 4  # 2 layers × 2 experts
    for own, shared in zip(figure.data[::2], figure.data[1::2], strict=True):
        np.testing.assert_allclose(np.add(own.x, shared.x), 1, rtol=1e-6)
        assert list(own.marker.color) == [figures.look(m).colour for m in own.y]


def test_both_panels_show_the_same_tokens_with_their_words(trace):
    tokens = figures.tokens_of(trace, most=10)
    assert tokens.before.shape == tokens.after.shape == (10, 6)
    assert sorted(set(tokens.modality)) == ["audio", "text"]
    np.testing.assert_allclose(tokens.after, tokens.before + 1, rtol=1e-6)
    assert any("first" in text and "great" in text for text in tokens.hover)
    figure = figures.before_after(tokens.before[:, :2], tokens.after[:, :2], tokens.modality, tokens.hover)
    left, right = ([one for one in figure.data if one.xaxis == axis] for axis in ("x", "x2"))
    for a, b in zip(left, right, strict=True):
        assert (a.name, list(a.text)) == (b.name, list(b.text))
        np.testing.assert_allclose(np.array(b.x), np.array(a.x) + 1, rtol=1e-6)


def test_neighbours_of_the_same_modality():
    apart = np.r_[np.zeros((20, 3)), np.ones((20, 3))] + np.random.default_rng(0).normal(size=(40, 3)) / 50
    names = ["text"] * 20 + ["audio"] * 20
    assert figures.same_modality_neighbours(apart, names, k=5) == 1
    mixed = figures.same_modality_neighbours(np.random.default_rng(0).normal(size=(400, 3)), ["text", "audio"] * 200)
    assert mixed == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_points_lie_on_the_plane_with_their_distances(count):
    points = np.random.default_rng(0).normal(size=(count, 5))
    plane = figures.umap_2d(points)
    assert plane.shape == (count, 2)
    gaps = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (points, plane)]
    assert np.allclose(*gaps, atol=1e-5)


@pytest.mark.slow
def test_umap_repeats_itself():
    points = np.random.default_rng(0).normal(size=(60, 5))
    first, second = (figures.umap_2d(points, random_state=3) for _ in range(2))
    assert first.shape == (60, 2)
    np.testing.assert_array_equal(first, second)


def test_strips_show_the_features():
    features = {"text": torch.randn(3, 4), "audio": torch.randn(5, 2)}
    figure = figures.sample_strips(features, {"text": WORDS})
    for strip, values in zip(figure.data, features.values(), strict=True):
        np.testing.assert_allclose(strip.z, values.T, rtol=1e-6)
    assert list(figure.layout.xaxis.ticktext) == WORDS


def test_looks_differ_by_colour_and_by_symbol_and_never_change():
    known = [figures.look(m) for m in ("text", "audio", "video", "image", "depth", "rgb")]
    assert [one.colour for one in known] == list(COLOURS)
    assert len({one.symbol for one in known}) == len({one.dash for one in known}) == len(SYMBOLS)
    assert figures.look("thermal") == figures.look("thermal")


@pytest.mark.parametrize("length", [5, 12, 30])
def test_short_is_short_and_cuts_between_words(length):
    text = "a lot of sad parts in this film"
    assert len(short(text, length)) <= length + 1
    assert short(text, 100) == text
    assert not short(text, length).removesuffix("…").endswith(" ")


class TestPictures:
    def test_each_picture_stands_under_its_caption_as_it_is(self):
        rng = np.random.default_rng(0)
        colour = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        depth = rng.random((30, 40))
        figure = figures.side_by_side({"colour": colour, "depth": depth}, note="synthetic")
        found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(i.source.split(",")[1])))) for i in figure.data]
        np.testing.assert_array_equal(found[0], colour)
        assert found[1].reshape(-1, 3)[depth.argmax()].tolist() == [255] * 3
        assert found[1].reshape(-1, 3)[depth.argmin()].tolist() == [0] * 3
        assert [a.text for a in figure.layout.annotations] == ["colour", "depth"]

    def test_what_is_no_picture_is_refused(self):
        with pytest.raises(ValueError, match=r"picture: found \(2, 3, 4\)"):
            figures.side_by_side({"x": np.zeros((2, 3, 4))})
