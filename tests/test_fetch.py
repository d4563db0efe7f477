"""Fetching many files by index: from a server on this machine, from a mirror, interrupted, with wrong bytes."""

import hashlib
import lzma
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignmamba2 import register_dataset
from alignmamba2.__main__ import main
from alignmamba2.datasets import ENTRIES, DataError, fetch
from alignmamba2.datasets.fetch import Source, read_index
from alignmamba2.datasets.formats import mvsa_files, nyu_files

FILES = {f"pictures/{i}.jpg": bytes([i]) * (100 + i) for i in range(7)} | {"depths/0.png": b"depth", "notes.txt": b"n"}


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]
    busy = 0  # answers that are refusals

    def do_GET(self):
        if type(self).busy:
            type(self).busy -= 1
            self.send_error(429)
            return
        self.asked.append(self.path.lstrip("/"))
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that is served on this machine, with `asked`, the paths that were requested."""
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "home"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    handler = type("Handler", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", handler.asked, handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The index of the files, packed as in the package; a function of a folder that returns its part."""
    text = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()).encode()
    monkeypatch.setattr(fetch, "PUBLISHED", tmp_path)
    (tmp_path / "made.sha256.xz").write_bytes(lzma.compress(text))
    return lambda below="": read_index("made.sha256", hashlib.sha256(text).hexdigest(), below)


def files_in(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_files_of_an_index_come_and_come_once(home, index):
    _, url, asked, _ = home
    source = Source("set", url, index())
    folder = source.fetch(progress=False)
    assert files_in(folder) == FILES
    assert sorted(asked) == sorted(FILES)
    source.fetch(progress=False)
    assert len(asked) == len(FILES)


def test_a_busy_home_is_asked_again(home, index):
    _, url, asked, handler = home
    handler.busy = 2
    assert files_in(Source("set", url, index()).fetch(progress=False)) == FILES
    assert sorted(asked) == sorted(FILES)


def test_an_index_may_be_of_one_folder(home, index):
    _, url, asked, _ = home
    folder = Source("set/images", url + "pictures/", index("pictures/")).fetch(progress=False)
    assert sorted(files_in(folder)) == [f"{i}.jpg" for i in range(7)]
    assert all(path.startswith("pictures/") for path in asked)


def test_a_fetch_that_broke_off_goes_on_and_leaves_nothing_half(home, index):
    home_folder, url, asked, _ = home
    source = Source("set", url, index())
    (home_folder / "pictures/4.jpg").write_bytes(b"<html>a web page</html>")
    with pytest.raises(DataError, match=r"pictures.4\.jpg: could not be fetched from http.*hash"):
        source.fetch(progress=False)
    folder = fetch.data_root() / "set"
    before = files_in(folder)
    assert before
    assert before.items() < FILES.items()  # each file that is there is whole
    (home_folder / "pictures/4.jpg").write_bytes(FILES["pictures/4.jpg"])
    asked.clear()
    source.fetch(progress=False)
    assert files_in(folder) == FILES
    assert sorted(asked) == sorted(FILES.keys() - before.keys())


def test_a_file_that_was_changed_is_brought_again(home, index):
    source = Source("set", home[1], index())
    folder = source.fetch(progress=False)
    (folder / "notes.txt").write_bytes(b"changed")
    assert source.hashes_in(folder)[1] == ["notes.txt"]
    source.fetch(progress=False)
    assert files_in(folder) == FILES


def test_the_licence_is_said_before_anything_is_asked(index, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    source = Source("set", "http://127.0.0.1:9/", index(), licence="none stated; research data of nobody")
    source.__dict__["_downloader"] = lambda: ((lambda *_: (_ for _ in ()).throw(OSError("no network"))), 0)
    with pytest.raises(DataError, match="no network"):
        source.fetch(tmp_path)
    assert "9 files; licence there: none stated; research data of nobody" in capsys.readouterr().out
    assert not files_in(tmp_path / "set")


def test_a_mirror_takes_the_place_of_the_network(home, index, tmp_path, monkeypatch):
    source = Source("home", home[1], index())
    monkeypatch.setenv("ALIGNMAMBA2_MIRROR", str(tmp_path))
    assert source.at_hand()
    assert files_in(source.fetch(progress=False)) == FILES
    assert not home[2]
    (tmp_path / "home" / "depths/0.png").unlink()
    (fetch.data_root() / "home" / "depths/0.png").unlink()
    assert not source.at_hand()
    with pytest.raises(DataError, match=r"0\.png: not found; ALIGNMAMBA2_MIRROR is set"):
        source.fetch(progress=False)


def test_a_damaged_index_is_refused(index, tmp_path):
    (tmp_path / "made.sha256.xz").write_bytes(lzma.compress(b"0  notes.txt\n"))
    with pytest.raises(DataError, match=r"made\.sha256\.xz: damaged"):
        list(index())


def test_fetch_brings_more_where_it_is_asked_to(home, index, capsys):
    _, url, *_ = home
    small = {"notes.txt": hashlib.sha256(FILES["notes.txt"]).hexdigest()}
    pictures = Source("set/pictures", url + "pictures/", index("pictures/"), licence="of the pictures")
    more = {"": [Source("set", url, small, licence="of the notes")], "pictures": [pictures]}
    first = Source("set/depths", url + "depths/", index("depths/"))
    register_dataset("two-homes", lambda root: {}, source=first, more=more)
    try:
        assert main(["data", "fetch", "two-homes"]) == 0
        assert sorted(files_in(fetch.data_root())) == ["set/depths/0.png", "set/notes.txt"]
        assert "of the pictures" not in capsys.readouterr().out
        assert main(["data", "fetch", "two-homes", "--pictures"]) == 0
        assert "licence there: of the pictures" in capsys.readouterr().out
        assert len(files_in(fetch.data_root())) == len(FILES)
        assert main(["data", "fetch", "two-homes", "--frames"]) == 1
        assert "has no frames of its own to fetch" in capsys.readouterr().err
    finally:
        del ENTRIES["two-homes"]


def test_published_indices_are_whole():
    """Each index has its published SHA-256 (`read_index` looks), and names what the sets consist of."""
    tweets = set(mvsa_files.TWEETS.hashes)
    numbers = {name.removesuffix(".jpg") for name in tweets if name.endswith(".jpg")}
    assert tweets == {f"{n}.{end}" for n in numbers for end in ("jpg", "txt")}
    assert len(numbers) == 2592
    images, depths = (set(source.hashes) for source in nyu_files.FRAMES)
    assert images == {f"{n}.jpg" for n in range(1449)}
    assert depths == {f"{n}.png" for n in range(1449)}
    for source in (mvsa_files.TWEETS, *nyu_files.FRAMES):
        assert source.licence.startswith("none stated; research data of")
        assert all(len(digest) == 64 for digest in source.hashes.values())


def test_the_table_of_scenes_is_the_published_one():
    """Written out frame by frame, it has the SHA-256 that the index of the frames has for scenes.csv."""
    table = nyu_files.read_scenes()
    lines = ["index_1based,file,split,scene_type,class10,label_source"]
    for i, (kind, train, origin) in enumerate(zip(table.types, table.train, table.origins, strict=True)):
        name = nyu_files.CLASSES[nyu_files.scene_class(kind)]
        lines.append(f"{i + 1},{i},{'train' if train else 'test'},{kind},{name},{origin}")
    text = "\r\n".join([*lines, ""]).encode()
    published = read_index(**{**fetch._sources()["nyu_images"]["index"], "below": ""})["scenes.csv"]
    assert hashlib.sha256(text).hexdigest() == published
