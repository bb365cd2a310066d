"""A trained run that teaches another."""

from __future__ import annotations

from dataclasses import dataclass

from elastictool.config.check import require


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation: ``(1 - weight) * loss + weight * T^2 * KL(teacher || student)``.

    Source: FlexiAST Section 3.4 (KL alone: weight 1); T^2 keeps the gradient's size (Hinton et al.
        2015).
    """

    teacher: str = ""
    """Run that teaches, at its own patch size and on the same clips: its directory or its name
    under ``runs/``. Empty: none."""
    temperature: float = 1.0
    """What both sides' logits are divided by, above 0 (T). Higher ones weigh the teacher's unlikely
    classes more."""
    weight: float = 1.0
    """Share of the teacher in the loss, above 0 and at most 1; at 1 labels play no part."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "train.distill.temperature must be above 0")
        require(0 < self.weight <= 1, "train.distill.weight must be above 0 and at most 1")
