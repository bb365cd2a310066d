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
from typing import Any

import torch
from torch.utils.data import get_worker_info

from elastictool.data.store import PreparedStore
from elastictool.errors import LoaderError

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


def death_of_worker(
    error: RuntimeError, board: ReadingBoard, store: PreparedStore
) -> LoaderError | None:
    """What to say where ``error`` is torch's word on a dead worker, else None."""
    found = _PIDS.search(str(error))
    if found is None:
        return None
    pids = {int(pid) for pid in found[1].split(",")}
    clips = [repr(str(store.ids[clip])) for clip in board.clips_of(pids)]
    by = _SIGNAL.search(str(error))
    name = by[1].strip() if by else ""
    how = f"was killed (signal: {name})" if name else "ended unexpectedly"
    reading = f"while it was reading clip {', '.join(clips)}" if clips else "between two batches"
    return LoaderError(
        f"loader worker {found[1]} {how} {reading}",
        _CAUSES.get(name, _UNKNOWN_CAUSE),
        on_request=name == "Terminated",
    )


class DeathWatch:
    """Between ``opened`` and its end, torch's handler of dead children acts inside ``listening``.

    Outside it, a death is noted and told at the next ``listening``. Other threads than the main
    one have no handlers; there, and on systems without SIGCHLD, torch looks every few seconds.
    """

    def __init__(self) -> None:
        self._noted = self._listens = False
        self._tell: Callable[[int, FrameType | None], Any] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """To be entered when torch's handler is in place: after the workers were started."""
        if not hasattr(signal, "SIGCHLD") or (
            threading.current_thread() is not threading.main_thread()
        ):
            yield
            return
        former = signal.getsignal(signal.SIGCHLD)
        self._tell = former if callable(former) else None
        signal.signal(signal.SIGCHLD, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, former)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Where deaths may be raised, as torch raises them."""
        self._listens = True
        try:
            if self._noted:
                self._noted = False
                self._pass_on(None)
            yield
        finally:
            self._listens = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._listens:
            self._pass_on(frame)
        else:
            self._noted = True

    def _pass_on(self, frame: FrameType | None) -> None:
        if self._tell is not None:
            self._tell(signal.SIGCHLD, frame)
