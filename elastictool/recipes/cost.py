"""Estimate what a plan costs before it runs: clips, tokens, operations, hours on this machine.

Operations follow from settings and clip lengths (``evaluation/flops.py``); hours are operations
divided by a throughput measured on the trainings that are finished, or on a few training steps of
the model. Clip lengths are those of the prepared data; before preparation, the number of clips of
the complete corpus at their mean length. Decoding, filterbanks (a few milliseconds per 10 s of
audio) and validation are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.config import ModelConfig, RunConfig
from elastictool.evaluation.flops import forward_flops
from elastictool.packing.grid import grid_shape, patch_size_along, scaled_stride
from elastictool.recipes.plan import Plan, Step

TRAINING_PASSES = 3
"""Forward and backward in units of a forward pass."""
MEASURED_FRAMES = 256
MEASURED_CLIPS = (4, 96)
"""On a CPU, on a GPU: 128 tokens each."""

Frames = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    """Clips and tokens that pass a model (prep: clips that are read), and operations."""

    clips: int = 0
    tokens: int = 0
    gflops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.clips + other.clips, self.tokens + other.tokens, self.gflops + other.gflops
        )


def plan_costs(plan: Plan) -> dict[str, Cost]:
    """Returns the cost of each step by its name."""
    lengths = _Lengths(plan)
    return {step.name: _cost(step, plan, lengths) for step in plan.steps}


def _cost(step: Step, plan: Plan, lengths: _Lengths) -> Cost:
    if step.kind == "prep":
        return Cost(clips=lengths.total(step))
    if step.kind == "train":
        return _training(step, plan, lengths)
    total = Cost()
    variants = max(1, len(step.settings["resize"])) if step.kind == "sweep" else 1
    for role, name in step.inputs.items():
        if step.kind in ("eval", "sweep") and role.partition(":")[0] == "run":
            run = _named(plan, name)
            config, frames = _config(run), lengths.frames(run, "test")
            total += _scaled(_forward(config, frames), variants)
            for value in step.settings.get("values", ()):
                total += _scaled(_at(step.settings, config, frames, value), variants)
    return total


def _training(step: Step, plan: Plan, lengths: _Lengths) -> Cost:
    """Returns the cost of all epochs; the mean over the patch sizes and resolutions drawn."""
    config, frames = _config(step), lengths.frames(step, "train")
    if config.data.epoch_clips:
        frames = np.resize(frames, config.data.epoch_clips)
    sizes = config.flexi.sizes or (0,)
    compressions = config.augment.resolution.compressions or (1.0,)
    parts = [_forward(config, frames, size, c) for size in sizes for c in compressions]
    diversity = config.augment.length_diversity
    mean = _scaled(sum(parts, Cost()), 1 / len(parts))
    if diversity.share and diversity.mode == "add":
        # The mean length of crops that are log-uniform between the least and the clip's.
        least = diversity.min_frames
        long = np.maximum(frames, least + 1).astype(np.float64)
        crops = np.rint((long - least) / np.log(long / least)).astype(np.int64)
        mean += _scaled(_forward(config, np.maximum(crops, 1)), diversity.share)
    gflops = TRAINING_PASSES * mean.gflops
    if "teacher" in step.inputs:
        teacher = _config(_named(plan, step.inputs["teacher"]))
        gflops += _forward(teacher, frames).gflops
    return _scaled(Cost(mean.clips, mean.tokens, gflops), config.train.epochs)


def _at(settings: Mapping[str, Any], config: RunConfig, frames: Frames, value: float) -> Cost:
    """Returns the cost of a forward pass over the clips at one value of a sweep."""
    axis = settings["axis"]
    if axis == "patch_size":
        return _forward(config, frames, int(value), axes=settings["axes"])
    if axis == "length":
        limit = "fixed_frames" if config.length.fixed_frames else "max_frames"
        change: dict[str, Any] = {limit: int(value)}
        length = dataclasses.replace(config.length, **change)
        return _forward(dataclasses.replace(config, length=length), frames)
    base = settings["base_shift_ms"] or config.fbank.shift_ms
    own = config.fbank.shift_ms if axis == "resolution" else base
    return _forward(config, frames, compression=value * base / own)


def _forward(
    config: RunConfig, frames: Frames, size: int = 0, compression: float = 1.0, axes: str = "auto"
) -> Cost:
    """Returns the cost of a forward pass over clips of ``frames`` (n,) native frames.

    Args:
        config: The run.
        frames: Before limits.
        size: Patch size; 0 for the run's own.
        compression: Factor of the frame shift.
        axes: Axes along which the size counts; ``auto`` as the run was trained.
    """
    length, model = config.length, config.model
    limit = length.most_frames
    seen = np.full_like(frames, limit) if length.fixed_frames else np.minimum(frames, limit)
    seen = np.maximum((seen / compression).astype(np.int64), 1)
    patch = model.patch_size
    if size:
        along: Any = config.flexi.axes if axes == "auto" else axes
        patch = patch_size_along(along, size, model.patch_size)
    stride = scaled_stride(model.patch_size, model.patch_stride, patch)
    tokens = flops = 0
    for count, clips in zip(*np.unique(seen, return_counts=True), strict=True):
        grid = grid_shape(int(count), model.num_mel_bins, patch, stride, length.edge)
        tokens += int(clips) * math.prod(grid)
        flops += int(clips) * forward_flops(model, math.prod(grid), patch)
    return Cost(len(frames), tokens, flops / 1e9)


def _scaled(cost: Cost, factor: float) -> Cost:
    return Cost(round(cost.clips * factor), round(cost.tokens * factor), cost.gflops * factor)


def _config(step: Step) -> RunConfig:
    if step.config is None:
        raise ValueError(f"{step.name} is no training")
    return step.config


def _named(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


class _Lengths:
    """Clip lengths of the runs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stores: dict[str, Any] = {}

    def total(self, prep: Step) -> int:
        """Returns the number of clips to prepare; 0 if unknown."""
        if self._store(prep) is not None:
            return len(self._store(prep))
        counts = self._plan.scale.data[prep.name.partition(" ")[2]].counts
        return counts.train + counts.test

    def frames(self, run: Step, split: str) -> Frames:
        """Returns the frames (n,) of each clip, before limits."""
        config = _config(run)
        prep = _named(self._plan, run.inputs["dataset"])
        store = self._store(prep)
        if store is None:
            counts = self._plan.scale.data[prep.name.partition(" ")[2]].counts
            clips = counts.train if split == "train" else counts.test
            samples = np.full(clips, round(counts.seconds * config.fbank.sample_rate_hz))
            return config.fbank.num_frames(samples.astype(np.int64))
        from elastictool.data.splits import select_clips

        chosen = select_clips(store, config.data, config.seed)[split]
        return config.fbank.num_frames(store.num_samples[chosen])

    def _store(self, prep: Step) -> Any:
        if prep.name not in self._stores:
            from elastictool.data.store import PreparedStore

            done = prep.state == "done"
            self._stores[prep.name] = PreparedStore.open(prep.path) if done else None
        return self._stores[prep.name]


