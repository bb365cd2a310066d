"""The figure of a recipe from its result document: ours in full, the published as thin lines.

On the paper's own data both share one pair of axes. On other data (``small``, ``smoke``) heights
have nothing in common and lengths often not either, so the published curves stand in a panel of
their own: shapes are to be compared, not values. Verdicts stand below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, ScalarFormatter

from elastictool.evaluation.points import AXES
from elastictool.reporting.figures import (
    BLUE,
    GREY,
    SeriesStyle,
    add_top_axis,
    plain_text,
    series_styles,
    styled,
)
from elastictool.reporting.sweep_figure import spread

Document = Mapping[str, Any]
LOG_AXES = ("patch_size", "batch_clips")
WRAP = 118
TICKS = 9


def draw(result: Document) -> Figure:
    """The figure."""
    with styled():
        if "histograms" in result:
            return _histograms(result)
        return _curves(result)


def _curves(result: Document) -> Figure:
    panels, beside = result["panels"], _published_beside(result)
    caption = _caption(result)
    columns = len(panels) + bool(beside)
    height = 4.3 + 0.16 * caption.count("\n")
    figure = Figure(figsize=(4.6 + 4.4 * columns, height), layout="constrained")
    all_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    styles = _styles(result)
    for axes, panel in zip(all_axes, panels, strict=False):
        overlay = {} if beside else result["published"]["curves"]
        _draw_panel(axes, panel, overlay, styles)
        axes.set_title(f"{'ours: ' if beside else ''}{plain_text(panel['title'])}", fontsize=10)
    if beside:
        _draw_published(all_axes[-1], panels[0], result["published"], styles)
    figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
    _legend(figure, all_axes, panels[0], bool(result["published"]["curves"]))
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _published_beside(result: Document) -> bool:
    return bool(result["published"]["curves"]) and result["scale"] != "paper"


def _styles(result: Document) -> dict[str, SeriesStyle]:
    """A style for each curve; a published one looks like the curve that is shown beside it."""
    labels = [c["label"] for panel in result["panels"] for c in panel["curves"]]
    styles = series_styles(labels)
    for panel in result["panels"]:
        for curve in panel["curves"]:
            styles.setdefault(curve["published_label"], styles[curve["label"]])
    rest = [name for name in result["published"]["curves"] if name not in styles]
    return styles | series_styles(rest)


def _draw_panel(
    axes: Axes, panel: Document, published: Document, styles: Mapping[str, SeriesStyle]
) -> None:
    faint = 0.05 if len(panel["curves"]) > 4 else 0.10
    for curve in panel["curves"]:
        style, points = styles[curve["label"]], curve["points"]
        places = [p["x"] for p in points]
        axes.plot(
            places,
            [100 * p["value"] for p in points],
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            label=plain_text(curve["label"]),
        )
        if points and all(p["low"] is not None for p in points):
            low, high = ([100 * p[end] for p in points] for end in ("low", "high"))
            axes.fill_between(places, low, high, color=style.colour, alpha=faint, linewidth=0)
        if curve["own"]:
            axes.scatter(
                [curve["own"]["x"]],
                [100 * curve["own"]["value"]],
                s=80,
                color=style.colour,
                edgecolor="black",
                marker=style.marker,
                zorder=5,
            )
    _thin(axes, published, styles)
    _finish(axes, panel, [p["x"] for curve in panel["curves"] for p in curve["points"]])


def _thin(axes: Axes, published: Document, styles: Mapping[str, SeriesStyle]) -> None:
    for name, points in published.items():
        axes.plot(
            [x for x, _ in points],
            [100 * y for _, y in points],
            color=styles[name].colour,
            linestyle=styles[name].line,
            linewidth=0.8,
        )


def _draw_published(
    axes: Axes, panel: Document, published: Document, styles: Mapping[str, SeriesStyle]
) -> None:
    """The paper's own curves, thin, on its own data."""
    _thin(axes, published["curves"], styles)
    for name, points in published["curves"].items():
        x, y = points[-1]
        axes.annotate(
            plain_text(name),
            (x, 100 * y),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="center",
            color=styles[name].colour,
            annotation_clip=False,
        )
    axes.set_title(f"published: {plain_text(published['note'])}", fontsize=10)
    places = [x for points in published["curves"].values() for x, _ in points]
    _finish(axes, {**panel, "shift_ms": None}, places)


def _finish(axes: Axes, panel: Document, places: Sequence[float]) -> None:
    """Labels, scale and ticks."""
    axes.set_ylabel(f"{panel['y']} (%)")
    axes.set_xlabel(panel["x"])
    ticks = sorted(set(places))
    log = panel["axis"] in LOG_AXES or (ticks[-1] / ticks[0] > 6 and panel["axis"] == "length")
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    ticks = spread(ticks, log, TICKS)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    if panel["axis"] == "length" and panel["shift_ms"]:
        add_top_axis(axes, panel["shift_ms"] * 0.001, f"seconds ({panel['shift_ms']:g} ms a frame)")


def _legend(figure: Figure, all_axes: Sequence[Axes], panel: Document, published: bool) -> None:
    handles, labels = all_axes[0].get_legend_handles_labels()
    if any(curve["own"] for curve in panel["curves"]):
        dot = Line2D([], [], linestyle="", marker="o", markersize=8, color="w", mec="black")
        handles, labels = [*handles, dot], [*labels, AXES[panel["axis"]].dot]
    if published:
        thin = Line2D([], [], color=GREY, linewidth=0.8)
        handles, labels = [*handles, thin], [*labels, "thin: published"]
    figure.legend(handles, labels, loc="outside right center")


def _caption(result: Document) -> str:
    """On what, what is published, and what became of the claims."""
    published = result["published"]
    source = published["source"]
    known = f"Published: {published['note']}" + (f" ({source})." if source else ".")
    lines = [result["says"], known]
    lines += [f"{_mark(v['holds'])} {v['words']}" for v in result["verdicts"]]
    return plain_text("\n".join("\n".join(textwrap.wrap(line, WRAP)) for line in lines), 4_000)


def _mark(holds: bool | None) -> str:
    return {True: "[+]", False: "[−]", None: "[ ]"}[holds]


def _histograms(result: Document) -> Figure:
    """Clips by length, a panel a data set; the line is what a standard AST takes in."""
    found = result["histograms"]
    caption = _caption(result)
    figure = Figure(
        figsize=(4.4 * len(found) + 0.6, 3.7 + 0.16 * caption.count("\n")), layout="constrained"
    )
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        axes.stairs(one["counts"], one["edges"], fill=True, color=BLUE, alpha=0.85)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.axvline(10.24, color="black", linestyle="--", linewidth=1.2)
        axes.text(
            0.98,
            0.95,
            f"{one['clips']:,} clips\nmedian {one['percentiles']['50']:.1f} s\n"
            f"90 % below {one['percentiles']['90']:.1f} s\n"
            f"{100 * one['shorter_than_ast']:.0f} % padded, "
            f"{100 * one['longer_than_ast']:.0f} % cut\nat 10.24 s (dashed)",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
        )
        axes.set_title(plain_text(one["title"], 60), fontsize=10)
        axes.set(xlabel="length (s)", ylabel="clips")
    figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure
