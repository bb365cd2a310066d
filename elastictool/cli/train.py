"""``elastictool train``: from a prepared dataset to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import log, print_json, print_table, progress
from elastictool.utils.io import as_argument

if TYPE_CHECKING:
    from elastictool.config import RunConfig
    from elastictool.training.state import TrainResult


def train(
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", "-r", help="Settings: a YAML file, or a name such as small_data."),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Prepared folder, or its name under data/."),
    ] = "",
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run goes; by default runs/NAME.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="One setting, e.g. train.lr=1e-4; repeatable. "
            "Lists in quotes: 'flexi.sizes=[8,16]'.",
        ),
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="Attention backend: auto, reference, split, varlen or flex.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run where it was stopped.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a former run in the same place.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, count steps and tokens, stop.")
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            help="Print all settings and what they mean as YAML (with --json as JSON), stop.",
        ),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout.")
    ] = False,
) -> None:
    """Train a model on a prepared dataset.

    Defaults < recipe < --set. The run directory holds settings, metrics.jsonl, checkpoints,
    learning curves and report.html, and is never overwritten unasked. Ctrl-C saves and stops;
    --resume continues to the same bits. Several processes share a run under torchrun:
    torchrun --nproc-per-node 2 -m elastictool train …

    Example: elastictool train --dataset synth --recipe small_data --set train.epochs=5
    """
    from elastictool.config.loader import read_settings, run_config
    from elastictool.config.recipe_file import training_recipe
    from elastictool.utils.launch import launched

    named = {"train.attention": attention, "train.precision": precision, "seed": seed}
    flags = [f"{key}={value}" for key, value in named.items() if value is not None]
    settings = read_settings(recipe and training_recipe(recipe), [*(sets or []), *flags])
    config = run_config(settings, complete=not resume)
    if (print_config or dry_run) and not launched().is_main:
        return
    if print_config:
        _print_config(config, json_output)
        return

    from elastictool.checkpoint.find import latest_started
    from elastictool.checkpoint.run_directory import RunDirectory
    from elastictool.data.paths import find_dataset, require_recorded_dataset
    from elastictool.data.store import PreparedStore
    from elastictool.reporting.run_report import write_report
    from elastictool.reporting.tables import counted
    from elastictool.training.resuming import own_config
    from elastictool.training.run import (
        default_run_dir,
        describe,
        resume_run,
        train_run,
    )
    from elastictool.utils.errors import UsageError

    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite deletes it", "choose one")
    place = None
    if resume:
        run_dir = run_dir or (None if dataset or config.name else latest_started())
        if run_dir is not None and not dataset:
            own = RunDirectory(run_dir).read_config().data.dataset
            place = require_recorded_dataset(own, run_dir, str(run_dir))
    store = PreparedStore.open(place or find_dataset(dataset or config.data.dataset))
    path = run_dir or default_run_dir(config, store)
    log(f"dataset {store.path}, run {path}")
    files: list[Path] = []
    if dry_run:
        report = describe(own_config(path, settings) if resume else config, store)
    else:
        result = (
            resume_run(path, store, progress(), settings)
            if resume
            else train_run(config, store, path, overwrite, progress())
        )
        config = RunDirectory(path).read_config()  # of a resumed run: not what was typed
        report = _report(result)
        if not launched().is_main:
            return
        files = write_report(result.run)
    if json_output:
        print_json(report)
        return
    notes = report.pop("notes", [])
    print_table(f"train {path}", ["what", "value"], list(report.items()))
    for note in notes:
        log(f"note: {note}")
    for file in files:
        log(f"wrote {file}")
    if not dry_run:
        if result.was_finished:
            epochs = counted(result.epochs, "epoch")
            log(f"{path} was finished before, after {epochs}: nothing was trained")
        told = as_argument(path)
        sweep = " ".join(filter(None, ("elastictool sweep", told, _axis(config))))
        log(f"next: elastictool eval {told}, {sweep}")


def _report(result: TrainResult) -> dict[str, Any]:
    """What a run says when it is done."""
    return {
        "run": str(result.run),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch if result.best_epoch > 0 else None,
        "seconds": round(result.seconds, 1),
        **{f"last_val_{name}": round(value, 4) for name, value in result.validation.items()},
        **{f"averaged_{name}": round(value, 4) for name, value in result.averaged.items()},
    }


def _print_config(config: RunConfig, as_json: bool) -> None:
    """All settings: as YAML with what they mean, or as JSON."""
    from elastictool.config.coerce import to_dict
    from elastictool.reporting.settings import commented_yaml

    if as_json:
        print_json(to_dict(config))
    else:
        typer.echo(commented_yaml(config), nl=False)


def _axis(config: RunConfig) -> str:
    """Options of the sweep that shows what the run was trained for; none for lengths."""
    resolution = config.augment.resolution
    if config.flexi.sizes:
        return "--patch-sizes 8:48:8"
    if not resolution.compressions:
        return ""
    if resolution.reduction == "shift":
        return "--resolutions 1:4:0.2"
    return f"--pooling 1,2,3,4 --pooling-kind {resolution.reduction}"
