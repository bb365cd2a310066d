"""Multi-label decisions of an evaluation: F1 at chosen thresholds, and at 0.5 beside it.

Thresholds come with the weights, chosen on validation when those were trained. Weights without
them (older, imported, saved within an epoch) get theirs here, from the run's validation clips at
its own length; the clips that are judged never choose. A run without validation clips is judged
at 0.5 alone.
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
from elastictool.metrics.classification import Array
from elastictool.metrics.intervals import Interval, f1_intervals
from elastictool.metrics.thresholds import (
    DEFAULT_THRESHOLD,
    F1Scores,
    decide,
    f1_scores,
    filled,
)
from elastictool.training.predict_logits import ScoringOptions, score_clips
from elastictool.training.thresholds import ChosenThresholds
from elastictool.utils.io import finite

Source = Literal["weights", "validation", "none"]


@dataclass(frozen=True)
class Judged:
    """Decisions at one set of thresholds, and their 95 % bootstrap intervals over clips."""

    thresholds: Array
    scores: F1Scores
    intervals: dict[str, Interval]

    @classmethod
    def at(cls, thresholds: Array, probabilities: Array, targets: npt.ArrayLike) -> Judged:
        """Judge (S, C) probabilities against (S, C) targets at (C,) thresholds."""
        decisions = decide(probabilities, thresholds)
        return cls(
            filled(thresholds), f1_scores(decisions, targets), f1_intervals(decisions, targets)
        )

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metrics": {name: finite(value) for name, value in self.scores.values.items()},
            "intervals": {
                name: [finite(end) for end in ends] for name, ends in self.intervals.items()
            },
        }


@dataclass(frozen=True)
class Decisions:
    """What an evaluation says about multi-label decisions.

    Attributes:
        source: Where the thresholds are from: the ``weights`` file, the ``validation`` clips just
            now, or ``none`` (a run without validation clips).
        not_chosen: Classes without a positive validation clip, which are decided at 0.5.
        same_clips: The thresholds were chosen on the very clips that are judged.
        chosen: At the chosen thresholds; None without any.
        default: At 0.5 for each class.
    """

    source: Source
    not_chosen: int
    same_clips: bool
    chosen: Judged | None
    default: Judged

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "thresholds_from": self.source,
            "classes_without_threshold": self.not_chosen,
            "chosen_on_these_clips": self.same_clips,
            "at_thresholds": self.chosen and self.chosen.document(),
            "at_default": self.default.document(),
        }

    def class_columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns of the per-class table, each (C,)."""
        chosen = self.chosen or self.default
        return {
            "threshold": chosen.thresholds,
            "decided": chosen.scores.decided,
            "f1": chosen.scores.per_class,
            "f1_at_default": self.default.scores.per_class,
        }


def judge_decisions(
    run: LoadedRun,
    store: PreparedStore,
    split: str,
    probabilities: Array,
    targets: npt.ArrayLike,
    precision: str,
    how: ScoringOptions,
) -> Decisions:
    """Decide on the (S, C) probabilities of the clips of ``split`` and judge the decisions.

    ``precision`` and ``how`` are for scoring validation clips, where those choose thresholds.

    Raises:
        ElasticToolError: The scores of the validation clips are NaN.
        Stopped: By ``how["between"]``.
    """
    source, thresholds = _thresholds(run, store, precision, how)
    default = np.full(len(run.label_names), DEFAULT_THRESHOLD)
    judged = source != "none"
    return Decisions(
        source=source,
        not_chosen=int(np.isnan(thresholds).sum()) if judged else 0,
        same_clips=judged and split in ("validation", "val"),
        chosen=Judged.at(thresholds, probabilities, targets) if judged else None,
        default=Judged.at(default, probabilities, targets),
    )


def _thresholds(
    run: LoadedRun, store: PreparedStore, precision: str, how: ScoringOptions
) -> tuple[Source, Array]:
    if run.thresholds:
        return "weights", np.array(run.thresholds)
    clips = select_clips(store, run.config.data, run.config.seed, to_train=False).validation
    if not len(clips):
        return "none", np.full(len(run.label_names), np.nan)
    dataset = ClipDataset(store, run.feature_extractor)
    scores = score_clips(run.model, dataset, clips, precision, **how)
    return "validation", ChosenThresholds.choose(scores, run.config.train.loss).values
