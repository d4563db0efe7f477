"""What hostile files ask for and do not get, and what sound but unusual files hold and is read right."""

import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

from alignmamba2.__main__ import main
from alignmamba2.datasets import DataError
from alignmamba2.datasets.contents import Contents, Field, Part, report
from alignmamba2.datasets.formats import hdf5, images
from alignmamba2.datasets.formats.hdf5 import opened, plain, reading, values
from alignmamba2.datasets.formats.images import central, read_picture


@pytest.fixture
def secret(tmp_path):
    """A file of the user's that a data set has no business with."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4.0)
    return path


def linked(file, secret):
    file["a/b"] = h5py.ExternalLink(secret.name, "x")


def stored_outside(file, secret):
    file.create_dataset("a/b", (8,), "u1", external=[(str(secret), 0, 8)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(secret, "x", (4,))
    file.create_virtual_dataset("a/b", layout)


@pytest.mark.parametrize("write", [linked, stored_outside, virtual])
def test_hdf5_reads_no_other_file(tmp_path, secret, write):
    path = tmp_path / "hostile.csd"
    with h5py.File(path, "w") as file:
        write(file, secret)
    says = r"hostile\.csd: refused, ('a/b' leads to another file|the numbers of '/a/b' lie in other files)"
    with pytest.raises(DataError, match=says), reading(path, ""):
        pass


def test_a_data_set_that_a_reference_leads_to_is_looked_at_too(tmp_path, secret):
    with h5py.File(tmp_path / "hostile.mat", "w") as file:
        stored_outside(file, secret)
        file.create_dataset("only", data=file["a/b"].ref, dtype=h5py.ref_dtype)
        with pytest.raises(DataError, match="the numbers of '/a/b' lie in other files"):
            plain(tmp_path / "hostile.mat", file[file["only"][()]])


def test_declared_sizes_are_compared_with_what_is_stored(tmp_path):
    path = tmp_path / "bomb.csd"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1 << 30,), "f8", chunks=(1 << 12,), compression="gzip")
    with pytest.raises(DataError, match=r"bomb\.csd: '/x' says that it is \(1073741824,\)"):
        opened(path)


def test_a_file_is_looked_through_again_when_it_changes(tmp_path, secret):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1.0
    hdf5._look_through.cache_clear()
    for _ in range(2):
        opened(path).close()
    assert hdf5._look_through.cache_info().hits == 1
    with h5py.File(path, "a") as file:
        linked(file, secret)
    with pytest.raises(DataError, match="leads to another file"):
        opened(path)


def test_groups_and_the_sum_of_all_sizes_are_bounded(tmp_path):
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["/".join("a" * 20)] = 1.0
    with pytest.raises(DataError, match=r"deep\.h5: groups nested deeper than 16"):
        opened(tmp_path / "deep.h5")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for i in range(3):
            file.create_dataset(f"x{i}", (3 << 20,), "f8", chunks=(1 << 12,))
    with pytest.raises(DataError, match=r"many\.h5: its data sets say"):
        opened(tmp_path / "many.h5")


def test_a_chunk_holds_what_it_says(tmp_path):
    content = np.arange(1 << 20, dtype="f8")
    pack = zlib.compressobj()
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(100)) + pack.flush()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        options = {"chunks": (1 << 17,), "compression": "gzip", "shuffle": True, "fletcher32": True}
        sound = file.create_dataset("sound", data=content, **options)
        assert np.array_equal(values(tmp_path / "x.h5", sound), content)
        assert values(tmp_path / "x.h5", sound, 5) == 5
        hostile = file.create_dataset("hostile", (1 << 17,), "f8", chunks=(1 << 17,), compression="gzip")
        hostile.id.write_direct_chunk((0,), bomb)
        with pytest.raises(DataError, match="'/hostile': a chunk holds more than the 1048576 bytes"):
            values(tmp_path / "x.h5", hostile)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((8,))
        plist.set_deflate(9)
        plist.set_deflate(9)
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"twice", h5py.h5t.NATIVE_DOUBLE, space, plist)
        with pytest.raises(DataError, match="'/twice' is compressed by filters"):
            plain(tmp_path / "x.h5", file["twice"])


def test_texts_that_are_stored_once_and_stand_in_each_place_are_counted(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        texts = file.create_dataset("x", data=["é", "bc"] * 10, dtype=h5py.string_dtype())
        assert [t.decode() for t in values(tmp_path / "x.h5", texts)] == ["é", "bc"] * 10
        monkeypatch.setattr(hdf5, "ROOM", -256 * (tmp_path / "x.h5").stat().st_size + 30)
        with pytest.raises(DataError, match="20 texts, more than 100000 or"):
            values(tmp_path / "x.h5", texts)
        monkeypatch.setattr(hdf5, "TEXTS", 19)
        with pytest.raises(DataError, match="20 texts, more than 19 or"):
            values(tmp_path / "x.h5", texts)


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_no_control_character_reaches_the_terminal(tmp_path, capsys):
    path = tmp_path / "\x1b]0;title\x07.pkl"
    path.write_bytes(b"nothing")
    assert main(["data", "check", str(path)]) == 1
    assert main(["train", "\x1b[31m\x9b\u202e"]) == 1
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", "").isprintable()
    part = Part({"\x1b[2J": Field((1,), "f4")}, np.array([1.0]))
    text = report(Contents(tmp_path, "\x1b[31m", {"\x1b[1A": part}, notes=["\r\x08"]))
    assert text.replace("\n", "").isprintable()
    assert r"\x1b[2J" in text


# --- pictures --------------------------------------------------------------------------------------------------------


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    path = tmp_path / "1.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match=r"1\.jpg: no readable picture"):
        read_picture(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (100, 90)).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "PIXELS", 8999)
    with pytest.raises(DataError, match=r"100 × 90 pixels; at most 8999"):
        read_picture(tmp_path / "x.png")


def test_a_picture_of_one_row_is_cut_before_it_is_scaled(monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: sizes.append(size) or resize(self, size, *a))
    assert central(np.zeros((1, 100_000, 3), np.uint8)).shape == (224, 224, 3)
    assert sizes == [(2048, 256)]


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(32, 32)
    for name in ("x.png", "x.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert (picture == picture[..., :1]).all()
        assert np.abs(picture[..., 0] - ramp / 257).max() <= 0.5


def test_floats_are_refused_by_name(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff: .*mode 'F'"):
        read_picture(tmp_path / "x.tiff")


def test_a_picture_stands_as_its_orientation_says(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture.save(tmp_path / "x.png", exif=exif)
    turned = read_picture(tmp_path / "x.png")
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].tolist() == [255] * 3
