"""Compare what the loader delivers with what a model in training consumes.

A loader that is no faster than the model leaves it waiting whenever the machine has a bad moment,
so it should deliver several times what is consumed. Both are measured in turns within one run,
over the same batches of prepared clips: passes of the loader without a model, and training steps
of the model on batches that lie ready. On CUDA batches are large: a device that waits for the next
kernel to be launched consumes little, and would flatter the loader.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from elastictool.config import ModelConfig, PackingConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import DeviceTransfer
from elastictool.data.loader import load_batches, load_undelivered
from elastictool.data.samplers import BatchPlan
from elastictool.evaluation.bench.parts import Bench, Row, run_model
from elastictool.evaluation.bench.timing import interleaved
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.batching import batch_starts
from elastictool.utils.errors import ElasticToolError

CUDA_TOKENS = 65_536
"""Tokens in a batch on CUDA."""
WANTED_RATIO = 3.0
"""Ratio of delivered to consumed tokens that leaves no model waiting."""
_BATCHES_A_WORKER = 4
_PASS_S = 3.0
_STEPS = 2


@dataclass(frozen=True)
class Way:
    """A way to load batches.

    Attributes:
        workers: Loader processes.
        on_device: Samples are loaded for a device that computes the features; else batches are
            loaded complete.
    """

    workers: int
    on_device: bool

    @property
    def label(self) -> str:
        """Its name in the table."""
        who = f"{self.workers} workers" if self.workers else "in the training process"
        return f"{'samples' if self.on_device else 'complete'}, {who}"


def plan_batches(
    dataset: ClipDataset, packing: PackingConfig, workers: Sequence[int], prefix_tokens: int
) -> list[BatchPlan]:
    """Plans batches of all clips, repeated until every worker has several batches.

    Args:
        dataset: Its clips.
        packing: Clips or tokens of a batch.
        workers: Numbers of loader processes to try.
        prefix_tokens: Prefix tokens of the model.
    """
    feature_extractor, frames = dataset.feature_extractor, dataset.native_frames
    crops = [feature_extractor.crop(clip, int(frames[clip])) for clip in range(len(frames))]
    if not crops:
        return []
    tokens = np.array([feature_extractor.num_patches(crop) for crop in crops], dtype=np.int64)
    batch = packing.batch_tokens or packing.batch_clips * tokens.mean()
    batches = 1 + _BATCHES_A_WORKER * max(workers)
    times = math.ceil(batches * batch / tokens.sum())
    crops, tokens = crops * times, np.tile(tokens, times)
    starts = batch_starts(tokens, packing)
    ends = [*starts[1:], len(crops)]
    spec = feature_extractor.pack_spec(prefix_tokens)
    return [BatchPlan(0, (tuple(crops[a:b]),), spec) for a, b in zip(starts, ends, strict=True)]


def measure_loader(
    bench: Bench,
    dataset: ClipDataset,
    plans: Sequence[BatchPlan],
    config: ModelConfig,
    workers: Sequence[int],
) -> list[Row]:
    """Returns a row for the model, and one for each way to load.

    Args:
        bench: How to measure.
        dataset: What to load from; best without a cache.
        plans: Batches of it.
        config: The model that consumes them.
        workers: Numbers of loader processes to try.

    Raises:
        ElasticToolError: There is nothing to load.
    """
    if not plans:
        raise ElasticToolError("the dataset has no clips to load", "choose another with --dataset")
    transfer = DeviceTransfer.choose(bench.device)
    batches = list(load_batches(plans[:_STEPS], dataset, transfer=transfer))
    model = SpectrogramTransformer(config).to(bench.device)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    consume = {"model": partial(run_model, bench, model, "auto", batches, optimizer)}
    ways = [Way(count, on_device) for on_device in (False, True) for count in workers]
    rates: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    steps = []
    for turn in range(bench.rounds):
        steps.append(interleaved(consume, rounds=1, warmup_rounds=int(turn == 0))["model"])
        for way in ways:
            rates[way].append(one_pass(way, bench, dataset, plans))
    spent = statistics.median(steps)
    consumed = sum(batch.layout.num_tokens for batch in batches) / spent
    rows: list[Row] = [
        {
            "part": "loader",
            "contender": f"a model {config.width} wide, {config.depth} deep, in training",
            "clips_per_second": sum(batch.num_clips for batch in batches) / spent,
            "tokens_per_second": consumed,
            "times_consumed": None,
            "enough": None,
        }
    ]
    for way, found in rates.items():
        clips, tokens = (statistics.median(values) for values in zip(*found, strict=True))
        rows.append(
            {
                "part": "loader",
                "contender": way.label,
                "clips_per_second": clips,
                "tokens_per_second": tokens,
                "times_consumed": tokens / consumed,
                "enough": tokens / consumed >= WANTED_RATIO,
            }
        )
    return rows


def one_pass(
    way: Way, bench: Bench, dataset: ClipDataset, plans: Sequence[BatchPlan]
) -> tuple[float, float]:
    """Returns (clips, tokens) per second over the plans once, for a few seconds at most.

    Counted from each worker's first batch on: workers start once, not for each batch, and their
    first batches arrive together.
    """
    transfer = DeviceTransfer(bench.device, way.on_device)
    loaded = load_undelivered(plans, dataset, way.workers, transfer=transfer)
    begin = time.perf_counter()
    clips = tokens = 0
    skipped = max(1, way.workers) if len(plans) > max(1, way.workers) else 0
    try:
        for number, batch in enumerate(loaded):
            if number < skipped:
                begin = time.perf_counter()
                continue
            layout = (batch if isinstance(batch, PackedBatch) else batch.batch).layout
            clips, tokens = clips + layout.num_segments, tokens + layout.num_tokens
            if time.perf_counter() - begin > _PASS_S:
                break
        spent = time.perf_counter() - begin
    finally:
        loaded.close()
    return clips / spent, tokens / spent
