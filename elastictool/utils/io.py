"""Writing files so that a crash leaves the old one or the new one, and reading those of users.

Users' trees hold links, leavings and our own results beside the data, and their texts come from
other systems: which files count, and how a text is read, is decided here once.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from elastictool.utils.errors import ElasticToolError, UsageError, write_error

INFO_NAME = "dataset.json"
"""What a folder of prepared data holds when it is finished, ..."""
PROGRESS_FOLDER, LOCK_NAME = "unfinished", "lock"
"""... and until then: a folder, and in it a file."""
ARCHIVE_LEAVINGS = "__MACOSX"
"""Folder in archives made on a Mac: what is no audio, under names that end like it."""
_DISK_LEAVINGS = "lost+found"
"""Folder at the top of a disk, which only its administrator may read."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data: ``.name``, ``__MACOSX``."""
    return name.startswith(".") or name in (ARCHIVE_LEAVINGS, _DISK_LEAVINGS)


class FoundFile(NamedTuple):
    """A file below a folder.

    Attributes:
        path: Relative to the folder, its parts joined by ``/``.
        is_there: False for a link that leads nowhere.
    """

    path: str
    is_there: bool = True


def walk_files(folder: str | Path, hidden: bool = False) -> Iterator[FoundFile]:
    """All files below ``folder`` in the order of their paths, through links, too.

    A link to a folder that it lies in itself is not followed: what is there is found already.

    Args:
        folder: Where to look.
        hidden: Also what is hidden (``is_hidden``), as far as it can be read.

    Raises:
        ElasticToolError: A folder that is not hidden cannot be read.
    """
    return _walk(os.fspath(folder), "", hidden, frozenset())


def _walk(
    folder: str, inside: str, hidden: bool, above: frozenset[tuple[int, int]]
) -> Iterator[FoundFile]:
    place = os.path.join(folder, inside)
    try:
        status = os.stat(place)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(place) as entries:
            listed = sorted((entry.name, *_kind(entry)) for entry in entries)
    except OSError as error:
        if any(map(is_hidden, inside.split("/"))):
            return
        raise ElasticToolError(
            f"cannot read the folder {place}: {error.strerror or error}",
            "check that it is there and that you have the right to read it",
        ) from error
    for name, is_folder, is_there in listed:
        if is_hidden(name) and not hidden:
            continue
        if is_folder:
            yield from _walk(folder, f"{inside}{name}/", hidden, above | {here})
        else:
            yield FoundFile(inside + name, is_there)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is a folder, and whether it is there at all."""
    try:
        return entry.is_dir(), not entry.is_symlink() or os.path.exists(entry.path)
    except OSError:  # a ring of links
        return False, False


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A user's text: UTF-8, with or without the mark that Windows writes at its beginning.

    Raises:
        UsageError: It is in another encoding, or cannot be read; while it is read, too.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason})", "save it as UTF-8") from None
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror or error}",
            "check that it is a file and that you have the right to read it",
        ) from error


def readable(text: str) -> str:
    """``text`` with each byte that is not UTF-8 (of a file's name) written as ``\\xe9``."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of a JSON list, which no file name can be
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def as_argument(value: object) -> str:
    """A path or name as a shell takes it, for commands that users are told: quoted where needed."""
    return shlex.quote(str(value))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to it when the block ends well, else removed.

    The file is on the disk before it gets its name: some file systems report a full disk or a
    used-up quota only then, and a power cut must not leave an empty file under a good name.

    Raises:
        WriteError: The place cannot be written (missing rights, full disk).
    """
    # Processes of two machines may have one number, and write one shard at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_output(place: Path, is_folder: bool = True) -> None:
    """Refuse a place that cannot be written, before the work and not after it.

    Raises:
        WriteError: No right, a disk to be read only, or a file where a folder is needed.
    """
    folder = place if is_folder else place.parent
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        if not is_folder and place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise write_error(place, error) from error


def remove_temporaries(folder: Path) -> None:
    """Delete what ``atomic_path`` of killed processes left in ``folder``.

    Only where nobody else writes: a temporary file may also belong to a process at work.
    """
    for path in folder.glob(".*.*.tmp"):
        path.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append ``line`` to ``path``, whole or not at all.

    Raises:
        WriteError: The place cannot be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _append(file, line.encode("utf-8") + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        raise write_error(path, error) from error


def _append(file: int, content: bytes) -> None:
    """Write all of ``content``; where the disk has room for a part only, take that back."""
    size = os.fstat(file).st_size
    try:
        while content:
            content = content[os.write(file, content) :]
    except OSError:
        os.ftruncate(file, size)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` to ``path`` as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def finite(value: Any) -> float | int | None:
    """A JSON number, or None for NaN and infinities, which JSON does not know."""
    plain: float | int = value.item() if hasattr(value, "item") else value
    return plain if math.isfinite(plain) else None
