"""Crops of an epoch: unchanged by default, loaded as planned, rare classes as often as others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastictool.config import (
    AugmentConfig,
    LengthDiversityConfig,
    PackingConfig,
)
from elastictool.config.loader import load_run_config
from elastictool.data.balance import clip_weights, draw_clips, occurrences
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop
from elastictool.data.samplers import TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.packing.grid import kept_patches
from elastictool.utils.errors import UsageError
from tests.helpers.feature_extractors import feature_extractor

PLAIN = AugmentConfig()


def sampler(augment: AugmentConfig = PLAIN, **changes: object) -> TrainingSampler:
    """Every other one of 500 clips of 1 to 899 frames."""
    plain = TrainingSampler(
        clips=np.arange(0, 500, 2),
        native_frames=np.random.default_rng(5).integers(1, 900, 500),
        feature_extractor=feature_extractor(),
        augment=augment,
        packing=PackingConfig(),
        spec=feature_extractor().pack_spec(1),
        seed=3,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def views(drawn_by: TrainingSampler, epoch: int = 0) -> list[Crop]:
    return [view for plan in drawn_by.epoch(epoch) for row in plan.rows for view in row]


def first_views(drawn_by: TrainingSampler, epoch: int = 0) -> dict[int, Crop]:
    return {view.clip: view for view in views(drawn_by, epoch)}


def digest(drawn_by: TrainingSampler) -> str:
    drawn = ("clip", "native_frames", "first_frame", "num_frames", "pad_to", "draw")
    places = [
        [[[getattr(view, name) for name in drawn] for view in row] for row in plan.rows]
        for epoch in (0, 1, 7)
        for plan in drawn_by.epoch(epoch)
    ]
    return hashlib.sha256(json.dumps(places).encode()).hexdigest()[:16]


SHORTER_TOO = LengthDiversityConfig(share=0.5)
SHORTER_INSTEAD = LengthDiversityConfig(share=0.7, mode="replace")


@pytest.mark.parametrize(
    ("drawn_by", "expected"),
    [
        (sampler(), "68ec47db7a2dd0c5"),
        (
            sampler(
                AugmentConfig(length_diversity=SHORTER_TOO),
                packing=PackingConfig(planner="balanced"),
            ),
            "354ad7245f074ba3",
        ),
        (
            sampler(
                AugmentConfig(length_diversity=SHORTER_INSTEAD),
                packing=PackingConfig(batch_tokens=3_000),
                feature_extractor=feature_extractor(max_frames=512, crop="random"),
            ),
            "625b559fa9243003",
        ),
    ],
    ids=["plain", "add", "replace"],
)
def test_crops_are_those_of_the_first_release(drawn_by: TrainingSampler, expected: str) -> None:
    """Recorded before token dropout, mixup and balanced sampling existed; never to change."""
    assert digest(drawn_by) == expected
    assert all(view.mix is None and not view.token_dropout for view in views(drawn_by))


def test_options_leave_what_others_draw_as_it_was() -> None:
    shorter = AugmentConfig(length_diversity=SHORTER_INSTEAD)
    plain = first_views(sampler(shorter))
    options = dataclasses.replace(shorter, token_dropout=0.3, mixup=1.0)
    for clip, view in first_views(sampler(options)).items():
        assert dataclasses.replace(view, token_dropout=0.0, mix=None) == plain[clip]


# Token dropout


@given(patches=st.integers(1, 5_000), percent=st.integers(0, 99))
def test_the_share_of_kept_patches_is_exact_and_never_zero(patches: int, percent: int) -> None:
    assert kept_patches(patches, percent / 100) == max(1, patches * (100 - percent) // 100)


@given(share=st.floats(0.0, 0.99), planner=st.sampled_from(["first-come", "balanced", "none"]))
@settings(max_examples=15)
def test_every_crop_keeps_a_token_and_rows_are_planned_by_kept_tokens(
    share: float, planner: str
) -> None:
    drawn_by = sampler(
        AugmentConfig(token_dropout=share, length_diversity=SHORTER_TOO),
        packing=PackingConfig(planner=planner, capacity=300),
    )
    front = drawn_by.feature_extractor
    for plan in drawn_by.epoch(0):
        for row in plan.rows:
            kept = [front.num_patches(view) for view in row]
            whole = [np.prod(front.grid(view)) for view in row]
            assert all(1 <= k <= w for k, w in zip(kept, whole, strict=True))
            assert sum(kept) + len(kept) <= 300 or len(row) == 1


def test_rows_fill_up_where_tokens_are_dropped() -> None:
    whole, half = sampler(), sampler(AugmentConfig(token_dropout=0.5))
    rows = [sum(len(plan.rows) for plan in by.epoch(0)) for by in (whole, half)]
    assert rows[1] < 0.65 * rows[0]
    budget = PackingConfig(batch_tokens=4_096)
    batches = [dataclasses.replace(by, packing=budget).num_batches(0) for by in (whole, half)]
    assert batches[1] < 0.65 * batches[0]


def test_evaluation_crops_are_whole_clips() -> None:
    view = feature_extractor().crop(3, 400)
    assert (view.token_dropout, view.mix) == (0.0, None)
    assert feature_extractor().num_patches(view) == 8 * 25


# Mixup


def test_mixes_are_as_many_and_as_even_as_asked() -> None:
    clips, ratios, mixed, count = Counter[int](), [], 0, 0
    for epoch in range(20):
        for view in views(sampler(AugmentConfig(mixup=0.4)), epoch):
            count += 1
            if view.mix is not None:
                mixed += 1
                clips[view.mix.clip] += 1
                ratios.append(view.mix.ratio)
    assert mixed / count == pytest.approx(0.4, abs=0.03)
    assert set(clips) <= set(range(0, 500, 2)) and len(clips) > 240  # training clips only
    assert max(clips.values()) < 30  # 8 on average
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.01)
    assert np.std(ratios) == pytest.approx(np.sqrt(1 / (4 * 21)), rel=0.1)  # of Beta(10, 10)


def test_a_clips_mix_depends_on_seed_and_epoch_alone() -> None:
    config = AugmentConfig(mixup=0.5)
    mixes = {clip: view.mix for clip, view in first_views(sampler(config)).items()}
    again = sampler(config, packing=PackingConfig(planner="none", batch_clips=5))
    assert mixes == {clip: view.mix for clip, view in first_views(again).items()}
    for other in (first_views(sampler(config), 1), first_views(sampler(config, seed=4))):
        assert sum(mixes[clip] != view.mix for clip, view in other.items()) > 100


def test_an_added_crop_is_mixed_as_its_clip() -> None:
    config = AugmentConfig(mixup=0.5, length_diversity=SHORTER_TOO)
    mixes: dict[int, set[object]] = {}
    for view in views(sampler(config)):
        mixes.setdefault(view.clip, set()).add(view.mix)
    assert all(len(found) == 1 for found in mixes.values())


# Balanced sampling


def labelled_store(like: PreparedStore, labels: Sequence[Sequence[str]]) -> PreparedStore:
    """Clips of nothing but labels."""
    names = sorted({label for of_clip in labels for label in of_clip}) or ["none"]
    columns = {
        "audio": pa.nulls(len(labels)),
        "labels": pa.chunked_array(
            [pa.array(part, pa.list_(pa.string())) for part in (labels[:7], labels[7:])]
        ),
    }
    info = dataclasses.replace(like.info, label_names=names, num_clips=len(labels))
    return PreparedStore(like.path, info, {like.path: pa.table(columns)})


def skewed_labels() -> list[list[str]]:
    """Classes a to e of 1,000 to 10 clips, some clips of two classes, some of none."""
    labels = [
        [name] for name, n in zip("abcde", (900, 300, 60, 20, 8), strict=True) for _ in range(n)
    ]
    labels += [["a", "c"]] * 10 + [["b", "e"]] * 2 + [["d", "a", "b"]] * 3 + [[]] * 40
    return [labels[i] for i in np.random.default_rng(0).permutation(len(labels))]


def test_labels_of_all_clips_at_once_are_those_of_each(toy_store: PreparedStore) -> None:
    store = labelled_store(toy_store, skewed_labels())
    owners, classes = store.label_pairs()
    pairs = [(clip, name) for clip in range(len(store)) for name in store.label_indices(clip)]
    assert list(zip(owners.tolist(), classes.tolist(), strict=True)) == pairs


def test_weights_are_the_sum_over_labels_of_a_thousand_over_their_counts(
    toy_store: PreparedStore,
) -> None:
    labels = skewed_labels()
    clips = np.arange(0, len(labels), 3)  # classes are counted among the training clips only
    counts = Counter(name for clip in clips for name in labels[clip])
    expected = [sum(1_000 / (counts[name] + 0.01) for name in labels[clip]) for clip in clips]
    weights = clip_weights(labelled_store(toy_store, labels), clips)
    assert np.allclose(weights, expected, rtol=1e-12, atol=0)


def test_balanced_sampling_makes_class_frequencies_nearly_equal(toy_store: PreparedStore) -> None:
    labels = skewed_labels()
    clips = np.arange(len(labels))
    weights = clip_weights(labelled_store(toy_store, labels), clips)
    drawn = np.concatenate([draw_clips(weights, len(clips), 0, epoch) for epoch in range(10)])
    seen = Counter(name for clip in drawn for name in labels[clip])
    there = Counter(name for of_clip in labels for name in of_clip)
    assert max(there.values()) / min(there.values()) > 80
    assert max(seen.values()) / min(seen.values()) < 1.6  # clips of two classes bring both along
    assert all(labels[clip] for clip in drawn)
    alone = [clip for clip in drawn.tolist() if labels[clip] == ["a"]]
    assert max(Counter(alone).values()) - min(Counter(alone).values()) < 15


def test_without_clips_of_several_labels_frequencies_are_equal(toy_store: PreparedStore) -> None:
    labels = [["a"]] * 500 + [["b"]] * 20 + [["c"]] * 3
    weights = clip_weights(labelled_store(toy_store, labels), np.arange(523))
    drawn = draw_clips(weights, 30_000, 1, 0)
    shares = np.bincount(np.minimum(np.searchsorted([500, 520, 523], drawn, "right"), 2)) / 30_000
    assert shares == pytest.approx([1 / 3] * 3, abs=0.012)


def test_balanced_epochs_draw_anew_and_as_many_as_asked() -> None:
    weights = np.where(np.arange(250) < 10, 100.0, 1.0)
    for epoch_clips, expected in ((0, 250), (77, 77)):
        balanced = sampler(weights=weights, epoch_clips=epoch_clips)
        epochs = [Counter(view.clip for view in views(balanced, epoch)) for epoch in (0, 1, 0)]
        assert [total.total() for total in epochs] == [expected] * 3
        assert epochs[0] == epochs[2] != epochs[1]
        assert sum(epochs[0][clip] for clip in range(0, 20, 2)) > 0.6 * expected
        assert balanced.num_batches(0) == len(list(balanced.epoch(0))) == -(-expected // 12)
        assert set(epochs[0]) <= set(range(0, 500, 2))


def test_a_clip_drawn_again_is_another_crop() -> None:
    config = AugmentConfig(length_diversity=SHORTER_TOO)
    weights = np.where(np.arange(250) < 5, 1.0, 0.0)
    drawn = views(sampler(config, weights=weights))
    assert len({(view.clip, view.draw) for view in drawn}) == len(drawn) > 250
    assert {view.clip for view in drawn} == {0, 2, 4, 6, 8}


@given(drawn=st.lists(st.integers(0, 6), max_size=40))
def test_occurrences_count_from_zero(drawn: list[int]) -> None:
    seen = Counter[int]()
    for clip, nth in zip(drawn, occurrences(np.array(drawn, dtype=np.int64)), strict=True):
        assert nth == seen[clip]
        seen[clip] += 1


def test_nothing_labelled_cannot_be_balanced(toy_store: PreparedStore) -> None:
    store = labelled_store(toy_store, [[]] * 9)
    with pytest.raises(UsageError, match="no labelled clip") as caught:
        clip_weights(store, np.arange(9))
    assert "data.balanced_sampling=false" in caught.value.hint


def test_a_run_passes_its_settings_to_the_sampler(toy_store: PreparedStore) -> None:
    sets = ["data.balanced_sampling=true", "data.epoch_clips=11", "augment.mixup=1", "seed=5"]
    dataset = ClipDataset(toy_store, feature_extractor())
    clips = np.flatnonzero(toy_store.splits == "train")
    made = TrainingSampler.of_run(load_run_config(None, sets), dataset, clips)
    drawn = views(made)
    assert len(drawn) == 11 and all(view.mix is not None for view in drawn)
    assert made.weights is not None and len(made.weights) == len(clips)
    assert TrainingSampler.of_run(load_run_config(None), dataset, clips).weights is None
