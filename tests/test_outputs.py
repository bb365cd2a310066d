"""Where commands write: formats by their ending, folders apart, and places that are refused early.

A file where a folder is needed stands for every place that cannot be written: rights do not stop
the administrator, who may run these tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import elastictool
from elastictool.cli.app import app
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError, WriteError
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run


@pytest.fixture
def run(tmp_path: Path, toy_store: PreparedStore) -> Path:
    return save_run(tmp_path / "runs" / "elastic", toy_store)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_export_takes_the_format_from_the_ending(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.safetensors"
    assert invoke("export", run, "--out", out).exit_code == 0
    assert "elastic" in repr(elastictool.load(out))


@pytest.mark.parametrize(
    "options",
    [
        ["--to", "onnx", "--out", "a.safetensors"],
        ["--to", "safetensors", "--out", "a.onnx"],
        ["--to", "hf", "--out", "a.onnx"],
        ["--out", "a.pt"],
        ["--to", "safetensors", "--out", "a"],
    ],
)
def test_export_refuses_a_name_of_another_format(
    options: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(invoke("export", run, *options).exception, UsageError)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_weights_files_of_one_folder_have_results_of_their_own(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert invoke("export", run, "--out", tmp_path / f"{name}.safetensors").exit_code == 0
        assert invoke("eval", tmp_path / f"{name}.safetensors").exit_code == 0
        assert (tmp_path / f"{name}_eval" / "results" / "eval_test.json").is_file()
    assert invoke("sweep", tmp_path / "a.safetensors", "--lengths", 32).exit_code == 0
    assert (tmp_path / "a_eval" / "results" / "sweep.csv").is_file()
    assert not (tmp_path / "results").exists()


def test_eval_writes_to_the_given_path(run: Path, tmp_path: Path) -> None:
    assert invoke("eval", run, "--out", tmp_path / "there").exit_code == 0
    assert (tmp_path / "there" / "results" / "eval_test.json").is_file()
    assert not (run / "results").exists()


def test_an_output_path_that_cannot_be_written_is_refused_before_the_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("the work was done for nothing")

    for name in ("evaluation.evaluate.evaluate_run", "evaluation.sweep.sweep"):
        monkeypatch.setattr(f"elastictool.{name}", work)
    monkeypatch.setattr("elastictool.checkpoint.weights.load_run", work)
    (run / "results").write_text("in the way")
    sound, blocked = write_audio(tmp_path / "a.wav", 0.5), run / "results"
    for command in (
        ["eval", run],
        ["sweep", run, "--lengths", "32"],
        ["sweep", run, "--lengths", "32", "--out", blocked / "there"],
        ["export", run, "--out", blocked / "a.onnx"],
        ["embed", sound, "--run", run, "--out", blocked / "a.npz"],
        ["embed", "--dataset", "toy", "--run", run, "--out", blocked / "a.npz"],
        ["predict", sound, "--run", run, "--timeline", blocked],
    ):
        assert isinstance(invoke(*command).exception, WriteError), command


def test_scores_are_printed_also_where_they_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setattr("elastictool.evaluation.evaluate.save_evaluation", full)
    done = invoke("eval", run, "--json")
    assert isinstance(done.exception, WriteError)
    assert 0 <= json.loads(done.stdout)["metrics"]["top1"] <= 1


def test_a_missing_index_is_reported_before_a_model_is_loaded(tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "a.wav", 0.5)
    refused = invoke("embed", "--run", "none", "--index", tmp_path / "nope.npz", "--query", sound)
    assert "nope.npz" in str(refused.exception)


def test_timelines_of_equal_stems_get_distinct_names(run: Path, tmp_path: Path) -> None:
    sounds = [write_audio(tmp_path / folder / "x.wav", 0.5) for folder in ("a", "b")]
    done = invoke("predict", *sounds, "--run", run, "--timeline", tmp_path / "pictures")
    said = done.stderr.replace("\n", "")
    assert f"x.png ({sounds[0]})" in said and f"x-2.png ({sounds[1]})" in said
    assert len(list((tmp_path / "pictures").iterdir())) == 4


def test_one_recording_is_no_recordings(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    done = invoke("predict", tmp_path / "a.wav", "--run", run)
    assert "1 recording\n" in done.stderr
    assert str(done.exception) == "1 of 1 recording could not be used"


def test_a_sweep_without_end_is_refused(run: Path) -> None:
    refused = invoke("sweep", run, "--lengths", "1:100000:1").exception
    assert isinstance(refused, UsageError)
    assert "100,000 numbers" in refused.message and "--lengths 1:100000:5000" in refused.hint
