"""Hold scores and labels of clips under weights; all metrics are computed from them.

A bootstrap resample is a weight per clip (how often it was drawn). So a metric under R weightings
is one array computation: of weights of one it is the metric itself, of R resamples it is the
distribution for its interval. Tests compare the values with scikit-learn's, ties included.

Only the positives of a class enter its AP and AUC, and what matters of the other clips is how many
lie between two positives. So clips are counted into these gaps, for all weightings in one product
with a sparse matrix, and nothing is sorted but the positives: 3,000 classes of 20,000 clips under
200 weightings take some ten seconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from elastictool.utils.errors import ElasticToolError

if TYPE_CHECKING:
    from scipy import sparse  # loaded where it is used: commands that list runs do without

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]
_CELLS_AT_ONCE = 1_000_000
"""Scores (clips x classes) in a temporary array: 8 MB."""


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
    """Scores and targets of S clips and C classes, with what is computed only once.

    Args:
        scores: (S, C), higher is likelier.
        targets: (S, C) multi-hot.
        groups: (S,) names of what clips belong to (a speaker, a recording); empty is none.
        between: Called some times a second during long computations; may raise ``Stopped``.

    Raises:
        ElasticToolError: No clips, or scores that are not finite.
    """

    def __init__(
        self,
        scores: npt.ArrayLike,
        targets: npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.scores, self.labels = check_scores(scores, targets)
        self.groups = None if groups is None else _group_numbers(groups)
        self.between = between

    def __len__(self) -> int:
        """Number of clips S."""
        return len(self.scores)

    @property
    def units(self) -> int:
        """Number of groups, or of clips where these are not grouped."""
        return len(self) if self.groups is None else int(self.groups.max()) + 1

    @cached_property
    def labelled(self) -> Labels:
        """(S,) whether a clip has a label."""
        return np.asarray(self.labels.any(axis=1), dtype=np.bool_)

    @cached_property
    def positives(self) -> sparse.csr_array:
        """(C, S) ``labels`` as a sparse matrix."""
        return by_class(self.labels)

    @cached_property
    def correct(self) -> sparse.csr_array:
        """(C, S) sparse: the class is a clip's top class and one of its labels."""
        top = self.scores.argmax(axis=1)
        right = np.flatnonzero(self.labels[np.arange(len(self)), top])
        return _sparse(top[right], right, self.labels.shape[::-1])

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(S,) number of classes that a clip's best-scored label comes after; C without a label.

        Ties go to the lower class index, so a model with equal scores for all classes earns
        chance, not 100 %.
        """
        ranks = np.full(len(self), self.labels.shape[1])
        rows = max(1, _CELLS_AT_ONCE // self.labels.shape[1])
        for first in range(0, len(self), rows):
            self.between()
            scores, labels = (part[first : first + rows] for part in (self.scores, self.labels))
            own = np.where(labels, scores, -np.inf)
            best, place = own.max(axis=1, keepdims=True), own.argmax(axis=1)[:, None]
            earlier = (scores == best) & (np.arange(labels.shape[1]) < place)
            found = ((scores > best) | earlier).sum(axis=1)
            ranks[first : first + rows] = np.where(labels.any(axis=1), found, labels.shape[1])
        return ranks

    def hits(self, k: int) -> Labels:
        """(S,) whether one of the ``k`` best-scored classes is among a clip's labels."""
        return np.asarray(self.labelled & (self.ranks < k))

    @cached_property
    def unweighted(self) -> WeightedClips:
        """The clips under one weighting in which all count the same."""
        return WeightedClips(self, np.ones((1, len(self))))


