"""The interface of decoders: what opens a recording and gives its samples in blocks.

soundfile, PyAV and h5py each implement ``AudioReader``; ``decode`` chooses between them by content
and does the rest (channels, checks, resampling) once. Samples come in blocks of bounded size, so
three hours of audio need no more memory than three minutes.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from elastictool.audio.formats import after_tags
from elastictool.utils.errors import AudioError

Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]
Source = Path | bytes | BinaryIO
"""A file, a recording inside a file (``FILE/NAME``), bytes, or an open file (which stays open)."""

BLOCK_VALUES = 1 << 21
"""Samples x channels of a block: 8 MB of float32; 48 s of mono at 44.1 kHz."""


@dataclass(frozen=True)
class AudioInfo:
    """Length, rate and channels of a recording.

    ``num_samples`` is exact, except for webm and mkv, which round their length to a millisecond.
    """

    num_samples: int
    sample_rate_hz: int
    channels: int


class AudioReader(Protocol):
    """An opened recording.

    Attributes:
        sample_rate_hz: Its sample rate.
        channels: Its number of channels.
        damaged_packets: Packets that could not be decoded, of the blocks given so far; silence
            stands in their place.
    """

    sample_rate_hz: int
    channels: int
    damaged_packets: int

    @property
    def num_samples(self) -> int:
        """Length; counted where the header does not say it.

        Raises:
            AudioError: Damaged or truncated, found while counting.
        """

    def blocks(self, start: int, stop: int | None) -> Iterator[Samples]:
        """(n, channels) blocks from sample ``start`` to ``stop`` (None: the end); call it once.

        float32 in -1..1, or int16 where the file holds that.

        Raises:
            AudioError: Damaged or truncated.
        """


class UnknownContent(Exception):
    """A decoder does not know this content, another may; the text is the library's own."""


def describe(source: Source) -> str:
    """Returns the name of ``source`` in messages."""
    if isinstance(source, Path):
        return str(source)
    return f"<{len(source)} bytes in memory>" if isinstance(source, bytes) else "<an open file>"


def place_of(source: Source) -> tuple[Source, str]:
    """Returns the file that holds ``source`` and its name there; empty for a plain file."""
    if isinstance(source, Path) and not source.exists():
        for folder in source.parents:
            if folder.is_file():
                return folder, source.relative_to(folder).as_posix()
    return source, ""


@contextmanager
def opened(source: Source, name: str) -> Iterator[BinaryIO]:
    """Opens the bytes of ``source`` at their beginning, after any ID3v2 tags.

    The file carries no name of its own, because libraries would guess a format from it.

    Raises:
        AudioError: It cannot be read, or is a pipe, a socket or a device.
    """
    if isinstance(source, bytes):
        yield _after_tags(io.BytesIO(source))
    elif isinstance(source, Path):
        try:
            mode = source.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise AudioError(f"{name}: is no regular file (a pipe, a socket or a device)")
            file = source.open("rb")
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
        with file, open(file.fileno(), "rb", closefd=False) as nameless:
            yield _after_tags(nameless)
    else:
        yield _after_tags(source)


def _after_tags(file: BinaryIO) -> BinaryIO:
    start = after_tags(file)
    file.seek(start)
    return cast(BinaryIO, io.BufferedReader(_Rest(file, start))) if start else file


class _Rest(io.RawIOBase):
    """A file without its first bytes."""

    def __init__(self, file: Any, start: int) -> None:
        self._file, self._start = file, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        moved: int = self._file.seek(offset + self._start * (whence == os.SEEK_SET), whence)
        return moved - self._start

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        return count


def in_range(samples: npt.NDArray[Any]) -> Samples:
    """Returns int16 as it is, everything else as float32 in -1..1."""
    if samples.dtype == np.int16:
        return samples
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    centre = half if samples.dtype.kind == "u" else 0.0
    scaled: Samples = ((samples - centre) / half).astype(np.float32)
    return scaled
