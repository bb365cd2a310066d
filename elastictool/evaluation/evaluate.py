"""Evaluating one run on one split: scores, metrics with intervals, and the files they go to.

A run is evaluated on the clips that its own configuration and seed set aside, through its own
front end. What the numbers depend on (which checkpoint, which data, whether the data are those
of the training) is written beside them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.splits import Splits, select_clips
from elastictool.data.store import PreparedStore
from elastictool.evaluation.confusions import write_confusions
from elastictool.evaluation.multi_label import Decisions, judge_decisions
from elastictool.evaluation.points import model_label
from elastictool.metrics.classification import (
    Metrics,
    classification_metrics,
    confusion_matrix,
)
from elastictool.metrics.classification import class_probabilities as class_probabilities
from elastictool.metrics.intervals import Interval, bootstrap_intervals
from elastictool.models.attention.base import choose_attention
from elastictool.training.predict_logits import Scores, ScoringOptions, score_clips
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import finite as finite
from elastictool.utils.io import write_json, write_rows
from elastictool.utils.progress import SILENT, Progress

OWN = "own"
"""The length that a run was trained at: native lengths, or its fixed number of frames."""
NATIVE = "native"
"""The length at which nothing is padded and only the cap cuts, whatever the run was trained at."""


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        run: Name of the run.
        model: What the model is.
        split: ``train``, ``validation`` or ``test``.
        length: ``own`` (as trained), ``native``, or a number of frames.
        multi_label: Whether a clip may have several classes.
        scores: Logits of each clip.
        metrics: Values and per-class table.
        intervals: 95 % bootstrap intervals over clips, by metric.
        label_names: Classes (C).
        trained_on_these_data: The run's data fingerprint equals the store's; None if unknown.
        decisions: F1 at thresholds; multi-label runs only.
        budget: The run's, see ``LoadedRun.with_tokens``.
        dataset: Name of the data.
        variant: What else is not the run's own, see ``variant``.
        cut_clips: Clips longer than ``limit_frames``, of which the rest was not heard.
        limit_frames: Frames that the model takes of a clip at most.
        weights: Which ones they were, see ``LoadedRun.weights_record``.
        attention: The backend that computed.
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
    decisions: Decisions | None = None
    budget: str = ""
    dataset: str = ""
    variant: str = ""
    cut_clips: int = 0
    limit_frames: int = 0
    weights: Mapping[str, Any] = field(default_factory=dict)
    attention: str = ""

    @property
    def stem(self) -> str:
        """What its result files are called: split, and what is not the run's own."""
        length = "" if self.length == OWN else self.length
        parts = (self.split, length, self.budget, self.variant)
        return "_".join(part for part in parts if part)

    def document(self) -> dict[str, Any]:
        """Plain values for JSON; a value that is not finite becomes None."""
        return {
            "run": self.run,
            "model": self.model,
            "split": self.split,
            "multi_label": self.multi_label,
            "length": self.length,
            "budget": self.budget,
            "dataset": self.dataset,
            "clips": self.metrics.clips,
            "tokens": self.scores.tokens,
            "cut_frames": self.scores.cut_frames,
            "cut_clips": self.cut_clips,
            "limit_frames": self.limit_frames,
            "seconds": round(self.scores.seconds, 3),
            "metrics": {name: finite(value) for name, value in self.metrics.values.items()},
            "intervals": {
                name: [finite(end) for end in ends] for name, ends in self.intervals.items()
            },
            "left_out": self.metrics.left_out,
            **({"decisions": self.decisions.document()} if self.decisions else {}),
            "trained_on_these_data": self.trained_on_these_data,
            "weights": dict(self.weights),
            "attention": self.attention,
            "per_class": self.class_rows(),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """The per-class table, one mapping a class."""
        table = self.metrics.per_class
        columns = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
        columns |= self.decisions.class_columns() if self.decisions else {}
        return [
            {"class": name} | {key: finite(values[index]) for key, values in columns.items()}
            for index, name in enumerate(self.label_names)
        ]


def feature_extractor_at(
    feature_extractor: FeatureExtractor, length: int | str | None
) -> FeatureExtractor:
    """The front end at the run's own length (None), at ``native`` lengths, or at N frames."""
    if length is None:
        return feature_extractor
    if length == NATIVE:
        unpadded = dataclasses.replace(feature_extractor.length, fixed_frames=0)
        return dataclasses.replace(feature_extractor, length=unpadded)
    return feature_extractor.at_length(int(length))


def split_clips(run: LoadedRun, store: PreparedStore, split: str) -> npt.NDArray[np.int64]:
    """The clips of ``split`` as the run's configuration and seed divide the data.

    Raises:
        CheckpointError: The model's classes or sample rate are not those of the data.
        UsageError: There is no such split, or it is empty.
    """
    check_data(run, store)
    return clips_of(run, store, split)


def clips_of(run: LoadedRun, store: PreparedStore, split: str) -> npt.NDArray[np.int64]:
    """As ``split_clips``, for what needs no classifier: other classes and rates will do.

    Raises:
        UsageError: There is no such split, or it is empty.
    """
    parts = select_clips(store, run.config.data, run.config.seed, to_train=False)
    clips = parts[split]
    if len(clips) == 0:
        raise UsageError(
            f"the {split} split of {store.path} is empty for run {run.name}",
            _other_clips(run, store, parts),
        )
    unlabelled = len(np.setdiff1d(clips, store.label_pairs()[0]))
    if unlabelled and not store.info.multi_label:
        raise UsageError(
            f"{unlabelled} of {len(clips)} clips in the {split} split of {store.path} have no "
            "label, so there is nothing to score them by",
            "choose another split with --split (EPIC-SOUNDS publishes no labels of its test part)",
        )
    return clips


def _other_clips(run: LoadedRun, store: PreparedStore, parts: Splits) -> str:
    """A hint at what to score instead of an empty split: never at the clips of the training."""
    trained_on = same_data(run, store) is not False
    names = ("test", "validation") if trained_on else ("test", "validation", "train")
    filled = [name for name in names if len(parts[name])]
    if filled:
        return f"choose another with --split: {', '.join(filled)}"
    folds = sorted({int(fold) for fold in store.folds} - {0})
    if folds and not run.config.data.test_fold:
        return (
            f"its clips are in folds ({', '.join(map(str, folds))}): set one aside when training, "
            f"--set data.test_fold={folds[-1]}"
        )
    if not trained_on:
        return f"its splits are: {', '.join(sorted({str(name) for name in store.splits}))}"
    return "the run was trained on all its clips: name other data with --dataset"


def check_data(run: LoadedRun, store: PreparedStore) -> None:
    """Refuse data whose sample rate, classes or order of classes differ from the model's.

    Raises:
        CheckpointError: They differ; the message names the first difference.
    """
    rate = run.config.fbank.sample_rate_hz
    if store.info.sample_rate_hz != rate:
        raise CheckpointError(
            f"run {run.name} was trained at {rate} Hz, {store.path} is at "
            f"{store.info.sample_rate_hz} Hz",
            "prepare the data at the run's rate, or evaluate on the run's own data (--dataset)",
        )
    expected, found = list(run.label_names), list(store.info.label_names)
    if expected == found:
        return
    places = [i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]]
    detail = (
        f"class {places[0]} is {expected[places[0]]!r} there and {found[places[0]]!r} here"
        if places
        else f"{len(expected)} classes there, {len(found)} here"
    )
    raise CheckpointError(
        f"run {run.name} was trained on other classes than {store.path} has: {detail}",
        "evaluate on the dataset that the run was trained on (--dataset)",
    )


