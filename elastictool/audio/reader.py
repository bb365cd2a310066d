"""Opens the bytes of a recording and yields its samples in blocks: the interface of decoders.

soundfile, PyAV and h5py each have a subclass of ``Recording``; ``decode`` chooses between them by
content. Channels and checks are handled here, once. Samples come in blocks of bounded size, so
three hours of audio need no more memory than three minutes.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from elastictool.audio.formats import after_tags
from elastictool.audio.losses import LOSSES
from elastictool.utils.errors import (
    AudioError,
    ElasticToolError,
    UsageError,
    first_line,
    from_system,
    is_lack,
    is_out_of_memory,
)
from elastictool.utils.io import open_file
from elastictool.utils.optional import describe_error

Waveform = npt.NDArray[np.float32]
Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]
Source = Path | bytes | BinaryIO
"""A file, a recording inside a file (``FILE/NAME``), bytes, or an open file (which stays open)."""

BLOCK_VALUES = 1 << 21
"""Samples x channels of a block: 8 MB of float32; 48 s of mono at 44.1 kHz."""
FULL_SCALE = 32_768.0
"""Value of an int16 sample that is 1.0 as a float."""
_CANCELLED = 0.01
"""Share of the channels' power below which that of their mean shows that they cancel each other."""
_POWER_STRIDE = 7
"""Samples apart of those whose power is measured; the share is nearly that of all."""
_RATES_HZ = (100, 10_000_000)
"""Lowest and highest sample rate that is believed: hydrophones for whales use hundreds of Hz,
those for bats and dolphins up to a few MHz."""


def check_rate(rate_hz: float, where: str = "") -> None:
    """Checks that a recorder may have this sample rate; ``where`` begins the message.

    Raises:
        AudioError: It has not.
    """
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise AudioError(
            f"{where}a sample rate of {rate_hz:.10g} Hz is not audio "
            f"({_RATES_HZ[0]} to {_RATES_HZ[1]:,} Hz are)"
        )


@dataclass(frozen=True)
class AudioInfo:
    """Length, rate and channels of a recording.

    ``num_samples`` is exact, except for webm and mkv, which round their length to a millisecond.
    """

    num_samples: int
    sample_rate_hz: int
    channels: int


class Recording(ABC):
    """An opened recording; each decoder has a subclass.

    Args:
        name: Its name in messages.
        sample_rate_hz: Its sample rate.
        channels: Its number of channels.

    Attributes:
        damaged_packets: Packets that could not be decoded, of the blocks given so far; silence
            replaces them.
        unread_bytes: Bytes behind the audio that its header states; known once the end is read.
        other_streams: Further audio streams of the file.

    Raises:
        AudioError: Its sample rate is none that a recorder has.
    """

    damaged_packets = 0
    unread_bytes = 0
    other_streams = 0
    _channels_power = _mean_power = 0.0

    def __init__(self, name: str, sample_rate_hz: int, channels: int) -> None:
        check_rate(sample_rate_hz, f"{name}: ")
        self.name, self.sample_rate_hz, self.channels = name, sample_rate_hz, channels

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Length; counted where the header does not state it.

        Raises:
            AudioError: Damaged or truncated, found while counting.
        """

    @property
    def stated_samples(self) -> int:
        """Length that the header states, 0 where it states none; takes no time."""
        return self.num_samples

    @abstractmethod
    def samples(self, start: int, stop: int | None) -> Iterator[Samples]:
        """Yields (n, channels) blocks from sample ``start`` to ``stop`` (None: the end).

        float32 in -1..1, or int16 where the file holds that.

        Raises:
            AudioError: Damaged or truncated.
        """

    @property
    def losses(self) -> dict[str, int]:
        """What of the file is not in the blocks given so far: counts by names of ``LOSSES``."""
        return {name: count for name in LOSSES if (count := getattr(self, name))}

    @property
    def info(self) -> AudioInfo:
        """Its length, rate and channels."""
        with decoder_errors(self.name):
            return AudioInfo(self.num_samples, self.sample_rate_hz, self.channels)

    def blocks(
        self, start: int = 0, stop: int | None = None, channel: str | int = "mean"
    ) -> Iterator[Waveform]:
        """Returns samples ``start`` to ``stop`` of one channel, in blocks; call it once.

        Args:
            start: First sample, at the file's rate.
            stop: Sample after the last; None, or beyond the end, reads to the end.
            channel: ``mean`` over all, ``mono`` (there must be only one) or a number from 0.

        Returns:
            (n,) float32 in -1..1; while it is read, AudioError for a part that is damaged, not
            finite or has no such channel, and UsageError for any other ``channel``.

        Raises:
            AudioError: Nothing lies between ``start`` and ``stop``.
        """
        if start or stop is not None:
            length, end = self.info.num_samples, stop
            stop = length if stop is None else min(stop, length)
            if not 0 <= start < stop:
                asked = f"samples {start} to {'the end' if end is None else end}"
                raise AudioError(f"{self.name}: {asked} were asked for, but it holds {length}")
        return self._waveforms(start, stop, channel)

    def _waveforms(self, at: int, stop: int | None, channel: str | int) -> Iterator[Waveform]:
        blocks = self.samples(at, stop)
        while True:
            with decoder_errors(self.name), np.errstate(all="ignore"):  # see below for NaN
                block = next(blocks, None)
                if block is None:
                    return
                picked = self._pick(block, channel)
                waveform = to_float(picked)
            bad = np.flatnonzero(~np.isfinite(waveform) if block.dtype != np.int16 else False)
            if len(bad):
                raise AudioError(
                    f"{self.name}: {len(bad)} samples are NaN or infinite, the first is "
                    f"{at + int(bad[0])}"
                )
            self._add_powers(picked)
            at += len(waveform)
            yield waveform

    def _add_powers(self, samples: Samples) -> None:
        """Adds the powers, around their means, of (n, channels) and of their mean."""
        if samples.shape[1] == 1:
            return
        some = samples[::_POWER_STRIDE].astype(np.float64)
        some *= 1 / FULL_SCALE if samples.dtype == np.int16 else 1
        powers = float(some.var(axis=0).mean()), float(some.mean(axis=1).var())
        self._channels_power += len(some) * powers[0]
        self._mean_power += len(some) * powers[1]

    @property
    def cancelled_channels(self) -> int:
        """Its channels if those of the blocks so far cancel each other in their mean, else 0."""
        return self.channels if self._mean_power < _CANCELLED * self._channels_power else 0

    def _pick(self, samples: Samples, channel: str | int) -> Samples:
        """Returns the wanted columns of (n, channels)."""
        count = samples.shape[1]
        if channel == "mono" and count != 1:
            raise AudioError(f"{self.name}: has {count} channels, but mono was asked for")
        if channel in ("mean", "mono"):
            return samples
        try:
            number = int(channel)
        except ValueError as error:
            raise UsageError(f"channel {channel!r} is not mean, mono or a number") from error
        if not 0 <= number < count:
            raise AudioError(
                f"{self.name}: has no channel {number} ({count} channels, counted from 0)"
            )
        return samples[:, number : number + 1]


@contextmanager
def decoder_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into the reason why this one file is refused."""
    try:
        yield
    except ElasticToolError:
        raise
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise AudioError(f"{name}: cannot be decoded ({describe_error(error)})") from error


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Turns missing memory into the reason why this one recording is refused."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise AudioError(f"{name}: there is no memory for it ({first_line(error)})") from error


