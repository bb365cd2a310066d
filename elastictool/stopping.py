"""Ctrl-C and SIGTERM as a request that long jobs answer at places of their own choosing.

The first signal is only noted: an exception raised anywhere would leave half a step behind, and
one that is raised while a C library calls back into Python (as libsndfile does when it writes to
memory) is printed and lost there. The second signal ends the job at once; what is on the disk
stays whole, because files are renamed into place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache
from types import FrameType, TracebackType
from typing import Any

from elastictool.launch import launched

_PARENT_CHECK_S = 0.2


class Stopped(Exception):
    """The user asked for an end; raised by ``StopRequest.check``, never shown."""


class StopRequest:
    """Catches SIGINT and SIGTERM while it is open; the second one raises KeyboardInterrupt.

    Under torchrun a second one changes nothing: it ends processes that take too long itself.
    Outside the main thread, where Python allows no signal handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """A place to stop at.

        Raises:
            Stopped: A signal came.
        """
        if self.requested:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and launched().alone:  # torchrun may pass on what has come already
            raise KeyboardInterrupt
        self.requested = True


def leave_to_parent() -> None:
    """In a worker: the process that started it decides what Ctrl-C and SIGTERM mean.

    Both reach whole groups of processes, and the parent lets its workers finish what they do.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@cache
def end_with_parent(parent_pid: int) -> None:
    """In a worker: end when the process that started it is gone, even killed.

    An orphan would go on writing beside the rerun. Workers that others started (a cluster's) are
    left alone.
    """
    if os.getppid() == parent_pid:
        threading.Thread(target=_wait_for_end, args=(parent_pid,), daemon=True).start()


def _wait_for_end(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
