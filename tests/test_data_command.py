"""Prepared data can be looked at, is checked clip by clip, and comes out as it went in."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from elastictool.cli.console import print_table
from elastictool.cli.data import PICTURES_FOLDER
from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.data.export import export, file_names
from elastictool.data.inspect import duration_histogram, find_clip
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore, shard_name
from elastictool.data.verify import Fault, verify
from elastictool.utils.csv_files import read_rows
from elastictool.utils.errors import UsageError
from elastictool.utils.io import PROGRESS_FOLDER
from tests.helpers.command_line import run_command
from tests.helpers.corpus_trees import audioset_tree, csv_tree, write_audio, write_table

COUNT = 40


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bells")
    return prepare(
        PrepOptions("csv", csv_tree(folder / "bells", clips=COUNT), folder / "data")
    ).path


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of the data under ``data``."""
    shutil.copytree(original, tmp_path / "data" / "bells")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")


def rewrite(folder: Path, shard: int, **columns: list[object]) -> None:
    """Replace columns of a shard."""
    path = folder / shard_name(shard)
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(index, field, pa.array(values, field.type))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def column(folder: Path, shard: int, name: str) -> list[object]:
    with pa.OSFile(str(folder / shard_name(shard))) as file:
        values: list[object] = pa.ipc.open_stream(file).read_all().column(name).to_pylist()
    return values


def test_valid_data_has_no_errors(original: Path) -> None:
    assert verify(original)[1] == []


