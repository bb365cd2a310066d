"""What happens to files between listing and reading, and what their names may be made of."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from elastictool.cli.console import log, print_json, print_table
from elastictool.cli.prep import prep
from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.data import ingest
from elastictool.data.inspect import read_rejected
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import ElasticToolError, RejectedItemsError, UsageError, WriteError
from elastictool.utils.io import readable
from tests.helpers.corpus_trees import csv_tree, folder_tree, write_audio, write_table
from tests.helpers.files import content

# Files that change


def _while_reading(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let ``happens`` happen when the first block of a file has been read."""
    resample = ingest.resample_blocks

    def interrupted(
        blocks: Iterator[np.ndarray], *rates: int
    ) -> Iterator[tuple[np.ndarray, float]]:
        for block in resample(blocks, *rates):
            happens()
            yield block

    monkeypatch.setattr(ingest, "resample_blocks", interrupted)


def _one_clip(folder: Path, *slice_s: object) -> Path:
    write_audio(folder / "a.wav", 2.0)
    columns = ("path", "label", "start", "stop")
    return write_table(folder / "t.csv", [columns, ("a.wav", "x", *(slice_s or ("", "")))])


def _reasons(table: Path, out: Path) -> list[str]:
    with pytest.raises(ElasticToolError, match="all 1 clips were rejected"):
        prepare(PrepOptions("csv", table, out))
    return [row["reason"] for row in read_rejected(out / "t")]


def test_a_file_that_is_written_to_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _one_clip(tmp_path)
    _while_reading(monkeypatch, lambda: (tmp_path / "a.wav").write_bytes(b"RIFF") and None)
    (reason,) = _reasons(table, tmp_path / "data")
    assert "was changed while it was read" in reason


def test_a_file_that_vanishes_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _one_clip(tmp_path)
    _while_reading(monkeypatch, lambda: (tmp_path / "a.wav").unlink(missing_ok=True))
    (reason,) = _reasons(table, tmp_path / "data")
    assert "was changed while it was read" in reason


def test_a_file_that_is_replaced_after_listing_is_read_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _one_clip(tmp_path, 1.0, 2.0)
    corpus = CORPORA["csv"]
    listing = corpus.list_clips(table, CorpusOptions())
    monkeypatch.setattr(type(corpus), "list_clips", lambda *_: listing)
    write_audio(tmp_path / "a.wav", 1.5)
    (reason,) = _reasons(table, tmp_path / "data")
    assert "lies past the end of the file (1.5 s)" in reason
    write_audio(tmp_path / "a.wav", 3.0, 44_100, channels=2)
    assert prepare(PrepOptions("csv", table, tmp_path / "data")).num_samples.tolist() == [16_000]


# Files that are damaged


