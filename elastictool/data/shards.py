"""Writing one shard: the unit of work of ``prep``.

A shard depends on its clips and the settings alone, so any number of workers writes the same
bytes. It is written to a temporary name and renamed; then a sidecar with everything that
``dataset.json`` needs of it (rows, rejects, filterbank sums) says that it is finished. A killed
run leaves finished shards with sidecars, which the next run takes over.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from elastictool.audio.decode import decode, encode, probe, resample
from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig
from elastictool.corpora.base import CORPORA, RenderingCorpus, SourceClip
from elastictool.data.store import shard_name, shard_schema
from elastictool.errors import AudioError
from elastictool.files import atomic_path, write_json

PROGRESS_FOLDER = "unfinished"
_BATCH_BYTES = 32 << 20
_END_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class PrepSettings:
    """What the stored audio is.

    Attributes:
        encoding: ``flac`` (lossless, half the size) or ``wav`` (faster to read).
        channel: ``mean`` of all, or a channel counted from 0.
        trim_silence: Cut exact zeros off both ends; a clip of nothing else is kept whole.
        max_seconds: Keep so many seconds from the start; 0 keeps all.
        fbank: Filterbank of the statistics; its sample rate is that of the stored audio.
    """

    encoding: Literal["flac", "wav"] = "flac"
    channel: str | int = "mean"
    trim_silence: bool = False
    max_seconds: float = 0.0
    fbank: FbankConfig = field(default_factory=FbankConfig)


@dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to write one shard."""

    index: int
    folder: Path
    fingerprint: str
    corpus: str
    root: Path
    clips: tuple[SourceClip, ...]
    settings: PrepSettings

    @property
    def path(self) -> Path:
        """The shard."""
        return self.folder / shard_name(self.index)

    @property
    def sidecar(self) -> Path:
        """What says that the shard is finished."""
        return self.folder / PROGRESS_FOLDER / f"shard-{self.index:05d}.json"


