"""Writes files atomically, and reads the files and folders of users.

Users' trees hold links, pipes, hidden files and results next to the data, and their texts come from
other systems: this module defines which files count, and opens them.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import math
import os
import platform
import secrets
import shlex
import stat
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from elastictool.utils.errors import ElasticToolError, UsageError, is_lack, write_error

INFO_NAME = "dataset.json"
"""File in a folder of prepared data that is finished."""
PROGRESS_FOLDER, LOCK_NAME = "unfinished", "lock"
"""Folder, with a file in it, in a folder of prepared data that is not finished."""
ARCHIVE_LEAVINGS = "__MACOSX"
"""Folder in archives made on a Mac: its files have names of audio and are none."""
_DISK_LEAVINGS = "lost+found"
"""Folder at the top of a disk, which only its administrator may read."""


def is_hidden(name: str) -> bool:
    """Returns whether a name is hidden or an archive's leftover: ``.name``, ``__MACOSX``."""
    return name.startswith(".") or name in (ARCHIVE_LEAVINGS, _DISK_LEAVINGS)


class FoundFile(NamedTuple):
    """A file below a folder, or a folder there that cannot be read.

    Attributes:
        path: Relative to the folder, its parts joined by ``/``; that of a folder ends in ``/``.
        is_there: False for a link that leads nowhere, and for a folder.
        fault: Why the folder cannot be read.
    """

    path: str
    is_there: bool = True
    fault: str = ""


def walk_files(folder: str | Path, hidden: bool = False) -> Iterator[FoundFile]:
    """Yields all files below ``folder`` in the order of their paths, also through links.

    A link to a folder above itself is not followed.

    Args:
        folder: Where to look.
        hidden: Whether to yield hidden files (``is_hidden``), too, as far as they can be read.

    Raises:
        ElasticToolError: ``folder`` itself cannot be read.
    """
    nothing: frozenset[tuple[int, int]] = frozenset()
    waiting = [(FoundFile("", False), nothing)]
    while waiting:  # recursion would end at a thousand folders in each other
        found, above = waiting.pop()
        path = os.path.join(folder, found.path)
        if not found.fault and (not found.path or found.path.endswith("/")):
            try:
                here, listed = _list_folder(path)
            except OSError as error:
                found = found._replace(fault=error.strerror or str(error))
                if not found.path or is_lack(error):
                    raise ElasticToolError(
                        f"cannot read the folder {path}: {found.fault}",
                        "check that it is there and that you have the right to read it",
                    ) from error
            else:
                for each in () if here in above else listed:
                    if hidden or not is_hidden(each.path.rstrip("/")):
                        inside = each._replace(path=found.path + each.path)
                        waiting.append((inside, above | {here}))
                continue
        if not (found.fault and any(map(is_hidden, found.path.split("/")))):
            yield found


def _list_folder(path: str) -> tuple[tuple[int, int], list[FoundFile]]:
    """Returns what identifies a folder, and its entries, the last one first."""
    status = os.stat(path)
    with os.scandir(path) as entries:
        listed = sorted(map(_found, entries), key=lambda one: one.path.rstrip("/"), reverse=True)
    return (status.st_dev, status.st_ino), listed


def _found(entry: os.DirEntry[str]) -> FoundFile:
    """Returns what an entry of a folder is."""
    try:
        if entry.is_dir():
            return FoundFile(f"{entry.name}/", False)
        return FoundFile(entry.name, not entry.is_symlink() or os.path.exists(entry.path))
    except OSError as error:
        if error.errno == errno.ELOOP:  # a ring of links
            return FoundFile(entry.name, False)
        return FoundFile(f"{entry.name}/", False, error.strerror or str(error))


_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str | Path) -> io.BufferedReader:
    """Opens a regular file for reading; whatever users name is opened by this function.

    A named pipe would wait for another program, perhaps for ever, and a device may have no end.

    Raises:
        OSError: There is no such file, it cannot be read, or it is something else;
            ``strerror`` is the reason.
    """
    try:
        _require_regular(path)
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE))
    except ValueError:  # a NUL byte, or half a character, which no name has
        reason = "no file has such a name"
        raise FileNotFoundError(errno.ENOENT, reason, readable(str(path))) from None


def _require_regular(path: str | Path) -> None:
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind == stat.S_IFDIR:
        os.scandir(path).close()  # where it cannot be read, that is the reason
    if kind != stat.S_IFREG:
        what = f"{_KINDS.get(kind, 'something else')}, not a file"
        raise OSError(errno.EINVAL, what, os.fspath(path))


