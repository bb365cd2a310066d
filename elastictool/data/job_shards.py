"""Divide a preparation among the jobs of a batch queue: ``--part 3/16``, then ``--merge``.

Which shards belong to a job follows from their numbers alone, so jobs need not know of each
other, and one that was killed is run again. Jobs take every n-th shard, because shards of one kind
(large files, long videos) often lie together in a corpus.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from elastictool.data.plan import ShardTask
from elastictool.data.shards import ShardReport, finished
from elastictool.utils.errors import ElasticToolError, UsageError

_SHOWN = 5


@dataclass(frozen=True)
class JobShard:
    """The work of one job: every ``count``-th shard from the ``index``-th on, counted from 1."""

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


def all_reports(tasks: Sequence[ShardTask]) -> list[ShardReport]:
    """Returns the reports of all shards, in order.

    Raises:
        ElasticToolError: Some are not finished.
    """
    reports = [finished(task) for task in tasks]
    absent = [str(task.index) for task, report in zip(tasks, reports, strict=True) if not report]
    if absent:
        more = ", ..." if len(absent) > _SHOWN else ""
        raise ElasticToolError(
            f"{len(absent)} of {len(tasks)} shards in {tasks[0].folder} are not finished: "
            f"{', '.join(absent[:_SHOWN])}{more} (counted from 0)",
            "wait for the parts that still run, and run again those that failed; prep without "
            "--part and --merge does what is left here",
        )
    return [report for report in reports if report]
