"""``prep`` takes every format that the decoders read, by content, and says why one is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elastictool.audio import trials
from elastictool.audio.formats import FORMATS
from elastictool.data.inspect import read_rejected
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.utils.errors import AudioError
from tests.helpers.corpus_trees import epic_tree, write_table


def write(path: Path, kind: str) -> Path:
    """A second of tone in a format; skips where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(trials.sample(kind, trials.tone(1.0)))
    except AudioError as error:
        pytest.skip(error.message)
    return path


def test_a_folder_of_all_formats_is_taken(tmp_path: Path) -> None:
    kinds = [kind for kind in FORMATS if not kind.members]
    for kind in kinds:
        write(
            tmp_path / "raw" / "train" / "tone" / f"{kind.name}{kind.suffixes[0].upper()}",
            kind.name,
        )
    (tmp_path / "raw" / "train" / "tone" / "notes.txt").write_text("not audio")
    store = prepare(PrepOptions("folder", tmp_path / "raw", tmp_path / "data"))
    assert len(store) == len(kinds)
    assert read_rejected(store.path) == []
    label, alike = store.info.notes
    assert label == "all clips have the label 'tone': there is nothing to tell apart"
    assert alike.startswith("clips that hold the same samples"), "one tone, in lossless formats"
    for index in range(len(store)):
        assert abs(len(store.waveform(index)) - 16_000) < 1_600
        middle = store.waveform(index)[2_000:12_000]
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_a_slice_of_a_video_is_a_clip(tmp_path: Path) -> None:
    root = epic_tree(tmp_path / "epic")
    for path in (root / "audio").iterdir():
        path.unlink()
        content = trials.sample("mp4", trials.tone(3.0))
        path.with_suffix(".mp4").write_bytes(content)
    store = prepare(PrepOptions("epic-sounds", root, tmp_path / "data"))
    assert store.num_samples.tolist() == [8_000, 24_000, 8_000]


def test_files_that_are_named_wrongly_are_read_and_noted(tmp_path: Path) -> None:
    for name, kind in (("a.mp3", "wav"), ("b.wav", "flac"), ("c.wav", "wav")):
        write(tmp_path / name, kind)
    slices = [(name, "x", start) for name in ("a.mp3", "b.wav", "c.wav") for start in (0, 0.1)]
    rows: list[tuple[object, ...]] = [("path", "label", "start"), *slices]
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    assert len(store) == 6
    note = "2 files hold another format than their ending says: a.mp3 is wav, b.wav is flac"
    assert note in store.info.notes


def test_a_file_with_damaged_packets_is_kept_and_noted(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.m4a", "mp4").read_bytes()
    middle = whole.index(b"mdat") + 4_000
    (tmp_path / "damaged.m4a").write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])
    rows = [("path", "label"), ("whole.m4a", "x"), ("damaged.m4a", "x")]
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    assert store.num_samples.tolist() == [16_000, 16_000]
    (note,) = [note for note in store.info.notes if "cannot be decoded" in note]
    assert note.startswith("1 file has packets") and "damaged.m4a (" in note


@pytest.mark.parametrize("kind", ["ogg", "opus", "aiff", "au", "w64", "rf64", "caf", "nist", "mp3"])
def test_a_file_that_was_cut_off_is_rejected(kind: str, tmp_path: Path) -> None:
    whole = write(tmp_path / f"whole.{kind}", kind).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) * 3 // 4])
    rows = [("path", "label"), (f"whole.{kind}", "x"), (f"cut.{kind}", "x")]
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    (row,) = read_rejected(store.path)
    assert row["path"] == f"cut.{kind}" and "truncated" in row["reason"]
