"""Points of an earlier sweep in the same files: kept beside new ones where they belong together.

A figure with points of two trainings, of other data or of another metric would lie. So a sweep
adds to what is there only where all that its points depend on is the same; else it is refused, as
sweeps take hours and nothing says which of the two is wanted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastictool.evaluation.points import SweepPoint
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
"""What all points of a file share, and what it is called in messages."""


def document_of(points: Iterable[SweepPoint]) -> dict[str, Any]:
    """Points as plain values for JSON; a value that is not finite becomes None."""
    return {
        "points": [
            {
                name: finite(value) if isinstance(value, float) else value
                for name, value in dataclasses.asdict(point).items()
            }
            for point in points
        ]
    }


def former_points(file: Path, about: Mapping[str, Any]) -> list[SweepPoint]:
    """The points of the sweep that ``file`` (JSON) holds, to be kept beside new ones.

    Args:
        file: Perhaps not there.
        about: What the new points depend on: the ``CONDITIONS``, and ``weights`` by run.

    Raises:
        UsageError: They are of other weights, data or conditions.
    """
    if not file.is_file():
        return []
    try:
        document = read_json(file)
        points = [_point(values) for values in document["points"]]
        different = _differences(document, about)
    except (ElasticToolError, KeyError, TypeError, ValueError, AttributeError):
        points, different = [], ["a sweep that cannot be read, or does not say of what it is"]
    if different:
        raise UsageError(
            f"{file} holds {'; '.join(different)}",
            "--overwrite begins it anew, --out FOLDER keeps both",
        )
    return points


def merged(former: Sequence[SweepPoint], new: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Each point once, a new one in place of a former; run by run, its own first, then by value."""
    points = {point.identity: point for point in [*former, *new]}
    lines = list(dict.fromkeys(identity[:3] for identity in points))

    def place(point: SweepPoint) -> tuple[int, bool, float]:
        value = 0.0 if point.native else point.x
        return lines.index(point.identity[:3]), not point.native, value

    return sorted(points.values(), key=place)


def _point(values: Mapping[str, Any]) -> SweepPoint:
    plain: dict[str, Any] = {name: math.nan if v is None else v for name, v in values.items()}
    return SweepPoint(**plain)


def _differences(document: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """In words, what the document's points do not share with new ones."""
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
            steps = [str(told.get("step", "unknown")) for told in (record, now)]
            found.append(f"points of other weights of {run} (step {steps[0]}, not {steps[1]})")
    return found
