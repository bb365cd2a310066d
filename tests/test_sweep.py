"""The sweep against ``eval``, its one decoding per clip, its files, and the commands."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_rgb

from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.points import COLUMNS, SweepPoint, read_points, write_points
from elastictool.evaluation.sweep import SweepOptions, longest_frames, sweep
from elastictool.reporting.figures import VERMILLION, series_styles
from elastictool.reporting.sweep_figure import draw_sweep, plot_sweep, series_of
from elastictool.reporting.tables import duration, markdown_table, metric_text, percent
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.text import counted
from tests.helpers.command_line import run_command
from tests.helpers.saved_runs import save_run

LENGTHS = (24, 96, 1_200)
POINT = SweepPoint(
    model="AST-400",
    run="ast",
    length_frames=256,
    length_s=2.56,
    metric="top1",
    value=0.5,
    low=0.4,
    high=0.6,
    clips=10,
    tokens=640,
    seconds=1.0,
    gflops=2.0,
    positions="",
    native=False,
    axis="length",
    x=256.0,
    resize="",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return prepare(PrepOptions("synth", out=tmp_path_factory.mktemp("data"), limit=36))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: PreparedStore) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save_run(root / "elastic", store)
    save_run(root / "ast-96", store, "ast", fixed_frames=96)
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[LoadedRun]:
    return [
        load_run(folder / "elastic"),
        load_run(folder / "ast-96", pos_embed_fit="interpolate"),
        load_run(folder / "ast-96", pos_embed_fit="slice"),
    ]


@pytest.fixture(scope="module")
def points(runs: list[LoadedRun], store: PreparedStore) -> list[SweepPoint]:
    return sweep("length", runs, store, LENGTHS, SweepOptions(split="train"))


def pick(points: list[SweepPoint], model: str, frames: int | None, fit: str) -> SweepPoint:
    (found,) = (
        point
        for point in points
        if (point.model, point.positions) == (model, fit)
        and (point.native if frames is None else point.length_frames == frames)
        and point.native == (frames is None)
    )
    return found


@pytest.mark.parametrize("frames", [None, *LENGTHS])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_point_equals_eval_at_that_length(
    runs: list[LoadedRun],
    store: PreparedStore,
    points: list[SweepPoint],
    number: int,
    frames: int | None,
) -> None:
    model, fit = [("ElasticAST", ""), ("AST-96", "interpolate"), ("AST-96", "slice")][number]
    point = pick(points, model, frames, fit)
    alone = evaluate_run(runs[number], store, "train", frames)
    assert point.value == alone.metrics.values["top1"]
    assert (point.low, point.high) == alone.intervals["top1"]
    assert (point.tokens, point.clips) == (alone.scores.tokens, alone.metrics.clips)


def test_elastic_above_the_longest_clip_equals_native_exactly(points: list[SweepPoint]) -> None:
    native, beyond = pick(points, "ElasticAST", None, ""), pick(points, "ElasticAST", 1_200, "")
    names = ("value", "low", "high", "tokens", "gflops", "clips")
    assert [getattr(native, name) for name in names] == [getattr(beyond, name) for name in names]
    assert native.length_frames < 1_200, "drawn at the longest clip"


def test_elastic_never_pads_and_a_standard_ast_always_fits_the_length(
    runs: list[LoadedRun], points: list[SweepPoint]
) -> None:
    tokens = {n: pick(points, "ElasticAST", n, "").tokens for n in LENGTHS}
    assert tokens[24] < tokens[96] < tokens[1_200]
    for frames in LENGTHS:
        point = pick(points, "AST-96", frames, "slice")
        patches = 8 * math.ceil(frames / 16)
        assert point.tokens == point.clips * (patches + 1)
        flops = forward_flops(runs[1].config.model, patches)
        assert point.gflops == pytest.approx(point.clips * flops / 1e9)


def test_own_length_needs_no_fitting_and_other_lengths_do(points: list[SweepPoint]) -> None:
    by_fit = [pick(points, "AST-96", None, fit) for fit in ("interpolate", "slice")]
    assert by_fit[0].value == by_fit[1].value
    assert by_fit[0].length_frames == 96
    assert by_fit[0].value == pick(points, "AST-96", 96, "slice").value


def test_each_clip_is_decoded_once(
    runs: list[LoadedRun], store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[int] = Counter()
    read = PreparedStore.waveform

    def counting(self: PreparedStore, index: int, *limits: int) -> object:
        decoded[int(index)] += 1
        return read(self, index, *limits)

    monkeypatch.setattr(PreparedStore, "waveform", counting)
    result = sweep("length", runs, store, LENGTHS, SweepOptions(split="test"))
    assert len(decoded) == result[0].clips and set(decoded.values()) == {1}


def test_chunks_do_not_change_the_result(
    runs: list[LoadedRun],
    store: PreparedStore,
    points: list[SweepPoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("elastictool.evaluation.sweep.CHUNK_CLIPS", 5)
    again = sweep("length", runs[:2], store, LENGTHS[:2], SweepOptions(split="train"))
    for point in again:
        frames = None if point.native else point.length_frames
        whole = pick(points, point.model, frames, point.positions)
        assert (point.value, point.tokens) == (whole.value, whole.tokens)


def test_other_metrics_can_be_swept(runs: list[LoadedRun], store: PreparedStore) -> None:
    (point, _) = sweep("length", runs[:1], store, [64], SweepOptions(split="train", metric="mauc"))
    assert point.metric == "mauc" and point.low <= point.value <= point.high
    with pytest.raises(UsageError, match="unknown metric"):
        sweep("length", runs[:1], store, [64], SweepOptions(metric="accuracy"))


def test_no_run_and_no_length_are_usage_errors(runs: list[LoadedRun], store: PreparedStore) -> None:
    with pytest.raises(UsageError, match="no run"):
        sweep("length", [], store, [64])
    with pytest.raises(UsageError, match="length of 0"):
        sweep("length", runs, store, [0, 64])


def test_csv_round_trip(points: list[SweepPoint], tmp_path: Path) -> None:
    write_points(tmp_path / "sweep.csv", points)
    read = read_points(tmp_path / "sweep.csv")
    assert [(p.model, p.length_frames, p.native, p.positions, p.clips) for p in read] == [
        (p.model, p.length_frames, p.native, p.positions, p.clips) for p in points
    ]
    assert [p.value for p in read] == pytest.approx([p.value for p in points], rel=1e-5)
    (tmp_path / "bad.csv").write_text("model,run\na,b\n")
    with pytest.raises(ElasticToolError, match="not a sweep CSV"):
        read_points(tmp_path / "bad.csv")


def test_figure_is_drawn_twice_with_the_same_bytes(
    points: list[SweepPoint], tmp_path: Path
) -> None:
    write_points(tmp_path / "sweep.csv", points)
    first = plot_sweep(tmp_path / "sweep.csv", tmp_path / "a", "title")
    second = plot_sweep(read_points(tmp_path / "sweep.csv"), tmp_path / "b", "title")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[1].read_text()
    for text in ("ElasticAST", "AST-96, sliced", "Top-1 accuracy (%)", "frames"):
        assert text in svg


def test_models_keep_their_colours_and_variants_differ_in_shade_and_line() -> None:
    styles = series_styles(["AST-1024", "ElasticAST", "AST-400", "ElasticAST, diverse lengths"])
    model, variant = styles["ElasticAST"], styles["ElasticAST, diverse lengths"]
    assert model.colour == VERMILLION != variant.colour
    hues = [rgb_to_hsv(to_rgb(style.colour))[0] for style in (model, variant)]
    assert hues[0] == pytest.approx(hues[1], abs=0.01)
    assert model.line != variant.line
    fewer = series_styles(["AST-400", "AST-1024"])
    assert [fewer[name].colour for name in fewer] == [styles[name].colour for name in fewer]


def drawn(points: list[SweepPoint]) -> Axes:
    """The axes of a sweep's figure."""
    return draw_sweep(points).axes[0]


