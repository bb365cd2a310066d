"""Choose one threshold a class for multi-label decisions, and compute their F1.

mAP and AUC rank clips and need no threshold; a user of a multi-label model needs one for each
class. ``best_thresholds`` chooses them and ``f1_scores`` measures decisions; they are separate
because F1 on the clips that chose the thresholds is too high.
A class without positives has no best threshold and no F1; it is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elastictool.metrics.weighted import Array, Labels, check_scores, class_mean, ratio

DEFAULT_THRESHOLD = 0.5
"""Threshold of a class for which none could be chosen."""


@dataclass(frozen=True)
class F1Scores:
    """The scores of a set of decisions.

    Attributes:
        values: ``F1_LABELS`` names to values in 0..1; NaN where nothing could be scored. Micro
            values count all (clip, class) pairs; macro F1 is the mean over classes with positives.
        per_class: (C,) F1 of each class; NaN for classes without positives.
        decided: (C,) clips that were given the class.
    """

    values: dict[str, float]
    per_class: Array
    decided: npt.NDArray[np.int64]


def best_thresholds(
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike,
    between: Callable[[], None] = lambda: None,
) -> Array:
    """Returns (C,) thresholds that maximise each class's F1 on these clips; NaN without positives.

    A threshold lies halfway between the scores that it separates. Of several with the same F1,
    which few positives make likely, the one nearest to 0.5 is taken.

    Args:
        probabilities: (S, C) in 0..1.
        targets: (S, C) multi-hot.
        between: Called before each class; may raise ``Stopped``.

    Raises:
        ElasticToolError: No clips, or NaN scores.
    """
    scores, labels = check_scores(probabilities, targets)
    thresholds = np.full(scores.shape[1], math.nan)
    for index in np.flatnonzero(labels.any(axis=0)):
        between()
        order = np.argsort(-scores[:, index], kind="stable")
        ranked, positives = scores[order, index], int(labels[:, index].sum())
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        hits = np.cumsum(labels[order, index])[ends]
        f1 = 2 * hits / (ends + 1 + positives)
        above, below = ranked[ends], np.append(ranked[ends][1:], 0.0)
        middle = (above + below) / 2  # never on the lower score, which ``>=`` would include
        cuts = np.where(middle > below, middle, above)
        best = cuts[f1 == f1.max()]  # integers divided once: equal F1 are equal floats
        thresholds[index] = best[np.abs(best - DEFAULT_THRESHOLD).argmin()]
    return thresholds


def filled(thresholds: npt.ArrayLike) -> Array:
    """Returns ``thresholds`` with ``DEFAULT_THRESHOLD`` where none could be chosen (NaN)."""
    values = np.asarray(thresholds, dtype=np.float64)
    return np.where(np.isnan(values), DEFAULT_THRESHOLD, values)


def decide(probabilities: npt.ArrayLike, thresholds: npt.ArrayLike) -> Labels:
    """Returns (S, C) decisions: a clip has a class if its probability reaches the threshold.

    Args:
        probabilities: (S, C) in 0..1.
        thresholds: (C,) or one for all classes; NaN stands for ``DEFAULT_THRESHOLD``.
    """
    decisions: Labels = np.asarray(probabilities, dtype=np.float64) >= filled(thresholds)
    return decisions


def f1_scores(decisions: npt.ArrayLike, targets: npt.ArrayLike) -> F1Scores:
    """Returns micro and macro F1 of (S, C) decisions against (S, C) multi-hot targets.

    Wrong decisions for a class without positives lower the micro values; the macro mean leaves
    such a class out, because no decision could score there.
    """
    decided, labels = np.asarray(decisions) > 0, np.asarray(targets) > 0
    hits = (decided & labels).sum(axis=0)
    taken, positives = decided.sum(axis=0), labels.sum(axis=0)
    per_class = np.where(positives > 0, 2 * hits / np.maximum(taken + positives, 1), math.nan)
    return F1Scores(
        values={
            "micro_f1": float(ratio(2 * hits.sum(), taken.sum() + positives.sum())),
            "macro_f1": float(class_mean(per_class)),
            "micro_precision": float(ratio(hits.sum(), taken.sum())),
            "micro_recall": float(ratio(hits.sum(), positives.sum())),
        },
        per_class=per_class,
        decided=taken,
    )
