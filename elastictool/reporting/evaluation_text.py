"""Format an evaluation as rows and notes, for the terminal and for ``report.html``."""

from __future__ import annotations

from typing import Any

from elastictool.metrics.table import F1_LABELS, METRIC_LABELS, is_share
from elastictool.reporting.tables import EMPTY, counted, metric_text, percent

SINGLE_LABEL_ONLY = ("mean_class_accuracy",)
"""Metrics without meaning for clips of several classes, as only one can be the top class."""

SOURCES = {
    "weights": "thresholds: chosen on validation clips when these weights were trained",
    "validation": "thresholds: chosen just now on the run's validation clips, as the weights "
    "came without",
    "none": "no thresholds: the run has no validation clips to choose them on; F1 is at 0.5",
}


def score_rows(document: dict[str, Any]) -> list[list[str]]:
    """Return name and value with interval of each metric of an evaluation."""
    rows = [
        [
            f"{label}, %" if is_share(name) else label,
            metric_text(name, document["metrics"][name], document["intervals"].get(name)),
        ]
        for name, label in METRIC_LABELS.items()
        if not (document.get("multi_label") and name in SINGLE_LABEL_ONLY)
    ]
    decisions = document.get("decisions") or {}
    for key, where in (("at_thresholds", "chosen thresholds"), ("at_default", "0.5 for all")):
        judged = decisions.get(key)
        if judged:
            rows += [
                [
                    f"{label}, {where}, %",
                    percent(judged["metrics"][name], judged["intervals"].get(name)),
                ]
                for name, label in F1_LABELS.items()
            ]
    return rows


def notes(document: dict[str, Any]) -> list[str]:
    """Return the notes below the values."""
    lines = [
        f"left out of the means: {count:,} {what.replace('_', ' ')}"
        for what, count in document.get("left_out", {}).items()
        if count
    ]
    if document.get("cut_clips"):
        clips, limit = counted(document["clips"], "clip"), document["limit_frames"]
        lines.append(
            f"{document['cut_clips']:,} of {clips} were cut at {limit:,} frames: what comes after "
            "that was not heard"
        )
    if document["metrics"]["dprime"] is None:
        lines.append(
            "d′ is infinite or undefined: mAUC is exactly 0 or 1, or no class could be ranked"
        )
    return lines + _decision_notes(document.get("decisions") or {})


def _decision_notes(decisions: dict[str, Any]) -> list[str]:
    if not decisions:
        return []
    lines = [SOURCES[decisions["thresholds_from"]]]
    if decisions["chosen_on_these_clips"]:
        lines.append("these are the clips that chose the thresholds: F1 at them is flattered")
    if decisions["classes_without_threshold"]:
        number = counted(decisions["classes_without_threshold"], "class")
        lines.append(f"decided at 0.5, as no validation clip has them: {number}")
    return lines


def class_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and cells of the per-class table; shares in percent."""
    rows = document["per_class"]
    columns = list(rows[0])
    return columns, [[_cell(name, row[name]) for name in columns] for row in rows]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return EMPTY
    if name == "threshold":
        return f"{value:.3f}"
    return percent(value) if isinstance(value, float) else str(value)
