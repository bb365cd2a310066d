"""Draw the figures of an evaluation: confusions of classes, and the score of each class.

Confusions: up to 60 classes fit into a matrix, with counts in its cells up to 16; above 16 the
largest confusions are drawn next to it as bars, above 60 alone (AudioSet has 527 classes). Shades
are shares of the true class's clips on a square-root scale, to make rare confusions visible.

Classes: accuracy (recall) with its Wilson interval, because it rests on few clips; for multi-label
runs AP, with the AP of a ranking without skill (the class's share of the clips) and F1. Up to 60
classes have a bar each; more are drawn as one sorted curve and the highest and lowest by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from elastictool.evaluation.confusions import Confusion, most_confused
from elastictool.metrics.intervals import wilson_interval
from elastictool.reporting.evaluations import EvaluationFile
from elastictool.reporting.figures import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    plain_text,
    save_figure,
    styled,
)
from elastictool.utils.text import counted

COUNTED_CLASSES = 16
"""Up to this many classes the counts are written into the cells of the matrix."""
MOST_CLASSES = 60
"""Up to this many classes a matrix is drawn, and a bar for each class."""
PAIRS = 25
"""Confusions drawn as bars."""
ENDS = 20
"""Classes drawn by name at either end of more than ``MOST_CLASSES``."""
NAME_LENGTH = 30
_NO_CLIPS = "#EBEBEB"

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def plot_confusions(evaluation: EvaluationFile) -> list[Path]:
    """Draws ``figures/confusions_<stem>``; returns no files for multi-label runs.

    Raises:
        ElasticToolError: The result file is damaged, or a figure cannot be written.
    """
    matrix = evaluation.confusions()
    if matrix is None:
        return []
    return _save(draw_confusions(matrix, evaluation.class_names), evaluation, "confusions")


def plot_classes(evaluation: EvaluationFile) -> list[Path]:
    """Draws ``figures/per_class_<stem>``; returns no files if no class has a score.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    values = class_values(evaluation)
    if not values.names:
        return []
    metric = "map" if values.multi_label else "mean_class_accuracy"
    return _save(draw_classes(values), evaluation, "per_class", metric)


def _save(figure: Figure, evaluation: EvaluationFile, kind: str, metric: str = "") -> list[Path]:
    title = plain_text(f"{evaluation.title}\n{evaluation.score_text(metric)}")
    with styled():
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return save_figure(figure, evaluation.run_dir / "figures" / f"{kind}_{evaluation.stem}")


def draw_confusions(matrix: Counts, names: list[str]) -> Figure:
    """Returns the figure of a matrix (C, C) of counts, row = true class."""
    classes, pairs = len(names), most_confused(matrix, names, PAIRS)
    with styled():
        if classes > MOST_CLASSES:
            figure = Figure(figsize=(8.0, 2.0 + 0.22 * max(len(pairs), 4)), layout="constrained")
            _draw_pairs(figure.subplots(), pairs, matrix, names)
        elif classes <= COUNTED_CLASSES:
            side = 3.2 + 0.42 * classes
            figure = Figure(figsize=(side + 1.0, side), layout="constrained")
            _draw_matrix(figure.subplots(), matrix, names)
        else:
            side = 3.0 + 0.16 * classes
            figure = Figure(figsize=(side + 6.6, max(side, 6.5)), layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(side, 4.0))
            _draw_matrix(left, matrix, names)
            _draw_pairs(right, pairs, matrix, names)
        empty = int((matrix.sum(axis=1) == 0).sum())
        if empty and classes <= MOST_CLASSES:
            _note(figure, f"classes without a clip here (grey rows): {empty} of {classes}")
    return figure


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GREY)


def _draw_matrix(axes: Axes, matrix: Counts, names: list[str]) -> None:
    clips = matrix.sum(axis=1, keepdims=True)
    shares = np.where(clips > 0, matrix / np.maximum(clips, 1), np.nan)
    shades = matplotlib.colormaps["Blues"].with_extremes(bad=_NO_CLIPS)
    image = axes.imshow(shares, cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="equal")
    labels = [plain_text(name, NAME_LENGTH) for name in names]
    size = 9.0 if len(names) <= COUNTED_CLASSES else 6.0
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.set(xlabel="top class of the model", ylabel="true class")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_anchor("N")
    if len(names) <= COUNTED_CLASSES:
        for row, column in np.argwhere(matrix > 0).tolist():
            colour = "white" if shares[row, column] > 0.35 else "black"
            text = axes.text(column, row, f"{matrix[row, column]:,}", color=colour, fontsize=8)
            text.set(ha="center", va="center")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_ticks([0, 0.02, 0.1, 0.25, 0.5, 1], labels=["0", "2", "10", "25", "50", "100"])
    bar.set_label("% of the true class's clips", fontsize=8.5)


def _draw_pairs(axes: Axes, pairs: list[Confusion], matrix: Counts, names: list[str]) -> None:
    clips = dict(zip(names, matrix.sum(axis=1).tolist(), strict=True))
    wrong, shown = int(matrix.sum() - np.trace(matrix)), sum(pair.clips for pair in pairs)
    axes.set_title(f"largest confusions:\n{shown:,} of {wrong:,} wrong clips", fontsize=9.5)
    bars = axes.barh(range(len(pairs)), [pair.clips for pair in pairs], color=VERMILLION)
    texts, labels = [], []
    for pair in pairs:
        whole = clips[pair.true]
        texts.append(f"{pair.clips:,} of {whole:,} ({100 * pair.clips / whole:.0f} %)")
        ends = (plain_text(name, NAME_LENGTH) for name in (pair.true, pair.predicted))
        labels.append(" → ".join(ends))
    axes.bar_label(bars, texts, padding=3, fontsize=7.5)
    axes.margins(x=0.6)  # room for these labels
    _list_rows(axes, labels)
    axes.set_xlabel("clips: true class → top class", fontsize=8.5)


