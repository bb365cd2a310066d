"""What metrics are called; apart from their computation, which loads scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping

METRIC_LABELS: Mapping[str, str] = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "map": "mAP",
    "mauc": "mAUC",
    "dprime": "d′",
}
"""Names of the metrics of a ranking for tables and axes."""

SHORT_LABELS: Mapping[str, str] = {"top1": "top-1", "map": "mAP"}
"""The metrics that choose weights, where there is little room."""

F1_LABELS: Mapping[str, str] = {
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "micro_precision": "Micro precision",
    "micro_recall": "Micro recall",
}
"""Names of the metrics of multi-label decisions."""
