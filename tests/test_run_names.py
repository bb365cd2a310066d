"""A run is named by its place or by ``--run`` in every command; without a name it is the latest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from elastictool.config.recipe_file import training_recipes
from elastictool.data.store import PreparedStore
from tests.helpers.command_line import run_command
from tests.helpers.saved_runs import save_run, write_run
from tests.helpers.training import SMALL


@pytest.fixture
def place(toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with recordings, and two runs of which ``second`` is the newer one."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("first", "second")):
        run = save_run(tmp_path / "runs" / name, toy_store)
        last = Path(
            shutil.copy(run / "checkpoints/best.safetensors", run / "checkpoints/last.safetensors")
        )
        os.utime(last, (1_700_000_000 + number, 1_700_000_000 + number))
    shutil.copy(toy_store.path.parent.parent / "000.wav", tmp_path / "a.wav")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


COMMANDS = {
    "eval": ["eval", "RUN"],
    "sweep": ["sweep", "RUN", "--lengths", "32"],
    "predict": ["predict", "RUN", "a.wav"],
    "embed": ["embed", "RUN", "a.wav", "--out", "v.npz"],
    "export": ["export", "RUN", "--out", "m.safetensors"],
    "show": ["runs", "show", "RUN"],
    "compare": ["runs", "compare", "RUN", "second"],
}


@pytest.mark.parametrize("name", ["first", "runs/first"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_is_named_by_its_place_or_by_an_option(
    command: str, name: str, place: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = COMMANDS[command]
    number = words.index("RUN")
    by_place = [*words[:number], name, *words[number + 1 :]]
    option = [word for word in words if word != "RUN"]
    shown = []
    for arguments in (by_place, [*option, "--run", name], [*option, "-r", name]):
        assert run_command(monkeypatch, *arguments) == 0
        out = capsys.readouterr()
        shown.append(out.out)
        assert "latest run" not in out.err
    if command in ("predict", "eval"):
        assert shown[0] == shown[1] == shown[2]


def test_two_runs_where_one_is_wanted_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "eval", "first", "--run", "second") == 2
    assert "first and second are two runs" in told(capsys)
    assert run_command(monkeypatch, "eval", "first", "--run", "first") == 0


def test_a_weights_file_and_a_run_before_recordings_are_no_recordings(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = "runs/first/checkpoints/best.safetensors"
    assert run_command(monkeypatch, "predict", file, "a.wav", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1
    assert run_command(monkeypatch, "predict", "runs/first") != 0
    (place / "first").mkdir()  # a folder of recordings that has the name of a run
    shutil.copy("a.wav", "first/a.wav")
    assert run_command(monkeypatch, "predict", "first", "--json") == 0
    out = capsys.readouterr()
    assert "latest run" in out.err


def test_the_latest_run_is_a_finished_one_and_is_shown_with_date_and_score(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, epochs, top1 in (("first", 3, 0.75), ("second", 1, 0.5)):
        other = write_run(place / "written" / name, epochs=epochs, of=3, top1=top1)
        shutil.copy(other / "metrics.jsonl", place / "runs" / name)
        config = place / "runs" / name / "config.yaml"
        config.write_text(config.read_text().replace("epochs: 10", "epochs: 3"))
        os.utime(place / "runs" / name / "metrics.jsonl", (1_700_000_000, 1_700_000_000))
    assert run_command(monkeypatch, "predict", "a.wav") == 0
    assert "latest run: runs/first (finished 2023-11-14 " in (shown := told(capsys))
    assert ", validation top-1 75.0 %)" in shown
    shutil.rmtree("runs/first")
    assert run_command(monkeypatch, "predict", "a.wav") == 0
    assert "latest run: runs/second (stopped 2023-11-14 " in told(capsys)


def test_a_run_to_resume_is_named_like_any_other(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    sets = [word for setting in (*SMALL, "train.epochs=1") for word in ("--set", setting)]
    command = ["train", "--dataset", toy_store.path, "--run", "runs/mine", *sets]
    assert run_command(monkeypatch, *command) == 0
    for name in (["mine"], ["runs/mine"], ["--run", "mine"], ["--run-dir", "runs/mine"]):
        assert run_command(monkeypatch, "train", "--resume", *name) == 0
        assert "runs/mine was finished before" in told(capsys)
    assert run_command(monkeypatch, "train", "mine") == 2
    assert "--dataset mine trains on data of that name" in told(capsys)


def test_training_recipes_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "recipe", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    trainings = {entry["name"]: entry["title"] for entry in listed if entry["kind"] == "training"}
    assert sorted(trainings) == training_recipes()
    assert all(title and not title.startswith(("elastictool", "-")) for title in trainings.values())
    for name in ("small_data", "recipes/small_data.yaml"):
        assert run_command(monkeypatch, "recipe", "show", name) == 0
        out = capsys.readouterr()
        assert "train.epochs" in out.out
        assert "next: elastictool train --recipe small_data --dataset NAME" in out.err
    assert run_command(monkeypatch, "recipe", "run", "small_data") == 2
    assert "elastictool train --recipe small_data" in told(capsys)
    assert run_command(monkeypatch, "recipe", "show", "smal_data") == 2
    assert "did you mean 'small_data'" in told(capsys)