def test_a_line_goes_through_the_own_point_though_it_is_no_column() -> None:
    own = dataclasses.replace(POINT, x=400.0, value=0.9, native=True)
    columns = [dataclasses.replace(POINT, x=float(n), value=0.5) for n in (256, 512)]
    axes = drawn([own, *columns])
    line = next(line for line in axes.lines if line.get_label() == "AST-400")
    assert line.get_xydata().tolist() == [[256, 50], [400, 90], [512, 50]]
    (ring,) = (line for line in axes.lines if line.get_markerfacecolor() == "none")
    assert ring.get_xydata().tolist() == [[400, 90]]


def test_curves_are_shifted_against_one_another_at_the_same_column() -> None:
    runs = [dataclasses.replace(POINT, model=name, run=name) for name in ("AST-400", "AST-1024")]
    axes = drawn(runs)
    one, other = (line for line in axes.lines if line.get_label() in ("AST-400", "AST-1024"))
    assert one.get_xdata().tolist() == other.get_xdata().tolist()
    shown = [line.get_transform().transform(line.get_xydata())[0] for line in (one, other)]
    assert shown[1][0] - shown[0][0] > 1 and shown[0][1] == shown[1][1]


def test_runs_of_one_model_are_labelled_by_name(points: list[SweepPoint]) -> None:
    assert list(series_of(points)) == [
        "ElasticAST",
        "AST-96, interpolated",
        "AST-96, sliced",
    ]
    twice = [point for point in points if point.model == "ElasticAST"]
    other = [SweepPoint(**(vars(point) | {"run": "seed-1"})) for point in twice]
    assert list(series_of([*twice, *other])) == ["ElasticAST (elastic)", "ElasticAST (seed-1)"]


