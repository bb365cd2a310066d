"""Committed scores belong to the recipes, and a small study runs on the recipes' driver."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import study as runner
from benchmarks.pages import RESULTS
from benchmarks.studies import STUDIES, Entry, Study
from elastictool.recipes.plan import Paths


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_there_with_the_settings_of_its_recipe(name: str) -> None:
    study = STUDIES[name]
    summary = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    recorded = {label: model["settings"] for label, model in summary["models"].items()}
    assert recorded == runner.planned_settings(study)
    found = {(run["model"], run["seed"], run["fold"]) for run in summary["runs"]}
    assert found == {(e.label, seed, fold) for e in study.entries for seed, fold in study.runs()}
    assert summary["planned_runs"] == len(summary["runs"]) == len(found)


def test_a_changed_setting_of_a_recipe_is_noticed_and_one_of_the_machine_is_not() -> None:
    study = STUDIES["fsdd-digit"]
    first = study.entries[0]

    def settings(*sets: str) -> dict[str, Any]:
        entry = dataclasses.replace(first, sets=sets)
        return runner.planned_settings(dataclasses.replace(study, entries=(entry,)))[first.label]

    assert settings("train.loader_workers=7") == settings()
    assert settings("train.lr=1.0") == settings() | {"train.lr": 1.0}


@pytest.fixture(scope="module")
def tiny() -> Study:
    """Two models on rendered clips, one of which starts from the other."""
    small = ("train.epochs=1", "model.depth=1", "train.schedule.warmup_steps=0")
    return Study(
        title="Rendered clips",
        corpus="synth",
        root="",
        dataset="synth",
        entries=(
            Entry("AST", "flexi_digit_ast.yaml", small, resizings=("pi", "bl")),
            Entry("FlexiAST", "flexi_digit.yaml", small, start="AST"),
        ),
        columns=(16, 32),
        axis="patch_size",
        seeds=(0, 1),
    )


def arguments(out: Path, **changes: Any) -> Namespace:
    wanted = {"only": [], "seeds": None, "folds": None, "set": [], "validation": False}
    return Namespace(data=out, runs=out / "runs", out=out, **(wanted | changes))


@pytest.mark.slow
def test_a_study_collects_every_run_and_keeps_those_of_the_same_settings(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDIES, "tiny", tiny)
    runner.run_study("tiny", arguments(tmp_path, seeds=[1]))
    first = json.loads((tmp_path / "tiny.json").read_text("utf-8"))
    assert [(run["model"], run["seed"]) for run in first["runs"]] == [("AST", 1), ("FlexiAST", 1)]
    assert [curve["resize"] for curve in first["runs"][0]["curves"]] == ["pi", "bl"]
    (curve,) = first["runs"][1]["curves"]
    assert [point[0] for point in curve["points"]] == [16, 32] and curve["own"][0] == 16
    runner.run_study("tiny", arguments(tmp_path, seeds=[0]))
    both = json.loads((tmp_path / "tiny.json").read_text("utf-8"))
    assert len(both["runs"]) == both["planned_runs"] == 4
    assert both["runs"][1] == first["runs"][0], "trained once"


def test_validation_opens_no_test_split(tiny: Study, tmp_path: Path) -> None:
    plan = runner.plan_of(
        tiny, "patch_size", 0, 0, Paths(tmp_path, tmp_path), ("AST",), True, ("train.lr=0.1",)
    )
    steps = [step for step in plan.steps if step.kind in ("eval", "sweep")]
    assert {step.settings["split"] for step in steps} == {"validation"} and len(steps) == 3
    (train,) = (step for step in plan.steps if step.config)
    assert train.config and train.config.data.validation_fraction == 0.1
    assert train.config.train.lr == 0.1
