"""Distillation: the stated loss, a teacher that never changes, and teachers that do not fit."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import load_run
from elastictool.config import RunConfig
from elastictool.config.loader import load_run_config
from elastictool.data.store import PreparedStore
from elastictool.training.distillation import Teacher, class_divergence, label_divergence
from elastictool.training.losses import clip_losses
from elastictool.training.run import describe, resume_run, train_run
from elastictool.training.trainer import Trainer
from elastictool.utils.errors import CheckpointError, Interrupted, UsageError
from tests.helpers.saved_runs import save_run
from tests.helpers.training import Hooks

SMALL = (
    "model.preset=flexiast", "model.width=32", "model.heads=2", "model.depth=1",
    "length.fixed_frames=64", "train.epochs=1", "packing.batch_clips=6", "flexi.sizes=[8, 24]",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("t") / "teacher", toy_store, "ast", fixed_frames=64)


def settings(teacher: Path, *sets: str) -> RunConfig:
    return load_run_config(None, [*SMALL, f"train.distill.teacher={teacher}", *sets])


def weights(path: Path) -> dict[str, Tensor]:
    return load_run(path, "last").model.state_dict()


def test_the_divergence_is_that_of_two_distributions() -> None:
    teacher, student = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(class_divergence(teacher, student), expected)
    assert class_divergence(teacher, teacher).abs().max() < 1e-12
    p, q = teacher.sigmoid(), student.sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(label_divergence(teacher, student), each.mean(1))


def test_confident_logits_keep_the_divergence_finite() -> None:
    sure, wrong = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    assert class_divergence(sure, wrong).item() == pytest.approx(400)
    assert label_divergence(sure, wrong).item() == pytest.approx(200)


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("temperature, weight", [(1.0, 1.0), (3.0, 0.7)])
def test_the_trainers_loss_is_the_stated_formula(
    toy_store: PreparedStore,
    tmp_path: Path,
    teacher: Path,
    loss: str,
    temperature: float,
    weight: float,
) -> None:
    path = teacher
    if loss == "bce":
        path = _with_loss(teacher, tmp_path / "teacher", "bce")
    config = settings(
        path,
        f"train.loss={loss}",
        f"train.distill.temperature={temperature}",
        f"train.distill.weight={weight}",
    )
    trainer = make_trainer(config, toy_store, tmp_path / "run")
    (batch,) = next(trainer.batches.steps(0)).batches
    assert batch.teacher_batch is not None
    assert batch.patch_groups[0].patch_size != batch.teacher_batch.patch_groups[0].patch_size
    assert batch.teacher_batch.patch_groups[0].patch_size == (16, 16)
    assert batch.teacher_batch.clip_ids == batch.clip_ids
    with torch.no_grad():
        found = trainer._clip_losses(batch)
        student = trainer.model(batch)
        taught = load_run(path).model(batch.teacher_batch)
        supervised = clip_losses(student, batch.targets, trainer.config)
    squash = (lambda x: x.softmax(1)) if loss == "ce" else torch.sigmoid
    p, q = squash(taught / temperature), squash(student / temperature)
    kl = p * (p / q).log()
    if loss == "bce":
        kl = kl + (1 - p) * ((1 - p) / (1 - q)).log()
    divergence = kl.sum(1) if loss == "ce" else kl.mean(1)
    expected = (1 - weight) * supervised + weight * temperature**2 * divergence
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _with_loss(run: Path, path: Path, loss: str) -> Path:
    """A copy of an untrained run that says it was trained with ``loss``."""
    from elastictool.checkpoint.weights import save_weights

    loaded = load_run(run)
    train = dataclasses.replace(loaded.config.train, loss=loss)
    config = dataclasses.replace(loaded.config, train=train)
    file = RunDirectory(path).best_weights
    file.parent.mkdir(parents=True)
    save_weights(file, loaded.model, dataclasses.replace(loaded.metadata, config=config))
    return path


def make_trainer(config: RunConfig, store: PreparedStore, path: Path) -> Trainer:
    run = RunDirectory(path)
    run.create(overwrite=False)
    return Trainer(config, store, run)


def test_the_teacher_stays_as_it_is_and_the_student_follows_it(
    toy_store: PreparedStore, tmp_path: Path, teacher: Path
) -> None:
    config = settings(teacher, "train.epochs=8", "train.lr=3e-3")
    trainer = make_trainer(config, toy_store, tmp_path / "run")
    assert isinstance(trainer.teacher, Teacher)
    model = trainer.teacher.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    trainer.fit()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [
        float(line.split('"train_loss": ')[1].split(",")[0])
        for line in lines
        if "train_loss" in line
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "sets", [("train.distill.temperature=4",), ("train.distill.weight=0.5",)], ids=" ".join
)
def test_each_option_has_an_effect(
    toy_store: PreparedStore, tmp_path: Path, teacher: Path, sets: tuple[str, ...]
) -> None:
    taught, changed, alone = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    train_run(settings(teacher), toy_store, taught)
    train_run(settings(teacher, *sets), toy_store, changed)
    train_run(load_run_config(None, SMALL), toy_store, alone)
    for other in (changed, alone):
        assert not torch.equal(weights(taught)["head.weight"], weights(other)["head.weight"])


def test_a_distilled_run_resumes_to_the_same_bits_with_any_number_of_workers(
    toy_store: PreparedStore, tmp_path: Path, teacher: Path
) -> None:
    train_run(settings(teacher, "train.epochs=2"), toy_store, tmp_path / "whole")
    config = settings(teacher, "train.epochs=2", "train.loader_workers=1")
    stop = Hooks(after_epoch=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train_run(config, toy_store, tmp_path / "parts", progress=stop)
    resume_run(tmp_path / "parts", toy_store)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "setting, words",
    [
        ("fbank.shift_ms=20", ["fbank.shift_ms is 10.0", "20.0"]),
        ("length.fixed_frames=80", ["length.fixed_frames is 64", "80"]),
        ("length.padding=zero", ["length.padding"]),
        ("data={mean: -3.0, std: 2.0}", ["data.mean", "data.std"]),
        ("train.loss=bce", ["train.loss is ce"]),
    ],
)
def test_a_teacher_that_sees_other_inputs_is_refused_before_anything_is_deleted(
    toy_store: PreparedStore, tmp_path: Path, teacher: Path, setting: str, words: list[str]
) -> None:
    earlier = save_run(tmp_path / "former", toy_store)
    config = settings(teacher, setting)
    with pytest.raises(CheckpointError) as caught:
        train_run(config, toy_store, earlier, overwrite=True)
    assert all(word in caught.value.message for word in words)
    assert load_run(earlier)
    with pytest.raises(CheckpointError):
        describe(config, toy_store)


def test_a_missing_teacher_and_a_run_over_its_teacher_are_usage_errors(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="neither a run directory"):
        train_run(settings(tmp_path / "none"), toy_store, tmp_path / "run")
    own = save_run(tmp_path / "own", toy_store, "ast", fixed_frames=64)
    with pytest.raises(UsageError, match="is the teacher of this run"):
        train_run(settings(own), toy_store, own, overwrite=True)
    assert load_run(own)