def same_data(run: LoadedRun, store: PreparedStore) -> bool | None:
    """Whether ``store`` is the data that the run was trained on; None where nobody knows."""
    recorded = RunDirectory(run.path).read_fingerprint()
    return recorded == store.info.fingerprint if recorded else None


def variant(run: LoadedRun, store: PreparedStore, checkpoint: str, precision: str) -> str:
    """For file names, what is not as the run was trained: ``on_esc50_averaged_bf16``.

    Empty for the best weights in fp32 on the run's own data, so that no other result takes the
    place of that one. Where nobody recorded the data (a lone checkpoint), their name decides.
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
    workers: int = 0,
    progress: Progress = SILENT,
    checkpoint: str = "best",
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a run on one of its splits.

    Args:
        run: The model and how it was trained.
        store: The data; its classes must be the model's.
        split: ``train``, ``validation`` or ``test``, as the run divides the data.
        length: None for the length that the run was trained at (native for ElasticAST), a
            number of frames, or ``native``.
        precision: ``fp32`` or ``bf16``.
        workers: Loader processes.
        progress: Where to show a bar.
        checkpoint: Which one ``run`` is, for the names of files.
        between: Called before each batch; may raise ``Stopped``.

    Raises:
        CheckpointError: The model's classes are not those of the data.
        UsageError: No such split, or it is empty.
        Stopped: ``between`` raised it.
        ElasticToolError: The model's scores are NaN.
    """
    clips = split_clips(run, store, split)
    dataset = ClipDataset(store, feature_extractor_at(run.feature_extractor, length))
    how = ScoringOptions(workers=workers, progress=progress, between=between, feed=run.feed)
    scores = score_clips(run.model, dataset, clips, precision, **how)
    values = class_probabilities(scores.logits, run.config.train.loss)
    decisions = (
        judge_decisions(run, store, split, values, scores.targets, precision, how)
        if run.multi_label
        else None
    )
    return Evaluation(
        run=run.name,
        model=model_label(run.config),
        split=split,
        length=OWN if length is None else str(length),
        multi_label=run.multi_label,
        scores=scores,
        metrics=classification_metrics(values, scores.targets),
        intervals=bootstrap_intervals(values, scores.targets),
        label_names=tuple(run.label_names),
        trained_on_these_data=same_data(run, store),
        decisions=decisions,
        budget=run.budget,
        dataset=store.info.name,
        variant=variant(run, store, checkpoint, precision),
        cut_clips=int(
            (dataset.native_frames[clips] > dataset.feature_extractor.length.most_frames).sum()
        ),
        limit_frames=dataset.feature_extractor.length.most_frames,
        weights=run.weights_record,
        attention=attention_of(run, precision),
    )


