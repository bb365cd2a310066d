"""Sweeps that are stopped, extended or repeated lose no scores and mix none."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastictool.checkpoint.weights import LoadedRun, load_run, save_weights
from elastictool.cli.app import app
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.evaluation import sweep as sweeping
from elastictool.evaluation.points import SweepPoint, read_points
from elastictool.evaluation.sweep import SweepOptions, default_lengths, sweep
from elastictool.reporting.earlier_sweep import document_of, earlier_points, merged
from elastictool.reporting.run_report import write_report
from elastictool.utils.errors import Interrupted, UsageError
from elastictool.utils.signals import Stopped
from tests.helpers.children import Child
from tests.helpers.saved_runs import save_run

LENGTHS = (24, 96)
Decoded = Counter[int]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return prepare(PrepOptions("synth", out=tmp_path_factory.mktemp("data"), limit=36))


@pytest.fixture
def path(tmp_path: Path, store: PreparedStore) -> Path:
    return save_run(tmp_path / "elastic", store)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """How often each clip was decoded."""
    counted: Decoded = Counter()
    read = PreparedStore.waveform

    def counting(self: PreparedStore, index: int, *limits: int) -> object:
        counted[int(index)] += 1
        return read(self, index, *limits)

    monkeypatch.setattr(PreparedStore, "waveform", counting)
    return counted


def without_times(points: list[SweepPoint]) -> list[SweepPoint]:
    return [dataclasses.replace(point, seconds=0.0) for point in points]


def stop_at(call: int) -> Callable[[], None]:
    calls = iter(range(1, 10**6))

    def between() -> None:
        if next(calls) == call:
            raise Stopped

    return between


@pytest.mark.parametrize("damaged", [b"damaged", b""])
def test_a_stopped_sweep_continues_and_ends_as_an_uninterrupted_one(
    path: Path,
    store: PreparedStore,
    tmp_path: Path,
    decoded: Decoded,
    monkeypatch: pytest.MonkeyPatch,
    damaged: bytes,
) -> None:
    monkeypatch.setattr("elastictool.evaluation.sweep.CHUNK_CLIPS", 4)
    runs, keep = (
        [load_run(path), load_run(save_run(tmp_path / "ast", store, "ast"))],
        tmp_path / "k",
    )
    whole = sweep("length", runs, store, LENGTHS, SweepOptions(split="train"))
    decoded.clear()
    with pytest.raises(Stopped):
        sweep(
            "length",
            runs,
            store,
            LENGTHS,
            SweepOptions(split="train", cache=keep, between=stop_at(14)),
        )
    done = len(decoded)
    files = sorted(keep.iterdir())
    assert 0 < len(files) < done and done < whole[0].clips
    files[0].write_bytes(damaged)
    again = sweep("length", runs, store, LENGTHS, SweepOptions(split="train", cache=keep))
    assert without_times(again) == without_times(whole)
    twice = [clip for clip, times in decoded.items() if times > 1]
    assert 4 <= len(twice) <= 8 and len(decoded) == whole[0].clips


def test_other_weights_find_nothing_that_is_kept(
    path: Path, store: PreparedStore, tmp_path: Path, decoded: Decoded
) -> None:
    run, keep = load_run(path), tmp_path / "kept"
    sweep("length", [run], store, LENGTHS, SweepOptions(cache=keep))
    decoded.clear()
    sweep("length", [run], store, LENGTHS[:1], SweepOptions(cache=keep))
    assert not decoded
    with_others = load_run(path)
    next(with_others.model.parameters()).data.add_(1.0)
    found = sweep("length", [with_others], store, LENGTHS, SweepOptions(cache=keep))
    assert decoded
    assert without_times(found) == without_times(sweep("length", [with_others], store, LENGTHS))


def test_known_points_are_not_scored_again(path: Path, store: PreparedStore) -> None:
    run = load_run(path)
    first = sweep("length", [run], store, LENGTHS[:1])
    second = sweep("length", [run], store, LENGTHS, SweepOptions(known=first))
    assert [point.x for point in second] == [96]
    assert not sweep("length", [run], store, LENGTHS, SweepOptions(known=[*first, *second]))
    whole = sweep("length", [run], store, LENGTHS)
    assert without_times(merged(first, second)) == without_times(whole)
    assert without_times(merged(second, first)) == without_times(whole)


def run_sweep(path: Path, store: PreparedStore, lengths: str, *more: str) -> None:
    arguments = ["sweep", str(path), "--dataset", str(store.path), "--lengths", lengths, *more]
    app(arguments, standalone_mode=False)


def test_the_command_adds_to_a_sweep_of_the_same_weights_and_refuses_others(
    path: Path, store: PreparedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(path, store, "24,96")
    capsys.readouterr()
    run_sweep(path, store, "24,48", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [point["x"] for point in told["points"] if not point["native"]] == [24, 48]
    table = path / "results" / "sweep.csv"
    assert [point.x for point in read_points(table) if not point.native] == [24, 48, 96]
    assert not list(table.parent.glob("*.unfinished"))
    before = table.read_bytes()

    run = load_run(path)
    next(run.model.parameters()).data.add_(1.0)
    later = {"epoch": 2, "step": 7}
    save_weights(run.file, run.model, dataclasses.replace(run.metadata, metrics=later))
    with pytest.raises(UsageError, match=r"other weights of elastic \(step 1, not 7\)") as caught:
        run_sweep(path, store, "24")
    assert "--overwrite" in caught.value.hint and table.read_bytes() == before
    assert "earlier weights (step 1, now 7)" in write_report(path)[-1].read_text()
    with pytest.raises(UsageError, match="another metric"):
        run_sweep(path, store, "24", "--metric", "map")
    run_sweep(path, store, "24", "--overwrite")
    assert [point.x for point in read_points(table) if not point.native] == [24]
    assert "earlier weights" not in (path / "report.html").read_text()


def test_ctrl_c_keeps_what_is_scored_and_names_the_folder(
    path: Path, store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("elastictool.evaluation.sweep.score_chunk", interrupted)
        with pytest.raises(Interrupted, match="no clips are scored yet") as caught:
            run_sweep(path, store, "24")
    assert "starts again" in caught.value.hint
    with monkeypatch.context() as patched:
        patched.setattr("elastictool.evaluation.sweep.SweepPoint", interrupted)
        with pytest.raises(Interrupted, match=r"sweep\.unfinished") as caught:
            run_sweep(path, store, "24")
    assert "continues" in caught.value.hint
    assert list((path / "results" / "sweep.unfinished").glob("*.npz"))


def wait_for_the_other() -> None:
    """From here on a sweep scores its first clips only once two sweeps are at work."""
    score = sweeping.score_chunk

    def score_together(*arguments: Any) -> None:
        marks = Path("elastic/results/sweep.unfinished")
        end = time.monotonic() + 60
        while len(list(marks.glob("*.lock"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        score(*arguments)

    sweeping.score_chunk = score_together


def test_two_sweeps_and_an_evaluation_at_once_lose_nothing(
    path: Path, store: PreparedStore
) -> None:
    lines = [
        ("sweep", "elastic", "--dataset", store.path, "--lengths", lengths)
        for lengths in ("24,48", "64,96")
    ]
    children = [Child(path.parent, *line, before=wait_for_the_other) for line in lines]
    children.append(Child(path.parent, "eval", "elastic", "--dataset", store.path))
    assert [child.wait(120) for child in children] == [0] * 3, [c.shown() for c in children]
    found = read_points(path / "results" / "sweep.csv")
    assert [point.x for point in found if not point.native] == [24, 48, 64, 96]
    document = json.loads((path / "results" / "sweep.json").read_text("utf-8"))
    assert len(document["points"]) == len(found) == 5
    assert not list((path / "results").glob("*.unfinished"))
    page = (path / "report.html").read_text("utf-8")
    assert "Sweep of lengths" in page and all(f"<td>{x}</td>" in page for x in (24, 48, 64, 96))
    assert "Mean class accuracy" in page, "the report lacks the evaluation"


def test_a_sweep_of_another_metric_is_refused_while_one_is_at_work(
    path: Path, store: PreparedStore
) -> None:
    line = ("sweep", "elastic", "--dataset", store.path, "--lengths", "24")
    first = Child(path.parent, *line, before=wait_for_the_other)
    marks = path / "results" / "sweep.unfinished"
    while not list(marks.glob("*.lock")) and first.process.is_alive():
        time.sleep(0.01)
    with pytest.raises(UsageError, match=r"at work .*another metric .top1, not map") as caught:
        run_sweep(path, store, "48", "--metric", "map")
    assert "--out FOLDER" in caught.value.hint
    (marks / "0-0.lock").touch()
    assert first.wait(120) == 0, first.shown()
    assert [point.x for point in read_points(path / "results" / "sweep.csv")][1:] == [24]


def test_a_sweep_that_replaces_an_earlier_one_keeps_what_came_meanwhile(
    path: Path, store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep(path, store, "24")
    score, came = sweeping.score_chunk, []

    def score_later(*arguments: Any) -> None:
        if not came:
            came.append(True)
            run_sweep(path, store, "48")
        score(*arguments)

    monkeypatch.setattr(sweeping, "score_chunk", score_later)
    run_sweep(path, store, "96", "--overwrite")
    found = read_points(path / "results" / "sweep.csv")
    assert [point.x for point in found if not point.native] == [24, 48, 96]
    run_sweep(path, store, "96", "--overwrite")
    found = read_points(path / "results" / "sweep.csv")
    assert [point.x for point in found if not point.native] == [96]


def test_logits_of_two_unfinished_sweeps_do_not_replace_each_other(
    path: Path, store: PreparedStore, tmp_path: Path, decoded: Decoded
) -> None:
    run, keep = load_run(path), tmp_path / "kept"
    for length in LENGTHS:
        sweep("length", [run], store, [length], SweepOptions(cache=keep))
    decoded.clear()
    sweep("length", [run], store, LENGTHS, SweepOptions(cache=keep))
    assert not decoded


def test_a_file_without_metadata_is_not_added_to(
    path: Path, store: PreparedStore, tmp_path: Path
) -> None:
    points = sweep("length", [load_run(path)], store, LENGTHS)
    file = tmp_path / "sweep.json"
    for content in (json.dumps(document_of(points)), "no JSON", "[]"):
        file.write_text(content)
        with pytest.raises(UsageError, match="cannot be read, or lacks its conditions"):
            earlier_points(file, {"weights": {}})
    file.unlink()
    assert earlier_points(file, {"weights": {}}) == []


def test_points_survive_their_document_to_the_last_bit(
    path: Path, store: PreparedStore, tmp_path: Path
) -> None:
    (own, point) = sweep("length", [load_run(path)], store, [24])
    ensemble = dataclasses.replace(own, x=math.nan, run="a + b")
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps(document_of([own, point, ensemble]) | {"weights": {}}))
    read = earlier_points(file, {"weights": {}})
    assert read[:2] == [own, point] and math.isnan(read[2].x)


def test_lengths_that_nobody_names_follow_from_data_and_cap(
    path: Path, store: PreparedStore
) -> None:
    run = load_run(path)
    clips = select_clips(store, run.config.data, 0).test
    longest = int(run.feature_extractor.num_frames(store.num_samples[clips]).max())
    found = default_lengths([run], store, "test")
    assert found[-1] == longest // 16 * 16 and len(found) == 12
    assert not [length for length in found if length % 16]
    assert np.ptp(np.diff([0, *found])) <= 16
    length = dataclasses.replace(run.feature_extractor.length, max_frames=100)
    capped: LoadedRun = dataclasses.replace(
        run, feature_extractor=dataclasses.replace(run.feature_extractor, length=length)
    )
    assert default_lengths([capped], store, "test") == [16, 32, 48, 64, 80, 96]
