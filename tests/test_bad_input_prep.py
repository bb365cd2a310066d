"""For any input, ``prep`` reports what is wrong and keeps what is right."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.cli.prep import prep
from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.plan import plan
from elastictool.data.prepare import prepare
from elastictool.data.shards import write_shard
from elastictool.data.store import PreparedStore
from elastictool.inference.recordings import windows
from elastictool.utils.errors import ElasticToolError, UsageError
from tests.helpers.corpus_trees import write_audio, write_table

RATE_HZ = 16_000


def _bytes(samples: object, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples), RATE_HZ, format=kind, subtype=subtype)
    return buffer.getvalue()


def _noise(size: int = RATE_HZ) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, size)


def _nan() -> np.ndarray:
    samples = _noise().astype(np.float32)
    samples[1234] = np.nan
    return samples


BAD_FILES = {
    "empty": (b"", "empty"),
    "text": (b"this is a text\n" * 100, "not readable"),
    "no samples": (_bytes(np.zeros(0)), "no samples"),
    "one sample": (_bytes([0.1]), "one frame"),
    "under 25 ms": (_bytes(_noise(399)), "one frame"),
    "truncated wav": (_bytes(_noise())[:5000], "truncated"),
    "truncated flac": (_bytes(_noise(), kind="FLAC")[:9000], "truncated"),
    "nan": (_bytes(_nan(), "FLOAT"), "NaN"),
    "infinite": (_bytes(np.where(np.isnan(_nan()), np.inf, 0.1), "FLOAT"), "infinite"),
}


def _table(folder: Path, files: dict[str, bytes]) -> Path:
    rows = [("path", "label", "split")]
    for name, content in files.items():
        (folder / name).write_bytes(content)
        rows.append((name, "x", "train"))
    return write_table(folder / "clips.csv", rows)


def _rejected(store: PreparedStore) -> dict[str, str]:
    with (store.path / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_rejected_with_its_reason_and_the_others_are_kept(
    case: str, tmp_path: Path
) -> None:
    content, reason = BAD_FILES[case]
    good = _bytes(_noise())
    table = _table(tmp_path, {"a.wav": good, "bad.wav": content, "c.wav": good})
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert store.ids.tolist() == ["a.wav", "c.wav"]
    assert list(_rejected(store)) == ["bad.wav"]
    assert reason in _rejected(store)["bad.wav"]
    assert str(tmp_path) not in _rejected(store)["bad.wav"]
    assert store.info.splits["train"].rejected == 1


def test_exactly_one_frame_is_enough(tmp_path: Path) -> None:
    store = prepare(
        PrepOptions("csv", _table(tmp_path, {"a.wav": _bytes(_noise(400))}), tmp_path / "data")
    )
    assert store.num_samples.tolist() == [400]


def test_silence_is_kept_and_counted(tmp_path: Path) -> None:
    files = {"a.wav": _bytes(np.zeros(RATE_HZ)), "b.wav": _bytes(_noise())}
    store = prepare(PrepOptions("csv", _table(tmp_path, files), tmp_path / "data"))
    assert len(store) == 2
    assert store.info.splits["train"].silent == 1
    assert np.isfinite(store.info.fbank_stats()).all()


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44_100])
def test_prepared_and_predicted_samples_of_an_overloud_file_are_the_same(
    rate_hz: int, tmp_path: Path
) -> None:
    samples = 20 * np.sin(np.arange(rate_hz) * 0.05).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", samples, rate_hz, subtype="FLOAT")
    soundfile.write(tmp_path / "soft.wav", samples / 40, rate_hz, subtype="FLOAT")
    rows = [("path", "label", "split"), ("loud.wav", "x", "test"), ("soft.wav", "x", "train")]
    store = prepare(PrepOptions("csv", write_table(tmp_path / "t.csv", rows), tmp_path / "data"))
    (window,) = windows(str(tmp_path / "loud.wav"), RATE_HZ, 2 * RATE_HZ, RATE_HZ)
    np.testing.assert_allclose(window.waveform, store.waveform(0), atol=0.51 / 32_768)
    assert [store.info.splits[split].clipped for split in ("train", "test")] == [0, 1]
    (note,) = [note for note in store.info.notes if "full scale" in note]
    assert note.startswith("1 clip goes") and note.endswith("20.00 times full scale: loud.wav")


@pytest.mark.parametrize(("channel", "expected"), [("mean", 0.45), ("first", 0.1), ("7", 0.8)])
def test_eight_channels_become_the_one_that_is_asked_for(
    channel: str, expected: float, tmp_path: Path
) -> None:
    samples = np.tile(np.arange(1, 9) / 10, (RATE_HZ, 1))
    table = _table(tmp_path, {"a.wav": _bytes(samples)})
    prep(dataset="csv", root=table, out=tmp_path / "data", channel=channel, workers=1)
    (folder,) = (tmp_path / "data").iterdir()
    assert PreparedStore.open(folder).waveform(0).mean() == pytest.approx(expected, abs=1e-4)


def test_a_channel_that_a_file_lacks_rejects_that_file(tmp_path: Path) -> None:
    files = {"mono.wav": _bytes(_noise()), "stereo.wav": _bytes(np.full((RATE_HZ, 2), 0.2))}
    store = prepare(
        PrepOptions(
            "csv", _table(tmp_path, files), tmp_path / "data", storage=StorageOptions(channel=1)
        )
    )
    assert store.ids.tolist() == ["stereo.wav"]
    assert "no channel 1" in _rejected(store)["mono.wav"]


def test_a_file_that_vanishes_after_listing_is_rejected(tmp_path: Path) -> None:
    good = _bytes(_noise())
    table = _table(tmp_path, {"a.wav": good, "b.wav": good})
    (task,) = plan(PrepOptions("csv", table, tmp_path / "out")).tasks
    (tmp_path / "b.wav").unlink()
    report = write_shard(task)
    assert report.rows == 1
    assert [row[:2] for row in report.rejected] == [("b.wav", "b.wav")]


def test_a_slice_past_the_end_is_rejected_but_rounding_is_forgiven(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    rows = [("a.wav", "x", 0, 2.05), ("a.wav", "x", 1.5, 4), ("a.wav", "x", 3, "")]
    table = write_table(tmp_path / "t.csv", [("path", "label", "start", "stop"), *rows])
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert store.num_samples.tolist() == [32_000]
    assert store.info.rejected == 2


def test_all_rejected_is_a_failure_that_can_be_mended_and_repeated(tmp_path: Path) -> None:
    table = _table(tmp_path, {"a.wav": b"", "b.wav": b"x"})
    with pytest.raises(ElasticToolError, match="all 2 clips were rejected") as raised:
        prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert raised.value.exit_code == 1
    assert "rejected.csv" in raised.value.hint
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(_bytes(_noise()))
    assert len(prepare(PrepOptions("csv", table, tmp_path / "data"))) == 2


def test_a_table_of_missing_files_says_which(tmp_path: Path) -> None:
    table = write_table(tmp_path / "clips.csv", [("path", "label"), ("gone.wav", "x")])
    with pytest.raises(UsageError, match=r"missing clips: 1: gone\.wav"):
        prepare(PrepOptions("csv", table, tmp_path / "data"))


def test_missing_files_are_counted_and_listed_but_not_rejected(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    table = write_table(
        tmp_path / "t.csv",
        [("path", "label", "split"), ("a.wav", "x", "train"), ("gone.wav", "x", "test")],
    )
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert store.info.splits["test"].missing == 1
    assert store.info.rejected == 0
    assert _rejected(store) == {"gone.wav": "missing"}


WRONG_TABLES = {
    "empty file": ("", "no column 'path'"),
    "no label column": ("path,lable\na.wav,x\n", "no column 'label'"),
    "no path column": ("file,label\na.wav,x\n", "no column 'path'"),
    "header only": ("path,label\n", "no rows"),
    "missing label": ("path,label\na.wav,x\na.wav,\n", "line 3, column 'label': '' is empty"),
    "half a label": ("path,label\na.wav,x|\n", "line 2, column 'label': 'x|' holds an empty label"),
    "missing path": ("path,label\n,x\n", "line 2, column 'path': '' is empty"),
    "missing split": ("path,label,split\na.wav,x,\n", "line 2, column 'split'"),
    "wrong fold": ("path,label,fold\na.wav,x,one\n", "line 2, column 'fold': 'one'"),
    "huge fold": (f"path,label,fold\na.wav,x,{'9' * 10}\n", "line 2, column 'fold'"),
    "fold of 5,000 digits": (f"path,label,fold\na.wav,x,{'9' * 5_000}\n", "column 'fold'"),
    "half a fold": ("path,label,fold\na.wav,x,2.5\n", "line 2, column 'fold': '2.5'"),
    "no label column, semicolons": ("path;lable\na.wav;x\n", "no column 'label'"),
    "more cells, semicolons": ("path;label\na.wav;x;y\n", "line 2: 3 cells for 2 columns"),
    "wrong start": ("path,label,start\na.wav,x,early\n", "line 2, column 'start': 'early'"),
    "negative start": ("path,label,start\na.wav,x,-1\n", "line 2, column 'start': '-1'"),
    "stop first": ("path,label,start,stop\na.wav,x,2,1\n", "line 2, column 'stop': '1'"),
    "more cells": ("path,label\na.wav,x,y\n", "line 2: 3 cells for 2 columns"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table_is_refused_with_file_line_and_column(case: str, tmp_path: Path) -> None:
    text, message = WRONG_TABLES[case]
    table = tmp_path / "clips.csv"
    table.write_text(text)
    with pytest.raises(UsageError) as raised:
        prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert message in raised.value.message
    assert str(table) in raised.value.message
    assert raised.value.hint
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("divider", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_columns_may_be_divided_by_what_spreadsheets_write(divider: str, tmp_path: Path) -> None:
    rows = ['path|label|fold|"a;b"', 'a.wav|"x, y"|2.0|', 'b.wav|"p; q"|"1"|', "c.wav|x||"]
    text = "".join(row.replace("|", divider) + "\n" for row in rows)
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    for name in ("a.wav", "b.wav", "c.wav"):
        write_audio(tmp_path / name)
    clips = CORPORA["csv"].list_clips(tmp_path / "t.csv", CorpusOptions()).clips
    assert [(clip.labels, clip.fold) for clip in clips] == [
        (("x, y",), 2),
        (("p; q",), 1),
        (("x",), 0),
    ]


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        prepare(PrepOptions("csv", tmp_path, tmp_path / "data"))


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    text = '\ufeffpath,label\r\n"a.wav","drum, bass"\r\n'
    (tmp_path / "clips.csv").write_bytes(text.encode())
    assert prepare(PrepOptions("csv", tmp_path, tmp_path / "data")).info.label_names == [
        "drum, bass"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "fsd"}, "unknown dataset 'fsd'"),
        ({"channel": "left"}, "--channel 'left' is unknown"),
        ({"task": "digit"}, "no task 'digit'"),
        ({"dataset": "folder"}, "needs --root"),
        ({"download": True}, "cannot download --dataset synth"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        prep(**{"out": tmp_path, "limit": 20, "workers": 1, **options})  # type: ignore[arg-type]
    assert message in raised.value.message
    assert raised.value.hint


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder is wanted")
    with pytest.raises(ElasticToolError) as raised:
        prepare(PrepOptions("synth", out=tmp_path / "data", limit=20))
    assert str(tmp_path / "data") in raised.value.message
