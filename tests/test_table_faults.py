"""Damaged and unusual tables: each gives one error with file and line, or is understood."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from elastictool.cli.prep import prep
from elastictool.corpora.base import CORPORA, CorpusOptions, Listing, TableOptions
from elastictool.corpora.classes import ClassTable, read_names
from elastictool.corpora.split_names import split_name
from elastictool.data.options import PrepOptions
from elastictool.data.plan import plan
from elastictool.data.prepare import prepare
from elastictool.evaluation.durations import read_durations
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import TREES, write_audio

NAMES = [f"{number}.wav" for number in range(6)]


def listing_of(
    folder: Path, text: str | bytes, columns: Mapping[str, str] | None = None, separator: str = "|"
) -> Listing:
    """The listing of a table next to six recordings."""
    for name in NAMES:
        write_audio(folder / name, 0.5)
    table = folder / "t.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    options = CorpusOptions(table=TableOptions(columns or {}, separator))
    return CORPORA["csv"].list_clips(table, options)


OPEN_QUOTES = {
    "to the end": ('path,label\n0.wav,x\n1.wav,"x\n2.wav,y\n', 3),
    "in the path": ('path,label\n0.wav,x\n"1.wav,x\n2.wav,y\n', 3),
    "in the last row": ('path,label\n0.wav,x\n1.wav,"x\n', 3),
    "closes in a label below": ('path,label\n0.wav,"x\n1.wav,y"\n2.wav,y\n', 2),
    "closes before a label below": ('path,label\n0.wav,"x\n1.wav,"y"\n2.wav,y\n', 2),
    "closes in a path below": ('path,label\n"0.wav\n1.wav",y\n', 2),
    "in a column that is not read": ('path,label,note\n0.wav,x,"a\n1.wav,y,b"\n2.wav,y,c\n', 2),
    "opened again there": ('path,label,note\n0.wav,x,"a\n1.wav,y,"b"\n2.wav,y,c\n', 2),
    "with semicolons": ('path;label\n0.wav;"x\n1.wav;y\n', 2),
    "with carriage returns": ('path,label\r0.wav,"x\r1.wav,y\r', 2),
    "below empty rows": ('\npath,label\n\n0.wav,x\n\n1.wav,"x\n', 6),
    "in the header": ('path,"label\n0.wav,x\n', 1),
    "more than a cell may hold": ('path,label\n0.wav,"x\n' + "1.wav,y\n" * 20_000, 2),
}


@pytest.mark.parametrize("case", OPEN_QUOTES)
def test_an_open_quote_is_an_error_with_the_row_that_opens_it(case: str, tmp_path: Path) -> None:
    text, line = OPEN_QUOTES[case]
    with pytest.raises(UsageError, match=rf"t\.csv, line {line}: .*(quote|line break)") as raised:
        listing_of(tmp_path, text)
    assert raised.value.hint


def test_a_line_break_in_a_quoted_note_is_part_of_it(tmp_path: Path) -> None:
    text = 'path,label,note\n0.wav,x,"two\nlines"\n1.wav,y,"a ""b"", c"\n2.wav,y,\n'
    clips = listing_of(tmp_path, text).clips
    assert [(clip.path, clip.labels) for clip in clips] == [
        *(("0.wav", ("x",)), ("1.wav", ("y",)), ("2.wav", ("y",)))
    ]


def test_a_second_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert len(listing_of(tmp_path, "\ufeff\ufeffpath,label\n0.wav,x\n").clips) == 1


def test_a_table_with_another_divider_says_which_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'path', 'label'") as raised:
        listing_of(tmp_path, "path|label\n0.wav|x\n")
    assert "divided by comma or semicolon or tab" in raised.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_in_utf_8_and_utf_16_are_read(encoding: str, tmp_path: Path) -> None:
    listing = listing_of(tmp_path, "path\tlabel\n0.wav\tHäher\n".encode(encoding))
    assert listing.label_names == ["Häher"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n0.wav,x\n1.wav,H\xe4her\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("path,label\n0.wav,x\n".encode("utf-16-le"), "not UTF-8 text: line 1 contains NUL"),
        (codecs.BOM_UTF16_LE + b"p\0a\0t", "not UTF-8"),
        (b"path,label\n0.wav,x\n1.wav,x\0y\n", "line 3: label 'x.*' contains a NUL"),
        (b"path,label\n0.wav," + b"x" * (1 << 21), "line 2: is longer than"),
        (b"," * (1 << 21), "line 1: is longer than"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        listing_of(tmp_path, content)
    assert raised.value.hint


ROWS = {
    "audioset": 'Y1,0.000,10.000,"/m/01\n',
    "vggsound": 'abc,1,"Dog\n',
    "esc50": '1-1-A-0.wav,1,0,"dog\n',
    "epic-sounds": '"P01\n',
}


@pytest.mark.parametrize("name", ROWS)
def test_every_corpus_refuses_an_open_quote_in_its_table(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    tables = [
        path
        for path in root.rglob("*.csv")
        if "class" not in path.name and path.name not in ("val.csv",)
    ]
    table = max(tables, key=lambda path: path.stat().st_size)
    lines = len(table.read_text().splitlines())
    with table.open("a") as file:
        file.write(ROWS[name])
    with pytest.raises(UsageError, match=rf"{table.name}, line {lines + 1}: "):
        CORPORA[name].list_clips(root, CorpusOptions())


def test_lists_of_durations_and_classes_refuse_open_quotes_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('seconds,name\n1.5,a\n2.5,"b\n3.5,c\n')
    with pytest.raises(UsageError, match=r"t\.csv, line 3: a quote"):
        read_durations(path)
    path.write_text("length\tname\n1.5\ta\n")
    with pytest.raises(UsageError, match="no column 'seconds'") as raised:
        read_durations(path)
    assert "its columns are: length, name" in raised.value.hint
    path.write_text("seconds,name\n1.5\0,a\n")
    with pytest.raises(UsageError, match=r"t\.csv, line 2: seconds .* contains a NUL"):
        read_durations(path)
    path.write_text('index,mid,display_name\n0,/m/1,Dog\n1,/m/2,"Cat\n2,/m/3,Cow\n')
    with pytest.raises(UsageError, match=r"t\.csv, line 3: "):
        ClassTable.read(path)
    path.write_text("\ufeffdog\r\n\r\ncat, purr\r\n")
    assert read_names(path) == ["dog", "cat, purr"]
    path.write_text("dog\ncat\ndog\n")
    with pytest.raises(UsageError, match=r"line 3: 'dog' is in line 1"):
        read_names(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('[{"wav": "a\\nb.wav", "labels": "x"}]', "entry 0: .* contains a line break"),
        ('[{"wav": "a.wav", "labels": "x\\r\\ny"}]', "entry 0: .* contains a line break"),
        ('[{"wav": "a.wav", "wav": "b.wav", "labels": "x"}]', "the key 'wav' twice"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_damaged_json_list_is_refused(entries: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"data": ' + entries + "}")
    with pytest.raises(UsageError, match=message):
        CORPORA["json"].list_clips(tmp_path / "train.json", CorpusOptions())


def test_a_json_list_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 0.5)
    document = json.dumps({"data": [{"wav": "a.wav", "labels": "x"}]})
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "train.json").write_text(document, encoding=encoding)
        assert len(CORPORA["json"].list_clips(tmp_path, CorpusOptions()).clips) == 1


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        (("train", "Train", "TRAINING", " train "), "train"),
        (("val", "valid", "Validation", "dev"), "val"),
        (("test", "testing", "eval", "Evaluation "), "test"),
    ],
)
def test_usual_names_of_splits_are_understood(names: tuple[str, ...], ours: str) -> None:
    assert {split_name(name) for name in names} == {ours}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        *(("trian", "train"), ("Trainn", "train"), ("tran", "train"), ("train1", "train")),
        *(("vla", "val"), ("vals", "val"), ("tset", "test"), ("tests", "test"), ("tst", "test")),
        *(("validaton", "validation"), ("evalaution", "evaluation"), ("trainig", "training")),
    ],
)
def test_a_misspelt_split_is_refused_with_the_nearest(
    name: str, nearest: str, tmp_path: Path
) -> None:
    text = f"path,label,split\n0.wav,x,train\n1.wav,y,train\n2.wav,y,{name}\n"
    with pytest.raises(UsageError, match="line 4, column 'split'") as raised:
        listing_of(tmp_path, text)
    assert repr(name) in raised.value.message and repr(nearest) in raised.value.message


@pytest.mark.parametrize("name", ["holdout", "unlabeled", "fold-a", "extra", "A"])
def test_other_splits_are_noted_with_their_clips(name: str, tmp_path: Path) -> None:
    rows = ["train", "train", "test", name, name]
    text = "".join(f"{i}.wav,x{i % 2},{split}\n" for i, split in enumerate(rows))
    listing_of(tmp_path, "path,label,split\n" + text)
    planned = plan(PrepOptions("csv", tmp_path / "t.csv", tmp_path / "data"))
    (note,) = [note for note in planned.listing.warnings if "nothing uses" in note]
    assert note.startswith(f"2 clips are in the split {name!r}")


def test_classes_without_a_clip_to_train_on_are_noted_by_name(tmp_path: Path) -> None:
    rows = "0.wav,dog,train\n1.wav,cat,train\n2.wav,cow,test\n3.wav,dog,test\n"
    (tmp_path / "labels.txt").write_text("dog\ncat\nhen\ncow\n")
    listing_of(tmp_path, f"path,label,split\n{rows}")
    notes = prepare(PrepOptions("csv", tmp_path / "t.csv", tmp_path / "data")).info.notes
    assert "2 classes have no clip to train on (split train): hen, cow" in notes


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_labels_that_look_joined_are_noted_with_the_option_that_splits_them(
    separator: str, tmp_path: Path
) -> None:
    text = f'path,label\n0.wav,"Bark{separator}Dog"\n1.wav,Cat\n'
    chosen = "|" if separator != "|" else "/"
    listing = listing_of(tmp_path, text, separator=chosen)
    (note,) = [note for note in listing.warnings if "--label-separator" in note]
    assert repr(f"Bark{separator}Dog") in note and note.startswith("1 label contains")
    listing = listing_of(tmp_path, text, separator=separator)
    assert listing.label_names == ["Bark", "Cat", "Dog"] and listing.multi_label
    assert not any("--label-separator" in note for note in listing.warnings)


def test_rare_separators_and_commas_of_names_are_noted_only_between_known_labels(
    tmp_path: Path,
) -> None:
    text = 'path,label\n0.wav,R&B\n1.wav,Dog\n2.wav,Cat\n3.wav,"Speech, male|Dog"\n'
    assert not any("separator" in note for note in listing_of(tmp_path, text).warnings)
    noted = listing_of(tmp_path, f'{text}4.wav,"Cat,Dog"\n5.wav,Dog+Cat\n').warnings
    assert sum("--label-separator" in note for note in noted) == 2


def test_unknown_columns_are_answered_with_those_that_there_are(tmp_path: Path) -> None:
    text = "file,species,part\n0.wav,dog,train\n1.wav,cat,test\n"
    with pytest.raises(UsageError, match="no column 'path', 'label'") as raised:
        listing_of(tmp_path, text)
    assert "its columns are: file, species, part" in raised.value.hint
    assert "--path-column NAME --label-column NAME" in raised.value.hint
    with pytest.raises(UsageError, match="no column 'specis'") as raised:
        listing_of(tmp_path, text, {"path": "file", "label": "specis"})
    assert "its columns are: file, species, part" in raised.value.hint
    columns = {"path": "file", "label": "Species", "split": "part", "group": "species"}
    with pytest.raises(UsageError):  # one column for two
        listing_of(tmp_path, text, columns)
    del columns["group"]
    clips = listing_of(tmp_path, text, columns).clips
    assert [(c.path, c.labels, c.split) for c in clips] == [
        *(("0.wav", ("dog",), "train"), ("1.wav", ("cat",), "test"))
    ]


def test_a_named_column_replaces_one_of_the_usual_name(tmp_path: Path) -> None:
    text = "path,label,kind,who,splits\n0.wav,x,dog,ann,test\n1.wav,x,cat,bob,train\n"
    with pytest.raises(UsageError, match="'splits'") as raised:
        listing_of(tmp_path, text)
    assert "--split-column splits" in raised.value.hint
    columns = {"label": "kind", "group": "who", "split": "splits"}
    clips = listing_of(tmp_path, text, columns).clips
    assert [(c.labels, c.split, c.group) for c in clips] == [
        *((("dog",), "test", "ann"), (("cat",), "train", "bob"))
    ]


def test_the_options_of_tables_reach_the_corpus(tmp_path: Path) -> None:
    listing_of(tmp_path, 'path,label\n0.wav,"a;b"\n')
    (tmp_path / "t.csv").write_text('file;tags;set\n0.wav;"a,b";training\n1.wav;b;dev\n')
    named = {"path_column": "file", "label_column": "tags", "split_column": "set"}
    table = {"dataset": "csv", "root": tmp_path / "t.csv", **named}
    target = {"out": tmp_path / "data", "workers": 1}
    prep(**table, **target, label_separator=",")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no table of your own"):
        prep(dataset="synth", path_column="file", **target)  # type: ignore[arg-type]


def test_a_number_of_5000_digits_is_refused_with_its_row(tmp_path: Path) -> None:
    root = TREES["vggsound"](tmp_path)
    with (root / "vggsound.csv").open("a") as file:
        file.write(f"abc,{'9' * 5_000},Dog,train\n")
    with pytest.raises(UsageError, match=r"vggsound\.csv, line \d+: start"):
        CORPORA["vggsound"].list_clips(root, CorpusOptions())
