"""Planners of one batch in plain Python, with which the package's vectorised ones are compared."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from elastictool.packing.planners import Lengths, Rows


def next_fit(lengths: Lengths, capacity: int) -> Rows:
    """Fill rows in arrival order; a clip that would overflow the row opens the next one.

    Earlier rows are never reopened. Source: ElasticAST Section 2.2.
    """
    rows: Rows = []
    load = 0
    for index, length in enumerate(map(int, lengths)):
        if not rows or load + length > capacity:
            rows.append([])
            load = 0
        rows[-1].append(index)
        load += length
    return rows


def longest_first(lengths: Lengths, capacity: int) -> Rows:
    """Longest clip first, each onto the least loaded of the fewest rows that the sum needs.

    Even rows need little padding. Where some row overflows, one row more is tried; where that
    ends at more rows than next-fit needs, or next-fit processes no more tokens, its plan is
    taken. Source: our choice (the paper leaves better packing to future work).
    """
    published = next_fit(lengths, capacity)
    alone = [[index] for index, length in enumerate(lengths) if length > capacity]
    shared = [index for index, length in enumerate(lengths) if length <= capacity]
    shared.sort(key=lambda index: -int(lengths[index]))
    fewest = -(-sum(int(lengths[index]) for index in shared) // capacity)
    for count in range(fewest, len(published) - len(alone) + 1):
        rows = [row for row in assign(shared, lengths, [0] * count) if row]
        if max(row_loads(lengths, rows), default=0) <= capacity:
            plan = sorted(sorted(row) for row in alone + rows)
            better = processed_tokens(lengths, plan) < processed_tokens(lengths, published)
            return plan if better else published
    return published


def one_per_row(lengths: Lengths, capacity: int) -> Rows:
    """No packing: each clip in a row of its own, whatever the capacity."""
    return [[index] for index in range(len(lengths))]


def row_loads(lengths: Lengths, rows: Rows) -> list[int]:
    """Tokens in each row, without padding."""
    return [sum(int(lengths[index]) for index in row) for row in rows]


def processed_tokens(lengths: Lengths, rows: Rows) -> int:
    """Tokens that a model computes on when all rows are padded to the longest (N')."""
    return len(rows) * max(row_loads(lengths, rows), default=0)


def lower_bound(lengths: Lengths, capacity: int) -> int:
    """Fewest rows that any plan could need: the sum over the capacity, rounded up.

    A clip longer than a row counts as one full row, because it gets one.
    """
    return -(-sum(min(int(length), capacity) for length in lengths) // capacity)


def excess_rows(lengths: Lengths, rows: Rows, capacity: int) -> int:
    """Rows that a plan needs beyond the lower bound."""
    return len(rows) - lower_bound(lengths, capacity)


def assign(order: Sequence[int], lengths: Lengths, loads: Sequence[int]) -> Rows:
    """Assign clips in the given order to rows that carry ``loads``, each onto the least loaded."""
    rows: Rows = [[] for _ in loads]
    waiting = [(load, row) for row, load in enumerate(loads)]
    heapq.heapify(waiting)
    for index in order:
        load, row = waiting[0]
        rows[row].append(index)
        heapq.heapreplace(waiting, (load + int(lengths[index]), row))
    return rows


PLAIN = {"first-come": next_fit, "balanced": longest_first, "none": one_per_row}
"""By the names of the package's planners."""
