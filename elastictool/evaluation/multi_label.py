"""Multi-label decisions of an evaluation: F1 at chosen thresholds, and at 0.5.

Thresholds come with the weights, chosen on validation when those were trained. For weights without
thresholds (imported, or saved within an epoch) they are chosen here, on the run's validation clips
at its own length; the evaluated clips never choose. A run without validation clips is scored at 0.5
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.dataset import ClipDataset
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.metrics.intervals import Interval, f1_intervals, score_document
from elastictool.metrics.thresholds import (
    DEFAULT_THRESHOLD,
    F1Scores,
    decide,
    f1_scores,
    filled,
)
from elastictool.metrics.weighted import Array
from elastictool.training.predict_logits import ScoringOptions, score_clips
from elastictool.training.validation import ChosenThresholds

Source = Literal["weights", "validation", "none"]


@dataclass(frozen=True)
class DecisionScores:
    """F1 of the decisions at one set of thresholds, with 95 % bootstrap intervals over clips."""

    thresholds: Array
    scores: F1Scores
    intervals: dict[str, Interval]

    @classmethod
    def at(cls, thresholds: Array, probabilities: Array, targets: npt.ArrayLike) -> DecisionScores:
        """Scores the decisions on (S, C) probabilities at (C,) thresholds."""
        decisions = decide(probabilities, thresholds)
        return cls(
            filled(thresholds), f1_scores(decisions, targets), f1_intervals(decisions, targets)
        )

    def document(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return score_document(self.scores.values, self.intervals)


@dataclass(frozen=True)
class MultiLabelDecisions:
    """Scores of the multi-label decisions of an evaluation.

    Attributes:
        source: Origin of the thresholds: the ``weights`` file, the ``validation`` clips (chosen
            by this evaluation), or ``none`` (a run without validation clips).
        not_chosen: Classes without a positive validation clip, which are decided at 0.5.
        same_clips: The thresholds were chosen on the evaluated clips.
        chosen: At the chosen thresholds; None without any.
        default: At 0.5 for each class.
    """

    source: Source
    not_chosen: int
    same_clips: bool
    chosen: DecisionScores | None
    default: DecisionScores

    def document(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "thresholds_from": self.source,
            "classes_without_threshold": self.not_chosen,
            "chosen_on_these_clips": self.same_clips,
            "at_thresholds": self.chosen and self.chosen.document(),
            "at_default": self.default.document(),
        }

    def class_columns(self) -> dict[str, npt.NDArray[Any]]:
        """Returns columns of the per-class table, each (C,)."""
        chosen = self.chosen or self.default
        return {
            "threshold": chosen.thresholds,
            "decided": chosen.scores.decided,
            "f1": chosen.scores.per_class,
            "f1_at_default": self.default.scores.per_class,
        }


def score_decisions(
    run: LoadedRun,
    store: PreparedStore,
    split: str,
    probabilities: Array,
    targets: npt.ArrayLike,
    precision: str,
    how: ScoringOptions,
) -> MultiLabelDecisions:
    """Scores the decisions on the (S, C) probabilities of the clips of ``split``.

    ``precision`` and ``how`` are for scoring validation clips, where those choose thresholds.

    Raises:
        ElasticToolError: The scores of the validation clips are NaN.
        Stopped: By ``how["between"]``.
    """
    source: Source = "weights"
    thresholds = np.array(run.thresholds)
    if not run.thresholds:
        clips = select_clips(store, run.config.data, run.config.seed, to_train=False).validation
        source = "validation" if len(clips) else "none"
        if len(clips):
            dataset = ClipDataset(store, run.feature_extractor)
            scores = score_clips(run.model, dataset, clips, precision, **how)
            thresholds = ChosenThresholds.choose(scores, run.config.train.loss).values
    chosen = source != "none"
    default = np.full(len(run.label_names), DEFAULT_THRESHOLD)
    return MultiLabelDecisions(
        source=source,
        not_chosen=int(np.isnan(thresholds).sum()),
        same_clips=chosen and split in ("validation", "val"),
        chosen=DecisionScores.at(thresholds, probabilities, targets) if chosen else None,
        default=DecisionScores.at(default, probabilities, targets),
    )
