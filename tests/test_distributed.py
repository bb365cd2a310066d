"""Several processes train one run: what they share, that it is the same run, how they end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from elastictool.cli import app
from elastictool.config import AugmentConfig, LengthDiversityConfig, PackingConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop
from elastictool.data.rank_sharding import locked_tee, shard_steps
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.evaluation.durations import Durations, frames_of, read_durations, stand_in
from elastictool.packing.planners import assign_lpt
from elastictool.training import distributed, trainer
from elastictool.training.distributed import SINGLE, Ranks, init_distributed
from elastictool.training.nonfinite import NonFiniteStep, worst_step
from elastictool.training.run import describe, resume_run, train_run
from elastictool.training.schedule import lr_factor
from elastictool.training.setup import pick_device
from elastictool.training.state import load_training_state
from elastictool.utils.errors import Interrupted, ProcessLostError, UsageError, is_out_of_memory
from elastictool.utils.launch import command, launched
from elastictool.utils.signals import Stopped, StopRequest
from tests.helpers.feature_extractors import feature_extractor
from tests.helpers.several import Several
from tests.helpers.training import SMALL, records, same, small, train_and_stop, weights

STATE = Path("checkpoints") / "last.training.pt"
ONE = torch.tensor(1.0)


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")


# Who computes what


def sampler(
    frames: npt.NDArray[np.int64], batch_clips: int = 12, **changes: Any
) -> TrainingSampler:
    front = feature_extractor(max_frames=3_072)
    wanted: dict[str, Any] = {
        "clips": np.arange(len(frames)),
        "native_frames": frames,
        "feature_extractor": front,
        "augment": AugmentConfig(),
        "packing": PackingConfig(batch_clips=batch_clips),
        "spec": front.pack_spec(),
        "seed": 0,
    }
    return TrainingSampler(**(wanted | changes))


def loads(sampler: TrainingSampler, processes: int) -> npt.NDArray[np.int64]:
    """(steps, processes) tokens of an epoch."""
    return np.array(
        [
            [
                sum(sum(sampler.tokens_of(plan)) for plan in share)
                for share in sampler.shares(step, processes)
            ]
            for step in steps_of(sampler)
        ]
    )


def steps_of(sampler: TrainingSampler) -> list[list[BatchPlan]]:
    plans = list(sampler.epoch(0))
    size = sampler.batches_per_step
    return [plans[start : start + size] for start in range(0, len(plans), size)]


def waited(loads: npt.NDArray[np.int64]) -> float:
    """Share of an epoch by which it is longer than if all processes had the same tokens."""
    return float(loads.max(axis=1).sum() / loads.mean(axis=1).sum() - 1)


def most_waited(loads: npt.NDArray[np.int64]) -> float:
    """The same of the worst step; the last may be a small one."""
    return float((loads.max(axis=1) / loads.mean(axis=1))[:-1].max() - 1)


def clip_frames(durations: Durations) -> npt.NDArray[np.int64]:
    return np.maximum(frames_of(durations), 1)


def test_eight_processes_get_equal_tokens_of_epic_sounds(shared_data: Path) -> None:
    listing = shared_data / "epic_sounds" / "EPIC_Sounds_validation.csv"
    if not listing.exists():
        pytest.skip("the annotations of EPIC-SOUNDS are not there")
    frames = clip_frames(read_durations(listing))
    assert waited(loads(sampler(frames, 8 * 12), 8)) < 0.02
    assert most_waited(loads(sampler(frames, 8 * 24), 8)) < 0.02


def test_eight_processes_get_equal_tokens_of_long_tailed_clips() -> None:
    frames = clip_frames(stand_in(4_000))
    assert most_waited(loads(sampler(frames, 8 * 24), 8)) < 0.02
    by_tokens = PackingConfig(batch_tokens=8 * 16_384)
    assert most_waited(loads(sampler(frames, packing=by_tokens), 8)) < 0.02


def test_small_batches_of_one_step_even_each_other_out() -> None:
    frames = clip_frames(stand_in(1_200))
    alone, together = (loads(sampler(frames, 24, batches_per_step=n), 8) for n in (1, 8))
    assert waited(together) < 0.02 < waited(alone)


@pytest.mark.parametrize("planner", ["first-come", "balanced", "best-fit-decreasing"])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_each_crop_of_a_step_is_on_one_rank(planner: str, processes: int) -> None:
    frames = clip_frames(stand_in(50))
    planned = sampler(
        frames,
        augment=AugmentConfig(length_diversity=LengthDiversityConfig(share=0.5)),
        packing=PackingConfig(batch_clips=7, planner=planner, window=21),
        batches_per_step=3,
    )
    for step in steps_of(planned):
        shares = planned.shares(step, processes)
        shared = [view for share in shares for plan in share for view in plan.crops]
        wanted = [view for plan in step for view in plan.crops]
        assert sorted(shared, key=repr) == sorted(wanted, key=repr)
        assert all(plan.rows for share in shares for plan in share)
        if processes == 1:
            assert shares == [step]
    for process in range(processes):
        found = list(shard_steps(planned, planned.epoch(0), process, processes))
        assert [step.num_batches for step in found] == [3, 3, 2]
        assert [list(step.plans) for step in found] == [
            planned.shares(step, processes)[process] for step in steps_of(planned)
        ]
        assert sum(step.num_crops for step in found) == sum(
            plan.num_crops for plan in planned.epoch(0)
        )


def test_clips_go_longest_first_to_the_emptiest_and_ties_to_the_first() -> None:
    assert assign_lpt([3, 5, 4, 1], [0, 0]) == [[1, 3], [0, 2]]
    assert assign_lpt([3, 5, 4, 1], [9, 0]) == [[0], [1, 2, 3]]
    assert assign_lpt([2], [0, 0, 0]) == [[0], [], []]


def test_a_dry_run_under_torchrun_reports_the_tokens_of_each_rank(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("packing.batch_clips=1")  # one of two processes has nothing to do
    alone = describe(config, toy_store)
    be_rank(monkeypatch, 0, 2)
    shared = describe(config, toy_store)
    assert (shared.pop("processes"), shared.pop("token_imbalance")) == (2, 1.0)
    assert shared == alone


def test_two_threads_read_the_same_steps_whichever_is_ahead() -> None:
    left, right = locked_tee(iter(range(1, 2_000)))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(list, (left, right)))
    assert found[0] == found[1] == list(range(1, 2_000))


# What a process knows of the others


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # batch systems set some of the variables, too
    assert launched().is_single and launched().is_main and command() == "elastictool"
    be_rank(monkeypatch, 0, 1)
    assert launched().is_single
    be_rank(monkeypatch, 2, 4)
    assert (launched().rank, launched().world, launched().is_main) == (2, 4, False)
    assert command() == "torchrun --nproc-per-node 4 -m elastictool"


def test_a_process_alone_asks_nobody() -> None:
    assert SINGLE.gather("x") == ["x"] and SINGLE.all_reduce([], ONE, [2]) == (ONE, [2])
    model = torch.nn.Linear(1, 1)
    before = torch.get_rng_state()
    SINGLE.seed_step(0, 1)
    SINGLE.broadcast(model)
    assert torch.equal(before, torch.get_rng_state())


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    assert pick_device("auto") == "cuda"
    be_rank(monkeypatch, 1, 2)
    assert pick_device("auto") == pick_device("cuda") == "cuda:1"
    assert pick_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="one device for 2 processes"):
        pick_device("cuda:0")
    be_rank(monkeypatch, 1, 3)
    with pytest.raises(UsageError, match="3 processes share 2 GPUs"):
        pick_device("auto")


@pytest.mark.parametrize(
    ("device", "backend", "taken"),
    [("cuda:1", "cpu:gloo,cuda:nccl", ["cuda:1"]), ("cpu", "gloo", [])],
)
def test_gradients_on_a_gpu_are_summed_by_nccl_and_all_else_by_gloo(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str, taken: list[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda name, timeout: seen.append(name))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: seen.append("left"))
    be_rank(monkeypatch, 1, 2)
    with init_distributed(device) as ranks:
        assert (ranks.rank, ranks.world, ranks.is_main, ranks.is_single) == (1, 2, False, False)
    assert seen == [*taken, backend, "left"]  # the device first: nccl takes the current one


def test_after_an_error_the_group_is_left_to_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "init_process_group", lambda name, timeout: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: pytest.fail("waits for the others"))
    be_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError), init_distributed("cpu"):
        raise ValueError


class Twin:
    """In place of torch's sums: those with a second process that has the same numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.error: Exception | None = None
        monkeypatch.setattr(dist, "all_reduce", self.all_reduce)
        monkeypatch.setattr(dist, "broadcast", lambda value, source: None)

    def all_reduce(self, values: Tensor) -> None:
        if self.error:
            raise self.error
        self.sizes.append(len(values))
        values.mul_(2)


