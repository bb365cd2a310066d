"""Sweeping temporal resolutions and pooling: points, figure, files, command."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.cli.app import app
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.points import SweepPoint, read_points, write_points
from elastictool.evaluation.run_data import split_clips
from elastictool.evaluation.sweep import SweepOptions, sweep
from elastictool.metrics.classification import class_probabilities, metric_value
from elastictool.metrics.weighted import ScoredClips
from elastictool.reporting.sweep_figure import plot_sweep, series_of
from elastictool.training.predict_logits import score_clips
from elastictool.utils.errors import UsageError
from tests.helpers.saved_runs import save_run

COMPRESSIONS = (1.0, 1.4, 2.0, 3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_store: PreparedStore) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save_run(root / "elastic", toy_store, max_frames=100)
    save_run(root / "ast-96", toy_store, "ast", fixed_frames=96)
    save_run(root / "ast-48", toy_store, "ast", fixed_frames=48)
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[LoadedRun]:
    """ElasticAST and an AST at 10 ms, and an AST of the same 0.96 s at 20 ms."""
    slow = load_run(folder / "ast-48")
    fbank = dataclasses.replace(slow.feature_extractor.fbank, shift_ms=20.0)
    slow = dataclasses.replace(
        slow, feature_extractor=dataclasses.replace(slow.feature_extractor, fbank=fbank)
    )
    return [load_run(folder / "elastic"), load_run(folder / "ast-96"), slow]


@pytest.fixture(scope="module")
def points(runs: list[LoadedRun], toy_store: PreparedStore) -> list[SweepPoint]:
    return sweep("resolution", runs, toy_store, COMPRESSIONS, SweepOptions(split="train"))


def top1(run: LoadedRun, store: PreparedStore, end: FeatureExtractor) -> tuple[float, int]:
    """Top-1 and tokens of a run through a front end, without any sweep."""
    scores = score_clips(run.model, ClipDataset(store, end), split_clips(run, store, "train"))
    clips = ScoredClips(class_probabilities(scores.logits, "ce"), scores.targets)
    return metric_value("top1", clips), scores.tokens


def at_shift(run: LoadedRun, shift_ms: float, **length: int) -> FeatureExtractor:
    """The run's front end with another shift and limits, put together by hand."""
    end = run.feature_extractor
    return dataclasses.replace(
        end,
        fbank=dataclasses.replace(end.fbank, shift_ms=shift_ms),
        length=dataclasses.replace(end.length, **length),
    )


def test_each_point_equals_scoring_at_that_shift(
    runs: list[LoadedRun], toy_store: PreparedStore, points: list[SweepPoint]
) -> None:
    limits = [
        ("max_frames", {1.0: 100, 1.4: 71, 2.0: 50, 3.0: 33}),
        ("fixed_frames", {1.0: 96, 1.4: 68, 2.0: 48, 3.0: 32}),
        ("fixed_frames", {1.0: 96, 1.4: 68, 2.0: 48, 3.0: 32}),
    ]
    for number, (run, (name, frames)) in enumerate(zip(runs, limits, strict=True)):
        _, *mine = points[number * 5 : number * 5 + 5]
        assert [point.x for point in mine] == list(COMPRESSIONS)
        for point in mine:
            end = at_shift(run, {1.4: 14.0}.get(point.x, 10 * point.x), **{name: frames[point.x]})
            assert (point.value, point.tokens) == top1(run, toy_store, end)
            assert not point.native and point.axis == "resolution"
            assert point.shift_ms == pytest.approx(10 * point.x)
            assert point.length_frames <= frames[point.x]


def test_own_points_lie_at_the_runs_own_shift_and_equal_eval(
    runs: list[LoadedRun], toy_store: PreparedStore, points: list[SweepPoint]
) -> None:
    for number, (run, x) in enumerate(zip(runs, (1.0, 1.0, 2.0), strict=True)):
        own, *swept = points[number * 5 : number * 5 + 5]
        (same,) = (point for point in swept if point.x == x)
        assert own.native and own.x == x
        evaluation = evaluate_run(run, toy_store, "train")
        assert own.value == same.value == evaluation.metrics.values["top1"]
        assert own.tokens == same.tokens == evaluation.scores.tokens
        assert own.gflops == same.gflops
        assert (own.low, own.high) == (same.low, same.high)


