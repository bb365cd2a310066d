"""Decoding returns the samples that are there, and says what is wrong with files that are not."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from elastictool.audio.decode import (
    RESAMPLER,
    decode,
    encode,
    probe,
    resample,
    resample_blocks,
    waveform_of,
)
from elastictool.audio.reader import AudioInfo, Waveform
from elastictool.utils.errors import AudioError, UsageError

RATE_HZ = 16_000
Encoding = Literal["flac", "wav"]
ENCODINGS: tuple[Encoding, ...] = ("flac", "wav")


def tone(duration_s: float = 1.0, hertz: float = 440.0, rate_hz: int = RATE_HZ) -> Waveform:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32)


def noise(num_samples: int = 40_000) -> Waveform:
    return (0.1 * np.random.default_rng(3).standard_normal(num_samples)).astype(np.float32)


def written(samples: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_16_bit_value_survives(encoding: Encoding) -> None:
    every = np.arange(-32_768, 32_768).astype(np.float32) / 32_768
    decoded, rate_hz = decode(encode(every, RATE_HZ, encoding))
    assert rate_hz == RATE_HZ and decoded.dtype == np.float32
    assert np.array_equal(decoded, every)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding_rounds_clips_and_repeats(encoding: Encoding) -> None:
    wild = np.array([-9, -1, -0.4 / 32_768, 0.6 / 32_768, 1, 9], dtype=np.float32)
    decoded = decode(encode(wild, RATE_HZ, encoding))[0] * 32_768
    assert decoded.tolist() == [-32_768, -32_768, 0, 1, 32_767, 32_767]
    assert encode(noise(), RATE_HZ, encoding) == encode(noise(), RATE_HZ, encoding)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("WAV", "PCM_U8")],
)
def test_values_are_libsndfiles(kind: str, subtype: str) -> None:
    source = written(np.stack([noise(), 0.5 * noise()], axis=1), kind, subtype)
    expected = soundfile.read(io.BytesIO(source), dtype="float32")[0]
    for channel in (0, 1):
        assert np.array_equal(decode(source, channel=channel)[0], expected[:, channel])
    assert np.array_equal(decode(source)[0], expected.mean(axis=1, dtype=np.float32))


@settings(max_examples=40)
@given(
    bounds=st.tuples(st.integers(0, 39_999), st.integers(1, 50_000)).filter(lambda b: b[0] < b[1])
)
def test_a_partial_read_is_the_slice(bounds: tuple[int, int]) -> None:
    start, stop = bounds
    for encoding in ENCODINGS:
        source = ENCODED[encoding]
        assert np.array_equal(decode(source, start, stop)[0], decode(source)[0][start:stop])


ENCODED = {encoding: encode(noise(), RATE_HZ, encoding) for encoding in ENCODINGS}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_and_its_bytes_are_the_same(tmp_path: Path, encoding: Encoding) -> None:
    path = tmp_path / f"clip with ümlaut.{encoding}"
    path.write_bytes(ENCODED[encoding])
    assert np.array_equal(decode(path, 5, 900)[0], decode(ENCODED[encoding], 5, 900)[0])
    assert probe(path) == probe(ENCODED[encoding]) == AudioInfo(40_000, RATE_HZ, 1)


def test_channels_of_eight() -> None:
    channels = np.stack([np.full(100, k / 16, np.float32) for k in range(8)], axis=1)
    source = written(channels)
    assert probe(source).channels == 8
    assert decode(source)[0] == pytest.approx(np.full(100, 3.5 / 16))
    for channel in range(8):
        for given_as in (channel, str(channel)):
            samples = decode(source, channel=given_as)[0]
            assert samples.flags.c_contiguous and (samples == channel / 16).all()
    for missing in (8, -1):
        with pytest.raises(AudioError, match=f"no channel {missing} .8 channels"):
            decode(source, channel=missing)
    with pytest.raises(AudioError, match="8 channels, but mono"):
        decode(source, channel="mono")
    with pytest.raises(UsageError, match="'left'"):
        decode(source, channel="left")
    assert np.array_equal(decode(ENCODED["wav"], channel="mono")[0], decode(ENCODED["wav"])[0])


def test_one_sample() -> None:
    for encoding in ENCODINGS:
        assert decode(encode(np.array([0.5], np.float32), RATE_HZ, encoding))[0].tolist() == [0.5]


def renamed(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.wav", "cannot be read .No such file"),
    "folder": (lambda folder: folder, "cannot be read .a folder, not a file"),
    "zero bytes": (renamed(b"", "empty.wav"), r"empty .0 bytes"),
    "text": (renamed(b"not audio at all" * 50, "text.flac"), "not readable as audio"),
    "raw": (renamed(bytes(1000), "samples.raw"), "not readable as audio"),
    "no samples": (renamed(written(np.zeros(0)), "nothing.wav"), "holds no samples"),
    "cut wav": (renamed(ENCODED["wav"][:50_000], "cut.wav"), "truncated .49956 of 80000 bytes"),
    "cut flac": (renamed(ENCODED["flac"][:30_000], "cut.flac"), "truncated"),
    "flac header": (renamed(ENCODED["flac"][:60], "header.flac"), "not readable|truncated"),
    "wav header": (renamed(ENCODED["wav"][:44], "header.wav"), "truncated .0 of 80000 bytes"),
    "cut float": (renamed(written(noise(), subtype="FLOAT")[:-8], "f.wav"), "truncated"),
    "nan": (renamed(written(np.array([0, np.nan, 1]), subtype="FLOAT"), "nan.wav"), "first is 1"),
    "inf": (renamed(written(np.array([0, 0, -np.inf]), subtype="DOUBLE"), "inf.wav"), "first is 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_and_explained(tmp_path: Path, case: str) -> None:
    build, reason = BAD[case]
    path = build(tmp_path)
    with pytest.raises(AudioError, match=reason) as raised:
        decode(path)
    assert str(path) in raised.value.message
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("share", (0.02, 0.3, 0.7, 0.99))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_cut_goes_unnoticed(encoding: Encoding, share: float) -> None:
    source = ENCODED[encoding]
    with pytest.raises(AudioError, match="truncated"):
        decode(source[: int(share * len(source))])


def test_damage_in_the_middle_of_a_flac_is_noticed() -> None:
    source = bytearray(ENCODED["flac"])
    middle = len(source) // 2
    source[middle : middle + 200] = bytes(200)
    with pytest.raises(AudioError, match="damaged"):
        decode(bytes(source))


def test_a_wav_written_into_a_pipe_is_not_called_truncated() -> None:
    source = bytearray(ENCODED["wav"])
    at = source.index(b"data") + 4
    source[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert np.array_equal(decode(bytes(source))[0], decode(ENCODED["wav"])[0])


def test_other_chunks_before_and_after_the_samples_are_passed_over() -> None:
    source = ENCODED["wav"]
    at = source.index(b"data")
    odd = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    decoded = decode(source[:at] + odd + source[at:] + odd)[0]
    assert np.array_equal(decoded, decode(source)[0])
    with pytest.raises(AudioError, match="truncated"):
        decode((source[:at] + odd + source[at:])[:-10])


@pytest.mark.parametrize("bounds", [(40_000, None), (50_000, 60_000), (-1, 5), (7, 7), (9, 3)])
def test_ranges_without_samples_are_refused(bounds: tuple[int, int | None]) -> None:
    with pytest.raises(AudioError, match=f"samples {bounds[0]} to .* it holds 40000"):
        decode(ENCODED["flac"], *bounds)


@pytest.mark.parametrize("from_hz", (8_000, 11_025, 22_050, 44_100, 48_000))
def test_resampling_keeps_a_tone(from_hz: int) -> None:
    resampled = resample(tone(1.0, 440.0, from_hz), from_hz, RATE_HZ)
    assert resampled.dtype == np.float32 and abs(len(resampled) - RATE_HZ) <= 1
    middle = slice(2_000, 14_000)
    assert np.abs(resampled[middle] - tone(1.0)[middle]).max() < 1e-3


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    high = tone(1.0, 12_000.0, 44_100)
    assert np.abs(resample(high, 44_100, RATE_HZ)[1_000:-1_000]).max() < 1e-3


def test_the_same_rate_is_left_alone() -> None:
    assert np.array_equal(resample(noise(), RATE_HZ, RATE_HZ), noise())
    assert "soxr" in RESAMPLER and "HQ" in RESAMPLER


def test_real_recordings_decode(shared_data: Path) -> None:
    for pattern in ("fsdd/recordings/*.wav", "instruments/*/*.flac"):
        for path in sorted(shared_data.glob(pattern))[::150]:
            info = probe(path)
            samples, rate_hz = decode(path)
            assert (len(samples), rate_hz) == (info.num_samples, info.sample_rate_hz)
            again = decode(encode(samples, rate_hz, "flac"))[0]
            assert np.array_equal(again, samples) or info.channels > 1


@pytest.mark.parametrize("from_hz", [RATE_HZ, 44_100])
def test_what_goes_beyond_full_scale_is_clipped_and_reported(from_hz: int) -> None:
    loud = 6 * tone(rate_hz=from_hz)
    ((integers, peak),) = resample_blocks([loud], from_hz, RATE_HZ)
    block = waveform_of(integers)
    assert peak == pytest.approx(3, rel=0.01)
    assert (block.min(), block.max()) == (-1, 32_767 / 32_768)
    clipped = np.clip(resample(loud, from_hz, RATE_HZ), -1, 32_767 / 32_768)
    np.testing.assert_allclose(block, clipped, atol=0.51 / 32_768)
    ((quiet, peak),) = resample_blocks([tone(rate_hz=from_hz)], from_hz, RATE_HZ)
    assert peak < 1 and waveform_of(quiet).max() < 1


@pytest.mark.parametrize("from_hz", [RATE_HZ, 44_100])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_passes_on_is_what_would_be_stored(encoding: Encoding, from_hz: int) -> None:
    sound = 3 * tone(rate_hz=from_hz) + 1e-5 * noise(from_hz)
    ((block, _),) = resample_blocks([sound], from_hz, RATE_HZ)
    stored, _ = decode(encode(resample(sound, from_hz, RATE_HZ), RATE_HZ, encoding))
    assert np.array_equal(waveform_of(block), stored)
