"""Optimisation: rates by module, freezing, clipping, and averages of weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import load_run
from elastictool.config import TrainConfig
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.training.averaging import Averages
from elastictool.training.optimizer import (
    build_optimizer,
    clip_gradients,
    freeze,
    lr_factor_of,
    module_group,
)
from elastictool.training.predict_logits import score_clips
from elastictool.training.run import resume_run, train_run
from elastictool.training.state import load_training_state, save_training_state
from elastictool.training.trainer import Trainer
from elastictool.training.validation import validation_metrics
from elastictool.utils.errors import Interrupted, UsageError
from elastictool.utils.signals import Stopped
from tests.helpers.training import records, same, small, trainer, weights

AST = ("model.preset=ast", "length.fixed_frames=64")
TWO_BLOCKS = ("model.depth=2",)


def network(*sets: str) -> SpectrogramTransformer:
    config = small("model.grid=[8, 8]", "model.num_classes=3", *sets)
    torch.manual_seed(0)
    return SpectrogramTransformer(config.model)


def raw_weights(path: Path) -> dict[str, Tensor]:
    """The weights that training itself continues with."""
    state = load_training_state(RunDirectory(path).training_state)
    found: dict[str, Tensor] = state["model"]
    return found


def decayed(*sets: str) -> set[str]:
    """Names of the parameters that decay."""
    model = network(*sets)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, small("train.weight_decay=0.1", *sets)).param_groups
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def first_steps(store: PreparedStore, path: Path, *sets: str) -> dict[str, Tensor]:
    """How far each parameter moved in one step of the full rate."""
    schedule = ("train.schedule.kind=constant", "train.schedule.warmup_steps=0")
    one_step = ("packing.batch_clips=18", "train.epochs=1")
    run = trainer(store, path, *TWO_BLOCKS, *schedule, *one_step, *sets)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    return {name: value - before[name] for name, value in run.model.state_dict().items()}


# Rates and decay


def test_layer_decay_is_lowest_at_the_embedding_and_one_behind_the_blocks() -> None:
    config = TrainConfig(layer_decay=0.5)
    expected = {
        "patch_embed.proj.weight": 1 / 8,
        "pos_embed.grid": 1 / 8,
        "prefix_tokens": 1 / 8,
        "prefix_pos_embed": 1 / 8,
        "blocks.0.norm1.bias": 1 / 4,
        "blocks.1.mlp.fc1.weight": 1 / 2,
        "norm.weight": 1.0,
        "fc_norm.weight": 1.0,
        "head.weight": 1.0,
    }
    names = dict(network(*AST, *TWO_BLOCKS).named_parameters())
    assert expected.keys() <= names.keys()
    assert {name: lr_factor_of(name, 2, config) for name in expected} == expected
    assert lr_factor_of("attn_pool.latent", 2, config) == 1.0


@pytest.mark.parametrize(
    ("setting", "factors"),
    [
        ("train.layer_decay=0.5", {"patch_embed": 1 / 8, "blocks.0": 1 / 4, "blocks.1": 1 / 2}),
        ("train.head_lr_factor=4", {"head": 4.0}),
    ],
)
def test_a_parameter_moves_by_its_own_rate(
    toy_store: PreparedStore, tmp_path: Path, setting: str, factors: dict[str, float]
) -> None:
    plain = first_steps(toy_store, tmp_path / "plain")
    scaled = first_steps(toy_store, tmp_path / "scaled", setting)
    for name, moved in scaled.items():
        group = module_group(name).replace("pos_embed", "patch_embed")
        factor = factors.get(group, 1.0)
        assert torch.allclose(moved, factor * plain[name], atol=2e-7, rtol=1e-3), name
    assert any(value.abs().max() > 1e-5 for value in plain.values())


def test_the_schedule_keeps_the_ratio_of_the_rates_and_the_log_shows_the_full_one(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = trainer(toy_store, tmp_path / "run", "train.layer_decay=0.5", "train.head_lr_factor=3")
    run.fit()
    rates = {group["lr_factor"]: group["lr"] for group in run.optimizer.param_groups}
    assert set(rates) == {0.25, 0.5, 1.0, 3.0}
    logged = records(tmp_path / "run", "step")[-1]["lr"]
    assert rates == {factor: pytest.approx(factor * logged) for factor in rates}
    assert logged == records(tmp_path / "run", "epoch")[-1]["lr"] == rates[1.0]


def test_without_options_the_groups_are_those_of_earlier_runs() -> None:
    model = network()
    adam = build_optimizer(model, small()).param_groups
    adamw = build_optimizer(model, small("train.optimizer=adamw")).param_groups
    everything = list(model.parameters())
    assert [id(p) for p in adam[0]["params"]] == [id(p) for p in everything] and len(adam) == 1
    assert [{p.ndim >= 2 for p in group["params"]} for group in adamw] == [{True}, {False}]
    assert [group["weight_decay"] for group in adamw] == [5e-7, 0.0]


def test_weight_decay_reaches_what_the_setting_names() -> None:
    names = {name for name, _ in network(*AST).named_parameters()}
    matrices = {name for name, p in network(*AST).named_parameters() if p.ndim >= 2}
    tables = {"pos_embed.grid", "prefix_tokens", "prefix_pos_embed"}
    adamw = "train.optimizer=adamw"
    assert decayed(*AST) == names
    assert decayed(*AST, adamw) == matrices
    for optimizer in ("train.optimizer=adam", adamw):
        assert decayed(*AST, optimizer, "train.weight_decay_on=all") == names
        assert decayed(*AST, optimizer, "train.weight_decay_on=matrices") == matrices
        kernels = decayed(*AST, optimizer, "train.weight_decay_on=kernels")
        assert kernels == matrices - tables
    assert all(name.endswith("weight") for name in kernels)


# Freezing


@pytest.mark.parametrize(
    ("frozen", "groups"),
    [
        ("patch_embed", {"patch_embed"}),
        ("[pos_embed, attn_pool]", {"pos_embed", "attn_pool"}),
        ("blocks.0", {"blocks.0"}),
        ("blocks.0-1", {"blocks.0", "blocks.1"}),
        ("blocks", {"blocks.0", "blocks.1"}),
        (
            "all_but_head",
            {"patch_embed", "pos_embed", "blocks.0", "blocks.1", "norm", "attn_pool"},
        ),
        ("head", {"head"}),
    ],
)
def test_what_is_frozen_stays_to_the_last_bit_and_all_else_learns(
    toy_store: PreparedStore, tmp_path: Path, frozen: str, groups: set[str]
) -> None:
    averages = ("train.ema_decay=0.9", "train.average_epochs=[1, 3]", "train.epochs=3")
    decay = ("train.weight_decay=0.1", *averages)
    run = trainer(toy_store, tmp_path / "run", *TWO_BLOCKS, *decay, f"train.freeze={frozen}")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    for name, parameter in run.model.named_parameters():
        stays = module_group(name) in groups
        assert (parameter.grad is None) == stays, name
        assert torch.equal(before[name], parameter) == stays, name
    in_groups = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert in_groups == {id(p) for p in run.model.parameters() if p.requires_grad}
    for which in ("last", "averaged"):
        kept = weights(tmp_path / "run", which)
        held = {name: value for name, value in kept.items() if module_group(name) in groups}
        assert held and same(held, before), which


@pytest.mark.parametrize(
    ("frozen", "words"),
    [
        ("patch_embd", ["'patch_embd'", "did you mean 'patch_embed'"]),
        ("block", ["'block'", "did you mean 'blocks'"]),
        ("blocks.1-4", ["1-4", "2 blocks are blocks.0-1"]),
        ("blocks.1-0", ["1-0", "blocks.0-1"]),
        ("prefix", ["'prefix'", "known: patch_embed, pos_embed"]),
        ("[all_but_head, head]", ["nothing to train"]),
    ],
)
def test_a_group_that_the_model_does_not_have_is_refused_before_an_old_run_is_deleted(
    toy_store: PreparedStore, tmp_path: Path, frozen: str, words: list[str]
) -> None:
    earlier = RunDirectory(tmp_path / "run")
    earlier.create(overwrite=False)
    earlier.write_config(small(), "years of training")
    config = small(*TWO_BLOCKS, f"train.freeze={frozen}")
    with pytest.raises(UsageError) as caught:
        train_run(config, toy_store, tmp_path / "run", overwrite=True)
    text = f"{caught.value.message} {caught.value.hint}"
    assert all(word in text for word in words), text
    assert earlier.read_fingerprint() == "years of training"


def test_prefix_and_all_but_head_cover_what_an_ast_has() -> None:
    model = network(*AST)
    freeze(model, ["prefix_tokens"])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "prefix_tokens"
    ]
    freeze(model, ["all_but_head"])
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


# Clipping


def _gradients() -> tuple[torch.optim.Optimizer, list[Tensor]]:
    torch.manual_seed(3)
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (5, 40, 7)]
    for parameter in parameters[:2]:  # the third took no part in the step
        parameter.grad = torch.randn_like(parameter)
    return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}]), [
        p.grad for p in parameters[:2] if p.grad is not None
    ]


@pytest.mark.parametrize("cap", [0.0, 0.5, 100.0])
def test_clipping_shortens_the_joint_gradient_and_keeps_its_direction(cap: float) -> None:
    optimizer, gradients = _gradients()
    before = torch.cat(gradients).double()
    norm = clip_gradients(optimizer, cap)
    after = torch.cat(gradients).double()
    assert norm == pytest.approx(float(before.norm()), rel=1e-6)
    if 0 < cap < norm:
        assert torch.allclose(after, before * (cap / before.norm()), rtol=1e-5, atol=0)
    else:
        assert torch.equal(after, before)


def test_no_step_is_longer_than_the_cap_and_the_log_has_the_norms(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cap, reached = 0.05, []
    run = trainer(toy_store, tmp_path / "run", f"train.clip_norm={cap}")
    step = run.optimizer.step

    def watched() -> None:
        squares = [p.grad.double().square().sum() for p in run.model.parameters()]
        reached.append(float(torch.stack(squares).sum().sqrt()))
        step()

    monkeypatch.setattr(run.optimizer, "step", watched)
    run.fit()
    logged = [record["grad_norm"] for record in records(tmp_path / "run", "step")]
    assert len(reached) == len(logged) == 6
    assert max(logged) > cap
    assert reached == [pytest.approx(min(cap, norm), rel=1e-4) for norm in logged]


# Averages of weights


def _wandering(model: SpectrogramTransformer, steps: int) -> Iterator[int]:
    """Random walks of the weights, in place of training."""
    generator = torch.Generator().manual_seed(5)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        yield step


def test_the_moving_average_is_that_of_a_plain_float64_loop() -> None:
    model = network()
    averages = Averages(model, TrainConfig(ema_decay=0.7))
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in _wandering(model, 40):
        averages.after_step(step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in averages.evaluated.state_dict().items():
        assert torch.allclose(value.double(), expected[name], atol=1e-5), name
        assert not torch.equal(value, model.state_dict()[name])


def test_the_moving_average_of_all_weights_at_once_is_that_of_each_to_the_bit() -> None:
    model = network()
    averages = Averages(model, TrainConfig(ema_decay=0.999))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in _wandering(model, 20):
        averages.after_step(step)
        decay = min(0.999, (1 + step) / (10 + step))  # on both sides of a half
        for name, value in model.state_dict().items():
            expected[name].lerp_(value, 1 - decay)
    assert same(dict(averages.evaluated.state_dict()), expected)


def test_the_moving_average_is_what_is_validated_and_saved(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    sets = ("train.lr=3e-3", "train.epochs=3")
    train_run(small(*sets), toy_store, tmp_path / "plain")
    train_run(small(*sets, "train.ema_decay=0.9"), toy_store, tmp_path / "moving")
    assert same(raw_weights(tmp_path / "plain"), raw_weights(tmp_path / "moving"))
    assert not same(weights(tmp_path / "moving"), raw_weights(tmp_path / "moving"))
    run = Trainer(small(*sets), toy_store, RunDirectory(tmp_path / "none"))
    saved = validate(run, load_run(tmp_path / "moving", "last").model)
    logged = records(tmp_path / "moving", "epoch")[-1]
    plain = records(tmp_path / "plain", "epoch")[-1]
    assert logged["val_loss"] == saved["loss"] != plain["val_loss"]


def validate(run: Trainer, model: SpectrogramTransformer) -> dict[str, float]:
    """The metrics of ``model`` on the validation clips of ``run``."""
    clips, precision = run.splits.validation, run.config.train.precision
    scores = score_clips(model, run.batches.eval_set, clips, precision)
    return validation_metrics(scores, run.config)


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_averaged_is_the_mean_of_what_the_epochs_saved(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    saved: list[dict[str, Tensor]] = []

    def keep(path: Path, state: Any) -> None:
        save_training_state(path, state)
        saved.append(weights(path.parents[1]))

    monkeypatch.setattr("elastictool.training.trainer.save_training_state", keep)
    sets = ("train.lr=3e-3", "train.epochs=4", f"train.ema_decay={ema}")
    path = tmp_path / "run"
    result = train_run(small(*sets, "train.average_epochs=[2, 3]"), toy_store, path)
    averaged = load_run(path, "averaged")
    found = averaged.model.state_dict()
    for name, value in found.items():
        mean = (saved[1][name].double() + saved[2][name].double()) / 2
        torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-9, msg=name)
        assert not torch.equal(saved[1][name], saved[2][name])
    (record,) = records(path, "averaged")
    run = Trainer(small(*sets), toy_store, RunDirectory(tmp_path / "none"))
    again = validate(run, averaged.model)
    assert record == {
        "kind": "averaged",
        "epoch": 3,
        "step": records(path, "epoch")[2]["step"],
        **{f"val_{name}": value for name, value in again.items()},
    }
    assert result.averaged == again and averaged.metrics["loss"] == again["loss"]
    assert averaged.metrics["epoch"] == 3


def test_a_run_that_stops_while_the_mean_is_scored_resumes_to_the_same_mean(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("train.epochs=3", "train.average_epochs=[1, 2]")
    train_run(config, toy_store, tmp_path / "whole")
    models: list[SpectrogramTransformer] = []

    def stopped(model: SpectrogramTransformer, *arguments: Any, **named: Any) -> Any:
        models.append(model)
        if model is not models[0]:  # the mean
            raise Stopped
        return score_clips(model, *arguments, **named)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr("elastictool.training.trainer.score_clips", stopped)
        train_run(config, toy_store, tmp_path / "parts")
    resume_run(tmp_path / "parts", toy_store)
    for which in ("averaged", "last"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "parts", which))
    logged = [records(tmp_path / name, "averaged") for name in ("whole", "parts")]
    assert logged[0] == logged[1] and len(logged[0]) == 1
    state = load_training_state(RunDirectory(tmp_path / "parts").training_state)
    assert state["averages"]["mean"] == {}, "what is written is not kept twice"


def test_averages_do_not_disturb_training(toy_store: PreparedStore, tmp_path: Path) -> None:
    sets = ("model.dropout=0.2",)
    train_run(small(*sets), toy_store, tmp_path / "plain")
    both = ("train.ema_decay=0.5", "train.average_epochs=[1, 2]")
    train_run(small(*sets, *both), toy_store, tmp_path / "both")
    assert same(raw_weights(tmp_path / "plain"), raw_weights(tmp_path / "both"))


def test_fine_tuning_freezes_and_averages_the_weights_that_it_starts_from(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small("seed=5"), toy_store, tmp_path / "old")
    old = weights(tmp_path / "old", "best")
    start = ("init.from=run", f"init.path={tmp_path / 'old'}", "train.ema_decay=0.9")
    frozen = small(*start, "train.freeze=all_but_head")
    train_run(frozen, toy_store, tmp_path / "frozen")
    tuned = weights(tmp_path / "frozen")
    body = [name for name in old if module_group(name) != "head"]
    assert all(torch.equal(old[name], tuned[name]) for name in body)
    assert not torch.equal(old["head.weight"], tuned["head.weight"])
    train_run(small(*start, "train.lr=1e-9"), toy_store, tmp_path / "still")
    still = weights(tmp_path / "still")
    assert all(torch.allclose(old[name], still[name], atol=1e-6) for name in old)


def test_without_validation_clips_the_mean_is_written_unscored(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    sets = ("data.validation_split=none", "train.average_epochs=[2, 2]")
    result = train_run(small(*sets), toy_store, tmp_path / "run")
    assert result.averaged == {}
    assert same(weights(tmp_path / "run", "averaged"), weights(tmp_path / "run", "last"))


def test_a_run_without_a_mean_says_how_to_get_one(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds no averaged\.safetensors") as caught:
        load_run(tmp_path / "run", "averaged")
    assert "there are: best, last" in caught.value.hint
    assert "train.average_epochs" in caught.value.hint


@pytest.mark.parametrize(
    "setting",
    [
        "train.average_epochs=[2, 3]",
        "train.average_epochs=[2, 1]",
        "train.average_epochs=[0, 1]",
        "train.ema_decay=1",
        "train.layer_decay=0",
        "train.layer_decay=1.5",
        "train.head_lr_factor=0",
        "train.clip_norm=-1",
    ],
)
def test_values_without_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        small(setting)
