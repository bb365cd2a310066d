"""Accuracy against what was swept, as ElasticAST's Figures 4 and 5 (length, resolution) and
FlexiAST's Figure 3 (patch size): a line a model, a ring at its own setting.

Rings are what each model was made for: ElasticAST on native lengths (drawn at the longest clip,
because nothing is cut from there on), a fixed-length AST at the length it was trained at, a
standard AST at its patch size. An ensemble has no place on the axis and is a level line.
Percentages on the vertical axis; bars are 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elastictool.evaluation.points import AXES, Axis, SweepPoint, read_points
from elastictool.metrics.classification import METRIC_LABELS
from elastictool.reporting.figures import (
    SeriesStyle,
    save_figure,
    series_styles,
    styled,
)
from elastictool.reporting.lines import (
    Line,
    Point,
    draw_lines,
    interval_bar,
    legend_below,
    mark_columns,
    name_columns,
    own_ring,
)
from elastictool.reporting.tables import RESIZE_LABELS
from elastictool.utils.errors import UsageError

LOG_RATIO = 16
"""Lengths that span more than this factor are drawn on a logarithmic axis."""
MOST_LABELS = 18
"""Columns that have room for their label."""
UNIT_METRICS = ("dprime",)
"""Metrics that are no shares and are drawn as they are."""


def plot_sweep(
    source: Path | Sequence[SweepPoint], stem: Path, title: str = "", log_x: bool | None = None
) -> list[Path]:
    """Draw a sweep to ``stem``.png and ``stem``.svg.

    Args:
        source: A sweep CSV, or its points.
        stem: Path without suffix.
        title: Above the axes.
        log_x: Logarithmic horizontal axis; None decides by what is swept and its span.

    Raises:
        UsageError: There is nothing to draw, or several metrics or axes in one sweep.
        ElasticToolError: The CSV is damaged, or a file cannot be written.
    """
    points = read_points(source) if isinstance(source, Path) else list(source)
    metrics = {point.metric for point in points}
    if len(metrics) != 1:
        raise UsageError(
            f"a sweep figure shows one metric, these points have {len(metrics)}",
            "make the sweep with one --metric",
        )
    if len({point.axis for point in points}) != 1:
        raise UsageError("a sweep figure shows one axis", "draw each sweep by itself")
    with styled():
        return save_figure(_draw(points, metrics.pop(), title, log_x), stem)


def series_of(points: Sequence[SweepPoint]) -> dict[str, list[SweepPoint]]:
    """Points by legend label; the run's name, ways of resizing and (where resolutions are swept)
    own frame shift enter where they differ."""
    runs: dict[str, set[str]] = {}
    fits: dict[str, set[str]] = {}
    kernels: dict[str, set[str]] = {}
    for point in points:
        runs.setdefault(point.model, set()).add(point.run)
        fits.setdefault(point.run, set()).add(point.positions)
        kernels.setdefault(point.run, set()).add(point.resize)
    shifts = {p.run: round(p.shift_ms, 3) for p in points if p.native and not math.isnan(p.x)}
    by_shift = points[0].axis == "resolution" and len(set(shifts.values())) > 1
    series: dict[str, list[SweepPoint]] = {}
    for point in points:
        label = point.model
        if by_shift and point.run in shifts:
            label += f", {shifts[point.run]:g} ms"
        if len(runs[point.model]) > 1:
            label += f" ({point.run})"
        if len(fits[point.run]) > 1:
            label += {"slice": ", sliced", "interpolate": ", interpolated"}.get(point.positions, "")
        if len(kernels[point.run]) > 1:
            label += f", {RESIZE_LABELS[point.resize]}"
        series.setdefault(label, []).append(point)
    return series


def _draw(points: Sequence[SweepPoint], metric: str, title: str, log_x: bool | None) -> Figure:
    factor = 1.0 if metric in UNIT_METRICS else 100.0
    series = series_of(points)
    styles = series_styles(series)
    figure = Figure(figsize=(7.6, 4.4 + 0.1 * len(series)), layout="constrained")
    axes = figure.subplots()
    lines = [_line(label, members, styles[label], factor) for label, members in series.items()]
    draw_lines(axes, [line for line in lines if line.all_points()])
    for label, members in series.items():
        _draw_level(axes, label, members, styles[label], factor)
    axis = AXES[points[0].axis]
    axes.set_xlabel(axis.label)
    axes.set_ylabel(METRIC_LABELS.get(metric, metric) + (" (%)" if factor == 100 else ""))
    _scale(axes, points, axis.log if log_x is None else log_x)
    _second_scale(axes, points)
    if title:
        axes.set_title(title, pad=8)
    _legend(axes, axis)
    return figure


def _line(label: str, members: Sequence[SweepPoint], style: SeriesStyle, factor: float) -> Line:
    """The points of a series that have a place on the axis."""
    placed = [point for point in members if not math.isnan(point.x)]
    points = [_point(point, factor) for point in placed if not point.native]
    own = [_point(point, factor) for point in placed if point.native]
    return Line(label, style, points, own[0] if own else None)


def _point(point: SweepPoint, factor: float) -> Point:
    return Point(point.x, factor * point.value, factor * point.low, factor * point.high)


def _draw_level(
    axes: Axes, label: str, members: Sequence[SweepPoint], style: SeriesStyle, factor: float
) -> None:
    """An ensemble, whose members differ in what is swept, as a level line."""
    for point in members[:1]:
        if math.isnan(point.x):
            height = factor * point.value
            axes.axhline(height, color=style.colour, linestyle=style.line, label=label)


def _second_scale(axes: Axes, points: Sequence[SweepPoint]) -> None:
    """Frames as seconds, compressions as frame shifts, where one number does it."""
    shifts = {round(point.shift_ms, 6) for point in points}
    bases = {round(p.shift_ms / p.x, 3) for p in points if not math.isnan(p.x)}
    one_shift, one_base = (s.pop() if len(s) == 1 else None for s in (shifts, bases))
    name_columns(axes, points[0].axis, one_shift, one_base)


def _scale(axes: Axes, points: Sequence[SweepPoint], log_x: bool | None) -> None:
    placed = [point for point in points if not math.isnan(point.x)]
    places = sorted({point.x for point in placed if not point.native})
    places = places or sorted({point.x for point in placed})
    if log_x is None:
        log_x = places[-1] / places[0] > LOG_RATIO
    own = {point.x for point in placed if point.native}
    mark_columns(axes, places, own, log_x, MOST_LABELS)


def _legend(axes: Axes, axis: Axis) -> None:
    """Below the axes: curves that cross everywhere leave no room inside."""
    handles: list[Artist]
    handles, labels = axes.get_legend_handles_labels()
    handles += [own_ring(), interval_bar()]
    legend_below(axes, handles, [*labels, axis.dot, "95 % interval over clips"])
