"""How a stream of clips becomes batches of packed rows.

Clips are taken in arrival order up to a number of clips or a budget of tokens, and the planner
works inside each such batch: which clips share an optimiser step never depends on the planner,
so planners can be compared step by step. Source: ElasticAST Sections 2.2 and 3.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elastictool.config import PackingConfig
from elastictool.packing.planners import PLANNERS, Rows


def batch_rows(lengths: npt.NDArray[np.int64], config: PackingConfig) -> list[Rows]:
    """Cut a stream of clips into batches and plan each.

    Args:
        lengths: Tokens of each clip in arrival order.
        config: Planner, row capacity, and clips or tokens of a batch.

    Returns:
        Batches of rows of positions in ``lengths``; each position occurs once.

    Raises:
        UsageError: There is no such planner.
    """
    plan = PLANNERS[config.planner]
    starts = batch_starts(lengths, config)
    stops = [*starts, len(lengths)][1:]
    return [
        [
            [start + index for index in row]
            for row in plan(lengths[start:stop].tolist(), config.capacity)
        ]
        for start, stop in zip(starts, stops, strict=True)
    ]


def batch_starts(lengths: npt.NDArray[np.int64], config: PackingConfig) -> list[int]:
    """Position of each batch's first clip.

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


def batch_stop(totals: npt.NDArray[np.int64], start: int, config: PackingConfig) -> int:
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
