"""The learning rate over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elastictool.config.check import require


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over a run: a linear warm-up to ``train.lr``, then its decay."""

    kind: Literal["constant", "cosine", "multistep"] = "cosine"
    """How the rate goes on after the warm-up: ``constant``, along half a ``cosine`` to the last
    step, or in steps from epoch to epoch (``multistep``, the published scripts')."""
    warmup_steps: float = 0.1
    """Optimiser steps of the warm-up, not more than the run has; below 1 a share of all steps. 0
    has none. Longer ones help where training diverges at its start."""
    decay_from: int = 5
    """Epochs before ``multistep`` begins to decay."""
    decay_factor: float = 0.75
    """What ``multistep`` multiplies the rate by after ``decay_from`` epochs and after each further
    one, above 0 and at most 1."""
    final_factor: float = 0.0
    """Where ``cosine`` ends, as a share of ``train.lr``, 0 to 1."""

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "train.schedule.warmup_steps must not be negative")
        require(self.decay_from >= 0, "train.schedule.decay_from must not be negative")
        require(0 < self.decay_factor <= 1, "train.schedule.decay_factor must be in 0..1")
        require(0 <= self.final_factor <= 1, "train.schedule.final_factor must be in 0..1")
