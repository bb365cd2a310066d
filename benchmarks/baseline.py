"""Baselines without a sequence model, for comparison in every table.

Logistic regression on the mean and the deviation over time of the log-mel frames, and on the
clip's length alone. On small data such baselines are hard to beat, so a transformer that is
shown without them looks better than it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig
from elastictool.data.store import PreparedStore
from elastictool.metrics.classification import classification_metrics
from elastictool.metrics.intervals import bootstrap_intervals, score_document
from elastictool.metrics.weighted import ScoredClips
from elastictool.utils.progress import SILENT, Progress

SPECTRUM = "Logistic regression (mean, deviation)"
LENGTH = "Logistic regression (clip length)"
MAX_ITERATIONS = 2_000

Features = npt.NDArray[np.float64]
Targets = npt.NDArray[np.float32]


def logistic_baseline(
    store: PreparedStore,
    train: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
    config: FbankConfig,
    lengths: Sequence[int] = (),
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains both baselines on whole clips, tests them on whole clips and on the first N frames.

    Args:
        store: Prepared clips.
        train: Clips to train on.
        test: Clips to test on.
        config: The filterbank.
        lengths: Frames N at which the test clips are cut as well.
        progress: Where to show a bar.

    Returns:
        Plain values: ``points``, a list of ``model``, ``length_frames`` (None: whole clips),
        ``metrics`` and ``intervals``; and the sizes of both parts.
    """
    limits = (None, *lengths)
    with progress.task("baseline features", len(train) + len(test)) as bar:
        fitted = [_clip_statistics(store, clip, config, (None,)) for clip in train.tolist()]
        bar.advance(len(train))
        tested = [_clip_statistics(store, clip, config, limits) for clip in test.tolist()]
        bar.advance(len(test))
    targets = _targets(store, train), _targets(store, test)
    spectrum = _fit(np.stack([statistics[0] for statistics in fitted]), targets[0])
    points = []
    for index, limit in enumerate(limits):
        features = np.stack([statistics[index] for statistics in tested])
        scores = _scores(spectrum, features, targets[1].shape[1])
        points.append(_point(SPECTRUM, limit, scores, targets[1]))
    length = _fit(_length_features(store, train), targets[0])
    scores = _scores(length, _length_features(store, test), targets[1].shape[1])
    points.append(_point(LENGTH, None, scores, targets[1]))
    return {"train_clips": len(train), "test_clips": len(test), "points": points}


def _clip_statistics(
    store: PreparedStore, clip: int, config: FbankConfig, limits: Sequence[int | None]
) -> list[Features]:
    """(2F,) mean and deviation over the first frames of a clip, for each limit."""
    frames = fbank(torch.from_numpy(store.waveform(clip)), config).double()
    return [
        torch.cat((part.mean(dim=0), part.std(dim=0, correction=0))).numpy()
        for part in (frames[:limit] for limit in limits)
    ]


def _length_features(store: PreparedStore, clips: npt.NDArray[np.int64]) -> Features:
    """Length, its logarithm and the square of that: enough for classes that prefer a range."""
    seconds = store.num_samples[clips] / store.info.sample_rate_hz
    return np.stack((seconds, np.log(seconds), np.log(seconds) ** 2), axis=1)


def _targets(store: PreparedStore, clips: npt.NDArray[np.int64]) -> Targets:
    return np.stack([store.targets(clip) for clip in clips.tolist()])


def _fit(features: Features, targets: Targets) -> tuple[Any, npt.NDArray[np.int64]]:
    """A fitted pipeline and the classes of its columns; one-versus-rest for multi-label data."""
    classes = np.flatnonzero(targets.any(axis=0))
    regression: Any = LogisticRegression(max_iter=MAX_ITERATIONS)
    wanted: Any = targets.argmax(axis=1)
    if (targets.sum(axis=1) != 1).any():
        regression, wanted = OneVsRestClassifier(regression), targets[:, classes]
    pipeline = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # accuracy settles long before
        pipeline.fit(features, wanted)
    return pipeline, classes


def _scores(
    fitted: tuple[Any, npt.NDArray[np.int64]], features: Features, num_classes: int
) -> Features:
    """(S, C) probabilities; 0 for classes without a training clip."""
    pipeline, classes = fitted
    scores = np.zeros((len(features), num_classes))
    scores[:, classes] = pipeline.predict_proba(features)
    return scores


def _point(model: str, limit: int | None, scores: Features, targets: Targets) -> dict[str, Any]:
    scored = ScoredClips(scores, targets)
    metrics, intervals = classification_metrics(scored), bootstrap_intervals(scored)
    return {
        "model": model,
        "length_frames": limit,
        "clips": metrics.clips,
        **score_document(metrics.values, intervals),
    }
