"""Configuration: layering, coercion, and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastictool.config import FbankConfig, RunConfig
from elastictool.config.coerce import from_dict, to_dict
from elastictool.config.loader import dump_yaml, load_run_config
from elastictool.config.recipe_file import training_recipe
from elastictool.config.words import RENAMED, settings
from elastictool.config.yaml_text import read_yaml
from elastictool.utils.errors import UsageError


def test_defaults_below_recipe_below_set(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {lr: 0.5, epochs: 7}\nseed: 3\n")
    config = load_run_config(recipe, ["train.lr=0.25"])
    assert (config.train.lr, config.train.epochs, config.seed) == (0.25, 7, 3)
    assert config.train.betas == RunConfig().train.betas


def test_exponents_without_a_dot_are_numbers() -> None:
    assert load_run_config(None, ["train.lr=1e-5"]).train.lr == 1e-5


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.learning_rat=1", ["train.learning_rat", "known"]),
        ("train.epoch=1", ["train.epoch", "did you mean 'train.epochs'"]),
        ("modle.width=1", ["modle", "did you mean 'model'"]),
        ("lr=1", ["'lr'", "did you mean 'train.lr'?"]),
        ("size=tiny", ["did you mean 'model.size'?"]),
        ("model.sise=tiny", ["did you mean 'model.size'?"]),
        ("epoch=1", ["did you mean 'train.epochs'?"]),
        ("heads=3", ["did you mean 'model.heads' or 'init.heads'?"]),
        ("schedule.kind=cosine", ["did you mean 'train.schedule'?"]),
        ("learning_rate=1", ["did you mean 'train.lr'?"]),
        ("batch_size=1", ["did you mean 'packing.batch_clips'?"]),
        ("num_workers=4", ["did you mean 'train.loader_workers'?"]),
        ("train.max_grad_norm=1", ["did you mean 'train.clip_norm'?"]),
        ("model.embed_dim=192", ["did you mean 'model.width'?"]),
        ("gradient_accumulation=2", ["did you mean 'train.accumulate'?"]),
        ("model.zzz=1", ["known: ", "model.size", "model.width"]),
        ("train.epochs=many", ["train.epochs", "whole number", "Passes over the training clips"]),
        (
            "train.epochs=0",
            ["train.epochs must be in 1", "Passes over the training clips"],
        ),
        ("train.epochs=1.5", ["train.epochs", "whole number"]),
        ("train.lr=true", ["train.lr", "a number"]),
        ("train.lr=.nan", ["train.lr", "a number"]),
        ("train.loss=cee", ["train.loss", "did you mean 'ce'"]),
        ("model.size=tinny", ["tinny", "did you mean 'tiny'"]),
        ("model.patch_size=[1,2,3]", ["model.patch_size", "2 values"]),
        ("model.heads=5", ["model.heads", "divide"]),
        ("model.depth=0", ["model.depth must be in 1..1,000"]),
        ("train=3", ["train", "mapping"]),
        ("seed", ["section.key=value"]),
        ("seed=[1", ["not valid YAML"]),
        ("name=..", ["name must be one name"]),
        ("augment.length_diversity.share=2", ["share"]),
        ("augment.token_dropout=1", ["augment.token_dropout", "below 1"]),
        ("augment.mixup=2", ["augment.mixup"]),
        ("augment.mixup_beta=0", ["augment.mixup_beta"]),
        ("augment.noise=-1", ["augment.noise"]),
        ("augment.roll=-1", ["augment.roll"]),
        ("data.epoch_clips=5", ["data.epoch_clips", "balanced_sampling"]),
        ("data.mean=1", ["data.mean and data.std"]),
        ("model.num_mel_bins=64", ["must be equal"]),
    ],
)
def test_a_wrong_setting_names_itself_and_a_way_out(assignment: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, [assignment])
    text = f"{caught.value.message} {caught.value.hint}"
    assert caught.value.exit_code == 2
    assert all(word in text for word in words), text


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_of_a_setting_is_an_error_that_names_the_new_one(
    old: str, tmp_path: Path
) -> None:
    new = RENAMED[old]
    assert new in settings() and old not in settings()
    section, _, key = old.rpartition(".")
    file = tmp_path / "config.yaml"
    file.write_text(f"{section}: {{{key}: 1}}")
    for load in (
        lambda: load_run_config(None, [f"{old}=1"]),
        lambda: load_run_config(file),
        lambda: from_dict(RunConfig, read_yaml(file)),
    ):
        with pytest.raises(UsageError, match=old) as caught:
            load()
        assert caught.value.hint == f"it is called {new!r} now"


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "- x", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        read_yaml(recipe)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_run_config(tmp_path / "none.yaml")


def test_yaml_cannot_build_python_objects(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_run_config(recipe)


def test_a_written_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_run_config(
        None,
        ["model.preset=ast", "model.size=small", "length.fixed_frames=400", "data.test_fold=2"],
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    assert from_dict(RunConfig, read_yaml(path)) == config
    assert from_dict(RunConfig, to_dict(config)) == config


def test_nothing_is_an_empty_text_and_no_number() -> None:
    assert load_run_config(None, ["train.distill.teacher=", "init.from="]) == load_run_config(None)
    with pytest.raises(UsageError, match=r"train\.lr has no value"):
        load_run_config(None, ["train.lr="])


def test_presets_and_sizes_set_their_fields_and_yield_to_single_ones() -> None:
    config = load_run_config(
        None, ["model.preset=ast", "model.size=tiny", "model.heads=6", "model.patch_size=8"]
    )
    model = config.model
    assert (model.width, model.heads, model.pooling, model.pos_embed) == (192, 6, "prefix", "grid")
    assert model.patch_size == model.patch_stride == (8, 8)


def test_a_key_may_be_dotted_in_a_recipe_but_not_given_twice(tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", "train.lr: 0.5\ntrain: {epochs: 2}")
    assert load_run_config(recipe).train.lr == 0.5
    recipe.write_text("train.lr: 0.5\ntrain: {lr: 0.25}")
    with pytest.raises(UsageError, match=r"train\.lr is given twice"):
        load_run_config(recipe)
    with pytest.raises(UsageError, match=r"train\.lr: 'train' is a value, not a section"):
        load_run_config(None, ["train=3", "train.lr=1"])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_extends_one_in_its_folder_and_that_one_an_included_one(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "extends: small_data\nname: base\ntrain: {epochs: 2, lr: 0.5}\n")
    child = write(tmp_path / "child.yaml", "extends: base\ntrain: {lr: 0.25}\n")
    config = load_run_config(child, ["seed=3"])
    assert (config.train.epochs, config.train.lr, config.seed) == (2, 0.25, 3)
    assert config.model == load_run_config(training_recipe(Path("small_data"))).model
    assert config.name == "", "a name stands for one recipe"
    assert load_run_config(write(tmp_path / "file.yaml", "extends: base.yaml")).train.lr == 0.5


def test_an_extending_recipe_takes_back_what_it_leaves_without_effect(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "train: {schedule: {kind: cosine, final_factor: 0.1}}")
    child = write(tmp_path / "child.yaml", "extends: base\ntrain: {schedule: {kind: constant}}")
    assert load_run_config(child) == load_run_config(None, ["train.schedule.kind=constant"])
    child.write_text("extends: base\ntrain: {schedule: {kind: constant, final_factor: 0.2}}")
    with pytest.raises(UsageError, match=r"final_factor = 0\.2 has no effect"):
        load_run_config(child)


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        ("mine", ["extend one another: mine.yaml > mine.yaml"]),
        ("other", ["extend one another: mine.yaml > other.yaml > mine.yaml"]),
        ("smal_data", ["mine.yaml extends 'smal_data'", "did you mean 'small_data'"]),
        ("[small_data, narrow]", ["mine.yaml", "the name of one recipe"]),
        ("elasticast/fig4_voxceleb", ["recipe of a figure", "elastictool recipe run"]),
    ],
)
def test_a_recipe_that_cannot_be_extended_is_named(
    tmp_path: Path, extends: str, words: list[str]
) -> None:
    write(tmp_path / "other.yaml", "extends: mine")
    with pytest.raises(UsageError) as caught:
        load_run_config(write(tmp_path / "mine.yaml", f"extends: {extends}"))
    text = f"{caught.value.message} {caught.value.hint}"
    assert all(word in text for word in words), text


def test_every_recipe_of_the_project_loads() -> None:
    for_any_data = ("fsdd", "narrow", "small_data")  # a run with them is named after its data
    recipes = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        config = load_run_config(recipe)
        assert bool(config.name) == (recipe.stem not in for_any_data), recipe
        assert recipe.read_text().startswith("# elastictool"), f"{recipe}: the command comes first"


@given(
    num_samples=st.integers(0, 400_000),
    shift_ms=st.floats(1.0, 80.0),
    rate_hz=st.sampled_from([8_000, 16_000, 24_000, 44_100]),
)
def test_num_frames_is_the_last_frame_that_fits(
    num_samples: int, shift_ms: float, rate_hz: int
) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz, shift_ms=shift_ms)
    frames = config.num_frames(num_samples)
    if frames:
        assert config.frame_start(frames - 1) + config.window_samples <= num_samples
        assert config.samples_for(frames) <= num_samples
    assert config.frame_start(frames) + config.window_samples > num_samples
