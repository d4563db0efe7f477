"""`start`: JupyterLab listens on this machine alone, and answers nobody without its token."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

pytest.importorskip("jupyterlab")


def asked(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def server(tmp_path):
    """The real one, as the command starts it; what it says of itself."""
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "secret.txt").write_text("nobody may read this")
    (tmp_path / "CONFIG").mkdir()
    # Nobody's own settings; as root, as in containers, Jupyter wants to be told that this is meant.
    (tmp_path / "CONFIG" / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    homes = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable,
        "-m",
        "alignmamba2",
        "start",
        str(tmp_path / "course"),
        "--no-browser",
        "--port",
        "38421",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **homes}, stdout=log, stderr=log, start_new_session=True)
    try:
        while not (found := list(tmp_path.glob("RUNTIME/jpserver-*.json"))):
            if process.poll() is not None:
                raise AssertionError((tmp_path / "log").read_text())
            time.sleep(0.2)
        about = json.loads(found[0].read_text())
        while "http://127.0.0.1" not in (tmp_path / "log").read_text():
            time.sleep(0.2)
        yield about | {"process": process}
    finally:
        with suppress(ProcessLookupError):  # a test ended it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(os.name == "nt", reason="process groups are ended in another way there")
def test_start_serves_this_machine_alone_and_nobody_without_the_token(server):
    assert server["hostname"] == "127.0.0.1"
    assert len(server["token"]) >= 32
    assert server["password"] is False
    base = server["url"]
    for path in ("api/contents", "api/contents/secret.txt", "api/kernels", "api/sessions", "api/terminals"):
        assert asked(base + path)[0] == 403, path
    for path in ("files/secret.txt", "lab"):  # a browser is led to a page that asks for the token
        _, body = asked(base + path)
        assert b"nobody may read this" not in body
        assert b"Token authentication is enabled" in body, path
    for wrong in ("", "0" * len(server["token"])):
        assert asked(f"{base}api/contents?token={wrong}")[0] == 403
    assert asked(base + "api/kernels", b"{}")[0] == 403  # nobody starts a program either
    status, body = asked(f"{base}api/contents?token={server['token']}")
    assert status == 200
    assert [x["name"] for x in json.loads(body)["content"]] == ["secret.txt"]
    if sys.platform == "linux":  # did it listen on every address of this machine, this one would be taken
        with socket.socket() as other:
            other.bind(("127.0.0.2", server["port"]))
    server["process"].send_signal(signal.SIGTERM)  # to `start` alone, as a service manager does
    server["process"].wait(timeout=120)
    with pytest.raises(urllib.error.URLError):
        asked(base)
