"""Decodes PCM containers (wav, RF64, W64, NIST, aiff, au, caf) and FLAC with libsndfile.

It seeks to any sample. It reads a file that was cut off as if it were shorter, so
``completeness`` looks first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import soundfile

from elastictool.audio.reader import (
    BLOCK_VALUES,
    Recording,
    Samples,
    UnknownContent,
)
from elastictool.utils.errors import AudioError

_NO_LENGTH = 1 << 62
"""libsndfile gives the largest number where a flac's header has no length, and fails at its end."""
_UNKNOWN = (1, 4, 64)
"""libsndfile's codes for an unknown format, an unknown encoding, and a malformed description in a
wav, which is what it finds where the wav holds AC-3."""


class _File(Recording):
    """One file, opened by libsndfile."""

    def __init__(self, file: soundfile.SoundFile, name: str) -> None:
        super().__init__(name, int(file.samplerate), int(file.channels))
        self._file = file

    @property
    def num_samples(self) -> int:
        """Length that the header states."""
        return int(self._file.frames)

    def samples(self, start: int, stop: int | None) -> Iterator[Samples]:
        """Seeks to ``start`` where the encoding can; elsewhere reads and skips what is before."""
        end = self.num_samples if stop is None else min(stop, self.num_samples)
        size = max(1, BLOCK_VALUES // self.channels)
        dtype = "int16" if self._file.subtype == "PCM_16" else "float32"
        at = skip = start
        try:
            if start and self._file.seekable():
                self._file.seek(start)
                skip = 0
            while at < end:
                block: Samples = self._file.read(
                    min(size, skip + end - at), dtype=dtype, always_2d=True
                )
                if not len(block):
                    raise AudioError(f"{self.name}: truncated ({at} of {self.num_samples} samples)")
                block, skip = block[skip:], max(0, skip - len(block))
                at += len(block)
                if len(block):
                    yield block
        except soundfile.LibsndfileError as error:
            reason = error.error_string
            raise AudioError(f"{self.name}: damaged or truncated ({reason})") from error


@contextmanager
def open_sndfile(raw: BinaryIO, name: str) -> Iterator[Recording]:
    """Opens a recording with libsndfile; ``name`` is for messages.

    Raises:
        UnknownContent: libsndfile does not know it, finds no length in it, or it holds mp3.
        AudioError: It cannot be read.
    """
    raw.seek(0)
    try:
        file = soundfile.SoundFile(raw)
    except soundfile.LibsndfileError as error:
        if error.code in _UNKNOWN:
            raise UnknownContent(error.error_string) from error
        reason = error.error_string
        raise AudioError(f"{name}: not readable as audio ({reason})") from error
    with file:
        if file.subtype.startswith("MPEG") or not 0 < file.frames < _NO_LENGTH:
            raise UnknownContent("its header does not say how long it is")
        yield _File(file, name)
