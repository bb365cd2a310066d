"""Frontends: what both hold, and ``epic-librosa`` against librosa itself."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elastictool.audio.decode import decode, resample
from elastictool.audio.epic_fbank import FLOOR, mel_matrix
from elastictool.audio.fbank import fbank, frontend
from elastictool.audio.kaldi_fbank import FLOOR as KALDI_FLOOR
from elastictool.config import FRONTENDS, DataConfig, FbankConfig, LengthConfig, RunConfig
from elastictool.config.loader import frontend_config, load_run_config
from elastictool.data import ingest
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor, Mix
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.training.run import train_run
from elastictool.training.setup import resolve
from elastictool.utils.errors import UsageError
from tests.helpers.toy_data import write_toy_recordings

EPIC = frontend_config("epic-librosa")
RATE_HZ = 24_000
Samples = npt.NDArray[np.float64]

every_front_end = pytest.mark.parametrize("name", list(FRONTENDS))


def librosa_frames(waveform: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(T, F), as the public EPIC-SOUNDS loaders call librosa."""
    import librosa

    spectrum = librosa.stft(
        waveform, n_fft=2048, window="hann", hop_length=120, win_length=240, pad_mode="constant"
    )
    mel = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128, htk=True, norm=None)
    return typing.cast("npt.NDArray[np.floating]", np.log(mel @ np.abs(spectrum) + 1e-6).T)


def sounds() -> dict[str, Samples]:
    rng, time = np.random.default_rng(0), np.arange(2 * RATE_HZ) / RATE_HZ
    return {
        "noise": 0.1 * rng.standard_normal(len(time)),
        "faint noise": 1e-4 * rng.standard_normal(len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 1_000 * time),
        "two tones": 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 7_000 * time),
        "sweep": 0.5 * np.sin(2 * np.pi * 2_500 * time**2),
        "silence": np.zeros(len(time)),
        "click": np.eye(1, len(time), 5_000)[0],
        "not whole frames": 0.1 * rng.standard_normal(RATE_HZ + 77),
    }


# epic-librosa against librosa


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sound", list(sounds()))
def test_values_are_librosa_s(sound: str, dtype: type) -> None:
    waveform = sounds()[sound].astype(dtype)
    frames = fbank(torch.from_numpy(waveform), EPIC).numpy()
    assert frames.dtype == dtype
    np.testing.assert_allclose(frames, librosa_frames(waveform), rtol=0, atol=1e-4)


def test_values_are_librosa_s_on_recordings(shared_data: Path) -> None:
    for path in sorted((shared_data / "instruments").glob("*/*"))[::40]:
        waveform, rate_hz = decode(path)
        waveform = resample(waveform, rate_hz, RATE_HZ)[: 8 * RATE_HZ]
        expected = librosa_frames(waveform)
        frames = fbank(torch.from_numpy(waveform), EPIC).numpy()
        np.testing.assert_allclose(frames[: len(expected)], expected, rtol=0, atol=1e-4)


def test_the_mel_triangles_are_librosa_s() -> None:
    import librosa

    expected = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128, htk=True, norm=None)
    np.testing.assert_allclose(mel_matrix(EPIC).T.numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")
@pytest.mark.parametrize("num_samples", [1, 119, 120, 121, 22_919, 22_920, 23_039, 23_040, 30_000])
def test_frames_are_as_many_as_librosa_s_or_192(num_samples: int) -> None:
    waveform = 0.1 * np.random.default_rng(1).standard_normal(num_samples)
    expected = librosa_frames(waveform)
    frames = fbank(torch.from_numpy(waveform), EPIC).numpy()
    assert len(frames) == max(len(expected), 192) == EPIC.num_frames(num_samples)
    np.testing.assert_allclose(frames[: len(expected)], expected, rtol=0, atol=1e-4)
    assert (frames[len(expected) :] == frames[len(expected) - 1]).all()


def test_an_odd_window_lies_where_librosa_puts_it() -> None:
    import librosa

    config = dataclasses.replace(EPIC, window_ms=241 / 24)
    waveform = sounds()["noise"]
    assert config.window_samples == 241
    spectrum = librosa.stft(
        waveform, n_fft=2048, window="hann", hop_length=120, win_length=241, pad_mode="constant"
    )
    expected = np.log(mel_matrix(config).T.numpy() @ np.abs(spectrum) + 1e-6).T
    frames = fbank(torch.from_numpy(waveform), config).numpy()
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-4)


