"""Brings one clip into a shard: decode, resample, encode, measure, in blocks.

Never more than some blocks of a clip are in memory, so a recording of three hours costs no more
than one of three minutes; its encoded bytes wait in a temporary file until the shard takes them.
Most clips are a single block and pass through the same code.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch

from elastictool.audio.decode import (
    Integers,
    open_encoder,
    recording,
    resample_blocks,
    waveform_of,
)
from elastictool.audio.fbank import fbank
from elastictool.audio.losses import Losses
from elastictool.audio.reader import FULL_SCALE, AudioInfo, Recording, Waveform, split_member
from elastictool.config import FbankConfig
from elastictool.corpora.base import Corpus, RenderingCorpus, SourceClip
from elastictool.data import spool
from elastictool.data.levels import Level, amplitude, trimmed
from elastictool.data.plan import ShardTask
from elastictool.data.spool import Spool
from elastictool.utils.errors import AudioError

_END_TOLERANCE_S = 0.1
FRAMES_AT_ONCE = 10_000
"""Frames measured together: 100 s at 10 ms. The next ones start at a whole sample for any shift
that is a multiple of 0.1 ms."""
_FRAMES_SUMMED = 2_500
"""Frames that are made float64 at once."""
LARGEST_BYTES = (1 << 31) - 1
"""What a binary column of an Arrow shard can hold."""
LONGEST_S = 100 * 3600
"""A megabyte of FLAC or HDF5 can stand for years of silence."""


class Measurement:
    """Filterbank sums of a waveform that comes in blocks, in float64, and its hash.

    Frames of a chunk do not depend on where it was cut: a frame needs its own samples only,
    because ``fbank`` subtracts each frame's own mean after the mean of the whole, and chunks
    overlap where a frame reaches back.

    Args:
        config: The filterbank.
        frames_wanted: Whether frames are measured.

    Attributes:
        level: Its level.
        frames: Filterbank frames.
        sum: Sum of their log-mel values.
        sum_of_squares: Sum of the squares of these.
    """

    def __init__(self, config: FbankConfig, frames_wanted: bool = True) -> None:
        self._config, self._wanted = config, frames_wanted
        self._waiting = np.empty(0, dtype=np.float32)
        self._known = 0
        self._hash = hashlib.blake2b(digest_size=8)
        self.level, self._zero = Level(FULL_SCALE), True
        self.frames = 0
        self.sum = self.sum_of_squares = 0.0

    def add(self, integers: Integers) -> None:
        """Adds the next block: measures whole chunks and keeps the rest for later."""
        self.level.add(integers)
        self._zero = self._zero and not integers.any()
        self._hash.update(integers.data)
        if not self._wanted:
            return
        block = waveform_of(integers)
        config, waiting = self._config, self._waiting
        waiting = np.concatenate((waiting, block)) if len(waiting) else block
        while len(waiting) > (chunk := config.samples_for(self._known + FRAMES_AT_ONCE)):
            self._measure(waiting[:chunk], self._known + FRAMES_AT_ONCE)
            cut = self._known + FRAMES_AT_ONCE - config.context_frames
            waiting, self._known = waiting[config.frame_position(cut) :], config.context_frames
        self._waiting = waiting

    @property
    def digest(self) -> int:
        """Hash of the stored samples, 64 bits; 0 for digital silence."""
        return 0 if self._zero else int.from_bytes(self._hash.digest(), "big")

    def finish(self) -> None:
        """Measures the samples that are left."""
        if not self._wanted:
            return
        whole = self._config.num_frames if self._known == 0 else self._config.own_frames
        self._measure(self._waiting, whole(len(self._waiting)))

    def _measure(self, waveform: Waveform, stop: int) -> None:
        """Adds the frames of a chunk up to ``stop`` that were not measured yet."""
        frames = fbank(torch.from_numpy(waveform), self._config)[self._known : stop]
        self.frames += len(frames)
        for part in torch.split(frames, _FRAMES_SUMMED):
            exact = part.double()
            self.sum += float(exact.sum())
            self.sum_of_squares += float(exact.square_().sum())


@dataclass(frozen=True)
class StoredAudio:
    """A clip as it is stored, and the measurements on it.

    Attributes:
        content: The encoded file; a memory map where it is large.
        num_samples: Length at the stored rate.
        source_rate_hz: Rate that it was recorded with.
        measured: Statistics of the stored samples.
        clipped_peak: Largest sample before it was clipped to full scale; 0 if none had to be.
        losses: What of its file was not read.
        silent: Whether it is silent, as recorded or as stored (``Level``).
    """

    content: bytes | mmap.mmap
    num_samples: int
    source_rate_hz: int
    measured: Measurement
    clipped_peak: float
    losses: Losses
    silent: bool


def ingest(corpus: Corpus, clip: SourceClip, task: ShardTask) -> StoredAudio:
    """Reads, checks, resamples, encodes and measures one clip of a shard.

    The samples that decoding the stored bytes gives are measured, so the statistics are exact for
    them.

    Raises:
        AudioError: It cannot be used.
        WriteError: The shard's folder has no room for it.
    """
    storage, config = task.storage, task.storage.fbank
    rate_hz, peak, num_samples = config.sample_rate_hz, 0.0, 0
    recorded = Level()
    measured = Measurement(config, task.measured is None or clip.id in task.measured)
    with Spool.in_folder(task.folder) as file:
        with (
            _source(corpus, clip, task) as (source_rate_hz, blocks, opened),
            open_encoder(file, rate_hz, storage.encoding) as encoder,
        ):
            if trim := storage.trim_silence:
                loudest = 0.0 if trim is True else amplitude(trim)
                blocks = trimmed(blocks, task.folder, loudest)
            if storage.max_seconds:
                blocks = first_samples(blocks, round(storage.max_seconds * source_rate_hz))
            if source_rate_hz != rate_hz:  # resampling adds sound where constant samples begin
                blocks = recorded.of(blocks)
            for block, block_peak in resample_blocks(blocks, source_rate_hz, rate_hz):
                encoder.write(block)
                measured.add(block)
                num_samples, peak = num_samples + len(block), max(peak, block_peak)
                _check_length(file.tell(), num_samples / rate_hz)
        if config.num_frames(num_samples) < 1:
            raise AudioError(
                f"is shorter than one frame ({config.window_ms:g} ms): it lasts "
                f"{1000 * num_samples / rate_hz:g} ms"
            )
        measured.finish()
        return StoredAudio(
            _content(file),
            num_samples,
            source_rate_hz,
            measured,
            clipped_peak=peak if peak > 1 else 0.0,
            losses=opened.losses if opened else {},
            silent=recorded.silent or measured.level.silent,
        )


def first_samples(blocks: Iterable[Waveform], samples: int) -> Iterator[Waveform]:
    """Yields blocks of the first samples, and reads no block after them."""
    for block in blocks:
        yield block[:samples]
        samples -= len(block)
        if samples <= 0:
            return


@contextmanager
def _source(
    corpus: Corpus, clip: SourceClip, task: ShardTask
) -> Iterator[tuple[int, Iterator[Waveform], Recording | None]]:
    """Yields the clip's rate, its waveform in blocks, and the opened file if there is one."""
    if isinstance(corpus, RenderingCorpus):
        waveform, rate_hz = corpus.read(clip)
        yield rate_hz, iter((waveform,)), None
        return
    path = task.root / clip.path
    before = _state(path)
    with recording(path) as opened:
        sliced = clip.start_s is not None or clip.stop_s is not None
        start, stop = _slice(opened.info, clip) if sliced else (0, None)
        if not task.storage.max_seconds:
            length = (opened.stated_samples if stop is None else stop) - start
            _check_length(0, length / opened.sample_rate_hz)
        yield opened.sample_rate_hz, opened.blocks(start, stop, task.storage.channel), opened
    if _state(path) != before:
        raise AudioError("was changed while it was read; prepare it again once it is whole")


def _state(path: Path) -> tuple[int, int, int] | None:
    """Returns file facts that change when it is written to or replaced; None if it is gone."""
    file = split_member(path)[0]
    try:
        found = cast(Path, file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _slice(info: AudioInfo, clip: SourceClip) -> tuple[int, int]:
    """Returns the first sample of the slice and the one after its last, in the file's own rate.

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


def _check_length(num_bytes: int, seconds: float) -> None:
    """Raises AudioError where a clip has become too long, before hours of work on it."""
    if num_bytes > LARGEST_BYTES or seconds > LONGEST_S:
        raise AudioError(
            f"is too long: a clip may have 2 GiB and {LONGEST_S // 3600} hours; cut it into slices"
        )


def _content(file: BinaryIO) -> bytes | mmap.mmap:
    """Returns the bytes that were written; a large file is mapped and lives as long as the map."""
    size = file.seek(0, 2)
    file.seek(0)
    if size <= spool.IN_MEMORY_BYTES:
        return file.read()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
