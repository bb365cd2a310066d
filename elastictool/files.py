"""Writing files so that a crash leaves the old one or the new one, and which files count."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from elastictool.errors import write_error

ARCHIVE_LEAVINGS = "__MACOSX"
"""Folder in archives made on a Mac: what is no audio, under names that end like it."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data: ``.name``, ``__MACOSX``."""
    return name.startswith(".") or name == ARCHIVE_LEAVINGS


def readable(text: str) -> str:
    """``text`` with each byte that is not UTF-8 (of a file's name) written as ``\\xe9``."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of a JSON list, which no file name can be
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


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
