"""Writes one shard: the unit of work of ``prep``.

A shard depends on its clips and the options alone, so any number of workers writes the same
bytes. It is written to a temporary name and renamed; then a sidecar with everything that
``dataset.json`` needs of it (rows, rejects, filterbank sums) marks it as finished. A killed
run leaves finished shards with sidecars, which the next run takes over.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from elastictool.audio.formats import misnamed
from elastictool.audio.reader import memory_errors
from elastictool.corpora.base import CORPORA, SourceClip
from elastictool.data.ingest import StoredAudio, ingest
from elastictool.data.plan import ShardTask
from elastictool.data.store import shard_schema
from elastictool.utils.errors import AudioError
from elastictool.utils.io import atomic_path, readable, write_json

_BATCH_BYTES = 32 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""


@dataclass
class ShardReport:
    """One shard's part of ``dataset.json``: counts, rejects and filterbank sums.

    Attributes:
        fingerprint: Of the run that wrote it.
        rows: Clips in the shard.
        num_bytes: Size of the file.
        rejected: (id, path, reason) of each clip that could not be used.
        counts: For each split: clips that are ``prepared``, of these ``silent`` and ``clipped``
            ones (went beyond full scale), and ``rejected`` ones.
        source_rates: Clips per original rate.
        sums: For each (split, fold) in the order of their first clips: frames, sum of their
            log-mel values, sum of squares.
        misnamed: Format of each file whose name promises another.
        losses: What of each file was not read, a row for each clip.
        loudest: Of the clipped, the id of the one that went furthest, and its largest sample.
        digests: Hash of each row's samples; 0 for digital silence.
        silent: Split of each silent clip, by its id.
    """

    fingerprint: str
    rows: int = 0
    num_bytes: int = 0
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    source_rates: dict[str, int] = field(default_factory=dict)
    sums: list[tuple[str, int, int, float, float]] = field(default_factory=list)
    misnamed: dict[str, str] = field(default_factory=dict)
    losses: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    loudest: tuple[str, float] = ("", 0.0)
    digests: list[int] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)

    def reject(self, clip: SourceClip, reason: str) -> None:
        """Adds one clip that could not be used."""
        self.rejected.append((clip.id, readable(clip.path), readable(reason)))
        _add_one(self.counts.setdefault(clip.split, {}), "rejected")

    def add(self, clip: SourceClip, audio: StoredAudio) -> None:
        """Adds one clip to the counts and to the filterbank sums."""
        measured = audio.measured
        self.rows += 1
        self.digests.append(measured.digest)
        _add_one(self.source_rates, str(audio.source_rate_hz))
        counts = self.counts.setdefault(clip.split, {})
        _add_one(counts, "prepared")
        if audio.silent:
            _add_one(counts, "silent")
            self.silent[clip.id] = clip.split
        if audio.clipped_peak:
            _add_one(counts, "clipped")
            if audio.clipped_peak > self.loudest[1]:
                self.loudest = (clip.id, audio.clipped_peak)
        if measured.frames:
            one = (clip.split, clip.fold, measured.frames, measured.sum, measured.sum_of_squares)
            self.sums = add_sums([*self.sums, one])


def add_sums(
    sums: Iterable[tuple[str, int, int, float, float]],
) -> list[tuple[str, int, int, float, float]]:
    """Adds (frames, sum, sum of squares) of each (split, fold), in the order given."""
    totals: dict[tuple[str, int], tuple[int, float, float]] = {}
    for split, fold, frames, total, squares in sums:
        before = totals.get((split, fold), (0, 0.0, 0.0))
        totals[split, fold] = (before[0] + frames, before[1] + total, before[2] + squares)
    return [(*key, *totals[key]) for key in totals]


def finished(task: ShardTask) -> ShardReport | None:
    """Returns the report of a shard that an earlier run has finished, else None."""
    try:
        report = ShardReport(**json.loads(task.sidecar.read_text(encoding="utf-8")))
        whole = task.path.stat().st_size == report.num_bytes
    except (OSError, ValueError, TypeError):
        return None
    return report if whole and report.fingerprint == task.fingerprint else None


def write_shard(task: ShardTask) -> ShardReport:
    """Decodes, checks, resamples, encodes and stores the clips of one shard.

    A clip that cannot be used is recorded with its reason, and the shard continues.

    Raises:
        ElasticToolError: The target cannot be written.
    """
    keep_freed_memory()
    report = ShardReport(task.fingerprint)
    schema = shard_schema(task.storage.fbank.sample_rate_hz, task.fingerprint)
    with _one_thread(), atomic_path(task.path) as temporary:
        target = os.fsencode(temporary)  # Arrow takes a name that is not text as bytes only
        with pa.OSFile(target, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(_rows(task, report)):
                writer.write_batch(_record_batch(batch, schema))
        report.num_bytes = temporary.stat().st_size
    write_json(task.sidecar, asdict(report))
    return report


@cache
def keep_freed_memory() -> None:
    """Lets glibc keep the memory of one clip for the next, once in each process.

    Clips come as arrays of megabytes, which it would give back to the system and ask for again,
    page by page. Keeping them saved about a tenth of prep's processor time on 10 s clips (mp3, m4a,
    wav; between 2 and 21 % from run to run on a busy machine), for up to 128 MB that an idle worker
    holds. Other systems' allocators are left as they are; musl has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 128 << 20)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Runs torch on one thread: workers are the parallelism, and sums must not depend on it.

    Only the main thread restores the number: threads of a worker process write shards at the same
    time, and do nothing else.
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
    """Groups rows into record batches of bounded size, so that memory is bounded too.

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
    """Returns the rows as an Arrow batch; bytes of memory maps are not copied."""
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


def _rows(task: ShardTask, report: ShardReport) -> Iterator[dict[str, Any]]:
    """Yields the rows of the clips that can be used, and reports all clips."""
    corpus = CORPORA[task.corpus]
    for clip in task.clips:
        try:
            with memory_errors(str(task.root / clip.path)):
                audio = ingest(corpus, clip, task)
        except (AudioError, OSError) as error:
            text = error.message if isinstance(error, AudioError) else error.strerror or str(error)
            # The path has a column of its own, and may differ by machine.
            report.reject(clip, text.removeprefix(f"{task.root / clip.path}: "))
            continue
        path = readable(clip.path)
        if clip.path and (kind := misnamed(task.root / clip.path)):
            report.misnamed[path] = kind
        if audio.losses:
            report.losses.append((path, dict(audio.losses)))
        report.add(clip, audio)
        yield {
            "id": clip.id,
            "audio": {"bytes": audio.content, "path": f"{clip.id}.{task.storage.encoding}"},
            "num_samples": audio.num_samples,
            "sample_rate_hz": task.storage.fbank.sample_rate_hz,
            "labels": list(clip.labels),
            "split": clip.split,
            "fold": clip.fold,
            "group": clip.group,
            "source": path,
            "start": clip.start_s,
            "stop": clip.stop_s,
        }


def _add_one(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def write_in_worker(task: ShardTask) -> tuple[int, ShardReport]:
    """Writes one shard; returns its index, too."""
    return task.index, write_shard(task)