def attention_of(run: LoadedRun, precision: str) -> str:
    """The attention backend that scores clips: what ``auto`` comes to where the model is."""
    config = run.config.model
    return choose_attention(
        run.model.attention,
        str(next(run.model.parameters()).device),
        torch.bfloat16 if precision == "bf16" else torch.float32,
        training=False,
        head_width=config.width // config.heads,
    )


def save_evaluation(run_dir: Path, evaluation: Evaluation, about: Mapping[str, Any]) -> list[Path]:
    """Write ``results/eval_<stem>.json``, a per-class CSV, the confusions.

    The stem is the split and what is not the run's own: length, budget, ``variant``.

    Multi-label runs have no confusion matrix: which wrong class stands for which right one is
    not said by the scores.

    Args:
        run_dir: The run directory.
        evaluation: What to write.
        about: What it depends on beside the run: checkpoint, environment.

    Returns:
        The files.
    """
    stem, results = evaluation.stem, run_dir / "results"
    files = [results / f"eval_{stem}.json", results / f"per_class_{stem}.csv"]
    write_json(files[0], evaluation.document() | dict(about))
    rows = evaluation.class_rows()
    write_rows(files[1], list(rows[0]), rows)
    if not evaluation.multi_label:
        files.append(results / f"confusions_{stem}.csv")
        scores = evaluation.scores
        matrix = confusion_matrix(scores.logits, scores.targets)
        write_confusions(files[2], matrix, evaluation.label_names)
    return files
