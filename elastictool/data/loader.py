"""Loads planned batches, in this process or in workers, always in the planned order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from elastictool.data.collate import PackSpec, collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import HOST, DeviceTransfer, Loaded
from elastictool.data.prefetch import prefetched
from elastictool.data.raw import collate_raw
from elastictool.data.samplers import BatchPlan
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import (
    ElasticToolError,
    LoaderError,
    OutOfMemory,
    first_line,
    is_out_of_memory,
)
from elastictool.utils.io import may_open
from elastictool.utils.signals import start_worker

_FILES, _FILES_OF_A_WORKER = 32, 24
"""Open files of a training, and of each loader worker: pipes, and the tensors of waiting batches.
With fewer torch prints an error without end in the worker, and the training waits for ever."""

SIGTERM_GRACE_S = 30.0
"""That a worker outlives a SIGTERM: what torchrun and SLURM wait before they kill."""


@dataclass(frozen=True)
class _Failure:
    """Carries an error from a worker to the main process: torch would add a traceback to it."""

    error: ElasticToolError


class _PlannedBatches(Dataset[Loaded | _Failure]):
    """Turns a ``BatchPlan`` (as the "index") into the batch that it describes."""

    def __init__(self, dataset: ClipDataset, teacher: PackSpec | None, on_device: bool) -> None:
        self._dataset = dataset
        self._teacher = teacher
        self._on_device = on_device

    def __getitem__(self, plan: BatchPlan) -> Loaded | _Failure:
        load, on_device = self._dataset.load, self._on_device
        # Both models see the same spectrograms, and so the same padding.
        teacher = self._teacher and replace(self._teacher, pad_value=plan.spec.pad_value)
        try:
            rows = [
                [load(crop, plan.epoch, plan.spec, on_device) for crop in row] for row in plan.rows
            ]
            return (collate_raw if on_device else collate)(rows, plan.spec, teacher)
        except ElasticToolError as error:
            return _Failure(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _Failure(self._out_of_memory(plan, error))

    def _out_of_memory(self, plan: BatchPlan, error: Exception) -> OutOfMemory:
        extractor = self._dataset.feature_extractor.at_patch_size(plan.spec.patch_size)
        tokens = sum(extractor.num_patches(crop) + plan.spec.prefix_tokens for crop in plan.crops)
        return OutOfMemory(
            f"out of memory while loading a batch of {plan.num_crops} clips, {tokens:,} tokens "
            f"({first_line(error)})",
            "lower train.cache_mb, which each loading process may fill, train.loader_workers, "
            "packing.batch_clips or packing.batch_tokens, or length.max_frames, and start anew",
        )


def load_batches(
    plans: Iterable[BatchPlan],
    dataset: ClipDataset,
    workers: int = 0,
    teacher: PackSpec | None = None,
    transfer: DeviceTransfer = HOST,
) -> Generator[PackedBatch, None, None]:
    """Yields the batches of ``plans``, in order, where ``transfer`` takes them.

    Args:
        plans: What to load.
        dataset: Where from.
        workers: Loader processes; 0 loads in this one. The batches are the same for any number.
        teacher: How a second model wants the same clips; each batch then carries them.
        transfer: Where the batches are wanted, where features are computed, what is loaded ahead.

    Raises:
        DamagedDataError: A clip cannot be read any more.
        LoaderError: A worker died while a batch was waited for; torch raises its death elsewhere,
            too, see ``dead_worker``.
        OutOfMemory: There is no room for a batch.
    """
    loaded = load_undelivered(plans, dataset, workers, teacher, transfer)
    if transfer.prefetch and not workers:  # workers are ahead anyway
        loaded = prefetched(loaded, transfer.prefetch)
    with closing(loaded):
        for batch in loaded:
            yield transfer.deliver(batch)


def load_undelivered(
    plans: Iterable[BatchPlan],
    dataset: ClipDataset,
    workers: int = 0,
    teacher: PackSpec | None = None,
    transfer: DeviceTransfer = HOST,
) -> Generator[Loaded, None, None]:
    """Yields batches as they leave the loader: in main memory, perhaps without features."""
    _check_open_files(workers)
    loader: DataLoader[Loaded | _Failure] = DataLoader(
        _PlannedBatches(dataset, teacher, transfer.fbank_on_device),
        sampler=plans,  # a sampler is any iterable of what __getitem__ takes
        batch_size=None,
        num_workers=workers,
        worker_init_fn=partial(_outlive_sigterm, os.getpid()),
        pin_memory=transfer.pins,
        # Its own generator: torch's global one belongs to the model, and a resumed run must
        # find it as an uninterrupted one would.
        generator=torch.Generator(),
    )
    try:
        with _blocked_sigterm():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    except (RuntimeError, EOFError, OSError) as error:
        death = dead_worker(error) if workers else None
        if death is None:
            raise
    else:
        return
    raise death  # not from torch's error: its traceback would keep the other workers alive


def _check_open_files(workers: int) -> None:
    """Raises LoaderError if ``workers`` processes could not hand over their batches."""
    needed = _FILES + workers * _FILES_OF_A_WORKER if workers else 0
    if (limit := may_open(needed)) < needed:
        raise LoaderError(
            f"{workers} loader workers need {needed} open files, and only {limit} are allowed",
            "raise the limit (ulimit -n), or load without workers: train.loader_workers=0",
        )


def dead_worker(error: Exception) -> LoaderError | None:
    """Returns a readable error if ``error`` is torch's report of a dead loader worker, else None.

    Torch raises it where the training process happens to be, also while it writes a file, which
    then fails of it. A connection that breaks while a batch is waited for (an OSError or EOFError)
    is a dead worker's as well.
    """
    deaths = [first_line(found) for found in _chain(error) if isinstance(found, RuntimeError)]
    deaths = [text for text in deaths if text.startswith("DataLoader worker")]
    raised_in_worker = "in DataLoader worker process" in first_line(error)
    if raised_in_worker or (isinstance(error, RuntimeError) and not deaths):
        return None
    text = deaths[-1] if deaths else first_line(error)  # only the first one may name the signal
    return LoaderError(
        f"a loader worker died ({text.rstrip('. ')})",
        "where the system killed it because memory ran out, lower train.loader_workers, or "
        "train.cache_mb, which each worker may fill; a bus error means a full /dev/shm or a "
        "prepared file that was cut off; train.loader_workers=0 may show more",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Returns ``error`` and the errors during whose handling it was raised, the first one last."""
    while error is not None:
        yield error
        error = error.__context__


@contextmanager
def _blocked_sigterm() -> Iterator[None]:
    """Lets workers start with SIGTERM blocked: torch's handler would end them at once."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_sigterm(parent_pid: int, worker: int) -> None:
    """Leaves signals to the parent; ends some time after a SIGTERM, not at once.

    SIGTERM reaches whole groups of processes, and the training process still wants the batches of
    the step that it saves after. Where it comes from the end of that process, there is no batch.
    """
    start_worker(parent_pid)

    def end_later(*_: object) -> None:
        timer = threading.Timer(SIGTERM_GRACE_S, os._exit, [1])
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
