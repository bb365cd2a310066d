"""No spreadsheet computes a cell of our CSV files, and all that we read back is what it was."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from elastictool.cli.app import app
from elastictool.corpora.classes import ClassTable
from elastictool.data.inspect import read_rejected
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.evaluation.points import read_points, write_points
from elastictool.reporting.evaluations import read_evaluation
from elastictool.utils.csv_files import as_text, from_text, read_rows, write_rows
from elastictool.utils.errors import ElasticToolError
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run

LABELS = ["=cmd!A0", "+1 (555)", "-5 dB", "@SUM(1)", "'=quoted", "''-", "plain", "'single'"]
WRITTEN = ["'=cmd!A0", "'+1 (555)", "'-5 dB", "'@SUM(1)", "''=quoted", "'''-", "plain", "'single'"]


def invoke(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done


def table(path: Path) -> list[dict[str, str]]:
    """Rows as any other program reads them."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    folder = tmp_path_factory.mktemp("formulas")
    for number, label in enumerate(LABELS):
        for split in ("train", "val", "test"):
            write_audio(folder / "clips" / split / label / f"-{number}.wav", seed=number)
    for name in ("=1+1.wav", "-bad.wav", "'@x.wav"):
        (folder / "clips" / "train" / "=cmd!A0" / name).write_bytes(b"no audio")
    options = PrepOptions("folder", folder / "clips", folder / "data", name="formulas")
    return prepare(dataclasses.replace(options))


@pytest.fixture(scope="module")
def run(store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "=run", store)


@given(st.text(alphabet="'=+-@\t\r\n1.e5a ＝", max_size=6) | st.text())
@example("-5")
@example("+1e5")
@example("-inf")
@example("-1_000")
@example("'-5")
def test_a_cell_is_a_number_or_no_formula_and_reads_back(cell: str) -> None:
    written = as_text(cell)
    assert from_text(written) == cell
    if written[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        float(written)


@given(st.lists(st.tuples(st.text("'=+-@a,;\"\n\r", min_size=1), st.floats(allow_nan=False))))
def test_tables_read_back_what_was_written(cells: list[tuple[str, float]]) -> None:
    rows = [{"name": name, "value": value} for name, value in cells]
    with tempfile.TemporaryDirectory() as folder:
        for raw in (False, True):
            path = Path(folder) / f"{raw}.csv"
            write_rows(path, ("name", "value"), rows, raw)
            found = read_rows(path, raw)
            assert [(row["name"], float(row["value"])) for row in found] == cells


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_rows(path, ("a", "b", "c"), [{"a": -0.5, "b": "-1.5e-3", "c": None}])
    assert path.read_text() == "a,b,c\n-0.5,-1.5e-3,\n"


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n\xe9,1\n")
    with pytest.raises(ElasticToolError, match=r"x\.csv is damaged"):
        read_rows(path)


def test_rejected_files_read_back(store: PreparedStore) -> None:
    names = ["'@x.wav", "-bad.wav", "=1+1.wav"]
    assert sorted(Path(row["path"]).name for row in read_rejected(store.path)) == names
    shown = json.loads(invoke("data", "show", store.path, "--json").stdout)
    assert sorted(Path(row["id"]).name for row in shown["rejected"]) == names


def test_predictions_begin_with_an_apostrophe_unless_raw(run: Path, tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "a.wav", 0.5)
    command = ("predict", sound, "--run", run, "--format", "csv", "--top", len(LABELS))
    for more, expected in (((), WRITTEN), (("--raw",), LABELS)):
        lines = csv.DictReader(io.StringIO(invoke(*command, *more).stdout))
        assert sorted(line["label"] for line in lines) == sorted(expected)


@pytest.mark.parametrize(("more", "labels"), [((), WRITTEN), (("--raw",), LABELS)])
def test_results_of_eval_begin_with_an_apostrophe_unless_raw(
    more: tuple[str, ...], labels: list[str], run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "clips.csv"
    invoke("eval", run, "--out", tmp_path, "--predictions", file, *more)
    assert {row["label"] for row in table(file)} == set(labels)
    classes = table(tmp_path / "results" / "per_class_test.csv")
    assert sorted(row["class"] for row in classes) == sorted(labels)
    cells = table(tmp_path / "results" / "confusions_test.csv")
    assert {row["true"] for row in cells} == set(labels)
    matrix = read_evaluation(tmp_path, "test").confusions()
    assert matrix is not None and matrix.sum() == len(LABELS)


@pytest.mark.parametrize(("more", "labels"), [((), WRITTEN), (("--raw",), LABELS)])
def test_exported_data_read_back(
    more: tuple[str, ...], labels: list[str], store: PreparedStore, tmp_path: Path
) -> None:
    invoke("data", "export", store.path, "--out", tmp_path / "out", "--lists", *more)
    assert {row["label"] for row in table(tmp_path / "out" / "clips.csv")} == set(labels)
    classes = table(tmp_path / "out" / "class_labels_indices.csv")
    assert {row["display_name"] for row in classes} == set(labels)
    if more:  # of raw tables this holds unless a label begins with an apostrophe and a formula
        return
    for corpus in ("csv", "json"):
        options = PrepOptions(corpus, tmp_path / "out", tmp_path / corpus, name="back")
        back = prepare(options)
        assert back.info.label_names == store.info.label_names
    assert ClassTable.read(tmp_path / "out" / "class_labels_indices.csv").names == sorted(LABELS)


def test_sweeps_read_back(run: Path, tmp_path: Path) -> None:
    invoke("sweep", run, "--lengths", "32", "--out", tmp_path)
    assert {row["run"] for row in table(tmp_path / "sweep.csv")} == {"'=run"}
    points = read_points(tmp_path / "sweep.csv")
    assert {point.run for point in points} == {"=run"}
    write_points(tmp_path / "again.csv", points)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "sweep.csv").read_bytes()


def test_a_table_of_others_is_read_as_it_is(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text("path,label\na.wav,'-5 dB\na.wav,'=x\n")
    back = prepare(PrepOptions("csv", tmp_path / "clips.csv", tmp_path / "data", name="others"))
    assert back.info.label_names == ["'-5 dB", "'=x"]
