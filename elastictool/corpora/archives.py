"""Corpora that come as one archive: fetched, verified and unpacked once.

An archive is unpacked member by member, and one that tries to leave its folder is refused whole.
What was unpacked is noted, so that the same command does not fetch it again.
"""

from __future__ import annotations

import fnmatch
import json
import lzma
import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from elastictool.corpora.download import download
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import atomic_path, walk_files, write_json
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress


@dataclass(frozen=True)
class Archive:
    """Where a corpus is fetched, and what of it is unpacked.

    Attributes:
        url: http(s) address of a tar or zip archive.
        name: What the archive is called on the disk; ``.zip`` says which of the two it is.
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
    """Download, verify and unpack ``archive`` into ``root``, unless that was done before.

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
        unpack = extract_zip if file.suffix == ".zip" else extract_tar
        progress.log(f"unpacking {file}")
        try:
            count = sum(unpack(file, root, wanted, archive.strip) for wanted in archive.wanted)
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
    """An archive that cannot be unpacked, or must not be."""


def extract_tar(archive: Path, target: Path, wanted: str = "*", strip: int = 0) -> int:
    """Unpack regular files of a tar archive below ``target``; returns how many.

    Args:
        archive: Any tar that Python reads (gz, bz2, xz).
        target: Folder to unpack into.
        wanted: Pattern that a member's path (after ``strip``) has to match.
        strip: Leading folders to take off.

    Raises:
        BadArchive: Not a readable archive, or a member would land outside ``target``.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                _refuse_escape(archive, member.name)
            return sum(_extract(tar, member, target, wanted, strip) for member in members)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadArchive(
            f"{archive} is not a readable tar archive: {error}", "run the same command again"
        ) from error


def extract_zip(archive: Path, target: Path, wanted: str = "*", strip: int = 0) -> int:
    """Unpack regular files of a zip archive below ``target``, as ``extract_tar``; returns how many.

    Each member's own checksum (CRC-32) is verified while it is unpacked.

    Raises:
        BadArchive: Not a readable archive, or a member would land outside ``target``.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                _refuse_escape(archive, info.filename)
            return sum(_unzip(packed, info, target, wanted, strip) for info in packed.infolist())
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise BadArchive(
            f"{archive} is not a readable zip archive: {error}", "run the same command again"
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
        raise BadArchive(
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
