"""Start, resume and describe runs: what ``elastictool train`` and the recipes call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from elastictool.checkpoint.find import RUNS_ROOT, find_run
from elastictool.checkpoint.run_directory import RunDirectory, is_locked, lock_run
from elastictool.checkpoint.weights import feature_extractor_of
from elastictool.config import RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.conflicts import notes
from elastictool.data.dataset import ClipDataset
from elastictool.data.paths import find_recorded_dataset
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.splits import how_to_set_aside, validation_warnings
from elastictool.data.store import PreparedStore
from elastictool.pretrained.importer import Imported
from elastictool.training.distillation import load_teacher
from elastictool.training.distributed import Ranks, init_distributed
from elastictool.training.initial_weights import (
    leak_notes,
    read_initial,
    start_from,
)
from elastictool.training.nonfinite import no_finite_step
from elastictool.training.resuming import check_epochs, own_config, require_unedited
from elastictool.training.setup import device_of, resolve
from elastictool.training.state import Counters, TrainResult, load_training_state
from elastictool.training.tensorboard import mirrored
from elastictool.training.trainer import Trainer
from elastictool.utils.errors import CheckpointError, Interrupted, UsageError
from elastictool.utils.launch import launched
from elastictool.utils.progress import SILENT, Progress

_COUNTED_EPOCHS = 100
"""Epochs of which a dry run plans all batches where their numbers differ."""


def default_run_dir(config: RunConfig, store: PreparedStore) -> Path:
    """Returns ``runs/NAME``; a configuration without a name gets one from data and model."""
    return RUNS_ROOT / (config.name or f"{store.info.name}-{config.model.preset}")


def train_run(
    config: RunConfig,
    store: PreparedStore,
    path: Path,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:
    """Trains ``config`` on ``store`` into the run directory ``path``.

    Raises:
        UsageError: The directory is not empty, or configuration and data do not fit.
        Interrupted: The user stopped it; ``resume_run`` continues.
    """
    with init_distributed(device_of(config.train)) as ranks:
        run, progress = _for_rank(path, progress, ranks)
        if run.writes:
            run.require_free(overwrite)
        config, weights = read_initial(_with_names(config, store, path), store)
        _require_sources_elsewhere(path, config, weights)
        # Before the directory is touched: a wrong setting deletes nothing.
        trainer = Trainer(config, store, run, progress, ranks)
        _check_warmup(trainer.config, trainer.batches.sampler)
        run.create(overwrite)
        with _locked(run), _deleted_on_failure(run):
            run.write_config(trainer.config, store.info.fingerprint)
            start_from(weights, trainer.model, config, run, progress)
            drawn = validation_warnings(store, trainer.config.data, trainer.splits)
            leaks = leak_notes(weights, store, trainer.splits)
            _log_start(trainer, [*notes(config), *drawn, *leaks])
            return _fit(trainer)


def resume_run(
    path: Path,
    store: PreparedStore,
    progress: Progress = SILENT,
    settings: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Continues an interrupted run with the configuration that it was started with.

    Args:
        path: The run.
        store: The data that it was started on.
        progress: Where to show bars.
        settings: What the user asks for, nested as in a recipe: the run's own settings, those of
            another machine, or more epochs where the schedule allows them.

    Raises:
        CheckpointError: There is no run, its configuration was changed, or the data are not those
            of the run.
        UsageError: The run has other settings than those asked for.
    """
    config = own_config(path, settings or {})
    with init_distributed(device_of(config.train)) as ranks:
        run, progress = _for_rank(path, progress, ranks)
        known = run.read_fingerprint()
        if known and known != store.info.fingerprint:
            raise CheckpointError(
                f"{run.path} was trained on other data than {store.path} (the fingerprints differ)",
                "give the run's own data with --dataset, or start anew with --overwrite",
            )
        if finished := _finished(run, config):
            return finished
        with _locked(run):
            saved = load_training_state(run.training_state) if run.was_saved() else {}
            before = saved["config"] if saved else to_dict(run.read_config())
            require_unedited(run, before, config)
            if find_recorded_dataset(config.data.dataset, path) is None:  # the data have moved
                config = _with_names(config, store, path)
            trainer = Trainer(config, store, run, progress, ranks)
            if saved:
                trainer.resume(saved)
                saved = {}  # frees as much memory as model and optimiser take
            else:  # stopped before its first checkpoint: it starts again, from the same weights
                run.clean_up(step=0, epochs=0)
                _, weights = read_initial(config, store)
                start_from(weights, trainer.model, config, run, progress)
            step, total = trainer.state.step, trainer.batches.total_steps
            longer = check_epochs(run, before, config, step, total)
            if trainer.config != run.read_config():
                run.write_config(trainer.config, store.info.fingerprint)
            run.write_environment(store.info.fingerprint)
            if not trainer.is_finished:
                _log_start(trainer, [longer] if longer else [])
            return _fit(trainer)


