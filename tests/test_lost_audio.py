"""``prep``, ``predict`` and ``embed`` say what they could not read, and refuse one file alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import elastictool
from elastictool.audio import trials
from elastictool.cli.app import app
from elastictool.data import ingest
from elastictool.data.inspect import read_rejected
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import RejectedItemsError
from tests.helpers.corpus_trees import write_audio, write_table
from tests.helpers.saved_runs import save_run


@pytest.fixture(scope="module")
def run(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "elastic", toy_store, max_frames=300)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """A whole recording, one with audio behind its end, and one with a damaged packet."""
    whole = write_audio(tmp_path / "whole.wav", 1.0)
    longer = tmp_path / "longer.wav"
    longer.write_bytes(whole.read_bytes() + whole.read_bytes())
    content = bytearray(trials.sample("mp4", trials.tone(1.0)))
    middle = content.index(b"mdat") + 4_000
    content[middle : middle + 40] = bytes(40)
    damaged = tmp_path / "damaged.m4a"
    damaged.write_bytes(content)
    return [whole, longer, damaged]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def _prepared(folder: Path, *rows: tuple[object, ...]) -> PreparedStore:
    table = write_table(folder / "t.csv", [("path", "label", "start", "stop"), *rows])
    return prepare(PrepOptions("csv", table, folder / "data"))


def test_prep_notes_bytes_that_were_not_read_once_for_all_slices(
    recordings: list[Path], tmp_path: Path
) -> None:
    store = _prepared(
        tmp_path,
        ("whole.wav", "x", "", ""),
        ("longer.wav", "x", 0, 0.2),
        ("longer.wav", "x", 0.2, 0.4),
        ("damaged.m4a", "x", "", ""),
    )
    assert len(store) == 4
    size = f"{recordings[0].stat().st_size:,}"
    assert (
        "1 file has bytes behind the audio that the header states, they were not read: "
        f"longer.wav ({size})" in store.info.notes
    )
    assert any("packets that cannot be decoded" in note for note in store.info.notes)


def test_predict_notes_what_it_could_not_read(run: Path, recordings: list[Path]) -> None:
    result = command("predict", *recordings, "--run", run, "--format", "json")
    assert result.exit_code == 0
    whole, longer, damaged = json.loads(result.stdout)["predictions"]
    assert "losses" not in whole
    assert longer["losses"] == {"unread_bytes": recordings[0].stat().st_size}
    assert damaged["losses"] == {"damaged_packets": 1}
    assert f"{recordings[1]} ({recordings[0].stat().st_size:,})" in result.stderr
    assert f"silence took their place: {recordings[2]} (1)" in result.stderr


def test_embed_notes_what_it_could_not_read(run: Path, recordings: list[Path]) -> None:
    out = recordings[0].with_name("all.npz")
    result = command("embed", *recordings, "--run", run, "--out", out, "--json")
    assert result.exit_code == 0
    losses = json.loads(result.stdout)["losses"]
    assert set(losses) == {str(path) for path in recordings[1:]}
    assert "they were not read" in result.stderr and "silence took their place" in result.stderr


def test_losses_are_part_of_results_in_python(run: Path, recordings: list[Path]) -> None:
    whole, longer, _ = elastictool.load(run).predict(recordings)
    assert not whole.losses and longer.losses["unread_bytes"] > 0


def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError("std::bad_alloc")


def test_missing_memory_for_one_file_refuses_that_file(
    run: Path, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_rate = tmp_path / "other.wav"
    soundfile.write(other_rate, np.tile(trials.tone(1.0), 2), 44_100)
    monkeypatch.setattr("elastictool.audio.decode.soxr.resample", _no_memory)
    store = _prepared(tmp_path, ("whole.wav", "x", "", ""), ("other.wav", "x", "", ""))
    (row,) = read_rejected(store.path)
    assert row["path"] == "other.wav" and "no memory for it" in row["reason"]
    result = command("predict", recordings[0], other_rate, "--run", run)
    assert isinstance(result.exception, RejectedItemsError)
    assert f"left out: {other_rate}: there is no memory for it" in result.stderr


def test_missing_memory_is_no_damage_of_prepared_data(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.audio.sndfile.soundfile.SoundFile", _no_memory)
    with pytest.raises(MemoryError):
        toy_store.waveform(0)


def test_a_clip_of_weeks_is_refused_before_it_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of FLAC or HDF5 can hold as much; its slices can be used."""
    monkeypatch.setattr(ingest, "LONGEST_S", 60)
    write_audio(tmp_path / "short.wav")
    with soundfile.SoundFile(tmp_path / "weeks.flac", "w", 8_000, 1) as file:
        for _ in range(3):
            file.write(np.zeros(8_000 * 60, np.int16))
    store = _prepared(
        tmp_path,
        ("weeks.flac", "x", "", ""),
        ("weeks.flac", "x", 100, 101),
        ("short.wav", "x", "", ""),
    )
    assert len(store) == 2
    assert "too long" in read_rejected(store.path)[0]["reason"]


def test_an_array_of_years_is_refused_at_once(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "years.h5", "w") as file:
        file.create_dataset("a", shape=(10**13,), dtype="i2", chunks=(1 << 20,))
    store = _prepared(tmp_path, ("years.h5/a", "x", "", ""), ("years.h5/a", "x", 1_000, 1_001))
    assert len(store) == 1
    assert "too long" in read_rejected(store.path)[0]["reason"]


def test_a_large_stored_clip_is_read_where_it_lies(
    toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = toy_store.waveform(0), toy_store.waveform(0, 100, 900)
    monkeypatch.setattr("elastictool.data.store.COPIED_BYTES", 0)
    assert not isinstance(toy_store.audio_source(0), bytes)
    for again, once in zip(
        (toy_store.waveform(0), toy_store.waveform(0, 100, 900)), copied, strict=True
    ):
        assert np.array_equal(again, once)
