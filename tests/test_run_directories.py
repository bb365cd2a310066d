"""Run directories: what may be deleted, how a run continues, how runs are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from elastictool.checkpoint.run_directory import RunDirectory, remove_run
from elastictool.checkpoint.weights import load_run
from elastictool.cli.app import app
from elastictool.cli.loading import open_data
from elastictool.config import RunConfig
from elastictool.config.loader import dump_yaml, read_settings
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.training.run import describe, resume_run, train_run
from elastictool.training.setup import pick_device
from elastictool.training.state import load_training_state, save_training_state
from elastictool.utils.errors import (
    CheckpointError,
    ElasticToolError,
    Interrupted,
    OutOfMemory,
    UsageError,
)
from elastictool.utils.progress import SILENT
from tests.helpers.command_line import run_command
from tests.helpers.toy_data import write_toy_recordings
from tests.helpers.training import SMALL, Hooks, records, same, small, train_and_stop, weights

STEADY = ("train.schedule.kind=multistep", "train.schedule.warmup_steps=2", "model.dropout=0.2")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that training prints."""
    lines: list[str] = []
    monkeypatch.setattr(type(SILENT), "log", lambda self, line: lines.append(line))
    return lines


# What may be deleted


def test_overwriting_deletes_what_runs_write_and_nothing_else(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    train_run(small("train.epochs=1"), toy_store, path)
    ours = ("results/eval_test.json", "figures/sweep.png", "checkpoints/averaged.safetensors")
    mine = ("notes.txt", "results/table.tex", "checkpoints/epoch7.safetensors", "sounds/a.wav")
    for name in (*ours, *mine):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("years of work")
    train_run(small("train.epochs=1", "seed=1"), toy_store, path, overwrite=True)
    assert [name for name in mine if (path / name).read_text() != "years of work"] == []
    assert [name for name in ours if (path / name).exists()] == []
    assert load_run(path).config.seed == 1


def test_all_that_a_run_writes_is_known(toy_store: PreparedStore, tmp_path: Path) -> None:
    """A new output must be added to ``_WRITTEN``, or it would outlive the run that it is of."""
    path = tmp_path / "run"
    sets = [*SMALL, "train.epochs=1", "train.average_epochs=[1,1]", "train.tensorboard=true"]
    options = [option for setting in sets for option in ("--set", setting)]
    for command in (
        ["train", "--dataset", str(toy_store.path), "--run-dir", str(path), *options],
        ["eval", str(path)],
        ["sweep", str(path), "--lengths", "64,128"],
        ["sweep", str(path), "--resolutions", "1,2"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert len([file for file in path.rglob("*") if file.is_file()]) > 20
    remove_run(path)
    left = sorted(file.name for file in path.rglob("*"))
    assert left == [".lock", ".lock-results"], "their deletion would race with the next lock"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("trainer: {max_steps: 9}", "unknown configuration key"),
        ("train: {epochs: 3}", "has no section"),
        ("- a list", "mapping"),
        (dump_yaml(RunConfig()), "neither environment.json"),
    ],
    ids=["of another program", "a recipe", "no mapping", "a copy of settings"],
)
def test_a_folder_with_a_config_of_that_name_is_no_run_yet(
    toy_store: PreparedStore, tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="not a run directory") as caught:
        train_run(small(), toy_store, tmp_path, overwrite=True)
    assert reason in caught.value.message
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", [".", "..", "../up", "a/b", "a\\b"])
def test_the_name_of_a_run_stays_in_the_folder_of_runs(name: str) -> None:
    with pytest.raises(UsageError, match="one name"):
        RunConfig(name=name)


def test_a_run_directory_that_is_a_file_is_refused(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is a file"):
            train_run(small(), toy_store, tmp_path / "file", overwrite)


def _no_memory(*arguments: Any, **named: Any) -> None:
    raise OutOfMemory("out of memory", "lower packing.batch_clips")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_its_directory_free(
    toy_store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
) -> None:
    path = tmp_path / "run"
    if overwrite:
        train_run(small("train.epochs=1"), toy_store, path)
    with monkeypatch.context() as patched:
        patched.setattr("elastictool.training.trainer.clip_losses", _no_memory)
        with pytest.raises(OutOfMemory) as caught:
            train_run(small("train.epochs=1"), toy_store, path, overwrite)
    assert "--resume" not in caught.value.hint
    assert train_run(small("train.epochs=1"), toy_store, path).epochs == 1


def test_a_run_that_has_begun_stays(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("elastictool.training.trainer.score_clips", _no_memory)
        with pytest.raises(OutOfMemory):
            train_run(small("train.epochs=1"), toy_store, path)
    assert records(path, "step")
    assert resume_run(path, toy_store).epochs == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.attention=varlen", "needs a CUDA device"),
        ("train.device=meta", "'meta' cannot be used"),
        ("fbank.window_ms=1000", "clips of .* are shorter than fbank.window_ms = 1000"),
    ],
)
def test_what_cannot_work_here_is_found_without_training(
    toy_store: PreparedStore, tmp_path: Path, setting: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        describe(small(setting), toy_store)
    with pytest.raises(UsageError, match=words):
        train_run(small(setting), toy_store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clips_that_are_shorter_than_the_window_are_no_damaged_data(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    """Only to test with, they are found by eval."""
    shortest = toy_store.num_samples[toy_store.splits != "test"].min()
    assert (toy_store.num_samples[toy_store.splits == "test"] < shortest).any()
    window = f"fbank.window_ms={shortest / 16}"
    train_run(small("train.epochs=1", window), toy_store, tmp_path / "a")
    with pytest.raises(UsageError, match="make no frame"):
        evaluate_run(load_run(tmp_path / "a"), toy_store)


def test_the_hint_about_a_device_is_an_option_of_the_command() -> None:
    with pytest.raises(UsageError) as caught:
        pick_device("cuda:99")
    assert caught.value.hint == "--device cpu or --device auto"
    with pytest.raises(UsageError) as caught:
        pick_device("cuda:99", "--set train.device=")
    assert caught.value.hint == "--set train.device=cpu or --set train.device=auto"


def test_a_dry_run_counts_the_steps_of_every_epoch(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    """With a token budget and random views, epochs have different numbers of batches."""
    sets = ("packing.batch_tokens=100", "augment.length_diversity.share=0.5", "train.epochs=4")
    config = small(*sets, "augment.length_diversity.mode=replace")
    plan = describe(config, toy_store)
    train_run(config, toy_store, tmp_path / "run")
    ends = [record["step"] for record in records(tmp_path / "run", "epoch")]
    assert plan["optimizer_steps"] == ends[-1] != 4 * ends[0]


# What a run goes on with


def test_more_epochs_are_the_run_that_had_them_from_the_start(
    toy_store: PreparedStore, tmp_path: Path, said: list[str]
) -> None:
    train_run(small(*STEADY, "train.epochs=3"), toy_store, tmp_path / "whole")
    train_run(small(*STEADY), toy_store, tmp_path / "parts")
    more = read_settings(None, ["train.epochs=3"])
    assert resume_run(tmp_path / "parts", toy_store, settings=more).epochs == 3
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert any("3 epochs instead of 2" in line for line in said)
    assert RunDirectory(tmp_path / "parts").read_config().train.epochs == 3


@pytest.mark.parametrize(
    ("schedule", "epochs", "why"),
    [
        (("train.schedule.kind=cosine",), 3, "cosine"),
        (("train.schedule.kind=constant", "train.schedule.warmup_steps=0.5"), 9, "warm-up"),
        (("train.schedule.kind=constant",), 1, "shorter"),
    ],
)
def test_epochs_that_the_schedule_does_not_allow_are_refused_and_change_nothing(
    toy_store: PreparedStore, tmp_path: Path, schedule: tuple[str, ...], epochs: int, why: str
) -> None:
    path = tmp_path / "run"
    train_run(small(*schedule), toy_store, path)
    before = (path / "config.yaml").read_text()
    with pytest.raises(UsageError, match=rf"train.epochs={epochs} \(the run: 2\).*{why}"):
        resume_run(path, toy_store, settings=read_settings(None, [f"train.epochs={epochs}"]))
    assert (path / "config.yaml").read_text() == before


def test_a_run_resumes_with_another_machines_settings_to_the_same_bits(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    train_run(small(), toy_store, tmp_path / "whole")
    config, failing = small("train.checkpoint_steps=1"), Hooks(after_epoch=_no_memory)
    with pytest.raises(OutOfMemory):
        train_run(config, toy_store, tmp_path / "parts", progress=failing)
    sets = ("loader_workers=1", "cache_mb=0", "checkpoint_steps=2", "prefetch=1", "device=cpu")
    settings = read_settings(None, [f"train.{setting}" for setting in sets])
    resume_run(tmp_path / "parts", toy_store, settings=settings)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    kept = RunDirectory(tmp_path / "parts").read_config().train
    assert (kept.loader_workers, kept.cache_mb, kept.device) == (1, 0, "cpu")


def test_an_edited_configuration_is_refused_with_what_differs(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    train_run(small(), toy_store, run.path)
    own = run.config_file.read_text()
    for old, new, words in (
        ("lr: 0.0003", "lr: 0.001", r"train\.lr=0.001 \(the run: 0.0003\)"),
        ("width: 32", "width: 64", r"model\.width=64 \(the run: 32\)"),
        ("lr: 0.0003", "lr: -1", r"config.yaml is no configuration"),
        ("lr: 0.0003", "larning_rate: 1", r"config.yaml is no configuration"),
    ):
        assert own.count(old) == 1
        run.config_file.write_text(own.replace(old, new))
        with pytest.raises(CheckpointError, match=words):
            resume_run(run.path, toy_store)
    run.config_file.write_text(own.replace("cache_mb: 512", "cache_mb: 3"))  # the machine's
    assert resume_run(run.path, toy_store).was_finished


def test_the_state_of_another_model_is_refused(toy_store: PreparedStore, tmp_path: Path) -> None:
    run, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "other")
    for config, path in ((small(), run.path), (small("model.width=64"), other.path)):
        with pytest.raises(Interrupted):
            train_and_stop(config, toy_store, path, steps=2)
    own = load_training_state(run.training_state)
    state = load_training_state(other.training_state)
    save_training_state(run.training_state, state | {"config": own["config"]})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        resume_run(run.path, toy_store)


def test_resuming_a_finished_run_reports_it_and_names_the_next_command(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    train_run(small("train.epochs=1"), toy_store, path)
    result = CliRunner().invoke(app, ["train", "--resume", "--run-dir", str(path)])
    assert result.exit_code == 0
    shown = result.stderr.replace("\n", " ")
    assert "was finished before, after 1 epoch" in shown and "training on" not in shown
    assert f"elastictool sweep {path} " in shown
    written = (path / "report.html").stat().st_mtime_ns  # as if train was killed before it
    CliRunner().invoke(app, ["train", "--resume", "--run-dir", str(path)])
    assert (path / "report.html").stat().st_mtime_ns == written


def test_a_run_whose_state_was_deleted_is_not_trained_again_over_its_weights(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    train_run(small(), toy_store, run.path)
    run.training_state.unlink()
    before = run.best_weights.read_bytes()
    with pytest.raises(CheckpointError, match="nothing to resume") as caught:
        resume_run(run.path, toy_store)
    assert run.best_weights.read_bytes() == before
    assert f"init.path={run.last_weights}" in caught.value.hint


def test_what_is_left_of_a_run_is_offered(toy_store: PreparedStore, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    train_run(small("train.epochs=1"), toy_store, run.path)
    run.training_state.write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as damaged:
        resume_run(run.path, toy_store)
    assert f"init.path={run.last_weights}" in damaged.value.hint
    run.best_weights.unlink()
    with pytest.raises(UsageError) as missing:
        load_run(run.path)
    assert "--which last" in missing.value.hint
    run.last_weights.unlink()
    with pytest.raises(UsageError) as missing:
        load_run(run.path)
    assert f"train --resume --run-dir {run.path}" in missing.value.hint


# What is found wherever a run is


def test_a_run_finds_its_data_from_any_folder_and_after_a_move(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "toy").symlink_to(toy_store.path)
    monkeypatch.chdir(project)
    train_run(small("train.epochs=1"), PreparedStore.open(Path("data/toy")), Path("runs/a"))
    assert open_data("", load_run(Path("runs/a"))).path == Path("data/toy")
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for place in ("runs/a", "runs/a/checkpoints/last.safetensors"):
        assert open_data("", load_run(moved / place)).path == moved / "data" / "toy"
    result = CliRunner().invoke(app, ["train", "--resume", "--run-dir", str(moved / "runs" / "a")])
    assert result.exit_code == 0, result.output
    (moved / "data" / "toy").unlink()
    with pytest.raises(UsageError, match="is not there"):
        open_data("", load_run(moved / "runs" / "a"))
    assert resume_run(moved / "runs" / "a", toy_store).was_finished, "the user says where they are"


def test_a_run_to_start_from_is_called_by_name_and_never_looked_for_elsewhere(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("elastictool.pretrained.locate.from_hub", lambda name: 1 / 0)
    train_run(small("train.epochs=1"), toy_store, Path("runs/old"))
    new = small("train.epochs=1", "init.from=run", "init.path=old")
    train_run(new, toy_store, Path("runs/new"))
    report = json.loads(Path("runs/new/import_report.json").read_text())
    assert report["file"] == "runs/old/checkpoints/best.safetensors"
    with pytest.raises(UsageError, match="'owner/name'") as caught:
        describe(small("init.from=run", "init.path=owner/name"), toy_store)
    assert "new, old" in caught.value.hint


def test_clips_that_the_first_weights_were_trained_on_are_counted(
    toy_store: PreparedStore, tmp_path: Path, said: list[str]
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "old")
    start = ("train.epochs=1", "init.from=run", f"init.path={tmp_path / 'old'}")
    assert describe(small(*start), toy_store)["notes"] == []
    swapped = small(*start, "data.train_split=test", "data.test_split=train")
    train_run(swapped, toy_store, tmp_path / "new")
    (note,) = [line for line in said if line.startswith("note")]
    assert "was trained on 18 of 18 test clips of this run" in note
    assert describe(swapped, toy_store)["notes"] == [note.removeprefix("note: ")]


def test_the_first_line_names_what_is_trained_and_that_nothing_is_validated(
    toy_store: PreparedStore, tmp_path: Path, said: list[str]
) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "a")
    count = sum(value.numel() for value in weights(tmp_path / "a").values())
    assert said[0] == (
        "training on 18 clips of 3 classes, validating on 9, 9 to test; "
        f"{count:,} parameters; cpu, fp32"
    )
    assert not any("warning" in line for line in said)
    sets = ("train.epochs=1", "data.validation_split=none", "train.freeze=[blocks]")
    train_run(small(*sets), toy_store, tmp_path / "b")
    assert any("without validation clips" in line for line in said)
    assert any("learn)" in line for line in said)


def test_a_model_whose_outputs_overflow_is_reported(
    toy_store: PreparedStore, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    sets = ("train.head_lr_factor=1e30", "train.epochs=1")
    with pytest.raises(ElasticToolError, match="NaN or infinite"):
        train_run(small(*sets), toy_store, tmp_path / "run")
    assert not [warning for warning in recwarn if "invalid value" in str(warning.message)]


def test_data_in_folds_end_with_a_setting_and_not_with_a_command_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = write_toy_recordings(tmp_path)
    rows = listing.read_text("utf-8").splitlines()[1:]
    folds = [f"{row.rpartition(',')[0]},{number % 5 + 1}" for number, row in enumerate(rows)]
    listing.write_text("\n".join(["path,label,fold", *folds]) + "\n")
    store = prepare(PrepOptions("csv", listing, tmp_path / "data", name="folds"))
    sets = [word for setting in (*SMALL, "train.epochs=1") for word in ("--set", setting)]
    command = ["train", "--dataset", store.path, *sets]
    assert run_command(monkeypatch, *command, "--run-dir", tmp_path / "all") == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "next: elastictool eval" not in shown
    assert shown.count("--set data.test_fold=5 (its folds are: 1, 2, 3, 4, 5)") == 2
    one = [*command, "--set", "data.test_fold=5", "--run-dir", tmp_path / "one"]
    assert run_command(monkeypatch, *one) == 0
    assert f"next: elastictool eval {tmp_path / 'one'}," in " ".join(
        capsys.readouterr().err.split()
    )
    assert run_command(monkeypatch, "eval", tmp_path / "one") == 0
