"""``elastictool train``: train a model on a prepared dataset into a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import log, log_lines, print_json, print_table, progress
from elastictool.cli.options import (
    JsonOption,
    LatestDatasetOption,
    OptionalAttentionOption,
    OptionalPrecisionOption,
    SetsOption,
    grouped,
    option,
)
from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument

if TYPE_CHECKING:
    from elastictool.config import RunConfig
    from elastictool.data.store import PreparedStore
    from elastictool.training.state import TrainResult


@dataclass(frozen=True)
class RunOptions:
    """What to train, on what, and where."""

    recipe: Path | None = option(
        None, "YAML file of settings, or a recipe's name, e.g. small_data.", "--recipe", "-r"
    )
    dataset: LatestDatasetOption = ""
    run: Annotated[str, typer.Argument(help="Run to resume: a directory or a name.")] = ""
    run_dir: Path | None = option(
        None, "Run directory to write or to resume (default: runs/NAME).", "--run-dir", "--run"
    )
    sets: SetsOption = None
    attention: OptionalAttentionOption = None
    precision: OptionalPrecisionOption = None
    seed: int | None = option(None, "Seed of all random numbers.")
    resume: bool = option(False, "Continue the run where it stopped.")
    overwrite: bool = option(False, "Delete an earlier run in the same directory.")

    def settings(self) -> dict[str, Any]:
        """Returns the settings of recipe, ``--set`` and options by dotted key."""
        from elastictool.config.loader import read_settings
        from elastictool.config.recipe_file import training_recipe

        named = {
            "train.attention": self.attention,
            "train.precision": self.precision,
            "seed": self.seed,
        }
        flags = [f"{key}={value}" for key, value in named.items() if value is not None]
        recipe = self.recipe and training_recipe(self.recipe)
        return read_settings(recipe, [*(self.sets or []), *flags])


@dataclass(frozen=True)
class CheckOptions:
    """What to print instead of training."""

    dry_run: bool = option(False, "Check everything, count steps and tokens, and stop.")
    print_config: bool = option(
        False, "Print all settings with their meaning as YAML (with --json as JSON), and stop."
    )


@grouped
def train(
    options: RunOptions = RunOptions(),
    checks: CheckOptions = CheckOptions(),
    json_output: JsonOption = False,
) -> None:
    """Train a model on a prepared dataset.

    Settings: defaults < recipe < --set. The run directory holds settings, metrics.jsonl,
    checkpoints, learning curves and report.html; only --overwrite replaces a run. Ctrl-C saves and
    stops; --resume continues exactly there. Several processes share a run under torchrun:
    torchrun --nproc-per-node 2 -m elastictool train …

    Example: elastictool train --dataset synth --recipe small_data --set train.epochs=5
    """
    from elastictool.config.loader import run_config
    from elastictool.utils.launch import launched

    settings = options.settings()
    config = run_config(settings, complete=not options.resume)
    if (checks.print_config or checks.dry_run) and not launched().is_main:
        return
    if checks.print_config:
        _print_config(config, json_output)
        return

    from elastictool.checkpoint.run_directory import RunDirectory
    from elastictool.reporting.run_report import is_reported, write_report
    from elastictool.training.resuming import own_config
    from elastictool.training.run import describe, resume_run, train_run
    from elastictool.utils.text import counted

    store, path = _open(options, config)
    log(f"dataset {store.path}, run {path}")
    if checks.dry_run:
        report = describe(own_config(path, settings) if options.resume else config, store)
        _print(report, path, json_output)
        return
    if options.resume:
        result = resume_run(path, store, progress(), settings)
    else:
        result = train_run(config, store, path, options.overwrite, progress())
    if not launched().is_main:
        return
    reported = result.was_finished and is_reported(result.run)
    files = [] if reported else write_report(result.run)
    _print(_report(result), path, json_output)
    if not json_output:
        log_lines("wrote ", files)
        if result.was_finished:
            epochs = counted(result.epochs, "epoch")
            log(f"{path} was finished before, after {epochs}: nothing was trained")
        log(_next(path, RunDirectory(path).read_config(), store))


def _open(options: RunOptions, config: RunConfig) -> tuple[PreparedStore, Path]:
    """Returns the data and the run directory; a resumed run's own data, without ``--dataset``."""
    from elastictool.checkpoint.find import latest_started
    from elastictool.checkpoint.run_directory import RunDirectory
    from elastictool.data.paths import find_dataset, require_recorded_dataset
    from elastictool.data.store import PreparedStore
    from elastictool.training.run import default_run_dir

    dataset, run_dir, data_folder = options.dataset, options.run_dir, None
    if options.run and not options.resume:
        raise UsageError(
            f"{options.run!r} names a run without --resume",
            f"--dataset {as_argument(options.run)} trains on data of that name, --run-dir names "
            "the directory to write",
        )
    if options.resume:
        run_dir = _resumed(options.run or str(run_dir or "")) or run_dir
        if options.overwrite:
            raise UsageError("--resume continues a run, --overwrite deletes it", "choose one")
        run_dir = run_dir or (None if dataset or config.name else latest_started())
        if run_dir is not None and not dataset:
            recorded = RunDirectory(run_dir).read_config().data.dataset
            data_folder = require_recorded_dataset(recorded, run_dir, str(run_dir))
    store = PreparedStore.open(data_folder or find_dataset(dataset or config.data.dataset))
    return store, run_dir or default_run_dir(config, store)


