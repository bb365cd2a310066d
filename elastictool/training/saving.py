"""What a run leaves on the disk to be used or continued: weights, and the state of the training.

``checkpoints/{last,best,averaged}.safetensors`` are models by themselves. What training continues
from (``checkpoints/last.training.pt``) holds weights, optimiser, averages, counters, generator
states and the configuration together, written in one rename: a killed run never mixes two moments,
and a run is never continued with other settings than it has.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import disk_errors, save_weights
from elastictool.config import RunConfig
from elastictool.config.coerce import to_dict
from elastictool.data.store import DatasetInfo
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.training.averaging import Averages
from elastictool.training.state import TrainingState
from elastictool.utils.errors import CheckpointError
from elastictool.utils.io import as_argument, atomic_path


@dataclass(frozen=True)
class Saver:
    """Writes the files of one run; of several processes, those of the first one alone.

    Attributes:
        run: Where.
        config: The resolved configuration, kept with all that is saved.
        data: What the run is trained on.
    """

    run: RunDirectory
    config: RunConfig
    data: DatasetInfo

    def weights(
        self,
        path: Path,
        model: SpectrogramTransformer,
        state: TrainingState,
        validation: Mapping[str, float],
        thresholds: Sequence[float] = (),
    ) -> None:
        """Write ``model`` as a file that stands alone."""
        if self.run.writes:
            about = {"epoch": state.epoch + 1, "step": state.step, **validation}
            names, multi_label = self.data.label_names, self.data.multi_label
            save_weights(path, model, self.config, names, multi_label, about, thresholds)

    def state(self, train_state: TrainState, state: TrainingState) -> None:
        """Write what training continues from."""
        if self.run.writes:
            kept = {"config": to_dict(self.config), "state": dataclasses.asdict(state)}
            save_training_state(self.run.training_state, kept | train_state.state_dict())


@dataclass(frozen=True)
class TrainState:
    """All that training changes beside its counters, generators of random numbers included."""

    model: SpectrogramTransformer
    optimizer: torch.optim.Optimizer
    averages: Averages
    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave, possibly on another device."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda" and "cuda_rng" in saved:  # a run begun on a CPU has none
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        self.averages.load_state_dict(saved.get("averages", self.averages.state_dict()))


def restore(saved: Mapping[str, Any], train_state: TrainState, run: RunDirectory) -> TrainingState:
    """Put ``train_state`` where it was when ``saved`` was written; returns the run's counters.

    Raises:
        CheckpointError: The state is not one of this model and optimiser.
    """
    try:
        state = TrainingState(**saved["state"])
        train_state.load_state_dict(saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{run.training_state} does not fit the model of {run.config_file}: {error}",
            _start_from_weights(run.training_state),
        ) from error
    return state


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what training continues from; tensors and plain values only."""
    with atomic_path(path) as temporary, disk_errors(), temporary.open("wb") as file:
        torch.save(dict(state), file)


def load_training_state(path: Path) -> dict[str, Any]:
    """What ``save_training_state`` wrote.

    Raises:
        CheckpointError: Not there, damaged, or not a file of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist: there is nothing to resume", _start_from_weights(path)
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(state, dict) or not {"model", "optimizer", "state", "rng"} <= state.keys():
        raise _damaged(path)
    return cast(dict[str, Any], state)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or not a training state of elastictool", _start_from_weights(path)
    )


def _start_from_weights(state: Path) -> str:
    """What can be done without the state: the weights beside it may be whole."""
    for name in ("last", "best"):
        weights = state.with_name(f"{name}.safetensors")
        if weights.is_file():
            return (
                "the run cannot go on, but a new one can start from its weights: "
                f"--set init.from=run --set init.path={as_argument(weights)}; "
                "or start anew with --overwrite"
            )
    return "start the run anew with --overwrite"
