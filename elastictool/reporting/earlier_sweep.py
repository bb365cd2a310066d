"""Merge the points of an earlier sweep in the same files with new ones.

A sweep adds to earlier points only if weights, data and conditions are the same; otherwise it is
refused, because a figure must not mix them and sweeps take hours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastictool.config.coerce import from_dict
from elastictool.evaluation.points import SweepPoint
from elastictool.metrics.intervals import LEVEL
from elastictool.reporting.tables import read_json
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import finite

CONDITIONS = {
    "split": "split",
    "metric": "metric",
    "precision": "precision",
    "data_fingerprint": "data",
    "axes": "--axes",
    "base_shift_ms": "base shift",
}
"""Conditions shared by all points of a file, with their names in messages."""


def document_of(points: Iterable[SweepPoint]) -> dict[str, Any]:
    """Returns points as plain values for JSON; values that are not finite become None."""
    points = list(points)
    rows = [
        {
            name: finite(value) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(point).items()
        }
        for point in points
    ]
    groups = max((point.groups for point in points), default=0)
    unit = {"unit": "group", "groups": groups} if groups else {"unit": "clip"}
    return {"interval": {"method": "bootstrap", "level": LEVEL, **unit}, "points": rows}


def earlier_points(file: Path, about: Mapping[str, Any]) -> list[SweepPoint]:
    """Returns the points of the sweep in ``file`` (JSON), to be merged with new ones.

    Args:
        file: The file; it need not exist.
        about: Conditions of the new points: the ``CONDITIONS``, and ``weights`` by run.

    Raises:
        UsageError: They are of other weights, data or conditions.
    """
    if not file.is_file():
        return []
    points = []
    try:
        document = read_json(file)
        for row in document["points"]:
            from_dict(SweepPoint, {k: 0.0 if v is None else v for k, v in row.items()})  # checks it
            values: dict[str, Any] = {k: math.nan if v is None else v for k, v in row.items()}
            points.append(SweepPoint(**values))
        different = _differences(document, about)
    except (ElasticToolError, KeyError, TypeError, ValueError, AttributeError):
        different = ["a sweep that cannot be read, or lacks its conditions"]
    if different:
        raise UsageError(
            f"{file} holds {'; '.join(different)}",
            "--overwrite begins it anew, --out FOLDER keeps both",
        )
    return points


def merged(earlier: Sequence[SweepPoint], new: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Returns each point once, new ones first choice; ordered by run, own setting, value."""
    points = {point.identity: point for point in [*earlier, *new]}
    lines = list(dict.fromkeys(identity[:3] for identity in points))

    def sort_key(point: SweepPoint) -> tuple[int, bool, float]:
        value = 0.0 if point.native else point.x
        return lines.index(point.identity[:3]), not point.native, value

    return sorted(points.values(), key=sort_key)


def _differences(document: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Returns the differences between the document's points and new ones, in words."""
    found = [
        f"points of another {word} ({document.get(key)}, not {about.get(key)})"
        if key != "data_fingerprint"
        else "points of other data"
        for key, word in CONDITIONS.items()
        if document.get(key) != about.get(key)
    ]
    for run, record in document["weights"].items():
        now = about["weights"].get(run)
        if now is not None and now["sha256"] != record["sha256"]:
            steps = [str(weights.get("step", "unknown")) for weights in (record, now)]
            found.append(f"points of other weights of {run} (step {steps[0]}, not {steps[1]})")
    return found
