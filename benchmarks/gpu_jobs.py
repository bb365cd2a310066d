"""Define the jobs of ``benchmarks/gpu.py``, the most important first."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attention import RowsWithFusedKernel
from elastictool.config import (
    COMPILED_MULTIPLE,
    AugmentConfig,
    FbankConfig,
    LengthConfig,
    PackingConfig,
)
from elastictool.data.collate import Example, collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.raw import RawBatch, collate_raw
from elastictool.evaluation.bench.loading import Way, one_pass, plan_batches
from elastictool.evaluation.bench.parts import (
    TRAINING_PASSES,
    Bench,
    attention_backends,
    measure_attention,
    run_model,
)
from elastictool.evaluation.bench.timing import interleaved, matrix_product_peak, peak_memory_mb
from elastictool.evaluation.bench.workload import Workload, build_workload, sample
from elastictool.evaluation.durations import Durations
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.training.compilation import compile_blocks
from elastictool.training.predict_logits import autocast
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.rng import clip_rng

AGREEMENT = {"fp32": 1e-4, "bf16": 3e-2}
"""Largest relative difference from ``reference`` in float32 that counts as agreement."""
HALF_MARGIN = 1.5
"""Largest difference in bf16, as a multiple of that of ``reference`` in bf16."""
FEATURES = 1e-3
"""Largest difference of a normalised feature between host and device that counts as agreement."""
DENSE_TOKENS = 8_192
"""Four rows of L' = 2,048: more may not fit the dense mask's weights of all layers."""
MOST_WORKERS = 16
"""Where there are more cores than that, a container may not give them all."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """A measurement whose failure does not stop the others.

    Attributes:
        part: Key of the document under which its rows stand.
        label: What it measures.
        measure: Does so.
    """

    part: str
    label: str
    measure: Callable[[], Rows]

    @property
    def name(self) -> str:
        """Its own among all jobs."""
        return f"{self.part}: {self.label}"


@dataclass(frozen=True)
class Setup:
    """Settings and models shared by all jobs.

    Attributes:
        device: Where to measure.
        durations: Lengths of the clips.
        quick: A tiny model and few tokens.
    """

    device: torch.device
    durations: Durations
    quick: bool

    @property
    def size(self) -> str:
        """Of the model."""
        return "tiny" if self.quick else "base"

    @property
    def depth(self) -> int:
        """Blocks of the model."""
        return 2 if self.quick else 12

    @property
    def targets(self) -> list[int]:
        """Tokens of a step, the target's number first."""
        return [2_048] if self.quick else [65_536, 131_072, 16_384, 32_768]

    @property
    def dense_tokens(self) -> int:
        """Tokens of a step for the comparison with the dense mask."""
        return 512 if self.quick else DENSE_TOKENS

    @cached_property
    def peak(self) -> float:
        """Operations a second of a large bf16 matrix product."""
        return matrix_product_peak(self.device, torch.bfloat16)

    @property
    def bench(self) -> Bench:
        """Rounds and device of the measurements."""
        return Bench(self.device, "bf16", rounds=2 if self.quick else 5)

    @cached_property
    def fastest(self) -> str:
        """The attention that ``auto`` takes in bf16."""
        return attention_backends(self.bench)[0]

    @cached_property
    def eager(self) -> Trained:
        """The model without compilation."""
        return Trained(self, compiled=False)

    @cached_property
    def compiled(self) -> Trained:
        """The model with compiled blocks: one for all lengths and kinds of attention."""
        return Trained(self, compiled=True)

    def workload(self, tokens: int, depth: int = 0) -> Workload:
        """Return one batch of at least ``tokens`` tokens, and few more."""
        depth = depth or self.depth
        probe = build_workload(sample(self.durations, 256), self.size, depth)
        clips = max(2, math.floor(0.95 * 256 * tokens / sum(probe.tokens)))
        while True:
            packing = PackingConfig(planner="balanced", batch_clips=clips)
            found = build_workload(sample(self.durations, clips), self.size, depth, packing)
            if sum(found.tokens) >= tokens:
                return found
            clips += 1


class Trained:
    """A model with its optimiser, whose steps are measured."""

    def __init__(self, setup: Setup, compiled: bool) -> None:
        self.bench = setup.bench
        self.multiple = COMPILED_MULTIPLE if compiled else 1
        self.model = setup.workload(256).build_model().to(setup.device)
        if compiled:
            # Without a GPU only the jobs are tried: compiled C++ would take minutes.
            compile_blocks(self.model, "inductor" if setup.device.type == "cuda" else "aot_eager")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, workload: Workload, attention: str) -> Callable[[], object]:
        """Return a training step with this attention as a callable."""
        batches = batches_of(workload, self.bench.device, attention, self.multiple)
        return partial(run_model, self.bench, self.model, attention, batches, self.optimizer)


