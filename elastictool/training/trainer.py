"""The training loop: one for every model, data set and loss.

A run is a function of its configuration and its prepared data. Every random choice is drawn from
the seed and the epoch (samplers, masks) or from torch's generator, whose state is saved; so a run
that is interrupted and resumed ends with the same bits as one that was not (on a CPU).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elastictool.config import RunConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.loader import load_batches
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.errors import Interrupted
from elastictool.metrics.classification import classification_metrics
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.progress import SILENT, Progress
from elastictool.training.averaging import Averages
from elastictool.training.checkpoint import (
    front_end_of,
    load_training_state,
    save_training_state,
    save_weights,
)
from elastictool.training.compilation import compile_blocks, warm_up
from elastictool.training.distillation import load_teacher
from elastictool.training.objective import check_finite, clip_losses
from elastictool.training.optimizer import build_optimizer, clip_gradients, set_rates
from elastictool.training.parameter_groups import freeze
from elastictool.training.resolve import pick_device, resolve
from elastictool.training.rundir import RunDirectory
from elastictool.training.schedule import lr_factor
from elastictool.training.scoring import autocast, score_clips
from elastictool.training.stopping import StopRequest
from elastictool.training.tensorboard import mirrored
from elastictool.training.thresholds import ChosenThresholds


@dataclass
class TrainingState:
    """Where a run is; saved with the weights, so that it continues exactly.

    ``batch`` counts the batches of ``epoch`` already used, ``loss_sum`` and ``clips`` add up over
    them for the epoch's mean loss. ``lr`` and ``grad_norm`` are those of the last step.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    views: int = 0
    tokens: int = 0
    slots: int = 0
    cut_frames: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = -1


