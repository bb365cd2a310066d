"""Planners: what every plan of the registry must hold, and what each one is for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastictool.packing.planners import PLANNERS, Lengths, Rows, plan_rows
from elastictool.utils.errors import UsageError
from tests.helpers.plain_planners import excess_rows, lower_bound, processed_tokens, row_loads

lengths_and_capacity = st.tuples(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 50))


def planned(name: str, lengths: Lengths, capacity: int) -> Rows:
    """The rows of one batch."""
    return plan_rows(PLANNERS[name], lengths, capacity)


every_planner = pytest.mark.parametrize("name", list(PLANNERS))


@every_planner
@given(case=lengths_and_capacity)
def test_each_clip_is_planned_exactly_once(name: str, case: tuple[list[int], int]) -> None:
    rows = planned(name, *case)
    assert sorted(index for row in rows for index in row) == list(range(len(case[0])))
    assert all(rows)


@every_planner
@given(case=lengths_and_capacity)
def test_no_row_exceeds_capacity_but_single_clip_rows(
    name: str, case: tuple[list[int], int]
) -> None:
    lengths, capacity = case
    rows = planned(name, lengths, capacity)
    loads = row_loads(lengths, rows)
    assert all(load <= capacity or len(row) == 1 for load, row in zip(loads, rows, strict=True))


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "none"])
@given(case=lengths_and_capacity)
def test_planners_never_need_more_rows_or_tokens_than_next_fit(
    name: str, case: tuple[list[int], int]
) -> None:
    lengths, _ = case
    rows, published = planned(name, *case), planned("first-come", *case)
    assert len(rows) <= len(published)
    assert processed_tokens(lengths, rows) <= processed_tokens(lengths, published)


@every_planner
@given(case=lengths_and_capacity)
def test_no_plan_is_below_the_lower_bound(name: str, case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert excess_rows(lengths, planned(name, lengths, capacity), capacity) >= 0


@every_planner
@given(case=lengths_and_capacity)
def test_plans_are_deterministic(name: str, case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert planned(name, list(lengths), capacity) == planned(name, tuple(lengths), capacity)


def test_next_fit_keeps_arrival_order_and_never_reopens_a_row() -> None:
    assert planned("first-come", [5, 6, 2, 3, 1], 10) == [[0], [1, 2], [3, 4]]


def test_next_fit_fills_a_row_to_the_last_token() -> None:
    assert planned("first-come", [4, 6, 1], 10) == [[0, 1], [2]]


@every_planner
def test_a_clip_longer_than_a_row_stands_alone(name: str) -> None:
    assert [1] in planned(name, [3, 30, 3], 10)


@every_planner
def test_no_clips_make_no_rows(name: str) -> None:
    assert planned(name, [], 10) == []


def test_balanced_evens_out_rows() -> None:
    lengths = [4, 4, 1, 7]
    assert row_loads(lengths, planned("first-come", lengths, 10)) == [9, 7]
    assert row_loads(lengths, planned("balanced", lengths, 10)) == [8, 8]


def test_longest_first_saves_rows_that_next_fit_wastes() -> None:
    lengths = [6, 6, 4, 4]
    assert len(planned("first-come", lengths, 10)) == 3
    assert sorted(row_loads(lengths, planned("balanced", lengths, 10))) == [10, 10]


def test_longest_first_returns_the_plan_of_next_fit_where_that_is_as_good() -> None:
    assert planned("balanced", [4, 6, 5, 5], 10) == planned("first-come", [4, 6, 5, 5], 10)


def test_balanced_falls_back_where_longest_first_needs_more_rows() -> None:
    """Two rows of 6 hold 3+3 and 2+2+2; longest-first would need a third row."""
    lengths = [3, 3, 2, 2, 2]
    assert planned("balanced", lengths, 6) == [[0, 1], [2, 3, 4]]
    assert planned("first-come", lengths, 6) == [[0, 1], [2, 3, 4]]


def test_none_packs_nothing() -> None:
    assert planned("none", [1, 1], 10) == [[0], [1]]


def test_lower_bound_counts_an_oversized_clip_as_one_row() -> None:
    assert lower_bound([25, 5, 5], 10) == 2
    assert excess_rows([6, 6, 4, 4], planned("first-come", [6, 6, 4, 4], 10), 10) == 1


def test_an_unknown_planner_is_a_usage_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        PLANNERS["first-comes"]
    assert "first-come" in caught.value.hint
