"""Temporal resolution: other frame shifts, pooling over time, and training on a mixture of them."""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elastictool.audio.fbank import fbank, pool_frames
from elastictool.config import (
    AugmentConfig,
    FbankConfig,
    LengthDiversityConfig,
    PackingConfig,
    PoolKind,
    Reduction,
    ResolutionConfig,
    RunConfig,
)
from elastictool.config.coerce import from_dict
from elastictool.config.loader import load_run_config
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor, Mix
from elastictool.data.loader import load_batches
from elastictool.data.samplers import TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.evaluation.points import model_label
from elastictool.training.setup import resolve
from elastictool.utils.errors import UsageError
from elastictool.utils.rng import clip_rng
from tests.helpers import feature_extractors
from tests.helpers.augmented import augmented
from tests.helpers.feature_extractors import BARE

PAPER = tuple(round(1 + step / 5, 1) for step in range(16))
MIXED = ResolutionConfig(PAPER)
feature_extractor = functools.partial(
    feature_extractors.feature_extractor, shift_ms=5.0, max_frames=128
)


def sampler(store: PreparedStore, augment: AugmentConfig, end: FeatureExtractor) -> TrainingSampler:
    return TrainingSampler(
        clips=np.flatnonzero(store.splits == "train"),
        native_frames=ClipDataset(store, end).native_frames,
        feature_extractor=end,
        augment=augment,
        packing=PackingConfig(batch_clips=5),
        spec=end.pack_spec(1),
        seed=3,
        num_samples=store.num_samples,
    )


def views_of(plans: TrainingSampler, epoch: int = 0) -> list[Crop]:
    return [view for plan in plans.epoch(epoch) for row in plan.rows for view in row]


def noise(samples: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(samples)).to(dtype)


# Frames at another resolution


