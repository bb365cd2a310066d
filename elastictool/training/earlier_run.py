"""A former run in the place of a new one: what of a folder is ours to delete, and what never is.

``--overwrite`` is typed in haste and paths are mistyped. So a folder counts as a run only where it
holds a whole configuration of ours and a second sign that a training wrote it, and only files that
runs write are deleted, by name: what a user has laid beside them stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from elastictool.config import RunConfig
from elastictool.config.loader import from_dict, read_yaml
from elastictool.training.run_lock import LOCK_NAME
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import remove_temporaries

CONFIG_NAME, ENVIRONMENT_NAME = "config.yaml", "environment.json"

_SECTIONS = ("data", "fbank", "model", "train")
"""What the configuration of every run has, also of those of before."""

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


def require_run(path: Path) -> None:
    """See that ``path`` is a run directory of ours.

    Raises:
        UsageError: It is not; the message says what is missing.
    """
    if problem := _not_a_run(path):
        raise UsageError(
            f"{path} is not empty and not a run directory ({problem}): it is left as it is",
            "--run-dir names another",
        )


def _not_a_run(path: Path) -> str:
    """Why ``path`` is no run directory; empty where it is one."""
    file = path / CONFIG_NAME
    if not file.is_file():
        return f"it has no {CONFIG_NAME}"
    try:
        values = read_yaml(file)
        from_dict(RunConfig, values)
    except ElasticToolError as error:
        return f"its {CONFIG_NAME} is none of a run: {error.message}"
    missing = [section for section in _SECTIONS if section not in values]
    if missing:  # a recipe, which may be called so too
        return f"its {CONFIG_NAME} has no section {' nor '.join(missing)}"
    if not (path / LOCK_NAME).is_file() and not _is_environment(path / ENVIRONMENT_NAME):
        return f"it has neither {ENVIRONMENT_NAME} nor {LOCK_NAME} of a training"
    return ""


def _is_environment(file: Path) -> bool:
    try:
        return "elastictool" in json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def remove_run(path: Path) -> None:
    """Delete what runs write in ``path``, and last what shows that it is ours.

    This may be killed half-way, and the same command must go on then. Folders are removed where
    nothing else is in them.
    """
    folders = {file.parent for file in _written(path)}
    for file in _written(path):
        file.unlink(missing_ok=True)
    for folder in (path, path / "checkpoints", path / "results", path / "figures"):
        remove_temporaries(folder)
    for folder in folders - {path}:
        with suppress(OSError):  # not empty, or a link
            folder.rmdir()
    (path / CONFIG_NAME).unlink(missing_ok=True)


def _written(path: Path) -> Iterator[Path]:
    for pattern in _WRITTEN:
        yield from (file for file in path.glob(pattern) if not file.is_dir())
