"""Batches of the planners that find their clips chosen: whole, in arrival order, within limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastictool.config import PackingConfig
from elastictool.packing.batching import batch_starts, plan_batches
from elastictool.packing.planners import PLANNERS
from elastictool.packing.stream import plan_stream
from elastictool.utils.errors import UsageError
from tests.helpers.plain_planners import PLAIN

streams = st.lists(st.integers(1, 60), max_size=60)


def _flat(rows: list[list[int]]) -> list[int]:
    return sorted(position for row in rows for position in row)


@pytest.mark.parametrize("planner", list(PLANNERS))
@given(stream=streams, clips=st.integers(1, 15), tokens=st.integers(0, 200))
def test_each_clip_is_in_exactly_one_batch_in_arrival_order(
    planner: str, stream: list[int], clips: int, tokens: int
) -> None:
    config = PackingConfig(planner=planner, capacity=50, batch_clips=clips, batch_tokens=tokens)
    batches = plan_stream(np.array(stream, dtype=np.int64), config).batches()
    positions = [position for batch in batches for position in _flat(batch)]
    assert positions == list(range(len(stream)))


@pytest.mark.parametrize("planner", list(PLANNERS))
@given(stream=streams, clips=st.integers(1, 15), tokens=st.integers(0, 200))
def test_vectorised_planners_make_the_rows_of_the_plain_ones(
    planner: str, stream: list[int], clips: int, tokens: int
) -> None:
    lengths = np.array(stream, dtype=np.int64)
    starts = batch_starts(lengths, PackingConfig(batch_clips=clips, batch_tokens=tokens))
    assert list(PLANNERS) == sorted(PLAIN)
    plan = plan_batches(lengths, starts, 50, PLANNERS[planner])
    plain = [
        [[start + place for place in row] for row in PLAIN[planner](stream[start:stop], 50)]
        for start, stop in zip(starts, [*starts, len(stream)][1:], strict=True)
    ]
    assert [sorted(batch) for batch in plan.batches()] == plain


@given(stream=streams, clips=st.integers(1, 15))
def test_every_batch_but_the_last_holds_the_clip_count(stream: list[int], clips: int) -> None:
    batches = plan_stream(
        np.array(stream, dtype=np.int64), PackingConfig(batch_clips=clips)
    ).batches()
    assert all(len(_flat(batch)) == clips for batch in batches[:-1])
    assert all(1 <= len(_flat(batch)) <= clips for batch in batches)


@given(stream=streams, budget=st.integers(1, 200))
def test_token_budgets_hold_and_are_used_up(stream: list[int], budget: int) -> None:
    lengths = np.array(stream, dtype=np.int64)
    batches = [
        _flat(batch) for batch in plan_stream(lengths, PackingConfig(batch_tokens=budget)).batches()
    ]
    totals = [int(lengths[batch].sum()) for batch in batches]
    assert all(
        total <= budget or len(batch) == 1 for total, batch in zip(totals, batches, strict=True)
    )
    nexts = [int(lengths[batch[0]]) for batch in batches[1:]]
    assert all(
        total + following > budget for total, following in zip(totals[:-1], nexts, strict=True)
    )


def test_next_fit_plans_inside_fixed_batches_as_published() -> None:
    """A row is never shared across batches, even where the next batch's clip would fit."""
    batches = plan_stream(
        np.array([5, 5, 5, 5]), PackingConfig(capacity=20, batch_clips=3)
    ).batches()
    assert batches == [[[0, 1, 2]], [[3]]]


def test_the_planner_does_not_change_which_clips_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 1500, 200)
    members = [
        [_flat(batch) for batch in plan_stream(lengths, PackingConfig(planner=planner)).batches()]
        for planner in PLANNERS
    ]
    assert members[0] == members[1] == members[2]


def test_an_unknown_planner_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        plan_stream(np.array([1]), PackingConfig(planner="best")).batches()
