"""Learning rates of a whole run, against torch's schedulers and the published decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from elastictool.config import ScheduleConfig
from elastictool.training.schedule import lr_factor

STEPS = 20
PER_EPOCH = 4


def factors(**settings: Any) -> list[float]:
    """Of every step of a run of ``STEPS`` steps."""
    config = ScheduleConfig(**({"warmup_steps": 0.0} | settings))
    return [lr_factor(config, step, STEPS, step // PER_EPOCH) for step in range(STEPS)]


def of_torch(make: Any, every: int = 1) -> list[float]:
    """The same by a scheduler of torch's that steps once in ``every`` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler: LRScheduler = make(optimizer)
    rates = []
    for step in range(1, STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    expected = of_torch(lambda optimizer: CosineAnnealingLR(optimizer, STEPS, eta_min=final))
    assert factors(kind="cosine", final_factor=final) == pytest.approx(expected)


def test_cosine_ends_at_the_final_factor_and_stays_there() -> None:
    config = ScheduleConfig(kind="cosine", warmup_steps=0.0, final_factor=0.25)
    assert lr_factor(config, STEPS, STEPS, 5) == pytest.approx(0.25)
    assert lr_factor(config, 2 * STEPS, STEPS, 10) == pytest.approx(0.25)


@pytest.mark.parametrize(("first", "factor"), [(2, 0.5), (3, 0.85)])
def test_multistep_is_that_of_the_published_scripts(first: int, factor: float) -> None:
    """AST's trainer: MultiStepLR over range(lrscheduler_start, 1000), stepped after an epoch."""
    expected = of_torch(
        lambda optimizer: MultiStepLR(optimizer, list(range(first, 1000)), gamma=factor),
        every=PER_EPOCH,
    )
    found = factors(kind="multistep", decay_from=first, decay_factor=factor)
    assert found == pytest.approx(expected)
    assert found[0] == 1 and found[-1] < factor


def test_a_constant_rate_stays() -> None:
    assert factors(kind="constant") == [1.0] * STEPS


@pytest.mark.parametrize("warmup", [4, 0.2], ids=["steps", "share"])
def test_warm_up_is_linear_from_the_first_step_on(warmup: float) -> None:
    found = factors(kind="constant", warmup_steps=warmup)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_begins_where_the_warm_up_ends() -> None:
    found = factors(kind="cosine", warmup_steps=4)
    config = ScheduleConfig(kind="cosine", warmup_steps=0.0)
    assert found[4:] == pytest.approx([lr_factor(config, s, STEPS - 4, 0) for s in range(16)])
    assert max(found) == found[4] == 1.0
