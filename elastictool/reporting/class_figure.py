"""Every class's score: accuracy with its uncertainty, or AP beside chance and F1.

Accuracy (recall) of a class rests on few clips, so it is drawn with its Wilson interval. AP of a
ranking without skill is the class's share of the clips and differs from class to class, so it is
drawn beside it. Up to 60 classes get a bar each; with more, all stand in one sorted curve and
the lowest and highest by name. Classes without a score are counted, not drawn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elastictool.metrics.intervals import wilson_interval
from elastictool.reporting.evaluation_files import EvaluationFile
from elastictool.reporting.figures import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    plain_text,
    save_figure,
    styled,
)
from elastictool.reporting.tables import counted

BAR_CLASSES = 60
"""Up to this many classes each has a bar."""
ENDS = 20
"""Classes shown by name at either end of more."""
_NAME_LENGTH = 34

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassValues:
    """The scored classes of an evaluation, best first; all (K,).

    Attributes:
        names: With the number of clips.
        shares: Accuracy or AP in %.
        low: Lower end of the interval in %; NaN for AP.
        high: Upper end.
        chance: AP of a ranking without skill in %; NaN for accuracy.
        f1: F1 at the class's threshold in %; NaN for accuracy.
        left_out: Classes without a score.
        multi_label: Whether ``shares`` are AP.
    """

    names: list[str]
    shares: Array
    low: Array
    high: Array
    chance: Array
    f1: Array
    left_out: int
    multi_label: bool

    @property
    def axis(self) -> str:
        """Name of the axis of values."""
        return "average precision, %" if self.multi_label else "accuracy within the class, %"

    def part(self, which: slice) -> ClassValues:
        """Some of the classes."""
        cut = ("names", "shares", "low", "high", "chance", "f1")
        return dataclasses.replace(self, **{name: getattr(self, name)[which] for name in cut})


def class_values(evaluation: EvaluationFile) -> ClassValues:
    """Accuracy of each class, or AP for multi-label runs."""
    multi_label = bool(evaluation.document.get("multi_label"))
    values = evaluation.column("average_precision" if multi_label else "recall")
    positives = evaluation.column("positives")
    scored = np.flatnonzero(~np.isnan(values))
    order = scored[np.argsort(-values[scored], kind="stable")]
    nothing = np.full(len(order), np.nan)
    low, high, chance, f1 = nothing, nothing, nothing, nothing
    if multi_label:
        chance = 100 * positives[order] / evaluation.document["clips"]
        f1 = 100 * evaluation.column("f1")[order]
    else:
        pairs = zip(values[order].tolist(), positives[order].astype(int).tolist(), strict=True)
        ends = np.array([wilson_interval(*pair) for pair in pairs]).reshape(-1, 2)
        low, high = 100 * ends[:, 0], 100 * ends[:, 1]
    names = evaluation.class_names
    labels = [f"{plain_text(names[i], _NAME_LENGTH)} ({positives[i]:,.0f})" for i in order]
    shares = 100 * values[order]
    left_out = len(values) - len(order)
    return ClassValues(labels, shares, low, high, chance, f1, left_out, multi_label)


def plot_classes(evaluation: EvaluationFile) -> list[Path]:
    """Draw ``figures/per_class_<stem>``; nothing (an empty list) if no class has a score.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    values = class_values(evaluation)
    if not values.names:
        return []
    with styled():
        figure = draw_classes(values)
        title = f"{evaluation.title}\n{evaluation.score_text(_mean_metric(values))}"
        figure.suptitle(plain_text(title), x=0.01, ha="left", weight="bold", fontsize=11)
        return save_figure(figure, evaluation.run_dir / "figures" / f"per_class_{evaluation.stem}")


def _mean_metric(values: ClassValues) -> str:
    return "map" if values.multi_label else "mean_class_accuracy"


def draw_classes(values: ClassValues) -> Figure:
    """The figure, with one bar a class or as a sorted curve with its ends."""
    if len(values.names) <= BAR_CLASSES:
        figure = Figure(figsize=(7.6, 1.9 + 0.2 * len(values.names)), layout="constrained")
        axes = figure.subplots()
        _draw_bars(axes, values)
        mean = float(values.shares.mean())
        axes.axvline(mean, color=VERMILLION, linestyle="--", linewidth=1.3, label="mean")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    else:
        figure = Figure(figsize=(11.0, 8.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(2, 3))
        _draw_curve(figure.add_subplot(grid[0, :]), values)
        highest, lowest = slice(0, ENDS), slice(len(values.names) - ENDS, None)
        for column, which, title in ((0, highest, "highest"), (1, lowest, "lowest")):
            axes = figure.add_subplot(grid[1, column])
            _draw_bars(axes, values.part(which))
            axes.set_title(f"the {ENDS} {title}", fontsize=10)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    notes = "in brackets: clips of the class"
    if values.left_out:
        number = counted(values.left_out, "class")
        notes += f"; not drawn, as no clip or every clip has them: {number}"
    figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _draw_bars(axes: Axes, values: ClassValues) -> None:
    places = np.arange(len(values.names))
    label = "average precision" if values.multi_label else "accuracy"
    axes.barh(places, values.shares, height=0.7, color=BLUE, alpha=0.85, label=label)
    if values.multi_label:
        axes.plot(values.chance, places, "|", color="black", ms=9, mew=1.6, label="chance")
        axes.plot(
            values.f1,
            places,
            "D",
            markersize=4.5,
            color=ORANGE,
            markeredgecolor="black",
            markeredgewidth=0.6,
            label="F1 at the threshold",
        )
    else:
        spans = np.stack((values.shares - values.low, values.high - values.shares))
        axes.errorbar(
            values.shares,
            places,
            xerr=spans.clip(0),
            fmt="none",
            ecolor="black",
            elinewidth=1.0,
            capsize=2,
            label="95 % interval",
        )
    axes.set_yticks(places, values.names, fontsize=8)
    axes.set_ylim(len(values.names) - 0.4, -0.6)
    axes.set_xlim(0, 101)
    axes.set_xlabel(values.axis, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _draw_curve(axes: Axes, values: ClassValues) -> None:
    ranks = np.arange(1, len(values.shares) + 1)
    axes.fill_between(ranks, values.shares, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(ranks, values.shares, color=BLUE)
    for value, line, what in (
        (float(values.shares.mean()), "--", "mean"),
        (float(np.median(values.shares)), ":", "median"),
    ):
        label = f"{what} {value:.1f} %"
        axes.axhline(value, color=VERMILLION, linestyle=line, linewidth=1.3, label=label)
    axes.set(xlabel="classes, best first", ylabel=values.axis)
    axes.set_ylim(0, 101)
    axes.set_xlim(1, len(ranks))
    axes.legend(loc="upper right")
