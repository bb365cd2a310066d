"""Metrics against scikit-learn, hand values and brute force."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.metrics import (
    confusion_matrix as sklearn_confusion,
)

from elastictool.metrics.classification import (
    class_probabilities,
    classification_metrics,
    confusion_matrix,
    metric_value,
)
from elastictool.metrics.intervals import (
    bootstrap_intervals,
    f1_intervals,
    interval_document,
    resampled_weights,
    wilson_interval,
)
from elastictool.metrics.table import METRICS, Metric
from elastictool.metrics.weighted import ScoredClips, WeightedClips, dprime
from elastictool.utils.errors import ElasticToolError

SEEDS = st.integers(0, 2**32 - 1)


def single_label(seed: int, clips: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, clips - classes)])
    scores = rng.normal(size=(clips, classes)) + 1.5 * np.eye(classes)[truth]
    return scores, truth


@settings(max_examples=30)
@given(seed=SEEDS)
def test_single_label_metrics_equal_scikit_learn(seed: int) -> None:
    scores, truth = single_label(seed)
    targets = np.eye(7)[truth]
    values = classification_metrics(ScoredClips(scores, targets)).values
    assert values["top1"] == pytest.approx((scores.argmax(1) == truth).mean())
    assert values["top5"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5))
    assert values["mean_class_accuracy"] == pytest.approx(
        balanced_accuracy_score(truth, scores.argmax(1))
    )
    assert values["map"] == pytest.approx(average_precision_score(targets, scores))
    assert values["mauc"] == pytest.approx(roc_auc_score(targets, scores))
    assert np.array_equal(
        confusion_matrix(scores, targets), sklearn_confusion(truth, scores.argmax(1))
    )


@settings(max_examples=30)
@given(seed=SEEDS)
def test_multi_label_top1_asks_whether_the_top_class_is_among_the_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.normal(size=(40, 6)), rng.random((40, 6)) < 0.3
    metrics = classification_metrics(ScoredClips(scores, targets))
    pairs = zip(scores, targets, strict=True)
    hits = [target[score.argmax()] for score, target in pairs if target.any()]
    assert metrics.values["top1"] == pytest.approx(np.mean(hits))
    assert metrics.left_out["clips_without_label"] == int((~targets.any(1)).sum())


def test_hand_values() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    targets = np.eye(3)[[0, 1, 1, 2]]
    metrics = classification_metrics(ScoredClips(scores, targets))
    assert metrics.values["top1"] == 0.75
    assert metrics.values["mean_class_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert metrics.per_class.recall.tolist() == [1.0, 0.5, 1.0]
    assert metrics.per_class.precision.tolist() == [0.5, 1.0, 1.0]
    assert metrics.values["mauc"] == 1.0 and metrics.values["dprime"] == math.inf


def test_dprime_of_known_areas() -> None:
    assert dprime(0.5) == 0
    assert dprime(0.975) == pytest.approx(math.sqrt(2) * 1.959963985, abs=1e-8)
    assert dprime(0.025) == pytest.approx(-dprime(0.975))
    assert (dprime(1.0), dprime(0.0)) == (math.inf, -math.inf)


def test_k_beyond_the_number_of_classes_is_capped() -> None:
    scores, truth = single_label(1, classes=3)
    assert classification_metrics(ScoredClips(scores, np.eye(3)[truth])).values["top5"] == 1.0


def test_constant_scores_earn_chance_not_everything() -> None:
    targets = np.eye(4)[np.arange(40) % 4]
    values = classification_metrics(ScoredClips(np.zeros((40, 4)), targets)).values
    assert values["top1"] == 0.25 and values["mauc"] == 0.5 and values["map"] == 0.25


def test_classes_without_positives_or_negatives_are_left_out_and_counted() -> None:
    scores, truth = single_label(3, classes=4)
    targets = np.eye(4)[truth]
    bare = classification_metrics(ScoredClips(scores, targets))
    wide = np.column_stack([scores, np.full(len(scores), -9.0), np.full(len(scores), -8.0)])
    more = np.column_stack([targets, np.zeros(len(scores)), np.ones(len(scores))])
    widened = classification_metrics(ScoredClips(wide, more))
    assert widened.left_out["classes_without_positives"] == 1
    assert widened.left_out["classes_without_negatives"] == 1
    for name in ("map", "mauc"):
        assert widened.values[name] == pytest.approx(bare.values[name])
    assert np.isnan(widened.per_class.average_precision[4:]).all()


def test_nothing_to_score_is_nan_and_no_labels_do_not_crash() -> None:
    metrics = classification_metrics(ScoredClips(np.zeros((3, 2)), np.zeros((3, 2))))
    assert all(math.isnan(value) for value in metrics.values.values())


def test_nan_scores_are_a_clear_error() -> None:
    scores = np.zeros((4, 3))
    scores[2, 1] = np.nan
    with pytest.raises(ElasticToolError, match="1 of 4 clips are NaN or infinite"):
        ScoredClips(scores, np.eye(3)[[0, 1, 2, 0]])


def test_no_clips_are_a_clear_error() -> None:
    with pytest.raises(ElasticToolError, match="no clips"):
        ScoredClips(np.zeros((0, 3)), np.zeros((0, 3)))


@settings(max_examples=30)
@given(seed=SEEDS, ties=st.booleans())
def test_weighted_ranking_equals_scikit_learn_with_sample_weights(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(50, 3))
    scores = np.round(scores) if ties else scores
    labels = rng.random((50, 3)) < 0.4
    weights = rng.integers(0, 4, (5, 50)).astype(float)
    precision, auc = WeightedClips(ScoredClips(scores, labels), weights).ranking
    for row, weight in enumerate(weights):
        for index in range(3):
            kept = weight > 0
            arguments = (labels[kept, index], scores[kept, index])
            if labels[kept, index].all() or not labels[kept, index].any():
                assert np.isnan(precision[row, index]) and np.isnan(auc[row, index])
                continue
            expected = average_precision_score(*arguments, sample_weight=weight[kept])
            assert precision[row, index] == pytest.approx(expected)
            expected = roc_auc_score(*arguments, sample_weight=weight[kept])
            assert auc[row, index] == pytest.approx(expected)


def plain_metrics(scores: np.ndarray, labels: np.ndarray, picked: np.ndarray) -> dict[str, float]:
    """scikit-learn's metrics of the clips ``picked``, some of them several times."""
    scores, labels = scores[picked], labels[picked]
    rankable = [c for c in range(labels.shape[1]) if 0 < labels[:, c].sum() < len(labels)]
    there = labels.any(axis=0)
    top = scores.argmax(axis=1)
    recall = [np.mean(top[labels[:, c]] == c) for c in np.flatnonzero(there)]
    pairs = [(labels[:, c], scores[:, c]) for c in rankable]
    return {
        "top1": float(labels[np.arange(len(top)), top][labels.any(axis=1)].mean()),
        "mean_class_accuracy": float(np.mean(recall)),
        "map": float(np.mean([average_precision_score(*pair) for pair in pairs])),
        "mauc": float(np.mean([roc_auc_score(*pair) for pair in pairs])),
    }


