"""The JSON lists of the AST repositories, as they lie there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import TREES, write_audio, write_classes, write_table


def listing_of(root: Path) -> Listing:
    return CORPORA["json"].list_clips(root, CorpusOptions())


def write_list(path: Path, numbers: Iterable[int], wavs: str = "audio/{}.wav") -> None:
    """A list of numbered recordings of two classes."""
    data = [{"wav": wavs.format(number), "labels": f"/m/0{number % 2}"} for number in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": data}))


def recipe(folder: Path, first: int = 1, folds: int = 5) -> Path:
    """``egs/esc50`` of the AST repository: lists two folders below what their paths begin at."""
    numbers = range(3 * folds)
    for number in numbers:
        write_audio(folder / "data" / "audio_16k" / f"{number}.wav", 0.05)
    for fold in range(folds):
        parts = {"eval": (fold,), "train": set(range(folds)) - {fold}}
        for part, wanted in parts.items():
            name = f"esc_{part}_data_{fold + first}.json"
            chosen = [number for number in numbers if number % folds in wanted]
            place = folder / "data" / "datafiles" / name
            write_list(place, chosen, "./data/audio_16k/{}.wav")
    write_classes(folder / "data").rename(folder / "data" / "esc_class_labels_indices.csv")
    return folder / "data" / "datafiles"


def test_the_lists_of_the_ast_repository_are_read_as_they_lie_there(tmp_path: Path) -> None:
    listing = listing_of(recipe(tmp_path))
    assert listing.label_names == ["Speech", "Male speech, man speaking", "Dog"]
    assert len(listing.clips) == 15 and not listing.missing and not listing.multi_label
    classes, folds, paths = listing.warnings
    assert "esc_class_labels_indices.csv" in classes
    assert folds.startswith("5 evaluation lists are folds")
    assert paths.startswith(f"15 paths begin at {tmp_path},")


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_pairs_of_lists_are_folds_and_each_clip_is_in_one(
    first: int, tmp_path: Path
) -> None:
    listing = listing_of(recipe(tmp_path, first))
    assert len({clip.id for clip in listing.clips}) == 15
    assert {clip.split for clip in listing.clips} == {"train"}
    for clip in listing.clips:
        assert clip.fold == int(Path(clip.path).stem) % 5 + 1
    assert any("fold 0 is fold 1" in warning for warning in listing.warnings) == (first == 0)


def test_what_only_training_lists_name_is_trained_on_in_every_fold(tmp_path: Path) -> None:
    lists = recipe(tmp_path)
    write_audio(tmp_path / "data" / "audio_16k" / "99.wav", 0.05)
    for path in lists.glob("esc_train_*.json"):
        entries = json.loads(path.read_text())["data"]
        entries.append({"wav": "./data/audio_16k/99.wav", "labels": "/m/00"})
        path.write_text(json.dumps({"data": entries}))
    listing = listing_of(lists)
    assert [clip.fold for clip in listing.clips if "99" in clip.id] == [0]
    assert len(listing.clips) == 16


def test_numbered_lists_that_evaluate_a_clip_twice_are_no_folds(tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / "audio" / f"{number}.wav", 0.05)
    for run in (1, 2):
        write_list(tmp_path / f"train_{run}.json", (0, 1, 2))
        write_list(tmp_path / f"eval_{run}.json", (3,))
    listing = listing_of(tmp_path)
    assert Counter((clip.split, clip.fold) for clip in listing.clips) == {
        ("train", 0): 6,
        ("test", 0): 2,
    }
    assert any("rows repeat a file" in warning for warning in listing.warnings)


def test_paths_begin_at_the_lists_or_where_one_stands_or_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path / "repo" / "lists" / "train.json", (1, 2, 3, 4))
    for number, folder in {1: "repo/lists", 2: "elsewhere", 3: "repo"}.items():
        write_audio(tmp_path / folder / "audio" / f"{number}.wav", 0.05)
    monkeypatch.chdir(tmp_path / "elsewhere")
    listing = listing_of(tmp_path / "repo" / "lists")
    assert [clip.path for clip in listing.clips] == [
        "audio/1.wav",
        str(tmp_path / "elsewhere" / "audio" / "2.wav"),
        str(tmp_path / "repo" / "audio" / "3.wav"),
    ]
    assert [clip.id for clip in listing.clips] == [f"audio/{number}.wav" for number in (1, 2, 3)]
    assert [clip.path for clip in listing.missing] == ["audio/4.wav"]
    monkeypatch.chdir(tmp_path / "repo" / "lists")
    assert len(listing_of(Path()).clips) == 2


def test_which_class_table_counts_is_reported(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    write_list(lists / "train.json", (0, 1))
    for number in (0, 1):
        write_audio(lists / "audio" / f"{number}.wav", 0.05)
    without = listing_of(lists)
    assert without.label_names == ["/m/00", "/m/01"]
    assert without.warnings[0].startswith("no *class_labels_indices*.csv")
    header = ("index", "mid", "display_name")
    other = write_table(tmp_path / "class_labels_indices.csv", [header, (0, "/m/77", "Other")])
    assert listing_of(lists).warnings[0] == without.warnings[0]
    write_classes(tmp_path)
    assert listing_of(lists).label_names[0] == "Speech"
    assert str(other) in listing_of(lists).warnings[0]
    own = write_table(lists / "my_class_labels_indices_2.csv", [header, (0, "/m/77", "Other")])
    with pytest.raises(UsageError, match=r"'/m/00' is not in .*my_class_labels_indices_2\.csv"):
        listing_of(lists)
    write_table(lists / "class_labels_indices_3.csv", [header])
    with pytest.raises(UsageError, match="several class tables"):
        listing_of(lists)
    own.rename(lists / "class_labels_indices.csv")
    with pytest.raises(UsageError, match=r"not in .*lists/class_labels_indices\.csv"):
        listing_of(lists)


def test_lists_that_do_not_say_their_split_are_reported(tmp_path: Path) -> None:
    root = TREES["json"](tmp_path) or tmp_path
    assert not any("no split" in warning for warning in listing_of(root).warnings)
    (root / "eval_data.json").rename(root / "first.json")
    listing = listing_of(root)
    assert {clip.split for clip in listing.clips} == {"train"}
    assert "no split in the names of 1 lists, all train: first.json" in listing.warnings


def test_json_that_lists_no_recordings_is_passed_over_and_reported(tmp_path: Path) -> None:
    root = TREES["json"](tmp_path) or tmp_path
    before = listing_of(root)
    (root / "ontology.json").write_text('[{"id": "/m/01", "name": "Speech"}]')
    (root / "config.json").write_text('{"rate": 16000}')
    listing = listing_of(root)
    assert listing.clips == before.clips
    assert "no lists of recordings, left out: config.json, ontology.json" in listing.warnings
    for path in root.glob("*_data.json"):
        path.unlink()
    with pytest.raises(UsageError, match=r"config\.json, .*ontology\.json: not of the form"):
        listing_of(root)
