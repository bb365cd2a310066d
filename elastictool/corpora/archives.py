"""Unpacks archives: regular files only, below one folder, as far as there is room.

An archive with a member outside the folder is refused before anything is written, and so is one
whose members are far larger than they could be: some kilobytes can hold terabytes of zeros.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from elastictool.utils.errors import ElasticToolError, is_lack
from elastictool.utils.io import atomic_path, open_file
from elastictool.utils.optional import describe_error

_BLOCK_BYTES = 1 << 20
_MOST_FOLD, _ALWAYS_BYTES = 100, 1 << 30
"""An archive may unpack to so many times its size, and to so many bytes in any case: recordings
shrink to a third or so, tables to a tenth, and only silence to less than a hundredth."""
_MOST_PADDING = 64
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1
"""Bit of a zip member's flags."""


class BadArchive(ElasticToolError):
    """An archive that is damaged, or would write outside its folder."""


class _Member(NamedTuple):
    """A member of an archive; ``handle`` is what its library opens it by."""

    name: str
    size: int
    is_file: bool
    handle: Any


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
        ElasticToolError: It is encrypted, compressed in an unknown way, larger than it should be
            or than the disk has room for, or a file cannot be written.
    """
    is_zip = archive.suffix == ".zip"
    with _damage(archive), open_file(archive) as file, _opened(file, is_zip) as packed:
        files = {
            inside: member
            for member in _members(archive, target, packed)
            if (inside := PurePosixPath(*PurePosixPath(member.name).parts[strip:])).parts
            and member.is_file
            and matches(str(inside), wanted)
        }
        for member in files.values() if is_zip else ():
            _refuse_unreadable(archive, target, member.handle)
        for inside, member in files.items():
            with (
                (packed.open if is_zip else packed.extractfile)(member.handle) as source,
                atomic_path(target / inside) as temporary,
                temporary.open("wb") as unpacked,
            ):
                while block := _read(archive, source):
                    unpacked.write(block)
        if not is_zip:
            _read_to_end(packed.fileobj)
    return len(files)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether ``path`` matches one of ``patterns``."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Turns what the libraries raise for damaged archives, which is anything, into one error."""
    try:
        yield
    except (ElasticToolError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_lack(error):
            raise
        kind = "zip" if archive.suffix == ".zip" else "tar"
        raise BadArchive(
            f"{archive} is not a readable {kind} archive: {describe_error(error)}",
            "run the same command again",
        ) from error


_ZIP_END_BYTES = 22 + 0xFFFF
"""Largest size of the last record of a zip, whose comment may have 64 kB."""


class _Header(tarfile.TarInfo):
    """A header of a tar; a damaged one is an error, which tarfile takes for the end otherwise."""

    @classmethod
    def frombuf(cls, *arguments: Any) -> Any:
        """Returns the header in a block of bytes."""
        try:
            return super().frombuf(*arguments)
        except tarfile.HeaderError as error:
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(f"a damaged header ({error})") from error
            raise


def _opened(file: Any, is_zip: bool) -> Any:
    if not is_zip:
        return tarfile.open(fileobj=file, tarinfo=_Header)
    packed = zipfile.ZipFile(file)
    file.seek(max(0, file.seek(0, os.SEEK_END) - _ZIP_END_BYTES))
    end = file.read()
    (count,) = struct.unpack_from("<H", end, end.rfind(b"PK\5\6") + 10)
    found = len(packed.infolist())  # a wrong length in one record hides those after it
    if count not in (found, 0xFFFF):  # the latter of archives with more members
        raise zipfile.BadZipFile(f"{found} of {count} members can be found")
    return packed


def _members(archive: Path, target: Path, packed: Any) -> list[_Member]:
    """Returns all members, once it is certain that they belong and fit below ``target``."""
    room, members, total = _Room(archive, target), [], 0
    for each in packed.infolist() if isinstance(packed, zipfile.ZipFile) else packed:
        if isinstance(each, zipfile.ZipInfo):
            if "\0" in each.orig_filename:  # zipfile cuts it there, perhaps to that of a folder
                raise zipfile.BadZipFile(f"the name {each.orig_filename!r} holds a zero byte")
            member = _Member(each.filename, each.file_size, not each.is_dir(), each)
        else:
            member = _Member(each.name, each.size, each.isfile(), each)
        if member.size < 0:  # tarfile would read the same header for ever
            raise ValueError(f"{member.name!r} has a size below 0")
        _refuse_escape(archive, member.name)
        total += member.size
        room.check(total)
        members.append(member)
    return members


class _Room:
    """How much an archive may unpack to, by its size and by the free space of the disk."""

    def __init__(self, archive: Path, target: Path) -> None:
        there = next(filter(os.path.exists, (target, *target.absolute().parents)))
        self._archive, self._target = archive, target
        self._free = shutil.disk_usage(there).free
        self._most = max(_ALWAYS_BYTES, _MOST_FOLD * archive.stat().st_size)

    def check(self, total: int) -> None:
        """Raises ElasticToolError if members of ``total`` bytes are too many."""
        size = f"{self._archive} unpacks to {total / 1e9:,.1f} GB or more"
        if total > self._most:
            raise ElasticToolError(
                f"{size}, over {_MOST_FOLD} times its size; nothing was unpacked",
                _by_hand("if you trust it", self._target),
            )
        if total > self._free:
            raise ElasticToolError(
                f"{size}, and the disk of {self._target} has {self._free / 1e9:,.1f} GB left",
                "make room, or choose another --root",
            )


def _by_hand(condition: str, target: Path) -> str:
    return f"{condition}, unpack it yourself into {target} and leave --download out"


def _refuse_unreadable(archive: Path, target: Path, info: zipfile.ZipInfo) -> None:
    """Raises ElasticToolError for a member that Python cannot unpack, though it is sound."""
    if info.flag_bits & _ENCRYPTED:
        raise ElasticToolError(
            f"{archive} is encrypted ({info.filename})",
            _by_hand("if you have the password", target),
        )
    if info.compress_type not in _METHODS:
        names = getattr(zipfile, "compressor_names", {})
        name = names.get(info.compress_type, "unknown")
        raise ElasticToolError(
            f"{archive} is compressed by method {info.compress_type} ({name}), which Python cannot "
            f"unpack ({info.filename})",
            _by_hand("if you have a program that can (7z, unzip)", target),
        )


def _read(archive: Path, source: Any) -> bytes:
    """Returns the next block; its errors are OSErrors too, but not those of the file written."""
    with _damage(archive):
        block: bytes = source.read(_BLOCK_BYTES)
        return block


def _read_to_end(file: Any) -> None:
    """Reads what follows the end of a tar: gzip, bzip2 and xz check the whole only there."""
    blocks = 0
    while file.read(_BLOCK_BYTES):
        blocks += 1
        if blocks > _MOST_PADDING:
            raise ValueError("something follows its end")


def _refuse_escape(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise BadArchive(
            f"{archive} holds {name!r}, which would land outside the target folder",
            "do not trust this archive; nothing was unpacked",
        )
