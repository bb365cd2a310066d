"""Draw the figure of a recipe from its result document: our curves, and thin published ones.

On the paper's own data both share one pair of axes. On other data (scales ``small`` and ``smoke``)
the published curves have their own axes, because only shapes can be compared: data, lengths and
model sizes differ. The verdicts on the claims are in the table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from elastictool.evaluation.points import AXES
from elastictool.metrics.table import METRIC_LABELS
from elastictool.reporting.figures import (
    BLUE,
    GREY,
    SeriesStyle,
    plain_text,
    series_styles,
    styled,
)
from elastictool.reporting.lines import Line, Point, add_legend, draw_lines, scale_columns
from elastictool.reporting.recipe_table import SAME_DATA, TOKEN_AXIS, held_words, interval_words
from elastictool.utils.text import counted

Document = Mapping[str, Any]
Styles = Mapping[str, SeriesStyle]
CAPTION_LETTERS, TITLE_LETTERS = 15, 54
"""Letters of the caption in an inch, and of a panel's title in a line."""
SHARE_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
AST_SECONDS = 10.24
"""Input length of a standard AST."""
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


def draw(result: Document) -> Figure:
    """Returns the figure of a result document."""
    with styled():
        panels = result.get("histograms") or result["panels"]
        apart = published_apart(result)
        columns = len(panels) + apart
        width = max(7.2 if columns == 1 else 9.2, 3.0 * columns)
        caption = "\n".join(textwrap.wrap(result["description"], int(CAPTION_LETTERS * width)))
        if held := held_words(result["verdicts"]):
            caption += f"\n{held}."
        figure = Figure(figsize=(width, 5.4 + 0.18 * caption.count("\n")), layout="constrained")
        figure.suptitle(plain_text(result["title"]), x=0.01, ha="left", weight="bold", fontsize=12)
        caption = plain_text(caption, 4_000)
        figure.supxlabel(caption, x=0.01, ha="left", fontsize=9, color=GREY)
        all_axes = list(figure.subplots(1, columns, squeeze=False)[0])
        if "histograms" in result:
            all_axes[0].set_ylabel("clips")
            for axes, histogram in zip(all_axes, panels, strict=True):
                _draw_histogram(axes, histogram)
            return figure
        own_styles, published_styles = _styles(result)
        for axes, panel in zip(all_axes, panels, strict=False):
            _draw_panel(axes, panel, own_styles)
            _title(axes, f"{'ours: ' * apart}{panel['title']}")
        if apart:
            _draw_published(all_axes[-1], panels[0], result["published"], published_styles)
        else:
            _draw_thin(all_axes[0], result["published"], published_styles)
        _add_legend(all_axes[0], panels[0], result, apart)
    return figure


def published_apart(result: Document) -> bool:
    """Returns whether the published curves have their own axes."""
    return bool(result["published"]["curves"]) and result["scale"] != SAME_DATA


def _styles(result: Document) -> tuple[Styles, Styles]:
    """Returns the styles of our curves and of the published ones.

    Our curves have the style of the published curve that they stand for: on other data the same
    name may be another model (our AST-20ms stands for the paper's AST at 40 ms).
    """
    published = result["published"]["curves"]
    roles = {c["label"]: c["published_label"] for p in result["panels"] for c in p["curves"]}
    keys = {name: role if role in published else name for name, role in roles.items()}
    styles = series_styles([*keys.values(), *published])
    own_styles = {name: styles[key] for name, key in keys.items()}
    return own_styles, own_styles | {name: styles[name] for name in published}


