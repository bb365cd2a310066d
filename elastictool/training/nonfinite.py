"""Steps whose loss or gradient is not finite: explained, logged and skipped.

Such a step is skipped as a whole, with all batches that it accumulates: weights and optimiser stay
as they were, random numbers are drawn as in any step, and step and batch are counted, so schedules,
logs and an exact resume are not affected. A step is judged after all its passes, so that all
processes of a distributed run judge alike.

The cause is looked for only then: first the weights (nothing can follow), then the inputs, then
whether bf16 is to blame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from elastictool.config import RunConfig
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import ElasticToolError

Where = Literal["weights", "inputs", "loss", "gradient"]
_NAMED = 4
"""Clips and tensors that a message names; the file has all clips."""


@dataclass(frozen=True)
class NonFiniteStep:
    """Why a step was skipped.

    Attributes:
        where: The first place that is not finite, from the weights on.
        what: A sentence about it.
        remedy: What to do about it.
        losses: Id and loss of each clip of the step.
    """

    where: Where
    what: str
    remedy: str
    losses: tuple[tuple[str, float], ...]

    def record(self, epoch: int, step: int) -> dict[str, Any]:
        """Returns the line of ``skipped_steps.jsonl``; losses that JSON cannot hold become text."""
        clips = [
            {"id": clip, "loss": loss if math.isfinite(loss) else str(loss)}
            for clip, loss in self.losses
        ]
        return {
            "epoch": epoch,
            "step": step,
            "where": self.where,
            "what": self.what,
            "clips": clips,
        }


def explain_nonfinite(
    model: SpectrogramTransformer,
    batches: Sequence[PackedBatch],
    losses: Sequence[Tensor],
    config: RunConfig,
) -> NonFiniteStep:
    """Finds out why a step is not finite, from the ``batches`` of this process.

    Args:
        model: After the backward passes of all batches.
        batches: The step's batches.
        losses: (S,) loss of each clip, for each batch.
        config: The run.
    """
    by_clip = tuple(
        (clip, value)
        for batch, loss in zip(batches, losses, strict=True)
        for clip, value in zip(batch.clip_ids, loss.tolist(), strict=True)
    )
    where, what, remedy = _explain(model, batches, by_clip, config)
    return NonFiniteStep(where, what, remedy, by_clip)


def worst_step(found: Sequence[NonFiniteStep]) -> NonFiniteStep:
    """Joins what several processes found about one step: the first place, and the clips of all."""
    worst = min(found, key=lambda step: get_args(Where).index(step.where))
    return replace(worst, losses=tuple(loss for step in found for loss in step.losses))


def check_weights(model: SpectrogramTransformer, lr: float) -> None:
    """Keeps weights that are not finite from being saved over good ones.

    Raises:
        ElasticToolError: They hold NaN or infinities.
    """
    if broken := _broken_weights(model):
        what, remedy = _about_weights(broken, lr)
        raise ElasticToolError(
            f"training has diverged: {what}; what was saved before stays as it is", remedy
        )


def too_many(skipped: NonFiniteStep, in_a_row: int, step: int) -> ElasticToolError:
    """Returns the error that ends a run after too many skipped steps in a row."""
    steps = f"the last {in_a_row} steps" if in_a_row > 1 else "the last step"
    return ElasticToolError(
        f"stopped at step {step}: {steps} could not be taken, most likely because {skipped.what}",
        f"{skipped.remedy}; skipped_steps.jsonl in the run directory has the clips and their "
        "losses",
    )


def no_finite_step(steps: int) -> ElasticToolError:
    """Returns the error that ends a run which has skipped every one of its ``steps``."""
    return ElasticToolError(
        f"none of the {steps} steps of this training could be taken: the weights are those that it "
        "started with",
        "skipped_steps.jsonl in the run directory says why for each step; most often a lower "
        "train.lr helps",
    )


def _explain(
    model: SpectrogramTransformer,
    batches: Sequence[PackedBatch],
    losses: Sequence[tuple[str, float]],
    config: RunConfig,
) -> tuple[Where, str, str]:
    if broken := _broken_weights(model):
        return "weights", *_about_weights(broken, config.train.lr)
    if clips := [clip for batch in batches for clip in _broken_inputs(batch)]:
        return (
            "inputs",
            f"the features or targets of {_clips(clips)} are not finite",
            f"look at these clips, and at data.mean = {config.data.mean:g} and "
            f"data.std = {config.data.std:g}",
        )
    clips = [clip for clip, loss in losses if not math.isfinite(loss)]
    where: Where = "loss" if clips else "gradient"
    what = f"the loss of {_clips(clips)} is not finite" if clips else "the gradient overflows"
    if config.train.precision == "bf16" and _finite_in_float32(model, batches):
        return (
            where,
            f"{what} in bf16, though the model's outputs are finite in fp32",
            "train with train.precision=fp32, or lower train.lr",
        )
    largest = max(float(value.detach().abs().max()) for value in model.parameters())
    return where, f"{what} (the largest weight is {largest:.3g})", _lower(config.train.lr)


def _broken_inputs(batch: PackedBatch) -> list[str]:
    """Ids of the clips that the model gives NaN for, and of those with such targets."""
    broken = batch.broken_clips() | ~torch.isfinite(batch.targets).all(1)
    return [batch.clip_ids[clip] for clip in broken.nonzero().flatten().tolist()]


def _broken_weights(model: SpectrogramTransformer) -> list[str]:
    """Names of parameters that hold NaN or infinities."""
    return [name for name, value in model.named_parameters() if not _is_finite(value)]


@torch.no_grad()
def _finite_in_float32(model: SpectrogramTransformer, batches: Sequence[PackedBatch]) -> bool:
    """Whether fp32 gives finite logits; in evaluation mode, which draws no random numbers."""
    device = next(model.parameters()).device
    model.eval()
    try:
        return all(_is_finite(model(batch.to(device))) for batch in batches)
    finally:
        model.train()


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values.detach()).all())


def _about_weights(broken: Sequence[str], lr: float) -> tuple[str, str]:
    return f"the weights hold NaN or infinities ({_some(broken)})", _lower(lr)


def _lower(lr: float) -> str:
    return f"start anew with a lower learning rate (train.lr is {lr:g}) or a longer warm-up"


def _clips(clips: Sequence[str]) -> str:
    return f"clip{'s' if len(clips) > 1 else ''} {_some(clips)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
