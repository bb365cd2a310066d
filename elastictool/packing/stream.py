"""Plan all batches of packed rows of a stream of clips, with any planner.

There are two kinds of planners. A planner of one batch (``planners.py``) does not choose clips:
batches are cut in arrival order up to a number of clips or a budget of tokens, so that which
clips share an optimiser step never depends on the planner, and planners can be compared step by
step. Source: ElasticAST Sections 2.2 and 3.2.

A window planner, of this file, chooses the clips of a batch too, among those of a window. Within a
batch of 12 clips there is little to choose; among 4,096 there nearly always is a clip that fills a
row. The price: which clips share a batch depends on their lengths. Training stays random all the
same: the stream is shuffled before it is cut into windows, no clip leaves its window, and the
sampler shuffles the batches of a window again (``data/samplers.py``). A batch holds exactly
``batch_clips`` clips, as with the planners of one batch, so that a step and its learning rate mean
the same; only the last batch of a window may hold fewer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from elastictool.config import PackingConfig
from elastictool.packing.batching import StreamPlan, batch_starts, joined, plan_batches, windows
from elastictool.packing.planners import PLANNERS, Counts, longest_first
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import Registry, nearest_hint

WindowPlanner = Callable[[Counts, PackingConfig], StreamPlan]
"""``(lengths of one window, config) -> plan``; a clip longer than a row gets one of its own."""

WINDOW_PLANNERS: Registry[WindowPlanner] = Registry("window planner", (__name__,))


def known_planners() -> list[str]:
    """Lists all planners: the paper's, then the others of one batch, then those of windows."""
    return [*sorted(PLANNERS, key=lambda name: (name != "first-come", name)), *WINDOW_PLANNERS]


def check_planner(name: str) -> None:
    """Refuses an unknown planner.

    Raises:
        UsageError: There is none of that name; the hint names the nearest.
    """
    if name not in (known := known_planners()):
        raise UsageError(f"unknown packing planner {name!r}", nearest_hint(name, known))


def plans_windows(name: str) -> bool:
    """Returns whether a planner chooses the clips of a batch, not only their rows.

    Raises:
        UsageError: There is no such planner.
    """
    check_planner(name)
    return name in WINDOW_PLANNERS


def plan_stream(lengths: Counts, config: PackingConfig) -> StreamPlan:
    """Plans all batches of a stream of clips.

    Args:
        lengths: (n,) tokens of each clip in arrival order.
        config: Planner, row capacity, clips or tokens of a batch, and the window.

    Raises:
        UsageError: There is no such planner.
    """
    if plans_windows(config.planner):
        plan = WINDOW_PLANNERS[config.planner]
        return joined([plan(lengths[part], config) for part in windows(len(lengths), config)])
    starts = batch_starts(lengths, config)
    return plan_batches(lengths, starts, config.capacity, PLANNERS[config.planner])


@WINDOW_PLANNERS.register("first-fit-decreasing")
def first_fit_decreasing(lengths: Counts, config: PackingConfig) -> StreamPlan:
    """Longest clip first, each into the first row of the window that has room.

    Source: Johnson (1973); ``_fit_rows`` then groups the rows.
    """
    return _fit_rows(lengths, config, tightest=False)


@WINDOW_PLANNERS.register("best-fit-decreasing")
def best_fit_decreasing(lengths: Counts, config: PackingConfig) -> StreamPlan:
    """Longest clip first, each into the row of the window that it fills up best.

    Source: Johnson (1973); ``_fit_rows`` then groups the rows.
    """
    return _fit_rows(lengths, config, tightest=True)


