"""Small training runs, and what they leave in their run directories."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
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


class StopAfter:
    """A progress during which the user presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[StopAfter]:
        """An epoch begins."""
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """A step has ended."""
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def log(self, message: str) -> None:
        """Nothing."""


def train_and_stop(config: RunConfig, store: PreparedStore, path: Path, steps: int) -> None:
    """Train until the user stops it after ``steps`` steps."""
    train_run(config, store, path, progress=StopAfter(steps))


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
