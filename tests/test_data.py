"""Dataset, splits and samplers: crops, the clips of each split, the contents of a batch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elastictool.audio.kaldi_fbank import FLOOR
from elastictool.config import (
    AugmentConfig,
    DataConfig,
    FbankConfig,
    LengthDiversityConfig,
    PackingConfig,
)
from elastictool.data.collate import Example, PackSpec, collate, patchify
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.paths import find_dataset
from elastictool.data.samplers import TrainingSampler
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError
from tests.helpers.feature_extractors import MEAN, STD, feature_extractor


def sampler(
    front: FeatureExtractor, frames: list[int], share: float = 0.0, **diversity: object
) -> TrainingSampler:
    config = dataclasses.replace(LengthDiversityConfig(share=share), **diversity)  # type: ignore[arg-type]
    return TrainingSampler(
        clips=np.arange(len(frames)),
        native_frames=np.array(frames),
        feature_extractor=front,
        augment=AugmentConfig(length_diversity=config),
        packing=PackingConfig(batch_clips=4, capacity=256),
        spec=front.pack_spec(),
        seed=3,
    )


def views(plan_sampler: TrainingSampler, epoch: int = 0) -> list[Crop]:
    return [v for plan in plan_sampler.epoch(epoch) for row in plan.rows for v in row]


FRAMES = st.lists(st.integers(1, 900), min_size=1, max_size=30)


@given(frames=FRAMES, epoch=st.integers(0, 3))
def test_every_clip_is_seen_once_an_epoch(frames: list[int], epoch: int) -> None:
    seen = Counter(view.clip for view in views(sampler(feature_extractor(), frames), epoch))
    assert seen == Counter(range(len(frames)))


@given(frames=FRAMES, share=st.floats(0, 1), mode=st.sampled_from(["replace", "add"]))
def test_shorter_crops_lie_within_their_clip(frames: list[int], share: float, mode: str) -> None:
    drawn = views(sampler(feature_extractor(max_frames=512), frames, share, mode=mode))
    for view in drawn:
        assert view.num_frames >= 1
        assert view.first_frame + view.num_frames <= min(frames[view.clip], 512)
        assert view.pad_to == 0
    whole = {view.clip for view in drawn if view.num_frames == min(frames[view.clip], 512)}
    if mode == "add":
        assert whole == set(range(len(frames)))


def test_prefixes_start_at_the_beginning_and_excerpts_anywhere() -> None:
    frames = [400] * 200
    prefixes = views(sampler(feature_extractor(), frames, 1.0, mode="replace", prefix_share=1.0))
    excerpts = views(sampler(feature_extractor(), frames, 1.0, mode="replace", prefix_share=0.0))
    assert {view.first_frame for view in prefixes} == {0}
    assert len({view.first_frame for view in excerpts}) > 50
    shortest = min(view.num_frames for view in prefixes)
    assert 32 <= shortest < 48


def test_crops_of_a_clip_do_not_depend_on_its_position_in_the_data() -> None:
    few = {v.clip: v for v in views(sampler(feature_extractor(), [300] * 10, 1.0, mode="replace"))}
    again = {
        v.clip: v for v in views(sampler(feature_extractor(), [300] * 10, 1.0, mode="replace"))
    }
    other = {
        v.clip: v for v in views(sampler(feature_extractor(), [300] * 10, 1.0, mode="replace"), 1)
    }
    assert few == again
    assert few != other


def test_added_crops_stay_in_their_clips_batch() -> None:
    for plan in sampler(feature_extractor(), [300] * 10, 1.0).epoch(0):
        clips = [view.clip for row in plan.rows for view in row]
        assert all(count == 2 for count in Counter(clips).values())
        assert len(set(clips)) <= 4


def test_fixed_lengths_pad_short_clips_and_cut_long_ones() -> None:
    front = feature_extractor(fixed_frames=100)
    for native in (40, 100, 250):
        view = front.crop(0, native)
        raw = torch.randn(native, 128)
        fbank = front.spectrogram(raw[: view.num_frames], view).computed()
        assert fbank.shape == (100, 128)
        assert view.native_frames - view.num_frames == max(0, native - 100)
        kept = min(native, 100)
        assert torch.allclose(fbank[:kept], (raw[:kept] - MEAN) / (2 * STD))
        assert torch.allclose(fbank[kept:], torch.tensor((FLOOR - MEAN) / (2 * STD)))


def test_published_padding_is_zero_before_normalisation() -> None:
    front = feature_extractor(fixed_frames=50, padding="zero")
    fbank = front.spectrogram(torch.randn(20, 128), front.crop(0, 20)).computed()
    assert torch.allclose(fbank[20:], torch.tensor((0.0 - MEAN) / (2 * STD)))


def test_native_lengths_are_cut_at_the_cap_and_never_padded() -> None:
    front = feature_extractor(max_frames=100)
    assert front.crop(0, 250).num_frames == 100
    assert front.crop(0, 40) == Crop(0, 40, 0, 40)
    assert front.at_length(30).crop(0, 40).num_frames == 30
    assert front.at_length(3000).crop(0, 40) == front.crop(0, 40)


@given(
    frames=st.integers(1, 200),
    bins=st.integers(4, 70),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    edge=st.sampled_from(["pad", "drop"]),
)
def test_patches_hold_the_spectrogram_where_their_coordinates_say(
    frames: int, bins: int, size: tuple[int, int], edge: str
) -> None:
    image = torch.randn(frames, bins)
    patches, coords = patchify(image, PackSpec(size, size, edge, pad_value=9.0))  # type: ignore[arg-type]
    assert len(patches) == len(coords) == len({tuple(place) for place in coords.tolist()})
    for patch, (band, column) in zip(patches, coords.tolist(), strict=True):
        square = patch.reshape(size).T
        part = image[
            column * size[1] : (column + 1) * size[1], band * size[0] : (band + 1) * size[0]
        ]
        assert torch.equal(square[: part.shape[0], : part.shape[1]], part)
        assert (square[part.shape[0] :] == 9.0).all() and (square[:, part.shape[1] :] == 9.0).all()
    if edge == "pad":
        assert len(patches) == -(-bins // size[0]) * -(-frames // size[1])


def test_overlapping_patches_follow_their_stride() -> None:
    patches, coords = patchify(torch.randn(1024, 128), PackSpec((16, 16), (10, 10), "drop"))
    assert len(patches) == 12 * 101
    assert coords.max(0).values.tolist() == [11, 100]


def test_patch_groups_hold_each_size_and_its_token_indices() -> None:
    sizes = [(16, 16), (8, 8), (16, 16)]
    examples = [
        Example(torch.randn(40, 32), torch.zeros(2), str(i), 10.0) for i in range(len(sizes))
    ]
    batch = collate([examples], [PackSpec(size, size, prefix_tokens=1) for size in sizes])
    assert [group.patch_size for group in batch.patch_groups] == [(16, 16), (8, 8)]
    token_indices = torch.cat([group.token_indices for group in batch.patch_groups])
    prefix = torch.tensor(batch.layout.starts)
    everything = torch.cat([token_indices, prefix]).sort().values
    assert torch.equal(everything, torch.arange(batch.layout.stream_length))
    assert batch.layout.lengths == (7, 21, 7)
    assert torch.allclose(batch.patch_groups[1].positions[-1], torch.tensor([24.0, 0.32]))


def test_padded_rows_are_the_papers_rows() -> None:
    examples = [Example(torch.randn(16 * n, 16), torch.zeros(1), str(n), 10.0) for n in (3, 2, 4)]
    batch = collate([examples[:2], examples[2:]], PackSpec((16, 16), (16, 16), padded_rows=True))
    assert batch.layout.rows_shape == (2, 5)
    assert batch.layout.segment_ids.reshape(2, 5).tolist() == [[0, 0, 0, 1, 1], [2, 2, 2, 2, -1]]
    assert batch.layout.cu_seqlens.tolist() == [0, 3, 5, 9]


def test_a_crop_reads_the_frames_that_the_whole_clip_has_there(toy_store: PreparedStore) -> None:
    for shift_ms in (10.0, 12.3):
        front = dataclasses.replace(feature_extractor(), fbank=FbankConfig(shift_ms=shift_ms))
        plain, cached = ClipDataset(toy_store, front), ClipDataset(toy_store, front, cache_mb=8)
        native = int(plain.native_frames[0])
        whole = plain.load(front.crop(0, native)).fbank
        view = Crop(0, native, 7, 11)
        for dataset in (plain, cached, cached):
            assert torch.equal(dataset.load(view).fbank, whole[7:18])


def test_splits_are_disjoint_and_follow_the_data(toy_store: PreparedStore) -> None:
    splits = select_clips(toy_store, DataConfig(), 0)
    parts = [set(part.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert set.union(*parts) == set(range(len(toy_store)))
    assert sum(map(len, parts)) == len(toy_store)
    assert (toy_store.splits[splits.test] == "test").all()


def test_a_validation_part_is_stratified_seeded_and_taken_from_training(
    toy_store: PreparedStore,
) -> None:
    config = DataConfig(validation_split="none", validation_fraction=1 / 3)
    first = select_clips(toy_store, config, 0)
    assert np.array_equal(first.validation, select_clips(toy_store, config, 0).validation)
    assert not np.array_equal(first.validation, select_clips(toy_store, config, 1).validation)
    labels = Counter(toy_store.label_indices(clip)[0] for clip in first.validation.tolist())
    assert set(labels.values()) == {2}
    assert not set(first.validation) & set(first.train)


@pytest.mark.parametrize("setting", ["train_split", "validation_split", "test_split"])
def test_an_unknown_split_names_those_there_are(toy_store: PreparedStore, setting: str) -> None:
    misspelt = DataConfig(**{setting: "tset"})
    with pytest.raises(UsageError, match=f"{setting} = 'tset'") as caught:
        select_clips(toy_store, misspelt, 0)
    assert "test, train, val" in caught.value.hint
    select_clips(toy_store, misspelt, 0, to_train=False)  # another corpus may call them otherwise
    if setting != "train_split":
        assert len(select_clips(toy_store, DataConfig(**{setting: "none"}), 0).train)


@pytest.mark.parametrize(
    ("setting", "other"), [("train_split", "test"), ("train_split", "val"), ("test_split", "val")]
)
def test_two_parts_never_share_a_split(toy_store: PreparedStore, setting: str, other: str) -> None:
    with pytest.raises(UsageError, match=f"are both '{other}'"):
        select_clips(toy_store, DataConfig(**{setting: other}), 0)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5])
def test_a_part_of_many_small_classes_is_that_part_of_all_clips(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    """Of each class alone, rounding would take none or all."""
    monkeypatch.setattr(PreparedStore, "label_indices", lambda self, clip: (clip,))
    config = DataConfig(validation_split="none", validation_fraction=fraction)
    splits = select_clips(toy_store, config, 0)
    pool = len(splits.train) + len(splits.validation)
    assert abs(len(splits.validation) - fraction * pool) <= 0.5


@pytest.mark.parametrize("shared", [False, True], ids=["new to the test", "in the test too"])
def test_whole_groups_move_into_a_validation_part_where_the_test_has_groups_of_its_own(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    groups = np.array([f"speaker {clip % 6}" for clip in range(len(toy_store))])
    if not shared:
        groups[toy_store.splits == "test"] = "somebody else"
    groups[[np.flatnonzero(toy_store.splits == part)[0] for part in ("train", "test")]] = ""
    monkeypatch.setattr(toy_store, "groups", groups)
    config = DataConfig(validation_split="none", validation_fraction=1 / 3)
    splits = select_clips(toy_store, config, 0)
    both = set(groups[splits.train].tolist()) & set(groups[splits.validation].tolist()) - {""}
    assert len(splits.validation) and bool(both) == shared


@pytest.mark.parametrize(("fraction", "taken"), [(0.001, "none"), (0.999, "all")])
def test_a_part_without_clips_is_refused(
    toy_store: PreparedStore, fraction: float, taken: str
) -> None:
    config = DataConfig(validation_split="none", validation_fraction=fraction)
    with pytest.raises(UsageError, match=f"takes {taken} of the 18 training clips"):
        select_clips(toy_store, config, 0)
    assert len(select_clips(toy_store, config, 0, to_train=False).test)


def test_an_unknown_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="neither a prepared folder nor a name"):
        find_dataset("nothing")
    inside = tmp_path / "my data" / "bells"
    inside.mkdir(parents=True)
    (inside / "dataset.json").touch()
    with pytest.raises(UsageError) as caught:
        find_dataset("my data")
    assert caught.value.hint == "prepared in it: 'my data/bells'"
