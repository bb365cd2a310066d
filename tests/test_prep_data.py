"""``prep DATA`` recognises folders, tables and corpora; raw data are answered with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastictool.corpora.recognise import recognised
from elastictool.data.paths import find_dataset
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError
from tests.helpers.command_line import run_command
from tests.helpers.corpus_trees import TREES, write_audio, write_table


def recordings(folder: Path) -> Path:
    """Two classes of three clips each."""
    for label in ("dog", "cat"):
        for number in range(3):
            write_audio(folder / label / f"{number}.wav", 0.5, seed=number)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``my_recordings``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("elastictool.data.store.DATA_ROOT", Path("data"))
    monkeypatch.setattr("elastictool.data.paths.DATA_ROOT", Path("data"))
    recordings(tmp_path / "my_recordings")
    return tmp_path


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_corpus_is_recognised_by_its_files(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "raw")
    if root is not None and name != "synth":
        assert recognised(root) == (name, root)


def test_tables_and_lists_are_recognised(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "r")
    for name, corpus in (("t.csv", "csv"), ("t.tsv", "csv"), ("t.json", "json")):
        (tmp_path / name).write_text("")
        assert recognised(tmp_path / name) == (corpus, tmp_path / name)
    assert recognised(folder) == ("folder", folder)
    flat = tmp_path / "flat"
    table = write_table(flat / "meta.csv", [("path", "label"), ("a.wav", "x")])
    write_audio(flat / "a.wav", 0.5)
    assert recognised(flat) == ("csv", table)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "gone", flat / "a.wav"):
        assert recognised(nothing) is None


def test_prep_prepares_a_folder_that_is_named_without_options(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "prep", "my_recordings", "--workers", "1") == 0
    output = capsys.readouterr()
    assert "my_recordings is read as --dataset folder --root my_recordings" in output.err
    assert "left out" not in output.out and "rejected.csv" not in output.out
    store = PreparedStore.open(place / "data" / "my_recordings")
    assert store.info.label_names == ["cat", "dog"]
    assert not (store.path / "rejected.csv").exists()
    assert run_command(monkeypatch, "prep", "data/my_recordings") == 2
    assert "is prepared already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--root", "my_recordings"],
        ["my_recordings", "--dataset", "folder"],
        ["--trim-silence", "my_recordings"],
    ],
)
def test_a_folder_is_enough(
    arguments: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(monkeypatch, "prep", *arguments, "--workers", "1") == 0
    assert len(PreparedStore.open(place / "data" / "my_recordings")) == 6


def test_prep_takes_the_name_of_a_corpus(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(monkeypatch, "prep", "synth", "--limit", "16", "--workers", "1") == 0
    assert len(PreparedStore.open(place / "data" / "synth")) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist"),
        (["my_recordings", "--root", "my_recordings"], "leave one out"),
        (["fsdd", "--dataset", "synth"], "leave one out"),
        (["my_recordings/dog/0.wav"], "is no table or list of recordings"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    arguments: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(monkeypatch, "prep", *arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_raw_data_get_the_line_that_prepares_them(place: Path) -> None:
    with pytest.raises(UsageError, match="my_recordings is not prepared yet") as raised:
        find_dataset("my_recordings")
    line = "elastictool prep --dataset folder --root my_recordings"
    assert raised.value.hint.endswith(line)
    (place / "my table.csv").write_text("path,label\n")
    with pytest.raises(UsageError) as raised:
        find_dataset("my table.csv")
    assert raised.value.hint.endswith("prep --dataset csv --root 'my table.csv'")
    with pytest.raises(UsageError, match="neither a prepared folder"):
        find_dataset("nothing")


def test_show_names_the_class_of_a_clip(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(monkeypatch, "prep", "my_recordings", "--workers", "1")
    capsys.readouterr()
    assert run_command(monkeypatch, "data", "show", "--clip", "dog/0.wav") == 0
    shown = capsys.readouterr().out
    assert "dog (class 1)" in shown and "–" not in shown
