"""Moves batches to the model's device, and decides where features are computed.

On CUDA the features are computed by the device, which is otherwise idle while it waits for them,
copies come out of pinned memory, and the next batches are loaded while a step runs. On a CPU
none of it pays: filterbank and model would share the same cores (``docs/performance.md``).
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass

import joblib
import torch

from elastictool.data.raw import RawBatch
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import OutOfMemory, first_line, is_out_of_memory
from elastictool.utils.launch import launched

Loaded = PackedBatch | RawBatch

PREFETCHED = 2
"""Batches loaded ahead on CUDA: one is being copied, one is ready."""

MOST_WORKERS = 16
"""Loader processes chosen without being asked; a GPU wants more, but memory is shared, too."""


def loader_processes(setting: int, device: torch.device, batches: int) -> int:
    """Returns the loader processes that ``train.loader_workers`` means for an epoch of ``batches``.

    -1 is one process for each core on CUDA, shared among the training processes of this machine:
    one thread decodes a fifth of what a large GPU trains on. Where a process is not forked but
    started anew (Windows, macOS, Python 3.14), that takes seconds in every epoch, and it is none.
    """
    if setting >= 0:
        return setting
    if device.type != "cuda" or multiprocessing.get_all_start_methods()[0] != "fork":
        return 0
    cores = int(joblib.cpu_count()) // launched().local_world
    return max(1, min(cores, MOST_WORKERS, batches))


@dataclass(frozen=True)
class DeviceTransfer:
    """Moves batches to the model's device and computes their features.

    Attributes:
        device: Where the model is.
        fbank_on_device: Whether features are computed there, from samples.
        prefetch: Batches to load ahead in the background where there are no loader workers, which
            do so anyway; 0 loads each when it is asked for.
    """

    device: torch.device
    fbank_on_device: bool = False
    prefetch: int = 0

    @classmethod
    def choose(
        cls, device: torch.device, fbank_on: str = "auto", prefetch: int = -1
    ) -> DeviceTransfer:
        """Resolves ``train.fbank_on`` and ``train.prefetch`` for ``device``."""
        cuda = device.type == "cuda"
        on_device = cuda if fbank_on == "auto" else fbank_on == "device"
        ahead = (PREFETCHED if cuda else 0) if prefetch < 0 else prefetch
        return cls(device, on_device, ahead)

    @property
    def pins(self) -> bool:
        """Whether batches pass through pinned memory."""
        return self.device.type == "cuda"

    def deliver(self, batch: Loaded) -> PackedBatch:
        """Returns the batch on the device, with its features.

        Raises:
            OutOfMemory: The device has no room for it.
        """
        try:
            there = batch.to(self.device, non_blocking=self.pins)
            return there.compute_features() if isinstance(there, RawBatch) else there
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            layout = batch.batch.layout if isinstance(batch, RawBatch) else batch.layout
            raise OutOfMemory(
                f"out of memory on {self.device} while a batch of {layout.num_segments} clips, "
                f"{layout.num_tokens:,} tokens, was brought there ({first_line(error)})",
                "lower packing.batch_clips or packing.batch_tokens, or length.max_frames, and "
                "start anew",
            ) from error


HOST = DeviceTransfer(torch.device("cpu"))
"""Loads each batch when it is asked for, into main memory."""
