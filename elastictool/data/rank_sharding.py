"""Splits the optimiser steps of an epoch among the processes of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from threading import Lock
from typing import TypeVar

from elastictool.data.samplers import BatchPlan, TrainingSampler

T = TypeVar("T")


@dataclass(frozen=True)
class RankStep:
    """One process's share of an optimiser step.

    Attributes:
        plans: Its own batches; none where others have all clips.
        num_batches: Batches of the step, before they are shared.
        num_crops: Crops of the step, over all processes.
    """

    plans: tuple[BatchPlan, ...]
    num_batches: int
    num_crops: int


def shard_steps(
    sampler: TrainingSampler, plans: Iterable[BatchPlan], process: int = 0, processes: int = 1
) -> Iterator[RankStep]:
    """Yields this process's share of each optimiser step that ``plans`` make up."""
    plans = iter(plans)
    while step := list(islice(plans, sampler.batches_per_step)):
        own = tuple(sampler.shares(step, processes)[process])
        yield RankStep(own, len(step), sum(plan.num_crops for plan in step))


def locked_tee(items: Iterable[T]) -> tuple[Iterator[T], Iterator[T]]:
    """Returns two iterators over ``items`` that two threads may read; each item is made once."""
    lock = Lock()

    def guarded(items: Iterator[T]) -> Iterator[T]:
        while True:
            with lock:
                item = next(items, None)
            if item is None:
                return
            yield item

    left, right = tee(items)
    return guarded(left), guarded(right)
