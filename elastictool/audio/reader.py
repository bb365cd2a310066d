"""What a decoder is: something that opens a recording and gives its samples in blocks.

Decoders stand side by side (libsndfile, PyAV, h5py), and everything above them (channels,
checks, resampling) is written once in ``decode``. Samples come in blocks of bounded size, so that
three hours of audio need no more memory than three minutes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from elastictool.utils.errors import AudioError
from elastictool.utils.registry import Registry

Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]
Source = Path | bytes | BinaryIO
"""A file, a recording in one (``FILE/NAME``), bytes, or a file that is open (and stays open)."""

BLOCK_VALUES = 1 << 21
"""Samples x channels of a block: 8 MB of float32; 48 s of mono at 44.1 kHz."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    ``num_samples`` is exact for formats that libsndfile reads; containers such as webm round
    their length to a millisecond.
    """

    num_samples: int
    sample_rate_hz: int
    channels: int


class AudioReader(Protocol):
    """An opened recording.

    Attributes:
        sample_rate_hz: Its rate.
        channels: How many.
        holds_integers: Samples are whole numbers, so none can be NaN or infinite.
    """

    sample_rate_hz: int
    channels: int
    holds_integers: bool

    @property
    def num_samples(self) -> int:
        """Length; counted by decoding where the file does not say.

        Raises:
            AudioError: Damaged or truncated, found while counting.
        """

    def blocks(self, start: int, stop: int | None) -> Iterator[Samples]:
        """(n, channels) blocks from sample ``start`` to ``stop`` (None: to the end); asked once.

        float32 in -1..1, or int16 where the file holds that.

        Raises:
            AudioError: Damaged or truncated.
        """


class Decoder(Protocol):
    """A library that opens recordings."""

    def missing(self) -> str:
        """What to install before it can be used; empty where it is there."""

    def open(self, source: Source, name: str) -> AbstractContextManager[AudioReader]:
        """Open a recording; ``name`` is for messages.

        Raises:
            UnknownContent: It is nothing that this decoder knows; another may.
            AudioError: It is, but cannot be read.
        """


class UnknownContent(Exception):
    """A decoder does not know what it was given; the text is the library's own."""


DECODERS: Registry[Decoder] = Registry(
    "decoder",
    ("elastictool.audio.sndfile", "elastictool.audio.pyav", "elastictool.audio.hdf5"),
)


def describe(source: Source) -> str:
    """What messages call ``source``."""
    if isinstance(source, Path):
        return str(source)
    return f"<{len(source)} bytes in memory>" if isinstance(source, bytes) else "<an open file>"


def place_of(source: Source) -> tuple[Source, str]:
    """The file that ``source`` lies in and its name there; the name is empty for a plain file."""
    if isinstance(source, Path) and not source.exists():
        for folder in source.parents:
            if folder.is_file():
                return folder, source.relative_to(folder).as_posix()
    return source, ""


@contextmanager
def opened(source: Source, name: str) -> Iterator[BinaryIO]:
    """The bytes of ``source`` as an open file, at its beginning.

    Raises:
        AudioError: It cannot be read.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
        with file:
            yield file
    else:
        source.seek(0)
        yield source


def in_range(samples: npt.NDArray[Any]) -> Samples:
    """int16 as it is, everything else as float32 in -1..1."""
    if samples.dtype == np.int16:
        return samples
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    centre = half if samples.dtype.kind == "u" else 0.0
    scaled: Samples = ((samples - centre) / half).astype(np.float32)
    return scaled


def prefixed(prefix: bytes, raw: BinaryIO, start: int, stop: int) -> BinaryIO:
    """A file of ``prefix``, then bytes ``start`` to ``stop`` of ``raw``; it has no name."""
    return cast(BinaryIO, io.BufferedReader(_Prefixed(prefix, raw, start, stop)))


def nameless(raw: BinaryIO) -> BinaryIO:
    """The same file without its name, from which libraries would guess what it holds."""
    return prefixed(b"", raw, 0, raw.seek(0, os.SEEK_END))


class _Prefixed(io.RawIOBase):
    """Reads ``prefix``, then bytes ``start`` to ``stop`` of a file, as one file."""

    def __init__(self, prefix: bytes, raw: BinaryIO, start: int, stop: int) -> None:
        self._prefix, self._raw, self._start = prefix, raw, start
        self._size = len(prefix) + stop - start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        part = self._prefix[self._at : self._at + wanted]
        if not part:
            self._raw.seek(self._start + self._at - len(self._prefix))
            part = self._raw.read(wanted)
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
