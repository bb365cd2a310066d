"""The steps of an epoch as one of several processes sees them."""

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
    """What one process has to do with an optimiser step.

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
    """The optimiser steps that ``plans`` of ``sampler`` make up; alone, whole ones."""
    plans = iter(plans)
    while step := list(islice(plans, sampler.batches_per_step)):
        own = tuple(sampler.shares(step, processes)[process])
        yield RankStep(own, len(step), sum(plan.num_crops for plan in step))


def locked_tee(items: Iterable[T]) -> tuple[Iterator[T], Iterator[T]]:
    """``items`` for two readers, even in two threads, made once and kept until both have them."""
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
