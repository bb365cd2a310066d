"""From crops to batches: the same for any worker, cache or interruption."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from elastictool.audio.fbank import fbank
from elastictool.config import (
    AugmentConfig,
    FbankConfig,
    PackingConfig,
)
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, Mix
from elastictool.data.loader import load_batches
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.packing.batch import PackedBatch
from tests.helpers import feature_extractors
from tests.helpers.feature_extractors import BARE, EVERYTHING, PLAIN, SHORTER_TOO

feature_extractor = functools.partial(feature_extractors.feature_extractor, max_frames=64)


def training(store: PreparedStore, augment: AugmentConfig, cache_mb: int = 512) -> ClipDataset:
    return ClipDataset(store, feature_extractor(), augment, seed=3, cache_mb=cache_mb)


def sampler(
    store: PreparedStore, augment: AugmentConfig, balanced: bool = False
) -> TrainingSampler:
    clips = np.arange(len(store)) if balanced else np.flatnonzero(store.splits == "train")
    return TrainingSampler(
        clips=clips,
        native_frames=ClipDataset(store, feature_extractor()).native_frames,
        feature_extractor=feature_extractor(),
        augment=augment,
        packing=PackingConfig(batch_clips=5),
        spec=feature_extractor().pack_spec(1),
        seed=3,
        weights=np.arange(len(clips)) % 3 + 0.5 if balanced else None,
        epoch_clips=150 if balanced else 0,  # enough to fill a small cache
    )


def tensors(batch: PackedBatch) -> Iterator[Tensor]:
    yield from (batch.layout.segment_ids, batch.targets)
    for group in batch.patch_groups:
        yield from (group.token_indices, group.coords, group.positions, group.patches)


def same(left: PackedBatch, right: PackedBatch) -> bool:
    pairs = zip(tensors(left), tensors(right), strict=True)
    return left.clip_ids == right.clip_ids and all(torch.equal(a, b) for a, b in pairs)


def test_default_batches_are_those_of_the_first_release(toy_store: PreparedStore) -> None:
    """Which clips, tokens, places, targets and masked cells; recorded before the new options."""
    found = hashlib.sha256()
    plans = sampler(toy_store, PLAIN).epoch(2)
    for batch in load_batches(plans, training(toy_store, PLAIN)):
        found.update("".join(batch.clip_ids).encode())
        (group,) = batch.patch_groups
        masked = group.patches == 0
        for tensor in (
            batch.layout.segment_ids,
            batch.targets,
            group.token_indices,
            group.coords,
            masked,
        ):
            found.update(tensor.numpy().tobytes())
    assert found.hexdigest()[:16] == "c35b6a3c591ec57f"


@pytest.mark.parametrize("cache_mb", [1, 512])  # 1 holds a part of the clips
def test_any_number_of_workers_and_any_interruption_give_the_same_batches(
    toy_store: PreparedStore, cache_mb: int
) -> None:
    plans = list(sampler(toy_store, EVERYTHING, balanced=True).epoch(1))
    once = list(load_batches(plans, training(toy_store, EVERYTHING, cache_mb)))
    for workers, done in ((1, 0), (2, 0), (0, 3)):
        again = islice(sampler(toy_store, EVERYTHING, balanced=True).epoch(1), done, None)
        dataset = training(toy_store, EVERYTHING, cache_mb)
        found = list(load_batches(again, dataset, workers))
        assert len(found) == len(once) - done > 0
        assert all(map(same, found, once[done:]))


def test_the_cache_never_outgrows_its_room_and_keeps_what_fits(toy_store: PreparedStore) -> None:
    held = []
    for cache_mb in (0, 1, 512):
        dataset = training(toy_store, BARE, cache_mb)
        for clip, native in enumerate(dataset.native_frames.tolist()):
            dataset.load(dataset.feature_extractor.crop(clip, native))
        held.append(sum(frames.nbytes for frames in dataset._cache.values()))
    assert held[0] == 0 and 0.8e6 < held[1] <= 1e6
    assert held[2] == training(toy_store, BARE).native_frames.sum() * 128 * 4


# Token dropout


@pytest.mark.parametrize(("stride", "edge"), [((16, 16), "pad"), ((10, 10), "drop")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_exactly_the_planned_tokens_are_loaded(
    toy_store: PreparedStore, stride: tuple[int, int], edge: str, share: float
) -> None:
    augment = AugmentConfig(token_dropout=share, length_diversity=SHORTER_TOO)
    front = dataclasses.replace(feature_extractor(edge=edge), patch_stride=stride)
    planned_by = dataclasses.replace(
        sampler(toy_store, augment), feature_extractor=front, spec=front.pack_spec(1)
    )
    plans = list(planned_by.epoch(0))
    dataset = ClipDataset(toy_store, front, augment, seed=3)
    for plan, batch in zip(plans, load_batches(plans, dataset), strict=True):
        kept = [front.num_patches(view) for row in plan.rows for view in row]
        assert batch.layout.lengths == tuple(count + 1 for count in kept)
        whole = [int(np.prod(shape)) for shape in batch.grid_shapes]
        assert sum(kept) <= max(len(kept), (1 - share) * sum(whole))


def test_kept_tokens_are_those_of_the_whole_clip_at_their_positions(
    toy_store: PreparedStore,
) -> None:
    dataset = training(toy_store, BARE)
    whole = Crop(2, int(dataset.native_frames[2]), 0, int(dataset.native_frames[2]))
    spec = dataset.feature_extractor.pack_spec()
    plans = [
        BatchPlan(0, ((dataclasses.replace(whole, token_dropout=share),),), spec)
        for share in (0.0, 0.4)
    ]
    (every,), (some,) = (batch.patch_groups for batch in load_batches(plans, dataset))
    (patches, coords), (kept, places) = ((x.patches, x.coords) for x in (every, some))
    by_place = {tuple(place): patch for place, patch in zip(coords.tolist(), patches, strict=True)}
    assert 0 < len(kept) < len(patches) and places.tolist() == sorted(places.tolist())
    assert len({tuple(place) for place in places.tolist()}) == len(kept)
    for place, patch in zip(places.tolist(), kept, strict=True):
        assert torch.equal(by_place[tuple(place)], patch)


def test_which_tokens_are_dropped_is_even_and_keyed_by_epoch_clip_and_repeat(
    toy_store: PreparedStore,
) -> None:
    dataset = training(toy_store, BARE)
    view = Crop(0, 48, 0, 48, token_dropout=0.5)

    def kept(view: Crop, epoch: int = 0) -> list[int]:
        found = dataset.load(view, epoch).kept
        return [] if found is None else found.tolist()

    counts = np.bincount([index for epoch in range(400) for index in kept(view, epoch)])
    assert len(counts) == 24 and counts.min() > 150 and counts.max() < 250
    assert kept(view, 5) == kept(view, 5)
    again = dataclasses.replace(view, draw=1)
    other = dataclasses.replace(view, clip=1)
    assert (
        len({tuple(kept(view)), tuple(kept(view, 1)), tuple(kept(again)), tuple(kept(other))}) == 4
    )


# Mixup


def reference(store: PreparedStore, view: Crop, mix: Mix, config: FbankConfig) -> Tensor:
    """Log-mel frames of a mixed view in float64, from the whole waveforms."""
    begin = config.frame_start(view.first_frame)
    stop = config.samples_for(view.first_frame + view.num_frames)
    own = store.waveform(view.clip, 0, stop).astype(np.float64)
    other = store.waveform(mix.clip).astype(np.float64)
    mixed = own.copy()
    for index in range(begin, len(own)):
        place = index - begin
        mixed[index] = mix.ratio * (own[index] - own[begin:].mean())
        if place < len(other):
            part = other[: len(own) - begin]
            mixed[index] += (1 - mix.ratio) * (other[place] - part.mean())
    frames = fbank(torch.from_numpy(mixed), config)
    return (frames[view.first_frame :][: view.num_frames] + 6.0) / 8.0


@pytest.mark.parametrize("shift_ms", [10.0, 12.3])
@pytest.mark.parametrize("first_frame", [0, 7])
def test_a_mixed_clip_is_the_filterbank_of_the_mixed_waveforms(
    toy_store: PreparedStore, shift_ms: float, first_frame: int
) -> None:
    dataset = ClipDataset(toy_store, feature_extractor(shift_ms), BARE, cache_mb=8)
    by_length = np.argsort(dataset.native_frames).tolist()
    for clip, partner in ((by_length[3], by_length[-2]), (by_length[-2], by_length[3])):
        native = int(dataset.native_frames[clip])
        view = Crop(clip, native, first_frame, native - first_frame, mix=Mix(partner, 0.3))
        found = dataset.load(view).fbank
        expected = reference(toy_store, view, Mix(partner, 0.3), dataset.feature_extractor.fbank)
        assert found.shape == (native - first_frame, 128)
        assert torch.allclose(found.double(), expected, atol=2e-3)
        assert not torch.allclose(found, dataset.load(dataclasses.replace(view, mix=None)).fbank)


def test_targets_are_mixed_with_the_same_ratio(toy_store: PreparedStore) -> None:
    dataset = training(toy_store, BARE)
    one, other = 0, 1
    for view, expected in (
        (Crop(one, 40, 0, 20, mix=Mix(other, 0.3)), [(one, 0.3), (other, 0.7)]),
        (Crop(one, 40, 0, 20, mix=Mix(one, 0.3)), [(one, 1.0)]),
    ):
        targets = torch.zeros(3)
        for clip, share in expected:
            targets[toy_store.label_indices(clip)[0]] = share
        assert torch.allclose(dataset.load(view).targets, targets)


def test_a_mixed_clip_never_enters_the_cache(toy_store: PreparedStore) -> None:
    dataset = training(toy_store, BARE)
    view = Crop(0, int(dataset.native_frames[0]), 0, int(dataset.native_frames[0]))
    mixed = dataclasses.replace(view, mix=Mix(1, 0.5))
    before = dataset.load(mixed).fbank
    assert torch.equal(dataset.load(view).fbank, training(toy_store, BARE).load(view).fbank)
    assert torch.equal(dataset.load(mixed).fbank, before)


# Noise and roll


@pytest.mark.parametrize("option", [{"noise": 0.1}, {"roll": 10}], ids=str)
def test_noise_and_roll_change_training_clips_after_their_masks(
    toy_store: PreparedStore, option: dict[str, float]
) -> None:
    config = dataclasses.replace(AugmentConfig(), **option)  # type: ignore[arg-type]
    view = Crop(0, 60, 0, 40)
    masked = training(toy_store, AugmentConfig()).load(view).fbank
    changed = [training(toy_store, config).load(view, epoch).fbank for epoch in range(8)]
    assert torch.equal(changed[3], training(toy_store, config).load(view, 3).fbank)
    assert len({tuple(frames.flatten().tolist()) for frames in changed}) == 8
    if "noise" in option:
        noise = changed[0] - masked
        assert noise.min() >= 0 and noise.max() <= 0.1 and noise.std() > 0
    else:
        assert any(torch.equal(changed[0].roll(-shift, 0), masked) for shift in range(-10, 11))
