"""Kaldi's log-mel filterbank, equal to torchaudio's and faster.

What depends on the settings alone is built once per setting, dtype and device, and frames pass
in blocks through a buffer that stays in the processor's cache. Three facts save arithmetic:
pre-emphasis runs once over the waveform, because the one sample of a frame that Kaldi treats
differently meets the Hann window's zero; a frame's mean m leaves pre-emphasis as the constant
(1 - preemphasis) m, so it is subtracted afterwards; and a mel bin sees few frequencies, so the
mel product is done in bands of bins, straight from the squared real and imaginary parts.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from elastictool.config import FbankConfig

EPSILON = 1.1920928955078125e-07
"""Smallest mel energy: float32's machine epsilon, as in Kaldi and torchaudio."""
FLOOR = math.log(EPSILON)
"""Log-mel value of silence."""

BLOCK_FRAMES = 512
"""Frames that are computed together; measured best between 256 and 1,024."""
_BAND_BINS = 16
"""Mel bins of one product; fewer make the products too thin, more make them too empty."""


def fbank(waveform: Tensor, config: FbankConfig) -> Tensor:
    """Log-mel frames of one clip, not normalised.

    Frame k covers ``config.window_samples`` from ``config.frame_start(k)``; frames that do not
    lie wholly within the clip are left out. The mean of the whole waveform is subtracted first,
    then each frame's own.

    Args:
        waveform: (n,) float32 or float64 samples at ``config.sample_rate_hz``, CPU or CUDA;
            left as they are.
        config: Window, shift and mel bins.

    Returns:
        (T, F) natural-log mel energies, at least ``FLOOR``, of the waveform's dtype and device;
        T is 0 for a clip shorter than the window. No gradient flows back to the waveform.

    Raises:
        ValueError: The waveform has another shape or dtype.

    Source: ElasticAST Section 3.2; values are those of ``torchaudio.compliance.kaldi.fbank``
        with ``htk_compat=True, use_energy=False, window_type="hanning", dither=0``.
    """
    if waveform.dim() != 1 or waveform.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"fbank takes (n,) float32 or float64, not {tuple(waveform.shape)} {waveform.dtype}"
        )
    # A tensor born in inference mode is tied to it: neither cache nor result may be.
    with torch.inference_mode(False), torch.no_grad():
        frames = waveform.new_empty((config.num_frames(len(waveform)), config.num_mel_bins))
        if len(frames) > 0:
            _analyse(waveform, config, frames)
    return frames


def _analyse(waveform: Tensor, config: FbankConfig, out: Tensor) -> None:
    """Fill the (T, F) ``out`` block by block."""
    constants = _constants(config, waveform.dtype, waveform.device)
    padded = _padded_block(constants)
    centred = waveform - waveform.mean()
    emphasised = centred.clone()
    emphasised[1:].sub_(centred[:-1], alpha=config.preemphasis)
    for first in range(0, len(out), BLOCK_FRAMES):
        stop = min(first + BLOCK_FRAMES, len(out))
        offsets = _frames(centred, config, first, stop).mean(dim=1, keepdim=True)
        offsets.mul_(1 - config.preemphasis)
        block = padded[: stop - first]
        windowed = block[:, : config.window_samples]
        torch.sub(_frames(emphasised, config, first, stop), offsets, out=windowed)
        windowed.mul_(constants.window)
        _log_mel(block, constants.bands, out[first:stop])


def _log_mel(padded: Tensor, bands: tuple[_Band, ...], out: Tensor) -> None:
    """(T, fft) windowed, padded frames to (T, F) log energies."""
    squares = torch.view_as_real(torch.fft.rfft(padded)).flatten(1).square_()
    for band in bands:
        torch.mm(squares[:, band.columns], band.weights, out=out[:, band.bins])
    out.clamp_min_(EPSILON).log_()


