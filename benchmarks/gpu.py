"""What only a GPU can show: that the CUDA paths agree with ``reference``, and how fast they are.

    python -m benchmarks.gpu --json docs/results/gpu.json [--quick]

One command, under eight minutes on one GPU. First agreement (logits, gradients, segments that
never mix), then speed: attention backends at several stream lengths, training of the base model
against a measured matrix-product peak, memory against tokens, the filterbank's share of a step.
The document says which device and versions it was made with; ``docs/performance.md`` is made from
it. ``--device cpu --quick`` runs the same code without a GPU, to see that the script works.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig, PackingConfig
from elastictool.evaluation.bench.parts import (
    TRAINING_PASSES,
    Bench,
    attention_backends,
    measure_attention,
    run_model,
)
from elastictool.evaluation.bench.timing import (
    environment,
    interleaved,
    matrix_product_peak,
    peak_memory_mb,
)
from elastictool.evaluation.bench.workload import Workload, build_workload, epic_like, sample
from elastictool.evaluation.durations import Durations, read_durations
from elastictool.files import write_json
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.batch import PackedBatch
from elastictool.training.scoring import autocast

AGREEMENT = {"fp32": 1e-4, "bf16": 3e-2}
"""Largest relative difference from ``reference`` in float32 that counts as agreement."""

Rows = list[dict[str, Any]]


def main() -> None:
    """Check, measure, print, and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--durations", type=Path, help="CSV of clips' durations")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny model, few clips")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    durations = read_durations(args.durations) if args.durations else epic_like(4_096)
    size, depth = ("tiny", 2) if args.quick else ("base", 12)
    targets = [2_048] if args.quick else [16_384, 32_768, 65_536, 131_072]
    document = {
        "command": "python -m benchmarks.gpu" + (" --quick" if args.quick else ""),
        "environment": environment(),
        "clips": durations.label,
        "model": {"size": size, "depth": depth},
        "agreement": agreement(device, durations),
        "attention": attention(device, durations, size, targets[0]),
        "training": training(device, durations, size, depth, targets),
        "filterbank": filterbank(device, durations, size, depth, targets[-1]),
    }
    failed = [row for row in document["agreement"] if not row["agrees"]]
    for part in ("agreement", "attention", "training", "filterbank"):
        print(part, *document[part], sep="\n  ")
    if args.json is not None:
        write_json(args.json, document)
    if failed:
        raise SystemExit(f"{len(failed)} disagreements with reference")


def agreement(device: torch.device, durations: Durations) -> Rows:
    """Each backend and precision against ``reference`` in float32, on a small model."""
    workload = build_workload(sample(durations, 9), "tiny", 3, PackingConfig(batch_clips=9))
    expected = _outputs(workload, device, "reference", "fp32")
    rows: Rows = []
    for precision in ("fp32", "bf16"):
        for name in attention_backends(Bench(device, precision)):
            found = _outputs(workload, device, name, precision)
            differences = {
                what: float((found[what] - expected[what]).norm() / expected[what].norm())
                for what in expected
            }
            rows.append(
                {
                    "attention": name,
                    "precision": precision,
                    **differences,
                    "others_unchanged": _others_unchanged(workload, device, name, precision),
                }
            )
            rows[-1]["agrees"] = rows[-1]["others_unchanged"] and all(
                difference <= AGREEMENT[precision] for difference in differences.values()
            )
    return rows


def _outputs(
    workload: Workload, device: torch.device, attention: str, precision: str
) -> dict[str, Tensor]:
    """Logits, and the gradient of all weights as one vector."""
    model = workload.build_model(attention).to(device)
    (batch,) = _batches(workload, device, attention)
    with autocast(device, precision):
        logits = model(batch).float()
    torch.autograd.backward((logits * torch.linspace(-1, 1, logits.shape[1], device=device)).sum())
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {"logits": logits.detach(), "gradients": torch.cat(gradients)}


