"""Downloads continue where they broke, and archives stay inside their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from elastictool.corpora.base import CorpusOptions
from elastictool.corpora.download import download, extract_tar
from elastictool.corpora.fsdd import Fsdd
from elastictool.errors import ElasticToolError
from tests.corpus_trees import fsdd_tree

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class _Server(ThreadingHTTPServer):
    """Serves ``content`` at every address, and misbehaves as told."""

    content = CONTENT
    etag: str | None = '"1"'
    drop_after: list[int]
    requests: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.path == "/gone":
            self.send_error(404)
            return
        same = self.headers.get("If-Range") == self.server.etag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        self.send_response(206 if start else 200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        stop = start + self.server.drop_after.pop(0) if self.server.drop_after else None
        self.wfile.write(self.server.content[start:stop])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.drop_after, server.requests = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_dropped_connection_is_taken_up_where_it_broke(server: _Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000, 500_000]
    download(server.url, tmp_path / "a", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_later_call_continues_an_earlier_one(server: _Server, tmp_path: Path) -> None:
    server.drop_after = [700_000, *([0] * 5)]
    with pytest.raises(ElasticToolError, match="broke off at 700,000 bytes"):
        download(server.url, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    download(server.url, tmp_path / "a")
    assert server.requests[-1] == "bytes=700000-"
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_joined(server: _Server, tmp_path: Path) -> None:
    server.drop_after = [700_000, *([0] * 5)]
    with pytest.raises(ElasticToolError):
        download(server.url, tmp_path / "a")
    server.etag, server.content = '"2"', CONTENT[::-1]
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_without_an_etag_a_broken_download_starts_over(server: _Server, tmp_path: Path) -> None:
    server.etag, server.drop_after = None, [1_000]
    download(server.url, tmp_path / "a")
    assert server.requests == [None, None]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_forgotten(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(ElasticToolError, match="SHA-256"):
        download(server.url, tmp_path / "a", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_the_server_is_reported(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(ElasticToolError, match="404"):
        download(server.url.replace("archive.tar.gz", "gone"), tmp_path / "a")


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ElasticToolError, match="broke off at 0 bytes"):
        download("http://127.0.0.1:9/a", tmp_path / "a")


def test_what_is_there_is_not_fetched_again(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"here")
    download(server.url, tmp_path / "a")
    assert server.requests == []


def test_fsdd_is_fetched_and_unpacked_into_what_it_lists(server: _Server, tmp_path: Path) -> None:
    release = fsdd_tree(tmp_path / "free-spoken-digit-dataset-1.0.10", digits=2)
    (release / "utils").mkdir()
    (release / "utils" / "code.py").write_text("no recording")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(release, arcname=release.name)
    server.content, server.drop_after = buffer.getvalue(), [5_000]
    corpus = Fsdd(url=server.url)
    corpus.download(tmp_path / "raw")
    listing = corpus.list_clips(tmp_path / "raw", CorpusOptions())
    assert len(listing.clips) == 16
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["recordings"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "..\\evil"])
def test_an_archive_that_leaves_its_folder_is_refused_whole(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for member in ("good", name):
            tar.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(ElasticToolError, match="outside the target folder"):
        extract_tar(archive, tmp_path / "to" / "here")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


def test_links_in_an_archive_are_not_made(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert extract_tar(archive, tmp_path / "to") == 0
    assert not (tmp_path / "to").exists()


def test_a_broken_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(ElasticToolError, match="not a readable tar archive"):
        extract_tar(tmp_path / "a.tar.gz", tmp_path / "to")
