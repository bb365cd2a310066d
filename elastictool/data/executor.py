"""Writes the shards in this process, in worker processes of joblib, or on a Dask cluster.

A shard is the unit of work and of continuing: each is written whole by one worker, and a finished
one of an earlier run is kept. So it does not matter who the workers are, how many there are, or
how many of them die.

On a cluster Dask's own client is used, because joblib's Dask backend never returns once a shard's
worker was killed too often. A lost worker's shard goes to another one. Only some shards are
submitted at a time, so that a corpus of millions of clips does not fill the scheduler's memory. All
machines need the recordings and the target folder at the same paths.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from elastictool.data.options import PrepOptions
from elastictool.data.plan import ShardTask
from elastictool.data.shards import ShardReport, finished, write_in_worker, write_shard
from elastictool.utils.errors import ElasticToolError, Interrupted, UsageError, WriteError
from elastictool.utils.optional import missing_extra
from elastictool.utils.progress import Progress
from elastictool.utils.signals import Stopped, StopRequest, start_worker

WORTH_WORKERS_S = 20.0
"""Work from which worker processes pay; they take seconds to start, each with its own torch."""
CONNECT_S, WORKERS_S = 20, 60
"""Time within which a Dask scheduler must respond and have a first worker."""


def write_shards(
    tasks: Sequence[ShardTask], options: PrepOptions, progress: Progress
) -> list[ShardReport]:
    """Writes the shards that are not finished yet; returns all reports in the order of ``tasks``.

    ``options.workers`` and ``options.scheduler`` decide where.

    Raises:
        Interrupted: Stopped by Ctrl-C or SIGTERM; finished shards stay.
        ElasticToolError: The target cannot be written, or a worker died.
    """
    reports = {task.index: report for task in tasks if (report := finished(task))}
    waiting = deque(task for task in tasks if task.index not in reports)
    if reports:
        progress.log(f"continuing: {len(reports)} of {len(tasks)} shards are finished")
    try:
        sizes = {task.index: len(task.clips) for task in tasks}
        with StopRequest() as stop, progress.task("preparing clips", sum(sizes.values())) as bar:
            bar.advance(sum(sizes[index] for index in reports))
            written: Iterable[tuple[int, ShardReport]] = chain(
                write_here(waiting, options.workers),
                _write_in_workers(waiting, options.workers, stop),
            )
            if options.scheduler and waiting:
                written = _write_on_cluster(waiting, options.scheduler)
            for index, report in written:
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
    if not tasks:
        return
    # joblib takes 0.2 s to import and workers some seconds to start: only where they are used.
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    processes = min(workers or joblib.cpu_count(), len(tasks))
    parallel = joblib.Parallel(
        n_jobs=processes,
        return_as="generator_unordered",
        # Workers start for seconds: if this process dies meanwhile, they end before a first task.
        initializer=start_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield from parallel(joblib.delayed(write_in_worker)(task) for task in tasks)
    except TerminatedWorkerError as error:
        stop.check()  # a signal to the whole group also ends workers that are just starting
        raise ElasticToolError(
            "a worker process was killed, most likely for lack of memory",
            "run the same command again with fewer --workers: it continues",
        ) from error
    except BaseException:
        get_reusable_executor().shutdown(kill_workers=True)
        raise


def _write_on_cluster(
    tasks: Sequence[ShardTask], address: str
) -> Iterator[tuple[int, ShardReport]]:
    """Writes shards on the cluster of the scheduler at ``address``; yields reports as they come."""
    if lack := missing_extra("dask", "distributed"):
        raise UsageError("--scheduler needs the extra dask", lack)
    distributed: Any = importlib.import_module("distributed")

    by_index = {task.index: task for task in tasks}
    with _connect(distributed, address) as client:
        waiting = iter(tasks)
        # Workers have other working directories.
        submit = partial(client.submit, write_in_worker, pure=False)
        in_flight = 2 * max(1, sum(client.nthreads().values()))
        first = [submit(task.absolute()) for task in islice(waiting, in_flight)]
        submitted = distributed.as_completed(first, loop=client.loop)
        for future in submitted:
            try:
                index, report = future.result()
            except distributed.KilledWorker as error:
                raise ElasticToolError(
                    f"workers of the cluster died again and again at one shard: {error}",
                    "most likely for lack of memory: give them more, or fewer threads each; the "
                    "same command continues",
                ) from error
            except (
                asyncio.CancelledError,
                TimeoutError,
                distributed.comm.CommClosedError,
            ) as error:
                raise ElasticToolError(
                    "the scheduler of the cluster is gone",
                    "start it and its workers again; the same command continues",
                ) from error
            wait_until_visible(by_index[index])
            yield index, report
            for task in islice(waiting, 1):
                submitted.add(submit(task.absolute()))


def _connect(distributed: Any, address: str) -> Any:
    """Connects to a cluster that has workers."""
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address!r}: {error}",
            "start one (dask scheduler) and name its address, such as tcp://host:8786",
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        raise ElasticToolError(
            f"the scheduler at {address} has had no worker for {WORKERS_S} s",
            f"start some: dask worker {address} --nthreads 1 --nworkers 4",
        ) from error
    return client


def wait_until_visible(task: ShardTask, timeout_s: float = 20.0) -> None:
    """Waits until the shard that a worker has written is visible here.

    A network disk may take a while to show what another machine has written.

    Raises:
        ElasticToolError: It is not visible after ``timeout_s``.
    """
    end = time.monotonic() + timeout_s
    while finished(task) is None:
        if time.monotonic() > end:
            raise ElasticToolError(
                f"a worker of the cluster wrote {task.absolute().path}, but it is not here",
                "--out must lie on a disk that all machines see at the same path",
            )
        time.sleep(0.1)
