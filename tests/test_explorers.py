"""The panels, in process: a control is set, and the figure's data are what an independent computation says."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import numpy as np
import ot
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from alignmamba2 import AlignMamba2, AlignMamba2Config, figures, load_dataset, selective_scan
from alignmamba2.batch import Sample
from alignmamba2.effects import change, switched_off
from alignmamba2.explorers import (
    DataExplorer,
    DiscrepancyExplorer,
    EmbeddingExplorer,
    RoutingExplorer,
    SampleExplorer,
    ScanExplorer,
    TrainingMonitor,
    TransportExplorer,
)
from alignmamba2.explorers.panel import Explorer
from alignmamba2.explorers.transport import EPSILONS
from alignmamba2.figures import style
from notebooks.course import comparison
from notebooks.course.comparison import ComparisonExplorer
from notebooks.course.scaling import ScalingExplorer


@pytest.fixture(scope="module")
def data():
    return load_dataset("mini-mosi")["test"]


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    model = AlignMamba2(AlignMamba2Config(data.modalities, d_model=12, d_state=4, n_layers=2, task="regression"))
    model.set_statistics(data.statistics())
    for projection in (p for layer in model.layers for p in (layer.in_proj, layer.out_proj)):
        torch.nn.init.normal_(projection.specific, 0, 0.2)  # a new model's are 0
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def per_step():
    """A model and a data set with a class a step."""
    torch.manual_seed(0)
    widths = {"text": 6, "audio": 4}
    samples = [
        Sample(
            {m: torch.randn(t, w) for m, w in widths.items()},
            torch.randint(0, 2, (t,)),
            f"video-{t}",
            {"text": [f"word {i}" for i in range(t)]},
        )
        for t in (5, 3, 7)
    ]
    some = load_dataset("mini-mosi")["test"]
    fields = {"task": "classification", "n_classes": 2, "readout": "per_step", "samples": samples}
    dataset = type(some)(**{**some.__dict__, **fields})
    config = AlignMamba2Config(widths, d_model=8, d_state=4, task="classification", n_classes=2, readout="per_step")
    return AlignMamba2(config).eval().requires_grad_(False), dataset


def data_of(panel: Explorer, name: str):
    (trace,) = (trace for trace in panel.fig.data if trace.meta == name)
    return trace


class TestTransport:
    """Plans, against POT."""

    @pytest.fixture
    def tokens(self):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(5, 8, generator=generator), torch.randn(4, 8, generator=generator)

    @pytest.mark.parametrize("cost", ["cosine", "sqeuclidean"])
    def test_every_step_of_the_slider_is_the_plan_of_its_epsilon(self, tokens, cost):
        partners = np.array([0, 1, 2, 3, 3])
        panel = TransportExplorer(*tokens, names=("audio", "text"), partners=partners, epsilon=0.05)
        assert panel.controls["epsilon"].value == 0.05
        panel.controls["cost"].value = cost
        x, y = (t.double().numpy() for t in tokens)
        if cost == "cosine":
            costs = 1 - (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
        else:
            costs = ((x[:, None] - y[None]) ** 2).sum(-1)
        for epsilon in EPSILONS:
            panel.controls["epsilon"].value = epsilon
            if cost == "sqeuclidean" and epsilon < 0.05:
                continue  # POT's own iterations end too early there
            known = ot.sinkhorn(
                np.full(5, 0.2), np.full(4, 0.25), costs, epsilon, method="sinkhorn_log", numItermax=50_000
            )
            np.testing.assert_allclose(data_of(panel, "heat").z, known.T, atol=2e-4)
            np.testing.assert_allclose(data_of(panel, "rows").y, 1 / 5, atol=1e-4)
            np.testing.assert_allclose(data_of(panel, "columns").x, 1 / 4, atol=1e-4)
            share = known[np.arange(5), partners].sum()
            assert f"{share:.0%} of the mass" in panel.words
            assert f"{share:.0%} of the mass" in panel.fig.layout.title.text

    def test_methods(self, tokens):
        panel = TransportExplorer(*tokens)
        cost = panel.result.cost[0].double().numpy()
        panel.controls["method"].value = "exact"
        known = ot.emd(np.full(5, 0.2), np.full(4, 0.25), cost)
        np.testing.assert_allclose(data_of(panel, "heat").z, known.T, atol=1e-6)
        assert panel.controls["epsilon"].disabled
        panel.controls["method"].value = "relaxed"
        nearest = np.zeros((5, 4))
        nearest[np.arange(5), cost.argmin(1)] = 0.2
        np.testing.assert_allclose(data_of(panel, "heat").z, nearest.T, atol=1e-6)
        panel.controls["method"].value = "sinkhorn"
        assert not panel.controls["epsilon"].disabled

    def test_any_sample_and_pair_of_a_model_with_its_true_partners(self, model, data):
        panel = TransportExplorer.of_model(model, data)
        panel.controls["pair"].value = ("video", "text")
        panel.controls["sample"].value = 7
        trace = model.trace(data.batch([7]))
        plan = trace.plans["video", "text"][0].numpy()
        np.testing.assert_allclose(data_of(panel, "heat").z, plan.T, atol=2e-3)  # training stops a little earlier
        partner = data[7].partners["video", "text"].numpy()
        ring = data_of(panel, "rings")
        assert list(zip(ring.x, ring.y, strict=True)) == [(i, j) for i, j in enumerate(partner) if j >= 0]
        share, _ = figures.agreement(panel.result.plan[0], partner)
        assert f"{share:.0%} of the mass lies on true partners" in panel.words
        assert f"“{data[7].words['text'][0]}”" in data_of(panel, "heat").text[0][0]

    def test_points_are_moved_and_drawn_anew(self):
        panel = TransportExplorer.of_points(6)
        panel.controls["point"].value = 3
        panel.controls["right"].value, panel.controls["up"].value = 0.9, 0.1
        assert (data_of(panel, "from").x[2], data_of(panel, "from").y[2]) == (0.9, 0.1)
        at = np.stack([data_of(panel, "from").x, data_of(panel, "from").y], 1)
        to = np.stack([data_of(panel, "to").x, data_of(panel, "to").y], 1)
        costs = ((at[:, None] - to[None]) ** 2).sum(-1)
        known = ot.sinkhorn(np.full(6, 1 / 6), np.full(6, 1 / 6), costs, 0.05, method="sinkhorn_log")
        np.testing.assert_allclose(data_of(panel, "heat").z, known.T, atol=1e-4)
        panel.controls["draw"].click()
        assert not np.allclose(data_of(panel, "from").x, at[:, 0])
        assert panel.controls["right"].value == pytest.approx(data_of(panel, "from").x[2], abs=0.006)

    def test_a_point_is_dragged(self):
        panel = TransportExplorer.of_points(6)
        drag = panel._view.children[-1]
        for answered, (side, i) in enumerate((("from", 4), ("to", 1)), start=1):
            drag.moved = [side, i, 0.25, 0.75]  # as the browser sets it
            assert (data_of(panel, side).x[i], data_of(panel, side).y[i]) == (0.25, 0.75)
            assert drag.answered == answered  # or the browser would wait for ever
        assert [panel.controls[name].value for name in ("point", "right", "up")] == [5, 0.25, 0.75]
        np.testing.assert_allclose(panel.result.cost[0, 4, 1], 0, atol=1e-12)
        np.testing.assert_allclose(data_of(panel, "heat").z, panel.result.plan[0].T)

    def test_links_join_what_the_plan_joins(self, tokens):
        panel = TransportExplorer(*tokens, partners=np.array([0, 1, 2, 3, 3]), epsilon=0.005)
        mass = np.array(data_of(panel, "heat").z).T
        drawn = {True: 0, False: 0}
        for kind in ("true", "other"):
            for k in range(3):
                y = [v for v in data_of(panel, f"{kind} link {k}").y if v is not None]
                for word, token in zip(y[::2], y[1::2], strict=True):
                    i, j = round(token * 5 - 0.5), round(word * 4 - 0.5)
                    assert mass[i, j] > 1.5 / 20
                    assert ([0, 1, 2, 3, 3][i] == j) == (kind == "true")
                    drawn[kind == "true"] += 1
        assert sum(drawn.values()) == (mass > 1.5 / 20).sum()

    def test_a_still_one_has_a_slider_that_needs_no_python(self, tokens):
        still = TransportExplorer(*tokens, interactive=False)
        assert not still.controls
        assert len(still.fig.frames) == len(EPSILONS)


def test_discrepancy_is_the_formula_and_the_shift_closes_the_gap():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(30, 3, generator=generator), torch.randn(30, 3, generator=generator) + 1
    panel = DiscrepancyExplorer({"both": (x, y)}, size=30)
    panel.controls["bandwidth"].value = 2.0

    def unbiased(a: np.ndarray, b: np.ndarray, sigma: float) -> float:
        def k(u, v):
            return np.exp(-((u[:, None] - v[None]) ** 2).sum(-1) / (2 * sigma**2))

        n, m = len(a), len(b)
        xx, yy = (k(c, c).sum() - len(c) for c in (a, b))
        return xx / n / (n - 1) + yy / m / (m - 1) - 2 * k(a, b).mean()

    a, b = x.double().numpy(), y.double().numpy()
    both = np.concatenate([a, b])
    i, j = np.triu_indices(60, 1)
    gaps = np.sort(np.linalg.norm(both[i] - both[j], axis=1))
    sigma = gaps[(len(gaps) - 1) // 2] * 2.0  # torch's median is the lower one
    assert data_of(panel, "now").x[0] == pytest.approx(2)
    assert data_of(panel, "now").y[0] == pytest.approx(unbiased(a, b, sigma), rel=1e-3)
    assert data_of(panel, "statistic").x[0] == pytest.approx(unbiased(a, b, sigma), rel=1e-3)
    assert sum(data_of(panel, "null").y) == 200
    assert sum(data_of(panel, "x").y) == pytest.approx(1)
    assert "p = 0.005" in panel.words
    panel.controls["shift"].value = 1.0
    moved = b + (a.mean(0) - b.mean(0))
    assert data_of(panel, "statistic").x[0] == pytest.approx(unbiased(a, moved, sigma), abs=1e-5)
    assert float(panel.test.p_value) > 0.05
    assert "no more than chance" in panel.words


class TestRouting:
    def test_shares_are_those_of_the_trace_and_sum_to_one(self, model, data):
        panel = RoutingExplorer(model, data, samples=4)
        panel.controls["sample"].value, panel.controls["layer"].value = 3, 1
        trace = model.trace(data.batch([3]))
        for i, m in enumerate(model.config.modalities):
            norms = trace.contributions[1][m][0]
            np.testing.assert_allclose(data_of(panel, m).y, norms[:, 0] / norms.sum(1), rtol=1e-5)
            assert data_of(panel, "own").x[i] == pytest.approx(float((norms[:, 0] / norms.sum(1)).mean()), rel=1e-5)
        total = np.add(data_of(panel, "own").x, data_of(panel, "shared").x)
        np.testing.assert_allclose(total, 1)
        every = model.trace(data.batch(range(4))).expert_shares()[1]
        np.testing.assert_allclose(data_of(panel, "average").x, [float(every[m][0]) for m in every], rtol=1e-5)

    @pytest.mark.parametrize("names", [("sad", "glad"), ()])
    def test_classes_are_named(self, per_step, names):
        model, data = per_step
        notes = (f"classes: {', '.join(names)}",) if names else ()
        panel = RoutingExplorer(model, dataclasses.replace(data, notes=notes))
        guess = model(data.batch([0])).prediction[0]
        for k, name in enumerate(names or ("class 0", "class 1")):
            count = int((guess == k).sum())
            assert (f"{count} × {name}" in panel.words) == (count > 0)

    def test_an_expert_that_is_switched_off_adds_nothing(self, model, data):
        panel = RoutingExplorer(model, data, samples=4)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        options = {"without the modalities' own experts": 0.0, "without shared": 1.0}
        batch, trained = data.batch(range(4)), model.trace(data.batch(range(4)), scans=False)
        for option, share in options.items():
            panel.controls["routing"].value = option
            assert all(np.allclose(data_of(panel, m).y, share, atol=1e-6) for m in model.config.modalities)
            assert "as trained" in panel.words
            with switched_off(model, *(model.config.modalities if share == 0 else ("shared",))):
                moved = change(trained, model.trace(batch, scans=False)).mean()
            assert f"Of the first 4 samples, predictions moved by {moved:.3f}" in panel.words
        panel.controls["routing"].value = "without audio's own expert"
        assert not np.any(data_of(panel, "audio").y)
        assert np.all(data_of(panel, "text").y)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class TestScan:
    def test_a_pulse_decays_as_the_formula_says(self):
        panel = ScanExplorer()
        panel.controls["delta"].value, panel.controls["decay"].value = 2.0, 0.5
        at = np.arange(40)
        expected = np.where(at >= 6, 0.4 * np.exp(-0.5 * 0.4 * (at - 6.0)), 0)
        np.testing.assert_allclose(data_of(panel, "y").y, expected, atol=1e-6)
        np.testing.assert_allclose(data_of(panel, "kept").y, np.exp(-0.2), rtol=1e-6)
        np.testing.assert_allclose(np.nansum(data_of(panel, "matrix").z, axis=1), expected, atol=1e-6)

    def test_contributions_of_a_trained_channel_add_up_to_the_scan(self, model, data):
        panel = ScanExplorer(model, data)
        panel.controls["sample"].value, panel.controls["layer"].value, panel.controls["channel"].value = 2, 1, 5
        scan = model.trace(data.batch([2])).scan(0, 1)
        known = selective_scan(
            *(v.T[None].contiguous() for v in (scan.u, scan.delta)),
            scan.A,
            *(v.T[None].contiguous() for v in (scan.B, scan.C)),
            scan.D,
            scan.z.T[None].contiguous(),
            backend="reference",
        )[0, 5]
        np.testing.assert_allclose(data_of(panel, "y").y, known, atol=1e-5)
        np.testing.assert_allclose(np.sum(data_of(panel, "matrix").z, axis=1), known, atol=1e-5)
        assert len(data_of(panel, "matrix").text) == sum(len(x) for x in data[2].features.values())

    def test_model_and_data_go_together(self, model):
        with pytest.raises(ValueError, match="only one of model and dataset"):
            ScanExplorer(model)


@pytest.fixture(scope="module")
def planes(model, data):
    return EmbeddingExplorer(model.trace(data.batch(range(20))), most=90, wait=True)


@pytest.mark.slow
class TestEmbedding:
    """Slow the first time in a process: UMAP compiles itself."""

    @pytest.fixture
    def panel(self, planes):
        return planes

    def test_planes_are_shown_and_coloured(self, panel, model, data):
        counts = {m: len(data_of(panel, f"before {m}").x) for m in model.config.modalities}
        assert counts == dict.fromkeys(model.config.modalities, 30)
        panel.controls["colour"].value = "label"
        labels = data.batch(range(20)).labels.numpy()
        ids = [text.split(" of ")[1].split("<br>")[0] for text in data_of(panel, "after text").text]
        np.testing.assert_allclose(data_of(panel, "after text").marker.color, labels[[int(i[-3:]) for i in ids]])
        assert panel.fig.layout.coloraxis.showscale
        panel.controls["colour"].value = "modality"
        assert data_of(panel, "after text").marker.color == figures.look("text").colour

    def test_a_sample_is_ringed_in_both_panels_and_named(self, panel):
        panel.controls["sample"].value = 5
        assert "of test-004." in panel.words
        before, after = (data_of(panel, f"{side} ring") for side in ("before", "after"))
        assert len(before.x) == len(after.x) > 0
        clouds = [data_of(panel, f"after {m}") for m in ("text", "audio", "video")]
        known = {point for cloud in clouds for point in zip(cloud.x, cloud.y, strict=True)}
        assert {*zip(after.x, after.y, strict=True)} <= known

    def test_tokens_selected_in_one_panel_stay_bright_in_both_and_their_samples_are_named(self, panel):
        chosen = {"text": (0, 3), "video": (7,)}
        names = [trace.meta for trace in panel.fig.data]
        told = [(names.index(f"before {m}"), i) for m, points in chosen.items() for i in points]
        traces, points = ([*column] for column in zip(*told, strict=True))
        event = {"trace_indexes": traces, "point_indexes": points}
        panel.fig._js2py_pointsCallback = {"event_type": "plotly_selected", "points": event}  # as the browser says it
        for m in ("text", "audio", "video"):
            for side in ("before", "after"):
                assert tuple(data_of(panel, f"{side} {m}").selectedpoints) == chosen.get(m, ())
        ids = {
            data_of(panel, f"before {m}").text[i].split(" of ")[1].split("<br>")[0] for m in chosen for i in chosen[m]
        }
        assert f"3 tokens of {len(ids)} sample" in panel.words
        assert all(f"<b>{i}</b>" in panel._samples.value for i in ids)
        assert "<img" not in panel._samples.value
        panel.controls["sample"].value = 2  # the slider ends the selection
        assert all(data_of(panel, f"after {m}").selectedpoints is None for m in ("text", "audio", "video"))
        panel.controls["sample"].value = 0

    def test_of_classes_the_list_says_right_or_wrong_by_name_and_shows_the_pictures(self):
        rooms = load_dataset("mini-nyu", size=60)["test"]
        torch.manual_seed(0)
        sizes = {"d_model": 8, "d_state": 4, "task": rooms.task, "n_classes": rooms.n_classes}
        model = AlignMamba2(AlignMamba2Config(rooms.modalities, **sizes)).eval().requires_grad_(False)
        panel = EmbeddingExplorer(model.trace(rooms.batch(range(4))), rooms, most=60, wait=True)
        for i in range(4):
            panel.controls["sample"].value = i + 1
            label, guess = int(rooms[i].label), int(panel._trace.prediction[i])
            verdict = "right" if label == guess else "wrong"
            told = f"prediction {rooms.classes[guess]}, label {rooms.classes[label]}: {verdict}"
            assert told in panel._samples.value
            assert panel._samples.value.count("<img") == 2  # colour and depth
        panel.controls["colour"].value = "error"
        assert tuple(panel.fig.layout.coloraxis.colorbar.ticktext) == ("right", "wrong")
        panel.controls["colour"].value = "label"
        assert len(panel.fig.layout.coloraxis.colorbar.ticktext) == len(rooms.classes)

    def test_a_new_plane_is_made_beside_and_can_be_stopped(self, panel):
        panel._wait = False
        old = np.array(data_of(panel, "before text").x)
        panel.controls["neighbours"].value = 10
        assert "being computed" in panel.words
        assert not panel.controls["cancel"].disabled
        panel.controls["cancel"].click()
        panel._worker.join(60)
        assert panel.controls["neighbours"].value == 15
        np.testing.assert_array_equal(data_of(panel, "before text").x, old)
        panel.controls["neighbours"].value = 10
        panel._worker.join(120)
        assert "being computed" not in panel.words
        assert panel.controls["cancel"].disabled
        assert not np.allclose(data_of(panel, "before text").x, old)


class TestSample:
    def test_what_tokens_add_is_the_prediction(self, model, data):
        panel = SampleExplorer(model, data)
        panel.controls["sample"].value = 4
        prediction = float(model(data.batch([4])).prediction)
        added = sum(sum(data_of(panel, m).y) for m in model.config.modalities)
        assert added + float(model.head.bias) == pytest.approx(prediction, abs=1e-4)
        assert data_of(panel, "prediction").y[0] == pytest.approx(prediction, abs=1e-5)
        assert data_of(panel, "prediction").y[2] == pytest.approx(float(data[4].label))

    def test_a_modality_that_is_off_is_not_seen_by_the_model(self, model, data):
        panel = SampleExplorer(model, data, sample=4)
        panel.controls["audio"].value = False
        without = float(model(data.batch([4]).only("text", "video")).prediction)
        now, every, _ = data_of(panel, "prediction").y
        assert now == pytest.approx(without, abs=1e-5)
        assert every == pytest.approx(float(model(data.batch([4])).prediction), abs=1e-5)
        assert len(data_of(panel, "audio").y) == 0
        assert f"without audio it moved by {without - every:+.2f}" in panel.words
        panel.controls["text"].value = panel.controls["video"].value = False
        assert [panel.controls[m].value for m in ("text", "video")] == [False, True]  # the last one stays on

    def test_a_picture_stands_below_the_bars(self, model, data):
        panel = SampleExplorer(model, data, picture=lambda s: np.zeros((4, 4, 3), np.uint8))
        (picture,) = panel.fig.layout.images
        place = panel.fig.layout[data_of(panel, "prediction").yaxis.replace("y", "yaxis")].domain
        assert picture.yanchor == "top"
        assert picture.y < place[0]

    def test_what_the_data_set_shows_is_shown(self, model, data):
        picture = np.full((4, 4, 3), 7, np.uint8)
        shown = {"image": lambda sample: picture, "audio": lambda sample: np.arange(len(sample.features["audio"]))}
        panel = SampleExplorer(model, dataclasses.replace(data, show=shown))
        assert list(data_of(panel, "strength audio").y) == list(range(len(data[0].features["audio"])))
        (image,) = panel.fig.layout.images
        with Image.open(io.BytesIO(base64.b64decode(image.source.split(",")[1]))) as drawn:
            np.testing.assert_array_equal(drawn, picture)

    def test_pictures_of_two_modalities_stand_side_by_side(self, model, data):
        seen = {m: lambda sample: np.zeros((4, 4, 3), np.uint8) for m in ("text", "video")}  # as colour and depth do
        panel = SampleExplorer(model, dataclasses.replace(data, show=seen))
        left, right = panel.fig.layout.images
        assert left.x + left.sizex / 2 < right.x - right.sizex / 2
        assert left.y == right.y

    def test_a_class_a_step(self, per_step):
        model, data = per_step
        panel = SampleExplorer(model, data)
        panel.controls["sample"].value = 2
        panel.controls["step"].value = 6
        logits = model(data.batch([2])).logits[0, 5]
        assert data_of(panel, "prediction").y[0] == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)
        panel.controls["sample"].value = 1  # shorter: the step comes along
        assert panel.controls["step"].value == 3


class TestData:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_the_label_stands_out_in_both_themes(self, data, theme):
        panel = DataExplorer({"test": data}, theme=theme)
        ink, light = (style.IN_THE_DARK[c] if theme == "dark" else c for c in (style.INK, style.LIGHT))
        assert set(data_of(panel, "labels").marker.color) == {ink, light}

    def test_a_sample_its_padding_and_its_label(self, data):
        panel = DataExplorer({"test": data}, sample=20, batch=16)
        batch = data.batch(range(16, 32))
        for m, mask in batch.masks.items():
            assert panel.padding[m] == pytest.approx(1 - float(mask.float().mean()))
            count = len(data[20].features[m])
            assert data_of(panel, m).z.shape == (data.modalities[m], count)
            assert list(data_of(panel, f"padding {m}").x) == list(range(count + 1, mask.shape[1] + 1))
        rounded = np.rint([float(label) for label in data.labels])
        shares = [(rounded == v).mean() for v in np.unique(rounded)]
        np.testing.assert_allclose(data_of(panel, "labels").y, shares)
        assert [int(n.replace("−", "-")) for n in panel.fig.layout.xaxis2.ticktext] == np.unique(rounded).tolist()
        dark = [c != figures.style.LIGHT for c in data_of(panel, "labels").marker.color]
        assert dark == [v == rounded[20] for v in np.unique(rounded)]

    def test_batches_by_length_hold_less_padding(self, data):
        panel = DataExplorer({"test": data}, batch=16)

        def share() -> float:
            total = 0.0
            for i in range(0, len(data), 16):
                panel.controls["sample"].value = i
                total += sum(panel.padding.values())
            return total

        before = share()
        panel.controls["order"].value = "by length"
        lengths = [sum(len(x) for x in s.features.values()) for s in data]
        members = panel._batch("test", 20, 16, "by length")
        assert 20 in members
        assert len(members) == 16
        assert np.ptp(np.array(lengths)[members]) < np.ptp(lengths)
        assert share() < before
        panel.controls["batch"].value = 1
        assert set(panel.padding.values()) == {0.0}

    def test_a_class_a_step_and_another_split(self, per_step, data):
        _, steps = per_step
        panel = DataExplorer({"a": steps, "b": dataclasses.replace(steps, samples=steps.samples[:2])}, sample=2)
        assert sum(int(count) for _, count in data_of(panel, "labels").customdata) == sum(len(s.label) for s in steps)
        panel.controls["split"].value = "b"
        assert panel.controls["sample"].value == 1
        assert "b, sample video-3" in panel.words

    def test_unknown_splits_and_batches_are_refused(self, data):
        with pytest.raises(ValueError, match="split: found 'dev'; expected one of 'test'"):
            DataExplorer({"test": data}, split="dev")
        with pytest.raises(ValueError, match="batch: found 5"):
            DataExplorer({"test": data}, batch=5)


def test_the_monitor_draws_each_epoch():
    monitor = TrainingMonitor("accuracy", epochs=2)
    for i, score in enumerate((0.5, 0.8, 0.7)):
        monitor.on_epoch({"epoch": i, "train/task": 1 / (i + 1), "valid/accuracy": score, "valid/loss": 1.0 + i})
    assert list(data_of(monitor, "train/task").y) == [1, 1 / 2, 1 / 3]
    assert list(data_of(monitor, "metric").y) == [0.5, 0.8, 0.7]
    assert (data_of(monitor, "best").x[0], data_of(monitor, "best").y[0]) == (1, 0.8)
    assert monitor.fig.layout.xaxis.range[1] >= 2
    assert monitor.fig.layout.xaxis.dtick == 1  # there is no epoch 1.5
    monitor.controls["metric"].value = "loss"
    assert list(data_of(monitor, "metric").y) == [1, 2, 3]
    assert data_of(monitor, "best").x[0] == 0


@pytest.fixture(scope="module")
def all_panels(model, data):
    trace = model.trace(data.batch(range(12)))
    clouds = {"two": (torch.randn(20, 3), torch.randn(20, 3))}

    def make(**options) -> list[Explorer]:
        return [
            TransportExplorer.of_model(model, data, **options),
            TransportExplorer.of_points(5, **options),
            DiscrepancyExplorer(clouds, **options),
            RoutingExplorer(model, data, samples=3, **options),
            ScanExplorer(**options),
            ScanExplorer(model, data, **options),
            EmbeddingExplorer(trace, most=60, wait=True, **options),
            SampleExplorer(model, data, **options),
            DataExplorer({"test": data}, **options),
            TrainingMonitor(**options),
            ComparisonExplorer(**options),
            ScalingExplorer([100, 1000], {"time": {"scan": [1.0, 10.0]}}, **options),
        ]

    return make


class TestComparison:
    """Made-up studies, against SciPy's binomial test."""

    def test_the_p_drawn_are_those_of_a_binomial_test(self):
        panel = ComparisonExplorer(5, 200)
        panel.controls["study"].value = 4
        gained, lost = comparison.studies(np.random.default_rng(4), 1, 5, 200, 0.0)
        known = [binomtest(int(g), int(g + n), 0.5).pvalue for g, n in zip(gained[0], lost[0], strict=True)]
        np.testing.assert_allclose(panel.p, known, atol=1e-9)
        drawn = np.concatenate([data_of(panel, "found").x, data_of(panel, "rest").x])
        np.testing.assert_allclose(np.sort(drawn), np.sort(100 * (gained - lost)[0] / 200), atol=1e-9)

    def test_without_any_effect_chance_finds_something_and_holm_does_not(self):
        gained, lost = comparison.studies(np.random.default_rng(0), 2000, 7, 750, 0.0)
        p = comparison.mcnemar(gained, lost)
        assert 0.15 < (p < 0.05).any(1).mean() < 1 - 0.95**7 + 0.03
        assert (7 * p.min(1) < 0.05).mean() < 0.06  # the smallest p is what Holm begins with

    def test_a_true_effect_is_found_more_often_with_more_samples(self):
        shares = []
        for samples in (200, 8000):
            gained, lost = comparison.studies(np.random.default_rng(0), 500, 1, samples, 0.02)
            shares.append((comparison.mcnemar(gained, lost) < 0.05).mean())
        assert shares[0] < 0.3 < 0.9 < shares[1]

    def test_the_words_say_how_many_are_found(self):
        panel = ComparisonExplorer(3, 8000)
        panel.controls["effect"].value = 5.0
        assert "1 of 3 variants found" in panel.words
        assert "100% find variant 1" in panel.words
        panel.controls["variants"].value = 1
        assert panel.words.endswith("which is truly better.")


