"""Own data: what columns become, what is inferred, what is refused, and the doors that take it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import alignmamba2 as am
from alignmamba2.__main__ import main
from alignmamba2.encoders import MiniLM
from alignmamba2.encoders.packages import WEIGHTS
from alignmamba2.recipes import Recipe, RecipeError

N = 40
LIGHT = {"text": "words", "image": "patches"}
needs_encoders = pytest.mark.skipif(
    not (MiniLM.is_present() and WEIGHTS["efficientnet-lite0"].is_present()), reason="no packaged encoders here"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def make_frame(folder: Path, seed: int = 0) -> pd.DataFrame:
    """Reviews whose words, picture and sound all tell the label; rows 3, 5 and 7 lack one of them each."""
    rng = np.random.default_rng(seed)
    good = rng.permutation(np.arange(N) % 2).astype(bool)
    pixels = [(60 * rng.random((20, 30, 3)) + 150 * k).astype(np.uint8) for k in good]
    Image.fromarray(pixels[0]).save(folder / "first.png")
    pictures = [str(folder / "first.png"), pixels[1], *(Image.fromarray(x) for x in pixels[2:])]
    sounds = [rng.normal(size=(int(rng.integers(1, 4)), 7)) + k for k in good]
    texts = [f"{'lovely' if k else 'dull'} film number {i}" for i, k in enumerate(good)]
    texts[3], pictures[5], sounds[7] = None, np.nan, None
    frame = {
        "review": texts,
        "photo": pictures,
        "sound": sounds,
        "verdict": np.where(good, "good", "bad"),
        "pixels": pixels,
    }
    return pd.DataFrame({**frame, "x": rng.normal(size=N), "y": rng.normal(size=N)}, index=[f"r{i}" for i in range(N)])


def columns(**changes):
    return {"text": "review", "image": "photo", "audio": "sound", "label": "verdict", "encoders": LIGHT, **changes}


def test_a_frame_becomes_splits_that_say_what_was_inferred(tmp_path, capsys):
    frame = make_frame(tmp_path)
    data = am.Dataset.from_frame(frame, numbers=["x", "y"], **columns())
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert told == data["train"].description + "\n"
    assert "28 train / 6 valid / 6 test (train" not in told
    for word in (
        "28 train / 6 valid / 6 test",
        "text by words (1 missing)",
        "pictures by patches (1 missing)",
        "2 classes: bad, good",
    ):
        assert word in told
    assert data["train"].modalities == {"numbers": 2, "text": 64, "image": 56, "audio": 7}
    assert data["test"].classes == ["bad", "good"]
    samples = {s.id: s for part in data.values() for s in part}
    assert sorted(samples) == sorted(frame.index)  # each row is in one split
    for i, (name, row) in enumerate(frame.iterrows()):
        s = samples[name]
        assert s.label == (row.verdict == "good")
        assert torch.equal(s.features["numbers"], torch.tensor([[row.x, row.y]], dtype=torch.float32))
        if i == 7:
            assert s.features["audio"].shape == (0, 7)
        else:
            np.testing.assert_array_equal(s.features["audio"], row.sound.astype(np.float32))
        assert (len(s.features["text"]) == 0) == (i == 3)
        assert (len(s.features["image"]) == 0) == (i == 5)
    for part in data.values():  # classes in equal shares, give or take two samples
        assert abs(2 * sum(int(s.label) for s in part) - len(part)) <= 2


def test_a_picture_is_the_same_as_path_image_and_array(tmp_path):
    frame = make_frame(tmp_path)
    options = {"label": "verdict", "encoders": {"image": "patches"}, "say": lambda _: None}
    frame = frame.drop(index="r5")
    one = am.Dataset.from_frame(frame, image="photo", **options)["train"]
    other = am.Dataset.from_frame(frame, image="pixels", **options)["train"]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.features["image"], b.features["image"])


def test_the_three_doors_give_the_same_samples(tmp_path):
    frame = make_frame(tmp_path)

    class Table:  # as a Hugging Face data set looks from outside
        def __init__(self, columns):
            self.columns = columns
            self.column_names = list(columns)
            self.features = {"verdict": type("ClassLabel", (), {"names": ["bad", "good"]})}

        def __len__(self):
            return len(self.columns["review"])

        def __getitem__(self, name):
            return self.columns[name]

    plain = {key: list(frame[key]) for key in ("review", "photo", "sound")}
    table = Table({**plain, "verdict": [int(v == "good") for v in frame.verdict]})
    halves = {
        s: Table({k: v[a:b] for k, v in table.columns.items()})
        for s, a, b in (("train", 0, 20), ("dev", 20, 30), ("test", 30, N))
    }
    given = ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    arrays = {"text": plain["review"], "image": plain["photo"], "audio": plain["sound"], "label": list(frame.verdict)}
    doors = [
        am.Dataset.from_frame(frame.reset_index(), split=given, **columns()),
        am.Dataset.from_arrays(split=given, encoders=LIGHT, **arrays),
        am.Dataset.from_hf(halves, **columns()),
        am.Dataset.from_hf(table, split=given, **columns()),
    ]
    for data in doors:
        assert {s: len(part) for s, part in data.items()} == {"train": 20, "valid": 10, "test": 10}
        for split, part in data.items():
            assert part.classes == ["bad", "good"]
            for s, t in zip(part, doors[0][split], strict=True):
                assert (s.id, s.label) == (t.id, t.label)
                assert all(torch.equal(s.features[m], t.features[m]) for m in t.features)


@pytest.mark.parametrize(
    ("label", "task", "says"),
    [
        ([0, 1] * 20, None, "2 classes: 0, 1"),
        ([True, False] * 20, None, "2 classes: False, True"),
        (list("abcd") * 10, None, "4 classes: a, b, c, d"),
        (np.arange(N) / 2, None, "regression"),
        (np.arange(N), "regression", "regression"),
        (np.arange(4 * N) % 120, None, "regression"),
        ([0.0, 1.0] * 20, "classification", "2 classes: 0.0, 1.0"),
    ],
)
def test_the_task_is_inferred_and_told(label, task, says, capsys):
    data = am.Dataset.from_arrays(x=np.zeros((len(label), 2)), label=label, task=task)
    assert capsys.readouterr().out.strip().endswith(says)
    assert data["train"].task == ("regression" if says == "regression" else "classification")
    assert data["train"][0].label.dtype == (torch.float32 if says == "regression" else torch.int64)


def test_missing_splits_are_drawn_and_groups_stay_together():
    groups = [f"speaker {i // 4}" for i in range(N)]
    data = am.Dataset.from_arrays(x=np.zeros((N, 2)), label=np.arange(N) % 3, group=groups)
    parts = [{s.group for s in part} for part in data.values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 10
    given = ["test" if i < 10 else "train" for i in range(N)]
    data = am.Dataset.from_arrays(x=np.zeros((N, 2)), label=np.arange(N) % 2, split=given)
    assert {s.id for s in data["test"]} == set(map(str, range(10)))
    assert len(data["valid"]) == 5  # 15 of 85 parts of what was named train
    again = am.Dataset.from_arrays(x=np.zeros((N, 2)), label=np.arange(N) % 2, split=given)
    assert [s.id for s in again["valid"]] == [s.id for s in data["valid"]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "reviw"}, "text: no column 'reviw'; .*did you mean 'review'"),
        ({"split": "review"}, "split: found .*; expected train, valid and test"),
        ({"label": "pixels"}, "label: .*expected several numbers"),
        ({"label": ["x", "verdit"]}, "label: no column 'verdit'; .*did you mean 'verdict'"),
        ({"label": "verdict", "task": "regression"}, "label: .*expected one number per sample"),
        ({"task": "ranking"}, "task: found 'ranking'"),
        ({"audio": ["x", "z"]}, "audio: no column 'z'"),
        ({"encoders": {"txt": "words"}}, r"encoders: found \['txt'\]"),
        ({"mixed": "mixed"}, r"mixed: found text \(sample 'r0'\) and 1 numbers \(sample 'r1'\); expected one kind"),
        ({"image": "gone"}, "image, sample 'r0': found str: nowhere.jpg, which is not there"),
        ({"audio": "ragged"}, r"audio: found 2 numbers \(sample 'r0'\) and 3 numbers \(sample 'r1'\)"),
        ({"audio": "nan"}, "audio, sample 'r2': found ndarray: .*50% finite"),
        ({"audio": "dicts"}, "audio, sample 'r0': found dict"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_made(changes, says, tmp_path):
    frame = make_frame(tmp_path)
    frame["mixed"] = ["words", 3, *[None] * (N - 2)]
    frame["gone"] = ["nowhere.jpg", *[None] * (N - 1)]
    frame["ragged"] = [np.zeros(2 + i % 2) for i in range(N)]
    frame["nan"] = [np.array([np.nan if i == 2 else 0.0, 1.0]) for i in range(N)]
    frame["dicts"] = [{"array": np.zeros(3), "sampling_rate": 16000}] * N
    with pytest.raises(ValueError, match=says):
        am.Dataset.from_frame(frame, **columns(**changes))


def test_a_sentence_that_ends_in_a_link_is_text():
    data = am.Dataset.from_arrays(a=["look at t.co/x.jpg", "see y.png"], b=[None, None], encoders={"a": "words"})[
        "test"
    ]
    assert [s.words["a"][-1] for s in data] == ["t.co/x.jpg", "y.png"]
    assert list(data.modalities) == ["a"]
    assert "b: left out (2 missing)" in data.description


def test_rows_without_anything_and_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"samples \['1'\] \(1\): every modality is missing"):
        am.Dataset.from_arrays(a=["x", None], b=[[1.0], None], label=[0, 1], encoders={"a": "words"})
    with pytest.raises(ValueError, match="no sample is left for"):
        am.Dataset.from_arrays(a=["x", "y"], label=[0, 1], encoders={"a": "words"})
    with pytest.raises(ValueError, match="found sizes"):
        am.Dataset.from_arrays(a=["x", "y"], label=[0], encoders={"a": "words"})


def test_fit_takes_splits_without_a_recipe_and_says_its_settings(tmp_path, capsys):
    data = am.Dataset.from_frame(make_frame(tmp_path), **columns())
    result = am.fit(data, overrides={"training.max_epochs": 12}, folder=tmp_path / "run")
    told = capsys.readouterr().out.splitlines()[1]
    assert told.startswith("no recipe given, so 'own': d_model = 32, ")
    assert "max_epochs = 12" in told
    assert result.model.config.shortcut == ["text", "image", "audio"]
    assert am.evaluate(result.model, data["test"])["accuracy"] > 0.8  # every modality tells the label
    with pytest.raises(ValueError, match=r"datasets: found \['test'\]; expected 'train' and 'valid'"):
        am.fit({"test": data["test"]})


MODULE = """
import numpy as np
import alignmamba2 as am

