"""The training loop: one for every model, data set and loss.

A run is a function of its configuration and its prepared data. Every random choice is drawn from
the seed and the epoch (samplers, masks) or from torch's generator, whose state is saved. So a run
that is interrupted and resumed ends with the same bits as one that was not (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elastictool.checkpoint.metadata import WeightsMetadata
from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import save_weights
from elastictool.config import RunConfig
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.training.averaging import Averages
from elastictool.training.batches import RunBatches, StepBatches
from elastictool.training.compilation import compile_blocks, warm_up
from elastictool.training.distillation import load_teacher
from elastictool.training.distributed import SINGLE, Ranks
from elastictool.training.interrupts import memory_hint, report_oom, save_on_exit
from elastictool.training.losses import clip_losses
from elastictool.training.nonfinite import (
    check_weights,
    explain_nonfinite,
    no_finite_step,
    too_many,
    worst_step,
)
from elastictool.training.optimizer import build_optimizer, clip_gradients, freeze, set_rates
from elastictool.training.predict_logits import autocast, score_clips
from elastictool.training.schedule import lr_factor
from elastictool.training.setup import device_of, resolve
from elastictool.training.state import (
    Counters,
    TrainResult,
    TrainState,
    epoch_line,
    save_training_state,
    validation_parts,
)
from elastictool.training.validation import ChosenThresholds, selection_metric, validation_metrics
from elastictool.utils.heap import trim_heap
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.signals import Stopped, StopRequest

TRIM_STEPS = 8
"""Steps after which free memory returns to the system: at every step it would cost a quarter of the
time of a narrow model, at every eighth a hundredth."""


class Trainer:
    """Trains one run into one run directory.

    Args:
        config: The run; what the data decides may be left open.
        store: The prepared clips.
        run: An open run directory.
        progress: Where to show bars.
        ranks: The processes that share the run.
    """

    def __init__(
        self,
        config: RunConfig,
        store: PreparedStore,
        run: RunDirectory,
        progress: Progress = SILENT,
        ranks: Ranks = SINGLE,
    ) -> None:
        self.config, self.splits = resolve(config, store)
        self.store, self.run, self.progress, self.ranks = store, run, progress, ranks
        train = self.config.train
        torch.manual_seed(self.config.seed)
        self.device = torch.device(device_of(train))
        self.model = SpectrogramTransformer(self.config.model, train.attention).to(self.device)
        freeze(self.model, train.freeze)
        self.averages = Averages(self.model, train)
        self.optimizer = build_optimizer(self.model, self.config)
        self.train_state = TrainState(
            self.model, self.optimizer, self.averages, self.device, self.config
        )
        self.teacher = load_teacher(self.config, store, str(self.device))
        wanted = self.teacher.spec if self.teacher else None
        attention = self.model.attention
        self.batches = RunBatches(
            self.config, store, self.splits, self.device, attention, wanted, ranks
        )
        self.selection_metric = selection_metric(self.config, store.info.multi_label)
        self.stop = StopRequest()
        self.thresholds: ChosenThresholds | None = None
        self.averaged: dict[str, float] = {}

    @property
    def state(self) -> Counters:
        """Where the run is."""
        return self.train_state.counters

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.state.epoch >= self.config.train.epochs

    def fit(self) -> TrainResult:
        """Trains to the last epoch, from where the run directory is.

        Raises:
            Interrupted: The user stopped it; the state is saved and ``--resume`` continues.
            ElasticToolError: Training cannot continue; the message names what is saved.
        """
        validation: dict[str, float] = {}
        was_finished = self.is_finished
        self.ranks.broadcast(self.model)
        if self.state.step == 0:
            self.averages.start()
        if self.config.train.compile and not was_finished:
            # On the first batch of the run, also when the run is resumed.
            self.progress.log("compiling the encoder")
            compile_blocks(self.model)
            validating = len(self.splits.validation) > 0
            for batch in self.batches.first():
                warm_up(self.model, batch, self.config.train.precision, validating)
        saving = save_on_exit(self.run, self._save, self._where, self.ranks)
        with self.stop, saving:
            while not self.is_finished:
                self._check_stop()
                self._train_epoch()
                validation = self._finish_epoch()
        if self.state.skipped_in_a_row == self.state.step:
            raise no_finite_step(self.state.step)
        return TrainResult(
            run=self.run.path,
            epochs=self.config.train.epochs,
            best_epoch=self.state.best_epoch,
            validation=validation,
            averaged=self.averaged,
            seconds=self.state.total_seconds,
            was_finished=was_finished,
        )

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Restores the state that ``load_training_state`` returned.

        Raises:
            CheckpointError: It belongs to another model.
        """
        self.train_state.restore(saved, self.run)
        for note in self.run.clean_up(self.state.step, self.state.epoch):
            self.progress.log(f"note: {note}")

    def _train_epoch(self) -> None:
        self.model.train()
        self.thresholds = None  # those of the last validation do not fit the weights any more
        state, count = self.state, self.batches.of_epochs[self.state.epoch]
        title = f"epoch {state.epoch + 1}/{self.config.train.epochs}, batches"
        begin, crops = time.perf_counter(), 0
        with self.progress.task(title, count - state.batch) as bar:
            started = begin
            for step in self.batches.steps(state.epoch, state.batch):
                with report_oom(step.batches, memory_hint(self.config)):
                    loss = self._step(step)
                if state.step % TRIM_STEPS == 0:
                    trim_heap()
                state.seconds += time.perf_counter() - started
                crops += step.num_crops
                note = "skipped" if loss is None else f"loss {loss:.3f}"
                speed = crops / (time.perf_counter() - begin)
                bar.advance(step.num_batches, f"{note}, {speed:,.1f} clips/s")
                self._after_step()
                started = time.perf_counter()

    def _step(self, step: StepBatches) -> float | None:
        """Takes one optimiser step over its batches, or over this process's share of them.

        Returns:
            The mean loss of a crop; None if the step was skipped because it is not finite.

        Raises:
            Stopped: One of several processes was asked to stop; the step is not taken.
        """
        config, state, batches = self.config.train, self.state, step.batches
        factor = lr_factor(config.schedule, state.step, self.batches.total_steps, state.epoch)
        state.lr = config.lr * factor
        set_rates(self.optimizer, state.lr)
        self.optimizer.zero_grad(set_to_none=True)
        self.ranks.seed_step(self.config.seed, state.step)
        losses = []
        for batch in batches:
            clips = self._clip_losses(batch)
            (clips.sum() / step.num_crops).backward()  # type: ignore[no-untyped-call]
            losses.append(clips.detach())
        loss = sum((clips.sum() for clips in losses), torch.zeros((), device=self.device))
        counts = (*step.counts(), int(self.stop.requested))
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        loss, (*counted, stops) = self.ranks.all_reduce(learning, loss, counts)
        if stops and not self.ranks.is_single:  # a single process stops after the step
            raise Stopped
        norm = clip_gradients(self.optimizer, config.clip_norm)
        # Read only here, in one go: reading waits for all the work that the device has queued.
        total, state.grad_norm = map(float, torch.stack([loss.to(norm), norm]).tolist())
        state.step += 1
        state.batch += step.num_batches
        if not (math.isfinite(total) and math.isfinite(state.grad_norm)):
            self._skip(batches, losses)
            return None
        self.optimizer.step()
        self.averages.after_step(state.step)
        state.count_step(step.num_crops, total, *counted)
        mean = total / step.num_crops
        record = {"kind": "step", "step": state.step, "loss": mean, "lr": state.lr}
        self.run.log(record | {"grad_norm": state.grad_norm})
        return mean

    def _clip_losses(self, batch: PackedBatch) -> Tensor:
        """Returns the (S,) loss of each clip against its labels and, if any, the teacher."""
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.config.train.precision):
            logits = self.model(batch)
            taught = None if self.teacher is None else self.teacher.logits(batch)
        losses = clip_losses(logits.float(), batch.targets, self.config)
        if self.teacher is None or taught is None:
            return losses
        return self.teacher.losses(logits.float(), taught.float(), losses)

    def _skip(self, batches: list[PackedBatch], losses: list[Tensor]) -> None:
        """Skips a step that is not finite, and stops where training gets no further.

        Raises:
            ElasticToolError: The weights are broken, or too many steps in a row were skipped.
        """
        found = explain_nonfinite(self.model, batches, losses, self.config)
        found = worst_step(self.ranks.gather(found))
        self.optimizer.zero_grad(set_to_none=True)
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self.run.log_skipped(found.record(self.state.epoch + 1, self.state.step))
        self.progress.log(f"{self._where()} skipped: {found.what} ({self.run.skipped_steps})")
        check_weights(self.model, self.config.train.lr)
        if self.state.skipped_in_a_row > self.config.train.max_skipped_steps:
            self._save()
            raise too_many(found, self.state.skipped_in_a_row, self.state.step)

    def _after_step(self) -> None:
        self._check_stop()
        every = self.config.train.checkpoint_steps
        if every and self.state.step % every == 0:
            self._save()

    def _check_stop(self) -> None:
        """Stops a single process; several stop within a step, all at the same one."""
        if self.ranks.is_single:
            self.stop.check()

    def _where(self) -> str:
        return f"epoch {self.state.epoch + 1}, step {self.state.step}"

    def _finish_epoch(self) -> dict[str, float]:
        """Validates, logs, keeps the best weights, and moves to the next epoch."""
        check_weights(self.model, self.config.train.lr)
        state, config = self.state, self.config.train
        last = state.epoch + 1 == config.epochs
        validation: dict[str, float] = {}
        if len(self.splits.validation) and (last or (state.epoch + 1) % config.validate_every == 0):
            validation = self._validate(self.averages.evaluated, self.stop.check)
        record = {
            **state.epoch_record(),
            "selection_metric": self.selection_metric,
            **{f"val_{name}": value for name, value in validation.items()},
        }
        self.run.log(record)
        self.progress.log(epoch_line(record, config.epochs))
        self._keep_best(validation)
        self._average_epochs()
        self.train_state.counters = state.next_epoch()
        self._save()
        return validation

    def _keep_best(self, validation: dict[str, float]) -> None:
        """Saves the best weights so far by the validation metric; without it, the last."""
        state = self.state
        if not validation and state.best_epoch >= 0:
            return  # an epoch that was not validated is no better than one that was
        score = validation.get(self.selection_metric)
        if score is not None:
            if score <= state.best_score:
                return
            state.best_score, state.best_epoch = score, state.epoch + 1
        self._save_weights(self.run.best_weights, self.averages.evaluated, validation)
        if self.thresholds is not None and self.run.writes:
            self.thresholds.write(self.run.thresholds, self.store.info.label_names)

    def _average_epochs(self) -> None:
        """Writes and validates the mean of ``train.average_epochs``, after the last of them."""
        epoch = self.state.epoch + 1
        model = self.averages.after_epoch(epoch)
        if model is None:
            return
        of_epoch = self.thresholds
        self.averaged = self._validate(model) if len(self.splits.validation) else {}
        self._save_weights(self.run.averaged_weights, model, self.averaged)
        self.thresholds = of_epoch
        self.averages.drop_mean()
        scores = {f"val_{name}": value for name, value in self.averaged.items()}
        record = {"kind": "averaged", "epoch": epoch, "step": self.state.step, **scores}
        self.run.log(record)
        first, last = self.config.train.average_epochs
        mean = f"mean of the weights of epochs {first} to {last}"
        self.progress.log(", ".join([mean, *validation_parts(record)]))

    def _validate(
        self, model: SpectrogramTransformer, between: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Returns metrics of ``model`` on the validation clips; ``between`` may stop it."""
        scores = score_clips(
            model,
            self.batches.eval_set,
            self.splits.validation,
            self.config.train.precision,
            workers=self.batches.workers(len(self.splits.validation)),
            between=between,
            ranks=self.ranks,
            transfer=self.batches.transfer,
        )
        if self.store.info.multi_label:
            self.thresholds = ChosenThresholds.choose(scores, self.config.train.loss)
        return validation_metrics(scores, self.config)

    def _save(self) -> None:
        """Writes the weights, and the state last: everything it refers to is then written.

        Raises:
            ElasticToolError: The weights are broken; what was saved before stays.
        """
        check_weights(self.model, self.config.train.lr)
        self._save_weights(self.run.last_weights, self.averages.evaluated, {})
        if self.run.writes:
            save_training_state(self.run.training_state, self.train_state.state_dict())

    def _save_weights(
        self, path: Path, model: SpectrogramTransformer, validation: dict[str, float]
    ) -> None:
        if self.run.writes:
            info, state = self.store.info, self.state
            metrics = {"epoch": state.epoch + 1, "step": state.step, **validation}
            thresholds = () if self.thresholds is None else self.thresholds.values.tolist()
            names = tuple(info.label_names)
            save_weights(
                path,
                model,
                WeightsMetadata(self.config, names, info.multi_label, metrics, tuple(thresholds)),
            )
