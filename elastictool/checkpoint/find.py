"""Find runs by name or by age, and recognise a run directory.

``--overwrite`` is typed in haste and paths are mistyped. So a folder counts as a run only where it
holds a complete run configuration and a second file that training writes.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from elastictool.config import RunConfig
from elastictool.config.coerce import from_dict
from elastictool.config.yaml_text import read_yaml
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import read_text

RUNS_ROOT = Path("runs")
"""Default parent folder of runs."""
CONFIG_NAME, ENVIRONMENT_NAME, LOCK_NAME = "config.yaml", "environment.json", ".lock"
HOW_TO_MAKE_ONE = (
    "make one: elastictool prep (your recordings, or clips of its own), then "
    "elastictool train --recipe small_data"
)
"""The hint where there is no run."""


def find_run(text: str) -> Path:
    """Returns a run directory or checkpoint file: ``text`` as a path, or a run's name in ``runs/``.

    Raises:
        UsageError: There is no such run; the hint names those that exist.
    """
    found = [path for path in (Path(os.path.expanduser(text)), RUNS_ROOT / text) if path.exists()]
    for path in found:  # a folder that only shares its name with a run comes second
        if path.is_file() or (path / CONFIG_NAME).exists():
            return path
    if found:
        return found[0]
    known = sorted(config.parent.name for config in RUNS_ROOT.glob(f"*/{CONFIG_NAME}"))
    raise UsageError(
        f"{text!r} is neither a run directory nor a name under {RUNS_ROOT}",
        f"runs there: {', '.join(known)}" if known else HOW_TO_MAKE_ONE,
    )


def is_run(text: str) -> bool:
    """Returns whether ``text`` names a run or its weights, and not recordings."""
    if os.path.exists(text):
        is_weights = text.endswith(".safetensors") and os.path.isfile(text)
        return is_weights or os.path.isfile(Path(text, CONFIG_NAME))
    return bool(text) and os.path.isfile(RUNS_ROOT / text / CONFIG_NAME)


def latest_runs(trained: bool = True, root: Path = RUNS_ROOT) -> list[Path]:
    """Returns the runs under ``root``, those whose weights or settings were written last first.

    Args:
        trained: Runs without weights do not count.
        root: The folder.

    Raises:
        UsageError: There is none; the hint shows how to make one.
    """
    patterns = ["*/checkpoints/last.safetensors"] + [f"*/{CONFIG_NAME}"] * (not trained)
    if runs := _newest(root, *patterns):
        return runs
    kind = "trained run" if trained else "run"
    raise UsageError(f"there is no {kind} under {root}", HOW_TO_MAKE_ONE)


def latest_started() -> Path:
    """Returns the run under ``runs/`` that was started or saved last.

    Raises:
        UsageError: There is none.
    """
    if runs := _newest(RUNS_ROOT, f"*/{CONFIG_NAME}", "*/checkpoints/last.training.pt"):
        return runs[0]
    raise UsageError(f"there is no run under {RUNS_ROOT} to resume", "name one with --run-dir")


def _newest(root: Path, *patterns: str) -> list[Path]:
    """Returns the runs with files that match one of ``patterns``, the newest file's first."""
    files = [file for pattern in patterns for file in sorted(root.glob(pattern))]
    files.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return list(dict.fromkeys(root / file.relative_to(root).parts[0] for file in files))


def read_run_config(file: Path) -> RunConfig:
    """Returns the configuration of a run.

    Raises:
        UsageError: It is no valid one, or lacks a section.
    """
    values = read_yaml(file)
    config = from_dict(RunConfig, values)
    # Sections that every run's configuration has, and no recipe, which may have this name, in full.
    missing = [name for name in ("data", "fbank", "model", "train") if name not in values]
    if missing:
        raise UsageError(f"{file} has no section {' nor '.join(missing)}")
    return config


def require_run(path: Path) -> None:
    """Checks that ``path`` is a run directory.

    Raises:
        UsageError: It is not; the message names what is missing.
    """
    if problem := _why_no_run(path):
        raise UsageError(
            f"{path} is not empty and not a run directory ({problem}): it is left as it is",
            "--run-dir names another",
        )


def _why_no_run(path: Path) -> str:
    """Returns why ``path`` is not a run directory; empty where it is one."""
    file = path / CONFIG_NAME
    if not file.is_file():
        return f"it has no {CONFIG_NAME}"
    try:
        read_run_config(file)
    except ElasticToolError as error:
        return f"its {CONFIG_NAME} is not that of a run: {error.message}"
    if (path / LOCK_NAME).is_file():
        return ""
    with suppress(OSError, ValueError, TypeError):
        if "elastictool" in json.loads(read_text(path / ENVIRONMENT_NAME)):
            return ""
    return f"it has neither {ENVIRONMENT_NAME} nor {LOCK_NAME} of a training"
