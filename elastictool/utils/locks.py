"""Who works in a folder, told by the kernel where it can and by a note where it cannot.

An advisory lock on an open file is let go of however its process ends, so a killed one keeps
nobody out and no process id can be somebody else's. It holds across machines on network disks
that have such locks. On those that have none, and on other systems, the note in the file counts:
it names machine and process, and is touched while its writer lives.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from elastictool.utils.errors import UsageError, write_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
"""Files of the locks that this process holds."""
_TRIES, _PAUSE_S = 5, 0.05
_BEAT_S = 20.0
_STALE_S = 600.0
"""A note from another machine that was not touched for so long is a dead process's."""


def take(file: int, shared: bool = False) -> bool | None:
    """Try to lock: True if it is ours now, False if it is another's, None if there are no locks."""
    if fcntl is None:
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def take_patiently(file: int, shared: bool = False) -> bool | None:
    """``take``, past the moments in which another process only looks."""
    for _ in range(_TRIES):
        if (taken := take(file, shared)) is not False:
            return taken
        time.sleep(_PAUSE_S)
    return False


@contextmanager
def kept(file: int) -> Iterator[int]:
    """Hold the lock of an open file inside the block, then close it."""
    _held.add(file)
    try:
        yield file
    finally:
        _held.discard(file)
        os.close(file)


def _leave_locks_to_parent() -> None:
    """Workers are forked with the lock in hand, and may outlive a killed parent."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_parent)


@contextmanager
def hold(path: Path, doing: str, hint: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` inside the block; several may hold it ``shared``.

    The file may be deleted while it is held: then nobody else can mistake it for a free one.

    Args:
        path: The lock file; its folder is made.
        doing: What one does who holds it, for the message to others ("data/x is being prepared").
        hint: What these others can do.
        shared: Whether others may hold it shared, too.

    Raises:
        UsageError: Another process holds it.
        WriteError: The place cannot be written.
    """
    with kept(_locked(path, doing, hint, shared)) as file:
        alive = _beating(path) if take(file, shared) is None else nullcontext()
        try:
            if not shared:
                _write_note(file)
            with alive:
                yield
        finally:
            if not shared:
                os.ftruncate(file, 0)


def _locked(path: Path, doing: str, hint: str, shared: bool) -> int:
    """The open file, locked."""
    while True:
        file = _opened(path)
        taken = take_patiently(file, shared)
        if taken is False or (taken is None and _note_lives(path)):
            os.close(file)
            raise UsageError(f"{doing}{_by_whom(path)}", hint)
        if _is_at(file, path):
            return file
        os.close(file)  # a holder has finished and deleted it: the next one is another file


def _opened(path: Path) -> int:
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # a holder has finished and deleted the folder between the two steps
        except OSError as error:
            raise write_error(path.parent, error) from error
    raise UsageError(f"{path.parent} is made and removed again and again", "is it cleaned up?")


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_note(file: int) -> None:
    note = {"machine": platform.node(), "process": os.getpid(), "since": round(time.time())}
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(note).encode(), 0)


def _read_note(path: Path) -> dict[str, object]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _by_whom(path: Path) -> str:
    """Who holds it, as far as the note says."""
    note = _read_note(path)
    if not note:
        return " by another process"
    machine = note.get("machine")
    where = "this machine" if machine == platform.node() else machine
    return f" by process {note.get('process')} on {where}"


def _note_lives(path: Path) -> bool:
    """Where there are no locks: whether the writer of the note still lives, as far as one sees."""
    note = _read_note(path)
    process = note.get("process")
    if not isinstance(process, int) or process == os.getpid():
        return False
    if note.get("machine") != platform.node():
        return time.time() - path.stat().st_mtime < _STALE_S
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touch the file now and then, so that other machines see that we live."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