class TestScaling:
    """Curves through measured points."""

    def test_the_curve_finds_what_was_planted(self):
        lengths = np.array([100.0, 200, 400, 800])
        time = {"scan": 5 + 0.1 * lengths, "attention": 2 + 0.01 * lengths + 1e-4 * lengths**2}
        panel = ScalingExplorer(lengths, {"time": time}, units={"time": "ms"}, at=2**16)
        assert panel.at["scan"] == pytest.approx(5 + 0.1 * 2**16, rel=1e-6)
        assert panel.at["attention"] == pytest.approx(2 + 0.01 * 2**16 + 1e-4 * 2.0**32, rel=1e-6)
        assert "82 times beyond what was measured" in panel.words
        assert "e+" not in panel.words  # no powers of ten
        panel.controls["at"].value = 512
        assert panel.at["scan"] == pytest.approx(56.2, rel=1e-6)
        assert "beyond" not in panel.words

    @pytest.mark.parametrize(
        ("lengths", "time", "why"),
        [
            ([96.0, 192, 384], lambda x: 0.1 * x, "only 3 lengths were measured"),
            ([100.0, 200, 400, 800], lambda x: 2.4 + 0.002 * x, "60 % of the longest is what every call costs"),
        ],
    )
    def test_points_that_cannot_carry_an_extrapolation_give_none(self, lengths, time, why):
        lengths = np.array(lengths)
        told = {"time": {"short": time(lengths), "scan": np.append(time(lengths[:-1]), np.nan)}}
        panel = ScalingExplorer(lengths, told, at=2**16)
        assert panel.at == {}
        assert f"short cannot be told from these points ({why}" in panel.words
        assert max(data_of(panel, "curve short").x) == pytest.approx(lengths[-1])
        assert max(data_of(panel, "curve scan").x) == pytest.approx(lengths[-2])
        assert len(data_of(panel, "now short").x) == 0
        panel.controls["at"].value = 256  # among the points
        assert panel.at["short"] == pytest.approx(time(256), rel=1e-6)
        assert len(data_of(panel, "now short").x) == 1

    def test_what_was_not_measured_is_left_out(self):
        panel = ScalingExplorer(
            [100, 200], {"time": {"a": [1.0, np.nan], "b": [np.nan, np.nan]}, "more": {"a": [1, 2]}}, at=128
        )
        assert list(panel.at) == ["a"]
        panel.controls["what"].value = "more"
        assert "more" in panel.fig.layout.yaxis.title.text
        with pytest.raises(ValueError, match="at least one method"):
            ScalingExplorer([100], {})


