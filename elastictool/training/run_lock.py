"""Which runs are being trained right now, told by a lock and not by a guess.

A process that trains holds an advisory lock on ``.lock`` in the run directory. The kernel lets go
of it however the process ends, so a killed run is never taken for a running one, and no process
id can be somebody else's. The empty file stays: taking it away would race with the next lock.
Where there are no such locks (other systems, some network disks) nobody is kept out and nobody
knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.locks import kept, take, take_patiently

LOCK_NAME = ".lock"


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
    with kept(file):
        if take_patiently(file) is False:
            raise UsageError(
                f"{run_dir} is being trained by another process",
                "wait for it, stop it, or name another place with --run-dir",
            )
        yield


def is_claimed(run_dir: Path) -> bool | None:
    """Whether a process trains this run now; None where the system cannot tell."""
    try:
        file = os.open(run_dir / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        free = take(file)
        return None if free is None else not free
    finally:
        os.close(file)
