"""Draw how long the clips of a dataset are: the basis for choosing an input length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from elastictool.reporting.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, save_png, styled
from elastictool.reporting.tables import counted

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
_NUM_BINS = 40
_ONE_DECADE = 10.0
"""Axes that span less have round numbers of seconds as ticks, longer ones 1, 2 and 5 a decade."""


def draw_durations(name: str, durations_s: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Return a stacked histogram of clip lengths, one colour a split, with two percentiles.

    Args:
        name: Title.
        durations_s: Seconds (n,) per split, in the order of drawing.
    """
    parts = {split: values for split, values in durations_s.items() if len(values)}
    everything = np.concatenate(list(parts.values()))
    low, high = float(everything.min()), float(everything.max())
    bins = np.geomspace(low * 0.98, max(high, low * 1.05) * 1.02, _NUM_BINS + 1)
    with styled():
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(
            list(parts.values()),
            bins=bins.tolist(),
            stacked=True,
            color=[_COLOURS[index % len(_COLOURS)] for index in range(len(parts))],
            label=[f"{split} ({len(values):,})" for split, values in parts.items()],
        )
        axes.set_xscale("log")
        decades = LogLocator(subs=(1, 2, 5) if high < 1_000 * low else (1,), numticks=30)
        linear = MaxNLocator(8, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(decades if high > _ONE_DECADE * low else linear)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for share, line in ((50, "-"), (90, "--")):
            value = float(np.percentile(everything, share))
            label = f"{share}th percentile: {value:.2f} s"
            axes.axvline(value, color=GREY, linestyle=line, linewidth=1.2, label=label)
        axes.set(title=f"{name}: lengths of {counted(len(everything), 'clip')}")
        axes.set(xlabel="seconds", ylabel="clips")
        axes.legend()
    return figure


def save_durations(path: Path, name: str, durations_s: Mapping[str, NDArray[np.float64]]) -> None:
    """Write ``draw_durations`` as a PNG; the same data gives the same bytes.

    Raises:
        ElasticToolError: ``path`` cannot be written.
    """
    save_png(draw_durations(name, durations_s), path)