@pytest.mark.parametrize("grouped", [False, True], ids=["clips", "groups"])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "several labels"])
def test_resampled_metrics_equal_scikit_learns_on_the_drawn_clips(
    grouped: bool, ties: bool, multi_label: bool
) -> None:
    rng = np.random.default_rng(3)
    labels = np.eye(4, dtype=bool)[rng.integers(0, 4, 80)]
    if multi_label:
        labels |= rng.random(labels.shape) < 0.2
    scores = rng.normal(size=labels.shape) + labels
    scores = np.round(scores, 0 if ties else 12)
    groups = rng.permutation(np.repeat([*"abcdefghij", "", ""], (20, 14, *[5] * 8, 3, 3)))
    clips = ScoredClips(scores, labels, groups if grouped else None)
    assert clips.units == (16 if grouped else 80)
    (weights,) = resampled_weights(clips, 25, seed=1)
    for group in "abcdefghij" if grouped else "":
        assert np.ptp(weights[:, groups == group], axis=1).max() == 0, "a group is torn apart"
    weighted = WeightedClips(clips, weights)
    found = {name: METRICS[name].values(weighted) for name in METRICS}
    for row, counts in enumerate(weights.astype(int)):
        expected = plain_metrics(scores, labels, np.repeat(np.arange(80), counts))
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-12), name


def test_clips_that_repeat_their_group_have_wider_intervals() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 10)
    scores = np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]])
    targets = np.eye(2)[np.zeros(400, dtype=int)]
    groups = np.repeat(np.arange(40), 10).astype(str)
    alone, grouped = (
        bootstrap_intervals(ScoredClips(scores, targets, names), ["top1"])["top1"]
        for names in (None, groups)
    )
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)
    document = interval_document(ScoredClips(scores, targets, groups))
    assert (document["unit"], document["groups"], document["clips"]) == ("group", 40, 400)
    every = interval_document(ScoredClips(scores, targets, np.arange(400).astype(str)))
    assert every["unit"] == "clip" and "groups" not in every