def learning(*gradients: float | None) -> list[torch.nn.Parameter]:
    """Parameters of 3, 4, ... values, each with a gradient all of one value, or with none."""
    parameters = [torch.nn.Parameter(torch.zeros(3 + n)) for n in range(len(gradients))]
    for parameter, value in zip(parameters, gradients, strict=True):
        parameter.grad = None if value is None else torch.full_like(parameter, value)
    return parameters


def test_sums_are_of_all_gradients_and_what_nobody_used_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Twin(monkeypatch)
    parameters = learning(1.0, None, 3.0, 0.5)
    assert Ranks(0, 2).all_reduce(parameters, 0.25 * ONE, [7, 1]) == (0.5, [14, 2])
    found = [parameter.grad for parameter in parameters]
    assert found[1] is None
    for gradient, parameter, value in zip(found, parameters, (2.0, 0, 6.0, 1.0), strict=True):
        if gradient is not None:
            assert torch.equal(gradient, torch.full_like(parameter, value))


def test_a_process_without_room_for_the_sums_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that wait for its numbers notice that it ends; in the midst of nccl they would not."""
    twin, parameters = Twin(monkeypatch), learning(1.0, 2.0)

    def full(tensors: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(torch.OutOfMemoryError):
        Ranks(0, 2).all_reduce(parameters, ONE, [])
    assert not twin.sizes


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (dist.DistBackendError("NCCL error: unhandled cuda error: Cuda failure 2 'out of memory'")
        , True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else str(value)[:20],
)  # fmt: skip
def test_a_lack_of_memory_is_not_reported_as_another_process_that_ended(
    monkeypatch: pytest.MonkeyPatch, error: Exception, memory: bool
) -> None:
    twin, parameters = Twin(monkeypatch), learning(1.0)
    twin.error = error
    with pytest.raises(type(error) if memory else ProcessLostError):
        Ranks(0, 2).all_reduce(parameters, ONE, [])
    assert is_out_of_memory(error) == memory
    assert parameters[0].grad is not None and parameters[0].grad.unique().tolist() == [1.0]


def test_the_start_tries_sums_as_large_as_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, model = Twin(monkeypatch), torch.nn.Linear(5, 4)
    ranks = Ranks(0, 2)
    model.bias.requires_grad_(False)
    ranks.broadcast(model)
    tried = list(twin.sizes)
    assert model.weight.grad is None
    ranks.all_reduce([model.weight], ONE, [2])
    assert [2 + 1, *tried] == twin.sizes[len(tried) :]


def test_a_second_signal_under_torchrun_is_no_other_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        be_rank(monkeypatch, 0, 2)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()


def test_the_cause_of_a_skipped_step_is_the_first_that_any_process_found() -> None:
    gradient = NonFiniteStep("gradient", "the gradient overflows", "lower it", (("a", 1.0),))
    inputs = NonFiniteStep("inputs", "of clip b", "look at it", (("b", 2.0), ("c", 3.0)))
    worst = worst_step([gradient, inputs])
    assert (worst.where, worst.remedy) == ("inputs", "look at it")
    assert worst.losses == (("a", 1.0), ("b", 2.0), ("c", 3.0))


def test_other_commands_are_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 0, 2)
    monkeypatch.setattr(sys, "argv", ["elastictool", "eval"])
    with pytest.raises(UsageError, match="elastictool eval works in one process only"):
        app.app(standalone_mode=False)


# One run in one or several processes

RUN = (
    "augment.length_diversity.share=0.5",
    "augment.mixup=0.5",
    "data.balanced_sampling=true",
    "train.accumulate=2",
    "train.clip_norm=0.5",
    "train.ema_decay=0.7",
    "packing.batch_clips=4",
)


def options(store: PreparedStore, *sets: str) -> tuple[object, ...]:
    return ("--dataset", store.path, *(part for text in (*SMALL, *sets) for part in ("-s", text)))


def poison(clip: int) -> None:
    """Put a NaN into one clip's features in the first epoch, in this process from here on."""
    load = ClipDataset.load

    def poisoned(self: ClipDataset, view: Crop, epoch: int = 0, *size: Any) -> Any:
        example = load(self, view, epoch, *size)
        if self.augment is not None and view.clip == clip and epoch == 0:
            example.fbank[0, 0] = torch.nan
        return example

    ClipDataset.load = poisoned  # type: ignore[method-assign]


