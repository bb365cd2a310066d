"""A temporary file that stays in memory while it is small, and reports a full disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from elastictool.utils.errors import write_error

IN_MEMORY_BYTES = 8 << 20
"""Up to this size it stays in memory."""


class Spool(tempfile.SpooledTemporaryFile[bytes]):
    """A file for libsndfile, which calls from C, where an exception would be printed and lost."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes ``data``; keeps the first fault for the end of ``in_folder``."""
        try:
            return super().write(data)
        except OSError as error:
            self.fault = self.fault or error
            return 0

    @classmethod
    @contextmanager
    def in_folder(cls, folder: Path) -> Iterator[BinaryIO]:
        """Yields an empty file in memory, in ``folder`` once it is large.

        Raises:
            WriteError: The disk is full.
        """
        with cls(IN_MEMORY_BYTES, dir=str(folder)) as file:
            try:
                yield cast(BinaryIO, file)
            finally:
                if file.fault:
                    raise write_error(folder, file.fault) from file.fault