def load(root=None, *, size=40):
    y = np.arange(size) % 2
    x = np.random.default_rng(0).normal(size=(size, 3, 4)) + 3 * y[:, None, None]
    return am.Dataset.from_arrays(a=list(x), b=list(x[:, 0]), label=y, name="mine")
"""


def test_commands_take_the_address_of_a_function(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    assert main(["train", "mine:load", "--fast", "--quiet"]) == 0
    assert Recipe.load("mine:load").dataset == "mine:load"
    assert main(["evaluate", "runs/mine-load/seed-1111", "--trust", "--results", "again.json"]) == 0
    first, again = (json.loads(Path(p).read_text())["results"] for p in ("runs/results.json", "again.json"))
    assert next(iter(again.values()))["test"] == next(iter(first.values()))["test"]
    command = ["reproduce", "mine:load", "--fast", "--quiet", "--seeds", "1", "--only", "AlignMamba-2", "linear"]
    assert main(command) == 0
    rows = json.loads(Path("runs/reproduce/report.json").read_text())["benchmarks"]["mine:load"]["rows"]
    assert set(rows) == {"AlignMamba-2", "linear"}
    from alignmamba2.launch import write_explorers

    assert write_explorers("runs/mine-load/seed-1111", "explore", trust=True).is_file()
    with pytest.raises(RecipeError, match="'min': not found"):
        Recipe.load("min")


def test_installed_packages_add_data_sets(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "mine-1.dist-info").mkdir()
    (tmp_path / "mine-1.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1\n")
    points = "[alignmamba2.datasets]\nmy-data = mine:load\nmosi = mine:load\nbroken = no_such_module:load\n"
    (tmp_path / "mine-1.dist-info" / "entry_points.txt").write_text(points)
    code = (
        "import sys\nfrom alignmamba2.datasets import ENTRIES, load_dataset\n"
        "assert 'mine' not in sys.modules\n"
        "assert len(load_dataset('my-data', 'test')) == 6\n"
        "from alignmamba2.recipes import Recipe\n"
        "assert Recipe.load('my-data').dataset == 'my-data'\n"
        "assert ENTRIES['mosi'].name == 'mosi' and ENTRIES['mosi'].load.__module__ != 'mine'\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{Path(am.__file__).parents[1]}{os.pathsep}{tmp_path}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_a_frame_is_answered_by_a_frame_of_probabilities(tmp_path):
    frame = make_frame(tmp_path)
    data = am.Dataset.from_frame(frame, **columns(), say=lambda _: None)
    model = am.fit(data, progress=False, fast=True).model
    new = frame.drop(columns="verdict").iloc[::-1]
    names = {"text": "review", "image": "photo", "audio": "sound", "encoders": LIGHT}
    table = am.predict(model, new, device="cpu", **names)
    assert list(table.index) == list(new.index)
    assert list(table.columns) == ["prediction", "bad", "good"]
    np.testing.assert_allclose(table[["bad", "good"]].sum(axis=1), 1, atol=1e-5)
    assert (table.prediction == table[["bad", "good"]].idxmax(axis=1)).all()
    known = {
        s.id: ["bad", "good"][int(k)] for s, k in zip(data["test"], am.predict(model, data["test"])[0], strict=True)
    }
    assert table.prediction.loc[list(known)].to_dict() == known
    model.save_pretrained("saved")  # the names of the classes come back with the model
    again = am.predict(am.AlignMamba2.from_pretrained("saved"), new.iloc[:3], **names)
    pd.testing.assert_frame_equal(again, table.iloc[:3], rtol=1e-4)
    sound = am.predict(model, new.iloc[:3].rename(columns={"sound": "audio"})[["audio"]])  # others are missing
    assert sound.shape == (3, 3)
    unlabelled = am.Dataset.from_frame(new, **names)["test"]
    assert am.predict(model, unlabelled)[1] is None
    with pytest.raises(ValueError, match="no labels"):
        am.evaluate(model, unlabelled)
    numbers = am.Dataset.from_arrays(x=np.random.default_rng(0).normal(size=(N, 2)), label=np.linspace(0, 1, N))
    model = am.fit(numbers, progress=False, fast=True).model
    assert list(am.predict(model, pd.DataFrame({"x": [[0.5, 1.0], [1.0, 2.0]]})).columns) == ["prediction"]


def test_a_device_may_be_named(tmp_path, ragged):
    config = am.AlignMamba2Config({"text": 6, "audio": 4, "video": 5}, d_model=8, n_layers=1)
    model = am.AlignMamba2(config).eval()
    assert torch.equal(model.trace(ragged, device="cpu").prediction, model.trace(ragged).prediction)
    with pytest.raises(Exception, match=r"device|CUDA|meta"):
        model.trace(ragged, device="no such device")


def test_a_model_goes_to_a_hub_and_back(tmp_path, monkeypatch):
    """The hub is a folder here; that files get there and back is the mixin's own affair."""
    from huggingface_hub import HfApi, PyTorchModelHubMixin, RepoUrl

    hub = tmp_path / "hub"

    def upload(api, *, folder_path, repo_id, **_):
        shutil.copytree(folder_path, hub / repo_id)
        return str(hub / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(hub / name))
    data = am.Dataset.from_arrays(x=np.random.default_rng(0).normal(size=(N, 2)), label=["a", "b"] * (N // 2))
    result = am.fit(data, progress=False, fast=True)
    assert isinstance(result.model, PyTorchModelHubMixin)
    result.model.push_to_hub("me/model")
    assert {p.name for p in (hub / "me/model").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (hub / "me/model" / "README.md").read_text("utf-8")
    assert "library_name: alignmamba2" in card
    assert "| valid/accuracy |" in card
    assert "'max_epochs': 2" in card
    assert hashlib.sha256((hub / "me/model" / "model.safetensors").read_bytes()).hexdigest() in card
    assert result.datasets["train"].protocol in card
    again = am.AlignMamba2.from_pretrained("me/model")
    for name, x in result.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)
    assert again.config == result.model.config
    result.model.save_pretrained("here")  # without a card, as ever
    assert {p.name for p in Path("here").iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(FileNotFoundError, match="here/nothing"):  # "here" is a folder: no hub is asked
        am.AlignMamba2.from_pretrained("here/nothing")
