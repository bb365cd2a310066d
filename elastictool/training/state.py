"""The state of a run that training continues from, and its file.

``checkpoints/last.training.pt`` holds weights, optimiser, averages, counters, random generators and
the configuration together and is replaced in one rename: a killed run never mixes two moments.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import disk_errors
from elastictool.config import RunConfig
from elastictool.config.coerce import to_dict
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.training.averaging import Averages
from elastictool.utils.errors import CheckpointError
from elastictool.utils.io import as_argument, atomic_path, require_readable


@dataclass
class Counters:
    """Where a run is.

    ``batch`` counts the finished batches of ``epoch``; ``loss_sum`` and ``crops`` add up over them
    for the epoch's mean loss. ``lr`` and ``grad_norm`` are those of the last step. ``skipped``
    counts the epoch's skipped steps, ``skipped_in_a_row`` those since the last taken step.
    ``seconds`` is the time of the epoch's steps and of loading for them, in all sessions, without
    validation and saving; ``total_seconds`` is that of the epochs before it.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    crops: int = 0
    tokens: int = 0
    slots: int = 0
    cut_frames: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1

    def count_step(self, crops: int, loss: float, tokens: int, slots: int, cut_frames: int) -> None:
        """Adds a taken step; all but ``crops`` are sums over its crops."""
        self.crops += crops
        self.loss_sum += loss
        self.tokens += tokens
        self.slots += slots
        self.cut_frames += cut_frames
        self.skipped_in_a_row = 0

    def epoch_record(self) -> dict[str, Any]:
        """Returns the log record of the epoch that ends, without its validation."""
        return {
            "kind": "epoch",
            "epoch": self.epoch + 1,
            "step": self.step,
            "train_loss": self.loss_sum / self.crops if self.crops else None,
            "lr": self.lr,
            "tokens": self.tokens,
            "padding_share": 1 - self.tokens / max(1, self.slots),
            "cut_frames": self.cut_frames,
            "skipped_steps": self.skipped,
            "seconds": round(self.seconds, 3),
        }

    def next_epoch(self) -> Counters:
        """Returns the counters at the start of the next epoch."""
        return Counters(
            epoch=self.epoch + 1,
            step=self.step,
            total_seconds=self.total_seconds + self.seconds,
            skipped_in_a_row=self.skipped_in_a_row,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
        )


@dataclass
class TrainResult:
    """The outcome of a finished run.

    Attributes:
        run: The run directory.
        epochs: Epochs trained.
        best_epoch: Epoch of the best checkpoint, -1 without validation.
        validation: Last validation metrics; empty without validation clips.
        averaged: Those of the mean of epochs, if this session finished it.
        seconds: Training time over all sessions of the run, without validation and saving.
        was_finished: There was nothing left to train.
    """

    run: Path
    epochs: int
    best_epoch: int
    validation: dict[str, float] = field(default_factory=dict)
    averaged: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    was_finished: bool = False


@dataclass
class TrainState:
    """All that training changes, random generators included, and the settings of the run."""

    model: SpectrogramTransformer
    optimizer: torch.optim.Optimizer
    averages: Averages
    device: torch.device
    config: RunConfig
    counters: Counters = field(default_factory=Counters)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values."""
        state = {
            "config": to_dict(self.config),
            "state": dataclasses.asdict(self.counters),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, saved: Mapping[str, Any], run: RunDirectory) -> None:
        """Restores what ``state_dict`` returned, possibly on another device.

        Raises:
            CheckpointError: It belongs to another model or optimiser.
        """
        try:
            self.counters = Counters(**saved["state"])
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
            if self.device.type == "cuda" and "cuda_rng" in saved:  # a run begun on a CPU has none
                torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
            self.averages.load_state_dict(saved["averages"])
        except _DAMAGE as error:
            raise CheckpointError(
                f"{run.training_state} does not fit the model of {run.config_file}: {error}",
                _start_from_weights(run.training_state),
            ) from error


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Returns the losses, scores and skipped steps of an epoch of ``epochs`` as a line."""
    parts = [f"epoch {record['epoch']}/{epochs}"]
    if record["train_loss"] is not None:
        parts.append(f"train loss {record['train_loss']:.4f}")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} steps skipped")
    return ", ".join(parts + validation_parts(record))


def validation_parts(record: Mapping[str, Any]) -> list[str]:
    """Returns the validation scores of a record, each in words."""
    forms = (("loss", "loss {:.4f}"), ("top1", "top-1 {:.1%}"), ("map", "mAP {:.3f}"))
    return [
        "val " + form.format(record[f"val_{name}"])
        for name, form in forms
        if f"val_{name}" in record
    ]


_DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading raises where a file holds something else."""
_KEYS = {"config", "model", "optimizer", "averages", "state", "rng"}


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes what training continues from; tensors and plain values only."""
    with atomic_path(path) as temporary, disk_errors(), temporary.open("wb") as file:
        torch.save(dict(state), file)


def load_training_state(path: Path) -> dict[str, Any]:
    """Returns what ``save_training_state`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, or not a training state.
    """
    if path.exists():
        require_readable(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise ValueError("it holds something else")
        if state["state"].keys() != vars(Counters()).keys():
            raise ValueError("it has other counters")
        counted = [*state["state"].values(), state["config"]["train"]["epochs"]]
        if not all(isinstance(number, (int, float)) for number in counted):
            raise ValueError("its counters are no numbers")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist: there is nothing to resume", _start_from_weights(path)
        ) from error
    except (*_DAMAGE, EOFError, OSError, pickle.UnpicklingError, struct.error) as error:
        raise CheckpointError(
            f"{path} is damaged or not a training state of elastictool", _start_from_weights(path)
        ) from error
    return cast(dict[str, Any], state)


def _start_from_weights(state: Path) -> str:
    """Returns a hint for a missing state: the weights next to it may be intact."""
    for name in ("last", "best"):
        weights = state.with_name(f"{name}.safetensors")
        if weights.is_file():
            return (
                "the run cannot go on, but a new one can start from its weights: "
                f"--set init.from=run --set init.path={as_argument(weights)}; "
                "or start anew with --overwrite"
            )
    return "start the run anew with --overwrite"
