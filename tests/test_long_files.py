"""Hours of audio pass in blocks: the same result as in one piece, in bounded memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.audio.decode import (
    Encoding,
    decode,
    encode,
    open_encoder,
    recording,
    resample,
    resample_blocks,
    waveform_of,
)
from elastictool.audio.reader import Waveform
from elastictool.data import ingest
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from tests.helpers.corpus_trees import write_audio, write_table


def noise(num_samples: int) -> Waveform:
    return (0.2 * np.random.default_rng(1).standard_normal(num_samples)).astype(np.float32)


def cut(waveform: Waveform, size: int) -> Iterator[Waveform]:
    for first in range(0, len(waveform), size):
        yield waveform[first : first + size]


@pytest.mark.parametrize("size", (1, 997, 65_536))
@pytest.mark.parametrize("from_hz", (8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 16_000))
def test_resampling_in_blocks_is_resampling_the_whole(from_hz: int, size: int) -> None:
    for num_samples in (1, 10, 3_001) if size == 1 else (500, 200_003):
        whole = resample(noise(num_samples), from_hz, 16_000)
        blocks = resample_blocks(cut(noise(num_samples), size), from_hz, 16_000)
        joined = waveform_of(np.concatenate([block for block, _ in blocks]))
        assert joined.shape == whole.shape and joined.dtype == np.float32
        np.testing.assert_allclose(joined, whole, atol=0.5 / 32_768 + 1e-6)
        np.testing.assert_array_equal(joined, np.rint(joined * 32_768) / 32_768)


def test_one_block_is_resampled_at_once_and_none_gives_none() -> None:
    ((block, _),) = resample_blocks([noise(5_000)], 44_100, 16_000)
    whole = resample(noise(5_000), 44_100, 16_000)
    assert np.array_equal(waveform_of(block), np.rint(whole * 32_768) / np.float32(32_768))
    assert list(resample_blocks([], 44_100, 16_000)) == []


@pytest.mark.parametrize("encoding", ("flac", "wav"))
def test_encoding_in_blocks_gives_the_same_bytes(encoding: Encoding) -> None:
    buffer, loud = io.BytesIO(), 4 * noise(300_000)
    with open_encoder(buffer, 16_000, encoding) as file:
        for block, _ in resample_blocks(cut(loud, 4_001), 16_000, 16_000):
            file.write(block)
    assert buffer.getvalue() == encode(loud, 16_000, encoding)


@pytest.mark.parametrize("encoding", ("flac", "wav"))
def test_what_is_stored_is_what_decoding_gives(encoding: Encoding) -> None:
    ((block, _),) = resample_blocks([4 * noise(300_000)], 16_000, 16_000)
    stored = encode(4 * noise(300_000), 16_000, encoding)
    assert np.array_equal(waveform_of(block), decode(stored)[0])


@pytest.mark.parametrize("bounds", [(0, None), (1, 40_000), (12_345, None), (0, 5)])
@pytest.mark.parametrize("container", ("WAV", "FLAC", "MP3"))
def test_blocks_joined_are_the_whole(
    container: str, bounds: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    samples = np.stack([noise(90_000), 0.5 * noise(90_000)], axis=1)
    soundfile.write(buffer, samples, 44_100, format=container)
    whole, _ = decode(buffer.getvalue(), *bounds)
    for decoder in ("sndfile", "pyav"):
        monkeypatch.setattr(f"elastictool.audio.{decoder}.BLOCK_VALUES", 2 * 7_000)
    with recording(buffer.getvalue()) as opened:
        parts = list(opened.blocks(*bounds))
        assert opened.sample_rate_hz == 44_100
    assert max(map(len, parts)) <= 7_000
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-7)


def _prepared(folder: Path, out: str, settings: StorageOptions = StorageOptions()) -> PreparedStore:
    table = folder / "clips.csv"
    if not table.exists():
        rows: list[tuple[object, ...]] = [("path", "label", "start", "stop")]
        for name, seconds in (("short.wav", 0.3), ("long.flac", 20.0), ("other.wav", 1.0)):
            write_audio(folder / name, seconds, 44_100, channels=2, seed=int(seconds))
            rows.append((name, "x", "", ""))
        rows.append(("long.flac", "x", 2.5, 17.25))
        write_table(table, rows)
    return prepare(PrepOptions("csv", table, folder / out, storage=settings))


def test_a_long_clip_is_prepared_as_a_short_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _prepared(tmp_path, "whole")
    monkeypatch.setattr("elastictool.audio.sndfile.BLOCK_VALUES", 2 * 30_000)
    monkeypatch.setattr("elastictool.data.spool.IN_MEMORY_BYTES", 100_000)
    monkeypatch.setattr(ingest, "FRAMES_AT_ONCE", 100)
    blocks = _prepared(tmp_path, "blocks")
    assert blocks.ids.tolist() == whole.ids.tolist()
    assert blocks.num_samples.tolist() == whole.num_samples.tolist()
    for index in range(len(whole)):
        assert blocks.clip(index) == whole.clip(index)
        difference = np.abs(blocks.waveform(index) - whole.waveform(index))
        assert difference.max() <= 1 / 32_768  # one step of 16 bits, where rounding meets it
        assert (difference > 0).mean() < 1e-3
    for sums, expected in zip(blocks.info.fbank_sums, whole.info.fbank_sums, strict=True):
        assert (sums.split, sums.frames) == (expected.split, expected.frames)
        assert sums.sum == pytest.approx(expected.sum, rel=1e-5)
        assert sums.sum_of_squares == pytest.approx(expected.sum_of_squares, rel=1e-5)
    assert sorted(path.name for path in blocks.path.iterdir()) == sorted(
        path.name for path in whole.path.iterdir()
    )


def test_a_clip_that_no_shard_can_hold_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "LARGEST_BYTES", 400_000)
    store = _prepared(tmp_path, "data", StorageOptions("wav"))
    assert len(store) == 2
    assert "cut it into slices" in (store.path / "rejected.csv").read_text()


_MEASURE = """
import sys
from pathlib import Path
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare

