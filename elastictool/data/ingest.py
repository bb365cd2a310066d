"""One clip on its way into a shard: decode, resample, encode, measure, in blocks.

Never more than some blocks of a clip are in memory, so a recording of three hours costs no more
than one of three minutes; its encoded bytes wait in a temporary file until the shard takes them.
Clips of one block, and that is nearly all, pass through the same code in one piece.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from elastictool.audio.decode import (
    Integers,
    Recording,
    encode_blocks,
    recording,
    resample_blocks,
    waveform_of,
)
from elastictool.audio.fbank import fbank
from elastictool.audio.reader import AudioInfo, place_of
from elastictool.config import FbankConfig
from elastictool.corpora.base import Corpus, RenderingCorpus, SourceClip
from elastictool.utils.errors import AudioError, write_error

IN_MEMORY_BYTES = 8 << 20
"""Encoded clips up to this size stay in memory."""

_END_TOLERANCE_S = 0.1
_FRAMES_AT_ONCE = 10_000
"""Frames measured together: 100 s at 10 ms. The next ones start at a whole sample for any shift
that is a multiple of 0.1 ms."""
_FRAMES_SUMMED = 2_500
"""Frames that are made float64 at once."""
_LARGEST_BYTES = (1 << 31) - 1
"""What a binary column of an Arrow shard can hold."""

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class PrepSettings:
    """What the stored audio is.

    Attributes:
        encoding: ``flac`` (lossless, half the size) or ``wav`` (faster to read).
        channel: ``mean`` of all, or a channel counted from 0.
        trim_silence: Cut exact zeros off both ends; a clip of nothing else is kept whole.
        max_seconds: Keep so many seconds from the start; 0 keeps all.
        fbank: Filterbank of the statistics; its sample rate is that of the stored audio.
        stats_clips: Measure so many training clips, drawn with a seed; 0 measures all clips.
    """

    encoding: Literal["flac", "wav"] = "flac"
    channel: str | int = "mean"
    trim_silence: bool = False
    max_seconds: float = 0.0
    fbank: FbankConfig = field(default_factory=FbankConfig)
    stats_clips: int = 0


@dataclass(frozen=True)
class StoredAudio:
    """A clip as it is stored, and what was measured on it.

    Attributes:
        content: The encoded file; a memory map where it is large.
        num_samples: Length at the stored rate.
        source_rate_hz: Rate that it was recorded with.
        silent: It is digital silence throughout.
        frames: Filterbank frames.
        sum: Sum of their log-mel values.
        sum_of_squares: Sum of the squares of them.
        clipped_peak: Largest sample before it was clipped to full scale; 0 if none had to be.
        damaged_packets: Packets that could not be decoded and became silence.
        digest: Hash of the stored samples, 64 bits: equal for recordings that sound exactly alike.
    """

    content: bytes | mmap.mmap
    num_samples: int
    source_rate_hz: int
    silent: bool
    frames: int
    sum: float
    sum_of_squares: float
    clipped_peak: float = 0.0
    digest: int = 0
    damaged_packets: int = 0


def ingest(
    corpus: Corpus,
    clip: SourceClip,
    root: Path,
    settings: PrepSettings,
    scratch: Path,
    measured: bool = True,
) -> StoredAudio:
    """Read, check, resample, encode and measure one clip.

    What is measured is what decoding the stored bytes gives, so the statistics are exact for
    them.

    Args:
        corpus: Whose clip it is.
        clip: The clip.
        root: Where the corpus lies.
        settings: What to store.
        scratch: Folder on whose disk a large clip may wait.
        measured: Whether its frames count for the statistics.

    Raises:
        AudioError: It cannot be used.
        WriteError: ``scratch`` has no room for it.
    """
    rate_hz = settings.fbank.sample_rate_hz
    with _spooled(scratch) as file:
        measure = _Measured(settings.fbank, measured)
        with _source(corpus, clip, root, settings.channel) as (source_rate_hz, blocks, opened):
            counted = _Counted(_kept(blocks, source_rate_hz, settings))
            peaks: list[float] = []
            resampled = resample_blocks(counted, source_rate_hz, rate_hz, peaks.append)
            num_samples = encode_blocks(resampled, rate_hz, settings.encoding, file, measure.add)
        if settings.fbank.num_frames(num_samples) < 1:
            raise AudioError(
                f"is shorter than one frame ({settings.fbank.window_ms:g} ms): "
                f"{counted.samples} samples at {source_rate_hz} Hz"
            )
        measure.finish()
        return StoredAudio(
            _content(file),
            num_samples,
            source_rate_hz,
            measure.silent,
            measure.frames,
            measure.sum,
            measure.sum_of_squares,
            max(peaks, default=0.0),
            measure.digest,
            opened.damaged_packets if opened else 0,
        )


def _kept(blocks: Iterator[Waveform], rate_hz: int, settings: PrepSettings) -> Iterator[Waveform]:
    """The part of a clip that the settings keep."""
    if settings.trim_silence:
        blocks = _trimmed(blocks)
    if settings.max_seconds:
        blocks = _first(blocks, round(settings.max_seconds * rate_hz))
    return blocks


def _trimmed(blocks: Iterable[Waveform]) -> Iterator[Waveform]:
    """Without exact zeros at both ends; zeros within wait until it is known that they are."""
    started = False
    zeros = 0
    for block in blocks:
        loud = np.flatnonzero(block)
        if not len(loud):
            zeros += len(block)
            continue
        waiting = np.zeros(zeros if started else 0, dtype=block.dtype)
        begin, end = (0 if started else loud[0]), loud[-1] + 1
        yield np.concatenate((waiting, block[begin:end])) if len(waiting) else block[begin:end]
        started, zeros = True, len(block) - int(end)
    if not started:
        yield np.zeros(zeros, dtype=np.float32)


def _first(blocks: Iterable[Waveform], samples: int) -> Iterator[Waveform]:
    for block in blocks:
        yield block[:samples]
        samples -= len(block)
        if samples <= 0:
            return


class _Counted:
    """Counts the samples that pass."""

    def __init__(self, blocks: Iterable[Waveform]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


@contextmanager
def _source(
    corpus: Corpus, clip: SourceClip, root: Path, channel: str | int
) -> Iterator[tuple[int, Iterator[Waveform], Recording | None]]:
    """The clip's rate, its waveform in blocks, and the opened file if there is one."""
    if isinstance(corpus, RenderingCorpus):
        waveform, rate_hz = corpus.read(clip)
        yield rate_hz, iter((waveform,)), None
        return
    path = root / clip.path
    before = _state(path)
    with recording(path) as opened:
        start, stop = _slice(opened.info, clip) if _is_slice(clip) else (0, None)
        yield opened.sample_rate_hz, opened.blocks(start, stop, channel), opened
    if _state(path) != before:
        raise AudioError("was changed while it was read; prepare it again once it is whole")


