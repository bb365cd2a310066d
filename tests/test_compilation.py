"""Compiled blocks: the same numbers as eager ones, and no new code for other batches."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from elastictool.config import ModelConfig
from elastictool.data.store import PreparedStore
from elastictool.packing.batch import PackedBatch
from elastictool.training.compilation import check_compiler, compile_blocks, warm_up
from elastictool.training.predict_logits import autocast
from elastictool.training.run import resume_run, train_run
from elastictool.utils.errors import ElasticToolError, Interrupted, UsageError
from tests.helpers.small_models import MODELS, make_batch, make_fbanks, make_model
from tests.helpers.training import records, same, small, train_and_stop, weights

LENGTHS = [[[20, 9, 31], [4, 48, 20]], [[48]], [[12, 12, 12, 12]], [[8, 40], [30], [47]]]
"""Frames of the clips in the rows of some batches, all of different token counts."""


def batches(config: ModelConfig, dtype: torch.dtype) -> list[PackedBatch]:
    rows = [[make_fbanks(row, seed) for row in batch] for seed, batch in enumerate(LENGTHS)]
    return [make_batch(config, batch).astype(dtype) for batch in rows]


def outcome(model: Callable[[PackedBatch], Tensor], batch: PackedBatch) -> list[Tensor]:
    """Logits, and the gradient of every parameter."""
    logits = model(batch)
    (logits * torch.arange(1.0, logits.shape[1] + 1)).sum().backward()
    assert isinstance(model, torch.nn.Module)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return [logits.detach(), *grads]


@pytest.mark.parametrize("name", ["elasticast", "ast"])
def test_traced_blocks_equal_eager_ones_and_one_trace_serves_all_blocks_and_batches(
    name: str,
) -> None:
    eager = make_model(MODELS[name])
    compiled = copy.deepcopy(eager)
    compile_blocks(compiled, "aot_eager")
    counters.clear()
    for batch in batches(eager.config, torch.float64):
        for wanted, found in zip(outcome(eager, batch), outcome(compiled, batch), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert counters["stats"]["unique_graphs"] == 3, "before, between and after attentions"
    assert not counters["graph_break"]


def test_warming_up_changes_no_weight_gradient_or_random_state() -> None:
    config = dataclasses.replace(MODELS["ast"], dropout=0.2)
    model = make_model(config, torch.float32)
    compile_blocks(model, "aot_eager")
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    warm_up(model, batches(model.config, torch.float32)[0], "fp32", validating=True)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_after_warming_up_neither_training_nor_validation_compiles_again() -> None:
    model = make_model(MODELS["elasticast"], torch.float32)
    compile_blocks(model, "aot_eager")
    first, *others = batches(model.config, torch.float32)
    warm_up(model, first, "fp32", validating=True)
    counters.clear()
    for batch in others:
        model.train()
        outcome(model, batch)
        model.eval()
        with torch.inference_mode():
            model(batch)
    assert not counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fifty_random_batches_are_compiled_for_once(precision: str) -> None:
    """Once before, between and after attentions, however many clips and tokens a batch has."""
    model = make_model(MODELS["elasticast"], torch.float32)
    compile_blocks(model, "eager")
    draw = np.random.default_rng(0)
    counters.clear()
    sizes = set()
    for number in range(50):
        lengths = draw.integers(4, 48, size=draw.integers(1, 9)).tolist()
        rows = [make_fbanks(lengths, number)]
        batch = make_batch(model.config, rows, multiple=16).astype(torch.float32)
        sizes.add(batch.layout.stream_length)
        with autocast(torch.device("cpu"), precision):
            outcome(model, batch)
    assert counters["stats"]["unique_graphs"] == 3
    assert len(sizes) > 5 and not any(size % 16 for size in sizes)


def test_streams_are_filled_up_where_code_is_compiled() -> None:
    assert small().pad_to_multiple_of == 1
    assert small("train.compile=true").pad_to_multiple_of == 128
    assert small("train.compile=true", "packing.pad_to_multiple_of=1").pad_to_multiple_of == 1
    assert small("packing.pad_to_multiple_of=8").pad_to_multiple_of == 8


def test_filling_streams_up_changes_nothing_that_is_learnt(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    for multiple in (1, 64):
        sets = f"packing.pad_to_multiple_of={multiple}"
        train_run(small(sets), toy_store, tmp_path / str(multiple))
    plain, filled = (weights(tmp_path / name) for name in ("1", "64"))
    assert all(torch.allclose(plain[name], filled[name], rtol=0, atol=1e-5) for name in plain)
    shares = [records(tmp_path / name, "epoch")[0]["padding_share"] for name in ("1", "64")]
    assert shares[0] == 0 < shares[1]


def test_a_compiler_that_fails_is_a_clear_error() -> None:
    def failing(*arguments: object) -> None:
        raise RuntimeError("no headers here")

    model = make_model(MODELS["elasticast"], torch.float32)
    compile_blocks(model, failing)
    with pytest.raises(ElasticToolError, match="could not be compiled") as caught:
        warm_up(model, batches(model.config, torch.float32)[0], "fp32", validating=True)
    assert "no headers here" in caught.value.message
    assert "train.compile=false" in caught.value.hint


def test_without_a_compiler_the_run_is_refused_before_anything_is_written(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    with pytest.raises(UsageError, match=r"C\+\+ compiler") as caught:
        train_run(small("train.compile=true"), toy_store, tmp_path / "run")
    assert "no-such-compiler" in caught.value.message
    assert "train.compile=false" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_a_compiler_in_the_variable_cxx_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "python3")
    check_compiler("cpu")


def test_on_cuda_a_run_is_refused_where_triton_has_no_c_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    with pytest.raises(UsageError, match="no-such-compiler") as caught:
        check_compiler("cuda:0")
    assert "train.compile=false" in caught.value.hint
    monkeypatch.setenv("CC", "python3")
    check_compiler("cuda")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_learns_what_an_eager_one_learns_and_resumes_to_the_last_bit(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    # Without validation clips nothing is compiled for inference: the test is half as long.
    sets = ("model.depth=2", "data.validation_split=none", "model.dropout=0.2", "train.lr=3e-3")
    config = small(*sets, "train.compile=true")
    train_run(config, toy_store, tmp_path / "whole")
    counters.clear()
    with pytest.raises(Interrupted):
        train_and_stop(config, toy_store, tmp_path / "parts", 4)
    assert counters["stats"]["unique_graphs"] == 3
    resume_run(tmp_path / "parts", toy_store)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    # Streams filled up alike, or dropout would draw other numbers.
    train_run(small(*sets, "packing.pad_to_multiple_of=128"), toy_store, tmp_path / "eager")
    compiled, eager = (records(tmp_path / name, "step") for name in ("parts", "eager"))
    assert [r["loss"] for r in compiled] == pytest.approx([r["loss"] for r in eager], rel=1e-4)
