"""The figure of a recipe from its result document: ours in full, the published as thin lines.

On the paper's own data both share one pair of axes. On other data (``small``, ``smoke``) heights
have nothing in common and lengths often not either, so the published curves stand in a panel of
their own: shapes are to be compared, not values. Verdicts stand below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

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
Styles = Mapping[str, SeriesStyle]
NOTHING: Document = {"curves": {}, "tokens": {}}
LOG_AXES = ("patch_size", "batch_clips")
LETTERS = 14
"""Of small print in an inch."""
TICKS = 10
LABEL_SHARE = 0.035
"""Of the axis' height: what a line of small print needs."""
SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(result: Document) -> Figure:
    """The figure."""
    with styled():
        if "histograms" in result:
            return _histograms(result)
        return _curves(result)


def _curves(result: Document) -> Figure:
    panels, beside = result["panels"], _published_beside(result)
    columns = len(panels) + bool(beside)
    width = 4.6 + 4.4 * columns
    caption = _caption(result, width)
    height = 4.3 + 0.16 * caption.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    all_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    styles, theirs = _styles(result)
    for axes, panel in zip(all_axes, panels, strict=False):
        overlay = NOTHING if beside else result["published"]
        _draw_panel(axes, panel, styles)
        _thin(axes, overlay["curves"], theirs)
        _level(axes, overlay, theirs)
        _finish(axes, panel, [p["x"] for curve in panel["curves"] for p in curve["points"]])
        axes.set_title(f"{'ours: ' if beside else ''}{plain_text(panel['title'])}", fontsize=10)
    if beside:
        _draw_published(all_axes[-1], panels[0], result["published"], theirs)
    figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
    thin = bool(result["published"]["curves"] or result["published"]["tokens"])
    _legend(figure, all_axes, panels[0], thin)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _published_beside(result: Document) -> bool:
    return bool(result["published"]["curves"]) and result["scale"] != "paper"


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
            fontsize=7.5,
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
            fontsize=7.5,
            va="center",
            color=styles[name].colour,
            annotation_clip=False,
        )
    axes.set_title(f"published: {plain_text(published['note'])}", fontsize=10)
    columns = [x for points in published["curves"].values() for x, _ in points]
    _finish(axes, {**panel, "shift_ms": None}, columns)


def _apart(heights: Sequence[float], limits: tuple[float, float]) -> list[float]:
    """Heights moved up as far as their labels need so as not to lie on one another."""
    gap = LABEL_SHARE * (limits[1] - limits[0])
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


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
    axes.spines["top"].set_visible(False)
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


def _caption(result: Document, width: float) -> str:
    """On what, what is published, and what became of the claims."""
    published = result["published"]
    source = published["source"]
    known = f"Published: {published['note']}" + (f" ({source})." if source else ".")
    lines = [result["says"], known]
    lines += [f"{_mark(v['holds'])} {v['words']}" for v in result["verdicts"]]
    return plain_text(
        "\n".join("\n".join(textwrap.wrap(line, int(LETTERS * width))) for line in lines), 4_000
    )


def _mark(holds: bool | None) -> str:
    return {True: "[+]", False: "[−]", None: "[ ]"}[holds]


def _histograms(result: Document) -> Figure:
    """Clips by length, a panel a data set; the line is what a standard AST takes in."""
    found = result["histograms"]
    width = 4.4 * len(found) + 0.6
    caption = _caption(result, width)
    figure = Figure(figsize=(width, 3.7 + 0.16 * caption.count("\n")), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        axes.stairs(one["counts"], one["edges"], fill=True, color=BLUE, alpha=0.85)
        axes.set_xscale("log")
        low, high = min(one["edges"][0], 10), max(one["edges"][-1], 10.5)
        ticks = [second for second in SECONDS if low <= second <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.axvline(10.24, color="black", linestyle="--", linewidth=1.2)
        axes.spines["top"].set_visible(False)
        facts = (
            f"{one['clips']:,} clips, median {one['percentiles']['50']:.1f} s\n"
            f"an input of 10.24 s (dashed) pads {100 * one['shorter_than_ast']:.0f} %, "
            f"cuts {100 * one['longer_than_ast']:.0f} % of them"
        )
        axes.text(0, 1.02, facts, transform=axes.transAxes, fontsize=8, color=GREY)
        axes.set_title(plain_text(one["title"], 60), fontsize=10, pad=28)
        axes.set(xlabel="length (s)", ylabel="clips")
    figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure
