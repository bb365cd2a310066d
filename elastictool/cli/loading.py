"""Find and open the runs and data that a command names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import log
from elastictool.cli.options import BudgetOptions, ModelOptions

if TYPE_CHECKING:
    from elastictool.checkpoint.weights import LoadedRun
    from elastictool.data.store import PreparedStore
    from elastictool.inference.model import ElasticModel
    from elastictool.reporting.runs import RunSummary


def locate_run(text: str, trained: bool = True) -> Path:
    """Returns a run directory or checkpoint file, a run by its name, or the latest run.

    Args:
        text: What the user names; without it, the latest finished run is taken, or the latest.
        trained: Runs without weights do not count as the latest.

    Raises:
        UsageError: There is no such run.
    """
    from elastictool.checkpoint.find import find_run, latest_runs

    if text:
        return find_run(text)
    from elastictool.reporting.runs import summarise

    paths = latest_runs(trained)
    summaries = map(summarise, paths)
    finished = next((run for run in summaries if run.state == "finished"), None)
    chosen = finished or summarise(paths[0])
    log(f"latest run: {chosen.path} ({_described(chosen)})")
    return Path(chosen.path)


def _described(run: RunSummary) -> str:
    """Returns state, date and score of a run: ``finished 2026-12-01 14:30, test top-1 93.3 %``."""
    from elastictool.reporting.tables import score_text

    when = datetime.fromisoformat(run.updated).astimezone()
    value, metric = (run.test.value, run.test.metric) if run.test else (run.best, run.metric)
    part = "test" if run.test else "validation"
    score = "" if value is None else f", {part} {score_text(metric, value)}"
    return f"{run.state} {when:%Y-%m-%d %H:%M}{score}"


def open_run(path: Path, options: ModelOptions, **overrides: Any) -> LoadedRun:
    """Returns a run under the name of its folder, also where the folder was renamed."""
    from elastictool.checkpoint.weights import load_run
    from elastictool.training.setup import pick_device

    device = pick_device(options.device)
    loaded = load_run(path, options.which, options.attention, device, **overrides)
    name = path.resolve().name if path.is_dir() else loaded.name
    loaded = dataclasses.replace(loaded, name=name)
    if isinstance(options, BudgetOptions):
        return loaded.with_tokens(options.patch_size, options.resolution)
    return loaded


def open_model(run: str, options: BudgetOptions) -> ElasticModel:
    """Returns the model that a command's options name."""
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import rounded_down

    path = locate_run(run)
    model = ElasticModel(open_run(path, options), options.precision)
    log(f"model: {path}, up to {rounded_down(model.longest_s, 1)} s in one piece")
    return model


def results_folder(path: Path) -> Path:
    """Returns the folder for results of a run: its own, or one next to a weights file."""
    return path if path.is_dir() else path.with_name(f"{path.stem}_eval")


def open_dataset(name: str) -> PreparedStore:
    """Returns prepared data by folder or name (the latest without one), and prints which."""
    from elastictool.data.paths import find_dataset
    from elastictool.data.store import PreparedStore

    store = PreparedStore.open(find_dataset(name))
    log(f"dataset {store.path}")
    return store


def open_data(dataset: str, run: LoadedRun) -> PreparedStore:
    """Returns the named data, else the run's own; the latest for a model that names none.

    Data whose classes are all among the run's have these, in its order.

    Raises:
        UsageError: They are not there. Other data are never taken without asking, because their
            scores would pass for the run's.
    """
    from elastictool.data.paths import find_dataset, require_recorded_dataset
    from elastictool.data.store import PreparedStore

    own = run.config.data.dataset
    named = bool(dataset or not own)
    path = find_dataset(dataset) if named else require_recorded_dataset(own, run.path, run.name)
    store = PreparedStore.open(path)
    found, known = store.info.label_names, list(run.label_names)
    if found == known or not set(found) <= set(known):
        return store
    log(f"note: the classes of {path} are {len(found)} of the run's {len(known)}, found by name")
    return store.with_classes(known)


def note_other_data(runs: Sequence[LoadedRun], store: PreparedStore) -> None:
    """Prints, before anything is scored, which runs were trained on other data."""
    from elastictool.evaluation.run_data import same_data

    for run in runs:
        if same_data(run, store) is False:
            log(f"note: {store.path} is not the data that {run.name} was trained on")
