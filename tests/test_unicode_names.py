"""Names in another Unicode form than on disk are found; lists on stdin may begin with a mark."""

from __future__ import annotations

import codecs
import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from elastictool.cli.recordings import expand_files
from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.data.inspect import find_clip
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.utils.errors import UsageError
from elastictool.utils.io import on_disk
from tests.helpers.corpus_trees import TREES, write_audio, write_table

NAME = "Häher/Grünspecht 1é.wav"
FORMS = [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")]


def form(kind: str, text: str) -> str:
    """``text`` in the Unicode form ``kind``."""
    return unicodedata.normalize(kind, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(("disk", "written"), FORMS)
def test_a_table_finds_files_in_any_form(disk: str, written: str, tmp_path: Path) -> None:
    for name in (NAME, "b.wav"):
        write_audio(tmp_path / form(disk, name), 0.5)
    rows = [("path", "label", "split"), (form(written, NAME), form(written, "Häher"), "train")]
    table = write_table(tmp_path / "t.csv", [*rows, ("b.wav", "b", "test")])
    (tmp_path / "labels.txt").write_text(form(disk, "b\nHäher\n"))
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert len(store) == 2 and not store.info.missing
    assert store.info.label_names == ["b", form(disk, "Häher")]
    assert store.clip(0).source == form(disk, NAME)
    assert find_clip(store, form("NFD", NAME)) == find_clip(store, form("NFC", NAME)) == 0


def test_one_file_in_two_forms_of_its_name_stays_in_one_split(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("path", "label", "start", "stop")]
    for number in range(10):
        name = f"ä{number}.wav"
        write_audio(tmp_path / form("NFD", name), 1.0)
        rows += [(form("NFC", name), "x", 0, 0.5), (form("NFD", name), "x", 0.5, 1)]
    listing = CORPORA["csv"].list_clips(write_table(tmp_path / "t.csv", rows), CorpusOptions())
    splits: dict[str, set[str]] = {}
    for clip in listing.clips:
        splits.setdefault(clip.path, set()).add(clip.split)
    assert len(splits) == 10 and all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(("disk", "written"), FORMS)
def test_json_lists_and_published_tables_find_files_in_any_form(
    disk: str, written: str, tmp_path: Path
) -> None:
    write_audio(tmp_path / form(disk, NAME), 0.5)
    entries = [{"wav": form(written, NAME), "labels": "x"}]
    (tmp_path / "train.json").write_text(json.dumps({"data": entries}, ensure_ascii=False))
    (clip,) = CORPORA["json"].list_clips(tmp_path, CorpusOptions()).clips
    assert clip.path == form(disk, NAME)
    root = TREES["esc50"](tmp_path / "esc50")
    first = sorted((root / "audio").iterdir())[0]
    first.rename(first.with_name(form(disk, f"ä{first.name}")))
    table = root / "meta" / "esc50.csv"
    text = table.read_text().replace(first.name, form(written, f"ä{first.name}"))
    table.write_text(text)
    assert CORPORA["esc50"].list_clips(root, CorpusOptions()).missing == []


@pytest.mark.parametrize(("disk", "written"), FORMS)
def test_arguments_patterns_and_lists_find_files_in_any_form(
    disk: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / form(disk, NAME)
    write_audio(path, 0.5)
    asked = str(tmp_path / form(written, NAME))
    folder = str(Path(asked).parent)
    assert expand_files([asked]) == expand_files([folder]) == [path]
    assert expand_files([f"{folder}/Gr*.wav"]) == [path]
    _give(monkeypatch, asked.encode() + b"\n")
    assert expand_files(["-"]) == [path]


def _give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_on_stdin_may_begin_with_a_byte_order_mark(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(monkeypatch, "a é.wav\r\n\r\nb.wav".encode(encoding))
    assert expand_files(["-"]) == [Path("a é.wav"), Path("b.wav")]


@pytest.mark.parametrize("content", [codecs.BOM_UTF16_LE + b"a\0b", b"a.wav\n" + b"x" * (1 << 20)])
def test_lists_on_stdin_that_are_none_are_refused(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(monkeypatch, content)
    with pytest.raises(UsageError, match="the list on stdin is"):
        expand_files(["-"])


def test_names_that_nothing_has_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("ä.wav", "ä/ö/b.wav", "ä\0.wav", "ä" * 300):
        assert on_disk(tmp_path / name) == tmp_path / name