def to_float(samples: Samples) -> Waveform:
    """Returns the mean over channels of (n, channels); scales int16 as libsndfile does, faster."""
    scale = np.float32(1 / FULL_SCALE if samples.dtype == np.int16 else 1)
    scaled: Waveform = np.multiply(samples, scale, dtype=np.float32)
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled.mean(axis=1, dtype=np.float32)


class UnknownContent(Exception):
    """This decoder does not know the content, another may; the text is the library's own."""


def describe(source: Source) -> str:
    """Returns the name of ``source`` in messages."""
    if isinstance(source, Path):
        return str(source)
    return f"<{len(source)} bytes in memory>" if isinstance(source, bytes) else "<an open file>"


def split_member(source: Source) -> tuple[Source, str]:
    """Returns the file that holds ``source`` and its name there; empty for a plain file."""
    if isinstance(source, Path) and not os.path.exists(source):
        for folder in source.parents:
            if os.path.isfile(folder):
                return folder, source.relative_to(folder).as_posix()
    return source, ""


@contextmanager
def opened(source: Source, name: str) -> Iterator[BinaryIO]:
    """Opens the bytes of ``source`` at their beginning, after any ID3v2 tags.

    The file carries no name of its own, because libraries would guess a format from it.

    Raises:
        AudioError: It cannot be read, or is a pipe, a socket or a device.
        ElasticToolError: This process may open no more files.
    """
    if isinstance(source, bytes):
        yield _after_tags(io.BytesIO(source), name)
    elif isinstance(source, Path):
        try:
            file = open_file(source)
        except OSError as error:
            if is_lack(error) and (lack := from_system(error)):
                raise lack from error
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
        with file, open(file.fileno(), "rb", closefd=False) as nameless:
            yield _after_tags(nameless, name)
    else:
        yield _after_tags(source, name)


def _after_tags(file: BinaryIO, name: str) -> BinaryIO:
    start = after_tags(file)
    if start and start >= (size := file.seek(0, os.SEEK_END)):
        raise AudioError(
            f"{name}: holds only an ID3 tag, which counts {start} bytes (the file has {size})"
        )
    file.seek(start)
    return part_of(file, start) if start else file


def part_of(file: BinaryIO, start: int, stop: int | None = None) -> BinaryIO:
    """Returns bytes ``start`` to ``stop`` (None: the end) of a file, as a file."""
    part = _Part(file, start, stop)
    part.seek(0)
    return cast(BinaryIO, io.BufferedReader(part))


class _Part(io.RawIOBase):
    """Bytes ``start`` to ``stop`` (None: the end) of a file, as a file."""

    def __init__(self, file: Any, start: int, stop: int | None = None) -> None:
        self._file, self._start, self._stop = file, start, stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self._stop is not None:
            offset, whence = self._stop - self._start + offset, os.SEEK_SET
        moved: int = self._file.seek(offset + self._start * (whence == os.SEEK_SET), whence)
        return moved - self._start

    def readinto(self, buffer: Any) -> int:
        if self._stop is not None:
            buffer = memoryview(buffer)[: max(0, self._stop - self._file.tell())]
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
