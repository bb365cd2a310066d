"""Measure Hugging Face's AST on the same clips, padded or cut to its fixed input length.

Both models have the same size. The padded model processes 1,024 frames for every clip and loses
what is beyond them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from elastictool.evaluation.bench.parts import Bench, ready_optimizer, run_batches
from elastictool.evaluation.bench.workload import Workload
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import describe_error, missing_extra, reinstall_hint

FIXED_FRAMES = 1_024


def contender(bench: Bench, workload: Workload, training: bool) -> dict[str, Callable[[], object]]:
    """Returns a call, by name, that passes the workload's clips through transformers' model.

    Raises:
        ElasticToolError: transformers is not installed, or broken.
    """
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
    clips, size = len(workload.frames), workload.packing.batch_clips
    inputs = [
        torch.randn(count, FIXED_FRAMES, config.num_mel_bins, device=bench.device)
        for count in (min(size, clips - first) for first in range(0, clips, size))
    ]
    logits = attrgetter("logits")
    return {f"HF AST-{FIXED_FRAMES}": partial(run_batches, bench, model, inputs, optimizer, logits)}
