"""The figure of a recipe from its result document: ours in full, the published as thin lines.

On the paper's own data both share one pair of axes. On other data (``small``, ``smoke``) heights
have nothing in common and lengths often not either, so the published curves stand in a panel of
their own: shapes are to be compared, not values. There they are named at their ends; the legend
stands below our panel and names ours alone. What became of each claim stands in the table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from elastictool.evaluation.points import AXES
from elastictool.metrics.names import METRIC_LABELS
from elastictool.reporting.figures import (
    GREY,
    SeriesStyle,
    plain_text,
    series_styles,
    styled,
)
from elastictool.reporting.histogram_figure import draw_histograms
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
from elastictool.reporting.published import OWN_COLUMNS
from elastictool.reporting.recipe_table import SAME_DATA, TOKEN_AXIS, held_words
from elastictool.reporting.tables import counted

Document = Mapping[str, Any]
Styles = Mapping[str, SeriesStyle]
NOTHING: Document = {"curves": {}, "tokens": {}}
WIDTH_ONE, WIDTH_TWO = 7.2, 9.2
"""Inches of a figure of one panel and of two: at 900 pixels its small print can be read."""
CAPTION_LETTERS, TITLE_LETTERS = 15, 54
"""Letters of the caption in an inch, and of a panel's title in a line."""
LOG_AXES = ("patch_size", TOKEN_AXIS)
LABELS = {"resolution": 6, "length": 8}
"""Labels that the axis has room for, where its columns are many and alike."""
MOST_LABELS = 10
LABEL_SHARE = 0.065
"""Of the axis' height: what a line of small print needs."""
SHARE_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(result: Document) -> Figure:
    """The figure."""
    with styled():
        panels = result["histograms"] if "histograms" in result else result["panels"]
        columns = len(panels) + bool(_published_beside(result))
        width = max(WIDTH_ONE if columns == 1 else WIDTH_TWO, 3.0 * columns)
        caption = _caption(result, width)
        height = 5.0 + 0.18 * caption.count("\n")
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
        if "histograms" in result:
            draw_histograms(figure, panels)
        else:
            _draw_curves(figure, result)
        figure.supxlabel(caption, x=0.01, ha="left", fontsize=9, color=GREY)
    return figure


def _caption(result: Document, width: float) -> str:
    """On what data, and how many of the claims hold; the table says which."""
    text = "\n".join(textwrap.wrap(result["description"], int(CAPTION_LETTERS * width)))
    held = held_words(result["verdicts"])
    return plain_text(f"{text}\n{held}." if held else text, 4_000)


def _draw_curves(figure: Figure, result: Document) -> None:
    panels, beside = result["panels"], _published_beside(result)
    all_axes = list(figure.subplots(1, len(panels) + beside, squeeze=False)[0])
    styles, theirs = _styles(result)
    overlay = NOTHING if beside else result["published"]
    for axes, panel in zip(all_axes, panels, strict=False):
        _draw_panel(axes, panel, styles)
        _thin(axes, overlay["curves"], theirs)
        _level(axes, overlay, theirs)
        shifts = panel["shift_ms"], panel.get("base_shift_ms")
        on_top = name_columns(axes, panel["axis"], *shifts)
        _title(axes, f"{'ours: ' * beside}{panel['title']}", on_top)
    if beside:
        _draw_published(all_axes[-1], panels[0], result["published"], theirs)
        _title(all_axes[-1], f"published: {result['published']['note']}", on_top)
    _legend(all_axes[0], panels[0], result, beside)


def _published_beside(result: Document) -> bool:
    return bool(result["published"]["curves"]) and result["scale"] != SAME_DATA


def _styles(result: Document) -> tuple[Styles, Styles]:
    """Of our curves and of published ones; ours have that of the published one that they stand for.

    On other data the same name may be another model: our AST-20ms stands for theirs at 40 ms.
    """
    roles = {c["label"]: c["published_label"] for p in result["panels"] for c in p["curves"]}
    known = [
        role if role in result["published"]["curves"] else name for name, role in roles.items()
    ]
    styles = series_styles([*known, *result["published"]["curves"]])
    ours = {name: styles[style] for name, style in zip(roles, known, strict=True)}
    return ours, ours | {name: styles[name] for name in result["published"]["curves"]}


