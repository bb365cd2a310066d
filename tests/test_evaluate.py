"""Evaluation of a saved run on prepared clips: the files it writes, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.errors import CheckpointError, ElasticToolError, UsageError
from elastictool.evaluation.evaluate import (
    class_probabilities,
    evaluate_run,
    finite,
    front_end_at,
    save_evaluation,
)
from elastictool.training.checkpoint import LoadedRun, load_run
from tests.saved_runs import save_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return prepare("synth", out=tmp_path_factory.mktemp("data"), limit=48)


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory, store: PreparedStore) -> LoadedRun:
    return load_run(save_run(tmp_path_factory.mktemp("runs") / "elastic", store))


def test_scores_come_in_the_order_of_the_split(elastic: LoadedRun, store: PreparedStore) -> None:
    clips = select_clips(store, elastic.config.data, 0).test
    result = evaluate_run(elastic, store)
    assert list(result.scores.clip_ids) == store.ids[clips].tolist()
    assert np.array_equal(result.scores.targets, [store.targets(clip) for clip in clips])
    assert result.metrics.clips == len(clips) and result.trained_on_these_data is True


def test_top1_is_what_the_logits_say(elastic: LoadedRun, store: PreparedStore) -> None:
    result = evaluate_run(elastic, store, "train")
    hits = result.scores.logits.argmax(1) == result.scores.targets.argmax(1)
    assert result.metrics.values["top1"] == hits.mean()
    low, high = result.intervals["top1"]
    assert low <= hits.mean() <= high


def test_a_length_beyond_the_longest_clip_changes_nothing(
    elastic: LoadedRun, store: PreparedStore
) -> None:
    native, beyond = evaluate_run(elastic, store), evaluate_run(elastic, store, length=3_000)
    assert np.array_equal(native.scores.logits, beyond.scores.logits)
    shorter = evaluate_run(elastic, store, length=40)
    assert shorter.scores.cut_frames > 0 and shorter.scores.tokens < native.scores.tokens
    assert not np.allclose(shorter.scores.logits, native.scores.logits)


def test_a_fixed_length_model_can_be_evaluated_on_native_lengths(
    tmp_path: Path, store: PreparedStore
) -> None:
    run = load_run(save_run(tmp_path / "fixed", store, "elasticast", fixed_frames=400))
    own, native = evaluate_run(run, store), evaluate_run(run, store, length="native")
    per_clip = math.prod(run.front_end.longest_grid())
    assert own.scores.tokens == per_clip * own.metrics.clips
    assert native.scores.tokens != own.scores.tokens
    assert front_end_at(run.front_end, "native").length.fixed_frames == 0


def test_results_are_valid_json_and_a_per_class_table(
    tmp_path: Path, elastic: LoadedRun, store: PreparedStore
) -> None:
    result = evaluate_run(elastic, store, "test", 64)
    document, table, _ = save_evaluation(tmp_path, result, {"checkpoint": "best"})
    assert (document.name, table.name) == ("eval_test_64.json", "per_class_test_64.csv")

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    read = json.loads(document.read_text(), parse_constant=refuse)
    assert read["checkpoint"] == "best" and read["length"] == "64"
    assert read["metrics"]["top1"] == result.metrics.values["top1"]
    rows = list(csv.DictReader(table.open()))
    assert [row["class"] for row in rows] == store.info.label_names
    assert sum(int(row["positives"]) for row in rows) == read["clips"]


def test_values_that_are_not_finite_become_null() -> None:
    assert [finite(value) for value in (math.inf, -math.inf, math.nan, np.float64("nan"))] == [
        None
    ] * 4
    assert finite(np.int64(3)) == 3 and finite(0.5) == 0.5


def test_other_classes_are_refused(elastic: LoadedRun, store: PreparedStore) -> None:
    names = ("other", *elastic.label_names[1:])
    with pytest.raises(CheckpointError, match="class 0 is 'other' there") as caught:
        evaluate_run(dataclasses.replace(elastic, label_names=names), store)
    assert caught.value.exit_code == 4
    with pytest.raises(CheckpointError, match="classes there"):
        evaluate_run(dataclasses.replace(elastic, label_names=elastic.label_names[:-1]), store)


def test_an_unknown_or_empty_split_is_a_usage_error(
    elastic: LoadedRun, store: PreparedStore
) -> None:
    with pytest.raises(UsageError, match="unknown split"):
        evaluate_run(elastic, store, "tset")
    data = dataclasses.replace(elastic.config.data, test_split="nowhere")
    run = dataclasses.replace(elastic, config=dataclasses.replace(elastic.config, data=data))
    with pytest.raises(UsageError, match=r"test split of .* is empty"):
        evaluate_run(run, store)


def test_a_diverged_model_is_reported(tmp_path: Path, store: PreparedStore) -> None:
    run = load_run(save_run(tmp_path / "broken", store))
    with torch.no_grad():
        run.model.norm.weight.fill_(math.nan)
    with pytest.raises(ElasticToolError, match="are NaN or infinite"):
        evaluate_run(run, store)


def test_other_data_are_noticed(tmp_path: Path, store: PreparedStore) -> None:
    run = load_run(save_run(tmp_path / "moved", store))
    environment = run.path / "environment.json"
    environment.write_text(json.dumps({"data_fingerprint": "another"}))
    assert evaluate_run(run, store).trained_on_these_data is False
    environment.unlink()
    assert evaluate_run(run, store).trained_on_these_data is None


def test_probabilities_keep_confident_scores_apart() -> None:
    logits = np.array([[60.0, 40.0, 0.0], [61.0, 40.0, 0.0]], dtype=np.float32)
    softmax = class_probabilities(logits, "ce")
    assert np.allclose(softmax.sum(1), 1) and softmax[1, 1] < softmax[0, 1]
    sigmoid = class_probabilities(np.array([[-800.0, 0.0, 30.0, 35.0]], dtype=np.float32), "bce")
    assert sigmoid[0, 1] == 0.5 and sigmoid[0, 2] < sigmoid[0, 3] and np.isfinite(sigmoid).all()
