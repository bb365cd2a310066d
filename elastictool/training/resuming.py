"""Decide the settings of a resumed run: its own, except those of the machine.

A run is a function of its settings, so it continues with those that it started with. Settings of
the machine change its result at most by rounding, and more epochs continue it where the learning
rate allows them. Any other setting would be another run and is refused by name, whether it comes
from the command line or from an edited ``config.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.config import RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.loader import Difference, differences, other_settings, replaced_settings
from elastictool.training.schedule import why_not_more_epochs
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import as_argument

MACHINE = (
    "train.attention",
    "train.cache_mb",
    "train.checkpoint_steps",
    "train.compile",
    "train.device",
    "train.fbank_on",
    "train.loader_workers",
    "train.max_skipped_steps",
    "train.prefetch",
    "train.tensorboard",
)
"""Settings that may change when a run is resumed."""
EPOCHS = "train.epochs"


def own_config(path: Path, settings: Mapping[str, Any]) -> RunConfig:
    """Returns the run's own configuration with those of ``settings`` that may change.

    Args:
        path: The run directory.
        settings: What the user asks for, nested as in a recipe.

    Raises:
        CheckpointError: There is no run.
        UsageError: The run has other settings than those asked for.
    """
    config = RunDirectory(path).read_config()
    asked = other_settings(settings, config)
    if refused := {key: asked[key] for key in asked if key not in (*MACHINE, EPOCHS)}:
        raise _refused(path, refused)
    return replaced_settings(config, {key: value.asked for key, value in asked.items()})


def require_unedited(run: RunDirectory, before: Mapping[str, Any], config: RunConfig) -> None:
    """Checks that ``config`` has the settings ``before``, with which the run was trained so far.

    Raises:
        CheckpointError: ``config.yaml`` was edited.
    """
    changed = differences(before, to_dict(config))
    # A run and its data may move; the fingerprint shows whether the data are equal.
    may_change = (*MACHINE, "name", "data.dataset", EPOCHS)
    others = {key: changed[key] for key in changed if key not in may_change}
    if others:
        raise CheckpointError(
            f"{run.config_file} was changed after the run began: {_listed(others)}",
            "put the run's own values back; other settings are a new run, from its weights: "
            + _from_weights(run.path),
        )


def check_epochs(
    run: RunDirectory, before: Mapping[str, Any], config: RunConfig, step: int, total_steps: int
) -> str:
    """Returns a note on another number of epochs than ``before``; empty where it is the same.

    Args:
        run: The run.
        before: The settings that it was trained with.
        config: The settings that it continues with.
        step: Optimiser steps taken.
        total_steps: Optimiser steps of the whole run under ``config``.

    Raises:
        UsageError: The run cannot continue with this number.
    """
    now, then = config.train.epochs, before["train"]["epochs"]
    if now == then or step == 0:
        return ""
    schedule = config.train.schedule
    shorter = "it cannot become shorter" if now < then else ""
    if problem := shorter or why_not_more_epochs(schedule, step, total_steps):
        raise _refused(run.path, {EPOCHS: Difference(now, then)}, problem)
    falls = "continues to fall from epoch to epoch"
    rate = "stays as it is" if schedule.kind == "constant" else falls
    return f"{now} epochs instead of {then}: the learning rate {rate}"


def _refused(path: Path, others: Mapping[str, Difference], why: str = "") -> UsageError:
    return UsageError(
        f"{path} continues with the settings that it was started with, "
        f"which differ: {_listed(others)}{why and f'; {why}'}",
        f"leave them out, or start a new run from its weights: {_from_weights(path)}",
    )


def _listed(others: Mapping[str, Difference]) -> str:
    return ", ".join(difference.text(key) for key, difference in others.items())


def _from_weights(path: Path) -> str:
    return f"--set init.from=run --set init.path={as_argument(path)}"
