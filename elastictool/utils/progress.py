"""Defines the interface by which long jobs report progress.

Library code takes a ``Progress`` and never prints; the command line passes one that draws a
bar with an ETA (plain lines without a terminal), everything else passes ``SILENT``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One bar."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Moves the bar by ``amount`` and shows ``note`` next to it."""


class Progress(Protocol):
    """Shows bars and one-line messages."""

    def task(self, what: str, total: float | None) -> AbstractContextManager[Task]:
        """Opens a bar called ``what`` that is full at ``total`` (None: unknown)."""

    def log(self, message: str) -> None:
        """Shows one line."""


class _SilentProgress:
    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    def log(self, message: str) -> None:
        pass


SILENT: Progress = _SilentProgress()
