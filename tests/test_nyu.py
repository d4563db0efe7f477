"""NYU-Depth V2: files of exactly the real formats, made small; the generated rooms; damaged files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import islice

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, inspect, is_present, nyu
from alignmamba2.datasets.fetch import Source
from alignmamba2.datasets.formats import nyu_files
from alignmamba2.datasets.formats.images import central, nearest, patches, resized
from alignmamba2.datasets.formats.nyu_files import (
    CLASSES,
    FOLDERS,
    FRAMES,
    MAT,
    OTHERS,
    SOURCE,
    SPLITS,
    read_matrices,
    scene_class,
)
from alignmamba2.datasets.hha import CX, CY, FX, FY, gravity, hha, normals, points
from alignmamba2.datasets.mini import nyu as mini_nyu
from alignmamba2.datasets.mini.nyu import Room, render
from alignmamba2.encoders import depth_colours

TYPES = ("bedroom", "kitchen", "bedroom", "study", "kitchen", "bedroom", "excercise_room", "bedroom")
# scenes: of bedrooms 1, 1 and 2 in training; one frame of each other class
SCENES = ("bedroom_0001", "kitchen_0001", "bedroom_0001", "study_0001", "kitchen_0002", "bedroom_0002", "gym", "b")
PICTURE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)


def write_mat(folder, types=TYPES, scenes=SCENES, train=(1, 2, 3, 4, 5, 6), test=(8, 7)):
    """The fields that a reader needs, as MATLAB writes them: axes reversed, strings behind references."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(types)
    with h5py.File(folder / MAT, "w") as file:
        packed = {"compression": "gzip", "compression_opts": 1}
        images = file.create_dataset("images", (n, 3, 640, 480), "u1", chunks=(1, 3, 640, 480), **packed)
        for name in ("depths", "rawDepths"):
            file.create_dataset(name, (n, 640, 480), "f4", chunks=(1, 640, 480), **packed)
        for i in range(n):
            images[i] = np.roll(PICTURE, i, axis=0).transpose(2, 1, 0)
            depth = np.linspace(1, 2 + i, 480, dtype="f4")[:, None] + np.zeros(640, "f4")
            file["depths"][i] = depth.T
            depth[100:110, 200:300] = 0
            file["rawDepths"][i] = depth.T
        for name, values in (("sceneTypes", types), ("scenes", scenes)):
            cells = file.create_dataset(name, (1, n), dtype=h5py.ref_dtype)
            for i, value in enumerate(values):
                cells[0, i] = file.create_dataset(f"#refs#/{name}{i}", data=[[ord(c)] for c in value], dtype="u2").ref
    rows = {"trainNdxs": train, "testNdxs": test}
    savemat(folder / SPLITS, {k: np.array(v, np.uint16)[:, None] for k, v in rows.items()})


def write_folders(folder):
    for split in ("train", "test"):
        for name in ("bathroom", "kitchen"):
            for i in range(3):
                (folder / FOLDERS / split / name).mkdir(parents=True, exist_ok=True)
                both = np.concatenate([np.full((40, 50, 3), 10 * i, np.uint8), PICTURE[:40, :50]], axis=1)
                Image.fromarray(both).save(folder / FOLDERS / split / name / f"{i}.png")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nyu")
    write_mat(folder)
    return folder


@pytest.fixture
def root(written, tmp_path, monkeypatch):
    """The labelled set, as a user has it, in a data root that may be spoiled."""
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    shutil.copytree(written, tmp_path / "nyuv2")
    return tmp_path


# --- the labelled set -----------------------------------------------------------------------------------------------


def test_the_labelled_set(root):
    splits = load_dataset("nyu", depth="metres")
    assert not splits["test"].synthetic
    rows = {split: [s.id for s in d.samples] for split, d in splits.items()}
    assert rows["test"] == ["frame-0008", "frame-0007"]
    assert sorted(rows["train"] + rows["valid"]) == [f"frame-{i:04d}" for i in range(1, 7)]
    labels = {s.id: int(s.label) for d in splits.values() for s in d.samples}
    assert [CLASSES[labels[f"frame-{i + 1:04d}"]] for i in range(8)] == [
        "others" if t in OTHERS else t for t in TYPES
    ]  # fmt: skip
    assert "the file's own split" in splits["test"].protocol
    assert splits["test"].modalities == {"image": 56, "depth": 24}
    assert set(splits["test"].hashes) == {MAT, SPLITS}


