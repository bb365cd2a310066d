"""Plan and load the batches of a run: those of each training step, and those of validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import torch

from elastictool.checkpoint.weights import feature_extractor_of
from elastictool.config import RunConfig
from elastictool.data.collate import PackSpec
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import DeviceTransfer, loader_processes
from elastictool.data.loader import load_batches
from elastictool.data.rank_sharding import locked_tee, shard_steps
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.splits import Splits
from elastictool.data.store import PreparedStore
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.batch import PackedBatch
from elastictool.training.distributed import Ranks


@dataclass(frozen=True)
class StepBatches:
    """The batches of one optimiser step that this process computes.

    Attributes:
        batches: None where other processes have all clips of the step.
        num_batches: Batches of the step, before they are shared among processes.
        num_crops: Crops of the step, over all processes.
    """

    batches: list[PackedBatch]
    num_batches: int
    num_crops: int

    def counts(self) -> tuple[int, int, int]:
        """Returns tokens, stream length (tokens and padding), and frames that were cut off."""
        layouts = [batch.layout for batch in self.batches]
        tokens = sum(layout.num_tokens for layout in layouts)
        stream_length = sum(layout.stream_length for layout in layouts)
        return tokens, stream_length, sum(batch.cut_frames for batch in self.batches)


class RunBatches:
    """Plans and loads what a run trains on.

    Args:
        config: The resolved configuration.
        store: The prepared clips.
        splits: Which of them are for training.
        device: Where the model is.
        attention: Name of the attention backend in use.
        teacher: How a teacher wants the same clips, if there is one.
        ranks: The processes that share the run.
    """

    def __init__(
        self,
        config: RunConfig,
        store: PreparedStore,
        splits: Splits,
        device: torch.device,
        attention: str,
        teacher: PackSpec | None,
        ranks: Ranks,
    ) -> None:
        train, extractor = config.train, feature_extractor_of(config)
        self._config, self._device, self._ranks, self._teacher = config, device, ranks, teacher
        self.transfer = DeviceTransfer.choose(device, train.fbank_on, train.prefetch)
        self.train_set = ClipDataset(store, extractor, config.augment, config.seed, train.cache_mb)
        self.eval_set = ClipDataset(store, extractor, cache_mb=train.cache_mb)
        padded_rows = ATTENTION[attention].padded_rows
        self.sampler = TrainingSampler.of_run(config, self.train_set, splits.train, padded_rows)

    @cached_property
    def of_epochs(self) -> list[int]:
        """Batches of each epoch; counted once, since a token budget has to plan every epoch."""
        return self.sampler.epoch_batches(self._config.train.epochs)

    @cached_property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.sampler.num_steps(self.of_epochs)

    def steps(self, epoch: int, start: int = 0) -> Iterator[StepBatches]:
        """Yields the optimiser steps of ``epoch``, without its first ``start`` batches."""
        plans = islice(self.sampler.epoch(epoch), start, None)
        shares = shard_steps(self.sampler, plans, self._ranks.rank, self._ranks.world)
        steps, ahead = locked_tee(shares)  # the loader reads them ahead, perhaps in a thread
        wanted = chain.from_iterable(step.plans for step in ahead)
        loaded = self._load(wanted, self.workers(self.of_epochs[epoch]))
        for step in steps:
            batches = list(islice(loaded, len(step.plans)))
            yield StepBatches(batches, step.num_batches, step.num_crops)

    def first(self) -> Iterator[PackedBatch]:
        """Yields the first batch of the run, where this process has a share of it."""
        plans = list(islice(self.sampler.epoch(0), 1))
        yield from self._load(self.sampler.shares(plans, self._ranks.world)[0])

    def workers(self, batches: int) -> int:
        """Returns the number of loader processes for ``batches`` batches."""
        return loader_processes(self._config.train.loader_workers, self._device, batches)

    def _load(self, plans: Iterable[BatchPlan], workers: int = 0) -> Iterator[PackedBatch]:
        return load_batches(plans, self.train_set, workers, self._teacher, self.transfer)
