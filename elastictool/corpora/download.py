"""Fetching an archive so that nothing is lost or overwritten by accident.

The bytes gather in ``FILE.part``; a dropped connection is taken up where it broke (HTTP Range,
guarded by the ETag so that two versions are never joined), at once and after a restart. An
archive is unpacked member by member, and one that tries to leave its folder is refused whole.
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from elastictool.errors import ElasticToolError
from elastictool.files import atomic_path
from elastictool.progress import SILENT, Progress, Task

_BLOCK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 5


class _Dropped(Exception):
    """The connection ended before the file did."""


def download(url: str, target: Path, progress: Progress = SILENT, sha256: str = "") -> None:
    """Fetch ``url`` to ``target``; continues from ``target.part``.

    Args:
        url: http(s) address.
        target: Where the file goes; already there, nothing is fetched.
        progress: Shows megabytes and ETA.
        sha256: Expected checksum in hex; empty is unchecked.

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
        _check_sha256(url, part, sha256)
        os.replace(part, target)
    except OSError as error:
        raise ElasticToolError(
            f"cannot write {target}: {error.strerror or error}",
            "check the free space and the rights of the folder",
        ) from error


def _fetch_persistently(url: str, part: Path, progress: Progress) -> None:
    """Try again while bytes arrive; give up after some attempts without any."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, progress)
            return
        except _Dropped as drop:
            failures = 0 if _size(part) > before else failures + 1
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
            _remember_etag(response.headers.get("ETag"), etag_file)
            _receive(response, part, have, progress)
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


def _receive(response: http.client.HTTPResponse, part: Path, have: int, progress: Progress) -> None:
    length = response.headers.get("Content-Length")
    expected = have + int(length) if length is not None else None
    total_mb = None if expected is None else expected / 1e6
    with part.open("ab" if have else "wb") as file, progress.task("download (MB)", total_mb) as bar:
        bar.advance(have / 1e6)
        received = have + _copy(response, file, bar)
    if expected is not None and received < expected:
        raise _Dropped(f"{received:,} of {expected:,} bytes arrived")


def _copy(response: http.client.HTTPResponse, file: IO[bytes], bar: Task) -> int:
    received = 0
    while block := response.read(_BLOCK_BYTES):
        file.write(block)
        received += len(block)
        bar.advance(len(block) / 1e6)
    return received


def _remember_etag(etag: str | None, etag_file: Path) -> None:
    """Only a strong ETag allows joining two answers."""
    if etag and not etag.startswith("W/"):
        etag_file.write_text(etag)
    else:
        etag_file.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_sha256(url: str, part: Path, sha256: str) -> None:
    if not sha256:
        return
    with part.open("rb") as file:
        found = _digest(file)
    if found != sha256:
        part.unlink()
        raise ElasticToolError(
            f"{url} has SHA-256 {found}, expected {sha256}",
            "the file was damaged or replaced on its way: try again",
        )


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def extract_tar(archive: Path, target: Path, wanted: str = "*", strip: int = 0) -> int:
    """Unpack regular files of a tar archive below ``target``; returns how many.

    Args:
        archive: Any tar that Python reads (gz, bz2, xz).
        target: Folder to unpack into.
        wanted: Pattern that a member's path (after ``strip``) has to match.
        strip: Leading folders to take off.

    Raises:
        ElasticToolError: Not a readable archive, or a member would land outside ``target``.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                _refuse_escape(archive, member.name)
            return sum(_extract(tar, member, target, wanted, strip) for member in members)
    except (tarfile.TarError, EOFError) as error:
        raise ElasticToolError(
            f"{archive} is not a readable tar archive: {error}", "delete it and download again"
        ) from error


def extract_zip(archive: Path, target: Path, wanted: str = "*", strip: int = 0) -> int:
    """Unpack regular files of a zip archive below ``target``, as ``extract_tar``; returns how many.

    Each member's own checksum (CRC-32) is verified while it is unpacked.

    Raises:
        ElasticToolError: Not a readable archive, or a member would land outside ``target``.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                _refuse_escape(archive, info.filename)
            return sum(_unzip(packed, info, target, wanted, strip) for info in packed.infolist())
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ElasticToolError(
            f"{archive} is not a readable zip archive: {error}", "delete it and download again"
        ) from error


def _unzip(
    packed: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, wanted: str, strip: int
) -> bool:
    inside = PurePosixPath(*PurePosixPath(info.filename).parts[strip:])
    if info.is_dir() or not fnmatch.fnmatchcase(str(inside), wanted):
        return False
    with (
        packed.open(info) as source,
        atomic_path(target / inside) as temporary,
        temporary.open("wb") as file,
    ):
        shutil.copyfileobj(source, file)
    return True


def _refuse_escape(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ElasticToolError(
            f"{archive} holds {name!r}, which would land outside the target folder",
            "do not trust this archive; nothing was unpacked",
        )


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, wanted: str, strip: int
) -> bool:
    """Write one member; links and devices are never made."""
    inside = PurePosixPath(*PurePosixPath(member.name).parts[strip:])
    if not member.isfile() or not fnmatch.fnmatchcase(str(inside), wanted):
        return False
    source = tar.extractfile(member)
    if source is None:
        return False
    with source, atomic_path(target / inside) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(source, file)
    return True
