"""Faults inside training: what is skipped, saved and reported; each really happens."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from elastictool.checkpoint.weights import save_weights
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop
from elastictool.data.loader import dead_worker
from elastictool.data.store import PreparedStore
from elastictool.training.predict_logits import score_clips
from elastictool.training.run import resume_run, train_run
from elastictool.training.state import load_training_state
from elastictool.training.trainer import Trainer
from elastictool.utils.errors import (
    DamagedDataError,
    ElasticToolError,
    Interrupted,
    LoaderError,
    OutOfMemory,
    RunRemovedError,
    UsageError,
    WriteError,
)
from tests.helpers.training import Hooks, records, same, small, trainer, weights

Step = Callable[..., float | None]


def skipped(run: Path) -> list[dict[str, Any]]:
    lines = (run / "skipped_steps.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def poison(monkeypatch: pytest.MonkeyPatch, when: Callable[[Crop, int], bool]) -> None:
    """Put a NaN into the features of each view that ``when`` picks by view and epoch."""
    load = ClipDataset.load

    def poisoned(self: ClipDataset, view: Crop, epoch: int = 0, *size: Any) -> Any:
        example = load(self, view, epoch, *size)
        if self.augment is not None and when(view, epoch):
            example.fbank[0, 0] = torch.nan
        return example

    monkeypatch.setattr(ClipDataset, "load", poisoned)


class Lines:
    """A progress that keeps the lines that it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def task(self, what: str, total: float | None) -> Any:
        from elastictool.utils.progress import SILENT

        return SILENT.task(what, total)


def some_clip(store: PreparedStore) -> int:
    return int((store.splits == "train").nonzero()[0][3])


# Losses and gradients that are not finite