def estimate(plan: Plan, throughput: float = 0.0) -> dict[str, Any]:
    """Returns the costs of all steps and of those to do, for JSON; hours are None if unknown.

    Args:
        plan: The plan.
        throughput: GFLOP/s of training; 0 takes that of finished trainings, else measures it.
    """
    costs, source = plan_costs(plan), "as given"
    if not throughput:
        found, source = finished_throughput(plan, costs), "measured on finished trainings"
        if found is None:
            found, source = measured_throughput(plan), "measured on training steps, here and now"
        throughput = found or 0.0

    def with_hours(cost: Cost) -> dict[str, Any]:
        hours = round(cost.gflops / throughput / 3600, 4) if throughput else None
        return {**vars(cost), "hours": hours}

    return {
        "costs": {name: with_hours(cost) for name, cost in costs.items()},
        "total": with_hours(sum((costs[step.name] for step in plan.waiting()), Cost())),
        "gflops_per_second": throughput or None,
        "throughput_source": source if throughput else None,
    }


def finished_throughput(plan: Plan, costs: Mapping[str, Cost]) -> float | None:
    """Returns GFLOP/s over the finished trainings of the plan; None without any."""
    pairs = [
        (costs[step.name].gflops, marker["seconds"])
        for step in plan.steps
        if step.kind == "train" and (marker := step.marker()) and marker.get("seconds")
    ]
    return sum(g for g, _ in pairs) / sum(s for _, s in pairs) if pairs else None


def measured_throughput(plan: Plan) -> float | None:
    """Returns GFLOP/s of training steps of the plan's largest model on this machine.

    The clips are random spectrograms: a few on a CPU, enough to fill it on a GPU. None if the
    plan has no training.
    """
    import torch

    from elastictool.evaluation.bench.parts import Bench, run_model
    from elastictool.evaluation.bench.timing import interleaved
    from elastictool.evaluation.bench.workload import Workload
    from elastictool.models.attention.base import ATTENTION
    from elastictool.training.setup import device_of, pick_precision

    configs = [_config(step) for step in plan.steps if step.kind == "train"]
    if not configs:
        return None
    config = max(configs, key=lambda c: c.model.width * c.model.depth)
    bench = Bench(torch.device(device_of(config.train)), pick_precision(config.train))
    frames = (MEASURED_FRAMES,) * MEASURED_CLIPS[bench.device.type == "cuda"]
    large = config.model
    measured = ModelConfig(  # of the same width and depth, for the measurement's clips
        width=large.width,
        depth=large.depth,
        heads=large.heads,
        mlp_ratio=large.mlp_ratio,
        grid=(8, MEASURED_FRAMES // 16),
        num_classes=100,
    )
    work = Workload(frames, measured, config.packing, "random")
    model = work.build_model().to(bench.device)
    backend = model.attention
    batches = [b.to(bench.device) for b in work.batches(ATTENTION[backend].padded_rows)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    call = {"step": lambda: run_model(bench, model, backend, batches, optimizer)}
    seconds = interleaved(call, rounds=3, warmup_rounds=1)["step"]
    return TRAINING_PASSES * work.flops / 1e9 / seconds