def test_every_panel_shows_itself_with_and_without_widgets(all_panels):
    for panel in all_panels(note="synthetic"):
        bundle = panel._repr_mimebundle_()
        assert panel.words in bundle["text/plain"]
        assert "application/vnd.jupyter.widget-view+json" in bundle
        json.dumps(bundle["application/vnd.plotly.v1+json"])  # Jupyter takes nothing else
        assert isinstance(panel.fig, go.FigureWidget)
        assert "synthetic" in panel.fig.layout.title.text
        assert all(control.description for control in panel.controls.values())
    for panel in all_panels(note="synthetic", interactive=False, theme="dark"):
        assert not panel.controls
        if not isinstance(panel, TransportExplorer):  # whose still figure is that of `figures`
            assert panel.fig.layout.template.layout.paper_bgcolor == style.IN_THE_DARK[style.PAPER]
            assert style.QUIET not in panel.fig.to_json()
        assert "application/vnd.jupyter.widget-view+json" not in panel._repr_mimebundle_()


def test_an_error_stands_below_the_figure_and_is_raised(all_panels, monkeypatch):
    panel = TransportExplorer.of_points(5)
    monkeypatch.setattr(panel, "_paint", lambda **values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.controls["up"].value = 0.77
    assert 'role="alert"' in panel._line.value
    assert "ZeroDivisionError" in panel._line.value


def test_an_unknown_theme_is_refused():
    with pytest.raises(ValueError, match="expected one of 'auto', 'light', 'dark'"):
        ScanExplorer(theme="blue")
