"""Prepares a corpus: plan, write shards in parallel, sum up.

Shard boundaries follow from the clip list alone, each shard is written by one worker, and all
that ends up in ``dataset.json`` is summed in shard order: any number of workers, jobs or machines
and any number of killed and repeated runs leave the same bytes. A rejected clip never stops the
run. A lock in the folder keeps a second preparation out while one is at work; each job shard has
a lock of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from elastictool.data.executor import write_shards
from elastictool.data.options import PrepOptions
from elastictool.data.plan import Plan, ShardTask, plan
from elastictool.data.shards import ShardReport, finished
from elastictool.data.store import DatasetInfo, PreparedStore
from elastictool.data.summary import REJECTED_NAME, clean, finish
from elastictool.utils.errors import ElasticToolError, UsageError, WriteError, write_error
from elastictool.utils.io import INFO_NAME, LOCK_NAME, PROGRESS_FOLDER, remove_temporaries
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

DURATIONS_NAME = "durations.png"
_SHOWN = 5


@dataclass(frozen=True)
class JobShard:
    """The work of one job of a batch queue: ``--part 3/16``, then ``--merge``.

    These are every ``count``-th shard from the ``index``-th on, counted from 1: shards of one kind
    (large files, long videos) often lie together in a corpus. They follow from the numbers alone,
    so jobs need not know of each other, and one that was killed is run again.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> JobShard:
        """Parses ``3/16``.

        Raises:
            UsageError: It has another form.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--part {text!r} is no part", "such as 3/16: the third of sixteen")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, tasks: Sequence[ShardTask]) -> list[ShardTask]:
        """Returns the tasks of this job."""
        return list(tasks[self.index - 1 :: self.count])


def prepare(options: PrepOptions, progress: Progress = SILENT) -> PreparedStore:
    """Plans (``plan``) and carries out (``carry_out``) a preparation."""
    return carry_out(plan(options), progress)


def carry_out(plan: Plan, progress: Progress = SILENT) -> PreparedStore:
    """Carries out a plan: continues an unfinished preparation, keeps a finished one.

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
    with _lock(plan.folder, part):
        with _lock(plan.folder):
            pass  # nobody prepares the whole folder
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
        reports = [finished(task) for task in plan.tasks]
        if absent := [str(index) for index, report in enumerate(reports) if not report]:
            more = ", ..." if len(absent) > _SHOWN else ""
            raise ElasticToolError(
                f"{len(absent)} of {len(reports)} shards in {plan.folder} are not finished: "
                f"{', '.join(absent[:_SHOWN])}{more} (counted from 0)",
                "wait for the parts that still run, and run again those that failed; prep without "
                "--part and --merge does what is left here",
            )
        finish(plan, [report for report in reports if report])
    return PreparedStore.open(plan.folder)


def _finished_before(plan: Plan, progress: Progress) -> PreparedStore:
    remove_temporaries(plan.folder, shared=True)
    progress.log(f"{plan.folder} is prepared already (--overwrite prepares it again)")
    return PreparedStore.open(plan.folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Locks the folder, whole or in job shards: no other process prepares it inside the block."""
    with _lock(folder):
        for lock in (folder / PROGRESS_FOLDER).glob(f"{LOCK_NAME}-*-of-*"):
            _, index, _, count = lock.name.split("-")
            with _lock(folder, JobShard(int(index), int(count))):
                pass
        yield


def _lock(folder: Path, part: JobShard | None = None) -> AbstractContextManager[None]:
    """Makes the folder and holds the lock of the whole of it, or of one job shard."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # raised by folders like /proc
        raise WriteError(
            f"cannot write {folder}: nothing can be made there", "choose another --out"
        ) from error
    except OSError as error:
        raise write_error(folder, error) from error
    name, what = LOCK_NAME, str(folder)
    if part:
        name, what = f"{LOCK_NAME}-{part.index}-of-{part.count}", f"part {part} of {folder}"
    return hold(
        folder / PROGRESS_FOLDER / name,
        f"{what} is being prepared",
        "wait for it, stop it, or choose another --name; several jobs at once: --part 1/2, ...",
    )


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
    """Returns whether the folder holds this very dataset.

    Raises:
        UsageError: It holds another one, finished or not.
    """
    folder, other = plan.folder, ""
    is_there = (folder / INFO_NAME).exists()
    if is_there and DatasetInfo.read(folder).fingerprint != plan.fingerprint:
        other = "another dataset or other settings"
    for sidecar in () if is_there else (folder / PROGRESS_FOLDER).glob("*.json"):
        if json.loads(sidecar.read_text("utf-8")).get("fingerprint") != plan.fingerprint:
            other = "an unfinished dataset with other clips or settings"
    if other:
        raise UsageError(
            f"{folder} holds {other}", "choose another --name, or replace it with --overwrite"
        )
    return is_there


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
