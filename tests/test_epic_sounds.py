"""EPIC-SOUNDS out of one HDF5 file: slices are read, never videos, and nothing else changes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elastictool.audio.decode import decode, probe, recording
from elastictool.checkpoint.weights import load_run
from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.corpora.epic_sounds import TABLES, TEST_TABLE
from elastictool.data.inspect import read_rejected
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.evaluation.run_data import split_clips
from elastictool.utils.errors import AudioError, ElasticToolError, UsageError
from elastictool.utils.optional import install_command
from tests.helpers.corpus_trees import EPIC_HEADER, epic_hdf5_tree, epic_tree, write_table
from tests.helpers.saved_runs import save_run
from tests.helpers.toy_data import hide_module

h5py = pytest.importorskip("h5py")


def listing_of(root: Path) -> Listing:
    return CORPORA["epic-sounds"].list_clips(root, CorpusOptions())


def test_an_hdf5_file_gives_the_clips_of_a_folder_of_files(tmp_path: Path) -> None:
    files = prepare(
        PrepOptions("epic-sounds", epic_tree(tmp_path / "files"), tmp_path / "data", name="files")
    )
    root = epic_hdf5_tree(tmp_path / "hdf5")
    (root / TEST_TABLE).unlink()
    arrays = prepare(PrepOptions("epic-sounds", root, tmp_path / "data", name="arrays"))
    assert arrays.ids.tolist() == files.ids.tolist()
    assert arrays.clip(0).source == "EPIC_audio.hdf5/P01_01"
    for index in range(len(files)):
        assert np.array_equal(arrays.waveform(index), files.waveform(index))
        assert replace(arrays.clip(index), source="") == replace(files.clip(index), source="")
    assert arrays.info.splits["train"].missing == 1 and arrays.info.rejected == 0


def test_the_test_table_gives_clips_without_labels_that_cannot_be_scored(tmp_path: Path) -> None:
    store = prepare(PrepOptions("epic-sounds", epic_hdf5_tree(tmp_path / "raw"), tmp_path / "data"))
    (clip,) = (store.clip(i) for i in range(len(store)) if store.splits[i] == "test")
    assert clip.labels == () and clip.num_samples == 12_000
    assert store.info.label_names == ["metal-only collision", "water"]
    run = load_run(save_run(tmp_path / "run", store))
    with pytest.raises(UsageError, match=r"1 of 1 clips in the test split .* no label"):
        split_clips(run, store, "test")
    assert len(split_clips(run, store, "validation")) == 1


def test_files_go_before_arrays_and_arrays_before_videos(tmp_path: Path) -> None:
    root = epic_hdf5_tree(tmp_path)
    (root / "audio").mkdir()
    (root / "audio" / "P01_01.flac").write_bytes(b"x")
    (root / "audio" / "P02_01.mp4").write_bytes(b"x")
    (root / "audio" / "notes.h5").write_text("no HDF5")
    found = {clip.group: clip.path for clip in listing_of(root).clips}
    assert found == {"P01_01": "audio/P01_01.flac", "P02_01": "EPIC_audio.hdf5/P02_01"}


def test_each_kind_of_mistake_in_the_sample_columns_is_reported(tmp_path: Path) -> None:
    def row(number: int, start: object, stop: object) -> list[object]:
        times = ("00:00:10.000", "00:00:12.500")
        return [f"a{number}", "P01", "P01_01", *times, start, stop, "x", "water", 1]

    good = [row(number, 240_000, 300_000) for number in range(4)]
    bad = [row(4, 10, 12.5), row(5, 24_000, 30_000), row(6, 240_000, 1), row(7, "", "")]
    write_table(tmp_path / TABLES["val"], [EPIC_HEADER, *good, *bad])
    assert listing_of(tmp_path).notes == [
        "timestamps and sample columns agree in 4 of 7 segments (57.1%); timestamps are used",
        "1 segments disagree, with seconds in the sample columns: a4",
        "1 segments disagree, by a factor of 10: a5",
        "1 segments disagree, by no known rule: a6",
    ]


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [("rinse", 1, "class 1 is 'rinse', but above class 1 is 'water'"),
     ("water", 7, "class 7 is 'water', but above class 'water' is 1")],
)  # fmt: skip
def test_a_class_with_two_names_or_two_numbers_is_refused(
    name: str, number: int, message: str, tmp_path: Path
) -> None:
    times = ("00:00:10.000", "00:00:12.500", 240_000, 300_000)
    rows = [("a", "P01", "P01_01", *times, "x", "water", 1)]
    rows.append(("b", "P01", "P01_01", *times, "x", name, number))
    write_table(tmp_path / TABLES["val"], [EPIC_HEADER, *rows])
    with pytest.raises(UsageError, match=f"line 3: {message}"):
        listing_of(tmp_path)


def test_a_row_that_is_cut_off_is_named(tmp_path: Path) -> None:
    table = epic_tree(tmp_path) / TABLES["train"]
    whole = table.read_text()
    table.write_text(whole + "P01_01_7,P01,P01_01,00:00:")
    with pytest.raises(UsageError, match="line 5: 4 cells for 10 columns"):
        listing_of(tmp_path)


def test_a_row_with_more_cells_than_columns_is_named_and_empty_ones_do_no_harm(
    tmp_path: Path,
) -> None:
    table = epic_tree(tmp_path) / TABLES["train"]
    *rows, last = table.read_text().splitlines()
    table.write_text("\n".join([*rows, last + ",,"]))
    listing_of(tmp_path)
    table.write_text("\n".join([*rows, last + ",,7"]))
    with pytest.raises(UsageError, match="line 4: 12 cells for 10 columns"):
        listing_of(tmp_path)


def test_pickles_alone_are_not_read_and_the_message_says_why(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "EPIC_Sounds_train.pkl").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"train\.pkl is not read, because .* take the csv"):
        listing_of(tmp_path)


def test_a_slice_of_hours_costs_the_memory_of_the_slice(tmp_path: Path) -> None:
    samples = 5 * 3_600 * 24_000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        video = file.create_dataset("video", (samples,), "f4", chunks=(1 << 16,))
        video[-24_000:] = np.linspace(-1, 1, 24_000, dtype=np.float32)
    place = tmp_path / "a.h5" / "video"
    assert probe(place).num_samples == samples
    decode(place, 0, 10)
    tracemalloc.start()
    waveform, rate_hz = decode(place, samples - 24_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rate_hz == 24_000 and waveform[0] == -1 and waveform[-1] == 1
    assert peak < 4_000_000
    with recording(place) as opened:
        assert len(next(opened.blocks())) <= 1 << 21


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "float32", "float64"])
def test_arrays_of_any_kind_of_number_are_read(kind: str, tmp_path: Path) -> None:
    half = 1.0 if kind.startswith("f") else 2.0 ** (8 * np.dtype(kind).itemsize - 1)
    shift = half if kind.startswith("u") else 0.0
    wanted = np.array([-1.0, -0.5, 0.0, 0.25], dtype=np.float64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("group/x", data=(wanted * half + shift).astype(kind))
        made.attrs["sample_rate"] = 8_000
    samples, rate_hz = decode(tmp_path / "a.h5" / "group" / "x")
    assert rate_hz == 8_000 and samples.tolist() == wanted.tolist()


def test_what_is_wrong_with_an_array_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["flat"] = np.zeros((2, 3), np.float32)
        file["text"] = "hello"
        file["empty"] = np.zeros(0, np.float32)
        file["group/x"] = np.array([np.nan, 1], np.float32)
    cases = {
        "flat": r"shape \(2, 3\)", "text": "not of samples", "empty": "no samples",
        "gone": "no recording of this name", "group": "no recording of this name",
        "group/x": "NaN",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(AudioError, match=message):
            decode(path / name)
    with pytest.raises(AudioError, match="holds 4 recordings; name one"):
        decode(path)
    (tmp_path / "b.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    with pytest.raises(AudioError, match="a file is no folder"):
        decode(tmp_path / "b.wav" / "x")


def test_a_damaged_hdf5_file_is_a_clear_error(tmp_path: Path) -> None:
    root = epic_hdf5_tree(tmp_path / "raw")
    file = root / "EPIC_audio.hdf5"
    file.write_bytes(file.read_bytes()[:-5_000])
    with pytest.raises(ElasticToolError, match="damaged or truncated"):
        listing_of(root)


def test_videos_that_vanish_from_the_file_after_listing_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = epic_hdf5_tree(tmp_path / "raw")
    listing = listing_of(root)
    with h5py.File(root / "EPIC_audio.hdf5", "a") as file:
        del file["P02_01"]
    monkeypatch.setattr(type(CORPORA["epic-sounds"]), "list_clips", lambda *_: listing)
    store = prepare(PrepOptions("epic-sounds", root, tmp_path / "data"))
    assert {row["path"] for row in read_rejected(store.path) if row["reason"] != "missing"} == {
        "EPIC_audio.hdf5/P02_01"
    }
    assert len(store) == 2


def test_without_the_extra_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = epic_hdf5_tree(tmp_path)
    hide_module(monkeypatch, "h5py")
    with pytest.raises(ElasticToolError, match="needs the extra h5py") as raised:
        listing_of(root)
    assert raised.value.hint == install_command("h5py")
    with pytest.raises(AudioError, match="needs the extra h5py"):
        decode(root / "EPIC_audio.hdf5" / "P01_01")
