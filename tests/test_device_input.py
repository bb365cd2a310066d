"""Features computed on the device are the host's, and the way there changes nothing else.

``device`` is forced on a CPU: the code is the same on CUDA, but for the size of a block.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elastictool.audio import epic_fbank
from elastictool.audio import fbank as streams
from elastictool.audio import kaldi_fbank as kaldi
from elastictool.audio.fbank import fbank, fill_frames, frontend, join_clips, prepare_clip
from elastictool.audio.kaldi_fbank import FLOOR
from elastictool.checkpoint.weights import load_run
from elastictool.config import (
    AugmentConfig,
    FbankConfig,
    LengthConfig,
    PackingConfig,
    ResolutionConfig,
)
from elastictool.data.collate import PackSpec
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import HOST, DeviceTransfer, loader_processes
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.loader import load_batches
from elastictool.data.raw import RawBatch
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.spectrogram import MASKED
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.packing.batch import PackedBatch
from elastictool.training.run import resume_run, train_run
from elastictool.utils.errors import DamagedDataError, Interrupted, OutOfMemory
from elastictool.utils.launch import Launch
from tests.helpers.feature_extractors import EVERYTHING, PLAIN
from tests.helpers.training import records, same, small, train_and_stop, weights

CPU = torch.device("cpu")
ON_DEVICE = DeviceTransfer(CPU, fbank_on_device=True)
TOLERANCE = 1e-4
"""Of normalised values; the filterbank's rounding in float32, away from silence, is far below."""
EPIC = FbankConfig(frontend="epic-librosa", window_ms=10.0, shift_ms=5.0, preemphasis=0.0)


def feature_extractor(fbank: FbankConfig | None = None, **changes: Any) -> FeatureExtractor:
    length = LengthConfig(max_frames=64)
    plain = FeatureExtractor(fbank or FbankConfig(), length, (16, 16), (16, 16), -6.0, 4.0)
    return dataclasses.replace(plain, **changes)


def plans_of(
    store: PreparedStore, end: FeatureExtractor, augment: AugmentConfig
) -> list[BatchPlan]:
    sampler = TrainingSampler(
        clips=np.arange(len(store)),
        native_frames=ClipDataset(store, end).native_frames,
        feature_extractor=end,
        augment=augment,
        packing=PackingConfig(batch_clips=5),
        spec=end.pack_spec(1),
        seed=3,
        num_samples=store.num_samples,
    )
    return list(sampler.epoch(1))[:4]


def both(
    store: PreparedStore,
    end: FeatureExtractor,
    augment: AugmentConfig,
    second: PackSpec | None = None,
) -> list[tuple[PackedBatch, PackedBatch]]:
    """Batches analysed on the host and on the device."""
    plans = plans_of(store, end, augment)
    found = [
        list(load_batches(plans, ClipDataset(store, end, augment, 3), 0, second, transfer))
        for transfer in (HOST, ON_DEVICE)
    ]
    return list(zip(*found, strict=True))


def assert_alike(host: PackedBatch, device: PackedBatch) -> None:
    """All but the patches' values to the last bit, and these closely; blanks in the same cells."""
    assert host.clip_ids == device.clip_ids and host.grid_shapes == device.grid_shapes
    assert host.layout.lengths == device.layout.lengths
    assert host.cut_frames == device.cut_frames and torch.equal(host.targets, device.targets)
    for left, right in zip(host.patch_groups, device.patch_groups, strict=True):
        for name in ("token_indices", "coords", "positions"):
            assert torch.equal(getattr(left, name), getattr(right, name))
        assert torch.equal(left.patches == 0, right.patches == 0)
        torch.testing.assert_close(left.patches, right.patches, rtol=0, atol=TOLERANCE)
    if host.teacher_batch is not None and device.teacher_batch is not None:
        assert_alike(host.teacher_batch, device.teacher_batch)
    assert (host.teacher_batch is None) == (device.teacher_batch is None)


