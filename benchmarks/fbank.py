"""Compare the filterbank with torchaudio's on one thread.

Run: ``python -m benchmarks.fbank [--json FILE]``

Both compute the same log-mel frames (the largest difference is part of the table) of 10 s of
noise, fading out so that values down to the floor occur. Ratios above 1: elastictool is faster.
Times are processor times: torchaudio's call is long enough to be interrupted on a busy machine,
where wall time showed twice the ratio that is true.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import made_by
from benchmarks.performance import filterbank
from elastictool.audio.fbank import fbank
from elastictool.audio.torchaudio_compat import load_torchaudio
from elastictool.config import FbankConfig
from elastictool.evaluation.bench.parts import torchaudio_fbank
from elastictool.evaluation.bench.timing import environment, interleaved
from elastictool.utils.io import write_json

SHIFTS_MS = (10.0, 20.0, 40.0)
DURATION_S = 10.0
ROUNDS = 150


def main() -> None:
    """Measure, print a table and, if asked, write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed rounds per shift")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(FbankConfig(shift_ms=shift_ms), arguments.rounds) for shift_ms in SHIFTS_MS]
    document = {
        "benchmark": "fbank",
        "command": f"python -m benchmarks.fbank --rounds {arguments.rounds}",
        "environment": environment() | {"torchaudio": load_torchaudio().__version__},
        "duration_s": DURATION_S,
        "rounds": arguments.rounds,
        "clock": "processor time, one thread",
        "rows": rows,
    }
    print(filterbank(document) + made_by(document))
    if arguments.json:
        write_json(arguments.json, document)


def measure(config: FbankConfig, rounds: int) -> dict[str, Any]:
    """Return median processor milliseconds of both, their ratio, and how far the results differ."""
    waveform = fading_noise(DURATION_S, config.sample_rate_hz)
    contenders: dict[str, Callable[[], Tensor]] = {
        "torchaudio": lambda: torchaudio_fbank(waveform, config),
        "elastictool": lambda: fbank(waveform, config),
    }
    seconds = interleaved(contenders, rounds, clock=time.process_time)
    difference = (contenders["elastictool"]() - contenders["torchaudio"]()).abs().max()
    return {
        "shift_ms": config.shift_ms,
        "torchaudio_ms": 1e3 * seconds["torchaudio"],
        "elastictool_ms": 1e3 * seconds["elastictool"],
        "ratio": seconds["torchaudio"] / seconds["elastictool"],
        "largest_difference": float(difference),
    }


def fading_noise(duration_s: float, sample_rate_hz: int) -> Tensor:
    """Return (n,) white noise that falls by 80 dB."""
    num_samples = round(duration_s * sample_rate_hz)
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    return 0.1 * noise * torch.logspace(0, -4, num_samples)


if __name__ == "__main__":
    main()
