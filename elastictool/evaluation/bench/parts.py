"""Measure the parts for ``elastictool bench``: one function a part, which returns table rows.

Contenders of a part take turns within one run, and each row names its ratio to the part's
baseline: ratios carry over to other machines, times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elastictool.audio.fbank import fbank
from elastictool.audio.torchaudio_compat import load_torchaudio
from elastictool.config import FbankConfig
from elastictool.evaluation.bench.timing import interleaved, matrix_product_peak, peak_memory_mb
from elastictool.evaluation.bench.workload import Workload
from elastictool.models.attention.base import ATTENTION, FASTEST_FIRST, AttentionInputs
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import SegmentLayout
from elastictool.packing.stream import known_planners, plan_stream
from elastictool.training.predict_logits import autocast

Row = dict[str, Any]
TRAINING_PASSES = 3
"""Forward and backward in units of a forward pass, the usual count."""


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Attributes:
        device: Where models run.
        precision: ``fp32`` or ``bf16``.
        rounds: Timed rounds of each contender.
    """

    device: torch.device
    precision: str
    rounds: int = 5

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def attention_backends(bench: Bench) -> list[str]:
    """Returns the backends that can train here, the fastest first and ``reference`` last."""
    inputs = AttentionInputs(bench.device, bench.dtype)
    able = [name for name in FASTEST_FIRST if not ATTENTION[name].unsupported(inputs)]
    return [*able, "reference"]


def measure_model(
    bench: Bench,
    workload: Workload,
    training: bool,
    others: Mapping[str, Callable[[], object]] | None = None,
) -> list[Row]:
    """Measures a training step, or inference, of the whole model with each attention backend.

    Args:
        bench: How to measure.
        workload: Clips and model.
        training: Forward, backward and update; else forward only.
        others: More contenders over the same clips, for example Hugging Face's model.
    """
    model = workload.build_model().to(bench.device)
    optimizer = ready_optimizer(model) if training else None
    calls: dict[str, Callable[[], object]] = {}
    padding: dict[str, float] = {}
    for name in attention_backends(bench):
        batches = [b.to(bench.device) for b in workload.batches(ATTENTION[name].padded_rows)]
        calls[name] = partial(run_model, bench, model, name, batches, optimizer)
        stream_length = sum(batch.layout.stream_length for batch in batches)
        padding[name] = 1 - sum(batch.layout.num_tokens for batch in batches) / stream_length
    calls |= others or {}
    if bench.device.type == "cuda":  # what only a first call needs is not counted
        for call in calls.values():
            call()
    memory = {name: peak_memory_mb(call, bench.device) for name, call in calls.items()}
    seconds = interleaved(calls, bench.rounds, warmup_rounds=1)
    flops = workload.flops * (TRAINING_PASSES if training else 1)
    peak = matrix_product_peak(bench.device, bench.dtype)
    return [
        {
            "part": "train" if training else "inference",
            "contender": name,
            "clips_per_second": len(workload.frames) / spent,
            "tokens_per_second": sum(workload.tokens) / spent if name in padding else None,
            "speed_against_reference": seconds["reference"] / spent,
            "peak_memory_mb": memory[name],
            "padding_share": padding.get(name),
            "model_flops_utilisation": flops / spent / peak if name in padding else None,
        }
        for name, spent in seconds.items()
    ]


