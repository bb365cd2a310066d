"""The baseline learns what a mean spectrum shows, and nothing from noise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.baseline import LENGTH, SPECTRUM, logistic_baseline
from elastictool.config import FbankConfig
from elastictool.data.store import PreparedStore

RATE = 16_000


class ToneStore:
    """Noisy tones in memory: class = frequency, or several classes at once."""

    def __init__(self, labels: Sequence[tuple[int, ...]], seconds: Sequence[float]) -> None:
        self.labels = labels
        self.num_samples = np.array([round(RATE * length) for length in seconds])
        self.info = SimpleNamespace(sample_rate_hz=RATE, label_names=["low", "middle", "high"])

    def waveform(self, clip: int) -> np.ndarray:
        rng = np.random.default_rng(clip)
        time = np.arange(self.num_samples[clip]) / RATE
        tones = [np.sin(2 * np.pi * (400.0, 1_200.0, 3_000.0)[c] * time) for c in self.labels[clip]]
        noise = rng.normal(size=len(time))
        return (0.1 * sum(tones, noise * 0.3)).astype(np.float32)

    def targets(self, clip: int) -> np.ndarray:
        return np.isin(np.arange(3), self.labels[clip]).astype(np.float32)


def run(store: ToneStore, train: range, test: range, lengths: Sequence[int] = ()) -> dict[str, Any]:
    parts = np.array(train), np.array(test)
    return logistic_baseline(cast(PreparedStore, store), *parts, FbankConfig(), lengths)


def point(result: dict[str, Any], model: str, frames: int | None = None) -> dict[str, Any]:
    (found,) = (p for p in result["points"] if p["model"] == model and p["length_frames"] == frames)
    return cast(dict[str, Any], found)


def test_a_spectrum_is_learnt_and_an_uninformative_length_is_not() -> None:
    rng = np.random.default_rng(0)
    store = ToneStore([(i % 3,) for i in range(90)], rng.uniform(0.2, 0.6, 90).tolist())
    result = run(store, range(60), range(60, 90), [16])
    assert point(result, SPECTRUM)["metrics"]["top1"] == 1.0
    assert point(result, SPECTRUM, 16)["metrics"]["top1"] > 0.9
    assert point(result, LENGTH)["metrics"]["top1"] < 0.7
    assert (result["train_clips"], result["test_clips"]) == (60, 30)
    json.dumps(result, allow_nan=False)


def test_an_informative_length_is_learnt_also_for_a_class_in_the_middle() -> None:
    seconds = [(0.2, 0.4, 0.8)[i % 3] * (1 + 0.01 * (i % 5)) for i in range(60)]
    result = run(ToneStore([(i % 3,) for i in range(60)], seconds), range(45), range(45, 60))
    assert point(result, LENGTH)["metrics"]["top1"] == 1.0


def test_cut_clips_are_scored_by_their_first_frames_only() -> None:
    """Beyond the longest clip a cut changes nothing."""
    store = ToneStore([(i % 3,) for i in range(30)], [0.3] * 30)
    result = run(store, range(21), range(21, 30), [1_000])
    assert point(result, SPECTRUM, 1_000)["metrics"] == point(result, SPECTRUM)["metrics"]


def test_several_labels_and_classes_without_training_clips_are_handled() -> None:
    labels = [((0,), (1,), (0, 1), (1, 2))[i % 4] for i in range(40)]
    store = ToneStore(labels, [0.3] * 40)
    result = run(store, range(28), range(28, 40))
    assert point(result, SPECTRUM)["metrics"]["map"] > 0.9
    absent = ToneStore([(i % 2,) for i in range(20)] + [(2,)] * 5, [0.3] * 25)
    result = run(absent, range(15), range(15, 25))
    assert point(result, SPECTRUM)["metrics"]["top1"] == pytest.approx(0.5)


def test_infinite_dprime_is_null() -> None:
    store = ToneStore([(i % 3,) for i in range(30)], [0.3] * 30)
    metrics = point(run(store, range(21), range(21, 30)), SPECTRUM)["metrics"]
    assert metrics["mauc"] == 1.0 and metrics["dprime"] is None
    assert all(value is None or math.isfinite(value) for value in metrics.values())
