"""Command lines in processes of their own, for faults that only a whole process has.

A server that has imported everything forks them, so each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "elastictool.cli.app",
    "elastictool.data.prepare",
    "elastictool.evaluation.sweep",
    "elastictool.training.run",
    "elastictool.reporting.run_report",
    "torch._dynamo",  # torch imports it at an optimiser's first step
]


class Child:
    """``elastictool`` with ``arguments``, started in ``folder``, in a process group of its own.

    ``before`` is called in the process first: a function that can be pickled. What the process
    writes to the terminal comes through a pipe, which has no limits as files have.
    """

    def __init__(
        self, folder: Path, *arguments: object, before: Callable[[], None] | None = None
    ) -> None:
        CONTEXT.set_forkserver_preload(PRELOADED)
        folder.mkdir(parents=True, exist_ok=True)
        reader, writer = CONTEXT.Pipe(duplex=False)
        line = tuple(map(str, arguments))
        self.process: BaseProcess = CONTEXT.Process(
            target=_run, args=(folder, writer, line, before)
        )
        self.process.start()
        writer.close()
        self._shown: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float = 300) -> int:
        """The exit code; negative for a signal."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {timeout_s} s: {self.shown()}")
        return self.process.exitcode

    def shown(self) -> str:
        """What it has written to the terminal, as one line."""
        if self.process.exitcode is not None:
            self._reader.join(5)
        return " ".join(b"".join(self._shown).decode("utf-8", errors="replace").split())

    def _read(self, reader: Connection) -> None:
        with reader:
            while content := os.read(reader.fileno(), 65_536):
                self._shown.append(content)


def run(folder: Path, *arguments: object, before: Callable[[], None] | None = None) -> Child:
    """A child that has ended."""
    child = Child(folder, *arguments, before=before)
    child.wait()
    return child


def _run(
    folder: Path,
    terminal: Connection,
    arguments: tuple[str, ...],
    before: Callable[[], None] | None,
) -> None:
    from elastictool.cli.app import main

    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # workers start as they do from a terminal
    os.dup2(terminal.fileno(), sys.stdout.fileno())
    os.dup2(terminal.fileno(), sys.stderr.fileno())
    terminal.close()
    os.chdir(folder)
    sys.argv = ["elastictool", *arguments]
    code = 1
    try:
        if before:
            before()
        main()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # else idle workers of joblib would be waited for
