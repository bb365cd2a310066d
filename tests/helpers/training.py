"""Small training runs, and what they leave in their run directories."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import load_run
from elastictool.config import RunConfig
from elastictool.config.loader import load_run_config
from elastictool.data.store import PreparedStore
from elastictool.training.run import train_run
from elastictool.training.trainer import Trainer

SMALL = (
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "length.max_frames=128",
    "train.epochs=2",
    "packing.batch_clips=6",
)
"""Settings of a run that takes less than a second."""


def small(*sets: str) -> RunConfig:
    """The configuration of a small run."""
    return load_run_config(None, [*SMALL, *sets])


def trainer(store: PreparedStore, path: Path, *sets: str) -> Trainer:
    """A trainer of a small run that has not begun."""
    run = RunDirectory(path)
    run.create(overwrite=False)
    return Trainer(small(*sets), store, run)


class Hooks:
    """A progress that calls functions while a run is trained.

    Args:
        after_step: Called with the number of steps taken, when a step is logged.
        after_epoch: Called when an epoch is validated and logged, before anything of it is saved.
    """

    def __init__(
        self,
        after_step: Callable[[int], object] = lambda step: None,
        after_epoch: Callable[[], object] = lambda: None,
    ) -> None:
        self.after_step, self.after_epoch = after_step, after_epoch
        self.steps = 0

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[Hooks]:
        """Begins an epoch."""
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Counts a step."""
        self.steps += 1
        self.after_step(self.steps)

    def log(self, message: str) -> None:
        """Recognises the line of an epoch."""
        if re.match(r"epoch \d+/\d+, train loss", message):
            self.after_epoch()


def train_and_stop(config: RunConfig, store: PreparedStore, path: Path, steps: int) -> None:
    """Train until the user stops it after ``steps`` steps."""
    stop = Hooks(lambda step: step == steps and signal.raise_signal(signal.SIGINT))
    train_run(config, store, path, progress=stop)


def weights(path: Path, which: Any = "last") -> dict[str, torch.Tensor]:
    """The weights of a run's checkpoint."""
    return load_run(path, which).model.state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether ``right`` has all tensors of ``left``, equal to the bit."""
    return all(torch.equal(left[name], right[name]) for name in left)


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's ``metrics.jsonl``."""
    lines = (path / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