def test_a_frame_is_upright_and_its_depth_in_metres(root):
    frames = nyu.MatFrames(root / "nyuv2", root / "cache")
    assert np.array_equal(frames.picture(2), np.roll(PICTURE, 2, axis=0))
    depth = frames.depth_map(2, filled=True)
    assert depth.shape == (480, 640)
    assert depth[0].max() == 1
    assert np.allclose(depth[-1], 4)
    assert (frames.depth_map(2, filled=False) == 0).sum() == 1000


def test_both_pictures_of_a_room_are_shown_depth_as_grey(root):
    rooms = load_dataset("nyu", "test", depth="metres")
    seen = {m: see(rooms[0]) for m, see in rooms.show.items()}
    assert {m: (p.shape, p.dtype) for m, p in seen.items()} == dict.fromkeys(seen, ((224, 224, 3), np.uint8))
    assert np.array_equal(seen["image"], rooms.samples.item(0, "image"))
    level = seen["depth"].mean((1, 2))  # frame 8: from 1 m at the top to 9 m; 10 m are white
    assert level[0] / 255 == pytest.approx(0.1, abs=0.03)
    assert level[-1] / 255 == pytest.approx(0.9, abs=0.03)


def test_depth_as_metres_keeps_its_unit_and_as_hha_has_three_channels(root):
    sample = load_dataset("nyu", "test")[0]  # frame 8: from 1 m at the top to 9 m
    means = sample.features["depth"][:, :16].mean(1).reshape(7, 7)
    assert torch.allclose(means[:, 0], 1 + 8 * (torch.arange(7) + 0.5) / 7, atol=0.02)
    assert load_dataset("nyu", "test", depth="hha").modalities == {"image": 56, "depth": 56}
    raw = load_dataset("nyu", "test", filled=False)
    assert "holes not filled" in raw.protocol
    assert not torch.equal(raw[0].features["depth"], sample.features["depth"])


def test_depth_as_colours_goes_from_blue_over_green_to_red(root):
    rooms = load_dataset("nyu", "test", depth="jet")  # frame 8: from 1 m at the top to 9 m
    rainbow = rooms.show["depth"](rooms[0])
    assert (rainbow.shape, rainbow.dtype) == ((224, 224, 3), np.uint8)
    row = [int(224 * (metres - 1) / 8) for metres in (1.3, 5, 8.7)]
    assert [int(rainbow[r, 100].argmax()) for r in row] == [2, 1, 0]
    ends = depth_colours(np.array([[0.0, 1.25, 3.75, 5.0, 6.25, 8.75, 10.0, np.nan]]))[0].tolist()
    blue, red = [0, 0, 128], [128, 0, 0]
    assert np.allclose(
        ends, [blue, [0, 0, 255], [0, 255, 255], [128, 255, 128], [255, 255, 0], [255, 0, 0], red, blue], atol=4
    )


def test_validation_comes_from_training_scenes_whole(root):
    for seed in range(8):
        splits = load_dataset("nyu", valid_fraction=0.4, split_seed=seed)
        scene = {f"frame-{i + 1:04d}": s for i, s in enumerate(SCENES)}
        train, valid = ({scene[i] for i in splits[s].samples.ids} for s in ("train", "valid"))
        assert not train & valid
        assert valid <= set(SCENES[:6])
        assert {int(y) for y in splits["train"].labels} >= {1, 6, 9}  # no class is taken whole


@pytest.mark.parametrize("seed", range(3))
def test_validation_has_its_share_of_every_class(seed):
    classes = np.repeat(np.arange(4), (100, 60, 40, 10))
    scenes = [f"{c}-{i // 2}" for i, c in enumerate(classes)]
    chosen = nyu.validation(classes, scenes, 0.2, seed)
    assert [int(chosen[classes == c].sum()) for c in range(4)] == [20, 12, 8, 2]
    assert np.array_equal(chosen, nyu.validation(classes, scenes, 0.2, seed))


