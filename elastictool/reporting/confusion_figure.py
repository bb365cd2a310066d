"""What a single-label model takes for what: a matrix, or its largest confusions.

Up to 60 classes fit into a matrix, counts written into its cells up to 16; above 16 the largest
confusions stand beside it as bars, and above 60 (AudioSet has 527) they stand alone: a matrix of
a quarter of a million cells shows nothing. Shades are shares of the true class's clips on a
square-root scale, because one confusion in thirty is what one looks for.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from elastictool.evaluation.confusions import Confusion, most_confused
from elastictool.reporting.evaluation_files import EvaluationFile
from elastictool.reporting.figures import GREY, VERMILLION, plain_text, save_figure, styled

COUNTED_CLASSES = 16
"""Up to this many classes the counts are written into the cells."""
MATRIX_CLASSES = 60
"""Up to this many classes a matrix is drawn."""
PAIRS = 25
_NAME_LENGTH = 28
_SHADES = "Blues"
_NO_CLIPS = "#EBEBEB"

Counts = npt.NDArray[np.int64]


def plot_confusions(evaluation: EvaluationFile) -> list[Path]:
    """Draw ``figures/confusions_<stem>``; nothing (an empty list) for multi-label runs.

    Raises:
        ElasticToolError: The result file is damaged, or a figure cannot be written.
    """
    matrix = evaluation.confusions()
    if matrix is None:
        return []
    with styled():
        figure = draw_confusions(matrix, evaluation.class_names)
        title = f"{evaluation.title}\n{evaluation.score_text()}"
        figure.suptitle(plain_text(title), x=0.01, ha="left", weight="bold", fontsize=11)
        return save_figure(figure, evaluation.run_dir / "figures" / f"confusions_{evaluation.stem}")


def draw_confusions(matrix: Counts, names: list[str]) -> Figure:
    """The figure of a (C, C) matrix of counts, row = true class."""
    classes = len(names)
    pairs = most_confused(matrix, names, PAIRS)
    if classes > MATRIX_CLASSES:
        figure = Figure(figsize=(8.0, 2.0 + 0.22 * max(len(pairs), 4)), layout="constrained")
        _draw_pairs(figure.subplots(), pairs, matrix, names)
        return figure
    if classes <= COUNTED_CLASSES:
        side = 3.2 + 0.42 * classes
        figure = Figure(figsize=(side + 1.0, side), layout="constrained")
        _draw_matrix(figure, figure.subplots(), matrix, names)
        return figure
    side = 3.0 + 0.16 * classes
    figure = Figure(figsize=(side + 6.6, max(side, 6.5)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(side, 4.0))
    left.set_anchor("N")
    _draw_matrix(figure, left, matrix, names)
    _draw_pairs(right, pairs, matrix, names)
    return figure


def _draw_matrix(figure: Figure, axes: Axes, matrix: Counts, names: list[str]) -> None:
    clips = matrix.sum(axis=1, keepdims=True)
    shares = np.where(clips > 0, matrix / np.maximum(clips, 1), np.nan)
    shades = matplotlib.colormaps[_SHADES].with_extremes(bad=_NO_CLIPS)
    image = axes.imshow(shares, cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="equal")
    size = 9.0 if len(names) <= COUNTED_CLASSES else 6.0
    labels = [plain_text(name, _NAME_LENGTH) for name in names]
    places = range(len(names))
    axes.set_xticks(places, labels, rotation=90, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    axes.set(xlabel="top class of the model", ylabel="true class")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if len(names) <= COUNTED_CLASSES:
        _write_counts(axes, matrix, shares)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_ticks([0, 0.02, 0.1, 0.25, 0.5, 1], labels=["0", "2", "10", "25", "50", "100"])
    bar.set_label("% of the true class's clips", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    if (clips == 0).any():
        note = f"classes without a clip here (grey rows): {int((clips == 0).sum())} of {len(names)}"
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=GREY)


def _write_counts(axes: Axes, matrix: Counts, shares: npt.NDArray[np.float64]) -> None:
    for row, column in np.argwhere(matrix > 0).tolist():
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.35 else "black",
        )


def _draw_pairs(axes: Axes, pairs: list[Confusion], matrix: Counts, names: list[str]) -> None:
    clips = dict(zip(names, matrix.sum(axis=1).tolist(), strict=True))
    wrong = int(matrix.sum() - np.trace(matrix))
    shown = sum(pair.clips for pair in pairs)
    axes.set_title(f"largest confusions:\n{shown:,} of {wrong:,} wrong clips", fontsize=9.5)
    bars = axes.barh(range(len(pairs)), [pair.clips for pair in pairs], color=VERMILLION)
    texts = [
        f"{pair.clips:,} of {clips[pair.true]:,} ({100 * pair.clips / clips[pair.true]:.0f} %)"
        for pair in pairs
    ]
    axes.bar_label(bars, texts, padding=3, fontsize=7.5)
    labels = [
        " \N{RIGHTWARDS ARROW} ".join(
            plain_text(name, _NAME_LENGTH) for name in (pair.true, pair.predicted)
        )
        for pair in pairs
    ]
    axes.set_yticks(range(len(pairs)), labels, fontsize=7.5)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(0, 1.6 * max([pair.clips for pair in pairs], default=1))
    axes.set_xlabel("clips: true class \N{RIGHTWARDS ARROW} top class", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
