"""Summarise run directories: settings, state, scores.

Only the small files of a run are read (configuration, log, results), never weights, so a hundred
runs are listed at once. A directory that cannot be read is listed with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from elastictool.checkpoint.find import CONFIG_NAME, HOW_TO_MAKE_ONE, read_run_config
from elastictool.checkpoint.run_directory import is_locked
from elastictool.config import RunConfig
from elastictool.config.coerce import flat_settings
from elastictool.evaluation.points import model_label
from elastictool.reporting.evaluations import evaluation_stems, read_evaluation
from elastictool.reporting.run_log import Record, number, read_log
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import as_argument, open_file, parse_record

State = Literal["running", "finished", "stopped", "diverged", "broken"]
SortKey = Literal["updated", "name", "score"]

FRESH_S = 600.0
"""On systems without locks, a run whose log is younger than this counts as running."""
SEVERAL_STEPS = 3
"""A run that ends with this many skipped steps has diverged."""
SKIPPED_NAME = "skipped_steps.jsonl"
_PARTS = ("config.yaml", "metrics.jsonl", "checkpoints", "environment.json")


@dataclass(frozen=True)
class Score:
    """One number of an evaluation with its 95 % interval, which may be missing."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run.

    Attributes:
        path: The run directory.
        name: Name of its folder, by which commands know it.
        state: ``running`` (a process trains it), ``finished``, ``stopped``, ``diverged`` (its last
            steps could not be taken), or ``broken``.
        dataset: Name of the prepared data.
        model: What the model is.
        size: Width and depth.
        epoch: Epochs finished.
        epochs: Epochs asked for.
        metric: The metric that chooses the best weights; empty before the first validation.
        best: Its best value; None without validation.
        best_epoch: Epoch of that value.
        evaluations: The main score of each evaluation, by split and what is not the run's own
            (``test``, ``test_128``, ``test_on_esc50``).
        training_s: Training time over all sessions; None if not recorded.
        updated: When the log was last written, ISO 8601.
        age_s: Seconds since then.
        problem: What is wrong with it; empty if nothing is.
    """

    path: str
    name: str
    state: State
    dataset: str = ""
    model: str = ""
    size: str = ""
    epoch: int = 0
    epochs: int = 0
    metric: str = ""
    best: float | None = None
    best_epoch: int | None = None
    evaluations: dict[str, Score] = field(default_factory=dict)
    training_s: float | None = None
    updated: str = ""
    age_s: float = 0.0
    problem: str = ""

    def document(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)

    @property
    def test(self) -> Score | None:
        """The score of the best weights on the run's own test split, at its own length."""
        return self.evaluations.get("test")


def list_runs(root: Path, sort: SortKey = "updated") -> list[RunSummary]:
    """Returns all runs directly under ``root``: last written, best, or alphabetically first.

    By score, runs are ordered by test score, those without by validation score below them.

    Raises:
        UsageError: There is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}", HOW_TO_MAKE_ONE)
    paths = sorted(path for path in root.iterdir() if path.is_dir() and _is_run(path))
    runs = [summarise(path) for path in paths]
    if sort == "name":
        return runs

    def rank(run: RunSummary) -> tuple[Any, ...]:
        test = run.test.value if run.test else None
        score = (test is None, -(test or 0.0), run.best is None, -(run.best or 0.0), run.name)
        return score if sort == "score" else (run.age_s,)

    return sorted(runs, key=rank)


def _is_run(path: Path) -> bool:
    """Returns whether a folder has a run's files, or is empty (a training that died at once)."""
    try:
        return any((path / part).exists() for part in _PARTS) or not any(path.iterdir())
    except OSError:
        return True


