"""Compute the floating-point operations of a forward pass from the configuration.

A closed formula instead of a profiler: it costs nothing per point of a sweep, needs no model in
memory, and counts what the model has to compute, not what a backend happens to (a dense mask
computes two to four times the attention). A multiplication and an addition are two operations;
LayerNorm, GELU, softmax and additions of positions are left out, as is usual (below 1 %).
"""

from __future__ import annotations

import math

from elastictool.config import ModelConfig


def forward_flops(
    config: ModelConfig, num_patches: int, patch_size: tuple[int, int] | None = None
) -> int:
    """Returns the operations of the forward pass of one clip.

    Args:
        config: The model; ``num_classes`` 0 has no classifier.
        num_patches: N of the clip, padding included, prefix tokens not.
        patch_size: (frequency, time) of the patches, where not the model's own. (Resizing the
            kernel for them is a cost of the batch, not of the clip.)
    """
    tokens, width = num_patches + config.prefix_tokens, config.width
    embedding = 2 * num_patches * math.prod(patch_size or config.patch_size) * width
    projections = 2 * tokens * width * 4 * width  # q, k, v and output
    attention = 2 * 2 * tokens * tokens * width  # two products
    mlp = 2 * 2 * tokens * width * round(width * config.mlp_ratio)
    pooling = 0
    if config.pooling == "attention":  # k and v, two products with one query, output
        pooling = 2 * tokens * width * 2 * width + 2 * 2 * tokens * width + 2 * width * width
    head = 2 * width * config.num_classes
    return embedding + config.depth * (projections + attention + mlp) + pooling + head
