"""Draw curves of scores: a line through a model's points and its own setting, thin interval bars.

Bars are used instead of bands, which cannot be distinguished where they overlap; the curves of a
figure are shifted against each other by a few points, so that bars and markers stay visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from elastictool.reporting.figures import GREY, SeriesStyle, plain_text

SHIFT = 2.0
"""Points (1/72 inch) between neighbouring curves at one column."""
LARGEST_SHIFT = 7.0
"""Points between the first and the last curve."""
LOG_RATIO = 6
"""Axes that span more than this factor are logarithmic, unless the axis decides."""
LABELLED_COLUMNS = 6
"""Up to this many columns each has a label; matplotlib chooses the labels of more."""
RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 0.9,
}
"""Marks the point at a model's own setting."""


class Point(NamedTuple):
    """A score at a position on the axis, with the ends of its interval if it has one."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: Name in the legend.
        style: Colour, line and marker.
        points: Points at the columns.
        own: Point at the model's own setting, which need not be a column; None without a position.
    """

    label: str
    style: SeriesStyle
    points: Sequence[Point]
    own: Point | None = None

    def all_points(self) -> list[Point]:
        """Returns the points in order; the own one replaces a column at the same position."""
        by_x = {point.x: point for point in (*self.points, *((self.own,) if self.own else ()))}
        return [by_x[x] for x in sorted(by_x)]


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draws curves, each shifted a little against the one before."""
    step = min(SHIFT, LARGEST_SHIFT / max(1, len(lines) - 1))
    scale = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    for number, line in enumerate(lines):
        shift = step * (number - (len(lines) - 1) / 2) / 72
        points, colour = line.all_points(), line.style.colour
        transform = axes.transData + ScaledTranslation(shift, 0, scale)
        bars = [(p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None]
        if bars:
            positions, low, high = zip(*bars, strict=True)
            axes.vlines(positions, low, high, colour, lw=0.9, alpha=0.6, transform=transform)
        # Shifted artists do not count for the limits of the axes.
        axes.update_datalim([(p.x, y) for p in points for y in p[1:] if y is not None])
        axes.plot(
            [point.x for point in points],
            [point.value for point in points],
            color=colour,
            linestyle=line.style.line,
            marker=line.style.marker,
            label=plain_text(line.label),
            transform=transform,
        )
        if line.own:
            axes.plot(line.own.x, line.own.value, **RING, zorder=5, transform=transform)


def scale_columns(
    axes: Axes,
    columns: Sequence[float],
    log: bool | None = None,
    shift_ms: float | None = None,
    base_shift_ms: float | None = None,
) -> None:
    """Scales the horizontal axis, with a tick at each column.

    Args:
        axes: The axes with their curves.
        columns: What was swept, ascending.
        log: Whether the axis is logarithmic; None decides by the span.
        shift_ms: Frame shift that turns frames into seconds on a second axis.
        base_shift_ms: Frame shift of compression 1 for a second axis of frame shifts.
    """
    if log if log is not None else columns[-1] > LOG_RATIO * columns[0]:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xticks(list(columns), minor=len(columns) > LABELLED_COLUMNS)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if shift_ms:
        _second_axis(axes, 0.001 * shift_ms, f"seconds ({shift_ms:g} ms a frame)")
    elif base_shift_ms:
        _second_axis(axes, base_shift_ms, f"frame shift (ms); base shift {base_shift_ms:g} ms")


def _second_axis(axes: Axes, factor: float, label: str) -> None:
    """Adds an axis on top that shows the values below times ``factor``."""
    top = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, factor), partial(np.multiply, 1 / factor))
    )
    top.set_xlabel(label, fontsize=9, color=GREY)
    top.tick_params(labelsize=8.5, colors=GREY)
    if axes.get_xscale() == "log":
        ticks = [tick * factor for tick in axes.get_xticks()]
        top.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], minor=False)
        top.minorticks_off()


def add_legend(
    axes: Axes,
    own: str = "",
    interval: str = "",
    extra: Mapping[str, Artist] | None = None,
    title: str = "",
) -> None:
    """Adds a legend of the curves below the axes.

    Args:
        axes: Axes of a figure with constrained layout.
        own: Meaning of the rings; empty without any.
        interval: Meaning of the bars; empty without any.
        extra: More entries, by label.
        title: Title of the legend.
    """
    handles: list[Artist]
    handles, labels = axes.get_legend_handles_labels()
    entries: dict[str, Artist] = {own: Line2D([], [], **RING)} if own else {}
    if interval:
        bar = Line2D([], [], linestyle="", marker="|", markersize=11, color=GREY, mew=1.2)
        entries[interval] = bar
    entries |= extra or {}
    axes.legend(
        [*handles, *entries.values()],
        [*labels, *entries],
        title=title or None,
        loc="upper left",
        bbox_to_anchor=(0, -0.18),
        borderaxespad=0,
        ncols=2,
        alignment="left",
        fontsize=8.5,
    )
