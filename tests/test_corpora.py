"""Every registered corpus keeps the contract; each reads its own layout and says what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    RenderingCorpus,
    SourceClip,
)
from elastictool.corpora.own_data import stratified_split
from elastictool.corpora.tables import clock_seconds
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import plan, prepare
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import (
    TREES,
    csv_tree,
    epic_tree,
    folder_tree,
    fsdd_tree,
    write_audio,
    write_table,
)

NAMES = list(CORPORA)


def list_clips(name: str, root: Path | None, task: str = "", seed: int = 0) -> Listing:
    return CORPORA[name].list_clips(root, CorpusOptions(task=task, seed=seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_keeps_the_contract(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    listing = list_clips(name, root)
    assert CORPORA[name].name == name
    assert listing.clips and listing.name
    assert len({clip.id for clip in listing.clips}) == len(listing.clips)
    assert len(set(listing.label_names)) == len(listing.label_names)
    assert {label for clip in listing.clips for label in clip.labels} <= set(listing.label_names)
    for clip in listing.clips:
        assert clip.labels, f"{clip.id} has no label"
        assert clip.split, f"{clip.id} has no split"
        assert clip.fold >= 0, f"{clip.id} has fold {clip.fold}"
    assert listing == list_clips(name, root)
    if not isinstance(CORPORA[name], RenderingCorpus):
        assert all((listing.root / clip.path).is_file() for clip in listing.clips)
        assert not any(Path(clip.path).is_absolute() for clip in listing.clips)


@pytest.mark.parametrize("name", NAMES)
def test_no_group_is_spread_over_splits(name: str, tmp_path: Path) -> None:
    splits = defaultdict(set)
    for clip in list_clips(name, TREES[name](tmp_path)).clips:
        splits[clip.group].add(clip.split)
    splits.pop("", None)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_description_fits_on_one_screen(name: str) -> None:
    lines = CORPORA[name].describe().splitlines()
    assert 1 <= len(lines) <= 20
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", NAMES)
def test_a_small_tree_can_be_prepared_and_read(name: str, tmp_path: Path) -> None:
    store = prepare(PrepOptions(name, TREES[name](tmp_path / "raw"), tmp_path / "data", limit=20))
    assert store.info.rejected == 0
    for index in range(len(store)):
        assert len(store.waveform(index)) == store.num_samples[index]
        assert store.targets(index).sum() == len(store.clip(index).labels)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "synth"])
def test_an_absent_root_is_a_usage_error_that_says_what_is_wanted(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        list_clips(name, tmp_path / "absent")
    assert "absent" in raised.value.message
    assert raised.value.hint == CORPORA[name].describe()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "synth"])
def test_an_empty_root_is_a_usage_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        list_clips(name, tmp_path)
    assert str(tmp_path) in raised.value.message


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_task_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no task 'colour'"):
        list_clips(name, tmp_path, task="colour")


def test_fsdd_tests_on_the_first_five_indices_of_each_speaker_and_digit(tmp_path: Path) -> None:
    listing = list_clips("fsdd", fsdd_tree(tmp_path))
    assert listing.name == "fsdd-digit"
    assert listing.label_names == ["0", "1", "2"]
    for clip in listing.clips:
        digit, _, index = clip.id.split("_")
        assert clip.labels == (digit,)
        assert clip.split == ("test" if int(index) < 5 else "train")


def test_fsdd_speakers_are_the_labels_of_the_speaker_task(tmp_path: Path) -> None:
    listing = list_clips("fsdd", fsdd_tree(tmp_path), task="speaker")
    assert (listing.name, listing.label_names) == ("fsdd-speaker", ["jackson", "theo"])


def test_fsdd_takes_the_folder_of_recordings_itself_and_leaves_strangers_out(
    tmp_path: Path,
) -> None:
    folder = fsdd_tree(tmp_path) / "recordings"
    write_audio(folder / "noise.wav")
    listing = list_clips("fsdd", folder)
    assert len(listing.clips) == 24
    assert listing.warnings == ["1 files with other names left out: noise.wav"]


def test_fsdd_as_published_is_complete(shared_data: Path) -> None:
    listing = list_clips("fsdd", shared_data / "fsdd")
    assert Counter(clip.split for clip in listing.clips) == listing.expected


def test_folder_without_split_folders_draws_a_seeded_split_of_each_class(tmp_path: Path) -> None:
    folder_tree(tmp_path, clips=20)
    listing = list_clips("folder", tmp_path, seed=1)
    assert listing == list_clips("folder", tmp_path, seed=1)
    assert listing.clips != list_clips("folder", tmp_path, seed=2).clips
    counts = Counter((clip.split, clip.labels[0]) for clip in listing.clips)
    for label in ("cat", "dog"):
        assert [counts[split, label] for split in ("train", "val", "test")] == [16, 2, 2]


def test_a_drawn_split_keeps_groups_together_and_tiny_classes_in_training() -> None:
    clips = [
        SourceClip(str(i), "", None, None, ("big",), "", group=f"video {i // 4}") for i in range(80)
    ] + [SourceClip(f"rare {i}", "", None, None, ("rare",), "") for i in range(2)]
    drawn = stratified_split(clips, seed=0)
    splits = defaultdict(set)
    for clip in drawn:
        splits[clip.group or clip.id].add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {clip.split for clip in drawn if clip.labels == ("rare",)} == {"train"}
    assert Counter(clip.split for clip in drawn) == {"train": 66, "val": 8, "test": 8}


def test_csv_with_folds_alone_is_all_training_data(tmp_path: Path) -> None:
    listing = list_clips("csv", csv_tree(tmp_path / "bells"))
    assert listing.name == "bells"
    assert {clip.split for clip in listing.clips} == {"train"}
    assert Counter(clip.fold for clip in listing.clips) == dict.fromkeys(range(1, 6), 4)


def test_csv_reads_slices_groups_several_labels_and_split_names(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    table = write_table(
        tmp_path / "list.csv",
        [
            ("label", "path", "split", "start", "stop", "group", "warning"),
            ("dog|cat", "a.wav", "training", "0.5", "1.25", "g", "x"),
            ("cat", "a.wav", "Validation", "", "", "", ""),
        ],
    )
    listing = list_clips("csv", table)
    assert listing.multi_label and listing.label_names == ["cat", "dog"]
    first, second = listing.clips
    assert (first.start_s, first.stop_s, first.group) == (0.5, 1.25, "g")
    assert (first.split, second.split) == ("train", "val")
    assert second.start_s is None


def test_csv_counts_files_that_are_not_there_as_missing(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    table = write_table(
        tmp_path / "list.csv", [("path", "label"), ("a.wav", "x"), ("gone.wav", "y")]
    )
    listing = list_clips("csv", table)
    assert [clip.path for clip in listing.missing] == ["gone.wav"]
    assert listing.label_names == ["x", "y"]


def test_epic_sounds_reads_slices_by_video_and_reports_wrong_sample_columns(
    tmp_path: Path,
) -> None:
    listing = list_clips("epic-sounds", epic_tree(tmp_path))
    assert listing.label_names == ["metal-only collision", "water"]
    assert [(clip.id, clip.split, clip.group) for clip in listing.clips] == [
        ("P01_01_0", "train", "P01_01"),
        ("P01_01_1", "train", "P01_01"),
        ("P02_01_0", "val", "P02_01"),
    ]
    assert [clip.id for clip in listing.missing] == ["P09_01_0"]
    agreement, mistake = listing.notes
    assert "agree in 3 of 4 segments (75.0%)" in agreement
    assert "1 segments disagree, with seconds in the sample columns: P02_01_0" in mistake
    store = prepare(PrepOptions("epic-sounds", tmp_path, tmp_path / "data"))
    assert (store.num_samples / 16_000).tolist() == pytest.approx([0.5, 1.5, 0.5])


def test_epic_sounds_reads_the_published_validation_table(
    shared_data: Path, tmp_path: Path
) -> None:
    name = "EPIC_Sounds_validation.csv"
    (tmp_path / name).write_bytes((shared_data / "epic_sounds" / name).read_bytes())
    listing = list_clips("epic-sounds", tmp_path)
    assert len(listing.missing) == listing.expected["val"]
    assert len(listing.label_names) == 44
    (note,) = listing.notes
    assert "agree in 8,035 of 8,035 segments (100.0%)" in note


def test_timestamps_are_hours_minutes_seconds() -> None:
    assert clock_seconds("01:02:03.500") == 3723.5
    for wrong in ("62.5", "1:x:3", ""):
        with pytest.raises(ValueError):
            clock_seconds(wrong)


def _sliced(folder: Path, files: int = 20, slices: int = 5) -> Path:
    """A table of slices without splits; some rows name their file by another path."""
    rows: list[tuple[object, ...]] = [("path", "label", "start", "stop")]
    for number in range(files):
        write_audio(folder / f"{number}.wav", 1.0)
        (folder / f"link{number}.wav").symlink_to(f"{number}.wav")
        names = (f"{number}.wav", f"./{number}.wav", f"link{number}.wav")
        for part in range(slices):
            rows.append((names[part % 3], "ab"[number % 2], part / 10, part / 10 + 0.1))
    return write_table(folder / "t.csv", rows)


def test_a_drawn_split_never_spreads_a_recording(tmp_path: Path) -> None:
    table = _sliced(tmp_path)
    for seed in range(5):
        listing = list_clips("csv", table, seed=seed)
        splits = defaultdict(set)
        for clip in listing.clips:
            splits[(tmp_path / clip.path).resolve()].add(clip.split)
        assert len(splits) == 20
        assert all(len(found) == 1 for found in splits.values())
        assert Counter(clip.split for clip in listing.clips) == {"train": 80, "val": 10, "test": 10}


def test_a_drawn_split_of_whole_files_is_what_it_always_was(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("path", "label")]
    for number in range(47):
        (tmp_path / f"{number:02d}.wav").write_bytes(b"RIFF")
        rows.append((f"{number:02d}.wav", "abc"[number % 3] if number < 40 else "d"))
    table = write_table(tmp_path / "t.csv", rows)
    planned = plan(PrepOptions("csv", table, tmp_path / "data", corpus=CorpusOptions(seed=3)))
    splits = "".join(clip.split[1] for clip in planned.listing.clips)  # r, a, e: train, val, test
    assert splits == "rrrrrrrrarrrrerrrrrrrraerrrerrarrrrrrrrrrarrrre"
    assert planned.fingerprint.startswith("8a352fdfcdfed5b5014d1022f3ff3228")


def test_a_drawn_split_of_class_folders_is_what_it_always_was(tmp_path: Path) -> None:
    planned = plan(
        PrepOptions("folder", folder_tree(tmp_path / "raw", clips=20), tmp_path / "data")
    )
    assert planned.fingerprint.startswith("4092bb32befadc20b55f563cb4c78948")


def test_the_drawn_numbers_are_reported_with_the_prepared_data(tmp_path: Path) -> None:
    store = prepare(
        PrepOptions("folder", folder_tree(tmp_path / "raw", clips=6), tmp_path / "data")
    )
    assert "no split folders: drew 8 train, 2 val, 2 test by class with seed 0" in store.info.notes
    lone = prepare(PrepOptions("folder", folder_tree(tmp_path / "few", clips=2), tmp_path / "data"))
    assert any("drew 4 train, 0 val, 0 test" in n and "no label has" in n for n in lone.info.notes)


def test_rows_that_repeat_a_file_are_reported(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    write_audio(tmp_path / "b.wav", 1.0)
    rows = [("a.wav", "x", ""), ("./a.wav", "y", 0), ("a.wav", "x", 0.5), ("b.wav", "x", "")]
    table = write_table(tmp_path / "t.csv", [("path", "label", "start"), *rows, rows[0]])
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    (note,) = [note for note in store.info.notes if "repeat" in note]
    assert note.startswith("2 rows repeat a file") and "1 of them with another label" in note


def test_groups_and_splits_that_part_a_file_are_reported(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    header = ("path", "label", "start", "stop")
    parts = [("a.wav", "x", 0, 0.5), ("a.wav", "x", 0.5, 1)]
    grouped = [(*part, group) for part, group in zip(parts, "gh", strict=True)]
    listing = list_clips("csv", write_table(tmp_path / "g.csv", [(*header, "group"), *grouped]))
    assert "slices of 1 files are in different groups: a.wav" in listing.warnings
    split = [(*part, name) for part, name in zip(parts, ("train", "test"), strict=True)]
    table = write_table(tmp_path / "s.csv", [(*header, "split"), *split])
    notes = prepare(PrepOptions("csv", table, tmp_path / "data")).info.notes
    assert any("1 files have clips in several splits or folds" in note for note in notes)


def test_labels_that_are_hardly_two_are_reported(tmp_path: Path) -> None:
    rows = [("path", "label")]
    for number, label in enumerate(("Cello", "cello", "t\u00fcr", "tu\u0308r", "flute")):
        rows.append((write_audio(tmp_path / f"{number}.wav").name, label))
    planned = plan(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    (warning,) = [warning for warning in planned.listing.warnings if "labels" in warning]
    assert "'Cello' / 'cello'" in warning and "'t\u00fcr'" in warning and "flute" not in warning


def test_a_label_that_is_alone_is_reported_with_the_prepared_data(tmp_path: Path) -> None:
    rows = [("path", "label"), (write_audio(tmp_path / "a.wav").name, "only")]
    notes = prepare(
        PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data")
    ).info.notes
    assert "all clips have the label 'only': there is nothing to tell apart" in notes
