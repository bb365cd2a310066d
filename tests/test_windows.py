"""Window planners: what they may choose, what they must leave alone, how good their rows are."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastictool.config import (
    AugmentConfig,
    FbankConfig,
    LengthConfig,
    LengthDiversityConfig,
    PackingConfig,
)
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.packing.batching import windows
from elastictool.packing.planners import Rows
from elastictool.packing.stream import (
    WINDOW_PLANNERS,
    check_planner,
    fit_decreasing,
    plan_stream,
    plans_windows,
)
from elastictool.utils.errors import UsageError
from tests.helpers.plain_planners import next_fit, processed_tokens, row_loads

CAPACITY = 50
streams = st.lists(st.integers(1, 60), max_size=90)
every_planner = pytest.mark.parametrize("planner", list(WINDOW_PLANNERS))
limits = st.fixed_dictionaries(
    {
        "batch_clips": st.integers(1, 15),
        "batch_tokens": st.just(0) | st.integers(1, 150),
        "window": st.integers(1, 70),
    }
)


def planned(planner: str, stream: list[int], limit: dict[str, int]) -> list[Rows]:
    return plan_stream(np.array(stream, dtype=np.int64), config(planner, limit)).batches()


def config(planner: str, limit: dict[str, int]) -> PackingConfig:
    return PackingConfig(planner=planner, capacity=CAPACITY, **limit)


def members(batch: Rows) -> list[int]:
    return sorted(place for row in batch for place in row)


# What every window planner holds


@every_planner
@given(stream=streams, limit=limits)
def test_each_clip_is_in_exactly_one_row(
    planner: str, stream: list[int], limit: dict[str, int]
) -> None:
    batches = planned(planner, stream, limit)
    assert sorted(p for batch in batches for p in members(batch)) == list(range(len(stream)))
    assert all(row for batch in batches for row in batch) and all(batches)


@every_planner
@given(stream=streams, limit=limits)
def test_no_row_exceeds_capacity_but_single_clip_rows(
    planner: str, stream: list[int], limit: dict[str, int]
) -> None:
    for batch in planned(planner, stream, limit):
        for row, load in zip(batch, row_loads(stream, batch), strict=True):
            assert load <= CAPACITY or len(row) == 1


@every_planner
@given(stream=streams, limit=limits)
def test_no_clip_leaves_its_window(planner: str, stream: list[int], limit: dict[str, int]) -> None:
    parts = windows(len(stream), config(planner, limit))
    longest = max(limit["window"], 1 if limit["batch_tokens"] else limit["batch_clips"])
    assert all(part.stop - part.start <= longest for part in parts)
    of_clip = {p: number for number, part in enumerate(parts) for p in range(part.start, part.stop)}
    for batch in planned(planner, stream, limit):
        assert len({of_clip[place] for place in members(batch)}) == 1


@every_planner
@given(stream=streams, limit=limits)
def test_a_batch_holds_its_number_of_clips_and_an_epoch_its_number_of_batches(
    planner: str, stream: list[int], limit: dict[str, int]
) -> None:
    limit = limit | {"batch_tokens": 0}
    sizes = [len(members(batch)) for batch in planned(planner, stream, limit)]
    clips = limit["batch_clips"]
    assert len(sizes) == -(-len(stream) // clips)
    assert Counter(sizes)[clips] >= len(stream) // clips


@every_planner
@given(stream=streams, limit=limits, budget=st.integers(1, 150))
def test_token_budgets_hold(
    planner: str, stream: list[int], limit: dict[str, int], budget: int
) -> None:
    for batch in planned(planner, stream, limit | {"batch_tokens": budget}):
        assert sum(row_loads(stream, batch)) <= budget or len(members(batch)) == 1


def test_unknown_planners_are_usage_errors_that_know_both_kinds() -> None:
    with pytest.raises(UsageError) as caught:
        check_planner("best-fit")
    assert "best-fit-decreasing" in caught.value.hint and "first-come" in caught.value.hint
    assert plans_windows("sorted-window") and not plans_windows("balanced")


# First fit and best fit


def slow_fit(sizes: list[int], room: int, most: int, tightest: bool) -> list[int]:
    """Clip by clip, as the books say."""
    bins: list[list[int]] = []
    bin_of = [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        left = {
            number: room - sum(held) - sizes[item]
            for number, held in enumerate(bins)
            if len(held) < most and sum(held) + sizes[item] <= room
        }
        if not left:
            bins.append([])
            left = {len(bins) - 1: 0}
        bin_of[item] = min(left, key=lambda number: (left[number] if tightest else 0, number))
        bins[bin_of[item]].append(sizes[item])
    return bin_of


@given(
    sizes=st.lists(st.integers(1, 60), max_size=60) | st.lists(st.integers(1, 12), max_size=60),
    room=st.integers(1, 70) | st.integers(8, 20),
    most=st.integers(1, 12) | st.just(60),
    tightest=st.booleans(),
)
@settings(max_examples=300)
def test_placing_sizes_together_equals_placing_clip_by_clip(
    sizes: list[int], room: int, most: int, tightest: bool
) -> None:
    fast = fit_decreasing(np.array(sizes, dtype=np.int64), room, most, tightest)
    assert fast.tolist() == slow_fit(sizes, room, most, tightest)


def test_best_fit_takes_the_tighter_row_and_first_fit_the_older_one() -> None:
    sizes = np.array([6, 7, 3])
    assert fit_decreasing(sizes, 10, 9, tightest=True).tolist() == [1, 0, 0]
    sizes = np.array([5, 7, 8, 2, 2])
    assert fit_decreasing(sizes, 10, 9, tightest=True).tolist() == [2, 1, 0, 0, 1]
    sizes = np.array([6, 8, 2, 2])
    assert fit_decreasing(sizes, 11, 9, tightest=True).tolist() == [1, 0, 0, 1]
    sizes = np.array([5, 7, 6, 2, 2])
    assert fit_decreasing(sizes, 10, 9, tightest=False).tolist() == [2, 0, 1, 0, 1]


def fewest_bins(sizes: list[int], room: int) -> int:
    """The best there is, by trying everything: the last item joins each bin, or opens one."""

    @cache
    def best(item: int, left: tuple[int, ...]) -> int:
        if item == len(sizes):
            return len(left)
        size = sizes[item]
        choices = [best(item + 1, tuple(sorted([*left, room - size])))]
        for place, space in enumerate(left):
            if space >= size:
                rest = (*left[:place], space - size, *left[place + 1 :])
                choices.append(best(item + 1, tuple(sorted(rest))))
        return min(choices)

    return best(0, ())


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_first_fit_decreasing_needs_at_most_11_9_of_the_fewest_rows_and_two_thirds(
    sizes: list[int],
) -> None:
    """Source: Dósa (2007)."""
    rows = int(fit_decreasing(np.array(sizes), 20, 99, tightest=False).max()) + 1
    assert rows <= Fraction(11, 9) * fewest_bins(sizes, 20) + Fraction(6, 9)


@pytest.mark.parametrize("planner", ["first-fit-decreasing", "best-fit-decreasing"])
@given(stream=st.lists(st.integers(1, CAPACITY), min_size=1, max_size=90))
def test_at_most_one_row_of_a_batch_is_half_empty(planner: str, stream: list[int]) -> None:
    """Two such rows would have been one; so there are fewer than twice the lower bound, and one."""
    (batch,) = planned(planner, stream, {"batch_clips": 90, "window": 90})
    assert sum(2 * load <= CAPACITY for load in row_loads(stream, batch)) <= 1
    assert len(batch) <= 2 * -(-sum(stream) // CAPACITY) + 1


@given(stream=streams, clips=st.integers(1, 15))
def test_sorted_window_needs_no_more_rows_than_next_fit_on_the_sorted_batch(
    stream: list[int], clips: int
) -> None:
    for batch in planned("sorted-window", stream, {"batch_clips": clips, "window": 30}):
        lengths = sorted((stream[place] for place in members(batch)), reverse=True)
        published = next_fit(lengths, CAPACITY)
        assert len(batch) <= len(published)
        assert processed_tokens(stream, batch) <= processed_tokens(lengths, published)


@given(stream=streams, clips=st.integers(1, 15))
def test_sorted_window_puts_neighbours_in_length_together(stream: list[int], clips: int) -> None:
    batches = planned("sorted-window", stream, {"batch_clips": clips, "window": 90})
    lengths = [[stream[place] for place in members(batch)] for batch in batches]
    assert all(min(batch) >= max(after) for batch, after in pairwise(lengths))


# In training


def sampler(planner: str, frames: list[int], share: float = 0.0, **packing: int) -> TrainingSampler:
    feature_extractor = FeatureExtractor(
        FbankConfig(), LengthConfig(), (16, 16), (16, 16), -6.0, 4.0
    )
    limits = {"batch_clips": 4, "capacity": 256, "window": 12} | packing
    return TrainingSampler(
        clips=np.arange(len(frames)),
        native_frames=np.array(frames),
        feature_extractor=feature_extractor,
        augment=AugmentConfig(length_diversity=LengthDiversityConfig(share=share)),
        packing=PackingConfig(planner=planner, **limits),
        spec=feature_extractor.pack_spec(1),
        seed=3,
    )


def clips_of(plan: BatchPlan) -> list[int]:
    return [view.clip for row in plan.rows for view in row]


FRAMES = st.lists(st.integers(1, 900), min_size=1, max_size=40)


@every_planner
@given(frames=FRAMES, epoch=st.integers(0, 2), budget=st.just(0) | st.integers(1, 900))
def test_an_epoch_sees_every_clip_once_and_knows_its_number_of_batches(
    planner: str, frames: list[int], epoch: int, budget: int
) -> None:
    plans = sampler(planner, frames, batch_tokens=budget)
    batches = [clips_of(plan) for plan in plans.epoch(epoch)]
    assert sorted(clip for batch in batches for clip in batch) == list(range(len(frames)))
    assert plans.num_batches(epoch) == len(batches)


@every_planner
@given(frames=FRAMES, epoch=st.integers(0, 2))
def test_no_clip_moves_more_than_a_window_from_its_shuffled_position(
    planner: str, frames: list[int], epoch: int
) -> None:
    one_by_one = sampler("none", frames).epoch(epoch)
    shuffled = [clip for plan in one_by_one for clip in clips_of(plan)]
    place = {clip: number for number, clip in enumerate(shuffled)}
    windowed = sampler(planner, frames).epoch(epoch)
    trained = [clip for plan in windowed for clip in clips_of(plan)]
    assert all(abs(place[clip] - number) < 12 for number, clip in enumerate(trained))


@every_planner
@given(frames=FRAMES)
def test_rows_of_clips_with_two_crops_hold_their_capacity(planner: str, frames: list[int]) -> None:
    plans = sampler(planner, frames, share=1.0)
    for plan in plans.epoch(0):
        assert len(set(clips_of(plan))) <= 4
        for row in plan.rows:
            assert sum(map(tokens_of(plans), row)) <= 256 or len(row) == 1


def tokens_of(plans: TrainingSampler) -> Callable[[Crop], int]:
    return lambda view: plans.feature_extractor.num_patches(view) + plans.spec.prefix_tokens


@every_planner
def test_training_meets_the_planned_rows(planner: str) -> None:
    frames = np.random.default_rng(0).integers(10, 900, 96).tolist()
    plans = sampler(planner, frames, window=48)
    shuffled = [clip for plan in sampler("none", frames).epoch(0) for clip in clips_of(plan)]
    tokens = [
        tokens_of(plans)(plans.feature_extractor.crop(clip, frames[clip])) for clip in shuffled
    ]
    rows = plan_stream(np.array(tokens), plans.packing).batches()
    expected = {frozenset(frozenset(shuffled[p] for p in row) for row in batch) for batch in rows}
    found = {
        frozenset(frozenset(view.clip for view in row) for row in plan.rows)
        for plan in plans.epoch(0)
    }
    assert found == expected


@every_planner
def test_long_and_short_batches_come_in_random_order(planner: str) -> None:
    """Planners go from the longest clip to the shortest; training must not."""
    frames = np.random.default_rng(0).integers(10, 900, 400).tolist()
    plans = sampler(planner, frames, window=400)
    means = [np.mean([frames[clip] for clip in clips_of(plan)]) for plan in plans.epoch(0)]
    order = np.arange(len(means))
    assert abs(np.corrcoef(order, means)[0, 1]) < 0.3
    again = [clips_of(plan) for plan in plans.epoch(0)]
    other = [clips_of(plan) for plan in dataclasses.replace(plans, seed=4).epoch(0)]
    assert again == [clips_of(plan) for plan in plans.epoch(0)] != other


def plans_of_all_planners() -> list[list[list[int]]]:
    frames = [37 * number % 900 + 1 for number in range(60)]
    return [[clips_of(plan) for plan in sampler(name, frames).epoch(1)] for name in WINDOW_PLANNERS]


def test_every_process_makes_the_same_plan() -> None:
    code = f"from {__name__} import plans_of_all_planners as plans; print(plans())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(plans_of_all_planners())