@dataclass
class TrainResult:
    """What a finished run has to say.

    Attributes:
        run: The run directory.
        epochs: Epochs trained.
        best_epoch: Epoch of the best checkpoint, -1 without validation.
        validation: Last validation metrics; empty without validation clips.
        averaged: Those of the mean of epochs, if this session finished it.
        seconds: Training time over all sessions of the run, validation excluded.
    """

    run: Path
    epochs: int
    best_epoch: int
    validation: dict[str, float] = field(default_factory=dict)
    averaged: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Trainer:
    """Trains one run into one run directory.

    Args:
        config: The run; what the data decides may be left open.
        store: The prepared clips.
        run: An open run directory.
        progress: Where to show bars.
    """

    def __init__(
        self,
        config: RunConfig,
        store: PreparedStore,
        run: RunDirectory,
        progress: Progress = SILENT,
    ) -> None:
        self.config, self.splits = resolve(config, store)
        self.store, self.run, self.progress = store, run, progress
        torch.manual_seed(self.config.seed)
        self.device = torch.device(pick_device(self.config.train.device))
        self.model = SpectrogramTransformer(self.config.model, self.config.train.attention)
        self.model.to(self.device)
        freeze(self.model, self.config.train.freeze)
        self.averages = Averages(self.model, self.config.train)
        self.optimizer = build_optimizer(self.model, self.config)
        self.state = TrainingState()
        self.thresholds: ChosenThresholds | None = None
        self.averaged: dict[str, float] = {}
        self.front_end = front_end_of(self.config)
        cache_mb = self.config.train.cache_mb
        self.train_set = ClipDataset(
            store, self.front_end, self.config.augment, self.config.seed, cache_mb
        )
        self.eval_set = ClipDataset(store, self.front_end, cache_mb=cache_mb)
        self.sampler = TrainingSampler.of_run(self.config, self.train_set, self.splits.train)
        self.teacher = load_teacher(self.config, store, str(self.device))

    def fit(self) -> TrainResult:
        """Train to the last epoch, or continue from where the run directory stands.

        Raises:
            Interrupted: The user stopped it; the state is saved and ``--resume`` goes on.
        """
        config = self.config.train
        batches = [self.sampler.num_batches(epoch) for epoch in range(config.epochs)]
        total_steps = sum(-(-count // config.accumulate) for count in batches)
        validation: dict[str, float] = {}
        if self.state.step == 0:
            self.averages.start()
        if config.compile:
            self._compile()
        with StopRequest() as stop, mirrored(self.run) if config.tensorboard else nullcontext():
            while self.state.epoch < config.epochs:
                self._train_epoch(batches[self.state.epoch], total_steps, stop)
                validation = self._finish_epoch()
        return TrainResult(
            run=self.run.path,
            epochs=config.epochs,
            best_epoch=self.state.best_epoch,
            validation=validation,
            averaged=self.averaged,
            seconds=self.state.seconds,
        )

    def resume(self) -> None:
        """Take up the saved state of the run directory.

        Raises:
            CheckpointError: There is none, it is damaged, or belongs to another model.
        """
        saved = load_training_state(self.run.training_state)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = TrainingState(**saved["state"])
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        self.averages.load_state_dict(saved.get("averages", self.averages.state_dict()))
        self.run.truncate_metrics(self.state.step, self.state.epoch)

    def _compile(self) -> None:
        """Compile on the first batch of the run, wherever the run stands."""
        self.progress.say("compiling the encoder")
        compile_blocks(self.model)
        first = islice(self.sampler.epoch(0), 1)
        for batch in self._load(first):
            warm_up(self.model, batch, self.config.train.precision, len(self.splits.validation) > 0)

    def _train_epoch(self, num_batches: int, total_steps: int, stop: StopRequest) -> None:
        self.model.train()
        self.thresholds = None  # those of the last validation belong to other weights from here
        plans = islice(self.sampler.epoch(self.state.epoch), self.state.batch, None)
        title = f"epoch {self.state.epoch + 1}/{self.config.train.epochs}"
        with self.progress.task(title, num_batches - self.state.batch) as bar:
            for micro_plans, batches in self._steps(plans):
                started = time.perf_counter()
                loss = self._step(micro_plans, batches, total_steps)
                self.state.seconds += time.perf_counter() - started
                bar.advance(len(micro_plans), f"loss {loss:.3f}")
                self._after_step(loss, stop)

    def _steps(
        self, plans: Iterator[BatchPlan]
    ) -> Iterator[tuple[list[BatchPlan], list[PackedBatch]]]:
        """Batches in groups of ``accumulate``, with their plans."""
        config = self.config.train
        waiting: list[BatchPlan] = []

        def noted() -> Iterator[BatchPlan]:
            for plan in plans:
                waiting.append(plan)
                yield plan

        batches = self._load(noted(), config.loader_workers)
        while group := list(islice(batches, config.accumulate)):
            taken = [waiting.pop(0) for _ in group]
            yield taken, group

    def _load(self, plans: Iterator[BatchPlan], workers: int = 0) -> Iterator[PackedBatch]:
        padded_rows = ATTENTION[self.model.attention].padded_rows
        prefix_tokens = self.config.model.prefix_tokens
        companion = self.teacher.cut if self.teacher else None
        return load_batches(plans, self.train_set, prefix_tokens, padded_rows, workers, companion)

    def _step(self, plans: list[BatchPlan], batches: list[PackedBatch], total_steps: int) -> float:
        """One optimiser step over one or several batches; returns the mean loss of a view."""
        config, state = self.config.train, self.state
        state.lr = config.lr * lr_factor(config.schedule, state.step, total_steps, state.epoch)
        set_rates(self.optimizer, state.lr)
        views = sum(plan.num_views for plan in plans)
        loss_sum = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            batch = batch.to(self.device, non_blocking=True)
            loss = self._clip_losses(batch).sum()
            check_finite(loss, batch.clip_ids)
            (loss / views).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
            state.tokens += batch.layout.num_tokens
            state.slots += batch.layout.num_slots
            state.cut_frames += batch.cut_frames
        state.grad_norm = clip_gradients(self.optimizer, config.clip_norm)
        self.optimizer.step()
        state.step += 1
        self.averages.after_step(state.step)
        state.batch += len(plans)
        state.loss_sum += loss_sum
        state.views += views
        return loss_sum / views

    def _clip_losses(self, batch: PackedBatch) -> Tensor:
        """(S,) loss of each clip: against its labels, and against the teacher if there is one."""
        with autocast(self.device, self.config.train.precision):
            logits = self.model(batch)
            taught = None if self.teacher is None else self.teacher.logits(batch)
        losses = clip_losses(logits.float(), batch.targets, self.config)
        if self.teacher is None or taught is None:
            return losses
        return self.teacher.losses(logits.float(), taught.float(), losses)

    def _after_step(self, loss: float, stop: StopRequest) -> None:
        state, every = self.state, self.config.train.checkpoint_steps
        record = {"kind": "step", "step": state.step, "loss": loss, "lr": state.lr}
        self.run.log(record | {"grad_norm": state.grad_norm})
        if stop.requested:
            self._save()
            raise Interrupted(
                f"stopped at epoch {self.state.epoch + 1}, step {self.state.step}; "
                f"everything is saved in {self.run.path}",
                f"continue with: elastictool train --resume --run-dir {self.run.path}",
            )
        if every and self.state.step % every == 0:
            self._save()

    def _finish_epoch(self) -> dict[str, float]:
        """Validate, log, keep the best, and move to the next epoch."""
        state, last = self.state, self.state.epoch + 1 == self.config.train.epochs
        validation: dict[str, float] = {}
        if len(self.splits.validation) and (
            last or (state.epoch + 1) % self.config.train.validate_every == 0
        ):
            validation = self._validate(self.averages.evaluated)
        record = {
            "kind": "epoch",
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.views),
            "lr": state.lr,
            "tokens": state.tokens,
            "padding_share": 1 - state.tokens / max(1, state.slots),
            "cut_frames": state.cut_frames,
            "seconds": round(state.seconds, 3),
            "selection_metric": self._selection_metric(),
            **{f"val_{name}": value for name, value in validation.items()},
        }
        self.run.log(record)
        self.progress.say(_epoch_line(record, self.config.train.epochs))
        self._keep_best(validation)
        self._average_epochs()
        self.state = TrainingState(
            epoch=state.epoch + 1,
            step=state.step,
            seconds=state.seconds,
            best_score=state.best_score,
            best_epoch=state.best_epoch,
        )
        self._save()
        return validation

    def _keep_best(self, validation: dict[str, float]) -> None:
        """Best is chosen by validation only; without it, the last epoch is all there is."""
        state = self.state
        if not validation and state.best_epoch >= 0:
            return  # an epoch that was not validated is no better than one that was
        score = validation.get(self._selection_metric())
        if score is not None:
            if score <= state.best_score:
                return
            state.best_score, state.best_epoch = score, state.epoch + 1
        self._save_weights(self.run.best_weights, self.averages.evaluated, validation)
        if self.thresholds is not None:
            self.thresholds.write(self.run.thresholds, self.store.info.label_names)

    def _average_epochs(self) -> None:
        """Write and score the mean of ``train.average_epochs``, after the last of them."""
        epoch = self.state.epoch + 1
        model = self.averages.after_epoch(epoch)
        if model is None:
            return
        of_epoch = self.thresholds
        self.averaged = self._validate(model) if len(self.splits.validation) else {}
        self._save_weights(self.run.averaged_weights, model, self.averaged)
        self.thresholds = of_epoch
        scores = {f"val_{name}": value for name, value in self.averaged.items()}
        record = {"kind": "averaged", "epoch": epoch, "step": self.state.step, **scores}
        self.run.log(record)
        self.progress.say(_averaged_line(record, self.config.train.average_epochs))

    def _validate(self, model: SpectrogramTransformer) -> dict[str, float]:
        scores = score_clips(
            model,
            self.eval_set,
            self.splits.validation,
            self.config.train.precision,
            workers=self.config.train.loader_workers,
        )
        losses = clip_losses(
            torch.from_numpy(scores.logits), torch.from_numpy(scores.targets), self.config
        )
        metrics = classification_metrics(scores.logits, scores.targets)
        if self.store.info.multi_label:
            self.thresholds = ChosenThresholds.choose(scores, self.config.train.loss)
        values = {
            "loss": float(losses.mean()),
            "top1": metrics.values["top1"],
            "map": metrics.values["map"],
        }
        # Without any labelled clip, or any class to rank, a metric is NaN: there is no such value.
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _selection_metric(self) -> str:
        chosen = self.config.train.selection_metric
        if chosen != "auto":
            return chosen
        return "map" if self.store.info.multi_label else "top1"

    def _save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": dataclasses.asdict(self.state),
            "averages": self.averages.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        save_training_state(self.run.training_state, state)
        self._save_weights(self.run.last_weights, self.averages.evaluated, {})

    def _save_weights(
        self, path: Path, model: SpectrogramTransformer, validation: dict[str, float]
    ) -> None:
        save_weights(
            path,
            model,
            self.config,
            self.store.info.label_names,
            self.store.info.multi_label,
            {"epoch": self.state.epoch + 1, "step": self.state.step, **validation},
            () if self.thresholds is None else self.thresholds.values.tolist(),
        )


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {record['epoch']}/{epochs}", f"train loss {record['train_loss']:.4f}"]
    return ", ".join([*parts, *_validation_parts(record)])


def _averaged_line(record: dict[str, Any], epochs: tuple[int, int]) -> str:
    head = f"mean of the weights of epochs {epochs[0]} to {epochs[1]}"
    return ", ".join([head, *_validation_parts(record)])


def _validation_parts(record: dict[str, Any]) -> list[str]:
    forms = {
        "val_loss": "val loss {:.4f}",
        "val_top1": "val top-1 {:.1%}",
        "val_map": "val mAP {:.3f}",
    }
    return [form.format(record[name]) for name, form in forms.items() if name in record]
