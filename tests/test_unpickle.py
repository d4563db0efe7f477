"""The reader of pickles: the same as pickle.load for data, and nothing at all for anything else."""

import builtins
import contextlib
import copyreg
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2.datasets import DataError
from alignmamba2.datasets.formats import unpickle
from alignmamba2.datasets.formats.unpickle import LARGE, UnsafePickle, read_pickle
from alignmamba2.storage.files import FileArray, FileError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.binary()
SETS = st.sets(KEYS) | st.frozensets(KEYS)
DATA = st.recursive(SCALARS | SETS, lambda x: st.lists(x) | st.tuples(x, x) | st.tuples(x) | st.dictionaries(KEYS, x))


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def whole(value):
    return value[:] if isinstance(value, FileArray) else value


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_scalars_are_those_of_pickle(protocol, tmp_path):
    @settings(max_examples=60, deadline=None)
    @given(DATA)
    def check(value):
        found = read_pickle(write(tmp_path / "x.pkl", value, protocol))
        assert found == value
        assert type(found) is type(value)

    check()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype="<f4").reshape(2, 3, 4),
        np.arange(6, dtype=">i8"),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12)[::2],
        np.array(["03bSnISJMiM$_$11", "dé"]),
        np.array([b"ab", b"cde"]),
        np.array([True, False]),
        np.array(["x", None, 2.5, [1, 2], [3, 4]], object),
        np.array(3.5),
        np.zeros((0, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        np.random.default_rng(0).standard_normal((300, 100)),  # larger than LARGE: stays in the file
        np.asfortranarray(np.random.default_rng(0).standard_normal((300, 100))),
        np.random.default_rng(0).standard_normal((20, 30, 40)).transpose(1, 0, 2),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_are_those_of_pickle(protocol, array, tmp_path):
    path = write(tmp_path / "x.pkl", {"a": array, "again": array, "n": np.float32(2.5)}, protocol)
    found, expected = read_pickle(path), pickle.loads(path.read_bytes())
    for name in ("a", "again"):
        x = whole(found[name])
        assert x.dtype.newbyteorder("=") == expected[name].dtype.newbyteorder("=")  # NumPy may turn bytes round
        assert x.shape == array.shape
        assert x.tolist() == array.tolist()
    assert found["n"] == np.float32(2.5)
    assert found["n"].dtype == np.float32


def test_numpy_1_and_2_name_their_parts_differently(tmp_path):
    content = pickle.dumps(np.arange(3), 2)
    old, new = content.replace(b"numpy._core", b"numpy.core"), content.replace(b"numpy.core", b"numpy._core")
    for text in (old, new):
        (tmp_path / "x.pkl").write_bytes(text)
        assert read_pickle(tmp_path / "x.pkl").tolist() == [0, 1, 2]
    assert old != new


def test_strings_of_python_2(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}(U\x05trainU\x02\xff\x00S'it\\'s'\nK\x01u.")
    assert read_pickle(tmp_path / "x.pkl") == {"train": b"\xff\x00", "it's": 1}


def test_a_large_array_is_not_read_until_its_rows_are(tmp_path):
    array = np.random.default_rng(0).standard_normal((1000, 50)).astype("f4")
    found = read_pickle(write(tmp_path / "x.pkl", [array]))[0]
    assert isinstance(found, FileArray)
    assert array.nbytes > LARGE
    assert np.array_equal(found[10:13], array[10:13])
    assert np.array_equal(found[-1], array[-1])
    assert found[5:5].shape == (0, 50)
    assert np.array_equal(found[::-2, 3], array[::-2, 3])
    with (tmp_path / "x.pkl").open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(FileError, match=r"x\.pkl: ends inside an array"):
        found[900:]


@pytest.mark.parametrize("protocol", range(6))
def test_bytearrays_and_long_texts_are_read(protocol, tmp_path):
    value = [bytearray(b"ab\xff"), bytearray(), "é" * LARGE]
    assert read_pickle(write(tmp_path / "x.pkl", value, protocol)) == value


def test_bytes_as_large_as_an_array_stay_in_the_file(tmp_path):
    (found,) = read_pickle(write(tmp_path / "x.pkl", [b"ab" * LARGE]))
    assert found[:].tobytes() == b"ab" * LARGE


# --- what is refused -----------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(os.system, "touch {path}"), r"\w+\.system"),
        (Evil(builtins.eval, "1 + 1"), r"\w+\.eval"),
        (Evil(builtins.getattr, np, "load"), r"\w+\.getattr"),
        ({"train": [({"x": Evil(os.system, "true")},)]}, r"\w+\.system"),
        (np.array([1, Evil(os.system, "true")], object), r"\w+\.system"),
        (Evil(np.load, "x"), r"numpy\.load"),
        (os.path.join, r"posixpath\.join|ntpath\.join"),
        (Evil, r"test_unpickle\.Evil"),
    ],
    ids=["os.system", "eval", "getattr", "nested", "in an array", "numpy.load", "a function", "a class"],
)
def test_malicious_pickles_are_refused_by_name(protocol, value, name, tmp_path):
    if isinstance(value, Evil) and value.call[0] is builtins.getattr:
        value = Evil(builtins.getattr, "numpy", "load")  # a module itself cannot be pickled
    path = write(tmp_path / "x.pkl", value, protocol)
    with pytest.raises(UnsafePickle, match=rf"x\.pkl: refused, it asks for .*{name}"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", r"posix\.system"),  # STACK_GLOBAL
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", r"numpy\.ndarray\.__class__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x07memmap\x00\x93.", "no readable pickle|refused"),
        (b"cnumpy\nndarray\n(tR.", "no readable pickle|refused"),
        (b"(iposix\nsystem\n.", r"posix\.system"),  # INST
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"P1\n.", "PERSID"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x80\x02K\x01)\x81.", "NEWOBJ"),
        (b"\x80\x04K\x01)}\x92.", "NEWOBJ_EX"),
        (b"(K\x01o.", "OBJ"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"}}b.", "BUILD"),
        (b"\x80\x02K\x01\x85K\x01R.", "call of something that is no known name|no readable"),
    ],
)
def test_opcodes_that_can_run_code_are_refused(content, says, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_pickle(tmp_path / "x.pkl")


def test_an_extension_registered_here_is_refused_too(tmp_path):
    copyreg.add_extension("posixpath", "join", 240)
    try:
        path = write(tmp_path / "x.pkl", os.path.join, 2)
        assert pickle.loads(path.read_bytes()) is os.path.join
        with pytest.raises(UnsafePickle, match="EXT1"):
            read_pickle(path)
    finally:
        copyreg.remove_extension("posixpath", "join", 240)


def array_opcodes(shape, dtype, content):
    """A pickle of an array that says one thing and holds another."""
    head = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    small = [pickle.dumps(x, 2)[2:-1] for x in (shape, np.dtype(dtype))]
    return head + b"".join(small) + b"\x89B" + struct.pack("<I", len(content)) + content + b"tb."


@pytest.mark.parametrize(
    "content",
    [
        array_opcodes((10**12,), "<f4", b"abcd"),
        array_opcodes((10**6, 10**6), "<f4", b""),
        array_opcodes((-1,), "<f4", b"abcd"),
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",  # bytes longer than the file
        b"\x80\x04B\xff\xff\xff\xffx.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x04\x8b\xff\xff\xff\x7fx.",  # a number of 2 GB
        b"h\x05.",
        b"0.",
        b".",
        b"t.",
        b"\xf0.",
        b"}(" + b")" + b"\x85" * 9 + b"K\x01u.",  # a tuple as a key
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_nonsense_is_a_clear_error_and_takes_no_memory(content, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pkl: (no readable pickle|a web page|a pointer of Git LFS)"):
        read_pickle(tmp_path / "x.pkl")


def test_a_missing_and_an_empty_file_are_named(tmp_path):
    (tmp_path / "x.pkl").touch()
    for name in ("x.pkl", "y.pkl"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_pickle(tmp_path / name)


FROM_BUFFER = b"\x80\x02cnumpy.core.numeric\n_frombuffer\nq\x000"
BYTES = struct.pack("<I", LARGE - 1) + b"a" * (LARGE - 1)
BYTE, OBJECT = (b"cnumpy\ndtype\n(U\x02%bK\x00K\x01tR" % code for code in (b"u1", b"|O"))
OBJECTS = b"(](" + b"K\x00" * 2000 + b"e"
COLLIDING = [pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"N" for i in range(8, 30_000)]
AGAIN = b"q\x010](" + b"h\x00h\x01R" * 100_000 + b"e."
HUGE = {
    "arrays of the same bytes": FROM_BUFFER + b"(B" + BYTES + BYTE + b"M\xff\xff\x85U\x01Ct" + AGAIN,
    "arrays of the same objects": FROM_BUFFER + OBJECTS + OBJECT + b"M\xd0\x07\x85U\x01Ct" + AGAIN,
    "encoded texts": b"\x80\x02c_codecs\nencode\nq\x000X" + BYTES + b"\x85" + AGAIN,
    "a list of itself twice": b"]q\x00(h\x00h\x00e.",
    "lists of lists, twice each": b"]q\x00" + b"0](h\x00h\x00eq\x00" * 40 + b".",
    "deep lists": b"]" * 20_000 + b"a" * 19_999 + b".",
    "deep tuples": b")" + b"\x85" * 20_000 + b".",
    "keys of one hash": b"}(" + b"".join(COLLIDING) + b"u.",
    "empty sets": b"](" + b"\x8f" * (1 << 20) + b"e.",
    "a shape of many": FROM_BUFFER + b"(B" + BYTES + BYTE + b"(" + b"M\xff\xff" * 99_000 + b"tU\x01CtR.",
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_what_grows_beyond_the_file_is_refused_in_little_memory_and_time(content, tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "READS", 1 << 19)
    (tmp_path / "x.pkl").write_bytes(content)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(DataError, match=r"x\.pkl: no readable pickle"):
        read_pickle(tmp_path / "x.pkl")
    assert time.process_time() - started < 20
    assert tracemalloc.get_traced_memory()[1] < 9 * len(content) + (1 << 28)
    tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(b"\x80\x04" + content)
    with contextlib.suppress(DataError):  # nothing else may be raised, and nothing may be run
        read_pickle(path)
