"""Downloads continue where they broke, and archives stay inside their folder."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastictool.corpora.archives import extract
from elastictool.corpora.base import CORPORA, CorpusOptions, DownloadableCorpus
from elastictool.corpora.download import download
from elastictool.utils.errors import ElasticToolError
from tests.helpers.corpus_trees import TREES

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class _Server(ThreadingHTTPServer):
    """Serves ``content`` at every address, and misbehaves as set."""

    content = CONTENT
    etag: str | None = '"1"'
    drop_after: list[int]
    lie = 0
    refuses_empty_ranges = False
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
        if start >= len(self.server.content) and self.server.refuses_empty_ranges:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(self.server.content) - start + self.server.lie))
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
    download(server.url, tmp_path / "a", checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
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
    with pytest.raises(ElasticToolError, match="SHA256"):
        download(server.url, tmp_path / "a", checksum=f"sha256:{0:064}")
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


def test_a_server_that_promises_more_than_it_has_is_given_up(
    server: _Server, tmp_path: Path
) -> None:
    server.lie = 500
    with pytest.raises(ElasticToolError, match="broke off at 3,000,000 bytes"):
        download(server.url, tmp_path / "a")
    server.refuses_empty_ranges = True
    with pytest.raises(ElasticToolError, match="broke off"):
        download(server.url, tmp_path / "a")
    assert len(server.requests) < 20
    server.lie, server.refuses_empty_ranges = 0, False
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


# The corpora that can be fetched

FETCHED = [name for name in CORPORA if isinstance(CORPORA[name], DownloadableCorpus)]
TOP_FOLDERS = {"fsdd": "free-spoken-digit-dataset-1.0.10/", "esc50": "ESC-50-master/"}


def release(name: str, folder: Path, evil: str = "") -> bytes:
    """The archive of a corpus as it is published, with more in it than clips."""
    tree = TREES[name](folder)
    assert tree is not None
    (tree / "README.md").write_text("about")
    top = TOP_FOLDERS.get(name, "")
    files = {f"{top}{path.relative_to(tree)}": path.read_bytes() for path in _files(tree)}
    files |= {evil: b"evil"} if evil else {}
    buffer = io.BytesIO()
    if name == "esc50":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for member, content in files.items():
                packed.writestr(member, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


def served(server: _Server, name: str, content: bytes, checksum: str = "") -> Any:
    """The corpus, to be fetched from the test's server."""
    server.content = content
    right = f"md5:{hashlib.md5(content).hexdigest()}"
    return replace(CORPORA[name], url=server.url, checksum=checksum or right)


@pytest.mark.parametrize("name", FETCHED)
def test_a_corpus_is_fetched_over_a_bad_line_into_what_it_lists(
    name: str, server: _Server, tmp_path: Path
) -> None:
    corpus = served(server, name, release(name, tmp_path / "release"))
    server.drop_after = [5_000, 1, 0, 2_000]
    corpus.download(tmp_path / "raw")
    asked = len(server.requests)
    assert asked == 5 and server.requests[1] == "bytes=5000-"
    expected = corpus.list_clips(tmp_path / "release", CorpusOptions())
    listing = corpus.list_clips(tmp_path / "raw", CorpusOptions())
    assert listing.clips == expected.clips and listing.label_names == expected.label_names
    assert not [
        path for path in _files(tmp_path / "raw") if path.suffix in (".zip", ".gz", ".part")
    ]
    corpus.download(tmp_path / "raw")
    assert len(server.requests) == asked
    (tmp_path / "raw" / listing.clips[0].path).unlink()
    corpus.download(tmp_path / "raw")
    assert len(server.requests) == asked + 1
    assert corpus.list_clips(tmp_path / "raw", CorpusOptions()) == listing


@pytest.mark.parametrize("name", FETCHED)
def test_a_corpus_with_another_checksum_is_not_unpacked(
    name: str, server: _Server, tmp_path: Path
) -> None:
    content = release(name, tmp_path / "release")
    for checksum in (f"sha256:{0:064}", f"md5:{0:032}"):
        with pytest.raises(ElasticToolError, match="checksum") as raised:
            served(server, name, content, checksum).download(tmp_path / "raw")
        assert "by hand" in raised.value.hint
        assert _files(tmp_path / "raw") == []


@pytest.mark.parametrize("lie", [-3_000, 3_000], ids=["less", "more"])
@pytest.mark.parametrize("name", FETCHED)
def test_a_corpus_whose_length_is_a_lie_is_not_unpacked_and_can_be_fetched_again(
    name: str, lie: int, server: _Server, tmp_path: Path
) -> None:
    corpus = replace(served(server, name, release(name, tmp_path / "release")), checksum="")
    server.lie = lie
    with pytest.raises(ElasticToolError, match=r"not a readable|broke off"):
        corpus.download(tmp_path / "raw")
    server.lie = 0
    corpus.download(tmp_path / "raw")
    assert corpus.list_clips(tmp_path / "raw", CorpusOptions()).missing == []


@pytest.mark.parametrize("name", FETCHED)
def test_a_corpus_whose_archive_leaves_its_folder_is_refused_whole(
    name: str, server: _Server, tmp_path: Path
) -> None:
    content = release(name, tmp_path / "release", evil="../../evil.wav")
    with pytest.raises(ElasticToolError, match="outside the target folder"):
        served(server, name, content).download(tmp_path / "a" / "raw")
    assert _files(tmp_path / "a") == []


def test_the_published_checksums_are_well_formed() -> None:
    for name in FETCHED:
        checksum = getattr(CORPORA[name], "checksum")  # noqa: B009
        assert re.fullmatch(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})?", checksum)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "..\\evil"])
def test_an_archive_that_leaves_its_folder_is_refused_whole(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for member in ("good", name):
            tar.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(ElasticToolError, match="outside the target folder"):
        extract(archive, tmp_path / "to" / "here")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


def test_links_in_an_archive_are_not_made(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert extract(archive, tmp_path / "to") == 0
    assert not (tmp_path / "to").exists()


def test_a_broken_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(ElasticToolError, match="not a readable tar archive"):
        extract(tmp_path / "a.tar.gz", tmp_path / "to")
