"""A trained model on data that it was not trained on: eval, sweep and embed."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from elastictool.cli.app import app
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.reporting.evaluations import read_evaluation
from elastictool.reporting.runs import summarise
from elastictool.utils.errors import CheckpointError, UsageError
from tests.helpers.saved_runs import save_run
from tests.helpers.toy_data import write_toy_recordings


@pytest.fixture
def run(tmp_path: Path, toy_store: PreparedStore) -> Path:
    return save_run(tmp_path / "runs" / "elastic", toy_store)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    """The classes of the toy data, and clips to test alone."""
    return relabelled(tmp_path_factory.mktemp("other"), "other", split=lambda number: "test")


def relabelled(folder: Path, name: str, **columns: Any) -> PreparedStore:
    """The toy recordings with other columns beside path and label, as functions of the row."""
    folder.mkdir(exist_ok=True)
    listing = write_toy_recordings(folder, clips_per_class=4)
    with listing.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with listing.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *columns])
        for number, row in enumerate(rows):
            cells = [column(number) for column in columns.values()]
            writer.writerow([row["path"], row["label"], *cells])
    return prepare(PrepOptions("csv", listing, folder / "data", name=name))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_eval_scores_data_that_have_clips_to_test_alone(run: Path, other: PreparedStore) -> None:
    done = invoke("eval", run, "--dataset", other.path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == 12


def test_sweep_scores_data_that_have_clips_to_test_alone(run: Path, other: PreparedStore) -> None:
    done = invoke("sweep", run, "--dataset", other.path, "--lengths", "32,64", "--json")
    assert done.exit_code == 0, done.output
    assert [point["clips"] for point in json.loads(done.stdout)["points"]] == [12] * 3


def test_embed_measures_data_that_have_clips_to_test_alone(run: Path, other: PreparedStore) -> None:
    done = invoke("embed", "--run", run, "--dataset", other.path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == 12


def test_what_is_not_the_runs_own_goes_to_files_of_its_own(
    run: Path, toy_store: PreparedStore, other: PreparedStore
) -> None:
    weights = run / "checkpoints"
    (weights / "last.safetensors").write_bytes((weights / "best.safetensors").read_bytes())
    assert invoke("eval", run).exit_code == 0
    own = (run / "results" / "eval_test.json").read_bytes()
    for arguments in (["-d", other.path], ["--which", "last"], ["--precision", "bf16"]):
        assert invoke("eval", run, *arguments).exit_code == 0
    assert (run / "results" / "eval_test.json").read_bytes() == own
    stems = sorted(path.stem for path in (run / "results").glob("eval_*.json"))
    assert stems == ["eval_test", "eval_test_bf16", "eval_test_last", "eval_test_on_other"]
    assert summarise(run).test == summarise(run).evaluations["test"]
    assert "other data (other)" in read_evaluation(run, "test_on_other").title
    assert "last weights" in read_evaluation(run, "test_last").title
    assert invoke("sweep", run, "-d", other.path, "--lengths", "32").exit_code == 0
    assert [path.name for path in (run / "results").glob("sweep*.csv")] == ["sweep_on_other.csv"]
    assert "Sweep of lengths, test split, on other" in (run / "report.html").read_text("utf-8")


def test_a_note_about_other_data_precedes_their_scores(run: Path, other: PreparedStore) -> None:
    for command in (["eval", run], ["sweep", run, "--lengths", 32], ["embed", "--run", run]):
        said = invoke(*command, "-d", other.path).stderr.replace("\n", "")
        bar = re.search(r"\d+/\d+, \d+ s", said)
        assert bar and 0 < said.find("is not the data that") < bar.start()


def test_missing_data_are_not_replaced_by_the_latest(
    run: Path, other: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = relabelled(tmp_path, "mine", split=lambda number: ("train", "test")[number % 2])
    mine = save_run(tmp_path / "runs" / "mine", store)
    shutil.move(store.path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)
    shutil.copytree(other.path, tmp_path / "data" / "other")
    for command in ("eval", "sweep"):
        refused = invoke(command, mine).exception
        assert isinstance(refused, UsageError) and "--dataset" in refused.hint
    assert not (mine / "results").exists()
    assert invoke("eval", mine, "--dataset", tmp_path / "elsewhere").exit_code == 0
    assert (mine / "results" / "eval_test.json").is_file()


def test_without_test_clips_the_hint_names_a_fold_and_not_the_training_clips(
    tmp_path: Path, run: Path
) -> None:
    options = {"fold": lambda number: 1 + number % 3}
    folds = relabelled(tmp_path / "folds", "folds", **options)
    refused = invoke("eval", save_run(tmp_path / "runs" / "on-folds", folds)).exception
    assert isinstance(refused, UsageError)
    assert "folds are: 1, 2, 3" in refused.hint and "--set data.test_fold=3" in refused.hint
    assert "--split" not in refused.hint
    alone = relabelled(tmp_path / "alone", "alone", split=lambda number: "train")
    refused = invoke("eval", save_run(tmp_path / "runs" / "on-alone", alone)).exception
    assert isinstance(refused, UsageError) and "--dataset" in refused.hint
    refused = invoke("eval", run, "-d", alone.path).exception
    assert isinstance(refused, UsageError) and "--split: train" in refused.hint


@pytest.mark.parametrize(
    ("groups", "over"),
    [(3, "95 % interval over 3 groups, rough"), (12, "95 % interval over 12 clips")],
    ids=["groups", "a group a clip"],
)
def test_intervals_are_over_the_groups_of_the_data_and_say_so(
    run: Path, tmp_path: Path, groups: int, over: str
) -> None:
    data = relabelled(
        tmp_path / "data", "told", split=lambda row: "test", group=lambda row: f"s{row % groups}"
    )
    shown = invoke("eval", run, "--dataset", data.path)
    assert shown.exit_code == 0, shown.output
    assert f"value ({over})" in " ".join(shown.stdout.split())
    document = json.loads(invoke("eval", run, "--dataset", data.path, "--json").stdout)
    interval = document["interval"]
    assert (interval["method"], interval["clips"], interval["resamples"]) == ("bootstrap", 12, 1000)
    swept = invoke("sweep", run, "--dataset", data.path, "--lengths", "32", "--json")
    points = json.loads(swept.stdout)
    if groups == 3:
        assert (interval["unit"], interval["groups"]) == ("group", 3)
        assert "3 groups are few: the intervals are rough" in shown.stderr
        assert points["interval"]["groups"] == points["points"][0]["groups"] == 3
    else:
        assert interval["unit"] == points["interval"]["unit"] == "clip"
        assert "groups" not in interval and "rough" not in shown.stderr
    own = points["points"][0]
    assert [own["low"], own["high"]] == document["intervals"]["top1"]
    assert over in invoke("sweep", run, "--dataset", data.path, "--lengths", "32").stderr
    assert over in (run / "report.html").read_text("utf-8")
    assert over in (run / "figures" / "sweep_on_told.svg").read_text("utf-8")


def with_labels(folder: Path, label: Callable[[str], str]) -> PreparedStore:
    """Clips to test whose labels are written by ``label``; those without one are left out."""
    folder.mkdir()
    listing = write_toy_recordings(folder, clips_per_class=4)
    rows = [line.split(",")[:2] for line in listing.read_text("utf-8").splitlines()[1:]]
    named = [f"{path},{label(name)},test" for path, name in rows if label(name)]
    listing.write_text("\n".join(["path,label,split", *named]) + "\n")
    return prepare(PrepOptions("csv", listing, folder / "data", name=folder.name))


def test_data_with_some_of_the_classes_are_scored_by_name(run: Path, tmp_path: Path) -> None:
    some = with_labels(tmp_path / "some", lambda name: "" if name == "high" else name)
    assert list(some.info.label_names) == ["low", "noise"]
    files = {}
    for name, store in (("some", some), ("all", with_labels(tmp_path / "all", lambda name: name))):
        scores = tmp_path / f"{name}.csv"
        done = invoke("eval", run, "--dataset", store.path, "--json", "--predictions", scores)
        assert done.exit_code == 0, done.output
        noted = "of the run's 3, found by name" in " ".join(done.stderr.split())
        assert noted == (name == "some")
        with scores.open(newline="", encoding="utf-8") as file:
            files[name] = list(csv.DictReader(file))
    assert len(files["some"]) == 3 * 8
    assert all(row in files["all"] for row in files["some"]), "classes and scores are the same"
    done = invoke("sweep", run, "--dataset", some.path, "--lengths", "32", "--json")
    assert [point["clips"] for point in json.loads(done.stdout)["points"]] == [8] * 2
    again = pickle.loads(pickle.dumps(some.with_classes(["high", "low", "noise"])))
    assert again.info.label_names == ["high", "low", "noise"]


def test_other_classes_are_named_with_the_way_to_map_them(run: Path, tmp_path: Path) -> None:
    other = with_labels(tmp_path / "other", lambda name: "bass" if name == "low" else name)
    done = invoke("eval", run, "--dataset", other.path)
    assert isinstance(done.exception, CheckpointError)
    assert "it does not know 'bass'" in done.exception.message
    assert "its classes are 'high', 'low', 'noise'" in done.exception.hint
    assert "label column of a CSV" in done.exception.hint
