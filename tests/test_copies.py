"""Copies of corpora as they are: linked, saved by other systems, with leavings, in other formats.

What holds for each corpus is tested over the registry; a new one is covered once it has a tree.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.corpora.listing import FileIndex
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import plan
from elastictool.inference.recordings import expand
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import FoundFile, walk_files
from tests.helpers.corpus_trees import TREES, write_audio, write_table

TABLES = {
    "audioset": ("balanced_train_segments.csv", -1),
    "vggsound": ("vggsound.csv", 1),
    "voxceleb": ("iden_split.txt", 0),
    "esc50": ("meta/esc50.csv", -1),
    "epic-sounds": ("EPIC_Sounds_train.csv", 1),
}
"""Corpora whose rows are joined with files: a table, and a row of it whose file is there."""
DIFFERENT = {
    "audioset": ("/m/01", "/m/02"),
    "vggsound": ("dog barking", "cat purring"),
    "voxceleb": ("1 id", "3 id"),
    "esc50": (",5,", ",4,"),
    "epic-sounds": ("00:00:00.600", "00:00:00.700"),
}
READ = [name for name in CORPORA if name != "synth"]
FOLDERS = [name for name in READ if name not in ("csv", "json")]


def listing_of(name: str, root: Path) -> Listing:
    return CORPORA[name].list_clips(root, CorpusOptions())


def tree(name: str, folder: Path) -> Path:
    TREES[name](folder)
    return folder


def texts_of(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix in (".csv", ".txt", ".json")]


def audio_of(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix in (".wav", ".flac", ".ogg")]


@pytest.mark.parametrize("name", READ)
def test_folders_behind_links_are_listed_as_if_they_lay_there(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    before = listing_of(name, root)
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        folder.rename(tmp_path / folder.name)
        folder.symlink_to(tmp_path / folder.name)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        if not folder.is_symlink():
            (folder / "loop").symlink_to(root)
    assert listing_of(name, root) == before


@pytest.mark.parametrize("name", READ)
def test_texts_with_a_mark_at_their_beginning_are_read_alike(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    before = listing_of(name, root)
    for path in texts_of(root):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert listing_of(name, root) == before


@pytest.mark.parametrize("name", READ)
def test_a_text_of_another_encoding_is_a_clear_error(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    for text in texts_of(root):
        before = text.read_bytes()
        text.write_bytes("Geräusch\n".encode("latin-1") + before)
        with pytest.raises(UsageError, match=r"is not UTF-8 text") as caught:
            listing_of(name, root)
        assert str(text) in caught.value.message and "UTF-8" in caught.value.hint
        text.write_bytes(before)


@pytest.mark.parametrize("name", READ)
def test_leavings_of_other_systems_are_no_clips(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    before = listing_of(name, root)
    for path in (*audio_of(root), *texts_of(root)):
        path.with_name(f"._{path.name}").write_bytes(b"\0\xff")
        leaving = root / "__MACOSX" / path.relative_to(root)
        leaving.parent.mkdir(parents=True, exist_ok=True)
        leaving.write_bytes(b"\0")
    after = listing_of(name, root)
    assert (after.clips, after.label_names) == (before.clips, before.label_names)
    assert (after.missing, after.notes) == (before.missing, before.notes)


@pytest.mark.parametrize("ending", [".WAV", ".flac"])
@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "folder"])
def test_recordings_under_another_ending_are_found(name: str, ending: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    before = listing_of(name, root)
    for path in audio_of(root):
        path.rename(path.with_suffix(ending))
    after = listing_of(name, root)
    assert [clip.id for clip in after.clips] == [clip.id for clip in before.clips]
    assert all(clip.path.endswith(ending) for clip in after.clips)
    if name in ("voxceleb", "esc50"):
        count = len(before.clips)
        assert f"{count} clips have another ending on disk than listed: {ending}" in after.warnings


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_place_of_the_folder_is_reported(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    file = next(path for path in sorted(root.rglob("*")) if path.is_file())
    with pytest.raises(UsageError, match="is a file") as caught:
        listing_of(name, file)
    assert "wants a folder" in caught.value.message
    assert caught.value.hint == CORPORA[name].describe()


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_repeat_another_are_passed_over_and_reported(name: str, tmp_path: Path) -> None:
    root = tree(name, tmp_path / "corpus")
    before = listing_of(name, root)
    file, row = TABLES[name]
    lines = (root / file).read_text().splitlines()
    (root / file).write_text("\n".join([*lines, lines[row], lines[row], ""]))
    after = listing_of(name, root)
    assert (after.clips, after.missing, after.notes) == (before.clips, before.missing, before.notes)
    (warning,) = [warning for warning in after.warnings if "repeat an earlier one" in warning]
    assert warning.startswith("2 rows")


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_contradict_another_are_refused_with_their_line(
    name: str, tmp_path: Path
) -> None:
    root = tree(name, tmp_path / "corpus")
    file, row = TABLES[name]
    lines = (root / file).read_text().splitlines()
    changed = lines[row].replace(*DIFFERENT[name])
    assert changed != lines[row]
    (root / file).write_text("\n".join([*lines, changed, ""]))
    with pytest.raises(UsageError, match=f"line {len(lines) + 1}: .* was listed before"):
        listing_of(name, root)


def test_links_that_lead_nowhere_are_missing_and_not_found(tmp_path: Path) -> None:
    for name in ("audioset", "voxceleb", "esc50", "epic-sounds", "folder", "csv"):
        root = tree(name, tmp_path / name)
        before = listing_of(name, root)
        gone = root / before.clips[0].path
        gone.unlink()
        gone.symlink_to(tmp_path / "nowhere")
        after = listing_of(name, root)
        lost = [clip for clip in before.clips if clip.path == before.clips[0].path]
        assert len(after.clips) == len(before.clips) - len(lost)
        assert len(after.missing) == len(before.missing) + len(lost)


def test_of_several_files_of_one_recording_the_best_kind_is_taken(tmp_path: Path) -> None:
    kinds = ("wav", "flac", "ogg", "m4a", "mp4")
    for number in range(len(kinds)):
        for kind in kinds[number:]:
            (tmp_path / f"{number}.{kind}").write_bytes(b"x")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "empty.mp4").write_bytes(b"x")
    (tmp_path / "broken.wav").symlink_to("nowhere")
    (tmp_path / "broken.m4a").write_bytes(b"x")
    (tmp_path / "alone.wav").write_bytes(b"")
    index = FileIndex.scan(tmp_path)
    wanted = {str(number): f"{number}.{kind}" for number, kind in enumerate(kinds)}
    others = {"empty": "empty.mp4", "broken": "broken.m4a", "alone": "alone.wav"}
    assert index.paths == wanted | others and index.broken == ["broken.wav"]


def test_the_folder_of_audio_goes_before_other_folders(tmp_path: Path) -> None:
    for path in ("a/x.wav", "audio/x.m4a", "other/y.flac", "audio/z/y.flac", "z.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    index = FileIndex.scan(tmp_path, ("wav", "audio"))
    assert index.paths == {"x": "audio/x.m4a", "y": "audio/z/y.flac", "z": "z.wav"}


def test_a_walk_finds_each_file_in_order_and_ends_where_links_lead_in_circles(
    tmp_path: Path,
) -> None:
    for path in ("b/c.wav", "a.wav", "b.wav", ".hidden/x", "b/._c.wav", "__MACOSX/b/c.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for link, target in {"b/up": "..", "here": ".", "ring": "ring", "gone": "x/y"}.items():
        (tmp_path / link).symlink_to(target)
    visible = [FoundFile("a.wav"), FoundFile("b/c.wav"), FoundFile("b.wav")]
    broken = [FoundFile("gone", False), FoundFile("ring", False)]
    assert list(walk_files(tmp_path)) == [*visible, *broken]
    everything = {found.path for found in walk_files(tmp_path, hidden=True)}
    hidden = {".hidden/x", "b/._c.wav", "__MACOSX/b/c.wav"}
    assert everything - hidden == {found.path for found in (*visible, *broken)}
    assert [str(path) for path in expand([str(tmp_path)])] == [
        str(tmp_path / found.path) for found in visible
    ]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "cat" / "a.wav")
    for name in ("dog", ".hidden-dog", "lost+found"):
        (tmp_path / name).mkdir()
    scan = os.scandir

    def refuse(place: str) -> object:
        if Path(place).name in refused:
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = [".hidden-dog", "lost+found"]
    assert listing_of("folder", tmp_path).label_names == ["cat"]
    refused.append("dog")
    listing = listing_of("folder", tmp_path)
    assert listing.label_names == ["cat"]
    assert [(gone.path, gone.reason) for gone in listing.missing] == [
        ("dog/", "folder cannot be read (Permission denied)")
    ]
    assert "1 folder cannot be read" in listing.warnings[-1]
    refused.append(tmp_path.name)
    with pytest.raises(ElasticToolError, match=r"cannot read the folder .*: Permission denied"):
        listing_of("folder", tmp_path)


def test_where_few_clips_are_found_names_on_disk_are_shown(tmp_path: Path) -> None:
    root = tree("audioset", tmp_path)
    for number, path in enumerate(audio_of(root)):
        path.rename(path.with_name(f"video {number}.wav"))
    with pytest.raises(UsageError, match="no clips found") as caught:
        plan(PrepOptions("audioset", root, tmp_path / "data"))
    assert caught.value.hint.startswith("4 audio files have names that no row asks for: audio/bal/")
    write_audio(root / "audio" / "b__1.wav")
    (warning,) = [
        warning for warning in listing_of("audioset", root).warnings if "no row" in warning
    ]
    assert "video 0.wav" in warning and "b__1" not in warning
    shutil.rmtree(root / "audio")
    for path in ("-0abc_", "b__1", "cd-2", "e4_x", "stranger"):
        write_audio(root / f"{path}.wav")
    assert not any("no row" in warning for warning in listing_of("audioset", root).warnings)


def test_another_number_of_classes_than_published_is_reported(tmp_path: Path) -> None:
    published = {
        **{"audioset": 527, "vggsound": 309, "voxceleb": 1_251},
        **{"epic-sounds": 44, "esc50": 50, "speech-commands": 35},
    }
    for name, count in published.items():
        listing = plan(PrepOptions(name, tree(name, tmp_path / name), tmp_path / "data")).listing
        (warning,) = [warning for warning in listing.warnings if "classes" in warning]
        assert warning.endswith(f"classes, {count:,} are published")
    names = [f"word{number:02d}" for number in range(35)]
    for name in names:
        write_audio(tmp_path / "whole" / name / "a_nohash_0.wav", 0.01)
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / "whole" / name).write_text("")
    listing = plan(PrepOptions("speech-commands", tmp_path / "whole", tmp_path / "data")).listing
    assert listing.label_names == names and not listing.warnings


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("https://example.org/a.wav", "are addresses"),
        ("sub\\a.wav", "have backslashes in their paths"),
        ("C:\\data\\a.wav", "have paths of Windows"),
        ("~/a.wav", "begin with ~"),
    ],
)
def test_paths_that_are_none_here_are_reported_with_what_to_do(
    path: str, what: str, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.csv", [("path", "label"), (path, "x")])
    with pytest.raises(UsageError, match="no clips found") as caught:
        plan(PrepOptions("csv", table, tmp_path / "data"))
    assert caught.value.hint.startswith(f"1 missing files {what} (")
