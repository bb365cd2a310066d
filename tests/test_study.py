"""Committed results of studies belong to the recipes as they are now."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.pages import RESULTS
from benchmarks.studies import STUDIES
from benchmarks.study import Cell, make_cell


def cells(name: str) -> list[Cell]:
    study = STUDIES[name]
    arguments = Namespace(runs=Path("runs/studies"), out=RESULTS, set=[], validation=False, tag="")
    runs = study.runs()
    return [make_cell(name, e, seed, fold, arguments) for e in study.entries for seed, fold in runs]


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_there_with_the_settings_of_its_recipe(name: str) -> None:
    planned = cells(name)
    changed = {
        cell.result.name: cell.changed(json.loads(cell.result.read_text("utf-8"))["config"])
        for cell in planned
    }
    assert not any(changed.values())
    published = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    assert published["planned_runs"] == len(published["runs"]) == len(planned)


def test_another_learning_rate_is_another_run_and_other_loader_processes_are_not() -> None:
    cell = cells("fsdd-digit")[0]
    recorded = json.loads(cell.result.read_text("utf-8"))["config"]
    recorded["train"] |= {"lr": 1.0, "loader_workers": 7}
    assert cell.changed(recorded) == {"train.lr"}
