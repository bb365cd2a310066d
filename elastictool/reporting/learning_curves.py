"""How a run learns: losses, validation scores and learning rate over epochs, from its log.

Steps are placed between the epochs that the log tells of, so runs with epochs of unequal length
(token budgets) are drawn truly; a run in its first epoch is drawn over steps. Step losses are
averaged in bins: they jump, and a long run has more of them than pixels.
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

from elastictool.metrics.names import METRIC_LABELS
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
from elastictool.reporting.run_log import Record, number, read_log

BINS = 400
METRIC_COLOURS = (GREEN, PURPLE, ORANGE)
Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Values (n,) over steps (n,)."""

    steps: Array
    values: Array


def plot_learning_curves(run_dir: Path, title: str) -> list[Path]:
    """Draw ``figures/learning_curves.png`` and ``.svg``; nothing (an empty list) without a log.

    Raises:
        ElasticToolError: The log cannot be read, or a file cannot be written.
    """
    steps, epochs = read_log(run_dir, "step"), read_log(run_dir, "epoch")
    if not len(curve(steps, "loss").steps):
        return []
    with styled():
        figure = _draw(steps, epochs, title)
        return save_figure(figure, run_dir / "figures" / "learning_curves")


def curve(records: Sequence[Record], name: str) -> Curve:
    """The finite values called ``name``, over the steps at which they were logged."""
    pairs = [(number(record, "step"), number(record, name)) for record in records]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return Curve(table[:, 0], table[:, 1])


def binned(full: Curve, bins: int = BINS) -> Curve:
    """Means over at most ``bins`` runs of neighbouring values."""
    if len(full.steps) <= bins:
        return full
    parts = np.array_split(np.arange(len(full.steps)), bins)
    return Curve(*(np.array([values[part].mean() for part in parts]) for values in full))


def epoch_positions(steps: Array, epochs: Sequence[Record]) -> Array:
    """Where (n,) steps lie on an axis of epochs: epoch e ends at e; beyond the last as fast."""
    ends = curve(epochs, "epoch")
    known_steps = np.concatenate([[0.0], ends.steps])
    known_epochs = np.concatenate([[0.0], ends.values])
    span = known_steps[-1] - known_steps[-2]
    beyond = (steps - known_steps[-1]) / max(span, 1.0) * (known_epochs[-1] - known_epochs[-2])
    places: Array = np.interp(steps, known_steps, known_epochs) + np.maximum(beyond, 0.0)
    return places


def _draw(steps: Sequence[Record], epochs: Sequence[Record], title: str) -> Figure:
    names = [name for name in METRIC_LABELS if len(curve(epochs, f"val_{name}").steps)]
    heights = (3, 3, 2) if names else (3, 2)
    figure = Figure(figsize=(9.6, 0.9 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_losses(panels[0], steps, epochs)
    panels[0].set_title(plain_text(title))
    if names:
        _draw_scores(panels[1], epochs, names)
    _draw_rate(panels[-1], steps, epochs)
    return figure


def _draw_rate(axes: Axes, steps: Sequence[Record], epochs: Sequence[Record]) -> None:
    rates = binned(curve(steps, "lr"))
    axes.plot(_place(rates.steps, epochs), rates.values, color=GREY)
    axes.set(ylabel="learning rate", xlabel="epoch" if epochs else "step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _place(steps: Array, epochs: Sequence[Record]) -> Array:
    return epoch_positions(steps, epochs) if len(curve(epochs, "epoch").steps) else steps


def _draw_losses(axes: Axes, steps: Sequence[Record], epochs: Sequence[Record]) -> None:
    raw = binned(curve(steps, "loss"))
    places = _place(raw.steps, epochs)
    axes.plot(places, raw.values, color=BLUE, alpha=0.25, linewidth=1, label="training, by step")
    mean = ("train_loss", "training, mean of the epoch", BLUE, "o")
    _draw_by_epoch(axes, epochs, *mean, back=0.5)  # a mean stands in the middle of what it means
    _draw_by_epoch(axes, epochs, "val_loss", "validation, after the epoch", VERMILLION, "s")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    _legend_beside(axes)


def _draw_scores(axes: Axes, epochs: Sequence[Record], names: Sequence[str]) -> None:
    """Validation metrics; the one that chooses the best weights has its best epoch ringed."""
    axes.set_ylabel("validation, %")
    for name, colour, marker in zip(names, METRIC_COLOURS, "o^D", strict=False):
        label = METRIC_LABELS[name]
        _draw_by_epoch(axes, epochs, f"val_{name}", label, colour, marker, factor=100.0)
    chosen = str(epochs[-1].get("selection_metric", ""))
    if chosen in names:
        scores = curve(epochs, f"val_{chosen}")
        best = int(scores.values.argmax())
        place = _place(scores.steps, epochs)[best]
        label = f"best weights: {METRIC_LABELS[chosen]} {100 * scores.values[best]:.1f} %"
        axes.plot(
            place,
            100 * scores.values[best],
            linestyle="",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor="black",
            label=label,
        )
    _legend_beside(axes)


def _legend_beside(axes: Axes) -> None:
    """Curves may be anywhere in the panel, so no corner of it is free."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_by_epoch(
    axes: Axes,
    epochs: Sequence[Record],
    name: str,
    label: str,
    colour: str,
    marker: str,
    factor: float = 1.0,
    back: float = 0.0,
) -> None:
    """A line over the ends of epochs, or ``back`` epochs before them."""
    values = curve(epochs, name)
    if len(values.steps):
        axes.plot(
            _place(values.steps, epochs) - back,
            factor * values.values,
            color=colour,
            marker=marker if len(values.steps) <= 60 else "",
            label=label,
        )
