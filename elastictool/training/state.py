"""Where a run is, and what it has to say when it is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass
class TrainingState:
    """Where a run is; saved with the weights, so that it continues exactly.

    ``batch`` counts the batches of ``epoch`` already used, ``loss_sum`` and ``views`` add up over
    them for the epoch's mean loss. ``lr`` and ``grad_norm`` are those of the last step.
    ``skipped`` counts the epoch's steps that could not be taken, ``skipped_in_a_row`` those since
    the last one that could.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    views: int = 0
    tokens: int = 0
    slots: int = 0
    cut_frames: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1

    def epoch_record(self) -> dict[str, Any]:
        """What the log says of the epoch that is ending, without its validation."""
        return {
            "kind": "epoch",
            "epoch": self.epoch + 1,
            "step": self.step,
            "train_loss": self.loss_sum / self.views if self.views else None,
            "lr": self.lr,
            "tokens": self.tokens,
            "padding_share": 1 - self.tokens / max(1, self.slots),
            "cut_frames": self.cut_frames,
            "skipped_steps": self.skipped,
            "seconds": round(self.seconds, 3),
        }

    def next_epoch(self) -> TrainingState:
        """The state at the start of the next epoch: what counts within an epoch is 0 again."""
        return TrainingState(
            epoch=self.epoch + 1,
            step=self.step,
            seconds=self.seconds,
            skipped_in_a_row=self.skipped_in_a_row,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
        )


@dataclass(frozen=True)
class StepSums:
    """What is counted of a step, over its batches and over all processes.

    ``broken`` counts the clips whose loss is not finite, ``stops`` the processes that were asked
    to stop.
    """

    loss: float
    tokens: float
    slots: float
    cut_frames: float
    broken: float
    stops: float


def read_numbers(scalars: Sequence[Tensor]) -> list[float]:
    """The values of () tensors, in one go."""
    return torch.stack([value.float() for value in scalars]).tolist() if scalars else []


@dataclass
class TrainResult:
    """What a finished run has to say.

    Attributes:
        run: The run directory.
        epochs: Epochs trained.
        best_epoch: Epoch of the best checkpoint, -1 without validation.
        validation: Last validation metrics; empty without validation clips.
        averaged: Those of the mean of epochs, if this session finished it.
        seconds: Training time over all sessions of the run, validation excluded.
        was_finished: There was nothing left to train.
    """

    run: Path
    epochs: int
    best_epoch: int
    validation: dict[str, float] = field(default_factory=dict)
    averaged: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    was_finished: bool = False
