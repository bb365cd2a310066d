"""Prepare a corpus: plan, write shards in parallel, sum up.

Shard boundaries follow from the clip list alone, each shard is written by one worker, and all
that ends up in ``dataset.json`` is summed in shard order: any number of workers, jobs or machines
and any number of killed and repeated runs leave the same bytes. A rejected clip never stops the
run. A lock in the folder keeps a second preparation out while one is at work; each job shard has
a lock of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from elastictool.data.executor import write_shards
from elastictool.data.job_shards import JobShard, all_reports
from elastictool.data.options import PrepOptions
from elastictool.data.plan import Plan, plan
from elastictool.data.shards import ShardReport
from elastictool.data.store import DatasetInfo, PreparedStore
from elastictool.data.summary import REJECTED_NAME, clean, finish
from elastictool.utils.errors import UsageError, WriteError, write_error
from elastictool.utils.io import INFO_NAME, LOCK_NAME, PROGRESS_FOLDER, remove_temporaries
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

DURATIONS_NAME = "durations.png"
_LOCKED_HINT = (
    "wait for it, stop it, or choose another --name; several jobs at once: --part 1/2, ..."
)


def prepare(options: PrepOptions, progress: Progress = SILENT) -> PreparedStore:
    """Plans (``plan``) and carries out (``carry_out``) a preparation."""
    return carry_out(plan(options), progress)


def carry_out(plan: Plan, progress: Progress = SILENT) -> PreparedStore:
    """Prepares what was planned; continues an unfinished run, leaves a finished one.

    Raises:
        UsageError: The folder holds something else, or another process is at work there.
        ElasticToolError: All clips were rejected, or the target cannot be written.
        Interrupted: Stopped by Ctrl-C or SIGTERM; finished shards stay and are kept.
    """
    _check_folder(plan.folder)
    overwrite = plan.options.overwrite
    if not overwrite and _is_finished(plan) and not (plan.folder / PROGRESS_FOLDER).exists():
        return _finished_before(plan, progress)
    with _alone(plan.folder):
        if overwrite:
            _remove_dataset(plan.folder)
        if _is_finished(plan):
            clean(plan.folder)
            return _finished_before(plan, progress)
        finish(plan, write_shards(plan.tasks, plan.options, progress))
    return PreparedStore.open(plan.folder)


def prepare_job_shard(plan: Plan, part: JobShard, progress: Progress = SILENT) -> list[ShardReport]:
    """Writes the shards of one job; ``merge`` makes a dataset of those of all jobs.

    Raises:
        UsageError: As ``carry_out``; other jobs may be at work.
        ElasticToolError: The target cannot be written.
        Interrupted: As ``carry_out``.
    """
    _check_folder(plan.folder)
    tasks = part.of(plan.tasks)
    if _is_finished(plan) or not tasks:
        progress.log(f"part {part} of {plan.folder} has nothing to do")
        return []
    with _one_of_many(plan.folder, part):
        return [] if _is_finished(plan) else write_shards(tasks, plan.options, progress)


def merge(plan: Plan, progress: Progress = SILENT) -> PreparedStore:
    """Makes a dataset of the shards that all jobs have written.

    Raises:
        UsageError: As ``carry_out``.
        ElasticToolError: Some job is not finished, or all clips were rejected.
    """
    _check_folder(plan.folder)
    if _is_finished(plan):
        return _finished_before(plan, progress)
    if not (plan.folder / PROGRESS_FOLDER).exists():
        raise UsageError(f"{plan.folder} holds no parts", "prepare them first: --part 1/2, ...")
    with _alone(plan.folder):
        finish(plan, all_reports(plan.tasks))
    return PreparedStore.open(plan.folder)


def _finished_before(plan: Plan, progress: Progress) -> PreparedStore:
    progress.log(f"{plan.folder} is prepared already (--overwrite prepares it again)")
    return PreparedStore.open(plan.folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps all others from preparing this folder, whole or in job shards, inside the block."""
    with _hold_whole(folder):
        for lock in (folder / PROGRESS_FOLDER).glob(f"{LOCK_NAME}-*-of-*"):
            _, index, _, count = lock.name.split("-")
            with _hold_job_shard(folder, JobShard(int(index), int(count))):
                pass
        yield


@contextmanager
def _one_of_many(folder: Path, part: JobShard) -> Iterator[None]:
    """Keeps others from preparing this job shard or the whole folder inside the block."""
    with _hold_job_shard(folder, part):
        with _hold_whole(folder):
            pass
        yield


def _hold_whole(folder: Path) -> AbstractContextManager[None]:
    _make(folder)
    return hold(folder / PROGRESS_FOLDER / LOCK_NAME, f"{folder} is being prepared", _LOCKED_HINT)


def _hold_job_shard(folder: Path, part: JobShard) -> AbstractContextManager[None]:
    _make(folder)
    path = folder / PROGRESS_FOLDER / f"{LOCK_NAME}-{part.index}-of-{part.count}"
    return hold(path, f"part {part} of {folder} is being prepared", _LOCKED_HINT)


def _make(folder: Path) -> None:
    """Makes the folder of the dataset.

    Raises:
        WriteError: It cannot be made, nor could anything in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # how places like /proc refuse
        raise WriteError(
            f"cannot write {folder}: nothing can be made there", "choose another --out"
        ) from error
    except OSError as error:
        raise write_error(folder, error) from error


def _check_folder(folder: Path) -> None:
    """Raises UsageError where ``folder`` holds something else than a dataset."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --name or --out")
    marks = (INFO_NAME, PROGRESS_FOLDER, REJECTED_NAME)
    if folder.exists() and any(folder.iterdir()) and not any((folder / n).exists() for n in marks):
        raise UsageError(
            f"{folder} is not empty and not a prepared dataset", "choose another --name or --out"
        )


def _is_finished(plan: Plan) -> bool:
    """Whether the folder holds this very dataset.

    Raises:
        UsageError: It holds another one, finished or not.
    """
    folder = plan.folder
    if (folder / INFO_NAME).exists():
        if DatasetInfo.read(folder / INFO_NAME).fingerprint == plan.fingerprint:
            return True
        raise _other_dataset(folder, "another dataset or other settings")
    for sidecar in (folder / PROGRESS_FOLDER).glob("*.json"):
        if json.loads(sidecar.read_text("utf-8")).get("fingerprint") != plan.fingerprint:
            raise _other_dataset(folder, "an unfinished dataset with other clips or settings")
    return False


def _other_dataset(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder} holds {what}", "choose another --name, or replace it with --overwrite"
    )


def _remove_dataset(folder: Path) -> None:
    """Deletes what ``prepare`` writes, and nothing else.

    ``dataset.json`` goes first, so that nobody reads the rest. The folder of the lock stays: it
    marks a dataset, so that the next run can delete the rest if this one is killed.
    """
    shards = ("shard-*.arrow", f"{PROGRESS_FOLDER}/*.json")
    for pattern in (INFO_NAME, DURATIONS_NAME, *shards, REJECTED_NAME):
        for path in folder.glob(pattern):
            path.unlink()
    remove_temporaries(folder)
