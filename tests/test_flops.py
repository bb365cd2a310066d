"""The closed formula against operations counted on the real model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from elastictool.config import ModelConfig
from elastictool.config.loader import run_config
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.evaluation.flops import forward_flops
from elastictool.models.transformer import SpectrogramTransformer


def cpu_attention_flops(q: tuple[int, ...], k: tuple[int, ...], *_: object, **__: object) -> int:
    """Two products of (..., L, d); torch has formulas for its CUDA kernels only."""
    return 2 * 2 * math.prod(q) * k[-2]


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops}


def model_config(preset: str, **changes: object) -> ModelConfig:
    base = {"preset": preset, "width": 192, "depth": 2, "heads": 3, "grid": [8, 32]}
    return run_config({"model": base | {"num_classes": 10} | changes}, complete=False).model


def counted(config: ModelConfig, num_frames: int, attention: str = "split") -> tuple[int, int]:
    """Operations that torch counts for one clip, and the clip's patches."""
    spec = PackSpec(
        config.patch_size,
        config.patch_stride,
        prefix_tokens=config.prefix_tokens,
        padded_rows=attention == "reference",
    )
    example = Example(torch.randn(num_frames, 128), torch.zeros(10), "clip", 10.0)
    batch = collate([[example]], spec)
    model = SpectrogramTransformer(config, attention).eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        model(batch)
    return counter.get_total_flops(), len(batch.patch_groups[0].patches)


@pytest.mark.parametrize("attention", ["split", "reference"])
@pytest.mark.parametrize("num_frames", [16, 160, 512])
@pytest.mark.parametrize("preset", ["elasticast", "ast"])
def test_formula_equals_counted_operations(preset: str, num_frames: int, attention: str) -> None:
    """Torch counts matrix products only, so pooling by one query and sums differ by a little."""
    config = model_config(preset)
    found, patches = counted(config, num_frames, attention)
    assert forward_flops(config, patches) == pytest.approx(found, rel=0.02)


def test_overlapping_patches_and_mean_pooling_are_covered() -> None:
    config = model_config(
        "ast", patch_stride=[10, 10], pooling="mean", grid=[12, 32], prefix_tokens=2
    )
    found, patches = counted(config, 100)
    assert forward_flops(config, patches) == pytest.approx(found, rel=0.02)


def test_larger_patches_cost_more_to_embed_and_nothing_else() -> None:
    config = model_config("ast")
    larger = forward_flops(config, 10, (32, 48)) - forward_flops(config, 10)
    assert larger == 2 * 10 * (32 * 48 - 16 * 16) * config.width


def test_attention_grows_with_the_square_and_everything_else_in_proportion() -> None:
    config = model_config("elasticast", num_classes=0)
    flops = [forward_flops(config, count) for count in (100, 200, 300)]
    second_difference = flops[2] - 2 * flops[1] + flops[0]
    assert second_difference == 2 * 100**2 * 4 * config.width * config.depth


def test_known_size_of_a_standard_ast() -> None:
    """AST-B/16 at 1,024 frames without overlap: 512 patches + cls, about 95 GFLOPs."""
    config = dataclasses.replace(
        model_config("ast"), width=768, heads=12, depth=12, grid=(8, 64), num_classes=527
    )
    dense = 2 * 513 * 12 * (4 * 768**2 + 2 * 4 * 768**2)
    attention = 12 * 4 * 513**2 * 768
    rest = 2 * 512 * 256 * 768 + 2 * 768 * 527
    assert forward_flops(config, 512) == dense + attention + rest