def _draw_panel(axes: Axes, panel: Document, styles: Styles) -> None:
    curves = panel["curves"]
    lines = [
        Line(
            curve["label"],
            styles[curve["label"]],
            [_point(point) for point in curve["points"]],
            _point(curve["own"]) if curve["own"] else None,
        )
        for curve in curves
    ]
    draw_lines(axes, lines)
    own = [curve["own"]["x"] for curve in curves if curve["own"]]
    columns = {point["x"] for curve in curves for point in curve["points"]}
    _finish(axes, panel, sorted(columns), own, f"{panel['y']} (%)")


def _point(point: Document) -> Point:
    low, high = (None if point[end] is None else 100 * point[end] for end in ("low", "high"))
    return Point(point["x"], 100 * point["value"], low, high)


def _thin(axes: Axes, published: Document, styles: Styles) -> None:
    for name, points in published.items():
        axes.plot(
            [x for x, _ in points],
            [100 * y for _, y in points],
            color=styles[name].colour,
            linestyle=styles[name].line,
            linewidth=0.8,
        )


def _level(axes: Axes, published: Document, styles: Styles) -> None:
    """Published shares of padding, which the paper gives without a batch size."""
    for name, (padding, _) in published["tokens"].items():
        if padding is None:
            continue
        colour = styles[name].colour if name in styles else GREY
        axes.axhline(padding, color=colour, linewidth=0.8)
        axes.annotate(
            f"published: {name}, {published['note']}",
            (0.99, padding),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=colour,
        )


def _draw_published(axes: Axes, panel: Document, published: Document, styles: Styles) -> None:
    """The paper's own curves, thin, on its own data."""
    _thin(axes, published["curves"], styles)
    ends = {name: points[-1] for name, points in published["curves"].items()}
    places = _apart([100 * y for _, y in ends.values()], axes.get_ylim())
    for (name, (x, _)), place in zip(ends.items(), places, strict=True):
        axes.annotate(
            plain_text(name),
            (x, place),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            color=styles[name].colour,
            annotation_clip=False,
        )
    columns = sorted({x for points in published["curves"].values() for x, _ in points})
    own = [OWN_COLUMNS[name] for name in published["curves"] if name in OWN_COLUMNS]
    _finish(axes, panel, columns, own, f"{METRIC_LABELS[published['metric']]} (%)")


def _apart(heights: Sequence[float], limits: tuple[float, float]) -> list[float]:
    """Heights moved up as far as their labels need so as not to lie on one another."""
    gap = LABEL_SHARE * (limits[1] - limits[0])
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def _title(axes: Axes, text: str, on_top: bool) -> None:
    """A panel's title, high enough for an axis ``on_top`` of some panel: all at one height."""
    lines = textwrap.wrap(plain_text(text), TITLE_LETTERS)
    axes.set_title("\n".join(lines), fontsize=9.5, y=1.0, pad=34 if on_top else 6)


def _finish(
    axes: Axes, panel: Document, columns: Sequence[float], own: Sequence[float], label: str
) -> None:
    """Labels, scale and ticks."""
    axes.set(xlabel=panel["x"], ylabel=label)
    wide = panel["axis"] == "length" and columns[-1] / columns[0] > 6
    log = panel["axis"] in LOG_AXES or wide
    mark_columns(axes, columns, own, log, LABELS.get(panel["axis"], MOST_LABELS))
    if panel["axis"] == TOKEN_AXIS:
        # Linear below 1 %, so that none at all has a place, too.
        axes.set_yscale("symlog", linthresh=1, linscale=0.7)
        axes.set_yticks(SHARE_TICKS, [f"{tick:g}" for tick in SHARE_TICKS])
        axes.set_ylim(-0.08, 100)


def _legend(axes: Axes, panel: Document, result: Document, beside: bool) -> None:
    """Below our panel: our curves, and what dots and bars are."""
    handles: list[Artist]
    handles, labels = axes.get_legend_handles_labels()
    if any(curve["own"] for curve in panel["curves"]):
        handles, labels = [*handles, own_ring()], [*labels, AXES[panel["axis"]].dot]
    if words := _interval_words(panel):
        handles, labels = [*handles, interval_bar()], [*labels, words]
    if not beside and (result["published"]["curves"] or result["published"]["tokens"]):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8))
        labels.append("thin: published")
    legend_below(axes, handles, labels, "ours" if beside else "")


def _interval_words(panel: Document) -> str:
    """What the bars are; empty where there are none."""
    points = [point for curve in panel["curves"] for point in curve["points"]]
    if all(point["low"] is None for point in points):
        return ""
    runs = max(point["runs"] for point in points)
    if runs == 1:
        return "95 % interval over clips"
    kind = "range of" if runs == 2 else "95 % t interval over"
    return f"{kind} {counted(runs, 'training')}"