def _list_rows(axes: Axes, labels: list[str]) -> None:
    """Label horizontal bars, the first at the top."""
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


@dataclass(frozen=True)
class ClassValues:
    """The scored classes of an evaluation, best first; all arrays are (K,).

    Attributes:
        names: With the number of clips.
        shares: Accuracy or AP in %.
        low: Lower end of the interval in %; NaN for AP.
        high: Upper end.
        chance: AP of a ranking without skill in %; NaN for accuracy.
        f1: F1 at the class's threshold in %; NaN for accuracy.
        left_out: Number of classes without a score.
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


def class_values(evaluation: EvaluationFile) -> ClassValues:
    """Returns the accuracy of each class, or its AP for multi-label runs."""
    multi_label = bool(evaluation.document.get("multi_label"))
    values = evaluation.column("average_precision" if multi_label else "recall")
    positives = evaluation.column("positives")
    scored = np.flatnonzero(~np.isnan(values))
    order = scored[np.argsort(-values[scored], kind="stable")]
    low = high = chance = f1 = np.full(len(order), np.nan)
    if multi_label:
        chance = 100 * positives[order] / evaluation.document["clips"]
        f1 = 100 * evaluation.column("f1")[order]
    else:
        pairs = zip(values[order].tolist(), positives[order].astype(int).tolist(), strict=True)
        ends = np.array([wilson_interval(*pair) for pair in pairs]).reshape(-1, 2)
        low, high = 100 * ends[:, 0], 100 * ends[:, 1]
    names = evaluation.class_names
    labels = [f"{plain_text(names[i], NAME_LENGTH)} ({positives[i]:,.0f})" for i in order]
    left_out = len(values) - len(order)
    return ClassValues(labels, 100 * values[order], low, high, chance, f1, left_out, multi_label)


def draw_classes(values: ClassValues) -> Figure:
    """Returns the figure: one bar a class, or a sorted curve with its ends."""
    count = len(values.names)
    with styled():
        if count <= MOST_CLASSES:
            figure = Figure(figsize=(7.6, 1.9 + 0.2 * count), layout="constrained")
            axes = figure.subplots()
            _draw_bars(axes, values)
            mean = float(values.shares.mean())
            axes.axvline(mean, color=VERMILLION, linestyle="--", linewidth=1.3, label="mean")
        else:
            figure = Figure(figsize=(11.0, 8.6), layout="constrained")
            grid = figure.add_gridspec(2, 2, height_ratios=(2, 3))
            _draw_curve(figure.add_subplot(grid[0, :]), values)
            ends = {"highest": slice(0, ENDS), "lowest": slice(count - ENDS, None)}
            for column, (title, which) in enumerate(ends.items()):
                axes = figure.add_subplot(grid[1, column])
                cut = ("names", "shares", "low", "high", "chance", "f1")
                part = {name: getattr(values, name)[which] for name in cut}
                _draw_bars(axes, dataclasses.replace(values, **part))
                axes.set_title(f"the {ENDS} {title}", fontsize=10)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8.5)
        notes = "in brackets: clips of the class"
        if values.left_out:
            number = counted(values.left_out, "class")
            notes += f"; not drawn, as no clip or every clip has them: {number}"
        _note(figure, notes)
    return figure


def _draw_bars(axes: Axes, values: ClassValues) -> None:
    positions = np.arange(len(values.names))
    label = "average precision" if values.multi_label else "accuracy"
    axes.barh(positions, values.shares, height=0.7, color=BLUE, alpha=0.85, label=label)
    if values.multi_label:
        axes.plot(values.chance, positions, "|", color="black", ms=9, mew=1.6, label="chance")
        axes.plot(
            values.f1,
            positions,
            "D",
            color=ORANGE,
            ms=4.5,
            mec="black",
            label="F1 at the threshold",
        )
    else:
        ends = np.stack((values.shares - values.low, values.high - values.shares)).clip(0)
        bars: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 1.0, "capsize": 2}
        axes.errorbar(values.shares, positions, xerr=ends, label="95 % interval", **bars)
    _list_rows(axes, values.names)
    axes.set_xlim(0, 101)
    axes.set_xlabel(values.axis, fontsize=9)


def _draw_curve(axes: Axes, values: ClassValues) -> None:
    ranks = np.arange(1, len(values.shares) + 1)
    axes.fill_between(ranks, values.shares, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(ranks, values.shares, color=BLUE)
    mean, median = float(values.shares.mean()), float(np.median(values.shares))
    for value, line, name in ((mean, "--", "mean"), (median, ":", "median")):
        label = f"{name} {value:.1f} %"
        axes.axhline(value, color=VERMILLION, linestyle=line, linewidth=1.3, label=label)
    axes.set(xlabel="classes, best first", ylabel=values.axis)
    axes.set_ylim(0, 101)
    axes.set_xlim(1, len(ranks))
    axes.legend(loc="upper right")
