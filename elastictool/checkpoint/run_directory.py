"""Manage a run directory: its paths, log and lock; nothing is overwritten by accident.

A process that trains holds an advisory lock on ``.lock`` in the run directory. The kernel releases
it however the process ends, so a killed run never counts as running. The empty file stays:
deleting it would race with the next lock.

Only files that elastictool writes are deleted, by name: what a user has added stays.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from elastictool import __version__
from elastictool.checkpoint.find import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LOCK_NAME,
    read_run_config,
    require_run,
)
from elastictool.config import RunConfig
from elastictool.config.loader import dump_yaml
from elastictool.utils.errors import (
    CheckpointError,
    RunRemovedError,
    UsageError,
    write_error,
)
from elastictool.utils.io import (
    append_line,
    parse_record,
    remove_temporaries,
    require_readable,
    write_json,
    write_text,
)
from elastictool.utils.launch import launched
from elastictool.utils.locks import hold, is_held

_WRITTEN = (
    "metrics.jsonl",
    "skipped_steps.jsonl",
    "import_report.json",
    "report.html",
    "tensorboard/events.out.tfevents.*",
    *(f"checkpoints/{name}.safetensors" for name in ("last", "best", "averaged")),
    "checkpoints/last.training.pt",
    "results/thresholds.csv",
    "results/eval_*.json",
    *(f"results/{name}.csv" for name in ("per_class_*", "confusions_*", "sweep*")),
    "results/sweep*.json",
    *(
        f"figures/{name}.{suffix}"
        for name in ("learning_curves", "per_class_*", "confusions_*", "sweep*")
        for suffix in ("png", "svg")
    ),
    ENVIRONMENT_NAME,
)
"""What training, ``eval``, ``sweep`` and ``runs`` write into a run directory."""


class RunDirectory:
    """Paths inside one run directory, and its metrics log.

    Args:
        path: Where it is.
        writes: False in processes other than the main one: they change nothing.
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
        """Checks that a run may be made here.

        Raises:
            UsageError: The path is a file; a folder with other content; a run that is being
                trained; or a run, and ``overwrite`` is off.
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
        if is_locked(self.path):
            raise UsageError(
                f"{self.path} is being trained by another process: it is left as it is",
                "wait for it, stop it, or name another place with --run-dir",
            )

    def create(self, overwrite: bool) -> None:
        """Makes the directory, and deletes the run that was there.

        Raises:
            UsageError: See ``require_free``.
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
        """Deletes the run if not one step has been tried, so that the next attempt can start."""
        began = (self.metrics, self.skipped_steps, self.training_state)
        if self.writes and not any(file.exists() for file in began):
            with suppress(OSError):  # the error that ended the run is the one to show
                remove_run(self.path)

    def _has_content(self) -> bool:
        """Returns whether there is more than a process leaves that was killed at its start."""
        if not self.path.exists():
            return False
        names = [path.name for path in self.path.iterdir()]
        return any(not name.startswith(LOCK_NAME) and not name.endswith(".tmp") for name in names)

    def write_config(self, config: RunConfig, fingerprint: str) -> None:
        """Records the resolved configuration and the environment."""
        if not self.writes:
            return
        remove_temporaries(self.path)  # of a process that was killed right here
        write_text(self.config_file, dump_yaml(config))
        self.write_environment(fingerprint)

    def write_environment(self, fingerprint: str) -> None:
        """Records where the run was started, unless that is known."""
        if self.writes and not self.environment.exists():
            write_json(self.environment, environment(fingerprint))

    def read_config(self) -> RunConfig:
        """Returns the configuration that the run was started with.

        Raises:
            CheckpointError: There is no run here, or its configuration is invalid.
        """
        if not self.config_file.is_file():
            raise CheckpointError(
                f"{self.path} holds no run to resume", "start one without --resume"
            )
        try:
            return read_run_config(self.config_file)
        except UsageError as error:
            raise CheckpointError(
                f"{self.config_file} is no configuration of a run: {error.message}",
                "it was changed, or is of another version: put back what was there",
            ) from error

    def read_fingerprint(self) -> str:
        """Returns the fingerprint of the run's data; empty without ``environment.json``.

        Raises:
            CheckpointError: ``environment.json`` holds none.
        """
        if not self.environment.exists():
            return ""
        require_readable(self.environment)
        record = parse_record(self.environment.read_bytes())
        fingerprint = record and record.get("data_fingerprint")
        if not isinstance(fingerprint, str):
            raise CheckpointError(
                f"{self.environment} is damaged: it does not say which data the run has",
                "put back what was there; without the file, the data are not compared",
            )
        return fingerprint

    def was_saved(self) -> bool:
        """Returns whether a state to continue from is or was there: each epoch saves one."""
        epochs = sum(record.get("kind") == "epoch" for record in self.records())
        return self.training_state.exists() or epochs > 1

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line to ``metrics.jsonl``.

        Raises:
            RunRemovedError: The directory was moved or removed; nothing is written.
            WriteError: The file cannot be written.
        """
        self._append(self.metrics, record)
        if self.mirror:
            self.mirror(record)

    def log_skipped(self, record: Mapping[str, Any]) -> None:
        """Appends one line to ``skipped_steps.jsonl``; raises what ``log`` does."""
        self._append(self.skipped_steps, record)

    def _append(self, path: Path, record: Mapping[str, Any]) -> None:
        if self.writes:
            self._check_still_there()
            append_line(path, json.dumps(record))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields the records of ``metrics.jsonl`` without damaged lines."""
        yield from (record for record in _records(self.metrics) if record and "kind" in record)

    def clean_up(self, step: int, epochs: int) -> list[str]:
        """Deletes what a killed process logged after its last saved state: it is computed again.

        Damaged lines go too; the state holds all that training needs.

        Args:
            step: Optimiser steps of the saved state.
            epochs: Finished epochs of the saved state: a state of the last step of an epoch may be
                older than the epoch's own lines.

        Returns:
            Notes on damaged lines.
        """
        if not self.writes:
            return []
        damaged = []
        for folder in (self.path, self.path / "checkpoints"):
            remove_temporaries(folder)
        for log in (self.metrics, self.skipped_steps):
            records = list(_records(log))
            kept = [
                json.dumps(record) + "\n"
                for record in records
                if record
                and record["step"] <= step
                and (record.get("kind") not in _OF_EPOCHS or record["epoch"] <= epochs)
            ]
            if log.exists():
                write_text(log, "".join(kept))
            if lost := records.count(None):
                damaged.append(f"lines of {log} that were damaged and are left out: {lost:,}")
        return damaged

    def _check_still_there(self) -> None:
        """Raises an error if the run directory was removed during training."""
        now = None
        with suppress(OSError):  # these stay when it is renamed and change when it is replaced
            found = self.path.stat()
            now = found.st_dev, found.st_ino
        self._known = self._known or now
        if now is None or now != self._known:
            raise RunRemovedError(
                f"{self.path} was {'moved or removed' if now is None else 'replaced'} while the "
                "run was training: nothing more of it is saved",
                "if it was moved, continue it there with --resume --run-dir; else start it anew",
            )