@WINDOW_PLANNERS.register("sorted-window")
def sorted_window(lengths: Counts, config: PackingConfig) -> StreamPlan:
    """Sorts the window, cuts it into batches of neighbours, assigns the rows of each longest first.

    Clips of equal length make even rows; a batch then holds clips of one length only.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    starts = batch_starts(ordered, config)
    plan = plan_batches(ordered, starts, config.capacity, longest_first)
    batch_of, row_of = np.empty_like(order), np.empty_like(order)
    batch_of[order], row_of[order] = plan.batch_of, plan.row_of
    return StreamPlan(batch_of, row_of)


def fit_decreasing(sizes: Counts, room: int, most: int, tightest: bool) -> Counts:
    """Puts items into bins, largest first, each into an open bin that still has room for it.

    Items of one size are placed together: a bin that takes one of them takes more until it
    is full, for first fit and best fit alike, so that a few array operations place them all.

    Args:
        sizes: (n,) sizes of the items, at least 1.
        room: What a bin holds; a larger item gets a bin of its own.
        most: Items that a bin may hold.
        tightest: Take the bin with the least room (best fit) instead of the one that was opened
            first (first fit); among equals the one that was opened first.

    Returns:
        (n,) bin of each item, numbered in the order of opening.
    """
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1)).tolist()
    bins = _Bins(len(sizes), room, most)
    placed = [
        bins.place(int(ordered[start]), stop - start, tightest)
        for start, stop in zip(starts, [*starts, len(sizes)][1:], strict=True)
    ]
    bin_of = np.empty(len(sizes), dtype=np.int64)
    bin_of[order] = np.concatenate([np.empty(0, np.int64), *placed])
    return bin_of


class _Bins:
    """The contents of the bins so far.

    ``left`` is the room of each (-1: not open yet, or it holds as many items as it may), ``free``
    the number of items that may still join.
    """

    def __init__(self, at_most: int, room: int, most: int) -> None:
        self._room, self._most = room, most
        self._left = np.full(at_most, -1, dtype=np.int64)
        self._free = np.full(at_most, most, dtype=np.int64)
        self._numbers = np.arange(at_most)
        self._opened = 0

    def place(self, size: int, count: int, tightest: bool) -> Counts:
        """Places ``count`` items of one size; returns their bins."""
        bins = (self._left[: self._opened] >= size).nonzero()[0]
        if tightest:
            bins = self._tightest(bins, count)
        old = self._fill(bins[:count], size, count) if len(bins) else bins
        rest = count - len(old)
        return np.concatenate((old, self._open(size, rest))) if rest else old

    def _tightest(self, bins: Counts, count: int) -> Counts:
        """Returns the ``count`` bins with the least room, in order; ties: opened first."""
        scale = len(self._left)
        keys = self._left[bins] * scale + bins
        if count < len(keys):
            keys.partition(count - 1)
            keys = keys[:count]
        keys.sort()
        return keys % scale

    def _fill(self, bins: Counts, size: int, count: int) -> Counts:
        left, free = self._left[bins], self._free[bins]
        take = np.minimum(left // size, free)
        total = take.cumsum()
        if total[-1] > count:
            last = int(total.searchsorted(count))
            take[last] -= total[last] - count
            take[last + 1 :] = 0
        left -= take * size
        free -= take
        left[free == 0] = -1
        self._left[bins], self._free[bins] = left, free
        return bins.repeat(take)

    def _open(self, size: int, count: int) -> Counts:
        each = max(1, min(self._room // size, self._most))
        first, stop = self._opened, self._opened - (-count // each)
        self._left[first:stop] = self._room - each * size if each < self._most else -1
        self._free[first:stop] -= each
        short = (stop - first) * each - count
        if short:
            self._left[stop - 1] = self._room - (each - short) * size
            self._free[stop - 1] += short
        self._opened = stop
        bins = self._numbers[:count]
        return first + (bins // each if each > 1 else bins)


def _fit_rows(lengths: Counts, config: PackingConfig, tightest: bool) -> StreamPlan:
    """Fills rows, then groups whole rows into batches, best fit decreasing by clips (or tokens).

    Where several batches stay incomplete, their rows are given up: the clips are batched as they
    came, and their rows assigned longest first.
    """
    most = len(lengths) if config.batch_tokens else config.batch_clips
    capacity = min(config.capacity, config.batch_tokens or config.capacity)
    row_of = fit_decreasing(lengths, capacity, most, tightest)
    if config.batch_tokens:
        loads = np.bincount(row_of, weights=lengths).astype(np.int64)
        batches = fit_decreasing(loads, config.batch_tokens, len(loads), True)
        return StreamPlan(batches[row_of], row_of)
    clips = np.bincount(row_of)
    batch_of = fit_decreasing(clips, config.batch_clips, config.batch_clips, True)[row_of]
    whole = np.bincount(batch_of) == config.batch_clips
    if whole.sum() >= len(whole) - 1:
        return StreamPlan(batch_of, row_of)
    spare = np.flatnonzero(~whole[batch_of])
    starts = batch_starts(lengths[spare], config)
    rest = plan_batches(lengths[spare], starts, config.capacity, longest_first)
    batch_of[spare] = rest.batch_of + len(lengths)
    row_of[spare] = rest.row_of + len(lengths)
    return StreamPlan(_renumbered(batch_of), _renumbered(row_of))


def _renumbered(ids: Counts) -> Counts:
    """Number ids from 0 without gaps, in their order."""
    used = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.int64)
    used[ids] = 1
    return (used.cumsum() - 1)[ids]
