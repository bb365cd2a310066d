"""Measure the cost of prep compared with decoding and resampling alone, memory, large listings.

Run: ``python -m benchmarks.prep [--json FILE]``

Both contenders read the same files through the same code, turn by turn, shard by shard: ``bare``
decodes and resamples and throws the result away, ``prep`` also encodes, measures and stores. The
share is bare / prep in processor time of one process, which a busy machine does not distort. Both
keep freed memory (``data/shards``). On a machine that does nothing else, the clock of as many
worker processes as there are cores is compared, too: whole preparations, from the plan to the
finished dataset, against workers that only decode and resample the same shards.

Memory is the peak of processes that prepare few and many clips. The large listing is AudioSet's
layout with two million segments, joined with an index of as many file names (which are made up, not
looked up on a disk), and planned.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import joblib
import numpy as np
import numpy.typing as npt
import soundfile
import torch

from elastictool.audio.decode import recording, resample_blocks
from elastictool.audio.trials import RATE_HZ as AV_RATE_HZ
from elastictool.audio.trials import encode_with_av
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.plan import ShardTask, plan
from elastictool.data.prepare import carry_out
from elastictool.data.shards import keep_freed_memory, write_shard
from elastictool.evaluation.bench.timing import environment
from elastictool.utils.csv_files import write_rows
from elastictool.utils.errors import AudioError
from elastictool.utils.io import FoundFile, write_json

CLIPS, DURATION_S = 16, 10.0
WANTED = 0.85
KINDS = ("m4a", "ogg", "mp3", "flac", "wav", "wav-16k-mono")
"""Recordings as users have them: 44.1 kHz stereo (m4a: 48 kHz mono), or what needs no work."""
SETTINGS = {
    "flac, exact statistics (default)": StorageOptions(),
    "wav, exact statistics": StorageOptions("wav"),
    "flac, --stats-clips": StorageOptions(stats_clips=1),
    "wav, --stats-clips": StorageOptions("wav", stats_clips=1),
}
WORKER_KINDS = ("mp3", "flac")
WORKER_CLIPS = 320
SEGMENTS = 2_000_000


def main() -> None:
    """Measure, print and, if asked, write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--segments", type=int, default=SEGMENTS, help="of the large listing")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--list", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(json.dumps(_peak(Path(arguments.peak[0]), int(arguments.peak[1]))))
    elif arguments.list:
        print(json.dumps(_list(arguments.list)))
    else:
        report(arguments.rounds, arguments.segments, arguments.json)


def report(rounds: int, segments: int, file: Path | None) -> None:
    """Return all measurements, printing each one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = []
        for kind in KINDS:
            for row in shares(kind, root / kind, rounds):
                rows.append(row)
                print(
                    f"{row['source']:>13}  {row['stored']:<34} bare {row['bare_ms']:6.2f} ms, "
                    f"prep {row['prep_ms']:6.2f} ms for 10 s: {row['share']:.0%}",
                    flush=True,
                )
        several = [row for kind in WORKER_KINDS for row in of_workers(kind, root / kind)]
        for row in several:
            print(
                f"{row['source']:>13}  {row['stored']:<34} {row['workers']} workers: "
                f"bare {row['bare_clips_s']:.0f}, prep {row['prep_clips_s']:.0f} clips/s: "
                f"{row['share']:.0%}"
            )
        source = str(root / KINDS[-1])
        few, many = (_in_process("--peak", source, str(clips)) for clips in (8_000, 16_000))
    large = _in_process("--list", str(segments))
    print(f"peak memory: {few['clips']} clips {few['peak_mb']:.0f} MB, ", end="")
    print(f"{many['clips']} clips {many['peak_mb']:.0f} MB")
    print(f"{large['clips']:,} of {segments:,} segments listed, joined and planned: ", end="")
    print(f"{large['cpu_s']:.0f} s of processor time, {large['peak_mb']:.0f} MB")
    if file:
        document = {
            "benchmark": "prep",
            "command": f"python -m benchmarks.prep --rounds {rounds} --segments {segments}",
            "environment": environment(),
            "clock": "processor time of one process, median of rounds",
            "clip": f"{DURATION_S:g} s, {CLIPS} clips a shard",
            "wanted_share": WANTED,
            "shares": rows,
            "workers": several,
            "memory": [few, many],
            "large_listing": large,
        }
        write_json(file, document)


def shares(kind: str, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Return A row for each of ``SETTINGS``; none where this kind cannot be written here."""
    try:
        write_recordings(kind, folder)
    except AudioError as error:
        print(f"{kind}: left out, {error.message}")
        return
    table = folder / "clips.csv"
    tasks = {
        name: plan(
            PrepOptions("csv", table, folder / "data", name=f"d{at}", storage=settings)
        ).tasks[0]
        for at, (name, settings) in enumerate(SETTINGS.items())
    }
    keep_freed_memory()
    contenders: dict[str, Callable[[], object]] = {
        name: partial(write_shard, task) for name, task in tasks.items()
    }
    first = next(iter(tasks.values()))
    seconds = _interleaved({"bare": lambda: bare(first), **contenders}, rounds)
    per_clip = {name: 1e3 * spent / CLIPS for name, spent in seconds.items()}
    for name in SETTINGS:
        yield {
            "source": kind,
            "stored": name,
            "bare_ms": per_clip["bare"],
            "prep_ms": per_clip[name],
            "share": per_clip["bare"] / per_clip[name],
        }


