"""A point of a sweep, its CSV, and what a model is called: nothing here needs torch.

The figures and tables read these files only, so a result stays drawable on a machine without the
model, the data or torch. Tokens, seconds and GFLOPs are totals over the clips of a point.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastictool.config import RunConfig
from elastictool.errors import ElasticToolError, UsageError
from elastictool.files import write_text


@dataclass(frozen=True)
class SweepPoint:
    """One model at one length.

    Attributes:
        model: What the model is, for legends ("ElasticAST", "AST-1024").
        run: Name of the run.
        length_frames: Length at which it was evaluated; for a native point the longest clip's.
        length_s: The same in seconds.
        metric: Name out of ``METRIC_LABELS``.
        value: The metric; ``low`` and ``high`` are its bootstrap interval over clips.
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


COLUMNS = tuple(field.name for field in dataclasses.fields(SweepPoint))
_READERS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text],
}


def model_label(config: RunConfig) -> str:
    """What a run's model is called in tables and legends."""
    name = {"elasticast": "ElasticAST", "ast": "AST"}[config.model.preset]
    if config.length.fixed_frames:
        name += f"-{config.length.fixed_frames}"
    return name + (", diverse lengths" if config.augment.length_diversity.share else "")


def write_points(path: Path, points: Iterable[SweepPoint]) -> None:
    """Write points as CSV, one a line, in the order of the fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        writer.writerow([_cell(getattr(point, name)) for name in COLUMNS])
    write_text(path, text.getvalue())


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_points(path: Path) -> list[SweepPoint]:
    """The points of a CSV that ``write_points`` wrote.

    Raises:
        UsageError: There is no such file.
        ElasticToolError: It is no sweep CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_point(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ElasticToolError(
            f"{path} is not a sweep CSV ({error})", "make one: elastictool sweep"
        ) from error


def _point(row: dict[str, str]) -> SweepPoint:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(SweepPoint)}
    return SweepPoint(**{name: _READERS[kind](row[name]) for name, kind in kinds.items()})
