"""From a corpus to prepared data: list, plan, write shards in parallel, sum up.

Shard boundaries follow from the clip list alone, each shard is written by one worker, and all
that ends up in ``dataset.json`` is summed in shard order: any number of workers, and any number
of killed and repeated runs, leave the same bytes. A rejected clip never stops the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.data.plan import (
    check_listing,
    checked_name,
    clip_list_fingerprint,
    file_name,
    limited,
    plan_shards,
)
from elastictool.data.shards import (
    PROGRESS_FOLDER,
    PrepSettings,
    ShardReport,
    ShardTask,
    finished,
    in_other_process,
    write_shard,
)
from elastictool.data.store import DATA_ROOT, INFO_NAME, DatasetInfo, PreparedStore
from elastictool.data.summary import REJECTED_NAME, clean, finish
from elastictool.errors import ElasticToolError, Interrupted, UsageError, WriteError, write_error
from elastictool.progress import SILENT, Progress
from elastictool.stopping import Stopped, StopRequest, end_with_parent, leave_to_parent

DURATIONS_NAME = "durations.png"


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
    check_listing(corpus, listing)
    listing.clips = limited(listing.clips, limit)
    folder = out / checked_name(name or file_name(listing.name))
    fingerprint = clip_list_fingerprint(corpus, listing, settings)
    if _is_finished(folder, fingerprint, overwrite):
        clean(folder)
        progress.say(f"{folder} is prepared already (--overwrite prepares it again)")
        return PreparedStore.open(folder)
    tasks = plan_shards(listing, folder, fingerprint, corpus.name, settings)
    reports = _write_shards(tasks, workers, progress)
    finish(folder, corpus, listing, settings, fingerprint, reports)
    return PreparedStore.open(folder)


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
    """Delete what ``prepare`` writes, and nothing else.

    ``dataset.json`` goes first, so that nobody reads the rest, and what marks the folder as ours
    goes last, so that this may be killed half-way.
    """
    for pattern in (INFO_NAME, DURATIONS_NAME, "shard-*.arrow"):
        for path in folder.glob(pattern):
            path.unlink()
    clean(folder)
    (folder / REJECTED_NAME).unlink(missing_ok=True)


def _write_shards(
    tasks: Sequence[ShardTask], workers: int, progress: Progress
) -> list[ShardReport]:
    """All reports in shard order; finished shards are taken over."""
    reports = {task.index: report for task in tasks if (report := finished(task))}
    pending = [task for task in tasks if task.index not in reports]
    _mark_as_ours(tasks[0].folder)
    if reports:
        progress.say(f"continuing: {len(reports)} of {len(tasks)} shards are finished")
    try:
        with StopRequest() as stop, progress.task("prepare", sum(map(_size, tasks))) as bar:
            bar.advance(sum(_size(tasks[index]) for index in reports))
            for index, report in _run(pending, workers, stop):
                reports[index] = report
                bar.advance(_size(tasks[index]))
                stop.check()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted(
            f"prep was interrupted; {len(reports)} of {len(tasks)} shards are finished and saved "
            f"in {tasks[0].folder}",
            "run the same command again: it continues there",
        ) from None
    except WriteError as error:
        error.hint = f"{error.hint}; the same command continues with what is finished"
        raise
    return [reports[task.index] for task in tasks]


def _mark_as_ours(folder: Path) -> None:
    """Before the first shard: a run that is killed within it must find its folder again."""
    try:
        (folder / PROGRESS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def _size(task: ShardTask) -> int:
    return len(task.clips)


def _run(
    tasks: Sequence[ShardTask], workers: int, stop: StopRequest
) -> Iterator[tuple[int, ShardReport]]:
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
        stop.check()  # a signal to the whole group also ends workers that are just starting
        raise ElasticToolError(
            "a worker process was killed, most likely for lack of memory",
            "run the same command again with fewer --workers: it continues",
        ) from error
    except BaseException:
        get_reusable_executor().shutdown(kill_workers=True)
        raise


def _work(task: ShardTask, parent_pid: int) -> tuple[int, ShardReport]:
    """One shard, here or in a worker."""
    if in_other_process(parent_pid):
        leave_to_parent()
        end_with_parent(parent_pid)
    return task.index, write_shard(task)
