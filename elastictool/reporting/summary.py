"""The table that ends a comparison: each run at its own setting and at each swept value.

Everything comes from the files that training, ``eval`` and ``sweep`` left; a value whose file is
missing is shown as missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastictool.checkpoint.metadata import describe_outdated
from elastictool.config import RunConfig
from elastictool.config.coerce import from_dict
from elastictool.config.recipe_file import read_yaml
from elastictool.evaluation.points import AXES, SweepPoint, model_label, read_points
from elastictool.reporting.tables import EMPTY, duration, metric_text, percent, read_json


def summary_table(
    run_dirs: Sequence[Path], sweep_csv: Path | None = None, split: str = "test"
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, one row a run (one for each way of resizing, where there are two).

    The columns: model; score at its own setting (native or fixed length, patch size); score at
    each swept value (frames, patch size); tokens a clip at the own setting; training time.

    Args:
        run_dirs: Run directories.
        sweep_csv: The sweep that holds them; without it the columns of values are missing.
        split: Which evaluation to show.

    Raises:
        UsageError: A run directory has no configuration.
    """
    points = read_points(sweep_csv) if sweep_csv is not None else []
    values = sorted({point.x for point in points if not point.native})
    own = AXES[points[0].axis if points else "length"].own
    columns = ["model", own, *(f"{value:g}" for value in values), "tokens", "training"]
    rows = [row for path in run_dirs for row in _rows(path, points, values, split)]
    return columns, rows


def _rows(
    path: Path, points: Sequence[SweepPoint], values: Sequence[float], split: str
) -> list[list[str]]:
    config = from_dict(RunConfig, read_yaml(path / "config.yaml"))
    names = {path.name, config.name or path.name}
    label = model_label(config)
    mine = [point for point in points if point.run in names and point.model == label]
    ways = list(dict.fromkeys((point.positions, point.resize) for point in mine)) or [("", "")]
    own, tokens = _own(path, split, mine)
    rows = []
    for way in ways:
        at = {p.x: p for p in mine if (p.positions, p.resize) == way and not p.native}
        suffix = f" ({', '.join(filter(None, way))})" if len(ways) > 1 else ""
        cells = [
            metric_text(at[value].metric, at[value].value) if value in at else EMPTY
            for value in values
        ]
        rows.append([label + suffix, own, *cells, tokens, duration(training_seconds(path))])
    return rows


def _own(path: Path, split: str, points: Sequence[SweepPoint]) -> tuple[str, str]:
    """The run's own-length score with interval, and its tokens a clip."""
    evaluation = path / "results" / f"eval_{split}.json"
    document = read_json(evaluation) if evaluation.is_file() else {}
    former = describe_outdated(path, document.get("checkpoint", "best"), document.get("weights"))
    if document and not former:
        metric = points[0].metric if points else main_metric(document)
        score = metric_text(metric, document["metrics"][metric], document["intervals"].get(metric))
        return score, f"{document['tokens'] / document['clips']:.0f}"
    native = next((point for point in points if point.native), None)
    if native is None:
        return EMPTY, EMPTY
    score = percent(native.value, (native.low, native.high))
    return score, f"{native.tokens / native.clips:.0f}"


def main_metric(document: dict[str, Any]) -> str:
    """The metric to show of an evaluation: mAP for multi-label data, else top-1."""
    return "map" if document.get("multi_label") else "top1"


def training_seconds(path: Path) -> float | None:
    """Training time of a run, from its metrics log; None where there is none."""
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a killed run may leave half a line
        if isinstance(record, dict) and "seconds" in record:
            return float(record["seconds"])
    return None
