"""Plans which clips of a batch share a row: numbers of tokens in, row indices out.

A planner sees integers only (tokens of each clip, capacity of a row), so it is testable without
audio or torch and runs in the sampler, never in ``forward``. It plans all batches of an epoch at
once: one step handles the k-th clip of every batch, so that Python's cost is paid per clip of a
batch and not per clip, and two million clips are planned in a fraction of a second. Planners are
deterministic: ties go to the clip or row that came first. A new planner is one decorated function;
the tests run over the registry and compare the planners with plain ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from elastictool.utils.registry import Registry

Counts = npt.NDArray[np.int64]
Lengths = Sequence[int] | Counts
"""Tokens of each clip, in arrival order."""

Rows = list[list[int]]
"""Indices into the lengths, row by row; each index is in exactly one row."""

PackPlanner = Callable[[Counts, int], Counts]
"""``(tokens, capacity) -> rows``: both (clips of a batch, batches); rows count from 0 in each
batch. A clip longer than ``capacity`` gets a row of its own. Batches with fewer clips are filled up
with 0 tokens, whose rows are ignored."""

PLANNERS: Registry[PackPlanner] = Registry("packing planner", (__name__,))


def plan_rows(planner: PackPlanner, lengths: Lengths, capacity: int) -> Rows:
    """Plans one batch; indices ascend within rows, and rows by their first index."""
    tokens = np.array(lengths, dtype=np.int64)[:, None]
    rows: dict[int, list[int]] = {}
    for index, row in enumerate(planner(tokens, capacity)[:, 0].tolist() if len(tokens) else []):
        rows.setdefault(row, []).append(index)
    return sorted(rows.values())


def assign_lpt(lengths: Lengths, loads: Sequence[int]) -> Rows:
    """Assigns clips to processes that carry ``loads`` already, so that all end with nearly as much.

    Longest clip first, each to the least loaded (LPT: at most 4/3 of the best possible).

    Returns:
        Indices into the lengths for each process, ascending; empty where there is none for it.
    """
    shares: Rows = [[] for _ in loads]
    waiting = [(load, process) for process, load in enumerate(loads)]
    heapq.heapify(waiting)
    for index in sorted(range(len(lengths)), key=lambda index: -int(lengths[index])):
        load, process = waiting[0]
        shares[process].append(index)
        heapq.heapreplace(waiting, (load + int(lengths[index]), process))
    return [sorted(share) for share in shares]


@PLANNERS.register("first-come")
def next_fit(tokens: Counts, capacity: int) -> Counts:
    """Fills rows in arrival order; a clip that would overflow the row opens the next one.

    Earlier rows are never reopened. Source: ElasticAST Section 2.2.
    """
    rows = np.empty_like(tokens)
    row = np.full(tokens.shape[1], -1, dtype=np.int64)
    load = np.zeros_like(row)
    for step, clip in enumerate(tokens):
        opens = (clip > 0) & ((load + clip > capacity) | (row < 0))
        row += opens
        load = np.where(opens, clip, load + clip)
        rows[step] = row
    return rows


@PLANNERS.register("balanced")
def longest_first(tokens: Counts, capacity: int) -> Counts:
    """Assigns the longest clip first, each to the least loaded of the fewest rows that are needed.

    Even rows need little padding. Where some row overflows, one row more is tried; where that
    ends at more rows than next-fit needs, or next-fit processes no more tokens, its plan is
    taken. Source: this project (the paper leaves better packing to future work).
    """
    plan = next_fit(tokens, capacity)
    rows, width = plan[-1] + 1, _widths(tokens, plan)
    alone = tokens > capacity
    num_alone, alone_width = alone.sum(axis=0), np.where(alone, tokens, 0).max(axis=0)
    shared = np.where(alone, 0, tokens)
    order = np.argsort(-shared, axis=0, kind="stable")
    shared = np.take_along_axis(shared, order, axis=0)
    count = _fewest(shared, capacity)
    waiting = np.flatnonzero(num_alone + count <= rows)
    while len(waiting):
        assigned, loads = _to_least_loaded(shared[:, waiting], count[waiting])
        fits = loads <= capacity
        better = fits & (
            (num_alone + count)[waiting] * np.maximum(loads, alone_width[waiting])
            < (rows * width)[waiting]
        )
        taken = waiting[better]
        found = np.empty((len(tokens), len(taken)), dtype=np.int64)
        np.put_along_axis(found, order[:, taken], assigned[:, better], axis=0)
        own = count[taken] + alone[:, taken].cumsum(axis=0) - 1
        plan[:, taken] = np.where(alone[:, taken], own, found)
        waiting = waiting[~fits]
        count[waiting] += 1
        waiting = waiting[(num_alone + count <= rows)[waiting]]
    return plan


@PLANNERS.register("none")
def one_per_row(tokens: Counts, capacity: int) -> Counts:
    """Puts each clip into a row of its own, whatever the capacity: no packing."""
    return np.arange(len(tokens))[:, None].repeat(tokens.shape[1], axis=1)


def _fewest(shared: Counts, capacity: int) -> Counts:
    """Bounds the rows of any plan of a batch from below, so that fewer need not be tried.

    The sum decides, or the first k clips, longest first: of clips that are no shorter than the
    k-th, a row holds as many as the k-th goes into it.
    """
    by_sum = -(-shared.sum(axis=0) // capacity)
    ranks = np.arange(1, len(shared) + 1)[:, None]
    by_length = np.where(shared > 0, -(-ranks // (capacity // np.maximum(shared, 1))), 0)
    fewest: Counts = np.maximum(by_sum, by_length.max(axis=0))
    return fewest


def _to_least_loaded(tokens: Counts, count: Counts) -> tuple[Counts, Counts]:
    """Assigns clips, in order, each to the least loaded of the first ``count`` rows of its batch.

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


def _widths(tokens: Counts, rows: Counts) -> Counts:
    """Counts the tokens of the longest row of each batch."""
    batches = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    loads = np.zeros((tokens.shape[1], int(rows.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(loads, (batches, rows), tokens)
    widths: Counts = loads.max(axis=1)
    return widths
