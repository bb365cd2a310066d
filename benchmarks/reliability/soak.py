"""Work in one process for an hour, and watch its memory and open files.

    python -m benchmarks.reliability soak --minutes 60

The process trains, evaluates, sweeps, predicts and embeds again and again through the Python API.
Its anonymous memory is sampled every 10 s; the slope is a least-squares line after the warm-up, the
first sixth of the time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from elastictool import load
from elastictool.checkpoint.weights import load_run
from elastictool.config.loader import load_run_config
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run, save_evaluation
from elastictool.evaluation.sweep import SweepOptions, sweep
from elastictool.reporting.run_report import report_evaluation
from elastictool.training.run import train_run

SETS = (
    "model.width=96", "model.heads=3", "model.depth=2", "length.max_frames=256", "train.epochs=2",
    "packing.batch_clips=12", "augment.length_diversity.share=0.5",
)  # fmt: skip
CLIPS = 120
WARM_UP = 1 / 6


@dataclass(frozen=True)
class Sample:
    """The state of the process at a moment.

    Attributes:
        seconds: Since the beginning.
        anon_mb: Anonymous memory.
        files: Open files.
        threads: Threads.
    """

    seconds: float
    anon_mb: float
    files: int
    threads: int


def measure(minutes: float, every_s: float = 10.0) -> dict[str, Any]:
    """Work that long; return slopes, extremes and a sample a minute."""
    torch.set_num_threads(1)
    samples: list[Sample] = []
    stop = threading.Event()
    begun = time.perf_counter()

    def watch() -> None:
        while not stop.wait(every_s):
            samples.append(_sample(time.perf_counter() - begun))

    watcher = threading.Thread(target=watch, daemon=True)
    cycles = 0
    with tempfile.TemporaryDirectory() as folder:
        cycle = _cycle(Path(folder))
        watcher.start()
        while time.perf_counter() - begun < 60 * minutes:
            cycle()
            cycles += 1
            if cycles % 20 == 0 and samples:
                print(f"{cycles} cycles: {samples[-1]}", flush=True)
        stop.set()
        watcher.join()
    return {"minutes": round((time.perf_counter() - begun) / 60, 1), "cycles": cycles} | summary(
        samples
    )


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Return the slopes after the warm-up, and a sample a minute."""
    warm = [sample for sample in samples if sample.seconds >= WARM_UP * samples[-1].seconds]
    hours = np.array([sample.seconds / 3_600 for sample in warm])

    def slope(values: list[float]) -> float:
        return round(float(np.polyfit(hours, values, 1)[0]), 2)

    minutes = {int(sample.seconds // 60): sample for sample in reversed(samples)}
    return {
        "warm_mb": round(warm[0].anon_mb, 1),
        "last_mb": round(warm[-1].anon_mb, 1),
        "peak_mb": round(max(sample.anon_mb for sample in samples), 1),
        "mb_per_hour": slope([sample.anon_mb for sample in warm]),
        "files": [warm[0].files, warm[-1].files],
        "files_per_hour": slope([float(sample.files) for sample in warm]),
        "threads": [warm[0].threads, warm[-1].threads],
        "mb_by_minute": [round(minutes[minute].anon_mb, 1) for minute in sorted(minutes)],
    }


def _cycle(folder: Path) -> Callable[[], None]:
    """Return the work that is repeated, on data that are made now."""
    store = prepare(PrepOptions("synth", out=folder, name="toy", limit=CLIPS))
    files = []
    for index in range(8):
        path = folder / f"{index}.wav"
        soundfile.write(path, store.waveform(index), store.info.sample_rate_hz)
        files.append(str(path))

    def work() -> None:
        run_dir = folder / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        train_run(load_run_config(None, list(SETS)), store, run_dir)
        run = load_run(run_dir)
        result = evaluate_run(run, PreparedStore.open(store.path))
        save_evaluation(run_dir, result, {"checkpoint": "best", "precision": "fp32"})
        report_evaluation(run_dir, result.stem)
        sweep("length", [run], store, [64, 128], SweepOptions())
        model = load(run_dir)
        model.predict(files, top=3)
        model.embed(files)

    return work


def _sample(seconds: float) -> Sample:
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    files = len(os.listdir("/proc/self/fd"))
    return Sample(seconds, int(values["RssAnon"]) * 1.024e-3, files, int(values["Threads"]))
