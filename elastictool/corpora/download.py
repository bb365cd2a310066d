"""Fetches corpora that come as one archive: downloads, verifies and unpacks it, once.

The bytes go to ``FILE.part``. A dropped connection is resumed (HTTP Range, guarded by the ETag
so that two versions are never joined), at once and after a restart; ``pooch`` does not resume. A
note of what was unpacked keeps the same command from fetching it again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from elastictool.corpora.archives import BadArchive, extract, matches
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import walk_files, write_json
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

_BLOCK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 5


class _Dropped(Exception):
    """The connection ended before the file did."""


def download(url: str, target: Path, progress: Progress = SILENT, checksum: str = "") -> None:
    """Fetches ``url`` to ``target``; continues from ``target.part``.

    Args:
        url: http(s) address.
        target: Where the file goes; if it exists, nothing is fetched.
        progress: Shows megabytes and ETA.
        checksum: ``sha256:HEX`` or ``md5:HEX`` that is expected; empty is unchecked.

    Raises:
        ElasticToolError: Not reachable, dropped again and again without progress, or the
            checksum differs. What has arrived stays for the next call.
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_persistently(url, part, progress)
        algorithm, _, expected = checksum.partition(":")
        if checksum and (found := _checksum(part, algorithm)) != expected:
            part.unlink()
            raise ElasticToolError(
                f"{url} has the {algorithm.upper()} checksum {found}, expected {expected}",
                "the file was damaged on its way: try again; if it was replaced there, look at "
                "what has changed and fetch it by hand (prep without --download says where to put "
                "it)",
            )
        os.replace(part, target)
    except OSError as error:
        raise ElasticToolError(
            f"cannot write {target}: {error.strerror or error}",
            "check the free space and the rights of the folder",
        ) from error


def _fetch_persistently(url: str, part: Path, progress: Progress) -> None:
    """Tries again while new bytes arrive; gives up after some attempts without any."""
    failures, most = 0, _size(part)
    while True:
        try:
            _fetch(url, part, progress)
            return
        except _Dropped as drop:
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= _ATTEMPTS:
                raise ElasticToolError(
                    f"download of {url} broke off at {_size(part):,} bytes: {drop}",
                    "check the network and run the same command again: it continues",
                ) from drop


def _fetch(url: str, part: Path, progress: Progress) -> None:
    have = _size(part)
    etag_file = part.with_name(part.name + ".etag")
    request = urllib.request.Request(url)
    if have and etag_file.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag_file.read_text())
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0
            etag, length = (response.headers.get(name) for name in ("ETag", "Content-Length"))
            # Only a strong ETag allows joining two responses.
            if etag and not etag.startswith("W/"):
                etag_file.write_text(etag)
            else:
                etag_file.unlink(missing_ok=True)
            expected = None if length is None else have + int(length)
            total_mb = None if expected is None else expected / 1e6
            mode = "ab" if have else "wb"
            with part.open(mode) as file, progress.task("download (MB)", total_mb) as bar:
                bar.advance(have / 1e6)
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
                    have += len(block)
                    bar.advance(len(block) / 1e6)
            if expected is not None and have < expected:
                raise _Dropped(f"{have:,} of {expected:,} bytes arrived")
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _Dropped("the server has no such range; starting over") from error
        raise ElasticToolError(
            f"the server refuses {url}: {error.code} {error.reason}",
            "check the address, or fetch the file by hand",
        ) from error
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as drop:
        raise _Dropped(str(getattr(drop, "reason", drop))) from drop
    etag_file.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(file: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def fetch_archive(
    url: str,
    root: Path,
    name: str,
    checksum: str = "",
    wanted: Sequence[str] = ("*",),
    strip: int = 0,
    progress: Progress = SILENT,
) -> None:
    """Downloads, verifies and unpacks an archive into ``root``, unless that was done before.

    Args:
        url: http(s) address of a tar or zip archive.
        root: Folder of the corpus.
        name: File name of the archive on disk; with the ending ``.zip`` it is a zip.
        checksum: As in ``download``; empty where none is published, so that only the checksums
            inside the archive are verified.
        wanted: Patterns of the members that are unpacked, after ``strip``.
        strip: Leading folders to take off.
        progress: Shows megabytes and ETA.

    Raises:
        UsageError: Another process is fetching it.
        ElasticToolError: As ``download``; or it cannot be unpacked, and is deleted.
    """
    noted, file = root / f".{name}.unpacked", root / name
    hint = "wait for it, then run the same command without --download"
    with hold(root / f".{name}.lock", f"{root} is being downloaded", hint):
        try:
            note = json.loads(noted.read_bytes())
            present = sum(matches(found.path, wanted) for found in walk_files(root))
        except (OSError, ValueError):
            note, present = None, 0
        if note == {"url": url, "files": present}:
            progress.log(f"{url} was unpacked into {root} before")
            return
        download(url, file, progress, checksum)
        progress.log(f"unpacking {file}")
        try:
            count = extract(file, root, wanted, strip)
        except BadArchive:
            file.unlink()
            raise
        write_json(noted, {"url": url, "files": count})
        file.unlink()
