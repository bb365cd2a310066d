"""Fetch, verify and unpack corpora that come as one archive, once.

An archive is unpacked member by member; one with a member outside its folder is refused whole.
A note of what was unpacked keeps the same command from fetching it again.
"""

from __future__ import annotations

import fnmatch
import json
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from elastictool.corpora.download import download
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import atomic_path, walk_files, write_json
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

_Opener = Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Archive:
    """The address of a corpus, and which members are unpacked.

    Attributes:
        url: http(s) address of a tar or zip archive.
        name: File name of the archive on disk; ``.zip`` says which of the two it is.
        checksum: ``sha256:HEX`` or ``md5:HEX``; empty where none is published, so that only the
            checksums inside the archive are verified.
        wanted: Patterns of the members that are unpacked, after ``strip``.
        strip: Leading folders to take off.
    """

    url: str
    name: str
    checksum: str = ""
    wanted: tuple[str, ...] = ("*",)
    strip: int = 0


def fetch(archive: Archive, root: Path, progress: Progress = SILENT) -> None:
    """Downloads, verifies and unpacks ``archive`` into ``root``, unless that was done before.

    Raises:
        UsageError: Another process is fetching it.
        ElasticToolError: As ``download``; or it cannot be unpacked, and is deleted.
    """
    noted = root / f".{archive.name}.unpacked"
    hint = "wait for it, then run the same command without --download"
    with hold(root / f".{archive.name}.lock", f"{root} is being downloaded", hint):
        if _is_unpacked(archive, root, noted):
            progress.log(f"{archive.url} was unpacked into {root} before")
            return
        file = root / archive.name
        download(archive.url, file, progress, archive.checksum)
        progress.log(f"unpacking {file}")
        try:
            count = extract(file, root, archive.wanted, archive.strip)
        except BadArchive:
            file.unlink()
            raise
        write_json(noted, {"url": archive.url, "files": count})
        file.unlink()


def _is_unpacked(archive: Archive, root: Path, noted: Path) -> bool:
    """Whether all that was unpacked of this archive still lies there."""
    try:
        note = json.loads(noted.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    there = sum(
        any(fnmatch.fnmatchcase(file.path, pattern) for pattern in archive.wanted)
        for file in walk_files(root)
    )
    return bool(note == {"url": archive.url, "files": there})


class BadArchive(ElasticToolError):
    """An archive that cannot be unpacked, or would write outside its folder."""


def extract(archive: Path, target: Path, wanted: Sequence[str] = ("*",), strip: int = 0) -> int:
    """Unpacks regular files of an archive below ``target``; links and devices are never made.

    The checksum of a zip member (CRC-32) is verified while it is unpacked.

    Args:
        archive: A zip, if it is called so, else any tar that Python reads (gz, bz2, xz).
        target: Folder to unpack into.
        wanted: Patterns of which a member's path (after ``strip``) has to match one.
        strip: Leading folders to take off.

    Returns:
        The number of files.

    Raises:
        BadArchive: Not a readable archive, or a member would land outside ``target``.
    """
    count = 0
    try:
        with _opened(archive) as members:
            for name, _ in members:
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise BadArchive(
                        f"{archive} holds {name!r}, which would land outside the target folder",
                        "do not trust this archive; nothing was unpacked",
                    )
            for name, opened in members:
                inside = PurePosixPath(*PurePosixPath(name).parts[strip:])
                if opened and any(fnmatch.fnmatchcase(str(inside), one) for one in wanted):
                    with (
                        opened() as source,
                        atomic_path(target / inside) as temporary,
                        temporary.open("wb") as file,
                    ):
                        shutil.copyfileobj(source, file)
                    count += 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        kind = "zip" if archive.suffix == ".zip" else "tar"
        raise BadArchive(
            f"{archive} is not a readable {kind} archive: {error}", "run the same command again"
        ) from error
    return count


@contextmanager
def _opened(archive: Path) -> Iterator[list[tuple[str, _Opener | None]]]:
    """Yields name and opener of each member; members that are no regular files have no opener."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield [
                (info.filename, None if info.is_dir() else partial(packed.open, info))
                for info in packed.infolist()
            ]
        return
    with tarfile.open(archive) as tar:
        yield [
            (
                member.name,
                cast(_Opener, partial(tar.extractfile, member)) if member.isfile() else None,
            )
            for member in tar.getmembers()
        ]
