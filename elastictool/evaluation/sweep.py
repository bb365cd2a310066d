"""Every run at every length, patch size or resolution, with each clip decoded once.

Reading and analysing audio costs as much as a small model's forward pass, and a sweep has dozens
of points: so clips are taken in chunks of similar length, their log-mel frames are computed once
per distinct analysis, and all points are scored from memory. Where a length cuts no clip of a
chunk, the views equal those of a longer point and their logits are taken from there.

What is swept is a function from a run and a value to a front end (``sweep_lengths``: ElasticAST,
Figure 4; ``sweep_patch_sizes``: FlexiAST, Table 1; resolutions are in ``resolutions.py``); the
rest is the same for every axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from elastictool.checkpoint.weights import LoadedRun
from elastictool.config import PatchAxes
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import split_clips
from elastictool.evaluation.logit_cache import KeptScores
from elastictool.evaluation.points import AXES, SweepPoint, model_label
from elastictool.evaluation.sweep_chunks import Probabilities, Setting, Targets, score_chunk
from elastictool.metrics.classification import (
    METRIC_LABELS,
    classification_metrics,
    mean_average_precision,
    top_k_accuracy,
)
from elastictool.metrics.intervals import Interval, bootstrap_intervals
from elastictool.packing.grid import patch_size_along
from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.registry import nearest_hint

if TYPE_CHECKING:
    from typing_extensions import Unpack

CHUNK_CLIPS = 32
"""Clips in memory at once: at most 60 MB of samples and 50 MB of log-mel frames at the cap of
3,072 frames, because one analysis after the other is scored."""


Along = PatchAxes | Literal["auto"]
"""Axes along which a patch size counts; ``auto`` is what a run was trained with, else both."""


class SweepOptions(TypedDict, total=False):
    """What every sweep takes; see ``sweep``."""

    split: str
    metric: str
    precision: str
    progress: Progress
    ensemble: Sequence[LoadedRun]
    known: Collection[SweepPoint]
    keep: Path | None
    between: Callable[[], None]


@dataclass(frozen=True)
class SweepAxis:
    """What a sweep varies.

    Attributes:
        axis: Its name, out of ``AXES``.
        at: A run's front end at a value.
        own: Where a run's own setting lies on the axis, given the frames of its longest clip.
    """

    axis: str
    at: Callable[[LoadedRun, float], FeatureExtractor]
    own: Callable[[LoadedRun, int], float]


def sweep_lengths(
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    lengths: Sequence[int],
    **options: Unpack[SweepOptions],
) -> list[SweepPoint]:
    """Score every run at every length, and at its own.

    Native-length models (ElasticAST) trim longer clips and never pad; fixed-length models trim
    and pad, their positions fitted as each run's ``model.pos_embed_fit`` says. ``lengths`` are
    frames; everything else is as in ``sweep``.

    Source: ElasticAST Section 3.3.
    """

    def at(run: LoadedRun, frames: float) -> FeatureExtractor:
        return run.feature_extractor.at_length(int(frames))

    swept = SweepAxis("length", at, lambda run, frames: frames)
    return sweep(swept, runs, store, lengths, **options)


def sweep_patch_sizes(
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    sizes: Sequence[int],
    axes: Along = "auto",
    **options: Unpack[SweepOptions],
) -> list[SweepPoint]:
    """Score every run at every patch size, and at its own.

    Kernels are resized as each run's ``model.resize`` says, positions bilinearly; clips have the
    length that the run was trained at. ``axes`` says along which axes a size counts: ``auto`` is
    what the run was trained with, both for runs with one patch size. Everything else is as in
    ``sweep``.

    Source: FlexiAST Section 3.3.
    """

    def at(run: LoadedRun, size: float) -> FeatureExtractor:
        along = run.config.flexi.axes if axes == "auto" else axes
        own = run.feature_extractor.patch_size
        return run.feature_extractor.at_patch_size(patch_size_along(along, int(size), own))

    def own_size(run: LoadedRun, frames: int) -> float:
        frequency, time = run.feature_extractor.patch_size
        return frequency if run.config.flexi.axes == "frequency" else time

    swept = SweepAxis("patch_size", at, own_size)
    return sweep(swept, runs, store, sizes, **options)


def sweep(
    swept: SweepAxis,
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    values: Sequence[float],
    split: str = "test",
    metric: str = "auto",
    precision: str = "fp32",
    progress: Progress = SILENT,
    ensemble: Sequence[LoadedRun] = (),
    known: Collection[SweepPoint] = (),
    keep: Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[SweepPoint]:
    """Score every run at every value of an axis, and at its own.

    Args:
        swept: What is varied.
        runs: Models; each is scored on the clips that it sets aside itself.
        store: The data; its classes must be the models'.
        values: Where to score.
        split: ``train``, ``validation`` or ``test``.
        metric: Out of ``METRIC_LABELS``; ``auto`` is top-1, or mAP for multi-label data.
        precision: ``fp32`` or ``bf16``.
        progress: Where to show a bar.
        ensemble: Runs whose probabilities, each at its own setting, are averaged as one more row.
        known: Points of these runs on these data, of an earlier sweep: not scored again.
        keep: Folder for what is scored so far; the same sweep goes on from there.
        between: Called between batches; may raise ``Stopped``.

    Returns:
        For each run its own point (``native``), then its points by value; the ensemble last.
        Without those that are known.

    Raises:
        CheckpointError: A model's classes are not those of the data.
        UsageError: No run, no such split or metric, a value below the axis' least, or an
            ensemble whose members are evaluated on different clips.
        ElasticToolError: A model's scores are NaN.
        Stopped: ``between`` raised it.
    """
    metric = _checked(swept.axis, runs, values, metric, store.info.multi_label)
    done = {point.identity for point in known}
    asked = [s for run in runs for s in _settings(run, store, swept, values, split)]
    settings = [setting for setting in asked if setting.identity not in done]
    members = [_settings(run, store, swept, (), split)[0] for run in ensemble]
    _check_members(members)
    scored = [*settings, *members]
    if not scored:
        return []
    kept = KeptScores(keep, store, precision, progress)
    everything = np.unique(np.concatenate([setting.clips for setting in scored]))
    order = everything[np.argsort(store.num_samples[everything], kind="stable")]
    total = sum(len(setting.clips) for setting in scored)
    what = "one point, clips" if len(scored) == 1 else f"{len(scored)} points, clips at all"
    with progress.task(f"sweeping {what}", total) as bar:
        for first in range(0, len(order), CHUNK_CLIPS):
            between()
            chunk = order[first : first + CHUNK_CLIPS]
            score_chunk(scored, store, chunk, precision, bar, kept, between)
    points = [_point(swept, setting, metric) for setting in settings]
    return points + ([_ensemble_point(swept, members, metric)] if members else [])


def no_run() -> UsageError:
    """The error of a sweep without runs."""
    return UsageError("there is no run to sweep", "train one: elastictool train")


def known_metric(metric: str, multi_label: bool) -> str:
    """The name of the metric that ``metric`` stands for.

    Raises:
        UsageError: There is none.
    """
    if metric == "auto":
        return "map" if multi_label else "top1"
    if metric not in METRIC_LABELS:
        raise UsageError(f"unknown metric {metric!r}", nearest_hint(metric, list(METRIC_LABELS)))
    return metric


def _checked(
    axis: str, runs: Sequence[LoadedRun], values: Sequence[float], metric: str, multi_label: bool
) -> str:
    if not runs:
        raise no_run()
    least = AXES[axis].least
    if any(value < least for value in values):
        what = axis.replace("_", " ")
        raise UsageError(f"a {what} of {min(values)} is no {what}", f"use {least:g} or more")
    return known_metric(metric, multi_label)


def _settings(
    run: LoadedRun, store: PreparedStore, swept: SweepAxis, values: Sequence[float], split: str
) -> list[Setting]:
    clips = split_clips(run, store, split)
    others = [(swept.at(run, value), value) for value in sorted(set(values))]
    return [
        Setting(swept.axis, run, feature_extractor, value, clips)
        for feature_extractor, value in [(run.feature_extractor, None), *others]
    ]


def _check_members(members: Sequence[Setting]) -> None:
    if len(members) == 1:
        raise UsageError("an ensemble of one run is that run", "name two runs or more")
    for member in members[1:]:
        _check_pair(members[0], member)


def _check_pair(first: Setting, second: Setting) -> None:
    """Two members must answer the same question about the same clips."""
    names = second.run.name, first.run.name
    losses = second.run.config.train.loss, first.run.config.train.loss
    if losses[0] != losses[1]:
        raise UsageError(
            f"{names[0]} was trained with train.loss={losses[0]}, {names[1]} with {losses[1]}: "
            "chances of one class among all (ce) and of each class by itself (bce) have no mean",
            "an ensemble needs runs with the same train.loss",
        )
    if not np.array_equal(second.clips, first.clips):
        raise UsageError(
            f"{names[0]} and {names[1]} set other clips aside, so they cannot answer together",
            "an ensemble needs runs with the same data settings and the same seed, or data "
            "with a split of its own",
        )


def _point(swept: SweepAxis, setting: Setting, metric: str) -> SweepPoint:
    run, feature_extractor, axis = setting.run, setting.feature_extractor, swept.axis
    value, interval = _metric(*setting.answers(), metric)
    longest = max(view.total_frames for view in setting.views)
    frames = int(setting.value) if axis == "length" and setting.value else longest
    return SweepPoint(
        model=model_label(run.config),
        run=run.name,
        length_frames=frames,
        length_s=frames * feature_extractor.framing.shift_ms * 0.001,
        metric=metric,
        value=value,
        low=interval.low,
        high=interval.high,
        clips=len(setting.views),
        tokens=sum(scores.tokens for scores in setting.scores),
        seconds=sum(scores.seconds for scores in setting.scores),
        gflops=setting.gflops(),
        positions=setting.ways[0],
        native=setting.value is None,
        axis=axis,
        setting=float(swept.own(run, frames) if setting.value is None else setting.value),
        resize=setting.ways[1],
    )


def _ensemble_point(swept: SweepAxis, members: Sequence[Setting], metric: str) -> SweepPoint:
    """The mean of the members' probabilities; cost is the sum of theirs."""
    parts = [_point(swept, member, metric) for member in members]
    answers = [member.answers() for member in members]
    mean = np.mean([probabilities for probabilities, _ in answers], axis=0)
    value, interval = _metric(mean, answers[0][1], metric)
    return dataclasses.replace(
        parts[0],
        model=f"Ensemble of {len(parts)}",
        run=" + ".join(part.run for part in parts),
        value=value,
        low=interval.low,
        high=interval.high,
        tokens=sum(part.tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        gflops=sum(part.gflops for part in parts),
        setting=math.nan,
        positions="",
        resize="",
    )


def _metric(values: Probabilities, targets: Targets, metric: str) -> tuple[float, Interval]:
    """The metric and its bootstrap interval over the clips."""
    if metric in ("top1", "top5"):
        value = top_k_accuracy(values, targets, int(metric[-1]))
    elif metric == "map":
        value = mean_average_precision(values, targets)
    else:
        value = classification_metrics(values, targets).values[metric]
    intervals = bootstrap_intervals(values, targets, [metric])
    return value, intervals.get(metric, Interval(math.nan, math.nan))
