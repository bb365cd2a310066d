"""Measure training steps on a busy CPU, by how long threads spin before they sleep.

Run: ``python -m benchmarks.sharing [--json FILE]``, on a machine that does nothing else

After each small operation torch's threads wait for one another by spinning. OpenMP's runtime lets
them spin for milliseconds; where another process has the processor, that time is lost to both. Here
the same training steps are timed in processes of their own, turn by turn: with the runtime's own
setting, with the one that ``elastictool`` starts with, and on one thread; alone, and with one
busy process a core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.pages import made_by
from benchmarks.performance import sharing
from elastictool.cli.app import SPINS, SPINS_VARIABLE
from elastictool.utils.io import write_json

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "the runtime's own": {},
    "elastictool's": {SPINS_VARIABLE: SPINS},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
CHANGED = (SPINS_VARIABLE, "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
BUSY = "while True: pass"


def main() -> None:
    """Measure, print and, if asked, write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training steps each time")
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps:
        print(json.dumps(steps(arguments.seconds)))
        return
    found = [measure(busy, arguments.rounds, arguments.seconds) for busy in (False, True)]
    conditions = found[0]["environment"]
    document = {
        "benchmark": "sharing",
        "command": f"python -m benchmarks.sharing --rounds {arguments.rounds}",
        "environment": conditions,
        "setting": f"{SPINS_VARIABLE}={SPINS}",
        "rows": [
            {"waiting": name, "alone_ms": alone, "beside_ms": shared}
            for (name, alone), shared in zip(
                found[0]["ms"].items(), found[1]["ms"].values(), strict=True
            )
        ],
    }
    print(sharing(document) + made_by(document))
    if arguments.json:
        write_json(arguments.json, document)


def measure(busy: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """Return median milliseconds of a step with each setting, and what the processes ran on."""
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    environment: dict[str, Any] = {}
    with neighbours(os.cpu_count() or 1 if busy else 0):
        for turn in range(rounds):
            names = list(SETTINGS)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                measured = in_process(SETTINGS[name], seconds)
                environment = environment or measured["environment"]
                found[name].append(measured["ms"])
    return {
        "ms": {name: statistics.median(values) for name, values in found.items()},
        "environment": environment,
    }


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Run ``number`` busy processes inside a ``with`` block."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def in_process(setting: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Measure in a new process, because the runtime reads the setting once, when loaded."""
    kept = {name: value for name, value in os.environ.items() if name not in CHANGED}
    command = [sys.executable, "-m", "benchmarks.sharing", "--steps", "--seconds", str(seconds)]
    done = subprocess.run(command, env={**kept, **setting}, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def steps(seconds: float) -> dict[str, Any]:
    """Return median milliseconds of a training step of a narrow model on a batch of short clips."""
    import torch

    from elastictool.config import PackingConfig
    from elastictool.evaluation.bench.parts import Bench, run_model
    from elastictool.evaluation.bench.timing import environment
    from elastictool.evaluation.bench.workload import build_workload, epic_like

    durations = epic_like(12)
    short = replace(durations, seconds=durations.seconds / 4)
    workload = build_workload(short, "tiny", 4, PackingConfig(batch_clips=12), classes=10)
    bench, model = Bench(torch.device("cpu"), "fp32"), workload.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    batches = workload.batches(padded_rows=False)
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent) < 3:
        begin = time.perf_counter()
        run_model(bench, model, "split", batches, optimizer)
        spent.append(time.perf_counter() - begin)
    return {"ms": 1e3 * statistics.median(spent[1:]), "environment": environment()}


if __name__ == "__main__":
    main()
