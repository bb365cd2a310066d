"""From a corpus's listing to prepared data: plan shards, write them in parallel, sum up.

Shard boundaries follow from the clip list alone, each shard is written by one worker, and all
that ends up in ``dataset.json`` is summed in shard order: any number of workers, and any number
of killed and repeated runs, leave the same bytes. A rejected clip never stops the run.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from elastictool.audio.decode import RESAMPLER
from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.data.shards import (
    PROGRESS_FOLDER,
    PrepSettings,
    ShardReport,
    ShardTask,
    finished,
    in_other_process,
    remove_temporaries,
    write_shard,
)
from elastictool.data.store import (
    DATA_ROOT,
    FORMAT,
    INFO_NAME,
    DatasetInfo,
    FbankSums,
    PreparedStore,
    SplitCounts,
)
from elastictool.errors import ElasticToolError, Interrupted, RejectedItemsError, UsageError
from elastictool.files import atomic_path, write_json
from elastictool.progress import SILENT, Progress

REJECTED_NAME = "rejected.csv"
DURATIONS_NAME = "durations.png"
_SHARDS_WANTED = 32
_CLIPS_PER_SHARD = (16, 1024)


def prepare(
    corpus_name: str,
    root: Path | None = None,
    out: Path = DATA_ROOT,
    *,
    name: str = "",
    options: CorpusOptions = CorpusOptions(),
    settings: PrepSettings = PrepSettings(),
    limit: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> PreparedStore:
    """Prepare a corpus into ``out/name``; continues an unfinished run, leaves a finished one.

    Args:
        corpus_name: One of ``CORPORA``.
        root: Where the corpus lies; None is its default place.
        out: Folder of all prepared datasets.
        name: Name of this one; empty takes the listing's.
        options: What to list.
        settings: What to store.
        limit: Number of clips to prepare (``limited``); 0 is all.
        workers: Processes; 0 is one per core, 1 works in this process.
        overwrite: Replace another dataset of this name.
        progress: Where to show how far it is.

    Raises:
        UsageError: The corpus is not there, or ``out/name`` holds something else.
        ElasticToolError: All clips were rejected, or the target cannot be written.
        Interrupted: Stopped by Ctrl-C or SIGTERM; finished shards stay and are taken over.
    """
    corpus = CORPORA[corpus_name]
    listing = corpus.list_clips(root, options)
    _check_listing(corpus, listing)
    listing.clips = limited(listing.clips, limit)
    folder = out / _checked_name(name or _file_name(listing.name))
    fingerprint = _fingerprint(corpus, listing, settings)
    if _is_finished(folder, fingerprint, overwrite):
        progress.say(f"{folder} is prepared already (--overwrite prepares it again)")
        return PreparedStore.open(folder)
    tasks = plan_shards(listing, folder, fingerprint, corpus.name, settings)
    reports = _write_shards(tasks, workers, progress)
    _finish(folder, corpus, listing, settings, fingerprint, reports)
    return PreparedStore.open(folder)


def check_rejected(info: DatasetInfo, max_share: float) -> None:
    """Complain if more than ``max_share`` of the clips found were rejected.

    Raises:
        RejectedItemsError: They were.
    """
    found = sum(counts.found for counts in info.splits.values())
    if info.rejected > max_share * found:
        raise RejectedItemsError(
            f"{info.rejected} of {found} clips were rejected "
            f"({info.rejected / found:.1%}, allowed {max_share:.1%})",
            f"{REJECTED_NAME} beside the data says why; --max-rejected sets the allowed share",
        )


def limited(clips: Sequence[SourceClip], limit: int) -> list[SourceClip]:
    """``limit`` clips for a quick look: shared among (split, fold) in proportion, by turns of class.

    Within a (split, fold) every class gives its first clip, then its second, and so on; the next
    (split, fold) goes on with the class at which the last one stopped. The listing's order is
    kept. 0, or more than there are, takes all.
    """
    if not 0 < limit < len(clips):
        return list(clips)
    parts: dict[tuple[str, int], list[int]] = {}
    for index, clip in enumerate(clips):
        parts.setdefault((clip.split, clip.fold), []).append(index)
    quotas = _quotas([len(part) for part in parts.values()], limit)
    classes = {labels: rank for rank, labels in enumerate(sorted({c.labels for c in clips}))}
    chosen: list[int] = []
    for part, quota in zip(parts.values(), quotas, strict=True):
        ranks = [(classes[clips[index].labels] - len(chosen)) % len(classes) for index in part]
        chosen += _by_turns(part, ranks)[:quota]
    return [clips[index] for index in sorted(chosen)]


def _quotas(sizes: Sequence[int], limit: int) -> list[int]:
    """Shares of ``limit`` in proportion to ``sizes`` (largest remainder)."""
    exact = [size * limit / sum(sizes) for size in sizes]
    quotas = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: quotas[i] - exact[i])
    for index in by_remainder[: limit - sum(quotas)]:
        quotas[index] += 1
    return quotas


def _by_turns(part: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """``part`` in the order: first of each rank, second of each rank, ..."""
    turn: Counter[int] = Counter()
    keyed = []
    for index, rank in zip(part, ranks, strict=True):
        turn[rank] += 1
        keyed.append((turn[rank], rank, index))
    return [index for *_, index in sorted(keyed)]


def plan_shards(
    listing: Listing, folder: Path, fingerprint: str, corpus: str, settings: PrepSettings
) -> list[ShardTask]:
    """Cut the clip list into shards: about 32, of 16 to 1,024 clips each."""
    smallest, largest = _CLIPS_PER_SHARD
    size = min(max(math.ceil(len(listing.clips) / _SHARDS_WANTED), smallest), largest)
    return [
        ShardTask(
            index=index,
            folder=folder,
            fingerprint=fingerprint,
            corpus=corpus,
            root=listing.root,
            clips=tuple(listing.clips[start : start + size]),
            settings=settings,
        )
        for index, start in enumerate(range(0, len(listing.clips), size))
    ]


def _check_listing(corpus: Corpus, listing: Listing) -> None:
    """Hold the corpus to its contract; only the first complaint can be the user's."""
    if not listing.clips:
        first = f"; the first is {listing.missing[0].path}" if listing.missing else ""
        raise UsageError(
            f"no clips found under {listing.root}: {len(listing.missing)} files are missing{first}",
            corpus.describe(),
        )
    if len({clip.id for clip in listing.clips}) != len(listing.clips):
        raise ValueError(f"corpus {corpus.name} lists two clips under one id")
    if not {label for clip in listing.clips for label in clip.labels} <= set(listing.label_names):
        raise ValueError(f"corpus {corpus.name} uses labels that it does not list")


