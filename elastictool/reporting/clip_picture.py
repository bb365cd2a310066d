"""Draw one clip: its waveform above the log-mel spectrogram that the model sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from elastictool.config import FbankConfig
from elastictool.reporting.figures import BLUE, save_png, styled

_MEL_BREAK_HZ = 700.0
_TICKS_HZ = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
_COLUMNS = 1_200
"""Points of the waveform's outline."""


def draw_clip(
    title: str,
    waveform: NDArray[np.float32],
    frames: NDArray[np.float32],
    config: FbankConfig,
) -> Figure:
    """Return waveform and log-mel spectrogram on one time axis.

    Args:
        title: Title, one line or two.
        waveform: (n,) samples at ``config.sample_rate_hz``.
        frames: (T, F) log-mel frames of it.
        config: Settings of the filterbank, which give the frequencies of the bins.
    """
    seconds = len(waveform) / config.sample_rate_hz
    with styled():
        figure = Figure(figsize=(9.0, 5.0), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
        upper.fill_between(*_outline(waveform, seconds), color=BLUE, linewidth=0.6)
        upper.set(title=title.replace("$", r"\$"), ylabel="amplitude", xlim=(0, seconds))
        shift_s = config.shift_ms * 0.001
        # A frame's centre is its window's.
        begin_s = config.frame_start(0) / config.sample_rate_hz
        first_s = begin_s + config.window_ms * 0.0005 - shift_s / 2
        image = lower.imshow(
            frames.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            interpolation="nearest",
            extent=(first_s, first_s + len(frames) * shift_s, -0.5, config.num_mel_bins - 0.5),
        )
        ticks = _ticks(config)
        lower.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        lower.set(xlabel="seconds", ylabel="frequency (Hz, mel scale)")
        lower.grid(False)
        figure.colorbar(image, ax=lower, label="log energy", pad=0.01)
    return figure


def save_clip(
    path: Path,
    title: str,
    waveform: NDArray[np.float32],
    frames: NDArray[np.float32],
    config: FbankConfig,
) -> None:
    """Write ``draw_clip`` as a PNG; the same clip gives the same bytes.

    Raises:
        ElasticToolError: ``path`` cannot be written.
    """
    save_png(draw_clip(title, waveform, frames, config), path)


def _outline(
    waveform: NDArray[np.float32], seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Return times, minima and maxima of the waveform in as many columns as a picture has."""
    starts = np.unique(np.linspace(0, len(waveform), _COLUMNS, endpoint=False).astype(np.int64))
    times = starts / len(waveform) * seconds
    return times, np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)


def _ticks(config: FbankConfig) -> list[tuple[float, str]]:
    """Return (bin, label) of round frequencies that the filterbank covers."""
    nyquist = config.sample_rate_hz / 2
    top_hz = config.high_frequency_hz + (nyquist if config.high_frequency_hz <= 0 else 0)
    low, high = _mel(config.low_frequency_hz), _mel(top_hz)
    step = (high - low) / (config.num_mel_bins + 1)
    places = [((_mel(hertz) - low) / step - 1, f"{hertz:,}") for hertz in _TICKS_HZ]
    return [(place, label) for place, label in places if 0 <= place <= config.num_mel_bins - 1]


def _mel(hertz: float) -> float:
    return float(np.log1p(hertz / _MEL_BREAK_HZ))
