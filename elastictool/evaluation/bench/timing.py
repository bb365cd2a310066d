"""Time contenders fairly: they take turns in one process, and medians are compared.

Machines drift (frequency, neighbours), so runs of A then runs of B measure the drift; turn by
turn both see the same machine. Ratios of the medians carry over to other machines, times do not.
On a machine that others use too, wall time punishes the longer call out of proportion (it is
the one that is interrupted): single-threaded contenders are then timed in processor time.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup_rounds: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the median seconds of one call of each contender.

    Args:
        contenders: Calls to time, by name.
        rounds: Timed rounds; each calls every contender once, starting with another each time.
        warmup_rounds: Rounds before them that are not counted.
        clock: Seconds; ``time.process_time`` counts the processor time of all threads.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup_rounds, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait_for_device()
            begin = clock()
            contenders[name]()
            wait_for_device()
            elapsed = clock() - begin
            if turn >= 0:
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_memory_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Returns the peak memory of ``call`` beyond what is held before it; None if unknown.

    On CUDA what torch allocates; on a CPU under Linux the growth of the resident set.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6

    def resident_mb(field: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith(field))

    try:
        # What the allocator keeps of earlier calls is freed: its reuse would not be counted.
        gc.collect()
        with suppress(OSError, AttributeError):  # glibc has it; others keep less
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        before_mb = resident_mb("VmRSS:")
        call()
        return max(0.0, resident_mb("VmHWM:") - before_mb)
    except OSError:
        return None


def matrix_product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of a large square matrix product, the best of several."""
    size = 8_192 if device.type == "cuda" else 1_536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(6):
        wait_for_device()
        begin = time.perf_counter()
        a @ b
        wait_for_device()
        best = min(best, time.perf_counter() - begin)
    return float(2 * size**3 / best)


def environment() -> dict[str, Any]:
    """Returns the versions and hardware of a measurement."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def wait_for_device() -> None:
    """Waits until CUDA has finished all its work; does nothing on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_name() -> str:
    """Returns the processor's name if known, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
