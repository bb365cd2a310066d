"""Explain, log and skip steps whose loss or gradient is not finite.

Such a step is skipped as a whole, with all batches that it accumulates: weights and optimiser stay
as they were, random numbers are drawn as in any step, and step and batch are counted, so schedules,
logs and an exact resume are not affected. A step is checked after all its passes, so that all
processes of a distributed run decide alike.

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
        where: The first stage that is not finite, from the weights on.
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
        found = {"where": self.where, "what": self.what, "clips": clips}
        return {"epoch": epoch, "step": step, **found}


def explain_nonfinite(
    model: SpectrogramTransformer,
    batches: Sequence[PackedBatch],
    losses: Sequence[Tensor],
    config: RunConfig,
) -> NonFiniteStep:
    """Returns why a step is not finite, from the ``batches`` of this process.

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
    lr, data = config.train.lr, config.data
    if broken := _broken_weights(model):
        return NonFiniteStep("weights", *_about_weights(broken, lr), by_clip)
    inputs = []
    for batch in batches:
        bad = batch.broken_clips() | ~torch.isfinite(batch.targets).all(1)
        inputs += [batch.clip_ids[clip] for clip in bad.nonzero().flatten().tolist()]
    if inputs:
        what = f"the features or targets of {_clips(inputs)} are not finite"
        remedy = f"look at these clips, and at data.mean = {data.mean:g} and "
        return NonFiniteStep("inputs", what, f"{remedy}data.std = {data.std:g}", by_clip)
    clips = [clip for clip, loss in by_clip if not math.isfinite(loss)]
    where: Where = "loss" if clips else "gradient"
    what = f"the loss of {_clips(clips)} is not finite" if clips else "the gradient overflows"
    if config.train.precision == "bf16" and _finite_in_float32(model, batches):
        what += " in bf16, though the model's outputs are finite in fp32"
        remedy = "train with train.precision=fp32, or lower train.lr"
        return NonFiniteStep(where, what, remedy, by_clip)
    largest = max(float(value.detach().abs().max()) for value in model.parameters())
    what += f" (the largest weight is {largest:.3g})"
    return NonFiniteStep(where, what, _lower(lr), by_clip)


def worst_step(found: Sequence[NonFiniteStep]) -> NonFiniteStep:
    """Joins what several processes found about one step: the first stage, and the clips of all."""
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


def _broken_weights(model: SpectrogramTransformer) -> list[str]:
    """Returns the names of parameters that hold NaN or infinities."""
    values = model.named_parameters()
    return [name for name, value in values if not torch.isfinite(value.detach()).all()]


@torch.no_grad()
def _finite_in_float32(model: SpectrogramTransformer, batches: Sequence[PackedBatch]) -> bool:
    """Returns whether fp32 gives finite logits; evaluation mode draws no random numbers."""
    device = next(model.parameters()).device
    model.eval()
    try:
        return all(bool(torch.isfinite(model(batch.to(device))).all()) for batch in batches)
    finally:
        model.train()


def _about_weights(broken: Sequence[str], lr: float) -> tuple[str, str]:
    return f"the weights hold NaN or infinities ({_some(broken)})", _lower(lr)


def _lower(lr: float) -> str:
    return f"start anew with a lower learning rate (train.lr is {lr:g}) or a longer warm-up"


def _clips(clips: Sequence[str]) -> str:
    return f"clip{'s' if len(clips) > 1 else ''} {_some(clips)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
