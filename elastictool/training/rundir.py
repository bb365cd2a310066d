"""The run directory: what lies where, and that nothing in it is overwritten by accident."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from elastictool import __version__
from elastictool.config import RunConfig
from elastictool.config.loader import dump_yaml, from_dict, read_yaml
from elastictool.training.earlier_run import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    remove_run,
    require_run,
)
from elastictool.training.run_lock import LOCK_NAME, is_claimed
from elastictool.utils.errors import CheckpointError, RunRemovedError, UsageError, write_error
from elastictool.utils.io import (
    append_line,
    as_argument,
    remove_temporaries,
    write_json,
    write_text,
)
from elastictool.utils.launch import launched

RUNS_ROOT = Path("runs")
"""Where runs go unless the user says otherwise."""
HOW_TO_MAKE_ONE = (
    "make one: elastictool prep (your recordings, or clips of its own), then "
    "elastictool train --recipe small_data"
)
"""The hint where there is no run."""


def find_run(text: str, root: Path = RUNS_ROOT) -> Path:
    """A run directory or checkpoint file as it is, or the name of a run under ``root``.

    Raises:
        UsageError: There is no such run; the hint names those there are.
    """
    found = [path for path in (Path(os.path.expanduser(text)), root / text) if path.exists()]
    for path in found:  # a folder that only shares its name with a run comes second
        if path.is_file() or (path / "config.yaml").exists():
            return path
    if found:
        return found[0]
    known = sorted(config.parent.name for config in root.glob("*/config.yaml"))
    raise UsageError(
        f"{text!r} is neither a run directory nor a name under {root}",
        f"runs there: {', '.join(known)}" if known else HOW_TO_MAKE_ONE,
    )


def latest_started(root: Path = RUNS_ROOT) -> Path:
    """The run under ``root`` that was started or saved last.

    Raises:
        UsageError: There is none.
    """
    files = [*root.glob("*/config.yaml"), *root.glob("*/checkpoints/last.training.pt")]
    if not files:
        raise UsageError(f"there is no run under {root} to resume", "name one with --run-dir")
    latest = max(files, key=lambda file: file.stat().st_mtime_ns)
    return root / latest.relative_to(root).parts[0]


class RunDirectory:
    """Paths inside one run directory, and its metrics log.

    Args:
        path: Where it is.
        writes: Off where another process of the run writes: nothing is changed then.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.config_file = path / CONFIG_NAME
        self.environment = path / ENVIRONMENT_NAME
        self.metrics = path / "metrics.jsonl"
        self.import_report = path / "import_report.json"
        self.tensorboard = path / "tensorboard"
        self.mirror: Callable[[Mapping[str, Any]], None] | None = None
        self.skipped_steps = path / "skipped_steps.jsonl"
        self.last_weights = path / "checkpoints" / "last.safetensors"
        self.best_weights = path / "checkpoints" / "best.safetensors"
        self.averaged_weights = path / "checkpoints" / "averaged.safetensors"
        self.training_state = path / "checkpoints" / "last.training.pt"
        self.thresholds = path / "results" / "thresholds.csv"
        self._known: tuple[int, int] | None = None

    def require_free(self, overwrite: bool) -> None:
        """See that a run may be made here.

        Raises:
            UsageError: It is a file; it has content and is no run of ours, or one that is being
                trained; it is a run, and ``overwrite`` is off.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(
                f"{self.path} is a file, and a run is a directory", "--run-dir names another place"
            )
        if not self._has_content():
            return
        require_run(self.path)
        if not overwrite:
            raise UsageError(
                f"{self.path} is not empty",
                "--resume continues it, --overwrite starts anew, --run-dir names another",
            )
        if is_claimed(self.path):
            raise UsageError(
                f"{self.path} is being trained by another process: it is left as it is",
                "wait for it, stop it, or name another place with --run-dir",
            )

    def create(self, overwrite: bool) -> None:
        """Make the directory, without a former run.

        Raises:
            UsageError: What ``require_free`` says.
            WriteError: It cannot be made.
        """
        if not self.writes:
            return
        self.require_free(overwrite)
        try:
            if self._has_content():
                remove_run(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error

    def give_up(self) -> None:
        """Clear the place for the next attempt, if not one step has been tried."""
        began = (self.metrics, self.skipped_steps, self.training_state)
        if self.writes and not any(file.exists() for file in began):
            with suppress(OSError):  # what made it fail is to be told, not this
                remove_run(self.path)

    def _has_content(self) -> bool:
        """Whether there is more than a process leaves that was killed before it began."""
        if not self.path.exists():
            return False
        names = [path.name for path in self.path.iterdir()]
        return any(name != LOCK_NAME and not name.endswith(".tmp") for name in names)

    def write_config(self, config: RunConfig, fingerprint: str) -> None:
        """Record the resolved configuration and where it ran."""
        if not self.writes:
            return
        remove_temporaries(self.path)  # of a process that was killed right here
        write_text(self.config_file, dump_yaml(config))
        self.write_environment(fingerprint)

    def write_environment(self, fingerprint: str) -> None:
        """Record where the run was started, unless that is known."""
        if self.writes and not self.environment.exists():
            write_json(self.environment, environment(fingerprint))

    def read_config(self) -> RunConfig:
        """The configuration that the run was started with.

        Raises:
            CheckpointError: There is no run here, or its configuration is none.
        """
        if not self.config_file.is_file():
            named = RUNS_ROOT / self.path.name
            is_name = (named / CONFIG_NAME).is_file()
            raise CheckpointError(
                f"{self.path} holds no run to resume",
                f"--run-dir {as_argument(named)} does" if is_name else "start one without --resume",
            )
        try:
            return from_dict(RunConfig, read_yaml(self.config_file))
        except UsageError as error:
            raise CheckpointError(
                f"{self.config_file} is no configuration of a run: {error.message}",
                "it was changed, or is of another version: put back what was there",
            ) from error

    def read_fingerprint(self) -> str:
        """Fingerprint of the data that the run was started on; empty if it is not recorded."""
        try:
            return str(json.loads(self.environment.read_text("utf-8"))["data_fingerprint"])
        except (OSError, KeyError, json.JSONDecodeError):
            return ""

    def was_saved(self) -> bool:
        """Whether there is, or was, a state to continue from: each epoch is saved at its end."""
        epochs = sum(record.get("kind") == "epoch" for record in self.records())
        return self.training_state.exists() or epochs > 1

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``.

        Raises:
            RunRemovedError: The directory is gone; nothing is written to where it was.
            WriteError: The disk is full, or the like.
        """
        self._append(self.metrics, record)
        if self.mirror:
            self.mirror(record)

    def log_skipped(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``skipped_steps.jsonl``; raises what ``log`` does."""
        self._append(self.skipped_steps, record)

    def _append(self, path: Path, record: Mapping[str, Any]) -> None:
        if self.writes:
            self._check_still_there()
            append_line(path, json.dumps(record))

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, without one that a killed process left half-written."""
        yield from _records(self.metrics)

    def clean_up(self, step: int, epochs: int) -> None:
        """Take back what a killed process left beyond its saved state, since it happens again.

        Args:
            step: Optimiser steps of the saved state.
            epochs: Epochs that it has finished: at the last step of an epoch, a state may be from
                before the epoch's own lines.
        """
        if not self.writes:
            return
        for folder in (self.path, self.path / "checkpoints"):
            remove_temporaries(folder)
        for log in (self.metrics, self.skipped_steps):
            kept = [record for record in _records(log) if _is_before(record, step, epochs)]
            if log.exists():
                write_text(log, "".join(json.dumps(record) + "\n" for record in kept))

    def _check_still_there(self) -> None:
        """Whoever removes the directory of a run at work means it: do not put it back."""
        now = _identity(self.path)
        self._known = self._known or now
        if now is None or now != self._known:
            raise RunRemovedError(
                f"{self.path} was {'moved or removed' if now is None else 'replaced'} while the "
                "run was training: nothing more of it is saved",
                "if it was moved, continue it there with --resume --run-dir; else start it anew",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """What stays of a directory when it is renamed, and is new when it is made again."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _is_before(record: Mapping[str, Any], step: int, epochs: int) -> bool:
    of_an_epoch = record.get("kind") in ("epoch", "averaged")
    return record.get("step", 0) <= step and not (of_an_epoch and record["epoch"] > epochs)


def environment(fingerprint: str) -> dict[str, Any]:
    """Versions, revision, machine and command of this process."""
    import numpy
    import torch

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["elastictool", *sys.argv[1:]]),
        "elastictool": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": launched().world,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": git_revision(),
        "data_fingerprint": fingerprint,
    }


def git_revision() -> str | None:
    """Revision of the source tree, where elastictool runs from one."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
