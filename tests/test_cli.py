"""The program as a user meets it: exit codes, messages without tracebacks, one JSON document."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from elastictool import __version__
from elastictool.cli import app as program
from elastictool.data.store import PreparedStore
from tests.helpers.command_line import run_command
from tests.helpers.saved_runs import save_run

TINY = ("model.width=32", "model.heads=2", "model.depth=1", "train.epochs=1")


def sets(*more: str) -> list[str]:
    return [part for text in (*TINY, *more) for part in ("--set", text)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["train"], 2, ["no prepared dataset", "elastictool prep"]),
        (["eval"], 2, ["no trained run", "elastictool train"]),
        (["sweep", "--lengths", "256:3072"], 2, ["no trained run", "elastictool train"]),
        (["sweep", "--lengths", "3072:256"], 2, ["--lengths"]),
        (["train", "--set", "train.epoch=3"], 2, ["train.epoch", "did you mean 'train.epochs'"]),
        (["train", "--epochs", "3"], 2, ["no option --epochs", "--set train.epochs=3"]),
        (["train", "--learning-rate=1e-4"], 2, ["--set train.lr=1e-4"]),
        (["train", "--heads", "3"], 2, ["--set model.heads=3 or --set init.heads=3"]),
        (["train", "--model.size", "tiny"], 2, ["--set model.size=tiny"]),
        (["train", "--average-epochs", "[1,3]"], 2, ["--set 'train.average_epochs=[1,3]'"]),
        (["train", "--data", "synth"], 2, ["No such option: --data"]),
        (["train", "--resum"], 2, ["--resume"]),
        (["train", "--set", "init.head=replace"], 2, ["init.head = replace has no effect"]),
        (["train", "--recipe", "none.yaml"], 2, ["none.yaml", "or give a file"]),
        (["train", "--dataset", "none"], 2, ["'none'"]),
        (["eval", "none"], 2, ["none"]),
        (["prep", "--dataset", "epic-sounds"], 2, ["annotations", "CC BY-NC", "GB"]),
        (["prep", "--dataset", "folder", "--root", "none"], 2, ["none"]),
        (["prep", "--root", "."], 2, [". holds no recordings", "give a folder or table"]),
        (["prep", "-d", "synth", "--root", "."], 2, ["did you mean --dataset folder --root .?"]),
        (["prep", "--encoding", "mp3"], 2, ["--encoding", "'mp3' is not one of", "flac", "wav"]),
        (["prep", "--dataset", "synht"], 2, ["synht", "did you mean 'synth'"]),
        (["tokens", "--durations", "none.csv"], 2, ["none.csv"]),
        (["tokens", "--batch-size", "0"], 2, ["--batch-size"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gives_a_message_a_hint_and_its_exit_code(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    code: int,
    words: list[str],
) -> None:
    assert run_command(monkeypatch, *line) == code
    shown = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in shown
    assert all(word.lower() in shown.lower() for word in words), shown


def test_train_eval_and_sweep_print_one_json_document_each(
    toy_store: PreparedStore,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--dataset", toy_store.path, "--json"]
    assert run_command(monkeypatch, "train", *data, *sets()) == 0
    trained = json.loads(capsys.readouterr().out)
    assert (place / trained["run"] / "checkpoints" / "best.safetensors").exists()
    assert run_command(monkeypatch, "eval", *data) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert run_command(monkeypatch, "sweep", *data, "--lengths", "32,64,998") == 0
    swept = json.loads(capsys.readouterr().out)
    native, longest = swept["points"][0], swept["points"][-1]
    assert native["native"] and native["value"] == evaluated["metrics"]["top1"]
    assert longest["length_frames"] == 998 and longest["value"] == native["value"]
    for name in ("sweep", "learning_curves", "confusions_test", "per_class_test"):
        assert (place / trained["run"] / "figures" / f"{name}.png").stat().st_size > 10_000
    page = (place / trained["run"] / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 4 and "Sweep of lengths" in page


def test_the_mean_of_epochs_is_reported_and_can_be_evaluated(
    toy_store: PreparedStore,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--dataset", toy_store.path, "--json"]
    assert run_command(monkeypatch, "train", *data, *sets("train.average_epochs=[1, 1]")) == 0
    trained = json.loads(capsys.readouterr().out)
    validation = ["eval", *data, "--which", "averaged", "--split", "validation"]
    assert run_command(monkeypatch, *validation) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["checkpoint"] == "averaged"
    assert trained["averaged_top1"] == pytest.approx(evaluated["metrics"]["top1"], abs=1e-4)


def test_a_dry_run_and_print_config_write_nothing(
    toy_store: PreparedStore,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--dataset", toy_store.path]
    assert run_command(monkeypatch, "train", *data, *sets(), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["train_clips"] == 18
    assert run_command(monkeypatch, "train", *sets(), "--print-config") == 0
    assert "width: 32" in capsys.readouterr().out
    assert run_command(monkeypatch, "train", *sets(), "--print-config", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"]["width"] == 32
    assert list(place.iterdir()) == []


def test_a_damaged_checkpoint_leaves_with_code_4(
    toy_store: PreparedStore,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_run(place / "run", toy_store)
    for file in (place / "run" / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"garbage")
    assert run_command(monkeypatch, "eval", place / "run", "--dataset", toy_store.path) == 4
    assert "damaged" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elastictool.data.paths.find_dataset", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_command(monkeypatch, "train")


def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def _command(path: tuple[str, ...]) -> Any:
    """The command or group that these words call."""
    command: Any = typer.main.get_command(program.app)
    for name in path:
        command = command.commands[name]
    return command


def _help_pages(path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, as the words that call it."""
    names = getattr(_command(path), "commands", {})
    return [path, *(page for name in names for page in _help_pages((*path, name)))]


@pytest.mark.parametrize("path", _help_pages(), ids=" ".join)
def test_help_fits_80_columns_without_cut_words_or_kept_line_breaks(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command(monkeypatch, *path, "--help") == 0
    shown = capsys.readouterr().out
    assert "bool>" not in shown
    lines = [line for line in shown.splitlines() if not line.startswith("Usage: ")]
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...")]
    for paragraph in inspect.cleandoc(_command(path).help or "").split("\n\n"):
        words = " ".join(paragraph.split())
        filled = textwrap.fill(words, 78, initial_indent="  ", subsequent_indent="  ")
        assert filled in shown


@pytest.mark.parametrize("command", ["prep", "train", "eval", "sweep", "tokens"])
def test_each_help_text_has_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, command, "--help") == 0
    assert f"elastictool {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("users", "ours"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(
    users: dict[str, str], ours: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    assert run_command(monkeypatch, "--version") == 0
    assert os.environ.get("GOMP_SPINCOUNT") == ours


def test_ctrl_c_in_training_saves_leaves_with_130_and_resumes(
    toy_store: PreparedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "elastictool", "train", "--dataset", str(toy_store.path)]
    many = sets("train.epochs=2000", "train.loader_workers=1")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*command, "--run-dir", "run", *many],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    state = place / "run" / "checkpoints" / "last.training.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "everything is saved" in shown and "--resume" in shown
    assert "Traceback" not in shown
