"""Accuracy, mAP, mAUC and d' from scores and targets: arrays in, numbers out.

Macro means run over classes that can be scored: a class without positives (or, for AP and AUC,
without negatives) has no value, so it is left out and counted instead of entering as 0 or 1.
Single-label and multi-label data take the same path; single-label targets are one-hot. AP and
AUC come from scikit-learn, whose treatment of ties is the reference of the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from elastictool.metrics.names import METRIC_LABELS as METRIC_LABELS
from elastictool.utils.errors import ElasticToolError

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


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
        values: ``METRIC_LABELS`` names to values in 0..1 (d' unbounded: infinite at mAUC 1);
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


def class_probabilities(logits: npt.ArrayLike, loss: str) -> Array:
    """(S, C) probabilities: softmax for models trained with ``ce``, sigmoid for ``bce``.

    In float64: in float32 confident scores saturate into ties, which change mAP, from logits of 17
    on, here from 37 on.
    """
    wide = np.asarray(logits, dtype=np.float64)
    if loss == "bce":
        return np.asarray(np.exp(-np.logaddexp(0, -wide)))
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which check_scores refuses
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def check_scores(scores: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Array, Labels]:
    """Scores as (S, C) float64 and targets as (S, C) bool.

    Raises:
        ElasticToolError: No clips, or a score that is not finite: the model has diverged.
        ValueError: The shapes differ.
    """
    checked: Array = np.asarray(scores, dtype=np.float64)
    labels: Labels = np.asarray(np.asarray(targets) > 0, dtype=np.bool_)
    if checked.ndim != 2 or checked.shape != labels.shape:
        raise ValueError(f"scores {checked.shape} and targets {labels.shape} must be equal (S, C)")
    if checked.size == 0:
        raise ElasticToolError("there are no clips or no classes to score", "check the split")
    broken = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(broken):
        raise ElasticToolError(
            f"the scores of {len(broken)} of {len(checked)} clips are NaN or "
            f"infinite (first: row {broken[0]})",
            "the model has diverged: train with a lower learning rate or in fp32",
        )
    return checked, labels


def top_k_hits(scores: Array, targets: Labels, k: int) -> Labels:
    """(S,): is one of the ``k`` best-scored classes among the clip's labels?

    For multi-label clips any label counts. ``k`` is capped at C; ties go to the lower class
    index, so a model that says the same for all classes earns chance, not 100 %.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits: Labels = np.take_along_axis(targets, best, axis=1).max(axis=1)
    return hits


def top_k_accuracy(scores: npt.ArrayLike, targets: npt.ArrayLike, k: int) -> float:
    """Share of the labelled clips with a hit among their ``k`` best classes; NaN without any.

    Raises:
        ElasticToolError: No clips, or scores that are not finite.
    """
    checked, labels = check_scores(scores, targets)
    return _top_k_mean(checked, labels, k)


def _top_k_mean(scores: Array, labels: Labels, k: int) -> float:
    hits = top_k_hits(scores, labels, k)[labels.any(axis=1)]
    return float(hits.mean()) if len(hits) else math.nan


def mean_average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Macro mAP over the classes that can be scored; NaN without any.

    Raises:
        ElasticToolError: No clips, or scores that are not finite.
    """
    checked, labels = check_scores(scores, targets)
    positives = labels.sum(axis=0)
    kept = (positives > 0) & (positives < len(labels))
    if not kept.any():
        return math.nan
    return float(average_precision_score(labels[:, kept], checked[:, kept], average="macro"))


def dprime(mauc: float) -> float:
    """d' = sqrt(2) * inverse normal CDF of mAUC; infinite at 1 (and -infinite at 0).

    Source: the AudioSet protocol (Hershey et al. 2017), as in ElasticAST's evaluation.
    """
    if math.isnan(mauc):
        return math.nan
    if mauc <= 0 or mauc >= 1:
        return math.inf if mauc >= 1 else -math.inf
    return math.sqrt(2) * NormalDist().inv_cdf(mauc)


def macro_mean(values: Array) -> float:
    """Mean over the classes that could be scored; NaN where there is none."""
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else math.nan


def class_scores(scores: Array, targets: Labels) -> ClassScores:
    """The per-class table of (S, C) scores and targets."""
    top = np.zeros_like(targets)
    top[np.arange(len(scores)), scores.argmax(axis=1)] = True
    positives, predicted = targets.sum(axis=0), top.sum(axis=0)
    correct = (top & targets).sum(axis=0)
    rankable = (positives > 0) & (positives < len(targets))
    precision, auc = np.full((2, len(positives)), math.nan)
    for index in np.flatnonzero(rankable):
        precision[index] = average_precision_score(targets[:, index], scores[:, index])
        auc[index] = roc_auc_score(targets[:, index], scores[:, index])
    return ClassScores(
        positives=positives,
        predicted=predicted,
        recall=_ratio(correct, positives),
        precision=_ratio(correct, predicted),
        average_precision=precision,
        auc=auc,
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Array:
    return np.where(whole > 0, part / np.maximum(whole, 1), math.nan)


def confusion_matrix(scores: npt.ArrayLike, targets: npt.ArrayLike) -> NDArray[np.int64]:
    """(C, C) counts: row = true class, column = top class.

    A multi-label clip counts once in the row of each of its labels.
    """
    checked, labels = check_scores(scores, targets)
    clips, true = np.nonzero(labels)
    matrix = np.zeros((checked.shape[1], checked.shape[1]), dtype=np.int64)
    np.add.at(matrix, (true, checked.argmax(axis=1)[clips]), 1)
    return matrix


def classification_metrics(scores: npt.ArrayLike, targets: npt.ArrayLike) -> Metrics:
    """All metrics of (S, C) scores (higher is likelier) and (S, C) multi-hot targets.

    Top-k runs over clips with a label. Mean class accuracy is the mean of the classes' recalls
    (for multi-label clips: the share of the class's clips whose top class it is).

    Raises:
        ElasticToolError: No clips, or scores that are not finite.
    """
    checked, labels = check_scores(scores, targets)
    per_class = class_scores(checked, labels)
    labelled = labels.any(axis=1)
    mauc = macro_mean(per_class.auc)
    return Metrics(
        values={
            "top1": _top_k_mean(checked, labels, 1),
            "top5": _top_k_mean(checked, labels, 5),
            "mean_class_accuracy": macro_mean(per_class.recall),
            "map": macro_mean(per_class.average_precision),
            "mauc": mauc,
            "dprime": dprime(mauc),
        },
        per_class=per_class,
        clips=len(checked),
        left_out={
            "classes_without_positives": int((per_class.positives == 0).sum()),
            "classes_without_negatives": int((per_class.positives == len(checked)).sum()),
            "clips_without_label": int((~labelled).sum()),
        },
    )