def _others_unchanged(
    workload: Workload, device: torch.device, attention: str, precision: str
) -> bool:
    """Whether other clips' logits keep every bit when the first clip's values change."""
    model = workload.build_model(attention).to(device)
    (batch,) = _batches(workload, device, attention)
    with torch.no_grad(), autocast(device, precision):
        before = model(batch)
        group = batch.patch_groups[0]
        first = batch.layout.segment_ids[group.slots] == 0
        group.patches[first] *= -3
        after = model(batch)
    return bool(torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0]))


def _batches(workload: Workload, device: torch.device, attention: str) -> list[PackedBatch]:
    return [batch.to(device) for batch in workload.batches(ATTENTION[attention].padded_rows)]


def attention(device: torch.device, durations: Durations, size: str, tokens: int) -> Rows:
    """Attention alone, forward and backward, in both precisions."""
    workload = _workload_of(durations, size, 1, tokens)
    return [
        row | {"precision": precision}
        for precision in ("fp32", "bf16")
        for row in measure_attention(Bench(device, precision, rounds=5), workload)
    ]


def training(
    device: torch.device, durations: Durations, size: str, depth: int, targets: list[int]
) -> Rows:
    """A bf16 training step by backend and stream length, eager and compiled."""
    bench = Bench(device, "bf16", rounds=5)
    peak = matrix_product_peak(device, bench.dtype)
    rows: Rows = []
    for tokens in targets:
        workload = _workload_of(durations, size, depth, tokens)
        names = attention_backends(bench)
        if tokens > targets[0]:  # the dense mask is measured once, at the shortest stream
            names = names[:1]
        calls, memory = {}, {}
        for name in names:
            for compiled in (False, True):
                label = f"{name}, compiled" if compiled else name
                calls[label] = _step(bench, workload, name, compiled)
                calls[label]()
                memory[label] = peak_memory_mb(calls[label], device)
        seconds = interleaved(calls, bench.rounds, warmup_rounds=1)
        rows += [
            {
                "tokens": sum(workload.tokens),
                "attention": label,
                "tokens_per_second": sum(workload.tokens) / spent,
                "model_flops_utilisation": TRAINING_PASSES * workload.flops / spent / peak,
                "peak_memory_mb": memory[label],
            }
            for label, spent in seconds.items()
        ]
    return rows


def _step(bench: Bench, workload: Workload, attention: str, compiled: bool) -> Callable[[], object]:
    model = workload.build_model(attention).to(bench.device)
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=bench.device.type == "cuda")
    return partial(
        run_model,
        bench,
        model,
        attention,
        _batches(workload, bench.device, attention),
        optimizer,
    )


def _workload_of(durations: Durations, size: str, depth: int, tokens: int) -> Workload:
    """One batch with about so many tokens."""
    probe = build_workload(sample(durations, 256), size, depth)
    clips = max(2, round(256 * tokens / sum(probe.tokens)))
    return build_workload(
        sample(durations, clips), size, depth, PackingConfig(planner="balanced", batch_clips=clips)
    )


def filterbank(
    device: torch.device, durations: Durations, size: str, depth: int, tokens: int
) -> Rows:
    """Filterbanks of a step's clips, computed on the device, against the step itself."""
    bench = Bench(device, "bf16")
    workload = _workload_of(durations, size, depth, tokens)
    config = FbankConfig()
    waveforms = [
        torch.randn(config.samples_for(frames), device=device) for frames in workload.frames
    ]

    def analyse() -> None:
        for waveform in waveforms:
            fbank(waveform, config)

    step = _step(bench, workload, attention_backends(bench)[0], compiled=False)
    seconds = interleaved({"filterbank": analyse, "step": step}, rounds=3, warmup_rounds=1)
    return [
        {
            "tokens": sum(workload.tokens),
            "filterbank_seconds": seconds["filterbank"],
            "step_seconds": seconds["step"],
            "share_of_step": seconds["filterbank"] / seconds["step"],
        }
    ]


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s")
