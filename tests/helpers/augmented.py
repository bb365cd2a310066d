"""Augmentation of a spectrogram as training does it, without a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from elastictool.config import AugmentConfig
from elastictool.data.spectrogram import Normalization, Spectrogram


def augmented(
    frames: Tensor, config: AugmentConfig, rng: Callable[[str], np.random.Generator]
) -> Tensor:
    """(T, F) ``frames`` with masks (0 in masked cells), noise and roll, not normalised."""
    rows, identity = np.arange(len(frames)), Normalization(0.0, 1.0, padding=0.0)
    return Spectrogram(frames, rows, frames.shape[1], identity).augmented(config, rng).computed()
