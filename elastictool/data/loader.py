"""Loading planned batches, in this process or in workers, always in the planned order."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from elastictool.data.collate import PatchSpec, collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.samplers import BatchPlan
from elastictool.packing.batch import PackedBatch


@dataclass(frozen=True)
class Cut:
    """How a second model wants the clips of a batch."""

    patch: PatchSpec
    prefix_tokens: int
    padded_rows: bool


class _PlannedBatches(Dataset[PackedBatch]):
    """Turns a ``BatchPlan`` (as the "index") into the batch that it describes."""

    def __init__(
        self,
        dataset: ClipDataset,
        prefix_tokens: int,
        padded_rows: bool,
        companion: Cut | None,
    ) -> None:
        self._dataset = dataset
        self._prefix_tokens = prefix_tokens
        self._padded_rows = padded_rows
        self._companion = companion

    def __getitem__(self, plan: BatchPlan) -> PackedBatch:
        rows = [
            [self._dataset.load(view, plan.epoch, plan.patch_size) for view in row]
            for row in plan.rows
        ]
        batch = collate(rows, self._prefix_tokens, self._padded_rows)
        second = self._companion
        if second is None:
            return batch
        # The second model sees all of its patches: it is not the one that learns from dropping.
        rows = [[x._replace(patch=second.patch, kept=None) for x in row] for row in rows]
        return replace(batch, companion=collate(rows, second.prefix_tokens, second.padded_rows))


def load_batches(
    plans: Iterable[BatchPlan],
    dataset: ClipDataset,
    prefix_tokens: int,
    padded_rows: bool,
    workers: int = 0,
    companion: Cut | None = None,
) -> Iterator[PackedBatch]:
    """The batches of ``plans``, in order.

    Args:
        plans: What to load.
        dataset: Where from.
        prefix_tokens: Prefix tokens of the model.
        padded_rows: Whether the attention backend wants the paper's padded rows.
        workers: Loader processes; 0 loads in this one. The batches are the same for any number.
        companion: How a second model wants the same clips; each batch then carries them.
    """
    loader: DataLoader[PackedBatch] = DataLoader(
        _PlannedBatches(dataset, prefix_tokens, padded_rows, companion),
        sampler=plans,  # a sampler is any iterable of what __getitem__ takes
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        # Its own generator: torch's global one belongs to the model, and a resumed run must
        # find it as an uninterrupted one would.
        generator=torch.Generator(),
    )
    yield from loader


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the training process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
