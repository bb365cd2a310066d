"""The planners of one batch on all batches of an epoch at once.

One step handles the k-th clip of every batch, so that Python's cost is paid per clip of a batch
and not per clip: two million clips are planned in a fraction of a second. The plain functions of
``planners.py`` say what a planner does; tests hold these forms to rows of the same clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from elastictool.packing.batching import Counts, StreamPlan, joined

GridPlanner = Callable[[Counts, int], Counts]
"""``(tokens, capacity) -> rows``: both (clips of a batch, batches); rows count from 0 in each
batch. Batches with fewer clips are filled up with 0 tokens, whose rows mean nothing."""


def plan_grid(
    lengths: Counts, starts: Sequence[int], capacity: int, rows: GridPlanner
) -> StreamPlan:
    """Plan the batches of a stream that is cut at ``starts``."""
    if len(lengths) == 0:
        return joined([])
    edges = np.array([*starts, len(lengths)], dtype=np.int64)
    sizes: Counts = edges[1:] - edges[:-1]
    batch_of = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(lengths)) - np.repeat(edges[:-1], sizes)
    grid = np.zeros((int(sizes.max(initial=0)), len(sizes)), dtype=np.int64)
    grid[place, batch_of] = lengths
    planned = np.where(grid > 0, rows(grid, capacity), -1)
    counts = planned.max(axis=0, initial=-1) + 1
    return StreamPlan(batch_of, (planned + counts.cumsum() - counts)[place, batch_of])


def first_come(grid: Counts, capacity: int) -> Counts:
    """``planners.first_come``."""
    rows = np.empty_like(grid)
    row = np.full(grid.shape[1], -1, dtype=np.int64)
    load = np.zeros_like(row)
    for step, tokens in enumerate(grid):
        opens = (tokens > 0) & ((load + tokens > capacity) | (row < 0))
        row += opens
        load = np.where(opens, tokens, load + tokens)
        rows[step] = row
    return rows


def balanced(grid: Counts, capacity: int) -> Counts:
    """``planners.balanced``."""
    plan = first_come(grid, capacity)
    rows, width = plan[-1] + 1, _widths(grid, plan)
    alone = grid > capacity
    num_alone, alone_width = alone.sum(axis=0), np.where(alone, grid, 0).max(axis=0)
    shared = np.where(alone, 0, grid)
    order = np.argsort(-shared, axis=0, kind="stable")
    shared = np.take_along_axis(shared, order, axis=0)
    count = _fewest(shared, capacity)
    waiting = np.flatnonzero(num_alone + count <= rows)
    while len(waiting):
        level, loads = _level(shared[:, waiting], count[waiting])
        fits = loads <= capacity
        better = fits & (
            (num_alone + count)[waiting] * np.maximum(loads, alone_width[waiting])
            < (rows * width)[waiting]
        )
        taken = waiting[better]
        dealt = np.empty((len(grid), len(taken)), dtype=np.int64)
        np.put_along_axis(dealt, order[:, taken], level[:, better], axis=0)
        own = count[taken] + alone[:, taken].cumsum(axis=0) - 1
        plan[:, taken] = np.where(alone[:, taken], own, dealt)
        waiting = waiting[~fits]
        count[waiting] += 1
        waiting = waiting[(num_alone + count <= rows)[waiting]]
    return plan


def one_per_row(grid: Counts, capacity: int) -> Counts:
    """``planners.one_per_row``."""
    return np.arange(len(grid))[:, None].repeat(grid.shape[1], axis=1)


VECTORIZED: dict[str, GridPlanner] = {
    "first-come": first_come,
    "balanced": balanced,
    "none": one_per_row,
}
"""The planners of one batch that have an array form."""


def _fewest(shared: Counts, capacity: int) -> Counts:
    """Rows below which no plan of a batch can go, so that fewer need not be tried.

    The sum decides, or the first k clips, longest first: of clips that are no shorter than the
    k-th, a row holds as many as the k-th goes into it.
    """
    by_sum = -(-shared.sum(axis=0) // capacity)
    ranks = np.arange(1, len(shared) + 1)[:, None]
    by_length = np.where(shared > 0, -(-ranks // (capacity // np.maximum(shared, 1))), 0)
    fewest: Counts = np.maximum(by_sum, by_length.max(axis=0))
    return fewest


def _level(tokens: Counts, count: Counts) -> tuple[Counts, Counts]:
    """Deal clips, in order, each onto the least loaded of the first ``count`` rows of its batch.

    Returns:
        The row of each clip, and the tokens of the longest row of each batch.
    """
    most = max(int(count.max(initial=0)), 1)
    closed = np.arange(most) >= np.maximum(count, 1)[:, None]
    loads = np.where(closed, np.iinfo(np.int64).max // 2, 0)
    first, flat = np.arange(0, loads.size, most), loads.ravel()
    rows = np.empty_like(tokens)
    for step, clip in enumerate(tokens):
        loads.argmin(axis=1, out=rows[step])
        flat[first + rows[step]] += clip
    return rows, np.where(closed, 0, loads).max(axis=1)


def _widths(grid: Counts, rows: Counts) -> Counts:
    """Tokens of the longest row of each batch."""
    batches = np.broadcast_to(np.arange(grid.shape[1]), grid.shape)
    loads = np.zeros((grid.shape[1], int(rows.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(loads, (batches, rows), grid)
    widths: Counts = loads.max(axis=1)
    return widths