def _file_name(name: str) -> str:
    """A folder's name as the name of a dataset."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "dataset"


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{name!r} cannot name a dataset", "use letters, digits, '.', '_' and '-' only"
        )
    return name


def _fingerprint(corpus: Corpus, listing: Listing, settings: PrepSettings) -> str:
    """Hash of everything that decides what the prepared data says."""
    digest = hashlib.sha256()
    head = [FORMAT, corpus.name, RESAMPLER, listing.label_names, listing.multi_label]
    rest = [listing.missing, listing.expected, listing.notes, asdict(settings)]
    for part in [*head, *rest, *listing.clips]:
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()


def _is_finished(folder: Path, fingerprint: str, overwrite: bool) -> bool:
    """Whether ``folder`` holds this very dataset; makes room for it otherwise.

    Raises:
        UsageError: It holds something else, and ``overwrite`` is off.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --name or --out")
    ours = (INFO_NAME, PROGRESS_FOLDER, REJECTED_NAME)
    if folder.exists() and any(folder.iterdir()) and not any((folder / n).exists() for n in ours):
        raise UsageError(
            f"{folder} is not empty and not a prepared dataset", "choose another --name or --out"
        )
    if overwrite:
        _remove_dataset(folder)
    if (folder / INFO_NAME).exists():
        if DatasetInfo.read(folder / INFO_NAME).fingerprint == fingerprint:
            return True
        raise _other_dataset(folder, "another dataset or other settings")
    for sidecar in (folder / PROGRESS_FOLDER).glob("*.json"):
        if json.loads(sidecar.read_text(encoding="utf-8")).get("fingerprint") != fingerprint:
            raise _other_dataset(folder, "an unfinished dataset with other clips or settings")
    return False


def _other_dataset(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder} holds {what}", "choose another --name, or replace it with --overwrite"
    )