def remove_run(path: Path) -> None:
    """Deletes what runs write in ``path``, and the configuration last.

    After a kill half-way the folder so still counts as a run, and the same command works again.
    Folders are removed where nothing else is in them.
    """
    files = [f for pattern in _WRITTEN for f in path.glob(pattern) if not f.is_dir()]
    for file in files:
        file.unlink(missing_ok=True)
    for folder in (path, path / "checkpoints", path / "results", path / "figures"):
        remove_temporaries(folder)
    for folder in {file.parent for file in files} - {path}:
        with suppress(OSError):  # not empty, or a link
            folder.rmdir()
    (path / CONFIG_NAME).unlink(missing_ok=True)


def lock_results(folder: Path) -> AbstractContextManager[None]:
    """Holds the lock of the result files in ``folder``; waits while another process writes them."""
    name = folder / f"{LOCK_NAME}-results"
    return hold(name, f"results in {folder} are being written", "", wait=lambda message: None)


def lock_run(run_dir: Path) -> AbstractContextManager[None]:
    """Holds the lock of ``run_dir`` inside the block.

    Raises:
        UsageError: Another process trains this run.
        WriteError: The directory cannot be written.
    """
    return hold(
        run_dir / LOCK_NAME,
        f"{run_dir} is being trained",
        "wait for it, stop it, or name another place with --run-dir",
    )


def is_locked(run_dir: Path) -> bool | None:
    """Returns whether a process trains this run now; None where the system cannot tell."""
    return is_held(run_dir / LOCK_NAME)


_OF_EPOCHS = ("epoch", "averaged")
"""Kinds of records that name their epoch."""


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yields the record of each line, None for a damaged one; a kill leaves half of the last.

    Raises:
        ElasticToolError: The log cannot be read.
    """
    if not os.path.lexists(path):
        return
    require_readable(path)
    *lines, rest = path.read_bytes().split(b"\n")
    for line in [*filter(bytes.strip, lines), *([rest] if parse_record(rest) else [])]:
        record = parse_record(line) or {}
        needed = ("step", "epoch") if record.get("kind") in _OF_EPOCHS else ("step",)
        sound = all(type(record.get(name)) is int for name in needed)
        yield record if sound and isinstance(record.get("kind", ""), str) else None


def environment(fingerprint: str) -> dict[str, Any]:
    """Returns versions, revision, machine and command of this process."""
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
    """Returns the git revision of the source tree; None where elastictool is installed."""
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
