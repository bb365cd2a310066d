"""What training does to waveforms and log-mel frames: SpecAugment, noise, roll and mixing.

Plain functions of tensors and a generator: the caller keys the generator by (run, epoch, clip)
and by what it is for, hence nothing depends on the order in which workers happen to ask.
SpecAugment always draws all four of its numbers, so that switching one mask off leaves the other
where it was. Clips differ in length and each has its own generator, so clips are treated one by
one; a clip's own cells are treated at once.
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
    bands, frames = rng.random((2, 2)).tolist()
    masked = fbank.clone()
    first, stop = _span(num_bins, min(config.frequency_mask, num_bins), bands)
    masked[:, first:stop] = fill
    first, stop = _span(num_frames, config.time_mask * num_frames / REFERENCE_FRAMES, frames)
    masked[first:stop] = fill
    return masked


def add_noise(fbank: Tensor, highest: float, rng: np.random.Generator) -> Tensor:
    """Add uniform noise between 0 and an amplitude that is itself drawn from 0..``highest``.

    Args:
        fbank: (T, F) normalised frames; left as they are.
        highest: Largest amplitude, in units of the normalised values.
        rng: Source of the amplitude and of the noise.

    Source: AST's ``noise`` (highest 0.1).
    """
    amplitude = float(rng.random()) * highest
    noise = torch.from_numpy(rng.random(tuple(fbank.shape), dtype=np.float32))
    return fbank + amplitude * noise


def roll_frames(fbank: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Rotate (T, F) frames in time by -``most`` to ``most`` frames, both ends included.

    Source: part of AST's ``noise`` (most 10; its upper end is never drawn).
    """
    return fbank.roll(int(rng.integers(-most, most, endpoint=True)), 0)


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


def _span(size: int, widest: float, draws: list[float]) -> tuple[int, int]:
    """First and past-the-last index of a mask of up to ``widest`` out of ``size``."""
    width = draws[0] * widest
    first = int(draws[1] * (size - width))
    return first, first + int(width)