def _finished(run: RunDirectory, config: RunConfig) -> TrainResult | None:
    """Returns the result of a run that has no epoch left, without touching it; else None.

    Raises:
        CheckpointError: Its state is damaged, or its configuration was changed.
        ElasticToolError: None of its steps could be taken.
    """
    if is_locked(run.path) or not run.training_state.exists():
        return None
    saved = load_training_state(run.training_state)
    epochs, state = config.train.epochs, Counters(**saved["state"])
    if state.epoch < epochs or epochs != saved["config"]["train"]["epochs"]:
        return None
    require_unedited(run, saved["config"], config)
    if state.skipped_in_a_row == state.step:
        raise no_finite_step(state.step)
    return TrainResult(
        run.path, epochs, state.best_epoch, seconds=state.total_seconds, was_finished=True
    )


def _fit(trainer: Trainer) -> TrainResult:
    """Trains to the end, with a copy of the log for TensorBoard where the settings ask for it."""
    run = trainer.run
    copies = trainer.config.train.tensorboard and run.writes
    with mirrored(run) if copies else nullcontext():
        return trainer.fit()


def _log_start(trainer: Trainer, notes: Sequence[str]) -> None:
    """Logs clips, model and device; warns where nothing is validated."""
    config, splits, state = trainer.config, trainer.splits, trainer.state
    sizes = [(value.numel(), value.requires_grad) for value in trainer.model.parameters()]
    total, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    learns = "" if learning == total else f" ({learning:,} learn)"
    trainer.progress.log(
        f"training on {len(splits.train):,} clips of {config.model.num_classes} classes, "
        f"validating on {len(splits.validation):,}, {len(splits.test):,} to test; "
        f"{total:,} parameters{learns}; {trainer.device}, {config.train.precision}"
    )
    if not len(splits.validation):
        trainer.progress.log(
            "warning: without validation clips the last epoch counts as the best; "
            "--set data.validation_fraction=0.1 takes a part of the training clips"
        )
    if not len(splits.test) and trainer.store.folds.any():
        aside = how_to_set_aside(trainer.store)
        trainer.progress.log(f"warning: all folds are trained on, none is left to test: {aside}")
    if state.step:
        at = f"epoch {state.epoch + 1}, step {state.step}"
        trainer.progress.log(f"continuing at {at} of {trainer.batches.total_steps}")
    for note in notes:
        trainer.progress.log(f"note: {note}")


def _for_rank(path: Path, progress: Progress, ranks: Ranks) -> tuple[RunDirectory, Progress]:
    """Returns log and progress of this process: only the main one writes and shows bars."""
    return RunDirectory(path, writes=ranks.is_main), progress if ranks.is_main else SILENT


@contextmanager
def _deleted_on_failure(run: RunDirectory) -> Iterator[None]:
    """Deletes a run that fails before its first step, so that the next attempt can start there."""
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        run.give_up()
        raise


def _locked(run: RunDirectory) -> AbstractContextManager[None]:
    return lock_run(run.path) if run.writes else nullcontext()


def _require_sources_elsewhere(path: Path, config: RunConfig, weights: Imported | None) -> None:
    """Refuses to delete the weights that a run starts from, or its teacher."""
    sources = (
        {"holds the weights that this run starts from": weights.report.file} if weights else {}
    )
    if config.train.distill.teacher:
        sources["is the teacher of this run"] = str(find_run(config.train.distill.teacher))
    for what, source in sources.items():
        if Path(source).resolve().is_relative_to(path.resolve()):
            raise UsageError(
                f"{path} {what} and would be written over", "--run-dir names another directory"
            )


