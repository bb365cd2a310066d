"""Which settings a run goes on with: its own, but for those that belong to the machine.

A run is a function of its settings, so it continues with those that it began with. Where it is
computed, how it is fed and how often it is saved change nothing of it (up to rounding, where other
kernels add up), and more epochs are its own continuation where the learning rate allows them.
Everything else would be another run, and is refused by name: asked for on the command line, or
found in a ``config.yaml`` that somebody has edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.config import RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.loader import Difference, differences, other_settings, replaced_settings
from elastictool.training.schedule import against_more_epochs
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import as_argument

MACHINE = tuple(
    f"train.{name}"
    for name in (
        "attention",
        "cache_mb",
        "checkpoint_steps",
        "compile",
        "device",
        "fbank_on",
        "loader_workers",
        "max_skipped_steps",
        "prefetch",
        "tensorboard",
    )
)
"""Settings that a run may go on with another value of."""
EPOCHS = "train.epochs"
_PLACES = ("name", "data.dataset")
"""What a run and its data are called; the fingerprint says whether the data are the same."""


def own_config(path: Path, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration that the run goes on with: its own, and what of ``settings`` it may take.

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


def trained_with(run: RunDirectory, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, nested, that a run has been trained with so far.

    Args:
        run: The run.
        saved: Its training state; one of before they were kept in it leaves ``config.yaml``.
    """
    kept: Mapping[str, Any] = saved.get("config") or to_dict(run.read_config())
    return kept


def require_unedited(run: RunDirectory, before: Mapping[str, Any], config: RunConfig) -> None:
    """See that a run goes on with the settings of ``before``, whatever ``config.yaml`` says.

    Raises:
        CheckpointError: It would not.
    """
    changed = differences(before, to_dict(config))
    others = {key: changed[key] for key in changed if key not in (*MACHINE, *_PLACES, EPOCHS)}
    if others:
        raise CheckpointError(
            f"{run.config_file} was changed after the run began: {_told(others)}",
            "put the run's own values back; other settings are a new run, from its weights: "
            + _from_weights(run.path),
        )


def tell_epochs(
    run: RunDirectory, before: Mapping[str, Any], config: RunConfig, step: int, total_steps: int
) -> str:
    """What another number of epochs than ``before`` means for a run; empty where it is the same.

    Args:
        run: The run.
        before: What it was trained with.
        config: What it goes on with.
        step: Optimiser steps taken.
        total_steps: Those of the whole run, as it is to be now.

    Raises:
        UsageError: It cannot go on so.
    """
    now, then = config.train.epochs, before["train"]["epochs"]
    if now == then or step == 0:
        return ""
    problem = (
        "it cannot become shorter"
        if now < then
        else against_more_epochs(config.train.schedule, step, total_steps)
    )
    if problem:
        raise _refused(run.path, {EPOCHS: Difference(now, then)}, problem)
    return f"{now} epochs instead of {then}: {_RATE[config.train.schedule.kind]}"


_RATE = {
    "constant": "the learning rate stays as it is",
    "multistep": "the learning rate goes on to fall from epoch to epoch",
}


def _refused(path: Path, others: Mapping[str, Difference], why: str = "") -> UsageError:
    return UsageError(
        f"{path} continues with the settings that it was started with, "
        f"which are others: {_told(others)}{why and f'; {why}'}",
        f"leave them out, or start a new run from its weights: {_from_weights(path)}",
    )


def _told(others: Mapping[str, Difference]) -> str:
    return ", ".join(difference.text(key) for key, difference in others.items())


def _from_weights(path: Path) -> str:
    return f"--set init.from=run --set init.path={as_argument(path)}"
