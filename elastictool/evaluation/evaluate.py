"""Evaluate one run on one split: scores, metrics with intervals, and result files.

A run is evaluated on the clips that its own configuration and seed set aside, through its own
feature extractor. The files also record what the numbers depend on: the checkpoint, the data, and
whether the run was trained on these data.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.confusions import write_confusions
from elastictool.evaluation.multi_label import score_decisions
from elastictool.evaluation.points import model_label
from elastictool.evaluation.run_data import same_data, split_clips
from elastictool.metrics.classification import (
    Metrics,
    class_probabilities,
    classification_metrics,
    confusion_matrix,
)
from elastictool.metrics.intervals import (
    Interval,
    bootstrap_intervals,
    interval_document,
    score_document,
)
from elastictool.metrics.weighted import ScoredClips
from elastictool.models.attention.base import choose_attention
from elastictool.training.predict_logits import Scores, ScoringOptions, score_clips
from elastictool.utils.csv_files import write_rows
from elastictool.utils.io import finite, write_json
from elastictool.utils.progress import SILENT

if TYPE_CHECKING:
    from typing_extensions import Unpack

OWN = "own"
"""The length that a run was trained at: native lengths, or its fixed number of frames."""
NATIVE = "native"
"""The length at which nothing is padded and only the cap cuts, whatever the run was trained at."""


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        run: Name of the run.
        model: Name of the model, see ``model_label``.
        split: ``train``, ``validation`` or ``test``.
        length: ``own`` (as trained), ``native``, or a number of frames.
        multi_label: Whether a clip may have several classes.
        scores: Logits of each clip.
        metrics: Values and per-class table.
        intervals: 95 % bootstrap intervals, by metric; ``facts["interval"]`` says over what.
        label_names: Classes (C).
        trained_on_these_data: The run's data fingerprint equals the store's; None if unknown.
        decisions: F1 at thresholds, see ``score_decisions``; empty for single-label runs.
        decision_columns: The same by class, (C,) each.
        budget: The run's, see ``LoadedRun.with_tokens``.
        variant: Other differences from the run's own setting, see ``variant``.
        facts: More facts for the document: data, weights, attention backend, clips that were cut.
    """

    run: str
    model: str
    split: str
    length: str
    multi_label: bool
    scores: Scores
    metrics: Metrics
    intervals: dict[str, Interval]
    label_names: tuple[str, ...]
    trained_on_these_data: bool | None
    decisions: Mapping[str, Any] = field(default_factory=dict)
    decision_columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    budget: str = ""
    variant: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Stem of the result files: the split, and what differs from the run's own setting."""
        length = "" if self.length == OWN else self.length
        parts = (self.split, length, self.budget, self.variant)
        return "_".join(part for part in parts if part)

    def document(self) -> dict[str, Any]:
        """Returns plain values for JSON; a value that is not finite becomes None."""
        return {
            "run": self.run,
            "model": self.model,
            "split": self.split,
            "multi_label": self.multi_label,
            "length": self.length,
            "budget": self.budget,
            "clips": self.metrics.clips,
            "tokens": self.scores.tokens,
            "cut_frames": self.scores.cut_frames,
            "seconds": round(self.scores.seconds, 3),
            **score_document(self.metrics.values, self.intervals),
            "left_out": self.metrics.left_out,
            **({"decisions": dict(self.decisions)} if self.decisions else {}),
            "trained_on_these_data": self.trained_on_these_data,
            **self.facts,
            "per_class": self.class_rows(),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Returns the per-class table, one mapping a class."""
        columns = {**vars(self.metrics.per_class), **self.decision_columns}
        return [
            {"class": name} | {key: finite(values[index]) for key, values in columns.items()}
            for index, name in enumerate(self.label_names)
        ]


def feature_extractor_at(
    feature_extractor: FeatureExtractor, length: int | str | None
) -> FeatureExtractor:
    """Returns the extractor at the run's own length (None), at ``native``, or at N frames."""
    if length is None:
        return feature_extractor
    if length == NATIVE:
        unpadded = dataclasses.replace(feature_extractor.length, fixed_frames=0)
        return dataclasses.replace(feature_extractor, length=unpadded)
    return feature_extractor.at_length(int(length))


def variant(run: LoadedRun, store: PreparedStore, checkpoint: str, precision: str) -> str:
    """Returns what differs from the run's own setting, for file names: ``on_esc50_averaged_bf16``.

    Empty for the best weights in fp32 on the run's own data, so that no other result overwrites
    that one. A lone checkpoint records no fingerprint; there the name of the data decides.
    """
    known = same_data(run, store)
    if known is None:
        known = Path(run.config.data.dataset).name == store.path.name
    name = re.sub(r"[^\w.-]+", "-", store.info.name)
    others = (
        "" if known else f"on_{name}",
        "" if checkpoint == "best" else checkpoint,
        "" if precision == "fp32" else precision,
    )
    return "_".join(part for part in others if part)


def evaluate_run(
    run: LoadedRun,
    store: PreparedStore,
    split: str = "test",
    length: int | str | None = None,
    precision: str = "fp32",
    checkpoint: str = "best",
    **how: Unpack[ScoringOptions],
) -> Evaluation:
    """Scores a run on one of its splits.

    Args:
        run: The model and how it was trained.
        store: The data; its classes must be the model's.
        split: ``train``, ``validation`` or ``test``, as the run divides the data.
        length: None for the length that the run was trained at (native for ElasticAST), a
            number of frames, or ``native``.
        precision: ``fp32`` or ``bf16``.
        checkpoint: Which one ``run`` is, for the names of files.
        **how: Workers, progress and stop check, see ``score_clips``.

    Raises:
        CheckpointError: The model's classes are not those of the data.
        UsageError: No such split, or it is empty.
        Stopped: ``between`` raised it.
        ElasticToolError: The model's scores are NaN.
    """
    clips = split_clips(run, store, split)
    dataset = ClipDataset(store, feature_extractor_at(run.feature_extractor, length))
    options: ScoringOptions = {"transfer": run.transfer, **how}
    scores = score_clips(run.model, dataset, clips, precision, **options)
    between = how.get("between", lambda: None)
    values = class_probabilities(scores.logits, run.config.train.loss, between)
    scored = ScoredClips(values, scores.targets, store.groups[clips], between)
    decisions: dict[str, Any] = {}
    columns: dict[str, npt.NDArray[Any]] = {}
    if run.multi_label:
        decisions, columns = score_decisions(run, store, split, scored, precision, options)
    limit = dataset.feature_extractor.length.most_frames
    return Evaluation(
        run=run.name,
        model=model_label(run.config),
        split=split,
        length=OWN if length is None else str(length),
        multi_label=run.multi_label,
        scores=scores,
        metrics=classification_metrics(scored),
        intervals=bootstrap_intervals(scored, progress=how.get("progress", SILENT)),
        label_names=tuple(run.label_names),
        trained_on_these_data=same_data(run, store),
        decisions=decisions,
        decision_columns=columns,
        budget=run.budget,
        variant=variant(run, store, checkpoint, precision),
        facts={
            "dataset": store.info.name,
            "weights": run.weights_record,
            "attention": attention_of(run, precision),
            "interval": interval_document(scored),
            "limit_frames": limit,  # the rest of longer clips is not scored
            "cut_clips": int((dataset.native_frames[clips] > limit).sum()),
        },
    )


def attention_of(run: LoadedRun, precision: str) -> str:
    """Returns the attention backend that scores clips, with ``auto`` resolved."""
    config = run.config.model
    return choose_attention(
        run.model.attention,
        str(next(run.model.parameters()).device),
        torch.bfloat16 if precision == "bf16" else torch.float32,
        training=False,
        head_width=config.width // config.heads,
    )


def save_evaluation(run_dir: Path, evaluation: Evaluation, about: Mapping[str, Any]) -> list[Path]:
    """Writes ``results/eval_<stem>.json``, a CSV by class, and a CSV of confusions.

    Multi-label runs have no confusions: scores do not show which wrong class replaces which
    right one.

    Args:
        run_dir: The run directory.
        evaluation: What to write.
        about: More facts for the document: checkpoint, environment, ``raw_csv``: whether the CSV
            files have labels as they are (see ``write_rows``).

    Returns:
        The files.
    """
    stem, results = evaluation.stem, run_dir / "results"
    files = [results / f"eval_{stem}.json", results / f"per_class_{stem}.csv"]
    write_json(files[0], evaluation.document() | dict(about))
    rows = evaluation.class_rows()
    raw = bool(about.get("raw_csv"))
    write_rows(files[1], list(rows[0]), rows, raw)
    if not evaluation.multi_label:
        files.append(results / f"confusions_{stem}.csv")
        scores = evaluation.scores
        matrix = confusion_matrix(scores.logits, scores.targets)
        write_confusions(files[2], matrix, evaluation.label_names, raw)
    return files
