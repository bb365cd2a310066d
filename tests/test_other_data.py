"""A trained model on data that it was not trained on: eval, sweep and embed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from elastictool.cli.app import app
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from tests.saved_runs import save_run
from tests.toy_data import write_toy_recordings


@pytest.fixture
def run(tmp_path: Path, toy_store: PreparedStore) -> Path:
    return save_run(tmp_path / "runs" / "elastic", toy_store)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    """The classes of the toy data, and clips to test alone."""
    return relabelled(tmp_path_factory.mktemp("other"), "other", split=lambda number: "test")


def relabelled(folder: Path, name: str, **columns: Any) -> PreparedStore:
    """The toy recordings with other columns beside path and label, as functions of the row."""
    listing = write_toy_recordings(folder, clips_per_class=4)
    with listing.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with listing.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *columns])
        for number, row in enumerate(rows):
            cells = [column(number) for column in columns.values()]
            writer.writerow([row["path"], row["label"], *cells])
    return prepare("csv", listing, folder / "data", name=name)


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
