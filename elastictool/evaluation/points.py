"""Define the points and axes of a sweep; read and write points as CSV; name models.

Figures and tables are drawn from the CSV file alone, so nothing here needs torch. Tokens, seconds
and GFLOPs are totals over the clips of a point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastictool.config import RunConfig
from elastictool.utils.csv_files import read_rows, write_rows
from elastictool.utils.errors import ElasticToolError


@dataclass(frozen=True)
class Axis:
    """The words for what a sweep varies.

    Attributes:
        values: Name of its values.
        column: Head of the column of its values.
        label: Label of the figure's horizontal axis.
        own: Name of the value that a run was trained with.
        dot: Name of the ringed points in the figure's legend.
        stem: Name of the files, without suffix.
        log: Whether the figure's axis is logarithmic; None decides by the span.
        least: Smallest value that makes sense.
    """

    values: str
    column: str
    label: str
    own: str
    dot: str
    stem: str
    log: bool | None = None
    least: float = 1.0


AXES = {
    "length": Axis(
        values="lengths",
        column="frames",
        label="evaluation length (frames)",
        own="own length",
        dot="own length; native lengths stand\nat the longest clip's",
        stem="sweep",
    ),
    "patch_size": Axis(
        values="patch sizes",
        column="patch size",
        label="evaluation patch size (mel bins or frames)",
        own="own patch size",
        dot="own patch size",
        stem="sweep_patch_sizes",
        log=True,
    ),
    "resolution": Axis(
        values="resolutions",
        column="C",
        label="evaluation compression (frame shift / base shift)",
        own="own resolution",
        dot="own resolution",
        stem="sweep_resolutions",
        least=0.1,
    ),
    "average_pooling": Axis(
        values="average pooling",
        column="pooling",
        label="evaluation pooling (frames averaged into one)",
        own="without pooling",
        dot="without pooling",
        stem="sweep_average_pooling",
    ),
    "max_pooling": Axis(
        values="max pooling",
        column="pooling",
        label="evaluation pooling (frames whose maximum is one)",
        own="without pooling",
        dot="without pooling",
        stem="sweep_max_pooling",
    ),
}


Identity = tuple[str, str, str, float | None]
"""Run, fit of the positions, fit of the kernel, and value of a point (None: the run's own)."""


@dataclass(frozen=True)
class SweepPoint:
    """One model at one value of what is swept.

    Attributes:
        model: What the model is, for legends ("ElasticAST", "AST-1024").
        run: Name of the run.
        length_frames: Length at which it was evaluated; for a native point the longest clip's.
        length_s: The same in seconds.
        metric: Name out of ``METRIC_LABELS``.
        value: The metric; ``low`` and ``high`` are the ends of its bootstrap interval.
        low: Lower end.
        high: Upper end.
        clips: Clips evaluated.
        tokens: Tokens processed for all clips, padding and prefix tokens included.
        seconds: Time for all clips, from features to logits.
        gflops: Floating-point operations for all clips, in 1e9.
        positions: How a grid of positions was fitted (``interpolate``, ``slice``); empty for
            models that need none.
        native: The run's own setting: native lengths (ElasticAST), or the length that a
            fixed-length model was trained at. The scattered dots of Figure 4.
        axis: What is swept, out of ``AXES``.
        x: Its value on the axis; NaN for an ensemble, whose members differ in it.
        resize: How the kernel was resized (``pi``, ``bl``, ``bl-plain``) where patch sizes are
            swept.
        groups: Groups that the interval's resamples were drawn from; 0 is clips.
    """

    model: str
    run: str
    length_frames: int
    length_s: float
    metric: str
    value: float
    low: float
    high: float
    clips: int
    tokens: int
    seconds: float
    gflops: float
    positions: str
    native: bool
    axis: str
    x: float
    resize: str
    groups: int = 0

    @property
    def identity(self) -> Identity:
        """Key that distinguishes the point from the others of a sweep."""
        return (self.run, self.positions, self.resize, None if self.native else self.x)

    @property
    def shift_ms(self) -> float:
        """Time between its frames."""
        return 1000 * self.length_s / self.length_frames


COLUMNS = tuple(field.name for field in dataclasses.fields(SweepPoint))
_BOOLS = {"true": True, "false": False}


def model_label(config: RunConfig) -> str:
    """Returns the name of a run's model for tables and legends."""
    model, flexi = config.model, config.flexi
    name = {"elasticast": "ElasticAST", "ast": "AST", "flexiast": "FlexiAST"}[model.preset]
    if config.length.fixed_frames:
        name += f"-{config.length.fixed_frames}"
    if model.patch_size != (16, 16):
        frequency, time = model.patch_size
        name += f"/{time}" if frequency == time else f"/{frequency}x{time}"
    if config.augment.length_diversity.share:
        name += ", diverse lengths"
    resolution = config.augment.resolution
    if resolution.compressions:
        ways = {"shift": "resolutions", "average": "average pooling", "max": "max pooling"}
        name += f", mixed {ways[resolution.reduction]}"
    if flexi.sizes:
        sizes = "" if flexi.axes == "both" else f", {flexi.axes} only"
        name += sizes if model.preset == "flexiast" else f", flexible patches{sizes}"
    return name + (", distilled" if config.train.distill.teacher else "")


def write_points(path: Path, points: Iterable[SweepPoint]) -> None:
    """Writes points as CSV, one a line, in the order of the fields."""

    def text(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    rows = [{name: text(getattr(point, name)) for name in COLUMNS} for point in points]
    write_rows(path, COLUMNS, rows)


def read_points(path: Path) -> list[SweepPoint]:
    """Returns the points of a CSV that ``write_points`` wrote.

    Raises:
        UsageError: There is no such file.
        ElasticToolError: It is no sweep CSV.
    """
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": _BOOLS.__getitem__}
    readers = {field.name: kinds[str(field.type)] for field in dataclasses.fields(SweepPoint)}
    try:
        return [
            SweepPoint(**{name: read(row[name]) for name, read in readers.items()})
            for row in read_rows(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ElasticToolError(
            f"{path} is not a sweep CSV ({error})", "make one: elastictool sweep"
        ) from error
