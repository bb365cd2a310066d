"""Computes the next items of an iterator in the background while the last one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")


def prefetched(source: Generator[T, None, None], ahead: int) -> Generator[T, None, None]:
    """Yields the items of ``source`` in order, with up to ``ahead`` ready and one being computed.

    The source runs in one thread of its own; its error is raised here, after the items before it.
    Closing waits until that thread has ended, and closes the source.

    Args:
        source: Makes the items; nobody else may use it.
        ahead: At least 1.
    """
    with closing(source), ThreadPoolExecutor(1) as thread:

        def make() -> Future[T | None]:
            return thread.submit(next, source, None)

        items = deque(make() for _ in range(ahead + 1))
        try:
            while (item := items.popleft().result()) is not None:
                items.append(make())
                yield item
        finally:
            for waiting in items:
                waiting.cancel()
