"""How long the clips of a dataset are: the first thing to know before fixing an input length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from elastictool.reporting.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, styled
from elastictool.reporting.tables import counted
from elastictool.utils.io import atomic_path

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
_NUM_BINS = 40
_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (5.0, (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)),
    (100.0, (1, 2, 3, 5, 7)),
    (10_000.0, (1, 2, 5)),
    (math.inf, (1,)),
)
"""Which multiples of powers of ten are labelled, by how many times the longest clip is as long as
the shortest."""
_NEARLY_LINEAR = 1.5
_MOST_TICKS = 30


def draw_durations(name: str, durations_s: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Stacked histogram of clip lengths, one colour a split, with median and 90th percentile.

    Args:
        name: Title.
        durations_s: (n,) seconds per split, in the order of drawing.
    """
    parts = {split: values for split, values in durations_s.items() if len(values)}
    everything = np.concatenate(list(parts.values()))
    with styled():
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(
            list(parts.values()),
            bins=_bins(everything).tolist(),
            stacked=True,
            color=[_COLOURS[index % len(_COLOURS)] for index in range(len(parts))],
            label=[f"{split} ({len(values):,})" for split, values in parts.items()],
        )
        axes.set_xscale("log")
        _label_ticks(axes.xaxis, float(everything.min()), float(everything.max()))
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
    figure = draw_durations(name, durations_s)
    with styled(), atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _label_ticks(axis: Axis, low: float, high: float) -> None:
    """Round numbers of seconds, as many as have room beside each other."""
    steps = next(steps for span, steps in _STEPS if high <= span * low)
    round_steps = MaxNLocator(8, steps=[1, 2, 5, 10])
    by_decade = LogLocator(subs=steps, numticks=_MOST_TICKS)
    axis.set_major_locator(by_decade if high > _NEARLY_LINEAR * low else round_steps)
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges, evenly spaced in the logarithm."""
    low, high = float(values.min()), float(values.max())
    return np.geomspace(low * 0.98, max(high, low * 1.05) * 1.02, _NUM_BINS + 1)