@pytest.mark.parametrize(("damaged", "exit_code"), [(1, 0), (2, 3)], ids=["1 %", "2 %"])
def test_one_per_cent_of_damaged_files_is_reported_and_no_more_is_allowed(
    damaged: int, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = csv_tree(tmp_path / "bells", 100)
    bad = [f"audio/{number:02d}.wav" for number in (17, 64)[:damaged]]
    for path, damage in zip(bad, (b"\0" * 999, b"RIFF\xff\xff\xff\xffWAVEfmt "), strict=False):
        (root / path).write_bytes(damage)
    left = 0
    try:
        prep(dataset="csv", root=root, out=tmp_path / "data", workers=1, json_output=True)
    except RejectedItemsError as error:
        left = error.exit_code
    assert left == exit_code
    assert json.loads(capsys.readouterr().out)["num_clips"] == 100 - damaged
    assert [row["path"] for row in read_rejected(tmp_path / "data" / "bells")] == bad


def test_splits_and_labels_of_which_nothing_is_left_are_reported(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("path", "label", "split")]
    for number in range(6):
        write_audio(tmp_path / f"{number}.wav", 0.1, seed=number)
        rows.append((f"{number}.wav", "bell" if number < 4 else "gong", "train"))
    rows.append(("bad.wav", "bell", "test"))
    for path in ("bad.wav", "4.wav", "5.wav"):
        (tmp_path / path).write_bytes(b"nothing")
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    assert "no clip of these splits could be used: test" in store.info.notes
    assert "no clip of these labels could be used: gong" in store.info.notes


def test_the_same_recording_under_two_names_is_reported_and_silence_is_not(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    for split, label, name, seed in (
        ("train", "bell", "a.wav", 1),
        ("train", "bell", "b.wav", 2),
        ("test", "gong", "c.wav", 1),
        ("test", "bell", "d.wav", 3),
    ):
        write_audio(root / split / label / name, 0.2, seed=seed)
    (root / "test" / "bell" / "e.wav").symlink_to(root / "train" / "bell" / "b.wav")
    for split in ("train", "test"):
        soundfile.write(root / split / "bell" / f"{split}.wav", np.zeros(3_200), 16_000)
    notes = prepare(PrepOptions("folder", root, tmp_path / "data")).info.notes
    (alike,) = [note for note in notes if note.startswith("clips that hold the same samples")]
    assert ": 2, 1 of them under another label (" in alike
    (apart,) = [note for note in notes if "several splits or folds 2 times" in note]
    assert "test/bell/e.wav = train/bell/b.wav" in apart


def test_a_disk_that_fills_up_under_a_long_clip_rejects_no_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile writes through a callback, which must not raise."""

    write = tempfile.SpooledTemporaryFile.write

    def full(file: Any, data: Any) -> int:
        if file.tell() > 4_096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    write_audio(tmp_path / "sounds" / "bell" / "a.wav", 2.0)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(WriteError, match="No space left") as caught:
        prepare(PrepOptions("folder", tmp_path / "sounds", tmp_path / "data"))
    assert "disk is full" in caught.value.hint


@pytest.mark.parametrize("scale", [10_000.0, 300.0])
def test_integers_stored_as_floats_are_refused_and_loud_floats_are_clipped(
    scale: float, tmp_path: Path
) -> None:
    for name, peak in (("loud", 3.0), ("integers", scale)):
        place = tmp_path / "sounds" / "bell" / f"{name}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        samples = peak * np.sin(np.arange(3_200) / 5)
        soundfile.write(place, samples, 16_000, subtype="FLOAT")
    store = prepare(PrepOptions("folder", tmp_path / "sounds", tmp_path / "data"))
    assert store.ids.tolist() == ["bell/loud.wav"]
    (rejected,) = read_rejected(store.path)
    assert "divide them by 32,768" in rejected["reason"]


@pytest.mark.parametrize(
    ("options", "complains"), [({}, True), ({"max_rejected": 0.1}, False), ({"limit": 10}, False)]
)
def test_a_missing_file_of_a_list_counts_as_a_damaged_one_and_is_named(
    options: dict[str, Any], complains: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = csv_tree(tmp_path / "bells", 20)
    (root / "audio" / "07.wav").unlink()
    complaint = pytest.raises(RejectedItemsError, match=r"1 of 20 clips .* missing \(5\.0%")
    with complaint if complains else contextlib.nullcontext():
        prep(dataset="csv", root=root, out=tmp_path / "data", workers=1, **options)
    assert "missing clips: 1: audio/07.wav" in capsys.readouterr().err.replace("\n", " ")


# Places that cannot be written


_protected: list[str] = []
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def _refuse_changes(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: what would change something in a protected place fails as on such a disk."""
    if not _protected or (event != "open" and event not in _CHANGES):
        return
    path = arguments[0]
    flags = arguments[2] if event == "open" else os.O_RDWR
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and any(str(path).startswith(place) for place in _protected):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


@cache
def _install_hook() -> None:
    """Once: nothing takes an audit hook away again."""
    sys.addaudithook(_refuse_changes)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Makes places read-only: tests may run as root, whom no rights keep out."""
    _install_hook()
    yield lambda place: _protected.append(str(place))
    _protected.clear()


def test_a_disk_that_can_only_be_read_is_named_before_anything_is_decoded(
    tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    (tmp_path / "disk").mkdir()
    read_only(tmp_path / "disk")
    with pytest.raises(WriteError, match=r"cannot write .*disk") as raised:
        prepare(PrepOptions("synth", out=tmp_path / "disk", limit=20))
    assert "can only be read: choose another place" in raised.value.hint
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_folder_where_nothing_can_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def refused(self: Path, *arguments: Any, **options: Any) -> None:
        if self.is_relative_to(tmp_path / "proc"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(WriteError, match="nothing can be made there") as raised:
        prepare(PrepOptions("synth", out=tmp_path / "proc" / "foo", limit=20))
    assert str(tmp_path / "proc" / "foo" / "synth") in raised.value.message
    assert "--out" in raised.value.hint


def test_a_finished_dataset_on_a_disk_that_can_only_be_read_is_used(
    tmp_path: Path, read_only: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = csv_tree(tmp_path / "bells")
    prep(dataset="csv", root=root, out=tmp_path / "disk", workers=1)
    before = content(tmp_path / "disk")
    read_only(tmp_path / "disk")
    prep(dataset="csv", root=root, out=tmp_path / "disk", workers=1)
    assert "is prepared already" in capsys.readouterr().err
    assert content(tmp_path / "disk") == before


# Names that are not text

STRANGE = os.fsdecode(b"caf\xe9 \xff")
READABLE = "caf\\xe9 \\xff"


def test_names_that_are_not_text_are_prepared_under_readable_ones(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "raw")
    (root / "dog").rename(root / STRANGE)
    write_audio(root / "cat" / "x.wav").rename(root / "cat" / f"{STRANGE}.wav")
    (root / "cat" / f"{STRANGE}-bad.wav").write_bytes(b"no audio")
    write_audio(root / "cat" / "y.wav").rename(root / "cat" / f"{STRANGE}.mp3")
    store = prepare(PrepOptions("folder", root, tmp_path / "data", storage=StorageOptions("wav")))
    assert store.info.label_names == [READABLE, "cat"]
    assert len(store) == 12 and f"cat/{READABLE}.wav" in store.ids
    assert store.clip(list(store.ids).index(f"{READABLE}/0.wav")).labels == (READABLE,)
    (row,) = read_rejected(store.path)
    assert row["path"] == f"cat/{READABLE}-bad.wav"
    assert any(f"cat/{READABLE}.mp3 is wav" in note for note in store.info.notes)
    assert len(PreparedStore.open(store.path)) == 12


def test_missing_and_strange_paths_of_json_lists_are_reported(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav").rename(tmp_path / f"{STRANGE}.wav")
    entries = [{"wav": name, "labels": "x"} for name in (f"{STRANGE}.wav", "\udce9", "\ud83d")]
    (tmp_path / "train.json").write_text(json.dumps({"data": entries}))
    store = prepare(PrepOptions("json", tmp_path, tmp_path / "data", name="lists"))
    assert store.ids.tolist() == [f"{READABLE}.wav"]
    assert [row["path"] for row in read_rejected(store.path)] == ["\\xe9", "\\ud83d"]


def test_a_strange_name_does_not_take_the_id_of_another_file(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "raw")
    write_audio(root / "cat" / "a.wav").rename(root / "cat" / os.fsdecode(b"\xe9.wav"))
    write_audio(root / "cat" / "\\xe9.wav")
    store = prepare(PrepOptions("folder", root, tmp_path / "data"))
    assert len(set(store.ids.tolist())) == len(store) == 12


def test_folders_that_are_not_text_are_worked_in_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv_tree(tmp_path / "plain" / "bells")
    root = (tmp_path / "plain").rename(tmp_path / STRANGE) / "raw"
    (root.parent / "bells").rename(root)
    for as_json in (False, True):
        out = root.parent
        prep(dataset="csv", root=root, out=out, name="bells", workers=1, json_output=as_json)
        shown = capsys.readouterr()
        shown.out.encode()
        assert as_json or READABLE in shown.out
    assert json.loads(shown.out)["path"] == str(tmp_path / STRANGE / "bells")
    log(STRANGE)
    print_table("names", ["name"], [[STRANGE]])
    print_json({STRANGE: "é"})
    with pytest.raises(UsageError) as raised:
        prepare(PrepOptions("csv", tmp_path / STRANGE / "gone", tmp_path / "data"))
    log(raised.value.message)


def test_readable_text_is_left_alone() -> None:
    for text in ("plain", "Zürich 東京 🎵", "back\\xe9slash"):
        assert readable(text) == text
    assert readable(STRANGE) == READABLE