def test_pretrained_encoders_see_pictures_and_depth_as_grey(root, monkeypatch):
    """A stand-in with the signature of `encoders.ImageEncoder`; its token is a picture's first pixel."""
    seen = []

    class Encoder:
        def encode(self, images, cache, batch_size=32, data_hash=None):
            seen.append((len(images), batch_size, data_hash, images[7].shape, images[7].dtype))
            return [torch.from_numpy(images[i][:1, 0].astype("f4")) for i in range(len(images))]

    monkeypatch.setattr(nyu, "picture_encoder", lambda *_, **__: Encoder())
    sample = load_dataset("nyu", "test", image="some/model")[0]
    assert seen[0][2] != seen[1][2]
    for n, size, known, shape, dtype in seen:
        assert (n, size, shape, dtype) == (8, 32, (224, 224, 3), np.dtype("u1"))
        assert known
    assert sample.features["depth"].tolist() == [[26.0] * 3]  # 1 m of 10, in 255 levels


def test_pictures_for_an_encoder_inside_are_as_high_as_asked_for(root):
    settings = {"encode": False, "image": "efficientnet-lite0", "depth": "jet"}
    plain, high = (load_dataset("nyu", "test", **settings, **more) for more in ({}, {"height": 384}))
    assert {m: tuple(x.shape) for m, x in high[0].features.items()} == dict.fromkeys(
        ("image", "depth"), (1, 384, 512, 3)
    )
    assert plain[0].features["image"].shape == (1, 256, 341, 3)
    assert not set(plain.samples.keys.values()) & set(high.samples.keys.values())
    with pytest.raises(ValueError, match="height: found 481; expected 224 to 480 pixels"):
        load_dataset("nyu", height=481)


def test_patch_i_belongs_to_patch_i(root):
    sample = load_dataset("nyu", "test")[0]
    assert torch.equal(sample.partners["depth", "image"], torch.arange(49))


def test_the_27_scene_types_become_ten_classes():
    counts = dict.fromkeys(CLASSES, 0)
    for name in (*CLASSES[:-1], *OTHERS):
        counts[CLASSES[scene_class(name)]] += 1
    # 18 rare types, one of them in two spellings.
    assert counts == {**dict.fromkeys(CLASSES, 1), "others": 19}
    assert list(CLASSES) == sorted(CLASSES)
    with pytest.raises(DataError, match="scene type 'garage' is not one of"):
        scene_class("garage")


def test_a_root_may_be_the_folder_itself(written, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    copy = shutil.copytree(written, tmp_path / "elsewhere")
    assert len(load_dataset("nyu", "test", root=copy)) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"types": ("garage", *TYPES[1:])}, rf"{MAT}: scene type 'garage'"),
        ({"train": (1, 2, 9)}, r"splits.mat: trainNdxs is no list of row numbers from 1 to 8"),
        ({"train": (0, 2, 3)}, r"splits.mat: trainNdxs is no list"),
        ({"test": (6, 7)}, r"splits.mat: a frame is named twice"),
        ({"train": (1, 2, 3), "scenes": ("a",) * 8}, r"no scene can be spared"),
    ],
)
def test_wrong_contents_are_named(tmp_path, monkeypatch, options, says):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    write_mat(tmp_path, **options)
    with pytest.raises(DataError, match=says):
        load_dataset("nyu")


def test_wrong_fields_are_named(root):
    path = root / "nyuv2" / MAT
    with h5py.File(path, "a") as file:
        depths = file["depths"][:]
        del file["depths"]
        file["depths"] = depths.astype("f8")
    with pytest.raises(DataError, match=rf"{MAT}: depths is .* float64; expected \(N, 640, 480\) float32"):
        load_dataset("nyu")
    with h5py.File(path, "a") as file:
        del file["depths"]
    with pytest.raises(DataError, match=rf"{MAT}: no field 'depths'; found"):
        load_dataset("nyu")


def test_depths_that_are_no_depths_are_named(root):
    with h5py.File(root / "nyuv2" / MAT, "a") as file:
        file["depths"][7, 3, 3] = np.nan
    with pytest.raises(DataError, match="depths, frame 8, holds depths that are negative or not finite"):
        _ = load_dataset("nyu", "test")[0]


