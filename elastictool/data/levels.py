"""Measures levels: which clips are silent, and where silence at both ends begins and ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.audio.reader import BLOCK_VALUES, Waveform
from elastictool.data.spool import Spool

SILENT_DB, SILENT_PEAK_DB = -80.0, -60.0
"""A clip is silent if its samples, around their mean, have a root mean square below the first level
and none reaches the second: noise of three steps of 16 bits, but no short sound in a long pause."""

_AT_ONCE = 1 << 18
"""Samples that are made float64 at once."""


def amplitude(decibels: float) -> float:
    """Returns the sample value, 1 at full scale, of a level in dBFS."""
    return float(10 ** (decibels / 20))


class Level:
    """Level around their mean of samples that come in blocks; constant ones have none.

    Args:
        full_scale: Value of a sample at 0 dBFS.
    """

    def __init__(self, full_scale: float = 1.0) -> None:
        self._full_scale = full_scale
        self._count = 0
        self._sum = self._sum_of_squares = 0.0
        self._lowest, self._highest = np.inf, -np.inf

    def add(self, samples: npt.NDArray[Any]) -> None:
        """Adds the next block."""
        for begin in range(0, len(samples), _AT_ONCE):
            exact = samples[begin : begin + _AT_ONCE].astype(np.float64)
            self._count += len(exact)
            self._sum += float(exact.sum())
            self._sum_of_squares += float(exact @ exact)
            self._lowest = min(self._lowest, float(exact.min()))
            self._highest = max(self._highest, float(exact.max()))

    def of(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        """Yields blocks as they are, and adds them."""
        for block in blocks:
            self.add(block)
            yield block

    @property
    def silent(self) -> bool:
        """Whether the samples so far are silent; False if there are none."""
        if not self._count:
            return False
        mean = self._sum / self._count
        power = self._sum_of_squares / self._count - mean * mean
        peak = max(self._highest - mean, mean - self._lowest)
        lowest, highest = amplitude(SILENT_DB), amplitude(SILENT_PEAK_DB)
        return power < (lowest * self._full_scale) ** 2 and peak < highest * self._full_scale


def trimmed(blocks: Iterable[Waveform], folder: Path, loudest: float = 0.0) -> Iterator[Waveform]:
    """Yields blocks without what stays within ``loudest`` of 0 at both ends.

    Quiet samples wait, on disk if they are many, until others follow. A clip of nothing else is
    kept whole.

    Args:
        blocks: (n,) samples.
        folder: Where they wait.
        loudest: Largest value of a sample that is cut off; 0 cuts exact zeros.

    Raises:
        WriteError: ``folder`` has no room.
    """
    started = False
    with Spool.in_folder(folder) as quiet:
        for block in blocks:
            loud = np.flatnonzero(np.abs(block) > loudest)
            if not len(loud):
                quiet.write(block.tobytes())
                continue
            if started:
                yield from _read_back(quiet)
            quiet.seek(0)
            quiet.truncate()
            begin, end = (0 if started else loud[0]), loud[-1] + 1
            yield block[begin:end]
            quiet.write(block[end:].tobytes())
            started = True
        if not started:
            yield from _read_back(quiet)


def _read_back(quiet: Any) -> Iterator[Waveform]:
    quiet.seek(0)
    while content := quiet.read(4 * BLOCK_VALUES):
        yield np.frombuffer(content, dtype=np.float32)
