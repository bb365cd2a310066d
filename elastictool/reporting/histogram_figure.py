"""The figure of a recipe of clip lengths: a histogram a data set, and what a standard AST takes in
as a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elastictool.reporting.figures import BLUE, GREY, plain_text
from elastictool.reporting.tables import counted

AST_SECONDS = 10.24
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


def draw_histograms(figure: Figure, histograms: list[Mapping[str, Any]]) -> None:
    """Clips by length, a panel a data set."""
    panels = figure.subplots(1, len(histograms), squeeze=False)[0]
    for axes, one in zip(panels, histograms, strict=True):
        _draw_histogram(axes, one)
    panels[0].set_ylabel("clips")


def _draw_histogram(axes: Axes, one: Mapping[str, Any]) -> None:
    axes.stairs(one["counts"], one["edges"], fill=True, color=BLUE, alpha=0.85)
    axes.set_xscale("log")
    low, high = min(one["edges"][0], 10), max(one["edges"][-1], 10.5)
    ticks = [second for second in SECONDS if low <= second <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(AST_SECONDS, color="black", linestyle="--", linewidth=1.2)
    facts = (
        f"{counted(one['clips'], 'clip')}, median {one['percentiles']['50']:.1f} s\n"
        f"an input of {AST_SECONDS:g} s (dashed)\npads {100 * one['shorter_than_ast']:.0f} %, "
        f"cuts {100 * one['longer_than_ast']:.0f} % of them"
    )
    axes.text(0, 1.02, facts, transform=axes.transAxes, fontsize=8.5, color=GREY)
    axes.set_title(plain_text(one["title"], 60), fontsize=9.5, pad=44)
    axes.set_xlabel("length (s)")