def test_files_cut_anywhere_are_clear_errors(root):
    draw = np.random.default_rng(0)
    for name in (MAT, SPLITS):
        path = root / "nyuv2" / name
        whole = path.read_bytes()
        for size in draw.integers(0, len(whole), 200):
            path.write_bytes(whole[:size])
            with pytest.raises(DataError, match=name):
                _ = [s.features for d in load_dataset("nyu").values() for s in d.samples]
        path.write_bytes(whole)
    assert load_dataset("nyu")


def test_missing_files_say_where_to_look(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    with pytest.raises(DataError, match=rf"no {MAT}, frames/ or {FOLDERS}/ .*data fetch nyu --frames.*data/README"):
        load_dataset("nyu", root=tmp_path)
    assert not is_present("nyu", tmp_path)


# --- frames/, with the package's table of labels ---------------------------------------------------------------------

# Runs of frames from 1 to 12: two bedrooms that a test frame parts, one kitchen, and a run of two types.
TABLE = """first,last,split,scene_type,label_source
1,2,train,bedroom,sun-rgbd
3,3,test,bedroom,test-list
4,5,train,bedroom,derived: order
6,8,train,kitchen,sun-rgbd
9,9,test,study,test-list
10,11,train,kitchen,sun-rgbd
12,12,train,exercise_room,derived: order
"""
FRAME_TYPES = ("bedroom",) * 5 + ("kitchen",) * 3 + ("study",) + ("kitchen",) * 2 + ("excercise_room",)


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """Twelve frames: picture n is PICTURE moved n rows down, depth is 2 m above and 2 + 0.1 n m below."""
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    (tmp_path / "table.csv").write_text(TABLE)
    monkeypatch.setattr(nyu_files, "SCENES", tmp_path / "table.csv")
    for n in range(12):
        for kind in ("images", "depths"):
            (tmp_path / "nyuv2" / "frames" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((480, 640, 3), 20 * n, np.uint8)).save(tmp_path / f"nyuv2/frames/images/{n}.jpg")
        depth = np.full((480, 640), 51, np.uint8)
        depth[240:] += round(2.55 * n)
        Image.fromarray(depth).save(tmp_path / f"nyuv2/frames/depths/{n}.png")
    return tmp_path / "nyuv2"


def load_plain(**options):
    return load_dataset("nyu", valid_fraction=0.4, **options)


def test_frames_have_the_tables_labels_and_say_which_are_derived(plain):
    splits = load_plain()
    kinds = {s.id: CLASSES[int(s.label)] for d in splits.values() for s in d.samples}
    expected = {1: "bedroom", 4: "bedroom", 6: "kitchen", 10: "kitchen", 12: "others"}
    assert {n: kinds[f"frame-{n:04d}"] for n in expected} == expected
    assert [s.id for s in splits["test"].samples] == ["frame-0003", "frame-0009"]
    for dataset in splits.values():
        assert "official split, 3 of 10 training labels derived" in dataset.protocol
        assert "by scene" in dataset.protocol
        assert not dataset.synthetic


@pytest.mark.parametrize("seed", range(5))
def test_frames_validate_by_runs_of_one_type_that_no_test_frame_parts(plain, seed):
    splits = load_plain(split_seed=seed)
    held = {int(s.id[-4:]) for s in splits["valid"].samples}
    scenes = ({1, 2}, {4, 5}, {6, 7, 8}, {10, 11}, {12})
    assert all(scene <= held or not scene & held for scene in scenes)
    assert held
    assert 12 not in held  # a class with one scene gives none
    groups = {s.group: int(s.id[-4:]) for d in splits.values() for s in d.samples}
    assert len(groups) == 7


def test_frames_are_in_place_and_their_depth_in_metres(plain):
    samples = load_plain()["test"].samples
    picture, depth = samples.item(0, "image"), samples.item(0, "depth")
    assert picture.shape == (224, 224, 3)
    assert np.allclose(picture, 40, atol=1)
    assert depth.dtype == np.float32
    assert np.allclose(depth[:100], 2.0)
    assert np.allclose(depth[124:], (51 + 5) / 25.5)
    assert load_plain(depth="hha")["test"].samples.item(0, "depth").shape == (224, 224, 3)


@pytest.mark.parametrize("depth", ["metres", "hha"])
def test_without_encoding_samples_hold_pictures_for_encoders_inside_the_model(plain, depth):
    data = load_plain(encode=False, image="some/model", depth=depth)["test"]
    sample = data[1]
    assert data.encoders == {"image": "some/model", "depth": "some/model"}
    assert {(x.shape, x.dtype) for x in sample.features.values()} == {((1, 256, 341, 3), torch.uint8)}
    assert torch.allclose(sample.features["image"].float(), torch.tensor(160.0), atol=1)
    if depth == "metres":  # grey, 10 m are white
        assert sample.features["depth"][0, 0, 0].tolist() == [51] * 3
        assert sample.features["depth"][0, 255, 0].tolist() == [71] * 3
    assert sample.group == "study from frame 9"
    assert not sample.partners
    assert data.protocol.endswith("encoders inside the model")
    assert set(data.batch().features["image"].shape) == {2, 1, 256, 341, 3}
    lean = data.samples.without(["image"])
    valid = load_plain(encode=False, image="some/model", depth=depth)["valid"].samples
    assert set(data.samples.keys) == {"image", "depth"}
    assert not set(data.samples.keys.values()) & set(valid.keys.values())
    shutil.rmtree(plain / "frames" / "images")
    assert set(lean[0].features) == {"depth"}  # and no picture was read


def test_wrong_frames_are_named(plain):
    with pytest.raises(ValueError, match="image: found 'patches' with encode=False"):
        load_dataset("nyu", encode=False)
    with pytest.raises(ValueError, match="filled: found False; frames/ holds depth with its holes filled"):
        load_dataset("nyu", filled=False)
    savemat(plain / SPLITS, {"trainNdxs": np.uint16([[1], [2]]), "testNdxs": np.uint16([[3]])})
    with pytest.raises(DataError, match=rf"{SPLITS}: another split than that of table.csv"):
        load_dataset("nyu")
    (plain / SPLITS).unlink()
    (plain / "frames/depths/2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"depths.2\.png: no readable picture"):
        load_plain()["test"][0]
    (plain / "frames/images/7.jpg").unlink()
    (plain / "frames/images/9.jpg").unlink()
    with pytest.raises(DataError, match=r"images.7\.jpg: not found, and 1 more of 24 frames' files"):
        load_dataset("nyu")


def test_check_reads_frames_and_sees_other_files(plain):
    contents = inspect(plain)
    assert "frames/ (8-bit depth)" in contents.format
    assert (len(contents.parts["train"].ids), len(contents.parts["test"].ids)) == (10, 2)
    assert "3 of 10 training labels derived" in contents.notes[0]
    assert "24 files are not the published ones by SHA-256" in contents.problems[0]


def test_check_compares_derived_labels_with_a_labelled_set(plain, written, monkeypatch):
    write_mat(plain, FRAME_TYPES, tuple("abcdefghijkl"), (1, 2, 4, 5, 6, 7, 8, 10, 11, 12), (3, 9))
    contents = inspect(plain)
    assert contents.notes[-1].endswith("equal to this file's sceneTypes 12 of 12, of the derived ones 3 of 3")
    assert not contents.problems
    wrong = (*FRAME_TYPES[:3], "kitchen", *FRAME_TYPES[4:])
    write_mat(plain, wrong, tuple("abcdefghijkl"), (1, 2, 4, 5, 6, 7, 8, 10, 11, 12), (3, 9))
    contents = inspect(plain)
    assert contents.problems == ["table.csv differs from sceneTypes in 1 frames: frame 4 bedroom, here kitchen"]
    assert contents.notes[-1].endswith("11 of 12, of the derived ones 2 of 3")


def test_the_real_frames(tmp_path):
    if not all(source.mirror() for source in (SOURCE, *FRAMES)):
        pytest.skip("the real frames are not in $ALIGNMAMBA2_MIRROR: python -m alignmamba2 data fetch nyu --frames")
    assert is_present("nyu", tmp_path)
    splits = load_dataset("nyu", root=tmp_path)
    assert [len(d) for d in splits.values()] == [618, 177, 654]
    assert "341 of 795 training labels derived" in splits["test"].protocol
    counts = torch.stack([x for d in splits.values() for x in d.labels]).bincount().tolist()
    published = {"bathroom": 121, "bedroom": 383, "bookstore": 36, "classroom": 49, "dining_room": 117}
    published |= {"home_office": 50, "kitchen": 225, "living_room": 221, "office": 78, "others": 169}
    assert dict(zip(CLASSES, counts, strict=True)) == published
    _, test = nyu_rows(tmp_path / "nyuv2" / SPLITS)
    assert [s.removeprefix("frame-") for s in splits["test"].samples.ids] == [f"{i + 1:04d}" for i in test]
    scenes = {split: {s.group for s in d.samples.without(["image", "depth"])} for split, d in splits.items()}
    assert sum(map(len, scenes.values())) == len(set().union(*scenes.values())) == 269
    depth = splits["test"].samples.item(0, "depth")
    assert 0.5 < depth.min() < depth.max() < 10


@pytest.mark.parametrize("options", [{"depth": "feet"}, {"valid_fraction": 1.0}, {"image": "no/such-model", "lens": 1}])
def test_wrong_options_are_refused(root, options):
    with pytest.raises(ValueError, match="|".join(options)):
        load_dataset("nyu", **options)


def test_the_official_split():
    source: Source = SOURCE
    folder = source.mirror()
    if folder is None:
        pytest.skip("the real splits.mat is not here: python -m alignmamba2 data fetch nyu")
    train, test = nyu_rows(folder / SPLITS)
    assert (len(train), len(test)) == (795, 654)
    assert sorted([*train, *test]) == list(range(1449))


@pytest.mark.parametrize("compressed", [False, True])
def test_tables_of_matlab_are_read_as_scipy_reads_them(tmp_path, compressed):
    rng = np.random.default_rng(0)
    tables = {
        f"{dtype}_{rows}": rng.integers(0, 99, (rows, 2)).astype(dtype)
        for dtype in ("u1", "i2", "u2", "i4", "u8", "f4", "f8")
        for rows in (0, 1, 5)
    }
    others = {"words": np.array(["a", "b"], object), "complex": np.array([1 + 2j]), "cell": {"x": 1}}
    path = tmp_path / "tables.mat"
    savemat(path, tables | others, do_compression=compressed)
    found, expected = read_matrices(path), loadmat(path)
    assert set(found) == set(tables)
    for name, table in found.items():
        assert table.shape == expected[name].shape
        assert np.array_equal(table, expected[name])


def test_a_table_that_unpacks_to_more_than_it_may_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "tables.mat"
    savemat(path, {f"zeros{i}": np.zeros(50) for i in range(5)}, do_compression=True)
    monkeypatch.setattr(nyu_files, "MATRIX_ROOM", 1000)
    with pytest.raises(DataError, match=r"tables.mat: .*cut off, or they are larger than"):
        read_matrices(path)


def test_a_table_with_any_byte_changed_is_read_or_refused(tmp_path):
    path = tmp_path / "tables.mat"
    savemat(path, {"rows": np.arange(6, dtype=np.uint16)[:, None]})
    whole = path.read_bytes()
    for at in range(126, len(whole)):
        for value in (0, 1, 14, 0x7F, 0xFF):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with suppress(DataError):
                read_matrices(path)


def nyu_rows(path):
    from alignmamba2.datasets.formats.nyu_files import read_splits

    return read_splits(path, 1449)


# --- folders --------------------------------------------------------------------------------------------------------


def test_folders_are_split_at_half_the_width(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    write_folders(tmp_path)
    splits = load_dataset("nyu", valid_fraction=0.34)
    assert {s: len(d) for s, d in splits.items()} == {"train": 4, "valid": 2, "test": 6}
    assert splits["test"].n_classes == 2
    assert [int(y) for y in splits["test"].labels] == [0, 0, 0, 1, 1, 1]
    first = splits["test"][2].features
    assert torch.allclose(first["image"][:, :48], torch.tensor(20 / 255))
    assert np.allclose(first["depth"], patches(resized(PICTURE[:40, :50])), atol=1e-6)
    with pytest.raises(ValueError, match="depth, filled"):
        load_dataset("nyu", depth="hha")


def test_a_cut_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    write_folders(tmp_path)
    path = tmp_path / FOLDERS / "test" / "kitchen" / "1.png"
    whole = path.read_bytes()
    for size in np.random.default_rng(1).integers(0, len(whole) - 12, 50):  # the last 12 bytes are the end mark
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"1\.png: no readable picture"):
            _ = load_dataset("nyu", "test", valid_fraction=0.34)[4].features
    assert any("1.png" in problem for problem in inspect(tmp_path).problems)


def test_folders_with_other_classes_in_test_are_refused(tmp_path):
    write_folders(tmp_path)
    (tmp_path / FOLDERS / "test" / "cellar").mkdir()
    with pytest.raises(DataError, match=r"cellar.*expected the same"):
        load_dataset("nyu", root=tmp_path)


# --- depth as three channels ----------------------------------------------------------------------------------------


def plane(normal, distance):
    """Depth of the plane n · x = distance, as the camera of NYU-Depth V2 sees it."""
    u, v = np.meshgrid((np.arange(640) - CX) / FX, (np.arange(480) - CY) / FY)
    return distance / (np.stack([u, v, np.ones_like(u)], -1) @ np.asarray(normal, float))


def test_points_and_normals_of_a_plane():
    n = np.array([0.2, -0.3, 1.0]) / np.linalg.norm([0.2, -0.3, 1.0])
    cloud = points(plane(n, 3.0))
    assert np.allclose(cloud @ n, 3.0)
    assert np.allclose(normals(cloud)[10:-10, 10:-10], -n, atol=1e-6)


def test_gravity_is_found_from_a_tilted_room():
    down = np.array([0.1, 0.95, 0.25])
    down /= np.linalg.norm(down)
    side = np.cross(down, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    draw = np.random.default_rng(0)
    n = np.repeat([-down, side, -side, np.cross(side, down)], 200, axis=0)
    found = gravity(n + 0.02 * draw.standard_normal(n.shape))
    assert found @ down > 0.999


def test_hha_of_a_floor_and_of_a_wall():
    floor = plane((0, 1, 0), 1.5)
    seen = np.where((floor > 0) & (floor < 8), floor, 0)
    channels = hha(seen)
    below = channels[185:, 20:-20]
    assert np.all(np.abs(below[..., 2].astype(int) - 218) <= 1)  # a floor looks against gravity: 180 + 38
    assert below[..., 1].max() <= 3  # and is the ground
    assert np.all(channels[seen[::2, ::2] == 0] == 0)
    wall = hha(np.full((480, 640), 4.0))
    assert np.all(wall[20:-20, 20:-20, 2] == 128)
    assert np.all(wall[..., 0] == round(31000 / 400))
    assert np.all(np.diff(wall[:, 100, 1].astype(int)) <= 0)  # heights fall from the top of the picture to its bottom


# --- pictures -------------------------------------------------------------------------------------------------------


def test_patches_are_in_place():
    picture = np.zeros((224, 224, 3), np.uint8)
    picture[32:64, 64:96] = (255, 0, 51)  # row 1, column 2
    tokens = patches(picture).reshape(7, 7, -1)
    assert np.allclose(tokens[1, 2, :48].reshape(16, 3), (1, 0, 0.2))
    assert np.allclose(np.delete(tokens.reshape(49, -1), 9, axis=0)[:, :48], 0)
    slope = np.arange(224, dtype=np.float32)[None].repeat(224, 0)
    assert np.allclose(patches(slope)[:, 16:], np.eye(8)[0])  # one grey level a pixel, to the right
    with pytest.raises(ValueError, match="multiple of 28"):
        patches(picture[:100, :100])


def test_resizing():
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 150:250] = 200
    assert np.all(central(wide)[:, 5:-5] == 200)  # what is in the middle
    assert central(wide).shape == resized(wide).shape == (224, 224, 3)
    holes = np.where(np.arange(300)[:, None] % 2, 5.0, 0.0) + np.zeros(300)
    assert set(np.unique(nearest(holes))) == {0, 5}


# --- mini-nyu -------------------------------------------------------------------------------------------------------


def test_a_ray_gives_the_distance_to_what_it_meets():
    colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], float)
    room = Room((4, 3, 6), np.array([[1.5, 0, 3, 2.5, 1.8, 4]]), colors)
    picture, depth = render(room, (2, 1.5, 0), yaw=0, pitch=0)
    row, column = round(CY / 2), round(CX / 2)
    assert np.isclose(depth[row, column], 3)  # the box straight ahead
    assert np.isclose(depth[row, 0], 2 * FX / (CX - 0.5), atol=1e-3)  # the left wall
    assert np.isclose(depth[2, column], min(6, 1.5 * FY / (CY - 4.5)), atol=1e-3)  # the ceiling
    assert np.all(picture[row, column][:2] > 0.5)
    assert picture[row, column, 2] == 0
    twice = Room((8, 6, 12), 2 * room.boxes, colors)
    again, far = render(twice, (4, 3, 0), yaw=0, pitch=0)
    assert np.allclose(again, picture, atol=1e-6)  # scale cannot be seen
    assert np.allclose(far, 2 * depth, rtol=1e-5)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    return root, load_dataset("mini-nyu", root=root, size=80)