def _is_slice(clip: SourceClip) -> bool:
    return clip.start_s is not None or clip.stop_s is not None


def _state(path: Path) -> tuple[int, int, int] | None:
    """What differs once somebody writes to a file or puts another in its place; None if gone."""
    file = place_of(path)[0]
    try:
        found = cast(Path, file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _slice(info: AudioInfo, clip: SourceClip) -> tuple[int, int]:
    """First and last sample of the slice, in the file's own rate.

    A slice may reach past the end by what annotations round (0.1 s); more is an error, because
    it means that file and annotation do not belong together.
    """
    duration_s = info.num_samples / info.sample_rate_hz
    start_s, stop_s = clip.start_s or 0.0, duration_s if clip.stop_s is None else clip.stop_s
    if start_s >= duration_s or stop_s > duration_s + _END_TOLERANCE_S:
        raise AudioError(
            f"slice {start_s:g}..{stop_s:g} s lies past the end of the file ({duration_s:g} s)"
        )
    start = math.floor(start_s * info.sample_rate_hz + 0.5)
    stop = math.floor(stop_s * info.sample_rate_hz + 0.5)
    return start, min(stop, info.num_samples)


def _content(file: BinaryIO) -> bytes | mmap.mmap:
    """What was written; a large file is mapped and lives as long as the map does."""
    size = file.seek(0, 2)
    if size > _LARGEST_BYTES:
        raise AudioError(f"is too long: {size} bytes, a clip may have 2 GiB; cut it into slices")
    file.seek(0)
    if size <= IN_MEMORY_BYTES:
        return file.read()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Spool(io.BufferedIOBase):
    """What libsndfile writes to; it calls from C, where an exception would be printed and lost."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = self.fault or error
            return 0

    def read(self, size: int | None = -1) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


@contextmanager
def _spooled(folder: Path) -> Iterator[BinaryIO]:
    """An empty file in memory, in ``folder`` once it is large.

    Raises:
        WriteError: The disk is full; whatever libsndfile made of that.
    """
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(folder)) as file:
        spool = _Spool(cast(BinaryIO, file))
        try:
            yield cast(BinaryIO, spool)
        finally:
            if spool.fault:
                raise write_error(folder, spool.fault) from spool.fault


class _Measured:
    """Filterbank sums of a waveform that comes in blocks, in float64, and its hash.

    Frames of one piece do not see where it was cut: a frame needs its own samples only, because
    the mean that ``fbank`` subtracts from the whole leaves each frame with the frame's own, and
    pieces overlap where a frame reaches back. Without ``wanted`` frames are not measured.
    """

    def __init__(self, config: FbankConfig, wanted: bool = True) -> None:
        self._config, self._wanted = config, wanted
        self._waiting = np.empty(0, dtype=np.float32)
        self._known = 0
        self.silent = True
        self._hash = hashlib.blake2b(digest_size=8)
        self.frames = 0
        self.sum = self.sum_of_squares = 0.0

    def add(self, integers: Integers) -> None:
        """Take the next block; whole pieces are measured, the rest waits."""
        self.silent = self.silent and not integers.any()
        self._hash.update(integers.data)
        if not self._wanted:
            return
        block = waveform_of(integers)
        config, waiting = self._config, self._waiting
        waiting = np.concatenate((waiting, block)) if len(waiting) else block
        while len(waiting) > (piece := config.samples_for(self._known + _FRAMES_AT_ONCE)):
            self._measure(waiting[:piece], self._known + _FRAMES_AT_ONCE)
            cut = self._known + _FRAMES_AT_ONCE - config.context_frames
            waiting, self._known = waiting[config.frame_place(cut) :], config.context_frames
        self._waiting = waiting

    @property
    def digest(self) -> int:
        """Hash of all samples."""
        return int.from_bytes(self._hash.digest(), "big")

    def finish(self) -> None:
        """Measure what waits."""
        if not self._wanted:
            return
        whole = self._config.num_frames if self._known == 0 else self._config.own_frames
        self._measure(self._waiting, whole(len(self._waiting)))

    def _measure(self, waveform: Waveform, stop: int) -> None:
        """Add the frames of a piece up to ``stop`` that are not known yet."""
        frames = fbank(torch.from_numpy(waveform), self._config)[self._known : stop]
        self.frames += len(frames)
        for part in torch.split(frames, _FRAMES_SUMMED):
            exact = part.double()
            self.sum += float(exact.sum())
            self.sum_of_squares += float(exact.square_().sum())