def test_text_of_numbers() -> None:
    assert percent(0.933, (0.9, 0.9595)) == "93.3 (90.0–96.0)"
    assert (percent(None), metric_text("dprime", None)) == ("–", "–")
    assert metric_text("dprime", 2.5, (2.25, 2.75)) == "2.500 (2.250–2.750)"
    assert [duration(s) for s in (3.21, 59, 125, 7_500)] == [
        "3.2 s",
        "59 s",
        "2 min 05 s",
        "2 h 05 min",
    ]
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |\n"
    assert "| :-- | :-- |" in markdown_table(["a", "b"], [], left=2)


def test_one_is_singular() -> None:
    told = [counted(1, "clip"), counted(8_035, "clip"), counted(0, "clip"), counted(2, "class")]
    assert told == ["1 clip", "8,035 clips", "0 clips", "2 classes"]
    assert [counted(p, "point") for p in (1.0, 2.5)] == ["1 point", "2.5 points"]


def test_sweep_command_writes_its_files_and_one_json_document(
    folder: Path,
    store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", folder / "elastic", "--run", folder / "ast-96"]
    arguments += ["--lengths", "32:64:32", "--positions", "both", "--json"]
    assert run_command(monkeypatch, *arguments, "--out", "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["points"]) == 3 * 3
    assert document["environment"]["data_fingerprint"] == store.info.fingerprint
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == ["sweep.csv", "sweep.json", "sweep.png", "sweep.svg"]
    with (tmp_path / "out" / "sweep.csv").open() as file:
        assert next(csv.reader(file)) == list(COLUMNS)


def test_lengths_beyond_the_longest_clip_are_noted(
    folder: Path,
    store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = longest_frames(load_run(folder / "elastic"), store, "test")
    for run, lengths, noted in (
        ("elastic", f"32,{frames}", False),
        ("elastic", f"32,{frames + 1}", True),
        ("ast-96", f"32,{frames + 1}", False),
    ):
        command = ["sweep", folder / run, "--lengths", lengths, "--out", tmp_path / run]
        assert run_command(monkeypatch, *command) == 0
        note = f"note: for {run}, lengths above {frames:,} frames equal the whole clip\n"
        assert (note in capsys.readouterr().err) is noted


def test_eval_command_takes_the_latest_run_and_prints_its_name(
    store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_run(tmp_path / "runs" / "only", store)
    (path / "checkpoints" / "last.safetensors").write_bytes(
        (path / "checkpoints" / "best.safetensors").read_bytes()
    )
    assert run_command(monkeypatch, "eval") == 0
    shown = capsys.readouterr()
    assert "runs/only" in shown.err and "Top-1 accuracy" in shown.out
    assert (path / "results" / "eval_test.json").is_file()


@pytest.mark.parametrize("name", ["eval", "sweep"])
def test_without_a_run_the_commands_say_how_to_make_one(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, name) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "elastictool prep" in shown.err and "elastictool train" in shown.err
    assert "Traceback" not in shown.err