def test_a_clip_with_nan_is_skipped_and_logged_and_the_run_continues(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = some_clip(toy_store)
    poison(monkeypatch, lambda view, epoch: view.clip == bad and epoch == 0)
    progress = Lines()
    train_run(small(), toy_store, tmp_path / "run", progress=progress)
    (line,) = skipped(tmp_path / "run")
    assert line["where"] == "inputs" and line["epoch"] == 1
    name = str(toy_store.ids[bad])
    assert {clip["id"]: clip["loss"] for clip in line["clips"]}[name] == "nan"
    finite = [clip["loss"] for clip in line["clips"] if clip["id"] != name]
    assert finite and all(isinstance(loss, float) for loss in finite)
    assert any("skipped" in said and name in said for said in progress.lines)
    first, second = records(tmp_path / "run", "epoch")
    assert (first["skipped_steps"], second["skipped_steps"]) == (1, 0)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    steps = [record["step"] for record in records(tmp_path / "run", "step")]
    assert line["step"] not in steps and len(steps) == max(steps) - 1


def test_a_skipped_step_leaves_weights_and_optimiser_and_draws_what_any_step_draws(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    def after_two_steps(name: str, spoil: bool) -> tuple[dict[str, Any], Any, Trainer]:
        sets = ("train.accumulate=2", "model.dropout=0.3", "packing.batch_clips=4")
        run = trainer(toy_store, tmp_path / name, *sets)
        run.model.train()
        steps = run.batches.steps(0)
        assert run._step(next(steps)) is not None
        kept = {key: value.clone() for key, value in run.model.state_dict().items()}
        moments = [
            {key: value.clone() for key, value in state.items()}
            for state in run.optimizer.state.values()
        ]
        second = next(steps)
        if spoil:  # the last batch: the gradient of the first has been added up by then
            second.batches[-1].patch_groups[0].patches[5] = torch.inf
        loss = run._step(second)
        assert (loss is None) == spoil
        return kept, moments, run

    kept, moments, run = after_two_steps("spoilt", spoil=True)
    rng = torch.get_rng_state()
    assert same(kept, run.model.state_dict())
    for before, after in zip(moments, run.optimizer.state.values(), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(value.grad is None for value in run.model.parameters())
    assert (run.state.step, run.state.batch, run.state.skipped) == (2, 4, 1)
    crops = run.state.crops
    _, _, usual = after_two_steps("usual", spoil=False)
    assert torch.equal(rng, torch.get_rng_state())
    assert (usual.state.step, usual.state.batch) == (2, 4) and usual.state.crops > crops


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_run_with_skipped_steps_resumes_to_the_same_bits(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    bad = some_clip(toy_store)
    poison(monkeypatch, lambda view, epoch: view.clip == bad)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_run(small("model.dropout=0.2"), toy_store, whole)
    stop = Hooks(lambda step: step == stop_after and signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_run(small("model.dropout=0.2"), toy_store, parts, progress=stop)
    resume_run(parts, toy_store)
    assert same(weights(whole), weights(parts))
    assert skipped(whole) == skipped(parts) and len(skipped(whole)) == 2


def test_too_many_skipped_steps_in_a_row_stop_the_run_saved(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    too_small = ("data.mean=-15.9", "data.std=1e-38")
    config = small(*too_small, "train.max_skipped_steps=2", "packing.batch_clips=3")
    with pytest.raises(ElasticToolError, match="last 3 steps could not be taken") as caught:
        train_run(config, toy_store, tmp_path / "run")
    assert caught.value.exit_code == 1
    assert "features" in caught.value.message and "data.std = 1e-38" in caught.value.hint
    assert [line["step"] for line in skipped(tmp_path / "run")] == [1, 2, 3]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    with pytest.raises(ElasticToolError, match="last 4 steps"):  # it does not begin to count anew
        resume_run(tmp_path / "run", toy_store)


def test_a_run_that_could_take_no_step_is_no_success(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = trainer(toy_store, tmp_path / "run")
    run.model.head.weight.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(
        ElasticToolError, match=r"none of the \d+ steps .* could be taken"
    ) as caught:
        run.fit()
    assert caught.value.exit_code == 1 and "skipped_steps.jsonl" in caught.value.hint
    assert 0 < len(skipped(tmp_path / "run")) <= run.config.train.max_skipped_steps
    with pytest.raises(ElasticToolError, match="none of"):  # nor where nothing is left to train
        run.fit()


def test_steps_skipped_now_and_then_do_not_stop_a_run(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    sets = ("train.epochs=1", "train.max_skipped_steps=1", "packing.batch_clips=3")
    run = trainer(toy_store, tmp_path / "run", *sets)
    overflows = itertools.cycle([torch.inf, 1.0])
    run.model.head.weight.register_hook(lambda grad: grad * next(overflows))
    run.fit()
    assert [line["step"] for line in skipped(tmp_path / "run")] == [1, 3, 5]


def test_weights_that_are_not_finite_stop_at_once_and_are_not_saved(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = trainer(toy_store, tmp_path / "run")
    with torch.no_grad():
        run.model.head.bias[0] = torch.nan
    with pytest.raises(ElasticToolError, match=r"weights hold NaN.*head\.bias") as caught:
        run.fit()
    assert "train.lr" in caught.value.hint
    assert len(skipped(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("rate", ["1e20", "3e38"], ids=["overflow", "infinite weights"])
def test_a_learning_rate_too_high_is_named_and_finite_checkpoints_stay(
    toy_store: PreparedStore, tmp_path: Path, rate: str
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    sets = (f"train.lr={rate}", "train.schedule.warmup_steps=0", "train.max_skipped_steps=1")
    with pytest.raises(ElasticToolError) as caught:
        train_run(small(*sets), toy_store, tmp_path / "run", overwrite=True)
    assert "lower learning rate" in caught.value.hint and "train.lr is" in caught.value.hint


def test_bf16_is_named_where_fp32_would_have_done(toy_store: PreparedStore, tmp_path: Path) -> None:
    run = trainer(toy_store, tmp_path / "run", "train.precision=bf16", "train.max_skipped_steps=0")
    with torch.no_grad():
        run.model.head.bias[0] = 3.4e38  # the largest bf16 number is 3.39e38
    with pytest.raises(ElasticToolError, match="in bf16, though") as caught:
        run.fit()
    assert "train.precision=fp32" in caught.value.hint


def test_a_gradient_that_overflows_is_skipped_too(toy_store: PreparedStore, tmp_path: Path) -> None:
    run = trainer(toy_store, tmp_path / "run", "train.epochs=1")
    overflows = [True, False, False, False, False]
    run.model.head.weight.register_hook(lambda grad: grad * torch.inf if overflows.pop(0) else grad)
    run.fit()
    (line,) = skipped(tmp_path / "run")
    assert line["where"] == "gradient"
    assert all(isinstance(clip["loss"], float) for clip in line["clips"])


# Loading


@pytest.fixture
def damaged(toy_store: PreparedStore, tmp_path: Path) -> tuple[PreparedStore, str, str]:
    """A copy of the toy data with damaged audio in one training clip; its id and its shard."""
    folder = tmp_path / "toy"
    shutil.copytree(toy_store.path, folder)
    clip = some_clip(toy_store)
    audio = bytes(toy_store.audio_bytes(clip))
    (shard,) = [path for path in folder.glob("*.arrow") if audio in path.read_bytes()]
    place = shard.read_bytes().index(audio) + len(audio) // 2
    with shard.open("r+b") as file:
        file.seek(place)
        file.write(b"damaged" * 8)
    return PreparedStore.open(folder), str(toy_store.ids[clip]), shard.name


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_clip_is_named_with_its_shard_and_the_run_continues_on_mended_data(
    damaged: tuple[PreparedStore, str, str], toy_store: PreparedStore, tmp_path: Path, workers: int
) -> None:
    store, clip, shard = damaged
    config = small(f"train.loader_workers={workers}")
    with pytest.raises(DamagedDataError) as caught:
        train_run(config, store, tmp_path / "run")
    assert repr(clip) in caught.value.message and shard in caught.value.message
    assert "\n" not in caught.value.message and "Traceback" not in caught.value.message
    for part in ("prep --dataset csv --name toy --overwrite", "--resume"):
        assert part in caught.value.hint
    shutil.copy(toy_store.path / shard, store.path / shard)
    resume_run(tmp_path / "run", PreparedStore.open(store.path))
    train_run(config, toy_store, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def in_worker(
    monkeypatch: pytest.MonkeyPatch, store: PreparedStore, clip: int, act: Callable[[], Any]
) -> None:
    """Let ``act`` happen to the loader process that reads ``clip``."""
    here, waveform = os.getpid(), PreparedStore.waveform

    def read(self: PreparedStore, index: int, *arguments: Any) -> Any:
        if index == clip and os.getpid() != here:
            act()
        return waveform(self, index, *arguments)

    monkeypatch.setattr(PreparedStore, "waveform", read)


def test_a_killed_loader_worker_ends_the_run_which_resumes_exactly(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("train.loader_workers=2", "model.dropout=0.2", "train.checkpoint_steps=1")
    train_run(small(*sets), toy_store, tmp_path / "whole")
    with monkeypatch.context() as patched:
        state = tmp_path / "run" / "checkpoints" / "last.training.pt"

        def die_when_there_is_something_to_resume() -> None:
            if state.exists():
                os.kill(os.getpid(), signal.SIGKILL)

        in_worker(patched, toy_store, some_clip(toy_store), die_when_there_is_something_to_resume)
        with pytest.raises(LoaderError, match=r"a loader worker died.*Killed") as caught:
            train_run(small(*sets), toy_store, tmp_path / "run")
    assert caught.value.exit_code == 1
    assert "train.loader_workers" in caught.value.hint and "--resume" in caught.value.hint
    resume_run(tmp_path / "run", toy_store)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_stop_that_reaches_the_workers_too_is_saved(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM goes to whole groups of processes; a worker still delivers what was begun."""
    here = os.getpid()

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(here, signal.SIGTERM)

    in_worker(monkeypatch, toy_store, some_clip(toy_store), terminate)
    with pytest.raises(Interrupted, match="everything is saved"):
        train_run(small("train.loader_workers=1"), toy_store, tmp_path / "run")


def test_a_worker_that_dies_during_a_write_is_named_though_the_write_fails_of_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("unexpected pos 154432 vs 154320")  # as torch's zip writer does
    death = dead_worker(caught.value)
    assert death is not None and "is killed by signal: Killed" in death.message
    assert dead_worker(RuntimeError("unexpected pos 154432 vs 154320")) is None


def test_a_sigterm_at_the_start_of_a_worker_does_not_end_it(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, seed = os.getpid(), random.seed

    def terminate(*arguments: Any) -> None:
        if os.getpid() != here:  # torch seeds a worker when its own handlers are in place
            os.kill(os.getpid(), signal.SIGTERM)
        seed(*arguments)

    monkeypatch.setattr(random, "seed", terminate)
    train_run(small("train.loader_workers=1", "train.epochs=1"), toy_store, tmp_path / "run")


def test_a_worker_that_dies_within_a_step_ends_the_run_with_the_last_saved_state(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch raises it in the middle of the optimiser."""
    config = small("train.loader_workers=2", "train.checkpoint_steps=1", "model.dropout=0.2")
    train_run(config, toy_store, tmp_path / "whole")
    steps, fused = [], torch.optim.Adam.step
    others = set(multiprocessing.active_children())  # of tests before this one

    def step(self: torch.optim.Adam, closure: Any = None) -> Any:
        steps.append(True)
        if len(steps) == 2:
            worker = (set(multiprocessing.active_children()) - others).pop()
            worker.kill()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:  # torch's handler runs between two of these
                pass
        return fused(self, closure)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", step)
        with pytest.raises(LoaderError, match=r"a loader worker died.*Killed") as caught:
            train_run(config, toy_store, tmp_path / "run")
    assert len(steps) == 2
    assert "continue from the last saved state" in caught.value.hint
    assert "--resume" in caught.value.hint
    assert load_training_state(tmp_path / "run/checkpoints/last.training.pt")["state"]["step"] == 1
    resume_run(tmp_path / "run", toy_store)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


# Memory


def test_a_step_without_memory_is_reported_with_its_tokens_and_the_settings(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(toy_store, tmp_path / "run", "train.accumulate=2", "train.loader_workers=1")
    first, second = next(run.batches.steps(0)).batches
    tokens = max(first.layout.num_tokens, second.layout.num_tokens)
    monkeypatch.setattr(
        type(run.model), "forward", lambda self, batch: torch.empty(1 << 50)
    )  # the real allocator says no
    with pytest.raises(OutOfMemory) as caught:
        run.fit()
    assert f"12 clips at once: {tokens:,} tokens" in caught.value.message
    assert "allocate" in caught.value.message
    for setting in (
        "packing.batch_clips (6)",
        "train.accumulate (2)",
        "length.max_frames (128)",
        "train.cache_mb (512 in each of 1 workers)",
    ):
        assert setting in caught.value.hint


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_other_kinds_of_out_of_memory_are_reported_too(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    run = trainer(toy_store, tmp_path / "run", "packing.batch_tokens=300")
    monkeypatch.setattr(type(run.model), "forward", fail)
    with pytest.raises(OutOfMemory, match="tokens in the largest batch") as caught:
        run.fit()
    assert "packing.batch_tokens (300)" in caught.value.hint


def test_another_runtime_error_is_no_lack_of_memory(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("a bug of ours")

    run = trainer(toy_store, tmp_path / "run")
    monkeypatch.setattr(type(run.model), "forward", fail)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        run.fit()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_without_memory_is_reported_with_the_batch(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(PreparedStore, "waveform", lambda *arguments: bytearray(1 << 60))
    with pytest.raises(OutOfMemory, match=r"loading a batch of 6 clips, \d+ tokens") as caught:
        train_run(small(f"train.loader_workers={workers}"), toy_store, tmp_path / "run")
    assert "train.cache_mb" in caught.value.hint


# Signals


def test_sigterm_while_validating_saves_and_resumes_to_the_same_bits(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("train.epochs=3", "model.dropout=0.2", "train.loader_workers=1")
    train_run(config, toy_store, tmp_path / "whole")
    validations = []

    def score(*arguments: Any, **named: Any) -> Any:
        validations.append(arguments)
        if len(validations) == 2:
            signal.raise_signal(signal.SIGTERM)
        return score_clips(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr("elastictool.training.trainer.score_clips", score)
        with pytest.raises(Interrupted, match="epoch 2") as caught:
            train_run(config, toy_store, tmp_path / "run")
    assert caught.value.exit_code == 130
    assert len(records(tmp_path / "run", "epoch")) == 1
    resume_run(tmp_path / "run", toy_store)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert same(weights(tmp_path / "whole", "best"), weights(tmp_path / "run", "best"))
    assert len(records(tmp_path / "run", "epoch")) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_without_harm(
    toy_store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    train_run(small(), toy_store, tmp_path / "whole")
    hooks = Hooks(lambda step: step == 4 and signal.raise_signal(number))

    def slow_save(*arguments: Any) -> None:
        if hooks.steps == 4:
            signal.raise_signal(number)  # the second: saving takes too long for the user
        save_weights(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("elastictool.training.trainer.save_weights", slow_save)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            train_run(small(), toy_store, tmp_path / "run", progress=hooks)
    run = tmp_path / "run"
    assert load_training_state(run / "checkpoints" / "last.training.pt")["state"]["step"] == 3
    assert not list(run.rglob("*.tmp"))
    resume_run(run, toy_store)
    assert same(weights(tmp_path / "whole"), weights(run))


# The run directory


def test_a_second_trainer_in_the_same_run_directory_is_refused(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    place, refused = tmp_path / "run", []

    def start_again(step: int) -> None:
        if step == 2:
            with pytest.raises(UsageError, match="is being trained by"):
                resume_run(place, toy_store)
            with pytest.raises(UsageError, match="is being trained by"):
                train_run(small(), toy_store, place, overwrite=True)
            refused.append(step)

    train_run(small(), toy_store, tmp_path / "alone")
    train_run(small(), toy_store, place, progress=Hooks(start_again))
    assert refused
    assert same(weights(tmp_path / "alone"), weights(place))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_directory_that_is_taken_away_is_not_put_back(
    toy_store: PreparedStore, tmp_path: Path, replaced: bool
) -> None:
    place = tmp_path / "run"

    def remove(step: int) -> None:
        if step == 4:
            place.rename(tmp_path / "elsewhere")
            if replaced:
                place.mkdir()

    with pytest.raises(RunRemovedError, match="replaced" if replaced else "removed") as caught:
        train_run(small(), toy_store, place, progress=Hooks(remove))
    assert caught.value.exit_code == 1
    assert list(place.iterdir()) == [] if replaced else not place.exists()


def test_a_state_of_an_epochs_last_step_does_not_double_the_epochs_line(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    """As a kill leaves it between the line and the state that goes with it."""
    config, killed = small("train.checkpoint_steps=1"), Hooks(after_epoch=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_run(config, toy_store, tmp_path / "run", progress=killed)
    assert len(records(tmp_path / "run", "epoch")) == 1
    resume_run(tmp_path / "run", toy_store)
    assert [record["epoch"] for record in records(tmp_path / "run", "epoch")] == [1, 2]


def test_a_run_killed_before_its_first_save_resumes_without_old_lines(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    killed = Hooks(lambda step: step == 3 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_run(small(), toy_store, tmp_path / "run", progress=killed)
    assert records(tmp_path / "run", "step") and not records(tmp_path / "run", "epoch")
    (tmp_path / "run" / "environment.json").unlink()
    half = tmp_path / "run" / ".config.yaml.77.tmp"
    half.write_text("half a file of a killed process")
    resume_run(tmp_path / "run", toy_store)
    steps = [record["step"] for record in records(tmp_path / "run", "step")]
    assert steps == sorted(set(steps))
    assert (tmp_path / "run" / "environment.json").exists() and not half.exists()


def test_a_directory_of_a_run_killed_before_it_began_can_be_used(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    place.mkdir()
    (place / ".lock").touch()
    (place / ".config.yaml.77.tmp").touch()
    config = dataclasses.replace(small("train.epochs=1"), name="x")
    assert train_run(config, toy_store, place).epochs == 1


class _Killed(BaseException):
    """Nothing handles it, as nothing handles kill -9."""


def test_an_overwrite_killed_half_way_can_be_repeated(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("train.epochs=1")
    train_run(config, toy_store, tmp_path / "run")
    with monkeypatch.context() as patched:
        unlink, deleted = Path.unlink, []

        def dies(self: Path, missing_ok: bool = False) -> None:
            if len(deleted) == 3:
                raise _Killed
            deleted.append(self)
            unlink(self, missing_ok)

        patched.setattr(Path, "unlink", dies)
        with pytest.raises(_Killed):
            train_run(config, toy_store, tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert train_run(config, toy_store, tmp_path / "run", overwrite=True).epochs == 1


def test_the_same_run_writes_the_same_bytes(toy_store: PreparedStore, tmp_path: Path) -> None:
    """A map of safetensors has another order each time."""
    for folder in "ab":
        train_run(small("train.epochs=1"), toy_store, tmp_path / folder / "run")
    names = ("best.safetensors", "last.safetensors")
    one, two = (
        [(tmp_path / folder / "run" / "checkpoints" / name).read_bytes() for name in names]
        for folder in "ab"
    )
    assert one == two


@pytest.mark.parametrize(
    "said",
    [
        "I/O error: No space left on device (os error 28)",
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space" })',
    ],
)
def test_a_full_disk_is_reported_as_such_whatever_the_version_of_safetensors_says(
    said: str, toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise SafetensorError(said)

    monkeypatch.setattr("elastictool.checkpoint.weights.save_file", full)
    with pytest.raises(WriteError, match="No space left on device"):
        train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
