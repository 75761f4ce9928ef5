"""Fetching an archive from a server of our own: whole, resumed, wrong, and without a network."""

import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace

import pytest

from data.config import STREAMS
from data.errors import InputError
from data.images.files import Origin, find_folder
from data.sources import download


@pytest.fixture
def server():
    """-> (address, bytes it serves, the Range headers it was sent); it breaks off the first answer half-way"""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, text in (("things/a.txt", b"a" * 5000), ("things/b.txt", b"b")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    content, ranges = held.getvalue(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802 - the library's name
            asked = self.headers.get("Range")
            ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            body = content[start:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if len(ranges) == 1 else body)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/things.tar", content, ranges
    running.shutdown()
    running.server_close()


def test_a_broken_download_goes_on_and_is_unpacked(server, tmp_path):
    url, content, ranges = server
    origin = Origin("things", url, hashlib.md5(content).hexdigest())
    config = replace(STREAMS["cub200"], root=str(tmp_path), download=True)
    assert (find_folder(config, origin) / "a.txt").read_text() == "a" * 5000
    assert ranges == [None, f"bytes={len(content) // 2}-"]
    find_folder(config, origin)
    assert len(ranges) == 2  # nothing is fetched twice


def test_another_archive_is_refused(server, tmp_path):
    url, _, _ = server
    with pytest.raises(InputError, match="not the published archive"):
        find_folder(replace(STREAMS["cub200"], root=str(tmp_path), download=True), Origin("things", url, "0" * 32))
    assert not (tmp_path / "things").exists()


def test_nothing_is_fetched_unasked(server, tmp_path):
    url, _, ranges = server
    with pytest.raises(InputError, match="stream.download=true"):
        find_folder(replace(STREAMS["cub200"], root=str(tmp_path)), Origin("things", url, "0" * 32))
    assert not ranges


def test_without_a_network_the_sentence_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="fetch it on a machine with a network, save it as"):
        download.download("http://127.0.0.1:9/none.tar", tmp_path / "none.tar")
