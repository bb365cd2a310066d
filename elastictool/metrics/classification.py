"""Compute accuracy, mAP, mAUC and d' from scores and targets: arrays in, numbers out.

Macro means run over classes that can be scored: a class without positives (or, for AP and AUC,
without negatives) has no value, so it is left out and counted instead of entering as 0 or 1.
Single-label and multi-label data take the same path; single-label targets are one-hot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from elastictool.metrics.table import METRICS
from elastictool.metrics.weighted import Array, ScoredClips, ratio

_CELLS_AT_ONCE = 1_000_000
"""Logits (clips x classes) converted at once: 8 MB."""


@dataclass(frozen=True)
class ClassScores:
    """Values of each class, all (C,); NaN where a class cannot be scored.

    Attributes:
        positives: Clips that have the class.
        predicted: Clips whose top class it is.
        recall: Share of the class's clips whose top class it is.
        precision: Share of the clips with this top class that have the class.
        average_precision: Area under the precision-recall curve.
        auc: Area under the ROC curve.
    """

    positives: NDArray[np.int64]
    predicted: NDArray[np.int64]
    recall: Array
    precision: Array
    average_precision: Array
    auc: Array


@dataclass(frozen=True)
class Metrics:
    """All metrics of one evaluation.

    Attributes:
        values: ``METRICS`` names to values in 0..1 (d' unbounded: infinite at mAUC 1);
            NaN where nothing could be scored.
        per_class: The values behind the macro means.
        clips: S.
        left_out: What the means leave out: classes without positives, classes without
            negatives, clips without a label.
    """

    values: dict[str, float]
    per_class: ClassScores
    clips: int
    left_out: dict[str, int]


def class_probabilities(
    logits: npt.ArrayLike, loss: str, between: Callable[[], None] = lambda: None
) -> Array:
    """Returns (S, C) probabilities: softmax for models trained with ``ce``, sigmoid for ``bce``.

    In float64: in float32 confident scores saturate into ties, which change mAP, from logits of 17
    on, here from 37 on. ``between`` is called some times a second, and may raise ``Stopped``.
    """
    given = np.asarray(logits)
    values: Array = np.empty(given.shape)
    rows = max(1, _CELLS_AT_ONCE // max(1, values.shape[1]))
    for first in range(0, len(values), rows):
        between()
        part, place = given[first : first + rows].astype(np.float64), slice(first, first + rows)
        if loss == "bce":
            values[place] = np.exp(-np.logaddexp(0, -part))
            continue
        with np.errstate(invalid="ignore"):  # infinite logits give NaN, which check_scores refuses
            powers = np.exp(part - part.max(axis=1, keepdims=True))
        values[place] = powers / powers.sum(axis=1, keepdims=True)
    return values


def confusion_matrix(scores: npt.ArrayLike, targets: npt.ArrayLike) -> NDArray[np.int64]:
    """Returns (C, C) counts: row = true class, column = top class.

    A multi-label clip counts once in the row of each of its labels.
    """
    top, labels = np.asarray(scores).argmax(axis=1), np.asarray(targets) > 0
    clips, true = np.nonzero(labels)
    matrix = np.zeros((labels.shape[1], labels.shape[1]), dtype=np.int64)
    np.add.at(matrix, (true, top[clips]), 1)
    return matrix


def metric_value(name: str, clips: ScoredClips) -> float:
    """Returns one metric, out of ``METRICS``; NaN without any clip to score."""
    return float(METRICS[name].values(clips.unweighted)[0])


def classification_metrics(clips: ScoredClips) -> Metrics:
    """Returns all metrics of scored clips.

    Top-k runs over clips with a label. Mean class accuracy is the mean of the classes' recalls
    (for multi-label clips: the share of the class's clips whose top class it is).
    """
    weighted = clips.unweighted
    positives = clips.labels.sum(axis=0)
    predicted = np.bincount(clips.scores.argmax(axis=1), minlength=len(positives))
    precision, auc = weighted.ranking
    return Metrics(
        values={name: float(metric.values(weighted)[0]) for name, metric in METRICS.items()},
        per_class=ClassScores(
            positives=positives,
            predicted=predicted,
            recall=weighted.recall[0],
            precision=ratio(clips.correct.sum(axis=1), predicted),
            average_precision=precision[0],
            auc=auc[0],
        ),
        clips=len(clips),
        left_out={
            "classes_without_positives": int((positives == 0).sum()),
            "classes_without_negatives": int((positives == len(clips)).sum()),
            "clips_without_label": int((~clips.labelled).sum()),
        },
    )
