"""The corpora of the papers, on small trees laid out exactly as users have them."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.corpora.classes import ClassTable
from elastictool.data.ingest import first_samples
from elastictool.data.levels import trimmed
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.prepare import prepare
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import TREES, write_audio, write_classes, write_table


def listing_of(name: str, root: Path, subset: str = "") -> Listing:
    return CORPORA[name].list_clips(root, CorpusOptions(subset=subset))


def test_audioset_joins_segments_with_files_under_four_names(tmp_path: Path) -> None:
    listing = listing_of("audioset", TREES["audioset"](tmp_path) or tmp_path)
    assert listing.multi_label
    assert listing.label_names == ["Speech", "Male speech, man speaking", "Dog"]
    assert [(clip.path, clip.split, clip.group) for clip in listing.clips] == [
        ("audio/bal/Y-0abc_.wav", "train", "-0abc_"),
        ("audio/bal/b__1.wav", "train", "b__1"),
        ("audio/un/cd-2_5500_12000.flac", "train", "cd-2"),
        ("audio/ev/e4_x_70.wav", "test", "e4_x"),
    ]
    assert listing.clips[0].labels == ("Speech", "Dog")
    assert [clip.path for clip in listing.missing] == ["audio/Ygone3.wav"]
    assert listing.expected == {"train": 22_160 + 2_041_789, "test": 20_371}
    (note,) = listing.notes
    assert "4 of 5 annotated clips are on disk (80.0%)" in note
    for template in ("Y<id>", "<id>", "<id>_<startms>_<endms>", "<id>_<start>"):
        assert f"{template}: 1" in note


@pytest.mark.parametrize(
    "name",
    [
        *("Y{}.wav", "{}.wav", "{}_30000_37500.flac", "{}_30.wav", "{}_30.000.wav", "Y{}_30.wav"),
        *("{}_30000.wav", "{}_30_38.wav", "{}_30.000_37.500.wav", "Y{}_30000_37500.m4a"),
    ],
)
def test_audioset_knows_each_way_in_which_a_clip_is_called(name: str, tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "eval_segments.csv").write_text('-b_c-1, 30.000, 37.500, "/m/00"\n')
    path = tmp_path / "audio" / name.format("-b_c-1")
    path.parent.mkdir()
    path.write_bytes(b"x")
    (clip,) = listing_of("audioset", tmp_path).clips
    assert clip.path == f"audio/{path.name}"


def test_clips_next_to_the_folder_of_audio_are_found(tmp_path: Path) -> None:
    root = TREES["audioset"](tmp_path) or tmp_path
    (root / "audio" / "ev").rename(root / "eval")
    listing = listing_of("audioset", root)
    assert listing.clips[-1].path == "eval/e4_x_70.wav" and len(listing.missing) == 1


def test_a_class_table_orders_classes_by_their_numbers_also_where_names_repeat(
    tmp_path: Path,
) -> None:
    header = ("index", "mid", "display_name")
    rows = [(10, "/m/b", "Same"), (2, "/m/a", "Same"), (1, "/m/c", "Other")]
    table = ClassTable.read(write_table(tmp_path / "t.csv", [header, *rows]))
    assert table.names == ["Other (/m/c)", "Same (/m/a)", "Same (/m/b)"]
    assert [table.name(mid, tmp_path) for mid in ("/m/a", "/m/b")] == table.names[1:]


@pytest.mark.parametrize("row", ["x,/m/01,Speech", "1,/m/01", "-1,/m/01,Speech"])
def test_a_damaged_class_table_is_named_with_its_line(row: str, tmp_path: Path) -> None:
    TREES["audioset"](tmp_path)
    table = tmp_path / "class_labels_indices.csv"
    table.write_text(f"index,mid,display_name\n0,/m/00,Dog\n{row}\n")
    with pytest.raises(UsageError, match=r"class_labels_indices\.csv, line 3") as caught:
        listing_of("audioset", tmp_path)
    assert "as it is published" in caught.value.hint


def test_audioset_balanced_leaves_the_unbalanced_segments_out(tmp_path: Path) -> None:
    listing = listing_of("audioset", TREES["audioset"](tmp_path) or tmp_path, "balanced")
    assert listing.name == "audioset-balanced"
    assert Counter(clip.split for clip in listing.clips) == {"train": 2, "test": 1}


def test_audioset_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    TREES["audioset"](tmp_path)
    table = tmp_path / "eval_segments.csv"
    table.write_text(table.read_text() + 'abc, one, 10.0, "/m/00"\n')
    with pytest.raises(UsageError, match=r"eval_segments\.csv, line 5"):
        listing_of("audioset", tmp_path)


def test_a_label_outside_the_class_table_is_named(tmp_path: Path) -> None:
    TREES["audioset"](tmp_path)
    table = tmp_path / "eval_segments.csv"
    table.write_text('x, 0.0, 10.0, "/m/99"\n')
    with pytest.raises(UsageError, match="'/m/99' is not in"):
        listing_of("audioset", tmp_path)


def test_vggsound_reads_quoted_labels_and_six_digit_seconds(tmp_path: Path) -> None:
    listing = listing_of("vggsound", TREES["vggsound"](tmp_path) or tmp_path)
    assert listing.label_names == ["dog barking", "playing drums, loud"]
    assert [clip.id for clip in listing.clips] == ["-wx_y_000030", "b2_000007", "c3_000120"]
    assert [clip.path for clip in listing.missing] == ["audio/gone_000000.wav"]
    assert "3 of 4" in listing.notes[0]


def test_vggsound_keeps_the_order_of_a_class_table(tmp_path: Path) -> None:
    TREES["vggsound"](tmp_path)
    rows = [
        ("index", "mid", "display_name"),
        (0, "p", "playing drums, loud"),
        (1, "d", "dog barking"),
    ]
    write_table(tmp_path / "class_labels_indices.csv", rows)
    assert listing_of("vggsound", tmp_path).label_names == ["playing drums, loud", "dog barking"]


def test_a_label_of_vggsound_outside_the_class_table_hints_at_its_names(tmp_path: Path) -> None:
    TREES["vggsound"](tmp_path)
    names = ["playing drums, loud", "dog barkin", *(f"class {number}" for number in range(40))]
    rows = [(index, f"/m/{index:02d}", name) for index, name in enumerate(names)]
    header = ("index", "mid", "display_name")
    write_table(tmp_path / "class_labels_indices.csv", [header, *rows])
    with pytest.raises(UsageError, match="'dog barking' is not in") as caught:
        listing_of("vggsound", tmp_path)
    assert caught.value.hint.startswith("did you mean 'dog barkin'?")
    assert "/m/" not in caught.value.hint and len(caught.value.hint) < 300


def test_voxceleb_takes_merged_and_separate_folders(tmp_path: Path) -> None:
    listing = listing_of("voxceleb", TREES["voxceleb"](tmp_path) or tmp_path)
    assert listing.label_names == ["id10001", "id10002"]
    assert Counter(clip.split for clip in listing.clips) == {"train": 2, "val": 1, "test": 1}
    assert listing.clips[-1].path == "test/wav/id10002/vidD/00002.wav"
    assert listing.clips[0].group == "id10001/vid-A"
    assert [clip.path for clip in listing.missing] == ["wav/id10002/gone/00001.wav"]


def test_voxceleb_refuses_verification_lists_and_names_the_right_file(tmp_path: Path) -> None:
    TREES["voxceleb"](tmp_path)
    (tmp_path / "iden_split.txt").unlink()
    pair = "1 id10001/vid-A/00001.wav id10001/vid_B/00001.wav\n"
    (tmp_path / "veri_test.txt").write_text(pair)
    with pytest.raises(UsageError, match=r"no iden_split\.txt.*veri_test\.txt lists verification"):
        listing_of("voxceleb", tmp_path)
    (tmp_path / "veri_test_class.txt").write_text(pair)
    with pytest.raises(UsageError, match="line 1: 3 cells for 2 columns") as caught:
        listing_of("voxceleb", tmp_path)
    assert "iden_split.txt" in caught.value.hint and "verification pair" in caught.value.hint


def test_esc50_keeps_folds_targets_order_and_sources(tmp_path: Path) -> None:
    listing = listing_of("esc50", TREES["esc50"](tmp_path) or tmp_path)
    assert listing.label_names == ["dog", "chirping_birds"]
    assert Counter(clip.fold for clip in listing.clips) == dict.fromkeys(range(1, 6), 2)
    assert listing.clips[0].group == "10"
    part = listing_of("esc50", tmp_path, "esc10")
    assert (part.name, part.label_names, len(part.clips)) == ("esc10", ["dog"], 5)


def test_esc50_lies_in_its_archives_folder_or_is_resampled_already(tmp_path: Path) -> None:
    before = listing_of("esc50", TREES["esc50"](tmp_path / "ESC-50-master") or tmp_path)
    assert listing_of("esc50", tmp_path) == before
    folder = tmp_path / "ESC-50-master"
    (folder / "audio").rename(folder / "audio_16k")
    paths = [clip.path for clip in listing_of("esc50", tmp_path).clips]
    assert paths == [clip.path.replace("audio/", "audio_16k/") for clip in before.clips]


def test_trim_silence_gives_esc50_its_native_lengths(tmp_path: Path) -> None:
    root = TREES["esc50"](tmp_path / "raw")
    whole = prepare(PrepOptions("esc50", root, tmp_path / "data", name="whole"))
    settings = StorageOptions(trim_silence=True)
    native = prepare(PrepOptions("esc50", root, tmp_path / "data", name="native", storage=settings))
    assert (whole.num_samples == 3_200).all()
    assert (native.num_samples == 1_600).all()
    assert "digital silence at both ends was cut off (--trim-silence)" in native.info.notes


def test_max_seconds_keeps_the_beginning(tmp_path: Path) -> None:
    settings = StorageOptions(max_seconds=0.05)
    store = prepare(
        PrepOptions("esc50", TREES["esc50"](tmp_path / "raw"), tmp_path / "data", storage=settings)
    )
    assert (store.num_samples == 800).all()


def test_trim_silence_keeps_a_clip_of_nothing_else(tmp_path: Path) -> None:
    root = TREES["esc50"](tmp_path / "raw") or tmp_path
    write_audio(root / "audio" / "1-10-A-0.wav", 0.2, 44_100)
    soundfile.write(root / "audio" / "1-10-A-0.wav", np.zeros(8_820), 44_100)
    store = prepare(
        PrepOptions("esc50", root, tmp_path / "data", storage=StorageOptions(trim_silence=True))
    )
    assert store.num_samples[0] == 3_200
    assert store.info.splits["train"].silent == 1


def test_speech_commands_trains_on_what_no_list_names(tmp_path: Path) -> None:
    listing = listing_of("speech-commands", TREES["speech-commands"](tmp_path) or tmp_path)
    assert listing.label_names == ["no", "yes"]
    assert Counter(clip.split for clip in listing.clips) == {"train": 2, "val": 2, "test": 2}
    assert listing.notes == ["1 recordings of background noise left out"]
    shutil.rmtree(tmp_path / "no")
    listing = listing_of("speech-commands", tmp_path)
    assert [clip.path for clip in listing.missing] == [
        "no/1b88bf70_nohash_0.wav",
        "no/c1d39ce8_nohash_0.wav",
    ]
    assert listing.warnings == ["the lists name 1 words that no recording is of: no"]


def test_json_lists_give_splits_by_their_names_and_labels_by_the_table(tmp_path: Path) -> None:
    listing = listing_of("json", TREES["json"](tmp_path) or tmp_path)
    assert listing.multi_label and len(listing.label_names) == 3
    assert Counter(clip.split for clip in listing.clips) == {"train": 2, "test": 1}
    assert [clip.path for clip in listing.missing] == ["gone.wav"]
    (tmp_path / "class_labels_indices.csv").unlink()
    assert listing_of("json", tmp_path).label_names == ["/m/01", "/m/02"]


@pytest.mark.parametrize(
    "text",
    ["not json", "[]", '{"data": [{"wav": "a.wav"}]}', '{"data": [{"wav": "", "labels": "x"}]}'],
)
def test_a_list_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UsageError, match=r"list\.json"):
        listing_of("json", tmp_path)


@pytest.mark.parametrize("name", ["audioset", "vggsound", "voxceleb", "esc50", "epic-sounds"])
def test_prep_with_nothing_on_disk_says_what_to_fetch_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        prepare(PrepOptions(name))
    assert f"data/raw/{name}" in caught.value.hint
    assert "CC BY" in caught.value.hint


def test_groups_in_several_splits_are_reported(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    rows = [
        ("path", "label", "split", "group"),
        ("a.wav", "x", "train", "video"),
        ("b.wav", "x", "test", "video"),
    ]
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    assert any("1 groups" in note and "video" in note for note in store.info.notes)


def test_an_unknown_subset_is_refused(tmp_path: Path) -> None:
    TREES["esc50"](tmp_path)
    with pytest.raises(UsageError, match="no subset 'esc11'"):
        listing_of("esc50", tmp_path, "esc11")


@pytest.mark.parametrize("loudest", [0.0, 0.5])
def test_trimming_in_blocks_equals_trimming_the_whole(loudest: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        whole = (rng.random(30) * (rng.random(30) < 0.2)).astype(np.float32)
        cuts = np.sort(rng.integers(0, 31, 4))
        blocks = [block for block in np.split(whole, cuts) if len(block)]
        loud = np.flatnonzero(whole > loudest)
        expected = whole[loud[0] : loud[-1] + 1] if len(loud) else whole
        np.testing.assert_array_equal(
            np.concatenate(list(trimmed(blocks, tmp_path, loudest))), expected
        )
        kept = np.concatenate(list(first_samples(blocks, 12)))
        np.testing.assert_array_equal(kept, whole[:12])
