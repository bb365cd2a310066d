"""Draw how a run learns: losses, validation scores and learning rate over epochs, from its log.

Steps are placed between the epochs of the log, so that epochs of unequal length (token budgets)
keep their proportions; a run in its first epoch is drawn over steps. Step losses are averaged in
bins, because they vary strongly and a long run has more of them than pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elastictool.metrics.table import METRIC_LABELS
from elastictool.reporting.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    plain_text,
    save_figure,
    styled,
)
from elastictool.reporting.lines import RING
from elastictool.reporting.run_log import Record, number, read_log

BINS = 400
MOST_MARKERS = 60
"""Up to this many epochs each has a marker."""
Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Values (n,) over steps (n,)."""

    steps: Array
    values: Array


def plot_learning_curves(run_dir: Path, title: str) -> list[Path]:
    """Draws ``figures/learning_curves.png`` and ``.svg``; returns no files without a log.

    Raises:
        ElasticToolError: The log cannot be read, or a file cannot be written.
    """
    steps, epochs = read_log(run_dir, "step"), read_log(run_dir, "epoch")
    if not len(curve(steps, "loss").steps):
        return []
    figure = draw_learning_curves(steps, epochs, title)
    return save_figure(figure, run_dir / "figures" / "learning_curves")


def curve(records: Sequence[Record], name: str) -> Curve:
    """Returns the finite values called ``name`` over the steps at which they were logged."""
    pairs = [(number(record, "step"), number(record, name)) for record in records]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return Curve(table[:, 0], table[:, 1])


def binned(full: Curve, bins: int = BINS) -> Curve:
    """Returns means over at most ``bins`` groups of neighbouring values."""
    if len(full.steps) <= bins:
        return full
    parts = np.array_split(np.arange(len(full.steps)), bins)
    return Curve(*(np.array([values[part].mean() for part in parts]) for values in full))


def epoch_positions(steps: Array, epochs: Sequence[Record]) -> Array:
    """Returns where steps (n,) lie on an axis of epochs: epoch e ends at e.

    Steps after the last epoch continue at its speed; without epochs they are returned unchanged.
    """
    ends = curve(epochs, "epoch")
    if not len(ends.steps):
        return steps
    known_steps = np.concatenate([[0.0], ends.steps])
    known_epochs = np.concatenate([[0.0], ends.values])
    span = known_steps[-1] - known_steps[-2]
    beyond = (steps - known_steps[-1]) / max(span, 1.0) * (known_epochs[-1] - known_epochs[-2])
    positions: Array = np.interp(steps, known_steps, known_epochs) + np.maximum(beyond, 0.0)
    return positions


def draw_learning_curves(steps: Sequence[Record], epochs: Sequence[Record], title: str) -> Figure:
    """Returns the figure of a run's log."""
    names = [name for name in METRIC_LABELS if len(curve(epochs, f"val_{name}").steps)]
    heights = (3, 3, 2) if names else (3, 2)
    with styled():
        figure = Figure(figsize=(9.6, 0.9 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _draw_losses(panels[0], steps, epochs)
        panels[0].set_title(plain_text(title))
        if names:
            _draw_scores(panels[1], epochs, names)
        rates = binned(curve(steps, "lr"))
        panels[-1].plot(epoch_positions(rates.steps, epochs), rates.values, color=GREY)
        panels[-1].set(ylabel="learning rate", xlabel="epoch" if epochs else "step")
        panels[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        panels[-1].set_ylim(bottom=0)
        panels[-1].set_xlim(left=0)
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for panel in panels[:-1]:  # curves may be anywhere, so no corner is free
            panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw_losses(axes: Axes, steps: Sequence[Record], epochs: Sequence[Record]) -> None:
    raw = binned(curve(steps, "loss"))
    positions = epoch_positions(raw.steps, epochs)
    axes.plot(positions, raw.values, color=BLUE, alpha=0.25, linewidth=1, label="training, by step")
    for name, label, colour, marker, back in (
        # A mean stands in the middle of its epoch.
        ("train_loss", "training, mean of the epoch", BLUE, "o", 0.5),
        ("val_loss", "validation, after the epoch", VERMILLION, "s", 0.0),
    ):
        loss = curve(epochs, name)
        if len(loss.steps):
            positions = epoch_positions(loss.steps, epochs) - back
            marker = marker if len(positions) <= MOST_MARKERS else ""
            axes.plot(positions, loss.values, color=colour, marker=marker, label=label)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)


def _draw_scores(axes: Axes, epochs: Sequence[Record], names: Sequence[str]) -> None:
    """Draws the validation metrics, with a ring at the epoch of the best weights."""
    axes.set_ylabel("validation, %")
    chosen = str(epochs[-1].get("selection_metric", ""))
    for name, colour, marker in zip(names, (GREEN, PURPLE, ORANGE), ("o", "^", "D"), strict=False):
        scores = curve(epochs, f"val_{name}")
        positions, values = epoch_positions(scores.steps, epochs), 100 * scores.values
        marker = marker if len(positions) <= MOST_MARKERS else ""
        axes.plot(positions, values, color=colour, marker=marker, label=METRIC_LABELS[name])
        if name == chosen:
            best = int(values.argmax())
            label = f"best weights: {METRIC_LABELS[name]} {values[best]:.1f} %"
            axes.plot(positions[best], values[best], label=label, **(RING | {"markersize": 12}))