def test_clips_that_do_not_fit_their_rows_are_named(place: Path) -> None:
    folder = place / "data" / "bells"
    ids = [str(clip) for clip in PreparedStore.open(folder).ids[:5]]
    audio = column(folder, 0, "audio")
    numbers = column(folder, 0, "num_samples")
    labels = column(folder, 0, "labels")
    rates = column(folder, 0, "sample_rate_hz")
    cut, noise = dict(audio[0]), dict(audio[1])  # type: ignore[call-overload]
    cut["bytes"] = cut["bytes"][: len(cut["bytes"]) // 2]
    noise["bytes"] = b"no audio at all" * 20
    audio[0], audio[1] = cut, noise
    numbers[2] = int(str(numbers[2])) + 16_000
    labels[3] = ["bell", "gong"]
    rates[4] = 8_000
    rewrite(folder, 0, audio=audio, num_samples=numbers, labels=labels, sample_rate_hz=rates)
    faults = {fault.clip: fault.what for fault in verify(folder)[1]}
    assert set(faults) == {"", *ids}
    for clip, what in zip(
        ids, ("damaged|truncated", "not readable", "its row says", "gong", "8000 Hz"), strict=True
    ):
        assert any(word in faults[clip] for word in what.split("|")), faults[clip]
    assert "frames" in faults[""]


def test_a_flipped_bit_of_audio_is_found(place: Path) -> None:
    folder = place / "data" / "bells"
    store = PreparedStore.open(folder)
    stored = bytes(store.audio_bytes(7))
    shard = folder / shard_name(0)
    content = bytearray(shard.read_bytes())
    content[content.index(stored) + len(stored) // 2] ^= 4
    shard.write_bytes(bytes(content))
    assert [fault.clip for fault in verify(folder)[1]] == [str(store.ids[7])]


def test_a_shard_of_another_preparation_is_found(place: Path) -> None:
    folder = place / "data" / "bells"
    root = csv_tree(place / "other", clips=COUNT)
    write_audio(root / "audio" / "00.wav", 0.2, seed=99)
    with (root / "clips.csv").open(encoding="utf-8") as file:
        rows = [["bell" if cell == "drum" else cell for cell in row] for row in csv.reader(file)]
    write_table(root / "clips.csv", rows)
    other = prepare(PrepOptions("csv", root, place / "elsewhere"))
    shutil.copy(other.path / shard_name(1), folder / shard_name(1))
    assert (
        Fault("", "shard 1 is of another preparation (its fingerprint differs)")
        in verify(folder)[1]
    )


def test_a_missing_or_cut_shard_hides_no_error_of_the_others(place: Path) -> None:
    folder = place / "data" / "bells"
    labels = column(folder, 1, "labels")
    labels[0] = ["gong"]
    rewrite(folder, 1, labels=labels)
    damaged = str(PreparedStore.open(folder).ids[len(column(folder, 0, "id"))])
    (folder / shard_name(0)).unlink()
    store, faults = verify(folder)
    assert len(store) < COUNT
    assert any(shard_name(0) in fault.what for fault in faults if not fault.clip)
    assert damaged in [fault.clip for fault in faults]
    for shard in folder.glob("shard-*.arrow"):
        shard.write_bytes(shard.read_bytes()[:50])
    assert len(verify(folder)[0]) == 0


def test_counts_that_do_not_add_up_are_found(place: Path) -> None:
    folder = place / "data" / "bells"
    info = PreparedStore.open(folder).info.to_json()
    info["splits"]["train"] = {"prepared": COUNT - 1, "found": COUNT - 1}
    edit_info(folder, splits=info["splits"])
    (fault,) = verify(folder)[1]
    assert fault.what == f"split train has {COUNT} clips, dataset.json says {COUNT - 1}"
    twice = column(folder, 0, "id")
    twice[1] = twice[0]
    rewrite(folder, 0, id=twice)
    assert any("more than once" in fault.what for fault in verify(folder)[1])


def test_the_command_exits_with_3_and_lists_the_ids(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "data", "verify", "bells", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True
    numbers = column(place / "data" / "bells", 0, "num_samples")
    numbers[3] = 1
    rewrite(place / "data" / "bells", 0, num_samples=numbers)
    assert run_command(monkeypatch, "data", "verify", "--json") == 3
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report["ids"] == ["audio/03.wav"] and not report["sound"]
    assert "--overwrite" in shown.err
    assert run_command(monkeypatch, "data", "verify") == 3
    assert "audio/03.wav" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ("flac", "wav"))
@pytest.mark.parametrize("stored", ("fsdd", "synth", "epic-sounds", "csv"))
def test_what_is_exported_is_prepared_again_to_the_same(
    stored: str, encoding: Literal["flac", "wav"], tmp_path: Path
) -> None:
    from tests.helpers.corpus_trees import TREES

    before = prepare(
        PrepOptions(stored, TREES[stored](tmp_path / "raw"), tmp_path / "data", limit=24)
    )
    assert export(before, tmp_path / "files", encoding=encoding) == len(before)
    after = prepare(PrepOptions("csv", tmp_path / "files", tmp_path / "again"))
    assert after.info.label_names == before.info.label_names
    assert (after.splits == before.splits).all() and (after.folds == before.folds).all()
    assert (after.groups == before.groups).all()
    for index in range(len(before)):
        assert after.label_indices(index) == before.label_indices(index)
        assert np.array_equal(after.waveform(index), before.waveform(index))
    if encoding == before.info.encoding:
        assert bytes(after.audio_bytes(0)) == bytes(before.audio_bytes(0))


def test_several_labels_and_one_split_survive_the_export(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("path", "label", "split", "group")]
    for number in range(6):
        write_audio(tmp_path / f"{number}.wav", 0.1)
        rows.append((f"{number}.wav", "b, c|a" if number % 2 else "a", "dev", f"g{number}"))
    rows.append(("0.wav", "a", "train", ""))
    before = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    assert export(before, tmp_path / "files", split="val") == 6
    after = prepare(PrepOptions("csv", tmp_path / "files", tmp_path / "again"))
    assert after.info.multi_label and after.groups.tolist() == [f"g{k}" for k in range(6)]
    assert [after.clip(k).labels for k in range(2)] == [("a",), ("b, c", "a")]
    with pytest.raises(UsageError, match="no clip in split 'tset'"):
        export(before, tmp_path / "none", split="tset")


def test_an_export_of_clips_without_labels_writes_nothing(place: Path) -> None:
    folder = place / "data" / "bells"
    labels = column(folder, 0, "labels")
    labels[3] = []
    rewrite(folder, 0, labels=labels)
    with pytest.raises(UsageError, match=r"1 clips have no label \(split train\)") as caught:
        export(PreparedStore.open(folder), place / "files")
    assert not (place / "files").exists() and "--split" in caught.value.hint


def test_an_export_overwrites_nothing(original: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        export(PreparedStore.open(original), tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        export(PreparedStore.open(original), tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_file_names_are_plain_and_distinct() -> None:
    ids = ["a/b.wav", "a_b.flac", "A_B", "../../etc", "ä/ö", "x.y", "", "long" * 100]
    names = file_names(ids, "flac")
    assert names[:4] == ["a_b.flac", "a_b-2.flac", "A_B-3.flac", "etc.flac"]
    assert len({name.casefold() for name in names}) == len(ids)
    assert all("/" not in name and len(name) < 200 and name[0] not in ".-" for name in names)


def test_a_list_of_labels_gives_the_order_of_classes(tmp_path: Path) -> None:
    root = csv_tree(tmp_path, clips=4)
    (root / "labels.txt").write_text("drum\nunused\nbell\n", encoding="utf-8")
    names = CORPORA["csv"].list_clips(root, CorpusOptions()).label_names
    assert names == ["drum", "unused", "bell"]
    (root / "labels.txt").write_text("drum\nbel\n", encoding="utf-8")
    with pytest.raises(UsageError, match="does not list the label 'bell'") as raised:
        CORPORA["csv"].list_clips(root, CorpusOptions())
    assert "'bel'" in raised.value.hint


def test_show_counts_what_is_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data" / "bells" / "rejected.csv").write_text("id,path,reason\nx,x.wav,empty\n")
    assert run_command(monkeypatch, "data", "show", "bells", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == {"bell": {"train": COUNT // 2}, "drum": {"train": COUNT // 2}}
    assert sum(row["clips"] for row in report["duration_histogram"]) == COUNT
    assert report["rejected"] == [{"id": "x", "path": "x.wav", "reason": "empty"}]
    assert run_command(monkeypatch, "data", "show") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("lengths", "█", "clips of each class", "left out: 1"))


def test_a_clip_is_shown_with_its_picture(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command(monkeypatch, "data", "show", "bells", "--clip", "audio/05.wav", "--json") == 0
    )
    row = json.loads(capsys.readouterr().out)
    assert (row["id"], row["labels"], row["num_samples"]) == ("audio/05.wav", ["drum"], 1_600)
    picture = place / row["picture"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    first = picture.read_bytes()
    options = ("--clip", "audio/05.wav", "--picture", "mine.png")
    assert run_command(monkeypatch, "data", "show", "bells", *options) == 0
    assert (place / "mine.png").read_bytes() == first
    assert run_command(monkeypatch, "data", "show", "bells", "--clip", "05") == 2
    assert "audio/05.wav" in capsys.readouterr().err


def test_names_in_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("song [live][/b].wav", ("[bold]what",), [("[/]",)])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("song [live][/b].wav", "[bold]what", "[/]"))


def test_an_unfinished_dataset_is_called_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data" / "half" / PROGRESS_FOLDER).mkdir(parents=True)
    assert run_command(monkeypatch, "data", "show", "half") == 2
    assert "data/half is not finished" in capsys.readouterr().err


def test_a_clip_is_shown_without_its_picture_where_nothing_can_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data" / "bells" / PICTURES_FOLDER).write_text("in the folder's place")
    shown = ("data", "show", "bells", "--clip", "audio/05.wav")
    assert run_command(monkeypatch, *shown, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["picture"] is None and "no picture" in said.err
    asked = place / "data" / "bells" / PICTURES_FOLDER / "mine.png"
    assert run_command(monkeypatch, *shown, "--picture", str(asked)) == 1, (
        "asked for, so it must be there"
    )


def test_the_list_distinguishes_ready_from_unfinished_and_damaged(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data" / "half" / "unfinished").mkdir(parents=True)
    shutil.copytree(place / "data" / "bells", place / "data" / "hurt")
    (place / "data" / "hurt" / shard_name(0)).unlink()
    (place / "data" / "raw").mkdir()
    assert run_command(monkeypatch, "data", "list", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == ["bells", "half", "hurt"]
    assert (listed["bells"]["state"], listed["bells"]["clips"]) == ("ready", COUNT)
    assert listed["half"]["state"] == "unfinished" and "shard" in listed["hurt"]["state"]
    assert run_command(monkeypatch, "data", "list") == 0
    assert "unfinished" in capsys.readouterr().out


def test_the_histogram_counts_every_clip_once() -> None:
    seconds = np.array([0.1, 0.15, 1.0, 1.99, 2.0, 90_000.0])
    rows = duration_histogram(seconds)
    assert rows[0] == (0.1, 0.2, 2) and sum(count for *_, count in rows) == len(seconds)
    assert (1.0, 2.0, 2) in rows and rows[-1][2] == 1
    assert duration_histogram(np.array([])) == []


def test_an_unknown_clip_is_refused_with_ids_that_are_alike(original: Path) -> None:
    store = PreparedStore.open(original)
    assert store.ids[find_clip(store, "audio/07.wav")] == "audio/07.wav"
    with pytest.raises(UsageError, match="has no clip 'nothing'") as raised:
        find_clip(store, "nothing")
    assert "audio/00.wav" in raised.value.hint


@pytest.mark.parametrize("command", ["list", "show", "verify", "export"])
def test_each_help_text_has_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "data", command, "--help") == 0
    assert f"elastictool data {command}" in capsys.readouterr().out


def test_lists_of_the_ast_repositories_come_back_as_the_same_clips(tmp_path: Path) -> None:
    first = prepare(PrepOptions("audioset", audioset_tree(tmp_path / "raw"), tmp_path / "data"))
    export(first, tmp_path / "out", encoding="wav", lists=True)
    back = prepare(PrepOptions("json", tmp_path / "out", tmp_path / "data", name="back"))
    assert back.info.label_names == first.info.label_names
    assert back.info.multi_label and back.info.missing == 0
    clips = {name: index for index, name in enumerate(first.ids.tolist())}
    rows = read_rows(tmp_path / "out" / "clips.csv")
    for row in rows:
        old, new = clips[row["id"]], back.ids.tolist().index(row["path"])
        assert np.array_equal(back.waveform(new), first.waveform(old))
        assert (back.clip(new).labels, back.clip(new).split) == (
            first.clip(old).labels,
            first.clip(old).split,
        )
    assert len(rows) == len(back) == len(first)
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="missing clips: 4"):
        prepare(PrepOptions("json", tmp_path / "moved", tmp_path / "data"))


def test_lists_are_written_in_the_form_that_the_ast_repositories_read(tmp_path: Path) -> None:
    store = prepare(PrepOptions("audioset", audioset_tree(tmp_path / "raw"), tmp_path / "data"))
    export(store, tmp_path / "out", encoding="wav", lists=True)
    assert (tmp_path / "out" / "class_labels_indices.csv").read_text().splitlines() == [
        "index,mid,display_name",
        "0,class_0000,Speech",
        '1,class_0001,"Male speech, man speaking"',
        "2,class_0002,Dog",
    ]
    document = json.loads((tmp_path / "out" / "train.json").read_text())
    assert list(document) == ["data"] and list(document["data"][0]) == ["wav", "labels"]
    assert document["data"][0]["labels"] == "class_0000,class_0002"
    assert all(Path(entry["wav"]).is_file() for entry in document["data"])
    assert len(json.loads((tmp_path / "out" / "test.json").read_text())["data"]) == 1


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"id,path,reason\nx\n", b"id\n\xff\n"])
def test_a_damaged_list_of_rejected_clips_is_reported(
    content: bytes,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "data" / "bells" / "rejected.csv").write_bytes(content)
    assert run_command(monkeypatch, "data", "show", "bells") == 1
    assert "rejected.csv is damaged" in capsys.readouterr().err