# What every front end holds


def test_the_configuration_lists_the_registered_frontends() -> None:
    literal = typing.get_type_hints(FbankConfig)["frontend"]
    assert set(FRONTENDS) == set(typing.get_args(literal))


@every_front_end
@given(num_samples=st.integers(0, 30_000), shift_ms=st.sampled_from([5.0, 10.0, 7.3]))
@settings(max_examples=40)
def test_frames_are_counted_without_audio(name: str, num_samples: int, shift_ms: float) -> None:
    config = dataclasses.replace(frontend_config(name), shift_ms=shift_ms, num_mel_bins=8)
    frames = fbank(torch.randn(num_samples), config)
    assert frames.shape == (config.num_frames(num_samples), 8)
    assert config.num_frames(np.array([num_samples])).tolist() == [len(frames)]


@every_front_end
@given(data=st.data())
@settings(max_examples=60)
def test_an_excerpt_is_what_the_whole_clip_has_there(name: str, data: st.DataObject) -> None:
    """No more is read than the excerpt needs, and centred frames find their neighbours."""
    shift_ms = data.draw(st.sampled_from([5.0, 2.0, 10.0, 7.3]))
    config = dataclasses.replace(frontend_config(name), shift_ms=shift_ms, num_mel_bins=8)
    num_samples = data.draw(st.integers(600, 60_000))
    waveform = torch.randn(num_samples, dtype=torch.float64)
    whole = fbank(waveform, config)
    first = data.draw(st.integers(0, len(whole) - 1))
    count = data.draw(st.integers(1, len(whole) - first))
    begin, stop, before = config.excerpt(first, count, len(whole))
    assert 0 <= begin < stop
    frames = fbank(waveform[begin:stop], config)[before : before + count]
    torch.testing.assert_close(frames, whole[first : first + count], rtol=0, atol=1e-9)
    if config.whole_steps and len(whole) > config.traits.min_frames:
        needed = config.frame_start(first + count) - config.frame_start(first)
        assert stop - begin <= needed + config.window_samples + config.lead


@every_front_end
def test_silence_is_the_floor(name: str) -> None:
    config = frontend_config(name)
    floor = frontend(name).FLOOR
    assert floor == {"kaldi": KALDI_FLOOR, "epic-librosa": FLOOR}[name]
    assert fbank(torch.zeros(48_000).double(), config).unique().item() == pytest.approx(floor)
    feature_extractor = FeatureExtractor(
        config, LengthConfig(fixed_frames=300), (16, 16), (16, 16), -6.0, 4.0
    )
    frames = fbank(torch.randn(24_000), config)
    crop = feature_extractor.crop(0, len(frames))
    padded = feature_extractor.spectrogram(frames, crop).computed()
    assert padded[len(frames) :].unique().item() == pytest.approx((floor + 6.0) / 8.0)


@every_front_end
def test_the_first_frames_need_no_more_than_they_say(name: str) -> None:
    config = frontend_config(name)
    waveform = torch.randn(60_000, dtype=torch.float64)
    whole = fbank(waveform, config)
    for count in (1, 7, 200):
        start = fbank(waveform[: config.samples_for(count)], config)[:count]
        torch.testing.assert_close(start, whole[:count], rtol=0, atol=1e-9)


# Settings


def test_a_frontend_has_its_own_defaults_and_settings_override_them() -> None:
    config = load_run_config(None, ["fbank.frontend=epic-librosa", "fbank.shift_ms=10"]).fbank
    assert (config.sample_rate_hz, config.window_ms, config.shift_ms) == (24_000, 10.0, 10.0)
    assert load_run_config(None).fbank == frontend_config("kaldi") == FbankConfig()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["fbank.frontend=librosa"], "epic-librosa"),
        (["fbank.frontend=epic-librosa", "fbank.preemphasis=0.97"], "preemphasis"),
        (["fbank.frontend=epic-librosa", "fbank.window_ms=100"], "2048 samples"),
    ],
)
def test_wrong_frontends_are_usage_errors(sets: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, sets)
    assert said in caught.value.message + caught.value.hint


# From preparation to training


@pytest.fixture(scope="module")
def epic_store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    folder = tmp_path_factory.mktemp("epic")
    listing = write_toy_recordings(folder, clips_per_class=8)
    return prepare(
        PrepOptions("csv", listing, folder / "data", name="toy", storage=StorageOptions(fbank=EPIC))
    )


