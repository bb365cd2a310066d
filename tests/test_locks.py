"""Locks: one holder at a time, none after its process, on disks with and without locks."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elastictool.utils.errors import UsageError, WriteError
from elastictool.utils.locks import hold, is_held

fcntl = pytest.importorskip("fcntl")
WITHOUT_LOCKS = """
import errno, fcntl, socket
def flock(*_): raise OSError(errno.{error}, "no locks on this disk")
fcntl.flock = flock
socket.gethostname = lambda: "{machine}"
"""
HOLDING = """
import os, pathlib, sys, time
from elastictool.utils.locks import hold
with hold(pathlib.Path(sys.argv[1]), "it is prepared", "wait"):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.write(1, b"worker\\n")
        time.sleep(600)
    os.write(1, b"held\\n")
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(
    path: Path, *arguments: str, before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + HOLDING, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def shown(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def complaint(path: Path) -> str:
    """What a process reads that wants the lock; empty if it gets it."""
    try:
        with hold(path, "it is prepared", "wait"):
            return ""
    except UsageError as error:
        assert error.hint == "wait"
        return error.message


def test_a_lock_keeps_others_out_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "unfinished" / "lock"
    assert is_held(path) is False
    with held_elsewhere(path) as other:
        assert shown(other) == "held"
        assert is_held(path) is True
        assert complaint(path) == f"it is prepared by process {other.pid} on this machine"
    assert is_held(path) is False
    assert complaint(path) == "" and path.read_text() == ""
    with hold(path, "it is prepared", "wait"):
        assert complaint(path) == f"it is prepared by process {os.getpid()} on this machine"


def test_an_orphaned_worker_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_elsewhere(path, "fork") as parent:
        assert {shown(parent), shown(parent)} == {"worker", "held"}
        assert is_held(path) is True
        parent.kill()
        parent.wait()
        os.killpg(parent.pid, 0)  # the worker lives
        assert complaint(path) == ""


def test_a_lock_whose_folder_was_deleted_is_free(tmp_path: Path) -> None:
    path = tmp_path / "unfinished" / "lock"
    with hold(path, "it is prepared", "wait"):
        shutil.rmtree(path.parent)
        assert complaint(path) == ""


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"), hold(tmp_path / "file" / "lock", "", ""):
        pass


@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_where_a_disk_has_no_locks_living_holders_keep_others_out(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, error), "no locks on this disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    here = os.uname().nodename
    with held_elsewhere(path, before=WITHOUT_LOCKS.format(error=error, machine=here)) as other:
        assert shown(other) == "held"
        assert is_held(path) is None
        assert complaint(path) == f"it is prepared by process {other.pid} on this machine"
    assert complaint(path) == ""


def test_without_locks_a_dead_holder_on_another_machine_is_known_by_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks on this disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    path, lease = tmp_path / "lock", tmp_path / "lock.lease"
    before = WITHOUT_LOCKS.format(error="ENOLCK", machine="far-away")
    with held_elsewhere(path, before=before) as other:
        assert shown(other) == "held"
    assert "is prepared by process" in complaint(path)
    moment = time.time() - 3600
    os.utime(lease, (moment, moment))
    assert complaint(path) == ""
