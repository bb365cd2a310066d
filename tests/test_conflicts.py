"""Settings that do not go together are refused when they are asked for, and not otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastictool.config import RunConfig
from elastictool.config.coerce import from_dict
from elastictool.config.conflicts import notes
from elastictool.config.loader import dump_yaml, load_run_config, other_settings
from elastictool.config.yaml_text import read_yaml
from elastictool.utils.errors import UsageError

WEIGHTS = ("init.from=ast", "init.path=a.pth")
TEACHER = ("train.distill.teacher=runs/a",)

WITHOUT_EFFECT = [
    ("data.epoch_clips=5", (), ("data.balanced_sampling=true",)),
    ("init.head=replace", (), WEIGHTS),
    ("init.compat=official", (), WEIGHTS),
    ("init.source_stride=[10, 10]", (), WEIGHTS),
    ("init.fc_norm=encoder", (), WEIGHTS),
    ("train.distill.temperature=2.0", (), TEACHER),
    ("train.distill.weight=0.5", (), TEACHER),
    ("train.label_smoothing=0.1", TEACHER, ("train.distill.weight=0.5",)),
    ("train.schedule.decay_from=2", (), ("train.schedule.kind=multistep",)),
    ("train.schedule.decay_factor=0.5", (), ("train.schedule.kind=multistep",)),
    (
        "train.schedule.final_factor=0.1",
        ("train.schedule.kind=constant",),
        ("train.schedule.kind=cosine",),
    ),
    ("flexi.axes=time", (), ("flexi.sizes=[8,16]",)),
    ("augment.mixup_beta=[5.0, 5.0]", (), ("augment.mixup=0.5",)),
    (
        "augment.mask_value=zero",
        ("augment.time_mask=0", "augment.frequency_mask=0"),
        ("augment.time_mask=8",),
    ),
    ("augment.length_diversity.mode=replace", (), ("augment.length_diversity.share=1",)),
    ("augment.length_diversity.min_frames=16", (), ("augment.length_diversity.share=1",)),
    ("augment.resolution.reduction=max", (), ("augment.resolution.compressions=[1,2]",)),
]


@pytest.mark.parametrize(("setting", "beside", "needed"), WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused_and_what_it_needs_helps(
    setting: str, beside: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, [*beside, setting])
    key, _, value = setting.partition("=")
    assert caught.value.message.startswith(f"{key} = {value} has no effect: ")
    gives_effect = needed[0].partition("=")[0]
    assert gives_effect in f"{caught.value.message} {caught.value.hint}"
    load_run_config(None, [*beside, *needed, setting])


def test_a_recipe_may_spell_defaults_out_and_set_may_take_its_settings_back(
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml(RunConfig()))
    assert load_run_config(recipe) == RunConfig()
    recipe.write_text("flexi: {axes: time}\naugment: {mixup_beta: [5, 5]}")
    with pytest.raises(UsageError, match=r"axes|mixup_beta"):
        load_run_config(recipe)
    load_run_config(recipe, ["flexi.axes=both", "augment.mixup=0.5"])


@pytest.mark.parametrize(
    ("recipe", "taken_back"),
    [
        ("train: {schedule: {kind: cosine, final_factor: 0.1}}", "train.schedule.kind=constant"),
        ("train: {schedule: {kind: multistep, decay_from: 2}}", "train.schedule.kind=cosine"),
        ("train: {distill: {teacher: runs/a, weight: 0.5}}", "train.distill.teacher="),
        ("flexi: {sizes: [8, 16], axes: time}", "flexi.sizes=[]"),
        ("model: {preset: flexiast}\nflexi: {axes: time}", "model.preset=ast"),
        ("data: {balanced_sampling: true, epoch_clips: 9}", "data.balanced_sampling=false"),
        ("augment: {resolution: {compressions: [1, 2], reduction: max}}",
         "augment.resolution.compressions=[]"),
    ],
)  # fmt: skip
def test_what_one_setting_takes_back_of_a_recipe_goes_with_it(
    tmp_path: Path, recipe: str, taken_back: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    assert load_run_config(file) != load_run_config(None)
    assert load_run_config(file, [taken_back]) == load_run_config(None, [taken_back])


def test_settings_given_with_a_recipe_are_never_taken_back(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {schedule: {kind: constant, final_factor: 0.1}}")
    with pytest.raises(UsageError, match="final_factor"):
        load_run_config(recipe, ["train.epochs=3"])
    recipe.write_text("train: {epochs: 3}")
    with pytest.raises(UsageError, match="final_factor"):
        load_run_config(recipe, ["train.schedule.kind=constant", "train.schedule.final_factor=0.1"])


def test_a_run_that_exists_stays_readable_and_resumes_with_its_own_settings(
    tmp_path: Path,
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("train: {schedule: {kind: multistep, decay_from: 2}}\nflexi: {axes: time}")
    config = from_dict(RunConfig, read_yaml(file))
    assert other_settings({"train": {"schedule": {"decay_from": 2}}}, config) == {}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["model.patch_size=[129, 16]"], ["model.patch_size", "129", "128"]),
        (["flexi.sizes=[16, 200]"], ["flexi.sizes", "200", "128"]),
        (
            ["augment.length_diversity.share=1", "length.max_frames=32"],
            ["augment.length_diversity.min_frames = 32", "length.max_frames"],
        ),
        (
            ["augment.length_diversity.share=1", "length.fixed_frames=20"],
            ["augment.length_diversity.min_frames = 32", "length.fixed_frames"],
        ),
        (["augment.resolution.compressions=[1, 0.09]"], ["0.1 or above"]),
        (["model.norm_eps=0"], ["model.norm_eps must be above 0"]),
        (["model.fc_norm_eps=0"], ["model.fc_norm_eps must be above 0"]),
    ],
)
def test_contradictions_are_refused(sets: list[str], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, sets)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "sets",
    [
        ["model.patch_size=[128, 16]"],
        ["flexi.sizes=[16, 200]", "flexi.axes=time"],
        ["augment.length_diversity.share=1", "length.max_frames=33"],
        ["augment.resolution.compressions=[1, 0.1]"],
    ],
)
def test_what_just_fits_is_taken(sets: list[str]) -> None:
    load_run_config(None, sets)


def test_an_ast_of_native_lengths_causes_a_warning() -> None:
    (note,) = notes(load_run_config(None, ["model.preset=ast"]))
    assert "model.preset=ast" in note and "length.fixed_frames" in note
    assert not notes(load_run_config(None, ["model.preset=ast", "length.fixed_frames=96"]))
    assert not notes(RunConfig())
