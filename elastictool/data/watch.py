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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from elastictool.data.store import PreparedStore
from elastictool.errors import LoaderError

T = TypeVar("T")

_PIDS = re.compile(r"^DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SIGNAL = re.compile(r"killed by signal: ([\w ]+)")
_NOTHING = -1
_CAUSES = {
    "Killed": "the system kills the largest process when memory runs out: lower "
    "train.loader_workers, or train.cache_mb, which each worker may fill",
    "Bus error": "a prepared file was cut off while it was read, or shared memory (/dev/shm) is "
    "full: verify the data, or lower train.loader_workers",
}
_UNKNOWN_CAUSE = "train.loader_workers=0 loads in the training process and may show more"


class ReadingBoard:
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


def in_order(action: Callable[[], T], board: ReadingBoard, store: PreparedStore) -> T:
    """What ``action``, which needs the workers, gives.

    Raises:
        LoaderError: A worker died, or the server that starts them.
    """
    try:
        return action()
    except (RuntimeError, EOFError, OSError) as error:
        death = _death(error, board, store)
        if death is None:
            raise
    raise death  # outside the handler: as its cause, torch's error would keep the workers alive


def _death(error: Exception, board: ReadingBoard, store: PreparedStore) -> LoaderError | None:
    """What to say where ``error`` is torch's word on a dead worker, else None."""
    found = _PIDS.search(str(error))
    if found is None:
        if isinstance(error, RuntimeError) or not board.workers:
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


_torchs_handler: Callable[[int, FrameType | None], Any] | None = None
"""What torch does when a child dies. It is put in place once in a process, by the first loader."""


class DeathWatch:
    """While it is open, torch's handler of dead children acts inside ``listening`` only.

    Outside, a death is noted and told at the next ``listening``. To be entered before workers are
    started. Other threads than the main one have no handlers; there, and on systems without
    SIGCHLD, torch looks for deaths every few seconds while it waits for a batch.
    """

    def __init__(self) -> None:
        self._noted = self._listens = False
        self._before: Any = None
        self._works = hasattr(signal, "SIGCHLD") and (
            threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> DeathWatch:
        if self._works:
            self._before = signal.getsignal(signal.SIGCHLD)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._works:
            signal.signal(signal.SIGCHLD, self._before)

    def take_over(self) -> None:
        """Stand before torch's handler; to be called when the workers have been started."""
        global _torchs_handler
        if not self._works:
            return
        now = signal.getsignal(signal.SIGCHLD)
        if now is not self._before and callable(now):
            _torchs_handler = now
        signal.signal(signal.SIGCHLD, self._note)

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
