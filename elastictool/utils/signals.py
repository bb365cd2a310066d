"""Ctrl-C and other signals as a request that long jobs answer at places of their own choosing.

The first signal is only noted: an exception raised anywhere would leave half a step behind. The
second signal ends the job at once; what is on the disk stays whole, because files are renamed into
place. Where libsndfile calls back into Python, an exception would be printed and lost, and the
recording called damaged: a signal that comes there comes again a moment later.

SIGTERM asks as Ctrl-C does, and so do SIGHUP (the terminal was closed) and SIGUSR1 (SLURM's
``--signal=USR1@60``). These two may come twice or before a SIGTERM, without anybody being
impatient; where they are ignored (``nohup``) they stay ignored.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType, TracebackType
from typing import Any

from elastictool.utils.errors import Interrupted
from elastictool.utils.launch import launched

_PARENT_CHECK_S = 0.2
_ASKING = (signal.SIGINT, signal.SIGTERM)
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
_TELLING = tuple(number for number in (_HANGUP, getattr(signal, "SIGUSR1", None)) if number)
"""Windows has neither."""
_LOSING = "vio_"
"""How soundfile names the functions that libsndfile calls to read and write what is in memory."""
_AGAIN_S = 0.005


class Stopped(Exception):
    """The user asked for an end; raised by ``StopRequest.check``, never shown."""


class StopRequest:
    """Catches signals while it is open; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    Under torchrun a second one changes nothing: it ends processes that take too long itself.
    Outside the main thread, where Python allows no signal handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (*_ASKING, *filter(_is_heard, _TELLING)):
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
        if number == _HANGUP:
            _leave_dead_terminal()
        again = self.requested and number in _ASKING
        self.requested = True
        if again and launched().is_single:  # torchrun may pass on what has come already
            _interrupt(number, frame)


@contextmanager
def stoppable(what: str, then: str) -> Iterator[StopRequest]:
    """A request to be checked inside; where it was made, the block ends in an error of ours.

    Args:
        what: What became of the work.
        then: What to do to go on.

    Raises:
        Interrupted: The user stopped it, perhaps at once.
    """
    try:
        with StopRequest() as stop:
            yield stop
            stop.check()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted(what, then) from None


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Inside, SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does.

    Under torchrun SIGTERM is ignored afterwards: it asks all processes to end when one has.
    """
    caught = [number for number in (*_ASKING, _HANGUP) if number and _is_heard(number)]
    former = {number: signal.signal(number, _interrupt) for number in caught}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if not launched().is_single:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == _HANGUP:
        _leave_dead_terminal()
    if _is_lost(frame):
        threading.Timer(_AGAIN_S, _signal_main_thread, [number]).start()
    else:
        raise KeyboardInterrupt


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # which also wakes it
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _is_lost(frame: FrameType | None) -> bool:
    """Whether an exception raised here would end in libsndfile."""
    while frame is not None:
        if frame.f_code.co_name.startswith(_LOSING):
            return True
        frame = frame.f_back
    return False


def _is_heard(number: signal.Signals) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


def _leave_dead_terminal() -> None:
    """Let what is written to a terminal that is closed go nowhere: an error would end the job."""
    import termios

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def leave_to_parent() -> None:
    """In a worker: the process that started it decides what signals mean.

    They reach whole groups of processes, and the parent lets its workers finish what they do.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (*_ASKING, *_TELLING):
            signal.signal(number, signal.SIG_IGN)


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