def all_jobs(setup: Setup, steps: Rows) -> Iterator[Job]:
    """Return all jobs, the most important first; ``steps`` collects the rows of training."""
    ATTENTION.register("rows-sdpa")(RowsWithFusedKernel())
    yield from agreement_jobs(setup)
    yield Job("features", "device against host", partial(features, setup))
    first, *others = setup.targets
    yield Job("training", f"{first:,} tokens", partial(training, setup, first))
    yield Job("dense_mask", f"{setup.dense_tokens:,} tokens", partial(dense_mask, setup))
    yield Job("input", f"{first:,} tokens", partial(input_share, setup, first))
    yield Job("loader", f"{first:,} tokens", partial(loader, setup, first, steps))
    for tokens in [*others, first]:
        yield Job("memory", f"{tokens:,} tokens", partial(memory, setup, tokens))
    for tokens in others:
        yield Job("training", f"{tokens:,} tokens", partial(training, setup, tokens))
    for precision in ("bf16", "fp32"):
        yield Job("attention", precision, partial(attention, setup, precision))
    yield Job("trainer", "a short run", partial(trainer, setup))


# Agreement


def agreement_jobs(setup: Setup) -> Iterator[Job]:
    """Return each backend and precision against ``reference`` in float32, on a small model."""
    for precision in ("fp32", "bf16"):
        for name in attention_backends(Bench(setup.device, precision)):
            label = f"{name}, {precision}"
            yield Job("agreement", label, partial(agreement, setup, name, precision))
    label = f"{setup.fastest}, bf16, compiled"
    yield Job("agreement", label, partial(agreement, setup, setup.fastest, "bf16", True))


def agreement(setup: Setup, name: str, precision: str, compiled: bool = False) -> Rows:
    """Compare logits and gradients with ``reference``, and check that clips do not mix."""
    workload = build_workload(sample(setup.durations, 9), "tiny", 3, PackingConfig(batch_clips=9))
    expected = _outputs(workload, setup, "reference", "fp32")
    found = _outputs(workload, setup, name, precision, compiled)
    differences = {what: _difference(found[what], expected[what]) for what in expected}
    allowed = dict.fromkeys(expected, AGREEMENT[precision])
    if precision == "bf16":
        half = _outputs(workload, setup, "reference", "bf16")
        for what in expected:
            own = _difference(half[what], expected[what])
            allowed[what] = max(allowed[what], HALF_MARGIN * own)
    alone = _others_unchanged(workload, setup, name, precision)
    close = all(differences[what] <= allowed[what] for what in expected)
    return [
        {
            "attention": name,
            "precision": precision,
            "compiled": compiled,
            **differences,
            "allowed": allowed,
            "others_unchanged": alone,
            "agrees": alone and close,
        }
    ]


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _outputs(
    workload: Workload, setup: Setup, attention: str, precision: str, compiled: bool = False
) -> dict[str, Tensor]:
    """Return the logits, and the gradient of all weights as one vector."""
    model = workload.build_model(attention).to(setup.device)
    if compiled:
        compile_blocks(model, "inductor" if setup.device.type == "cuda" else "aot_eager")
    (batch,) = batches_of(workload, setup.device, attention, COMPILED_MULTIPLE if compiled else 1)
    with autocast(setup.device, precision):
        logits = model(batch).float()
    weights = torch.linspace(-1, 1, logits.shape[1], device=setup.device)
    torch.autograd.backward((logits * weights).sum())
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {"logits": logits.detach(), "gradients": torch.cat(gradients)}


def _others_unchanged(workload: Workload, setup: Setup, attention: str, precision: str) -> bool:
    """Return whether other clips' logits keep every bit when the first clip's values change."""
    model: SpectrogramTransformer = workload.build_model(attention).to(setup.device)
    (batch,) = batches_of(workload, setup.device, attention)
    (group,) = batch.patch_groups
    first = batch.layout.segment_ids[group.token_indices] == 0
    patches = torch.where(first[:, None], -3 * group.patches, group.patches)
    other = replace(batch, patch_groups=(replace(group, patches=patches),))
    with torch.no_grad(), autocast(setup.device, precision):
        before, after = model(batch), model(other)
    return bool(torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0]))