class WeightedClips:
    """Clips under R weightings; what cannot be scored is NaN.

    Args:
        clips: The clips.
        weights: (R, S) whole numbers: float32 sums of up to 16 million are exact.
        advance: Called after each class that was ranked.
    """

    def __init__(
        self,
        clips: ScoredClips,
        weights: npt.NDArray[np.floating],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.clips, self._advance = clips, advance
        self.weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        """(S, R): the weights of a clip lie together, for products with sparse matrices."""

    def top_k(self, k: int) -> Array:
        """(R,) share of the labelled clips with a hit among their ``k`` best classes."""
        hits, labelled = (
            part.astype(np.float32) @ self.weights
            for part in (self.clips.hits(k), self.clips.labelled)
        )
        return ratio(hits, labelled)

    @cached_property
    def recall(self) -> Array:
        """(R, C) share of a class's clips whose top class it is."""
        return ratio((self.clips.correct @ self.weights).T, (self.clips.positives @ self.weights).T)

    @cached_property
    def ranking(self) -> tuple[Array, Array]:
        """(R, C) average precision and (R, C) area under the ROC curve.

        NaN where a class has no positive or no negative weight.
        """
        scores, labels = self.clips.scores, self.clips.labels
        areas = np.empty((2, self.weights.shape[1], scores.shape[1]))
        columns = max(1, _CELLS_AT_ONCE // len(scores))
        total = self.weights.sum(axis=0, dtype=np.float64)
        for first in range(0, scores.shape[1], columns):
            last = min(first + columns, scores.shape[1])
            part = np.ascontiguousarray(scores[:, first:last].T)
            for index in range(first, last):
                self.clips.between()
                positives = np.flatnonzero(labels[:, index])
                areas[:, :, index] = self._areas(part[index - first], positives, total)
                self._advance()
        return areas[0], areas[1]

    def _areas(
        self, scores: Array, positives: NDArray[np.int64], total: Array
    ) -> tuple[Array, Array]:
        """Returns (R,) average precision and (R,) area of one class.

        Args:
            scores: (S,) of the class.
            positives: Its clips.
            total: (R,) sums of the weights.
        """
        steps, step = np.unique(scores[positives], return_inverse=True)
        # Gaps 0, 2, 4, … lie between the distinct scores of positives; 1, 3, … are these scores.
        gap = np.searchsorted(steps, scores, "left") + np.searchsorted(steps, scores, "right")
        counts = _sums(gap, self.weights, 2 * len(steps) + 1)
        hits = _sums(step, self.weights[positives], len(steps))
        ties = counts[1::2]
        above = np.cumsum((ties + counts[2::2])[::-1], axis=0)[::-1]  # with ties
        hit = np.cumsum(hits[::-1], axis=0)[::-1]
        positive = hits.sum(axis=0)
        negative = total - positive
        share = hit / np.maximum(above, 1)
        below = (total - above) - (positive - hit)
        missed = hits * (below + (ties - hits) / 2)
        scorable = (positive > 0) & (negative > 0)
        values = (
            ratio((hits * share).sum(axis=0), positive),
            ratio(missed.sum(axis=0), positive * negative),
        )
        precision, auc = (np.where(scorable, value, np.nan) for value in values)
        return precision, auc


def by_class(cells: Labels) -> sparse.csr_array:
    """Returns (S, C) cells as a sparse (C, S) matrix, to be multiplied with (S, R) weights."""
    clips, classes = np.nonzero(cells)
    return _sparse(classes, clips, cells.shape[::-1])


def _sparse(
    rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, ...]
) -> sparse.csr_array:
    """Returns a sparse matrix of ones."""
    from scipy import sparse

    return sparse.csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)


def _sums(index: NDArray[np.int64], weights: NDArray[np.float32], size: int) -> Array:
    """Returns (size, R) sums of the (n, R) weights of each ``index``."""
    from scipy import sparse

    ones = np.ones(len(index), dtype=np.float32)
    matrix = sparse.csc_array((ones, index, np.arange(len(index) + 1)), shape=(size, len(index)))
    return np.asarray(matrix @ weights, dtype=np.float64)


def _group_numbers(groups: npt.ArrayLike) -> NDArray[np.int64] | None:
    """Returns (S,) numbers of the groups from 0; None where no two clips are of one group.

    A clip without a group is a group of its own.
    """
    names = np.asarray(groups, dtype=np.str_)
    numbers = np.unique(names, return_inverse=True)[1]
    alone = np.flatnonzero(names == "")
    numbers[alone] = len(names) + np.arange(len(alone))
    distinct, numbers = np.unique(numbers, return_inverse=True)
    return None if len(distinct) == len(names) else numbers.astype(np.int64)


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
