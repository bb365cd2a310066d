"""TensorBoard shows what metrics.jsonl holds, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.data.store import PreparedStore
from elastictool.training.run import resume_run, train_run
from elastictool.training.state import save_training_state
from elastictool.utils.errors import Interrupted, UsageError
from elastictool.utils.optional import install_command
from tests.helpers.toy_data import hide_module
from tests.helpers.training import small, train_and_stop

pytest.importorskip("tensorboard")
ON = ("train.tensorboard=true", "train.average_epochs=[1, 2]")


def shown(path: Path) -> dict[str, list[tuple[int, float]]]:
    """All (step, value) pairs by name, as TensorBoard reads them, duplicates included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(path.glob("tensorboard/events*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = float(tensor_util.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def logged(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """The same from metrics.jsonl, for what is a number there."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for record in RunDirectory(path).records():
        for name in record.keys() - {"kind", "step"}:
            if isinstance(record[name], (int, float)):
                pair = (record["step"], pytest.approx(record[name], rel=1e-6))
                found.setdefault(f"{record['kind']}/{name}", []).append(pair)
    return found


def test_every_number_of_the_log_is_shown(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small(*ON), toy_store, tmp_path / "run")
    found = shown(tmp_path / "run")
    assert found == logged(tmp_path / "run")
    wanted = {"step/loss", "step/lr", "step/grad_norm", "epoch/val_top1", "averaged/val_map"}
    assert wanted <= found.keys()


@pytest.mark.parametrize("every", [0, 3])
def test_a_resumed_run_shows_no_step_twice_and_none_too_few(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    config, path = small(*ON, f"train.checkpoint_steps={every}"), tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        if every:  # as after kill -9: the steps since the last save happen again
            patched.setattr("elastictool.training.trainer.save_training_state", _save_early)
        train_and_stop(config, toy_store, path, 5)
    assert [step for step, _ in shown(path)["step/loss"]] == [1, 2, 3, 4, 5]
    resume_run(path, toy_store)
    assert shown(path) == logged(path)
    assert [step for step, _ in shown(path)["step/loss"]] == [1, 2, 3, 4, 5, 6]


def _save_early(path: Path, state: Any) -> None:
    if state["state"]["step"] <= 3:
        save_training_state(path, state)


def test_without_the_package_the_run_is_refused_before_anything_is_written(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_module(monkeypatch, "tensorboard")
    with pytest.raises(UsageError, match="needs the extra tensorboard") as caught:
        train_run(small(*ON), toy_store, tmp_path / "run")
    assert install_command("tensorboard") in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_unasked(toy_store: PreparedStore, tmp_path: Path) -> None:
    train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
