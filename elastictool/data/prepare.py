"""From a corpus to prepared data: list, plan, write shards in parallel, sum up.

Shard boundaries follow from the clip list alone, each shard is written by one worker, and all
that ends up in ``dataset.json`` is summed in shard order: any number of workers, parts or machines
and any number of killed and repeated runs leave the same bytes. A rejected clip never stops the
run. A lock in the folder keeps a second preparation out while one is at work; each job shard has
a lock of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing
from elastictool.corpora.names import make_readable
from elastictool.corpora.warnings import (
    doubtful_labels,
    other_number_of_classes,
    strange_paths,
)
from elastictool.data.executor import Executor, write_shards
from elastictool.data.job_shards import JobShard, all_reports
from elastictool.data.plan import (
    check_listing,
    checked_name,
    clip_list_fingerprint,
    file_name,
    limited,
    measured_clips,
    plan_shards,
)
from elastictool.data.shards import PrepSettings, ShardReport, ShardTask
from elastictool.data.store import DATA_ROOT, DatasetInfo, PreparedStore
from elastictool.data.summary import REJECTED_NAME, clean, finish
from elastictool.utils.errors import UsageError, WriteError, write_error
from elastictool.utils.io import INFO_NAME, LOCK_NAME, PROGRESS_FOLDER, remove_temporaries
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

DURATIONS_NAME = "durations.png"
_LOCKED_HINT = (
    "wait for it, stop it, or choose another --name; several jobs at once: --part 1/2, ..."
)


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, and into which folder."""

    corpus: Corpus
    listing: Listing
    settings: PrepSettings
    folder: Path
    fingerprint: str
    tasks: list[ShardTask]


def plan(
    corpus_name: str,
    root: Path | None = None,
    out: Path = DATA_ROOT,
    *,
    name: str = "",
    options: CorpusOptions = CorpusOptions(),
    settings: PrepSettings = PrepSettings(),
    limit: int = 0,
) -> Plan:
    """List a corpus and cut it into shards.

    Args:
        corpus_name: One of ``CORPORA``.
        root: Where the corpus lies; None is its default place.
        out: Folder of all prepared datasets.
        name: Name of this one; empty takes the listing's.
        options: What to list.
        settings: What to store.
        limit: Number of clips to prepare (``limited``); 0 is all.

    Raises:
        UsageError: The corpus is not there.
    """
    corpus = CORPORA[corpus_name]
    listing = corpus.list_clips(root, options)
    make_readable(listing)
    listing.warnings += strange_paths(listing.missing)
    check_listing(corpus, listing)
    listing.warnings += [*doubtful_labels(listing), *other_number_of_classes(listing)]
    listing.clips = limited(listing.clips, limit)
    folder = out / checked_name(name or file_name(listing.name))
    measured = measured_clips(listing.clips, settings, options.seed)
    fingerprint = clip_list_fingerprint(corpus, listing, settings, measured)
    tasks = plan_shards(listing, folder, fingerprint, corpus.name, settings, measured)
    return Plan(corpus, listing, settings, folder, fingerprint, tasks)


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
    scheduler: str = "",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> PreparedStore:
    """Plan (``plan``) and carry out (``carry_out``) in one."""
    planned = plan(
        corpus_name, root, out, name=name, options=options, settings=settings, limit=limit
    )
    return carry_out(planned, Executor(workers, scheduler), overwrite, progress)


