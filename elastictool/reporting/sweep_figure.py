"""Draw accuracy against the swept quantity, as in ElasticAST's Figures 4 and 5 (length,
resolution) and FlexiAST's Figure 3 (patch size): a line a model, a ring at its own setting.

The own setting is native lengths for ElasticAST (drawn at the longest clip, from which on nothing
is cut), the training length of a fixed-length AST, or the patch size of a standard AST. An ensemble
has no position on the axis and is a level line. Values are percentages, bars 95 % bootstrap
intervals over groups or clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from elastictool.evaluation.points import AXES, SweepPoint, read_points
from elastictool.metrics.table import METRIC_LABELS, is_share
from elastictool.reporting.figures import plain_text, save_figure, series_styles, styled
from elastictool.reporting.lines import Line, Point, add_legend, draw_lines, scale_columns
from elastictool.reporting.tables import RESIZE_LABELS, interval_over
from elastictool.utils.errors import UsageError


def plot_sweep(source: Path | Sequence[SweepPoint], stem: Path, title: str = "") -> list[Path]:
    """Draws a sweep to ``stem``.png and ``stem``.svg.

    Args:
        source: A sweep CSV, or its points.
        stem: Path without suffix.
        title: Title of the axes.

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
    return save_figure(draw_sweep(points, title), stem)


def series_of(points: Sequence[SweepPoint]) -> dict[str, list[SweepPoint]]:
    """Returns points by legend label; the run's name, the fit of positions, the resizing method and
    (for swept resolutions) the run's frame shift are part of labels that would otherwise be equal.
    """
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


def draw_sweep(points: Sequence[SweepPoint], title: str = "") -> Figure:
    """Returns the figure of points of one axis and one metric."""
    axis, metric = AXES[points[0].axis], points[0].metric
    factor = 100.0 if is_share(metric) else 1.0
    series = series_of(points)
    styles = series_styles(series)
    placed = [point for point in points if not math.isnan(point.x)]
    columns = {point.x for point in placed if not point.native} or {point.x for point in placed}
    with styled():
        figure = Figure(figsize=(7.6, 4.4 + 0.1 * len(series)), layout="constrained")
        axes = figure.subplots()
        lines = []
        for label, members in series.items():
            own: Point | None = None
            at = []
            for point in members:
                drawn = Point(point.x, *(factor * y for y in (point.value, point.low, point.high)))
                if math.isnan(point.x):
                    style, name = styles[label], plain_text(label)
                    axes.axhline(drawn.value, color=style.colour, linestyle=style.line, label=name)
                elif point.native:
                    own = drawn
                else:
                    at.append(drawn)
            if own or at:
                lines.append(Line(label, styles[label], at, own))
        draw_lines(axes, lines)
        unit = " (%)" if factor == 100 else ""
        axes.set(xlabel=axis.label, ylabel=METRIC_LABELS.get(metric, metric) + unit)
        is_length, is_resolution = (points[0].axis == n for n in ("length", "resolution"))
        shifts = {round(point.shift_ms, 6) for point in placed if is_length}
        bases = {round(point.shift_ms / point.x, 3) for point in placed if is_resolution}
        # A second axis only where all points share the frame shift or the base shift.
        shift, base = (found.pop() if len(found) == 1 else None for found in (shifts, bases))
        scale_columns(axes, sorted(columns), axis.log, shift, base)
        axes.set_title(plain_text(title))
        add_legend(axes, axis.dot, interval_over(points[0].clips, points[0].groups))
    return figure
