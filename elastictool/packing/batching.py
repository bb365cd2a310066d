"""Cuts a stream of clips into batches and plans their rows.

A plan is two arrays: the batch and the row of each clip. Millions of clips are planned and
counted on such arrays; lists are made of them where a batch is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from elastictool.config import PackingConfig
from elastictool.packing.planners import Counts, PackPlanner, Rows

T = TypeVar("T")
_CELLS = 2**22
"""Clips times batches that a planner gets at once; bounds memory where batches differ in size."""


@dataclass(frozen=True)
class StreamPlan:
    """The batch and the row of each of n clips.

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
        """Lists batches of rows of positions; positions ascend within a row."""
        order = np.lexsort((self.row_of, self.batch_of))
        rows = _split(order.tolist(), self.row_of[order])
        first_clips = np.array([row[0] for row in rows], dtype=np.int64)
        return _split(rows, self.batch_of[first_clips])

    def processed_tokens(self, lengths: Counts) -> int:
        """Counts the tokens of all batches when a batch's rows are padded to its longest (N')."""
        batches = self.batch_of_rows
        widths = np.zeros(_count(batches), dtype=np.int64)
        np.maximum.at(widths, batches, _sums(self.row_of, lengths))
        return int(widths[batches].sum())

    def fewest_rows(self, lengths: Counts, capacity: int) -> int:
        """Bounds the rows of each batch from below; a clip beyond the capacity is one row."""
        fewest = -(-_sums(self.batch_of, np.minimum(lengths, capacity)) // capacity)
        return int(fewest.sum())


def joined(plans: list[StreamPlan]) -> StreamPlan:
    """Joins plans of consecutive parts of a stream."""
    batches, rows = 0, 0
    parts: list[tuple[Counts, Counts]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for plan in plans:
        parts.append((plan.batch_of + batches, plan.row_of + rows))
        batches += _count(plan.batch_of)
        rows += _count(plan.row_of)
    return StreamPlan(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def batch_starts(lengths: Counts, config: PackingConfig) -> list[int]:
    """Finds each batch's first clip when batches are cut in arrival order.

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
    """Finds the position after the last clip of the batch that begins at ``start``.

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


def plan_batches(
    lengths: Counts, starts: Sequence[int], capacity: int, planner: PackPlanner
) -> StreamPlan:
    """Plans the rows of each batch of a stream that is cut at ``starts``."""
    edges = np.array([*starts, len(lengths)], dtype=np.int64)
    sizes: Counts = np.diff(edges)
    together = max(1, _CELLS // max(int(sizes.max(initial=0)), 1))
    parts = [sizes[first : first + together] for first in range(0, len(sizes), together)]
    stops = np.cumsum([part.sum() for part in parts], dtype=np.int64)
    return joined([
        _plan_grid(lengths[stop - part.sum() : stop], part, capacity, planner)
        for stop, part in zip(stops, parts, strict=True)
    ])  # fmt: skip


def _plan_grid(lengths: Counts, sizes: Counts, capacity: int, planner: PackPlanner) -> StreamPlan:
    """Plans batches of the given ``sizes`` in one call of the planner."""
    batch_of = np.repeat(np.arange(len(sizes)), sizes)
    clip = np.arange(len(lengths)) - np.repeat(sizes.cumsum() - sizes, sizes)
    tokens = np.zeros((int(sizes.max()), len(sizes)), dtype=np.int64)
    tokens[clip, batch_of] = lengths
    planned = np.where(tokens > 0, planner(tokens, capacity), -1)
    counts = planned.max(axis=0) + 1
    return StreamPlan(batch_of, (planned + counts.cumsum() - counts)[clip, batch_of])


def windows(num_clips: int, config: PackingConfig) -> list[slice]:
    """Cuts a stream into windows of ``config.window`` clips, rounded down to whole batches.

    Whole batches, so that a window planner makes as many batches of an epoch as any other. A
    token budget has no whole batches in clips.
    """
    batch = 1 if config.batch_tokens else config.batch_clips
    size = max(config.window // batch, 1) * batch
    return [slice(start, min(start + size, num_clips)) for start in range(0, num_clips, size)]


def _count(ids: Counts) -> int:
    return int(ids.max(initial=-1)) + 1


def _sums(ids: Counts, values: Counts) -> Counts:
    """Returns the sum of the values of each id."""
    return np.bincount(ids, weights=values).astype(np.int64)


def _split(items: list[T], keys: Counts) -> list[list[T]]:
    """Cuts ``items`` where their key changes."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1)).tolist()
    return [
        items[start:stop] for start, stop in zip(starts, [*starts, len(items)][1:], strict=True)
    ]
