"""Evaluation of a saved run on prepared clips: the files it writes, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elastictool.checkpoint.weights import LoadedRun, load_run, save_weights
from elastictool.cli.clip_output import write_predictions
from elastictool.cli.options import parse_split
from elastictool.data.dataset import ClipDataset
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import (
    class_probabilities,
    evaluate_run,
    feature_extractor_at,
    finite,
    save_evaluation,
)
from elastictool.inference.model import ElasticModel
from elastictool.inference.recordings import Array
from elastictool.reporting.evaluations import notes, read_evaluation, score_rows
from elastictool.reporting.run_report import write_report
from elastictool.reporting.runs import summarise
from elastictool.training.predict_logits import Scores, score_clips
from elastictool.utils.errors import CheckpointError, ElasticToolError, Interrupted, UsageError
from elastictool.utils.signals import Stopped, stoppable
from tests.helpers.saved_runs import save_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return prepare(PrepOptions("synth", out=tmp_path_factory.mktemp("data"), limit=48))


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


def test_a_stop_is_heard_while_metrics_are_computed(
    elastic: LoadedRun, store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Scores] = []

    def score(*arguments: Any, **options: Any) -> Scores:
        scored.append(score_clips(*arguments, **options))
        return scored[0]

    def between() -> None:
        if scored:
            raise Stopped

    monkeypatch.setattr("elastictool.evaluation.evaluate.score_clips", score)
    with pytest.raises(Stopped):
        evaluate_run(elastic, store, between=between)


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
    per_clip = math.prod(run.feature_extractor.longest_grid())
    assert own.scores.tokens == per_clip * own.metrics.clips
    assert native.scores.tokens != own.scores.tokens
    assert feature_extractor_at(run.feature_extractor, "native").length.fixed_frames == 0


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


def test_scores_of_weights_that_a_run_has_no_more_are_not_shown_as_its_own(
    tmp_path: Path, store: PreparedStore
) -> None:
    path = save_run(tmp_path / "run", store)
    (path / "metrics.jsonl").write_text("")
    run = load_run(path)
    (document, *_) = save_evaluation(path, evaluate_run(run, store), {"checkpoint": "best"})
    recorded = json.loads(document.read_text())["weights"]
    assert recorded == {"epoch": 1, "step": 1, "sha256": run.weights_sha256}
    before = summarise(path)
    assert before.test is not None and not before.problem
    later = {"epoch": 2, "step": 7}
    save_weights(run.file, run.model, dataclasses.replace(run.metadata, metrics=later))
    after = summarise(path)
    assert after.test is None
    assert list(after.evaluations) == ["test (earlier weights (step 1, now 7))"]
    assert "eval_test.json: of weights that the run has no more" in after.problem
    assert "earlier weights (step 1, now 7)" in read_evaluation(path, "test").title
    page = write_report(path)[-1].read_text()
    assert "earlier weights (step 1, now 7)" in page
    save_evaluation(path, evaluate_run(load_run(path), store), {"checkpoint": "best"})
    assert summarise(path).test is not None


def test_a_run_without_best_weights_names_those_that_it_has(
    tmp_path: Path, store: PreparedStore
) -> None:
    path = save_run(tmp_path / "run", store)
    (path / "checkpoints" / "best.safetensors").rename(path / "checkpoints" / "last.safetensors")
    with pytest.raises(UsageError, match=r"holds no best\.safetensors") as caught:
        load_run(path)
    assert "--which last" in caught.value.hint


def test_clips_that_are_cut_are_counted_and_reported(
    elastic: LoadedRun, store: PreparedStore
) -> None:
    frames = ClipDataset(store, elastic.feature_extractor).native_frames
    clips = select_clips(store, elastic.config.data, 0).test
    limit = int(np.sort(frames[clips])[-3])
    short = dataclasses.replace(
        elastic, feature_extractor=feature_extractor_at(elastic.feature_extractor, limit)
    )
    result = evaluate_run(short, store, length="native").document()
    cut = int((frames[clips] > limit).sum())
    assert 0 < cut == result["cut_clips"] and result["limit_frames"] == limit
    assert f"{cut} of {len(clips)} clips were cut at {limit:,} frames" in " ".join(notes(result))
    assert not [line for line in notes(evaluate_run(elastic, store).document()) if "cut" in line]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predictions_are_the_scores_of_the_evaluation_and_of_predict(
    elastic: LoadedRun, store: PreparedStore, tmp_path: Path, suffix: str
) -> None:
    result = evaluate_run(elastic, store)
    file = write_predictions(tmp_path / f"clips.{suffix}", result, elastic, store)
    if suffix == "csv":
        rows = list(csv.DictReader(file.open()))
        truth = [(row["recording"], row["label"]) for row in rows if row["truth"] == "yes"]
        first = [(row["label"], float(row["score"])) for row in rows if row["rank"] == "1"]
        assert len(rows) == len(result.scores.clip_ids) * len(elastic.label_names)
    else:
        documents = [json.loads(line) for line in file.read_text().splitlines()]
        truth = [(item["recording"], name) for item in documents for name in item["truth"]]
        first = [tuple(item["labels"][0].values()) for item in documents]
    names = elastic.label_names
    targets = result.scores.targets.argmax(1)
    assert truth == [(c, names[t]) for c, t in zip(result.scores.clip_ids, targets, strict=True)]
    clip = int(np.flatnonzero(store.ids == result.scores.clip_ids[0])[0])
    sound = Array(store.waveform(clip), store.info.sample_rate_hz)
    (prediction,) = ElasticModel(elastic).predict(sound, top=1)
    assert first[0][0] == prediction.labels[0][0]
    assert first[0][1] == pytest.approx(prediction.labels[0][1], abs=1e-5)


def test_the_split_has_both_of_its_names_and_the_backend_is_reported(
    elastic: LoadedRun, store: PreparedStore
) -> None:
    assert parse_split("val") == parse_split("validation") == "validation"
    with pytest.raises(UsageError, match="no part"):
        parse_split("tset")
    assert evaluate_run(elastic, store).document()["attention"] == "split"


def test_an_evaluation_stops_between_batches(elastic: LoadedRun, store: PreparedStore) -> None:
    with pytest.raises(Interrupted, match="nothing"), stoppable("nothing is written", "") as stop:
        signal.raise_signal(signal.SIGINT)
        evaluate_run(elastic, store, between=stop.check)


def test_top_5_is_shown_with_more_than_five_classes_only(
    elastic: LoadedRun, store: PreparedStore
) -> None:
    document = evaluate_run(elastic, store).document()
    assert "Top-5 accuracy, %" in [name for name, _ in score_rows(document)]
    for classes, shown in ((6, True), (5, False), (2, False)):
        few = document | {"per_class": document["per_class"][:classes]}
        assert ("Top-5 accuracy, %" in [name for name, _ in score_rows(few)]) is shown
    assert document["metrics"]["top5"] > 0


def test_values_that_are_not_finite_become_null() -> None:
    assert [finite(value) for value in (math.inf, -math.inf, math.nan, np.float64("nan"))] == [
        None
    ] * 4
    assert finite(np.int64(3)) == 3 and finite(0.5) == 0.5


def test_other_classes_are_refused(elastic: LoadedRun, store: PreparedStore) -> None:
    names = ("other", *elastic.label_names[1:])
    with pytest.raises(CheckpointError, match="it does not know 'sweep-up'") as caught:
        evaluate_run(dataclasses.replace(elastic, label_names=names), store)
    assert caught.value.exit_code == 4
    with pytest.raises(CheckpointError, match=f"it does not know '{elastic.label_names[-1]}'"):
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