def peak_mb():
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

folder = Path(sys.argv[1])
prepare(PrepOptions("csv", folder / "short.csv", folder / "data", name="short"))
before = peak_mb()
prepare(PrepOptions("csv", folder / "long.csv", folder / "data", name="long"))
print(peak_mb() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with /proc")
def test_a_long_recording_needs_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """As float32 at 16 kHz, 24 minutes are 92 MB, their filterbank another 74 MB."""
    for name, minutes in (("short", 4), ("long", 24)):
        block = np.rint(100 * np.sin(np.arange(8_000 * 60) / 5)).astype(np.int16)
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", 8_000, 1) as file:
            for _ in range(minutes):
                file.write(block)
        write_table(tmp_path / f"{name}.csv", [("path", "label"), (f"{name}.flac", "x")])
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100


_TEN_HOURS = """
import sys, threading, time
from pathlib import Path
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare

def anonymous_mb():
    (line,) = [l for l in open("/proc/self/status") if l.startswith("RssAnon")]
    return int(line.split()[1]) / 1024

def watch():
    while True:
        highest[0] = max(highest[0], anonymous_mb())
        time.sleep(0.02)

highest = [0.0]
threading.Thread(target=watch, daemon=True).start()
folder = Path(sys.argv[1])
store = prepare(PrepOptions("csv", folder / "long.csv", folder / "data"))
assert store.num_samples.tolist() == [36_000 * 16_000]
print(highest[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with /proc")
def test_ten_hours_are_prepared_in_500_mb(tmp_path: Path) -> None:
    """Anonymous memory: the mapped file of the encoded clip can be written back and dropped."""
    rng = np.random.default_rng(0)
    minute = np.rint(100 * rng.standard_normal(22_050 * 60)).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 22_050, 1) as file:
        for _ in range(600):
            file.write(minute)
    write_table(tmp_path / "long.csv", [("path", "label"), ("long.flac", "x")])
    done = subprocess.run(
        [sys.executable, "-c", _TEN_HOURS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 500
