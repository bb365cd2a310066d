"""The trainer: exact resume, and each option has its effect."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elastictool.checkpoint.find import latest_runs
from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import load_run
from elastictool.config import FbankConfig, TrainConfig
from elastictool.config.loader import read_settings
from elastictool.data.dataset import ClipDataset
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.reporting.runs import summarise
from elastictool.training.losses import clip_losses
from elastictool.training.run import describe, resume_run, train_run
from elastictool.training.setup import pick_device, pick_precision
from elastictool.training.state import load_training_state
from elastictool.training.trainer import Trainer
from elastictool.utils.errors import CheckpointError, Interrupted, UsageError
from tests.helpers.children import Child
from tests.helpers.training import (
    SMALL,
    Hooks,
    records,
    same,
    small,
    train_and_stop,
    trainer,
    weights,
)

BATCH_OPTIONS = (
    "augment.length_diversity.share=0.5",
    "augment.token_dropout=0.2",
    "augment.mixup=0.5",
    "augment.noise=0.1",
    "augment.roll=10",
    "data.balanced_sampling=true",
)


def test_progress_shows_unit_loss_and_speed(toy_store: PreparedStore, tmp_path: Path) -> None:
    titles: list[str] = []
    notes: list[str] = []

    class Heard:
        @contextmanager
        def task(self, what: str, total: float | None) -> Iterator[Any]:
            titles.append(what)
            yield SimpleNamespace(advance=lambda amount=1, note="": notes.append(note))

        def log(self, message: str) -> None:
            pass

    train_run(small("train.epochs=1"), toy_store, tmp_path / "run", progress=Heard())
    assert titles[0] == "epoch 1/1, batches"
    assert notes and all(re.fullmatch(r"loss [\d.]+, [\d,.]+ clips/s", note) for note in notes)


def test_a_model_learns_the_toy_classes(toy_store: PreparedStore, tmp_path: Path) -> None:
    result = train_run(small("train.epochs=40", "train.lr=3e-3"), toy_store, tmp_path / "run")
    assert result.validation["top1"] >= 0.9
    losses = [record["train_loss"] for record in records(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        *((steps, ()) for steps in (1, 3, 5)),
        (4, ("train.clip_norm=0.1",)),
        (4, ("train.layer_decay=0.7", "train.head_lr_factor=3")),
        (4, ("train.optimizer=adamw", "train.weight_decay_on=kernels")),
        (4, ("train.freeze=[patch_embed, blocks.0]",)),
        (2, ("train.ema_decay=0.8",)),
        (4, ("train.ema_decay=0.8", "train.average_epochs=[1, 2]")),
        (3, ("train.average_epochs=[1, 2]", "train.accumulate=2")),
        (4, ("train.tensorboard=true",)),
    ],
    ids=str,
)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_last_bit(
    toy_store: PreparedStore,
    tmp_path: Path,
    steps: int,
    options: tuple[str, ...],
) -> None:
    config = small("model.dropout=0.2", *BATCH_OPTIONS, *options)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_run(config, toy_store, whole)
    with pytest.raises(Interrupted) as caught:
        train_and_stop(config, toy_store, parts, steps)
    assert caught.value.exit_code == 130
    assert "--resume" in caught.value.hint
    torch.rand(100)  # a new process would have another generator state
    resume_run(parts, toy_store)
    checkpoints = sorted(file.stem for file in (whole / "checkpoints").glob("*.safetensors"))
    for which in checkpoints:
        assert same(weights(whole, which), weights(parts, which)), which
    for kind in ("step", "epoch", "averaged"):
        kept = [
            [
                {key: value for key, value in record.items() if key != "seconds"}
                for record in records(path, kind)
            ]
            for path in (whole, parts)
        ]
        assert kept[0] == kept[1]


def test_an_epoch_counts_its_own_seconds_without_validation_and_saving(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(name: str, seconds: float) -> None:
        plain = getattr(Trainer, name)

        def slowed(*given: Any) -> Any:
            time.sleep(seconds)
            return plain(*given)

        monkeypatch.setattr(Trainer, name, slowed)

    slow("_validate", 1.5)
    slow("_save", 1.5)
    slow("_step", 0.1)
    config, path = small("train.epochs=2", "train.checkpoint_steps=3"), tmp_path / "run"
    with pytest.raises(Interrupted):
        train_and_stop(config, toy_store, path, 2)
    result = resume_run(path, toy_store)
    steps = len(records(path, "step")) // 2
    seconds = [record["seconds"] for record in records(path, "epoch")]
    assert all(0.1 * steps <= spent < 0.1 * steps + 1.2 for spent in seconds)
    assert result.seconds == pytest.approx(sum(seconds), abs=0.01)
    assert summarise(path).training_s == pytest.approx(sum(seconds))


def test_loading_is_part_of_an_epochs_seconds(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ClipDataset.load

    def slow(*given: Any) -> Any:
        time.sleep(0.02)
        return plain(*given)

    monkeypatch.setattr(ClipDataset, "load", slow)
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    (record,) = records(tmp_path / "run", "epoch")
    assert record["seconds"] >= 0.02 * (toy_store.splits == "train").sum() / 2


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("augment.length_diversity.share=1", "augment.length_diversity.mode=replace"),
        ("augment.length_diversity.share=1", "augment.length_diversity.mode=add"),
        ("length.crop=random",),
        ("data.balanced_sampling=true",),
    ],
    ids=str,
)
def test_cut_frames_are_those_beyond_the_length_limit(
    toy_store: PreparedStore, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    for limit in (64, 3_000):
        config = small("train.epochs=1", f"length.max_frames={limit}", *sets)
        path = tmp_path / str(limit)
        train_run(config, toy_store, path)
        (record,) = records(path, "epoch")
        train = toy_store.splits == "train"
        native = FbankConfig().num_frames(toy_store.num_samples[train])
        beyond = np.maximum(native - limit, 0)
        assert beyond.any() == (limit == 64)
        if "data.balanced_sampling=true" in sets:
            assert (record["cut_frames"] > 0) == beyond.any()
        else:
            assert record["cut_frames"] == beyond.sum()


def test_a_line_of_an_epoch_that_the_saved_state_has_not_finished_is_written_once(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    # The epoch's last step was saved, its line was written, its end was not saved.
    path, killed = tmp_path / "run", Hooks(after_epoch=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_run(small("train.checkpoint_steps=1"), toy_store, path, progress=killed)
    assert len(records(path, "epoch")) == 1
    resume_run(path, toy_store)
    assert [record["epoch"] for record in records(path, "epoch")] == [1, 2]


def test_a_killed_run_resumes_to_the_same_bits(toy_store: PreparedStore, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(small("train.epochs=40"), toy_store, whole)
    sets = [part for text in (*SMALL, "train.epochs=40") for part in ("--set", text)]
    data = ("--dataset", toy_store.path)
    child = Child(tmp_path, "train", *data, "--run-dir", "killed", *sets)
    state = killed / "checkpoints" / "last.training.pt"
    while not state.exists() and child.process.is_alive():
        time.sleep(0.01)
    child.process.kill()
    assert child.wait() == -signal.SIGKILL, child.shown()
    resume_run(killed, toy_store)
    assert same(weights(whole), weights(killed))


def test_accumulation_of_two_batches_of_six_equals_a_batch_of_twelve(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    # A small rate: Adam's steps are as large as it, and so is what rounding makes of them.
    for name, setting in {
        "twelve": "packing.batch_clips=12",
        "two-by-six": "train.accumulate=2",
    }.items():
        train_run(small(setting, "train.lr=1e-4"), toy_store, tmp_path / name)
    one, two = weights(tmp_path / "twelve"), weights(tmp_path / "two-by-six")
    differences = [float((one[name] - two[name]).abs().max()) for name in one]
    assert max(differences) < 1e-6  # a step moves weights by 1e-4


def test_packing_does_not_change_what_is_learnt(toy_store: PreparedStore, tmp_path: Path) -> None:
    plans = ("first-come", "balanced", "none")
    for planner in plans:
        train_run(small(f"packing.planner={planner}"), toy_store, tmp_path / planner)
    train_run(small("train.attention=reference"), toy_store, tmp_path / "reference")
    expected = weights(tmp_path / "first-come")
    for other in (*plans[1:], "reference"):
        found = weights(tmp_path / other)
        assert all(torch.allclose(expected[n], found[n], atol=2e-5) for n in expected), other


def test_any_number_of_workers_gives_the_same_bits(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    for workers in (0, 2):
        sets = (f"train.loader_workers={workers}", "train.epochs=1", *BATCH_OPTIONS)
        train_run(small(*sets), toy_store, tmp_path / str(workers))
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_the_cache_changes_nothing(toy_store: PreparedStore, tmp_path: Path) -> None:
    sets = ("augment.length_diversity.share=1", "augment.length_diversity.mode=replace")
    for cache in (0, 1, 512):
        train_run(small(f"train.cache_mb={cache}", *sets), toy_store, tmp_path / str(cache))
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert same(weights(tmp_path / "0"), weights(tmp_path / "512"))


@pytest.mark.parametrize(
    "sets",
    [
        ("seed=1",),
        ("train.lr=1e-3",),
        ("train.optimizer=adamw", "train.weight_decay=0.1"),
        ("train.betas=[0.5, 0.9]",),
        ("train.weight_decay=0.1",),
        ("train.weight_decay=0.1", "train.weight_decay_on=matrices"),
        ("train.weight_decay=0.1", "train.weight_decay_on=kernels"),
        ("train.clip_norm=0.01",),
        ("train.layer_decay=0.5",),
        ("train.head_lr_factor=3",),
        ("train.freeze=head",),
        ("train.ema_decay=0.5",),
        ("train.loss=bce",),
        ("train.label_smoothing=0.1",),
        ("train.precision=bf16",),
        ("train.schedule.kind=constant",),
        ("train.schedule.kind=multistep", "train.schedule.decay_from=1"),
        ("train.schedule.warmup_steps=3",),
        ("train.schedule.final_factor=0.5",),
        ("augment.frequency_mask=0",),
        ("augment.time_mask=0",),
        ("augment.mask_value=zero",),
        ("augment.length_diversity.share=1",),
        ("augment.token_dropout=0.3",),
        ("augment.mixup=0.5",),
        ("augment.noise=0.1",),
        ("augment.roll=10",),
        ("data.balanced_sampling=true",),
        ("data.balanced_sampling=true", "data.epoch_clips=20"),
        ("augment.length_diversity.share=1", "augment.length_diversity.mode=replace"),
        ("model.dropout=0.3",),
        ("model.pooling=mean",),
        ("model.initialization=official",),
        ("model.attention_scale=1",),
        ("length.max_frames=40",),
        ("length.edge=drop",),
        ("length.padding=zero",),
        ("length.fixed_frames=64",),
        ("length.fixed_frames=32", "length.crop=random"),
        ("packing.batch_clips=9",),
        ("packing.batch_tokens=200",),
        ("packing.planner=best-fit-decreasing", "packing.window=12"),
        ("data.mean=-5", "data.std=4"),
        ("fbank.shift_ms=12.5",),
        ("fbank.preemphasis=0",),
    ],
    ids=" ".join,
)
def test_each_option_has_an_effect(
    plain_weights: dict[str, torch.Tensor],
    toy_store: PreparedStore,
    tmp_path: Path,
    sets: tuple[str, ...],
) -> None:
    train_run(small("train.epochs=1", *sets), toy_store, tmp_path / "run")
    changed = weights(tmp_path / "run")
    shared = [name for name in plain_weights if name in changed]
    assert any(
        plain_weights[name].shape != changed[name].shape
        or not torch.equal(plain_weights[name], changed[name])
        for name in shared
    )


@pytest.fixture(scope="module")
def plain_weights(
    toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    path = tmp_path_factory.mktemp("plain") / "run"
    train_run(small("train.epochs=1"), toy_store, path)
    return weights(path)


def test_the_same_configuration_gives_the_same_bits(
    plain_weights: dict[str, torch.Tensor], toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    assert same(plain_weights, weights(tmp_path / "run"))


def test_best_is_chosen_by_validation_only(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small("train.epochs=4"), toy_store, tmp_path / "run")
    epochs = records(tmp_path / "run", "epoch")
    scores = [record["val_top1"] for record in epochs]
    best = load_run(tmp_path / "run", "best")
    assert best.metrics["epoch"] == 1 + int(np.argmax(scores))
    assert best.metrics["top1"] == max(scores)


def test_validation_ranks_probabilities_as_eval_does(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=2"), toy_store, tmp_path / "run")
    run = load_run(tmp_path / "run", "last")
    result = evaluate_run(run, toy_store, "validation")
    last = records(tmp_path / "run", "epoch")[-1]
    assert last["val_map"] == pytest.approx(result.metrics.values["map"], abs=1e-9)


def test_without_validation_best_is_last(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small("data.validation_split=none"), toy_store, tmp_path / "run")
    assert same(weights(tmp_path / "run", "best"), weights(tmp_path / "run", "last"))


def test_validate_every_skips_epochs_but_not_the_last(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=5", "train.validate_every=3"), toy_store, tmp_path / "run")
    validated = ["val_top1" in record for record in records(tmp_path / "run", "epoch")]
    assert validated == [False, False, True, False, True]


def test_checkpoint_steps_save_within_an_epoch(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for every in (0, 1):
        saved: list[int] = []
        monkeypatch.setattr(
            "elastictool.training.trainer.save_training_state",
            lambda path, state, saved=saved: saved.append(1),
        )
        path = tmp_path / str(every)
        trainer(toy_store, path, f"train.checkpoint_steps={every}").fit()
        counts[every] = len(saved)
    assert counts[0] == 2 and counts[1] > counts[0]


def test_a_run_directory_is_never_overwritten_unasked(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    with pytest.raises(UsageError, match="not empty") as caught:
        train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    assert "--overwrite" in caught.value.hint
    train_run(small("train.epochs=1", "seed=1"), toy_store, tmp_path / "run", overwrite=True)


def test_overwrite_spares_a_folder_that_is_no_run(toy_store: PreparedStore, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(UsageError, match="not a run directory"):
        train_run(small(), toy_store, precious.parent, overwrite=True)
    assert precious.read_text() == "years of work"


def test_a_wrong_setting_is_found_before_an_old_run_is_deleted(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    with pytest.raises(UsageError):
        train_run(small("data.test_fold=9"), toy_store, tmp_path / "run", overwrite=True)
    assert load_run(tmp_path / "run").label_names


def test_resume_refuses_other_data(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    other = dataclasses.replace(toy_store.info, fingerprint="other")
    with pytest.raises(CheckpointError, match="other data"):
        resume_run(
            tmp_path / "run",
            PreparedStore(toy_store.path, other, {toy_store.path: toy_store._table}),
        )


def test_resume_with_other_settings_is_refused_and_with_its_own_continues(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    train_run(small("train.epochs=1"), toy_store, path)
    for sets, other in (
        (["train.epochs=3"], "train.epochs=3 (the run: 1)"),
        (["train.epochs=10"], "train.epochs=10 (the run: 1)"),  # 10 is the default
        (["model.size=tiny"], "model.width=192 (the run: 32)"),
        (["data.mean=1.5", "data.std=2"], "data.mean=1.5 (the run: -"),
        (["seed=1", "train.lr=3e-4"], "seed=1 (the run: 0)"),
    ):
        with pytest.raises(UsageError) as caught:
            resume_run(path, toy_store, settings=read_settings(None, sets))
        assert other in caught.value.message, sets
        assert "init.from=run" in caught.value.hint
    # What data and machine decided is no difference, nor are the settings of the run's own call.
    same_as_before = [*SMALL, "train.epochs=1", "train.precision=auto", "model.preset=elasticast"]
    resume_run(path, toy_store, settings=read_settings(None, same_as_before))


def test_a_run_begun_on_a_cpu_has_no_state_of_cuda_to_take_up(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    """Its device may be auto, and it may go on where there is a GPU."""
    path = tmp_path / "run"
    train_run(small("train.epochs=1"), toy_store, path)
    continued = Trainer(RunDirectory(path).read_config(), toy_store, RunDirectory(path))
    continued.train_state = dataclasses.replace(continued.train_state, device=torch.device("cuda"))
    continued.resume(load_training_state(RunDirectory(path).training_state))
    assert continued.state.epoch == 1


@pytest.mark.parametrize(
    "device, capability, precision",
    [("cpu", (9, 0), "fp32"), ("cuda", (7, 5), "fp32"), ("cuda", (8, 0), "bf16")],
)
def test_automatic_precision_is_bf16_where_a_gpu_computes_with_it(
    device: str, capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.training.setup.pick_device", lambda *wanted: device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(TrainConfig()) == precision
    assert pick_precision(TrainConfig(precision="fp32")) == "fp32"


def test_a_run_records_the_precision_that_was_chosen(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").read_config().train.precision == "fp32"


def test_resume_of_nothing_is_an_error(toy_store: PreparedStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        resume_run(tmp_path / "nothing", toy_store)


@pytest.mark.parametrize("damage", ["truncate", "text", "empty"])
def test_a_damaged_checkpoint_is_a_clear_error(
    toy_store: PreparedStore, tmp_path: Path, damage: str
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    content = {"truncate": None, "text": b"not a checkpoint", "empty": b""}[damage]
    for name in ("last.safetensors", "last.training.pt"):
        file = tmp_path / "run" / "checkpoints" / name
        file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(CheckpointError, match=r"last\.safetensors") as caught:
        load_run(tmp_path / "run", "last")
    assert caught.value.exit_code == 4
    with pytest.raises(CheckpointError, match=r"last\.training\.pt"):
        resume_run(tmp_path / "run", toy_store)


def test_weights_that_do_not_fit_their_configuration_are_refused(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "best.safetensors"
    tensors = load_file(file)
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        metadata = opened.metadata()
    tensors["head.weight"] = tensors["head.weight"][:2].clone()
    save_file(tensors, file, metadata)
    with pytest.raises(CheckpointError, match=r"head\.weight is \(2, 32\)"):
        load_run(tmp_path / "run")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="not written by elastictool"):
        load_run(tmp_path / "run")


def test_without_a_run_the_error_names_the_command_that_trains_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trained run") as caught:
        latest_runs(root=tmp_path)
    assert "elastictool train" in caught.value.hint


def test_the_latest_run_is_the_one_trained_last(toy_store: PreparedStore, tmp_path: Path) -> None:
    for name in ("b", "a"):
        train_run(small("train.epochs=1"), toy_store, tmp_path / name)
    assert latest_runs(root=tmp_path) == [tmp_path / "a", tmp_path / "b"]


def test_cross_entropy_spreads_a_clip_over_its_labels() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    log_p = logits.log_softmax(1)
    expected = torch.stack([-log_p[0, 0], -log_p[1, 1:].mean(), -log_p[2, 2], -log_p[3, :2].mean()])
    assert torch.allclose(clip_losses(logits, targets, small()), expected)


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_clip_is_the_mixed_loss(loss: str, smoothing: float) -> None:
    config = small(f"train.loss={loss}", f"train.label_smoothing={smoothing}")
    logits = torch.randn(5, 4, dtype=torch.float64)
    one, other = torch.eye(4, dtype=torch.float64)[torch.randint(0, 4, (2, 5))]
    ratio = torch.rand(5, 1, dtype=torch.float64)
    mixed = clip_losses(logits, ratio * one + (1 - ratio) * other, config)
    parts = [clip_losses(logits, targets, config) for targets in (one, other)]
    assert torch.allclose(mixed, ratio[:, 0] * parts[0] + (1 - ratio[:, 0]) * parts[1])


def test_an_unlabelled_part_of_a_mixed_clip_adds_nothing_to_its_cross_entropy() -> None:
    logits, labelled = torch.randn(1, 3), torch.tensor([[0.0, 1.0, 0.0]])
    whole = clip_losses(logits, labelled, small())
    assert torch.allclose(clip_losses(logits, 0.3 * labelled, small()), 0.3 * whole)


def test_validation_sees_whole_clips_whatever_training_drops(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(toy_store, tmp_path / "run", *BATCH_OPTIONS)
    loaded: list[Any] = []
    load = ClipDataset.load

    def noted(self: ClipDataset, view: Any, *how: Any) -> Any:
        loaded.append((self, view, load(self, view, *how)))
        return loaded[-1][2]

    monkeypatch.setattr(ClipDataset, "load", noted)
    run.fit()
    evaluated = [
        (view, example) for dataset, view, example in loaded if dataset is run.batches.eval_set
    ]
    assert len(evaluated) == 2 * len(run.splits.validation)
    assert all(view.mix is None and example.kept is None for view, example in evaluated)
    plain = ClipDataset(toy_store, run.batches.eval_set.feature_extractor)
    assert all(torch.equal(example.fbank, plain.load(view).fbank) for view, example in evaluated)
    assert any(example.kept is not None for *_, example in loaded)


def test_data_without_labels_are_refused_before_an_old_run_is_deleted(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    nothing = np.empty(0, dtype=np.int64)
    monkeypatch.setattr(PreparedStore, "label_pairs", lambda self: (nothing, nothing))
    with pytest.raises(UsageError, match="no labelled clip"):
        sets = "data.balanced_sampling=true"
        train_run(small(sets), toy_store, tmp_path / "run", overwrite=True)
    assert weights(tmp_path / "run")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be used here"):
        pick_device("cuda:99")


def test_the_run_directory_records_how_it_was_made(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["data_fingerprint"] == toy_store.info.fingerprint
    assert environment["torch"] == torch.__version__
    assert RunDirectory(tmp_path / "run").read_config().model.num_classes == 3


@pytest.mark.parametrize("packing", ["packing.batch_clips=6", "packing.batch_tokens=100"])
def test_a_warm_up_longer_than_training_is_refused_before_anything_is_touched(
    toy_store: PreparedStore, tmp_path: Path, packing: str
) -> None:
    steps = describe(small(packing, "train.epochs=1"), toy_store)["optimizer_steps"]
    too_long = small(packing, "train.epochs=1", f"train.schedule.warmup_steps={steps + 1}")
    for start in (describe, lambda *run: train_run(*run, tmp_path / "run")):
        with pytest.raises(UsageError, match=rf"= {steps + 1} is longer than .* {steps} steps"):
            start(too_long, toy_store)
    assert not (tmp_path / "run").exists()
    fitting = small(packing, "train.epochs=1", f"train.schedule.warmup_steps={steps}")
    assert describe(fitting, toy_store)["optimizer_steps"] == steps


def test_describe_counts_what_training_does(toy_store: PreparedStore, tmp_path: Path) -> None:
    plan = describe(small(), toy_store)
    train_run(small(), toy_store, tmp_path / "run")
    assert plan["optimizer_steps"] == records(tmp_path / "run", "step")[-1]["step"]
    assert plan["tokens_per_epoch"] == records(tmp_path / "run", "epoch")[0]["tokens"]


def test_what_a_process_killed_while_starting_left_behind_is_cleared(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    """It had no configuration yet, so the same command starts again instead of resuming."""
    left = tmp_path / "run" / ".config.yaml.123-0a1b2c3d.tmp"
    left.parent.mkdir()
    left.write_text("half a con")
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    assert not left.exists()
