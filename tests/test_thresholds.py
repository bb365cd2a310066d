"""Decision thresholds and F1 against brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from elastictool.metrics.intervals import f1_intervals, resampled_weights, wilson_interval
from elastictool.metrics.thresholds import best_thresholds, decide, f1_scores
from elastictool.metrics.weighted import ScoredClips

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, ties: bool, clips: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores, targets = rng.random((clips, 4)), rng.random((clips, 4)) < 0.3
    return (np.round(scores, 1) if ties else scores), targets


@settings(max_examples=40)
@given(seed=SEEDS, ties=st.booleans())
def test_no_other_threshold_has_a_higher_f1(seed: int, ties: bool) -> None:
    scores, targets = drawn(seed, ties)
    chosen = best_thresholds(scores, targets)
    reached = f1_scores(decide(scores, chosen), targets).per_class
    for index in np.flatnonzero(targets.any(axis=0)):
        labels, values = targets[:, index], scores[:, index]
        taken = values >= np.concatenate([values, [0.0]])[:, None]  # each cut there is
        others = 2 * (taken & labels).sum(axis=1) / (taken.sum(axis=1) + labels.sum())
        assert reached[index] == pytest.approx(others.max())


def test_a_threshold_lies_between_the_scores_that_it_parts() -> None:
    assert best_thresholds([[0.9], [0.8], [0.2], [0.1]], [[1], [1], [0], [0]]).tolist() == [0.5]
    assert best_thresholds([[0.9], [0.3], [0.1]], [[1], [0], [0]])[0] == pytest.approx(0.6)
    neighbours = np.nextafter(0.7, 1.0), 0.7
    chosen = best_thresholds([[value] for value in neighbours], [[1], [0]])
    assert decide([[value] for value in neighbours], chosen).ravel().tolist() == [True, False]


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_taken() -> None:
    scores = np.array([[0.95], [0.9], [0.4], [0.3]])
    labels = np.array([[1], [0], [1], [0]])  # F1 is 2/3 at 0.925 and 0.8 at 0.35
    assert best_thresholds(scores, labels)[0] == pytest.approx(0.35)
    labels = np.array([[1], [0], [0], [1]])  # F1 is 2/3 at 0.925 and at 0.15
    assert best_thresholds(scores, labels)[0] == pytest.approx(0.15)
    scores = np.array([[0.9], [0.6], [0.4], [0.1]])  # and at 0.75 and 0.05
    assert best_thresholds(scores, labels)[0] == pytest.approx(0.75)


def test_a_class_without_positives_has_no_threshold_and_is_decided_at_a_half() -> None:
    scores, targets = np.array([[0.9, 0.6], [0.2, 0.4]]), np.array([[1, 0], [0, 0]])
    chosen = best_thresholds(scores, targets)
    assert math.isnan(chosen[1]) and not math.isnan(chosen[0])
    decisions = decide(scores, chosen)
    assert decisions[:, 1].tolist() == [True, False]
    judged = f1_scores(decisions, targets)
    assert judged.values["macro_f1"] == 1.0  # the empty class is left out of the mean
    assert judged.values["micro_f1"] == pytest.approx(2 / 3)  # but its wrong decision counts
    assert math.isnan(judged.per_class[1])


@settings(max_examples=30)
@given(seed=SEEDS)
def test_f1_equals_scikit_learn(seed: int) -> None:
    scores, targets = drawn(seed, ties=False)
    targets[0] = True  # no class without positives: scikit-learn counts those as 0
    decisions = decide(scores, 0.6)
    values = f1_scores(decisions, targets).values
    pair = (targets, decisions)
    assert values["micro_f1"] == pytest.approx(f1_score(*pair, average="micro"))
    assert values["macro_f1"] == pytest.approx(f1_score(*pair, average="macro"))
    assert values["micro_precision"] == pytest.approx(precision_score(*pair, average="micro"))
    assert values["micro_recall"] == pytest.approx(recall_score(*pair, average="micro"))


def test_nothing_decided_and_nothing_there_is_nan_not_zero() -> None:
    nothing = f1_scores(np.zeros((3, 2)), np.zeros((3, 2))).values
    assert all(math.isnan(value) for value in nothing.values())
    missed = f1_scores(np.zeros((3, 2)), np.ones((3, 2))).values
    assert missed["micro_f1"] == 0 and math.isnan(missed["micro_precision"])


def test_f1_intervals_are_those_of_resampled_clips() -> None:
    scores, targets = drawn(3, ties=False, clips=60)
    decisions, clips = decide(scores, 0.4), ScoredClips(scores, targets)
    drawn_counts = np.concatenate(list(resampled_weights(clips, 80, seed=4))).astype(int)
    picks = [np.repeat(np.arange(60), counts) for counts in drawn_counts]
    resampled = [f1_scores(decisions[pick], targets[pick]).values for pick in picks]
    for name, interval in f1_intervals(decisions, clips, resamples=80, seed=4).items():
        values = [sample[name] for sample in resampled]
        assert interval == pytest.approx(np.quantile(values, (0.025, 0.975), method="nearest"))


def test_wilson_interval_of_known_counts() -> None:
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson_interval(1.0, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert wilson_interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