@pytest.mark.parametrize(
    ("end", "augment"),
    [
        (feature_extractor(), PLAIN),
        (feature_extractor(), EVERYTHING),
        (feature_extractor(EPIC), EVERYTHING),
        (feature_extractor(FbankConfig(shift_ms=7.3)), EVERYTHING),
        (feature_extractor(patch_stride=(10, 10)), PLAIN),
        (feature_extractor(patch_size=(24, 24), patch_stride=(24, 24)), PLAIN),
        (feature_extractor(length=LengthConfig(max_frames=64, edge="drop")), PLAIN),
        (feature_extractor(length=LengthConfig(fixed_frames=100)), EVERYTHING),
        (feature_extractor(length=LengthConfig(fixed_frames=100, padding="zero")), PLAIN),
        (feature_extractor(pool=2), PLAIN),
        (feature_extractor(length=LengthConfig(max_frames=40, crop="random")), PLAIN),
        (feature_extractor(), dataclasses.replace(EVERYTHING, mask_value="zero")),
    ],
    ids=str,
)
def test_batches_equal_the_hosts(
    toy_store: PreparedStore, end: FeatureExtractor, augment: AugmentConfig
) -> None:
    for host, device in both(toy_store, end, augment):
        assert_alike(host, device)


@pytest.mark.parametrize("reduction", ["shift", "average", "max"])
def test_clips_of_many_resolutions_share_a_batch(toy_store: PreparedStore, reduction: Any) -> None:
    resolution = ResolutionConfig(compressions=(1.0, 2.0, 5.0), reduction=reduction)
    augment = dataclasses.replace(EVERYTHING, noise=0.0, resolution=resolution)
    for host, device in both(toy_store, feature_extractor(), augment):
        assert_alike(host, device)


def test_a_teachers_batch_is_cut_from_the_same_clips(toy_store: PreparedStore) -> None:
    second = PackSpec((128, 4), (128, 3), prefix_tokens=2)
    for host, device in both(toy_store, feature_extractor(), EVERYTHING, second):
        assert device.teacher_batch is not None
        assert_alike(host, device)


@pytest.mark.parametrize(("mask_value", "fill"), [("mean", 0.0), ("zero", 6.0 / 8.0)])
def test_masks_are_the_hosts_to_the_last_cell(
    toy_store: PreparedStore, mask_value: Any, fill: float
) -> None:
    """The cells of each clip, not only those of its patches."""
    augment = AugmentConfig(roll=5, mask_value=mask_value)
    for clip in range(len(toy_store)):
        dataset = ClipDataset(toy_store, feature_extractor(), augment, seed=3)
        view = dataset.feature_extractor.crop(clip, int(dataset.native_frames[clip]))
        host, raw = dataset.load(view, 2).fbank, dataset.load(view, 2, on_device=True).fbank
        masked = torch.from_numpy(raw.rows == MASKED)[:, None].expand_as(host).clone()
        masked[:, slice(*raw.bins)] = True
        assert torch.equal(host == fill, masked)
        assert raw.normalization.masked == fill


# The filterbank of a stream


def clips(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(size, generator=generator) + 0.05 for size in sizes]


def analysed(waveforms: list[Tensor], config: FbankConfig) -> list[Tensor]:
    stream, starts = join_clips([prepare_clip(waveform, config) for waveform in waveforms])
    counts = [config.num_frames(len(waveform)) for waveform in waveforms]
    places = [
        start + config.frame_position(min(frame, config.own_frames(len(waveform)) - 1))
        for start, count, waveform in zip(starts, counts, waveforms, strict=True)
        for frame in range(count)
    ]
    out = torch.empty(len(places), config.num_mel_bins)
    fill_frames(stream, np.array(places), config, out, torch.tensor(places))
    return list(out.split(counts))