def summarise(path: Path) -> RunSummary:
    """Summarises a run; never fails: what is wrong is in ``problem``."""
    updated = 0.0
    for name in ("metrics.jsonl", "config.yaml", ""):
        with contextlib.suppress(OSError):
            updated = (path / name).stat().st_mtime
            break
    about: dict[str, Any] = {
        "path": str(path),
        "name": path.name,
        "updated": datetime.fromtimestamp(updated, timezone.utc).isoformat(timespec="seconds"),
        "age_s": round(max(0.0, time.time() - updated), 1),
    }
    try:
        config = read_config(path)
        epochs = read_log(path, "epoch")
    except (ElasticToolError, OSError) as error:
        return RunSummary(**about, state="broken", problem=str(error))
    seconds = [number(record, "seconds") for record in epochs]
    evaluations, problem = _evaluations(path)
    epoch = int(number(epochs[-1], "epoch") or 0) if epochs else 0
    locked, ended = is_locked(path), epoch >= config.train.epochs
    state: State = "finished" if ended else "stopped"
    if locked or (locked is None and not ended and about["age_s"] < FRESH_S):
        state = "running"
    elif _has_diverged(path, config, ended):
        state = "diverged"
        why = "its last steps could not be taken, --resume would end there again: see "
        problem = "; ".join(filter(None, (why + SKIPPED_NAME, problem)))
    return RunSummary(
        **about,
        state=state,
        dataset=Path(config.data.dataset).name,
        model=model_label(config),
        size=f"{config.model.width} x {config.model.depth}",
        epoch=epoch,
        epochs=config.train.epochs,
        **_best(epochs),
        evaluations=evaluations,
        training_s=sum(filter(None, seconds)) if any(seconds) else None,
        problem=problem,
    )


def read_config(path: Path) -> RunConfig:
    """Returns the configuration of a run.

    Raises:
        UsageError: There is none, or this version cannot read it.
    """
    return read_run_config(path / CONFIG_NAME)


def _has_diverged(path: Path, config: RunConfig, ended: bool) -> bool:
    """Returns whether the last steps were skipped: several, or one that broke the weights.

    A run that has reached its last epoch has diverged only if it took no step at all.
    """
    try:
        with open_file(path / SKIPPED_NAME) as file:
            lines = file.read().splitlines()
        steps = read_log(path, "step")
    except (ElasticToolError, OSError):
        return False
    if ended:
        return not steps
    taken = (number(steps[-1], "step") or 0) if steps else 0
    skipped = [record for record in map(parse_record, lines) if record]
    last = [record for record in skipped if (number(record, "step") or 0) > taken]
    several = min(SEVERAL_STEPS, config.train.max_skipped_steps + 1)
    return len(last) >= several or any(record.get("where") == "weights" for record in last)


def _best(epochs: Sequence[Record]) -> dict[str, Any]:
    """Returns the metric that chooses the best weights, its best value and the epoch of that."""
    metric = str(epochs[-1].get("selection_metric", "")) if epochs else ""
    scores = [(number(record, f"val_{metric}"), number(record, "epoch")) for record in epochs]
    known = [(score, epoch) for score, epoch in scores if score is not None and epoch is not None]
    if not known:
        return {}
    best, epoch = max(known, key=lambda pair: pair[0])
    return {"metric": metric, "best": best, "best_epoch": int(epoch)}


def _evaluations(path: Path) -> tuple[dict[str, Score], str]:
    """Returns the main score of each evaluation, and what is wrong with some of them."""
    scores: dict[str, Score] = {}
    problems, old = [], []
    for stem in evaluation_stems(path):
        try:
            evaluation = read_evaluation(path, stem)
            name, document = evaluation.metric, evaluation.document
            low, high = document["intervals"].get(name) or (None, None)
            ends = {"value": document["metrics"][name], "low": low, "high": high}
            score = Score(name, *(number(ends, key) for key in ends))
            outdated = evaluation.outdated
            scores[f"{stem} ({outdated})" if outdated else stem] = score
            old += [f"eval_{stem}.json"] if outdated else []
        except (ElasticToolError, KeyError, TypeError, ValueError) as error:
            problems.append(f"eval_{stem}.json: {error}")
    if old:
        them = "it" if len(old) == 1 else "them"
        again = f"make {them} anew, with the same options: elastictool eval {as_argument(path)}"
        problems.append(f"{', '.join(old)}: of weights that the run has no more; {again}")
    return scores, "; ".join(problems)


def differing_settings(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Returns the settings in which the runs differ: name to one value a run."""
    flats = [flat_settings(config) for config in configs]
    return {
        key: [flat[key] for flat in flats]
        for key in flats[0]
        if any(flat[key] != flats[0][key] for flat in flats)
    }


def changed_settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that are not the defaults."""
    return {key: values[0] for key, values in differing_settings([config, RunConfig()]).items()}