def test_one_group_has_no_interval_and_few_right_groups_are_not_sure() -> None:
    truth = np.arange(40) % 4
    targets = np.eye(4)[truth]
    scores = targets.copy()
    scores[:3] = np.roll(scores[:3], 1, axis=1)
    only = bootstrap_intervals(ScoredClips(scores, targets, ["same"] * 40), resamples=20)
    assert all(math.isnan(end) for end in only["top1"] + only["map"])
    pairs = ScoredClips(targets, targets, [*"abcd"] * 10)
    assert bootstrap_intervals(pairs, ["top1"])["top1"] == pytest.approx(wilson_interval(1.0, 4))
    assert f1_intervals(targets, pairs)["micro_f1"] == pytest.approx(wilson_interval(1.0, 4))


class Stop(Exception):
    """Raised between two steps, as by Ctrl-C."""


def test_thousands_of_classes_are_quick_show_progress_and_can_be_stopped() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(1_500, dtype=np.float32)[rng.integers(0, 1_500, 3_000)]
    scores = rng.random(targets.shape) + targets
    checks, done, moments = 0, 0.0, [time.process_time()]

    class Bar:
        @contextmanager
        def task(self, what: str, total: float | None) -> Iterator[Bar]:
            assert "200 resamples of 1,500 classes" in what and total == 1_500
            yield self

        def advance(self, amount: float = 1, note: str = "") -> None:
            nonlocal done
            done += amount

        def log(self, message: str) -> None:
            raise AssertionError(message)

    def between() -> None:
        nonlocal checks
        checks += 1
        moments.append(time.process_time())
        if done > 700:
            raise Stop

    clips = ScoredClips(scores, targets, between=between)
    with pytest.raises(Stop):
        bootstrap_intervals(clips, progress=Bar())
    assert checks > 700 and 700 < done < 702
    assert np.diff(moments).max() < 1, "a signal would have to wait"
    assert moments[-1] - moments[0] < 20


@pytest.mark.slow
def test_3000_classes_of_20000_clips_take_a_minute_at_most() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros((20_000, 3_000), dtype=np.float32)
    targets[np.arange(20_000), rng.integers(0, 3_000, 20_000)] = 1
    logits = rng.standard_normal(targets.shape, dtype=np.float32) + 3 * targets
    moments = [time.process_time()]

    def between() -> None:
        moments.append(time.process_time())

    probabilities = class_probabilities(logits, "ce", between)
    clips = ScoredClips(probabilities, targets, rng.integers(0, 500, 20_000).astype(str), between)
    assert set(bootstrap_intervals(clips)) == set(classification_metrics(clips).values)
    assert interval_document(clips)["ranked_resamples"] == 200
    assert moments[-1] - moments[0] < 60 and np.diff(moments).max() < 1