@pytest.mark.parametrize("config", [FbankConfig(), FbankConfig(shift_ms=7.3), EPIC], ids=str)
def test_clips_in_a_stream_are_analysed_as_each_alone(config: FbankConfig) -> None:
    waveforms = clips(16_000, 400, 9_999, 12_345)
    for waveform, found in zip(waveforms, analysed(waveforms, config), strict=True):
        torch.testing.assert_close(found, fbank(waveform, config), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_clip_leaves_its_neighbours_as_they_are(value: float) -> None:
    waveforms = clips(4_000, 4_000, 4_000)
    sound = analysed(waveforms, FbankConfig())
    waveforms[1] = torch.full((4_000,), value)
    broken = analysed(waveforms, FbankConfig())
    assert torch.equal(sound[0], broken[0]) and torch.equal(sound[2], broken[2])
    assert broken[1].isnan().all()


def test_blocks_bound_the_room_and_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    waveforms = clips(30_000, 20_000)
    whole = analysed(waveforms, FbankConfig())
    sizes: list[int] = []
    rfft = torch.fft.rfft

    def noted(padded: Tensor) -> Tensor:
        sizes.append(len(padded))
        return rfft(padded)

    monkeypatch.setattr(torch.fft, "rfft", noted)
    monkeypatch.setattr(kaldi, "BLOCK_FRAMES", 100)
    with ThreadPoolExecutor(1) as thread:  # each thread has its own block
        blocks = thread.submit(analysed, waveforms, FbankConfig()).result()
    for left, right in zip(whole, blocks, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    assert sizes == [100, 100, 100, 48]  # the last 9, in whole tiles


@pytest.mark.parametrize("config", [FbankConfig(), FbankConfig(shift_ms=7.3), EPIC], ids=str)
@pytest.mark.parametrize("most", [streams.MOST_VALUES, 200_000, 1])
def test_a_stream_cut_down_to_its_blocks_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, config: FbankConfig, most: int
) -> None:
    waveforms = [prepare_clip(waveform, config) for waveform in clips(30_000, 20_000, 9_999)]
    stream, _ = join_clips(waveforms)
    places = np.sort(np.random.default_rng(0).integers(1, 55_000, 700))
    places[600:] = places[600:][::-1]  # in no order
    frame_starts = torch.from_numpy(places)
    whole, cut = (torch.empty(len(places), config.num_mel_bins) for _ in range(2))

    def from_all(samples: Tensor, first: int, stop: int) -> Tensor:
        windows = samples.unfold(0, config.window_samples, 1)
        return windows.index_select(0, frame_starts[first:stop])

    frontend(config.frontend).analyse(stream, from_all, config, whole)
    monkeypatch.setattr(streams, "MOST_VALUES", most)
    fill_frames(stream, places, config, cut, frame_starts)
    assert torch.equal(whole, cut)


@pytest.mark.parametrize("config", [FbankConfig(), FbankConfig(shift_ms=50.0), EPIC], ids=str)
def test_no_batch_is_too_long_for_32_bits_and_few_sizes_are_transformed(
    monkeypatch: pytest.MonkeyPatch, config: FbankConfig
) -> None:
    values: list[int] = []
    rows: set[int] = set()
    unfold, rfft = Tensor.unfold, torch.fft.rfft

    def noted(samples: Tensor, *rest: Any) -> Tensor:
        windows = unfold(samples, *rest)
        values.append(windows.numel())
        return windows

    def planned(block: Tensor, *rest: Any) -> Tensor:
        rows.add(len(block))
        return rfft(block, *rest)

    monkeypatch.setattr(Tensor, "unfold", noted)
    monkeypatch.setattr(torch.fft, "rfft", planned)
    for seconds in (0.7, 3.0, 1_250.0, 1_251.0):
        places = config.window_samples + np.arange(round(1e3 * seconds / config.shift_ms))
        places = np.floor(places * config.shift_ms * 0.001 * config.sample_rate_hz).astype(np.int64)
        samples = torch.empty(int(places[-1]) + config.window_samples, device="meta")
        out = torch.empty(len(places), config.num_mel_bins, device="meta")
        starts = torch.empty(len(places), dtype=torch.int64, device="meta")
        fill_frames(samples, places, config, out, starts)
    assert 0 < max(values) < 2**31
    assert all(count % kaldi.DEVICE_FFT_ROWS == 0 for count in rows)


@pytest.mark.parametrize("config", [FbankConfig(), EPIC], ids=str)
@pytest.mark.parametrize("count", [16_000, 60_000, 90_000])
def test_surplus_rows_of_a_transform_do_not_show(
    monkeypatch: pytest.MonkeyPatch, config: FbankConfig, count: int
) -> None:
    waveforms = clips(count, 7_777)
    plain = analysed(waveforms, config)
    for module in (kaldi, epic_fbank):
        monkeypatch.setattr(module, "fft_rows", lambda frames, device: -(-frames // 64) * 64)
    waveforms.append(torch.full((4_000,), float("nan")))
    for left, right in zip(plain, analysed(waveforms, config)[:2], strict=True):
        assert torch.equal(left, right)


def test_needed_frames_are_those_that_are_cut_out() -> None:
    config = FbankConfig(shift_ms=7.3)
    end, waveform = feature_extractor(config), np.zeros(16_000, dtype=np.float32)
    raw = end.raw_frames(waveform, 20, 30)
    assert raw.frame_starts.tolist() == [config.frame_position(frame) for frame in range(20, 50)]
    assert raw.pools.tolist() == [1] * 30
    last = config.num_frames(16_000)
    assert len(end.raw_frames(waveform, last - 3, 30)) == 3
    assert len(end.raw_frames(waveform[:100], 0, 30)) == 0  # too short for a frame


def test_the_device_is_never_asked_for_a_value(toy_store: PreparedStore) -> None:
    """Tensors without values get through: no size, no branch and no copy depends on one."""
    plan = plans_of(toy_store, feature_extractor(), EVERYTHING)[0]
    (group,) = raw_batch(toy_store, plan).to("meta").compute_features().patch_groups
    assert group.patches.is_meta and group.patches.shape == (len(group.token_indices), 256)


def raw_batch(store: PreparedStore, plan: BatchPlan) -> RawBatch:
    dataset = ClipDataset(store, feature_extractor(), EVERYTHING, 3)
    taken: list[RawBatch] = []

    class Taker(DeviceTransfer):
        def deliver(self, batch: Any) -> PackedBatch:
            taken.append(batch)
            return super().deliver(batch)

    list(load_batches([plan], dataset, transfer=Taker(CPU, True)))
    return taken[0]


def test_every_tensor_of_a_batch_is_pinned(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: set[int] = set()

    def pin(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        pinned.add(id(copy))
        return copy

    batch = raw_batch(toy_store, plans_of(toy_store, feature_extractor(), EVERYTHING)[0])
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    copied = batch.pin_memory()
    (group,) = copied.batch.patch_groups
    layout, (index,) = copied.batch.layout, copied.patch_indices
    expected = [
        copied.samples, copied.frame_starts, copied.rows, copied.bins, copied.noise, index.rows,
        group.patches, group.token_indices, group.coords, group.positions,
        copied.batch.targets, layout.segment_ids, layout.cu_seqlens, layout.cu_spans,
        layout.token_indices,
    ]  # fmt: skip
    assert {id(tensor) for tensor in expected} == pinned
    assert torch.equal(copied.samples, batch.samples)


def test_features_on_the_device_can_be_trained_on_wherever_they_were_loaded(
    toy_store: PreparedStore,
) -> None:
    plans = plans_of(toy_store, feature_extractor(), PLAIN)
    dataset = ClipDataset(toy_store, feature_extractor(), PLAIN, 3)
    with torch.inference_mode():
        batch = next(iter(load_batches(plans, dataset, transfer=ON_DEVICE)))
    patches = batch.patch_groups[0].patches
    weight = torch.ones(256, requires_grad=True)
    (patches @ weight).sum().backward()
    assert weight.grad is not None


def test_audio_is_kept_while_there_is_room_and_changes_nothing(toy_store: PreparedStore) -> None:
    plans = plans_of(toy_store, feature_extractor(), EVERYTHING)
    batches, held = [], []
    for cache_mb in (0, 1, 512):
        dataset = ClipDataset(toy_store, feature_extractor(), EVERYTHING, 3, cache_mb)
        for _ in range(2):
            batches.append(list(load_batches(plans, dataset, transfer=ON_DEVICE)))
        held.append(sum(audio.nbytes for audio in dataset._audio.values()))
        assert not dataset._cache
    assert held[0] == 0 < held[1] <= 1e6 and held[1] <= held[2]
    for again in batches[1:]:
        for left, right in zip(batches[0], again, strict=True):
            assert torch.equal(left.patch_groups[0].patches, right.patch_groups[0].patches)


def test_out_of_memory_on_a_device_names_the_batch(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> PackedBatch:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(RawBatch, "to", full)
    plans = plans_of(toy_store, feature_extractor(), PLAIN)
    with pytest.raises(OutOfMemory, match=r"a batch of \d+ clips, \d+ tokens"):
        list(load_batches(plans, ClipDataset(toy_store, feature_extractor()), transfer=ON_DEVICE))


# Training


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        ("cuda", ("auto", -1), (True, 2)),
        ("cuda", ("host", 0), (False, 0)),
        ("cpu", ("auto", -1), (False, 0)),
        ("cpu", ("device", 3), (True, 3)),
    ],
)
def test_settings_mean_what_they_say(
    device: str, settings: tuple[str, int], expected: tuple[bool, int]
) -> None:
    feed = DeviceTransfer.choose(torch.device(device), *settings)
    assert (feed.fbank_on_device, feed.prefetch) == expected
    assert feed.pins == (device == "cuda")


def test_training_on_either_side_gives_the_same_losses(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    for where in ("host", "device"):
        train_run(small(f"train.fbank_on={where}"), toy_store, tmp_path / where)
    lines = [records(tmp_path / where, "epoch") for where in ("host", "device")]
    for host, device in zip(*lines, strict=True):
        assert host["train_loss"] == pytest.approx(device["train_loss"], abs=1e-4)
        assert host["val_loss"] == pytest.approx(device["val_loss"], abs=1e-4)
        assert host["tokens"] == device["tokens"]


def test_an_evaluation_is_fed_as_the_training_was(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RawBatch] = []
    deliver = DeviceTransfer.deliver

    def noting(self: DeviceTransfer, batch: PackedBatch | RawBatch) -> PackedBatch:
        made.extend([batch] if isinstance(batch, RawBatch) else [])
        return deliver(self, batch)

    monkeypatch.setattr(DeviceTransfer, "deliver", noting)
    train_run(small(), toy_store, tmp_path / "run")
    host = load_run(tmp_path / "run")
    train = dataclasses.replace(host.config.train, fbank_on="device", prefetch=2)
    device = dataclasses.replace(host, config=dataclasses.replace(host.config, train=train))
    for length in (None, 48):
        scores = [evaluate_run(run, toy_store, length=length).scores for run in (host, device)]
        assert scores[0].clip_ids == scores[1].clip_ids
        np.testing.assert_allclose(scores[0].logits, scores[1].logits, atol=1e-4)
    assert sum(len(batch.batch.clip_ids) for batch in made) == 2 * len(scores[0].clip_ids)


@pytest.mark.parametrize("where", ["host", "device"])
def test_prefetch_and_interruption_change_no_bit(
    toy_store: PreparedStore, tmp_path: Path, where: str
) -> None:
    sets = (f"train.fbank_on={where}", "augment.mixup=0.5", "model.dropout=0.2")
    train_run(small(*sets), toy_store, tmp_path / "plain")
    ahead = small(*sets, "train.prefetch=3")
    with pytest.raises(Interrupted):
        train_and_stop(ahead, toy_store, tmp_path / "ahead", 4)
    resume_run(tmp_path / "ahead", toy_store)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "ahead"))


def test_an_error_while_loading_ahead_reaches_the_trainer(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ClipDataset.load

    def damaged(self: ClipDataset, view: Crop, *rest: Any) -> Any:
        if self.augment is not None and view.clip == 16:
            raise DamagedDataError("clip 16 is damaged", "look at the disk")
        return read(self, view, *rest)

    monkeypatch.setattr(ClipDataset, "load", damaged)
    with pytest.raises(DamagedDataError, match="clip 16 is damaged") as caught:
        train_run(small("train.prefetch=2"), toy_store, tmp_path / "run")
    assert "continue with" in caught.value.hint
    assert (tmp_path / "run" / "checkpoints" / "last.training.pt").exists()


def test_silence_stays_the_floor() -> None:
    (found,) = analysed([torch.zeros(8_000)], FbankConfig())
    assert torch.equal(found, torch.full_like(found, FLOOR))


@pytest.mark.parametrize(
    "setting, device, methods, cores, batches, expected",
    [
        (-1, "cpu", "fork", 64, 100, 0),
        (-1, "cuda", "fork", 64, 100, 16),
        (-1, "cuda", "fork", 6, 100, 3),  # two training processes share six cores
        (-1, "cuda", "fork", 1, 100, 1),
        (-1, "cuda", "fork", 64, 5, 5),
        (-1, "cuda", "spawn", 64, 100, 0),
        (3, "cpu", "spawn", 1, 1, 3),
        (0, "cuda", "fork", 64, 100, 0),
    ],
)
def test_loader_processes_are_as_many_as_cores_where_a_gpu_waits(
    setting: int,
    device: str,
    methods: str,
    cores: int,
    batches: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: [methods])
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    beside = Launch(world=2, local_world=2) if cores == 6 else Launch()
    monkeypatch.setattr("elastictool.data.device_transfer.launched", lambda: beside)
    assert loader_processes(setting, torch.device(device), batches) == expected
