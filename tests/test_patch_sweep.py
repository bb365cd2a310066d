"""Sweeping patch sizes, and ensembles as a row of any sweep."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.config import FlexiConfig, PatchAxes
from elastictool.data.dataset import ClipDataset
from elastictool.data.store import PreparedStore
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.points import SweepPoint, model_label, read_points, write_points
from elastictool.evaluation.run_data import split_clips
from elastictool.evaluation.sweep import SweepOptions, sweep
from elastictool.evaluation.sweep_cells import PatchAxesOption
from elastictool.metrics.classification import (
    class_probabilities,
    metric_value,
)
from elastictool.metrics.weighted import ScoredClips
from elastictool.packing.grid import patch_size_along
from elastictool.reporting.figures import GREEN, series_styles
from elastictool.reporting.run_report import write_report
from elastictool.reporting.sweep_figure import plot_sweep, series_of
from elastictool.training.predict_logits import score_clips
from elastictool.utils.errors import UsageError
from tests.helpers.saved_runs import save_run

SIZES = (8, 16, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_store: PreparedStore) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save_run(root / "elastic", toy_store)
    for frames in (64, 96):
        save_run(root / f"ast-{frames}", toy_store, "ast", fixed_frames=frames)
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[LoadedRun]:
    return [
        load_run(folder / "elastic"),
        load_run(folder / "ast-64", resize="pi"),
        load_run(folder / "ast-64", resize="bl"),
    ]


@pytest.fixture(scope="module")
def points(runs: list[LoadedRun], toy_store: PreparedStore) -> list[SweepPoint]:
    return sweep("patch_size", runs, toy_store, SIZES, SweepOptions(split="train"))


def answers(run: LoadedRun, store: PreparedStore, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Probabilities and targets of a run at a patch size, without any sweep."""
    dataset = ClipDataset(store, run.feature_extractor.at_patch_size(size))
    scores = score_clips(run.model, dataset, split_clips(run, store, "train"))
    return class_probabilities(scores.logits, "ce"), scores.targets


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_point_equals_scoring_at_that_patch_size(
    runs: list[LoadedRun], toy_store: PreparedStore, points: list[SweepPoint], number: int
) -> None:
    run, mine = runs[number], points[number * 4 : number * 4 + 4]
    assert [point.native for point in mine] == [True, False, False, False]
    for point, size in zip(mine, (16, *SIZES), strict=True):
        assert (point.axis, point.x) == ("patch_size", size)
        clips = ScoredClips(*answers(run, toy_store, (size, size)))
        assert point.value == metric_value("top1", clips)
        assert point.low <= point.value <= point.high
    assert mine[0].value == mine[2].value, "the own size is one of those swept"


def test_tokens_and_cost_follow_the_patch_size(
    runs: list[LoadedRun], points: list[SweepPoint]
) -> None:
    for point, size in zip(points[5:8], SIZES, strict=True):
        patches = math.ceil(128 / size) * math.ceil(64 / size)
        assert point.tokens == point.clips * (patches + 1)
        flops = forward_flops(runs[1].config.model, patches, (size, size))
        assert point.gflops == pytest.approx(point.clips * flops / 1e9)


