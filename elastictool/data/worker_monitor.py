"""What a loader process was doing when it died, and dying only where somebody can answer.

A killed process reports nothing, so each worker notes the clip that it reads in memory which it
shares with the training process. And torch raises the death of a worker as an error inside a
signal handler, anywhere in the training process, say halfway through an optimiser's step; here
it is kept until the next batch is asked for, when the run is in order and can be saved.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import get_worker_info

from elastictool.data.store import PreparedStore
from elastictool.utils.errors import LoaderError

T = TypeVar("T")
R = TypeVar("R")

_PIDS = re.compile(r"^DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SIGNAL = re.compile(r"killed by signal: ([\w ]+)")
_NOTHING = -1
_LOOKS, _LOOK_PAUSE_S = 20, 0.05
_CAUSES = {
    "Killed": "the system kills the largest process when memory runs out: lower "
    "train.loader_workers, or train.cache_mb, which each worker may fill",
    "Bus error": "a prepared file was cut off while it was read, or shared memory (/dev/shm) is "
    "full: verify the data, or lower train.loader_workers",
}
_UNKNOWN_CAUSE = "train.loader_workers=0 loads in the training process and may show more"


class WorkerMonitor:
    """Which clip each of ``workers`` loader processes reads; picklable into them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pids_and_clips = torch.full((workers, 2), _NOTHING)
        if workers:
            self._pids_and_clips.share_memory_()  # type: ignore[no-untyped-call]

    def note(self, clip: int = _NOTHING) -> None:
        """In a worker: ``clip`` is read from here on; without one, none is."""
        if (worker := get_worker_info()) is not None:
            self._pids_and_clips[worker.id, 0] = os.getpid()
            self._pids_and_clips[worker.id, 1] = clip

    def clips_of(self, pids: set[int]) -> list[int]:
        """The clips that the processes ``pids`` were reading."""
        rows = self._pids_and_clips.tolist()
        return [clip for pid, clip in rows if pid in pids and clip != _NOTHING]


def _death(error: Exception, board: WorkerMonitor, store: PreparedStore) -> LoaderError | None:
    """What to say where ``error`` is torch's word on a dead worker, else None."""
    found = _PIDS.search(str(error))
    if found is None:
        ours = "in DataLoader worker process" in str(error)  # with the worker's traceback: a bug
        if ours or isinstance(error, RuntimeError) or not board.workers:
            return None
        return LoaderError(f"the loader workers cannot be reached: {error!r}", _UNKNOWN_CAUSE)
    pids = {int(pid) for pid in found[1].split(",")}
    clips = [repr(str(store.ids[clip])) for clip in board.clips_of(pids)]
    # Torch may have looked for the reason twice: the signal is in what it found first.
    by = _SIGNAL.search(f"{error} {error.__cause__}")
    name = by[1].strip() if by else ""
    how = f"was killed (signal: {name})" if name else "ended unexpectedly"
    reading = f"while it was reading clip {', '.join(clips)}" if clips else "between two batches"
    return LoaderError(
        f"loader worker {found[1]} {how} {reading}",
        _CAUSES.get(name, _UNKNOWN_CAUSE),
        on_request=name == "Terminated",
    )


def _reason(error: Exception) -> Exception:
    """Torch's word on a dead worker, where its broken pipe was noticed before its death."""
    for _ in range(_LOOKS):
        try:
            torch._C._error_if_any_worker_fails()
        except RuntimeError as reason:
            return reason
        time.sleep(_LOOK_PAUSE_S)
    return error


class WatchedBatches(Generic[T]):
    """The batches of a loader whose workers may die; to be used in a ``with`` block.

    Args:
        loader: Not started yet.
        board: Where its workers note what they read.
        store: Names the clips.
    """

    def __init__(self, loader: Iterable[T], board: WorkerMonitor, store: PreparedStore) -> None:
        self._loader, self._board, self._store = loader, board, store
        self._batches: Iterator[T] | None = None
        self._watch = _DeathWatch()

    def __enter__(self) -> WatchedBatches[T]:
        try:
            self._batches = self._in_order(lambda: iter(self._loader))
        except BaseException:
            self._watch.close()
            raise
        self._watch.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._batches = None  # ends the workers, where a death that they die means nothing
        self._watch.close()

    def __iter__(self) -> Iterator[T]:
        """The batches.

        Raises:
            LoaderError: A worker died, or the server that starts them.
        """
        while (batch := self._in_order(self._next)) is not None:
            yield batch

    def _next(self) -> T | None:
        with self._watch.listening():
            return None if self._batches is None else next(self._batches, None)

    def _in_order(self, action: Callable[[], R]) -> R:
        try:
            return action()
        except (RuntimeError, EOFError, OSError) as error:
            broken_pipe = self._board.workers and not isinstance(error, RuntimeError)
            reason = _reason(error) if broken_pipe else error
            death = _death(reason, self._board, self._store)
            if death is None:
                raise
        raise death  # not from torch's error: its traceback would keep the workers alive


_torchs_handler: Callable[[int, FrameType | None], Any] | None = None
"""What torch does when a child dies. It is put in place once in a process, by the first loader."""


class _DeathWatch:
    """From ``open`` to ``close``, torch's handler of dead children acts inside ``listening`` only.

    Outside, a death is noted and told at the next ``listening``. Other threads than the main one
    have no handlers; there, and on systems without SIGCHLD, torch looks for deaths every few
    seconds while it waits for a batch.
    """

    def __init__(self) -> None:
        self._noted = self._listens = False
        self._works = hasattr(signal, "SIGCHLD") and (
            threading.current_thread() is threading.main_thread()
        )
        self._before = signal.getsignal(signal.SIGCHLD) if self._works else None

    def open(self) -> None:
        """Stand before torch's handler; to be called when the workers have been started."""
        global _torchs_handler
        if not self._works:
            return
        now = signal.getsignal(signal.SIGCHLD)
        if now is not self._before and callable(now):
            _torchs_handler = now
        signal.signal(signal.SIGCHLD, self._note)

    def close(self) -> None:
        """Put back what was there before the workers were started."""
        if self._works:
            signal.signal(signal.SIGCHLD, self._before)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Where deaths may be raised, as torch raises them."""
        self._listens = True
        try:
            if self._noted:
                self._noted = False
                self._note(0, None)
            yield
        finally:
            self._listens = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._listens:
            self._noted = True
        elif _torchs_handler is not None:
            _torchs_handler(number, frame)