def _resumed(text: str) -> Path | None:
    """Returns the directory of the run that ``text`` names, also by its name under ``runs/``."""
    from elastictool.checkpoint.find import find_run, is_run

    return (find_run(text) if is_run(text) else Path(text)) if text else None


def _print(report: dict[str, Any], path: Path, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    notes = report.pop("notes", [])
    print_table(f"train {path}", ["what", "value"], list(report.items()))
    log_lines("note: ", notes)


def _report(result: TrainResult) -> dict[str, Any]:
    """Returns what is printed at the end of a run."""
    return {
        "run": str(result.run),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch if result.best_epoch > 0 else None,
        "seconds": round(result.seconds, 1),
        **{f"last_val_{name}": round(value, 4) for name, value in result.validation.items()},
        **{f"averaged_{name}": round(value, 4) for name, value in result.averaged.items()},
    }


def _print_config(config: RunConfig, as_json: bool) -> None:
    """Prints all settings: as YAML with their meaning, or as JSON."""
    from elastictool.config.coerce import to_dict
    from elastictool.config.comments import commented_yaml

    if as_json:
        print_json(to_dict(config))
    else:
        typer.echo(commented_yaml(config, known_parts()), nl=False)


def known_parts() -> dict[str, list[str]]:
    """Returns the names in the registries that settings choose from, by setting."""
    from elastictool.checkpoint.weights import weight_formats
    from elastictool.config import SIZES
    from elastictool.config.words import MODEL_SIZE
    from elastictool.models.attention.base import ATTENTION
    from elastictool.packing.stream import known_planners

    return {
        MODEL_SIZE: list(SIZES),
        "packing.planner": known_planners(),
        "train.attention": list(ATTENTION),
        "init.from": weight_formats(),
    }


def _next(path: Path, config: RunConfig, store: PreparedStore) -> str:
    """Returns the line that names the next commands, which work on the clips that are left."""
    from elastictool.data.splits import how_to_set_aside, select_clips

    run, axis = as_argument(path), _axis(config)
    splits = select_clips(store, config.data, config.seed)
    part = next((name for name in ("test", "validation") if len(splits[name])), None)
    if part is None:
        return f"no clip is left to test; a run sets some aside with {how_to_set_aside(store)}"
    option = "" if part == "test" else f" --split {part}"
    return f"next: elastictool eval {run}{option}, elastictool sweep {run} {axis}".rstrip() + option


def _axis(config: RunConfig) -> str:
    """Returns options of the sweep over what the run was trained for; none for lengths."""
    resolution = config.augment.resolution
    if config.flexi.sizes:
        return "--patch-sizes 8:48:8"
    if not resolution.compressions:
        return ""
    if resolution.reduction == "shift":
        return "--resolutions 1:4:0.2"
    return f"--pooling 1,2,3,4 --pooling-kind {resolution.reduction}"
