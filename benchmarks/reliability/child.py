"""Run a command line or a function in a forked process, with limits of time and memory.

The fork starts at once, because this process has imported everything. Whatever happens there (a
traceback, a signal, a hang, a gigabyte) is the result, and nothing of it reaches this process.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = 3 << 30
"""Bytes of addresses that a child may take; beyond, its allocations fail."""
GRACE_S = 5.0
"""Seconds for the workers of a process that ended to end, too."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Its exit code; negative for a signal.
        out: Its standard output.
        err: Its standard error.
        seconds: Its wall time.
        grown_mb: How far its anonymous memory grew.
        hung: Whether it was still running at its time limit, and was killed.
        orphans: Whether processes that it had started were still running after ``GRACE_S``.
    """

    code: int
    out: str
    err: str
    seconds: float
    grown_mb: float
    hung: bool = False
    orphans: bool = False

    @property
    def shown(self) -> str:
        """Everything that it printed."""
        return self.out + self.err


def run_cli(arguments: list[str]) -> None:
    """Run the command line in this process, as ``python -m elastictool`` does."""
    from elastictool.cli.app import main

    sys.argv = ["elastictool", *arguments]
    main()


def run(work: Callable[[], None], folder: Path, stdin: bytes = b"", limit_s: float = 20.0) -> Ended:
    """Call ``work`` in a child with ``folder`` as its directory, and wait for its end."""
    begun, before = time.perf_counter(), anonymous_mb(os.getpid())
    streams = [os.pipe(), os.pipe()]  # a file would be full where the test fills disks
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = os.fork()
        if process == 0:
            _work(work, folder, (given.fileno(), streams[0][1], streams[1][1]))
    for _, writer in streams:
        os.close(writer)
    readers = [reader for reader, _ in streams]
    status, peak_mb, hung, texts = _wait(process, begun + limit_s, readers)
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        out=texts[0],
        err=texts[1],
        seconds=time.perf_counter() - begun,
        grown_mb=max(0.0, peak_mb - before),
        hung=hung,
        orphans=end_session(process, GRACE_S),
    )


def run_line(arguments: list[str], folder: Path, stdin: bytes = b"", limit_s: float = 20) -> Ended:
    """Run ``elastictool`` with ``arguments`` in a child."""
    return run(lambda: run_cli(arguments), folder, stdin, limit_s)


def _work(work: Callable[[], None], folder: Path, streams: tuple[int, int, int]) -> None:
    """Do the work of the child; does not return."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number, file in enumerate(streams):
            os.dup2(file, number)
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        _limit_addresses()
        multiprocessing.set_start_method(None, force=True)  # workers start as from a terminal
        work()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _limit_addresses() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, resource.RLIM_INFINITY))


def _wait(process: int, deadline: float, readers: list[int]) -> tuple[int, float, bool, list[str]]:
    """Return a process's status, its peak of anonymous MB, whether it hung, and its output."""
    hung, peak_mb = False, 0.0
    texts = [bytearray() for _ in readers]
    for reader in readers:
        os.set_blocking(reader, False)
    while True:
        peak_mb = max(peak_mb, anonymous_mb(process))
        found, status = os.waitpid(process, os.WNOHANG)
        for reader, text in zip(readers, texts, strict=True):
            with suppress(BlockingIOError):
                while content := os.read(reader, 65_536):
                    text += content
        if found:
            break
        if time.perf_counter() > deadline:
            hung = True
            os.kill(process, signal.SIGKILL)
        time.sleep(0.003)
    for reader in readers:
        os.close(reader)
    return status, peak_mb, hung, [text.decode("utf-8", "replace") for text in texts]


def anonymous_mb(process: int) -> float:
    """Return the anonymous memory of a process; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1.024e-3
    return 0.0


def end_session(session: int, grace_s: float) -> bool:
    """Return whether processes of a session outlive its leader by ``grace_s``, and kill them."""
    deadline = time.perf_counter() + grace_s
    while members := session_members(session):
        if time.perf_counter() > deadline:
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def session_members(session: int) -> list[int]:
    """Return the processes of a session that run."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                text = Path(entry.path, "stat").read_text("utf-8", "replace")
                fields = text[text.rindex(")") + 2 :].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def fresh(folder: Path) -> Path:
    """Return an empty folder in the place of another."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
