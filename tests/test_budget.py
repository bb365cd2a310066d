"""A budget chosen at inference: patch size and resolution in eval, predict, embed and in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import elastictool
from elastictool.checkpoint.weights import load_run
from elastictool.cli.app import app
from elastictool.data.dataset import ClipDataset
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import evaluate_run
from elastictool.evaluation.sweep import SweepOptions, sweep
from elastictool.training.predict_logits import score_clips
from elastictool.utils.errors import UsageError
from tests.helpers.saved_runs import save_run


@pytest.fixture(scope="module")
def run(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "elastic", toy_store)


def test_eval_at_a_budget_is_the_point_of_the_sweep(run: Path, toy_store: PreparedStore) -> None:
    loaded = load_run(run)
    _, patches = sweep("patch_size", [loaded], toy_store, [40], SweepOptions(split="train"))
    _, sparse = sweep("resolution", [loaded], toy_store, [2.0], SweepOptions(split="train"))
    for budget, point in (({"patch_size": 40}, patches), ({"compression": 2.0}, sparse)):
        result = evaluate_run(loaded.with_tokens(**budget), toy_store, "train")
        assert result.metrics.values["top1"] == point.value
        assert result.scores.tokens == point.tokens


def test_predictions_at_a_budget_are_those_of_the_changed_feature_extractor(
    run: Path, toy_store: PreparedStore
) -> None:
    arrays = [toy_store.waveform(clip) for clip in range(4)]
    model = elastictool.load(run, device="cpu", patch_size=32, resolution=2)
    feature_extractor = load_run(run).feature_extractor.at_patch_size((32, 32)).at_compression(2)
    scores = score_clips(model.run.model, ClipDataset(toy_store, feature_extractor), [0, 1, 2, 3])
    wanted = torch.from_numpy(scores.logits).softmax(1).numpy()
    found = np.stack([item.windows.mean for item in model.predict(arrays, sample_rate_hz=16_000)])
    assert np.allclose(found, wanted, atol=1e-5)
    own = np.stack(
        [item.windows.mean for item in elastictool.load(run).predict(arrays, sample_rate_hz=16_000)]
    )
    assert not np.allclose(found, own, atol=1e-3)


@pytest.mark.parametrize("budget", [{"patch_size": 0}, {"patch_size": 129}, {"compression": 0.0}])
def test_budgets_that_make_no_sense_are_refused(run: Path, budget: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"is not within|is below"):
        load_run(run).with_tokens(**budget)  # type: ignore[arg-type]


def test_eval_command_keeps_results_of_a_budget_apart(run: Path, toy_store: PreparedStore) -> None:
    arguments = ["eval", str(run), "-d", str(toy_store.path), "--split", "train", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--patch-size", "32", "--resolution", "1.5"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["budget"] == "patch_32_resolution_1.5"
    assert (run / "results" / "eval_train_patch_32_resolution_1.5.json").exists()
    assert not (run / "results" / "eval_train.json").exists()
