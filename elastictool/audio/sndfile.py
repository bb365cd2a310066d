"""Decodes PCM containers (wav, RF64, W64, NIST, aiff, au, caf) and FLAC with libsndfile.

It seeks to any sample. It reads a file that was cut off as if it were shorter, and nothing behind
the length in a header, so ``completeness`` looks first; where the length is wrong, the bytes of the
samples are read as a file without a header.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import soundfile

from elastictool.audio.completeness import LONGEST_FILE, Extent, unread_from
from elastictool.audio.reader import (
    BLOCK_VALUES,
    Recording,
    Samples,
    UnknownContent,
    part_of,
)
from elastictool.utils.errors import AudioError

_NO_LENGTH = 1 << 62
"""libsndfile gives the largest number where a flac's header has no length, and fails at its end."""
_UNKNOWN = (1, 4, 64)
"""libsndfile's codes for an unknown format, an unknown encoding, and a malformed description in a
wav, which is what it finds where the wav holds AC-3."""


_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}
_WIDTHS |= {"FLOAT": 4, "DOUBLE": 8}
"""Encodings whose samples all have this many bytes."""
_BIG_ENDIAN = ("AIFF", "AU", "CAF")
"""Containers whose samples are big-endian where libsndfile does not say otherwise."""
_READ_AHEAD = 1 << 14
"""Bytes that libFLAC has read before it needs them: 8 kB."""
_STEP_BYTES = 1 << 9
_FLAC = b"fLaC\0\0\0\x22"
"""Begins a FLAC file: its name, and the header of the first block, of 34 bytes."""


class _Source:
    """A file for libsndfile, which calls from C, where an exception would be printed and lost.

    It gives the last bytes of a FLAC file in small steps, so its position shows what was decoded.

    Args:
        raw: The file.

    Attributes:
        fault: Why it could not be read.
    """

    fault: OSError | None = None

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self.tell = raw, raw.tell
        self._size = raw.seek(0, os.SEEK_END)
        raw.seek(0)
        self._tail = self._size - _READ_AHEAD * (raw.read(8) == _FLAC)
        raw.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves, to the end at most: lengths in headers lead anywhere.

        It stays where a placeholder leads beyond any file: libsndfile then takes what follows.
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        if 0 <= base + offset < LONGEST_FILE:
            self._raw.seek(min(base + offset, self._size))
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        """Reads into ``buffer``, at the end of the file into a part of it."""
        if self.tell() > self._tail:
            buffer = memoryview(buffer)[:_STEP_BYTES]
        try:
            count: int = cast(Any, self._raw).readinto(buffer)
        except OSError as error:
            self.fault, count = error, 0
        return count

    read = readinto  # soundfile looks for this name, too

    def unread(self) -> int:
        """Returns the bytes behind what was decoded, from the beginning of a joined FLAC file."""
        at = self.tell()
        begin = self._raw.seek(max(0, at - _READ_AHEAD))
        joined = self._raw.read(at - begin).find(_FLAC, 1)
        return unread_from(self._raw, begin + joined if joined > 0 else at)

    def check(self) -> None:
        """Raises what happened while libsndfile read."""
        if self.fault:
            raise self.fault


class _File(Recording):
    """One file, opened by libsndfile."""

    def __init__(self, file: soundfile.SoundFile, name: str, source: _Source) -> None:
        super().__init__(name, int(file.samplerate), int(file.channels))
        self._file, self._source = file, source

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
                self._source.check()
                if not len(block):
                    raise AudioError(f"{self.name}: truncated ({at} of {self.num_samples} samples)")
                block, skip = block[skip:], max(0, skip - len(block))
                at += len(block)
                if len(block):
                    yield block
            if self._file.format == "FLAC" and at == self.num_samples:
                self.unread_bytes = self._source.unread()
        except soundfile.LibsndfileError as error:
            self._source.check()
            reason = error.error_string
            raise AudioError(f"{self.name}: damaged or truncated ({reason})") from error


@contextmanager
def open_sndfile(raw: BinaryIO, name: str, extent: Extent) -> Iterator[Recording]:
    """Opens a recording with libsndfile.

    Args:
        raw: The file.
        name: For messages.
        extent: Where its audio lies.

    Raises:
        UnknownContent: libsndfile does not know it, finds no length in it, or it holds mp3.
        AudioError: It cannot be read.
    """
    source = _Source(raw)
    try:
        opened = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        source.check()
        reason = error.error_string
        if error.code in _UNKNOWN or extent.corrected:
            raise UnknownContent(reason) from error
        raise AudioError(f"{name}: not readable as audio ({reason})") from error
    with opened as file:
        width = _WIDTHS.get(file.subtype, 0) * file.channels
        longer = file.frames * width > extent.stop - extent.start > 0  # of W64 and NIST it reads on
        if width and (extent.corrected or longer):
            source = _Source(part_of(raw, extent.start, extent.stop))
            with _headless(source, file) as samples:
                yield _File(samples, name, source)
            return
        if file.subtype.startswith("MPEG") or not 0 < file.frames < _NO_LENGTH:
            raise UnknownContent("its header does not say how long it is")
        found = _File(file, name, source)
        found.unread_bytes = extent.wrapped
        yield found


def _headless(source: _Source, like: soundfile.SoundFile) -> soundfile.SoundFile:
    """Opens bytes of samples, with the encoding of another file."""
    endian = like.endian
    if endian == "FILE":
        endian = "BIG" if like.format in _BIG_ENDIAN else "LITTLE"
    return soundfile.SoundFile(
        source,
        samplerate=like.samplerate,
        channels=like.channels,
        format="RAW",
        subtype=like.subtype,
        endian=endian,
    )