def test_statistics_are_those_of_the_chosen_frontend(epic_store: PreparedStore) -> None:
    assert epic_store.info.sample_rate_hz == RATE_HZ
    waves = [torch.from_numpy(epic_store.waveform(clip)) for clip in range(len(epic_store))]
    values = torch.cat([fbank(wave, EPIC) for wave in waves]).double()
    expected = (float(values.mean()), float(values.std(correction=0)))
    assert epic_store.info.fbank_stats() == pytest.approx(expected)
    config, _ = resolve(RunConfig(fbank=EPIC), epic_store)
    assert config.data.mean == pytest.approx(expected[0], abs=2.0)


@every_front_end
@pytest.mark.parametrize("num_samples", [1, 500, 6_000, 23_041, 29_999, 30_000, 48_121])
def test_statistics_of_blocks_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, name: str, num_samples: int
) -> None:
    monkeypatch.setattr(ingest, "FRAMES_AT_ONCE", 60)
    config = frontend_config(name)
    integers = (3_000 * torch.randn(num_samples)).to(torch.int16)
    waveform = integers / 32_768
    measured = ingest.Measurement(config)
    for part in integers.split(7_000):
        measured.add(part.numpy())
    measured.finish()
    whole = fbank(waveform, config).double()
    assert measured.frames == len(whole)
    assert measured.sum == pytest.approx(float(whole.sum()), rel=1e-6)
    assert measured.sum_of_squares == pytest.approx(float(whole.square().sum()), rel=1e-6)


def test_statistics_of_another_frontend_are_refused(epic_store: PreparedStore) -> None:
    kaldi = FbankConfig(sample_rate_hz=RATE_HZ)
    with pytest.raises(UsageError, match="measured with") as caught:
        resolve(RunConfig(fbank=kaldi), epic_store)
    assert "--frontend kaldi" in caught.value.hint
    resolve(RunConfig(fbank=kaldi, data=DataConfig(mean=-5.0, std=4.0)), epic_store)


def test_data_of_another_rate_name_the_frontend_that_reads_them(epic_store: PreparedStore) -> None:
    """At 24 kHz kaldi would take them too; they were prepared for another one."""
    with pytest.raises(UsageError, match="is at 24000 Hz") as caught:
        resolve(RunConfig(), epic_store)
    assert caught.value.hint == "--set fbank.frontend=epic-librosa"
    sets = [caught.value.hint.removeprefix("--set ")]
    assert resolve(load_run_config(None, sets), epic_store)[0].fbank.sample_rate_hz == 24_000


@pytest.mark.parametrize("mix", [None, Mix(clip=3, ratio=1.0)], ids=["plain", "mixed"])
def test_crops_of_stored_clips_are_crops_of_the_whole(
    epic_store: PreparedStore, mix: Mix | None
) -> None:
    """Mixing with nothing of the other clip finds the same place, but takes the mean away."""
    above_dc = slice(0 if mix is None else 48, None)
    feature_extractor = FeatureExtractor(EPIC, LengthConfig(), (16, 16), (16, 16), -6.0, 4.0)
    dataset = ClipDataset(epic_store, feature_extractor)
    longest = int(np.argmax(dataset.native_frames))
    shortest = int(np.argmin(dataset.native_frames))
    assert dataset.native_frames[longest] > dataset.native_frames[shortest] == 192
    for clip in (longest, shortest):
        native = int(dataset.native_frames[clip])
        whole = dataset.load(feature_extractor.crop(clip, native)).fbank
        for first, count in ((0, 5), (1, 1), (7, 60), (native - 30, 30)):
            view = Crop(clip, native, first, count, mix=mix)
            cut = dataset.load(view).fbank[:, above_dc]
            expected = whole[first : first + count, above_dc]
            torch.testing.assert_close(cut, expected, rtol=0, atol=1e-4 if mix is None else 0.05)


def test_a_model_trains_on_it(epic_store: PreparedStore, tmp_path: Path) -> None:
    sets = ["model.width=32", "model.depth=1", "model.heads=2", "train.epochs=1"]
    sets += ["fbank.frontend=epic-librosa", "augment.mixup=0.5"]
    sets += ["augment.length_diversity.share=0.5", "packing.planner=best-fit-decreasing"]
    result = train_run(load_run_config(None, sets), epic_store, tmp_path / "run")
    assert result.epochs == 1
