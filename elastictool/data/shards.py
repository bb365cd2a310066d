"""Writing one shard: the unit of work of ``prep``.

A shard depends on its clips and the settings alone, so any number of workers writes the same
bytes. It is written to a temporary name and renamed; then a sidecar with everything that
``dataset.json`` needs of it (rows, rejects, filterbank sums) says that it is finished. A killed
run leaves finished shards with sidecars, which the next run takes over.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from elastictool.audio.formats import misnamed
from elastictool.corpora.base import CORPORA, SourceClip
from elastictool.data.allocator import keep_freed_memory
from elastictool.data.ingest import PrepSettings as PrepSettings
from elastictool.data.ingest import StoredAudio, ingest
from elastictool.data.store import shard_name, shard_schema
from elastictool.utils.errors import AudioError
from elastictool.utils.io import PROGRESS_FOLDER, atomic_path, readable, write_json
from elastictool.utils.signals import end_with_parent, leave_to_parent

_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to write one shard.

    ``measured``: ids of the clips that count for the statistics; None are all of them.
    """

    index: int
    folder: Path
    fingerprint: str
    corpus: str
    root: Path
    clips: tuple[SourceClip, ...]
    settings: PrepSettings
    measured: frozenset[str] | None = None

    def absolute(self) -> ShardTask:
        """The same task for a process that stands in another folder."""
        return replace(self, folder=self.folder.absolute(), root=self.root.absolute())

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
        misnamed: Format of each file whose name promises another.
        damaged: Packets that could not be decoded, of each file that has some.
        clipped: Clips per split that went beyond full scale.
        loudest: Of them, the id of the one that went furthest, and its largest sample.
        digests: Hash of each row's samples; 0 for digital silence.
    """

    fingerprint: str
    rows: int = 0
    num_bytes: int = 0
    rejected: list[tuple[str, str, str, str]] = field(default_factory=list)
    prepared: dict[str, int] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    source_rates: dict[str, int] = field(default_factory=dict)
    sums: list[tuple[str, int, int, float, float]] = field(default_factory=list)
    misnamed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    loudest: tuple[str, float] = ("", 0.0)
    digests: list[int] = field(default_factory=list)


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
    keep_freed_memory()
    report = ShardReport(task.fingerprint)
    sums: dict[tuple[str, int], tuple[int, float, float]] = {}
    schema = shard_schema(task.settings.fbank.sample_rate_hz, task.fingerprint)
    with _one_thread(), atomic_path(task.path) as temporary:
        place = os.fsencode(temporary)  # Arrow takes a name that is not text as bytes only
        with pa.OSFile(place, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(_rows(task, report, sums)):
                writer.write_batch(_record_batch(batch, schema))
        report.num_bytes = temporary.stat().st_size
    report.sums = [(*key, *sums[key]) for key in sorted(sums)]
    write_json(task.sidecar, asdict(report))
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: workers are the parallelism, and sums must not depend on it.

    Threads of a worker process write shards side by side: none of them may put back what another
    found, and they have nothing else to do.
    """
    if threading.current_thread() is not threading.main_thread():
        torch.set_num_threads(1)
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Group rows into record batches of bounded size, so that memory is bounded too.

    A clip that waits on disk is a batch of its own.
    """
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        large = isinstance(row["audio"]["bytes"], mmap.mmap)
        if large and batch:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row["audio"]["bytes"])
        if large or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _record_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """The rows as Arrow; the bytes of a memory map are written from where they lie."""
    audio = rows[0]["audio"]
    if not isinstance(audio["bytes"], mmap.mmap):
        return pa.RecordBatch.from_pylist(rows, schema=schema)
    offsets = pa.py_buffer(np.array([0, len(audio["bytes"])], dtype=np.int32))
    content = pa.py_buffer(audio["bytes"])
    column = pa.StructArray.from_arrays(
        [
            pa.Array.from_buffers(pa.binary(), 1, [None, offsets, content]),
            pa.array([audio["path"]], pa.string()),
        ],
        fields=list(schema.field("audio").type),
    )
    others = pa.RecordBatch.from_pylist([{**rows[0], "audio": None}], schema=schema)
    columns = [column if name == "audio" else others.column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _rows(
    task: ShardTask,
    report: ShardReport,
    sums: dict[tuple[str, int], tuple[int, float, float]],
) -> Iterator[dict[str, Any]]:
    corpus = CORPORA[task.corpus]
    for clip in task.clips:
        try:
            measured = task.measured is None or clip.id in task.measured
            audio = ingest(corpus, clip, task.root, task.settings, task.folder, measured)
        except (AudioError, OSError) as error:
            reason = readable(_reason(task, clip, error))
            report.rejected.append((clip.id, readable(clip.path), reason, clip.split))
            continue
        _note_name(task, report, clip)
        if audio.damaged_packets:
            path = readable(clip.path)
            report.damaged[path] = report.damaged.get(path, 0) + audio.damaged_packets
        _count(report, sums, clip, audio)
        yield _row(clip, audio, task.settings)


def _note_name(task: ShardTask, report: ShardReport, clip: SourceClip) -> None:
    """Remember a file whose ending promises another format than it holds."""
    found = misnamed(task.root / clip.path) if clip.path else ""
    if found:
        report.misnamed[readable(clip.path)] = found


def _reason(task: ShardTask, clip: SourceClip, error: AudioError | OSError) -> str:
    """What is wrong, without the path: it has a column of its own, and may differ by machine."""
    text = error.message if isinstance(error, AudioError) else error.strerror or str(error)
    return text.removeprefix(f"{task.root / clip.path}: ")


def _row(clip: SourceClip, audio: StoredAudio, settings: PrepSettings) -> dict[str, Any]:
    return {
        "id": clip.id,
        "audio": {"bytes": audio.content, "path": f"{clip.id}.{settings.encoding}"},
        "num_samples": audio.num_samples,
        "sample_rate_hz": settings.fbank.sample_rate_hz,
        "labels": list(clip.labels),
        "split": clip.split,
        "fold": clip.fold,
        "group": clip.group,
        "source": readable(clip.path),
        "start": clip.start_s,
        "stop": clip.stop_s,
    }


def _count(
    report: ShardReport,
    sums: dict[tuple[str, int], tuple[int, float, float]],
    clip: SourceClip,
    audio: StoredAudio,
) -> None:
    """Add one clip to the counts and to the filterbank sums."""
    report.rows += 1
    report.digests.append(0 if audio.silent else audio.digest)
    _add_one(report.prepared, clip.split)
    _add_one(report.source_rates, str(audio.source_rate_hz))
    if audio.silent:
        _add_one(report.silent, clip.split)
    if audio.clipped_peak:
        _add_one(report.clipped, clip.split)
        if audio.clipped_peak > report.loudest[1]:
            report.loudest = (clip.id, audio.clipped_peak)
    if not audio.frames:
        return
    frames, total, squares = sums.get((clip.split, clip.fold), (0, 0.0, 0.0))
    sums[clip.split, clip.fold] = (
        frames + audio.frames,
        total + audio.sum,
        squares + audio.sum_of_squares,
    )


def _add_one(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def write_in_worker(task: ShardTask, parent_pid: int) -> tuple[int, ShardReport]:
    """One shard, here or in a worker of the process ``parent_pid``."""
    if os.getpid() != parent_pid:
        leave_to_parent()
        end_with_parent(parent_pid)
    return task.index, write_shard(task)