def batches_of(
    workload: Workload, device: torch.device, attention: str, multiple: int = 1
) -> list[PackedBatch]:
    """Return the workload's batches on the device, laid out as the backend wants them."""
    padded_rows = ATTENTION[attention].padded_rows
    return [batch.to(device) for batch in workload.batches(padded_rows, multiple)]


def features(setup: Setup) -> Rows:
    """Compare features and masks computed on the device with those of the host."""
    rows = []
    frames = tuple(setup.workload(512).frames[:12])
    for config in (FbankConfig(), FbankConfig(shift_ms=7.3), EPIC):
        raw, spec = random_raw_batch(frames, config), _feature_extractor(config).pack_spec()
        packed = collate([list(_examples(frames, config, on_device=False))], spec)
        host = packed.patch_groups[0].patches
        batch = raw.to(setup.device, non_blocking=True).compute_features()
        patches = batch.patch_groups[0].patches.cpu()
        difference = float((patches - host).abs().max())
        blanks = torch.equal(patches == 0, host == 0)
        rows.append(
            {
                "frontend": config.frontend,
                "shift_ms": config.shift_ms,
                "largest_difference": difference,
                "same_blanks": blanks,
                "agrees": blanks and difference <= FEATURES,
            }
        )
    return rows


EPIC = FbankConfig(
    sample_rate_hz=24_000,
    frontend="epic-librosa",
    window_ms=10.0,
    shift_ms=5.0,
    preemphasis=0.0,
)


def random_raw_batch(frames: tuple[int, ...], config: FbankConfig) -> RawBatch:
    """Return a batch of noise of these lengths, masked as in training."""
    spec = _feature_extractor(config).pack_spec()
    return collate_raw([list(_examples(frames, config, on_device=True))], spec)


def _examples(frames: tuple[int, ...], config: FbankConfig, on_device: bool) -> Iterator[Example]:
    """Return examples of noise of these lengths."""
    end, rng = _feature_extractor(config), np.random.default_rng(0)
    for number, wanted in enumerate(frames):
        size = max(config.samples_for(wanted), 1)
        waveform = 0.1 * rng.standard_normal(size, dtype=np.float32)
        count = config.num_frames(size)
        found = end.raw_frames(waveform, 0, count) if on_device else end.frames(waveform)
        spectrogram = end.spectrogram(found, Crop(number, count, 0, count)).augmented(
            AugmentConfig(), partial(clip_rng, 0, 0, number)
        )
        fbank = spectrogram if on_device else spectrogram.computed()
        yield Example(fbank, torch.zeros(1), str(number), end.shift_ms)


def _feature_extractor(config: FbankConfig) -> FeatureExtractor:
    return FeatureExtractor(config, LengthConfig(), (16, 16), (16, 16), -6.0, 4.0)


# Speed


def training(setup: Setup, tokens: int) -> Rows:
    """Measure a bf16 training step on a stream of tokens, compiled and eager."""
    workload = setup.workload(tokens)
    calls = {
        f"{setup.fastest}, compiled": setup.compiled.step(workload, setup.fastest),
        setup.fastest: setup.eager.step(workload, setup.fastest),
    }
    if tokens == setup.targets[0]:
        others = [name for name in ("flex", "split") if name != setup.fastest]
        able = attention_backends(setup.bench)
        calls |= {name: setup.eager.step(workload, name) for name in others if name in able}
    return _timed(setup, workload, calls)


def dense_mask(setup: Setup) -> Rows:
    """Compare the stream with the paper's rows of 2,048 tokens and a dense mask."""
    workload = setup.workload(setup.dense_tokens)
    calls = {
        name: setup.eager.step(workload, name) for name in ("reference", "rows-sdpa", setup.fastest)
    }
    calls[f"{setup.fastest}, compiled"] = setup.compiled.step(workload, setup.fastest)
    rows = _timed(setup, workload, calls)
    spent = {row["attention"]: row["seconds"] for row in rows}
    return [
        row | {f"speed_against_{name}": spent[name] / row["seconds"] for name in spent}
        for row in rows
    ]


def _timed(setup: Setup, workload: Workload, calls: dict[str, Callable[[], object]]) -> Rows:
    for call in calls.values():
        call()
    seconds = interleaved(calls, setup.bench.rounds, warmup_rounds=1)
    tokens = sum(workload.tokens)
    return [
        {
            "tokens": tokens,
            "attention": label,
            "seconds": spent,
            "tokens_per_second": tokens / spent,
            "tflops": TRAINING_PASSES * workload.flops / spent / 1e12,
            "model_flops_utilisation": TRAINING_PASSES * workload.flops / spent / setup.peak,
            "matrix_product_tflops": setup.peak / 1e12,
        }
        for label, spent in seconds.items()
    ]


