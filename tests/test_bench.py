"""``elastictool bench``: every part measures what it names, and the timing is fair."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from elastictool.cli.app import app, main
from elastictool.cli.bench import loader_packing
from elastictool.config import AugmentConfig, FbankConfig, LengthConfig, PackingConfig
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.evaluation.bench import hugging_face, parts
from elastictool.evaluation.bench.loading import plan_batches
from elastictool.evaluation.bench.timing import interleaved, peak_memory_mb
from elastictool.evaluation.bench.workload import Workload, build_workload, epic_like, sample
from tests.helpers.children import Child
from tests.helpers.toy_data import toy_store

SMALL = ["--size", "tiny", "--depth", "1", "--clips", "3", "--rounds", "1"]
BENCH = parts.Bench(torch.device("cpu"), "fp32", rounds=1)


def small_workload() -> Workload:
    return build_workload(epic_like(5), "tiny", 1, PackingConfig(batch_clips=3, capacity=100))


def run(*arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(app, ["bench", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert isinstance(rows, list)
    return rows


def test_every_contender_takes_its_turn_first() -> None:
    firsts: list[str] = []
    calls = {name: (lambda name=name: firsts.append(name)) for name in "abc"}
    interleaved(calls, rounds=3, warmup_rounds=0)
    assert sorted(firsts[::3]) == ["a", "b", "c"]


def test_peak_memory_sees_what_a_call_allocates() -> None:
    peak = peak_memory_mb(lambda: torch.ones(50_000_000).sum(), torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell")
    assert 150 < peak < 400


def test_memory_that_an_earlier_call_has_left_behind_is_counted_again() -> None:
    def call() -> object:  # small pieces, which the allocator keeps
        return [torch.ones(2_000) for _ in range(5_000)]

    call()
    peak = peak_memory_mb(call, torch.device("cpu"))
    assert peak is None or 30 < peak < 100


def test_batches_hold_the_tokens_that_the_workload_counts() -> None:
    workload = small_workload()
    for padded_rows in (False, True):
        batches = workload.batches(padded_rows)
        assert [batch.num_clips for batch in batches] == [3, 2]
        assert sum(batch.layout.num_tokens for batch in batches) == sum(workload.tokens)


def test_flat_streams_are_filled_up_to_a_multiple() -> None:
    workload = small_workload()
    for filled, plain in zip(workload.batches(False, 128), workload.batches(False), strict=True):
        assert filled.layout.stream_length % 128 == 0 < plain.layout.stream_length % 128
        assert filled.layout.num_tokens == plain.layout.num_tokens


def test_an_optimizer_has_its_states_before_the_first_step_is_measured() -> None:
    model = torch.nn.Linear(3, 2)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = parts.ready_optimizer(model)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is None
        assert {"exp_avg", "exp_avg_sq"} <= set(optimizer.state[parameter])


def test_a_sample_keeps_the_distribution_of_durations() -> None:
    known = epic_like(1_000)
    few = sample(known, 50)
    assert len(few.seconds) == 50
    assert abs(few.seconds.mean() - known.seconds.mean()) < 0.2 * known.seconds.mean()


@pytest.mark.parametrize("training", [False, True])
def test_model_rows_hold_speed_memory_padding_and_utilisation(training: bool) -> None:
    rows = parts.measure_model(BENCH, small_workload(), training)
    assert [row["contender"] for row in rows] == ["split", "reference"]
    split, reference = rows
    assert split["padding_share"] == 0 < reference["padding_share"]
    assert reference["speed_against_reference"] == 1
    assert all(row["model_flops_utilisation"] > 0 for row in rows)


def test_training_moves_the_weights_and_inference_does_not() -> None:
    workload = small_workload()
    model = workload.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = model.head.weight.clone()
    batches = workload.batches(False)
    parts.run_model(BENCH, model, "split", batches, None)
    assert torch.equal(before, model.head.weight)
    parts.run_model(BENCH, model, "split", batches, optimizer)
    assert not torch.equal(before, model.head.weight)


def test_hugging_face_takes_the_same_clips() -> None:
    pytest.importorskip("transformers")
    workload = small_workload()
    ((name, call),) = hugging_face.contender(BENCH, workload, training=False).items()
    model = call.args[1]  # type: ignore[attr-defined]
    seen: list[torch.Size] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    call()
    assert name == "HF AST-1024"
    assert seen == [(3, 1_024, 128), (2, 1_024, 128)]


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    rows = run("attention", "fbank", "inference", *SMALL, "--out", str(tmp_path / "bench.json"))
    assert {row["part"] for row in rows} == {"attention", "fbank", "inference"}
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == rows


def test_without_parts_a_cpu_measures_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "measure_model", lambda *arguments: [])
    options = ["bench", "--clips", "2", "--rounds", "1", "--device", "cpu", "--json"]
    document = json.loads(CliRunner().invoke(app, options).stdout)
    assert document["model"] == {"size": "tiny", "depth": 2}
    assert {row["part"] for row in document["rows"]} == {"attention", "planners", "fbank"}
    options = ["bench", "planners", *options[1:]]
    document = json.loads(CliRunner().invoke(app, options).stdout)
    assert document["model"] == {"size": "small", "depth": 12}


def test_ctrl_c_ends_it_and_the_tables_so_far_are_shown(tmp_path: Path) -> None:
    child = Child(tmp_path, "bench", "planners", "train", *SMALL, "--rounds", "100000")
    while "sorted-window" not in child.shown() and child.process.is_alive():
        time.sleep(0.05)
    time.sleep(1)
    assert child.process.is_alive() and child.process.pid is not None, child.shown()
    os.kill(child.process.pid, signal.SIGINT)
    began = time.monotonic()
    assert child.wait(60) == 130, child.shown()
    assert time.monotonic() - began < 5
    assert "interrupted:" in child.shown() and "Traceback" not in child.shown()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4")
def test_without_arguments_it_is_quick_and_small() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "elastictool", "bench", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
    )
    shown = process.stdout.read() if process.stdout else ""
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0
    assert all(f"\n{part}\n" in f"\n{shown}" for part in ("attention", "train", "inference"))
    assert used.ru_maxrss < 2_000_000, "kilobytes"
    assert used.ru_utime + used.ru_stime < 60


def test_the_document_names_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    durations = tmp_path / "with spaces.csv"
    durations.write_text("seconds\n1\n2\n", "utf-8")
    argv = ["elastictool", "bench", "planners", "--durations", str(durations), *SMALL]
    monkeypatch.setattr(sys, "argv", [*argv, "--json", "--out", str(tmp_path / "bench.json")])
    with pytest.raises(SystemExit):
        main()
    wanted = f"elastictool bench planners --durations 'with spaces.csv' {' '.join(SMALL)}"
    assert json.loads(capsys.readouterr().out)["command"] == wanted


def test_the_loader_is_compared_with_what_a_model_consumes_in_the_same_run(tmp_path: Path) -> None:
    store = toy_store(tmp_path)
    rows = run("loader", "-d", str(store.path), "--workers", "0,1", *SMALL)
    assert [row["contender"] for row in rows] == [
        "a model 192 wide, 1 deep, in training",
        "complete, in the training process",
        "complete, 1 workers",
        "samples, in the training process",
        "samples, 1 workers",
    ]
    consumer, *ways = rows
    assert consumer["times_consumed"] is None
    for row in ways:
        ratio = row["tokens_per_second"] / consumer["tokens_per_second"]  # type: ignore[operator]
        assert row["times_consumed"] == pytest.approx(ratio)
        assert row["enough"] == (ratio >= 3)


@pytest.mark.parametrize("packing", [PackingConfig(batch_tokens=500), PackingConfig()])
@pytest.mark.parametrize("workers", [0, 3])
def test_the_loaders_batches_are_full_and_enough_for_all_workers(
    packing: PackingConfig, workers: int, tmp_path: Path
) -> None:
    feature_extractor = FeatureExtractor(
        FbankConfig(), LengthConfig(), (16, 16), (16, 16), 0.0, 1.0
    )
    data = ClipDataset(toy_store(tmp_path), feature_extractor, AugmentConfig(), cache_mb=0)
    plans = plan_batches(data, packing, [workers], 0)
    assert len(plans) > 3 * workers
    assert {view.clip for plan in plans for view in plan.crops} == set(range(len(data.store)))
    for plan in plans[:-1]:
        tokens = sum(feature_extractor.num_patches(view) for view in plan.crops)
        if packing.batch_tokens:
            assert 250 < tokens <= 500
        else:
            assert plan.num_crops == 12


def test_a_gpus_loader_is_compared_with_large_batches() -> None:
    def tokens(device: str, *asked: int) -> int:
        bench = parts.Bench(torch.device(device), "bf16")
        return loader_packing(bench, 12, *asked or (0,)).batch_tokens

    assert (tokens("cpu"), tokens("cuda"), tokens("cuda", 500)) == (0, 65_536, 500)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["speed"], "no part 'speed'"),
        (["--size", "huge"], "no model size"),
        (["--compare", "ghost"], "no model to compare with"),
        (["--precision", "fp8"], "'fp8' is not one of 'fp32', 'bf16'"),
        (["loader", "--workers", "x"], "--workers"),
    ],
)
def test_wrong_options_are_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert message in f"{result.exception}{result.output}"
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
