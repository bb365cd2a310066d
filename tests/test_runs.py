"""``elastictool runs``: states, scores and order of run directories, whatever is in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from elastictool.checkpoint.find import LOCK_NAME
from elastictool.checkpoint.run_directory import is_locked, lock_run
from elastictool.checkpoint.weights import load_run
from elastictool.cli.app import app
from elastictool.config import RunConfig
from elastictool.config.loader import load_run_config
from elastictool.data.store import PreparedStore
from elastictool.reporting.evaluations import read_evaluation
from elastictool.reporting.run_log import read_log
from elastictool.reporting.runs import (
    changed_settings,
    differing_settings,
    list_runs,
    summarise,
)
from elastictool.training.run import resume_run, train_run
from elastictool.utils.errors import UsageError, WriteError
from tests.helpers.command_line import run_command
from tests.helpers.saved_runs import write_run

TINY = ("model.width=32", "model.heads=2", "model.depth=1", "length.max_frames=64")


def grow_old(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path / "metrics.jsonl", (moment, moment))


@contextmanager
def training_elsewhere(path: Path) -> Iterator[None]:
    """Another process that holds the run's lock."""
    code = (
        "import sys, pathlib; from elastictool.checkpoint.run_directory import lock_run\n"
        "with lock_run(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_states_are_finished_stopped_and_running(tmp_path: Path) -> None:
    done, halted = write_run(tmp_path / "done", 3, 3), write_run(tmp_path / "halted", 2, 3)
    assert summarise(done).state == "finished"
    assert summarise(halted).state == "stopped"
    with training_elsewhere(halted):
        assert summarise(halted).state == "running"
    assert summarise(halted).state == "stopped"  # killed: the lock went with the process


def test_a_run_is_trained_by_one_process_at_a_time(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    config = load_run_config(None, [*TINY, "train.epochs=1"])
    train_run(config, toy_store, tmp_path / "run")
    weights = (tmp_path / "run" / "checkpoints" / "last.safetensors").read_bytes()
    with training_elsewhere(tmp_path / "run"):
        for start in (
            lambda: resume_run(tmp_path / "run", toy_store),
            lambda: train_run(config, toy_store, tmp_path / "run", overwrite=True),
        ):
            with pytest.raises(UsageError, match="is being trained by"):
                start()
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").read_bytes() == weights
    assert is_locked(tmp_path / "run") is False
    train_run(config, toy_store, tmp_path / "run", overwrite=True)


def test_looking_does_not_keep_a_training_from_starting(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    for _ in range(20):
        assert is_locked(tmp_path) is False
        with lock_run(tmp_path):
            assert is_locked(tmp_path) is True


def test_the_best_score_is_the_one_that_chose_the_weights(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    made = summarise(write_run(tmp_path / "made", 4, 4, top1=0.7))
    assert (made.metric, made.best, made.best_epoch) == ("top1", 0.7, 2)
    train_run(load_run_config(None, [*TINY, "train.epochs=3"]), toy_store, tmp_path / "trained")
    trained, best = summarise(tmp_path / "trained"), load_run(tmp_path / "trained").metrics
    assert (trained.best, trained.best_epoch) == (best["top1"], best["epoch"])
    assert trained.dataset == "toy" and trained.model == "ElasticAST"


def test_an_epoch_that_was_not_validated_does_not_replace_the_best_weights(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse_and_worse = iter(({"top1": 1 / 2}, {"top1": 1 / 4}, {"top1": 1 / 5}))
    monkeypatch.setattr(
        "elastictool.training.trainer.validation_metrics", lambda *judged: next(worse_and_worse)
    )
    config = load_run_config(None, [*TINY, "train.epochs=5", "train.validate_every=2"])
    train_run(config, toy_store, tmp_path / "run")
    scores = [record.get("val_top1") for record in read_log(tmp_path / "run", "epoch")]
    assert scores == [None, 1 / 2, None, 1 / 4, 1 / 5]
    assert load_run(tmp_path / "run").metrics["epoch"] == 2


def test_runs_are_sorted_by_age_name_or_score(tmp_path: Path) -> None:
    for name, age, score in (("b", 30, {"test": 0.9}), ("a", 20, {"test": 0.6}), ("c", 10, {})):
        grow_old(write_run(tmp_path / name, 2, 2, **score), age)
    grow_old(write_run(tmp_path / "d", 2, 2, top1=0.8), 5)

    def order(sort: Any) -> str:
        return "".join(run.name for run in list_runs(tmp_path, sort))

    assert order("updated") == "dcab"
    assert order("name") == "abcd"
    assert order("score") == "badc"  # by test; c and d have only validation scores


def test_broken_directories_are_listed_with_the_reason_and_hide_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "good", 2, 2, test=0.5)
    (tmp_path / "empty").mkdir()
    for name, text in (("yaml", "a: ["), ("key", "trian: {lr: 1}"), ("binary", "\0\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(text.encode("latin-1"))
    (tmp_path / "folder" / "of" / "others").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    damaged = write_run(tmp_path / "damaged", 2, 2, test=0.5, validation=0.4)
    (damaged / "results" / "eval_test.json").write_text('{"metrics": ')
    runs = {Path(run.path).name: run for run in list_runs(tmp_path)}
    states = {name: run.state for name, run in runs.items()}
    assert states == {
        "good": "finished",
        "damaged": "finished",
        **dict.fromkeys(("empty", "yaml", "key", "binary"), "broken"),
    }
    assert all(runs[name].problem for name in runs if name != "good")
    assert "trian" in runs["key"].problem and "eval_test.json" in runs["damaged"].problem
    assert set(runs["damaged"].evaluations) == {"validation"}


def test_half_a_line_and_foreign_lines_of_a_log_are_passed_over(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 2, 3)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('7\n"epoch"\nnull\n{"kind": "epoch", "epoch": 3, "val_top')
    assert [record["epoch"] for record in read_log(path, "epoch")] == [1, 2]
    assert summarise(path).epoch == 2


def test_settings_are_compared_by_dotted_name() -> None:
    one = load_run_config(None, ["train.lr=1e-4", "seed=3"])
    other = load_run_config(None, ["train.lr=1e-4", "augment.length_diversity.share=0.5"])
    assert differing_settings([one, other]) == {
        "seed": [3, 0],
        "augment.length_diversity.share": [0.0, 0.5],
    }
    assert changed_settings(one) == {"seed": 3, "train.lr": 1e-4}
    assert changed_settings(RunConfig()) == {}


def test_the_command_lists_shows_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "one", 2, 2, test=0.75)
    write_run(tmp_path / "runs" / "two", 1, 3)
    (tmp_path / "runs" / "bad").mkdir()
    for line in (["runs", "--json"], ["runs", "list", "--json"]):
        assert run_command(monkeypatch, *line) == 0
        listed = json.loads(capsys.readouterr().out)["runs"]
        assert {run["name"]: run["state"] for run in listed} == {
            "one": "finished",
            "two": "stopped",
            "bad": "broken",
        }
    assert run_command(monkeypatch, "runs") == 0
    shown = capsys.readouterr()
    assert "top-1 75.0 %" in shown.out and "1/3 stopped" in shown.out and "bad" in shown.err
    assert run_command(monkeypatch, "runs", "show", "two", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["epoch"] == 1 and document["settings"]["train.epochs"] == 3
    curves = tmp_path / "runs" / "two" / "figures" / "learning_curves.png"
    assert str(curves.relative_to(tmp_path)) in document["files"]
    assert curves.stat().st_size > 10_000
    assert run_command(monkeypatch, "runs", "compare", "one", "two", "--json") == 0
    assert json.loads(capsys.readouterr().out)["differing_settings"]["train.epochs"] == [2, 3]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["runs"], "there is no folder"),
        (["runs", "show"], "there is no run under runs"),
        (["runs", "show", "none"], "'none'"),
        (["runs", "compare", "none"], "one run cannot be compared"),
        (["runs", "--json", "show", "none"], "options of the list"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_usage_errors(
    line: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, *line) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert words in shown and "hint:" in shown


@pytest.mark.parametrize(
    "line", [["runs"], ["runs", "list"], ["runs", "show"], ["runs", "compare"]]
)
def test_each_help_text_has_an_example(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, *line, "--help") == 0
    assert "Example: elastictool runs" in " ".join(capsys.readouterr().out.split())


def test_a_run_whose_last_steps_were_left_out_has_diverged(tmp_path: Path) -> None:
    for name, skipped in (("early", (1, 2, 3)), ("once", (3,)), ("diverged", (3, 4, 5))):
        path = write_run(tmp_path / name, 1, 2)
        lines = [json.dumps({"epoch": 2, "step": step, "where": "loss"}) for step in skipped]
        (path / "skipped_steps.jsonl").write_text("\n".join(lines) + "\n{\n")
    broken = write_run(tmp_path / "weights", 1, 2)
    (broken / "skipped_steps.jsonl").write_text('{"step": 3, "where": "weights"}\n')
    for name in ("to the end", "taking none"):
        ended = write_run(tmp_path / name, 2, 2)
        (ended / "skipped_steps.jsonl").write_text('{"step": 4, "where": "loss"}\n')
    log = (ended / "metrics.jsonl").read_text().splitlines()
    (ended / "metrics.jsonl").write_text("\n".join(line for line in log if '"step",' not in line))
    states = {run.name: run.state for run in list_runs(tmp_path)}
    expected = {"early": "stopped", "once": "stopped", "to the end": "finished"}
    expected |= dict.fromkeys(("diverged", "weights", "taking none"), "diverged")
    assert states == expected
    assert "skipped_steps.jsonl" in summarise(tmp_path / "diverged").problem


def test_a_renamed_run_is_called_as_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "old", 2, 2, test=0.5).rename(tmp_path / "new")
    assert summarise(tmp_path / "new").name == "new"
    assert "(new)" in read_evaluation(tmp_path / "new", "test").title


def test_a_run_that_cannot_be_written_is_shown_with_a_warning(tmp_path: Path) -> None:
    path = write_run(tmp_path / "others", 2, 2, test=0.5)
    (path / "figures").write_text("in the way")
    shown = CliRunner().invoke(app, ["runs", "show", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "finished" in shown.stdout and "warning: cannot write" in shown.stderr
    page = CliRunner().invoke(app, ["runs", "show", str(path), "--html"]).exception
    assert isinstance(page, WriteError)
