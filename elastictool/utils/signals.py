"""Turns Ctrl-C and other signals into a request that long jobs check between two steps.

The first signal is only noted, because an exception raised anywhere would leave half a step behind.
A second Ctrl-C or SIGTERM ends the job at once; files stay whole, since they are renamed when
complete. SIGHUP (the terminal was closed) and SIGUSR1 (SLURM's ``--signal=USR1@60``) are requests
however often they come. Signals that are ignored (``nohup``) stay ignored.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from elastictool.utils.errors import Interrupted
from elastictool.utils.launch import launched

_URGENT = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has neither this nor SIGUSR1
_PATIENT = tuple(number for number in (_HANGUP, getattr(signal, "SIGUSR1", None)) if number)


class Stopped(Exception):
    """The user asked to stop; raised by ``StopRequest.check``, never shown."""


class StopRequest:
    """Notes signals while it is open; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    Under torchrun a second one changes nothing: torchrun passes on what has come already, and ends
    processes that take too long itself. Outside the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._handling = _handled((*_URGENT, *_PATIENT), self._note)
        self._handling.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.__exit__(None, None, None)

    def check(self) -> None:
        """Raises ``Stopped`` if a signal has come."""
        if self.requested:
            raise Stopped

    def _note(self, number: int, frame: Any) -> None:
        again = self.requested and number in _URGENT and launched().is_single
        self.requested = True
        if again:
            raise KeyboardInterrupt


@contextmanager
def stoppable(what: str, then: str) -> Iterator[StopRequest]:
    """Opens a request to check inside the block, and ends in an error if it was made.

    Args:
        what: What was done so far.
        then: How to continue.

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
    """Lets SIGTERM and a closed terminal raise KeyboardInterrupt inside the block, as Ctrl-C does.

    Under torchrun SIGTERM is ignored afterwards: torchrun ends all processes when one has ended.
    """
    came = []

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        with _handled([*_URGENT, *(n for n in _PATIENT if n == _HANGUP)], interrupt):
            yield
    except Exception as error:
        if came and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from None  # libsndfile lost it and called the recording damaged
        raise
    finally:
        if not launched().is_single:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, Any], None]
) -> Iterator[None]:
    """Lets ``handler`` handle those of ``numbers`` that are not ignored."""

    def handle(number: int, frame: Any) -> None:
        # Output to a closed terminal goes nowhere: an error would end the job.
        for stream in (1, 2) if number == _HANGUP else ():
            try:
                os.write(stream, b"")
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        handler(number, frame)

    replaced = {}
    if threading.current_thread() is threading.main_thread():
        heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
        replaced = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)


def leave_to_parent() -> None:
    """Ignores signals in a worker: they reach whole groups, and the parent decides for all."""
    if threading.current_thread() is threading.main_thread():
        for number in (*_URGENT, *_PATIENT):
            signal.signal(number, signal.SIG_IGN)


def end_with_parent(parent_pid: int) -> None:
    """Ends this worker process when its parent ends, even killed, also if that has happened.

    An orphan would disturb the next attempt. The worker's own thread watches: what the kernel
    offers (``PR_SET_PDEATHSIG``) would also end it with a mere thread of its parent.

    Args:
        parent_pid: The parent, for processes that ``multiprocessing`` gives no sentinel of it.
    """
    parent = multiprocessing.parent_process()
    sentinel: Any = parent.sentinel if parent else None

    def watch() -> None:
        if sentinel is not None:
            multiprocessing.connection.wait([sentinel])
        while sentinel is None and os.getppid() == parent_pid:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_worker(parent_pid: int) -> None:
    """Prepares a worker process of ``parent_pid`` before its first task."""
    leave_to_parent()
    end_with_parent(parent_pid)
