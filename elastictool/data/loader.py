"""Loading planned batches, in this process or in workers, always in the planned order."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from elastictool.data.collate import Example, PatchSpec, collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import HOST, DeviceTransfer
from elastictool.data.feature_extractor import Crop
from elastictool.data.prefetch import prefetched
from elastictool.data.raw import RawBatch, RawExample, collate_raw
from elastictool.data.samplers import BatchPlan
from elastictool.data.worker_monitor import WatchedBatches, WorkerMonitor
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import ElasticToolError, OutOfMemory, first_line, is_out_of_memory
from elastictool.utils.signals import leave_to_parent


@dataclass(frozen=True)
class PackSpec:
    """How a second model wants the clips of a batch."""

    patch: PatchSpec
    prefix_tokens: int
    padded_rows: bool


@dataclass(frozen=True)
class _Failure:
    """An error of a worker on its way home: torch would put a traceback into its message."""

    error: ElasticToolError


Loaded = PackedBatch | RawBatch


class _PlannedBatches(Dataset[Loaded | _Failure]):
    """Turns a ``BatchPlan`` (as the "index") into the batch that it describes."""

    def __init__(
        self,
        dataset: ClipDataset,
        prefix_tokens: int,
        padded_rows: bool,
        teacher_batch: PackSpec | None,
        board: WorkerMonitor,
        multiple: int,
        on_device: bool,
    ) -> None:
        self._dataset = dataset
        self._board = board
        self._prefix_tokens = prefix_tokens
        self._padded_rows = padded_rows
        self._companion = teacher_batch
        self._multiple = multiple
        self._on_device = on_device

    def __getitem__(self, plan: BatchPlan) -> Loaded | _Failure:
        try:
            return self._batch(plan)
        except ElasticToolError as error:
            return _Failure(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _Failure(self._out_of_memory(plan, error))

    def _batch(self, plan: BatchPlan) -> Loaded:
        if not self._on_device:
            return self._packed([[self._load(crop, plan) for crop in row] for row in plan.rows])
        sounds = [[self._sound(crop, plan) for crop in row] for row in plan.rows]
        in_order = [sound for row in sounds for sound in row]
        second = None if self._companion is None else self._companion.patch
        return collate_raw(in_order, self._packed(sounds), second)

    def _packed(
        self, rows: Sequence[Sequence[Example]] | Sequence[Sequence[RawExample]]
    ) -> PackedBatch:
        self._board.note()
        batch = collate(rows, self._prefix_tokens, self._padded_rows, self._multiple)
        second = self._companion
        if second is None:
            return batch
        # The second model sees all of its patches: it is not the one that learns from dropping.
        again = [[x._replace(patch=second.patch, kept=None) for x in row] for row in rows]
        taught = collate(again, second.prefix_tokens, second.padded_rows, self._multiple)
        return replace(batch, teacher_batch=taught)

    def _load(self, crop: Crop, plan: BatchPlan) -> Example:
        self._board.note(crop.clip)
        return self._dataset.load(crop, plan.epoch, plan.patch_size)

    def _sound(self, crop: Crop, plan: BatchPlan) -> RawExample:
        self._board.note(crop.clip)
        return self._dataset.sound(crop, plan.epoch, plan.patch_size)

    def _out_of_memory(self, plan: BatchPlan, error: Exception) -> OutOfMemory:
        feature_extractor = self._dataset.feature_extractor
        crops = [crop for row in plan.rows for crop in row]
        if plan.patch_size:
            feature_extractor = feature_extractor.at_patch_size(plan.patch_size)
        tokens = sum(feature_extractor.num_patches(crop) + self._prefix_tokens for crop in crops)
        return OutOfMemory(
            f"out of memory while loading a batch of {len(crops)} clips, {tokens:,} tokens "
            f"({first_line(error)})",
            "lower train.cache_mb, which each loading process may fill, train.loader_workers, "
            "packing.batch_clips or packing.batch_tokens, or length.max_frames, and start anew",
        )


def load_batches(
    plans: Iterable[BatchPlan],
    dataset: ClipDataset,
    prefix_tokens: int,
    padded_rows: bool,
    workers: int = 0,
    teacher_batch: PackSpec | None = None,
    multiple: int = 1,
    feed: DeviceTransfer = HOST,
) -> Generator[PackedBatch, None, None]:
    """The batches of ``plans``, in order, where ``feed`` takes them.

    Args:
        plans: What to load.
        dataset: Where from.
        prefix_tokens: Prefix tokens of the model.
        padded_rows: Whether the attention backend wants the paper's padded rows.
        workers: Loader processes; 0 loads in this one. The batches are the same for any number.
        teacher_batch: How a second model wants the same clips; each batch then carries them.
        multiple: Flat streams are padded to a multiple of so many tokens.
        feed: Where the batches are wanted, where features are computed, what is loaded ahead.

    Raises:
        DamagedDataError: A clip cannot be read any more.
        LoaderError: A worker died.
        OutOfMemory: There is no room for a batch.
    """
    loaded = load_undelivered(
        plans, dataset, prefix_tokens, padded_rows, workers, teacher_batch, multiple, feed
    )
    if feed.prefetch and not workers:  # workers are ahead anyway
        loaded = prefetched(loaded, feed.prefetch)
    with closing(loaded):
        for batch in loaded:
            yield feed.deliver(batch)


def load_undelivered(
    plans: Iterable[BatchPlan],
    dataset: ClipDataset,
    prefix_tokens: int,
    padded_rows: bool,
    workers: int = 0,
    teacher_batch: PackSpec | None = None,
    multiple: int = 1,
    feed: DeviceTransfer = HOST,
) -> Generator[Loaded, None, None]:
    """Like ``load_batches``, as they leave the loader: in main memory, perhaps without features."""
    board = WorkerMonitor(workers)
    planned = _PlannedBatches(
        dataset, prefix_tokens, padded_rows, teacher_batch, board, multiple, feed.fbank_on_device
    )
    loader: DataLoader[Loaded | _Failure] = DataLoader(
        planned,
        sampler=plans,  # a sampler is any iterable of what __getitem__ takes
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=feed.pins,
        # Its own generator: torch's global one belongs to the model, and a resumed run must
        # find it as an uninterrupted one would.
        generator=torch.Generator(),
    )
    with WatchedBatches(loader, board, dataset.store) as batches:
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch


def _leave_signals_to_parent(worker: int) -> None:
    """What reaches the whole group is for the training process; SIGTERM ends a worker, too."""
    leave_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