@pytest.mark.parametrize("compression", [*PAPER, 0.5, 1.03])
def test_frames_at_a_compression_are_the_filterbanks_at_that_shift(compression: float) -> None:
    waveform = noise(9_001)
    exact = Fraction(str(compression)) * 5
    end = feature_extractor().at_compression(compression)
    assert end.fbank.shift_ms == float(exact), "shifts are those written, to the last digit"
    found = end.frames(waveform.numpy())
    starts = [math.floor(k * exact * 16 + Fraction(1, 2)) for k in range(len(found))]
    assert starts[-1] + 400 <= 9_001 < math.floor(len(found) * exact * 16 + Fraction(1, 2)) + 400
    one = FbankConfig(shift_ms=1_000.0)  # a filterbank that has one frame to give
    centred = waveform - waveform.mean()
    for row, start in zip(found, starts, strict=True):
        # Each frame's own mean is subtracted and its pre-emphasis starts anew, so it stands alone.
        alone = fbank(centred[start : start + 400], one)
        torch.testing.assert_close(row, alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", ["shift", "average", "max"])
def test_compression_1_is_no_change_at_all(reduction: Reduction) -> None:
    end = feature_extractor(fixed_frames=96)
    assert end.at_compression(1.0, reduction) is end
    assert end.at_compression(0.5).at_compression(2.0).fbank == end.fbank


def test_length_limits_keep_their_seconds_and_are_rounded_down() -> None:
    end = feature_extractor(shift_ms=10.0, max_frames=3_072, fixed_frames=1_024)
    for compression in PAPER:
        length = end.at_compression(compression).length
        exact = Fraction(str(compression))
        assert length.fixed_frames == math.floor(1_024 / exact)  # int(1024 / C), as published
        assert length.max_frames == math.floor(3_072 / exact)
    native = feature_extractor(max_frames=2).at_compression(4.0).length
    assert (native.fixed_frames, native.max_frames) == (0, 1)


# Pooling


def plainly_pooled(frames: np.ndarray, size: int, kind: PoolKind) -> np.ndarray:
    """A loop over frames, bins and neighbours."""
    count = max(len(frames) // size, 1)
    pooled = np.empty((count, frames.shape[1]))
    for frame in range(count):
        for mel_bin in range(frames.shape[1]):
            group = [float(value) for value in frames[frame * size : (frame + 1) * size, mel_bin]]
            pooled[frame, mel_bin] = max(group) if kind == "max" else sum(group) / len(group)
    return pooled


@settings(max_examples=30)
@given(count=st.integers(1, 23), size=st.integers(1, 6), kind=st.sampled_from(["average", "max"]))
def test_pooling_equals_a_plain_loop(count: int, size: int, kind: PoolKind) -> None:
    frames = np.random.default_rng(count).standard_normal((count, 3))
    found = pool_frames(torch.from_numpy(frames), size, kind).numpy()
    np.testing.assert_allclose(found, plainly_pooled(frames, size, kind), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_pooling_before_or_after_normalising_is_the_same(kind: PoolKind) -> None:
    frames = noise(40 * 8).reshape(40, 8)
    before = (pool_frames(frames, 3, kind) + 6.0) / 8.0
    torch.testing.assert_close(before, pool_frames((frames + 6.0) / 8.0, 3, kind))


@settings(max_examples=40)
@given(samples=st.integers(0, 4_000), first=st.integers(0, 5), pool=st.integers(1, 5))
def test_counts_and_samples_of_pooled_frames_agree_with_the_frames(
    samples: int, first: int, pool: int
) -> None:
    end = dataclasses.replace(feature_extractor(), pool=pool)
    waveform = noise(samples)
    frames = end.frames(waveform.numpy())
    assert len(frames) == end.num_frames(samples) == (samples >= 400) * max(len(frames), 1)
    assert end.shift_ms == 5.0 * pool
    needed = end.samples_for(first + 1)
    assert end.num_frames(needed) == first + 1
    assert first == 0 or end.num_frames(needed - 1) == first
    if len(frames) > first and samples >= 400 + 80 * (pool - 1):
        begin = end.frame_start(first)
        excerpt = waveform[begin : begin + end.samples_for(1)] - waveform.mean()
        torch.testing.assert_close(
            end.frames(excerpt.numpy())[0], frames[first], rtol=1e-6, atol=1e-6
        )


EPIC = {"frontend": "epic-librosa", "window_ms": 10.0, "low_frequency_hz": 0.0, "preemphasis": 0.0}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    pool=st.integers(1, 4),
    shift_ms=st.sampled_from([5.0, 6.4, 2.51]),
    own=st.sampled_from([{}, EPIC]),
)
def test_an_excerpt_holds_the_frames_that_the_whole_clip_has(
    seed: int, pool: int, shift_ms: float, own: dict[str, object]
) -> None:
    rng = np.random.default_rng(seed)
    fbank = FbankConfig(shift_ms=shift_ms, **own)  # type: ignore[arg-type]
    end = dataclasses.replace(feature_extractor(), fbank=fbank, pool=pool)
    clip = noise(int(rng.integers(8_000, 30_000)))
    clip -= clip.mean()
    whole = end.frames(clip.numpy())
    first = int(rng.integers(0, len(whole)))
    count = int(rng.integers(1, len(whole) - first + 1))
    begin, stop, before = end.excerpt(first, count, len(whole))
    found = end.frames(clip[begin:stop].numpy())[before : before + count]
    torch.testing.assert_close(found, whole[first : first + count], rtol=1e-6, atol=1e-6)


# Training


@pytest.mark.parametrize("reduction", ["shift", "average"])
@pytest.mark.parametrize("fixed_frames", [0, 64])
def test_tokens_planned_are_those_collated(
    toy_store: PreparedStore, reduction: Reduction, fixed_frames: int
) -> None:
    compressions = PAPER if reduction == "shift" else (1.0, 2.0, 3.0, 4.0)
    augment = AugmentConfig(
        length_diversity=LengthDiversityConfig(share=0.5),
        resolution=ResolutionConfig(compressions, reduction),
        token_dropout=0.2,
        mixup=0.3,
    )
    end = feature_extractor(fixed_frames=fixed_frames, crop="random")
    plans = list(sampler(toy_store, augment, end).epoch(1))
    dataset = ClipDataset(toy_store, end, augment, seed=3, cache_mb=64)
    drawn = set()
    for plan, batch in zip(plans, load_batches(plans, dataset), strict=True):
        views = [view for row in plan.rows for view in row]
        counts = [end.num_patches(view) + 1 for view in views]
        assert list(batch.layout.lengths) == counts
        drawn |= {view.compression for view in views}
        for view, shape in zip(views, batch.grid_shapes, strict=True):
            assert shape == end.grid(view)
            seconds = view.total_frames * view.compression * 5e-3
            assert seconds <= 0.64 + 1e-9, "limits keep their seconds"
    assert len(drawn) > 3


@pytest.mark.parametrize(
    ("crop", "resolution"),
    [
        ("start", MIXED),
        ("random", MIXED),
        ("random", ResolutionConfig((1.0, 2.0, 3.0, 30.0), "average")),
        ("random", ResolutionConfig((1.0, 2.0, 3.0, 4.0), "max")),
    ],
)
def test_a_crop_at_a_compression_is_that_part_of_the_clips_frames(
    toy_store: PreparedStore, crop: str, resolution: ResolutionConfig
) -> None:
    augment = dataclasses.replace(
        BARE, resolution=resolution, length_diversity=LengthDiversityConfig(share=0.5)
    )
    end = feature_extractor(crop=crop)
    dataset = ClipDataset(toy_store, end, augment, seed=3)
    for view in views_of(sampler(toy_store, augment, end)):
        shift_ms = round(5.0 * (view.compression if resolution.reduction == "shift" else 1), 9)
        samples = toy_store.waveform(view.clip, 0, int(toy_store.num_samples[view.clip]))
        frames = fbank(torch.from_numpy(samples).double(), FbankConfig(shift_ms=shift_ms))
        if resolution.reduction != "shift":
            pooled = plainly_pooled(frames.numpy(), int(view.compression), resolution.reduction)
            frames = torch.from_numpy(pooled)
        assert len(frames) == view.native_frames
        wanted = (frames[view.first_frame :][: view.num_frames].float() + 6.0) / 8.0
        found = dataset.load(view)
        torch.testing.assert_close(found.fbank, wanted, rtol=0, atol=2e-3)
        assert found.shift_ms == pytest.approx(5.0 * view.compression, rel=1e-12)


def test_resolutions_of_1_train_on_the_same_bits_as_none(toy_store: PreparedStore) -> None:
    plain = AugmentConfig(length_diversity=LengthDiversityConfig(share=0.5))
    ones = dataclasses.replace(plain, resolution=ResolutionConfig((1.0,)))
    end = feature_extractor()
    assert list(sampler(toy_store, plain, end).epoch(2)) == list(
        sampler(toy_store, ones, end).epoch(2)
    )
    # A clip that happens to be drawn at 1 is untouched by what the others were drawn at.
    mixed = dataclasses.replace(plain, resolution=ResolutionConfig((1.0, 2.0)))
    same = {(v.clip, v.draw): v for v in views_of(sampler(toy_store, plain, end))}
    at_1 = [v for v in views_of(sampler(toy_store, mixed, end)) if v.compression == 1]
    assert 3 < len(at_1) < len(same)
    for view in at_1:
        assert view == same[view.clip, view.draw]
        left = ClipDataset(toy_store, end, plain, seed=3).load(view).fbank
        assert torch.equal(left, ClipDataset(toy_store, end, mixed, seed=3).load(view).fbank)


def test_shorter_crops_keep_their_least_seconds(toy_store: PreparedStore) -> None:
    diversity = LengthDiversityConfig(share=1.0, mode="replace", min_frames=40)
    augment = dataclasses.replace(BARE, resolution=MIXED, length_diversity=diversity)
    plans = sampler(toy_store, augment, feature_extractor())
    views = [view for epoch in range(20) for view in views_of(plans, epoch)]
    native = plans.native_frames
    for lowest in (1.0, 3.0):
        seconds = [
            view.num_frames * view.compression * 5e-3
            for view in views
            if native[view.clip] > 60 and view.compression >= lowest
        ]
        assert 0.2 * 0.95 <= min(seconds) < 0.25, "0.2 s, up to the rounding of frames"


def test_resolutions_are_drawn_evenly_anew_each_epoch_and_by_the_seed_alone(
    toy_store: PreparedStore,
) -> None:
    augment = dataclasses.replace(BARE, resolution=MIXED)
    plans = sampler(toy_store, augment, feature_extractor())
    epochs = [{v.clip: v.compression for v in views_of(plans, epoch)} for epoch in range(60)]
    assert epochs[0] == {v.clip: v.compression for v in views_of(plans, 0)}
    assert epochs[0] != epochs[1]
    other = dataclasses.replace(plans, seed=4)
    assert epochs[0] != {v.clip: v.compression for v in views_of(other, 0)}
    drawn = np.array([value for epoch in epochs for value in epoch.values()])
    found, counts = np.unique(drawn, return_counts=True)
    assert found.tolist() == sorted(PAPER)
    share, spread = len(drawn) / 16, math.sqrt(len(drawn) / 16)
    assert np.all(np.abs(counts - share) < 5 * spread)


def test_batches_are_the_same_for_any_worker_and_any_interruption(
    toy_store: PreparedStore,
) -> None:
    augment = AugmentConfig(resolution=MIXED, mixup=0.5)
    plans = list(sampler(toy_store, augment, feature_extractor()).epoch(1))
    batches = [
        list(load_batches(plans, ClipDataset(toy_store, feature_extractor(), augment, 3, 64), n))
        for n in (0, 1)
    ]
    late = list(
        load_batches(plans[2:], ClipDataset(toy_store, feature_extractor(), augment, 3, 64))
    )
    for left, right in zip([*batches[0], *batches[0][2:]], [*batches[1], *late], strict=True):
        assert left.clip_ids == right.clip_ids
        assert torch.equal(left.patch_groups[0].patches, right.patch_groups[0].patches)


def test_the_cache_holds_frames_of_the_own_resolution_only(toy_store: PreparedStore) -> None:
    end = feature_extractor()
    dataset = ClipDataset(toy_store, end, cache_mb=64)
    maker = sampler(toy_store, dataclasses.replace(BARE, resolution=MIXED), end)
    for view in views_of(maker):
        dataset.load(view)
        if view.clip in dataset._cache:
            assert len(dataset._cache[view.clip]) == dataset.native_frames[view.clip]
    ones = [view.clip for view in views_of(maker) if view.compression == 1]
    assert sorted(dataset._cache) == sorted(ones)


def test_mixed_clips_are_both_at_the_crops_resolution(toy_store: PreparedStore) -> None:
    end = feature_extractor()
    native = end.at_compression(2.0)
    frames = ClipDataset(toy_store, native).native_frames
    view = native.crop(0, int(frames[0]))
    view = dataclasses.replace(view, mix=Mix(5, 0.4))
    wanted = ClipDataset(toy_store, native).load(view).fbank
    found = ClipDataset(toy_store, end).load(dataclasses.replace(view, compression=2.0)).fbank
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("compression", [1.0, 1.6, 4.0])
def test_the_time_mask_shrinks_with_the_compression(
    toy_store: PreparedStore, compression: float
) -> None:
    """The published int(192 / C) of 1,024 / C frames; ours goes by the frames themselves."""
    end = feature_extractor(shift_ms=10.0, fixed_frames=1_024).at_compression(compression)
    frames = end.length.fixed_frames
    config = AugmentConfig(frequency_mask=0, time_mask=192)
    widths = []
    for seed in range(400):
        masked = augmented(torch.ones(frames, 4), config, partial(clip_rng, 0, 0, seed))
        widths.append(int((masked[:, 0] == 0).sum()))
    assert max(widths) <= 192 / compression
    assert max(widths) >= 0.97 * (192 / compression) - 1


# Settings


def test_a_recipe_can_ask_for_resolutions() -> None:
    config = load_run_config(None, ["augment.resolution.compressions=[1, 1.2, 4]"])
    assert config.augment.resolution == ResolutionConfig((1.0, 1.2, 4.0))
    assert model_label(config) == "ElasticAST, mixed resolutions"
    pooled = load_run_config(
        None, ["augment.resolution.compressions=[1,2]", "augment.resolution.reduction=max"]
    )
    assert model_label(pooled) == "ElasticAST, mixed max pooling"


@pytest.mark.parametrize(
    "values",
    [
        {"compressions": [0, 1]},
        {"compressions": [-1]},
        {"compressions": [1, 1]},
        {"compressions": [1, 1.5], "reduction": "average"},
        {"compressions": [1], "reduction": "median"},
    ],
)
def test_resolutions_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"augment\.resolution"):
        from_dict(RunConfig, {"augment": {"resolution": values}})


def test_positions_reach_the_finest_resolution_of_the_training(toy_store: PreparedStore) -> None:
    """Index positions: a clip at compression C takes the first rows of the table."""

    def columns(compressions: list[float]) -> int:
        values = {
            "length": {"max_frames": 320},
            "augment": {"resolution": {"compressions": compressions}},
        }
        return resolve(from_dict(RunConfig, values), toy_store)[0].model.grid[1]

    assert columns([]) == columns([1.0, 4.0]) == columns([2.0]) == 20
    assert columns([0.5, 2.0]) == 40


def test_sampling_at_resolutions_needs_the_samples_of_the_clips(toy_store: PreparedStore) -> None:
    plans = sampler(toy_store, dataclasses.replace(BARE, resolution=MIXED), feature_extractor())
    with pytest.raises(ValueError, match="num_samples"):
        next(dataclasses.replace(plans, num_samples=None).epoch(0))
