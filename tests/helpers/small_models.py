"""Small models of every kind, and packed batches of random spectrograms for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from elastictool.config import ModelConfig
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch

SMALL = ModelConfig(
    width=24, depth=2, heads=3, num_mel_bins=16, patch_size=(8, 4), patch_stride=(8, 4),
    grid=(2, 12), num_classes=5,
)  # fmt: skip
MODELS = {
    "elasticast": SMALL,
    "mean": dataclasses.replace(SMALL, pooling="mean"),
    "mean with cls": dataclasses.replace(SMALL, pooling="mean", prefix_tokens=1),
    "ast": dataclasses.replace(
        SMALL, pos_embed="grid", pooling="prefix", prefix_tokens=2, fc_norm=True,
        patch_stride=(4, 3), grid=(3, 12),
    ),
}  # fmt: skip
FRAMES = [[20, 9, 31], [4, 48, 20]]
"""Frames of the clips in the two rows of ``make_rows``."""


def make_model(config: ModelConfig, dtype: torch.dtype = torch.float64) -> SpectrogramTransformer:
    """A model whose weights are large enough for attention and positions to matter."""
    torch.manual_seed(0)
    model = SpectrogramTransformer(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_fbanks(frames: Sequence[int], seed: int = 1) -> list[Tensor]:
    """Random (T, F) spectrograms."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 16, generator=generator) for length in frames]


def make_batch(
    config: ModelConfig,
    rows: Sequence[Sequence[Tensor]],
    backend: str = "split",
    multiple: int = 1,
) -> PackedBatch:
    """Pack rows of spectrograms as the backend wants them, in float64."""
    spec = PackSpec(
        config.patch_size,
        config.patch_stride,
        prefix_tokens=config.prefix_tokens,
        padded_rows=ATTENTION[backend].padded_rows,
        pad_to_multiple_of=multiple,
    )
    examples = [[Example(x, torch.zeros(5), "", 10.0) for x in row] for row in rows]
    return collate(examples, spec).astype(torch.float64)


def make_rows(seed: int = 1) -> list[list[Tensor]]:
    """The clips of ``FRAMES``."""
    return [make_fbanks(frames, seed + index) for index, frames in enumerate(FRAMES)]