def _remove_dataset(folder: Path) -> None:
    """Delete what ``prepare`` writes, and nothing else."""
    for pattern in (INFO_NAME, REJECTED_NAME, DURATIONS_NAME, "shard-*.arrow", ".*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / PROGRESS_FOLDER, ignore_errors=True)


def _write_shards(
    tasks: Sequence[ShardTask], workers: int, progress: Progress
) -> list[ShardReport]:
    """All reports in shard order; finished shards are taken over."""
    reports = {task.index: report for task in tasks if (report := finished(task))}
    pending = [task for task in tasks if task.index not in reports]
    if reports:
        progress.say(f"continuing: {len(reports)} of {len(tasks)} shards are finished")
    try:
        with _sigterm_interrupts(), progress.task("prepare", sum(map(_size, tasks))) as bar:
            bar.advance(sum(_size(tasks[index]) for index in reports))
            for index, report in _run(pending, workers):
                reports[index] = report
                bar.advance(_size(tasks[index]))
    except KeyboardInterrupt:
        raise Interrupted(
            f"prep was interrupted; {len(reports)} of {len(tasks)} shards are finished and saved "
            f"in {tasks[0].folder}",
            "run the same command again: it continues there",
        ) from None
    return [reports[task.index] for task in tasks]


def _size(task: ShardTask) -> int:
    return len(task.clips)


def _run(tasks: Sequence[ShardTask], workers: int) -> Iterator[tuple[int, ShardReport]]:
    """Write shards in this process or in workers; reports come as they are done."""
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task.index, write_shard(task)
        return
    # joblib takes 0.2 s to import and workers some seconds to start: only where they are used.
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    processes = min(workers or joblib.cpu_count(), len(tasks))
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
    try:
        yield from parallel(joblib.delayed(_work)(task, os.getpid()) for task in tasks)
    except TerminatedWorkerError as error:
        raise ElasticToolError(
            "a worker process was killed, most likely for lack of memory",
            "run the same command again with fewer --workers: it continues",
        ) from error
    except BaseException:
        get_reusable_executor().shutdown(kill_workers=True)
        raise


def _work(task: ShardTask, parent_pid: int) -> tuple[int, ShardReport]:
    """One shard in a worker, which leaves Ctrl-C to the parent."""
    if in_other_process(parent_pid):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return task.index, write_shard(task)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM stops like Ctrl-C (only the main thread may say so)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finish(
    folder: Path,
    corpus: Corpus,
    listing: Listing,
    settings: PrepSettings,
    fingerprint: str,
    reports: Sequence[ShardReport],
) -> None:
    """Write ``rejected.csv`` and, last of all, ``dataset.json``."""
    remove_temporaries(folder)
    _write_rejected(folder / REJECTED_NAME, listing, reports)
    rows = sum(report.rows for report in reports)
    if not rows:
        _remove_shards(folder)
        clip_id, _, reason, _ = reports[0].rejected[0]
        raise ElasticToolError(
            f"all {len(listing.clips)} clips were rejected; the first, {clip_id}: {reason}",
            f"{folder / REJECTED_NAME} lists them all",
        )
    info = DatasetInfo(
        name=folder.name,
        corpus=corpus.name,
        label_names=listing.label_names,
        multi_label=listing.multi_label,
        sample_rate_hz=settings.fbank.sample_rate_hz,
        encoding=settings.encoding,
        channel=str(settings.channel),
        resampler=RESAMPLER,
        source_rates=_total(report.source_rates for report in reports),
        fingerprint=fingerprint,
        num_clips=rows,
        num_shards=len(reports),
        splits=_split_counts(listing, reports),
        fbank_config=asdict(settings.fbank),
        fbank_sums=_fbank_sums(reports),
        notes=listing.notes,
    )
    write_json(folder / INFO_NAME, info.to_json())
    shutil.rmtree(folder / PROGRESS_FOLDER)


def _remove_shards(folder: Path) -> None:
    """Forget shards without rows, so that the next run tries again."""
    for path in folder.glob("shard-*.arrow"):
        path.unlink()
    shutil.rmtree(folder / PROGRESS_FOLDER)


def _write_rejected(path: Path, listing: Listing, reports: Sequence[ShardReport]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "path", "reason"))
        writer.writerows((clip.id, clip.path, "missing") for clip in listing.missing)
        for report in reports:
            writer.writerows((row[0], row[1], row[2]) for row in report.rejected)


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def _split_counts(
    listing: Listing, reports: Sequence[ShardReport]
) -> dict[str, SplitCounts]:
    found = Counter(clip.split for clip in listing.clips)
    missing = Counter(clip.split for clip in listing.missing)
    rejected = Counter(row[3] for report in reports for row in report.rejected)
    prepared = _total(report.prepared for report in reports)
    silent = _total(report.silent for report in reports)
    usual = {"train": 0, "val": 1, "test": 2}
    names = sorted({*found, *missing, *listing.expected}, key=lambda s: (usual.get(s, 3), s))
    return {
        split: SplitCounts(
            prepared=prepared.get(split, 0),
            found=found[split],
            expected=listing.expected.get(split, 0),
            missing=missing[split],
            rejected=rejected[split],
            silent=silent.get(split, 0),
        )
        for split in names
    }


def _fbank_sums(reports: Sequence[ShardReport]) -> list[FbankSums]:
    """Add the shards' sums in shard order, so that rounding is always the same."""
    totals: dict[tuple[str, int], FbankSums] = {}
    for report in reports:
        for split, fold, frames, total, squares in report.sums:
            before = totals.get((split, fold), FbankSums(split, fold, 0, 0.0, 0.0))
            totals[split, fold] = FbankSums(
                split,
                fold,
                before.frames + frames,
                before.sum + total,
                before.sum_of_squares + squares,
            )
    return [totals[key] for key in sorted(totals)]
