"""The training loop: one for every model, data set and loss.

A run is a function of its configuration and its prepared data. Every random choice is drawn from
the seed and the epoch (samplers, masks) or from torch's generator, whose state is saved; so a run
that is interrupted and resumed ends with the same bits as one that was not (on a CPU).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import feature_extractor_of
from elastictool.config import RunConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import DeviceTransfer, loader_processes
from elastictool.data.loader import load_batches
from elastictool.data.rank_sharding import RankStep, locked_tee, shard_steps
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.training.averaging import Averages
from elastictool.training.compilation import compile_blocks, warm_up
from elastictool.training.distillation import load_teacher
from elastictool.training.distributed import SINGLE, Ranks
from elastictool.training.interrupts import memory_hint, report_oom, save_on_exit
from elastictool.training.log_lines import averaged_line, epoch_line
from elastictool.training.losses import clip_losses
from elastictool.training.nonfinite import (
    NonFiniteStep,
    check_weights,
    count_broken,
    explain_nonfinite,
    no_finite_step,
    too_many,
    worst_step,
)
from elastictool.training.optimizer import build_optimizer, clip_gradients, set_rates
from elastictool.training.parameter_groups import freeze
from elastictool.training.predict_logits import autocast, score_clips
from elastictool.training.saving import Saver, TrainState, restore
from elastictool.training.schedule import lr_factor
from elastictool.training.setup import device_of, resolve
from elastictool.training.state import StepSums, TrainingState, TrainResult, read_numbers
from elastictool.training.tensorboard import mirrored
from elastictool.training.thresholds import ChosenThresholds
from elastictool.training.validation import selection_metric, validation_metrics
from elastictool.utils.errors import LoaderError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.signals import Stopped, StopRequest


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
        torch.manual_seed(self.config.seed)
        self.device = torch.device(device_of(self.config.train))
        self.model = SpectrogramTransformer(self.config.model, self.config.train.attention)
        self.model.to(self.device)
        freeze(self.model, self.config.train.freeze)
        self.averages = Averages(self.model, self.config.train)
        self.optimizer = build_optimizer(self.model, self.config)
        self.train_state = TrainState(self.model, self.optimizer, self.averages, self.device)
        self.saver = Saver(run, self.config, store.info)
        self.selection_metric = selection_metric(self.config, store.info.multi_label)
        self.state = TrainingState()
        self.stop = StopRequest()
        self.thresholds: ChosenThresholds | None = None
        self.averaged: dict[str, float] = {}
        self.feature_extractor = feature_extractor_of(self.config)
        cache_mb = self.config.train.cache_mb
        self.train_set = ClipDataset(
            store, self.feature_extractor, self.config.augment, self.config.seed, cache_mb
        )
        self.eval_set = ClipDataset(store, self.feature_extractor, cache_mb=cache_mb)
        self.sampler = TrainingSampler.of_run(self.config, self.train_set, self.splits.train)
        self.teacher = load_teacher(self.config, store, str(self.device))
        train = self.config.train
        self.feed = DeviceTransfer.choose(self.device, train.fbank_on, train.prefetch)

    @cached_property
    def epoch_batches(self) -> list[int]:
        """Batches of each epoch: counted once, since token budgets have them planned for it."""
        return self.sampler.epoch_batches(self.config.train.epochs)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.sampler.num_steps(self.epoch_batches)

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.state.epoch >= self.config.train.epochs

    def fit(self) -> TrainResult:
        """Train to the last epoch, or continue from where the run directory stands.

        Raises:
            Interrupted: The user stopped it; the state is saved and ``--resume`` goes on.
            ElasticToolError: Training cannot go on; the message says what is saved.
        """
        config = self.config.train
        validation: dict[str, float] = {}
        was_finished = self.is_finished
        self.ranks.broadcast(self.model)
        if self.state.step == 0:
            self.averages.start()
        if config.compile and not was_finished:
            self._compile()
        mirror = mirrored(self.run) if config.tensorboard and self.run.writes else nullcontext()
        ways_out = save_on_exit(self.run.path, self.stop, self._save, self._where, self.ranks)
        with self.stop, mirror, ways_out:
            while not self.is_finished:
                self._check_stop()
                self._train_epoch(self.epoch_batches[self.state.epoch])
                validation = self._finish_epoch()
        if self.state.skipped_in_a_row == self.state.step:
            raise no_finite_step(self.state.step)
        return TrainResult(
            run=self.run.path,
            epochs=config.epochs,
            best_epoch=self.state.best_epoch,
            validation=validation,
            averaged=self.averaged,
            seconds=self.state.seconds,
            was_finished=was_finished,
        )

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Take up the state of the run directory, as ``load_training_state`` gives it.

        Raises:
            CheckpointError: It belongs to another model.
        """
        self.state = restore(saved, self.train_state, self.run)
        self.run.clean_up(self.state.step, self.state.epoch)

    def _compile(self) -> None:
        """Compile on the first batch of the run, wherever the run stands."""
        self.progress.log("compiling the encoder")
        compile_blocks(self.model)
        first = self.sampler.shares(list(islice(self.sampler.epoch(0), 1)), self.ranks.world)[0]
        for batch in self._load(first):
            warm_up(self.model, batch, self.config.train.precision, len(self.splits.validation) > 0)

    def _where(self) -> str:
        return f"epoch {self.state.epoch + 1}, step {self.state.step}"

    def _train_epoch(self, num_batches: int) -> None:
        self.model.train()
        self.thresholds = None  # those of the last validation belong to other weights from here
        plans = islice(self.sampler.epoch(self.state.epoch), self.state.batch, None)
        title = f"epoch {self.state.epoch + 1}/{self.config.train.epochs}, batches"
        begin, views = time.perf_counter(), 0
        with self.progress.task(title, num_batches - self.state.batch) as bar:
            for share, batches in self._steps(plans, num_batches):
                started = time.perf_counter()
                with report_oom(batches, memory_hint(self.config)):
                    loss = self._step(share, batches)
                self.state.seconds += time.perf_counter() - started
                views += share.num_crops
                note = "skipped" if loss is None else f"loss {loss:.3f}"
                speed = views / (time.perf_counter() - begin)
                bar.advance(share.num_batches, f"{note}, {speed:,.1f} clips/s")
                self._after_step(loss)

    def _steps(
        self, plans: Iterable[BatchPlan], num_batches: int
    ) -> Iterator[tuple[RankStep, list[PackedBatch]]]:
        """What this process has to do in each step, and the batches for it."""
        shares = shard_steps(self.sampler, plans, self.ranks.rank, self.ranks.world)
        steps, loading = locked_tee(shares)
        wanted = chain.from_iterable(step.plans for step in loading)
        batches = self._load(wanted, self._workers(num_batches))
        for step in steps:
            yield step, self._taken(batches, len(step.plans))

    def _workers(self, batches: int) -> int:
        return loader_processes(self.config.train.loader_workers, self.device, batches)

    def _taken(self, batches: Iterator[PackedBatch], count: int) -> list[PackedBatch]:
        """The next ``count`` batches; none where the loader was told to stop, as all will hear."""
        try:
            return list(islice(batches, count))
        except LoaderError as error:
            if self.ranks.is_single or not error.on_request:
                raise
            self.stop.requested = True
            return []

    def _load(self, plans: Iterable[BatchPlan], workers: int = 0) -> Iterator[PackedBatch]:
        padded_rows = ATTENTION[self.model.attention].padded_rows
        prefix_tokens = self.config.model.prefix_tokens
        teacher_batch = self.teacher.cut if self.teacher else None
        return load_batches(
            plans,
            self.train_set,
            prefix_tokens,
            padded_rows,
            workers,
            teacher_batch,
            self.config.pad_to_multiple_of,
            self.feed,
        )

    def _step(self, share: RankStep, batches: list[PackedBatch]) -> float | None:
        """One optimiser step over one or several batches, or this process's share of them.

        Returns:
            The mean loss of a view; None if the step could not be taken and was left out.

        Raises:
            Stopped: One of several processes was asked to stop; the step is not taken.
        """
        config, state = self.config.train, self.state
        state.lr = config.lr * lr_factor(config.schedule, state.step, self.total_steps, state.epoch)
        set_rates(self.optimizer, state.lr)
        self.optimizer.zero_grad(set_to_none=True)
        self.ranks.seed_step(self.config.seed, state.step)
        losses, summed = [], []
        for batch in batches:
            clips = self._clip_losses(batch)
            loss = clips.sum()
            (loss / share.num_crops).backward()  # type: ignore[no-untyped-call]
            losses.append(clips.detach())
            summed.append(loss.detach())
        sums = self._finish_gradient(batches, losses, summed)
        state.step += 1
        state.batch += share.num_batches
        if sums.broken or not math.isfinite(state.grad_norm):
            fault = explain_nonfinite(self.model, batches, losses, self.config)
            self._skip(worst_step(self.ranks.gather(fault)))
            return None
        self.optimizer.step()
        self.averages.after_step(state.step)
        state.skipped_in_a_row = 0
        self._count(sums, share.num_crops)
        return sums.loss / share.num_crops

    def _finish_gradient(
        self, batches: list[PackedBatch], losses: list[Tensor], summed: list[Tensor]
    ) -> StepSums:
        """Sum the step over all processes and clip its gradient; returns what is counted of it.

        Numbers are asked for only here, where all work is handed out, and where there is but one
        process all at once: reading one from a device waits for all that it was given to do.
        """
        config, state = self.config.train, self.state
        numbers = [*summed, *map(count_broken, losses)]
        if self.ranks.is_single:
            norm = clip_gradients(self.optimizer, config.clip_norm)
            *found, state.grad_norm = read_numbers([*numbers, norm])
            return self._own_sums(batches, found)
        sums = self._add_up(self._own_sums(batches, read_numbers(numbers)))
        state.grad_norm = float(clip_gradients(self.optimizer, config.clip_norm))
        return sums

    def _own_sums(self, batches: list[PackedBatch], numbers: list[float]) -> StepSums:
        """This process's share; ``numbers`` are each batch's loss, then its broken clips."""
        return StepSums(
            loss=sum(numbers[: len(batches)]),
            tokens=sum(batch.layout.num_tokens for batch in batches),
            slots=sum(batch.layout.stream_length for batch in batches),
            cut_frames=sum(batch.cut_frames for batch in batches),
            broken=sum(numbers[len(batches) :]),
            stops=int(self.stop.requested),
        )

    def _add_up(self, own: StepSums) -> StepSums:
        """The step's sums and its gradient, which is in the model, over all processes."""
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        sums = StepSums(*self.ranks.all_reduce(learning, dataclasses.astuple(own)))
        if sums.stops:
            raise Stopped
        return sums

    def _clip_losses(self, batch: PackedBatch) -> Tensor:
        """(S,) loss of each clip: against its labels, and against the teacher if there is one."""
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.config.train.precision):
            logits = self.model(batch)
            taught = None if self.teacher is None else self.teacher.logits(batch)
        losses = clip_losses(logits.float(), batch.targets, self.config)
        if self.teacher is None or taught is None:
            return losses
        return self.teacher.losses(logits.float(), taught.float(), losses)

    def _count(self, sums: StepSums, views: int) -> None:
        """Add a step to what the epoch's line says."""
        state = self.state
        state.loss_sum += sums.loss
        state.views += views
        state.tokens += int(sums.tokens)
        state.slots += int(sums.slots)
        state.cut_frames += int(sums.cut_frames)

    def _skip(self, fault: NonFiniteStep) -> None:
        """Leave a step out, and stop where that leads nowhere.

        Raises:
            ElasticToolError: The weights are broken, or it is one step too many.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self.run.log_skipped(fault.record(self.state.epoch + 1, self.state.step))
        self.progress.log(f"{self._where()} skipped: {fault.what} ({self.run.skipped_steps})")
        check_weights(self.model, self.config.train.lr)
        if self.state.skipped_in_a_row > self.config.train.max_skipped_steps:
            self._save()
            raise too_many(fault, self.state.skipped_in_a_row, self.state.step)

    def _after_step(self, loss: float | None) -> None:
        state, every = self.state, self.config.train.checkpoint_steps
        if loss is not None:
            record = {"kind": "step", "step": state.step, "loss": loss, "lr": state.lr}
            self.run.log(record | {"grad_norm": state.grad_norm})
        self._check_stop()
        if every and self.state.step % every == 0:
            self._save()

    def _check_stop(self) -> None:
        """A place to stop at; several processes stop within a step, where all hear of it."""
        if self.ranks.is_single:
            self.stop.check()

    def _finish_epoch(self) -> dict[str, float]:
        """Validate, log, keep the best, and move to the next epoch."""
        check_weights(self.model, self.config.train.lr)
        state, last = self.state, self.state.epoch + 1 == self.config.train.epochs
        validation: dict[str, float] = {}
        if len(self.splits.validation) and (
            last or (state.epoch + 1) % self.config.train.validate_every == 0
        ):
            validation = self._validate(self.averages.evaluated, self.stop.check)
        record = {
            **state.epoch_record(),
            "selection_metric": self.selection_metric,
            **{f"val_{name}": value for name, value in validation.items()},
        }
        self.run.log(record)
        self.progress.log(epoch_line(record, self.config.train.epochs))
        self._keep_best(validation)
        self._average_epochs()
        self.state = state.next_epoch()
        self._save()
        return validation

    def _keep_best(self, validation: dict[str, float]) -> None:
        """Best is chosen by validation only; without it, the last epoch is all there is."""
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
        """Write and score the mean of ``train.average_epochs``, after the last of them."""
        epoch = self.state.epoch + 1
        model = self.averages.after_epoch(epoch)
        if model is None:
            return
        of_epoch = self.thresholds
        self.averaged = self._validate(model) if len(self.splits.validation) else {}
        self._save_weights(self.run.averaged_weights, model, self.averaged)
        self.thresholds = of_epoch
        self.averages.drop_sums()
        scores = {f"val_{name}": value for name, value in self.averaged.items()}
        record = {"kind": "averaged", "epoch": epoch, "step": self.state.step, **scores}
        self.run.log(record)
        self.progress.log(averaged_line(record, self.config.train.average_epochs))

    def _validate(
        self, model: SpectrogramTransformer, between: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Metrics of ``model`` on the validation clips; ``between`` may stop it."""
        scores = score_clips(
            model,
            self.eval_set,
            self.splits.validation,
            self.config.train.precision,
            workers=self._workers(len(self.splits.validation)),
            between=between,
            ranks=self.ranks,
            feed=self.feed,
        )
        metrics = validation_metrics(scores, self.config)
        if self.store.info.multi_label:
            self.thresholds = ChosenThresholds.choose(scores, self.config.train.loss)
        return metrics

    def _save(self) -> None:
        """Write the weights, and the state last: what it says is written, is.

        Raises:
            ElasticToolError: The weights are broken; what was saved before stays.
        """
        check_weights(self.model, self.config.train.lr)
        self._save_weights(self.run.last_weights, self.averages.evaluated, {})
        self.saver.state(self.train_state, self.state)

    def _save_weights(
        self, path: Path, model: SpectrogramTransformer, validation: dict[str, float]
    ) -> None:
        thresholds = () if self.thresholds is None else self.thresholds.values.tolist()
        self.saver.weights(path, model, self.state, validation, thresholds)