def _with_names(config: RunConfig, store: PreparedStore, path: Path) -> RunConfig:
    data = dataclasses.replace(config.data, dataset=str(store.path))
    return dataclasses.replace(config, name=config.name or path.name, data=data)


def describe(config: RunConfig, store: PreparedStore) -> dict[str, Any]:
    """Describes what a run would do, without doing it: clips, tokens, steps, and notes.

    Under torchrun, also ``token_imbalance``: how much longer an epoch is than it would be if all
    processes had the same tokens in each step.

    Raises:
        UsageError: Configuration and data do not fit.
    """
    config, weights = read_initial(config, store)
    resolved, splits = resolve(config, store)
    dataset = ClipDataset(store, feature_extractor_of(resolved))
    sampler = TrainingSampler.of_run(resolved, dataset, splits.train)
    load_teacher(resolved, store, "cpu")
    _check_warmup(resolved, sampler)
    plans = list(sampler.epoch(0))
    epochs = resolved.train.epochs
    counted = min(epochs, _COUNTED_EPOCHS) if resolved.packing.batch_tokens else epochs
    steps = sampler.num_steps(sampler.epoch_batches(counted))
    estimate = (
        f"optimizer_steps is an estimate from the first {counted} epochs: with a budget of tokens "
        "each epoch has another number of batches"
    )
    limit, native = dataset.feature_extractor.length, dataset.native_frames[splits.train]
    beyond = np.maximum(native - limit.most_frames, 0)
    cut: dict[str, Any] = {}
    if beyond.any():
        key = "fixed_frames" if limit.fixed_frames else "max_frames"
        cut = {
            "cut_clips": int((beyond > 0).sum()),
            "cut_frames_share": round(float(beyond.sum() / native.sum()), 4),
            "cut_by": f"length.{key}={getattr(limit, key)}",
        }
    return {
        "dataset": str(store.path),
        "train_clips": len(splits.train),
        "validation_clips": len(splits.validation),
        "test_clips": len(splits.test),
        "classes": resolved.model.num_classes,
        "batches_per_epoch": len(plans),
        "tokens_per_epoch": sum(sum(sampler.tokens_of(plan)) for plan in plans),
        "epochs": epochs,
        **cut,
        "optimizer_steps": steps if counted == epochs else round(steps * epochs / counted),
        **_rank_balance(launched().world, sampler, plans),
        "notes": [
            *notes(resolved),
            *validation_warnings(store, resolved.data, splits),
            *leak_notes(weights, store, splits),
            *([estimate] if counted < epochs else []),
        ],
    }


def _check_warmup(config: RunConfig, sampler: TrainingSampler) -> None:
    """Refuses a warm-up longer than training, in which the rate never reaches ``train.lr``.

    Epochs are counted only as far as needed: with a token budget each must be planned first.
    """
    train = config.train
    wanted = train.schedule.warmup_steps
    if wanted < 1:  # a share of all steps
        return
    steps = 0
    for epoch in range(train.epochs):
        steps += -(-sampler.num_batches(epoch) // train.accumulate)
        if steps >= wanted:
            return
    raise UsageError(
        f"train.schedule.warmup_steps = {wanted:g} is longer than the whole training of {steps} "
        "steps",
        "take fewer, or a share of all steps (train.schedule.warmup_steps=0.1)",
    )


def _rank_balance(
    processes: int, sampler: TrainingSampler, plans: Sequence[BatchPlan]
) -> dict[str, Any]:
    """Measures how evenly several processes share the steps made of ``plans``."""
    if processes == 1:
        return {}
    slowest = total = 0
    for start in range(0, len(plans), sampler.batches_per_step):
        step = plans[start : start + sampler.batches_per_step]
        shares = sampler.shares(step, processes)
        loads = [sum(sum(sampler.tokens_of(plan)) for plan in share) for share in shares]
        slowest, total = slowest + max(loads), total + sum(loads)
    return {"processes": processes, "token_imbalance": round(slowest * processes / total - 1, 4)}
