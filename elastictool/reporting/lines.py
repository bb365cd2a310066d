"""Curves as all figures of scores have them: a line through a model's points, its own setting's
too, with intervals as thin bars, and the axis that they stand on.

Bars and not bands: bands of one colour cannot be told apart where they overlap. The curves of a
figure stand a little beside one another, so that neither bars nor points hide each other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from elastictool.reporting.figures import GREY, SeriesStyle, add_top_axis, plain_text

ASIDE = 2.0
"""Points (1/72 inch) between neighbouring curves at one column."""
MOST_ASIDE = 7.0
"""Points between the first and the last of them."""
RING: Mapping[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 0.9,
}
"""Around the point at a model's own setting: what lies below it is seen."""


class Point(NamedTuple):
    """A score at a place of the axis, with the ends of its interval, if it has one."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: Its name in the legend.
        style: How it is drawn.
        points: At the columns.
        own: At the model's own setting, which need not be a column; None where it has no place.
    """

    label: str
    style: SeriesStyle
    points: Sequence[Point]
    own: Point | None = None

    def all_points(self) -> list[Point]:
        """Columns and own setting in the axis' order; the own one where a column is the same."""
        by_x = {point.x: point for point in (*self.points, *((self.own,) if self.own else ()))}
        return [by_x[x] for x in sorted(by_x)]


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw curves beside one another."""
    step = min(ASIDE, MOST_ASIDE / max(1, len(lines) - 1))
    for number, line in enumerate(lines):
        _draw_line(axes, line, step * (number - (len(lines) - 1) / 2))


def _draw_line(axes: Axes, line: Line, aside: float) -> None:
    points, style = line.all_points(), line.style
    place = axes.transData + _moved(axes, right=aside / 72)
    bars = [(p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if bars:
        places, low, high = zip(*bars, strict=True)
        axes.vlines(places, low, high, style.colour, lw=0.9, alpha=0.6, transform=place)
    # What is moved aside does not count for the limits of the axes.
    axes.update_datalim([(p.x, y) for p in points for y in p[1:] if y is not None])
    axes.plot(
        [point.x for point in points],
        [point.value for point in points],
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        label=plain_text(line.label),
        transform=place,
    )
    if line.own:
        axes.plot(line.own.x, line.own.value, **RING, zorder=5, transform=place)


def own_ring() -> Line2D:
    """What stands in a legend for the rings."""
    return Line2D([], [], **RING)


def interval_bar() -> Line2D:
    """What stands in a legend for the bars."""
    return Line2D([], [], linestyle="", marker="|", markersize=11, color=GREY, mew=1.2)


def mark_columns(
    axes: Axes, places: Sequence[float], own: Collection[float], log: bool, most: int
) -> None:
    """A tick at each of the ``places``, labels where they have room and at all ``own`` ones."""
    if log:
        axes.set_xscale("log", base=2)
    ticks = spread(places, log, most, own)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8.5)


def spread(
    places: Sequence[float], log: bool, most: int, keep: Collection[float] = ()
) -> list[float]:
    """The places of ``keep``, and others so far apart that about ``most`` labels have room."""
    at = {place: math.log(place) if log else place for place in places}
    gap = (max(at.values()) - min(at.values())) / most - 1e-9
    chosen = [place for place in places if place in keep]
    for place in places:
        if all(abs(at[place] - at[other]) >= gap for other in chosen):
            chosen.append(place)
    return sorted(chosen)


def name_columns(
    axes: Axes, axis: str, shift_ms: float | None, base_shift_ms: float | None
) -> bool:
    """An axis on top: seconds above frames, frame shifts above compressions.

    Returns:
        Whether there is one: one number must turn the one into the other.
    """
    if axis == "length" and shift_ms:
        add_top_axis(axes, shift_ms * 0.001, f"seconds ({shift_ms:g} ms a frame)")
        return True
    if axis == "resolution" and base_shift_ms:
        label = f"frame shift (ms); base shift {base_shift_ms:g} ms"
        add_top_axis(axes, base_shift_ms, label, same_ticks=True)
        return True
    return False


def _moved(axes: Axes, right: float = 0, down: float = 0) -> ScaledTranslation:
    """A move by inches on the paper."""
    scale = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    return ScaledTranslation(right, -down, scale)


def legend_below(
    axes: Axes, handles: Sequence[Artist], labels: Sequence[str], title: str = ""
) -> None:
    """A legend of two columns below the axes and the label of the horizontal one."""
    axes.legend(
        handles,
        labels,
        title=title or None,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + _moved(axes, down=0.48),
        ncols=2,
        alignment="left",
        borderaxespad=0,
        fontsize=8.5,
    )
