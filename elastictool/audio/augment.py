"""SpecAugment on log-mel frames: one band of mel bins and one stretch of time are blanked.

A plain function of the frames and a generator: the caller keys the generator by (run, epoch,
clip), hence masks do not depend on the order in which workers happen to ask. All four numbers
are always drawn, so that switching one mask off leaves the other where it was.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from elastictool.config import AugmentConfig

REFERENCE_FRAMES = 1_024
"""Frames that ``AugmentConfig.time_mask`` refers to."""


def spec_augment(
    fbank: Tensor, config: AugmentConfig, rng: np.random.Generator, fill: float
) -> Tensor:
    """Blank one frequency band and one time span of a clip.

    Widths are uniform between 0 and their limit, starts uniform over the places where the mask
    fits, rounded as in torchaudio's ``mask_along_axis``.

    Args:
        fbank: (T, F) frames; left as they are.
        config: Mask limits; the time limit is ``time_mask * T / 1024`` frames.
        rng: Source of the four numbers that are drawn.
        fill: Value of the masked cells.

    Returns:
        (T, F), always a new tensor.

    Source: published trainers (48 bins, 192 frames of 1,024); that the time mask scales with
        the clip is ours, because a constant one would blank most of a short clip.
    """
    num_frames, num_bins = fbank.shape
    masked = fbank.clone()
    first, stop = _span(num_bins, min(config.frequency_mask, num_bins), rng)
    masked[:, first:stop] = fill
    first, stop = _span(num_frames, config.time_mask * num_frames / REFERENCE_FRAMES, rng)
    masked[first:stop] = fill
    return masked


def _span(size: int, widest: float, rng: np.random.Generator) -> tuple[int, int]:
    """First and past-the-last index of a mask of up to ``widest`` out of ``size``."""
    width = float(rng.random()) * widest
    first = int(float(rng.random()) * (size - width))
    return first, first + int(width)
