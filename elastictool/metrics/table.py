"""Register the metrics: their names, how they are computed, and what their intervals need.

A new metric is one entry of ``METRICS``: evaluations, sweeps, tables and figures take it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from elastictool.metrics.weighted import (
    Array,
    WeightedClips,
    area_of_dprime,
    class_mean,
    dprime,
)


@dataclass(frozen=True)
class Metric:
    """A metric of ranked classes.

    Attributes:
        label: For tables and axes.
        values: (R,) values under R weightings of the clips; NaN where nothing can be scored.
        short: Label where there is little room.
        top: The k of a top-k accuracy, which is 100 % where there are no more classes.
        ranked: Depends on the order of all clips, as mAP does: resampled less often, and with a
            normal interval (see ``intervals.py``).
        per_class: A mean over classes, as sure as its small classes.
        share: In 0..1, and shown in percent.
        to_share: Maps a value that is no share to the share that it follows from.
        from_share: The inverse of ``to_share``.
    """

    label: str
    values: Callable[[WeightedClips], Array]
    short: str = ""
    top: int = 0
    ranked: bool = False
    per_class: bool = False
    share: bool = True
    to_share: Callable[[float], float] = lambda value: value
    from_share: Callable[[float], float] = lambda value: value


def _mauc(clips: WeightedClips) -> Array:
    return class_mean(clips.ranking[1])


METRICS: Mapping[str, Metric] = {
    "top1": Metric("Top-1 accuracy", lambda clips: clips.top_k(1), short="top-1"),
    "top5": Metric("Top-5 accuracy", lambda clips: clips.top_k(5), top=5),
    "mean_class_accuracy": Metric(
        "Mean class accuracy", lambda clips: class_mean(clips.recall), per_class=True
    ),
    "map": Metric(
        "mAP",
        lambda clips: class_mean(clips.ranking[0]),
        short="mAP",
        ranked=True,
        per_class=True,
    ),
    "mauc": Metric("mAUC", _mauc, ranked=True, per_class=True),
    "dprime": Metric(
        "d′",
        lambda clips: np.array([dprime(area) for area in _mauc(clips)]),
        ranked=True,
        per_class=True,
        share=False,
        to_share=area_of_dprime,
        from_share=dprime,
    ),
}

METRIC_LABELS: Mapping[str, str] = {name: metric.label for name, metric in METRICS.items()}

F1_LABELS: Mapping[str, str] = {
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "micro_precision": "Micro precision",
    "micro_recall": "Micro recall",
}
"""Names of the metrics of multi-label decisions."""


def can_fail(name: str, classes: float) -> bool:
    """Returns whether a metric can be below 100 % with so many classes: top-5 of five cannot."""
    return not METRICS[name].top or METRICS[name].top < classes


def is_share(name: str) -> bool:
    """Returns whether a metric is a share, to be shown in percent."""
    return name not in METRICS or METRICS[name].share