def close(one: Path, other: Path, which: str = "last") -> bool:
    left, right = weights(one, which), weights(other, which)
    return all(torch.allclose(left[name], right[name], rtol=0, atol=1e-5) for name in left)


def trained_clip(store: PreparedStore) -> int:
    return int((store.splits == "train").nonzero()[0][4])


@dataclass
class Pair:
    """One run by one process and by two."""

    one: Path
    two: Path
    processes: Several


@pytest.fixture(scope="module")
def pair(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    spoil = partial(poison, trained_clip(toy_store))
    line = ("train", "--run-dir", "two", *options(toy_store, *RUN))
    processes = Several(folder, 2, *line, before={0: spoil, 1: spoil})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ClipDataset, "load", ClipDataset.load)  # put back afterwards
        spoil()
        train_run(small(*RUN), toy_store, folder / "one")
    assert processes.end() == [0, 0], processes.shown()
    return Pair(folder / "one", folder / "two", processes)


@pytest.mark.parametrize("which", ["last", "best"])
def test_one_and_two_processes_learn_the_same(pair: Pair, which: str) -> None:
    assert close(pair.one, pair.two, which)
    assert all(step["grad_norm"] > 0 for step in records(pair.two, "step"))  # they do move


def test_one_and_two_processes_log_the_same(pair: Pair) -> None:
    for kind in ("step", "epoch"):
        one, two = records(pair.one, kind), records(pair.two, kind)
        assert len(one) == len(two) > 0
        for left, right in zip(one, two, strict=True):
            assert_alike(left, right)


