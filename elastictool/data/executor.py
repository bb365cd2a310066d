"""Write the shards in this process, in worker processes of joblib, or on a Dask cluster.

A shard is the unit of work and of continuing: each is written whole by one worker, and a finished
one of an earlier run is kept. So it does not matter who the workers are, how many there are, or
how many of them die.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence

from elastictool.data.cluster import write_on_cluster
from elastictool.data.options import PrepOptions
from elastictool.data.plan import ShardTask
from elastictool.data.shards import (
    ShardReport,
    finished,
    write_in_worker,
    write_shard,
)
from elastictool.utils.errors import ElasticToolError, Interrupted, WriteError
from elastictool.utils.progress import Progress
from elastictool.utils.signals import Stopped, StopRequest

WORTH_WORKERS_S = 20.0
"""Work from which worker processes pay; they take seconds to start, each with its own torch."""


def write_shards(
    tasks: Sequence[ShardTask], options: PrepOptions, progress: Progress
) -> list[ShardReport]:
    """Writes the shards that are not finished yet; returns all reports in the order of ``tasks``.

    ``options.workers`` and ``options.scheduler`` say where.

    Raises:
        Interrupted: Stopped by Ctrl-C or SIGTERM; finished shards stay.
        ElasticToolError: The target cannot be written, or a worker died.
    """
    reports = {task.index: report for task in tasks if (report := finished(task))}
    pending = [task for task in tasks if task.index not in reports]
    if reports:
        progress.log(f"continuing: {len(reports)} of {len(tasks)} shards are finished")
    try:
        sizes = {task.index: len(task.clips) for task in tasks}
        with StopRequest() as stop, progress.task("preparing clips", sum(sizes.values())) as bar:
            bar.advance(sum(sizes[index] for index in reports))
            for index, report in _run(pending, options, stop):
                reports[index] = report
                bar.advance(sizes[index])
                stop.check()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted(
            f"{len(reports)} of {len(tasks)} shards are finished and saved in {tasks[0].folder}",
            "run the same command again: it continues there",
        ) from None
    except WriteError as error:
        error.hint = f"{error.hint}; the same command continues with what is finished"
        raise
    return [reports[task.index] for task in tasks]


def _run(
    tasks: Sequence[ShardTask], options: PrepOptions, stop: StopRequest
) -> Iterator[tuple[int, ShardReport]]:
    """Writes shards here, in workers or on a cluster; yields reports as they are done."""
    if options.scheduler and tasks:
        yield from write_on_cluster(tasks, options.scheduler)
        return
    waiting = deque(tasks)
    yield from write_here(waiting, options.workers)
    if waiting:
        yield from _write_in_workers(waiting, options.workers, stop)


def write_here(waiting: deque[ShardTask], workers: int) -> Iterator[tuple[int, ShardReport]]:
    """Writes shards in this process as long as ``workers`` do not promise to be faster."""
    started, done = time.monotonic(), 0
    while waiting:
        left_s = (time.monotonic() - started) / done * len(waiting) if done else 0.0
        if len(waiting) > 1 and (workers > 1 or (not workers and left_s > WORTH_WORKERS_S)):
            return
        task = waiting.popleft()
        yield task.index, write_shard(task)
        done += 1


def _write_in_workers(
    tasks: Sequence[ShardTask], workers: int, stop: StopRequest
) -> Iterator[tuple[int, ShardReport]]:
    """Writes shards in ``workers`` processes; 0 is one per core."""
    # joblib takes 0.2 s to import and workers some seconds to start: only where they are used.
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    processes = min(workers or joblib.cpu_count(), len(tasks))
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
    try:
        yield from parallel(joblib.delayed(write_in_worker)(task, os.getpid()) for task in tasks)
    except TerminatedWorkerError as error:
        stop.check()  # a signal to the whole group also ends workers that are just starting
        raise ElasticToolError(
            "a worker process was killed, most likely for lack of memory",
            "run the same command again with fewer --workers: it continues",
        ) from error
    except BaseException:
        get_reusable_executor().shutdown(kill_workers=True)
        raise
