"""Provides ``elastictool.fbank``: normalised log-mel frames of a waveform of any rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.audio import fbank as frames
from elastictool.audio.decode import resample
from elastictool.config import FbankConfig
from elastictool.utils.errors import UsageError

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
"""Of Kaldi's log-mel values over AudioSet. Source: AST's code and its Hugging Face extractor."""


def fbank(
    waveform: Tensor | npt.NDArray[np.floating[Any]],
    sample_rate: float,
    config: FbankConfig | None = None,
    *,
    mean: float = AUDIOSET_MEAN,
    std: float = AUDIOSET_STD,
) -> Tensor:
    """Computes normalised log-mel frames of one waveform, as AST and ElasticAST take them.

    Values are (x - mean) / (2 std) of Kaldi's filterbank; ``mean=0, std=0.5`` gives the
    filterbank itself, equal to ``torchaudio.compliance.kaldi.fbank`` with a Hann window and
    without dither.

    Args:
        waveform: (n,) samples in -1..1, NumPy or torch, floating point.
        sample_rate: Its rate in Hz; where it is not that of ``config``, the waveform is resampled
            (soxr, high quality).
        config: Rate, window and shift in milliseconds, mel bins; by default 16 kHz, 25 ms, 10 ms
            and 128 bins.
        mean: Mean of the log-mel values; by default that of AudioSet.
        std: Their standard deviation; by default that of AudioSet.

    Returns:
        (T, F) float32 on the waveform's device. No gradient flows back to the waveform.

    Raises:
        UsageError: The waveform has another shape or type, holds NaN or infinities or is shorter
            than one frame, or the rate or ``std`` is not above 0.

    Source: ElasticAST (Interspeech 2024), Section 3.2; normalised as in AST's code.
    """
    config = config or FbankConfig()
    if not (math.isfinite(sample_rate) and sample_rate > 0):
        raise UsageError(f"sample_rate = {sample_rate!r} is no rate in Hz", "for example 16_000")
    if not std > 0:
        raise UsageError(f"std = {std!r} is not above 0")
    samples = _samples(waveform)
    if sample_rate != config.sample_rate_hz:
        resampled = resample(samples.cpu().numpy(), sample_rate, config.sample_rate_hz)
        samples = torch.from_numpy(resampled).to(samples.device)
    values = frames.fbank(samples, config)
    if not len(values):
        raise UsageError(
            f"a waveform of {1_000 * len(samples) / config.sample_rate_hz:.1f} ms is shorter than "
            f"one frame of {config.window_ms:g} ms",
            "leave it out, or pad it",
        )
    return (values - mean) / (2 * std)


def _samples(waveform: Tensor | npt.NDArray[Any]) -> Tensor:
    """Returns the checked waveform as (n,) float32."""
    samples = torch.as_tensor(waveform)
    if samples.dim() != 1:
        raise UsageError(
            f"fbank takes one channel, (n,), not {tuple(samples.shape)}",
            "average the channels first, for example waveform.mean(0) of (channels, n)",
        )
    if not samples.is_floating_point():
        raise UsageError(
            f"fbank takes floating-point samples in -1..1, not {samples.dtype}",
            "divide 16-bit integers by 32,768",
        )
    if not bool(samples.isfinite().all()):
        raise UsageError("the waveform holds NaN or infinities")
    return samples.detach().float()