def test_ways_of_resizing_differ_away_from_the_own_size_only(
    runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    for size in SIZES:
        pi, bl = (answers(run, toy_store, (size, size))[0] for run in runs[1:])
        assert np.array_equal(pi, bl) == (size == 16)


@pytest.mark.parametrize("axes", ["auto", "both", "time", "frequency"])
def test_axes_are_those_asked_for_or_those_of_the_training(
    runs: list[LoadedRun], toy_store: PreparedStore, axes: PatchAxesOption
) -> None:
    trained = dataclasses.replace(runs[1].config, flexi=FlexiConfig((8, 16), axes="time"))
    run = dataclasses.replace(runs[1], config=trained)
    (_, point) = sweep(
        "patch_size", [run], toy_store, [8], SweepOptions(patch_axes=axes, split="train")
    )
    along: PatchAxes = "time" if axes == "auto" else axes
    size = patch_size_along(along, 8, (16, 16))
    assert point.value == metric_value("top1", ScoredClips(*answers(run, toy_store, size)))
    patches = math.ceil(128 / size[0]) * math.ceil(64 / size[1])
    assert point.tokens == point.clips * (patches + 1)


def test_an_ensemble_averages_probabilities_and_adds_up_cost(
    folder: Path, runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    members = [load_run(folder / name) for name in ("ast-64", "ast-96")]
    alone = [
        sweep("length", [run], toy_store, [], SweepOptions(split="train"))[0] for run in members
    ]
    options = SweepOptions(split="train", metric="map", ensemble=members)
    for axis in ("patch_size", "length"):
        points = sweep(axis, runs[:1], toy_store, [40], options)
        point = points[-1]
        (one, targets), (two, _) = (answers(run, toy_store, (16, 16)) for run in members)
        assert point.value == metric_value("map", ScoredClips((one + two) / 2, targets))
        for other in (one, two, np.maximum(one, two), np.sqrt(one * two)):
            assert point.value != metric_value("map", ScoredClips(other, targets))
        assert (point.model, point.run) == ("Ensemble of 2", "ast-64 + ast-96")
        assert point.tokens == sum(part.tokens for part in alone)
        assert point.gflops == pytest.approx(sum(part.gflops for part in alone))
        assert point.native and math.isnan(point.x)


def test_an_ensemble_needs_members_of_the_same_clips(
    folder: Path, runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    with pytest.raises(UsageError, match="ensemble of one"):
        sweep("patch_size", runs, toy_store, [8], SweepOptions(ensemble=runs[:1]))
    data = dataclasses.replace(runs[1].config.data, test_split="train", train_split="test")
    config = dataclasses.replace(runs[1].config, data=data)
    other = dataclasses.replace(runs[1], config=config)
    with pytest.raises(UsageError, match="other clips aside"):
        sweep("patch_size", runs, toy_store, [8], SweepOptions(ensemble=[runs[1], other]))


def test_an_ensemble_needs_members_with_comparable_probabilities(
    runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    train = dataclasses.replace(runs[1].config.train, loss="bce")
    other = dataclasses.replace(runs[1], config=dataclasses.replace(runs[1].config, train=train))
    with pytest.raises(UsageError, match=r"train\.loss=bce, .* with ce"):
        sweep("patch_size", runs, toy_store, [8], SweepOptions(ensemble=[runs[1], other]))


def test_files_keep_every_column(points: list[SweepPoint], tmp_path: Path) -> None:
    ensemble = dataclasses.replace(points[0], x=math.nan, model="Ensemble of 2")
    write_points(tmp_path / "new.csv", [*points, ensemble])
    read = read_points(tmp_path / "new.csv")
    assert [(p.axis, p.x, p.resize) for p in read[:-1]] == [(p.axis, p.x, p.resize) for p in points]
    assert math.isnan(read[-1].x)


def test_the_figure_shows_sizes_ways_and_the_ensemble(
    points: list[SweepPoint], tmp_path: Path
) -> None:
    ensemble = dataclasses.replace(
        points[0], x=math.nan, model="Ensemble of 2", run="a + b", resize="", positions=""
    )
    files = plot_sweep([*points, ensemble], tmp_path / "figure", "title")
    svg = files[1].read_text()
    for text in ("patch size", "AST-64, PI-resize", "AST-64, BL", "Ensemble of 2", "ElasticAST"):
        assert text in svg
    assert "seconds" not in svg
    assert list(series_of(points))[1:] == ["AST-64, PI-resize", "AST-64, BL"]
    with pytest.raises(UsageError, match="one axis"):
        plot_sweep([points[0], dataclasses.replace(points[1], axis="length")], tmp_path / "x")


def test_labels_of_models_differ_by_patch_size_and_training(runs: list[LoadedRun]) -> None:
    config = runs[1].config

    def label(**changes: object) -> str:
        model = {key: changes.pop(key) for key in ("preset", "patch_size") if key in changes}
        return model_label(
            dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, **model),  # type: ignore[arg-type]
                **changes,  # type: ignore[arg-type]
            )
        )

    flexi = FlexiConfig((8, 16))
    distill = dataclasses.replace(config.train.distill, teacher="x")
    taught = dataclasses.replace(config.train, distill=distill)
    assert label() == "AST-64"
    assert label(patch_size=(8, 8)) == "AST-64/8"
    assert label(patch_size=(128, 2)) == "AST-64/128x2"
    assert label(preset="flexiast", flexi=flexi) == "FlexiAST-64"
    assert label(preset="flexiast", flexi=flexi, train=taught) == "FlexiAST-64, distilled"
    time = FlexiConfig((8, 16), axes="time")
    assert label(preset="flexiast", flexi=time) == "FlexiAST-64, time only"
    assert label(preset="elasticast", flexi=flexi) == "ElasticAST-64, flexible patches"
    styles = series_styles(["AST-64", "AST-64/8", "AST-64/32", "FlexiAST-64"])
    assert len({style.colour for style in styles.values()}) == 4
    assert styles["FlexiAST-64"].colour == GREEN


def test_the_report_shows_the_sweep_of_patch_sizes(
    points: list[SweepPoint], toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = save_run(tmp_path / "run", toy_store, "ast", fixed_frames=64)
    write_points(path / "results" / "sweep_patch_sizes.csv", points)
    page = next(file for file in write_report(path) if file.name == "report.html")
    text = page.read_text("utf-8")
    assert "Sweep of patch sizes, test split" in text
    assert "AST-64 (ast-64), bl" in text and "<td>40</td>" in text


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-m", "elastictool", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )


def test_sweep_command_takes_patch_sizes_ways_and_an_ensemble(
    folder: Path, toy_store: PreparedStore, tmp_path: Path
) -> None:
    done = command(
        "sweep", str(folder / "ast-64"), "--patch-sizes", "8:24", "--resize", "both",
        "--ensemble", str(folder / "ast-64"), str(folder / "ast-96"), "--out", "out", "--json",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert [point["x"] for point in points] == 2 * [16, 8, 16, 24] + [None]
    assert [point["resize"] for point in points] == 4 * ["pi"] + 4 * ["bl"] + [""]
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == [f"sweep_patch_sizes.{kind}" for kind in ("csv", "json", "png", "svg")]


def test_two_sweeps_at_once_are_refused(tmp_path: Path) -> None:
    done = command("sweep", "--patch-sizes", "8", "--lengths", "64", folder=tmp_path)
    assert done.returncode == 2 and "one of them" in done.stderr
    assert "Traceback" not in done.stderr
