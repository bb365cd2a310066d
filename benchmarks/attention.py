"""Compare attention backends in training steps and inference of a whole ViT-S.

    python -m benchmarks.attention [--durations EPIC_Sounds_validation.csv] [--json FILE] [--quick]

``split`` runs over the flat stream, ``reference`` over the paper's padded rows with a dense mask.
A third contender, those rows through the fused kernel with the same mask, shows how much of the
difference is the layout and how much the kernel. One thread, processor time; a batch holds
12 clips and rows of up to 2,048 tokens (ElasticAST, Sections 2.2 and 3.2). All contenders in both
precisions take turns in one run, so bf16 can be compared with float32, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.config import SIZES, FbankConfig, LengthConfig, ModelConfig, PackingConfig
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.evaluation.bench.timing import environment, interleaved
from elastictool.evaluation.bench.workload import epic_like, sample
from elastictool.evaluation.durations import read_durations
from elastictool.models.attention.base import ATTENTION, AttentionBackend
from elastictool.models.attention.reference import same_segment_mask
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import SegmentLayout
from elastictool.packing.planners import PLANNERS, plan_rows
from elastictool.utils.io import write_json

CONTENDERS = ("split", "reference", "rows-sdpa")
Durations = npt.NDArray[np.float64]


class RowsWithFusedKernel(AttentionBackend):
    """The paper's padded rows and boolean mask through ``scaled_dot_product_attention``."""

    padded_rows = True

    def __init__(self) -> None:
        self._masks: dict[int, tuple[SegmentLayout, Tensor]] = {}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``; layouts are saved, so that their identity stays unique."""
        if id(layout) not in self._masks:
            self._masks[id(layout)] = (layout, same_segment_mask(layout)[:, None])
        _, mask = self._masks[id(layout)]
        shape = (*(layout.rows_shape or (1, layout.stream_length)), *q.shape[1:])
        q, k, v = (stream.reshape(shape).transpose(1, 2) for stream in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)


def clip_seconds(durations: Path | None, num_clips: int) -> tuple[Durations, str]:
    """Return quantiles of the durations in a fixed random order, and their description."""
    known = epic_like(num_clips) if durations is None else read_durations(durations)
    chosen = known if durations is None else sample(known, num_clips)
    return chosen.seconds, known.label


def make_batches(seconds: Durations, padded_rows: bool) -> list[PackedBatch]:
    """Return random spectrograms of those lengths, 12 clips a batch, rows planned first-come."""
    torch.manual_seed(0)
    frames = [
        min(
            FbankConfig().num_frames(round(s * FbankConfig().sample_rate_hz)),
            LengthConfig().max_frames,
        )
        for s in seconds
    ]
    examples = [
        Example(torch.randn(max(1, n), 128), torch.zeros(1), str(i), 10.0)
        for i, n in enumerate(frames)
    ]
    size = PackingConfig().batch_clips
    return [
        _pack(examples[first : first + size], padded_rows)
        for first in range(0, len(examples), size)
    ]


def _pack(examples: Sequence[Example], padded_rows: bool) -> PackedBatch:
    model = ModelConfig()
    spec = PackSpec(model.patch_size, model.patch_stride, padded_rows=padded_rows)
    lengths = collate([examples], spec).layout.lengths
    rows = plan_rows(PLANNERS["first-come"], lengths, PackingConfig().capacity)
    return collate([[examples[index] for index in row] for row in rows], spec)


def run_batches(
    model: SpectrogramTransformer,
    attention: str,
    batches: Sequence[PackedBatch],
    bf16: bool,
    train: bool,
) -> list[Tensor]:
    """Return one pass over all batches, with backward if ``train``; the logits."""
    model.attention = attention
    outputs = []
    for batch in batches:
        model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(train), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(batch).float()
        if train:
            torch.autograd.backward(logits.logsumexp(dim=1).mean())
        outputs.append(logits.detach())
    return outputs


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all contenders in training and inference, in both precisions."""
    num_batches = 1 if args.quick else args.batches
    seconds, label = clip_seconds(args.durations, num_batches * PackingConfig().batch_clips)
    batches = {name: make_batches(seconds, ATTENTION[name].padded_rows) for name in CONTENDERS}
    width, heads = SIZES["small"]
    config = ModelConfig(
        width=width, heads=heads, depth=4 if args.quick else 12, grid=(8, 192), num_classes=44
    )
    torch.manual_seed(0)
    model = SpectrogramTransformer(config)
    tokens = sum(batch.layout.num_tokens for batch in batches["split"])
    results = []
    for train in (True, False):
        calls: dict[tuple[str, str], Callable[[], list[Tensor]]] = {
            (precision, name): partial(
                run_batches, model, name, batches[name], precision == "bf16", train
            )
            for precision in ("fp32", "bf16")
            for name in CONTENDERS
        }
        results += _rows(calls, tokens, args.rounds, train)
    return {
        "environment": environment(),
        "command": _command(args),
        "durations": label,
        "model": {"width": width, "heads": heads, "depth": config.depth},
        "clips": len(seconds),
        "batches": num_batches,
        "tokens": tokens,
        "padded_rows": [batch.layout.rows_shape for batch in batches["reference"]],
        "rounds": args.rounds,
        "results": results,
    }


def _rows(
    calls: dict[tuple[str, str], Callable[[], list[Tensor]]], tokens: int, rounds: int, train: bool
) -> list[dict[str, Any]]:
    logits = {key: torch.cat(call()) for key, call in calls.items()}
    named = {" ".join(key): call for key, call in calls.items()}
    spent = interleaved(named, rounds, warmup_rounds=0, clock=time.process_time)
    seconds = {key: spent[" ".join(key)] for key in calls}
    return [
        {
            "mode": "training step" if train else "inference",
            "precision": precision,
            "attention": name,
            "seconds": seconds[precision, name],
            "tokens_per_second": tokens / seconds[precision, name],
            "speed_against_reference": seconds[precision, "reference"] / seconds[precision, name],
            "speed_against_fp32": {
                other: seconds["fp32", other] / seconds[precision, name]
                for other in CONTENDERS
                if other != "split"
            },
            "logits_difference": _most(logits[precision, name], logits[precision, "reference"]),
        }
        for precision, name in calls
    ]


def _most(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def _command(args: argparse.Namespace) -> str:
    """Return the command that repeats the measurement, without folders."""
    parts = ["python -m benchmarks.attention", f"--rounds {args.rounds}"]
    parts.append("--quick" if args.quick else f"--batches {args.batches}")
    if args.durations is not None:
        parts.append(f"--durations {args.durations.name}")
    return " ".join(parts)


def main() -> None:
    """Measure, print a table, and write the JSON document if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--durations", type=Path, help="CSV of clips' durations")
    parser.add_argument("--batches", type=int, default=4, help="batches of 12 clips a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="4 blocks instead of 12, one batch")
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ATTENTION.register("rows-sdpa")(RowsWithFusedKernel())
    document = measure(args)
    print(f"{document['durations']}: {document['clips']} clips, {document['tokens']:,} tokens")
    for row in document["results"]:
        print(
            f"{row['mode']:<13}  {row['precision']}  {row['attention']:<10}"
            f"{row['tokens_per_second']:>9,.0f} tokens/s{row['speed_against_reference']:>7.2f} x"
            f"{row['speed_against_fp32']['reference']:>7.2f} x reference in fp32"
        )
    if args.json is not None:
        write_json(args.json, document)


if __name__ == "__main__":
    main()
