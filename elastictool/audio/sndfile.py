"""Decoding with libsndfile: wav and its kin, flac, ogg, opus, mp3, aiff, au, caf.

No subprocess, and it seeks to any sample. Two things are done for it here: counting an mp3 whose
header does not say how long it is, and a run-up after a seek in mp3. That a file was cut off it
does not say either: ``completeness`` finds out before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import soundfile

from elastictool.audio import mp3
from elastictool.audio.formats import HEAD_BYTES, sniff
from elastictool.audio.reader import (
    BLOCK_VALUES,
    DECODERS,
    AudioReader,
    Samples,
    Source,
    UnknownContent,
    nameless,
    opened,
)
from elastictool.utils.errors import AudioError

_SIXTEEN_BIT = "PCM_16"
_NO_LENGTH = 1 << 62
"""libsndfile gives the largest number where a flac's header has no length, and fails at its end."""
_UNKNOWN = (1, 4, 64)
"""libsndfile's codes for a format and for an encoding that it does not know. The last one is a
malformed description in a wav: so it calls AC-3 in there."""


class _Reader:
    """One file, opened by libsndfile."""

    def __init__(self, file: soundfile.SoundFile, name: str) -> None:
        self._file, self._name = file, name
        self.holds_integers = file.subtype.startswith("PCM")
        self._is_mp3 = file.subtype.startswith("MPEG_LAYER")  # also inside a wav
        self.num_samples = int(file.frames)
        self.sample_rate_hz, self.channels = int(file.samplerate), int(file.channels)

    def blocks(self, start: int, stop: int | None) -> Iterator[Samples]:
        """As ``AudioReader.blocks``."""
        end = self.num_samples if stop is None else min(stop, self.num_samples)
        try:
            done = start
            for block in self._read(self._seek(start), end):
                done += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            reason = error.error_string
            raise AudioError(f"{self._name}: damaged or truncated ({reason})") from error
        if done < end - (mp3.SLACK_SAMPLES if self._is_mp3 else 0):
            raise AudioError(f"{self._name}: truncated ({done} of {self.num_samples} samples)")

    def _seek(self, start: int) -> int:
        """Go to ``start``, or before it; returns how many samples to pass over."""
        if not start or not self._file.seekable():
            return start
        target = max(0, start - mp3.PREROLL_SAMPLES) if self._is_mp3 else start
        self._file.seek(target)
        return start - target

    def _read(self, skip: int, end: int) -> Iterator[Samples]:
        """Blocks up to sample ``end``, without the first ``skip`` samples."""
        size = max(1, BLOCK_VALUES // self.channels)
        dtype = "int16" if self._file.subtype == _SIXTEEN_BIT else "float32"
        left = end - (self._file.tell() if self._file.seekable() else 0)
        while left > 0:
            block: Samples = self._file.read(min(size, left), dtype=dtype, always_2d=True)
            if len(block) == 0:
                return
            left -= len(block)
            if skip < len(block):
                yield block[skip:]
            skip = max(0, skip - len(block))


class LibsndfileDecoder:
    """Opens files with libsndfile."""

    def missing(self) -> str:
        """Nothing: it is always installed."""
        return ""

    @contextmanager
    def open(self, source: Source, name: str) -> Iterator[AudioReader]:
        """As ``Decoder.open``."""
        with opened(source, name) as raw:
            kind = sniff(raw.read(HEAD_BYTES))
            counted = mp3.counted(raw, name) if kind is not None and kind.name == "mp3" else None
            raw.seek(0)
            with _sound_file(counted or raw, name) as file:
                if file.frames == 0:
                    raise AudioError(f"{name}: holds no samples")
                if file.frames >= _NO_LENGTH:
                    raise UnknownContent("its header does not say how long it is")
                yield _Reader(file, name)


def _sound_file(raw: BinaryIO, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(nameless(raw) if _is_called_raw(raw) else raw)
    except soundfile.LibsndfileError as error:
        if error.code in _UNKNOWN:
            raise UnknownContent(error.error_string) from error
        raise AudioError(f"{name}: not readable as audio ({error.error_string})") from error


def _is_called_raw(raw: BinaryIO) -> bool:
    """soundfile takes a file of this name for samples without a header."""
    return str(getattr(raw, "name", "")).lower().endswith(".raw")


DECODERS.register("libsndfile")(LibsndfileDecoder())