def test_the_base_shift_is_the_shortest_or_the_one_named(
    runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    slow = runs[2:]
    own, twice = sweep("resolution", slow, toy_store, [2.0], SweepOptions(split="train"))
    assert (own.x, twice.x, twice.shift_ms) == (1.0, 2.0, pytest.approx(40))
    own, twice = sweep(
        "resolution", slow, toy_store, [2.0], SweepOptions(base_shift_ms=8.0, split="train")
    )
    assert (own.x, twice.x, twice.shift_ms) == (2.5, 2.0, pytest.approx(16))


@pytest.mark.parametrize("kind", ["average", "max"])
def test_pooling_points_equal_pooled_frames_of_the_filterbank(
    runs: list[LoadedRun],
    toy_store: PreparedStore,
    kind: str,
) -> None:
    sizes = (1, 2, 3)
    pooled = sweep(f"{kind}_pooling", runs[:2], toy_store, sizes, SweepOptions(split="train"))
    assert [point.x for point in pooled] == 2 * [1, 1, 2, 3]
    assert {point.axis for point in pooled} == {f"{kind}_pooling"}
    assert pooled[0].value == pooled[1].value and pooled[0].gflops == pooled[1].gflops
    assert pooled[0].tokens == pooled[1].tokens, "1 is no pooling"

    for number, run in enumerate(runs[:2]):
        for point in pooled[number * 4 + 2 : number * 4 + 4]:
            end = run.feature_extractor.at_compression(point.x, kind)
            assert (point.value, point.tokens) == top1(run, toy_store, end)
            assert point.shift_ms == pytest.approx(10 * point.x)
            assert (end.fbank, end.pool) == (run.feature_extractor.fbank, point.x)


def test_cost_falls_with_the_compression(runs: list[LoadedRun], points: list[SweepPoint]) -> None:
    for point in points[6:10]:
        columns = math.ceil(math.floor(96 / point.x + 1e-9) / 16)
        assert point.tokens == point.clips * (8 * columns + 1)
        flops = forward_flops(runs[1].config.model, 8 * columns)
        assert point.gflops == pytest.approx(point.clips * flops / 1e9)


def test_a_sweep_decodes_each_clip_once(
    runs: list[LoadedRun], toy_store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    waveform = PreparedStore.waveform

    def counted(store: PreparedStore, clip: int, *place: int) -> np.ndarray:
        read.append(clip)
        return waveform(store, clip, *place)

    monkeypatch.setattr(PreparedStore, "waveform", counted)
    sweep("resolution", runs, toy_store, COMPRESSIONS, SweepOptions(split="train"))
    assert sorted(read) == sorted(split_clips(runs[0], toy_store, "train").tolist())


def test_values_and_runs_that_make_no_sense_are_refused(
    runs: list[LoadedRun], toy_store: PreparedStore
) -> None:
    with pytest.raises(UsageError, match="resolution of 0"):
        sweep("resolution", runs, toy_store, [0.0])
    with pytest.raises(UsageError, match="no run"):
        sweep("resolution", [], toy_store, [1.0])
    with pytest.raises(UsageError, match="pooling of 0"):
        sweep("average_pooling", runs, toy_store, [0])


def test_the_figure_labels_runs_by_their_shift(points: list[SweepPoint], tmp_path: Path) -> None:
    write_points(tmp_path / "sweep.csv", points)
    read = read_points(tmp_path / "sweep.csv")
    labels = ["ElasticAST, 10 ms", "AST-96, 10 ms", "AST-48, 20 ms"]
    assert list(series_of(read)) == labels
    svg = plot_sweep(read, tmp_path / "figure", "title")[1].read_text()
    for text in ("compression", "frame shift (ms)", "own resolution", *labels):
        assert text in svg
    assert list(series_of(read[:10])) == ["ElasticAST", "AST-96"], "one shift needs no naming"


def test_lengths_are_swept_as_before(runs: list[LoadedRun], toy_store: PreparedStore) -> None:
    own, cut = sweep("length", runs[2:], toy_store, [24], SweepOptions(split="train"))
    assert (own.x, cut.x, cut.length_s) == (48, 24, pytest.approx(0.48))
    assert list(series_of([own, cut])) == ["AST-48"]


# The command


def test_the_sweep_command_takes_resolutions(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--resolutions", "1:1.4", "--positions", "both", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, ["sweep", str(folder / "ast-96"), *arguments])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [point["x"] for point in document["points"]] == 2 * [1, 1, 1.2, 1.4]
    assert [p["positions"] for p in document["points"]] == 4 * ["interpolate"] + 4 * ["slice"]
    assert document["base_shift_ms"] == 10.0
    names = sorted(path.name for path in out.glob("[!.]*"))
    assert names == [f"sweep_resolutions.{kind}" for kind in ("csv", "json", "png", "svg")]


def test_the_sweep_command_takes_pooling(folder: Path, tmp_path: Path) -> None:
    arguments = ["--pooling", "1:2", "--pooling-kind", "max", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["sweep", str(folder / "elastic"), *arguments])
    assert done.exit_code == 0, done.output
    read = read_points(tmp_path / "sweep_max_pooling.csv")
    assert [(point.axis, point.x) for point in read] == [("max_pooling", x) for x in (1, 1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resolutions", "1:2", "--lengths", "64"], "give one of them"),
        (["--resolutions", "2:1"], "runs backwards"),
        (["--resolutions", "1:x"], "--resolutions"),
        (["--pooling", "1.5"], "whole number"),
        (["--pooling-kind", "max"], "goes with --pooling"),
        (["--base-shift", "10"], "goes with --resolutions"),
        (["--resize", "bl"], "goes with --patch-sizes"),
        (["--axes", "time", "--resolutions", "1:2"], "goes with --patch-sizes"),
        (["--patch-sizes", "8,16", "--positions", "slice"], "does not go with --patch-sizes"),
        (["--resolutions", "1", "--base-shift", "0"], "--base-shift 0"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["sweep", *arguments])
    assert isinstance(done.exception, UsageError)
    assert message in f"{done.exception.message} {done.exception.hint}"
