"""Score every run at every value of an axis, with each clip decoded once.

A sweep is a grid of cells, one run at one value each, scored by the same loop as ``eval``. Reading
and analysing audio costs as much as the forward pass of a small model, and a sweep has dozens of
cells. So clips are taken in chunks of similar length, their log-mel frames are computed once per
distinct framing, and all cells are scored from memory (``sweep_cells.py``).

The axes (``AXES``) are input lengths (ElasticAST, Figure 4), patch sizes (FlexiAST, Table 1),
frame shifts (ElasticAST, Figure 5) and pooling over time (ElasticAST, Table 1); ``extractor_at``
applies a value of an axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.store import PreparedStore
from elastictool.evaluation.logit_cache import LogitCache
from elastictool.evaluation.points import AXES, SweepPoint, model_label
from elastictool.evaluation.run_data import split_clips
from elastictool.evaluation.sweep_cells import (
    Groups,
    PatchAxesOption,
    Probabilities,
    SweepCell,
    Targets,
    extractor_at,
    score_chunk,
)
from elastictool.metrics.classification import metric_value
from elastictool.metrics.intervals import bootstrap_intervals
from elastictool.metrics.table import METRICS
from elastictool.metrics.weighted import ScoredClips
from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.registry import nearest_hint
from elastictool.utils.text import counted

CHUNK_CLIPS = 32
"""Clips in memory at once: at most 60 MB of samples and 50 MB of log-mel frames at the cap of
3,072 frames, because one framing after the other is scored."""
DEFAULT_LENGTHS = 12
"""Number of lengths of a sweep that names none."""


@dataclass(frozen=True)
class SweepOptions:
    """How to score the cells of a sweep.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        metric: Out of ``METRICS``; ``auto`` is top-1, or mAP for multi-label data.
        precision: ``fp32`` or ``bf16``.
        patch_axes: Axes along which a patch size counts; ``auto`` takes those that a run was
            trained with, and both for runs with one patch size.
        base_shift_ms: Frame shift of compression 1; 0 takes ``shortest_shift_ms``.
        ensemble: Runs whose probabilities, each at its own value, are averaged as one more point.
        known: Points of these runs on these data, of an earlier sweep: not scored again.
        cache: Folder for the logits of an unfinished sweep; the same sweep continues from there.
        progress: Where to show a bar.
        between: Called between batches; may raise ``Stopped``.
    """

    split: str = "test"
    metric: str = "auto"
    precision: str = "fp32"
    patch_axes: PatchAxesOption = "auto"
    base_shift_ms: float = 0.0
    ensemble: Sequence[LoadedRun] = ()
    known: Collection[SweepPoint] = ()
    cache: Path | None = None
    progress: Progress = SILENT
    between: Callable[[], None] = lambda: None


def sweep(
    axis: str,
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    values: Sequence[float],
    options: SweepOptions = SweepOptions(),
) -> list[SweepPoint]:
    """Scores every run at every value of an axis, and at its own.

    Args:
        axis: Out of ``AXES``.
        runs: Models; each is scored on the clips that its own split sets aside.
        store: The data; its classes must be the models'.
        values: Frames, patch sizes, compressions, or frames pooled into one.
        options: How to score.

    Returns:
        For each run its own point (``native``), then its points by value; the ensemble last.
        Without those that are known.

    Raises:
        CheckpointError: A model's classes are not those of the data.
        UsageError: No run, no such axis, split or metric, a value below the axis' least, or an
            ensemble whose members are evaluated on different clips.
        ElasticToolError: A model's scores are NaN.
        Stopped: ``options.between`` raised it.

    Source: ElasticAST Sections 3.3 to 3.5, FlexiAST Section 3.3.
    """
    _check_values(axis, runs, values)
    metric = resolve_metric(options.metric, store.info.multi_label)
    base_shift_ms = options.base_shift_ms or shortest_shift_ms(runs)
    options = dataclasses.replace(options, metric=metric, base_shift_ms=base_shift_ms)
    known = {point.identity for point in options.known}
    cells = [cell for run in runs for cell in _cells(axis, run, store, values, options)]
    cells = [cell for cell in cells if cell.identity not in known]
    members = [_cells(axis, run, store, (), options)[0] for run in options.ensemble]
    _check_members(members)
    if not cells and not members:
        return []
    scored = [*cells, *members]
    cache = LogitCache(options.cache, store, options.precision, options.progress)
    clips = np.unique(np.concatenate([cell.clips for cell in scored]))
    order = clips[np.argsort(store.num_samples[clips], kind="stable")]
    number = counted(len(scored), "point")
    total = sum(len(cell.clips) for cell in scored)
    with options.progress.task(f"sweep: {number}, clips", total) as bar:
        for first in range(0, len(order), CHUNK_CLIPS):
            options.between()
            chunk = order[first : first + CHUNK_CLIPS]
            score_chunk(scored, chunk, cache, bar, options.between)
    points = [_point(cell, store, options) for cell in cells]
    return points + ([_ensemble_point(members, store, options)] if members else [])


def default_lengths(runs: Sequence[LoadedRun], store: PreparedStore, split: str) -> list[int]:
    """Returns about a dozen numbers of frames up to the longest clip of ``split``, whole patches.

    Models that take native lengths were not trained beyond their cap, so nothing lies beyond it.
    Split, frames and patches are those of the first run.

    Raises:
        CheckpointError: The model's classes are not those of the data.
        UsageError: The split is empty.
    """
    first, frames = runs[0].feature_extractor, longest_frames(runs[0], store, split)
    caps = [
        run.feature_extractor.length.max_frames for run in runs if not run.feature_extractor.pads
    ]
    width = first.patch_size[1]
    most = max(1, min(frames, max(caps, default=frames)) // width)
    steps = range(1, DEFAULT_LENGTHS + 1)
    return sorted({max(1, round(most * step / DEFAULT_LENGTHS)) * width for step in steps})


def longest_frames(run: LoadedRun, store: PreparedStore, split: str) -> int:
    """Returns the frames of the longest clip of ``split``, see ``default_lengths``."""
    longest = int(store.num_samples[split_clips(run, store, split)].max())
    return run.feature_extractor.num_frames(longest)


def shortest_shift_ms(runs: Sequence[LoadedRun]) -> float:
    """Returns the shortest frame shift of the runs, the base that runs with several can share."""
    return min(run.feature_extractor.fbank.shift_ms for run in runs)


def resolve_metric(metric: str, multi_label: bool) -> str:
    """Returns the name of a metric, with ``auto`` resolved.

    Raises:
        UsageError: There is no such metric.
    """
    if metric == "auto":
        return "map" if multi_label else "top1"
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}", nearest_hint(metric, list(METRICS)))
    return metric


def _check_values(axis: str, runs: Sequence[LoadedRun], values: Sequence[float]) -> None:
    if axis not in AXES:
        raise UsageError(f"unknown axis {axis!r}", nearest_hint(axis, list(AXES)))
    if not runs:
        raise UsageError("there is no run to sweep", "train one: elastictool train")
    least = AXES[axis].least
    if any(value < least for value in values):
        what = axis.replace("_", " ")
        raise UsageError(f"a {what} of {min(values)} is too small", f"use {least:g} or more")


def _cells(
    axis: str, run: LoadedRun, store: PreparedStore, values: Sequence[float], options: SweepOptions
) -> list[SweepCell]:
    """Returns the cell of the run's own value, then one cell for each value."""
    clips = split_clips(run, store, options.split)
    cells = [SweepCell(axis, run, run.feature_extractor, None, clips)]
    for value in sorted(set(values)):
        extractor = extractor_at(run, axis, value, options.patch_axes, options.base_shift_ms)
        cells.append(SweepCell(axis, run, extractor, value, clips))
    return cells


