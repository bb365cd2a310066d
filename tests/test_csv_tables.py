"""Tables as spreadsheets and other programs write them: nothing in them is lost in silence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from elastictool.corpora.base import CORPORA, CorpusOptions, Listing
from elastictool.corpora.csv_list import COLUMNS
from elastictool.corpora.tables import Columns, Table
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import epic_hdf5_tree, write_audio, write_table


def table_of(folder: Path, text: str) -> Path:
    """A table next to ``a.wav`` and ``b.wav``."""
    for name in ("a.wav", "b.wav"):
        write_audio(folder / name, 1.0)
    (folder / "t.csv").write_bytes(text.encode())
    return folder / "t.csv"


def listing_of(table: Path) -> Listing:
    return CORPORA["csv"].list_clips(table, CorpusOptions())


def test_columns_are_known_in_any_case_and_among_spaces(tmp_path: Path) -> None:
    text = " Path ,LABEL,Split,Fold,START,End,group \na.wav,x,Train,2,0.25,0.5,g\n"
    (clip,) = listing_of(table_of(tmp_path, text)).clips
    assert (clip.path, clip.labels, clip.split, clip.fold) == ("a.wav", ("x",), "train", 2)
    assert (clip.start_s, clip.stop_s, clip.group) == (0.25, 0.5, "g")


def test_columns_that_are_not_read_are_reported(tmp_path: Path) -> None:
    table = table_of(tmp_path, ",path,label,split,Licence,warning\n0,a.wav,x,train,cc,loud\n")
    assert "columns that are not read: Licence, warning" in listing_of(table).warnings
    table = table_of(tmp_path, "path,label,split\na.wav,x,train\n")
    assert listing_of(table).warnings == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("splits", "split"), ("folds", "fold"), ("fold_id", "fold"), ("groups", "group")),
        *(("start_s", "start"), ("stop (s)", "stop"), ("end_time", "stop"), ("ends", "stop")),
    ],
)
def test_a_name_that_is_nearly_that_of_an_absent_column_is_refused(
    name: str, meant: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="column") as caught:
        listing_of(table_of(tmp_path, f"path,label,{name}\na.wav,x,1\n"))
    assert repr(name) in caught.value.message and repr(meant) in caught.value.hint


def test_other_names_and_those_whose_column_is_there_are_passed_over(tmp_path: Path) -> None:
    header = "path,label,split,labels,split_name,folder,age_group"
    table = Table(table_of(tmp_path, f"{header}\na.wav,x,train,y,z,f,9\n"), COLUMNS)
    assert table.ignored == ("labels", "split_name", "folder", "age_group")


@pytest.mark.parametrize("header", ["path,label,Label", "path,label,stop,end", "path,path,label"])
def test_a_column_that_stands_there_twice_is_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than once"):
        listing_of(table_of(tmp_path, f"{header}\na.wav,x,1,2\n"))


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\npath;label;split\na.wav;x;train\nb.wav;y;test\n",
        "SEP=,\r\npath,label,split\r\na.wav,x,train\r\nb.wav,y,test\r\n",
        "\npath,label,split\na.wav,x,train\nb.wav,y,test\n",
        ",,\npath,label,split\na.wav,x,train\n,,\n\nb.wav,y,test\n,,,,\n , ,\n",
        "\ufeffsep=\t\n\npath\tlabel\tsplit\na.wav\tx\ttrain\nb.wav\ty\ttest\n",
    ],
)
def test_what_excel_writes_around_a_table_is_no_part_of_it(text: str, tmp_path: Path) -> None:
    clips = listing_of(table_of(tmp_path, text)).clips
    assert [(c.path, c.labels, c.split) for c in clips] == [
        ("a.wav", ("x",), "train"),
        ("b.wav", ("y",), "test"),
    ]


def test_rows_are_counted_as_editors_count_lines(tmp_path: Path) -> None:
    table = table_of(tmp_path, "sep=;\n\npath;label\na.wav;x\n;;\nb.wav;\n")
    with pytest.raises(UsageError, match="line 6, column 'label': '' is empty"):
        listing_of(table)
    with pytest.raises(UsageError, match="line 3: 3 cells for 2 columns"):
        listing_of(table_of(tmp_path, "\npath,label\na.wav,x,y\n"))
    with pytest.raises(UsageError, match=r"divided by '!'"):
        listing_of(table_of(tmp_path, "sep=!\npath!label\na.wav!x\n"))


def test_a_table_like_those_of_dcase_is_read_with_and_without_a_header(tmp_path: Path) -> None:
    rows = "audio/a 1.wav\tdog, small\t0.5\n\naudio/b.wav\tcat\t1.0\n"
    names = ("filename", "event_label", "onset")
    (tmp_path / "bare.txt").write_text(rows)
    (tmp_path / "meta.tsv").write_text("\t".join(names) + "\n" + rows)
    bare = Table(tmp_path / "bare.txt", Columns(names, header=False, divider="\t"))
    named = Table(tmp_path / "meta.tsv", Columns(("event_label", "filename")))
    assert [dict(row.cells) for row in bare] == [dict(row.cells) for row in named]
    assert [row.cells["event_label"] for row in named] == ["dog, small", "cat"]
    assert [row.number for row in bare] == [1, 3]
    (tmp_path / "bare.txt").write_text(rows + "audio/c.wav\tdog\n")
    with pytest.raises(UsageError, match=r"bare\.txt, line 4: 2 cells for 3 columns"):
        list(bare)


def _folds(folder: Path, folds: list[str]) -> Listing:
    rows = [(f"{number}.wav", "ab"[number % 2], fold) for number, fold in enumerate(folds)]
    for name, *_ in rows:
        (folder / name).write_bytes(b"RIFF")
    return listing_of(write_table(folder / "t.csv", [("path", "label", "fold"), *rows]))


def test_folds_that_are_counted_from_zero_are_all_folds(tmp_path: Path) -> None:
    listing = _folds(tmp_path, ["0", "1", "2.0", "", "0", "1"])
    assert [clip.fold for clip in listing.clips] == [1, 2, 3, 0, 1, 2]
    assert any("fold 0 is fold 1" in warning for warning in listing.warnings)
    assert {clip.split for clip in listing.clips} == {"train"}


def test_folds_that_are_counted_from_one_stay_as_they_are(tmp_path: Path) -> None:
    listing = _folds(tmp_path, ["1", "2", "", "3"])
    assert [clip.fold for clip in listing.clips] == [1, 2, 0, 3]
    assert listing.warnings == []


def test_a_table_whose_only_fold_is_zero_has_none(tmp_path: Path) -> None:
    listing = _folds(tmp_path, ["0"] * 40)
    assert not any(clip.fold for clip in listing.clips)
    assert any("taken as no folds" in warning for warning in listing.warnings)
    assert Counter(clip.split for clip in listing.clips) == {"train": 32, "val": 4, "test": 4}


def test_recordings_in_an_hdf5_file_are_clips_of_a_table(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    root = epic_hdf5_tree(tmp_path)
    rows = [
        ("EPIC_audio.hdf5/P01_01", "water", "train", 0.5, 1.0),
        ("EPIC_audio.hdf5/P02_01", "cut", "test", "", ""),
        ("gone.hdf5/P01_01", "cut", "test", "", ""),
        ("t.csv/P01_01", "cut", "test", "", ""),
    ]
    header = ("path", "label", "split", "start", "stop")
    listing = listing_of(write_table(root / "t.csv", [header, *rows]))
    assert [clip.path for clip in listing.missing] == ["gone.hdf5/P01_01", "t.csv/P01_01"]
    store = prepare(PrepOptions("csv", root / "t.csv", tmp_path / "data"))
    assert store.num_samples.tolist() == [8_000, 48_000]
    assert np.abs(store.waveform(0)).max() > 0.1
    drawn = write_table(root / "drawn.csv", [header[:2], *[row[:2] for row in rows[:2]]])
    assert len(listing_of(drawn).clips) == 2
