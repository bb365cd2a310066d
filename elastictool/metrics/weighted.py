"""Hold scores and labels of clips under weights; all metrics are computed from them.

A bootstrap resample is a weight per clip (how often it was drawn). So a metric under R weightings
is one array computation: of weights of one it is the metric itself, of R resamples it is the
distribution for its interval. Tests compare the values with scikit-learn's, ties included.
"""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from elastictool.utils.errors import ElasticToolError

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


def check_scores(scores: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Array, Labels]:
    """Returns scores as (S, C) float64 and targets as (S, C) bool.

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


class ScoredClips:
    """Scores and targets of S clips and C classes, with what is sorted only once.

    Args:
        scores: (S, C), higher is likelier.
        targets: (S, C) multi-hot.

    Raises:
        ElasticToolError: No clips, or scores that are not finite.
    """

    def __init__(self, scores: npt.ArrayLike, targets: npt.ArrayLike) -> None:
        self.scores, self.labels = check_scores(scores, targets)
        self._hits: dict[int, Array] = {}

    def __len__(self) -> int:
        """Number of clips S."""
        return len(self.scores)

    @cached_property
    def labelled(self) -> Array:
        """(S,) 1 where a clip has a label, else 0."""
        return np.asarray(self.labels.any(axis=1), dtype=np.float64)

    @cached_property
    def correct(self) -> Labels:
        """(S, C): the class is a clip's top class and one of its labels."""
        top = self.scores.argmax(axis=1)
        correct: Labels = self.labels & (top[:, None] == np.arange(self.scores.shape[1]))
        return correct

    def hits(self, k: int) -> Array:
        """(S,) 1 where one of the ``k`` best-scored classes is among a clip's labels, else 0.

        For multi-label clips any label counts. ``k`` is capped at C; ties go to the lower class
        index, so a model with equal scores for all classes earns chance, not 100 %.
        """
        if k not in self._hits:
            best = np.argsort(-self.scores, axis=1, kind="stable")[:, :k]
            hits = np.take_along_axis(self.labels, best, axis=1).any(axis=1)
            self._hits[k] = np.asarray(hits, dtype=np.float64)
        return self._hits[k]

    @property
    def unweighted(self) -> WeightedClips:
        """The clips under one weighting in which all count the same."""
        return WeightedClips(self, np.ones((1, len(self))))


class WeightedClips:
    """Clips under (R, S) weights, which are R weightings; what cannot be scored is NaN."""

    def __init__(self, clips: ScoredClips, weights: Array) -> None:
        self.clips, self.weights = clips, weights

    def top_k(self, k: int) -> Array:
        """(R,) share of the labelled clips with a hit among their ``k`` best classes."""
        return ratio(self.weights @ self.clips.hits(k), self.weights @ self.clips.labelled)

    @cached_property
    def recall(self) -> Array:
        """(R, C) share of a class's clips whose top class it is."""
        return ratio(self.weights @ self.clips.correct, self.weights @ self.clips.labels)

    @cached_property
    def ranking(self) -> tuple[Array, Array]:
        """(R, C) average precision and (R, C) area under the ROC curve.

        NaN where a class has no positive or no negative weight.
        """
        scores, weights = self.clips.scores, self.weights
        precision, auc = np.empty((2, len(weights), scores.shape[1]))
        for index in range(scores.shape[1]):
            order = np.argsort(-scores[:, index], kind="stable")
            ranked = scores[order, index]
            ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
            sorted_weights = weights[:, order]
            labels = self.clips.labels[order, index]
            hit = np.cumsum(sorted_weights * labels, axis=1)[:, ends]
            missed = np.cumsum(sorted_weights, axis=1)[:, ends] - hit
            hits, misses = (np.diff(part, axis=1, prepend=0.0) for part in (hit, missed))
            positive, negative = hit[:, -1], missed[:, -1]
            scorable = (positive > 0) & (negative > 0)
            share = hit / np.maximum(hit + missed, 1)
            areas = (
                ratio((hits * share).sum(axis=1), positive),
                ratio((misses * (hit - hits / 2)).sum(axis=1), positive * negative),
            )
            precision[:, index], auc[:, index] = (np.where(scorable, a, np.nan) for a in areas)
        return precision, auc


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Array:
    """Returns ``part / whole``; NaN where ``whole`` is 0."""
    below = np.asarray(whole, dtype=np.float64)
    empty = np.full(np.shape(below), np.nan)
    result: Array = np.divide(part, below, out=empty, where=below > 0)
    return result


def class_mean(values: Array) -> Array:
    """Returns the means over the last axis without NaN, the classes that cannot be scored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without any scorable class
        mean: Array = np.nanmean(values, axis=-1)
    return mean


def dprime(mauc: float) -> float:
    """Returns d' = sqrt(2) * inverse normal CDF of mAUC; infinite at 1 (and -infinite at 0).

    Source: the AudioSet protocol (Hershey et al. 2017), as in ElasticAST's evaluation.
    """
    if math.isnan(mauc):
        return math.nan
    if mauc <= 0 or mauc >= 1:
        return math.inf if mauc >= 1 else -math.inf
    return math.sqrt(2) * NormalDist().inv_cdf(mauc)


def area_of_dprime(value: float) -> float:
    """Returns the mAUC of a d'."""
    return NormalDist().cdf(value / math.sqrt(2))