def test_mini_nyu_has_the_real_format(generated):
    root, splits = generated
    (folder,) = (root / "cache").glob("mini-nyu-*")
    with h5py.File(folder / MAT) as file:
        assert {name: (file[name].shape[1:], file[name].dtype) for name in ("images", "depths", "rawDepths")} == {
            "images": ((3, 640, 480), np.dtype("u1")),
            "depths": ((640, 480), np.dtype("f4")),
            "rawDepths": ((640, 480), np.dtype("f4")),
        }
        first = file[file["sceneTypes"][0, 0]]
        assert (first.ndim, first.shape[1], first.dtype) == (2, 1, np.dtype("u2"))
        assert file.userblock_size == 512
    assert (folder / MAT).read_bytes()[:10] == b"MATLAB 7.3"
    rows = loadmat(folder / SPLITS)
    assert (rows["trainNdxs"].shape, rows["testNdxs"].shape) == ((80, 1), (40, 1))
    assert rows["trainNdxs"].dtype == np.uint16
    assert sorted(np.concatenate([rows["trainNdxs"], rows["testNdxs"]]).ravel()) == list(range(1, 121))
    for d in splits.values():
        assert d.synthetic
        assert d.protocol.startswith("synthetic")
        assert set(map(int, d.labels)) == set(range(10))


