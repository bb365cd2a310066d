"""Command lines in processes of their own, for faults that only a whole process has.

A server that has imported everything forks them, so each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "elastictool.cli.app",
    "elastictool.data.prepare",
    "elastictool.evaluation.sweep",
    "elastictool.training.run",
]


class Child:
    """``elastictool`` with ``arguments``, started in ``folder``, in a process group of its own.

    ``before`` is called in the process first: a function that can be pickled.
    """

    def __init__(
        self, folder: Path, *arguments: object, before: Callable[[], None] | None = None
    ) -> None:
        CONTEXT.set_forkserver_preload(PRELOADED)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"child-{len(list(folder.glob('child-*')))}.txt"
        line = tuple(map(str, arguments))
        self.process: BaseProcess = CONTEXT.Process(
            target=_run, args=(folder, self.log, line, before)
        )
        self.process.start()

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code; negative for a signal."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {timeout_s} s: {self.shown()}")
        return self.process.exitcode

    def shown(self) -> str:
        """What it has written to the terminal."""
        return self.log.read_text("utf-8", errors="replace")


def run(folder: Path, *arguments: object, before: Callable[[], None] | None = None) -> Child:
    """A child that has ended."""
    child = Child(folder, *arguments, before=before)
    child.wait()
    return child


def _run(
    folder: Path, log: Path, arguments: tuple[str, ...], before: Callable[[], None] | None
) -> None:
    from elastictool.cli.app import main

    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
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
        sys.stdout.flush()
        os._exit(code)  # else idle workers of joblib would be waited for