def _check_members(members: Sequence[SweepCell]) -> None:
    """Requires that the members' probabilities are comparable and of the same clips."""
    if len(members) == 1:
        raise UsageError("an ensemble of one run is that run", "name two runs or more")
    for member in members[1:]:
        name, first = member.run.name, members[0].run.name
        loss, other = member.run.config.train.loss, members[0].run.config.train.loss
        if loss != other:
            raise UsageError(
                f"{name} was trained with train.loss={loss}, {first} with {other}: "
                "probabilities over all classes (ce) and of each class alone (bce) have no mean",
                "an ensemble needs runs with the same train.loss",
            )
        if not np.array_equal(member.clips, members[0].clips):
            raise UsageError(
                f"{name} and {first} set other clips aside, so their mean is not defined",
                "an ensemble needs runs with the same data settings and the same seed, or data "
                "with a split of its own",
            )


def _point(cell: SweepCell, store: PreparedStore, options: SweepOptions) -> SweepPoint:
    scores = _metric(*cell.probabilities(), cell.groups(store), options)
    longest = max(crop.total_frames for crop in cell.crops)
    frames = int(cell.value) if cell.axis == "length" and cell.value else longest
    extractor, axes = cell.run.feature_extractor, cell.run.config.flexi.axes
    own = {
        "length": frames,
        "patch_size": extractor.patch_size[0 if axes == "frequency" else 1],
        "resolution": extractor.fbank.shift_ms / options.base_shift_ms,
    }
    positions, resize = cell.fits
    return SweepPoint(
        model=model_label(cell.run.config),
        run=cell.run.name,
        length_frames=frames,
        length_s=frames * cell.feature_extractor.shift_ms * 0.001,
        metric=options.metric,
        **scores,
        clips=len(cell.crops),
        tokens=sum(scores.tokens for scores in cell.scores),
        seconds=sum(scores.seconds for scores in cell.scores),
        gflops=cell.gflops(),
        positions=positions,
        native=cell.value is None,
        axis=cell.axis,
        x=float(own.get(cell.axis, 1) if cell.value is None else cell.value),
        resize=resize,
    )


def _ensemble_point(
    members: Sequence[SweepCell], store: PreparedStore, options: SweepOptions
) -> SweepPoint:
    """Returns the score of the members' mean probabilities, with summed tokens, time and FLOPs."""
    parts = [_point(member, store, options) for member in members]
    outputs = [member.probabilities() for member in members]
    mean = np.mean([probabilities for probabilities, _ in outputs], axis=0)
    scores = _metric(mean, outputs[0][1], members[0].groups(store), options)
    return dataclasses.replace(
        parts[0],
        model=f"Ensemble of {len(parts)}",
        run=" + ".join(part.run for part in parts),
        **scores,
        tokens=sum(part.tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        gflops=sum(part.gflops for part in parts),
        x=math.nan,
        positions="",
        resize="",
    )


def _metric(
    values: Probabilities, targets: Targets, groups: Groups, options: SweepOptions
) -> dict[str, Any]:
    """Returns the metric, the ends of its bootstrap interval, and the groups that it is over."""
    clips = ScoredClips(values, targets, groups, options.between)
    intervals = bootstrap_intervals(clips, [options.metric], progress=options.progress)
    return {
        "value": metric_value(options.metric, clips),
        **intervals[options.metric]._asdict(),
        "groups": 0 if clips.groups is None else clips.units,
    }
