"""What training does to waveforms and log-mel frames: SpecAugment, noise, roll and mixing.

Plain functions of tensors and a generator: the caller keys the generator by (run, epoch, clip)
and by what it is for, hence nothing depends on the order in which workers happen to ask.
SpecAugment always draws all four of its numbers, so that switching one mask off leaves the other
where it was. What is drawn is kept apart from what is done with it: a batch that is analysed on
the device (``data/raw.py``) takes the same numbers for all of its clips at once.
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

    Source: published trainers (48 bins, 192 frames of 1,024). The time mask scales with the clip
        as in ElasticAST's loaders of native lengths and of resolutions; the published AST does
        not scale it with its length.
    """
    num_frames, num_bins = fbank.shape
    bins, frames = draw_masks(num_frames, num_bins, config, rng)
    masked = fbank.clone()
    masked[:, slice(*bins)] = fill
    masked[slice(*frames)] = fill
    return masked


def mask_fill(config: AugmentConfig, mean: float, spread: float) -> float:
    """What masked cells become, in normalised values: the mean, or zero before normalising."""
    return -mean / spread if config.mask_value == "zero" else 0.0


def draw_masks(
    num_frames: int, num_bins: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Span, Span]:
    """The bins and the frames that ``spec_augment`` blanks in a clip of that size."""
    bands, frames = rng.random((2, 2)).tolist()
    return (
        _span(num_bins, min(config.frequency_mask, num_bins), bands),
        _span(num_frames, config.time_mask * num_frames / REFERENCE_FRAMES, frames),
    )


def add_noise(fbank: Tensor, highest: float, rng: np.random.Generator) -> Tensor:
    """Add uniform noise between 0 and an amplitude that is itself drawn from 0..``highest``.

    Args:
        fbank: (T, F) normalised frames; left as they are.
        highest: Largest amplitude, in units of the normalised values.
        rng: Source of the amplitude and of the noise.

    Source: AST's ``noise`` (highest 0.1).
    """
    return fbank + draw_noise(tuple(fbank.shape), highest, rng)


def draw_noise(shape: tuple[int, ...], highest: float, rng: np.random.Generator) -> Tensor:
    """What ``add_noise`` adds to frames of that shape."""
    amplitude = float(rng.random()) * highest
    return amplitude * torch.from_numpy(rng.random(shape, dtype=np.float32))


def roll_frames(fbank: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Rotate (T, F) frames in time by -``most`` to ``most`` frames, both ends included.

    Source: part of AST's ``noise`` (most 10; its upper end is never drawn).
    """
    return fbank.roll(draw_roll(most, rng), 0)


def draw_roll(most: int, rng: np.random.Generator) -> int:
    """By how many frames ``roll_frames`` rotates."""
    return int(rng.integers(-most, most, endpoint=True))


def mix_waveforms(first: Waveform, second: Waveform, ratio: float) -> Waveform:
    """``ratio`` of ``first`` and the rest of ``second``, which is cut or padded to its length.

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
    """First and past-the-last index of a mask of up to ``widest`` out of ``size``."""
    width = draws[0] * widest
    first = int(draws[1] * (size - width))
    return first, first + int(width)
