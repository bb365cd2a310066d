"""Fair timing: contenders take turns in one process, and medians are compared.

Machines drift (frequency, neighbours), so runs of A then runs of B measure the drift; turn by
turn both see the same machine. Ratios of the medians carry over to other machines, times do not.
On a machine that others use too, wall time punishes the longer call out of proportion (it is
the one that is interrupted): single-threaded contenders are then timed in processor time.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
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
    """Median seconds of one call of each contender.

    Args:
        contenders: Calls to time, by name.
        rounds: Timed rounds; each calls every contender once, starting with another each time.
        warmup_rounds: Rounds before them that are not counted.
        clock: Seconds; ``time.process_time`` counts the processor time of all our threads.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup_rounds, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begin = clock()
            contenders[name]()
            elapsed = clock() - begin
            if turn >= 0:
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def environment() -> dict[str, Any]:
    """What a reader has to know about where a measurement was made."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
