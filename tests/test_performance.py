"""The performance page is made from the committed measurements alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import performance
from benchmarks.gpu import PARTS, Session
from benchmarks.gpu_jobs import Job
from benchmarks.processes import StepClock, measured, timed_sums
from benchmarks.scaling import balanced, in_turn, kept_bytes, lognormal
from elastictool.config import PackingConfig
from elastictool.data.store import PreparedStore
from elastictool.evaluation.bench.workload import build_workload
from elastictool.evaluation.durations import Durations
from elastictool.training.distributed import Ranks
from elastictool.training.run import train_run
from tests.helpers.training import records, small


def test_the_page_is_up_to_date() -> None:
    text = performance.PAGE.read_text("utf-8")
    assert text == performance.page(), "run: python -m benchmarks.performance"


def test_without_a_gpu_no_target_is_judged() -> None:
    text = performance.gpu_section(None)
    assert text.count(performance.NO_GPU) == len(performance.GPU_TARGETS) == 4
    assert "reached" not in text and "missed" not in text


def gpu_document(**parts: Any) -> dict[str, Any]:
    environment = {
        "date": "2026-01-01", "torch": "2", "gpu": "G", "cpu": "C", "load_average": 1, "cores": 2,
    }  # fmt: skip
    empty = {part: [] for part in PARTS}
    more = {"jobs": {}, "model": {"attention": "varlen"}}
    return {"command": "c", "environment": environment, "errors": [], **more, **empty} | parts


def test_targets_are_compared_with_a_gpus_document() -> None:
    step = {"attention": "varlen, compiled", "tokens_per_second": 1.0}
    other = step | {"attention": "flex"}
    dense = {"tokens": 8, "model_flops_utilisation": 0.1}
    document = gpu_document(
        training=[
            step | {"tokens": 131_072, "model_flops_utilisation": 0.8},
            step | {"tokens": 65_536, "model_flops_utilisation": 0.5},
            step | {"tokens": 16_384, "model_flops_utilisation": 0.9},
            other | {"tokens": 65_536, "model_flops_utilisation": 0.7},
        ],
        dense_mask=[
            step | dense | {"speed_against_reference": 4.0},
            other | dense | {"speed_against_reference": 9.0},
        ],
        input=[{"share_of_step": 0.02}],
        memory=[{"tokens": 1, "peak_memory_mb": 1.0}, {"tokens": 2, "peak_memory_mb": 3.0}],
        errors=[{"part": "trainer", "job": "a short run", "error": "no soundfile"}],
        agreement=[{"agrees": True}, {"agrees": False}],
        features=[{"agrees": True}],
    )
    values = [target.found(document) for target in performance.GPU_TARGETS]
    assert values == [0.5, 4.0, 0.02, 1.5]
    text = performance.gpu_section(document)
    assert (text.count("| reached"), text.count("**missed**")) == (2, 2)
    assert "1 of 2 backends" in text and "no soundfile" in text
    assert "features agree with" in text and "loader" not in text


def test_the_loader_is_shown_where_it_was_measured() -> None:
    row = {
        "workers": 16, "loaded_tokens_per_second": 2e6, "consumed_tokens_per_second": 5e5,
        "ratio": 4.0,
    }  # fmt: skip
    text = performance.gpu_section(gpu_document(loader=[row]))
    assert "16 workers" in text and "4.0 times" in text and "2,000,000 tokens/s" in text


def test_a_part_without_result_is_not_measured() -> None:
    text = performance.gpu_section(gpu_document())
    assert text.count("not measured") == 4
    assert "features were not compared" in text


def test_what_one_job_breaks_the_others_survive(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    session = Session(gpu_document(), path, limit_s=60)

    def fail() -> list[dict[str, Any]]:
        raise RuntimeError("CUDA error: misaligned address")

    session.run(Job("agreement", "varlen, bf16", fail))
    session.run(Job("training", "1 tokens", lambda: [{"tokens": 1}]))
    written = json.loads(path.read_text("utf-8"))
    assert written["training"] == [{"tokens": 1}]
    assert written["agreement"][0]["agrees"] is False  # what failed does not agree
    assert "misaligned" in written["errors"][0]["error"]
    session.limit_s = 0
    session.run(Job("memory", "late", fail))
    assert "time is up" in json.loads(path.read_text("utf-8"))["errors"][1]["error"]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_ranks_hold_all_tokens_and_balanced_ones_nearly_as_many(count: int) -> None:
    batch = np.random.default_rng(0).integers(8, 1_536, size=48 * count)
    for share in (in_turn, balanced):
        loads = share(batch, count)
        assert len(loads) == count and sum(loads) == batch.sum()
    assert max(balanced(batch, count)) <= 1.02 * batch.sum() / count


def test_steps_are_counted_from_the_second_epoch_on() -> None:
    first = {"steps": [[9.0, 9.0], [2.0, 2.0], [3.0, 1.0]]}
    alone = measured([first | {"waiting": [], "summing": []}])
    assert alone == {
        "steps": 4, "seconds_per_step": 2.0, "waiting_share": 0.0, "summing_share": 0.0
    }  # fmt: skip
    notes = {"waiting": [9.0, 9.0, 0.0, 0.0, 1.0, 0.0], "summing": [9.0, 9.0, 0.5, 0.5, 0.5, 0.5]}
    other = {"steps": [], "waiting": [9.0, 9.0, 1.0, 1.0, 1.0, 0.0], "summing": notes["summing"]}
    assert measured([first | notes, other]) == {
        "steps": 4, "seconds_per_step": 2.0, "waiting_share": 0.25, "summing_share": 0.25
    }  # fmt: skip


def test_a_clock_notes_each_step_of_a_run(toy_store: PreparedStore, tmp_path: Path) -> None:
    clock = StepClock()
    train_run(small("train.epochs=2"), toy_store, tmp_path / "run", progress=clock)
    steps = len(records(tmp_path / "run", "step"))
    assert [len(epoch) for epoch in clock.epochs] == [steps / 2, steps / 2]
    assert all(seconds > 0 for epoch in clock.epochs for seconds in epoch)


def test_waiting_and_summing_are_noted_apart_and_sums_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "all_reduce", Ranks.all_reduce)  # put back afterwards
    notes = timed_sums()
    assert Ranks().all_reduce([], torch.tensor(2.0), [3]) == (2.0, [3])
    assert [len(seconds) for seconds in notes.values()] == [1, 1]


def test_measured_processes_stand_above_simulated_ranks() -> None:
    row = {"steps": 24.0, "waiting_share": 0.0, "summing_share": 0.0, "clips_per_second": 24.0}
    both = [
        row | {"processes": 1, "seconds_per_step": 1.0, "speed_up": 1.0},
        row | {"processes": 2, "seconds_per_step": 0.5, "speed_up": 2.0, "summing_share": 0.034},
    ]
    document = gpu_document(
        rows=both, model={"size": "tiny", "depth": 4}, batch_clips=24, rounds=3, command="c"
    )
    text = performance.processes(document)
    assert "| 2 | 0.50 | 24.0 | 2.00× | 3.4 | 0.0 |" in text and "| 1.00× | – | – |" in text
    names = list(performance.SECTIONS)
    assert names.index("processes") < names.index("ranks")


def test_memory_kept_for_training_is_linear_in_tokens() -> None:
    def kept(seconds: list[float], attention: str) -> tuple[int, int]:
        durations = Durations(np.array(seconds), "stand-in", "")
        packing = PackingConfig(batch_clips=len(seconds))
        workload = build_workload(durations, "tiny", 1, packing)
        return kept_bytes(workload, attention), sum(workload.tokens)

    few, tokens = kept([1.0, 2.5, 4.0], "split")
    many, more_tokens = kept([1.0, 2.5, 4.0] * 4, "split")
    assert more_tokens == 4 * tokens and many == pytest.approx(4 * few, rel=0.01)
    dense, _ = kept([1.0, 2.5, 4.0], "reference")
    more_dense, _ = kept([1.0, 2.5, 4.0] * 4, "reference")
    assert more_dense > 6 * dense


def test_lengths_of_any_spread_have_one_mean() -> None:
    for sigma in (0.0, 0.4, 1.2):
        seconds = lognormal(sigma, 12).seconds
        assert seconds.mean() == pytest.approx(3.0)
        assert (seconds.std() > 0) == (sigma > 0)
