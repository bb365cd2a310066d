"""Holds advisory locks of ``filelock``, with machine and process noted in the file.

The kernel releases such a lock when its process ends, however it ends, and ``filelock`` closes it
in forked children: neither a killed process nor an orphaned worker keeps others out. It holds
across machines on network disks that have locks. On a disk without them a lease of ``filelock``
counts, a file that its holder touches: one not touched for ten minutes is a dead process's.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout, lock_descriptor

from elastictool.utils.errors import UsageError, write_error

_PATIENCE_S = 0.25
"""Another process may only be looking (``is_held``), or be checking whether it may start."""
_HEARTBEAT_S, _STALE_S = 20.0, 600.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_TRIES = 5


@contextmanager
def hold(
    path: Path, doing: str, hint: str, wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds the lock file ``path`` inside the block.

    The file may be deleted while it is held: the next holder makes a new one.

    Args:
        path: The lock file; its folder is made.
        doing: What its holder does, for the message to others ("data/x is being prepared").
        hint: What these others can do.
        wait: Takes a message if another process holds it, which is then waited for.

    Raises:
        UsageError: Another process holds it, and there is no ``wait``.
        WriteError: The lock file cannot be written.
    """
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _acquire(path)
            break
        except Timeout:
            held = f"{doing}{_by_whom(path)}"
            if wait is None:
                raise UsageError(held, hint) from None
            wait(f"waiting: {held}")
            lock = _acquire(path, patience_s=-1)
            break
        except FileNotFoundError:
            continue  # a holder that finished has deleted the folder between the two steps
        except OSError as error:
            raise write_error(path.parent, error) from error
    else:
        raise UsageError(f"{path.parent} is made and removed again and again", "is it cleaned up?")
    note = {"machine": platform.node(), "process": os.getpid(), "since": round(time.time())}
    try:
        with suppress(OSError):  # a full disk; Windows, where a locked file cannot be written
            path.write_text(json.dumps(note), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            os.truncate(path, 0)
        lock.release()


def is_held(path: Path) -> bool | None:
    """Returns whether a process holds the lock file ``path``; None where that is unknown."""
    try:
        with path.open("rb") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
    except OSError:
        return None


def _acquire(path: Path, patience_s: float = _PATIENCE_S) -> BaseFileLock:
    """Acquires a lock of the system; a lease on a disk without locks. Below 0 it has no limit."""
    lock: BaseFileLock = FileLock(path, timeout=patience_s, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        lease = path.with_name(f"{path.name}.lease")
        with suppress(OSError):
            if time.time() - lease.stat().st_mtime > _STALE_S:
                lease.unlink()
        lock = SoftFileLease(
            lease, timeout=patience_s, lease_duration=_STALE_S, heartbeat_interval=_HEARTBEAT_S
        )
        lock.acquire()
    return lock


def _by_whom(path: Path) -> str:
    """Returns machine and process of the lock's holder, as far as the note has them."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        where = "this machine" if note["machine"] == platform.node() else note["machine"]
        return f" by process {note['process']} on {where}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"
