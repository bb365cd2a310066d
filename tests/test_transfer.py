"""Weights in another model: other patches, positions, pooling, labels; and training from them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.checkpoint.weights import import_weights, load_run
from elastictool.config import InitConfig, ModelConfig, RunConfig
from elastictool.config.coerce import from_dict
from elastictool.config.loader import dump_yaml, frontend_config, load_run_config
from elastictool.config.yaml_text import read_yaml
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.geometry import (
    FREQUENCY,
    GRID,
    TIME,
    fit_axis,
    fit_positions,
    marginal_means,
    same_area_grid,
)
from elastictool.pretrained.importer import Imported
from elastictool.pretrained.transfer import transfer
from elastictool.training.convert import convert
from elastictool.training.run import describe, resume_run, train_run
from elastictool.training.trainer import Trainer
from elastictool.utils.errors import CheckpointError, UsageError
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import SAMPLES
from tests.helpers.saved_runs import save_run

each_format = pytest.mark.parametrize("name", SAMPLES)


def grid_model(
    grid: tuple[int, int], patch: int = 16, stride: int = 16, **more: Any
) -> ModelConfig:
    return ModelConfig(
        width=64, depth=1, heads=1, pos_embed="grid", grid=grid, patch_size=(patch, patch),
        patch_stride=(stride, stride), **more,
    )  # fmt: skip


def table(grid: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*grid, 64, generator=generator, dtype=torch.float64)


# Geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "stride", "expected"),
    [
        ((12, 101), 10, (8, 64)),
        ((12, 12), 10, (8, 8)),
        ((8, 64), 16, (8, 64)),
        ((14, 14), 16, (14, 14)),
    ],
)
def test_overlapping_patches_cover_the_area_of_fewer_whole_ones(
    grid: tuple[int, int], stride: int, expected: tuple[int, int]
) -> None:
    assert same_area_grid(grid_model(grid, stride=stride), grid_model((1, 1))) == expected


def test_an_image_grid_is_cut_in_frequency_and_stretched_in_time() -> None:
    source, target, area = grid_model((14, 14)), grid_model((8, 64)), (14, 14)
    image = table((14, 14))
    fitted = fit_axis(image, 0, area, source, target, "crop")
    fitted = fit_axis(fitted, 1, area, source, target, "crop")
    # As the AST code does it: rows 14 // 2 - 8 // 2 onward, columns bilinear without antialias.
    middle = image[3:11].permute(2, 0, 1)[None]
    expected = F.interpolate(middle, (8, 64), mode="bilinear")[0].permute(1, 2, 0)
    assert torch.allclose(fitted, expected, atol=1e-12)
    stretched = fit_axis(image, 0, area, source, target, "interpolate")
    assert stretched.shape == (8, 14, 64) and not torch.allclose(stretched, image[3:11])


def test_patches_of_another_stride_stretch_the_whole_table() -> None:
    source, target, area = grid_model((12, 101), stride=10), grid_model((8, 64)), (8, 64)
    old = table((12, 101))
    fitted = fit_axis(old, 0, area, source, target, "crop")
    fitted = fit_axis(fitted, 1, area, source, target, "crop")
    image = old.permute(2, 0, 1)[None]
    expected = F.interpolate(image, (8, 64), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert torch.allclose(fitted, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "size", "grid"), [(10, 16, (12, 101)), (16, 16, (8, 64)), (32, 32, (4, 32))]
)
def test_pictures_give_overlapping_patches_the_positions_of_the_ast_code(
    stride: int, size: int, grid: tuple[int, int], tmp_path: Path
) -> None:
    sample = foreign_weights.timm()
    sets = [f"model.patch_size={size}", f"model.patch_stride={stride}", "data.mean=0", "data.std=1"]
    result = convert("timm", str(sample.write(tmp_path)), tmp_path / "out.safetensors", sets)
    found = load_run(result.out).model.state_dict()[GRID]
    image = sample.tensors["pos_embed"][:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
    if size == 32:  # which the AST code does not know: the picture has half as many patches
        image = F.interpolate(image, (7, 7), mode="bilinear", antialias=True)
    rows = image.shape[2]
    cut = image[:, :, rows // 2 - grid[0] // 2 :][:, :, : grid[0]]
    expected = F.interpolate(cut, grid, mode="bilinear")[0].flatten(1).T
    assert result.config.model.grid == grid
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_positions_by_index_keep_their_first_rows() -> None:
    source = dataclasses.replace(grid_model((8, 64)), pos_embed="factorised")
    target = dataclasses.replace(source, grid=(8, 20))
    tables = {FREQUENCY: table((8, 1))[:, 0], TIME: table((64, 1))[:, 0]}
    fitted = fit_positions(tables, (8, 64), source, target, "crop", False)
    assert torch.equal(fitted[TIME], tables[TIME][:20])
    assert torch.equal(fitted[FREQUENCY], tables[FREQUENCY])


def test_marginal_means_hold_the_mean_of_the_grid_once() -> None:
    grid = table((8, 64))
    frequency, time = marginal_means(grid)
    total = frequency[:, None] + time
    assert torch.allclose(total.mean((0, 1)), grid.mean((0, 1)))
    # Least squares: no other pair of tables comes nearer to the grid.
    for change in (0.01 * table((8, 1), 1), 0.01 * table((1, 64), 2)):
        assert (total + change - grid).norm() > (total - grid).norm()
    additive = frequency[:, None] + time
    again = marginal_means(additive)
    assert torch.allclose(again[0][:, None] + again[1], additive)
    twice = marginal_means(grid, mean_twice=True)
    off = twice[0][:, None] + twice[1] - total
    assert torch.allclose(off, grid.mean((0, 1)).expand_as(off))


def test_factorised_tables_become_the_grid_of_their_sums() -> None:
    source = dataclasses.replace(grid_model((8, 64)), pos_embed="factorised")
    frequency, time = table((8, 1))[:, 0], table((64, 1))[:, 0]
    tables, target = {FREQUENCY: frequency, TIME: time}, grid_model((8, 64))
    fitted = fit_positions(tables, (8, 64), source, target, "crop", False)
    assert torch.equal(fitted[GRID].view(8, 64, 64)[3, 40], frequency[3] + time[40])


# Into another model --------------------------------------------------------------------------


def imported(name: str, folder: Path, sample: Any = None, **how: Any) -> Imported:
    path = (sample or SAMPLES[name]()).write(folder)
    return import_weights(InitConfig(source=name, path=str(path), **how))


def new_model(weights: Imported, **changes: Any) -> SpectrogramTransformer:
    torch.manual_seed(0)
    return SpectrogramTransformer(dataclasses.replace(weights.config.model, **changes))


ELASTIC = {
    "pos_embed": "factorised", "pooling": "attention", "prefix_tokens": 0, "grid": (8, 64),
    "patch_stride": (16, 16), "num_mel_bins": 128, "fc_norm": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("how", "divisor"), [({}, 2), ({"pooling": "official"}, 12), ({"compat": "official"}, 12)]
)
def test_an_ast_becomes_an_elasticast(tmp_path: Path, how: dict[str, Any], divisor: int) -> None:
    weights = imported("ast", tmp_path, **how)
    model = new_model(weights, **ELASTIC)
    query = model.state_dict()["attn_pool.latent"].clone()
    report = transfer(model, weights, InitConfig("ast", "x", head="keep", **how))
    state = model.state_dict()
    for part in ("weight", "bias"):
        joint = sum(weights.state[f"blocks.{n}.attn.qkv.{part}"] for n in range(2)) / divisor
        assert torch.allclose(state[f"attn_pool.q.{part}"], joint[:128])
        assert torch.allclose(state[f"attn_pool.kv.{part}"], joint[128:])
        joint = sum(weights.state[f"blocks.{n}.attn.proj.{part}"] for n in range(2)) / divisor
        assert torch.allclose(state[f"attn_pool.proj.{part}"], joint)
    assert torch.equal(state["attn_pool.latent"], query)
    assert torch.equal(state["blocks.1.mlp.fc1.weight"], weights.state["blocks.1.mlp.fc1.weight"])
    assert "12x12 to 8x64" in report.resized[TIME]
    assert report.ignored["module.v.cls_token"] == "the model has no prefix tokens"
    assert set(report.missing) == {name for name in state if name.startswith("attn_pool")}
    assert "module.v.pos_embed" not in report.ignored
    sums = state[FREQUENCY][:, None] + state[TIME]
    mean = weights.state[GRID].mean(0)
    both = "grid's mean in both" in report.resized[TIME]
    assert both == (how == {"compat": "official"})
    # Stretching moves the mean a little; a second mean moves it by a whole one.
    assert ((sums.mean((0, 1)) - mean).norm() > 0.5 * mean.norm()) == both


@pytest.mark.parametrize(
    ("name", "prefix_tokens", "how", "copied"),
    [
        ("ssast", 0, {"compat": "official"}, True),
        ("ssast", 1, {"compat": "official"}, False),  # an AST of the published code
        ("ast", 0, {"compat": "official"}, False),
        ("ssast", 0, {}, False),
        ("ssast", 1, {"fc_norm": "encoder"}, True),
        ("ast", 0, {"fc_norm": "encoder"}, True),
    ],
)
def test_a_new_heads_norm_starts_from_the_encoders_where_it_should(
    name: str, prefix_tokens: int, how: dict[str, Any], copied: bool, tmp_path: Path
) -> None:
    weights = imported(name, tmp_path, **how)
    pooling = "prefix" if prefix_tokens else "attention"
    changes = ELASTIC | {"prefix_tokens": prefix_tokens, "pooling": pooling, "num_classes": 3}
    model = new_model(weights, **changes)
    report = transfer(model, weights, InitConfig(name, "x", head="replace", **how))
    state = model.state_dict()
    for part, fresh in (("weight", 1.0), ("bias", 0.0)):
        norm = state[f"norm.{part}"]
        expected = norm if copied else torch.full_like(norm, fresh)
        assert torch.equal(state[f"fc_norm.{part}"], expected)
        assert torch.equal(norm, weights.state[f"norm.{part}"])
        reason = report.missing[f"fc_norm.{part}"]
        assert reason.startswith("the encoder's last LayerNorm: " if copied else "new: ")
    assert report.missing["head.weight"].startswith("new: ")


def test_a_kept_head_keeps_its_norm(tmp_path: Path) -> None:
    weights = imported("ast", tmp_path, fc_norm="encoder")
    model = new_model(weights)
    report = transfer(model, weights, InitConfig("ast", "x", fc_norm="encoder"))
    state = model.state_dict()
    assert torch.equal(state["fc_norm.weight"], weights.state["fc_norm.weight"])
    assert not report.missing


def test_a_fitted_kernel_keeps_its_products_with_resized_patches(tmp_path: Path) -> None:
    weights = imported("flexiast", tmp_path)
    model = new_model(weights, patch_size=(32, 32), patch_stride=(32, 32), grid=(4, 32))
    report = transfer(model, weights, InitConfig("flexiast", "x"))
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(3, 16, 16, generator=generator)
    larger = F.interpolate(patch[None], (32, 32), mode="bilinear")[0]
    old, new = (
        weights.state["patch_embed.proj.weight"],
        model.state_dict()["patch_embed.proj.weight"],
    )
    torch.testing.assert_close(larger.flatten(1) @ new.T, patch.flatten(1) @ old.T)
    assert report.resized["patch_embed.proj.weight"] == "patches 16x16 to 32x32, PI-resize"


def test_random_pooling_is_the_models_own(tmp_path: Path) -> None:
    weights = imported("ast", tmp_path, pooling="random")
    model = new_model(weights, **ELASTIC)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer(model, weights, InitConfig("ast", "x"))
    after = model.state_dict()
    pooling = [name for name in before if name.startswith("attn_pool.")]
    assert pooling and all(torch.equal(before[name], after[name]) for name in pooling)


def test_a_new_head_is_drawn_on_request_only(tmp_path: Path) -> None:
    weights = imported("ast", tmp_path)
    for head in ("keep", "replace"):
        model = new_model(weights)
        report = transfer(model, weights, InitConfig("ast", "x", head=head))  # type: ignore[arg-type]
        kept = torch.equal(model.state_dict()["head.weight"], weights.state["head.weight"])
        assert kept == (head == "keep")
        assert ("head.weight" in report.missing) == (head == "replace")
    assert report.ignored["module.mlp_head.1.weight"] == "init.head = replace"


def test_further_prefix_tokens_start_anew(tmp_path: Path) -> None:
    weights = imported("flexiast", tmp_path)
    model = new_model(weights, prefix_tokens=2)
    transfer(model, weights, InitConfig("flexiast", "x"))
    tokens = model.state_dict()["prefix_tokens"]
    assert torch.equal(tokens[:1], weights.state["prefix_tokens"])
    assert 0 < tokens[1].std() < 0.1
    weights = imported("ast", tmp_path)
    model = new_model(weights, prefix_tokens=1)
    report = transfer(model, weights, InitConfig("ast", "x"))
    assert "1 of 2 kept" in report.resized["prefix_tokens"]


def test_the_mean_of_the_colours_is_a_third_of_their_sum(tmp_path: Path) -> None:
    kernel = "patch_embed.proj.weight"
    one = imported("timm", tmp_path).state[kernel]
    third = imported("timm", tmp_path, rgb="mean").state[kernel]
    assert torch.allclose(one, 3 * third)
    sample = foreign_weights.timm()
    assert torch.allclose(one, sample.tensors["patch_embed.proj.weight"].sum(1).flatten(1))


# Conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sets", "grid"),
    [
        ("ast", [], (12, 12)),
        ("ast", ["model.patch_stride=16"], (8, 8)),
        ("ast", ["model.preset=elasticast", "model.patch_stride=16"], (8, 8)),
        ("timm", [], (8, 64)),
        ("timm", ["model.preset=elasticast", "length.fixed_frames=0"], (8, 192)),
        ("flexiast", ["model.patch_size=8"], (16, 128)),
        ("elasticast", ["model.patch_size=8"], (16, 128)),
        ("ssast", ["model.grid=[8, 20]"], (8, 20)),
    ],
)
def test_conversion_to_other_patches_refits_the_grid(
    name: str, sets: list[str], grid: tuple[int, int], tmp_path: Path
) -> None:
    path = SAMPLES[name]().write(tmp_path)
    given = [*sets, "data.mean=0", "data.std=1"]
    result = convert(name, str(path), tmp_path / "out.safetensors", given)
    run = load_run(result.out)
    assert run.config.model.grid == grid
    assert run.config.init == InitConfig()
    again = import_weights(InitConfig("run", str(result.out)))
    assert again.config.model == run.config.model


def test_a_conversion_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = str(foreign_weights.ast().write(tmp_path))
    for out, sets, words in (
        ("a.pth", [], "safetensors"),
        ("a.safetensors", ["model.depth=3"], "model.depth cannot be changed"),
        ("a.safetensors", ["model.num_classes=3"], "num_classes cannot be changed"),
        ("a.safetensors", ["init.rgb=sun"], "init.rgb"),
        ("a.safetensors", ["init.compat=official", "init.rgb=mean"], "leave them out"),
        ("a.safetensors", ["init.compat=official", "init.fc_norm=encoder"], "leave them out"),
        ("a.safetensors", ["init.compat=official", "model.initialization=scaled"], "makes it off"),
        ("a.safetensors", ["init.head=replace"], r"takes no init\.head"),
        ("a.safetensors", ["init.path=b.pth"], r"takes no init\.path"),
    ):
        with pytest.raises(UsageError, match=words):
            convert("ast", path, tmp_path / out, sets)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_frontend_that_is_named_sets_its_own_fields(tmp_path: Path) -> None:
    path = str(foreign_weights.ast().write(tmp_path))
    result = convert("ast", path, tmp_path / "a.safetensors", ["fbank.frontend=epic-librosa"])
    assert result.config.fbank == frontend_config("epic-librosa")


def test_class_names_come_from_a_file_where_the_weights_have_none(tmp_path: Path) -> None:
    path = str(foreign_weights.ast().write(tmp_path))
    names = tmp_path / "labels.txt"
    names.write_text("\n".join("abcdefg"))
    out = tmp_path / "out.safetensors"
    assert convert("ast", path, out, labels=names).label_names == tuple("abcdefg")
    names.write_text("a\nb")
    with pytest.raises(CheckpointError, match="2 names"):
        convert("ast", path, out, labels=names)
    assert convert("ast", path, out).label_names == tuple("0123456")
    with pytest.raises(CheckpointError, match=r"no data\.mean") as caught:
        load_run(out)
    assert "convert them again" in caught.value.hint


# Training ------------------------------------------------------------------------------------


TINY = ("length.max_frames=128", "train.epochs=1", "packing.batch_clips=6", "train.lr=1e-6")


def relabelled(store: PreparedStore, names: list[str]) -> PreparedStore:
    info = dataclasses.replace(store.info, label_names=type(store.info.label_names)(names))
    return PreparedStore(store.path, info, {store.path: store._table})


@pytest.fixture(scope="module")
def digits(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    """Sixteen spoken digits of the real data."""
    root = tmp_path_factory.mktemp("fsdd")
    (root / "recordings").mkdir()
    for digit in range(2):
        for index in (0, 1, 5, 6, 7, 8, 9, 10):
            name = f"{digit}_theo_{index}.wav"
            shutil.copy(shared_data / "fsdd" / "recordings" / name, root / "recordings")
    return prepare(PrepOptions("fsdd", root, root / "data", name="digits"))


def settings(name: str, path: Path, *sets: str) -> RunConfig:
    return load_run_config(None, [*TINY, f"init.from={name}", f"init.path={path}", *sets])


PRESETS = {
    "timm": "elasticast", "hf-vit": "ast", "ast": "elasticast", "ssast": "elasticast",
    "hf-ast": "ast", "elasticast": "ast", "flexiast": "ast", "run": "elasticast",
}  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), PRESETS.items())
def test_training_starts_from_weights_of_every_format(
    name: str, preset: str, toy_store: PreparedStore, tmp_path: Path
) -> None:
    assert set(PRESETS) == set(SAMPLES)
    path = SAMPLES[name](depth=1).write(tmp_path / "weights")
    fixed = ["length.fixed_frames=128"] if preset == "ast" else []
    config = settings(name, path, f"model.preset={preset}", "init.head=replace", *fixed)
    train_run(config, toy_store, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert (run.config.model.width, run.config.model.depth) == (128, 1)
    assert run.config.model.num_classes == len(toy_store.info.label_names)
    # A few steps of 1e-6 leave the weights where they came from.
    weights = import_weights(config.init)
    state = run.model.state_dict()
    for key in ("blocks.0.mlp.fc1.weight", "norm.weight", "blocks.0.attn.qkv.bias"):
        assert torch.allclose(state[key], weights.state[key], atol=1e-4)
    report = json.loads((tmp_path / "run" / "import_report.json").read_text())
    assert report["sha256"] == weights.report.sha256 and report["format"] == name
    assert "head.weight" in report["missing"]


@each_format
def test_training_on_spoken_digits_starts_from_weights_of_every_format(
    name: str, digits: PreparedStore, tmp_path: Path
) -> None:
    path = SAMPLES[name](depth=1).write(tmp_path / "weights")
    result = train_run(settings(name, path, "init.head=replace"), digits, tmp_path / "run")
    assert result.epochs == 1 and load_run(tmp_path / "run").config.model.num_classes == 2


def test_training_from_weights_of_base_width(toy_store: PreparedStore, tmp_path: Path) -> None:
    path = foreign_weights.ssast(width=768, depth=1).write(tmp_path / "weights")
    sets = ("length.max_frames=48", "packing.batch_clips=18")
    train_run(settings("ssast", path, *sets), toy_store, tmp_path / "run")
    assert load_run(tmp_path / "run").config.model.width == 768


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), PRESETS.items())
def test_training_from_base_size_weights_of_every_format(
    name: str, preset: str, toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = SAMPLES[name](width=768, depth=12).write(tmp_path / "weights")
    fixed = "length.fixed_frames=48" if preset == "ast" else "length.max_frames=48"
    sets = (f"model.preset={preset}", "init.head=replace", "packing.batch_clips=18", fixed)
    train_run(settings(name, path, *sets), toy_store, tmp_path / "run")
    model = load_run(tmp_path / "run").config.model
    assert (model.width, model.depth) == (768, 12)


def test_the_weights_own_model_is_kept_on_request(toy_store: PreparedStore, tmp_path: Path) -> None:
    path = foreign_weights.hf_ast().write(tmp_path / "weights")
    sets = ("init.model=weights", "init.head=replace", "length.fixed_frames=128")
    train_run(settings("hf-ast", path, *sets), toy_store, tmp_path / "run")
    config = load_run(tmp_path / "run").config
    assert config.model.patch_stride == (10, 10) and config.model.grid == (12, 12)
    assert config.model.prefix_tokens == 2 and config.length.edge == "drop"
    assert config.model.norm_eps == 1e-12
    with pytest.raises(UsageError, match="takes 224 rows"):
        timm = foreign_weights.timm().write(tmp_path / "timm")
        train_run(settings("timm", timm, *sets), toy_store, tmp_path / "other")


def test_official_behaviours_come_together(toy_store: PreparedStore, tmp_path: Path) -> None:
    path = foreign_weights.timm().write(tmp_path / "weights")
    config = settings("timm", path, "init.compat=official", "init.head=replace")
    train_run(config, toy_store, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.config.model.attention_scale == 1.0
    assert 0.8 < float(run.model.state_dict()["attn_pool.latent"].std()) < 1.2
    report = json.loads((tmp_path / "run" / "import_report.json").read_text())
    assert "its sum over 12 (official)" in report["missing"]["attn_pool.q.weight"]
    assert "grid's mean in both" in report["resized"][TIME]


def test_fine_tuning_from_an_own_run_with_new_labels(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    labels = [f"speaker {n}" for n in range(5)]
    old = save_run(tmp_path / "old", relabelled(toy_store, labels), max_frames=256)
    config = settings("run", old, "model.width=32", "model.heads=2", "model.depth=2")
    with pytest.raises(CheckpointError, match="5 classes, the data have 3") as caught:
        train_run(config, toy_store, tmp_path / "new")
    assert caught.value.exit_code == 4 and "init.head=replace" in caught.value.hint
    assert not (tmp_path / "new").exists()
    patch = "model.patch_size=[16,8]"
    train_run(
        dataclasses.replace(settings("run", old, patch, "init.head=replace")),
        toy_store, tmp_path / "new",
    )  # fmt: skip
    run = load_run(tmp_path / "new")
    assert run.config.model.patch_size == (16, 8) and run.config.model.grid == (8, 32)
    report = json.loads((tmp_path / "new" / "import_report.json").read_text())
    assert set(report["resized"]) == {"patch_embed.proj.weight", FREQUENCY, TIME}


def test_a_run_never_writes_over_the_weights_that_it_starts_from(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    old = save_run(tmp_path / "old", toy_store)
    with pytest.raises(UsageError, match="written over"):
        train_run(settings("run", old), toy_store, old, overwrite=True)
    assert load_run(old).label_names


def test_a_kept_head_needs_the_same_labels_in_the_same_order(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    old = save_run(tmp_path / "old", toy_store)
    train_run(settings("run", old), toy_store, tmp_path / "same")
    other = relabelled(toy_store, list(reversed(toy_store.info.label_names)))
    with pytest.raises(CheckpointError, match="labels of"):
        train_run(settings("run", old), other, tmp_path / "other")


def test_resuming_never_looks_at_the_first_weights_again(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = foreign_weights.ast(depth=1).write(tmp_path / "weights")
    config = settings("ast", path, "init.head=replace", "train.epochs=2")
    train_run(config, toy_store, tmp_path / "run")
    before = load_run(tmp_path / "run", "last").model.state_dict()
    path.unlink()
    resume_run(tmp_path / "run", toy_store)
    after = load_run(tmp_path / "run", "last").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign_weights.ast(depth=1).write(tmp_path / "weights")
    config = settings("ast", path, "init.head=replace", "init.compat=official")
    train_run(config, toy_store, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_run(config, toy_store, tmp_path / "killed")
    resume_run(tmp_path / "killed", toy_store)
    one, two = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_setting_that_contradicts_the_weights_is_refused(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = foreign_weights.ast().write(tmp_path)
    for setting, words in (
        ("model.depth=5", r"model\.depth = 5, but that of the weights is 2"),
        ("model.attention_scale=0.5", r"model\.attention_scale"),
        ("model.norm_eps=1e-3", r"model\.norm_eps"),
    ):
        with pytest.raises(UsageError, match=words):
            describe(settings("ast", path, "init.head=replace", setting), toy_store)
    for sets in (["init.from=ast"], ["init.path=x"]):
        with pytest.raises(UsageError, match=r"init\.from and init\.path"):
            load_run_config(None, sets)


def test_a_dry_run_checks_the_weights(toy_store: PreparedStore, tmp_path: Path) -> None:
    path = foreign_weights.ast().write(tmp_path)
    assert describe(settings("ast", path, "init.head=replace"), toy_store)["train_clips"]
    with pytest.raises(CheckpointError, match="7 classes"):
        describe(settings("ast", path), toy_store)


# Configuration -------------------------------------------------------------------------------


def test_the_keyword_from_is_a_key_of_yaml(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("init: {from: ast, path: a.pth, head: replace}\n")
    config = load_run_config(recipe)
    assert (config.init.source, config.init.path, config.init.head) == ("ast", "a.pth", "replace")
    assert "from: ast" in dump_yaml(config) and "source:" not in dump_yaml(config)
    recipe.write_text(dump_yaml(config))
    assert from_dict(RunConfig, read_yaml(recipe)) == config
    for key in ("init.source=ast", "init.form=ast"):
        with pytest.raises(UsageError, match="unknown configuration key") as caught:
            load_run_config(None, [key])
        assert "init.from" in caught.value.hint
