"""The filterbank gives torchaudio's values, whatever the signal, rate, shift or block."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import elastictool.audio.kaldi_fbank as module
from elastictool.audio.decode import decode
from elastictool.audio.fbank import fbank, fill_frames, prepare_clip
from elastictool.audio.kaldi_fbank import EPSILON, FLOOR
from elastictool.audio.torchaudio_compat import load_torchaudio, torchaudio_state
from elastictool.config import FRONTENDS, FbankConfig
from elastictool.config.loader import frontend_config
from elastictool.utils.errors import ElasticToolError

RATES_HZ = (8_000, 16_000, 24_000, 44_100)
AWAY_FROM_FLOOR = 5.0
"""Nats above the floor from which float32 has to agree to 1e-3.

Nearer to it torchaudio's float32 itself is up to 1.2e-3 from its float64 (a loud chirp's faint
bins, 3 nats above), so agreement there would be chance.
"""


def reference(waveform: Tensor, config: FbankConfig) -> Tensor:
    frames: Tensor = load_torchaudio().compliance.kaldi.fbank(
        (waveform - waveform.mean()).unsqueeze(0),
        htk_compat=True,
        sample_frequency=config.sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=config.num_mel_bins,
        dither=0.0,
        frame_length=config.window_ms,
        frame_shift=config.shift_ms,
        low_freq=config.low_frequency_hz,
        high_freq=config.high_frequency_hz,
        preemphasis_coefficient=config.preemphasis,
    )
    return frames


def signal(kind: str, rate_hz: int, duration_s: float = 1.3) -> Tensor:
    time_s = torch.arange(round(duration_s * rate_hz), dtype=torch.float64) / rate_hz
    noise = torch.randn(len(time_s), generator=torch.Generator().manual_seed(7)).double()
    return {
        "noise": 0.1 * noise,
        "faint noise": 1e-4 * noise,
        "silence": torch.zeros_like(time_s),
        "tone": 0.5 * torch.sin(2 * torch.pi * 440 * time_s),
        "chirp": 0.3 * torch.sin(2 * torch.pi * (100 + 1000 * time_s) * time_s) + 1e-3 * noise,
        "offset": 0.5 + 0.05 * noise,
        "click": torch.zeros_like(time_s).index_fill_(0, torch.tensor([len(time_s) // 2]), 1.0),
    }[kind]


KINDS = ("noise", "faint noise", "silence", "tone", "chirp", "offset", "click")


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", KINDS)
def test_float64_equals_torchaudio(kind: str, rate_hz: int) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz)
    waveform = signal(kind, rate_hz)
    torch.testing.assert_close(
        fbank(waveform, config), reference(waveform, config), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_torchaudio_away_from_the_floor(kind: str, rate_hz: int) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz)
    assert_close_in_float32(signal(kind, rate_hz).float(), config)


def assert_close_in_float32(waveform: Tensor, config: FbankConfig) -> None:
    ours, theirs = fbank(waveform, config), reference(waveform, config)
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    away = theirs > FLOOR + AWAY_FROM_FLOOR
    difference = (ours - theirs).abs()
    assert difference[away].max() <= 1e-3 if away.any() else True
    assert (ours[~away] <= FLOOR + AWAY_FROM_FLOOR + 0.1).all()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_rounds_no_worse_than_torchaudio_down_to_the_floor(kind: str, rate_hz: int) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz)
    waveform = signal(kind, rate_hz).float()
    exact = reference(waveform.double(), config)
    ours = (fbank(waveform, config) - exact).abs()
    theirs = (reference(waveform, config) - exact).abs()
    assert ours.max() <= 3 * theirs.max() + 1e-5
    assert ours.mean() <= 1.5 * theirs.mean() + 1e-6


@pytest.mark.parametrize("rate_hz", (8_000, 16_000))
def test_real_recordings_equal_torchaudio(shared_data: Path, rate_hz: int) -> None:
    spoken = sorted((shared_data / "fsdd" / "recordings").glob("*.wav"))[::400]
    played = sorted((shared_data / "instruments").glob("*/*.flac"))[::60]
    assert spoken and played
    config = FbankConfig(sample_rate_hz=rate_hz)
    for path in spoken + played:
        waveform = torch.from_numpy(decode(path)[0])[: 5 * rate_hz]
        assert_close_in_float32(waveform, config)
        double = waveform.double()
        torch.testing.assert_close(
            fbank(double, config), reference(double, config), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    "config",
    [
        FbankConfig(num_mel_bins=40),
        FbankConfig(num_mel_bins=23, low_frequency_hz=0.0),
        FbankConfig(low_frequency_hz=60.0, high_frequency_hz=7_000.0),
        FbankConfig(high_frequency_hz=-400.0),
        FbankConfig(preemphasis=0.0),
        FbankConfig(window_ms=32.0, shift_ms=20.0),
        FbankConfig(sample_rate_hz=8_000, num_mel_bins=500),
    ],
    ids=lambda config: f"{config.num_mel_bins} bins, {config.window_ms:g}/{config.shift_ms:g} ms",
)
def test_every_setting_equals_torchaudio(config: FbankConfig) -> None:
    """500 bins at 8 kHz: many triangles, and whole bands of them, hold no frequency at all."""
    waveform = signal("noise", config.sample_rate_hz)
    torch.testing.assert_close(
        fbank(waveform, config), reference(waveform, config), rtol=0, atol=1e-6
    )


def test_range_reaches_from_20_hz_to_nyquist() -> None:
    mel = module.mel_matrix(FbankConfig(), 512)
    theirs, _ = load_torchaudio().compliance.kaldi.get_mel_banks(
        128, 512, 16_000.0, 20.0, 0.0, 100.0, -500.0, 1.0
    )
    assert torch.equal(mel.T, theirs)
    assert mel[0].max() == 0 and mel[1].max() > 0 and mel[-1, -1] > 0


def test_silence_is_exactly_the_floor() -> None:
    silent = fbank(torch.zeros(16_000), FbankConfig())
    assert float(torch.tensor(EPSILON)) == torch.finfo(torch.float32).eps
    assert (silent == torch.tensor(EPSILON).log()).all()
    assert fbank(torch.zeros(16_000).double(), FbankConfig()).unique().item() == FLOOR


def test_a_constant_is_silence() -> None:
    assert torch.equal(
        fbank(torch.full((4_000,), 0.5), FbankConfig()), fbank(torch.zeros(4_000), FbankConfig())
    )


@pytest.mark.parametrize("shift_ms", (7.3, 12.34, 0.77, 33.3333))
@pytest.mark.parametrize("rate_hz", (16_000, 44_100))
def test_fractional_shifts_round_each_start(shift_ms: float, rate_hz: int) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz, shift_ms=shift_ms)
    waveform = signal("noise", rate_hz, duration_s=0.8)
    frames = fbank(waveform, config)
    centred = waveform - waveform.mean()
    for frame in {0, 1, 2, len(frames) // 2, len(frames) - 1}:
        start = config.frame_start(frame)
        assert start == int(np.floor(frame * shift_ms * rate_hz / 1000 + 0.5))
        alone = reference(centred[start : start + config.window_samples], config)
        torch.testing.assert_close(frames[frame : frame + 1], alone, rtol=0, atol=1e-6)


def test_evenly_spaced_and_gathered_frames_agree() -> None:
    """A shift within rounding of a whole number of samples takes the fast path, rightly."""
    waveform = signal("noise", 8_000)
    config = FbankConfig(sample_rate_hz=8_000, shift_ms=9.0)
    assert not (config.shift_ms * 0.001 * config.sample_rate_hz).is_integer()
    places = config.frame_position(np.arange(config.num_frames(len(waveform))))
    assert len(set(np.diff(places))) == 1
    order = np.random.default_rng(0).permutation(len(places))
    gathered = torch.empty(len(places), config.num_mel_bins, dtype=waveform.dtype)
    fill_frames(prepare_clip(waveform, config), places[order], config, gathered)
    assert torch.equal(gathered, fbank(waveform, config)[order])


@pytest.mark.parametrize("block_frames", (1, 2, 7, 64))
@pytest.mark.parametrize("shift_ms", (10.0, 7.3))
def test_block_boundaries_do_not_show(
    monkeypatch: pytest.MonkeyPatch, block_frames: int, shift_ms: float
) -> None:
    config = FbankConfig(shift_ms=shift_ms)
    waveform = signal("noise", 16_000)
    whole = fbank(waveform, config)
    monkeypatch.setattr(module, "BLOCK_FRAMES", block_frames)
    with ThreadPoolExecutor(1) as thread:  # each thread has its own block
        blocks = thread.submit(fbank, waveform, config).result()
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("extra", (-1, 0, 1))
def test_lengths_around_a_full_block(extra: int) -> None:
    config = FbankConfig(sample_rate_hz=8_000)
    waveform = signal("noise", 8_000, 12.0)[: config.samples_for(module.BLOCK_FRAMES + extra)]
    frames = fbank(waveform, config)
    assert len(frames) == module.BLOCK_FRAMES + extra
    torch.testing.assert_close(frames, reference(waveform, config), rtol=0, atol=1e-6)


@settings(max_examples=60)
@given(
    num_samples=st.integers(0, 3_000),
    shift_ms=st.floats(0.5, 60),
    rate_hz=st.sampled_from(RATES_HZ),
)
def test_number_of_frames_is_the_configs(num_samples: int, shift_ms: float, rate_hz: int) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz, shift_ms=shift_ms, num_mel_bins=8)
    frames = fbank(torch.randn(num_samples), config)
    assert frames.shape == (config.num_frames(num_samples), 8)
    assert torch.isfinite(frames).all()
    fits = [k for k in range(8_000) if config.frame_start(k) + config.window_samples <= num_samples]
    assert len(frames) == len(fits)


def test_shorter_than_a_window_gives_no_frames() -> None:
    config = FbankConfig()
    for num_samples in (0, 1, config.window_samples - 1):
        assert fbank(torch.randn(num_samples), config).shape == (0, 128)
    assert fbank(torch.randn(config.window_samples), config).shape == (1, 128)


def test_an_excerpt_has_the_frames_of_the_whole() -> None:
    """Each frame's own mean is removed, so the excerpt's other mean leaves no trace."""
    config = FbankConfig()
    waveform = signal("offset", 16_000, 2.0) + torch.linspace(0, 0.3, 32_000)
    whole = fbank(waveform, config)
    begin, stop = config.frame_start(40), config.frame_start(40) + config.samples_for(60)
    torch.testing.assert_close(fbank(waveform[begin:stop], config), whole[40:100])
    single = fbank(waveform[begin:stop].float(), config)
    away = whole[40:100] > FLOOR + AWAY_FROM_FLOOR
    assert (single - whole[40:100])[away].abs().max() < 1e-3


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("bins", [128, 77])
def test_a_frame_has_the_same_bits_whatever_is_computed_next_to_it(name: str, bins: int) -> None:
    config = dataclasses.replace(frontend_config(name), num_mel_bins=bins)
    rate_hz = config.sample_rate_hz
    waveform = (signal("offset", rate_hz, 12.0) + torch.linspace(0, 0.3, 12 * rate_hz)).float()
    whole = fbank(waveform, config)
    counts = (1, 2, 3, 7, 16, 50, 95, 97, 481, 600)
    for count, first in itertools.product(counts, (0, 1, 5, 47, 333, len(whole) - 600)):
        begin, stop, before = config.excerpt(first, count, len(whole))
        part = fbank(waveform[begin:stop], config)[before : before + count]
        assert torch.equal(part, whole[first : first + count]), (first, count)


def test_what_was_computed_before_changes_nothing() -> None:
    """Buffers and constants are kept; a result must depend on its arguments alone."""
    waveform = signal("chirp", 16_000).float()
    first = fbank(waveform, FbankConfig())
    fbank(1e6 * torch.randn(40_000), FbankConfig())
    fbank(torch.full((40_000,), torch.nan), FbankConfig())
    fbank(waveform.double(), FbankConfig(window_ms=32.0))
    fbank(waveform, FbankConfig(num_mel_bins=64, window_ms=20.0))
    module._constants.cache_clear()
    # Same FFT size and dtype, but a window that fills what must stay zero for the next call.
    fbank(waveform, FbankConfig(window_ms=32.0))
    assert torch.equal(fbank(waveform, FbankConfig()), first)


def test_results_do_not_share_memory() -> None:
    first = fbank(torch.randn(16_000), FbankConfig())
    kept = first.clone()
    second = fbank(torch.randn(16_000), FbankConfig())
    assert torch.equal(first, kept) and not torch.equal(first, second)


def test_the_waveform_is_left_alone() -> None:
    waveform = torch.randn(16_000, requires_grad=True)
    before = waveform.detach().clone()
    frames = fbank(waveform, FbankConfig())
    assert torch.equal(waveform.detach(), before) and not frames.requires_grad
    strided = torch.stack([before, -before], dim=1)[:, 0]
    torch.testing.assert_close(fbank(strided, FbankConfig()), frames, rtol=0, atol=1e-3)


def test_first_use_in_inference_mode_does_not_spoil_training() -> None:
    config, waveform = FbankConfig(window_ms=23.0), torch.ones(16_000).cumsum(0).sin()

    def use_twice() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            inside = fbank(waveform, config)
        return inside, fbank(waveform, config)

    with ThreadPoolExecutor(1) as thread:  # it has no block yet, and no other test this config
        inside, outside = thread.submit(use_twice).result()
    assert torch.equal(inside, outside)
    weight = torch.ones(128, requires_grad=True)
    (inside * weight).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, outside.sum(0))


def test_autocast_does_not_lower_the_precision() -> None:
    waveform = signal("noise", 16_000).float()
    plain = fbank(waveform, FbankConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fbank(waveform, FbankConfig()), plain)


@pytest.mark.parametrize("waveform", (torch.zeros(1, 16_000), torch.zeros(16_000).half()))
def test_other_shapes_and_dtypes_are_refused(waveform: Tensor) -> None:
    with pytest.raises(ValueError, match="fbank takes"):
        fbank(waveform, FbankConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shift_ms", (10.0, 7.3))
def test_cuda_equals_cpu(shift_ms: float) -> None:
    config = FbankConfig(shift_ms=shift_ms)
    waveform = signal("noise", 16_000)
    on_device = fbank(waveform.cuda(), config)
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), fbank(waveform, config), rtol=0, atol=1e-6)


def test_threads_do_not_disturb_each_other() -> None:
    waveforms = [torch.randn(20_000, generator=torch.Generator().manual_seed(k)) for k in range(8)]
    alone = [fbank(waveform, FbankConfig()) for waveform in waveforms]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda waveform: fbank(waveform, FbankConfig()), waveforms * 5))
    assert all(torch.equal(a, b) for a, b in zip(alone * 5, together, strict=True))


def test_torchaudio_is_imported_in_one_place_only() -> None:
    package = Path(module.__file__).parents[1]
    importing = re.compile(
        r"^\s*(import|from)\s+torchaudio\b|(import_module|__import__)\([\"']torchaudio", re.M
    )
    assert importing.search("    import torchaudio.functional")
    found = {path.name for path in package.rglob("*.py") if importing.search(path.read_text())}
    assert found <= {"torchaudio_compat.py"}


def test_state_says_how_torchaudio_was_loaded() -> None:
    assert load_torchaudio() is load_torchaudio()
    native = sys.modules["torchaudio._extension"]._IS_TORCHAUDIO_EXT_AVAILABLE
    assert torchaudio_state() == ("native" if native else "extension disabled")


def test_torchaudio_can_be_imported_after_elastictool_and_costs_nothing_before() -> None:
    script = (
        "import sys, elastictool\n"
        "assert 'torch' not in sys.modules and 'torchaudio' not in sys.modules\n"
        "import torch, torchaudio\n"
        "from torchaudio import functional, transforms\n"
        "assert functional.resample(torch.zeros(1, 800), 8000, 16000).shape == (1, 1600)\n"
        "from elastictool.audio.torchaudio_compat import torchaudio_state\n"
        "if torchaudio_state() != 'native':\n"
        "    try: functional.forced_align(None, None)\n"
        "    except RuntimeError as error: assert 'extension' in str(error)\n"
        "    else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_missing_torchaudio_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torchaudio_state() == "missing"
    with pytest.raises(ElasticToolError, match="not installed"):
        load_torchaudio()
