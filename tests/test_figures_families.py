"""Every family of figures: what they show agrees with the trace, with definitions, and in itself."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from sklearn import metrics

from alignmamba2 import figures
from alignmamba2.alignment import mmd, witness
from alignmamba2.batch import MultimodalBatch
from alignmamba2.effects import routing_statistics
from alignmamba2.figures.style import IN_THE_DARK, PAPER
from alignmamba2.model import AlignMamba2
from alignmamba2.model.config import AlignMamba2Config
from alignmamba2.trace import Trace

from .conftest import WIDTHS, make_samples


def traced(**settings) -> Trace:
    torch.manual_seed(0)
    model = AlignMamba2(AlignMamba2Config(WIDTHS, **{"d_model": 8, "d_state": 4, **settings}))
    batch = MultimodalBatch.from_samples(make_samples([(5, 7, 3), (1, 4, 9), (6, 0, 2)]))
    return model.trace(batch)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return traced(direction="both")


@pytest.fixture(scope="module")
def gated() -> Trace:
    trace = traced(routing="gated", n_shared=2)
    generator = torch.Generator().manual_seed(3)  # a new gate is even: give it preferences
    gates = {m: torch.rand(g.shape, generator=generator).softmax(-1) for m, g in trace.gates[-1].items()}
    trace.gates[-1].update(gates)
    return trace


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(figures.__path__)])
def test_examples_in_docstrings_are_true(module):
    here = importlib.import_module(f"alignmamba2.figures.{module}")
    assert doctest.testmod(here, extraglobs={"go": go}).failed == 0


# transport


def test_an_even_plan_of_patches_has_no_links_and_says_so():
    photo = np.zeros((6, 8))
    figure = figures.patch_links(np.full((4, 4), 1 / 16), photo, photo, (2, 2), note="even")
    assert figure.layout.title.subtitle.text == "even · no link is stronger than chance"
    assert figures.describe(figure).endswith("No link is stronger than chance, so none is drawn.")


def test_patches_are_found_where_they_are():
    photo = np.arange(6 * 8).reshape(6, 8)
    mass = np.zeros((6, 6))
    mass[[0, 5], [0, 1]] = 0.5  # top left to itself; bottom right to top middle
    figure = figures.patch_links(mass, photo, photo, (2, 3))
    left, right = (one for one in figure.data if one.type == "scatter" and one.text)
    away = 8 * 1.12
    assert {tuple(np.round(p, 6)) for p in zip(left.x, left.y, strict=True)} == {(0.833333, 1.0), (6.166667, 4.0)}
    assert {tuple(np.round(p, 6)) for p in zip(right.x, right.y, strict=True)} == {
        (round(0.833333 + away, 6), 1.0),
        (round(3.5 + away, 6), 1.0),
    }
    assert "50% of the links" in figure.layout.title.subtitle.text
    with pytest.raises(ValueError, match="of one size"):
        figures.patch_links(mass, photo, photo.T, (2, 3))


def test_a_words_mass_lies_over_its_patches():
    mass = np.random.default_rng(0).random((6, 2))
    mass /= mass.sum()
    figure = figures.words_on_picture(mass, np.zeros((6, 9, 3), np.uint8), (2, 3), ["cat", "grass"], word=1)
    (heat,) = (one for one in figure.data if one.type == "heatmap")
    np.testing.assert_allclose(heat.z, mass[:, 1].reshape(2, 3))
    assert heat.x0 == 1
    assert heat.y0 == 1
    assert [a.text for a in figure.layout.annotations] == ["cat", "<b>grass</b>"]


def test_a_plan_without_structure_or_tokens_is_said_to_have_none():
    for shape in ((4, 3), (0, 3)):
        even = np.full(shape, 1 / 12)
        assert "No link is clearly stronger" in figures.describe(figures.transport_plan(even))


# discrepancy


def test_the_kernels_blocks_give_the_mmd():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator) + 1
    z = torch.cat([x, y])
    kernel = torch.exp(-(torch.cdist(z, z) ** 2) / 2)
    figure = figures.kernel_matrix(kernel, ["audio"] * 5 + ["text"] * 4)
    expected = mmd(x[None], y[None], bandwidth=1.0, estimator="biased")
    assert figure.layout.title.subtitle.text.endswith(f"= {float(expected):.3f}")
    with pytest.raises(ValueError, match="one after the other"):
        figures.kernel_matrix(kernel, ["audio", "text"] * 4 + ["audio"])


def test_the_areas_are_the_votes_of_the_witness_and_the_bars_all_tokens():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, generator=generator) + 1, torch.randn(150, generator=generator) - 1
    at = torch.linspace(-6, 6, 121)
    votes = witness(at[None, :, None], x[None, :, None], y[None, :, None])[0]
    audio, text, line, *bars = figures.witness_curve(at, votes, {"audio": x, "text": y}).data
    np.testing.assert_allclose(audio.y + text.y, votes, atol=1e-7)
    np.testing.assert_allclose(line.y, votes, atol=1e-7)
    assert min(audio.y) == max(text.y) == 0
    assert at[np.argmax(audio.y)] > 0 > at[np.argmin(text.y)]
    assert [bar.name for bar in bars] == ["audio tokens", "text tokens"]
    assert [bar.y.sum() for bar in bars] == pytest.approx([1, 1])


def test_chance_is_a_band_under_the_lines():
    bands = {"audio-text": ([0, 0], [0.1, 0.2])}
    band, line = figures.mmd_by_bandwidth([1, 2], {"audio-text": [0.1, 0.3]}, bands=bands).data
    assert list(band.x) == [1, 2, 2, 1]
    assert list(band.y) == [0.1, 0.2, 0, 0]
    assert list(line.y) == [0.1, 0.3]


# experts


def test_a_confusion_is_scikit_learns():
    draw = np.random.default_rng(0)
    label, guess = draw.integers(0, 3, 50), draw.integers(0, 4, 50)  # no sample is of class 3
    figure = figures.confusion(label, torch.from_numpy(guess), "abcd")
    (heat,) = figure.data
    counts = metrics.confusion_matrix(label, guess, labels=range(4))
    assert [[int(n or 0) for n in row] for row in heat.text] == counts.tolist()
    np.testing.assert_allclose(heat.z[:3], counts[:3] / counts[:3].sum(1, keepdims=True))
    both = metrics.accuracy_score(label, guess), metrics.recall_score(label, guess, labels=range(3), average="macro")
    assert figures.describe(figure).count("Accuracy {:.0%}, balanced accuracy {:.0%}".format(*both)) == 2


def test_curves_under_corruption_are_means_between_the_worst_and_the_best():
    runs = np.random.default_rng(0).random((4, 3))
    band, line = figures.under_corruption([0, 0.2, 0.4], {"one": torch.from_numpy(runs)}).data
    np.testing.assert_allclose(line.y, runs.mean(0))
    np.testing.assert_allclose(band.y, [*runs.max(0), *runs.min(0)[::-1]])
    with pytest.raises(ValueError, match=r"results\['one'\]: found \(4, 3\); expected \(runs, 2\)"):
        figures.under_corruption([0, 1], {"one": runs})


def test_every_modality_of_a_flow_sums_to_one(gated):
    (heat,) = figures.gate_flow(gated).data
    np.testing.assert_allclose(heat.z.sum(1), 1, rtol=1e-6)
    assert list(heat.x) == ["specific", "shared 1", "shared 2"]
    row = list(heat.y).index("audio")
    np.testing.assert_allclose(heat.z[row], gated.gates[-1]["audio"][gated.masks["audio"]].mean(0), rtol=1e-6)


def test_the_gate_of_an_ffn_is_drawn_with_its_statistics():
    trace = traced(ffn=1.0, ffn_routing="gated", ffn_top_k=2)
    figure = figures.gate_flow(trace, layer=0, note="made up")
    (heat,), told = figure.data, routing_statistics(trace)[0]
    assert list(heat.x) == [f"expert {e}" for e in (1, 2, 3, 4)]
    np.testing.assert_allclose(heat.z.sum(1), 1, rtol=1e-6)
    assert f"; loads {told['load'][0]:.0%}, " in figures.describe(figure)
    assert f"agreement with the modality {told['agreement']:.2f}" in figures.describe(figure)


def test_only_a_gated_model_has_a_flow(trace):
    with pytest.raises(ValueError, match="routing='gated'"):
        figures.gate_flow(trace)


# scan


@pytest.mark.parametrize("direction", [0, 1])
def test_the_steps_shown_are_the_scans(trace, direction):
    scan = trace.scan(0, direction=direction)
    figure = figures.scan_steps(scan, start=3)
    for m in ("text", "audio", "video"):
        step, left, _gate = (one for one in figure.data if one.name == m)
        mine = [i for i, name in enumerate(scan.modality) if name == m]
        np.testing.assert_allclose(step.y, np.median(scan.delta.numpy()[mine], axis=1), rtol=1e-6)
        assert all(x <= 3 if direction else x >= 3 for x in left.x)
        assert max(left.y) <= 1


@pytest.mark.parametrize("direction", [0, 1])
def test_shares_of_influence_sum_to_one_for_each_token(trace, direction):
    (heat,) = figures.scan_influence(trace.scan(0, direction=direction)).data
    np.testing.assert_allclose(np.nansum(heat.z, axis=1), 1)
    unread = np.tril(np.ones_like(heat.z), -1) if direction else np.triu(np.ones_like(heat.z), 1)
    assert np.isnan(heat.z[unread > 0]).all()


@pytest.mark.parametrize("settings", [{}, {"task": "regression"}, {"n_classes": 4}])
def test_the_bars_of_a_prediction_add_up_to_it(settings):
    trace = traced(**settings)
    found = trace.attribution(0)
    figure = figures.attribution_bars(found)
    bars = [one for one in figure.data if one.type == "bar"]
    tokens, sums = [one for one in bars if one.xaxis == "x"], [one for one in bars if one.xaxis == "x2"]
    if settings.get("task"):
        goal = float(trace.prediction[0])
    else:
        logits = trace.logits[0]
        goal = float(logits.max() if len(logits) > 2 else logits[1] - logits[0])
    *parts, total = sums
    assert total.x[0] == pytest.approx(goal, abs=1e-5)
    assert sum(one.x[0] for one in parts) == pytest.approx(goal, abs=1e-5)
    for one in tokens:
        assert sum(one.y) == pytest.approx(next(s.x[0] for s in sums if s.y[0] == one.name))


# embedding, training, efficiency


def test_points_can_be_coloured_by_what_is_known_of_them(trace):
    tokens = figures.tokens_of(trace, most=60)
    assert set(tokens.sample) == {0, 1, 2}
    np.testing.assert_array_equal(tokens.label, trace.labels.numpy()[tokens.sample])
    flat = tokens.before[:, :2]
    figure = figures.before_after(flat, flat + 1, tokens.modality, by=tokens.label, by_name="label", landmarks=3)
    assert {one.name for one in figure.data} == {f"label {label}" for label in tokens.label}
    # The same token has the same number in both panels, and stands where it was.
    for left, right in zip(*(figure.data[i :: len(figure.data) // 2] for i in (0, 1)), strict=False):
        if left.name == right.name:
            np.testing.assert_array_equal(left.customdata, right.customdata)
    marks = [a for a in figure.layout.annotations if a.text.startswith("<b>") and a.text[3].isdigit()]
    assert sorted(a.text for a in marks) == sorted(["<b>1</b>", "<b>2</b>", "<b>3</b>"] * 2)
    for one in figure.data:
        assert all(type(token) is int for token in one.customdata)  # as the page's script finds them
        shift = 0 if one.xaxis == "x" else 1
        np.testing.assert_allclose(one.x, flat[list(one.customdata), 0] + shift, rtol=1e-6)


def test_fractions_get_a_scale_and_too_many_kinds_an_error():
    flat, names = np.zeros((9, 2)), ["text"] * 9
    figure = figures.before_after(flat, flat, names, by=np.linspace(-2, 1.5, 9), by_name="prediction")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2, 2)
    np.testing.assert_allclose(figure.data[0].marker.color, np.linspace(-2, 1.5, 9))
    with pytest.raises(ValueError, match="at most 6"):
        figures.before_after(flat, flat, names, by=range(9))


def test_the_interval_of_a_mean_is_students():
    figure = figures.scores({"one": [0.7], "three": [0.6, 0.7, 0.8]})
    lone, three = figure.data[1], figure.data[3]
    assert not lone.error_x.visible
    assert [a.text.count("±") for a in figure.layout.annotations if a.text.startswith("<b>0.7")] == [0, 1]
    assert three.x[0] == pytest.approx(0.7)
    assert three.error_x.array[0] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)  # t of 97.5 %, 2 degrees


def test_slopes_are_found_and_printed():
    lengths = np.array([100, 200, 400, 800])
    measures = {"time": {"ours": 3e-4 * lengths, "theirs": 1e-6 * lengths**2.0}, "memory": {"ours": lengths * np.nan}}
    figure = figures.against_length(lengths, measures, units={"time": "s"})
    slopes = {a.text: round(10**a.y, 6) for a in figure.layout.annotations if "sup" in a.text}
    assert slopes == {"<b>L<sup>1.00</sup></b>": 0.24, "<b>L<sup>2.00</sup></b>": 0.64}
    assert [one.name for one in figure.data] == ["ours", "theirs"]  # what could not run is not drawn


# every figure


def drawn(trace: Trace, gated: Trace) -> dict[str, go.Figure]:
    mass = np.full((7, 5), 1 / 35) + np.pad(np.eye(5) / 10, ((0, 2), (0, 0)))
    mass /= mass.sum()
    return {
        "plan": figures.transport_plan(mass, names=("audio", "text"), note="synthetic"),
        "kernel": figures.kernel_matrix(np.eye(3), ["a", "a", "b"]),
        "shares": figures.expert_shares(trace.expert_shares(), trace.expert_names),
        "flow": figures.gate_flow(gated),
        "steps": figures.scan_steps(trace.scan(0)),
        "influence": figures.scan_influence(trace.scan(0)),
        "attribution": figures.attribution_bars(trace.attribution(0)),
        "scores": figures.scores({"a": [1.0, 2.0]}),
        "losses": figures.losses([{"epoch": 0, "train/task": 1.0}, {"epoch": 1, "train/task": 0.5}]),
        "embedding": figures.before_after(np.zeros((2, 2)), np.ones((2, 2)), ["text", "audio"], landmarks=1),
    }


def test_every_figure_says_what_it_shows_and_goes_dark(trace, gated):
    for name, figure in drawn(trace, gated).items():
        words = figures.describe(figure)
        assert len(words) > 40, name
        assert words.endswith("."), name
        assert "<" not in words, name
        assert figure.layout.template.layout.paper_bgcolor == PAPER
        night = figures.dark(figure)
        assert night.layout.template.layout.paper_bgcolor == IN_THE_DARK[PAPER], name
        assert figures.describe(night) == words
        as_text = night.to_json()
        left = [c for c in IN_THE_DARK if f'"{c}"' in as_text.split('"template"')[0]]
        assert not left, (name, left)
        for a, b in zip(figure.data, night.data, strict=True):
            if a.type == "heatmap":
                np.testing.assert_array_equal(a.z, b.z)


def test_a_page_stands_alone_and_has_its_words(trace, gated, tmp_path):
    figure = drawn(trace, gated)["embedding"]
    page = figures.save(figure, tmp_path / "deep" / "embedding.html").read_text("utf-8")
    assert f'aria-label="{figures.describe(figure)}"' in page
    assert "cdn.plot.ly/plotly" not in page
    assert "plotly_hover" in page  # the panels are linked
    assert "plotly_hover'" not in figures.to_page(drawn(trace, gated)["scores"], plotly=False)
    with pytest.raises(ValueError, match=r"ends in \.html"):
        figures.save(figure, tmp_path / "embedding.jpg")


def test_a_picture_without_kaleido_says_what_to_do(monkeypatch, tmp_path):
    def missing(*_args, **_options):
        raise ValueError("Image export requires the kaleido package")

    monkeypatch.setattr(go.Figure, "write_image", missing)
    with pytest.raises(RuntimeError, match="pip install kaleido"):
        figures.save(go.Figure(), tmp_path / "a.png")
