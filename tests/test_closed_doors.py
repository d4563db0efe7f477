"""What hostile files ask for and do not get, and what sound but unusual files hold and is read right."""

import h5py
import numpy as np
import pytest
from PIL import Image

from alignmamba2.datasets import DataError
from alignmamba2.datasets.formats import hdf5, images
from alignmamba2.datasets.formats.hdf5 import opened, plain, reading
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
