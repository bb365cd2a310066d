"""From waveform to the frames that a model sees: the filterbank, then a pooling layer over time.

There are two ways to a coarser resolution in time. A longer frame shift computes fewer frames;
pooling computes them all and makes one of each C neighbours. Whatever plans, reads or caches
frames asks here how many there are and which samples they need, so both ways are one to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig, PoolKind


@dataclass(frozen=True)
class Framing:
    """How waveforms become log-mel frames.

    Attributes:
        fbank: The filterbank.
        pool: Filterbank frames that become one; 1 is no pooling.
        kind: How they become one.
    """

    fbank: FbankConfig
    pool: int = 1
    kind: PoolKind = "average"

    @property
    def shift_ms(self) -> float:
        """Time between frames, after pooling."""
        return self.pool * self.fbank.shift_ms

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip of ``num_samples``."""
        return pooled_count(self.fbank.num_frames(num_samples), self.pool)

    def frame_start(self, frame: int) -> int:
        """First sample of ``frame``; see ``FbankConfig.frame_start``."""
        return self.fbank.frame_start(frame * self.pool)

    def samples_for(self, num_frames: int) -> int:
        """Samples of a clip's beginning that its first ``num_frames`` frames need."""
        return self.fbank.samples_for(num_frames * self.pool)

    def excerpt(self, first: int, num_frames: int, native_frames: int) -> tuple[int, int, int]:
        """What to read of a clip for some of its frames; see ``FbankConfig.excerpt``.

        Reading begins where a group of pooled frames does.
        """
        pool = self.pool
        _, stop, before = self.fbank.excerpt(first * pool, num_frames * pool, native_frames * pool)
        begin = (first * pool - before) // pool
        return self.fbank.frame_place(begin * pool), stop, first - begin

    def frames(self, waveform: Tensor) -> Tensor:
        """(T, F) log-mel frames of (n,) samples, not normalised."""
        return pool_frames(fbank(waveform, self.fbank), self.pool, self.kind)


def pooled_count(frames: int, size: int) -> int:
    """Frames left of ``frames``: whole groups of ``size``; where there is none, what there is."""
    return max(frames // size, min(frames, 1))


def pool_frames(frames: Tensor, size: int, kind: PoolKind) -> Tensor:
    """A layer of ``average`` or ``max`` pooling over time: kernel and stride are 1 x ``size``.

    Args:
        frames: (T, F) log-mel frames. Normalised or not makes no difference: both kinds of
            pooling go through a rising straight line.
        size: Frames that become one; a last incomplete group is left out, except where there is
            no other.
        kind: ``average`` or ``max``.

    Returns:
        (T // size, F), at least one frame; ``frames`` itself for size 1.

    Source: ElasticAST Section 3.5, average pooling; the published code pools the maximum, before
        it pads and normalises.
    """
    if size == 1:
        return frames
    count = pooled_count(len(frames), size)
    size = min(size, len(frames))
    groups = frames[: count * size].reshape(count, size, frames.shape[1])
    return groups.mean(dim=1) if kind == "average" else groups.amax(dim=1)