def _draw_panel(axes: Axes, panel: Document, styles: Styles) -> None:
    lines = [
        Line(
            curve["label"],
            styles[curve["label"]],
            [_point(point) for point in curve["points"]],
            _point(curve["own"]) if curve["own"] else None,
        )
        for curve in panel["curves"]
    ]
    draw_lines(axes, lines)
    axes.set(xlabel=panel["x"], ylabel=f"{panel['y']} (%)")
    columns = sorted({point.x for line in lines for point in line.points})
    if panel["axis"] == TOKEN_AXIS:
        scale_columns(axes, columns, log=True)
        # Linear below 1 %, so that a share of 0 can be drawn.
        axes.set_yscale("symlog", linthresh=1, linscale=0.7)
        axes.set_yticks(SHARE_TICKS, [f"{tick:g}" for tick in SHARE_TICKS])
        axes.set_ylim(-0.08, 100)
    else:
        shift = panel["shift_ms"] if panel["axis"] == "length" else None
        log = AXES[panel["axis"]].log
        scale_columns(axes, columns, log, shift, panel.get("base_shift_ms"))


def _point(point: Document) -> Point:
    low, high = (None if point[end] is None else 100 * point[end] for end in ("low", "high"))
    return Point(point["x"], 100 * point["value"], low, high)


def _draw_thin(axes: Axes, published: Document, styles: Styles) -> None:
    """Draws published curves, and published shares of padding, which have no batch size."""
    for name, points in published["curves"].items():
        style = styles[name]
        positions, scores = [x for x, _ in points], [100 * score for _, score in points]
        axes.plot(positions, scores, color=style.colour, linestyle=style.line, linewidth=0.8)
    for name, (padding, _) in published["tokens"].items():
        if padding is not None:
            colour = styles[name].colour if name in styles else GREY
            axes.axhline(padding, color=colour, linewidth=0.8)


def _draw_published(axes: Axes, panel: Document, published: Document, styles: Styles) -> None:
    """Draws the published curves in separate axes."""
    _draw_thin(axes, published, styles)
    for line, name in zip(axes.lines, published["curves"], strict=True):
        line.set_label(plain_text(name))
    add_legend(axes, title="published")
    axes.set(xlabel=panel["x"], ylabel=f"{METRIC_LABELS[published['metric']]} (%)")
    columns = sorted({x for points in published["curves"].values() for x, _ in points})
    scale_columns(axes, columns, AXES[panel["axis"]].log)
    _title(axes, f"published: {published['note']}")


def _title(axes: Axes, text: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(plain_text(text), TITLE_LETTERS)), fontsize=9.5)


def _add_legend(axes: Axes, panel: Document, result: Document, apart: bool) -> None:
    """Adds the legend of our curves, of rings and bars, and of what is published in our axes."""
    own = AXES[panel["axis"]].dot if any(curve["own"] for curve in panel["curves"]) else ""
    published, extra = result["published"], dict[str, Artist]()
    thin = Line2D([], [], color=GREY, linewidth=0.8)
    if published["curves"] and not apart:
        extra["thin: published"] = thin
    shares = [f"{name} {pad:.1f} %" for name, (pad, _) in published["tokens"].items() if pad]
    if shares:
        extra[f"published: {', '.join(shares)} ({published['note']})"] = thin
    add_legend(axes, own, interval_words(panel), extra, "ours" if apart else "")


def _draw_histogram(axes: Axes, data: Document) -> None:
    """Draws the clip lengths of a data set, and the input length of a standard AST."""
    axes.stairs(data["counts"], data["edges"], fill=True, color=BLUE, alpha=0.85)
    axes.set_xscale("log")
    low, high = min(data["edges"][0], 10), max(data["edges"][-1], 10.5)
    ticks = [second for second in SECONDS if low <= second <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(AST_SECONDS, color="black", linestyle="--", linewidth=1.2)
    shorter, longer = (100 * data[f"{word}_than_ast"] for word in ("shorter", "longer"))
    facts = (
        f"{plain_text(data['title'], 60)}\n{counted(data['clips'], 'clip')}, median "
        f"{data['percentiles']['50']:.1f} s\nan input of {AST_SECONDS:g} s (dashed)\n"
        f"pads {shorter:.0f} %, cuts {longer:.0f} % of them"
    )
    axes.set_title(facts, fontsize=8.5, weight="normal")
    axes.set_xlabel("length (s)")
