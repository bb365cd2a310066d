"""Plan all batches of packed rows of a stream of clips, with any planner.

There are two kinds of planners. A planner of one batch (``planners.py``) does not choose clips:
batches are cut in arrival order up to a number of clips or a budget of tokens, so that which
clips share an optimiser step never depends on the planner, and planners can be compared step by
step. Source: ElasticAST Sections 2.2 and 3.2. A window planner (``windows.py``) chooses the clips
of a batch too, among those of a window.
"""

from __future__ import annotations

from elastictool.config import PackingConfig
from elastictool.packing.batching import StreamPlan, batch_starts, joined, plan_batches, windows
from elastictool.packing.planners import PLANNERS, Counts, Rows
from elastictool.packing.windows import WINDOW_PLANNERS
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint


def known_planners() -> list[str]:
    """List all planners: the paper's first, then the others of one batch, then those of windows."""
    return [*sorted(PLANNERS, key=lambda name: (name != "first-come", name)), *WINDOW_PLANNERS]


def check_planner(name: str) -> None:
    """Refuse an unknown planner.

    Raises:
        UsageError: There is none of that name; the hint names the nearest.
    """
    if name not in known_planners():
        hint = nearest_hint(name, known_planners())
        raise UsageError(f"unknown packing planner {name!r}", hint)


def plans_windows(name: str) -> bool:
    """Return whether a planner chooses the clips of a batch, not only their rows.

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
    return plan_batches(lengths, starts, config.capacity, PLANNERS[config.planner])


def batch_rows(lengths: Counts, config: PackingConfig) -> list[Rows]:
    """Plan as ``plan_stream``, as batches of rows of positions in ``lengths``.

    Raises:
        UsageError: There is no such planner.
    """
    return plan_stream(lengths, config).batches()
