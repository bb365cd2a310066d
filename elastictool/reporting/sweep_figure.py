"""Accuracy against what was swept, as ElasticAST's Figures 4 and 5 (length, resolution) and
FlexiAST's Figure 3 (patch size): a line a model, a dot at its own setting.

Dots are what each model was made for: ElasticAST on native lengths (drawn at the longest clip,
because nothing is cut from there on), a fixed-length AST at the length it was trained at, a
standard AST at its patch size. An ensemble has no place on the axis and is a level line.
Percentages on the vertical axis; bands are 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from elastictool.errors import UsageError
from elastictool.evaluation.points import AXES, Axis, SweepPoint, read_points
from elastictool.metrics.classification import METRIC_LABELS
from elastictool.reporting.figures import (
    SeriesStyle,
    add_top_axis,
    save_figure,
    series_styles,
    styled,
)

LOG_RATIO = 16
"""Lengths that span more than this factor are drawn on a logarithmic axis."""
CROWDED = 4
"""With more series than this the bands are drawn fainter."""
RESIZE_LABELS = {"pi": "PI-resize", "bl": "BL", "bl-plain": "BL without antialias"}
"""Ways of resizing kernels, as the paper calls them."""
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
    series = series_of(points)
    alpha = 0.05 if len(series) > CROWDED else 0.10
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    axes = figure.subplots()
    factor = 1.0 if metric in UNIT_METRICS else 100.0
    styles = series_styles(series)
    for label, members in series.items():
        _draw_series(axes, label, members, styles[label], factor, alpha)
    axes.set_ylabel(METRIC_LABELS.get(metric, metric) + (" (%)" if factor == 100 else ""))
    axis = AXES[points[0].axis]
    axes.set_xlabel(axis.label)
    _scale(axes, points, axis.log if log_x is None else log_x)
    _second_scale(axes, points)
    if title:
        axes.set_title(title, pad=8)
    _legend(axes, axis)
    return figure


def _second_scale(axes: Axes, points: Sequence[SweepPoint]) -> None:
    """Frames as seconds, compressions as frame shifts, where one number does it."""
    shifts = {round(point.shift_ms, 6) for point in points}
    if points[0].axis == "length" and len(shifts) == 1:
        shift_ms = shifts.pop()
        add_top_axis(axes, shift_ms * 0.001, f"seconds ({shift_ms:g} ms a frame)")
    bases = {round(p.shift_ms / p.x, 3) for p in points if not math.isnan(p.x)}
    if points[0].axis == "resolution" and len(bases) == 1:
        add_top_axis(axes, bases.pop(), "frame shift (ms)")


def _draw_series(
    axes: Axes,
    label: str,
    members: Sequence[SweepPoint],
    style: SeriesStyle,
    factor: float,
    alpha: float,
) -> None:
    level = [p for p in members if math.isnan(p.x)]
    if level:
        axes.axhline(factor * level[0].value, color=style.colour, linestyle=style.line, label=label)
        return
    # The own point lies on the curve: nothing is cut or fitted there.
    line = sorted({p.x: p for p in members}.values(), key=lambda p: p.x)
    places = [p.x for p in line]
    axes.fill_between(
        places,
        [factor * p.low for p in line],
        [factor * p.high for p in line],
        color=style.colour,
        alpha=alpha,
        linewidth=0,
    )
    axes.plot(
        places,
        [factor * p.value for p in line],
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        label=label,
    )
    own = [p for p in members if p.native]
    axes.scatter(
        [p.x for p in own],
        [factor * p.value for p in own],
        s=95,
        color=style.colour,
        edgecolor="black",
        linewidth=1.1,
        marker=style.marker,
        zorder=5,
    )


def _scale(axes: Axes, points: Sequence[SweepPoint], log_x: bool | None) -> None:
    placed = [point for point in points if not math.isnan(point.x)]
    places = sorted({point.x for point in placed if not point.native})
    places = places or sorted({point.x for point in placed})
    if log_x is None:
        log_x = places[-1] / places[0] > LOG_RATIO
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    if log_x or len(places) <= 10:
        step = max(1, -(-len(places) // 12))
        ticks = spread(places[::step], log_x)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))


def spread(places: Sequence[float], log_x: bool, most: int = 14) -> list[float]:
    """Ticks far enough apart that their labels do not touch: about ``most`` at the most."""
    span = places[-1] / places[0] if log_x else places[-1] - places[0]
    kept = [places[0]]
    for place in places[1:]:
        gap = place / kept[-1] if log_x else place - kept[-1]
        if gap >= (span ** (1 / most) if log_x else span / most):
            kept.append(place)
    return kept


def _legend(axes: Axes, axis: Axis) -> None:
    """Beside the axes: curves that cross everywhere leave no room inside."""
    handles, labels = axes.get_legend_handles_labels()
    dot = Line2D(
        [], [], linestyle="", marker="o", markersize=9, color="white", markeredgecolor="black"
    )
    axes.legend(
        [*handles, dot],
        [*labels, axis.dot],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )
