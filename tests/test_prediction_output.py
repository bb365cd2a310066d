"""What ``predict`` prints, draws and leaves with, whatever recordings are called."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import elastictool
from elastictool.checkpoint.weights import load_run, save_weights
from elastictool.cli import console
from elastictool.cli.app import app
from elastictool.cli.console import progress
from elastictool.data.store import PreparedStore
from elastictool.reporting.audio_figures import save_timeline
from elastictool.utils.errors import RejectedItemsError
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run


@pytest.fixture(scope="module")
def run(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "elastic", toy_store, max_frames=300)


@pytest.fixture(scope="module")
def several(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with several labels a clip and thresholds that differ."""
    file, loaded = tmp_path_factory.mktemp("several") / "several.safetensors", load_run(run)
    thresholds = (0.0, float("nan"), 1.0)
    metadata = dataclasses.replace(loaded.metadata, multi_label=True, thresholds=thresholds)
    save_weights(file, loaded.model, metadata)
    return file


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def rows(result: Result) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_each_window_has_named_classes(run: Path, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 2.5)
    base = (path, "-r", run, "--top", 2, "--window", 1)
    (item,) = json.loads(predict(*base, "--json").stdout)["predictions"]
    model = elastictool.load(run)
    (found,) = model.predict(path, 2, elastictool.WindowRule(1.0))
    for window, row in zip(item["windows"], found.windows.values, strict=True):
        likeliest = [entry["label"] for entry in window["labels"]]
        assert likeliest == [model.label_names[i] for i in np.argsort(-row)[:2]]
    lines = rows(predict(*base, "--by-window", "--format", "csv"))
    assert [(line["start_s"], line["stop_s"], line["rank"]) for line in lines] == [
        (f"{start}.000", stop, str(rank))
        for start, stop in ((0, "1.000"), (1, "2.000"), (2, "2.500"))
        for rank in (1, 2)
    ]
    assert lines == rows(predict(*base, "--format", "csv"))  # --window implies it
    assert len(rows(predict(*base, "--format", "csv", "--no-by-window"))) == 2


def test_a_table_by_window_has_a_class_a_row_in_80_columns(
    run: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.stdout, "width", 80)
    path = write_audio(tmp_path / ("long " * 12 + ".wav"), 2.5)
    labels = elastictool.load(run).label_names
    for model in (run, several):
        shown = predict(path, "-r", model, "--window", 1, "--by-window").stdout
        assert max(map(len, shown.splitlines())) <= 80
        cells = [line.split("│")[1:-1] for line in shown.splitlines() if "│" in line]
        classes = [row[1].strip() for row in cells if row[1].strip()]
        assert sorted(classes) == sorted(3 * list(labels))
        seconds = [row[0].strip() for row in cells if row[0].strip()]
        assert seconds == ["0.00-1.00", "1.00-2.00", "2.00-2.50"]
    lines = rows(predict(path, "-r", several, "--window", 1, "--format", "csv"))
    decided = [line["label"] for line in lines if line["decided"] == "yes"]
    few = predict(path, "-r", several, "--window", 1, "--by-window", "--top", 1).stdout
    cells = [[cell.strip() for cell in line.split("│")[2:5]] for line in few.splitlines()]
    assert [row[0] for row in cells if row[2:] == ["yes"]] == decided


def test_what_to_do_about_missing_and_broken_recordings(run: Path, tmp_path: Path) -> None:
    good = write_audio(tmp_path / "talk.wav", 0.5)
    (tmp_path / "bad.wav").write_text("no audio")
    for name, hint in (
        ("talks.wav", f"did you mean {good}?"),
        ("else.wav", "check the path; a folder"),
        ("none/a.wav", f"check the path, or whether there is a folder {tmp_path / 'none'}"),
        ("bad.wav", "convert them, e.g. with ffmpeg"),
    ):
        done = predict(tmp_path / name, good, "-r", run)
        assert isinstance(done.exception, RejectedItemsError)
        assert done.exception.hint.startswith(hint)


def test_one_window_is_no_windows(run: Path, tmp_path: Path) -> None:
    done = predict(write_audio(tmp_path / "a.wav", 0.5), "-r", run, "--window", 1)
    assert "1 window of 1 s" in done.stderr and "1 windows" not in done.stderr


def test_models_of_several_labels_decide_at_their_thresholds(
    run: Path, several: Path, tmp_path: Path
) -> None:
    path = write_audio(tmp_path / "a.wav", 1.0)
    model = elastictool.load(several)
    (found,) = model.predict(path)
    first, middle, last = model.label_names
    expected = [first] + ([middle] if dict(found.labels)[middle] >= 0.5 else [])
    assert list(found.decided) == expected and last not in expected
    (item,) = json.loads(predict(path, "-r", several, "--json").stdout)["predictions"]
    assert item["decided"] == expected
    lines = rows(predict(path, "-r", several, "--format", "csv"))
    assert {line["label"] for line in lines if line["decided"] == "yes"} == set(expected)
    assert "decided" in predict(path, "-r", several).stdout
    (single,) = json.loads(predict(path, "-r", run, "--json").stdout)["predictions"]
    assert "decided" not in single and elastictool.load(run).predict(path)[0].decided == ()
    assert {line["decided"] for line in rows(predict(path, "-r", run, "--format", "csv"))} == {""}


NAMES = (b"caf\xe9.wav", "ünïcödé 猫.wav".encode(), b"cost$5$_x^{.wav", b":dog: [red]x.wav")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_names_of_any_bytes_survive(run: Path, form: str, encoding: str, tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "a.wav", 0.5).read_bytes()
    folder = os.fsencode(tmp_path) + b"/names/"
    os.mkdir(folder)
    for name in NAMES:
        with open(folder + name, "wb") as file:
            file.write(sound)
    listed = b"".join(folder + name + b"\n" for name in NAMES)
    command = [sys.executable, "-m", "elastictool", "predict", "-", "-r", str(run)]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "300"}
    found = subprocess.run(
        [*command, "--format", form], input=listed, capture_output=True, env=environment,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr.decode()
    text = found.stdout.decode(encoding)
    if form == "json":
        told = [item["recording"] for item in json.loads(text)["predictions"]]
        assert told == [os.fsdecode(folder + name) for name in NAMES]
    else:
        assert "caf\\xe9.wav" in text and "$5$_x^{" in text and ":dog: [red]x" in text


def test_pictures_bear_any_name_and_show_windows_in_their_middle(tmp_path: Path) -> None:
    values = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    starts, stops = np.array([0.0, 2.0, 4.0]), np.array([4.0, 6.0, 8.0])
    names = ["$x_{", "b" * 100, "c"]
    png, svg = save_timeline(tmp_path / "a", "cost$5$_x^{ caf\udce9", starts, stops, values, names)
    assert png.stat().st_size > 5_000
    text = svg.read_text()
    assert "<image" in text and "$x_{" in text and "caf\\xe9" in text
    long = np.arange(5_000.0)
    wide = np.random.default_rng(0).random((5_000, 3)).astype(np.float32)
    _, svg = save_timeline(tmp_path / "long", "hours", long, long + 2, wide, names)
    assert svg.stat().st_size < 1_000_000


def test_edges_lie_in_the_middle_of_what_two_windows_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def note(self: Any, edges: Any, *more: Any, **how: Any) -> Any:
        seen.append(np.asarray(edges))
        return draw(self, edges, *more, **how)

    from matplotlib.axes import Axes

    draw = Axes.pcolormesh
    monkeypatch.setattr(Axes, "pcolormesh", note)
    values = np.ones((3, 3), np.float32)
    for starts, stops, edges in (
        ([0, 5, 10], [10, 15, 17], [0, 7.5, 12.5, 17]),
        ([0, 10, 20], [10, 20, 21], [0, 10, 20, 21]),
        ([0], [3], [0, 3]),
    ):
        bounds = np.array(starts, float), np.array(stops, float)
        save_timeline(tmp_path / "a", "a", *bounds, values[: len(starts)], ["a", "b", "c"])
        np.testing.assert_array_equal(seen[0], edges)
        seen.clear()


def test_lines_of_progress_never_count_what_is_not_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress().task("recordings", 3) as task:
        task.advance(0.99)
    assert "recordings: 0/3" in capsys.readouterr().err
    with progress().task("recordings", 3) as task:
        for amount in (0.99, 0.67, 0.67, 0.67):
            task.advance(amount)
    assert "recordings: 3/3" in capsys.readouterr().err


STOPPED = """
import sys
from elastictool.cli import app
from elastictool.inference import windowing
windowing.MAX_TOKENS = 200
run_batch = windowing.run_batch

def slow(*arguments):
    values = run_batch(*arguments)
    print("a batch", file=sys.stderr, flush=True)
    import time; time.sleep(0.3)
    return values

windowing.run_batch = slow
app.main()
"""


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_ctrl_c_leaves_with_what_is_done(run: Path, command: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "all.npz"
    for number in range(40):
        write_audio(folder / f"{number:02}.wav", 1.0)
    more = ["--out", str(out)] if command == "embed" else []
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, command, str(folder), "-r", str(run), "--json", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    told = ""
    while told.count("a batch") < 3:
        line = process.stderr.readline()
        assert line, told
        told += line
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, rest = process.communicate(timeout=60)
    assert process.returncode == 130, told + rest
    document = json.loads(text)
    done = len(document["predictions"] if command == "predict" else document["names"])
    assert document["interrupted"] and 2 <= done < 40
    assert f"stopped after {done} of 40 recordings" in rest and "Traceback" not in rest
    if command == "embed":
        assert len(np.load(out)["names"]) == done
