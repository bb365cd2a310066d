"""One model at many patch sizes: what must hold of it, and how sizes are drawn in training."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.checkpoint.weights import load_run
from elastictool.config import (
    PATCH_SIZES,
    AugmentConfig,
    FbankConfig,
    FlexiConfig,
    LengthConfig,
    ModelConfig,
    PackingConfig,
    Resize,
    RunConfig,
)
from elastictool.config.coerce import from_dict, to_dict
from elastictool.config.loader import load_run_config
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.loader import load_batches
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.models.pos_embed import FactorisedPosEmbed, GridPosEmbed
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.grid import patch_size_along, scaled_stride
from elastictool.training.run import describe, train_run
from elastictool.utils.errors import UsageError

ELASTIC = ModelConfig(
    width=24, depth=2, heads=3, num_mel_bins=16, patch_size=(8, 8), patch_stride=(8, 8),
    grid=(2, 6), num_classes=5,
)  # fmt: skip
FLEXI = dataclasses.replace(
    ELASTIC, preset="flexiast", pos_embed="grid", pooling="prefix", prefix_tokens=1
)
MODELS = {
    "flexiast": FLEXI,
    "flexiast, BL": dataclasses.replace(FLEXI, resize="bl"),
    "sliced": dataclasses.replace(FLEXI, pos_embed_fit="slice"),
    "elasticast": ELASTIC,
    "overlapping": dataclasses.replace(FLEXI, patch_stride=(4, 6), grid=(3, 8)),
}
SIZES = [(4, 4), (5, 5), (8, 8), (10, 10), (16, 16), (8, 12), (12, 8)]
FRAMES = [[20, 9, 31], [4, 48, 20]]

each_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def make_model(config: ModelConfig) -> SpectrogramTransformer:
    """A model in float64 whose weights are large enough for everything to matter."""
    torch.manual_seed(0)
    model = SpectrogramTransformer(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


Clip = tuple[Example, PackSpec]


def example(frames: int, config: ModelConfig, size: tuple[int, int]) -> Clip:
    """A random clip, the same for every size."""
    generator = torch.Generator().manual_seed(frames)
    stride = scaled_stride(config.patch_size, config.patch_stride, size)
    spectrogram = torch.randn(frames, 16, generator=generator)
    return Example(spectrogram, torch.zeros(5), "", 10.0), PackSpec(
        size, stride, prefix_tokens=config.prefix_tokens
    )


def pack(rows: list[list[Clip]]) -> PackedBatch:
    examples = [[example for example, _ in row] for row in rows]
    return collate(examples, [spec for row in rows for _, spec in row]).astype(torch.float64)


@each_model
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_packed_output_equals_unpacked_output_at_each_patch_size(
    config: ModelConfig, size: tuple[int, int]
) -> None:
    model = make_model(config)
    rows = [[example(frames, config, size) for frames in row] for row in FRAMES]
    packed = model(pack(rows))
    alone = [model(pack([[clip]])) for row in rows for clip in row]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-12)
    assert packed.std(dim=0).min() > 1e-3


@each_model
def test_clips_of_several_patch_sizes_share_a_batch(config: ModelConfig) -> None:
    model = make_model(config)
    sizes = [(8, 8), (4, 4), (16, 16), (4, 4), (8, 12), (8, 8)]
    frames = [frames for row in FRAMES for frames in row]
    clips = [example(n, config, size) for n, size in zip(frames, sizes, strict=True)]
    packed = model(pack([clips[:2], clips[2:]]))
    alone = torch.cat([model(pack([[clip]])) for clip in clips])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)


def test_a_size_in_a_batch_warns_of_no_other_sizes_clips(caplog: pytest.LogCaptureFixture) -> None:
    """48 frames are 12 columns of 4 and fit the table at that size, and so at size 8."""
    sizes = [(4, 4), (8, 8)]
    make_model(ELASTIC)(pack([[example(48, ELASTIC, size) for size in sizes]]))
    assert not caplog.records
    make_model(ELASTIC)(pack([[example(60, ELASTIC, size) for size in sizes]]))
    assert "15 patches are longer than the 12 trained" in caplog.text


def test_flexiast_at_its_base_size_equals_ast() -> None:
    ast = dataclasses.replace(FLEXI, preset="ast")
    flexi, standard = make_model(FLEXI), make_model(ast)
    standard.load_state_dict(flexi.state_dict())
    batch = pack([[example(48, FLEXI, (8, 8)), example(48, FLEXI, (8, 8))]])
    assert torch.equal(flexi(batch), standard(batch))
    preset = load_run_config(None, ["model.preset=flexiast"])
    assert (
        dataclasses.replace(preset.model, preset="ast")
        == load_run_config(None, ["model.preset=ast"]).model
    )
    assert preset.flexi.sizes == PATCH_SIZES


@pytest.mark.parametrize("size", [(10, 10), (12, 16), (16, 8), (24, 24)], ids=str)
def test_resized_patches_give_the_tokens_of_the_original_ones(size: tuple[int, int]) -> None:
    model = make_model(ELASTIC)
    patches = torch.randn(7, 8, 8, dtype=torch.float64)
    expected = model.patch_embed(patches.flatten(1), (8, 8))
    larger = F.interpolate(patches[None], size, mode="bilinear")[0]
    found = model.patch_embed(larger.flatten(1), size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@each_model
@pytest.mark.parametrize("size", [(4, 4), (12, 12)], ids=str)
def test_every_parameter_learns_at_a_foreign_patch_size(
    config: ModelConfig, size: tuple[int, int]
) -> None:
    model = make_model(config)
    rows = [[example(frames, config, size) for frames in row] for row in FRAMES]
    model(pack(rows)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if not name.endswith("attn_pool.kv.bias"):
            assert parameter.grad.abs().max() > 1e-9, name


@each_model
def test_a_foreign_patch_size_asks_the_device_for_no_value(config: ModelConfig) -> None:
    rows = [[example(frames, config, (12, 12)) for frames in row] for row in FRAMES]
    logits = make_model(config).to("meta")(pack(rows).to("meta"))
    assert logits.shape == (6, 5)


@pytest.mark.parametrize("resize", ["pi", "bl", "bl-plain"])
def test_each_way_of_resizing_is_used(resize: Resize) -> None:
    config = dataclasses.replace(FLEXI, resize=resize)
    others = {"pi", "bl", "bl-plain"} - {resize}
    kernel = make_model(config).patch_embed.weight_for((5, 5))
    for other in others:
        different = make_model(dataclasses.replace(FLEXI, resize=other))
        assert not torch.allclose(kernel, different.patch_embed.weight_for((5, 5)), atol=1e-3)


@pytest.mark.parametrize("size, columns", [((4, 4), 24), ((6, 6), 16), ((24, 24), 4)])
def test_a_factorised_table_keeps_the_time_that_its_rows_stand_for(
    size: tuple[int, int], columns: int
) -> None:
    """A table that counts frames counts them at any patch size, and for clips of any length."""
    config = dataclasses.replace(ELASTIC, width=2, heads=1, grid=(2, 12))
    module = FactorisedPosEmbed(config).double()
    with torch.no_grad():
        module.frequency.zero_()
        module.time.copy_((8 * torch.arange(12.0) + 4)[:, None].expand(-1, 2))
    for whole in (columns, columns - 1):
        coords = torch.stack([torch.zeros(whole, dtype=torch.long), torch.arange(whole)], 1)
        clips = torch.zeros(whole, dtype=torch.long)
        found = module(coords, clips, [(2, whole)], size)[1:-1, 0]
        expected = size[1] * (torch.arange(whole) + 0.5)
        inner = (expected > 8) & (expected < 88)
        torch.testing.assert_close(
            found[inner[1:-1]].float(), expected[1:-1][inner[1:-1]], rtol=0, atol=0.6
        )


def test_grid_positions_are_resized_to_the_grid_that_results() -> None:
    config = dataclasses.replace(FLEXI, grid=(8, 64), patch_size=(16, 16), patch_stride=(16, 16))
    module = GridPosEmbed(config).double()
    torch.nn.init.normal_(module.grid)
    image = module.grid.view(8, 64, -1).permute(2, 0, 1)[None]
    for shape, size in (((3, 22), (48, 48)), ((16, 128), (8, 8)), ((2, 21), (48, 48))):
        expected = F.interpolate(image, shape, mode="bilinear", antialias=True)[0]
        found = module.fitted(shape, size).view(*shape, -1).permute(2, 0, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    sliced = GridPosEmbed(dataclasses.replace(config, pos_embed_fit="slice")).double()
    sliced.load_state_dict(module.state_dict())
    short = sliced.fitted((3, 5), (48, 48)).view(3, 5, -1)
    torch.testing.assert_close(short, module.fitted((3, 22), (48, 48)).view(3, 22, -1)[:, :5])


@pytest.mark.parametrize("edge, bands", [("pad", 3), ("drop", 2)])
def test_frequency_is_padded_or_dropped_as_time_is(edge: str, bands: int) -> None:
    """At 48, ``drop`` discards 32 of 128 bins, as published."""
    length = from_dict(LengthConfig, {"fixed_frames": 96, "edge": edge})
    front = FeatureExtractor(FbankConfig(), length, (16, 16), (16, 16), -5.0, 4.0).at_patch_size(
        (48, 48)
    )
    spectrogram = front.spectrogram(torch.randn(96, 128), front.crop(0, 96)).computed()
    batch = collate([[Example(spectrogram, torch.zeros(1), "clip", 10.0)]], front.pack_spec())
    assert batch.grid_shapes == ((bands, 2),)
    last = batch.patch_groups[0].patches[-1].view(48, 48)
    assert torch.equal(last[:32], spectrogram[48:, 48 * (bands - 1) :][:, :32].T)
    if edge == "pad":
        assert (last[32:] == front.pack_spec().pad_value).all()


# Drawing sizes.


def sampler(
    flexi: FlexiConfig,
    clips: int = 100,
    steps: int = 1,
    seed: int = 3,
    patch: tuple[int, int] = (16, 16),
    **packing: int | str,
) -> TrainingSampler:
    frames = np.random.default_rng(0).integers(20, 400, clips)
    front = FeatureExtractor(FbankConfig(), LengthConfig(), patch, patch, -5.0, 4.0)
    return TrainingSampler(
        np.arange(clips), frames.astype(np.int64), front,
        AugmentConfig(), from_dict(PackingConfig, packing), front.pack_spec(1), seed,
        flexi=flexi, batches_per_step=steps,
    )  # fmt: skip


def drawn(sampler: TrainingSampler, epochs: int = 1) -> list[tuple[int, int]]:
    return [plan.spec.patch_size for epoch in range(epochs) for plan in sampler.epoch(epoch)]


def test_sizes_are_drawn_alike_everywhere_and_anew_in_each_epoch_and_seed() -> None:
    flexi = FlexiConfig(PATCH_SIZES)
    first = drawn(sampler(flexi, batch_clips=5))
    assert len(first) == 20 and len(set(first)) > 3
    assert first == drawn(sampler(flexi, batch_clips=5))
    # An interrupted epoch, or a rank that skips batches, asks for single places.
    assert first[7] == sampler(flexi, batch_clips=5).draw_patch_size(0, 7)
    assert first != drawn(sampler(flexi, batch_clips=5, seed=4))
    assert first != drawn(sampler(flexi, batch_clips=5), 2)[20:]


def test_sizes_come_as_often_as_their_weights_say() -> None:
    flexi = FlexiConfig((8, 16, 48), (1.0, 2.0, 0.0))
    one = sampler(flexi, 1)
    count = Counter(one.draw_patch_size(0, batch) for batch in range(1500))
    assert set(count) == {(8, 8), (16, 16)}
    assert count[(16, 16)] / 1500 == pytest.approx(2 / 3, abs=0.05)
    even = Counter(sampler(FlexiConfig((8, 16)), 1).draw_patch_size(0, b) for b in range(1500))
    assert even[(8, 8)] / 1500 == pytest.approx(1 / 2, abs=0.05)


@pytest.mark.parametrize(
    "axes, expected", [("both", (24, 24)), ("time", (16, 24)), ("frequency", (24, 12))]
)
def test_sweeps_keep_the_models_own_size(axes: str, expected: tuple[int, int]) -> None:
    flexi = from_dict(FlexiConfig, {"sizes": [24], "axes": axes})
    assert set(drawn(sampler(flexi, patch=(16, 12)))) == {expected}
    assert patch_size_along(flexi.axes, 24, (16, 12)) == expected


def test_batches_of_one_optimiser_step_share_a_size() -> None:
    sizes = drawn(sampler(FlexiConfig(PATCH_SIZES), steps=4, batch_clips=5))
    assert all(len(set(sizes[i : i + 4])) == 1 for i in range(0, 20, 4))
    assert len(set(sizes)) > 1


def test_without_sizes_everything_is_as_before() -> None:
    assert set(drawn(sampler(FlexiConfig()))) == {(16, 16)}


@pytest.mark.parametrize("budget", [300, 2_000])
def test_a_token_budget_counts_the_tokens_of_the_drawn_size(budget: int) -> None:
    planned = sampler(FlexiConfig(PATCH_SIZES), batch_tokens=budget)
    seen: list[int] = []
    fullest: dict[tuple[int, int], int] = {}
    for plan in planned.epoch(0):
        views = [view for row in plan.rows for view in row]
        front = planned.feature_extractor.at_patch_size(plan.spec.patch_size)
        tokens = sum(front.num_patches(view) + 1 for view in views)
        assert tokens <= budget or len(views) == 1
        fullest[plan.spec.patch_size] = max(fullest.get(plan.spec.patch_size, 0), len(views))
        seen += [view.clip for view in views]
    assert sorted(seen) == list(range(100))
    assert fullest[max(fullest)] > fullest[min(fullest)]


def test_a_window_planner_keeps_every_clip_and_no_row_is_too_long() -> None:
    planned = sampler(
        FlexiConfig((8, 32)), planner="best-fit-decreasing", batch_clips=5, capacity=300
    )
    seen = []
    for number, plan in enumerate(planned.epoch(0)):
        assert plan.spec.patch_size == planned.draw_patch_size(0, number)
        front = planned.feature_extractor.at_patch_size(plan.spec.patch_size)
        for row in plan.rows:
            assert len(row) == 1 or sum(front.num_patches(view) + 1 for view in row) <= 300
            seen += [view.clip for view in row]
    assert sorted(seen) == list(range(100))


def test_windows_cannot_keep_a_token_budget_of_sizes_not_drawn_yet(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    sets = ["packing.planner=best-fit-decreasing", "packing.batch_tokens=500"]
    with pytest.raises(UsageError, match="before their patch sizes are drawn"):
        train_run(load_run_config(None, [*SMALL, *sets]), toy_store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loaded_batches_have_the_planned_patches_and_tokens(
    toy_store: PreparedStore, dropout: float
) -> None:
    front = FeatureExtractor(FbankConfig(), LengthConfig(), (16, 16), (16, 16), -5.0, 4.0)
    dataset = ClipDataset(toy_store, front)
    planned = TrainingSampler(
        np.arange(6), dataset.native_frames, front, AugmentConfig(token_dropout=dropout),
        PackingConfig(batch_clips=2), front.pack_spec(1), 0, flexi=FlexiConfig((8, 12, 40)),
    )  # fmt: skip
    plans = list(planned.epoch(0))
    for plan, batch in zip(plans, load_batches(plans, dataset), strict=True):
        assert [group.patch_size for group in batch.patch_groups] == [plan.spec.patch_size]
        sized = front.at_patch_size(plan.spec.patch_size)
        views = [view for row in plan.rows for view in row]
        assert batch.layout.lengths == tuple(sized.num_patches(view) + 1 for view in views)
    alone = next(load_batches([BatchPlan(0, plans[0].rows, front.pack_spec())], dataset))
    assert alone.patch_groups[0].patch_size == (16, 16)


# Configuration and training.


@pytest.mark.parametrize(
    "setting, word",
    [
        ("flexi.sizes=[8, 0]", "above 0"),
        ("flexi.sizes=[8, 8]", "twice"),
        ("flexi.weights=[1]", "1 values for 0 sizes"),
        ("flexi.axes=tme", "time"),
        ("flexi.sizes=[a]", "whole number"),
        ("flexi=3", "mapping"),
        ("train.distill.temperature=0", "temperature"),
        ("train.distill.weight=0", "weight"),
    ],
)
def test_wrong_settings_are_refused(setting: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, [setting])
    assert word in f"{caught.value.message} {caught.value.hint}"


def test_settings_of_flexible_runs_survive_their_file() -> None:
    config = load_run_config(
        None, ["model.preset=flexiast", "flexi.sizes=[8, 24]", "flexi.weights=[1, 3]"]
    )
    assert config.flexi == FlexiConfig((8, 24), (1.0, 3.0))
    assert from_dict(RunConfig, to_dict(config)) == config
    assert load_run_config(None, ["flexi.sizes=8"]).flexi.sizes == (8,)


SMALL = (
    "model.width=32", "model.heads=2", "model.depth=1", "length.fixed_frames=64",
    "train.epochs=1", "packing.batch_clips=3", "model.preset=flexiast",
)  # fmt: skip


@pytest.mark.parametrize(
    "sets",
    [
        ("flexi.axes=time",),
        ("flexi.axes=frequency",),
        ("flexi.sizes=[16]",),
        ("flexi.weights=[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]",),
        ("model.resize=bl",),
        ("model.resize=bl-plain",),
    ],
    ids=" ".join,
)
def test_each_option_has_an_effect(
    plain: dict[str, Tensor], toy_store: PreparedStore, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    train_run(load_run_config(None, [*SMALL, *sets]), toy_store, tmp_path / "run")
    changed = load_run(tmp_path / "run", "last").model.state_dict()
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


@pytest.fixture(scope="module")
def plain(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("plain") / "run"
    train_run(load_run_config(None, SMALL), toy_store, path)
    return load_run(path, "last").model.state_dict()


def test_describe_counts_the_tokens_of_the_drawn_sizes(toy_store: PreparedStore) -> None:
    def tokens(*sets: str) -> int:
        report = describe(load_run_config(None, [*SMALL, *sets]), toy_store)
        return int(report["tokens_per_epoch"])

    clips = 18
    for size in (8, 48):
        expected = clips * (math.ceil(128 / size) * math.ceil(64 / size) + 1)
        assert tokens(f"flexi.sizes=[{size}]") == expected
