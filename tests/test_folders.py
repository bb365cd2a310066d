"""A user's folder is read as its classes or its splits, and what is neither is reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import folder_tree, write_audio


def listing_of(root: Path) -> Listing:
    return CORPORA["folder"].list_clips(root, CorpusOptions())


def test_folder_splits_by_split_folders_where_there_are_any(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_audio(tmp_path / split / "10" / "deep" / "a.WAV".lower())
        write_audio(tmp_path / split / "9" / "b.flac")
    (tmp_path / "train" / "9" / "notes.txt").write_text("no audio")
    write_audio(tmp_path / "train" / "9" / ".hidden.wav")
    listing = listing_of(tmp_path)
    assert listing.label_names == ["9", "10"]
    assert Counter(clip.split for clip in listing.clips) == {"train": 2, "val": 2, "test": 2}


def test_audio_that_is_no_clip_of_a_folder_is_reported(tmp_path: Path) -> None:
    folder_tree(tmp_path)
    before = listing_of(tmp_path)
    for name in ("root.wav", "dog/._0.wav", ".trash/x.wav", "__MACOSX/dog/0.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"RIFF")
    listing = listing_of(tmp_path)
    assert (listing.clips, listing.label_names) == (before.clips, ["cat", "dog"])
    assert listing.warnings[len(before.warnings) :] == [
        "1 audio file is in no class folder: root.wav (left out)",
        "3 hidden audio files left out (.name, __MACOSX)",
    ]


def test_a_folder_of_splits_is_one_next_to_the_leavings_of_an_archive(tmp_path: Path) -> None:
    for name in ("train/x/a.wav", "test/x/b.wav", "test/c.wav", "__MACOSX/train/x/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"RIFF")
    listing = listing_of(tmp_path)
    assert [(clip.path, clip.split) for clip in listing.clips] == [
        ("test/x/b.wav", "test"),
        ("train/x/a.wav", "train"),
    ]
    assert listing.label_names == ["x"] and "test/c.wav" in listing.warnings[0]


def test_folders_without_audio_next_to_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/x/a.wav", "test/y/b.wav", "docs/notes.txt", "empty/deep/.keep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"RIFF")
    listing = listing_of(tmp_path)
    assert listing.label_names == ["x", "y"]
    assert Counter(clip.split for clip in listing.clips) == {"train": 1, "test": 1}


def test_other_folders_with_audio_next_to_splits_are_refused(tmp_path: Path) -> None:
    for name in ("train/x/a.wav", "Test/y/b.wav", "extra/z/c.wav"):
        write_audio(tmp_path / name)
    with pytest.raises(
        UsageError, match=r"splits \(Test, train\) and others .* \(extra\)"
    ) as caught:
        listing_of(tmp_path)
    assert "move the others" in caught.value.hint


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    for label in ("dog", "train", "wind"):
        write_audio(tmp_path / label / "a.wav")
    assert listing_of(tmp_path).label_names == ["dog", "train", "wind"]


def test_preparing_a_folder_where_one_stands_twice_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        for label in ("dog", "cat"):
            write_audio(tmp_path / split / label / "a.wav")
    monkeypatch.chdir(tmp_path)
    first = prepare(PrepOptions("folder", Path(), name="first"))
    write_audio(Path("data/raw/esc50/audio/a.wav"))
    (tmp_path / "data" / "second" / "unfinished").mkdir(parents=True)
    listing = listing_of(Path())
    assert [clip.id for clip in listing.clips] == sorted(first.ids.tolist())
    assert listing.warnings == ["audio next to prepared data is in no class: data (left out)"]
    second = prepare(PrepOptions("folder", Path(), name="second"))
    assert second.info.fingerprint == first.info.fingerprint
    (tmp_path / "data" / "first" / "dataset.json").unlink()
    (tmp_path / "data" / "second" / "dataset.json").unlink()
    (tmp_path / "data" / "second" / "unfinished").mkdir()
    (tmp_path / "data" / "second" / "unfinished" / "lock").touch()
    assert listing_of(Path()) == listing


def test_a_folder_without_classes_says_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match=r"1 audio file is in no class folder: a\.wav"):
        listing_of(tmp_path)


@pytest.mark.parametrize("names", [("train", "tset"), ("trian", "tests"), ("trainig", "val")])
def test_folders_that_look_like_misspelt_splits_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        write_audio(tmp_path / name / "x" / "a.wav", 0.2)
    with pytest.raises(UsageError, match=r"look like splits: '(tset|tests|trainig)' is no"):
        listing_of(tmp_path)


def test_classes_that_are_nearly_called_like_splits_are_classes(tmp_path: Path) -> None:
    for name in ("rest/a.wav", "rest/deep/b.wav", "best/c.wav", "dog/d.wav"):
        write_audio(tmp_path / name, 0.2)
    assert listing_of(tmp_path).label_names == ["best", "dog", "rest"]