def memory(setup: Setup, tokens: int) -> Rows:
    """Return the memory of a step at its peak, beyond weights and optimiser."""
    workload = setup.workload(tokens)
    step = setup.eager.step(workload, setup.fastest)
    step()
    peak = peak_memory_mb(step, setup.device)
    return [{"tokens": sum(workload.tokens), "attention": setup.fastest, "peak_memory_mb": peak}]


def input_share(setup: Setup, tokens: int) -> Rows:
    """Measure the input of a step (samples to patches on the device) as a share of the step."""
    workload = setup.workload(tokens)
    raw = random_raw_batch(workload.frames, FbankConfig())
    pinned = setup.device.type == "cuda"
    raw = raw.pin_memory() if pinned else raw
    calls: dict[str, Callable[[], object]] = {
        "input": lambda: raw.to(setup.device, non_blocking=pinned).compute_features(),
        "copy": partial(raw.samples.to, setup.device, non_blocking=pinned),
        "step": setup.compiled.step(workload, setup.fastest),
    }
    seconds = interleaved(calls, setup.bench.rounds, warmup_rounds=1)
    return [
        {
            "tokens": sum(workload.tokens),
            "input_seconds": seconds["input"],
            "copy_seconds": seconds["copy"],
            "step_seconds": seconds["step"],
            "share_of_step": seconds["input"] / seconds["step"],
            "peak_memory_mb": peak_memory_mb(calls["input"], setup.device),
        }
    ]


def loader(setup: Setup, tokens: int, steps: Rows) -> Rows:
    """Compare the clips that loader workers deliver with those that the compiled step consumes.

    Raises:
        ElasticToolError: That step was not measured.
    """
    from elastictool.data.options import PrepOptions
    from elastictool.data.prepare import prepare

    found = [row for row in steps if row["attention"] == f"{setup.fastest}, compiled"]
    if not found:
        raise ElasticToolError("no step to hold the loader against", "see the error of training")
    consumed = found[0]["tokens_per_second"]
    way = Way(min(os.cpu_count() or 1, MOST_WORKERS), on_device=True)
    prefix_tokens = setup.workload(tokens).model.prefix_tokens
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(PrepOptions("synth", out=Path(folder), limit=30 if setup.quick else 300))
        data = ClipDataset(store, _feature_extractor(FbankConfig()), AugmentConfig(), cache_mb=0)
        plans = plan_batches(data, PackingConfig(batch_tokens=tokens), [way.workers], prefix_tokens)
        rates = [one_pass(way, setup.bench, data, plans)[1] for _ in range(1 if setup.quick else 3)]
    loaded = statistics.median(rates)
    return [
        {
            "workers": way.workers,
            "loaded_tokens_per_second": loaded,
            "consumed_tokens_per_second": consumed,
            "ratio": loaded / consumed,
        }
    ]


def attention(setup: Setup, precision: str) -> Rows:
    """Measure attention alone, forward and backward."""
    workload = setup.workload(setup.dense_tokens, depth=1)
    bench = Bench(setup.device, precision, rounds=setup.bench.rounds)
    return [row | {"precision": precision} for row in measure_attention(bench, workload)]


def trainer(setup: Setup) -> Rows:
    """Run the trainer for two epochs on rendered clips, with features on the host and the device.

    Shows whether pinned memory, background loading and the device's features work together.
    """
    from elastictool.config.loader import load_run_config
    from elastictool.data.options import PrepOptions
    from elastictool.data.prepare import prepare
    from elastictool.training.run import train_run

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(PrepOptions("synth", out=Path(folder) / "data", limit=60))
        for where in ("host", "device"):
            begin = time.perf_counter()
            sets = [
                "model.width=192", "model.heads=3", "model.depth=2", "train.epochs=2",
                "length.max_frames=256", f"train.device={setup.device.type}",
                f"train.fbank_on={where}", "train.prefetch=2", "train.precision=bf16",
            ]  # fmt: skip
            result = train_run(load_run_config(None, sets), store, Path(folder) / where)
            rows.append(
                {
                    "fbank_on": where,
                    "validation_loss": result.validation["loss"],
                    "seconds": time.perf_counter() - begin,
                }
            )
    return rows
