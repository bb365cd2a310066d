"""Score the multi-label decisions of an evaluation: F1 at chosen thresholds, and at 0.5.

Thresholds come with the weights, chosen on validation when those were trained. For weights without
thresholds (imported, or saved within an epoch) they are chosen here, on the run's validation clips
at its own length; the evaluated clips never choose. A run without validation clips is scored at 0.5
alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.dataset import ClipDataset
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.metrics.intervals import f1_intervals, score_document
from elastictool.metrics.thresholds import (
    DEFAULT_THRESHOLD,
    F1Scores,
    decide,
    f1_scores,
    filled,
)
from elastictool.metrics.weighted import Array, ScoredClips
from elastictool.training.predict_logits import ScoringOptions, score_clips
from elastictool.training.validation import ChosenThresholds


def score_decisions(
    run: LoadedRun,
    store: PreparedStore,
    split: str,
    clips: ScoredClips,
    precision: str,
    how: ScoringOptions,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Scores the decisions on ``clips`` of ``split``, whose scores are probabilities.

    ``precision`` and ``how`` are for scoring validation clips, where those choose thresholds.

    Returns:
        Plain values for JSON, and columns of the per-class table, each (C,). The values are
        ``thresholds_from`` (the ``weights`` file, the ``validation`` clips, or ``none``),
        ``classes_without_threshold`` (without a positive validation clip, decided at 0.5),
        ``chosen_on_these_clips``, and F1 with 95 % bootstrap intervals:
        ``at_thresholds`` (None without any) and ``at_default``, 0.5 for each class.

    Raises:
        ElasticToolError: The scores of the validation clips are NaN.
        Stopped: By ``how["between"]``.
    """
    source, thresholds = "weights", np.array(run.thresholds)
    if not run.thresholds:
        chosen_on = select_clips(store, run.config.data, run.config.seed, to_train=False).validation
        source = "validation" if len(chosen_on) else "none"
        if len(chosen_on):
            dataset = ClipDataset(store, run.feature_extractor)
            scores = score_clips(run.model, dataset, chosen_on, precision, **how)
            loss = run.config.train.loss
            thresholds = ChosenThresholds.choose(scores, loss, clips.between).values

    def score(at: Array) -> tuple[F1Scores, dict[str, Any]]:
        decisions = decide(clips.scores, at)
        f1 = f1_scores(decisions, clips.labels)
        return f1, score_document(f1.values, f1_intervals(decisions, clips))

    even = np.full(len(run.label_names), DEFAULT_THRESHOLD)
    default, default_document = score(even)
    chosen, document = (default, None) if source == "none" else score(thresholds)
    values = {
        "thresholds_from": source,
        "classes_without_threshold": int(np.isnan(thresholds).sum()),
        "chosen_on_these_clips": source != "none" and split in ("validation", "val"),
        "at_thresholds": document,
        "at_default": default_document,
    }
    columns = {
        "threshold": even if source == "none" else filled(thresholds),
        "decided": chosen.decided,
        "f1": chosen.per_class,
        "f1_at_default": default.per_class,
    }
    return values, columns
