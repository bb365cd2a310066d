"""Put data through the commands that are larger than anybody's: clips, hours, classes.

    python -m benchmarks.reliability scale clips hours classes

Each command runs in a process of its own; its wall time and the largest anonymous memory of it and
its workers are recorded. ``--clips``, ``--hours`` and ``--classes`` make it smaller.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.reliability.child import anonymous_mb, session_members

SMALL = "--set model.width=32 --set model.heads=2 --set model.depth=1 --set length.max_frames=64"
RATE_HZ = 16_000
EVERY_S = 0.2


@dataclass(frozen=True)
class Sizes:
    """How large the data are: clips of the first job, hours of the second, clips and classes of the
    third."""

    clips: int = 50_000
    hours: float = 10.0
    classes: int = 3_000
    class_clips: int = 20_000


def measure(jobs: Sequence[str], sizes: Sizes) -> list[dict[str, Any]]:
    """Do the jobs; return a row for each command."""
    rows: list[dict[str, Any]] = []
    for job in jobs:
        with tempfile.TemporaryDirectory() as folder:
            rows.extend(JOBS[job](Path(folder), sizes))
    return rows


def many_clips(folder: Path, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Prepare, train on and evaluate as many tiny clips."""
    _write_clips(folder, sizes.clips, classes=50, share=(0.8, 0.1, 0.1))
    data = f"{sizes.clips:,} clips"
    yield _command(data, "prep --dataset csv --root clips.csv --out . --name data", folder)
    train = f"train --dataset data --run-dir run {SMALL} --set train.epochs=1"
    yield _command(data, train, folder)
    yield _command(data, "eval run --dataset data", folder)


def many_hours(folder: Path, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Prepare a recording of as many hours, and predict on it."""
    _write_clips(folder, 40, classes=2, share=(0.5, 0.25, 0.25))
    rng = np.random.default_rng(0)
    minute = (3_000 * rng.standard_normal(60 * RATE_HZ)).astype(np.int16)
    with soundfile.SoundFile(folder / "long.flac", "w", RATE_HZ, 1) as file:
        for _ in range(round(60 * sizes.hours)):
            file.write(np.roll(minute, int(rng.integers(len(minute)))))
    (folder / "long.csv").write_text("path,label,split\nlong.flac,0,train\n0.wav,1,train\n")
    data = f"{sizes.hours:g} hours"
    _command("", "prep --dataset csv --root clips.csv --out . --name small", folder)
    train = f"train --dataset small --run-dir run {SMALL} --set train.epochs=1"
    _command("", f"{train} --set length.max_frames=1024", folder)
    yield _command(data, "prep --dataset csv --root long.csv --out . --name data", folder)
    predict = "predict long.flac --run run --window 10 --format csv"
    yield _command(data, predict, folder)


def many_classes(folder: Path, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Evaluate as many test clips of as many classes."""
    share = sizes.classes / (sizes.class_clips + sizes.classes)
    count = sizes.class_clips + sizes.classes
    _write_clips(folder, count, sizes.classes, (share, 0.0, 1 - share))
    data = f"{sizes.class_clips:,} clips of {sizes.classes:,} classes"
    _command("", "prep --dataset csv --root clips.csv --out . --name data", folder)
    train = f"train --dataset data --run-dir run {SMALL} --set train.epochs=1"
    yield _command(data, f"{train} --set data.validation_fraction=0.05", folder)
    yield _command(data, "eval run --dataset data", folder)


JOBS = {"clips": many_clips, "hours": many_hours, "classes": many_classes}


def _write_clips(folder: Path, count: int, classes: int, share: tuple[float, float, float]) -> None:
    """Write clips of 0.1 s, a tone for each class, and the table that lists them."""
    rng = np.random.default_rng(0)
    time_s = np.arange(RATE_HZ // 10) / RATE_HZ
    train, val = round(share[0] * count), round((share[0] + share[1]) * count)
    with (folder / "clips.csv").open("w") as table:
        table.write("path,label,split\n")
        for number in range(count):
            label = number % classes
            tone = 0.2 * np.sin(2 * np.pi * (100 + 7_000 * label / classes) * time_s)
            wave = tone + 0.01 * rng.standard_normal(len(time_s))
            soundfile.write(folder / f"{number}.wav", wave, RATE_HZ)
            split = "train" if number < train else "val" if number < val else "test"
            table.write(f"{number}.wav,{label},{split}\n")


def _command(data: str, line: str, folder: Path) -> dict[str, Any]:
    """Run a command and return its row."""
    source = Path(__file__).resolve().parents[2]
    begun, peak_mb = time.perf_counter(), 0.0
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "elastictool", *line.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None:
            peak_mb = max(peak_mb, sum(map(anonymous_mb, session_members(process.pid))))
            time.sleep(EVERY_S)
    if process.returncode:
        print((folder / "output").read_text("utf-8", "replace")[-2_000:], flush=True)
    return {
        "data": data,
        "command": line.split()[0],
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_anon_mb": round(peak_mb, 0),
        "exit_code": process.returncode,
    }
