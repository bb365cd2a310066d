"""Makes the next items of an iterator in the background while the last one is in use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """The source has no more items, or failed."""

    error: BaseException | None = None


def prefetched(source: Generator[T, None, None], ahead: int) -> Generator[T, None, None]:
    """Yields the items of ``source`` in order, with up to ``ahead`` ready and one in the making.

    The source runs in one thread of its own, from its first item to its closing; an error of its
    comes out here, after the items before it. Closing waits until the thread has ended.

    Args:
        source: Makes the items; nobody else may use it.
        ahead: At least 1.
    """
    ready: queue.Queue[T | _End] = queue.Queue(ahead)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(source, ready, stop), daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        while thread.is_alive():
            with suppress(queue.Empty):  # makes room where the thread waits for it
                ready.get(timeout=0.05)


def _fill(
    source: Generator[T, None, None], ready: queue.Queue[T | _End], stop: threading.Event
) -> None:
    error: BaseException | None = None
    try:
        for item in source:
            ready.put(item)
            if stop.is_set():
                break
    except BaseException as caught:  # raised again where the items are used
        error = caught
    finally:
        source.close()
        ready.put(_End(error))