def of_workers(kind: str, folder: Path, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Return the clips a second by the clock, with a worker process a core."""
    cores = os.cpu_count() or 1
    table = folder / "many.csv"
    rows = [
        {"path": f"{n % CLIPS}.{kind}", "label": "x", "split": "train", "start": 1e-4 * n}
        for n in range(WORKER_CLIPS)
    ]
    write_rows(table, ("path", "label", "split", "start"), rows)
    workers = joblib.Parallel(n_jobs=cores)
    for at, (name, settings) in enumerate(SETTINGS.items()):
        planned = plan(
            PrepOptions(
                "csv",
                table,
                folder / "data",
                name=f"w{at}",
                storage=settings,
                workers=cores,
                overwrite=True,
            )
        )
        spent: dict[str, list[float]] = {"bare": [], "prep": []}
        for turn in range(-1, rounds):  # the first starts the processes
            begin = time.perf_counter()
            workers(joblib.delayed(bare)(task) for task in planned.tasks)
            between = time.perf_counter()
            carry_out(planned)
            if turn >= 0:
                spent["bare"].append(between - begin)
                spent["prep"].append(time.perf_counter() - between)
        clips_s = {who: WORKER_CLIPS / statistics.median(times) for who, times in spent.items()}
        yield {
            "source": kind,
            "stored": name,
            "workers": cores,
            "bare_clips_s": clips_s["bare"],
            "prep_clips_s": clips_s["prep"],
            "share": clips_s["prep"] / clips_s["bare"],
        }


def bare(task: ShardTask) -> int:
    """Decode and resample the clips of a shard; returns how many samples that gave."""
    rate_hz, count = task.storage.fbank.sample_rate_hz, 0
    for clip in task.clips:
        with recording(task.root / clip.path) as opened:
            blocks = resample_blocks(opened.blocks(), opened.sample_rate_hz, rate_hz)
            count += sum(len(block) for block, _ in blocks)
    return count


def _interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return median seconds of processor time of each, turn by turn."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, rounds):
        for name, contender in contenders.items():
            begin = time.process_time()
            contender()
            if turn >= 0:
                spent[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in spent.items()}


def write_recordings(kind: str, folder: Path, clips: int = CLIPS) -> None:
    """Write recordings of one kind, and the table that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        ending = "wav" if kind.startswith("wav") else kind
        name = f"{number}.{ending}"
        (folder / name).write_bytes(_content(kind, number))
        rows.append({"path": name, "label": "x", "split": "train"})
    write_rows(folder / "clips.csv", ("path", "label", "split"), rows)


def _content(kind: str, seed: int) -> bytes:
    if kind == "m4a":
        return encode_with_av(music(AV_RATE_HZ, seed), "mp4", "aac")
    rate_hz, channels = (16_000, 1) if kind == "wav-16k-mono" else (44_100, 2)
    sound = np.stack([np.roll(music(rate_hz, seed), 40 * c) for c in range(channels)], axis=1)
    buffer = io.BytesIO()
    form, subtype = {"ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}.get(
        kind, (kind.partition("-")[0].upper(), "PCM_16")
    )
    with soundfile.SoundFile(buffer, "w", rate_hz, channels, subtype, format=form) as file:
        for first in range(0, len(sound), rate_hz):  # its Vorbis encoder needs small blocks
            file.write(sound[first : first + rate_hz])
    return buffer.getvalue()


def music(rate_hz: int, seed: int) -> npt.NDArray[np.float32]:
    """Return notes (n,) that fade out over noise, as hard to encode as music."""
    rng = np.random.default_rng(seed)
    at_s = np.arange(round(DURATION_S * rate_hz)) / rate_hz
    sound = 0.003 * rng.standard_normal(len(at_s))
    for note in range(20):
        hertz, since = rng.uniform(110, 880), at_s - 0.5 * note
        fading = np.where(since >= 0, np.exp(-3 * np.maximum(since, 0)), 0)
        tones = sum(np.sin(2 * np.pi * k * hertz * since) / k for k in range(1, 8))
        sound += 0.1 * fading * tones
    return sound.astype(np.float32)


def _in_process(*arguments: str) -> dict[str, Any]:
    """Return the output of this program in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.prep", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(folder: Path, clips: int) -> dict[str, Any]:
    """Return the peak memory of preparing ``clips`` clips in one process."""
    with tempfile.TemporaryDirectory() as out:
        rows = [
            {"path": f"{n % CLIPS}.wav", "label": "x", "split": "train", "start": 1e-4 * n}
            for n in range(clips)
        ]
        table = folder / f"many-{clips}.csv"
        write_rows(table, ("path", "label", "split", "start"), rows)
        settings = StorageOptions("wav", stats_clips=1)
        for task in plan(PrepOptions("csv", table, Path(out), storage=settings)).tasks:
            write_shard(task)
            task.path.unlink()
    return {"clips": clips, "clips_a_shard": -(-clips // 32), "peak_mb": _high_water_mb()}


def _list(segments: int) -> dict[str, Any]:
    """List AudioSet's layout with as many segments, join it with an index, and plan."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_segments(root, segments)
        files = (FoundFile(f"audio/{n % 999:03d}/Y{n:011d}.flac") for n in range(segments))
        begin = time.process_time(), time.perf_counter()
        with mock.patch("elastictool.corpora.listing.walk_files", lambda *_: files):
            planned = plan(PrepOptions("audioset", root, root / "data"))
        spent = time.process_time() - begin[0], time.perf_counter() - begin[1]
        return {
            "segments": segments,
            "clips": len(planned.listing.clips),
            "shards": len(planned.tasks),
            "cpu_s": spent[0],
            "wall_s": spent[1],
            "peak_mb": _high_water_mb(),
        }


def _write_segments(folder: Path, segments: int) -> None:
    """Write tables like the published ones; every 50th video has no file."""
    (folder / "audio").mkdir(parents=True)
    with (folder / "class_labels_indices.csv").open("w", encoding="utf-8") as file:
        file.write("index,mid,display_name\n")
        file.writelines(f'{k},/m/{k:04d},"Class, number {k}"\n' for k in range(527))
    with (folder / "unbalanced_train_segments.csv").open("w", encoding="utf-8") as file:
        for n in range(segments):
            name = f"{n:011d}" if n % 50 else f"-gone{n:06d}"
            mids = f"/m/{n % 527:04d},/m/{n * 7 % 527:04d}"
            file.write(f'{name}, {n % 300}.000, {n % 300 + 10}.000, "{mids}"\n')


def _high_water_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