@dataclass
class ShardReport:
    """What ``dataset.json`` has to know of one shard.

    Attributes:
        fingerprint: Of the run that wrote it.
        rows: Clips in the shard.
        num_bytes: Size of the file.
        rejected: (id, path, reason, split) of each clip that could not be used.
        prepared: Clips per split.
        silent: Clips per split that are digital silence.
        source_rates: Clips per original rate.
        sums: ``split``, ``fold`` -> frames, sum, sum of squares.
    """

    fingerprint: str
    rows: int = 0
    num_bytes: int = 0
    rejected: list[tuple[str, str, str, str]] = field(default_factory=list)
    prepared: dict[str, int] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    source_rates: dict[str, int] = field(default_factory=dict)
    sums: list[tuple[str, int, int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Ready:
    """A clip whose audio is decoded, resampled and encoded."""

    audio: bytes
    waveform: NDArray[np.float32]
    source_rate_hz: int


def finished(task: ShardTask) -> ShardReport | None:
    """The report of a shard that an earlier run has finished, else None."""
    try:
        report = ShardReport(**json.loads(task.sidecar.read_text(encoding="utf-8")))
        whole = task.path.stat().st_size == report.num_bytes
    except (OSError, ValueError, TypeError):
        return None
    return report if whole and report.fingerprint == task.fingerprint else None


def write_shard(task: ShardTask) -> ShardReport:
    """Decode, check, resample, encode and store the clips of one shard.

    A clip that cannot be used is recorded with its reason, and the shard goes on.

    Raises:
        ElasticToolError: The target cannot be written.
    """
    report = ShardReport(task.fingerprint)
    sums: dict[tuple[str, int], tuple[int, float, float]] = {}
    schema = shard_schema(task.settings.fbank.sample_rate_hz)
    with _one_thread(), atomic_path(task.path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(_rows(task, report, sums)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        report.num_bytes = temporary.stat().st_size
    report.sums = [(*key, *sums[key]) for key in sorted(sums)]
    write_json(task.sidecar, asdict(report))
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: workers are the parallelism, and sums must not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Group rows into record batches of bounded size, so that memory is bounded too."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["audio"]["bytes"])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(
    task: ShardTask,
    report: ShardReport,
    sums: dict[tuple[str, int], tuple[int, float, float]],
) -> Iterator[dict[str, Any]]:
    for clip in task.clips:
        try:
            ready = _prepare_clip(task, clip)
        except (AudioError, OSError) as error:
            report.rejected.append((clip.id, clip.path, _reason(task, clip, error), clip.split))
            continue
        _count(report, sums, clip, ready, task.settings.fbank)
        yield _row(clip, ready, task.settings)


def _reason(task: ShardTask, clip: SourceClip, error: AudioError | OSError) -> str:
    """What is wrong, without the path: it has a column of its own, and may differ by machine."""
    text = error.message if isinstance(error, AudioError) else error.strerror or str(error)
    return text.removeprefix(f"{task.root / clip.path}: ")


def _row(clip: SourceClip, ready: _Ready, settings: PrepSettings) -> dict[str, Any]:
    return {
        "id": clip.id,
        "audio": {"bytes": ready.audio, "path": f"{clip.id}.{settings.encoding}"},
        "num_samples": len(ready.waveform),
        "sample_rate_hz": settings.fbank.sample_rate_hz,
        "labels": list(clip.labels),
        "split": clip.split,
        "fold": clip.fold,
        "group": clip.group,
        "source": clip.path,
        "start": clip.start_s,
        "stop": clip.stop_s,
    }


def _count(
    report: ShardReport,
    sums: dict[tuple[str, int], tuple[int, float, float]],
    clip: SourceClip,
    ready: _Ready,
    config: FbankConfig,
) -> None:
    """Add one clip to the counts and to the filterbank sums (in float64)."""
    report.rows += 1
    _add_one(report.prepared, clip.split)
    _add_one(report.source_rates, str(ready.source_rate_hz))
    if not ready.waveform.any():
        _add_one(report.silent, clip.split)
    features = fbank(torch.from_numpy(ready.waveform), config).double()
    frames, total, squares = sums.get((clip.split, clip.fold), (0, 0.0, 0.0))
    sums[clip.split, clip.fold] = (
        frames + len(features),
        total + float(features.sum()),
        squares + float(features.square().sum()),
    )


def _add_one(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _prepare_clip(task: ShardTask, clip: SourceClip) -> _Ready:
    """Read, check, resample and encode one clip.

    The waveform is what decoding the stored bytes gives, so the statistics are exact for them.

    Raises:
        AudioError: It cannot be used.
    """
    waveform, source_rate_hz = _read(task, clip)
    waveform = _cut(waveform, source_rate_hz, task.settings)
    config = task.settings.fbank
    resampled = resample(waveform, source_rate_hz, config.sample_rate_hz)
    if config.num_frames(len(resampled)) < 1:
        raise AudioError(
            f"is shorter than one frame ({config.window_ms:g} ms): {len(waveform)} samples at "
            f"{source_rate_hz} Hz"
        )
    audio = encode(resampled, config.sample_rate_hz, task.settings.encoding)
    return _Ready(audio, decode(audio)[0], source_rate_hz)


def _cut(
    waveform: NDArray[np.float32], rate_hz: int, settings: PrepSettings
) -> NDArray[np.float32]:
    """The part of the clip that the settings keep."""
    if settings.trim_silence:
        loud = np.flatnonzero(waveform)
        if len(loud):
            waveform = waveform[loud[0] : loud[-1] + 1]
    if settings.max_seconds:
        waveform = waveform[: round(settings.max_seconds * rate_hz)]
    return waveform


def _read(task: ShardTask, clip: SourceClip) -> tuple[NDArray[np.float32], int]:
    corpus = CORPORA[task.corpus]
    if isinstance(corpus, RenderingCorpus):
        return corpus.read(clip)
    path = task.root / clip.path
    if clip.start_s is None and clip.stop_s is None:
        return decode(path, channel=task.settings.channel)
    start, stop = _slice(path, clip)
    return decode(path, start, stop, channel=task.settings.channel)


def _slice(path: Path, clip: SourceClip) -> tuple[int, int]:
    """First and last sample of the slice, in the file's own rate.

    A slice may reach past the end by what annotations round (0.1 s); more is an error, because
    it means that file and annotation do not belong together.
    """
    info = probe(path)
    duration_s = info.num_samples / info.sample_rate_hz
    start_s, stop_s = clip.start_s or 0.0, duration_s if clip.stop_s is None else clip.stop_s
    if start_s >= duration_s or stop_s > duration_s + _END_TOLERANCE_S:
        raise AudioError(
            f"slice {start_s:g}..{stop_s:g} s lies past the end of the file ({duration_s:g} s)"
        )
    start = math.floor(start_s * info.sample_rate_hz + 0.5)
    stop = math.floor(stop_s * info.sample_rate_hz + 0.5)
    return start, min(stop, info.num_samples)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed workers left behind."""
    for path in folder.glob(".shard-*.tmp"):
        path.unlink(missing_ok=True)


def in_other_process(parent_pid: int) -> bool:
    """Whether this code runs in a worker instead of in the process that planned the work."""
    return os.getpid() != parent_pid