def test_mini_nyu_what_each_modality_knows(generated):
    """The planted structure: nearest class means on each modality, and on both."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, splits = generated
    x = {s: {m: f.flatten(1).numpy() for m, f in d.batch().features.items()} for s, d in splits.items()}
    y = {s: np.array(d.labels) for s, d in splits.items()}
    pairs = [[mini_nyu.PAIRS[k][large] for large in (0, 1)] for k in range(5)]
    scheme = {CLASSES.index(name): k for k, pair in enumerate(pairs) for name in pair}
    large = {CLASSES.index(name): k for pair in pairs for k, name in enumerate(pair)}

    def score(modality, what):
        train, test = (np.array([what[c] for c in y[s].tolist()]) for s in ("train", "test"))
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        return model.fit(x["train"][modality], train).score(x["test"][modality], test)

    assert score("image", scheme) > 0.85
    assert score("depth", large) > 0.85
    assert score("image", large) < 0.75  # chance is 1/2
    assert score("depth", scheme) < 0.5  # chance is 1/5


def test_mini_nyu_is_repeatable_and_read_from_both_formats(tmp_path):
    one, two = (list(islice(mini_nyu.frames(3, 60, 30), 6)) for _ in range(2))
    assert all(np.array_equal(a.depth, b.depth) and a.scene == b.scene for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0].depth, next(mini_nyu.frames(4, 40, 20)).depth)
    paths = mini_nyu.make(tmp_path / "there", format="folders", seed=3, size=60)
    assert len(paths) == 90
    splits = load_dataset("nyu", root=tmp_path / "there")
    assert splits["test"].modalities == {"image": 56, "depth": 56}
    assert splits["test"].synthetic
    with pytest.raises(DataError, match="there: not empty"):
        mini_nyu.make(tmp_path / "there", size=60)
    assert not list(tmp_path.glob("*.part"))


def test_check_sees_scenes_and_classes(generated):
    root, _ = generated
    (folder,) = (root / "cache").glob("mini-nyu-*")
    contents = inspect(folder)
    assert contents.group_name == "scene"
    assert contents.synthetic
    assert {s: len(p.labels) for s, p in contents.parts.items()} == {"train": 80, "test": 40}
    assert not set(contents.parts["train"].groups) & set(contents.parts["test"].groups)
    assert contents.parts["train"].fields["depths"].shape == (120, 640, 480)