def _frames(samples: Tensor, config: FbankConfig, first: int, stop: int) -> Tensor:
    """(stop - first, window) samples of these frames: a view where starts are evenly spaced."""
    windows = samples.unfold(0, config.window_samples, 1)
    step = config.shift_ms * 0.001 * config.sample_rate_hz
    if abs(step - round(step)) < 1e-9:
        return windows[first * round(step) : (stop - 1) * round(step) + 1 : round(step)]
    # The operations of FbankConfig.frame_start, in its order, so that both round alike.
    frames = torch.arange(first, stop, dtype=torch.float64, device=samples.device)
    starts = frames * config.shift_ms * 0.001 * config.sample_rate_hz + 0.5
    return windows.index_select(0, starts.floor().long())


@dataclass(frozen=True)
class _Band:
    """Neighbouring mel bins, and the columns of the squared spectrum that they weigh."""

    bins: slice
    columns: slice
    weights: Tensor


@dataclass(frozen=True)
class _Constants:
    window: Tensor
    bands: tuple[_Band, ...]
    fft_size: int


@lru_cache(maxsize=64)
def _constants(config: FbankConfig, dtype: torch.dtype, device: torch.device) -> _Constants:
    fft_size = 1 << (config.window_samples - 1).bit_length()
    window = torch.hann_window(config.window_samples, periodic=False, dtype=dtype, device=device)
    mel = mel_matrix(config, fft_size)
    bands = (
        _band(mel, slice(first, min(first + _BAND_BINS, config.num_mel_bins)), window)
        for first in range(0, config.num_mel_bins, _BAND_BINS)
    )
    return _Constants(window, tuple(bands), fft_size)


def _band(mel: Tensor, bins: slice, like: Tensor) -> _Band:
    """Cut the rows without weight; the rest twice, for the real and the imaginary square."""
    weighted = mel[:, bins].any(dim=1).nonzero().flatten().tolist()
    first, stop = (weighted[0], weighted[-1] + 1) if weighted else (0, 0)
    weights = mel[first:stop, bins].to(device=like.device, dtype=like.dtype)
    return _Band(bins, slice(2 * first, 2 * stop), weights.repeat_interleave(2, dim=0))


def mel_matrix(config: FbankConfig, fft_size: int) -> Tensor:
    """(fft_size / 2, F) triangular mel weights, float32 on the CPU.

    Computed in float32 whatever the dtype of the audio, as in Kaldi and torchaudio: next to the
    corners of the triangles its rounding shows, and the values are to be theirs.
    """
    nyquist_hz = 0.5 * config.sample_rate_hz
    top_hz = config.high_frequency_hz + (nyquist_hz if config.high_frequency_hz <= 0 else 0)
    low, high = _mel_scale(config.low_frequency_hz), _mel_scale(top_hz)
    step = (high - low) / (config.num_mel_bins + 1)
    bins = torch.arange(config.num_mel_bins, dtype=torch.float32, device="cpu")
    left, centre, right = (low + (bins + corner) * step for corner in (0.0, 1.0, 2.0))
    columns = torch.arange(fft_size // 2, dtype=torch.float32, device="cpu")
    hertz = config.sample_rate_hz / fft_size * columns
    mel = (1127.0 * (1.0 + hertz / 700.0).log()).unsqueeze(1)
    slopes = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    return slopes.clamp_min(0.0)


def _mel_scale(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


_kept = threading.local()


def _padded_block(constants: _Constants) -> Tensor:
    """(BLOCK_FRAMES, fft) buffer with zeros right of the window.

    On a CPU each thread keeps its last one, because writing to fresh memory is slow; CUDA's
    allocator keeps memory itself and knows which stream uses it.
    """
    window, width = constants.window, constants.fft_size
    key = (window.numel(), width, window.dtype)
    if window.device.type == "cpu" and getattr(_kept, "key", None) == key:
        kept: Tensor = _kept.block
        return kept
    block = window.new_zeros((BLOCK_FRAMES, width))
    if window.device.type == "cpu":
        _kept.key, _kept.block = key, block
    return block
