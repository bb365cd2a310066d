"""Retrieval mAP and equal error rate against plain definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve
from typer.testing import CliRunner

import elastictool
from elastictool.cli.app import app
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.inference.recordings import StoredClip
from elastictool.inference.vectors import read_vectors
from elastictool.metrics.retrieval import (
    equal_error_rate,
    pair_similarities,
    retrieval_map,
    verification_pairs,
)
from elastictool.utils.errors import UsageError
from tests.helpers.saved_runs import save_run
from tests.helpers.toy_data import toy_store, write_toy_recordings


def draw(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    labels = np.eye(classes, dtype=bool)[rng.integers(classes, size=count)]
    vectors = (labels @ rng.normal(size=(classes, 8)) + rng.normal(size=(count, 8))).astype("f4")
    return vectors, labels


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_map_equals_scikit_learn_query_by_query(seed: int) -> None:
    vectors, labels = draw(300, 5, seed)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = []
    for query in range(len(vectors)):
        others = np.arange(len(vectors)) != query
        relevant = (labels[query] & labels).any(1)[others]
        expected.append(average_precision_score(relevant, cosines[query][others]))
    found, queries = retrieval_map(vectors, labels)
    assert queries == 300
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_clip_without_another_of_its_class_is_no_query() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    vectors = np.array([[1, 0], [1, 0.1], [0, 1]], dtype=np.float32)
    assert retrieval_map(vectors, labels) == (1.0, 2)
    value, queries = retrieval_map(vectors[1:], labels[1:])
    assert np.isnan(value) and queries == 0


@pytest.mark.parametrize("seed", range(3))
def test_equal_error_rate_lies_where_the_roc_curve_crosses_the_diagonal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.random(4_000) < 0.3
    scores = rng.normal(size=4_000) + 1.5 * same
    accepted, detected, _ = roc_curve(same, scores, drop_intermediate=False)
    crossing = np.argmin(np.abs(accepted - (1 - detected)))
    assert equal_error_rate(scores, same) == pytest.approx(accepted[crossing], abs=2e-3)


def test_equal_error_rate_of_perfect_blind_and_reversed_scores() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([4.0, 3.0, 2.0, 1.0]), same) == 0
    assert equal_error_rate(np.ones(4), same) == pytest.approx(0.5)
    assert equal_error_rate(np.array([1.0, 2.0, 3.0, 4.0]), same) == 1
    assert np.isnan(equal_error_rate(np.ones(2), np.array([True, True])))


def test_few_clips_give_all_pairs_and_many_a_seeded_balanced_draw() -> None:
    vectors, labels = draw(40, 4, 0)
    pairs, same = verification_pairs(labels)
    assert len(pairs) == 40 * 39 // 2
    assert (same == (labels[pairs[:, 0]] & labels[pairs[:, 1]]).any(1)).all()
    some, alike = verification_pairs(labels, most=200)
    np.testing.assert_array_equal(some, verification_pairs(labels, most=200)[0])
    assert len(some) <= 200 and (some[:, 0] < some[:, 1]).all()
    assert 0.35 < alike.mean() < 0.75
    cosines = pair_similarities(vectors, some)
    first = vectors[some[0]] / np.linalg.norm(vectors[some[0]], axis=1, keepdims=True)
    assert cosines[0] == pytest.approx(first[0] @ first[1], abs=1e-6)


def test_embed_measures_a_prepared_dataset_and_keeps_its_vectors(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy")
    run = save_run(tmp_path / "run", store)
    out = tmp_path / "test.npz"
    command = ["embed", "-d", str(store.path), "-r", str(run), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    test_clips = [store.ids[i] for i in range(len(store)) if store.splits[i] == "test"]
    assert document["clips"] == len(test_clips) == len(read_vectors(out).names)
    assert 0 < document["retrieval_map"] <= 1 and 0 <= document["equal_error_rate"] <= 1


@pytest.mark.parametrize(
    ("labels", "note", "unmeasured"),
    [("abcd", "no two clips share a class", 2), ("aaaa", "all clips are of one class", 1)],
)
def test_what_cannot_be_measured_is_a_dash_with_its_reason(
    labels: str, note: str, unmeasured: int, tmp_path: Path
) -> None:
    run = save_run(tmp_path / "run", toy_store(tmp_path / "toy"))
    rows = [f"toy/{number:03d}.wav,{label},test\n" for number, label in enumerate(labels)]
    (tmp_path / "few.csv").write_text("path,label,split\n" + "".join(rows))
    few = prepare(PrepOptions("csv", tmp_path / "few.csv", tmp_path / "data", name="few"))
    shown = CliRunner().invoke(app, ["embed", "--dataset", str(few.path), "--run", str(run)])
    assert "nan" not in shown.output and note in shown.stderr
    assert shown.stdout.count(" – ") == unmeasured


def test_embed_cuts_the_clips_of_a_dataset_to_the_given_length(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy")
    run, out = save_run(tmp_path / "run", store), tmp_path / "test.npz"
    command = ["embed", "-d", str(store.path), "-r", str(run), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--window", "0.2", "--hop", "0.1"])
    assert result.exit_code == 0, result.output
    table, model = read_vectors(out), elastictool.load(run)
    clips = [StoredClip(store, list(store.ids).index(name)) for name in table.names]
    expected = model.embed(clips, elastictool.WindowRule(0.2, 0.1))
    np.testing.assert_allclose(table.vectors, expected, atol=1e-6)
    assert table.meta and (table.meta.window_s, table.meta.hop_s) == (0.2, 0.1)
    refused = CliRunner().invoke(app, [*command, "--hop", "0.1"])
    assert isinstance(refused.exception, UsageError)


def test_vectors_are_measured_on_classes_that_the_model_does_not_know(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", toy_store(tmp_path / "toy"))
    listing = write_toy_recordings(tmp_path, clips_per_class=8)
    text = listing.read_text().replace("low", "dull").replace("high", "bright")
    listing.write_text(text)
    store = prepare(PrepOptions("csv", listing, tmp_path / "other", name="other"))
    command = ["embed", "-d", str(store.path), "-r", str(run), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "not the data" in result.stderr
    assert json.loads(result.stdout)["queries"] == 6
