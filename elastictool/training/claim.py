"""Which runs are being trained right now, told by a lock and not by a guess.

A process that trains holds an advisory lock on ``.lock`` in the run directory. The kernel lets go
of it however the process ends, so a killed run is never taken for a running one, and no process
id can be somebody else's. The empty file stays: taking it away would race with the next lock.
Where there are no such locks (other systems, some network disks) nobody is kept out and nobody
knows.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elastictool.errors import ElasticToolError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
_held: set[int] = set()
"""Files of the locks that this process holds."""
_TRIES, _PAUSE_S = 5, 0.05


@contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Hold the lock of ``run_dir`` inside the block.

    Raises:
        UsageError: Another process trains this run.
        ElasticToolError: The directory cannot be written.
    """
    try:
        file = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ElasticToolError(
            f"cannot write {run_dir / LOCK_NAME}: {error.strerror}",
            "check the rights of the folder, or name another with --run-dir",
        ) from error
    try:
        if _lock_patiently(file) is False:
            raise UsageError(
                f"{run_dir} is being trained by another process",
                "wait for it, stop it, or name another place with --run-dir",
            )
        _held.add(file)
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _leave_locks_to_parent() -> None:
    """Loader workers are forked with the lock in hand, and may outlive a killed trainer."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_parent)


def is_claimed(run_dir: Path) -> bool | None:
    """Whether a process trains this run now; None where the system cannot tell."""
    try:
        file = os.open(run_dir / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        free = _lock(file)
        return None if free is None else not free
    finally:
        os.close(file)


def _lock_patiently(file: int) -> bool | None:
    """``_lock``, past the moments in which ``is_claimed`` of another process looks."""
    for _ in range(_TRIES):
        if (taken := _lock(file)) is not False:
            return taken
        time.sleep(_PAUSE_S)
    return False


def _lock(file: int) -> bool | None:
    """Try to lock: True if it is ours now, False if it is another's, None if there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