def test_intervals_hold_the_value_and_have_the_width_of_a_proportion() -> None:
    scores, truth = single_label(5, clips=400)
    targets = np.eye(7)[truth]
    values = classification_metrics(ScoredClips(scores, targets)).values
    intervals = bootstrap_intervals(ScoredClips(scores, targets))
    assert set(intervals) == set(values)
    for name, (low, high) in intervals.items():
        assert low <= values[name] <= high
    low, high = intervals["top1"]
    error = math.sqrt(values["top1"] * (1 - values["top1"]) / 400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_intervals_repeat_by_seed_and_do_not_depend_on_the_other_metrics() -> None:
    scores, truth = single_label(6)
    targets = np.eye(7)[truth]
    alone = bootstrap_intervals(ScoredClips(scores, targets), metrics=["top1"])
    assert alone["top1"] == bootstrap_intervals(ScoredClips(scores, targets))["top1"]
    assert alone != bootstrap_intervals(ScoredClips(scores, targets), metrics=["top1"], seed=1)


def test_blocks_do_not_change_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth = single_label(7)
    targets = np.eye(7)[truth]
    whole = bootstrap_intervals(ScoredClips(scores, targets), resamples=300)
    monkeypatch.setattr("elastictool.metrics.intervals.BLOCK_WEIGHTS", 7 * len(scores))
    assert bootstrap_intervals(ScoredClips(scores, targets), resamples=300) == whole


def test_ranking_metrics_beyond_the_budget_take_fewer_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, truth = single_label(8)
    clips = ScoredClips(scores, np.eye(7)[truth])
    assert interval_document(clips)["ranked_resamples"] == 200
    monkeypatch.setattr("elastictool.metrics.intervals.RANKED_BUDGET", 10)
    assert interval_document(clips)["ranked_resamples"] == 50
    found, named = (bootstrap_intervals(clips, ["map"], resamples=count) for count in (1_000, 50))
    assert found == named


@settings(max_examples=20)
@given(seed=SEEDS, k=st.integers(1, 9))
def test_top_k_equals_brute_force(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(0, 3, (20, 6)).astype(float), rng.random((20, 6)) < 0.3
    expected = []
    for score, target in zip(scores, targets, strict=True):
        ranking = sorted(range(6), key=lambda c: (-score[c], c))[:k]
        expected.append(any(target[c] for c in ranking))
    assert ScoredClips(scores, targets).hits(k).tolist() == expected


@pytest.mark.parametrize("seed", range(40))
def test_intervals_of_a_few_clips_hold_their_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((10, 6)) < 0.15).astype(float)
    targets[0, :3] = 1
    scores = rng.random((10, 6)) + 0.3 * targets
    values = classification_metrics(ScoredClips(scores, targets)).values
    intervals = bootstrap_intervals(ScoredClips(scores, targets), resamples=100)
    assert set(intervals) == set(values)
    for name, (low, high) in intervals.items():
        assert low - 1e-9 <= values[name] <= high + 1e-9
        assert name == "dprime" or (low >= 0 and high <= 1)
    low, high = intervals["map"]
    assert high - low > 0.1, "ten clips say little about mAP"


@pytest.mark.parametrize("right", [True, False])
def test_where_all_clips_agree_the_interval_is_wilsons(right: bool) -> None:
    truth = np.arange(12) % 3
    targets = np.eye(3)[truth]
    found = targets if right else 1 - targets
    intervals = bootstrap_intervals(ScoredClips(found, targets), resamples=50)
    expected = wilson_interval(float(right), 12)
    for name in ("top1", "mean_class_accuracy", "mauc"):
        assert intervals[name] == pytest.approx(expected)
    f1 = f1_intervals(found, ScoredClips(found, targets), resamples=50)
    assert f1["micro_f1"] == f1["macro_f1"] == pytest.approx(expected)


def test_a_mean_over_classes_is_as_sure_as_its_small_classes() -> None:
    truth = np.repeat(np.arange(2), (2, 98))
    targets = np.eye(2)[truth]
    intervals = bootstrap_intervals(ScoredClips(targets, targets), resamples=20)
    assert intervals["top1"] == pytest.approx(wilson_interval(1.0, 100))
    few = 4 / (1 / 2 + 1 / 98)
    assert intervals["mean_class_accuracy"] == pytest.approx(wilson_interval(1.0, few))


def test_the_intervals_of_nearly_perfect_models_hold_the_truth() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        right = rng.random(20) < 0.97
        targets = np.eye(2)[np.zeros(20, dtype=int)]
        scores = np.where(right[:, None], targets, 1 - targets)
        clips = ScoredClips(scores, targets)
        low, high = bootstrap_intervals(clips, ["top1"], resamples=100)["top1"]
        held.append(low <= 0.97 <= high)
    assert np.mean(held) > 0.9, "without Wilson's interval, it was not half of them"


def test_perfect_ranking_has_an_interval_that_ends_at_one() -> None:
    targets = np.eye(4)[np.arange(20) % 4]
    intervals = bootstrap_intervals(ScoredClips(targets, targets), resamples=50)
    assert intervals["map"].high == 1 and intervals["mauc"].high == 1
    assert math.isinf(intervals["dprime"].high)


def test_a_metric_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    top3 = Metric("Top-3 accuracy", lambda clips: clips.top_k(3))
    monkeypatch.setitem(METRICS, "top3", top3)  # type: ignore[arg-type]
    scores, truth = single_label(1)
    targets = np.eye(7)[truth]
    expected = pytest.approx(top_k_accuracy_score(truth, scores, k=3))
    assert classification_metrics(ScoredClips(scores, targets)).values["top3"] == expected
    assert metric_value("top3", ScoredClips(scores, targets)) == expected
    low, high = bootstrap_intervals(ScoredClips(scores, targets), ["top3"])["top3"]
    assert low < metric_value("top3", ScoredClips(scores, targets)) < high
