"""Decision thresholds of a multi-label model: chosen on validation clips, kept with the weights.

Each set of thresholds belongs to one set of weights, so it is chosen from the very scores that
judged those weights and saved in their file; ``results/thresholds.csv`` is the copy for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elastictool.metrics.classification import class_probabilities
from elastictool.metrics.thresholds import DEFAULT_THRESHOLD, best_thresholds, decide, f1_scores
from elastictool.training.predict_logits import Scores
from elastictool.utils.io import finite, write_rows

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChosenThresholds:
    """Thresholds and what they reach on the clips that they were chosen on; all (C,).

    Attributes:
        values: Thresholds on probabilities; NaN for classes without positives.
        f1: F1 at them, flattered by the choice.
        f1_at_default: F1 at ``DEFAULT_THRESHOLD``.
        positives: Clips that have the class.
    """

    values: Array
    f1: Array
    f1_at_default: Array
    positives: npt.NDArray[np.int64]

    @classmethod
    def choose(cls, scores: Scores, loss: str) -> ChosenThresholds:
        """The thresholds that maximise each class's F1 on ``scores``."""
        values = class_probabilities(scores.logits, loss)
        thresholds = best_thresholds(values, scores.targets)
        return cls(
            values=thresholds,
            f1=f1_scores(decide(values, thresholds), scores.targets).per_class,
            f1_at_default=f1_scores(decide(values, DEFAULT_THRESHOLD), scores.targets).per_class,
            positives=(scores.targets > 0).sum(axis=0),
        )

    def write(self, path: Path, label_names: Sequence[str]) -> None:
        """One line a class; what a class without positives has not is left empty."""
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