def assert_alike(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Two records of one step or epoch, but for their times."""
    assert left.keys() == right.keys()
    for name in left.keys() - {"seconds"}:
        number = isinstance(left[name], float)
        assert right[name] == (pytest.approx(left[name], rel=1e-5) if number else left[name]), name


def test_a_step_with_a_broken_clip_is_left_out_by_all(pair: Pair, toy_store: PreparedStore) -> None:
    one, two = skipped(pair.one), skipped(pair.two)
    name = str(toy_store.ids[trained_clip(toy_store)])
    assert [line["step"] for line in one] == [line["step"] for line in two] and one
    for left, right in zip(one, two, strict=True):
        assert left["where"] == right["where"] == "inputs" and name in right["what"]
        assert sorted(clip["id"] for clip in left["clips"]) == sorted(
            clip["id"] for clip in right["clips"]
        )


def test_only_the_main_process_writes_and_prints(pair: Pair) -> None:
    first, second = (child.shown() for child in pair.processes.children)
    assert "epoch 2/2" in first and "skipped" in first and second == ""
    left, right = (
        sorted(
            str(file.relative_to(run))
            for file in run.rglob("*")
            if "report" not in file.name and file.name != ".lock-results"  # the report's lock
        )
        for run in (pair.one, pair.two)
    )
    assert [name for name in right if not name.startswith("figures")] == left


def skipped(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]


def in_step(step: int, act: Callable[[], object]) -> None:
    """Let ``act`` happen to this process while it computes a step."""

    def acting(schedule: Any, now: int, *rest: Any) -> float:
        if now == step:
            act()
        return lr_factor(schedule, now, *rest)

    trainer.lr_factor = acting  # type: ignore[assignment]


def stop_at(step: int) -> None:
    """Let this process be asked to stop while it computes a step."""
    in_step(step, partial(os.kill, os.getpid(), signal.SIGTERM))


def test_a_signal_to_one_process_stops_all_at_one_step_and_one_process_resumes(
    pair: Pair, toy_store: PreparedStore, tmp_path: Path
) -> None:
    spoil = partial(poison, trained_clip(toy_store))
    line = ("train", "--run-dir", "run", *options(toy_store, *RUN))
    both = partial(in_turn, spoil, partial(stop_at, 4))
    processes = Several(tmp_path, 2, *line, before={0: spoil, 1: both})
    assert processes.end() == [130, 130], processes.shown()
    shown = processes.shown()
    assert shown.count("everything is saved") == 1 and "step 4" in shown
    assert "torchrun --nproc-per-node 2 -m elastictool train --resume" in shown
    assert load_training_state(tmp_path / "run" / STATE)["state"]["step"] == 4
    resume_run(tmp_path / "run", toy_store)
    assert close(pair.one, tmp_path / "run")


def in_turn(*actions: Callable[[], None]) -> None:
    for action in actions:
        action()


# The same, at length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sets"),
    [
        (2, ("packing.batch_clips=1",)),  # one of the two is always without a clip
        (3, ("packing.batch_tokens=200", "packing.planner=balanced")),
        (2, ("packing.planner=best-fit-decreasing", "packing.window=12")),
        (2, ("train.attention=reference", "augment.token_dropout=0.2")),
        (2, ("model.preset=flexiast", "flexi.sizes=[8, 16]", "train.accumulate=2")),
        (2, ("train.loader_workers=1", "train.average_epochs=[1, 2]")),
        (2, ("train.loss=bce", "train.freeze=[patch_embed, blocks.0]", "train.checkpoint_steps=2")),
        (2, ("packing.pad_to_multiple_of=64", "train.optimizer=adamw", "train.layer_decay=0.7")),
    ],
    ids=str,
)
def test_any_number_of_processes_learns_the_same(
    toy_store: PreparedStore, tmp_path: Path, world: int, sets: tuple[str, ...]
) -> None:
    line = ("train", "--run-dir", "several", *options(toy_store, *sets))
    processes = Several(tmp_path, world, *line)
    train_run(small(*sets), toy_store, tmp_path / "one")
    assert processes.end() == [0] * world, processes.shown()
    checkpoints = sorted(file.stem for file in (tmp_path / "one").rglob("*.safetensors"))
    for which in checkpoints:
        assert close(tmp_path / "one", tmp_path / "several", which), which
    for left, right in zip(
        *(records(tmp_path / name, "epoch") for name in ("one", "several")), strict=True
    ):
        # Each process fills up its own stream, or its own rows.
        assert_alike(left, right | {"padding_share": left["padding_share"]})


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small(*RUN), toy_store, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_and_stop(small(*RUN), toy_store, tmp_path / "run", steps=4)
    processes = Several(tmp_path, 2, "train", "--resume", "--run-dir", "run")
    assert processes.end() == [0, 0], processes.shown()
    assert close(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_with_dropout_resume_to_the_same_bits(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    sets = (*RUN, "model.dropout=0.3")
    assert Several(tmp_path, 2, "train", "--run-dir", "whole", *options(toy_store, *sets)).end()
    line = ("train", "--run-dir", "run", *options(toy_store, *sets))
    stopped = Several(tmp_path, 2, *line, before={0: partial(stop_at, 3)})
    assert stopped.end() == [130, 130], stopped.shown()
    resumed = Several(tmp_path, 2, "train", "--resume", "--run-dir", "run")
    assert resumed.end() == [0, 0], resumed.shown()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def kill_hard() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_memory() -> None:
    torch.empty(1 << 50)


def no_memory_for_sums() -> None:
    distributed._gradient = lambda parameter: torch.empty(1 << 50)


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "how", "codes", "words"),
    [
        (1, kill_hard, [1, -9], "another process of this run has ended"),
        (0, kill_hard, [-9, 1], "another process of this run has ended"),
        (1, no_memory, [1, 1], "out of memory with"),
        (1, no_memory_for_sums, [1, 1], "out of memory with"),
        (0, full_disk, [1, 1], "File too large"),
    ],
    ids=["killed", "first killed", "memory", "memory for sums", "disk"],
)
def test_a_process_that_fails_ends_all_with_one_message_and_the_run_resumes(
    toy_store: PreparedStore,
    tmp_path: Path,
    rank: int,
    how: Callable[[], None],
    codes: list[int],
    words: str,
) -> None:
    line = ("train", "--run-dir", "run", *options(toy_store, "train.checkpoint_steps=2"))
    processes = Several(tmp_path, 2, *line, before={rank: partial(in_step, 5, how)})
    assert processes.end() == codes, processes.shown()
    shown = processes.shown()
    assert shown.count("error:") == 1 and words in shown and "Traceback" not in shown
    assert "--resume" in shown
    saved = load_training_state(tmp_path / "run" / STATE)["state"]["step"]
    assert saved == (5 if rank == 1 else 4)  # the first saves the last whole step where it can
    train_run(small(), toy_store, tmp_path / "whole")
    resume_run(tmp_path / "run", toy_store)
    assert close(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_refusal_is_shown_once_and_at_once(toy_store: PreparedStore, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    for wrong, words in (("train.epochs=0", "above 0"), ("train.epochs=1", "is not empty")):
        line = ("train", "--run-dir", "run", *options(toy_store, wrong))
        processes = Several(tmp_path, 2, *line)
        assert processes.end()[0] == 2
        assert processes.shown().count("error:") == 1 and words in processes.shown()


@pytest.mark.slow
def test_torchrun_starts_and_stops_a_run(toy_store: PreparedStore, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = ["-m", "elastictool", "train", "--run-dir", "run"]
    sets = options(toy_store, "train.epochs=400", "train.loader_workers=1")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*torchrun, *line, *map(str, sets)], cwd=tmp_path, stderr=subprocess.PIPE, env=environment
    )
    while not (tmp_path / "run" / STATE).exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    shown = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 1  # torchrun's own; those of the processes are in its summary
    assert shown.count("everything is saved") == 1, shown
    state = load_training_state(tmp_path / "run" / STATE)["state"]
    assert state["step"] == 3 * state["epoch"] + state["batch"] > 0
