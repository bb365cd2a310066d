"""The table that ends a comparison: each run at its own length and at each swept length.

Everything comes from the files that training, ``eval`` and ``sweep`` left; a value whose file is
missing is shown as missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastictool.config import RunConfig, from_dict, read_yaml
from elastictool.evaluation.points import SweepPoint, model_label, read_points
from elastictool.reporting.tables import EMPTY, duration, metric_text, percent, read_json


def summary_table(
    run_dirs: Sequence[Path], sweep_csv: Path | None = None, split: str = "test"
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, one row a run (one for each fit of positions, where there are two).

    The columns: model; score at its own (native or fixed) length; score at each number of frames;
    tokens a clip at the own length; training time.

    Args:
        run_dirs: Run directories.
        sweep_csv: The sweep that holds them; without it the columns of lengths are missing.
        split: Which evaluation to show.

    Raises:
        UsageError: A run directory has no configuration.
    """
    points = read_points(sweep_csv) if sweep_csv is not None else []
    lengths = sorted({point.length_frames for point in points if not point.native})
    columns = ["model", "own length", *(str(length) for length in lengths), "tokens", "training"]
    rows = [row for path in run_dirs for row in _rows(path, points, lengths, split)]
    return columns, rows


def _rows(
    path: Path, points: Sequence[SweepPoint], lengths: Sequence[int], split: str
) -> list[list[str]]:
    config = from_dict(RunConfig, read_yaml(path / "config.yaml"))
    name = config.name or path.name
    label = model_label(config)
    mine = [point for point in points if point.run == name and point.model == label]
    fits = list(dict.fromkeys(point.positions for point in mine)) or [""]
    own, tokens = _own(path, split, mine)
    rows = []
    for fit in fits:
        at = {p.length_frames: p for p in mine if p.positions == fit and not p.native}
        suffix = f" ({fit})" if len(fits) > 1 else ""
        cells = [
            metric_text(at[length].metric, at[length].value) if length in at else EMPTY
            for length in lengths
        ]
        rows.append([label + suffix, own, *cells, tokens, duration(training_seconds(path))])
    return rows


def _own(path: Path, split: str, points: Sequence[SweepPoint]) -> tuple[str, str]:
    """The run's own-length score with interval, and its tokens a clip."""
    evaluation = path / "results" / f"eval_{split}.json"
    if evaluation.is_file():
        document = read_json(evaluation)
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
