"""Draw audio: one clip, the lengths of a dataset's clips, the classes of a recording over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from elastictool.config import FbankConfig
from elastictool.reporting.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    plain_text,
    save_figure,
    save_png,
    styled,
)
from elastictool.utils.text import counted

TICKS_HZ = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
MEL_BREAK_HZ = 700.0
OUTLINE_COLUMNS = 1_200
"""Points of a waveform's outline."""
NUM_BINS = 40
"""Bins of the histogram of lengths."""
MAX_CLASSES = 12
LEAST_SHOWN = 0.02
"""Classes below this probability everywhere are left out, except the three likeliest."""


def save_clip(
    path: Path,
    title: str,
    waveform: NDArray[np.float32],
    frames: NDArray[np.float32],
    config: FbankConfig,
) -> None:
    """Draws a clip's waveform above the log-mel spectrogram that the model sees, as a PNG.

    The same clip gives the same bytes.

    Args:
        path: File to write.
        title: Title, one line or two.
        waveform: (n,) samples at ``config.sample_rate_hz``.
        frames: (T, F) log-mel frames of it.
        config: Settings of the filterbank, which give the frequencies of the bins.

    Raises:
        ElasticToolError: ``path`` cannot be written.
    """
    seconds, shift_s = len(waveform) / config.sample_rate_hz, config.shift_ms * 0.001
    # A frame's centre is its window's.
    first_s = config.frame_start(0) / config.sample_rate_hz + config.window_ms * 0.0005
    extent = (first_s - shift_s / 2, first_s + (len(frames) - 0.5) * shift_s)
    starts = np.unique(np.linspace(0, len(waveform), OUTLINE_COLUMNS, endpoint=False).astype(int))
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    with styled():
        figure = Figure(figsize=(9.0, 5.0), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
        times = starts / len(waveform) * seconds
        upper.fill_between(times, low, high, color=BLUE, linewidth=0.6)
        upper.set(title=plain_text(title), ylabel="amplitude", xlim=(0, seconds))
        image = lower.imshow(
            frames.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            interpolation="nearest",
            extent=(*extent, -0.5, config.num_mel_bins - 0.5),
        )
        bins = _mel_bins(np.array(TICKS_HZ), config)
        shown = [i for i in range(len(bins)) if 0 <= bins[i] <= config.num_mel_bins - 1]
        lower.set_yticks(bins[shown], [f"{TICKS_HZ[i]:,}" for i in shown])
        lower.set(xlabel="seconds", ylabel="frequency (Hz, mel scale)")
        lower.grid(False)
        figure.colorbar(image, ax=lower, label="log energy", pad=0.01)
    save_png(figure, path)


def _mel_bins(hertz: NDArray[np.int64], config: FbankConfig) -> NDArray[np.float64]:
    """Returns the mel bins, as fractions, whose centres have these frequencies."""
    top_hz, nyquist_hz = config.high_frequency_hz, config.sample_rate_hz / 2
    ends_hz = (config.low_frequency_hz, top_hz if top_hz > 0 else top_hz + nyquist_hz)
    low, high = np.log1p(np.array(ends_hz) / MEL_BREAK_HZ)
    step = (high - low) / (config.num_mel_bins + 1)
    bins: NDArray[np.float64] = (np.log1p(hertz / MEL_BREAK_HZ) - low) / step - 1
    return bins


def draw_durations(name: str, durations_s: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Returns a stacked histogram of clip lengths, one colour a split, with two percentiles.

    It is the basis for choosing an input length.

    Args:
        name: Title.
        durations_s: Seconds (n,) per split, in the order of drawing.
    """
    parts = {split: values for split, values in durations_s.items() if len(values)}
    everything = np.concatenate(list(parts.values()))
    low, high = float(everything.min()), float(everything.max())
    bins = np.geomspace(low * 0.98, max(high, low * 1.05) * 1.02, NUM_BINS + 1)
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY)
    with styled():
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(
            list(parts.values()),
            bins=bins.tolist(),
            stacked=True,
            color=[colours[index % len(colours)] for index in range(len(parts))],
            label=[plain_text(f"{split} ({len(values):,})") for split, values in parts.items()],
        )
        axes.set_xscale("log")
        # Within a decade ticks are round numbers of seconds; above it 1, 2 and 5 of each decade.
        decades = LogLocator(subs=(1, 2, 5) if high < 1_000 * low else (1,), numticks=30)
        linear = MaxNLocator(8, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(decades if high > 10 * low else linear)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for share, line in ((50, "-"), (90, "--")):
            value = float(np.percentile(everything, share))
            label = f"{share}th percentile: {value:.2f} s"
            axes.axvline(value, color=GREY, linestyle=line, linewidth=1.2, label=label)
        axes.set(title=plain_text(f"{name}: lengths of {counted(len(everything), 'clip')}"))
        axes.set(xlabel="seconds", ylabel="clips")
        axes.legend()
    return figure


def save_timeline(
    stem: Path,
    title: str,
    starts_s: NDArray[np.float64],
    stops_s: NDArray[np.float64],
    probabilities: NDArray[np.float32],
    label_names: Sequence[str],
) -> list[Path]:
    """Draws the classes that are likeliest anywhere in the recording, one row each.

    Args:
        stem: Files to write, without ending (png and svg).
        title: Title of the figure.
        starts_s: (W,) start of each window; the overlap of two windows is divided between them.
        stops_s: (W,) its end.
        probabilities: (W, C).
        label_names: C names.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    highest = probabilities.max(axis=0)
    shown = np.argsort(-highest, kind="stable")[:MAX_CLASSES]
    shown = shown[: max(3, int((highest[shown] >= LEAST_SHOWN).sum()))]
    edges = np.concatenate((starts_s[:1], (stops_s[:-1] + starts_s[1:]) / 2, stops_s[-1:]))
    unit, label = (60.0, "minutes") if edges[-1] > 600 else (1.0, "seconds")
    with styled():
        figure = Figure(figsize=(9, 1.4 + 0.32 * len(shown)), layout="constrained")
        axes = figure.subplots()
        rows = np.arange(len(shown) + 1)
        mesh = axes.pcolormesh(
            edges / unit,
            rows,
            probabilities[:, shown].T,
            cmap=LinearSegmentedColormap.from_list("shades", ["#FFFFFF", BLUE]),
            vmin=0,
            vmax=1,
            rasterized=True,  # thousands of windows would be thousands of paths in the SVG
        )
        axes.set_yticks(rows[:-1] + 0.5, [plain_text(label_names[i], 40) for i in shown])
        axes.invert_yaxis()
        axes.grid(False)
        axes.set_xlabel(label)
        axes.set_title(plain_text(title, 90))
        figure.colorbar(mesh, ax=axes, label="probability")
    return save_figure(figure, stem)
