"""Every run at every length (ElasticAST, Figure 4), with each clip decoded and analysed once.

Reading and analysing audio costs as much as a small model's forward pass, and a sweep has dozens
of points: so clips are taken in chunks of similar length, their log-mel frames are computed once
per distinct filterbank, and all points are scored from memory. Where a length cuts no clip of a
chunk, the views equal those of a longer point and their logits are taken from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig
from elastictool.data.dataset import ClipDataset, ClipView, FrontEnd
from elastictool.data.store import PreparedStore
from elastictool.errors import UsageError
from elastictool.evaluation.cost import forward_flops
from elastictool.evaluation.evaluate import class_probabilities, split_clips
from elastictool.evaluation.points import SweepPoint, model_label
from elastictool.metrics.classification import (
    METRIC_LABELS,
    classification_metrics,
    mean_average_precision,
    top_k_accuracy,
)
from elastictool.metrics.intervals import Interval, bootstrap_intervals
from elastictool.progress import SILENT, Progress, Task
from elastictool.registry import nearest_hint
from elastictool.training.checkpoint import LoadedRun
from elastictool.training.scoring import Scores, score_clips

CHUNK_CLIPS = 32
"""Clips in memory at once: at most 50 MB of log-mel frames at the cap of 3,072 frames."""


Views = tuple[ClipView, ...]
Indices = npt.NDArray[np.int64]


@dataclass
class _Setting:
    """One run at one length (None: its own) on its clips, and what they have given so far."""

    run: LoadedRun
    front_end: FrontEnd
    length_frames: int | None
    clips: Indices
    views: list[ClipView] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.run.name} at {self.length_frames or 'its own length'}"

    def views_of(self, chunk: Indices, store: PreparedStore) -> Views:
        """Views of those clips of ``chunk`` that the run is evaluated on."""
        count = self.front_end.fbank.num_frames
        return tuple(
            self.front_end.view(clip, count(int(store.num_samples[clip])))
            for clip in np.intersect1d(chunk, self.clips).tolist()
        )

    def add(self, views: Views, scores: Scores) -> None:
        """Keep the scores of a chunk."""
        self.views.extend(views)
        self.scores.append(scores)


class _AnalysedClips(ClipDataset):
    """Clips whose log-mel frames are already in memory."""

    def __init__(
        self, store: PreparedStore, front_end: FrontEnd, frames: Mapping[int, Tensor]
    ) -> None:
        super().__init__(store, front_end)
        self._analysed = frames

    def _frames(self, view: ClipView) -> tuple[Tensor, ClipView]:
        return self._analysed[view.clip], view


def sweep_lengths(
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    lengths: Sequence[int],
    split: str = "test",
    metric: str = "auto",
    precision: str = "fp32",
    progress: Progress = SILENT,
) -> list[SweepPoint]:
    """Score every run at every length, and at its own.

    Native-length models (ElasticAST) trim longer clips and never pad; fixed-length models trim
    and pad, their positions fitted as each run's ``model.position_fit`` says.

    Args:
        runs: Models; each is scored on the clips that it sets aside itself.
        store: The data; its classes must be the models'.
        lengths: Frames.
        split: ``train``, ``validation`` or ``test``.
        metric: Out of ``METRIC_LABELS``; ``auto`` is top-1, or mAP for multi-label data.
        precision: ``fp32`` or ``bf16``.
        progress: Where to show a bar.

    Returns:
        For each run its own point (``native``), then its points by length.

    Raises:
        CheckpointError: A model's classes are not those of the data.
        UsageError: No run, no such split or metric, or a length below one frame.
        ElasticToolError: A model's scores are NaN.

    Source: ElasticAST Section 3.3.
    """
    metric = _checked(runs, lengths, metric, store.info.multi_label)
    settings = [setting for run in runs for setting in _settings(run, store, lengths, split)]
    everything = np.unique(np.concatenate([setting.clips for setting in settings]))
    order = everything[np.argsort(store.num_samples[everything], kind="stable")]
    total = sum(len(setting.clips) for setting in settings)
    with progress.task(f"sweeping {len(settings)} points", total) as bar:
        for first in range(0, len(order), CHUNK_CLIPS):
            _score_chunk(settings, store, order[first : first + CHUNK_CLIPS], precision, bar)
    return [_point(setting, metric) for setting in settings]


def _checked(
    runs: Sequence[LoadedRun], lengths: Sequence[int], metric: str, multi_label: bool
) -> str:
    if not runs:
        raise UsageError("there is no run to sweep", "train one: elastictool train")
    if any(length < 1 for length in lengths):
        raise UsageError(f"a length of {min(lengths)} frames is no length", "use 1 or more")
    if metric == "auto":
        return "map" if multi_label else "top1"
    if metric not in METRIC_LABELS:
        raise UsageError(f"unknown metric {metric!r}", nearest_hint(metric, list(METRIC_LABELS)))
    return metric


def _settings(
    run: LoadedRun, store: PreparedStore, lengths: Sequence[int], split: str
) -> list[_Setting]:
    clips = split_clips(run, store, split)
    at_lengths = [
        _Setting(run, run.front_end.at_length(frames), frames, clips)
        for frames in sorted(set(lengths))
    ]
    return [_Setting(run, run.front_end, None, clips), *at_lengths]


def _score_chunk(
    settings: Sequence[_Setting], store: PreparedStore, chunk: Indices, precision: str, bar: Task
) -> None:
    """Score a chunk of clips at all settings; equal views of one run are scored once."""
    views = [setting.views_of(chunk, store) for setting in settings]
    frames = _analyse(settings, views, store)
    known: dict[tuple[int, Views], Scores] = {}
    for setting, wanted in zip(settings, views, strict=True):
        if not wanted:
            continue
        key = (id(setting.run), wanted)
        if key not in known:
            clips = _AnalysedClips(store, setting.front_end, frames[setting.front_end.fbank])
            known[key] = score_clips(
                setting.run.model, clips, [view.clip for view in wanted], precision
            )
        setting.add(wanted, known[key])
        bar.advance(len(wanted), setting.label)


def _analyse(
    settings: Sequence[_Setting], views: Sequence[Views], store: PreparedStore
) -> dict[FbankConfig, dict[int, Tensor]]:
    """Log-mel frames of each clip per distinct filterbank, from one decoding of the clip."""
    needed: dict[int, dict[FbankConfig, int]] = {}
    for setting, wanted in zip(settings, views, strict=True):
        config = setting.front_end.fbank
        for view in wanted:
            frames = needed.setdefault(view.clip, {})
            frames[config] = max(frames.get(config, 0), view.num_frames)
    analysed: dict[FbankConfig, dict[int, Tensor]] = {}
    for clip, configs in needed.items():
        stop = max(config.samples_for(frames) for config, frames in configs.items())
        waveform = store.waveform(clip, 0, stop)
        for config in configs:
            frames_of_clip = fbank(torch.from_numpy(waveform), config)
            analysed.setdefault(config, {})[clip] = frames_of_clip
    return analysed


def _point(setting: _Setting, metric: str) -> SweepPoint:
    run, front_end = setting.run, setting.front_end
    value, interval = _metric(setting, metric)
    longest = max(view.total_frames for view in setting.views)
    length_frames = setting.length_frames or longest
    patches = [front_end.num_patches(view) for view in setting.views]
    return SweepPoint(
        model=model_label(run.config),
        run=run.name,
        length_frames=length_frames,
        length_s=length_frames * front_end.fbank.shift_ms * 0.001,
        metric=metric,
        value=value,
        low=interval.low,
        high=interval.high,
        clips=len(setting.views),
        tokens=sum(scores.tokens for scores in setting.scores),
        seconds=sum(scores.seconds for scores in setting.scores),
        gflops=sum(forward_flops(run.config.model, count) for count in patches) / 1e9,
        positions=run.config.model.position_fit if run.config.model.positions == "grid" else "",
        native=setting.length_frames is None,
    )


def _metric(setting: _Setting, metric: str) -> tuple[float, Interval]:
    """The metric and its interval over the clips, in the order of the store as in ``eval``."""
    order = np.argsort([view.clip for view in setting.views])
    logits = np.concatenate([scores.logits for scores in setting.scores])[order]
    targets = np.concatenate([scores.targets for scores in setting.scores])[order]
    values = class_probabilities(logits, setting.run.config.train.loss)
    if metric in ("top1", "top5"):
        value = top_k_accuracy(values, targets, int(metric[-1]))
    elif metric == "map":
        value = mean_average_precision(values, targets)
    else:
        value = classification_metrics(values, targets).values[metric]
    intervals = bootstrap_intervals(values, targets, [metric])
    return value, intervals.get(metric, Interval(math.nan, math.nan))
