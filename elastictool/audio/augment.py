"""Draws SpecAugment, noise and roll for a clip; mixes waveforms.

Plain functions of a generator: the caller keys it by (run, epoch, clip) and by what it is for,
so draws do not depend on the order in which workers load clips. Draws are separate from their
application (``data/spectrogram.py``), which may run on another device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.config import AugmentConfig

REFERENCE_FRAMES = 1_024
"""Frames that ``AugmentConfig.time_mask`` refers to."""

Waveform = npt.NDArray[np.float32]
Span = tuple[int, int]
"""First and past-the-last index."""


def mask_fill(config: AugmentConfig, mean: float, spread: float) -> float:
    """Returns the value of masked cells, normalised: the mean, or zero before normalising."""
    return -mean / spread if config.mask_value == "zero" else 0.0


def draw_masks(
    num_frames: int, num_bins: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Span, Span]:
    """Draws the band of bins and the span of frames that SpecAugment masks in a clip.

    Widths are uniform between 0 and their limit, starts uniform over the positions where the mask
    fits, rounded as in torchaudio's ``mask_along_axis``. All four numbers are always drawn, so that
    switching one mask off leaves the other where it was.

    Args:
        num_frames: T; the time mask is at most ``time_mask * T / 1024`` frames wide.
        num_bins: F.
        config: Mask limits.
        rng: Source of the numbers.

    Source: published trainers (48 bins, 192 frames of 1,024). The time mask scales with the clip
        as in ElasticAST's loaders of native lengths and of resolutions; the published AST does
        not scale it with its length.
    """
    bands, frames = rng.random((2, 2)).tolist()
    return (
        _span(num_bins, min(config.frequency_mask, num_bins), bands),
        _span(num_frames, config.time_mask * num_frames / REFERENCE_FRAMES, frames),
    )


def draw_noise(shape: tuple[int, ...], highest: float, rng: np.random.Generator) -> Tensor:
    """Returns uniform noise between 0 and an amplitude that is itself drawn from 0..``highest``.

    Args:
        shape: (T, F).
        highest: Largest amplitude, in units of the normalised values.
        rng: Source of the amplitude and of the noise.

    Source: AST's ``noise`` (highest 0.1).
    """
    amplitude = float(rng.random()) * highest
    return amplitude * torch.from_numpy(rng.random(shape, dtype=np.float32))


def draw_roll(most: int, rng: np.random.Generator) -> int:
    """Draws by how many frames a clip is rotated in time: -``most`` to ``most``, both included.

    Source: part of AST's ``noise`` (most 10; its upper end is never drawn).
    """
    return int(rng.integers(-most, most, endpoint=True))


def mix_waveforms(first: Waveform, second: Waveform, ratio: float) -> Waveform:
    """Mixes ``ratio`` of ``first`` and the rest of ``second``, cut or padded to its length.

    Means are subtracted before and after, so that padding with zeros makes no step.

    Args:
        first: (n,) samples.
        second: (m,) samples.
        ratio: Share of ``first``, 0..1.

    Returns:
        (n,), always a new array.

    Source: AST's data loader.
    """
    mixed = np.float32(ratio) * (first - first.mean())
    part = (second - second.mean())[: len(first)]
    mixed[: len(part)] += np.float32(1 - ratio) * part
    centred: Waveform = mixed - mixed.mean()
    return centred


def _span(size: int, widest: float, draws: list[float]) -> Span:
    """Returns the first and past-the-last index of a mask of up to ``widest`` out of ``size``."""
    width = draws[0] * widest
    first = int(draws[1] * (size - width))
    return first, first + int(width)