def may_open(count: int) -> int:
    """Returns how many files this process may open; raises the limit to ``count`` if it can."""
    try:
        import resource
    except ImportError:  # Windows
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= soft < count:  # below 0: no limit
        return count
    soft = count if hard < 0 else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def read_text(path: Path) -> str:
    """Returns the content of a text in UTF-8.

    Raises:
        OSError: See ``open_file``.
        UnicodeDecodeError: It is in another encoding.
    """
    with io.TextIOWrapper(open_file(path), "utf-8") as file:
        return file.read()


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens a user's text: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        UsageError: It is in another encoding or cannot be read; also while it is read.
    """
    try:
        with open_file(path) as content:
            wide = content.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            with io.TextIOWrapper(content, "utf-16" if wide else "utf-8-sig", newline="") as file:
                yield file
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise UsageError(
            f"{path}{_undecodable_line(path)} is not UTF-8 text ({reason})", "save it as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror or error}",
            "check that it is a file and that you have the right to read it",
        ) from error


def _undecodable_line(path: Path) -> str:
    """Returns where the first line lies that is no UTF-8; empty if that is not known."""
    with suppress(OSError), open_file(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number}"
    return ""


def composed(text: str) -> str:
    """Returns ``text`` in Unicode's composed form, in which "é" is one letter (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


_MOST_PARTS = 256


def on_disk(path: Path) -> Path:
    """Returns where the file or folder of this name lies, in whichever form the disk has it.

    Macs and archives made there write "é" as two letters, tables and keyboards as one. ``path``
    itself is returned if it exists, or if nothing has its name in any form.
    """
    if str(path).isascii() or os.path.lexists(path) or len(path.parts) > _MOST_PARTS:
        return path
    folder = on_disk(path.parent)
    try:
        found = _forms(os.fspath(folder), os.stat(folder).st_mtime_ns).get(composed(path.name))
    except (OSError, ValueError):
        found = None
    return folder / (found or path.name)


@lru_cache(maxsize=256)
def _forms(folder: str, _mtime_ns: int) -> dict[str, str]:
    """Returns the names in ``folder`` by their composed form; a change of the folder is seen."""
    return {composed(name): name for name in sorted(os.listdir(folder)) if not name.isascii()}


def readable(text: str) -> str:
    """Returns ``text`` with each byte that is not UTF-8 (of a file's name) written as ``\\xe9``."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of a JSON list, which no file name can be
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def as_argument(value: object) -> str:
    """Quotes a path or name for the shell, where needed, for commands in messages."""
    return shlex.quote(str(value))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path; renames it to ``path`` if the block ends well, else removes it.

    It has the rights that the user's umask gives to new files, whatever library writes it.
    The file is on the disk before it gets its name: some file systems report a full disk or a
    used-up quota only then, and a power cut must not leave an empty file under a good name.

    Raises:
        WriteError: The file cannot be written (missing rights, full disk), or is a device or pipe,
            which would be replaced.
    """
    # Processes of two machines may have one number, and write one shard at once. A name may have
    # 255 bytes, and a character takes up to four.
    unique = f"{os.getpid()}-{_machine()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name[:40]}.{unique}.tmp")
    try:
        with suppress(FileNotFoundError):
            _require_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors makes it the owner's only
            temporary.chmod(mode)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_output(path: Path, is_folder: bool = True) -> None:
    """Refuses a path that cannot be written, before the work begins.

    Raises:
        WriteError: No right, a disk to be read only, too long a name, or a file where a folder is
            needed, or the other way.
    """
    folder = path if is_folder else path.parent
    try:
        with suppress(FileNotFoundError):
            if is_folder:
                path.stat()  # its name may be too long
            else:
                _require_regular(path)
        nearest = next(filter(os.path.exists, (folder, *folder.parents)))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def remove_temporaries(folder: Path, shared: bool = False) -> None:
    """Deletes what ``atomic_path`` of killed processes left in ``folder``.

    Args:
        folder: Where to look.
        shared: Whether other processes may write there now: only files of processes of this machine
            that have ended are deleted. Without it all are.
    """
    for path in folder.glob(".*.*.tmp"):
        if not shared or _writer_ended(path):
            path.unlink(missing_ok=True)


def _writer_ended(temporary: Path) -> bool:
    number, _, rest = temporary.name.split(".")[-2].partition("-")
    is_ours = os.path.exists("/proc/self") and rest.startswith(f"{_machine()}-")
    return is_ours and not os.path.exists(f"/proc/{number}")


@cache
def _machine() -> str:
    """Returns a short name of this machine, for names of files."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def require_readable(path: Path) -> None:
    """Checks that a regular file can be read, for libraries that report it as a damaged one.

    Raises:
        ElasticToolError: It cannot.
    """
    try:
        open_file(path).close()
    except OSError as error:
        raise ElasticToolError(
            f"cannot read {path}: {error.strerror or error}",
            "check that it is there and that you have the right to read it",
        ) from error


def parse_record(line: str | bytes) -> dict[str, Any] | None:
    """Returns the JSON object of a line of a log; None where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def append_line(path: Path, line: str) -> None:
    """Appends ``line`` to ``path``, whole or not at all.

    Raises:
        WriteError: The file cannot be written.
    """
    content = line.encode("utf-8") + b"\n"
    try:
        with open(path, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:
                file.truncate(size)  # the disk has no room for the rest
                raise
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Writes ``document`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def finite(value: Any) -> float | int | None:
    """Returns a JSON number, or None for NaN and infinities, which JSON does not know."""
    plain: float | int = value.item() if hasattr(value, "item") else value
    return plain if math.isfinite(plain) else None
