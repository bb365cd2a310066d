"""Learning rate as a pure function of the step: nothing to save, exact after a resume.

The published trainers keep the rate at 0 for their first 50 steps and let the warm-up undo decays;
that of EPIC-SOUNDS begins at 1 % and undoes its decay at every later step. Here warm-up is linear
from the first step and multiplies the decay.
"""

from __future__ import annotations

import math

from elastictool.config import ScheduleConfig


def lr_factor(config: ScheduleConfig, step: int, total_steps: int, epoch: int) -> float:
    """Returns the factor on the base learning rate.

    Args:
        config: The schedule.
        step: Optimiser steps taken so far (the first step has 0).
        total_steps: Optimiser steps of the whole run.
        epoch: Epoch of the step, from 0.
    """
    warmup = warmup_steps(config, total_steps)
    factor = _decay(config, step - warmup, max(1, total_steps - warmup), epoch)
    return factor * min(1.0, (step + 1) / (warmup + 1))


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Returns the steps of the warm-up in a run of ``total_steps``."""
    share = config.warmup_steps
    return round(share * total_steps) if share < 1 else round(share)


def why_not_more_epochs(config: ScheduleConfig, step: int, total_steps: int) -> str:
    """Returns why a run at ``step`` cannot continue with ``total_steps``; empty if it can.

    It can if the rates so far are those of the longer run, or if the longer warm-up is over, too.
    """
    if config.kind == "cosine":
        return "a cosine schedule falls over all epochs, and the rate would jump up again"
    if config.warmup_steps < 1 and step < warmup_steps(config, total_steps):
        return "its warm-up is a share of all steps, and would not be over where the run stands"
    return ""


def _decay(config: ScheduleConfig, step: int, steps: int, epoch: int) -> float:
    if config.kind == "cosine":
        done = min(1.0, max(0, step) / steps)
        return config.final_factor + (1 - config.final_factor) * 0.5 * (
            1 + math.cos(math.pi * done)
        )
    if config.kind == "multistep":
        return config.decay_factor ** max(0, epoch + 1 - config.decay_from)
    return 1.0
