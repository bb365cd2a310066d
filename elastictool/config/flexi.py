"""Patch sizes that change from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elastictool.config.check import require

PatchAxes = Literal["both", "time", "frequency"]

PATCH_SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
"""Patch sizes that FlexiAST trains with. Source: FlexiAST Section 2.3."""


@dataclass(frozen=True)
class FlexiConfig:
    """Patch sizes drawn in training, one for each optimiser step.

    Source: FlexiAST Section 2.3; time only for speakers, Section 3.3.
    """

    sizes: tuple[int, ...] = ()
    """Sizes in mel bins and frames to draw from; none trains at ``model.patch_size`` only. FlexiAST
    Section 2.3: 8, 10, 12, 16, 20, 24, 30, 32, 40, 48."""
    weights: tuple[float, ...] = ()
    """Relative chance of each size, in their order; none makes all alike."""
    axes: PatchAxes = "both"
    """Along which axes a size counts; the other axis keeps its size out of ``model.patch_size``."""

    def __post_init__(self) -> None:
        require(all(size > 0 for size in self.sizes), "flexi.sizes must be above 0")
        require(len(set(self.sizes)) == len(self.sizes), "flexi.sizes names a size twice")
        require(
            not self.weights or len(self.weights) == len(self.sizes),
            f"flexi.weights has {len(self.weights)} values for {len(self.sizes)} sizes",
        )
        require(
            not self.weights or (min(self.weights) >= 0 and sum(self.weights) > 0),
            "flexi.weights must not be negative, nor all 0",
        )
