"""Measure Hugging Face's AST on the same clips, padded or cut to its fixed input length.

Both models have the same size. The padded model processes 1,024 frames for every clip and loses
what is beyond them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from elastictool.audio.torchaudio_compat import load_torchaudio
from elastictool.evaluation.bench.parts import Bench, ready_optimizer, step
from elastictool.evaluation.bench.workload import Workload
from elastictool.training.predict_logits import autocast
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import describe_error, missing_extra, reinstall_hint

FIXED_FRAMES = 1_024
NAME = f"HF AST-{FIXED_FRAMES}"


def contender(bench: Bench, workload: Workload, training: bool) -> dict[str, Callable[[], object]]:
    """Returns a call, by name, that passes the workload's clips through transformers' model.

    Raises:
        ElasticToolError: transformers is not installed, or broken.
    """
    load_torchaudio()  # transformers imports it, which needs help next to a CPU build of torch
    if lack := missing_extra("transformers"):
        raise ElasticToolError("--compare hf needs the extra transformers", lack)
    try:  # its modules are loaded when they are asked for
        from transformers import ASTConfig, ASTForAudioClassification
    except (ImportError, RuntimeError, OSError) as error:
        hint = reinstall_hint("transformers", describe_error(error))
        raise ElasticToolError("--compare hf needs the extra transformers", hint) from error
    config = workload.model
    torch.manual_seed(0)
    model: Any = ASTForAudioClassification(
        ASTConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=round(config.width * config.mlp_ratio),
            patch_size=config.patch_size[0],
            frequency_stride=config.patch_stride[0],
            time_stride=config.patch_stride[1],
            max_length=FIXED_FRAMES,
            num_mel_bins=config.num_mel_bins,
            id2label={index: str(index) for index in range(config.num_classes)},
        )
    )
    model.to(bench.device)
    optimizer = ready_optimizer(model) if training else None
    size = workload.packing.batch_clips
    sizes = [min(size, len(workload.frames) - i * size) for i in range(_batches(workload))]
    inputs = [
        torch.randn(clips, FIXED_FRAMES, config.num_mel_bins, device=bench.device)
        for clips in sizes
    ]
    return {NAME: partial(_run, bench, model, inputs, optimizer)}


def _batches(workload: Workload) -> int:
    return math.ceil(len(workload.frames) / workload.packing.batch_clips)


def _run(
    bench: Bench,
    model: Any,
    inputs: list[torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
) -> None:
    model.train(optimizer is not None)
    for values in inputs:
        with torch.set_grad_enabled(optimizer is not None):
            with autocast(bench.device, bench.precision):
                logits = model(values).logits
            if optimizer is not None:
                step(logits, optimizer)
