"""Computes the filterbank of the public EPIC-SOUNDS code as librosa does, without librosa.

A short window (10 ms) in a long transform (2,048 samples): the transform only interpolates the
spectrum. So the 240 samples that the window lets through are cut out and padded at their end,
which leaves the magnitude as it is, instead of padding the whole clip by half a transform.

It computes in float64 whatever the audio's type: next to a tone most bins hold a millionth of it,
where torch's float32 transform is off by percents (librosa's is not), and the logarithm shows that.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.audio.fbank import TakeFrames
from elastictool.audio.kaldi_fbank import ROWS, Band, fft_rows, mel_bands
from elastictool.config import FbankConfig

BLOCK_FRAMES = 2 * ROWS
"""Frames that are computed together on a CPU; measured best between 64 and 512."""
DEVICE_BLOCK_FRAMES = 4_096
"""Elsewhere; see ``kaldi_fbank.DEVICE_BLOCK_FRAMES``."""
EPSILON = 1e-6
"""Added to each mel magnitude before the logarithm."""
FLOOR = math.log(EPSILON)
"""Log-mel value of silence."""


def prepare(waveform: Tensor, config: FbankConfig) -> Tensor:
    """Adds zeros where frames reach beyond the clip."""
    return F.pad(waveform, (config.lead, config.window_samples))


def analyse(samples: Tensor, take: TakeFrames, config: FbankConfig, out: Tensor) -> None:
    """Fills the (T, F) ``out``: ln(mel magnitude + EPSILON), centred frames.

    Source: the loaders of the public auditory SlowFast and ElasticAST code: ``librosa.stft`` with
        zeros beyond the ends, ``librosa.filters.mel(htk=True, norm=None)``. They also round the
        number of frames up to the next multiple of 16 by repeating the last frame; here an
        incomplete last patch is ``length.edge``'s and ``length.padding``'s matter.
    """
    window, bands = _constants(config, samples.device)
    size = BLOCK_FRAMES if samples.device.type == "cpu" else DEVICE_BLOCK_FRAMES
    for first in range(0, len(out), size):
        stop = min(first + size, len(out))
        frames = take(samples, first, stop).double() * window
        surplus = fft_rows(len(frames), frames.device) - len(frames)
        padded = F.pad(frames, (0, config.fft_size - frames.shape[1], 0, surplus))
        magnitudes = torch.fft.rfft(padded).abs()
        for band in bands:
            mel = magnitudes[:, band.columns] @ band.weights
            out[first:stop, band.bins] = mel[: len(frames)].add_(EPSILON).log_()


@lru_cache(maxsize=64)
def _constants(config: FbankConfig, device: torch.device) -> tuple[Tensor, tuple[Band, ...]]:
    window = torch.hann_window(config.window_samples, dtype=torch.float64, device=device)
    return window, mel_bands(mel_matrix(config), window)


def mel_matrix(config: FbankConfig) -> Tensor:
    """Returns (fft_size / 2 + 1, F) triangles in hertz between points evenly spaced in HTK mel."""
    nyquist_hz = 0.5 * config.sample_rate_hz
    top_hz = config.high_frequency_hz + (nyquist_hz if config.high_frequency_hz <= 0 else 0)
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (config.low_frequency_hz, top_hz))
    mels = torch.linspace(low, high, config.num_mel_bins + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, nyquist_hz, config.fft_size // 2 + 1, dtype=torch.float64)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    columns = hertz.unsqueeze(1)
    slopes = torch.minimum((columns - left) / (centre - left), (right - columns) / (right - centre))
    return slopes.clamp_min(0).float()
