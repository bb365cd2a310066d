"""Decodes with PyAV (FFmpeg's libraries): everything but PCM containers and FLAC.

Packet by packet: a packet that cannot be decoded, or is missing by the time stamps, is counted,
silence replaces it, and decoding continues, so that later sounds keep their times. A file
whose last packet is damaged was cut off and is refused, and so is one with more damaged than good
packets.

A container is recognised by content, from a list of kinds that hold only media: FFmpeg also knows
play lists, and a text file among a user's recordings must not make us open addresses in it.

A part of a file is read by seeking where FFmpeg's time stamps lead to the exact sample (webm and
mkv round them to a millisecond). Elsewhere a file is decoded from its beginning: raw AAC, wma, avi,
FLAC in Ogg, and joined files in which times start again.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from elastictool.audio.completeness import unread_from
from elastictool.audio.reader import (
    BLOCK_VALUES,
    Recording,
    Samples,
    UnknownContent,
    in_range,
)
from elastictool.utils.errors import AudioError

RUN_UP_SAMPLES = 25_000
"""Decoded before a part: an mp3 frame borrows bits from up to 22 frames before it (25,000 samples
at most), Opus needs 80 ms."""

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,avi,wv,asf,mp3,ogg,flac,wav,w64,aiff,au,caf,"
    "mpegts,mpeg,flv,amr,ac3,eac3,ape,tta,mpc,mpc8,dsf,voc"
)
_WITH_LENGTH = ("mov", "wv", "matroska", "wav")
"""Containers that state the length of a stream and where each packet lies."""
_NOTHING_BEHIND = ("wv", "tta")
"""Containers that have no index or the like behind the last packet."""
_INDEX_BEHIND = ("matroska", "flv", "avi")
_LONGEST_INDEX = 1 << 20
_BEGINNINGS = re.compile(
    rb"\x1a\x45\xdf\xa3|FLV\x01|RIF[FX]....(?:WAVE|AVI )|fLaC\0\0\0\x22|OggS\0\x02|....ftyp|wvpk",
    re.DOTALL,
)
"""Beginnings of another file, which may follow an index."""
_SEEKABLE = ("mp3", "ogg")
"""Others where a seek is exact, as long as time stamps rise."""
_VOTES = 16
"""Frames whose time stamps vote on the position after a seek."""
_TOLERANCE_S = 0.1
"""What may be missing: containers round, and count what a codec adds in front; time stamps jitter
(Vorbis changes its block size, phones note when they recorded)."""
_MP3_TOLERANCE_S = 0.01
"""In an mp3 time stamps count frames, of 24 ms and more."""
_LONGEST_GAP_S = 30.0
"""A file with a longer gap is refused."""
_LONGEST_FRAME = 4096
"""Codecs pad their last frame; a container that states its length shows the padding."""
_COUNTED: dict[tuple[int, ...], tuple[int, int | None]] = {}
"""Samples and last time stamp of counted files: often many slices of one file are read."""
_Frame = tuple[Any, int]
"""A decoded frame, and the number of damaged packets before it."""


class _Seekable:
    """A file whose impossible seeks, to where a damaged header leads, are errors for FFmpeg only.

    PyAV keeps one exception of a file, and prints others with their tracebacks.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.tell, self.seekable = raw.tell, raw.seekable

    def read(self, size: int) -> bytes:
        """Returns the next bytes; none where the file has nothing ready."""
        return self._raw.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Returns the new position, or a negative error number."""
        try:
            return self._raw.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


class _Stream(Recording):
    """The first audio stream of one container."""

    _container: Any = None
    _stream: Any
    _unread: Iterator[_Frame]

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self._raw, self.name = raw, name
        self._open()
        first = next(self._unread, None)
        if first is None:
            raise AudioError(f"{name}: holds no samples")
        self._unread = chain((first,), self._unread)
        frame, damaged = first
        super().__init__(name, int(frame.sample_rate), len(frame.layout.channels))
        self.other_streams = len(self._container.streams.audio) - 1
        self._samples_per_tick = float(self._stream.time_base * self.sample_rate_hz)
        self._origin = (self._stream.start_time if damaged else frame.pts) or 0

    def close(self) -> None:
        """Closes the container; the file below it stays open."""
        if self._container is not None:
            self._container.close()

    @cached_property
    def num_samples(self) -> int:
        """Length in samples; that of webm and mkv may be a few milliseconds too long."""
        if self._stated and self._is(*_WITH_LENGTH):
            return self._stated
        if self._is("matroska") and self._container.duration:
            return int(self._container.duration * self.sample_rate_hz // 1_000_000)
        if self._identity in _COUNTED:
            count, self._last_time = _COUNTED[self._identity]
            return count
        end = self._position(self._last_time or self._origin) if self._can_seek else 0
        at, chunks = self._chunks_from(end)
        count = at + sum(len(chunk) for chunk, _ in chunks)
        self._check_end(count, self._stated)
        self._open()
        if self._identity:
            if len(_COUNTED) > 1_000:
                _COUNTED.clear()
            _COUNTED[self._identity] = count, self._last_time if self._can_seek else None
        return count

    @property
    def stated_samples(self) -> int:
        """Length of the stream that the container states, or 0."""
        return self._stated

    @property
    def _identity(self) -> tuple[int, ...]:
        """Facts of a file that change with its content; empty for bytes in memory."""
        try:
            found = os.fstat(self._raw.fileno())
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def samples(self, start: int, stop: int | None) -> Iterator[Samples]:
        """Joins decoded frames to blocks."""
        done = start
        parts = self._part(start, sys.maxsize if stop is None else stop)
        if stop is None and self._stated and self._is(*_WITH_LENGTH):
            parts = _without_padding(parts, self._stated - start)
        for block in _joined(parts, max(1, BLOCK_VALUES // self.channels)):
            done += len(block)
            yield block
        if done == start:
            raise self._damaged(f"nothing can be decoded from sample {start} on")
        self._check_end(done, self._stated if stop is None else min(stop, self._stated))

    def _check_end(self, done: int, expected: int) -> None:
        if done < expected - _TOLERANCE_S * self.sample_rate_hz:
            raise AudioError(f"{self.name}: truncated ({done} of {self._stated} samples)")

    @cached_property
    def _stated(self) -> int:
        """Length of the stream that the container states, in samples; 0 where it only estimates.

        A container's own duration is that of its longest stream, so it counts only where there
        is no other. Matroska's writers note each stream's length in a tag, which editing may leave
        as it was. In Ogg it is the time of the last page: that of the last part where several were
        joined.
        """
        seconds = 0.0
        if self._is("matroska"):
            whole = (self._container.duration or 0) / 1_000_000
            tag = self._stream.metadata.get("DURATION", "")
            if whole and len(self._container.streams) == 1:
                seconds = whole
            elif found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", tag, re.ASCII):
                hours, minutes, rest = found.groups()
                seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
                seconds = min(seconds, whole) if whole else seconds
        elif self._is("ogg", *_WITH_LENGTH) and self._stream.duration:
            seconds = float(self._stream.duration * self._stream.time_base)
        return round(seconds * self.sample_rate_hz)

    @cached_property
    def _last_time(self) -> int | None:
        """Time stamp of the last packet; None where times are missing or start again."""
        last: int | None = self._origin
        for packet in self._packets():
            if packet.size and last is not None:
                last = packet.pts if packet.pts is not None and packet.pts >= last else None
        self._open()
        return last

    def _position(self, pts: int) -> int:
        """Returns the sample at a time stamp."""
        return round((pts - self._origin) * self._samples_per_tick)

    def _is(self, *containers: str) -> bool:
        return any(name in containers for name in self._container.format.name.split(","))

    def _open(self) -> None:
        """Opens the container at its beginning; tags in any encoding are accepted."""
        import av  # here, because most recordings are PCM and the import takes a tenth of a second

        self.close()
        self._raw.seek(0)
        try:
            self._container = av.open(
                _Seekable(self._raw),
                options={"format_whitelist": _CONTAINERS},
                metadata_errors="replace",
            )
        except av.error.FFmpegError as error:
            raise UnknownContent(error.strerror or str(error)) from error
        if not self._container.streams.audio:
            raise AudioError(f"{self.name}: holds no audio stream")
        self._stream = self._container.streams.audio[0]
        self._unread = self._frames()

    def _packets(self) -> Iterator[Any]:
        """Yields packets of the stream from where the container stands."""
        import av

        end = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.pos is not None:
                    end = packet.pos + packet.size
                yield packet
        except av.error.FFmpegError as error:
            self._raw.seek(end)
            rest = self._raw.read(1 << 20)
            if not rest.startswith((b"APE", b"TAG")) or b"wvpk" in rest:  # else tags of WavPack
                raise self._damaged(error.strerror or str(error)) from error
        if self._is(*_NOTHING_BEHIND):
            self.unread_bytes = unread_from(self._raw, end)
        elif self._is(*_INDEX_BEHIND):
            self._raw.seek(end)
            if another := _BEGINNINGS.search(self._raw.read(_LONGEST_INDEX)):
                self.unread_bytes = unread_from(self._raw, end + another.start())

    def _frames(self) -> Iterator[_Frame]:
        """Yields decoded frames from where the container stands."""
        import av

        reason, damaged, good = "", 0, 0
        waiting = 0
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                reason = error.strerror or str(error)
                damaged, waiting = damaged + 1, waiting + 1
                continue
            good += 1
            for frame in frames:
                yield frame, waiting
                waiting = 0
        if waiting and self._is("mp3"):  # junk: its decoder accepts a frame that was cut off
            self.damaged_packets += waiting
            waiting = 0
        if waiting or damaged > good:
            raise self._damaged(f"{reason}, in {damaged} of {damaged + good} packets")

    def _damaged(self, reason: str) -> AudioError:
        return AudioError(f"{self.name}: damaged or truncated ({reason})")

    def _chunks_from(self, start: int) -> tuple[int, Iterator[tuple[Samples, int]]]:
        """Decodes from ``start`` or before it.

        Returns:
            The first sample, and (n, channels) chunks with the number of damaged packets that
            each stands for.
        """
        if (target := start - RUN_UP_SAMPLES) > 0 and self._can_seek:
            ticks = self._origin + int(target / self._samples_per_tick)
            self._container.seek(ticks, stream=self._stream)
            frames = self._frames()
            first = list(islice(frames, _VOTES))
            at = self._first_sample(first)
            if at is not None and at <= start:
                return at, self._converted(chain(first, frames), at)
            self._open()  # an index with holes leads past ``start``
        return 0, self._converted(self._unread, 0)

    def _first_sample(self, frames: list[_Frame]) -> int | None:
        """Returns the position of the first frame, by most of their time stamps; None without any.

        FFmpeg misjudges the duration of a Vorbis packet that begins a page, and so its time.
        """
        votes: Counter[int] = Counter()
        done = 0
        for frame, _ in frames:
            if frame.pts is not None:
                first = self._position(frame.pts) - done
                if votes and abs(first - min(votes)) > self._tolerance:
                    break  # behind a gap
                votes[first] += 1
            done += frame.samples
        return votes.most_common(1)[0][0] if votes else None

    @property
    def _tolerance(self) -> float:
        """Samples by which time stamps may be off."""
        seconds = _MP3_TOLERANCE_S if self._is("mp3") else _TOLERANCE_S
        return seconds * self.sample_rate_hz

    @property
    def _can_seek(self) -> bool:
        if self._stream.codec_context.name == "flac":
            return False
        return self._is(*_WITH_LENGTH) or (self._is(*_SEEKABLE) and self._last_time is not None)

    def _converted(self, frames: Iterator[_Frame], at: int) -> Iterator[tuple[Samples, int]]:
        """Yields (n, channels) values, with silence for what was damaged or is missing."""
        expected = (self.sample_rate_hz, self.channels)
        tolerance = self._tolerance
        restarted = 0  # times start again where parts were joined
        for frame, damaged in frames:
            if (frame.sample_rate, len(frame.layout.channels)) != expected:
                raise AudioError(f"{self.name}: changes its sample rate or channels half-way")
            array = frame.to_ndarray()
            values = in_range(
                array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
            )
            ahead = 0 if frame.pts is None else self._position(frame.pts) + restarted - at
            if ahead < -tolerance:
                restarted -= ahead
            if ahead > _LONGEST_GAP_S * self.sample_rate_hz:
                seconds = ahead / self.sample_rate_hz
                raise self._damaged(f"{seconds:.0f} s are missing at sample {at}")
            if damaged or ahead > tolerance:
                size, left = max(1, BLOCK_VALUES // self.channels), max(0, ahead)
                yield np.zeros((min(size, left), self.channels), values.dtype), damaged or 1
                for first in range(size, left, size):
                    yield np.zeros((min(size, left - first), self.channels), values.dtype), 0
                at += left
            yield values, 0
            at += len(values)

    def _part(self, start: int, end: int) -> Iterator[Samples]:
        """Yields (n, channels) chunks from ``start`` to ``end``."""
        at, chunks = self._chunks_from(start)
        for values, damaged in chunks:
            chunk = values[max(0, start - at) : max(0, end - at)]
            at += len(values)
            if at >= start:
                self.damaged_packets += damaged
            if len(chunk):
                yield chunk
            if at >= end:
                return


def _without_padding(chunks: Iterator[Samples], length: int) -> Iterator[Samples]:
    """Yields ``length`` samples, or all where more than the padding of a last frame follows.

    A fragmented mp4 states the length of its first part only.
    """
    beyond: list[Samples] = []
    for chunk in chunks:
        inside, rest = chunk[: max(0, length)], chunk[max(0, length) :]
        length -= len(inside)
        if len(inside):
            yield inside
        if len(rest):
            beyond.append(rest)
        if sum(map(len, beyond)) > _LONGEST_FRAME:
            yield from beyond
            beyond, length = [], sys.maxsize


def _joined(chunks: Iterator[Samples], size: int) -> Iterator[Samples]:
    """Joins chunks of about a thousand samples to blocks of ``size``; the last is shorter."""
    group: list[npt.NDArray[Any]] = []
    count = 0
    for chunk in chunks:
        group.append(chunk)
        count += len(chunk)
        while count >= size:
            whole = np.concatenate(group)
            yield cast(Samples, whole[:size])
            group, count = [whole[size:]], count - size
    if count:
        yield cast(Samples, np.concatenate(group))


@contextmanager
def open_av(raw: BinaryIO, name: str) -> Iterator[Recording]:
    """Opens a recording with PyAV; ``name`` is for messages.

    Raises:
        UnknownContent: FFmpeg does not know it.
        AudioError: It holds no audio, or cannot be read.
    """
    reader = _Stream(raw, name)
    try:
        yield reader
    finally:
        reader.close()
