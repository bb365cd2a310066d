"""How a whole stream of clips becomes batches of packed rows, with any planner.

There are two kinds of planners. A planner of one batch (``planners.py``) finds its clips chosen:
batches are cut in arrival order up to a number of clips or a budget of tokens, so that which
clips share an optimiser step never depends on the planner, and planners can be compared step by
step. Source: ElasticAST Sections 2.2 and 3.2. A window planner (``windows.py``) chooses the clips
of a batch too, among those of a window.
"""

from __future__ import annotations

from elastictool.config import PackingConfig
from elastictool.packing.batching import (
    Counts,
    StreamPlan,
    batch_starts,
    joined,
    plan_each,
    windows,
)
from elastictool.packing.planners import PLANNERS, Rows
from elastictool.packing.vectorized import VECTORIZED, plan_grid
from elastictool.packing.windows import WINDOW_PLANNERS
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint


def known_planners() -> list[str]:
    """Names of all planners: the paper's first, then the others of one batch, then of windows."""
    return [*sorted(PLANNERS, key=lambda name: (name != "first-come", name)), *WINDOW_PLANNERS]


def check_planner(name: str) -> None:
    """Refuse a planner that there is not.

    Raises:
        UsageError: Its hint names the nearest.
    """
    if name not in known_planners():
        hint = nearest_hint(name, known_planners())
        raise UsageError(f"unknown packing planner {name!r}", hint)


def plans_windows(name: str) -> bool:
    """Whether a planner chooses the clips of a batch, not only their rows.

    Raises:
        UsageError: There is no such planner.
    """
    check_planner(name)
    return name in WINDOW_PLANNERS


def plan_stream(lengths: Counts, config: PackingConfig) -> StreamPlan:
    """Plan all batches of a stream of clips.

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
    if config.planner in VECTORIZED and not config.batch_tokens:
        return plan_grid(lengths, starts, config.capacity, VECTORIZED[config.planner])
    return plan_each(lengths, starts, config.capacity, PLANNERS[config.planner])


def batch_rows(lengths: Counts, config: PackingConfig) -> list[Rows]:
    """The same plan as batches of rows of positions in ``lengths``; each position occurs once.

    Raises:
        UsageError: There is no such planner.
    """
    return plan_stream(lengths, config).batches()
