"""Compute validation metrics, choose the best weights by one of them, and choose thresholds.

The thresholds of a multi-label model belong to one set of weights: they are chosen from the scores
that validated these weights, and saved with them. ``results/thresholds.csv`` is a copy to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from elastictool.config import RunConfig
from elastictool.metrics.classification import class_probabilities, classification_metrics
from elastictool.metrics.thresholds import DEFAULT_THRESHOLD, best_thresholds, decide, f1_scores
from elastictool.metrics.weighted import ScoredClips
from elastictool.training.losses import clip_losses
from elastictool.training.predict_logits import Scores
from elastictool.utils.csv_files import write_rows
from elastictool.utils.io import finite

Array = npt.NDArray[np.float64]


def validation_metrics(scores: Scores, config: RunConfig) -> dict[str, float]:
    """Returns mean loss, top-1 and mAP of ``scores``.

    A metric without a value (no labelled clip, no class to rank) is left out.

    Raises:
        ElasticToolError: Scores are not finite.
    """
    # As eval ranks them: the softmax weighs a clip's classes against each other.
    probabilities = class_probabilities(scores.logits, config.train.loss)
    metrics = classification_metrics(ScoredClips(probabilities, scores.targets)).values
    losses = clip_losses(torch.from_numpy(scores.logits), torch.from_numpy(scores.targets), config)
    values = {"loss": float(losses.mean()), "top1": metrics["top1"], "map": metrics["map"]}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def selection_metric(config: RunConfig, multi_label: bool) -> str:
    """Returns the name of the metric that chooses the best weights."""
    automatic = "map" if multi_label else "top1"
    chosen = config.train.selection_metric
    return automatic if chosen == "auto" else chosen


@dataclass(frozen=True)
class ChosenThresholds:
    """Thresholds, and their scores on the clips that they were chosen on; all (C,).

    Attributes:
        values: Thresholds on probabilities; NaN for classes without positives.
        f1: F1 at these thresholds, optimistic because they were chosen on the same clips.
        f1_at_default: F1 at ``DEFAULT_THRESHOLD``.
        positives: Clips that have the class.
    """

    values: Array
    f1: Array
    f1_at_default: Array
    positives: npt.NDArray[np.int64]

    @classmethod
    def choose(
        cls, scores: Scores, loss: str, between: Callable[[], None] = lambda: None
    ) -> ChosenThresholds:
        """Returns the thresholds that maximise each class's F1 on ``scores``.

        ``between`` is called some times a second; it may raise ``Stopped``.
        """
        values = class_probabilities(scores.logits, loss, between)
        thresholds = best_thresholds(values, scores.targets, between)
        return cls(
            values=thresholds,
            f1=f1_scores(decide(values, thresholds), scores.targets).per_class,
            f1_at_default=f1_scores(decide(values, DEFAULT_THRESHOLD), scores.targets).per_class,
            positives=(scores.targets > 0).sum(axis=0),
        )

    def write(self, path: Path, label_names: Sequence[str]) -> None:
        """Writes one line a class; a class without positives has empty cells."""
        columns = {
            "threshold": self.values,
            "validation_positives": self.positives,
            "validation_f1": self.f1,
            "validation_f1_at_default": self.f1_at_default,
        }
        rows = [
            {"class": name} | {key: finite(values[index]) for key, values in columns.items()}
            for index, name in enumerate(label_names)
        ]
        write_rows(path, ["class", *columns], rows)
