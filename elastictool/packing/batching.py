"""What a plan of batches is, and how a stream of clips is cut where the planner has no say.

A plan is two arrays: the batch and the row of each clip. Millions of clips are planned and
counted on such arrays; lists are made of them where a batch is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from elastictool.config import PackingConfig
from elastictool.packing.planners import PackPlanner, Rows

Counts = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class StreamPlan:
    """Where each of n clips goes.

    Attributes:
        batch_of: (n,) batch of each clip, numbered from 0 without gaps.
        row_of: (n,) row of each clip, numbered from 0 without gaps over all batches.
    """

    batch_of: Counts
    row_of: Counts

    @property
    def batch_of_rows(self) -> Counts:
        """(rows,) batch of each row."""
        batches = np.empty(_count(self.row_of), dtype=np.int64)
        batches[self.row_of] = self.batch_of
        return batches

    def batches(self) -> list[Rows]:
        """Batches of rows of positions; positions ascend within a row."""
        order = np.lexsort((self.row_of, self.batch_of))
        rows = _split(order.tolist(), self.row_of[order])
        first_clips = np.array([row[0] for row in rows], dtype=np.int64)
        return _split(rows, self.batch_of[first_clips])

    def processed_tokens(self, lengths: Counts) -> int:
        """Tokens of all batches when a batch's rows are padded to its longest (N')."""
        batches = self.batch_of_rows
        widths = np.zeros(_count(batches), dtype=np.int64)
        np.maximum.at(widths, batches, _sums(self.row_of, lengths))
        return int(widths[batches].sum())

    def fewest_rows(self, lengths: Counts, capacity: int) -> int:
        """``planners.lower_bound`` of each batch, over all of them."""
        fewest = -(-_sums(self.batch_of, np.minimum(lengths, capacity)) // capacity)
        return int(fewest.sum())


def joined(plans: list[StreamPlan]) -> StreamPlan:
    """Plans of consecutive parts of a stream as one plan."""
    batches, rows = 0, 0
    parts: list[tuple[Counts, Counts]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for plan in plans:
        parts.append((plan.batch_of + batches, plan.row_of + rows))
        batches += _count(plan.batch_of)
        rows += _count(plan.row_of)
    return StreamPlan(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def batch_starts(lengths: Counts, config: PackingConfig) -> list[int]:
    """Position of each batch's first clip when batches are cut in arrival order.

    With a token budget a batch takes clips as long as their sum stays within it, and at least
    one; the budget counts the clips' own tokens, because a flat stream computes no others.
    """
    if not config.batch_tokens:
        return list(range(0, len(lengths), config.batch_clips))
    totals = np.cumsum(lengths)
    starts: list[int] = []
    start = 0
    while start < len(lengths):
        starts.append(start)
        start = batch_stop(totals, start, config)
    return starts


def batch_stop(totals: Counts, start: int, config: PackingConfig) -> int:
    """Position after the last clip of the batch that begins at ``start``.

    Args:
        totals: Sums of the lengths up to and with each clip; without a token budget only their
            number counts.
        start: Position of the batch's first clip.
        config: Clips or tokens of a batch.
    """
    if not config.batch_tokens:
        return min(start + config.batch_clips, len(totals))
    before = int(totals[start - 1]) if start else 0
    stop = int(np.searchsorted(totals, before + config.batch_tokens, side="right"))
    return max(stop, start + 1)


def plan_each(
    lengths: Counts, starts: Sequence[int], capacity: int, planner: PackPlanner
) -> StreamPlan:
    """Plan the batches of a stream that is cut at ``starts``, one after the other."""
    plans = []
    for start, stop in zip(starts, [*starts, len(lengths)][1:], strict=True):
        row_of = np.empty(stop - start, dtype=np.int64)
        for number, row in enumerate(planner(lengths[start:stop].tolist(), capacity)):
            row_of[row] = number
        plans.append(StreamPlan(np.zeros_like(row_of), row_of))
    return joined(plans)


def windows(num_clips: int, config: PackingConfig) -> list[slice]:
    """The windows of a stream: ``config.window`` clips, rounded down to whole batches.

    Whole batches, so that a window planner makes as many batches of an epoch as any other. A
    token budget has no whole batches in clips.
    """
    batch = 1 if config.batch_tokens else config.batch_clips
    size = max(config.window // batch, 1) * batch
    return [slice(start, min(start + size, num_clips)) for start in range(0, num_clips, size)]


def _count(ids: Counts) -> int:
    return int(ids.max(initial=-1)) + 1


def _sums(ids: Counts, values: Counts) -> Counts:
    """Sum of the values of each id."""
    return np.bincount(ids, weights=values).astype(np.int64)


def _split(items: list[T], keys: Counts) -> list[list[T]]:
    """Cut ``items`` where their key changes."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1)).tolist()
    return [
        items[start:stop] for start, stop in zip(starts, [*starts, len(items)][1:], strict=True)
    ]