def run_model(
    bench: Bench,
    model: SpectrogramTransformer,
    attention: str,
    batches: list[PackedBatch],
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Runs one pass over ``batches``; with an optimiser, a training step on each."""
    model.attention = attention
    run_batches(bench, model, batches, optimizer, lambda logits: logits)


def run_batches(
    bench: Bench,
    model: torch.nn.Module,
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer | None,
    logits_of: Callable[[Any], Tensor],
) -> None:
    """Runs any model as ``run_model`` does; ``logits_of`` takes the logits out of its output.

    Training lowers a loss that costs nothing to compute.
    """
    model.train(optimizer is not None)
    for batch in batches:
        with torch.set_grad_enabled(optimizer is not None):
            with autocast(bench.device, bench.precision):
                logits = logits_of(model(batch))
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(logits.float().logsumexp(dim=1).mean())
                optimizer.step()


def ready_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Returns Adam with its states allocated, which would else count as memory of the first step.

    A warm-up call would allocate them too, but on a CPU its memory stays with the process, whose
    growth is measured.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient no weight moves
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def measure_attention(bench: Bench, workload: Workload) -> list[Row]:
    """Measures attention alone, forward and backward; the baseline is ``reference``."""

    def attend(name: str, streams: list[Tensor], layouts: list[SegmentLayout]) -> None:
        for stream, layout in zip(streams, layouts, strict=True):
            q, k, v = stream.unbind()
            out = ATTENTION[name](q, k, v, layout, q.shape[-1] ** -0.5)
            torch.autograd.grad(out.float().sum(), stream)

    heads, calls = workload.model.heads, {}
    head_width = workload.model.width // heads
    for name in attention_backends(bench):
        batches = workload.batches(ATTENTION[name].padded_rows)
        layouts = [batch.layout.to(bench.device) for batch in batches]
        streams = [torch.randn(3, layout.stream_length, heads, head_width) for layout in layouts]
        streams = [stream.to(bench.device, bench.dtype).requires_grad_() for stream in streams]
        calls[name] = partial(attend, name, streams, layouts)
    seconds = interleaved(calls, bench.rounds, warmup_rounds=1)
    return [
        {
            "part": "attention",
            "contender": name,
            "tokens_per_second": sum(workload.tokens) / spent,
            "speed_against_reference": seconds["reference"] / spent,
        }
        for name, spent in seconds.items()
    ]


def measure_planners(workload: Workload) -> list[Row]:
    """Measures planning time and padding of each planner over the workload's clips."""
    tokens = np.array(workload.tokens, dtype=np.int64)
    rows: list[Row] = []
    for name in known_planners():
        packing = replace(workload.packing, planner=name)
        begin = time.perf_counter()
        plan_stream(tokens, packing).batches()
        spent = time.perf_counter() - begin
        processed = plan_stream(tokens, packing).processed_tokens(tokens)
        rows.append(
            {
                "part": "planners",
                "contender": name,
                "clips_per_second": len(tokens) / spent,
                "padding_share": 1 - int(tokens.sum()) / processed,
            }
        )
    return rows


def measure_fbank(bench: Bench) -> list[Row]:
    """Measures frames of 10 s on the device, and on a CPU in comparison with torchaudio's."""
    config, baseline = FbankConfig(), "torchaudio fbank"
    waveform = 0.1 * torch.randn(10 * config.sample_rate_hz)
    moved = waveform.to(bench.device)
    calls: dict[str, Callable[[], object]] = {
        baseline: partial(torchaudio_fbank, waveform, config),
        "elastictool": partial(fbank, waveform, config),
    }
    if bench.device.type != "cpu":
        calls[f"elastictool on {bench.device.type}"] = partial(fbank, moved, config)
    seconds = interleaved(calls, 10 * bench.rounds)
    return [
        {
            "part": "fbank",
            "contender": name,
            "clips_per_second": 1 / spent,
            "milliseconds": 1e3 * spent,
            "speed_against_torchaudio": seconds[baseline] / spent,
        }
        for name, spent in seconds.items()
    ]


def torchaudio_fbank(waveform: Tensor, config: FbankConfig) -> Tensor:
    """Returns torchaudio's frames (T, F) with the same settings."""
    frames: Tensor = load_torchaudio().compliance.kaldi.fbank(
        waveform[None] - waveform.mean(),
        htk_compat=True,
        sample_frequency=config.sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=config.num_mel_bins,
        dither=0.0,
        frame_shift=config.shift_ms,
    )
    return frames
