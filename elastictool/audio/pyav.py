"""Decoding with PyAV (FFmpeg's libraries): m4a, mp4, webm, and what libsndfile cannot read.

An extra, loaded when the first such file is met. The container is chosen by content, out of a
list of kinds that hold media and nothing else: FFmpeg also knows play lists, and a text file among
a user's recordings must not make us open addresses that it names. Slices of indexed containers are
read by seeking, so that a clip out of an hour of video costs a clip's time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from elastictool.audio.reader import (
    BLOCK_VALUES,
    DECODERS,
    AudioReader,
    Samples,
    Source,
    UnknownContent,
    in_range,
    nameless,
    opened,
)
from elastictool.utils.errors import AudioError
from elastictool.utils.optional import install_command, missing_extra

INSTALL = install_command("av")

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,avi,wv,asf,mp3,ogg,flac,wav,w64,aiff,au,caf,"
    "mpegts,mpeg,flv,amr,ac3,eac3,ape,tta,mpc,mpc8,dsf,voc"
)
_INDEXED = ("mov", "matroska")
"""Containers that find the place of a time stamp; in others a seek is a guess."""
_RUN_UP_S = 0.5
"""Decoded before a slice: codecs need what came before (Opus asks for 80 ms)."""
_TOLERANCE_S = 0.1
"""What may lack at the end: containers round, and count what a codec adds in front."""
_LONGEST_FRAME = 4096
"""Codecs fill their last frame up; a container that knows its length says by how much."""


class PyAvDecoder:
    """Opens files with PyAV."""

    def missing(self) -> str:
        """What to do about PyAV, where it cannot be used."""
        return missing_extra("av")

    @contextmanager
    def open(self, source: Source, name: str) -> Iterator[AudioReader]:
        """As ``Decoder.open``."""
        with opened(source, name) as raw:
            reader = _Reader(nameless(raw), name)
            try:
                yield reader
            finally:
                reader.close()


class _Reader:
    """The first audio stream of one container."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self._raw, self._name = raw, name
        self._container: Any = None
        self._stream: Any = None
        frames = self._open()
        first = next(frames, None)
        if first is None:
            raise AudioError(f"{name}: holds no samples")
        self._origin = first.pts or 0
        self._unread: Iterator[Any] = chain((first,), frames)
        self.sample_rate_hz, self.channels = int(first.sample_rate), len(first.layout.channels)
        self.holds_integers = first.format.name[0] in "su"

    def close(self) -> None:
        """Close the container; the file below it stays open."""
        self._container.close()

    @cached_property
    def num_samples(self) -> int:
        """As ``AudioReader.num_samples``; of a webm it may be a few milliseconds too many."""
        if self._promised:
            return self._promised
        if self._is("matroska") and self._container.duration:
            return int(self._container.duration * self.sample_rate_hz // 1_000_000)
        count = sum(int(frame.samples) for frame in self._unread)
        self._reopen()
        return count

    def blocks(self, start: int, stop: int | None) -> Iterator[Samples]:
        """As ``AudioReader.blocks``."""
        done = start
        pieces = self._samples(start, sys.maxsize if stop is None else stop)
        if stop is None and self._promised:
            pieces = _without_filling(pieces, self._promised - start)
        for block in _grouped(pieces, BLOCK_VALUES // self.channels):
            done += len(block)
            yield block
        promised = self._promised if stop is None else min(stop, self._promised)
        if done < promised - _TOLERANCE_S * self.sample_rate_hz:
            raise AudioError(f"{self._name}: truncated ({done} of {self._promised} samples)")

    @cached_property
    def _promised(self) -> int:
        """Samples that the container says the stream has; 0 where it only estimates.

        A container's own duration is that of its longest stream, so it counts only where there
        is no other. Matroska's writers note each stream's length in a tag.
        """
        seconds = 0.0
        if (self._is("mov") or self._is("wv")) and self._stream.duration:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._is("matroska"):
            tag = self._stream.metadata.get("DURATION", "")
            if tag.count(":") == 2:
                hours, minutes, rest = tag.split(":")
                seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
            elif len(self._container.streams) == 1 and self._container.duration:
                seconds = self._container.duration / 1_000_000
        return round(seconds * self.sample_rate_hz)

    def _is(self, container: str) -> bool:
        return container in self._container.format.name.split(",")

    def _open(self) -> Iterator[Any]:
        """Frames from the beginning."""
        import av

        self._raw.seek(0)
        try:
            self._container = av.open(self._raw, options={"format_whitelist": _CONTAINERS})
        except av.error.FFmpegError as error:
            raise UnknownContent(error.strerror or str(error)) from error
        if not self._container.streams.audio:
            self._container.close()
            raise AudioError(f"{self._name}: holds no audio stream")
        self._stream = self._container.streams.audio[0]
        return self._frames()

    def _reopen(self) -> None:
        self._container.close()
        self._unread = self._open()

    def _frames(self) -> Iterator[Any]:
        """Decoded frames from where the container stands."""
        import av

        try:
            yield from self._container.decode(self._stream)
        except av.error.FFmpegError as error:
            reason = error.strerror or str(error)
            raise AudioError(f"{self._name}: damaged or truncated ({reason})") from error

    def _samples(self, start: int, end: int) -> Iterator[Samples]:
        """(n, channels) pieces from ``start`` to ``end``, one a frame."""
        at = self._seek(start)
        for frame in self._unread:
            if (frame.sample_rate, len(frame.layout.channels)) != (
                self.sample_rate_hz,
                self.channels,
            ):
                raise AudioError(f"{self._name}: changes its sample rate or channels half-way")
            piece = _values(frame)[max(0, start - at) : max(0, end - at)]
            at += frame.samples
            if len(piece):
                yield piece
            if at >= end:
                return

    def _seek(self, start: int) -> int:
        """Go to a frame at or before ``start``; returns its first sample."""
        target_s = start / self.sample_rate_hz - _RUN_UP_S
        if target_s <= 0 or not any(map(self._is, _INDEXED)):
            return 0
        ticks_per_s = 1 / self._stream.time_base
        self._container.seek(self._origin + int(target_s * ticks_per_s), stream=self._stream)
        frames = self._frames()
        first = next(frames, None)
        if first is not None and first.pts is not None:
            seconds = float((first.pts - self._origin) * self._stream.time_base)
            at = round(seconds * self.sample_rate_hz)
            if at <= start:
                self._unread = chain((first,), frames)
                return at
        self._reopen()  # an index with holes leads past the place
        return 0


def _values(frame: Any) -> Samples:
    """(n, channels) of one frame."""
    array = frame.to_ndarray()
    return in_range(array.T if frame.format.is_planar else array.reshape(frame.samples, -1))


def _without_filling(pieces: Iterator[Samples], length: int) -> Iterator[Samples]:
    """``pieces`` up to ``length`` samples, or all where more than a last frame's filling follows.

    A fragmented mp4 states the length of its first part only.
    """
    beyond: list[Samples] = []
    for piece in pieces:
        inside, rest = piece[: max(0, length)], piece[max(0, length) :]
        length -= len(inside)
        if len(inside):
            yield inside
        if len(rest):
            beyond.append(rest)
        if sum(map(len, beyond)) > _LONGEST_FRAME:
            yield from beyond
            beyond, length = [], sys.maxsize


def _grouped(pieces: Iterator[Samples], size: int) -> Iterator[Samples]:
    """Frames are about a thousand samples: join them to blocks of ``size`` or a little more."""
    group: list[npt.NDArray[Any]] = []
    count = 0
    for piece in pieces:
        group.append(piece)
        count += len(piece)
        if count >= size:
            yield cast(Samples, np.concatenate(group))
            group, count = [], 0
    if group:
        yield cast(Samples, np.concatenate(group))


DECODERS.register("av")(PyAvDecoder())
