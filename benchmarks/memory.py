"""Measure the memory of training, epoch by epoch, in float32 and in bfloat16.

Run: ``python -m benchmarks.memory [--epochs 30] [--clips 320] [--json FILE]``

A narrow model (192 wide, 4 deep) is trained with the settings of ``recipes/small_data.yaml`` on
noise of the lengths of EPIC-SOUNDS, in a process of its own for each precision. The process's
anonymous memory is read twenty times a second. A third process has products of any shape, as they
were before, and a last one takes turns between both, epoch by epoch, to compare their speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.pages import ROOT, made_by
from benchmarks.performance import training_memory
from elastictool.cli.app import SPINS, SPINS_VARIABLE
from elastictool.utils.io import write_json

RUNS = {"fp32": "fp32", "bf16": "bf16", "bf16, products of any shape": "bf16"}
"""Kinds of training and their precision."""
WHOLE, TURNS = "bf16, products of any shape", "turns"
BATCH_TOKENS = 2_400
"""Of a batch. With a number of clips instead, the largest batch of 30 epochs is by chance a quarter
larger than that of two, and so is the peak, in any precision."""
SPREAD_MB = 150
GROWTH = 0.05
SPEED = 0.95
"""The mark: memory of bf16 above fp32, growth after epoch 2, and clips a second."""


def main() -> None:
    """Measure, print and, if asked, write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train(arguments.train, arguments.folder, arguments.epochs)))
        return
    document = measure(arguments.epochs, arguments.clips)
    print(training_memory(document) + made_by(document))
    if arguments.json:
        write_json(arguments.json, document)


def measure(epochs: int, clips: int) -> dict[str, Any]:
    """Return the memory of each kind of training, and the speed of their layers, turn by turn."""
    from elastictool.evaluation.bench.timing import environment

    conditions = environment()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_clips(folder, clips)
        rows = []
        for name in RUNS:
            found = in_process(name, folder, epochs)
            peaks = found["peaks_mb"]
            early = max(peaks[:2])
            rows.append(
                {
                    "training": name,
                    "early_mb": early,
                    "peak_mb": max(peaks),
                    "growth": max(peaks) / early - 1,
                    "peaks_mb": peaks,
                }
            )
        turns = in_process(TURNS, folder, epochs)["seconds"][2:]
    speed = statistics.median(b / a for a, b in zip(turns[::2], turns[1::2], strict=False))
    above = rows[1]["peak_mb"] - rows[0]["peak_mb"]
    return {
        "benchmark": "training_memory",
        "command": f"python -m benchmarks.memory --epochs {epochs} --clips {clips}",
        "environment": conditions,
        "rows": rows,
        "above_fp32_mb": above,
        "speed": speed,
        "reached": above <= SPREAD_MB and rows[1]["growth"] < GROWTH and speed >= SPEED,
    }


def write_clips(folder: Path, clips: int) -> None:
    """Write and prepare ``clips`` clips to train on, and a tenth of that to validate."""
    import numpy as np
    import soundfile

    from elastictool.evaluation.bench.workload import epic_like

    noise = np.random.default_rng(0)
    durations = epic_like(clips + clips // 10).seconds
    lines = ["path,label,split"]
    for number, seconds in enumerate(durations.tolist()):
        samples = 0.1 * noise.standard_normal(round(16_000 * min(seconds, 15.0)), dtype=np.float32)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        lines.append(f"{number}.wav,{number % 10},{'train' if number < clips else 'val'}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")
    command = ["prep", "--dataset", "csv", "--root", "clips.csv", "--name", "clips"]
    subprocess.run(
        [sys.executable, "-m", "elastictool", *command],
        cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def in_process(name: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Train in a new process, whose memory nothing else has used."""
    command = [sys.executable, "-m", "benchmarks.memory", "--train", name]
    command += ["--folder", str(folder), "--epochs", str(epochs)]
    settings = {SPINS_VARIABLE: SPINS, **os.environ}
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def train(name: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Return each epoch's peak of anonymous memory and its seconds of training."""
    from elastictool.config.loader import load_run_config
    from elastictool.data.store import PreparedStore
    from elastictool.models import linear
    from elastictool.models.attention import split
    from elastictool.reporting.run_log import read_log
    from elastictool.training.run import train_run

    few, peaks = (linear.compiled_by_shape, split.padded_length), [0.0]
    any_shape = (lambda rows: False, lambda length: length)
    if name == WHOLE:
        linear.compiled_by_shape, split.padded_length = any_shape

    class EndOfEpoch:
        """Begins the next epoch's peak where an epoch's line is logged."""

        @contextmanager
        def task(self, what: str, total: float | None) -> Iterator[Any]:
            yield SimpleNamespace(advance=lambda amount=1, note="": None)

        def log(self, message: str) -> None:
            if message.startswith("epoch "):
                peaks.append(0.0)
                if name == TURNS:
                    chosen = few if len(peaks) % 2 else any_shape
                    linear.compiled_by_shape, split.padded_length = chosen

    def watch() -> None:
        while True:
            peaks[-1] = max(peaks[-1], anonymous_mb())
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    sets = [f"train.precision={RUNS.get(name, 'bf16')}", f"train.epochs={epochs}"]
    sets += [f"packing.batch_tokens={BATCH_TOKENS}"]
    run = folder / f"run {name}"
    store = PreparedStore.open(folder / "data" / "clips")
    train_run(
        load_run_config(ROOT / "recipes" / "small_data.yaml", sets),
        store,
        run,
        progress=EndOfEpoch(),
    )
    seconds = [record["seconds"] for record in read_log(run, "epoch")]
    return {"peaks_mb": peaks[:epochs], "seconds": seconds}


def anonymous_mb() -> float:
    """Return the anonymous memory of this process, without mapped files."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1_000


if __name__ == "__main__":
    main()