def carry_out(
    plan: Plan,
    workforce: Executor = Executor(),
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> PreparedStore:
    """Prepare what was planned; continues an unfinished run, leaves a finished one.

    Args:
        plan: What to prepare.
        workforce: Who does it.
        overwrite: Replace another dataset of this name.
        progress: Where to show how far it is.

    Raises:
        UsageError: The folder holds something else, or another process is at work there.
        ElasticToolError: All clips were rejected, or the target cannot be written.
        Interrupted: Stopped by Ctrl-C or SIGTERM; finished shards stay and are taken over.
    """
    _check_folder(plan.folder)
    if not overwrite and _is_finished(plan) and not (plan.folder / PROGRESS_FOLDER).exists():
        return _finished_before(plan, progress)
    with _alone(plan.folder):
        if overwrite:
            _remove_dataset(plan.folder)
        if _is_finished(plan):
            clean(plan.folder)
            return _finished_before(plan, progress)
        reports = write_shards(plan.tasks, workforce, progress)
        _finish(plan, reports)
    return PreparedStore.open(plan.folder)


def prepare_job_shard(
    plan: Plan, part: JobShard, workforce: Executor = Executor(), progress: Progress = SILENT
) -> list[ShardReport]:
    """Write the shards of one part; ``merge`` makes a dataset of all parts.

    Raises:
        UsageError: As ``carry_out``; other parts may be at work.
        ElasticToolError: The target cannot be written.
        Interrupted: As ``carry_out``.
    """
    _check_folder(plan.folder)
    tasks = part.of(plan.tasks)
    if _is_finished(plan) or not tasks:
        progress.log(f"part {part} of {plan.folder} has nothing to do")
        return []
    with _one_of_many(plan.folder, part):
        if _is_finished(plan):
            return []
        return write_shards(tasks, workforce, progress)


def merge(plan: Plan, progress: Progress = SILENT) -> PreparedStore:
    """Make a dataset of the shards that all parts have written.

    Raises:
        UsageError: As ``carry_out``.
        ElasticToolError: Some part is not finished, or all clips were rejected.
    """
    _check_folder(plan.folder)
    if _is_finished(plan):
        return _finished_before(plan, progress)
    if not (plan.folder / PROGRESS_FOLDER).exists():
        raise UsageError(f"{plan.folder} holds no parts", "prepare them first: --part 1/2, ...")
    with _alone(plan.folder):
        _finish(plan, all_reports(plan.tasks))
    return PreparedStore.open(plan.folder)


def _finish(plan: Plan, reports: Sequence[ShardReport]) -> None:
    finish(plan.folder, plan.corpus, plan.listing, plan.settings, plan.fingerprint, reports)


def _finished_before(plan: Plan, progress: Progress) -> PreparedStore:
    progress.log(f"{plan.folder} is prepared already (--overwrite prepares it again)")
    return PreparedStore.open(plan.folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else prepares this folder, whole or in job shards, inside the block."""
    with _hold_whole(folder):
        for lock in (folder / PROGRESS_FOLDER).glob(f"{LOCK_NAME}-*-of-*"):
            _, index, _, count = lock.name.split("-")
            with _hold_job_shard(folder, JobShard(int(index), int(count))):
                pass
        yield


@contextmanager
def _one_of_many(folder: Path, part: JobShard) -> Iterator[None]:
    """Nobody else prepares this job shard, or the folder as a whole, inside the block."""
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
    """Make the folder of the dataset.

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
    """Raise UsageError where ``folder`` is something of another kind."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --name or --out")
    ours = (INFO_NAME, PROGRESS_FOLDER, REJECTED_NAME)
    if folder.exists() and any(folder.iterdir()) and not any((folder / n).exists() for n in ours):
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
        if _fingerprint_of(sidecar) != plan.fingerprint:
            raise _other_dataset(folder, "an unfinished dataset with other clips or settings")
    return False


def _fingerprint_of(sidecar: Path) -> object:
    return json.loads(sidecar.read_text(encoding="utf-8")).get("fingerprint")


def _other_dataset(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder} holds {what}", "choose another --name, or replace it with --overwrite"
    )


def _remove_dataset(folder: Path) -> None:
    """Delete what ``prepare`` writes, and nothing else.

    ``dataset.json`` goes first, so that nobody reads the rest. The folder of the lock stays: it
    marks this one as ours, so that this may be killed half-way.
    """
    patterns = (INFO_NAME, DURATIONS_NAME, "shard-*.arrow", f"{PROGRESS_FOLDER}/*.json")
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
    remove_temporaries(folder)
    (folder / REJECTED_NAME).unlink(missing_ok=True)
