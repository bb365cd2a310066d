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
from itertools import islice
from typing import Any

import numpy as np
import torch

from elastictool.config import ModelConfig, PackingConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import DeviceTransfer, Loaded
from elastictool.data.loader import load_batches, load_undelivered
from elastictool.data.samplers import BatchPlan
from elastictool.evaluation.bench.parts import Bench, Row, run_model
from elastictool.evaluation.bench.timing import wait_for_device
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
    views = [feature_extractor.crop(clip, int(frames[clip])) for clip in range(len(frames))]
    if not views:
        return []
    tokens = np.array([feature_extractor.num_patches(view) for view in views], dtype=np.int64)
    batch = packing.batch_tokens or packing.batch_clips * tokens.mean()
    batches = 1 + _BATCHES_A_WORKER * max(workers)
    times = math.ceil(batches * batch / tokens.sum())
    views, tokens = views * times, np.tile(tokens, times)
    starts = batch_starts(tokens, packing)
    ends = [*starts[1:], len(views)]
    spec = feature_extractor.pack_spec(prefix_tokens)
    return [BatchPlan(0, (tuple(views[a:b]),), spec) for a, b in zip(starts, ends, strict=True)]


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
    ways = [Way(count, on_device) for on_device in (False, True) for count in workers]
    rates: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    consumer = _Consumer(bench, dataset, plans, config)
    consumer.step()
    steps = []
    for _ in range(bench.rounds):
        steps.append(consumer.step())
        for way in ways:
            rates[way].append(one_pass(way, bench, dataset, plans))
    spent = statistics.median(steps)
    consumed = consumer.tokens / spent
    rows: list[Row] = [
        _row(consumer.label, consumer.clips / spent, consumed, None),
        *(_row(way.label, *_medians(rates[way]), consumed) for way in ways),
    ]
    return rows


class _Consumer:
    """Training steps on batches in memory."""

    def __init__(
        self, bench: Bench, dataset: ClipDataset, plans: Sequence[BatchPlan], config: ModelConfig
    ) -> None:
        transfer = DeviceTransfer.choose(bench.device)
        wanted = islice(plans, _STEPS)
        self.bench = bench
        self.batches = list(load_batches(wanted, dataset, transfer=transfer))
        self.model = SpectrogramTransformer(config).to(bench.device)
        fused = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        self.optimizer: torch.optim.Optimizer = fused
        self.label = f"a model {config.width} wide, {config.depth} deep, in training"

    @property
    def clips(self) -> int:
        """Clips of the batches."""
        return sum(batch.num_clips for batch in self.batches)

    @property
    def tokens(self) -> int:
        """Tokens of the batches."""
        return sum(batch.layout.num_tokens for batch in self.batches)

    def step(self) -> float:
        """Returns the seconds of a step on each of the batches."""
        wait_for_device()
        begin = time.perf_counter()
        run_model(self.bench, self.model, "auto", self.batches, self.optimizer)
        wait_for_device()
        return time.perf_counter() - begin


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
            layout = _layout_of(batch)
            clips, tokens = clips + layout.num_segments, tokens + layout.num_tokens
            if time.perf_counter() - begin > _PASS_S:
                break
        spent = time.perf_counter() - begin
    finally:
        loaded.close()
    return clips / spent, tokens / spent


def _layout_of(batch: Loaded) -> Any:
    return (batch if isinstance(batch, PackedBatch) else batch.batch).layout


def _medians(rates: Sequence[tuple[float, float]]) -> tuple[float, float]:
    clips, tokens = (statistics.median(values) for values in zip(*rates, strict=True))
    return clips, tokens


def _row(contender: str, clips: float, tokens: float, consumed: float | None) -> Row:
    ratio = None if consumed is None else tokens / consumed
    return {
        "part": "loader",
        "contender": contender,
        "clips_per_second": clips,
        "tokens_per_second": tokens,
        "times_consumed": ratio,
        "enough": None if ratio is None else ratio >= WANTED_RATIO,
    }
