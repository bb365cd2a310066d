"""Write shards on a Dask cluster: the same bytes on any number of machines.

Dask's own client is used, because joblib's Dask backend never returns once a shard's worker was
killed too often. A lost worker's shard goes to another one. Only some shards are submitted at a
time, so that a corpus of millions of clips does not fill the scheduler's memory. All machines need
the recordings and the target folder at the same paths.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from elastictool.data.plan import ShardTask
from elastictool.data.shards import ShardReport, finished, write_in_worker
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.optional import install_command, missing_extra

INSTALL = install_command("dask")
_CONNECT_S, _WORKERS_S = 20, 60


def write_on_cluster(tasks: Sequence[ShardTask], address: str) -> Iterator[tuple[int, ShardReport]]:
    """Writes shards on the cluster of the scheduler at ``address``; yields reports as they come.

    Raises:
        UsageError: Dask is not installed, or nothing answers there.
        ElasticToolError: The cluster broke down, or writes where we do not see it.
    """
    if lack := missing_extra("dask", "distributed"):
        raise UsageError("--scheduler needs the extra dask", lack)
    distributed: Any = importlib.import_module("distributed")

    by_index = {task.index: task for task in tasks}
    with _client(distributed, address) as client:
        waiting = iter(tasks)
        # Workers have other working directories.
        submit = partial(client.submit, write_in_worker, parent_pid=os.getpid(), pure=False)
        places = 2 * max(1, sum(client.nthreads().values()))
        first = [submit(task.absolute()) for task in islice(waiting, places)]
        submitted = distributed.as_completed(first, loop=client.loop)
        for future in submitted:
            index, report = _result(distributed, future)
            wait_until_visible(by_index[index])
            yield index, report
            for task in islice(waiting, 1):
                submitted.add(submit(task.absolute()))


def _client(distributed: Any, address: str) -> Any:
    """Connects to a cluster that has workers."""
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address!r}: {error}",
            "start one (dask scheduler) and name its address, such as tcp://host:8786",
        ) from error
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        raise ElasticToolError(
            f"the scheduler at {address} has had no worker for {_WORKERS_S} s",
            f"start some: dask worker {address} --nthreads 1 --nworkers 4",
        ) from error
    return client


def _result(distributed: Any, future: Any) -> tuple[int, ShardReport]:
    try:
        index, report = future.result()
    except distributed.KilledWorker as error:
        raise ElasticToolError(
            f"workers of the cluster died again and again at one shard: {error}",
            "most likely for lack of memory: give them more, or fewer threads each; the same "
            "command continues",
        ) from error
    except (asyncio.CancelledError, TimeoutError, distributed.comm.CommClosedError) as error:
        raise ElasticToolError(
            "the scheduler of the cluster is gone",
            "start it and its workers again; the same command continues",
        ) from error
    return index, report


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
