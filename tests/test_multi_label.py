"""Clips with several labels, end to end: BCE, mAP, thresholds of validation, F1, honest gaps."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.config import RunConfig
from elastictool.config.loader import load_run_config
from elastictool.data.dataset import ClipDataset
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import Evaluation, evaluate_run, save_evaluation
from elastictool.metrics.classification import class_probabilities
from elastictool.metrics.thresholds import best_thresholds
from elastictool.training.predict_logits import score_clips
from elastictool.training.run import resume_run, train_run
from elastictool.utils.errors import Interrupted, UsageError
from tests.helpers.training import Hooks, records

RATE_HZ = 16_000
PARTS = (("low",), ("high",), ("noise",), ("low", "high"), ("low", "noise"), ("high", "noise"))
SETTINGS = (
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "length.max_frames=64",
    "train.loss=bce",
    "train.lr=5e-3",
    "train.epochs=24",
    "packing.batch_clips=8",
    "augment.frequency_mask=0",
    "augment.time_mask=0",
)


def settings(*more: str) -> RunConfig:
    return load_run_config(None, [*SETTINGS, *more])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    """Mixtures of a low tone, a high tone and noise; ``rare`` is in one training clip only."""
    folder = tmp_path_factory.mktemp("mixtures")
    rng, rows = np.random.default_rng(5), []
    for number in range(96):
        labels, split = PARTS[number % 6], ("train", "train", "val", "test")[number // 6 % 4]
        time = np.arange(int(RATE_HZ * rng.uniform(0.3, 0.5))) / RATE_HZ
        sound = 0.003 * rng.standard_normal(len(time))
        for label, pitch_hz in (("low", 200.0), ("high", 3000.0)):
            sound += (label in labels) * 0.2 * np.sin(2 * np.pi * pitch_hz * time)
        sound += ("noise" in labels) * 0.1 * rng.standard_normal(len(time))
        soundfile.write(folder / f"{number:03d}.wav", sound, RATE_HZ)
        rows.append([f"{number:03d}.wav", "|".join((*labels, *["rare"] * (number == 3))), split])
    listing = folder / "clips.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return prepare(PrepOptions("csv", listing, folder / "data", name="mixtures"))


@pytest.fixture(scope="module")
def trained(store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "mixtures"
    train_run(settings("train.average_epochs=[23, 24]"), store, path)
    return path


@pytest.fixture(scope="module")
def evaluation(store: PreparedStore, trained: Path) -> Evaluation:
    return evaluate_run(load_run(trained), store)


def epochs(path: Path) -> list[dict[str, Any]]:
    lines = (path / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "epoch"]


def chosen_on_validation(run: LoadedRun, store: PreparedStore) -> np.ndarray:
    clips = select_clips(store, run.config.data, run.config.seed).validation
    scores = score_clips(run.model, ClipDataset(store, run.feature_extractor), clips)
    return best_thresholds(class_probabilities(scores.logits, "bce"), scores.targets)


def test_bce_learns_every_label_of_a_mixture(evaluation: Evaluation) -> None:
    assert evaluation.metrics.values["map"] > 0.9
    assert evaluation.decisions["at_thresholds"]["metrics"]["micro_f1"] > 0.8


def test_cross_entropy_is_refused(store: PreparedStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several labels") as caught:
        train_run(settings("train.loss=ce"), store, tmp_path / "run")
    assert "train.loss=bce" in caught.value.hint


def test_the_best_weights_are_those_with_the_highest_map(trained: Path) -> None:
    scores = [record["val_map"] for record in epochs(trained)]
    assert load_run(trained).metrics["epoch"] == 1 + int(np.argmax(scores))
    assert {record["selection_metric"] for record in epochs(trained)} == {"map"}


@pytest.mark.parametrize("which", ["best", "last", "averaged"])
def test_the_weights_carry_thresholds_chosen_with_them_on_validation(
    store: PreparedStore, trained: Path, which: Any
) -> None:
    run = load_run(trained, which)
    expected = chosen_on_validation(run, store)
    assert np.allclose(run.thresholds, expected, rtol=1e-5, equal_nan=True)
    assert np.isnan(run.thresholds).tolist() == [name == "rare" for name in run.label_names]


def test_the_thresholds_stand_in_the_results_for_people(trained: Path) -> None:
    run = load_run(trained)
    with (trained / "results" / "thresholds.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(run.label_names)
    for name, threshold in zip(run.label_names, run.thresholds, strict=True):
        text = rows[name]["threshold"]
        assert (text == "" and np.isnan(threshold)) or float(text) == threshold
    assert rows["rare"]["validation_positives"] == "0" and rows["rare"]["validation_f1"] == ""


def test_weights_saved_within_an_epoch_do_not_carry_thresholds_of_other_weights(
    store: PreparedStore, tmp_path: Path
) -> None:
    def stop_in_the_second_epoch(step: int) -> None:
        if records(tmp_path / "run", "epoch"):
            signal.raise_signal(signal.SIGINT)

    stop = Hooks(stop_in_the_second_epoch)
    with pytest.raises(Interrupted):
        train_run(settings("train.epochs=2"), store, tmp_path / "run", progress=stop)
    assert load_run(tmp_path / "run", "last").thresholds == ()
    assert len(load_run(tmp_path / "run", "best").thresholds) == 4
    resume_run(tmp_path / "run", store)
    assert len(load_run(tmp_path / "run", "last").thresholds) == 4


def test_thresholds_never_come_from_the_evaluated_clips(
    store: PreparedStore, trained: Path
) -> None:
    run = load_run(trained)
    bare = dataclasses.replace(run, thresholds=())
    for split in ("test", "train"):
        evaluation = evaluate_run(bare, store, split)
        assert evaluation.decisions["thresholds_from"] == "validation"
        found = [row["threshold"] for row in evaluation.class_rows()]
        assert np.allclose(found, np.nan_to_num(run.thresholds, nan=0.5))
        assert not evaluation.decisions["chosen_on_these_clips"]
    on_validation = evaluate_run(run, store, "validation").decisions
    assert on_validation["chosen_on_these_clips"]


def test_without_validation_clips_there_is_f1_at_a_half_only(
    store: PreparedStore, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    train_run(settings("data.validation_split=none", "train.epochs=1"), store, path)
    run = load_run(path)
    assert run.thresholds == () and not (path / "results" / "thresholds.csv").exists()
    judged = evaluate_run(run, store).decisions
    assert judged["thresholds_from"] == "none" and judged["at_thresholds"] is None
    assert 0 <= judged["at_default"]["metrics"]["micro_f1"] <= 1


def test_eval_reports_f1_at_thresholds_and_at_a_half_and_every_class(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    files = save_evaluation(tmp_path, evaluation, {})
    assert [file.name for file in files] == ["eval_test.json", "per_class_test.csv"]
    document = json.loads(files[0].read_text())
    decisions = document["decisions"]
    assert decisions["thresholds_from"] == "weights"
    assert decisions["classes_without_threshold"] == 1
    for key in ("at_thresholds", "at_default"):
        low, high = decisions[key]["intervals"]["micro_f1"]
        assert low <= decisions[key]["metrics"]["micro_f1"] <= high
    rows = {row["class"]: row for row in csv.DictReader(files[1].open())}
    assert rows["rare"]["average_precision"] == rows["rare"]["auc"] == rows["rare"]["f1"] == ""
    assert float(rows["rare"]["threshold"]) == 0.5
    assert float(rows["low"]["average_precision"]) > 0.8 and float(rows["low"]["auc"]) > 0.8
    scored = [float(row["average_precision"]) for name, row in rows.items() if name != "rare"]
    assert document["metrics"]["map"] == pytest.approx(np.mean(scored))
    assert document["left_out"]["classes_without_positives"] == 1


def test_a_validation_part_without_any_label_to_rank_does_not_stop_training(
    store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no metric has a value, the last weights are the best, and the log stays JSON."""
    original = ClipDataset.targets

    def none_in_validation(self: ClipDataset, clip: int) -> Any:
        targets = original(self, clip)
        return targets * 0 if store.splits[clip] == "val" else targets

    monkeypatch.setattr(ClipDataset, "targets", none_in_validation)
    result = train_run(settings("train.epochs=2"), store, tmp_path / "run")
    assert set(result.validation) == {"loss"} and result.best_epoch == -1
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert load_run(tmp_path / "run").metrics["epoch"] == 2
